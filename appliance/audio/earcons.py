"""Earcons, synthesised from their notes (`conversation.earcons`): soft (-14 dBFS), with edges of 6 ms. Pure."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from appliance.audio.pcm import WIRE_RATE
from appliance.conversation.earcons import NOTES, Earcon

__all__ = ["earcon"]

_LEVEL = 0.2
_EDGE_S = 0.006


@cache
def earcon(name: Earcon) -> bytes:
    """Return a cue as PCM16 mono at 24 kHz."""
    return np.concatenate([_note(hertz, seconds) for hertz, seconds in NOTES[name]]).astype("<i2").tobytes()


def _note(hertz: float, seconds: float) -> NDArray[np.float64]:
    frames = round(seconds * WIRE_RATE)
    edge = round(_EDGE_S * WIRE_RATE)
    at = np.arange(frames) / WIRE_RATE
    envelope = np.minimum(1.0, np.minimum(np.arange(frames), np.arange(frames)[::-1]) / edge)
    return np.rint(32767 * _LEVEL * envelope * np.sin(2 * np.pi * hertz * at))
