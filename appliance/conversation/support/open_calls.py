"""The calls of the model that are not answered yet, and those that the running turn made. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from appliance.conversation.support.call import Call, Round

__all__ = ["OpenCalls"]

_REMEMBERED = 256  # ids of calls; a server lists one up to three times within its response


class OpenCalls:
    """The open calls by id, over all turns."""

    def __init__(self) -> None:
        self._open: dict[str, Call] = {}
        self._known: deque[str] = deque(maxlen=_REMEMBERED)
        self.round = Round()
        """Those of the running turn."""

    def __repr__(self) -> str:
        return f"<OpenCalls {sorted(self._open)}>"

    def __iter__(self) -> Iterator[Call]:
        return iter(list(self._open.values()))

    def __bool__(self) -> bool:
        return bool(self._open)

    def get(self, call_id: str) -> Call | None:
        return self._open.get(call_id)

    def get_mcp(self, call_id: str) -> Call | None:
        """Return a call that an MCP server of the model's side runs."""
        call = self._open.get(call_id)
        return call if call is not None and call.kind == "mcp" and not call.awaits_approval else None

    def of(self, turn: str) -> list[Call]:
        return [one for one in self._open.values() if one.turn == turn]

    def end_turn(self, turn: str) -> list[Call]:
        """The running turn is over; returns its calls that are open."""
        self.round = Round()
        return self.of(turn)

    def is_unknown(self, call_id: str) -> bool:
        """Whether a call is neither open nor of this round."""
        return bool(call_id) and call_id not in self._open and call_id not in self.round.seen

    def is_unknown_mcp(self, call_id: str) -> bool:
        """Like `is_unknown`, for a call whose approval request has the same id."""
        return bool(call_id) and call_id not in self._open and call_id not in self.round.mcp

    def is_first_seen(self, call_id: str) -> bool:
        """Whether a call was never seen; it counts as seen from here on."""
        is_new = bool(call_id) and call_id not in self._known
        self._known.append(call_id)
        return is_new

    def add(self, call: Call) -> None:
        """Add a call of the running turn."""
        self.round.seen.add(call.call_id)
        self.round.open.add(call.call_id)
        self._open[call.call_id] = call
        self._known.append(call.call_id)

    def pop(self, call_id: str) -> Call | None:
        self.round.open.discard(call_id)
        return self._open.pop(call_id, None)

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
        """Return the calls that the user hears of now, each once."""
        found = [one for one in self._open.values() if one.working_at is not None and now >= one.working_at]
        for call in found:
            call.working_at = None
        return found
