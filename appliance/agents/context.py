"""The context passed to application functions: the session's object, the agent, and the history so far. Pure."""

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
"""Default timeout of a question outside the conversation."""


class AskAside(Protocol):
    """Asks the model a question outside the conversation (an out-of-band response)."""

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
            LinkError: There is no connection, or the model did not answer in time.
        """
        ...


class AskAgent(Protocol):
    """Asks another agent a question outside the conversation; that agent can call its own tools."""

    async def __call__(
        self, agent: RealtimeAgent, context: ToolContext[Any], question: str, *, timeout_s: float
    ) -> str:
        """Return the answer as text.

        Raises:
            ToolError: There is no model to ask, or the agent gave no answer.
        """
        ...


@dataclass(slots=True, kw_only=True)
class RunContext(Generic[T]):
    """Passed to instructions, guardrails, predicates and hooks."""

    context: T
    """The object passed to the session as `context`; the same for all calls, and it may be mutated."""
    agent: RealtimeAgent
    history: Sequence[HistoryItem] = ()
    """The conversation at the time of the call."""


@dataclass(slots=True, kw_only=True)
class ToolContext(RunContext[T]):
    """Passed to a tool that has a parameter annotated ``ToolContext`` or ``RunContext``."""

    tool_name: str
    call_id: str
    arguments: str
    """JSON, as the model wrote it."""
    ask: AskAside | None = None
    """Asks the model outside the conversation; None without a model."""
    ask_agent: AskAgent | None = None
    """Asks another agent outside the conversation, for `RealtimeAgent.as_tool`; None without a model."""

    @property
    def tool_call_id(self) -> str:
        """The Agents SDK's name of `call_id`."""
        return self.call_id

    @property
    def tool_arguments(self) -> str:
        """The Agents SDK's name of `arguments`."""
        return self.arguments


InstructionsFunction = Callable[[RunContext[Any], "RealtimeAgent"], MaybeAwaitable[str]]
