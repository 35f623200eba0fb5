"""The open calls of the model, and the calls of the running turn. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from appliance.conversation.support.call import Call, Round

__all__ = ["OpenCalls"]

_REMEMBERED = 256  # ids of calls; a server lists a call up to three times in its response


class OpenCalls:
    """The open calls of all turns, by id."""

    def __init__(self) -> None:
        self._open: dict[str, Call] = {}
        self._known: deque[str] = deque(maxlen=_REMEMBERED)
        self._detached: deque[str] = deque(maxlen=_REMEMBERED)
        """Tools that run on without their turn: it does not wait for them, and its end does not cancel them."""
        self.round = Round()
        """The calls of the running turn."""

    def __repr__(self) -> str:
        return f"<OpenCalls {sorted(self._open)}>"

    def __iter__(self) -> Iterator[Call]:
        return iter(list(self._open.values()))

    def __bool__(self) -> bool:
        return bool(self._open)

    def get(self, call_id: str) -> Call | None:
        return self._open.get(call_id)

    def get_mcp(self, call_id: str) -> Call | None:
        """Return an open MCP call that the server runs; None if it waits for approval."""
        call = self._open.get(call_id)
        return call if call is not None and call.kind == "mcp" and not call.awaits_approval else None

    def of(self, turn: str) -> list[Call]:
        return [one for one in self._open.values() if one.turn == turn and one.call_id not in self._detached]

    @property
    def can_be_retold(self) -> bool:
        """The turn has made calls, and another connection can be told all of them with their outputs."""
        waited_for = [self._open[one] for one in self.round.open]
        has_called = self.round.number > 0 or bool(self.round.seen)
        return has_called and not self.round.used_mcp and all(one.outlives_link for one in waited_for)

    def is_detached(self, call_id: str) -> bool:
        return call_id in self._detached

    def detach(self) -> None:
        """Let the tools of the running turn run on without it."""
        for call in self:
            if call.call_id in self.round.open and call.outlives_link:
                self._detached.append(call.call_id)
                self.round.open.discard(call.call_id)

    def end_turn(self, turn: str) -> list[Call]:
        """End the running turn; returns its open calls."""
        self.round = Round()
        return self.of(turn)

    def is_unknown(self, call_id: str) -> bool:
        """Return whether a call is neither open nor of this round."""
        return bool(call_id) and call_id not in self._open and call_id not in self.round.seen

    def is_unknown_mcp(self, call_id: str) -> bool:
        """Like `is_unknown`, for a call whose approval request has the same id."""
        return bool(call_id) and call_id not in self._open and call_id not in self.round.mcp

    def is_first_seen(self, call_id: str) -> bool:
        """Return whether a call is seen for the first time, and remember it."""
        is_new = bool(call_id) and call_id not in self._known
        self._known.append(call_id)
        return is_new

    def add(self, call: Call) -> None:
        """Add a call of the running turn."""
        self.round.seen.add(call.call_id)
        self.round.open.add(call.call_id)
        self.round.used_mcp = self.round.used_mcp or call.kind == "mcp"
        self._open[call.call_id] = call
        self._known.append(call.call_id)

    def pop(self, call_id: str) -> Call | None:
        self.round.open.discard(call_id)
        return self._open.pop(call_id, None)

    @property
    def awaiting_approval(self) -> Call | None:
        """The oldest call that waits for the user's approval."""
        return next((one for one in self._open.values() if one.awaits_approval), None)

    @property
    def handoff(self) -> Call | None:
        """The open handoff; the oldest if there are two."""
        return next((one for one in self._open.values() if one.kind == "handoff"), None)

    def deadlines(self) -> Iterator[float]:
        for call in self._open.values():
            yield call.deadline
            if call.working_at is not None:
                yield call.working_at

    def late(self, now: float) -> list[Call]:
        return [one for one in self._open.values() if now >= one.deadline]

    def working(self, now: float) -> list[Call]:
        """Return the calls whose working cue is due, each once."""
        found = [one for one in self._open.values() if one.working_at is not None and now >= one.working_at]
        for call in found:
            call.working_at = None
        return found
