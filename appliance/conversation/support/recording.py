"""The speech of one turn: its audio, what was sent of it, and its messages. Pure records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from appliance.conversation.events import AudioCaptured
from appliance.conversation.policy import Policy
from appliance.conversation.support.gestures import Gesture
from appliance.conversation.support.speech_end import SpeechEnd
from appliance.realtime.protocol import SAMPLE_RATE

__all__ = ["FRAMES_PER_MS", "Delivery", "Ended", "Recording", "Words"]

FRAMES_PER_MS = SAMPLE_RATE // 1000

Ended: TypeAlias = Literal["captured", "too_long", "too_short", "silence"]
"""How a capture ended: normally with `captured`."""


@dataclass(slots=True)
class Recording:
    """The audio of one turn."""

    started_at: float
    audio: bytearray = field(default_factory=bytearray, repr=False)
    """One buffer: thousands of small ones would fragment the memory."""
    frames: int = 0
    """Captured frames, including the pre-roll."""
    pre_roll_frames: int = 0
    """Frames from before the turn; they do not count for its maximum length."""
    peak: int = 0
    end: SpeechEnd = field(default_factory=SpeechEnd)
    is_latched: bool = False
    """Started by a tap: another tap or silence ends it."""
    is_full: bool = False
    """At its maximum length while the button is held: later audio is dropped, and the release commits it."""
    post_roll_left: int | None = None
    """Frames of the post-roll still to capture; None outside the post-roll."""

    @property
    def seconds(self) -> float:
        return self.frames / SAMPLE_RATE

    def add(self, *periods: AudioCaptured) -> None:
        for period in periods:
            if self.frames == self.pre_roll_frames:  # the turn begins; else its speech is resumed
                self.pre_roll_frames += period.pre_roll
            self.audio.extend(period.pcm)
            self.frames += len(period.pcm) // 2
            self.peak = max(self.peak, period.peak)

    def reopen(self) -> None:
        """Continue the capture under a button that is held."""
        self.post_roll_left = None
        self.is_latched = self.is_full = False

    def release(self, gesture: Gesture, policy: Policy) -> Literal["ended", "too_short"] | None:
        """Handle a release of the button; returns how it ends the capture, None if it does not."""
        if self.is_latched or self.post_roll_left is not None:
            return None
        mode, held_ms = policy.button_mode, gesture.held_s * 1000
        if not self.is_full and (mode == "tap" or (mode == "auto" and held_ms <= policy.tap_max_ms)):
            self.is_latched = True
            return None
        is_short = held_ms < policy.min_turn_ms and self.started_at >= gesture.at - gesture.held_s
        return "too_short" if is_short else "ended"

    def capture(self, period: AudioCaptured, policy: Policy) -> Ended | None:
        """Add a microphone period; returns how it ended the capture, None while that continues."""
        if self.is_full:
            return None
        frames = len(period.pcm) // 2 - period.pre_roll
        self.add(period)
        self.end.feed(period.level_db, frames)
        if self.post_roll_left is not None:
            self.post_roll_left -= frames
            return "captured" if self.post_roll_left <= 0 else None
        if self.frames - self.pre_roll_frames >= policy.max_turn_s * SAMPLE_RATE:
            return "too_long"
        return self.silence(policy) if self.is_latched else None

    def silence(self, policy: Policy) -> Ended | None:
        """Return how silence ends the capture; None if it does not."""
        quiet_ms = self.end.quiet_frames / FRAMES_PER_MS
        if self.end.has_begun:
            return "captured" if quiet_ms >= policy.silence_ms else None
        if quiet_ms < policy.no_speech_s * 1000:
            return None
        # Digital silence means a dead microphone, which `Speech.close` reports; other silence, an accidental tap.
        return "captured" if self.peak <= policy.silence_peak else "silence"


@dataclass(slots=True)
class Delivery:
    """What was sent of the speech."""

    sent_bytes: int = 0
    is_cleared: bool = False
    is_commit_sent: bool = False
    was_spoken: bool = False
    """The audio was committed at least once: it counts for the budget."""
    replays: int = 0


@dataclass(slots=True)
class Words:
    """The messages of the turn."""

    message: Mapping[str, Any] | None = field(default=None, repr=False)
    """The message item of a turn without audio."""
    side_items: list[str] = field(default_factory=list)
    """Ids of messages given during the speech; the turn answers them too."""
    side_texts: list[str] = field(default_factory=list, repr=False)
