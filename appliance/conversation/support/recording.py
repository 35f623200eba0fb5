"""The speech of one turn: its audio, what the server has of it, and what of it is in writing. Pure records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from appliance.conversation.events import AudioCaptured
from appliance.conversation.policy import Policy
from appliance.conversation.support.speech_end import SpeechEnd
from appliance.realtime.protocol import SAMPLE_RATE

__all__ = ["FRAMES_PER_MS", "Delivery", "Ended", "Recording", "Words"]

FRAMES_PER_MS = SAMPLE_RATE // 1000

Ended: TypeAlias = Literal["captured", "too_long", "too_short", "silence"]
"""Why nothing more is captured: `captured` as it should be, or not."""


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

    def silence(self, policy: Policy) -> Ended | None:
        """Whether the user has fallen silent, or never spoke."""
        quiet_ms = self.end.quiet_frames / FRAMES_PER_MS
        if self.end.has_begun:
            return "captured" if quiet_ms >= policy.silence_ms else None
        if quiet_ms < policy.no_speech_s * 1000:
            return None
        # Digital silence is a dead microphone, which `Speech.close` reports; else it was an accidental tap.
        return "captured" if self.peak <= policy.silence_peak else "silence"


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
