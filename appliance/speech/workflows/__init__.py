"""What the brain thinks with: a table of workflows by name, each imported when it is first asked for.

========= ==============================================================================================
phrases   a phrase book, by heart: small, quick, honest about what it does not know (`workflows.phrases`)
chat      any chat endpoint that speaks OpenAI's protocol: llama.cpp, Ollama, vLLM (`workflows.chat`)
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
    """Where a chat model answers."""

    url: str = ""
    """The base, as ``http://127.0.0.1:11434/v1``."""
    model: str = ""
    key: str = field(default="", repr=False)


Factory: TypeAlias = "Callable[[PhraseBook, ChatEndpoint], Workflow]"
"""MUST do no I/O."""


def open_workflow(name: str, book: PhraseBook, endpoint: ChatEndpoint) -> Workflow:
    """Return the workflow of a name.

    Raises:
        SettingsError: There is no such workflow, or the endpoint that it needs is not given.
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
"""A package adds one by an entry point in the group ``voice_appliance.workflows``."""
