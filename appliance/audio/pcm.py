"""Arithmetic on samples. Pure; int16 mono arrays of shape ``(frames,)`` unless stated otherwise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from appliance.audio.ring import Int16

__all__ = ["WIRE_RATE", "from_bytes", "gain", "level_db", "peak", "spread", "to_mono", "volume_gain"]

WIRE_RATE = 24_000
"""Frames per second on the wire and inside the program."""
SILENCE_DB = -96.0
_LOUDEST = 32768.0
_QUIETEST_VOLUME_DB = -45.0


def from_bytes(pcm: bytes) -> Int16:
    """View little-endian PCM16 as an array, without a copy."""
    return np.frombuffer(pcm, dtype="<i2").astype(np.int16, copy=False)


def peak(block: Int16) -> int:
    """Return the largest absolute sample, 0 to 32768."""
    if not len(block):
        return 0
    return max(int(block.max()), -int(block.min()))


def level_db(block: Int16) -> float:
    """Return the RMS level in dBFS, at least -96."""
    if not len(block):
        return SILENCE_DB
    samples = block.astype(np.float32)
    power = float(np.dot(samples, samples)) / len(block)
    if power <= 0.0:
        return SILENCE_DB
    return max(SILENCE_DB, 10.0 * float(np.log10(power / _LOUDEST**2)))


def gain(block: Int16, factor: float) -> Int16:
    """Scale the samples by `factor`; values outside int16 are clipped."""
    if factor == 1.0:
        return block
    louder: Int16 = np.clip(np.rint(block * np.float32(factor)), -32768, 32767).astype(np.int16)
    return louder


def volume_gain(percent: int) -> float:
    """Return the linear gain for a volume of 0 (silence) to 100 (unchanged), in even steps of dB."""
    if percent <= 0:
        return 0.0
    decibels = _QUIETEST_VOLUME_DB * (1.0 - min(percent, 100) / 100)
    return float(10.0 ** (decibels / 20.0))


def to_mono(interleaved: NDArray[np.int16], channels: int) -> Int16:
    """Return the mean of the interleaved channels."""
    if channels == 1:
        return interleaved
    mixed: Int16 = interleaved.reshape(-1, channels).mean(axis=1).astype(np.int16)
    return mixed


def spread(block: Int16, channels: int) -> NDArray[np.int16]:
    """Copy mono samples to every channel, interleaved."""
    return block if channels == 1 else np.repeat(block, channels)
