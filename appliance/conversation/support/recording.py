"""The speech of one turn: its audio, what the server has of it, and what of it is in writing. Pure records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from appliance.conversation.events import AudioCaptured
from appliance.conversation.support.speech_end import SpeechEnd

__all__ = ["Delivery", "Recording", "Words"]


@dataclass(slots=True)
class Recording:
    """The audio of one turn."""

    started_at: float
    audio: bytearray = field(default_factory=bytearray, repr=False)
    """In one piece: thousands of small ones among the frames of the wire fragment the memory."""
    frames: int = 0
    """All frames that were captured, pre-roll included."""
    peak: int = 0
    end: SpeechEnd = field(default_factory=SpeechEnd)
    is_latched: bool = False
    """Begun by a tap: another tap or silence ends it."""
    post_roll_left: int | None = None
    """Frames still to be kept after the end was asked for."""

    def add(self, *periods: AudioCaptured) -> None:
        for period in periods:
            self.audio += period.pcm
            self.frames += len(period.pcm) // 2
            self.peak = max(self.peak, period.peak)


@dataclass(slots=True)
class Delivery:
    """What the server has of it."""

    sent_bytes: int = 0
    is_cleared: bool = False
    is_commit_sent: bool = False
    was_spoken: bool = False
    """Its audio was committed: it counts for the budget."""
    replays: int = 0


@dataclass(slots=True)
class Words:
    """What of it is in writing."""

    message: Mapping[str, Any] | None = field(default=None, repr=False)
    """A message item, instead of audio."""
    side_items: list[str] = field(default_factory=list)
    """Messages that were given while it was spoken: it answers for them."""
    side_texts: list[str] = field(default_factory=list, repr=False)
