"""An `ItemList` alone: what it is told and what it holds."""

from __future__ import annotations

import json
from typing import Any

from appliance.conversation.support.item_list import Change, ItemList
from appliance.realtime import protocol as wire
from tests.support.history_frames import (
    message,
)

__all__ = ["committed", "ids", "tell", "user_audio"]


def tell(history: ItemList, *frames: dict[str, Any]) -> list[Change]:
    """Apply these literal frames of the server; return every change."""
    changes: list[Change] = []
    for index, frame in enumerate(frames):
        changes += history.apply(wire.decode(json.dumps({"event_id": f"event_{index}"} | frame)))
    return changes


def ids(history: ItemList) -> list[str]:
    return [one.id for one in history.items]


def committed(item_id: str, previous: str | None = None) -> dict[str, Any]:
    return {"type": "input_audio_buffer.committed", "item_id": item_id, "previous_item_id": previous}


def user_audio(transcript: str | None = None) -> dict[str, Any]:
    return message("item_u", "user", {"type": "input_audio", "transcript": transcript})
