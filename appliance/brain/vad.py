"""Voice activity by energy: where speech starts and stops in a stream of PCM16 at 24 kHz.

Pure. A period of 20 ms is voiced when its RMS is at or above a fixed level derived from the session's ``threshold``.
Three voiced periods in a row start speech; ``silence_ms`` of unvoiced periods stop it. There is no trained model and
no noise-floor estimate: a steady noise above the level counts as speech, and the remedy is a higher ``threshold``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from appliance.audio.pcm import from_bytes, level_db

__all__ = ["PERIOD_FRAMES", "EnergyVad", "SpeechEdge", "threshold_db"]

PERIOD_FRAMES = 480  # 20 ms at 24 kHz
_ONSET_PERIODS = 3  # 60 ms: longer than a click of the button, shorter than a syllable


@dataclass(frozen=True, slots=True)
class SpeechEdge:
    """Speech started or stopped at a frame, counted from the session's first frame."""

    kind: Literal["start", "stop"]
    frame: int


def threshold_db(threshold: float) -> float:
    """Map the protocol's threshold, 0 to 1, to dBFS: 0.5 is -40, between a quiet room (-60) and speech (-25)."""
    return -55.0 + 30.0 * threshold


class EnergyVad:
    """Detects where speech starts and stops; all audio MUST be fed in order.

    Args:
        threshold: The session's ``threshold``, 0 to 1.
        silence_ms: Length of silence that ends speech.
        position: Frame number of the first sample to be fed.
    """

    def __init__(self, *, threshold: float, silence_ms: int, position: int) -> None:
        self._level_db = threshold_db(threshold)
        self._silence_periods = max(1, round(silence_ms / 20))
        self._position = position
        self._rest = b""
        self._voiced = 0
        self._unvoiced = 0
        self.speaking = False

    def feed(self, pcm: bytes) -> Iterator[SpeechEdge]:
        """Yield the edges in these samples; a partial period is kept for the next call."""
        self._rest += pcm
        size, at = 2 * PERIOD_FRAMES, 0
        while at + size <= len(self._rest):
            edge = self._period(self._rest[at : at + size])
            at += size
            if edge is not None:
                yield edge
        self._rest = self._rest[at:]

    def _period(self, pcm: bytes) -> SpeechEdge | None:
        self._position += PERIOD_FRAMES
        voiced = level_db(from_bytes(pcm)) >= self._level_db
        self._voiced = self._voiced + 1 if voiced else 0
        self._unvoiced = 0 if voiced else self._unvoiced + 1
        if not self.speaking and self._voiced >= _ONSET_PERIODS:
            self.speaking = True
            return SpeechEdge("start", self._position - _ONSET_PERIODS * PERIOD_FRAMES)
        if self.speaking and self._unvoiced >= self._silence_periods:
            self.speaking = False
            return SpeechEdge("stop", self._position)
        return None
