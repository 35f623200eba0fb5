"""What a program gives, and a server that detects turns."""

from __future__ import annotations

from typing import Any

from appliance.agents.spec import AgentSpec
from appliance.conversation.events import (
    MessageGiven,
)

__all__ = ["TRUNCATION", "listening_server", "message"]


def message(
    text: str = "What time is it?", item_id: str = "note_1", *, wants_answer: bool = True, image: str = ""
) -> MessageGiven:
    """Return a text message, with or without an image, that wants an answer or not."""
    content: list[dict[str, Any]] = [{"type": "input_text", "text": text}] if text else []
    content += [{"type": "input_image", "image_url": image}] if image else []
    item = {"id": item_id, "type": "message", "role": "user", "content": content}
    return MessageGiven(item, text, wants_answer=wants_answer)


TRUNCATION = {
    "type": "conversation.item.truncate",
    "event_id": "truncate_item_a",
    "item_id": "item_a",
    "content_index": 0,
    "audio_end_ms": 100,
}


def listening_server(**detection: Any) -> AgentSpec:
    """Return an agent whose session uses server turn detection."""
    turn_detection = {"type": "server_vad"} | detection
    return AgentSpec(agent="ada", session={"type": "realtime", "audio": {"input": {"turn_detection": turn_detection}}})
