"""The user's side: button, microphone, messages, cards and mute. Pure; a layer of `Conversation` (see `regions`)."""

from __future__ import annotations

from typing import assert_never

from appliance.conversation.answering import Answering
from appliance.conversation.commands import (
    Announce,
    CloseCapture,
    Earcon,
    FlushPlayback,
    OpenCapture,
    PlayEarcon,
)
from appliance.conversation.events import (
    AudioCaptured,
    ButtonEdge,
    CardLost,
    HistoryReplaced,
    MessageGiven,
)
from appliance.conversation.gestures import Gesture
from appliance.conversation.history import wire_item
from appliance.conversation.regions import FRAMES_PER_MS
from appliance.conversation.troubles import sentence
from appliance.conversation.turn import Phase, Turn
from appliance.realtime import protocol as wire

__all__ = ["Listening"]


class Listening(Answering):
    """What the user does."""

    def _on_gestures(self, gestures: list[Gesture], now: float) -> None:
        for gesture in gestures:
            match gesture.kind:
                case "press":
                    self._on_press(now)
                case "release":
                    self._on_release(gesture, now)
                case "tap":
                    self._on_tap(gesture, now)
                case "hold":
                    self._on_hold(gesture, now)
                case "stuck":
                    self._report("button_stuck", now)
                    if self._turn is not None and self._turn.phase is Phase.LISTENING:
                        self._discard(self._turn, "cancelled", now)
                case "double_tap" | "freed":
                    pass
                case _:
                    assert_never(gesture.kind)

    def _is_found_pressed(self, event: ButtonEdge, now: float) -> bool:
        """A button that was never seen released since the start is no person's press."""
        self._was_released = self._was_released or not event.pressed
        if self._started_at is None:
            return True
        return not self._was_released and now < self._started_at + self._policy.start_guard_s

    def _on_press(self, now: float) -> None:
        """Act in the fixed order of DESIGN.md: alarm → approval → end a latched turn → barge-in → start to listen."""
        turn = self._turn
        if self._alarms:
            self._silence_alarms()
        elif self._calls.awaiting_approval is not None:
            pass  # a tap approves, a hold rejects: both are told by the release or by time
        elif turn is not None and turn.phase is Phase.LISTENING:
            if turn.post_roll_left is None:
                self._end_speech(turn, now, now)
            else:
                turn.post_roll_left = None  # pressed again within the post-roll: the sentence goes on
                turn.is_latched = False
                turn.deadline = max(turn.deadline, now + self._policy.max_turn_s - turn.frames / wire.SAMPLE_RATE)
        elif self._is_muted:
            self._refuse_press("muted", now, "muted")
        elif "capture" in self._cards_lost:
            self._refuse_press("no_microphone", now, "error")
        elif self._is_broke:
            self._refuse_press("budget_spent", now, "error")
        elif self._brief.ear is not None:
            self._interrupt(now)  # the server listens by itself
        elif turn is not None and turn.is_unsent_speech:
            self._resume(turn, now)
        else:
            self._start_turn(now)

    def _begin_by_program(self, now: float) -> None:
        turn = self._turn
        if self._brief.ear is not None:
            return  # the server finds the turns
        if self._is_broke:
            self._refuse_press("budget_spent", now, "error")
        elif turn is not None and turn.is_unsent_speech:
            self._resume(turn, now)
        elif turn is None or turn.phase is not Phase.LISTENING:
            self._start_turn(now, kind="program")

    def _refuse_press(self, kind: str, now: float, fallback: Earcon) -> None:
        self._stop_answer(now)
        self._end_turn("interrupted", now)
        self._report(kind, now)
        self._do(Announce(self._playout.epoch, sentence(kind), fallback))

    def _on_release(self, gesture: Gesture, now: float) -> None:
        turn = self._turn
        if turn is None or turn.phase is not Phase.LISTENING or turn.is_latched or turn.post_roll_left is not None:
            return
        if turn.kind != "button":
            return
        mode = self._policy.button_mode
        if mode == "tap" or (mode == "auto" and gesture.held_s * 1000 <= self._policy.tap_max_ms):
            turn.is_latched = True
        elif gesture.held_s * 1000 < self._policy.min_turn_ms and turn.started_at >= gesture.at - gesture.held_s:
            self._discard(turn, "slip", now)
        else:
            self._end_speech(turn, gesture.at, now)

    def _on_tap(self, gesture: Gesture, now: float) -> None:
        call = self._calls.awaiting_approval
        if call is not None and gesture.at - gesture.held_s >= call.asked_at:
            self._approve(call, now)

    def _on_hold(self, gesture: Gesture, now: float) -> None:
        call = self._calls.awaiting_approval
        if call is not None and gesture.at - gesture.held_s >= call.asked_at:
            self._reject(call, "The user rejected this call.", now)

    def _resume(self, turn: Turn, now: float) -> None:
        """Speak on: the turn before waits for a link and nothing of it was asked yet, so it grows."""
        turn.phase = Phase.LISTENING
        self._take_pre_roll(turn)
        turn.post_roll_left = None
        turn.is_latched = False
        turn.deadline = now + max(1.0, self._policy.max_turn_s - turn.frames / wire.SAMPLE_RATE)
        if self._links.main is None:
            self._links.connect(now)
        if turn.kind == "button":
            self._do(PlayEarcon(self._playout.epoch, "start"))

    def _on_audio(self, event: AudioCaptured, now: float) -> None:
        frames = len(event.pcm) // 2
        self._captured_at = now
        turn = self._turn
        if turn is None or turn.phase is not Phase.LISTENING:
            self._recent.keep(event)
            if self._brief.ear is not None and not self._is_broke:
                self._outbox.send(wire.InputAudioBufferAppend(audio=event.pcm))
            return
        turn.add_audio(event.pcm, event.peak)
        if turn.kind == "vad":
            return  # the server says when it is over
        turn.speech.feed(event.level_db, frames)
        if turn.post_roll_left is not None:
            turn.post_roll_left -= frames
            if turn.post_roll_left <= 0:
                self._end_capture(turn, now)
        elif turn.frames >= self._policy.max_turn_s * wire.SAMPLE_RATE:
            self._report("too_long", now)
            self._end_capture(turn, now)
        elif turn.is_latched:
            self._check_silence(turn, now)

    def _check_silence(self, turn: Turn, now: float) -> None:
        quiet_ms = turn.speech.quiet_frames / FRAMES_PER_MS
        if turn.speech.has_begun and quiet_ms >= self._policy.silence_ms:
            self._end_capture(turn, now)
        elif not turn.speech.has_begun and quiet_ms >= self._policy.no_speech_s * 1000:
            self._end_unheard(turn, now)

    def _end_speech(self, turn: Turn, at: float, now: float) -> None:
        """The user was done `at`, a debounce before `now`: keep the post-roll counted from there, then commit."""
        if (at - turn.started_at) * 1000 < self._policy.min_turn_ms:
            self._discard(turn, "slip", now)
            return
        # Counted from the last sound that came: with a stalled network seconds of speech still wait in the ring.
        missing_s = at + self._policy.post_roll_ms / 1000 - max(self._captured_at, turn.started_at)
        turn.post_roll_left = max(0, round(missing_s * wire.SAMPLE_RATE))
        turn.deadline = now + missing_s + self._policy.link_wait_s
        if turn.post_roll_left == 0:
            self._end_capture(turn, now)

    def _end_capture(self, turn: Turn, now: float) -> None:
        """Everything was captured: commit it, unless there is nothing in it."""
        turn.post_roll_left = None
        if turn.kind == "vad":
            self._fail_turn("no_answer", now)  # the server's ear has never said that it was over
        elif turn.peak <= self._policy.silence_peak:
            self._clear_server_buffer(turn)
            self._fail_turn("silent_microphone", now, outcome="silence")
        elif turn.frames < self._policy.min_turn_ms * FRAMES_PER_MS:
            self._discard(turn, "slip", now)
        else:
            turn.phase = Phase.COMMITTING
            turn.deadline = now + self._policy.link_wait_s
            if turn.kind == "button":
                self._do(PlayEarcon(self._playout.epoch, "end"))

    def _end_unheard(self, turn: Turn, now: float) -> None:
        """Nobody spoke: a dead microphone is told, a tap by mistake is not."""
        if turn.peak <= self._policy.silence_peak:
            self._end_capture(turn, now)
        else:
            self._discard(turn, "silence", now)

    def _on_overrun(self, now: float) -> None:
        turn = self._turn
        if turn is not None and turn.phase is Phase.LISTENING:
            self._report("overrun", now)
            self._end_capture(turn, now)

    def _on_message(self, event: MessageGiven, now: float) -> None:
        before = self._turn
        is_spoken = before is not None and (before.phase is Phase.LISTENING or before.is_unsent_speech)
        if not event.wants_answer or is_spoken:
            self._create_item(event.item, text=event.text)
            if before is not None and is_spoken:  # it answers for it, and is checked for it
                before.side_items.append(str(event.item["id"]))
                before.side_texts.append(event.text)
            return
        if self._is_broke:
            self._create_item(event.item, text=event.text)
            self._refuse_press("budget_spent", now, "error")
            return
        turn = self._start_turn(now, kind="message")
        turn.phase = Phase.COMMITTING
        turn.deadline = now + self._policy.link_wait_s
        turn.message = event.item
        turn.item_id = str(event.item["id"])
        turn.heard_text = event.text

    def _on_history_replaced(self, event: HistoryReplaced) -> None:
        deletes, creates = self._history.diff(event.items)
        for item_id in deletes:
            self._delete_item(item_id)
        instead: dict[str, str] = {}
        for item, before in creates:
            previous = instead.get(before, before)
            if wire_item(item) is None:
                instead[item.id] = previous  # it cannot be written: what follows it follows the one before it
            else:
                self._tell(self._history.insert(item, previous))
                self._write(item, previous)

    def _on_card_lost(self, event: CardLost, now: float) -> None:
        kind = "no_microphone" if event.direction == "capture" else "no_speaker"
        self._cards_lost[event.direction] = event.reason
        self._report(kind, now, detail=f"{sentence(kind)} ({event.reason})")
        turn = self._turn
        if event.direction == "capture":
            self._recent.forget()
            if turn is not None and turn.phase is Phase.LISTENING:
                self._end_capture(turn, now)  # what was said so far is not lost
        elif turn is not None and turn.phase is Phase.ANSWERING and self._playout.is_pending:
            self._fail_turn(kind, now, detail=f"{sentence(kind)} ({event.reason})")

    def _on_mute(self, muted: bool, now: float) -> None:
        if muted == self._is_muted:
            return
        self._is_muted = muted
        self._recent.forget()
        if muted and self._turn is not None and self._turn.phase is Phase.LISTENING:
            self._discard(self._turn, "cancelled", now)
        self._do(CloseCapture() if muted else OpenCapture(), PlayEarcon(self._playout.epoch, "muted"))

    def _ring(self, now: float) -> None:
        """Sound the alarm, but never into a turn: there it waits, shown by the light."""
        if not self._alarms.sound(now):
            self._silence_alarms()
        elif self._turn is None:
            self._do(PlayEarcon(self._playout.epoch, "alarm"))
            self._do(Announce(self._playout.epoch, self._alarms.sentence, "alarm"))

    def _silence_alarms(self) -> None:
        was_ringing = bool(self._alarms)
        self._alarms.silence()
        if was_ringing and self._turn is None:
            self._playout.flush()
            self._do(FlushPlayback(self._playout.epoch))
