"""Literal frames and items of a history."""

from __future__ import annotations

from typing import Any

from appliance.realtime.items import HistoryItem
from tests.support.stage import Stage

__all__ = [
    "ABCD",
    "PIXEL",
    "THREE",
    "added",
    "answer",
    "call",
    "heard",
    "message",
    "of_answer",
    "output",
    "output_item",
    "said",
    "spoken_answer",
    "written",
]


PIXEL = "data:image/png;base64,iVBORw0KGgo="


def message(item_id: str, role: str, *content: dict[str, Any], status: str = "completed") -> dict[str, Any]:
    return {"id": item_id, "type": "message", "status": status, "role": role, "content": list(content)}


def added(item: dict[str, Any], previous: str | None = None, *, done: bool = False) -> dict[str, Any]:
    kind = "conversation.item.done" if done else "conversation.item.added"
    return {"type": kind, "previous_item_id": previous, "item": item}


def written(item_id: str, text: str, previous: str | None = None, role: str = "user") -> dict[str, Any]:
    part = "output_text" if role == "assistant" else "input_text"
    return added(message(item_id, role, {"type": part, "text": text}), previous, done=True)


def heard(item_id: str, transcript: str) -> dict[str, Any]:
    return {
        "type": "conversation.item.input_audio_transcription.completed",
        "item_id": item_id,
        "content_index": 0,
        "transcript": transcript,
        "usage": {"type": "duration", "seconds": 1},
    }


def of_answer(kind: str, item_id: str = "item_a", **more: Any) -> dict[str, Any]:
    place = {"response_id": "resp_1", "item_id": item_id, "output_index": 0, "content_index": 0}
    return {"type": f"response.{kind}"} | place | more


def output_item(item: dict[str, Any], *, done: bool = False) -> dict[str, Any]:
    kind = "response.output_item.done" if done else "response.output_item.added"
    return {"type": kind, "response_id": "resp_1", "output_index": 0, "item": item}


def spoken_answer(transcript: str | None, status: str = "completed") -> dict[str, Any]:
    return message("item_a", "assistant", {"type": "output_audio", "transcript": transcript}, status=status)


def call(call_id: str = "call_1", name: str = "get_time") -> HistoryItem:
    return HistoryItem(id=f"item_{call_id}", type="function_call", name=name, call_id=call_id, arguments="{}")


def output(call_id: str = "call_1", text: str = "noon") -> HistoryItem:
    return HistoryItem(id=f"out_{call_id}", type="function_call_output", call_id=call_id, output=text)


def said(item_id: str, text: str, role: str = "user", **more: Any) -> HistoryItem:
    return HistoryItem(id=item_id, role=role, text=text, **more)


THREE = [written("item_1", "one"), written("item_2", "two", "item_1"), written("item_3", "three", "item_2")]

ABCD = [said(f"item_{letter}", letter) for letter in "abcd"]


def answer(stage: Stage, text: str = "It is noon.", ms: int = 1000) -> None:
    """Receive a spoken answer of which nothing is played yet."""
    stage.created()
    stage.server(output_item(spoken_answer(None, "in_progress")))
    stage.audio(ms=ms)
    stage.server(of_answer("output_audio_transcript.done", transcript=text))
