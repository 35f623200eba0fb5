"""The microphone: callback → ring → pump → events.

Theory of operation. While nobody listens, sound stays raw in the ring: nothing is resampled, and no event is posted. At
a press, what the ring holds since the pre-roll is resampled and posted as one event; from then on the sound is posted
in periods of 20 ms. The ring holds two seconds beside the pre-roll: as long may the loop stand still. While the network
is stalled (`has_room` is False), the periods wait in a deque on the loop, as many as the longest turn has.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf

import numpy as np

from appliance.audio import pcm
from appliance.audio.backends import Backend, Stream
from appliance.audio.pcm import WIRE_RATE
from appliance.audio.resample import Resampler
from appliance.audio.ring import Int16, Ring
from appliance.conversation.events import AudioCaptured, CaptureOverrun, Event

__all__ = ["CapturePump"]

_PERIOD = WIRE_RATE // 50  # frames of an event: 20 ms
_RING_S = 2.0  # beside the pre-roll
_LEAD_PERIODS = 3  # resampled before the pre-roll and dropped: a resampler's first samples differ, and it gives fewer
_PRESS_S = 0.5  # kept at rest, beside the pre-roll: a press is handled after its edge


class CapturePump:
    """Posts what the microphone hears while somebody listens."""

    def __init__(
        self, *, pre_roll_s: float, max_turn_s: float, post: Callable[[Event], None], has_room: Callable[[], bool]
    ) -> None:
        self._pre_roll_s = pre_roll_s
        self._longest = int(max_turn_s * WIRE_RATE) // _PERIOD
        """Periods that wait at most."""
        self._post = post
        self._has_room = has_room
        self._reported = 0
        self.stream: Stream | None = None
        self.has_called = False
        """The stream has had a callback; set on the card's thread."""
        self.ring = Ring(1)
        self.is_listening = False
        self.overruns = 0
        self._resampler = Resampler(WIRE_RATE, WIRE_RATE)
        self._rest = np.zeros(0, np.int16)
        """The end of what was resampled, less than a period."""
        self._waiting: deque[AudioCaptured] = deque()
        """Periods for which the network has no room."""

    def open(self, backend: Backend) -> None:
        """Start the stream. Blocks."""
        ring = Ring(1)

        def consume(block: Int16) -> None:
            ring.write(block)
            self.has_called = True

        self.has_called = False
        stream = backend.open_capture(consume)
        # A ring of the right size needs the stream's rate. The periods before it, one or two, are lost.
        ring = Ring(int((self._pre_roll_s + _RING_S) * stream.rate))
        self.ring = ring
        self._reported = 0
        self._resampler = Resampler(stream.rate, WIRE_RATE)
        self._rest = np.zeros(0, np.int16)
        self._waiting = deque()
        self.stream = stream

    def listen(self, since: float | None) -> None:
        """Post what is captured from now on, after the sound since the press and its pre-roll; called on the loop.

        Args:
            since: When the button went down, in the stream's monotonic seconds; ``inf`` to post no earlier sound; None
                to post nothing more.
        """
        self.is_listening = since is not None
        self._waiting.clear()
        stream = self.stream
        if since is None or stream is None:
            return
        self._report_overruns()
        after = round(max(0.0, stream.last_callback_at - since) * WIRE_RATE)
        periods = -(-(after + round(self._pre_roll_s * WIRE_RATE)) // _PERIOD) if since < inf else 0
        wanted = periods * _PERIOD
        self._forget(stream, (wanted * stream.rate // WIRE_RATE + _LEAD_PERIODS * stream.period) if wanted else 0)
        samples = self._resampled()
        samples = samples[max(0, len(samples) - wanted) :]
        count = len(samples) // _PERIOD * _PERIOD
        self._rest = samples[count:]
        if count:
            self._post(_event(samples[:count], pre_roll=max(0, len(samples) - after)))

    def pump(self) -> None:
        """Post the captured audio, or keep the pre-roll of the next press; called on the loop."""
        self._report_overruns()
        stream = self.stream
        if stream is None:
            return
        if not self.is_listening:
            self._forget(stream, int((self._pre_roll_s + _PRESS_S) * stream.rate))
            return
        if self.ring.available:
            self._queue(self._resampled())
        while self._waiting and self._has_room():
            self._post(self._waiting.popleft())
        self._report(sum(len(self._waiting.pop().pcm) // 2 for _ in range(len(self._waiting) - self._longest)))

    def skip(self) -> None:
        """Drop audio that was captured but not posted; called on the loop, the ring's consumer."""
        self._drop(self.ring.available)
        self._waiting.clear()

    def newest(self) -> Int16:
        """Return the newest period of the stream, for a level meter; empty without one. Called on the loop."""
        return np.zeros(0, np.int16) if self.stream is None else self.ring.newest(self.stream.period)

    def _resampled(self) -> Int16:
        """Read the ring; returns what was not posted yet, at the rate of the wire."""
        block = np.empty(self.ring.available, np.int16)
        self.ring.read_into(block)
        return np.concatenate([self._rest, self._resampler.process(block)])

    def _queue(self, samples: Int16) -> None:
        count = len(samples) // _PERIOD * _PERIOD
        self._rest = samples[count:]
        self._waiting.extend(_event(samples[start : start + _PERIOD]) for start in range(0, count, _PERIOD))

    def _forget(self, stream: Stream, frames: int) -> None:
        """Drop all but the newest `frames` and what completes their oldest period."""
        extra = (self.ring.available - frames) // stream.period * stream.period
        if extra > 0:
            self._drop(extra)

    def _drop(self, frames: int) -> None:
        self.ring.read += frames
        self._resampler.reset()
        self._rest = np.zeros(0, np.int16)

    def _report_overruns(self) -> None:
        lost, self._reported = self.ring.overruns - self._reported, self.ring.overruns
        self._report(lost)

    def _report(self, lost: int) -> None:
        if lost:
            self.overruns += lost
            self._post(CaptureOverrun(lost))


def _event(samples: Int16, *, pre_roll: int = 0) -> AudioCaptured:
    peak, level_db = pcm.peak(samples), pcm.level_db(samples)
    return AudioCaptured(samples.astype("<i2").tobytes(), peak, level_db, min(pre_roll, len(samples)))
