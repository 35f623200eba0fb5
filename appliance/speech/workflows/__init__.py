"""Workflows, which produce the answers: a table by name, each imported on first use.

========= ==============================================================================================
phrases   a phrase book: small and fast; says so when it does not understand (`workflows.phrases`)
chat      any chat endpoint with OpenAI's protocol: llama.cpp, Ollama, vLLM (`workflows.chat`)
========= ==============================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from appliance.plugins import named
from appliance.speech.stages import Workflow

if TYPE_CHECKING:
    from appliance.speech.phrases import PhraseBook

__all__ = ["WORKFLOWS", "ChatEndpoint", "Factory", "open_workflow"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatEndpoint:
    """The endpoint of a chat model."""

    url: str = ""
    """Base URL, such as ``http://127.0.0.1:11434/v1``."""
    model: str = ""
    key: str = field(default="", repr=False)


Factory: TypeAlias = "Callable[[PhraseBook, ChatEndpoint], Workflow]"
"""MUST NOT do I/O."""


def open_workflow(name: str, book: PhraseBook, endpoint: ChatEndpoint) -> Workflow:
    """Return the workflow with this name.

    Raises:
        SettingsError: There is no such workflow, or it needs an endpoint and none is given.
    """
    factory: Factory = named(WORKFLOWS, name, kind="workflow", group="voice_appliance.workflows")
    return factory(book, endpoint)


def _phrases(book: PhraseBook, _: ChatEndpoint) -> Workflow:
    from appliance.speech.workflows.phrases import PhrasesWorkflow

    return PhrasesWorkflow(book)


def _chat(book: PhraseBook, endpoint: ChatEndpoint) -> Workflow:
    from appliance.speech.workflows.chat import ChatWorkflow

    return ChatWorkflow(url=endpoint.url, model=endpoint.model, key=endpoint.key, silence=book.text("silence"))


WORKFLOWS: Mapping[str, Factory] = {"phrases": _phrases, "chat": _chat}
"""A package adds one with an entry point in the group ``voice_appliance.workflows``."""
