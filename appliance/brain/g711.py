"""G.711 (µ-law, A-law) at 8 kHz to and from PCM16 at 24 kHz, by table and in pure Python.

Pure. The offline brain works at 24 kHz; a session whose format is ``audio/pcmu`` or ``audio/pcma`` passes through
here. Both directions keep state, so chunks join without clicks. About 10 ms of CPU per second of audio on a desktop:
good for a phone bridge, not meant for many at once.

Source: ITU-T G.711.
"""

from __future__ import annotations

from array import array
from functools import cache
from math import cos, pi, sin
from sys import byteorder
from typing import Literal, TypeAlias

__all__ = ["Law", "NarrowbandDecoder", "NarrowbandEncoder"]

Law: TypeAlias = Literal["audio/pcmu", "audio/pcma"]

_RATIO = 3  # 24 kHz over 8 kHz
_TAPS = 25
_CUTOFF = 0.9 / _RATIO  # of the Nyquist frequency at 24 kHz: 3.6 kHz


class NarrowbandDecoder:
    """8 kHz G.711 to 24 kHz PCM16, linear interpolation between samples."""

    def __init__(self, law: Law) -> None:
        self._table = _decoding(law)
        self._last = 0

    def decode(self, coded: bytes) -> bytes:
        """Return three samples for each byte; the newest sample of the last call starts the first ramp."""
        last, wide = self._last, array("h")
        for byte in coded:
            sample = self._table[byte]
            step = (sample - last) / _RATIO
            wide.extend((round(last + step), round(last + 2 * step), sample))
            last = sample
        self._last = last
        return _little_endian(wide)


class NarrowbandEncoder:
    """24 kHz PCM16 to 8 kHz G.711, low-passed at 3.6 kHz first."""

    def __init__(self, law: Law) -> None:
        self._table = _encoding(law)
        self._pending: list[int] = [0] * (_TAPS // 2)

    def encode(self, pcm: bytes) -> bytes:
        """Return one byte for each three samples; what does not fill a step waits for the next call."""
        samples = array("h")
        samples.frombytes(pcm)
        if byteorder == "big":
            samples.byteswap()
        window, taps, table = self._pending + list(samples), _low_pass(), self._table
        coded, at = bytearray(), 0
        while at + _TAPS <= len(window):
            level = sum(tap * window[at + i] for i, tap in enumerate(taps))
            coded.append(table[max(-32768, min(32767, round(level))) & 0xFFFF])
            at += _RATIO
        self._pending = window[at:]
        return bytes(coded)

    def flush(self) -> bytes:
        """Return what is still inside the filter."""
        return self.encode(bytes(2 * (_TAPS // 2)))


@cache
def _decoding(law: Law) -> tuple[int, ...]:
    """Return the sample of each of the 256 codes."""
    expand = _expand_mu if law == "audio/pcmu" else _expand_a
    return tuple(expand(code) for code in range(256))


@cache
def _encoding(law: Law) -> bytes:
    """Return the nearest code of each sample, indexed by its low 16 bits."""
    levels = sorted(zip(_decoding(law), range(256), strict=True))
    table, nearest = bytearray(65536), 0
    for sample in range(-32768, 32768):
        while nearest + 1 < 256 and abs(levels[nearest + 1][0] - sample) <= abs(levels[nearest][0] - sample):
            nearest += 1
        table[sample & 0xFFFF] = levels[nearest][1]
    return bytes(table)


def _expand_mu(code: int) -> int:
    code = ~code & 0xFF
    magnitude = ((((code & 0x0F) << 3) + 0x84) << ((code & 0x70) >> 4)) - 0x84
    return -magnitude if code & 0x80 else magnitude


def _expand_a(code: int) -> int:
    code ^= 0x55
    segment, magnitude = (code & 0x70) >> 4, (code & 0x0F) << 4
    magnitude = magnitude + 8 if segment == 0 else (magnitude + 0x108) << (segment - 1)
    return magnitude if code & 0x80 else -magnitude


@cache
def _low_pass() -> tuple[float, ...]:
    """Return a Hann-windowed sinc of unity gain at 0 Hz."""
    middle = _TAPS // 2
    taps = [
        (_CUTOFF if i == middle else sin(pi * _CUTOFF * (i - middle)) / (pi * (i - middle)))
        * (0.5 + 0.5 * cos(pi * (i - middle) / (middle + 1)))
        for i in range(_TAPS)
    ]
    return tuple(tap / sum(taps) for tap in taps)


def _little_endian(samples: array[int]) -> bytes:
    if byteorder == "big":
        samples.byteswap()
    return samples.tobytes()
