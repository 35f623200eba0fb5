"""A LiveKit agent on the Realtime server at argv[1]; prints one JSON object a line. Runs in the environment of LiveKit.

It writes "turn on the lamp", lets the tool run, speaks the PCM (24 kHz) of the file argv[2], and asks for a reply with
instructions. LiveKit detects the turns at the server and plays the audio into `Loudspeaker`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from livekit import rtc
from livekit.agents import Agent, AgentSession, function_tool
from livekit.agents.voice import io
from livekit.plugins import openai

RATE = 24_000
STEP = RATE // 10  # frames of a tenth of a second
PATIENCE_S = 20


def tell(**what: Any) -> None:
    print(json.dumps(what), flush=True)


@function_tool
async def set_lamp(on: bool) -> str:
    """Switch the lamp."""
    tell(event="tool", on=on)
    return f"The lamp is {'on' if on else 'off'}."


class Microphone(io.AudioInput):
    """Gives the frames of `say`, and silence for a second behind them."""

    def __init__(self) -> None:
        super().__init__(label="microphone")
        self._frames: asyncio.Queue[rtc.AudioFrame] = asyncio.Queue()

    def say(self, pcm: bytes) -> None:
        speech = pcm + bytes(2 * RATE)
        for at in range(0, len(speech) - 2 * STEP, 2 * STEP):
            self._frames.put_nowait(rtc.AudioFrame(speech[at : at + 2 * STEP], RATE, 1, STEP))

    async def __anext__(self) -> rtc.AudioFrame:
        return await self._frames.get()


class Loudspeaker(io.AudioOutput):
    """Counts the frames of each answer, which counts as played when it is complete."""

    def __init__(self) -> None:
        super().__init__(label="loudspeaker", capabilities=io.AudioOutputCapabilities(pause=False), sample_rate=RATE)
        self._frames = 0

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        await super().capture_frame(frame)
        self._frames += frame.samples_per_channel

    def flush(self) -> None:
        super().flush()
        if self._frames:
            tell(event="audio", ms=self._frames * 1000 // RATE)
            self.on_playback_finished(playback_position=self._frames / RATE, interrupted=False)
        self._frames = 0

    def clear_buffer(self) -> None:
        self._frames = 0


async def main(url: str, speech: bytes) -> None:
    model = openai.realtime.RealtimeModel(base_url=url.removesuffix("/realtime"), api_key="sk-local", model="local")
    session: AgentSession[Any] = AgentSession(llm=model)
    microphone = session.input.audio = Microphone()
    session.output.audio = Loudspeaker()
    answered = asyncio.Event()

    @session.on("conversation_item_added")
    def added(event: Any) -> None:
        text = getattr(event.item, "text_content", None)
        if text:
            tell(event=event.item.role, text=text)
        if getattr(event.item, "role", "") == "assistant":
            answered.set()

    @session.on("error")
    def failed(event: Any) -> None:
        tell(event="error", error=str(event.error))

    await session.start(Agent(instructions="Be brief.", tools=[set_lamp]))
    async with asyncio.timeout(PATIENCE_S):
        await session.generate_reply(user_input="turn on the lamp")
    answered.clear()
    microphone.say(speech)
    async with asyncio.timeout(PATIENCE_S):
        await answered.wait()
    async with asyncio.timeout(PATIENCE_S):
        await session.generate_reply(instructions="Say what you can do.")
    await session.aclose()
    await model.aclose()
    tell(event="end")


asyncio.run(main(sys.argv[1], Path(sys.argv[2]).read_bytes()))
