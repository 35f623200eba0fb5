"""What functions of the maker are handed: the session's context object, the agent, and the history so far. Pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    from appliance.agents.agent import RealtimeAgent

__all__ = ["AskAside", "HistoryItem", "MaybeAwaitable", "RunContext", "ToolContext"]

T = TypeVar("T")
R = TypeVar("R")

MaybeAwaitable: TypeAlias = R | Awaitable[R]


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryItem:
    """One item of the conversation, as far as it is known; compare by value, keyed by `id`."""

    id: str
    type: str = "message"
    """As in the Realtime API: message, function_call, function_call_output, mcp_call, mcp_approval_request, …"""
    role: str = ""
    """user, assistant or system; "" for what is no message."""
    text: str = ""
    """What was written, or the transcript of what was said; of a cut answer, about what was heard of it."""
    status: str = "completed"
    """in_progress, completed or incomplete."""
    is_spoken: bool = False
    """Audio, of which `text` is the transcript."""
    is_transcribed: bool = True
    """False while, or because, nobody wrote down what the user said."""
    heard_ms: int | None = None
    """Milliseconds that were heard, where an interruption cut the answer; None: all of it."""
    images: tuple[str, ...] = field(default=(), repr=False)
    """``data:`` addresses."""
    name: str = ""
    call_id: str = ""
    arguments: str = ""
    output: str = ""
    server_label: str = ""
    """Of an item of an MCP server."""


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
