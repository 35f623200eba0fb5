"""Questions beside the conversation: out-of-band responses, which leave the conversation alone. Pure.

They do not occupy the slot of the `Sequencer`, are told apart by ``metadata["aside"]``, and end with exactly one
``AsideEnded`` each: answered, refused, too late, or cut off with the connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from appliance.conversation.commands import AsideEnded
from appliance.conversation.events import AskedAside
from appliance.conversation.history import told_item
from appliance.conversation.outbox import Outbox
from appliance.realtime import protocol as wire
from appliance.realtime.items import HistoryItem

__all__ = ["Asides"]

_REMEMBERED = 64  # ids of such responses that are over; what still comes of them is not the conversation's


@dataclass(slots=True)
class _Aside:
    key: str
    deadline: float
    timeout_s: float
    response_id: str = ""


class Asides:
    """The questions that are open."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._open: dict[str, _Aside] = {}
        self._ids: deque[str] = deque(maxlen=_REMEMBERED)
        self._given: deque[dict[str, Any]] = deque(maxlen=_REMEMBERED)

    def __bool__(self) -> bool:
        return bool(self._open)

    def deadlines(self) -> Iterator[float]:
        return (one.deadline for one in self._open.values())

    def ask(self, asked: AskedAside, now: float) -> None:
        """Ask, or say at once that there is nobody to ask."""
        if self._outbox.link is None:
            self._outbox.emit(AsideEnded(asked.key, (), "there is no connection to the model"))
            return
        self._open[asked.key] = _Aside(asked.key, now + asked.timeout_s, asked.timeout_s)
        metadata = {**asked.response.get("metadata", {}), "aside": asked.key}
        response: dict[str, Any] = {**asked.response, "conversation": "none", "metadata": metadata}
        self._outbox.send(wire.ResponseCreate(event_id=f"aside_{asked.key}", response=response))

    def given(self, response: Mapping[str, Any]) -> None:
        """The program has sent such a question as a frame of its own: it is told apart by what it carries."""
        metadata = response.get("metadata")
        self._given.append(dict(metadata) if isinstance(metadata, Mapping) else {})

    def owns(self, event: wire.ServerEvent) -> bool:
        """Whether an event belongs to such a response, open or over; takes what it says."""
        match event:
            case wire.ResponseCreated(response=response):
                return self._created(response)
            case wire.ResponseDone(response=response):
                return self._done(response)
            case _:
                return getattr(event, "response_id", "") in self._ids

    def refused(self, error: wire.ErrorDetail) -> bool:
        """Whether an error of the server means one of these questions."""
        aside = self._open.get((error.event_id or "").removeprefix("aside_"))
        if aside is None or not (error.event_id or "").startswith("aside_"):
            return False
        self._end(aside, (), error.message or "the server refused the question")
        return True

    def advance(self, now: float) -> None:
        for aside in [one for one in self._open.values() if now >= one.deadline]:
            if aside.response_id:
                self._outbox.send(wire.ResponseCancel(response_id=aside.response_id))
            self._end(aside, (), f"no answer within {aside.timeout_s:g} s")

    def lose(self) -> None:
        """The connection is gone."""
        for aside in list(self._open.values()):
            self._end(aside, (), "the connection to the model was lost")
        self._ids.clear()
        self._given.clear()

    def _created(self, response: wire.Response) -> bool:
        key = _key(response.metadata)
        metadata = dict(response.metadata or {})
        if key is None and metadata in self._given:
            self._given.remove(metadata)
            self._ids.append(response.id)
            return True
        if key is None:
            return False
        self._ids.append(response.id)
        aside = self._open.get(key)
        if aside is not None:
            aside.response_id = response.id
        else:  # given up before it was begun
            self._outbox.send(wire.ResponseCancel(response_id=response.id))
        return True

    def _done(self, response: wire.Response) -> bool:
        key = _key(response.metadata)
        if key is None:
            return response.id in self._ids
        aside = self._open.get(key)
        if aside is not None:
            failed = response.error.message if response.error else f"the answer is {response.status}"
            self._end(
                aside,
                tuple(told_item(one) for one in response.output),
                "" if response.status == "completed" else failed,
            )
        return True

    def _end(self, aside: _Aside, items: tuple[HistoryItem, ...], problem: str) -> None:
        self._open.pop(aside.key, None)
        self._outbox.emit(AsideEnded(aside.key, items, problem))


def _key(metadata: Mapping[str, str] | None) -> str | None:
    return (metadata or {}).get("aside")
