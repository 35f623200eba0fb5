"""A `ServerModel` driven by a test: takes literal client events, checks every frame, keeps the effects."""

from __future__ import annotations

import base64
import json
from array import array
from typing import Any

from appliance.brain.model import Close, Effect, EmitFrame, Generate, ServerModel, StopGenerating, Transcribe
from tests.support.oracle import check_server_frame

MS = 48  # bytes of one millisecond of PCM16 at 24 kHz


def tone(duration_ms: int, *, level: int = 6000) -> bytes:
    """Return a 240 Hz square wave, loud enough for any voice activity detector."""
    period = [level] * 50 + [-level] * 50
    frames = duration_ms * 24
    return array("h", (period * (frames // 100 + 1))[:frames]).tobytes()


def silence(duration_ms: int) -> bytes:
    return bytes(duration_ms * MS)


class Served:
    """One session; the oracle checks every frame that it emits."""

    def __init__(self, *, push_to_talk: bool = True, **kwargs: Any) -> None:
        self.now = 100.0
        self.model = ServerModel(session_id="sess_1", model="gpt-realtime-2.1", now=self.now, **kwargs)
        self.generating: dict[str, Generate] = {}
        self.stopped: list[str] = []
        self.to_transcribe: dict[str, Transcribe] = {}
        self.closed: Close | None = None
        self.created = self.do(self.model.connect(self.now))
        if push_to_talk:
            self.update(audio={"input": {"turn_detection": None}})

    def do(self, effects: list[Effect]) -> list[dict[str, Any]]:
        """Apply effects and return the emitted frames."""
        frames = []
        for effect in effects:
            match effect:
                case EmitFrame(frame):
                    frames.append(json.loads(json.dumps(frame, default=str)))
                    check_server_frame(frames[-1])
                case Generate():
                    self.generating[effect.response_id] = effect
                case StopGenerating(response_id):
                    del self.generating[response_id]
                    self.stopped.append(response_id)
                case Transcribe():
                    self.to_transcribe[effect.item_id] = effect
                case Close():
                    self.closed = effect
        return frames

    def raw(self, frame: str | bytes) -> list[dict[str, Any]]:
        return self.do(self.model.receive(frame, self.now))

    def send(self, name: str, **keys: Any) -> list[dict[str, Any]]:
        return self.raw(json.dumps({"type": name, **keys}))

    def update(self, **session: Any) -> list[dict[str, Any]]:
        return self.send("session.update", session={"type": "realtime", **session})

    def append(self, pcm: bytes) -> list[dict[str, Any]]:
        return self.send("input_audio_buffer.append", audio=base64.b64encode(pcm).decode())

    def say(self, text: str, **keys: Any) -> list[dict[str, Any]]:
        """Add a user message with text."""
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
        return self.send("conversation.item.create", item=item, **keys)

    def ask(self, **response: Any) -> str:
        """Ask for a response and return its id."""
        frames = self.send("response.create", response=response)
        assert frames[0]["type"] == "response.created", frames
        return str(frames[0]["response"]["id"])

    def speak(self, response_id: str, text: str, duration_ms: int) -> list[dict[str, Any]]:
        return self.do(self.model.response_audio(response_id, text, tone(duration_ms)))

    def write(self, response_id: str, text: str) -> list[dict[str, Any]]:
        return self.do(self.model.response_text(response_id, text))

    def call(self, response_id: str, name: str, arguments: str) -> list[dict[str, Any]]:
        return self.do(self.model.response_call(response_id, name, arguments))

    def finish(self, response_id: str, **how: Any) -> list[dict[str, Any]]:
        self.generating.pop(response_id, None)
        return self.do(self.model.finish_response(response_id, now=self.now, **how))

    def fail(self, response_id: str, message: str) -> list[dict[str, Any]]:
        self.generating.pop(response_id, None)
        return self.do(self.model.fail_response(response_id, message, now=self.now))

    def hear(self, item_id: str, text: str) -> list[dict[str, Any]]:
        return self.do(self.model.transcribed(item_id, text))

    def pass_time(self, seconds: float) -> list[dict[str, Any]]:
        self.now += seconds
        return self.do(self.model.tick(self.now))

    def spoken_answer(self, duration_ms: int = 1000, text: str = "Hello there.") -> str:
        """Create and finish a spoken answer; return the id of its item."""
        response_id = self.ask()
        frames = self.speak(response_id, text, duration_ms)
        self.finish(response_id)
        return str(frames[0]["item"]["id"])


def names(frames: list[dict[str, Any]]) -> list[str]:
    return [frame["type"] for frame in frames]


def the_error(frames: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the error of a single ``error`` frame."""
    assert names(frames) == ["error"], frames
    error: dict[str, Any] = frames[0]["error"]
    return error
