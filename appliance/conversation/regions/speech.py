"""The speech of the user: captured, sent, committed, and replayed on another connection. Pure.

Theory of operation. The speech of a turn goes through these phases::

    LISTENING ──(release, tap, silence, commit)──► COMMITTING ──(the server has it)──► TAKEN
        ▲                                             │ ▲                                │
        └─────────(pressed again before sent)─────────┘ └──────(the connection is lost)──┘

Speech that reaches its maximum length while the button is held stays LISTENING, but captures nothing more (`is_full`).
Speech is captured with or without a connection. `send` brings the server up to date after each event: clear, appends,
commit. All audio is kept until the answer's first audio, so a lost connection costs nothing: on the next one the same
audio is sent again.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from enum import Enum, auto
from math import inf
from typing import Any, Literal, TypeAlias

from appliance.conversation.events import AudioCaptured
from appliance.conversation.policy import Policy
from appliance.conversation.support.gestures import Gesture
from appliance.conversation.support.outbox import CommitOf, Outbox
from appliance.conversation.support.recording import FRAMES_PER_MS, Delivery, Ended, Recording, Words
from appliance.realtime import protocol as wire

__all__ = ["Kind", "Speech"]

Kind: TypeAlias = Literal["button", "program", "message", "vad"]
"""What ends a turn: the button, the program, nothing (a message is complete), or the server's turn detection."""

_APPEND_BYTES = 2 * 20 * wire.SAMPLE_RATE // 1000  # one 20 ms period: the first audio is sent at once
_CAPTURE_WAIT_S = 30.0  # for the captured audio of the post-roll, which may wait for the network
_REMEMBERED = 64  # user items whose transcript may still arrive


class _Phase(Enum):
    LISTENING = auto()
    COMMITTING = auto()
    TAKEN = auto()


