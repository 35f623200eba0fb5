"""A scripted `VoicePipeline`: a fixed transcript, then sentences with sine-wave audio or a tool call."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from appliance.speech.stages import CallPart, Part, ResponseRequest, SpokenPart, TextPart, Transcript

__all__ = ["ScriptedPipeline", "sine"]


def sine(duration_ms: int, *, hertz: float = 440.0) -> bytes:
    """Return a sine wave as PCM16 mono at 24 kHz, at a quarter of full scale."""
    step = 2 * math.pi * hertz / 24_000
    return array("h", (round(8000 * math.sin(step * i)) for i in range(duration_ms * 24))).tobytes()


class ScriptedPipeline:
    """Calls the request's first tool if the user says "lamp", speaks a tool's output, else repeats the user's words.

    Args:
        hears: The transcript of every utterance.
        sentences: Number of sentences in an answer.
    """

    def __init__(self, *, hears: str = "hello", sentences: int = 1) -> None:
        self.hears = hears
        self.sentences = sentences
        self.utterances: list[bytes] = []
        self.requests: list[ResponseRequest] = []
        self.produced = 0
        self.closed = 0

    async def transcribe(self, pcm: bytes, *, tools: Sequence[Mapping[str, Any]]) -> Transcript:
        self.utterances.append(pcm)
        return Transcript(self.hears)

    async def respond(self, request: ResponseRequest, *, spoken: bool, voice: str, speed: float) -> AsyncIterator[Part]:
        self.requests.append(request)
        try:
            last = request.items[-1] if request.items else {}
            said = _said(last)
            if "lamp" in said and request.tools:
                yield CallPart(request.tools[0]["name"], json.dumps({"on": True}))
                return
            answer = last["output"] if last.get("type") == "function_call_output" else f"You said {said}."
            for number in range(self.sentences):
                self.produced += 1
                text = answer if number == 0 else f" Sentence {number}."
                yield SpokenPart(text, sine(1000)) if spoken else TextPart(text)
        finally:
            self.closed += 1


def _said(item: Mapping[str, Any]) -> str:
    parts = item.get("content", ())
    return " ".join(part.get("text") or part.get("transcript") or "" for part in parts)
