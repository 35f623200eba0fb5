"""G.711 (µ-law, A-law) at 8 kHz to and from PCM16 at 24 kHz. Pure.

Used by sessions whose format is ``audio/pcmu`` or ``audio/pcma``. Both directions keep state, so chunks join without
clicks. The decoder adds no delay; the encoder delays by half its filter, 0.5 ms, until `flush`. soxr was tried for this
ratio: its stream delays by 5 to 40 ms, dithers silence, and would need a flush at every commit.

Source: ITU-T G.711.
"""

from __future__ import annotations

from functools import cache
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from appliance.audio.pcm import from_bytes
from appliance.audio.ring import Int16

__all__ = ["Law", "NarrowbandDecoder", "NarrowbandEncoder"]

Law: TypeAlias = Literal["audio/pcmu", "audio/pcma"]

_RATIO = 3  # 24 kHz over 8 kHz
_RAMP = np.arange(1, _RATIO + 1)
_TAPS = 25
_SILENCE: Int16 = np.zeros(_TAPS // 2, np.int16)  # before the first sample and after the last
_CUTOFF = 0.9 / _RATIO  # of the Nyquist frequency at 24 kHz: 3.6 kHz


class NarrowbandDecoder:
    """Converts 8 kHz G.711 to 24 kHz PCM16 by linear interpolation."""

    def __init__(self, law: Law) -> None:
        self._table = _decoding(law).astype(np.float64)
        self._last = np.zeros(1)

    def decode(self, coded: bytes) -> bytes:
        """Return three samples per byte; the last sample of the previous call starts the first ramp."""
        ends = np.concatenate([self._last, self._table[np.frombuffer(coded, np.uint8)]])
        self._last = ends[-1:]
        steps = (ends[1:] - ends[:-1]) / _RATIO
        wide: NDArray[np.float64] = ends[:-1, np.newaxis] + steps[:, np.newaxis] * _RAMP
        return np.rint(wide).astype("<i2").tobytes()


class NarrowbandEncoder:
    """Converts 24 kHz PCM16 to 8 kHz G.711, after a low-pass at 3.6 kHz."""

    def __init__(self, law: Law) -> None:
        self._table = _encoding(law)
        self._pending = _SILENCE

    def encode(self, pcm: bytes) -> bytes:
        """Return one byte per three samples; leftover samples wait for the next call."""
        window = np.concatenate([self._pending, from_bytes(pcm)])
        steps = max(0, (len(window) - _TAPS) // _RATIO + 1)
        self._pending = window[_RATIO * steps :]
        if not steps:
            return b""
        narrow = np.correlate(window, _low_pass())[: _RATIO * steps : _RATIO]
        return self._table[np.rint(narrow).clip(-32768, 32767).astype(np.int16).view(np.uint16)].tobytes()

    def flush(self) -> bytes:
        """Return the samples still inside the filter, encoded, and reset."""
        rest = self.encode(_SILENCE.tobytes())
        self._pending = _SILENCE
        return rest


@cache
def _decoding(law: Law) -> Int16:
    """Return the sample value of each of the 256 codes."""
    code = np.arange(256) ^ (0xFF if law == "audio/pcmu" else 0x55)
    segment, step = (code & 0x70) >> 4, code & 0x0F
    if law == "audio/pcmu":
        magnitude, is_negative = (((step << 3) + 0x84) << segment) - 0x84, code & 0x80 != 0
    else:
        magnitude = np.where(segment == 0, (step << 4) + 8, ((step << 4) + 0x108) << np.maximum(segment - 1, 0))
        is_negative = code & 0x80 == 0
    return np.where(is_negative, -magnitude, magnitude).astype(np.int16)


@cache
def _encoding(law: Law) -> NDArray[np.uint8]:
    """Return the nearest code for each sample, indexed by its low 16 bits; ties go to the higher level."""
    levels, at = np.unique(_decoding(law)[::-1].astype(np.int32), return_index=True)
    samples = np.arange(65536, dtype=np.uint16).view(np.int16).astype(np.int32)
    nearest = np.searchsorted(levels[:-1] + levels[1:], 2 * samples, side="right")
    return (255 - at[nearest]).astype(np.uint8)


@cache
def _low_pass() -> NDArray[np.float64]:
    """Return a Hann-windowed sinc of unity gain at 0 Hz."""
    taps: NDArray[np.float64] = (
        np.sinc(_CUTOFF * np.arange(-(_TAPS // 2), _TAPS // 2 + 1)) * np.hanning(_TAPS + 2)[1:-1]
    )
    return taps / float(taps.sum())