class Speech:
    """The speech of the running turn, and the items that it became.

    Sends the frames of the input audio buffer, and plays the earcon at its end.
    """

    def __init__(self, policy: Policy, out: Outbox) -> None:
        self.policy = policy
        self._out = out
        self._turn = ""
        self._kind: Kind = "button"
        self._phase: _Phase | None = None
        self._recording = Recording(0.0)
        self._delivery = Delivery()
        self._words = Words()
        self._commits: deque[str] = deque()
        """Turns whose commit the server has not confirmed, in order."""
        self._turn_of_item: OrderedDict[str, str] = OrderedDict()
        self.deadline = 0.0
        """Of the current phase, until the speech is taken; monotonic seconds."""
        self.heard: str | None = None
        """The transcript, once it has arrived; for a message, its text."""
        self.item_id = ""
        """The user's item on the server, once it is known."""

    # --- state --------------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """The speech has not ended: it is captured, or full until the release."""
        return self._phase is _Phase.LISTENING

    @property
    def is_capturing(self) -> bool:
        return self.is_open and not self._recording.is_full

    @property
    def is_in_post_roll(self) -> bool:
        return self.is_open and self._recording.post_roll_left is not None

    @property
    def is_committing(self) -> bool:
        """All speech is captured, and the server has not confirmed it."""
        return self._phase is _Phase.COMMITTING

    @property
    def is_taken(self) -> bool:
        """The server has the speech: the turn is being answered."""
        return self._phase is _Phase.TAKEN

    @property
    def is_sent(self) -> bool:
        return self._delivery.is_commit_sent

    @property
    def waits(self) -> bool:
        """Captured speech waits for a connection: a press continues it instead of replacing it."""
        return self.is_committing and not self.is_sent and self._kind != "message"

    @property
    def unsent_message(self) -> Mapping[str, Any] | None:
        """The message that waits for a connection, if any."""
        return self._words.message if self.is_committing and not self.is_sent else None

    @property
    def items(self) -> tuple[str, ...]:
        """Ids of all user items of this turn."""
        return (self.item_id, *self._words.side_items)

    @property
    def replays(self) -> int:
        return self._delivery.replays

    def checked_text(self, heard: str) -> str:
        """Return the text for the input guardrails: the messages given during the speech, then the transcript."""
        return "\n".join([*self._words.side_texts, heard])

    # --- start --------------------------------------------------------------------------------------------------

    def begin(self, turn: str, kind: Kind, pre_roll: Iterable[AudioCaptured], now: float) -> None:
        self._turn, self._kind = turn, kind
        self._phase = _Phase.LISTENING
        self._recording = Recording(now)
        self._delivery = Delivery()
        self._words = Words()
        self.item_id, self.heard = "", None
        self.deadline = now + self.policy.max_turn_s
        self._recording.add(*pre_roll)
        self._recording.pre_roll_frames = self._recording.frames

    def begin_at_server(self) -> None:
        """Count the pre-roll as sent: the server has heard it, and detected the start of the turn."""
        self._delivery.is_cleared = True
        self._delivery.sent_bytes = len(self._recording.audio)

    def write(self, message: Mapping[str, Any], text: str, now: float) -> None:
        """Make the turn a message."""
        self._phase = _Phase.COMMITTING
        self.deadline = now + self.policy.link_wait_s
        self._words.message = message
        self.heard = text
        self.item_id = str(message["id"])

    def skip(self) -> None:
        """Make the turn one without input: it only requests a response."""
        self._phase = _Phase.TAKEN
        self._delivery.is_commit_sent = True

    def add_message(self, item_id: str, text: str) -> None:
        """Add a message that is given while the user speaks."""
        self._words.side_items.append(item_id)
        self._words.side_texts.append(text)

    # --- capture ------------------------------------------------------------------------------------------------

    def release(self, gesture: Gesture) -> Literal["ended", "too_short"] | None:
        """Handle a release; returns how it ends the turn, None if it does not."""
        if not self.is_open or self._kind != "button":
            return None
        return self._recording.release(gesture, self.policy)

    def keep_post_roll(self, at: float, captured_at: float, now: float) -> Ended | None:
        """Start the post-roll of speech that ended `at`, which is a debounce before `now`.

        The missing frames are counted from the newest captured audio: with a stalled network, seconds of speech
        still wait to be posted.

        Returns:
            How the capture ended; None while the post-roll is captured. Full speech has no post-roll.
        """
        recording = self._recording
        if recording.is_full:
            return "captured"
        if (at - recording.started_at) * 1000 < self.policy.min_turn_ms:
            return "too_short"
        missing_s = at + self.policy.post_roll_ms / 1000 - max(captured_at, recording.started_at)
        recording.post_roll_left = max(0, round(missing_s * wire.SAMPLE_RATE))
        self.deadline = now + missing_s + _CAPTURE_WAIT_S
        return None if recording.post_roll_left else "captured"

    def go_on(self, now: float) -> None:
        """Continue after a press in the post-roll."""
        self._recording.reopen()
        self.deadline = max(self.deadline, now + self.policy.max_turn_s - self._recording.seconds)

    def resume(self, pre_roll: Iterable[AudioCaptured], now: float) -> None:
        """Continue captured speech that waits for a connection."""
        self._phase = _Phase.LISTENING
        self._recording.add(*pre_roll)
        self._recording.reopen()
        self.deadline = now + max(1.0, self.policy.max_turn_s - self._recording.seconds)

    def add(self, period: AudioCaptured) -> Ended | None:
        """Add sound of the microphone; returns how it ended the capture, None while that continues."""
        if self._kind != "vad":
            return self._recording.capture(period, self.policy)
        self._recording.add(period)
        return None  # the server detects the end

    def close(
        self, now: float, *, until_release: bool = False
    ) -> Literal["no_answer", "silent_microphone", "too_short"] | None:
        """End the capture; returns what is wrong with the speech, None if it can be committed.

        With `until_release`, a turn that the release ends captures no more, and stays open until then.
        """
        if until_release and self._kind == "button" and not self._recording.is_latched:
            self._recording.is_full = True
            self.deadline = inf  # the release or the stuck button ends it
            self._out.earcon("end")
            return None
        self._recording.post_roll_left = None
        if self._kind == "vad":
            return "no_answer"  # the server never detected the end
        if self._recording.peak <= self.policy.silence_peak:
            return "silent_microphone"
        if self._recording.frames < self.policy.min_turn_ms * FRAMES_PER_MS:
            return "too_short"
        self._phase = _Phase.COMMITTING
        self.deadline = now + self.policy.link_wait_s
        if self._kind == "button" and not self._recording.is_full:
            self._out.earcon("end")
        return None

    def start_over(self, now: float) -> None:
        """Discard the audio so far; the caller clears the server's buffer."""
        self._recording = Recording(now)
        self._delivery.sent_bytes = 0

    # --- delivery -----------------------------------------------------------------------------------------------

    def send(self, now: float, *, may_commit: bool = True) -> bool:
        """Send the audio that the server lacks, then the commit if it `may_commit`; returns whether that was sent."""
        delivery, audio = self._delivery, self._recording.audio
        if not delivery.is_cleared:
            delivery.is_cleared = True
            self._out.send(wire.InputAudioBufferClear())
        with memoryview(audio) as view:
            for start in range(delivery.sent_bytes, len(view), _APPEND_BYTES):
                self._out.send(wire.InputAudioBufferAppend(audio=bytes(view[start : start + _APPEND_BYTES])))
        delivery.sent_bytes = len(audio)
        if not (self.is_committing and may_commit) or delivery.is_commit_sent:
            return False
        delivery.is_commit_sent = delivery.was_spoken = True
        # The upload of a turn may take as long as its speech.
        self.deadline = now + self.policy.commit_s + self._recording.seconds
        self._commits.append(self._turn)
        event_id = f"commit_{self._turn}_{delivery.replays}"
        self._out.send(wire.InputAudioBufferCommit(event_id=event_id), about=CommitOf(self._turn, delivery.replays))
        return True

    def take_message(self) -> tuple[Mapping[str, Any] | None, str]:
        """Return the message of the turn and its text, and mark it as sent."""
        self._delivery.is_commit_sent = True
        return self._words.message, self.heard or ""

    def clear_server_buffer(self) -> None:
        """Clear the input audio buffer if it holds uncommitted audio, as it does while the server hears speech."""
        if (self._delivery.sent_bytes > 0 or self._kind == "vad") and not self._delivery.is_commit_sent:
            self._out.send(wire.InputAudioBufferClear())

    def next_commit(self) -> str | None:
        """Return the turn of the oldest unconfirmed commit, and count that as confirmed; None if there is none."""
        return self._commits.popleft() if self._commits else None

    def refuse_commit(self) -> None:
        """Forget the commit of this turn: the server refused it."""
        if self._turn in self._commits:
            self._commits.remove(self._turn)

    def commit_at_server(self) -> None:
        """Note that the server's turn detection has committed the speech."""
        self._delivery.is_cleared = self._delivery.is_commit_sent = self._delivery.was_spoken = True
        self._phase = _Phase.COMMITTING

    def note_item(self, item_id: str, turn: str) -> None:
        """Remember the turn of an item, for its transcript."""
        self._turn_of_item[item_id] = turn
        while len(self._turn_of_item) > _REMEMBERED:
            self._turn_of_item.popitem(last=False)

    def turn_of(self, item_id: str) -> str | None:
        return self._turn_of_item.get(item_id)

    def wait_until(self, deadline: float) -> None:
        """Set the deadline for the server to confirm the speech."""
        self.deadline = deadline

    def becomes(self, item_id: str) -> None:
        """Set the id of the user's item."""
        self.item_id = item_id

    def hear(self, text: str) -> None:
        """Set the transcript."""
        self.heard = text

    def take(self) -> None:
        """Count committed speech as taken: the server has confirmed or answered it."""
        if self.is_committing:
            self._phase = _Phase.TAKEN

    def forget_audio(self) -> None:
        """Drop the audio: the answer has started, so it is never sent again."""
        self._recording.audio.clear()
        self._delivery.sent_bytes = 0

    # --- connections --------------------------------------------------------------------------------------------

    def forget_commits(self) -> None:
        """Forget the unconfirmed commits: their connection is lost."""
        self._commits.clear()

    def forget_link(self) -> None:
        """Count nothing as sent: the connection is lost."""
        self._delivery.sent_bytes = 0
        self._delivery.is_cleared = self._delivery.is_commit_sent = False
        if self._kind != "message":
            self.heard = None  # the next server transcribes it again

    def replay(self, *, was_sent: bool, now: float) -> bool:
        """Wait for another connection; returns False if the speech was replayed too often.

        Args:
            was_sent: Whether it had been committed; else the deadline stays the same.
            now: Monotonic seconds.
        """
        self._phase = _Phase.LISTENING if self._kind == "vad" else _Phase.COMMITTING
        if was_sent:
            self._delivery.replays += 1
            self.deadline = now + self.policy.link_wait_s
        return self._delivery.replays <= self.policy.max_replays

    def abandon(self) -> None:
        """Count the speech as taken, confirmed or not: the answer has started."""
        self._phase = _Phase.TAKEN

    def end(self) -> int:
        """End the turn; returns its frames that count for the budget."""
        self._phase = None
        return self._recording.frames * self._delivery.was_spoken
