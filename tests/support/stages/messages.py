"""Literal items of a conversation."""

from __future__ import annotations

from typing import Any

from appliance.agents.spec import AgentSpec, ToolCard
from appliance.conversation.events import (
    MessageGiven,
)
from tests.support.stages.agents import WatchedStage

__all__ = ["VAD_SESSION", "note", "spoken", "vad"]


def spoken(item_id: str = "item_a", text: str = "Hello there.", status: str = "completed") -> dict[str, Any]:
    return {
        "id": item_id,
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [{"type": "output_audio", "transcript": text}],
    }


def note(text: str = "Hi.", item_id: str = "m1", **more: Any) -> MessageGiven:
    content = [{"type": "input_text", "text": text}]
    return MessageGiven({"id": item_id, "type": "message", "role": "user", "content": content}, text, **more)


VAD_SESSION = {"type": "realtime", "audio": {"input": {"turn_detection": {"type": "server_vad"}}}}


def vad(**more: Any) -> WatchedStage:
    spec = AgentSpec(agent="greeter", session=VAD_SESSION, tools=(ToolCard(name="a"),), **more)
    scene = WatchedStage(specs=[spec]).ready()
    scene.hear(200)
    scene.server({"type": "input_audio_buffer.speech_started", "item_id": "item_1", "audio_start_ms": 0})
    scene.hear(500)
    scene.committed("item_1")
    scene.created("resp_1", None)
    return scene
