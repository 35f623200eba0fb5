"""Earcons as data: the name and the notes of each short cue. Pure; `audio.earcons` makes sound of them.

A rising cue means "go on", a falling one "done", a low and doubled one "no".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

__all__ = ["NOTES", "Earcon"]

Earcon: TypeAlias = Literal[
    "start", "end", "error", "offline", "cancel", "alarm", "approval", "muted", "unmuted", "working"
]

NOTES: Mapping[Earcon, tuple[tuple[float, float], ...]] = {
    "start": ((660.0, 0.035), (990.0, 0.045)),
    "end": ((880.0, 0.04), (587.0, 0.05)),
    "error": ((220.0, 0.14), (0.0, 0.05), (185.0, 0.22)),
    "offline": ((440.0, 0.1), (330.0, 0.1), (247.0, 0.16)),
    "cancel": ((392.0, 0.05), (262.0, 0.07)),
    "alarm": ((1047.0, 0.12), (0.0, 0.06), (1047.0, 0.12), (0.0, 0.06), (1319.0, 0.2)),
    "approval": ((523.0, 0.09), (0.0, 0.03), (784.0, 0.14)),
    "muted": ((330.0, 0.07), (0.0, 0.03), (330.0, 0.07)),
    "unmuted": ((440.0, 0.07), (0.0, 0.03), (660.0, 0.07)),
    "working": ((494.0, 0.05), (0.0, 0.05), (494.0, 0.05)),
}
"""Frequency in Hz (0 is a rest) and length in seconds of each note."""
