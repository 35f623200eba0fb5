"""When has the user stopped speaking? For a turn that was begun by a tap.

Pure. An energy rule, not a model: a press has already said that somebody speaks, so all that is asked is when it
ends. The floor is the quietest period heard lately; a period counts as speech when it is `margin_db` above the
floor and above an absolute level below which no speech is. Holding the button needs none of this.
"""

from __future__ import annotations

__all__ = ["SpeechEnd"]

_FLOOR_RISE_DB = 0.05  # per 20 ms period: a louder room is learnt in about ten seconds
_QUIETEST_SPEECH_DB = -50.0
_SPEECH_RUN = 3  # periods in a row: 60 ms, so that a click is no speech


class SpeechEnd:
    """Listens to levels, says whether speech has begun and how long it has been quiet since."""

    def __init__(self, *, margin_db: float = 10.0) -> None:
        self._margin_db = margin_db
        self._floor_db: float | None = None
        self._run = 0
        self._quiet_frames = 0
        self.has_begun = False

    def __repr__(self) -> str:
        return f"<SpeechEnd {'quiet for ' + str(self._quiet_frames) if self.has_begun else 'waiting'}>"

    @property
    def quiet_frames(self) -> int:
        """Frames since the last period of speech."""
        return self._quiet_frames

    def feed(self, level_db: float, frames: int) -> None:
        """Take the level of one period (dBFS) and its length in frames."""
        floor = level_db if self._floor_db is None else min(level_db, self._floor_db + _FLOOR_RISE_DB)
        self._floor_db = floor
        if level_db > max(floor + self._margin_db, _QUIETEST_SPEECH_DB):
            self._run += 1
            self._quiet_frames = 0 if self._run >= _SPEECH_RUN else self._quiet_frames + frames
            self.has_begun = self.has_begun or self._run >= _SPEECH_RUN
        else:
            self._run = 0
            self._quiet_frames += frames
