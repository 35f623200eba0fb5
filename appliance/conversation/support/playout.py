"""What of the answers has been heard: items queued for playback against frames really played.

Pure. The playback side counts the frames of answers that left the loudspeaker since the last flush; this class knows
in which order items were queued, so it can say of each how much was heard. That is what
``conversation.item.truncate`` needs: integer milliseconds, never more than was received.

All counts are frames at 24 kHz.
"""

from __future__ import annotations

from appliance.realtime.protocol import SAMPLE_RATE
from appliance.records import Record

__all__ = ["Heard", "Playout"]

_PERIOD = 480  # rounding between the card's rate and ours never exceeds a period


class Heard(Record, frozen=True):
    """How much of one queued item has been heard."""

    item_id: str
    content_index: int
    heard_frames: int
    received_frames: int
    heard_ms: int
    is_whole: bool


class Playout:
    """The queue since the last flush, as the conversation sees it."""

    def __init__(self) -> None:
        self.is_pending = False
        """Some of what was queued has not been heard yet."""
        self._queued: dict[tuple[str, int], int] = {}
        self._total = 0
        self._played = 0

    def queue(self, item_id: str, content_index: int, frames: int) -> None:
        """Account for audio handed to the playback side.

        A later delta of an earlier item cannot happen within one response (items come in order), so one count an
        item is enough.
        """
        key = (item_id, content_index)
        self._queued[key] = self._queued.get(key, 0) + frames
        self._total += frames
        self.is_pending = self._played < self._total

    def progress(self, played_frames: int, *, drained: bool) -> bool:
        """Take a report of the playback side.

        Returns:
            Whether something more was heard.
        """
        played = min(max(played_frames, self._played), self._total)
        if drained and self._total - played <= _PERIOD:
            played = self._total
        advanced = played > self._played
        self._played = played
        self.is_pending = played < self._total
        return advanced

    def heard(self) -> list[Heard]:
        """Return every queued item in order with how much of it was heard."""
        rest = self._played
        result = []
        for (item_id, content_index), frames in self._queued.items():
            part = min(rest, frames)
            rest -= part
            heard_ms = part * 1000 // SAMPLE_RATE
            result.append(Heard(item_id, content_index, part, frames, heard_ms, part >= frames))
        return result

    def flush(self) -> None:
        """Nothing that was queued is heard any more."""
        self._queued.clear()
        self._total = self._played = 0
        self.is_pending = False
