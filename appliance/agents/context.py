"""What functions of the maker are handed: the session's context object, the agent, and the history so far. Pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    from appliance.agents.agent import RealtimeAgent
    from appliance.realtime.items import HistoryItem

__all__ = ["AskAside", "MaybeAwaitable", "RunContext", "ToolContext"]

T = TypeVar("T")
R = TypeVar("R")

MaybeAwaitable: TypeAlias = R | Awaitable[R]


class AskAside(Protocol):
    """Ask the model something beside the conversation (an out-of-band response)."""

    async def __call__(
        self,
        text: str,
        *,
        instructions: str = "",
        tools: Sequence[Mapping[str, Any]] = (),
        items: Sequence[Mapping[str, Any]] = (),
        timeout_s: float = 30.0,
    ) -> Sequence[HistoryItem]:
        """Return the items of the answer: messages and function calls.

        Raises:
            LinkError: There is no connection, or the model gave no answer in time.
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


InstructionsFunction = Callable[[RunContext[Any], "RealtimeAgent"], MaybeAwaitable[str]]
