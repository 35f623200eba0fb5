"""What a device of the soak talks to: answers without engines, and tools."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from appliance.agents.tools import tool
from appliance.errors import SpeechError
from appliance.speech.stages import CallPart, Part, ResponseRequest, SpokenPart, TextPart, Transcript
from tests.support.rig import tone

__all__ = ["TOOLS", "Mind"]

_SENTENCE = tone(1200, hertz=440.0)


# --- the assistant's tools -------------------------------------------------------------------------------------------


@tool
async def slow() -> str:
    """Take five seconds."""
    await asyncio.sleep(5.0)
    return "done"


@tool
def broken() -> str:
    """Fail, on a thread."""
    raise RuntimeError("the relay does not answer")


@tool(needs_approval=True)
def unlock() -> str:
    """Unlock the door."""
    return "unlocked"


TOOLS = [slow, broken, unlock]


# --- the speech engines ----------------------------------------------------------------------------------------------


class Mind:
    """A `VoicePipeline` that answers as it is told, without engines.

    Attributes:
        plan: What the next answers do: "speak", "slow", "late", "fail", "empty", or the name of a tool to call first.
    """

    def __init__(self) -> None:
        self.plan = "speak"
        self._count = 0

    async def warm_up(self) -> None:
        """Do nothing: there is no engine."""

    def close(self) -> None:
        """Do nothing: there is no engine."""

    async def transcribe(self, pcm: bytes, *, tools: Sequence[Mapping[str, Any]]) -> Transcript:
        await asyncio.sleep(0.3)
        self._count += 1
        return Transcript(f"this is what was said the {self._count}th time today")

    async def respond(self, request: ResponseRequest, *, spoken: bool, voice: str, speed: float) -> AsyncIterator[Part]:
        last = request.items[-1] if request.items else {}
        has_result = last.get("type") == "function_call_output"
        await asyncio.sleep({"slow": 8.0, "late": 60.0}.get(self.plan, 0.4))
        if self.plan == "fail":
            raise SpeechError("the engine has crashed")
        if self.plan == "empty":
            return
        if not has_result and self.plan in {one["name"] for one in request.tools}:
            arguments = {"set_timer": '{"minutes": 1}'}.get(self.plan, "{}")
            yield CallPart(self.plan, arguments)
            return
        for number in range(1 + self._count % 2):
            text = f"Sentence {number} of answer {self._count}."
            yield SpokenPart(text, _SENTENCE) if spoken else TextPart(text)
