"""A sound card in virtual time: its callbacks are timers of the event loop.

A day has 4.3 million periods of 20 ms. At rest, when nobody listens and nothing sounds, one period stands for a second;
`wake` before something happens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np

from appliance.audio.backends import Consume, Fill, Presence
from appliance.audio.backends.simulated import Microphone
from appliance.conversation.events import Direction
from appliance.errors import CardMissing

__all__ = ["VirtualCard"]

_RATE = 48_000
_PERIOD = _RATE // 50
_REST_S = 1.0


class VirtualCard:
    """A `Backend` with one card; either direction can be unplugged, or hang."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.microphone = Microphone(_RATE)
        self.unplugged: set[Direction] = set()
        self.hanging: set[Direction] = set()
        self.opened = 0
        """Streams that are open."""
        self.sounding = 0
        """Periods played that were not silent."""
        self._awake_until = 0.0

    def wake(self, seconds: float) -> None:
        """Let every period be 20 ms for a time."""
        self._awake_until = max(self._awake_until, self.loop.time() + seconds)

    def silence(self) -> None:
        """Drop speech that was not captured."""
        self.microphone = Microphone(_RATE)

    @property
    def is_awake(self) -> bool:
        return self.loop.time() < self._awake_until

    def open_capture(self, consume: Consume) -> _Stream:
        return self._open("capture", lambda: consume(self.microphone.hear(_PERIOD)))

    def open_playback(self, fill: Fill) -> _Stream:
        block = np.zeros(_PERIOD, np.int16)

        def play() -> None:
            self.sounding += fill(block) and bool(block.any())

        return self._open("playback", play)

    def _open(self, direction: Direction, work: Callable[[], None]) -> _Stream:
        if direction in self.unplugged:
            raise CardMissing(f"{direction}: the card is unplugged; plug it in")
        return _Stream(self, direction, work)

    def open_mixer(self) -> None:
        """Return None: all of the volume is set in software."""

    def look(self, direction: Direction) -> Presence:
        return "absent" if direction in self.unplugged else "listed"

    def reset(self) -> None:
        """Do nothing: no list of cards is cached."""

    close = reset


class _Stream:
    """One direction of a `VirtualCard`."""

    rate = _RATE
    latency = _PERIOD
    xruns = 0
    late_callbacks = 0

    def __init__(self, card: VirtualCard, direction: Direction, work: Callable[[], None]) -> None:
        self._card = card
        self._direction: Direction = direction
        self._work = work
        self._last_at = card.loop.time()
        self._is_open = True
        card.opened += 1
        self._timer = card.loop.call_later(_PERIOD / _RATE, self._tick)

    @property
    def is_active(self) -> bool:
        return self._is_open and self._direction not in self._card.unplugged

    @property
    def period(self) -> int:
        return _PERIOD if self._card.is_awake else int(_REST_S * _RATE)

    @property
    def last_callback_at(self) -> float:
        is_late = self._card.is_awake or self._direction in self._card.hanging
        return self._last_at if is_late else self._card.loop.time()

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._card.opened -= 1
            self._timer.cancel()

    def _tick(self) -> None:
        if not self.is_active:
            return
        if self._direction not in self._card.hanging:
            self._last_at = self._card.loop.time()
            self._work()
        self._timer = self._card.loop.call_later(self.period / _RATE, self._tick)
