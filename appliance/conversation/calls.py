"""The calls of the model that are not answered yet: tools, handoffs, and approvals of MCP servers' calls. Pure.

Theory of operation. A call goes through at most these stages, and `Conversation` answers it to the model exactly
once, whatever becomes of it::

    CHECKING ──(a predicate says whether the user must approve)──► APPROVAL ──(tap, `approve`)──► RUNNING ──► answered
        └───────────────────────── no approval needed ──────────────────────────────────────────────▲

A handoff is RUNNING from the start: its agent is being prepared, then the server is asked to take it. A call of an
MCP server waits in APPROVAL only; the server runs it. Each stage has a deadline.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

from appliance.conversation.roster import Brief, HandoffCard, ToolCard

__all__ = ["Call", "Calls", "Stage"]

_REMEMBERED = 256  # ids of calls; one is told of up to three times within its response


class Stage(Enum):
    CHECKING = auto()
    APPROVAL = auto()
    RUNNING = auto()


@dataclass(slots=True, kw_only=True)
class Call:
    """One call, from the model's wish to our answer."""

    call_id: str
    kind: Literal["tool", "handoff", "mcp"]
    name: str
    arguments: str
    agent: str
    """Who was talking when it was made: its tools are meant."""
    turn: str
    link: int
    asked_at: float
    deadline: float
    stage: Stage = Stage.RUNNING
    card: ToolCard | None = None
    handoff: HandoffCard | None = None
    brief: Brief | None = None
    """Of a handoff: the agent that the server is being asked to take."""
    working_at: float | None = None
    """When the user is to hear that it takes a while."""
    is_told: bool = False
    """Of a call of an MCP server: ``ToolStarted`` was told, when its arguments were there."""
    is_over: bool = False
    """Of a call of an MCP server: it ended, and its item with the output is awaited."""
    is_error: bool = False

    @property
    def awaits_approval(self) -> bool:
        return self.stage is Stage.APPROVAL


class Calls:
    """The open calls by id, and what the user has decided once and for all."""

    def __init__(self) -> None:
        self._open: dict[str, Call] = {}
        self._known: deque[str] = deque(maxlen=_REMEMBERED)
        self._always: dict[tuple[str, str], tuple[bool, str]] = {}

    def __repr__(self) -> str:
        return f"<Calls {sorted(self._open)}>"

    def __iter__(self) -> Iterator[Call]:
        return iter(list(self._open.values()))

    def __contains__(self, call_id: str) -> bool:
        return call_id in self._open

    def get(self, call_id: str) -> Call | None:
        return self._open.get(call_id)

    def add(self, call: Call) -> None:
        self._open[call.call_id] = call
        self._known.append(call.call_id)

    def is_new(self, call_id: str) -> bool:
        """Whether a call was never seen; it counts as seen from here on."""
        is_new = bool(call_id) and call_id not in self._known
        self._known.append(call_id)
        return is_new

    def pop(self, call_id: str) -> Call | None:
        return self._open.pop(call_id, None)

    def keep_turn(self, turn: str | None) -> None:
        """Forget the calls of all turns but one: their connection is gone, nobody waits for their answers."""
        self._open = {key: call for key, call in self._open.items() if call.turn == turn}

    @property
    def awaiting_approval(self) -> Call | None:
        """The call that waits for the user, the oldest first."""
        return next((one for one in self._open.values() if one.awaits_approval), None)

    @property
    def handoff(self) -> Call | None:
        """The handoff that is under way."""
        return next((one for one in self._open.values() if one.kind == "handoff"), None)

    def deadlines(self) -> Iterator[float]:
        for call in self._open.values():
            yield call.deadline
            if call.working_at is not None:
                yield call.working_at

    def late(self, now: float) -> list[Call]:
        return [one for one in self._open.values() if now >= one.deadline]

    def working(self, now: float) -> list[Call]:
        """Return the calls that the user is to hear of now, each once."""
        found = [one for one in self._open.values() if one.working_at is not None and now >= one.working_at]
        for call in found:
            call.working_at = None
        return found

    # --- decisions for good -------------------------------------------------------------------------------------

    def decide_always(self, call: Call, approved: bool, message: str) -> None:
        self._always[call.agent, call.name] = (approved, message)

    def decided(self, call: Call) -> tuple[bool, str] | None:
        """What was decided for every call of this tool; None: the user is to be asked."""
        return self._always.get((call.agent, call.name))
