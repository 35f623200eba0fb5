"""Signals that can be told from anything else."""

from __future__ import annotations

from typing import Any

import numpy as np

PERIOD = 480


def ramp() -> np.ndarray[Any, np.dtype[np.int16]]:
    """A second of a ramp that never repeats a window: every lost or doubled frame shows."""
    return (np.arange(24_000) % 32_000 + 1).astype(np.int16)


def chirp() -> np.ndarray[Any, np.dtype[np.int16]]:
    """Two seconds from 200 Hz to 4 kHz at 24 kHz: a sharp peak of correlation."""
    at = np.arange(48_000) / 24_000
    return (9000 * np.sin(2 * np.pi * (200 * at + (4000 - 200) / 4 * at * at))).astype(np.int16)
