"""The microphone: callback → ring → pump → events."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from appliance.audio import pcm
from appliance.audio.backends import Backend, Stream
from appliance.audio.pcm import WIRE_RATE
from appliance.audio.resample import Resampler
from appliance.audio.ring import Int16, Ring
from appliance.conversation.events import AudioCaptured, CaptureOverrun, Event

__all__ = ["CapturePump"]

_PERIOD = WIRE_RATE // 50  # frames of an event: 20 ms


class CapturePump:
    """Posts what the microphone hears, in periods of 20 ms."""

    def __init__(self, seconds: float, post: Callable[[Event], None], has_room: Callable[[], bool]) -> None:
        self._seconds = seconds
        self._post = post
        self._has_room = has_room
        self._reported = 0
        self.stream: Stream | None = None
        self.has_called = False
        """The stream has had a callback; set on the card's thread."""
        self.ring = Ring(1)
        self.overruns = 0
        self._resampler = Resampler(WIRE_RATE, WIRE_RATE)
        self._rest = np.zeros(0, np.int16)

    def open(self, backend: Backend) -> None:
        """Start the stream. Blocks."""
        ring = Ring(1)

        def consume(block: Int16) -> None:
            ring.write(block)
            self.has_called = True

        self.has_called = False
        stream = backend.open_capture(consume)
        # A ring of the right size needs the stream's rate. The periods before it, one or two, are lost.
        ring = Ring(int(self._seconds * stream.rate))
        self.ring = ring
        self._reported = 0
        self._resampler = Resampler(stream.rate, WIRE_RATE)
        self._rest = np.zeros(0, np.int16)
        self.stream = stream

    def pump(self) -> None:
        """Post the captured audio; called on the loop."""
        self._report_overruns()
        stream = self.stream
        if stream is None:
            return
        block = np.empty(stream.period, np.int16)
        while self.ring.available >= stream.period and self._has_room():
            self.ring.read_into(block)
            self._emit(self._resampler.process(block))

    def skip(self) -> None:
        """Drop audio that was captured but not posted; called on the loop, the ring's consumer."""
        self.ring.read = self.ring.written
        self._resampler.reset()
        self._rest = np.zeros(0, np.int16)

    def _emit(self, block: Int16) -> None:
        self._rest = np.concatenate([self._rest, block])
        while len(self._rest) >= _PERIOD:
            period, self._rest = self._rest[:_PERIOD], self._rest[_PERIOD:]
            self._post(AudioCaptured(period.astype("<i2").tobytes(), pcm.peak(period), pcm.level_db(period)))

    def _report_overruns(self) -> None:
        lost = self.ring.overruns
        if lost > self._reported:
            frames = lost - self._reported
            self._reported = lost
            self.overruns += frames
            self._post(CaptureOverrun(frames))
