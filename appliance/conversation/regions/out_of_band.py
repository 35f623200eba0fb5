"""Out-of-band responses: questions to the model that do not enter the conversation. Pure.

They do not occupy the response slot. ``metadata["aside"]`` identifies them, and each ends with exactly one
``OutOfBandEnded``: answered, refused, timed out, or lost with the connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from appliance.conversation.events import OutOfBandAsked
from appliance.conversation.notices import OutOfBandEnded
from appliance.conversation.support.item_list import told_item
from appliance.conversation.support.outbox import Outbox, OutOfBandOf
from appliance.conversation.support.values import mapping
from appliance.realtime import protocol as wire
from appliance.realtime.items import HistoryItem

__all__ = ["OutOfBand"]

_REMEMBERED = 64  # ids of responses; their events are not part of the conversation


@dataclass(slots=True)
class _Question:
    key: str
    deadline: float
    timeout_s: float
    response_id: str = ""


class OutOfBand:
    """The open questions. Sends their requests and emits their ends."""

    def __init__(self, out: Outbox) -> None:
        self._out = out
        self._open: dict[str, _Question] = {}
        self._response_ids: deque[str] = deque(maxlen=_REMEMBERED)
        self._raw_metadata: deque[dict[str, Any]] = deque(maxlen=_REMEMBERED)

    def __bool__(self) -> bool:
        return bool(self._open)

    def deadlines(self) -> Iterator[float]:
        return (one.deadline for one in self._open.values())

    def reject(self, key: str, problem: str) -> None:
        """End a question that is not sent."""
        self._out.emit(OutOfBandEnded(key, (), problem))

    def ask(self, asked: OutOfBandAsked, now: float) -> None:
        """Send a question; end it at once without a connection."""
        if self._out.link is None:
            self.reject(asked.key, "there is no connection to the model")
            return
        self._open[asked.key] = _Question(asked.key, now + asked.timeout_s, asked.timeout_s)
        metadata = {**asked.response.get("metadata", {}), "aside": asked.key}
        response: dict[str, Any] = {**asked.response, "conversation": "none", "metadata": metadata}
        create = wire.ResponseCreate(event_id=f"aside_{asked.key}", response=response)
        self._out.send(create, about=OutOfBandOf(asked.key))

    def given(self, response: Mapping[str, Any]) -> None:
        """Remember a question that the program sends as a raw frame; its metadata identifies it."""
        self._raw_metadata.append(dict(mapping(response.get("metadata"))))

    def owns(self, event: wire.ServerEvent) -> bool:
        """Handle an event; returns whether it belongs to an out-of-band response, open or over."""
        match event:
            case wire.ResponseCreated(response=response):
                return self._created(response)
            case wire.ResponseDone(response=response):
                return self._done(response)
            case _:
                return getattr(event, "response_id", "") in self._response_ids

    def refuse(self, key: str, problem: str) -> bool:
        """End a question that the server refused; returns whether it was still open."""
        question = self._open.get(key)
        if question is None:
            return False
        self._end(question, (), problem or "the server refused the question")
        return True

    def advance(self, now: float) -> None:
        for question in [one for one in self._open.values() if now >= one.deadline]:
            if question.response_id:
                self._out.send(wire.ResponseCancel(response_id=question.response_id))
            self._end(question, (), f"no answer within {question.timeout_s:g} s")

    def lose(self) -> None:
        """End every question: their connection is lost."""
        for question in list(self._open.values()):
            self._end(question, (), "the connection to the model was lost")
        self._response_ids.clear()
        self._raw_metadata.clear()

    def _created(self, response: wire.Response) -> bool:
        key = _key(response.metadata)
        metadata = dict(response.metadata or {})
        if key is None and metadata in self._raw_metadata:
            self._raw_metadata.remove(metadata)
            self._response_ids.append(response.id)
            return True
        if key is None:
            return False
        self._response_ids.append(response.id)
        question = self._open.get(key)
        if question is not None:
            question.response_id = response.id
        else:  # timed out before it was created
            self._out.send(wire.ResponseCancel(response_id=response.id))
        return True

    def _done(self, response: wire.Response) -> bool:
        key = _key(response.metadata)
        if key is None:
            return response.id in self._response_ids
        question = self._open.get(key)
        if question is not None:
            failed = response.error.message if response.error else f"the answer is {response.status}"
            self._end(
                question,
                tuple(told_item(one) for one in response.output),
                "" if response.status == "completed" else failed,
            )
        return True

    def _end(self, question: _Question, items: tuple[HistoryItem, ...], problem: str) -> None:
        self._open.pop(question.key, None)
        self._out.emit(OutOfBandEnded(question.key, items, problem))


def _key(metadata: Mapping[str, str] | None) -> str | None:
    return (metadata or {}).get("aside")
