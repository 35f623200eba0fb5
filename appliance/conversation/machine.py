"""The brain of the appliance: `Conversation.handle(event, now)` returns what to do, and nothing else decides.

Theory of operation
-------------------
Four regions live side by side; each event touches few of them, and `state` is derived, never stored.

* **The link.** None (backing off until `_retry_at`, or fatal), connecting (until ``session.created``), ready. A link
  has a number; events of any other number are late and ignored.
* **The turn.** None, or one `Turn` in a phase: LISTENING (the button is down, latched, or the post-roll runs),
  COMMITTING (everything was captured, the server has not confirmed it), ANSWERING (thinking, tools, speaking).
  A turn is captured whether or not there is a link. `_settle`, after every event, sends what the link lacks: clear,
  appends, commit, then a wish for a response. So a press before the link is up, a link lost in mid-sentence and the
  ordinary case are one path.
* **The response slot** (`Sequencer`): one ``response.create`` at a time, cancelled on arrival if a barge-in was first.
* **The playout** (`Playout`): what was queued and what was heard, in epochs. A flush begins an epoch; audio and
  reports of an old one mean nothing.

Every state but the resting ones has a deadline, collected in `deadline`; the driver posts ``DeadlinePassed`` behind
whatever else is in the inbox, so that an answer that is already here always wins against its own time-out.

The order on a barge-in (Realtime API, interruption over a WebSocket): flush playback and open an epoch → truncate
each item that was queued and not heard whole → ``response.cancel``, or remember to cancel on arrival →
``input_audio_buffer.clear`` → appends → commit → ``response.create`` once the cancelled one is done, or given up.

Pure: no clock, thread, socket, file, log or ``await``; the same events at the same times give the same commands,
which is what `appliance replay` relies on. Randomness (the jitter of the backoff) comes from a seed.
"""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, assert_never

from appliance.conversation.commands import (
    Announce,
    AnswerTextReceived,
    CancelTool,
    CloseCapture,
    Command,
    Connect,
    Disconnect,
    Earcon,
    Emit,
    FinishPlay,
    FlushPlayback,
    HeardTextReceived,
    Notice,
    OpenCapture,
    Play,
    PlayEarcon,
    RunTool,
    Send,
    SilenceAlarm,
    Stop,
    ToolEnded,
    ToolStarted,
    TroubleReported,
    TurnEnded,
    TurnStarted,
)
from appliance.conversation.events import (
    AlarmRang,
    AudioCaptured,
    ButtonEdge,
    CaptureOverrun,
    CardFound,
    CardLost,
    DeadlinePassed,
    Direction,
    Event,
    FrameRefused,
    LinkDown,
    LinkUp,
    MuteSwitched,
    PlayoutProgress,
    ServerEventReceived,
    ShutdownRequested,
    Started,
    TimersChanged,
    ToolFinished,
    TracingFailed,
)
from appliance.conversation.feedback import State, View
from appliance.conversation.gestures import Gesture, Gestures
from appliance.conversation.playout import Playout
from appliance.conversation.responses import Arrival, Sequencer
from appliance.conversation.retry import Backoff, Verdict, classify
from appliance.conversation.troubles import sentence
from appliance.conversation.turn import Call, Phase, Policy, Turn
from appliance.realtime import protocol as wire

__all__ = ["Conversation"]

_FRAMES_PER_MS = wire.SAMPLE_RATE // 1000
_APPEND_BYTES = 2 * 20 * _FRAMES_PER_MS  # one period a frame: a press is on the wire at once, a replay as quick as any
_REMEMBERED_ITEMS = 64  # user items whose transcript may still come
_BENIGN = frozenset({"response_cancel_not_active", "conversation_already_has_active_response", "session_expired"})
"""Errors of races that are part of the protocol (PROTOCOL.md §2.7), and one whose close frame says it again."""

_Outcome = Literal["answered", "slip", "silence", "interrupted", "failed", "cancelled"]


@dataclass(slots=True)
class _Link:
    """A connection that was asked for and is not reported down."""

    id: int
    deadline: float
    ready_at: float | None = None
    bad_frames: int = 0
    last_error: str | None = None

    @property
    def is_ready(self) -> bool:
        return self.ready_at is not None


