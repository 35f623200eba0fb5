"""The audio of the answers: what may be played, what was played, and how much was heard. Pure.

With guardrails, `TextGate` decides which text to check and which audio may be played. The playback side counts the
frames that were heard since the last flush; `Playout` computes from that how much of each item was heard, which
``conversation.item.truncate`` needs: integer milliseconds, never more than was received. A flush starts a new *epoch*:
audio and reports of an older one are ignored.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from appliance.conversation.commands import CheckText, FinishPlay, FlushPlayback, Play
from appliance.conversation.events import OutputCheck, PlayoutProgress
from appliance.conversation.notices import AudioEnd, AudioInterrupted
from appliance.conversation.policy import Policy
from appliance.conversation.support.outbox import Outbox, TruncationOf
from appliance.conversation.support.text_gate import Check, TextGate
from appliance.realtime import protocol as wire
from appliance.records import Record

__all__ = ["Cut", "Heard", "Playback", "Playout"]

_REMEMBERED = 64  # items that late events may still name
_FRAMES_PER_MS = wire.SAMPLE_RATE // 1000
_PERIOD = 480  # frames; rounding between the card's rate and 24 kHz never exceeds one period


class Heard(Record, frozen=True):
    """How much of a queued item was heard."""

    item_id: str
    content_index: int
    received_frames: int
    heard_ms: int
    is_whole: bool


class Playout:
    """The items queued since the last flush, in order, and how much of each was heard; in frames at 24 kHz."""

    def __init__(self) -> None:
        self.is_pending = False
        """Some of what was queued has not been heard yet."""
        self._queued: dict[tuple[str, int], int] = {}
        self._total = 0
        self._played = 0

    def queue(self, item_id: str, content_index: int, frames: int) -> None:
        """Count audio that is handed to the playback side.

        One count per item is enough: within a response, items arrive in order, so no earlier item grows later.
        """
        key = (item_id, content_index)
        self._queued[key] = self._queued.get(key, 0) + frames
        self._total += frames
        self.is_pending = self._played < self._total

    def progress(self, played_frames: int, *, drained: bool) -> bool:
        """Handle a report of the playback side.

        Returns:
            Whether more was heard than before.
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
            result.append(Heard(item_id, content_index, frames, part * 1000 // wire.SAMPLE_RATE, part >= frames))
        return result

    def flush(self) -> None:
        """Forget all queued items: the rest of them is never heard."""
        self._queued.clear()
        self._total = self._played = 0
        self.is_pending = False


@dataclass(frozen=True, slots=True)
class Cut:
    """What a flush cut."""

    items: tuple[tuple[Heard, int], ...]
    """Queued items that were not heard whole, each with the milliseconds of it that were received."""
    unplayed: tuple[str, ...]
    """Ids of items of which nothing was queued, because all their audio was held."""


class Playback:
    """Plays and checks the answers; the only writer of `Outbox.epoch`."""

    def __init__(self, policy: Policy, out: Outbox) -> None:
        self._out = out
        self._holds = policy.hold_audio
        self.policy = policy
        self._playout = Playout()
        self.gate = TextGate(debounce=policy.guardrail_debounce, hold=policy.hold_audio, check_s=policy.guardrail_s)
        self.link = 0
        """The connection that the queued audio came from."""
        self._heard_at = 0.0
        """When more audio was heard last, or the queue started to fill; monotonic seconds."""
        self.must_finish = False
        """Audio of this turn was queued, and ``FinishPlay`` was not."""
        self._played_items: deque[str] = deque(maxlen=_REMEMBERED)
        self.guards = ""
        """The agent whose guardrails check the current response; "" for none."""

    @property
    def is_playing(self) -> bool:
        """Some of what was queued has not been heard yet."""
        return self._playout.is_pending

    @property
    def played_items(self) -> tuple[str, ...]:
        """Ids of assistant items of which some audio was played, or some text was the answer."""
        return tuple(self._played_items)

    def stalled_at(self, deadline: float) -> float:
        """Return when the playback counts as stalled, but not before `deadline`."""
        return max(deadline, self._heard_at + self.policy.playout_stall_s) if self.is_playing else deadline

    def heard(self) -> list[Heard]:
        """Return every queued item in order with how much of it was heard."""
        return self._playout.heard()

    # --- what the server sends ----------------------------------------------------------------------------------

    def feed(self, item_id: str, content_index: int, pcm: bytes, link: int, now: float) -> None:
        """Play a piece of audio (whole samples), or hold it until its text has passed."""
        if self.guards and self._holds:
            self.gate.hold(item_id, content_index, pcm)
            self._release(link, now)
        else:
            self._play(item_id, content_index, pcm, link, now)

    def _play(self, item_id: str, content_index: int, pcm: bytes, link: int, now: float) -> None:
        if not self.is_playing:
            self._heard_at = now
        self.must_finish = True
        self.note_played(item_id)
        self.link = link
        self._playout.queue(item_id, content_index, len(pcm) // 2)
        self._out.do(Play(self._out.epoch, item_id, pcm))

    def note_played(self, item_id: str) -> None:
        if item_id not in self._played_items:
            self._played_items.append(item_id)

    def _release(self, link: int, now: float) -> None:
        for piece in self.gate.release():
            self._play(piece.item_id, piece.content_index, piece.pcm, link, now)

    def release(self, link: int, now: float, *, is_over: bool) -> None:
        """Play the held audio that the guardrails have passed.

        Args:
            link: The connection that the audio came from.
            now: Monotonic seconds.
            is_over: Whether the response is done, so that no more audio arrives.
        """
        self._release(link, now)
        if is_over and not self.gate.is_holding:
            self.finish()

    def finish(self) -> None:
        """End the audio of the answer: the playback drains."""
        if self.must_finish:
            self.must_finish = False
            self._out.do(FinishPlay(self._out.epoch))
            items = self.heard()
            self._out.emit(AudioEnd(items[-1].item_id if items else ""))

    # --- guardrails ---------------------------------------------------------------------------------------------

    def read(self, item_id: str, content_index: int, text: str, now: float, *, is_final: bool) -> None:
        """Handle a piece of text, or (`is_final`) the whole text, and request a check if one is due."""
        if self.guards:
            due = self.gate.ended if is_final else self.gate.grew
            self._check(due(item_id, content_index, text, now))

    def check_rest(self, response: wire.Response, now: float) -> None:
        """Check every text without a final check at the end of the response, also those only in `response`."""
        if not self.guards:
            return
        for item in response.output:
            if item.type == "message":
                for index, part in enumerate(item.content):
                    text = part.transcript if part.transcript is not None else part.text
                    self._check(self.gate.ended(item.id, index, text or "", now))
        for check in self.gate.all_ended(now):
            self._check(check)

    def _check(self, check: Check | None) -> None:
        if check is not None:
            self._out.do(CheckText(OutputCheck(check.number), self.guards, "output", check.text))

    # --- the playback side --------------------------------------------------------------------------------------

    def progress(self, event: PlayoutProgress, now: float) -> None:
        """Handle a report of the playback side; one of an older epoch is ignored."""
        if event.epoch == self._out.epoch and self._playout.progress(event.played_frames, drained=event.drained):
            self._heard_at = now

    def silence(self) -> None:
        """Stop all sound, and raise the epoch."""
        self._playout.flush()
        self._out.epoch += 1
        self._out.do(FlushPlayback(self._out.epoch))

    def flush(self) -> Cut:
        """Stop all sound and return what was cut; also when nothing plays, so that the epochs stay in step."""
        was_playing = self.is_playing
        queued = self.heard()
        held = self.gate.held_frames if not self.gate.is_empty else {}
        items = tuple(
            (one, (one.received_frames + held.get(one.item_id, 0)) // _FRAMES_PER_MS)
            for one in queued
            if not one.is_whole or one.item_id in held
        )
        if not self.gate.is_empty:
            self.gate.reset()  # held audio is never played, and late verdicts are ignored
        self.silence()
        if was_playing and items:
            self._out.emit(AudioInterrupted(items[0][0].item_id, items[0][0].heard_ms))
        return Cut(items, tuple(sorted(held.keys() - {one.item_id for one in queued})))

    def truncate(self, cut: Cut) -> None:
        """Tell the server how much was heard of each item."""
        for one, _ in cut.items:
            truncation = wire.ConversationItemTruncate(
                item_id=one.item_id,
                content_index=one.content_index,
                audio_end_ms=one.heard_ms,
                event_id=f"truncate_{one.item_id}",
            )
            self._out.send(truncation, about=TruncationOf(one.item_id))
