"""The one piece of memory that two threads share: a ring of samples with one writer and one reader.

Theory of operation. `written` and `read` are counts of frames since the beginning; they only grow, and each has one
writer: the producer's thread and the consumer's. Samples are copied first and the count is published last, so the
other side never sees a frame that is not there. No lock: a PortAudio callback must never wait for Python's loop.

A flush must not touch the consumer's count either. The loop sets `flush_to`; at its next period the consumer fades
out what it would have played and jumps there. So old sound ends within one period, without a click, and what is
written after the flush follows at once.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Int16", "Ring"]

Int16: TypeAlias = NDArray[np.int16]


class Ring:
    """Mono int16 samples, a power of two of them."""

    def __init__(self, frames: int) -> None:
        """Allocate at least `frames`; all memory that it will ever use."""
        self.capacity = 1 << max(frames - 1, 1).bit_length()
        self._mask = self.capacity - 1
        self._samples = np.zeros(self.capacity, np.int16)
        self.written = 0
        """Frames stored since the beginning; the producer's."""
        self.read = 0
        """Frames taken or skipped since the beginning; the consumer's."""
        self.flush_to = 0
        """The consumer skips to this count at its next period; the loop's."""
        self.overruns = 0
        """Frames refused because the ring was full; the producer's."""

    @property
    def available(self) -> int:
        """Frames that can be read."""
        return self.written - self.read

    @property
    def room(self) -> int:
        """Frames that can be written."""
        return self.capacity - self.available

    def write(self, block: Int16) -> int:
        """Append one block whole, or refuse it; called on the producer's thread only.

        Args:
            block: Shape ``(frames,)``, int16, at the ring's rate.

        Returns:
            Frames stored: ``len(block)``, or 0 if there is no room for all (counted in `overruns`).
        """
        count = len(block)
        if count > self.room:
            self.overruns += count
            return 0
        start = self.written & self._mask
        first = min(count, self.capacity - start)
        self._samples[start : start + first] = block[:first]
        self._samples[: count - first] = block[first:]
        self.written += count  # published last
        return count

    def read_into(self, out: Int16) -> int:
        """Fill a buffer, with silence where there is too little; called on the consumer's thread only.

        Args:
            out: Shape ``(frames,)``, int16; overwritten whole.

        Returns:
            Frames of `out` that came from the ring.
        """
        target = self.flush_to
        if target > self.read:
            count = self._copy(out, min(len(out), target - self.read))
            out[:count] = out[:count] * np.linspace(1.0, 0.0, count, dtype=np.float32)
            self.read = target
            return count
        count = self._copy(out, min(len(out), self.available))
        self.read += count  # published last
        return count

    def flush(self) -> None:
        """Skip all that was written so far, at the consumer's next period; on the producer's thread."""
        self.flush_to = self.written

    def _copy(self, out: Int16, count: int) -> int:
        start = self.read & self._mask
        first = min(count, self.capacity - start)
        out[:first] = self._samples[start : start + first]
        out[first:count] = self._samples[: count - first]
        out[count:] = 0
        return count
