"""Test signals, and a measure that finds them in captured audio."""

from __future__ import annotations

import numpy as np

from appliance.audio.ring import Int16

PERIOD = 480


def ramp() -> Int16:
    """Return one second of a ramp in which every sample differs: any lost or repeated frame shows."""
    return (np.arange(24_000) % 32_000 + 1).astype(np.int16)


def chirp() -> Int16:
    """Return a 2 s chirp from 200 Hz to 4 kHz at 24 kHz; its correlation has a sharp peak."""
    at = np.arange(48_000) / 24_000
    return (9000 * np.sin(2 * np.pi * (200 * at + (4000 - 200) / 4 * at * at))).astype(np.int16)


def likeness(heard: Int16, signal: Int16) -> float:
    """Find a signal in captured audio.

    Returns:
        The normalised correlation at the best offset: 1 for the signal at any volume, 0 for silence.
    """
    long, short = heard.astype(float), signal.astype(float)
    size = 1 << (len(long) + len(short)).bit_length()
    spectrum = np.fft.rfft(long, size) * np.conj(np.fft.rfft(short, size))
    offset = int(np.argmax(np.fft.irfft(spectrum, size)[: len(long)]))
    part = long[offset : offset + len(short)]
    energy = (part @ part) * (short @ short)
    return float(part @ short[: len(part)] / np.sqrt(energy)) if energy else 0.0