class Conversation:
    """The pure core of the appliance."""

    def __init__(
        self,
        *,
        policy: Policy,
        session: Mapping[str, Any],
        approvals: Collection[str] = (),
        seed: int = 0,
        is_muted: bool = False,
    ) -> None:
        """Create a conversation that waits for ``Started``.

        Args:
            policy: Times and limits.
            session: The ``session`` object to configure each connection with.
            approvals: Names of the tools that need the user's approval.
            seed: Of the backoff's jitter; a trace records it.
            is_muted: Whether the microphone starts muted.
        """
        self._policy = policy
        self._session = dict(session)
        self._approvals = frozenset(approvals)
        self._random = random.Random(seed)
        self._backoff = Backoff(policy.backoff_initial_s, policy.backoff_max_s)
        self._out: list[Command] = []

        self._started_at: float | None = None
        self._is_stopped = False
        self._gestures = Gestures(
            release_debounce_s=policy.release_debounce_ms / 1000,
            tap_max_s=policy.tap_max_ms / 1000,
            stuck_s=policy.stuck_s,
            longest_press_s=policy.max_turn_s + policy.stuck_s,
        )
        self._was_released = False
        self._recent: deque[AudioCaptured] = deque()
        self._recent_frames = 0
        self._captured_at = 0.0

        self._link: _Link | None = None
        self._links = 0
        self._failures = 0
        self._has_expired = False
        self._retry_at: float | None = None
        self._fatal: Verdict | None = None

        self._turn: Turn | None = None
        self._turns = 0
        self._sent_ids = 0
        self._sequencer = Sequencer()
        self._playout = Playout()
        self._playout_link = 0
        self._played_at = 0.0
        self._calls: dict[str, Call] = {}
        self._turn_of_item: OrderedDict[str, str] = OrderedDict()

        self._is_muted = is_muted
        self._cards_lost: dict[Direction, str] = {}
        self._ringing: dict[str, str] = {}
        self._ring_at: float | None = None
        self._ring_until = 0.0
        self._timers_running = 0
        self._error_until: float | None = None
        self._trouble = ""

    def __repr__(self) -> str:
        return f"<Conversation {self.state.value} {self._turn.id if self._turn else '-'} link {self._link}>"

    # --- what others may look at --------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The one word for what the appliance is doing, derived from all regions."""
        if self._started_at is None:
            return State.BOOTING
        if self._turn is not None:
            return self._turn_state(self._turn)
        if self._fatal is not None and self._link is None:
            return State.FAILED
        if self._is_muted:
            return State.MUTED
        if self._link is None:
            return State.OFFLINE
        return State.READY if self._link.is_ready else State.CONNECTING

    @property
    def view(self) -> View:
        """What the light and the panel are functions of."""
        link = self._link
        return View(
            state=self.state,
            cards_lost=tuple(sorted(self._cards_lost)),
            is_link_lost=self._started_at is not None and self._failures > 0 and not (link and link.is_ready),
            is_button_stuck=self._gestures.is_stuck,
            is_ringing=bool(self._ringing),
            has_error=self._error_until is not None,
            is_muted=self._is_muted,
            timers_running=self._timers_running,
            trouble=self._trouble,
        )

    @property
    def deadline(self) -> float | None:
        """When to post ``DeadlinePassed`` next, monotonic seconds; None if nothing is pending."""
        return min(self._deadlines(), default=None)

    @property
    def turn_id(self) -> str | None:
        """The running turn, for logs and tests."""
        return self._turn.id if self._turn else None

    @property
    def epoch(self) -> int:
        """The current flush generation of the playback."""
        return self._playout.epoch

    def _deadlines(self) -> Iterator[float]:
        link, turn = self._link, self._turn
        if self._is_stopped:
            return
        if link is not None and not link.is_ready:
            yield link.deadline
        if turn is not None and not (turn.phase is Phase.ANSWERING and turn.open_calls):
            yield self._turn_deadline(turn)
        yield from (call.deadline for call in self._calls.values())
        candidates = (
            self._gestures.deadline,
            self._retry_at,
            self._sequencer.deadline,
            self._ring_at,
            self._error_until,
        )
        yield from (at for at in candidates if at is not None)

    def _turn_deadline(self, turn: Turn) -> float:
        if turn.phase is Phase.ANSWERING and self._playout.is_pending:
            return max(turn.deadline, self._played_at + self._policy.playout_stall_s)
        return turn.deadline

    def _turn_state(self, turn: Turn) -> State:
        match turn.phase:
            case Phase.LISTENING:
                return State.LISTENING
            case Phase.COMMITTING:
                return State.COMMITTING
            case Phase.ANSWERING:
                if self._approval() is not None:
                    return State.AWAITING_APPROVAL
                return State.SPEAKING if self._playout.is_pending else State.THINKING
        assert_never(turn.phase)

    # --- the one entrance ---------------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take one event and decide.

        Args:
            event: What happened.
            now: Monotonic seconds; never less than at the call before.

        Returns:
            Commands in the order in which they are to be dispatched.

        Raises:
            LocalProtocolError: We were about to break the protocol: a bug.
        """
        self._out = []
        if not self._is_stopped:
            self._dispatch(event, now)
        if not self._is_stopped:
            self._settle(now)
        return self._out

    def _dispatch(self, event: Event, now: float) -> None:
        match event:
            case AudioCaptured():
                self._on_audio(event, now)
            case PlayoutProgress():
                if self._playout.progress(event.epoch, event.played_frames, drained=event.drained):
                    self._played_at = now
            case ServerEventReceived():
                if self._link is not None and event.link == self._link.id:
                    self._on_server_event(self._link, event.event, now)
            case DeadlinePassed():
                self._on_deadline(now)
            case ButtonEdge():
                is_guarded = self._is_found_pressed(event, now)
                self._on_gestures(self._gestures.feed(event.pressed, now, is_guarded=is_guarded), now)
            case ToolFinished():
                self._on_tool_finished(event, now)
            case LinkUp():
                pass  # an open socket proves nothing: readiness is session.created (PROTOCOL.md §1.1)
            case LinkDown():
                if self._link is not None and event.link == self._link.id:
                    self._lose_link(classify(event.code, event.reason, last_error=self._link.last_error), now)
            case FrameRefused():
                self._on_bad_frame(event, now)
            case CaptureOverrun():
                self._on_overrun(now)
            case CardLost():
                self._on_card_lost(event, now)
            case CardFound():
                self._cards_lost.pop(event.direction, None)
            case AlarmRang():
                self._on_alarm(event, now)
            case TimersChanged():
                self._timers_running = event.running
            case MuteSwitched():
                self._on_mute(event.muted, now)
            case TracingFailed():
                self._report("trace_failed", now, detail=event.problem)
            case Started():
                self._started_at = now
                if self._is_muted:
                    self._do(CloseCapture())
                self._connect(now)
            case ShutdownRequested():
                self._shut_down(event.reason, now)
            case _:
                assert_never(event)

    def _do(self, *commands: Command) -> None:
        self._out.extend(commands)

    def _emit(self, notice: Notice) -> None:
        self._out.append(Emit(notice))

    def _send(self, event: wire.ClientEvent) -> None:
        """Send on the ready link; a no-op without one, for its conversation is gone with it."""
        if self._link is not None and self._link.is_ready:
            self._out.append(Send(self._link.id, event))

    def _next_event_id(self) -> str:
        self._sent_ids += 1
        return f"ev_{self._sent_ids}"

    # --- after every event --------------------------------------------------------------------------------------

    def _settle(self, now: float) -> None:
        """Bring the server up to date with the turn, ask for what is wished, end what is over."""
        turn, link = self._turn, self._link
        if link is not None and link.is_ready:
            if turn is not None and turn.phase is not Phase.ANSWERING:
                self._send_turn(turn, now)
            self._ask(now)
        if turn is not None and turn is self._turn and turn.phase is Phase.ANSWERING:
            self._finish(turn, now)

    def _send_turn(self, turn: Turn, now: float) -> None:
        if not turn.is_cleared:
            turn.is_cleared = True
            self._send(wire.InputAudioBufferClear())
        for start in range(turn.sent_bytes, len(turn.audio), _APPEND_BYTES):
            self._send(wire.InputAudioBufferAppend(audio=bytes(turn.audio[start : start + _APPEND_BYTES])))
        turn.sent_bytes = len(turn.audio)
        if turn.phase is Phase.COMMITTING and not turn.is_commit_sent:
            turn.is_commit_sent = True
            # A turn may take as long to upload as it took to say.
            turn.deadline = now + self._policy.commit_s + turn.frames / wire.SAMPLE_RATE
            self._send(wire.InputAudioBufferCommit(event_id=f"commit_{turn.id}_{turn.replays}"))
            self._sequencer.want(turn.id)

    def _ask(self, now: float) -> None:
        wish = self._sequencer.grant(now)
        turn = self._turn
        if wish is None or turn is None or turn.id != wish:
            return
        event_id = self._next_event_id()
        response: dict[str, Any] = {"metadata": {"turn": turn.id}}
        if turn.rounds >= self._policy.max_tool_rounds:
            response["tool_choice"] = "none"
        self._sequencer.asked(turn.id, event_id)
        turn.is_response_open = True
        if turn.phase is Phase.ANSWERING:
            turn.deadline = now + self._policy.answer_s
        self._send(wire.ResponseCreate(event_id=event_id, response=response))

    def _finish(self, turn: Turn, now: float) -> None:
        if turn.is_response_open or turn.open_calls or self._sequencer.wish == turn.id:
            return
        if not turn.is_answer_done or self._playout.is_pending:
            return
        if turn.failure:
            self._fail_turn(turn.failure, now, detail=turn.failure_detail)
        elif not turn.has_audio:
            self._fail_turn("empty_answer", now)
        else:
            self._end_turn("answered")

    # --- time ---------------------------------------------------------------------------------------------------

    def _on_deadline(self, now: float) -> None:
        self._on_gestures(self._gestures.advance(now), now)
        if self._is_stopped:
            return
        self._sequencer.advance(now)
        if self._error_until is not None and now >= self._error_until:
            self._error_until = None
        if self._ring_at is not None and now >= self._ring_at:
            self._ring(now)
        link = self._link
        if link is not None and not link.is_ready and now >= link.deadline:
            self._do(Disconnect(link.id))
            verdict = classify(None, "timed out waiting for session.created", last_error=link.last_error)
            self._lose_link(verdict, now)
        if self._link is None and self._retry_at is not None and now >= self._retry_at:
            self._connect(now)
        for call in [one for one in self._calls.values() if now >= one.deadline]:
            self._on_call_late(call, now)
        turn = self._turn
        if (
            turn is not None
            and not (turn.phase is Phase.ANSWERING and turn.open_calls)
            and now >= self._turn_deadline(turn)
        ):
            self._on_turn_late(turn, now)

    def _on_turn_late(self, turn: Turn, now: float) -> None:
        match turn.phase:
            case Phase.LISTENING:
                if turn.post_roll_left is None:
                    self._report("too_long", now)
                self._end_capture(turn, now)
            case Phase.COMMITTING:
                if turn.is_commit_sent and self._link is not None:
                    # The server took the audio and said nothing: a dead peer. Another connection may be better.
                    self._do(Disconnect(self._link.id))
                    self._lose_link(classify(None, "timed out waiting for the server to confirm the audio"), now)
                else:
                    self._fail_turn("no_link", now)
            case Phase.ANSWERING:
                if self._playout.is_pending:
                    self._fail_turn("playout_stalled", now)
                else:
                    self._fail_turn(turn.failure or "no_answer", now)
            case _:
                assert_never(turn.phase)

    # --- the link -----------------------------------------------------------------------------------------------

    def _connect(self, now: float) -> None:
        self._links += 1
        self._link = _Link(self._links, deadline=now + self._policy.connect_s)
        self._retry_at = None
        self._do(Connect(self._links))

    def _lose_link(self, verdict: Verdict, now: float) -> None:
        link, self._link = self._link, None
        if link is not None and link.ready_at is not None and now >= link.ready_at + self._policy.stable_s:
            self._failures = 0
            self._has_expired = False
        is_normal = verdict.action == "expired" and not self._has_expired  # one expiry right after another is not
        self._has_expired = self._has_expired or verdict.action == "expired"
        delay_s = 0.0
        if verdict.action == "fatal":
            self._fatal = verdict
            delay_s = self._policy.fatal_retry_s
        elif not is_normal or self._failures > 0:
            delay_s = self._backoff.delay_s(self._failures, self._random.random())
        if not is_normal:
            self._failures += 1
            if verdict.action != "fatal" or self._turn is None or self._turn.is_answer_done:
                self._report(verdict.kind, now, detail=verdict.message, flash=False)
        self._retry_at = now + delay_s
        self._sequencer.reset()
        self._calls = {key: call for key, call in self._calls.items() if call.turn == self.turn_id}
        if self._turn is not None:
            self._on_turn_unlinked(self._turn, verdict, now)

    def _on_turn_unlinked(self, turn: Turn, verdict: Verdict, now: float) -> None:
        """Keep a turn alive over a lost link as long as nothing of its answer has begun."""
        was_asked = turn.is_commit_sent
        turn.forget_link()
        if turn.is_answer_done:
            pass  # all of it is here, and plays on
        elif verdict.action == "fatal":
            self._fail_turn(verdict.kind, now, said=verdict.message)
        elif turn.has_output:
            self._drop_calls(turn)
            if turn.has_audio:
                self._do(FinishPlay(self._playout.epoch))
            turn.is_answer_done = True
            turn.failure = turn.failure or "answer_cut"
        elif turn.phase is not Phase.LISTENING:
            turn.phase = Phase.COMMITTING
            if was_asked:  # else the wait for a link goes on, and losing another does not prolong it
                turn.replays += 1
                turn.deadline = now + self._policy.link_wait_s
            if turn.replays > self._policy.max_replays:
                self._fail_turn("no_answer", now)

    def _on_session_created(self, link: _Link, now: float) -> None:
        if link.is_ready:
            return
        link.ready_at = now
        self._fatal = None
        self._trouble = ""
        self._send(wire.SessionUpdate(event_id=f"session_{link.id}", session=self._session))
        turn = self._turn
        if turn is not None and turn.phase is Phase.COMMITTING:
            turn.deadline = now + self._policy.commit_s

    def _on_bad_frame(self, event: FrameRefused, now: float) -> None:
        link = self._link
        if link is None or event.link != link.id:
            return
        link.bad_frames += 1
        self._report("bad_frame", now, detail=event.problem)
        if link.bad_frames > self._policy.max_bad_frames:
            self._do(Disconnect(link.id))
            self._lose_link(classify(None, f"{link.bad_frames} unreadable frames"), now)

    # --- the button ---------------------------------------------------------------------------------------------

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
                        self._discard(self._turn, "cancelled")
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
        if self._ringing:
            self._silence_alarms()
        elif self._approval() is not None:
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
        elif turn is not None and turn.phase is Phase.COMMITTING and not turn.is_commit_sent:
            self._resume(turn, now)
        else:
            self._start_turn(now)

    def _refuse_press(self, kind: str, now: float, fallback: Earcon) -> None:
        self._stop_answer(now)
        self._end_turn("interrupted")
        self._report(kind, now)
        self._do(Announce(self._playout.epoch, sentence(kind), fallback))

    def _on_release(self, gesture: Gesture, now: float) -> None:
        turn = self._turn
        if turn is None or turn.phase is not Phase.LISTENING or turn.is_latched or turn.post_roll_left is not None:
            return
        mode = self._policy.button_mode
        if mode == "tap" or (mode == "auto" and gesture.held_s * 1000 <= self._policy.tap_max_ms):
            turn.is_latched = True
        elif gesture.held_s * 1000 < self._policy.min_turn_ms and turn.started_at >= gesture.at - gesture.held_s:
            self._discard(turn, "slip")
        else:
            self._end_speech(turn, gesture.at, now)

    def _on_tap(self, gesture: Gesture, now: float) -> None:
        call = self._approval()
        if call is not None and gesture.at - gesture.held_s >= call.asked_at:
            call.awaits_approval = False
            self._run(call, now)

    def _on_hold(self, gesture: Gesture, now: float) -> None:
        call = self._approval()
        if call is not None and gesture.at - gesture.held_s >= call.asked_at:
            self._reject(call, "The user rejected this call.", now)

    # --- listening ----------------------------------------------------------------------------------------------

    def _start_turn(self, now: float) -> None:
        if self._link is None:
            self._connect(now)
        self._stop_answer(now)
        if self._turn is not None:
            self._end_turn("interrupted")
        self._turns += 1
        turn = Turn(f"turn_{self._turns}", now, now + self._policy.max_turn_s)
        self._take_pre_roll(turn)
        self._turn = turn
        self._emit(TurnStarted(turn.id))
        self._do(PlayEarcon(self._playout.epoch, "start"))

    def _resume(self, turn: Turn, now: float) -> None:
        """Speak on: the turn before waits for a link and nothing of it was asked yet, so it grows."""
        turn.phase = Phase.LISTENING
        self._take_pre_roll(turn)
        turn.post_roll_left = None
        turn.is_latched = False
        turn.deadline = now + max(1.0, self._policy.max_turn_s - turn.frames / wire.SAMPLE_RATE)
        if self._link is None:
            self._connect(now)
        self._do(PlayEarcon(self._playout.epoch, "start"))

    def _on_audio(self, event: AudioCaptured, now: float) -> None:
        frames = len(event.pcm) // 2
        self._captured_at = now
        turn = self._turn
        if turn is None or turn.phase is not Phase.LISTENING:
            self._keep_recent(event, frames)
            return
        turn.add_audio(event.pcm, event.peak)
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

    def _keep_recent(self, event: AudioCaptured, frames: int) -> None:
        """Keep the pre-roll in memory: the last `pre_roll_ms`, never more than a period over it."""
        self._recent.append(event)
        self._recent_frames += frames
        pre_roll = self._policy.pre_roll_ms * _FRAMES_PER_MS
        while self._recent and self._recent_frames - len(self._recent[0].pcm) // 2 >= pre_roll:
            self._recent_frames -= len(self._recent.popleft().pcm) // 2

    def _take_pre_roll(self, turn: Turn) -> None:
        for event in self._recent:
            turn.add_audio(event.pcm, event.peak)
        self._forget_recent()

    def _forget_recent(self) -> None:
        self._recent.clear()
        self._recent_frames = 0

    def _check_silence(self, turn: Turn, now: float) -> None:
        quiet_ms = turn.speech.quiet_frames / _FRAMES_PER_MS
        if turn.speech.has_begun and quiet_ms >= self._policy.silence_ms:
            self._end_capture(turn, now)
        elif not turn.speech.has_begun and quiet_ms >= self._policy.no_speech_s * 1000:
            self._end_unheard(turn, now)

    def _end_speech(self, turn: Turn, at: float, now: float) -> None:
        """The user was done `at`, a debounce before `now`: keep the post-roll counted from there, then commit."""
        if (at - turn.started_at) * 1000 < self._policy.min_turn_ms:
            self._discard(turn, "slip")
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
        if turn.peak <= self._policy.silence_peak:
            self._clear_server_buffer(turn)
            self._fail_turn("silent_microphone", now, outcome="silence")
        elif turn.frames < self._policy.min_turn_ms * _FRAMES_PER_MS:
            self._discard(turn, "slip")
        else:
            turn.phase = Phase.COMMITTING
            turn.deadline = now + self._policy.link_wait_s
            self._do(PlayEarcon(self._playout.epoch, "end"))

    def _end_unheard(self, turn: Turn, now: float) -> None:
        """Nobody spoke: a dead microphone is told, a tap by mistake is not."""
        if turn.peak <= self._policy.silence_peak:
            self._end_capture(turn, now)
        else:
            self._discard(turn, "silence")

    def _discard(self, turn: Turn, outcome: _Outcome) -> None:
        self._clear_server_buffer(turn)
        self._do(PlayEarcon(self._playout.epoch, "cancel"))
        self._end_turn(outcome)

    def _clear_server_buffer(self, turn: Turn) -> None:
        if turn.sent_bytes > 0 and not turn.is_commit_sent:
            self._send(wire.InputAudioBufferClear())

    def _on_overrun(self, now: float) -> None:
        turn = self._turn
        if turn is not None and turn.phase is Phase.LISTENING:
            self._report("overrun", now)
            self._end_capture(turn, now)

    # --- ending turns -------------------------------------------------------------------------------------------

    def _stop_answer(self, now: float) -> None:
        """Flush, truncate what was not heard whole, cancel: the first half of a barge-in."""
        cut = self._playout.flush()
        self._do(FlushPlayback(self._playout.epoch))
        if self._link is not None and self._playout_link == self._link.id:
            for one in cut:
                self._send(
                    wire.ConversationItemTruncate(
                        item_id=one.item_id, content_index=one.content_index, audio_end_ms=one.heard_ms
                    )
                )
        response_id = self._sequencer.cancel(now + self._policy.cancel_s)
        if response_id is not None:
            self._send(wire.ResponseCancel(response_id=response_id))

    def _fail_turn(
        self, kind: str, now: float, *, said: str = "", detail: str = "", outcome: _Outcome = "failed"
    ) -> None:
        """End the turn and say why; never in silence.

        Args:
            kind: The trouble; its sentence is spoken unless `said` gives a better one.
            now: Monotonic seconds.
            said: What to say aloud.
            detail: What to report to the observers, where it is more than what is said.
            outcome: How the turn ended.
        """
        turn = self._turn
        if turn is not None and turn.phase is Phase.LISTENING:
            self._clear_server_buffer(turn)
        else:
            self._stop_answer(now)
        said = said or sentence(kind)
        self._report(kind, now, detail=detail or said)
        self._do(Announce(self._playout.epoch, said, "offline" if kind == "no_link" else "error"))
        self._end_turn(outcome)

    def _end_turn(self, outcome: _Outcome) -> None:
        turn = self._turn
        if turn is None:
            return
        for call in list(self._calls.values()):
            if call.turn == turn.id and call.awaits_approval:
                self._answer_call(call, "The user did not approve this call.", is_error=True)
        self._turn = None
        self._emit(TurnEnded(turn.id, outcome, tuple(sorted(turn.usage.items()))))

    def _drop_calls(self, turn: Turn) -> None:
        for call_id in turn.open_calls:
            self._calls.pop(call_id, None)
            self._do(CancelTool(call_id))
        turn.open_calls.clear()

    def _report(self, kind: str, now: float, *, detail: str = "", flash: bool = True) -> None:
        self._trouble = kind
        if flash:
            self._error_until = now + self._policy.error_light_s
        self._emit(TroubleReported(kind, detail or sentence(kind)))

    # --- the server ---------------------------------------------------------------------------------------------

    def _on_server_event(self, link: _Link, event: wire.ServerEvent, now: float) -> None:
        match event:
            case wire.SessionCreated():
                self._on_session_created(link, now)
            case wire.ErrorEvent():
                self._on_error(link, event.error, now)
            case wire.InputAudioBufferCommitted():
                self._on_committed(event, now)
            case wire.InputTranscriptionCompleted():
                turn_id = self._turn_of_item.get(event.item_id)
                if turn_id is not None:
                    self._emit(HeardTextReceived(turn_id, event.transcript.strip()))
            case wire.ResponseCreated():
                self._on_response_created(event.response, now)
            case wire.OutputAudioDelta():
                self._on_output_audio(event, now)
            case wire.OutputAudioTranscriptDelta() | wire.OutputTextDelta():
                self._on_output_text(event.response_id, event.delta, now, is_final=False)
            case wire.OutputAudioTranscriptDone():
                self._on_output_text(event.response_id, event.transcript, now, is_final=True)
            case wire.OutputTextDone():
                self._on_output_text(event.response_id, event.text, now, is_final=True)
            case wire.OutputItemDone():
                if self._answering(event.response_id) is not None:
                    self._on_output_item(event.item, now)
            case wire.ResponseDone():
                self._on_response_done(event.response, now)
            case _:
                pass  # nothing else is needed for progress (PROTOCOL.md §8: the minimal contract)

    def _on_committed(self, event: wire.InputAudioBufferCommitted, now: float) -> None:
        turn = self._turn
        if turn is None or not turn.is_commit_sent or turn.phase is not Phase.COMMITTING:
            return
        self._turn_of_item[event.item_id] = turn.id
        while len(self._turn_of_item) > _REMEMBERED_ITEMS:
            self._turn_of_item.popitem(last=False)
        self._to_answering(turn, now)

    def _to_answering(self, turn: Turn, now: float) -> None:
        if turn.phase is Phase.COMMITTING:
            turn.phase = Phase.ANSWERING
        turn.deadline = now + self._policy.answer_s

    def _on_response_created(self, response: wire.Response, now: float) -> None:
        match self._sequencer.created(response):
            case Arrival.ACCEPT:
                if self._turn is not None and self._turn.phase is not Phase.LISTENING:
                    self._to_answering(self._turn, now)
            case Arrival.CANCEL:
                self._send(wire.ResponseCancel(response_id=response.id))
            case Arrival.IGNORE:
                pass

    def _answering(self, response_id: str) -> Turn | None:
        """The turn that this response answers now; None for anything late, cancelled or foreign."""
        turn = self._turn
        request = self._sequencer.request
        if turn is None or turn.phase is Phase.LISTENING or request is None or request.turn != turn.id:
            return None
        return turn if self._sequencer.is_current(response_id) else None

    def _on_output_audio(self, event: wire.OutputAudioDelta, now: float) -> None:
        turn = self._answering(event.response_id)
        if turn is None or not event.delta:
            return
        self._to_answering(turn, now)
        if not self._playout.is_pending:
            self._played_at = now
        turn.has_output = turn.has_audio = True
        turn.audio.clear()
        turn.sent_bytes = 0
        self._playout_link = self._link.id if self._link else 0
        self._playout.queue(event.item_id, event.content_index, len(event.delta) // 2)
        self._do(Play(self._playout.epoch, event.item_id, event.delta))

    def _on_output_text(self, response_id: str, text: str, now: float, *, is_final: bool) -> None:
        turn = self._answering(response_id)
        if turn is not None and text:
            self._to_answering(turn, now)
            turn.has_output = True
            self._emit(AnswerTextReceived(turn.id, text, is_final))

    def _on_response_done(self, response: wire.Response, now: float) -> None:
        turn = self._answering(response.id)
        request = self._sequencer.done(response)
        if turn is None or request is None or request.is_cancelled:
            return
        self._to_answering(turn, now)
        turn.is_response_open = False
        turn.add_usage(response.usage)
        for item in response.output:
            self._on_output_item(item, now)
        if turn.has_audio:
            self._do(FinishPlay(self._playout.epoch))
        if response.status == "failed":
            turn.failure = "answer_failed"
            turn.failure_detail = response.error.message if response.error else ""
        if turn.seen_calls and not turn.failure:
            self._ask_again(turn)
        else:
            turn.is_answer_done = True

    def _ask_again(self, turn: Turn) -> None:
        """Once a response is done and all its calls are answered, the model speaks on: asked for exactly once."""
        if turn.is_response_open or turn.open_calls or not turn.seen_calls:
            return
        turn.seen_calls.clear()
        turn.rounds += 1
        self._sequencer.want(turn.id)

    def _on_error(self, link: _Link, error: wire.ErrorDetail, now: float) -> None:
        link.last_error = error.code or error.type
        turn = self._turn
        if error.event_id == f"session_{link.id}":
            self._do(Disconnect(link.id))
            self._report("server_error", now, detail=error.message)
            self._lose_link(Verdict("fatal", "settings_refused", sentence("settings_refused")), now)
        elif error.code == "conversation_already_has_active_response":
            if self._sequencer.refused(error.event_id, now + self._policy.refused_retry_s) and turn is not None:
                turn.is_response_open = False
        elif error.event_id is not None and (request := self._sequencer.abandon(error.event_id)) is not None:
            if turn is not None and request.turn == turn.id:
                self._fail_turn("answer_failed", now, detail=error.message)
        elif turn is not None and error.event_id == f"commit_{turn.id}_{turn.replays}":
            self._fail_turn("server_error", now, detail=error.message)
        elif link.is_ready and error.code not in _BENIGN and not _is_truncate_race(error):
            self._report("server_error", now, detail=error.message)

    # --- tools --------------------------------------------------------------------------------------------------

    def _on_output_item(self, item: wire.Item, now: float) -> None:
        turn, link = self._turn, self._link
        if item.type != "function_call" or item.status in ("incomplete", "in_progress") or turn is None or link is None:
            return
        if not item.call_id or item.call_id in self._calls or item.call_id in turn.seen_calls:
            return
        turn.has_output = True
        turn.seen_calls.add(item.call_id)
        turn.open_calls.add(item.call_id)
        call = Call(item.call_id, item.name, item.arguments, turn.id, link.id, now, now + self._policy.tool_s)
        self._calls[call.call_id] = call
        if item.name in self._approvals:
            call.awaits_approval = True
            call.deadline = now + self._policy.approval_s
            self._do(PlayEarcon(self._playout.epoch, "approval"))
        else:
            self._run(call, now)

    def _run(self, call: Call, now: float) -> None:
        call.deadline = now + self._policy.tool_s
        self._emit(ToolStarted(call.turn, call.call_id, call.name, call.arguments))
        self._do(RunTool(call.call_id, call.name, call.arguments))

    def _approval(self) -> Call | None:
        """The call that waits for the user, the oldest first."""
        return next((call for call in self._calls.values() if call.awaits_approval), None)

    def _reject(self, call: Call, output: str, now: float) -> None:
        call.awaits_approval = False
        self._emit(ToolStarted(call.turn, call.call_id, call.name, call.arguments))
        self._close_call(call, output, now, is_error=True)

    def _on_call_late(self, call: Call, now: float) -> None:
        if call.awaits_approval:
            self._reject(call, "The user did not answer, so this call was not made.", now)
        else:
            self._do(CancelTool(call.call_id))
            self._report("tool_late", now, detail=f"{call.name} took longer than {self._policy.tool_s:g} s")
            self._close_call(call, f"The tool {call.name} took too long and was given up.", now, is_error=True)

    def _on_tool_finished(self, event: ToolFinished, now: float) -> None:
        call = self._calls.get(event.call_id)
        if call is not None and not call.awaits_approval:
            self._close_call(call, event.output, now, is_error=event.is_error)

    def _close_call(self, call: Call, output: str, now: float, *, is_error: bool) -> None:
        self._answer_call(call, output, is_error=is_error)
        turn = self._turn
        if turn is not None and turn.id == call.turn:
            turn.open_calls.discard(call.call_id)
            turn.deadline = now + self._policy.answer_s
            self._ask_again(turn)

    def _answer_call(self, call: Call, output: str, *, is_error: bool) -> None:
        """Give the model the output; also after a barge-in, for a call without output confuses it for good."""
        self._calls.pop(call.call_id, None)
        self._emit(ToolEnded(call.turn, call.call_id, call.name, output, is_error))
        if self._link is not None and self._link.id == call.link:
            item = {"type": "function_call_output", "call_id": call.call_id, "output": output}
            self._send(wire.ConversationItemCreate(item=item))

    # --- the rest of the device ---------------------------------------------------------------------------------

    def _on_card_lost(self, event: CardLost, now: float) -> None:
        kind = "no_microphone" if event.direction == "capture" else "no_speaker"
        self._cards_lost[event.direction] = event.reason
        self._report(kind, now, detail=f"{sentence(kind)} ({event.reason})")
        turn = self._turn
        if event.direction == "capture":
            self._forget_recent()
            if turn is not None and turn.phase is Phase.LISTENING:
                self._end_capture(turn, now)  # what was said so far is not lost
        elif turn is not None and turn.phase is Phase.ANSWERING and self._playout.is_pending:
            self._fail_turn(kind, now, detail=f"{sentence(kind)} ({event.reason})")

    def _on_mute(self, muted: bool, now: float) -> None:
        if muted == self._is_muted:
            return
        self._is_muted = muted
        self._forget_recent()
        if muted and self._turn is not None and self._turn.phase is Phase.LISTENING:
            self._discard(self._turn, "cancelled")
        self._do(CloseCapture() if muted else OpenCapture(), PlayEarcon(self._playout.epoch, "muted"))

    def _on_alarm(self, event: AlarmRang, now: float) -> None:
        self._ringing[event.alarm_id] = event.label
        self._ring_until = now + self._policy.alarm_s
        self._ring(now)

    def _ring(self, now: float) -> None:
        """Sound the alarm, but never into a turn: there it waits, shown by the light."""
        if not self._ringing or now >= self._ring_until:
            self._silence_alarms()
            return
        self._ring_at = now + self._policy.alarm_every_s
        if self._turn is None:
            labels = ", ".join(label for label in self._ringing.values() if label)
            self._do(PlayEarcon(self._playout.epoch, "alarm"))
            self._do(Announce(self._playout.epoch, f"Time is up: {labels}." if labels else "Time is up.", "alarm"))

    def _silence_alarms(self) -> None:
        self._do(*(SilenceAlarm(alarm_id) for alarm_id in self._ringing))
        if self._ringing and self._turn is None:
            self._playout.flush()
            self._do(FlushPlayback(self._playout.epoch))
        self._ringing.clear()
        self._ring_at = None

    def _shut_down(self, reason: str, now: float) -> None:
        """End cleanly: tell the server what was heard, say goodbye to the link, and stop."""
        self._stop_answer(now)
        turn = self._turn
        if turn is not None:
            self._drop_calls(turn)
            if turn.phase is Phase.LISTENING:
                self._clear_server_buffer(turn)
            self._end_turn("cancelled")
        if self._link is not None:
            self._do(Disconnect(self._link.id))
        self._is_stopped = True
        self._do(Stop(reason))


def _is_truncate_race(error: wire.ErrorDetail) -> bool:
    """ "Audio content of 9250ms is already shorter than 57340ms": no code, and no harm."""
    return (error.code or "").startswith("item_truncate") or "already shorter than" in error.message
