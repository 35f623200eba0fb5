"""A stage with actions of a program: turns, questions outside the conversation, and turns that the server detects."""

from __future__ import annotations

import base64
from typing import Any

from appliance.agents.spec import AgentSpec
from appliance.conversation.commands import Command
from appliance.conversation.events import (
    MessageGiven,
)
from appliance.conversation.notices import OutOfBandEnded
from tests.support.stage import Stage

__all__ = ["TRUNCATION", "ProgramStage", "listening_server", "message"]


class ProgramStage(Stage):
    """A stage with actions of the program and of server turn detection."""

    def given(self, commands: list[Command] | None = None) -> list[str]:
        """Return the ids of the items created on the server."""
        return [one["id"] for one in self.created_items(commands)]

    def asides(self) -> list[OutOfBandEnded]:
        return self.notices(OutOfBandEnded)

    def aside_created(self, key: str = "k1", response_id: str = "resp_k") -> list[Command]:
        response = {"id": response_id, "status": "in_progress", "output": [], "metadata": {"aside": key}}
        return self.server({"type": "response.created", "response": response})

    def aside_done(
        self, text: str = "Rain.", key: str = "k1", response_id: str = "resp_k", status: str = "completed", **more: Any
    ) -> list[Command]:
        item = {
            "id": "item_k",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": text}],
        }
        response = {"id": response_id, "status": status, "output": [item] if text else [], "metadata": {"aside": key}}
        return self.server({"type": "response.done", "response": response | more})

    def item_done(
        self, text: str, item_id: str = "item_a", response_id: str = "resp_1", status: str = "incomplete"
    ) -> list[Command]:
        content = [{"type": "output_audio", "transcript": text}]
        item = {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": content}
        return self.output_item(item, response_id=response_id)

    def speech_started(self, item_id: str = "item_user") -> list[Command]:
        return self.server({"type": "input_audio_buffer.speech_started", "item_id": item_id, "audio_start_ms": 0})

    def speech_stopped(self, item_id: str = "item_user") -> list[Command]:
        return self.server({"type": "input_audio_buffer.speech_stopped", "item_id": item_id, "audio_end_ms": 900})

    def spoke_to_server(self, item_id: str = "item_user", ms: int = 400) -> list[Command]:
        """Speak a whole turn that server turn detection starts and ends."""
        commands = self.hear(100) + self.speech_started(item_id) + self.hear(ms)
        return commands + self.speech_stopped(item_id) + self.committed(item_id)

    def delta(self, pcm: bytes, item_id: str = "item_a") -> list[Command]:
        """Receive these bytes of audio."""
        frame = {"response_id": "resp_1", "item_id": item_id, "output_index": 0, "content_index": 0}
        encoded = base64.b64encode(pcm).decode()
        return self.server({"type": "response.output_audio.delta", "delta": encoded, **frame})


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
