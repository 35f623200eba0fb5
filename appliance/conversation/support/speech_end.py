"""Detection of the end of speech, for a turn that was started by a tap.

Pure. An energy rule, not a model: the tap has already marked the start, so only the end is needed. The floor is the
level of the quietest recent period; a period counts as speech if it is `margin_db` above the floor and above an
absolute level. A turn that is held by the button does not use it.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SpeechEnd"]

_FLOOR_RISE_DB = 0.05  # per 20 ms period: the floor adapts to a louder room in about ten seconds
_QUIETEST_SPEECH_DB = -50.0
_SPEECH_RUN = 3  # periods in a row: 60 ms, so that a click does not count as speech


@dataclass(slots=True)
class SpeechEnd:
    """Tracks levels: whether speech has started, and how long it has been quiet since."""

    margin_db: float = 10.0
    floor_db: float | None = None
    run: int = 0
    """Loud periods in a row."""
    quiet_frames: int = 0
    """Frames since the last period of speech."""
    has_begun: bool = False

    def feed(self, level_db: float, frames: int) -> None:
        """Add one period: its level in dBFS and its length in frames."""
        floor = level_db if self.floor_db is None else min(level_db, self.floor_db + _FLOOR_RISE_DB)
        self.floor_db = floor
        if level_db > max(floor + self.margin_db, _QUIETEST_SPEECH_DB):
            self.run += 1
            self.quiet_frames = 0 if self.run >= _SPEECH_RUN else self.quiet_frames + frames
            self.has_begun = self.has_begun or self.run >= _SPEECH_RUN
        else:
            self.run = 0
            self.quiet_frames += frames
