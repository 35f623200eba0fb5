"""A lock-free ring of samples with one producer and one consumer; the only memory that two threads share.

Theory of operation. `written` and `read` count frames since the ring was made; they only grow. Only the producer's
thread changes `written`, and only the consumer's changes `read`. Samples are copied first and the count is published
last, so the other side never sees a frame before its samples. No lock: a PortAudio callback must never wait for
Python's loop.

A flush must not change the consumer's count either. The loop sets `flush_to`; at its next period the consumer fades
out what it would have played and jumps there. So old sound ends within one period, without a click, and audio written
after the flush follows at once.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Int16", "Ring"]

Int16: TypeAlias = NDArray[np.int16]


class Ring:
    """Ring of mono int16 samples; its capacity is a power of two."""

    def __init__(self, frames: int) -> None:
        """Allocate all memory: at least `frames`, rounded up to a power of two."""
        self.capacity = 1 << max(frames - 1, 1).bit_length()
        self._mask = self.capacity - 1
        self._samples = np.zeros(self.capacity, np.int16)
        self.written = 0
        """Frames stored since the start; only the producer writes it."""
        self.read = 0
        """Frames read or skipped since the start; only the consumer writes it."""
        self.flush_to = 0
        """The consumer skips to this count at its next period; only the loop writes it."""
        self.overruns = 0
        """Frames refused because the ring was full; only the producer writes it."""

    @property
    def available(self) -> int:
        """Frames that can be read."""
        return self.written - self.read

    @property
    def room(self) -> int:
        """Frames that can be written."""
        return self.capacity - self.available

    def write(self, block: Int16) -> int:
        """Append the whole block, or refuse it; called on the producer's thread only.

        Args:
            block: Shape ``(frames,)``, int16, at the ring's rate.

        Returns:
            Frames stored: ``len(block)``, or 0 if the block does not fit (counted in `overruns`).
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
        """Fill a buffer, padded with silence; called on the consumer's thread only.

        Args:
            out: Shape ``(frames,)``, int16; overwritten entirely.

        Returns:
            Frames of `out` that came from the ring.
        """
        target = self.flush_to
        if target > self.read:
            count = self._copy(out, min(len(out), target - self.read))
            out[:count] = out[:count] * np.linspace(1.0, 0.0, count, dtype=np.float32)
            self.read = target
            return count
        count = min(len(out), self.available)
        if not count:  # nearly always
            out[:] = 0
            return 0
        self._copy(out, count)
        self.read += count  # published last
        return count

    def newest(self, frames: int) -> Int16:
        """Return a copy of what was written last, `frames` at most; takes nothing. Called on the loop.

        The producer may overwrite it meanwhile, unless `frames` is much less than the capacity.
        """
        end = self.written
        positions = np.arange(max(0, end - frames), end) & self._mask
        newest: Int16 = self._samples[positions]
        return newest

    def flush(self) -> None:
        """Make the consumer skip everything written so far at its next period; called on the producer's thread."""
        self.flush_to = self.written

    def _copy(self, out: Int16, count: int) -> int:
        start = self.read & self._mask
        first = min(count, self.capacity - start)
        out[:first] = self._samples[start : start + first]
        out[first:count] = self._samples[: count - first]
        out[count:] = 0
        return count
