"""What functions of the maker are handed: the session's context object, the agent, and the history so far. Pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    from appliance.agents.agent import RealtimeAgent
    from appliance.realtime.items import HistoryItem

__all__ = ["ASK_TIMEOUT_S", "AskAgent", "AskAside", "MaybeAwaitable", "RunContext", "ToolContext"]

T = TypeVar("T")
R = TypeVar("R")

MaybeAwaitable: TypeAlias = R | Awaitable[R]

ASK_TIMEOUT_S = 30.0
"""Longest wait for an answer beside the conversation, unless the question says otherwise."""


class AskAside(Protocol):
    """Ask the model something beside the conversation (an out-of-band response)."""

    async def __call__(
        self,
        text: str,
        *,
        instructions: str = "",
        tools: Sequence[Mapping[str, Any]] = (),
        items: Sequence[Mapping[str, Any]] = (),
        timeout_s: float = ASK_TIMEOUT_S,
    ) -> Sequence[HistoryItem]:
        """Return the items of the answer: messages and function calls.

        Raises:
            LinkError: There is no connection, or the model gave no answer in time.
        """
        ...


class AskAgent(Protocol):
    """Put a question to another agent beside the conversation; its own tools run too."""

    async def __call__(
        self, agent: RealtimeAgent, context: ToolContext[Any], question: str, *, timeout_s: float
    ) -> str:
        """Return the answer as text.

        Raises:
            ToolError: Nobody can be asked, or the agent came to no answer.
        """
        ...


@dataclass(slots=True, kw_only=True)
class RunContext(Generic[T]):
    """Handed to instructions, guardrails, predicates and hooks."""

    context: T
    """The object that the maker gave to the session: one for its whole life, to be changed at will."""
    agent: RealtimeAgent
    history: Sequence[HistoryItem] = ()
    """The conversation at this instant."""


@dataclass(slots=True, kw_only=True)
class ToolContext(RunContext[T]):
    """Handed to a tool that asks for it: annotate a parameter with ``ToolContext``."""

    tool_name: str
    call_id: str
    arguments: str
    """The JSON text that the model wrote."""
    ask: AskAside | None = None
    """Asks the model beside the conversation; None where there is none."""
    ask_agent: AskAgent | None = None
    """Asks another agent beside the conversation, for `RealtimeAgent.as_tool`; None where there is no model."""


InstructionsFunction = Callable[[RunContext[Any], "RealtimeAgent"], MaybeAwaitable[str]]
