"""A card whose callbacks the test calls, period by period, and the streams over it: no thread, a fake clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf
from typing import Any

import numpy as np

from appliance.audio.backends import Consume, Fill, Presence
from appliance.audio.mixer import Mixer
from appliance.audio.ring import Int16
from appliance.audio.streams import AudioStreams
from appliance.conversation.events import CardFound, Direction, Event
from appliance.errors import AudioError, CardMissing
from tests.support.patience import patient

PERIOD = 480


class HandStream:
    """One direction; `turn` runs one callback."""

    def __init__(self, card: HandCard, work: Any, *, latency: int) -> None:
        self.rate, self.period, self.latency = card.rate, card.rate // 50, latency
        self.xruns = self.late_callbacks = 0
        self.is_active = True
        self.last_callback_at = card.now
        self.is_closed = False
        self._card = card
        self._work = work

    def turn(self, block: Int16) -> Int16:
        self._work(block)
        self.last_callback_at = self._card.now
        return block

    def close(self) -> None:
        self.is_closed = True


class HandCard:
    """A backend driven by the test; at 24 kHz no sample is changed by resampling."""

    def __init__(self, *, rate: int = 24_000, latency: int = PERIOD) -> None:
        self.now = 1000.0
        self.rate = rate
        self.latency = latency
        self.capture: HandStream | None = None
        self.playback: HandStream | None = None
        self.missing: set[str] = set()
        """Directions whose card is not there."""
        self.unlisted: set[str] = {"capture", "playback"}
        """Directions whose card was absent when the cards were listed."""
        self.mixer: Mixer | None = None
        self.refusal: AudioError | None = None
        """What each opening raises."""
        self.resets = 0
        self.is_closed = False

    def open_capture(self, consume: Consume) -> HandStream:
        if "capture" in self.missing:
            raise CardMissing("capture: no card")
        if self.refusal is not None:
            raise self.refusal
        self.capture = HandStream(self, consume, latency=self.latency)
        return self.capture

    def open_playback(self, fill: Fill) -> HandStream:
        if "playback" in self.missing:
            raise CardMissing("playback: no card")
        if self.refusal is not None:
            raise self.refusal
        self.playback = HandStream(self, fill, latency=self.latency)
        return self.playback

    def open_mixer(self) -> Mixer | None:
        return self.mixer

    def look(self, direction: Direction) -> Presence:
        return "absent" if direction in self.missing else "unlisted" if direction in self.unlisted else "listed"

    def reset(self) -> None:
        self.resets += 1
        self.unlisted = set(self.missing)

    def close(self) -> None:
        self.is_closed = True


class Hand:
    """The streams, the card, and the posted events."""

    def __init__(
        self, *, rate: int = 24_000, latency: int = PERIOD, mixer: Mixer | None = None, **options: Any
    ) -> None:
        """The streams; somebody listens, unless a test says otherwise."""
        self.card = HandCard(rate=rate, latency=latency)
        self.card.mixer = mixer
        self.events: list[Event] = []
        self.has_room = True
        self.audio = AudioStreams(
            self.card,
            post=self.events.append,
            has_room=lambda: self.has_room,
            clock=lambda: self.card.now,
            **{"pre_roll_s": 0.3, "max_turn_s": 60.0, "playback_ring_ms": 300, "prebuffer_ms": 0, **options},
        )
        self.audio.listen(inf)

    def posted(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    async def play_periods(self, count: int) -> list[int]:
        """Run `count` playback callbacks; return all samples that they played."""
        samples: list[int] = []
        for _ in range(count):
            assert self.card.playback is not None
            stream = self.card.playback
            samples += stream.turn(np.full(stream.period, -1, np.int16)).tolist()
            self.audio._playback.pump()
        return samples

    async def found(self, *directions: Direction) -> None:
        """Run callbacks of lost directions that are open again, until all of them are reported as found."""
        while {event.direction for event in self.posted(CardFound)} != set(directions):
            for direction in directions:
                stream: HandStream | None = getattr(self.card, direction)
                if stream is not None and stream.is_active and not stream.is_closed:
                    stream.turn(np.zeros(stream.period, np.int16))
            await asyncio.sleep(0.01)

    async def hear(self, *values: int) -> None:
        for value in values:
            assert self.card.capture is not None
            self.card.capture.turn(np.full(self.card.capture.period, value, np.int16))
        self.audio._capture.pump()


@asynccontextmanager
async def hand(**options: Any) -> AsyncIterator[Hand]:
    one = Hand(**options)
    async with asyncio.timeout(patient(30)), asyncio.TaskGroup() as group:
        running = group.create_task(one.audio.run())
        await one.audio.opened()
        yield one
        running.cancel()


def pcm_of(value: int, frames: int) -> bytes:
    return np.full(frames, value, "<i2").tobytes()
