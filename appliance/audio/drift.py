"""The difference between the clock of a server that sends at the pace of speech and the clock of the card. Pure.

Theory of operation. Two quartz clocks differ by 10 to 100 ppm. A server that sends an answer as fast as it is spoken
fills the buffer by its clock, and the card empties it by its own: in an hour the depth (the frames that wait) moves by
up to 360 ms, and runs to zero or grows. The depth is averaged over windows of played frames. A window in which it stays
within narrow bounds, and whose mean is that of the window before, is paced. The mean of the first paced window is the
depth to keep. What follows is made longer or shorter so that the depth returns to it: one frame in a block of 20 ms, at
most in every second block, by linear interpolation. Near the wanted depth no sample is changed.

A server that sends faster than speech is not touched: the depth rises, then falls by a second in a second, so no window
is paced. One that stays far ahead at the pace of speech keeps its lead, because the depth to keep is what it was. Only
a depth that falls below two periods is raised.
"""

from __future__ import annotations

import numpy as np

from appliance.audio.pcm import WIRE_RATE
from appliance.audio.ring import Int16

__all__ = ["Drift", "stretched"]

_WINDOW = 10 * WIRE_RATE  # long enough for a mean that jitter of the network does not move by the bound below
_MOST_RANGE = WIRE_RATE // 2  # of the depth in a paced window: more is a server that sends in bursts
_MOST_STEP = WIRE_RATE // 50  # of the mean between two windows: 2,000 ppm, twenty times what clocks differ by
_MOST_LEAD = WIRE_RATE // 10  # from the wanted depth: more is a server that changed its lead
_LEAST = WIRE_RATE // 25  # 40 ms, two periods: with less, one late packet empties the ring
_DEAD_BAND = WIRE_RATE // 200  # 5 ms from the wanted depth nothing is corrected
_RETURN = 30 * WIRE_RATE  # a difference is corrected as if within so long: 10 ms make 333 ppm
_MOST_RATE = 0.001


def stretched(block: Int16, frames: int) -> Int16:
    """Return a block with another number of frames; its first and its last sample stay.

    Args:
        block: Shape ``(n,)``, n at least 2.
        frames: At least 2.
    """
    if frames == len(block):
        return block
    at = np.linspace(0.0, len(block) - 1.0, frames)
    longer: Int16 = np.rint(np.interp(at, np.arange(len(block)), block)).astype(np.int16)
    return longer


class Drift:
    """Keeps the depth of an answer that is sent at the pace of the card. All counts are frames of 24 kHz."""

    def __init__(self) -> None:
        self.inserted = 0
        """Frames inserted less frames dropped, since the start."""
        self.reset()

    def reset(self) -> None:
        """Forget the depth: an answer begins, or ran dry."""
        self._begin_window()
        self._mean: float | None = None
        """Of the last window."""
        self._wanted: float | None = None
        """The depth to keep; None while the answer is not paced."""
        self._rate = 0.0
        """Frames to insert per frame; negative to drop."""
        self._due = 0.0
        """Frames to insert that are not inserted yet."""

    def _begin_window(self) -> None:
        self._played = self._looks = self._sum = 0
        self._least = self._most = -1

    def look(self, depth: int, played: int) -> None:
        """Note the depth.

        Args:
            depth: Frames that wait, in the queue, the ring and the resampler.
            played: Frames that the card took since the last call.
        """
        self._played += played
        self._looks += 1
        self._sum += depth
        self._most = max(self._most, depth)
        self._least = depth if self._least < 0 else min(self._least, depth)
        if self._played >= _WINDOW:
            self._judge(self._sum / self._looks)
            self._begin_window()

    def _judge(self, mean: float) -> None:
        """Decide at the end of a window how the next one is corrected."""
        before, self._mean = self._mean, mean
        self._rate = 0.0
        if before is None or self._most - self._least > _MOST_RANGE or abs(mean - before) > _MOST_STEP:
            return
        if self._wanted is None or abs(mean - self._wanted) > _MOST_LEAD:
            self._wanted = mean
        self._wanted = max(self._wanted, mean + _LEAST - self._least)
        error = self._wanted - mean
        if abs(error) > _DEAD_BAND:
            self._rate = min(max(error / _RETURN, -_MOST_RATE), _MOST_RATE)

    def steer(self, block: Int16) -> Int16:
        """Return the next block of the answer, now and then a frame longer or shorter.

        Args:
            block: At most 20 ms.
        """
        self._due += self._rate * len(block)
        step = int(self._due)
        if not step or len(block) < 3:
            return block
        step = 1 if step > 0 else -1
        self._due -= step
        self.inserted += step
        return stretched(block, len(block) + step)
