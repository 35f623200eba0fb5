"""Short cues, synthesised, so there are no sound files. Pure.

Rising means "go on", falling means "done", low and doubled means "no". All are soft (-14 dBFS) with 6 ms edges.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from appliance.audio.pcm import WIRE_RATE
from appliance.conversation.commands import Earcon

__all__ = ["earcon"]

_LEVEL = 0.2
_EDGE_S = 0.006

_NOTES: dict[Earcon, tuple[tuple[float, float], ...]] = {
    "start": ((660.0, 0.035), (990.0, 0.045)),
    "end": ((880.0, 0.04), (587.0, 0.05)),
    "error": ((220.0, 0.14), (0.0, 0.05), (185.0, 0.22)),
    "offline": ((440.0, 0.1), (330.0, 0.1), (247.0, 0.16)),
    "cancel": ((392.0, 0.05), (262.0, 0.07)),
    "alarm": ((1047.0, 0.12), (0.0, 0.06), (1047.0, 0.12), (0.0, 0.06), (1319.0, 0.2)),
    "approval": ((523.0, 0.09), (0.0, 0.03), (784.0, 0.14)),
    "muted": ((330.0, 0.07), (0.0, 0.03), (330.0, 0.07)),
    "working": ((494.0, 0.05), (0.0, 0.05), (494.0, 0.05)),
}
"""Frequency in Hz (0 is a rest) and length in seconds of each note."""


@cache
def earcon(name: Earcon) -> bytes:
    """Return a cue as PCM16 mono at 24 kHz."""
    return np.concatenate([_note(hertz, seconds) for hertz, seconds in _NOTES[name]]).astype("<i2").tobytes()


def _note(hertz: float, seconds: float) -> NDArray[np.float64]:
    frames = round(seconds * WIRE_RATE)
    edge = round(_EDGE_S * WIRE_RATE)
    at = np.arange(frames) / WIRE_RATE
    envelope = np.minimum(1.0, np.minimum(np.arange(frames), np.arange(frames)[::-1]) / edge)
    return np.rint(32767 * _LEVEL * envelope * np.sin(2 * np.pi * hertz * at))
