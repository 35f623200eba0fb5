"""One response at a time: the slot that a ``response.create`` takes.

Pure. Theory of operation: the server runs at most one response of the conversation. A *wish* (a turn that wants an
answer) waits until the slot is free; a newer wish replaces it. A request takes the slot from the moment it is sent
until its ``response.done``, also if it is cancelled meanwhile, because until then the server would refuse another. A
request that is cancelled before it is created is cancelled on arrival; without that, the answer of turn 1 would play
in turn 2.

A response is matched to its turn by the ``metadata`` that the server echoes. On such a server, a response without our
turn is *foreign*: somebody else requested it on the same session. In the conversation it is cancelled, out of band it
is ignored.

Servers that drop metadata work too: their responses answer requests in order. There is one request at a time, but a
cancelled one that was given up before it was created is still owed a response, which is cancelled on arrival, or an
error. Servers without ``response.created`` are matched in the same way, by the first event that names a response.
Once a server has sent ``response.created``, responses without one are ignored.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto

from appliance.realtime.protocol import Response

__all__ = ["Arrival", "Request", "ResponseSlot"]

_REMEMBERED = 32  # ids of responses that are over; on one connection, no deltas of older ones arrive
_REMEMBERED_FOREIGN = 1024  # ids of responses that are not ours; any number may run at the same time


@dataclass(slots=True)
class Request:
    """A ``response.create`` that was sent and whose response is not done."""

    turn: str
    event_id: str
    response_id: str | None = None
    is_cancelled: bool = False
    give_up_at: float | None = None


class Arrival(Enum):
    """What to do with a ``response.created``."""

    ACCEPT = auto()
    CANCEL = auto()
    IGNORE = auto()


class ResponseSlot:
    """The request in the slot, the wish for it, and the responses that are over."""

    def __init__(self) -> None:
        self.request: Request | None = None
        self.wish: str | None = None
        """The turn that wants an answer; set by `want`."""
        self._blocked_until: float | None = None
        self._echoes = False
        """This server echoes the metadata of requests."""
        self._announces = False
        """This server sends ``response.created``."""
        self._owed: deque[str] = deque()
        """Event ids of requests that were given up before ``response.created``, in order."""
        self._over: deque[str] = deque(maxlen=_REMEMBERED)
        self._foreign: deque[str] = deque(maxlen=_REMEMBERED_FOREIGN)

    def __repr__(self) -> str:
        return f"<ResponseSlot {self.request or 'free'}, wish {self.wish}>"

    @property
    def deadline(self) -> float | None:
        """When to give up a cancelled response, or to retry a refused request."""
        times = (self._blocked_until, self.request.give_up_at if self.request else None)
        return min((at for at in times if at is not None), default=None)

    @property
    def is_begun(self) -> bool:
        """The response that was requested has begun."""
        return self.request is not None and self.request.response_id is not None

    def want(self, turn: str) -> None:
        """Wish for an answer to `turn`; replaces an older wish."""
        self.wish = turn

    def grant(self, now: float) -> str | None:
        """Return the turn whose response may be requested now, or None; call `asked` once it is."""
        if self.wish is None or self.request is not None:
            return None
        if self._blocked_until is not None and now < self._blocked_until:
            return None
        return self.wish

    def asked(self, turn: str, event_id: str) -> None:
        if self.request is not None and self.request.response_id is not None:
            self._over.append(self.request.response_id)  # the server started another before it ended
        self.request = Request(turn, event_id)
        self.wish = None
        self._blocked_until = None

    def created(self, response: Response) -> Arrival:
        """Decide on a ``response.created``."""
        self._announces = True
        if response.id in self._over:
            return Arrival.CANCEL
        turn = (response.metadata or {}).get("turn")
        request, is_foreign = self.request, self._is_of_another(response)
        if is_foreign and response.conversation_id is None:
            self._foreign.append(response.id)
            return Arrival.IGNORE  # out of band
        if turn:
            self._echoes = True
            self._owed.clear()
        elif self._owed:
            self._owed.popleft()
            self._over.append(response.id)
            return Arrival.CANCEL
        is_ours = not is_foreign and request is not None and (turn or request.turn) == request.turn
        if request is None or not is_ours or request.response_id not in (None, response.id):
            self._over.append(response.id)
            return Arrival.CANCEL
        request.response_id = response.id
        return Arrival.CANCEL if request.is_cancelled else Arrival.ACCEPT

    def _is_of_another(self, response: Response) -> bool:
        """Return whether somebody else requested a response: it lacks the turn, which this server echoes."""
        if response.metadata:
            return "turn" not in response.metadata
        is_of_server = self.request is not None and not self.request.event_id
        return self._echoes and not is_of_server

    def is_of_server(self, response: Response) -> bool:
        """Return whether a created response is one that the server started by itself."""
        return not (self.request or self._owed or self._is_known(response.id) or response.metadata)

    def is_foreign(self, response_id: str) -> bool:
        """Return whether a response is one that somebody else requested out of band."""
        return response_id in self._foreign

    def _is_known(self, response_id: str) -> bool:
        """Return whether a response is over or foreign."""
        return response_id in self._over or response_id in self._foreign

    def is_current(self, response_id: str) -> bool:
        """Return whether the output of this response is used.

        If the server never sends ``response.created``, an unknown id is matched here to the oldest request.
        """
        request = self.request
        if request is None or request.is_cancelled or self._is_known(response_id):
            return False
        self._match(response_id)
        return response_id in (request.response_id, "")

    def _match(self, response_id: str) -> None:
        """Match an unknown response of a server without ``response.created`` to the oldest request."""
        if self._announces or not response_id or self._is_known(response_id):
            return
        if self._owed:
            self._owed.popleft()
            self._over.append(response_id)
        elif self.request is not None and self.request.response_id is None:
            self.request.response_id = response_id

    def cancel(self, give_up_at: float) -> str | None:
        """Cancel the request in the slot, and drop the wish.

        Returns:
            The response id to cancel now; None if there is none, or if it is not created *yet*.
        """
        self.wish = None
        request = self.request
        if request is None or request.is_cancelled:
            return None
        request.is_cancelled = True
        request.give_up_at = give_up_at
        return request.response_id

    def cancelled_by_server(self, give_up_at: float) -> None:
        """Mark the running response as cancelled: the server has done so itself."""
        if self.request is not None and self.request.response_id is not None:
            self.request.is_cancelled = True
            self.request.give_up_at = give_up_at

    def done(self, response: Response) -> Request | None:
        """Free the slot at ``response.done``; returns its request, None if the response is not that of the slot."""
        turn = (response.metadata or {}).get("turn")
        if not turn:
            self._match(response.id)
        request, is_late = self.request, response.id in self._over
        self._blocked_until = None
        self._over.append(response.id)
        if request is None or is_late:
            return None
        if response.id != request.response_id and (request.response_id is not None or turn != request.turn):
            return None
        self.request = None
        return request

    def refused(self, event_id: str | None, retry_at: float) -> bool:
        """Turn a request that met a busy server back into a wish; returns whether the error was about it."""
        request = self.request
        if request is None or request.response_id is not None or event_id not in (None, request.event_id):
            return False
        self.request = None
        if not request.is_cancelled:
            self.wish = self.wish or request.turn
        self._blocked_until = retry_at
        return True

    def failed(self, event_id: str | None) -> None:
        """Handle an error: if it names a request that was given up, no response follows."""
        if event_id is not None and event_id in self._owed:
            self._owed.remove(event_id)

    def names_request(self, event_id: str | None) -> bool:
        """Return whether an error names the request in the slot."""
        return bool(event_id) and self.request is not None and self.request.event_id == event_id

    def abandon(self) -> Request | None:
        """Free the slot after an error about its request; returns that, None if its response has started."""
        request = self.request
        if request is None or request.response_id is not None:
            return None
        self.request = None
        return request

    def advance(self, now: float) -> None:
        """Handle deadlines: end the wait after a refusal, and free the slot of a cancelled response that never ends."""
        if self._blocked_until is not None and now >= self._blocked_until:
            self._blocked_until = None
        request = self.request
        if request is not None and request.give_up_at is not None and now >= request.give_up_at:
            if request.response_id is None:
                self._owed.append(request.event_id)
            else:
                self._over.append(request.response_id)
            self.request = None

    def reset(self) -> None:
        """Forget everything, for a new connection."""
        self.request = None
        self.wish = None
        self._blocked_until = None
        self._echoes = self._announces = False
        self._owed.clear()
        self._over.clear()
        self._foreign.clear()
