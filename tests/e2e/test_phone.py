"""A telephone bridge both ways: a caller on µ-law at 8 kHz talks with the offline brain through a `RealtimeSession`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import numpy as np
import pytest

from appliance.agents.agent import RealtimeAgent
from appliance.agents.tools import tool
from appliance.audio.g711 import Law, NarrowbandDecoder, NarrowbandEncoder
from appliance.audio.pcm import from_bytes
from appliance.conversation.notices import Audio, AudioInterrupted, SessionEvent, ToolEnd, TurnEnd
from appliance.realtime.payload import RealtimeSessionSettings, ServerVad
from appliance.runtime.session import RealtimeSession
from appliance.simulator.simulated_device import speak
from tests.alsa.signal import likeness
from tests.support.patience import patient

pytestmark = pytest.mark.timeout(120)  # not timing-sensitive: runs beside the unit tests

E = TypeVar("E", bound=SessionEvent)
FRAME = 160  # bytes of 20 ms
TICK_S = 0.002  # the line runs ten times as fast as a real one
LAW: Law = "audio/pcmu"
SILENCE = b"\xff"


class Line:
    """A telephone line: each tick carries 20 ms of the caller up, and plays 20 ms of the answer to the caller."""

    def __init__(self) -> None:
        self._says: deque[bytes] = deque()
        self._queue: list[tuple[str, int]] = []
        """The queued answer: item and code of each sample."""
        self.heard: dict[str, bytearray] = {}
        """What the caller heard of each item, in µ-law."""

    def say(self, pcm: bytes) -> None:
        coded = NarrowbandEncoder(LAW).encode(pcm)
        self._says += [coded[at : at + FRAME].ljust(FRAME, SILENCE) for at in range(0, len(coded), FRAME)]

    def from_caller(self) -> bytes:
        return self._says.popleft() if self._says else FRAME * SILENCE

    def queue(self, item_id: str, audio: bytes) -> None:
        self._queue += [(item_id, code) for code in audio]

    def clear(self) -> None:
        self._queue.clear()

    def play(self) -> list[str]:
        """Play a frame; returns the items that it was of."""
        frame, self._queue = self._queue[:FRAME], self._queue[FRAME:]
        for item_id, code in frame:
            self.heard.setdefault(item_id, bytearray()).append(code)
        return list(dict.fromkeys(item_id for item_id, _ in frame))

    def pcm(self, item_id: str) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
        return from_bytes(NarrowbandDecoder(LAW).decode(bytes(self.heard[item_id])))


class Bridge:
    """Carries a call: the program that a maker writes between a line and a session."""

    def __init__(self, session: RealtimeSession, line: Line) -> None:
        self._session = session
        self._line = line
        self.events: list[SessionEvent] = []
        self._has_changed = asyncio.Event()

    async def carry(self) -> None:
        while True:
            self._session.send_audio(self._line.from_caller())
            for item_id in self._line.play():
                self._session.played(item_id, 3 * len(self._line.heard[item_id]))  # 8 kHz to 24 kHz
            await asyncio.sleep(TICK_S)

    async def listen(self) -> None:
        async for event in self._session:
            if isinstance(event, Audio):
                self._line.queue(event.item_id, event.audio)
            elif isinstance(event, AudioInterrupted):
                self._line.clear()
            self.events.append(event)
            self._has_changed.set()

    async def until(self, kind: type[E], count: int = 1) -> E:
        """Wait for the `count`-th event of a kind."""
        async with asyncio.timeout(patient(60)):
            while len(found := [one for one in self.events if isinstance(one, kind)]) < count:
                self._has_changed.clear()
                await self._has_changed.wait()
        return found[count - 1]


@asynccontextmanager
async def call(agent: RealtimeAgent) -> AsyncIterator[tuple[Line, Bridge]]:
    settings = RealtimeSessionSettings(
        input_audio_format="g711_ulaw", output_audio_format="g711_ulaw", turn_detection=ServerVad()
    )
    line = Line()
    async with RealtimeSession(agent, settings, url="offline", playback="reported") as session:
        bridge = Bridge(session, line)
        tasks = [asyncio.create_task(bridge.carry()), asyncio.create_task(bridge.listen())]
        try:
            yield line, bridge
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@tool
def set_lamp(on: bool) -> str:
    """Switch the lamp.

    Args:
        on: True to light it.
    """
    return f"The lamp is {'on' if on else 'off'}."


async def test_caller_commands_a_tool_hears_the_answer_and_interrupts_it() -> None:
    async with call(RealtimeAgent(name="Ada", tools=[set_lamp])) as (line, bridge):
        line.say(await speak("turn on the lamp", voice="slt"))
        called = await bridge.until(ToolEnd)
        answered = await bridge.until(TurnEnd)
        said = await bridge.until(Audio)
        assert (called.name, answered.outcome) == ("set_lamp", "answered")
        assert len(line.heard[said.item_id]) == sum(
            len(one.audio) for one in bridge.events if isinstance(one, Audio)
        ), "the turn ends once the caller has heard all of it"
        wanted = from_bytes(await speak("The lamp is on.", voice="slt"))
        assert likeness(line.pcm(said.item_id), wanted) > 0.5

        line.say(await speak("turn off the lamp", voice="slt"))
        await bridge.until(ToolEnd, 2)
        while len(line.heard) < 2:
            await asyncio.sleep(TICK_S)
        line.say(await speak("turn on the lamp", voice="slt"))
        cut = await bridge.until(AudioInterrupted)
        played_ms = len(line.heard[cut.item_id]) // 8
        await bridge.until(ToolEnd, 3)
        await bridge.until(TurnEnd, 3)
    assert 0 <= played_ms - cut.heard_ms <= 100, "heard is what the line played, but for frames on the way"
    assert [one.outcome for one in bridge.events if isinstance(one, TurnEnd)] == ["answered", "interrupted", "answered"]
    assert not [one for one in bridge.events if one.type == "error"]
