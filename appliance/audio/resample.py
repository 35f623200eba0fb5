"""A stateful resampler; each direction has one.

Resampling chunks without state clicks at every border (measured elsewhere: 95 % of the amplitude).
soxr's ``LQ`` recipe delays by 1 to 6 ms; ``HQ`` delays by 30 ms and delivers irregular blocks.
"""

from __future__ import annotations

import numpy as np
import soxr

from appliance.audio.ring import Int16

__all__ = ["Resampler"]


class Resampler:
    """Converts a stream of mono int16 samples from one rate to another; the identity if the rates are equal."""

    def __init__(self, source_rate: int, target_rate: int) -> None:
        self.source_rate = source_rate
        self.target_rate = target_rate
        self._stream = None if source_rate == target_rate else self._new_stream()
        self._taken = 0
        self._given = 0

    def process(self, block: Int16) -> Int16:
        """Take a block and return the output that is ready, a few milliseconds late."""
        if self._stream is None:
            return block
        self._taken += len(block)
        out: Int16 = self._stream.resample_chunk(block)
        self._given += len(out)
        return out

    @property
    def is_holding(self) -> bool:
        """True if input was taken since the last `finish` or `reset`; always False at equal rates."""
        return self._taken > 0

    def finish(self) -> Int16:
        """Return the delayed tail, so that the whole output has its exact length; then reset."""
        if self._stream is None:
            return np.zeros(0, np.int16)
        tail: Int16 = self._stream.resample_chunk(np.zeros(0, np.int16), last=True)
        missing = round(self._taken * self.target_rate / self.source_rate) - self._given
        self.reset()
        if missing <= len(tail):
            return tail[: max(missing, 0)]
        return np.concatenate([tail, np.zeros(missing - len(tail), np.int16)])

    def reset(self) -> None:
        """Drop the signal so far."""
        if self._stream is not None:
            self._stream = self._new_stream()
        self._taken = self._given = 0

    def _new_stream(self) -> soxr.ResampleStream:
        return soxr.ResampleStream(self.source_rate, self.target_rate, 1, dtype="int16", quality="LQ")
