"""The brain of the appliance: `Conversation.handle(event, now)` returns what to do, and nothing else decides.

Theory of operation
-------------------
Regions live side by side; each event touches few of them, and `state` is derived, never stored.

* **The links** (`Links`): none, connecting, ready (``session.created``), configured (the server was told who speaks
  and what was said so far). Beside it at times a spare, which takes over in an idle gap.
* **The turn.** None, or one `Turn` in a phase: LISTENING (it is being spoken), COMMITTING (everything was captured,
  the server has not confirmed it), ANSWERING (thinking, tools, speaking). The button, the program, a message or the
  server's ear begin it. A turn is captured whether or not there is a link. `_settle`, after every event, sends what
  the link lacks: clear, appends, commit or the message, then a wish for a response. So a press before the link is up,
  a link lost in mid-sentence and the ordinary case are one path.
* **The response slot** (`Sequencer`): one ``response.create`` at a time, cancelled on arrival if a barge-in was first.
* **The playout** (`Playout`): what was queued and what was heard, in epochs. A flush begins an epoch; audio and
  reports of an old one mean nothing. With guardrails, `AnswerGuard` stands before it.
* **The agent** (`Brief`): who talks. A handoff asks the server first, and changes it only when the server agrees:
  `_updates` holds every ``session.update`` that is not answered yet, in order, for the answers carry no id of ours.
* **The calls** (`Calls`) and **the history** (`History`) outlive turns; `Asides` stand beside everything.

Every state but the resting ones has a deadline, collected in `deadline`; the driver posts ``DeadlinePassed`` behind
whatever else is in the inbox, so that an answer that is already here always wins against its own time-out.

There is one path of interruption (button, program, server's ear, tripwire), `_stop_answer`: flush playback and open an
epoch → truncate each item that was queued and not heard whole → ``response.cancel``, or remember to cancel on arrival.
Then a new turn goes on with ``input_audio_buffer.clear`` → appends → commit → ``response.create`` once the cancelled
one is done, or given up.

Pure: no clock, thread, socket, file, log or ``await``; the same events at the same times give the same commands,
which is what `appliance replay` relies on. Randomness (the jitter of the backoff) comes from a seed.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, assert_never

from appliance.agents.context import HistoryItem
from appliance.conversation.alarms import Alarms
from appliance.conversation.asides import Asides
from appliance.conversation.budget import Budget
from appliance.conversation.calls import Call, Calls, Stage
from appliance.conversation.commands import (
    AgentEnded,
    AgentStarted,
    Announce,
    AnswerAudioEnded,
    AnswerInterrupted,
    AnswerTextReceived,
    ApprovalRequested,
    BudgetReached,
    CancelTool,
    CheckApproval,
    CheckText,
    CloseCapture,
    Command,
    Disconnect,
    Earcon,
    FinishPlay,
    FlushPlayback,
    GuardrailTripped,
    HandedOver,
    HeardTextGrew,
    HeardTextReceived,
    OpenCapture,
    Play,
    PlayEarcon,
    PrepareAgent,
    RunTool,
    Stop,
    ToolEnded,
    ToolStarted,
    TroubleReported,
    TurnEnded,
    TurnStarted,
    UsageCounted,
)
from appliance.conversation.events import (
    AbortAsked,
    AgentPrepared,
    AlarmRang,
    ApprovalAnswered,
    ApprovalChecked,
    AskedAside,
    AudioCaptured,
    BeginAsked,
    ButtonEdge,
    CaptureOverrun,
    CardFound,
    CardLost,
    CommitAsked,
    DayBegan,
    DeadlinePassed,
    Direction,
    Event,
    FrameGiven,
    FrameRefused,
    GuardrailsChecked,
    HistoryReplaced,
    InterruptAsked,
    LinkDown,
    LinkUp,
    MessageGiven,
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
from appliance.conversation.guard import AnswerGuard, Check
from appliance.conversation.history import Change, History, wire_item
from appliance.conversation.links import Link, Links
from appliance.conversation.outbox import Outbox
from appliance.conversation.playout import Playout
from appliance.conversation.preroll import PreRoll
from appliance.conversation.prices import response_usd, transcription_usd
from appliance.conversation.responses import Arrival, Sequencer
from appliance.conversation.retry import Verdict, classify
from appliance.conversation.roster import Brief
from appliance.conversation.troubles import sentence
from appliance.conversation.turn import Phase, Policy, Turn
from appliance.realtime import protocol as wire

__all__ = ["Conversation"]

_FRAMES_PER_MS = wire.SAMPLE_RATE // 1000
_APPEND_BYTES = 2 * 20 * _FRAMES_PER_MS  # one period a frame: a press is on the wire at once, a replay as quick as any
_REMEMBERED_ITEMS = 64  # user items whose transcript may still come
_TOOL_GRACE_S = 2.0  # a tool's own time-out comes first: it has the better words
_BENIGN = frozenset({"response_cancel_not_active", "conversation_already_has_active_response", "session_expired"})
"""Errors of races that are part of the protocol (PROTOCOL.md §2.7), and one whose close frame says it again."""

_Outcome = Literal["answered", "slip", "silence", "interrupted", "failed", "cancelled", "refused"]


@dataclass(frozen=True, slots=True)
class _Update:
    """A ``session.update`` that the server has not answered."""

    event_id: str
    kind: Literal["connect", "turn", "handoff", "rollback", "raw"]
    session: Mapping[str, Any]
    brief: Brief | None = None
    call_id: str = ""


class Conversation:
    """The pure core of the appliance."""

    def __init__(
        self,
        *,
        policy: Policy,
        briefs: Sequence[Brief],
        history: Sequence[HistoryItem] = (),
        seed: int = 0,
        is_muted: bool = False,
    ) -> None:
        """Create a conversation that waits for ``Started``.

        Args:
            policy: Times and limits.
            briefs: The agents; the first begins.
            history: What was said in an earlier life; each new connection is told.
            seed: Of the backoff's jitter; a trace records it.
            is_muted: Whether the microphone starts muted.
        """
        self._policy = policy
        self._brief = briefs[0]
        self._outbox = Outbox()
        self._links = Links(policy, self._outbox, seed=seed)

        self._started_at: float | None = None
        self._is_stopped = False
        self._gestures = Gestures(
            release_debounce_s=policy.release_debounce_ms / 1000,
            tap_max_s=policy.tap_max_ms / 1000,
            stuck_s=policy.stuck_s,
            longest_press_s=policy.max_turn_s + policy.stuck_s,
        )
        self._was_released = False
        self._recent = PreRoll(policy.pre_roll_ms * _FRAMES_PER_MS)
        self._captured_at = 0.0

        self._turn: Turn | None = None
        self._turns = 0
        self._sequencer = Sequencer()
        self._playout = Playout()
        self._playout_link = 0
        self._played_at = 0.0
        self._guard = AnswerGuard(
            debounce=policy.guardrail_debounce, hold=policy.hold_audio, check_s=policy.guardrail_s
        )
        self._unheard: set[str] = set()
        """Items of the assistant of which nothing was heard, to be deleted once they are done."""
        self._history = History(history, max_items=policy.max_history)
        self._updates: deque[_Update] = deque()
        self._calls = Calls()
        self._asides = Asides(self._outbox)
        self._turn_of_item: OrderedDict[str, str] = OrderedDict()

        self._budget = Budget(limit_usd=policy.budget_usd, limit_s=policy.budget_s)
        self._model = ""
        self._transcriber = ""

        self._is_muted = is_muted
        self._cards_lost: dict[Direction, str] = {}
        self._alarms = Alarms(self._outbox, length_s=policy.alarm_s, every_s=policy.alarm_every_s)
        self._timers_running = 0
        self._error_until: float | None = None
        self._trouble = ""

    def __repr__(self) -> str:
        return f"<Conversation {self.state.value} {self._turn.id if self._turn else '-'} {self._links!r}>"

    # --- what others may look at --------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The one word for what the appliance is doing, derived from all regions."""
        if self._started_at is None:
            return State.BOOTING
        if self._turn is not None:
            return self._turn_state(self._turn)
        if self._links.fatal is not None and self._links.main is None:
            return State.FAILED
        if self._is_muted:
            return State.MUTED
        if self._links.main is None:
            return State.OFFLINE
        return State.READY if self._links.is_ready else State.CONNECTING

    @property
    def view(self) -> View:
        """What the light and the panel are functions of."""
        return View(
            state=self.state,
            cards_lost=tuple(sorted(self._cards_lost)),
            is_link_lost=self._started_at is not None and self._links.failures > 0 and not self._links.is_ready,
            is_button_stuck=self._gestures.is_stuck,
            is_ringing=bool(self._alarms),
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

    @property
    def history(self) -> tuple[HistoryItem, ...]:
        """The conversation so far, in order."""
        return self._history.items

    @property
    def agent(self) -> str:
        """Who talks."""
        return self._brief.agent

    def _deadlines(self) -> Iterator[float]:
        turn = self._turn
        if self._is_stopped:
            return
        yield from self._links.deadlines(is_idle=self._is_idle)
        if turn is not None and not (turn.phase is Phase.ANSWERING and turn.open_calls):
            yield self._turn_deadline(turn)
        yield from self._calls.deadlines()
        yield from self._asides.deadlines()
        candidates = (
            self._gestures.deadline,
            self._sequencer.deadline,
            self._guard.deadline,
            self._alarms.deadline,
            self._error_until,
        )
        yield from (at for at in candidates if at is not None)

    def _turn_deadline(self, turn: Turn) -> float:
        if turn.phase is Phase.ANSWERING and self._playout.is_pending:
            return max(turn.deadline, self._played_at + self._policy.playout_stall_s)
        if turn.phase is Phase.ANSWERING:
            return turn.deadline_of_checks(turn.deadline)
        return turn.deadline

    def _turn_state(self, turn: Turn) -> State:
        match turn.phase:
            case Phase.LISTENING:
                return State.LISTENING
            case Phase.COMMITTING:
                return State.COMMITTING
            case Phase.ANSWERING:
                if self._calls.awaiting_approval is not None:
                    return State.AWAITING_APPROVAL
                return State.SPEAKING if self._playout.is_pending else State.THINKING
        assert_never(turn.phase)

    @property
    def _is_idle(self) -> bool:
        """Nothing is going on that a change of the connection would disturb."""
        return self._turn is None and not (self._updates or self._asides or any(True for _ in self._calls))

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
        if not self._is_stopped:
            self._dispatch(event, now)
        if not self._is_stopped:
            self._settle(now)
        return self._outbox.take()

    def _dispatch(self, event: Event, now: float) -> None:
        match event:
            case AudioCaptured():
                self._on_audio(event, now)
            case PlayoutProgress():
                if self._playout.progress(event.epoch, event.played_frames, drained=event.drained):
                    self._played_at = now
            case ServerEventReceived():
                self._on_frame(event, now)
            case DeadlinePassed():
                self._on_deadline(now)
            case ButtonEdge():
                is_guarded = self._is_found_pressed(event, now)
                self._on_gestures(self._gestures.feed(event.pressed, now, is_guarded=is_guarded), now)
            case LinkUp():
                pass  # an open socket proves nothing: readiness is session.created (PROTOCOL.md §1.1)
            case LinkDown():
                self._on_link_down(event, now)
            case FrameRefused():
                self._on_bad_frame(event, now)
            case CaptureOverrun():
                self._on_overrun(now)
            case CardLost():
                self._on_card_lost(event, now)
            case CardFound():
                self._cards_lost.pop(event.direction, None)
            case AlarmRang():
                self._alarms.begin(event.alarm_id, event.label, now)
                self._ring(now)
            case TimersChanged():
                self._timers_running = event.running
            case MuteSwitched():
                self._on_mute(event.muted, now)
            case TracingFailed():
                self._report("trace_failed", now, detail=event.problem)
            case DayBegan():
                self._budget.begin_day(event.day, event.spent_usd, event.spent_s)
                self._restrict_links(now)
            case Started():
                self._started_at = now
                if self._is_muted:
                    self._do(CloseCapture())
                self._links.connect(now)
            case ShutdownRequested():
                self._shut_down(event.reason, now)
            case _:
                self._dispatch_of_program(event, now)

    def _dispatch_of_program(self, event: Event, now: float) -> None:
        """What a program asks for, and what the maker's functions answer."""
        match event:
            case ToolFinished():
                self._on_tool_finished(event, now)
            case ApprovalChecked():
                self._on_approval_checked(event, now)
            case ApprovalAnswered():
                self._on_approval_answered(event, now)
            case AgentPrepared():
                self._on_agent_prepared(event, now)
            case GuardrailsChecked():
                self._on_guardrails_checked(event, now)
            case BeginAsked():
                if self._turn is None or self._turn.phase is not Phase.LISTENING:
                    self._start_turn(now, kind="program")
            case CommitAsked():
                if self._turn is not None and self._turn.phase is Phase.LISTENING:
                    self._end_capture(self._turn, now)
            case AbortAsked():
                if self._turn is not None and self._turn.phase is Phase.LISTENING:
                    self._discard(self._turn, "cancelled", now)
            case InterruptAsked():
                self._interrupt(now)
            case MessageGiven():
                self._on_message(event, now)
            case AskedAside():
                self._asides.ask(event, now)
            case FrameGiven():
                self._on_frame_given(event, now)
            case HistoryReplaced():
                self._on_history_replaced(event)
            case _:
                raise AssertionError(f"nobody handles {event!r}")

    def _do(self, *commands: Command) -> None:
        self._outbox.do(*commands)

    def _tell(self, changes: list[Change]) -> None:
        self._outbox.emit(*changes)

    # --- after every event --------------------------------------------------------------------------------------

    def _settle(self, now: float) -> None:
        """Bring the server up to date with the turn, ask for what is wished, end what is over, use what is idle."""
        turn = self._turn
        if self._links.is_usable:
            if turn is not None and turn.phase is not Phase.ANSWERING:
                self._send_turn(turn, now)
            self._ask(now)
        if turn is not None and turn is self._turn and turn.phase is Phase.ANSWERING:
            self._finish(turn, now)
        if self._is_idle and (link := self._links.rest(now)) is not None:
            self._forget_link()
            self._on_link_ready(link)

    def _send_turn(self, turn: Turn, now: float) -> None:
        if turn.message is not None:
            self._send_message(turn, now)
            return
        if not turn.is_cleared:
            turn.is_cleared = True
            self._outbox.send(wire.InputAudioBufferClear())
        with memoryview(turn.audio) as audio:
            for start in range(turn.sent_bytes, len(audio), _APPEND_BYTES):
                self._outbox.send(wire.InputAudioBufferAppend(audio=bytes(audio[start : start + _APPEND_BYTES])))
        turn.sent_bytes = len(turn.audio)
        if turn.phase is Phase.COMMITTING and not turn.is_commit_sent:
            turn.is_commit_sent = turn.was_spoken = True
            # A turn may take as long to upload as it took to say.
            turn.deadline = now + self._policy.commit_s + turn.frames / wire.SAMPLE_RATE
            self._outbox.send(wire.InputAudioBufferCommit(event_id=f"commit_{turn.id}_{turn.replays}"))
            self._begin_checks(turn, now)
            self._sequencer.want(turn.id)

    def _send_message(self, turn: Turn, now: float) -> None:
        assert turn.message is not None
        turn.is_commit_sent = True
        self._create_item(turn.message, text=turn.heard_text or "")
        self._begin_checks(turn, now)
        self._to_answering(turn, now)
        self._sequencer.want(turn.id)

    def _ask(self, now: float) -> None:
        wish = self._sequencer.grant(now)
        turn = self._turn
        if wish is None or turn is None or turn.id != wish or not (turn.is_briefed and turn.is_checked):
            return
        event_id = self._outbox.next_event_id()
        response: dict[str, Any] = {**turn.response, "metadata": {**turn.response.get("metadata", {}), "turn": turn.id}}
        if turn.rounds >= self._policy.max_tool_rounds:
            response["tool_choice"] = "none"
        if turn.first_sentence:
            own = self._brief.session.get("instructions", "")
            response["instructions"] = f"{own}\n\nBegin your answer with exactly this sentence: {turn.first_sentence}"
            turn.first_sentence = ""
        self._sequencer.asked(turn.id, event_id)
        self._begin_answer(turn, now)
        self._outbox.send(wire.ResponseCreate(event_id=event_id, response=response))

    def _begin_answer(self, turn: Turn, now: float) -> None:
        turn.is_response_open = True
        turn.is_answer_done = False
        if turn.phase is Phase.ANSWERING:
            turn.deadline = now + self._policy.answer_s
        if not turn.agent:
            turn.agent = self._brief.agent
            self._outbox.emit(AgentStarted(turn.agent))

    def _finish(self, turn: Turn, now: float) -> None:
        if turn.is_response_open or turn.open_calls or self._sequencer.wish == turn.id or self._guard.is_busy:
            return
        if not turn.is_answer_done or self._playout.is_pending:
            return
        if turn.failure:
            self._fail_turn(turn.failure, now, detail=turn.failure_detail)
        elif not (turn.has_audio or (turn.has_text and self._brief.is_written) or turn.is_background):
            self._fail_turn("empty_answer", now)
        else:
            self._end_turn("answered", now)

    # --- time ---------------------------------------------------------------------------------------------------

    def _on_deadline(self, now: float) -> None:
        self._on_gestures(self._gestures.advance(now), now)
        if self._is_stopped:
            return
        self._sequencer.advance(now)
        self._asides.advance(now)
        if self._error_until is not None and now >= self._error_until:
            self._error_until = None
        if self._alarms.deadline is not None and now >= self._alarms.deadline:
            self._ring(now)
        link = self._links.main
        if link is not None and not link.is_configured and now >= link.deadline:
            self._on_link_late(link, now)
        self._links.advance(now)
        for call in self._calls.working(now):
            self._on_call_working(call)
        for call in self._calls.late(now):
            self._on_call_late(call, now)
        if (check := self._guard.late(now)) is not None and self._turn is not None:
            self._trip(self._turn, check, "guardrail", "it took too long", now)
        turn = self._turn
        if turn is not None and not (turn.phase is Phase.ANSWERING and turn.open_calls):
            if turn.phase is Phase.ANSWERING and now >= turn.deadline_of_checks(now + 1.0):
                self._on_checks_late(turn, now)
            elif now >= self._turn_deadline(turn):
                self._on_turn_late(turn, now)

    def _on_link_late(self, link: Link, now: float) -> None:
        if link.is_ready:  # the greeting is here, the agent's own instructions are not
            self._report("instructions_late", now)
            self._configure(link)
        else:
            self._do(Disconnect(link.id))
            self._lose_link(classify(None, "timed out waiting for session.created", last_error=link.last_error), now)

    def _on_turn_late(self, turn: Turn, now: float) -> None:
        match turn.phase:
            case Phase.LISTENING:
                if turn.post_roll_left is None:
                    self._report("too_long", now)
                self._end_capture(turn, now)
            case Phase.COMMITTING:
                if turn.is_commit_sent and self._links.main is not None:
                    # The server took the audio and said nothing: a dead peer. Another connection may be better.
                    self._do(Disconnect(self._links.main.id))
                    self._lose_link(classify(None, "timed out waiting for the server to confirm the audio"), now)
                else:
                    self._fail_turn("no_link", now)
            case Phase.ANSWERING:
                if self._playout.is_pending:
                    self._fail_turn("no_speaker" if "playback" in self._cards_lost else "playout_stalled", now)
                else:
                    self._fail_turn(turn.failure or "no_answer", now)
            case _:
                assert_never(turn.phase)

    # --- the link -----------------------------------------------------------------------------------------------

    def _on_frame(self, event: ServerEventReceived, now: float) -> None:
        main, spare = self._links.main, self._links.spare
        if main is not None and event.link == main.id:
            self._on_server_event(main, event.event, now)
        elif spare is not None and event.link == spare.id:
            if isinstance(event.event, wire.SessionCreated) and not spare.is_ready:
                self._links.created(spare, now)
            elif isinstance(event.event, wire.ErrorEvent):
                spare.last_error = event.event.error.code or event.event.error.type

    def _on_link_down(self, event: LinkDown, now: float) -> None:
        main, spare = self._links.main, self._links.spare
        if main is not None and event.link == main.id:
            self._lose_link(classify(event.code, event.reason, last_error=main.last_error), now)
        elif spare is not None and event.link == spare.id:
            self._links.lose_spare(now, classify(event.code, event.reason, last_error=spare.last_error))

    def _lose_link(self, verdict: Verdict, now: float) -> None:
        is_trouble = self._links.lose(verdict, now)
        is_told_by_turn = self._links.fatal is not None and self._turn is not None and not self._turn.is_answer_done
        if is_trouble and not is_told_by_turn:
            self._report(verdict.kind, now, detail=verdict.message, flash=False)
        self._calls.keep_turn(self.turn_id)
        self._forget_link()
        if self._turn is not None:
            self._on_turn_unlinked(self._turn, now)
        if self._links.main is not None and self._links.main.is_ready:  # a spare stood by
            self._on_link_ready(self._links.main)

    def _forget_link(self) -> None:
        """What stood on the old connection stands no more; a new one is an empty conversation."""
        self._sequencer.reset()
        self._asides.lose()
        self._updates.clear()
        self._unheard.clear()
        self._tell(self._history.end_open())

    def _on_turn_unlinked(self, turn: Turn, now: float) -> None:
        """Keep a turn alive over a lost link as long as nothing of its answer has begun."""
        fatal = self._links.fatal
        was_asked = turn.is_commit_sent
        turn.forget_link()
        if turn.is_answer_done:
            pass  # all of it is here, and plays on
        elif fatal is not None:
            self._fail_turn(fatal.kind, now, said=fatal.message)
        elif turn.has_output:
            self._drop_calls(turn)
            self._mark_heard(turn)
            self._guard.reset()
            self._finish_play(turn)
            turn.is_answer_done = True
            turn.failure = turn.failure or "answer_cut"
        elif turn.phase is not Phase.LISTENING or turn.kind == "vad":
            self._tell(self._history.remove(turn.item_id))  # it is said again, and becomes another item
            turn.phase = Phase.LISTENING if turn.kind == "vad" else Phase.COMMITTING
            if was_asked:  # else the wait for a link goes on, and losing another does not prolong it
                turn.replays += 1
                turn.deadline = now + self._policy.link_wait_s
            if turn.replays > self._policy.max_replays:
                self._fail_turn("no_answer", now)

    def _mark_heard(self, turn: Turn) -> None:
        """Mark the items of an answer that was cut off by the connection; what came of it is still played."""
        for one in self._playout.heard():
            item = self._history.get(one.item_id)
            if item is not None and item.status == "incomplete":
                self._tell(self._history.cut(one.item_id, one.received_frames // _FRAMES_PER_MS))

    def _on_session_created(self, link: Link, event: wire.SessionCreated, now: float) -> None:
        if link.is_ready:
            return
        self._links.created(link, now)
        self._model = str(event.session.get("model") or "")
        self._on_link_ready(link)
        turn = self._turn
        if turn is not None and turn.phase is Phase.COMMITTING:
            turn.deadline = now + self._policy.commit_s + self._policy.prepare_s * self._brief.is_asked_at_connect

    def _on_link_ready(self, link: Link) -> None:
        self._trouble = ""
        if self._brief.is_asked_at_connect:
            self._do(PrepareAgent(f"connect_{link.id}", self._brief.agent, "connect"))
        else:
            self._configure(link)

    def _configure(self, link: Link) -> None:
        """Tell the new connection who talks, and what was said so far."""
        self._links.configured(link)
        self._update_session(_Update(f"session_{link.id}", "connect", self._brief.session, self._brief))
        frames, changes = self._history.replay(limit=self._policy.replay_items)
        self._tell(changes)
        for frame in frames:
            self._outbox.send(wire.ConversationItemCreate(event_id=f"item_{frame['id']}", item=frame))

    def _update_session(self, update: _Update) -> None:
        self._updates.append(update)
        self._outbox.send(wire.SessionUpdate(event_id=update.event_id, session=dict(update.session)))

    def _session_of(self, brief: Brief) -> Mapping[str, Any]:
        link = self._links.main
        return brief.without_voice() if link is not None and link.has_spoken else brief.session

    def _on_bad_frame(self, event: FrameRefused, now: float) -> None:
        link = self._links.main
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
        elif self._budget.is_spent and self._policy.offline_endpoint is None:
            self._refuse_press("budget_spent", now, "error")
        elif self._brief.ear is not None:
            self._interrupt(now)  # the server listens by itself
        elif turn is not None and turn.phase is Phase.COMMITTING and not turn.is_commit_sent and turn.message is None:
            self._resume(turn, now)
        else:
            self._start_turn(now)

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

    # --- listening ----------------------------------------------------------------------------------------------

    def _start_turn(self, now: float, *, kind: Literal["button", "program", "message", "vad"] = "button") -> Turn:
        if self._links.main is None:
            self._links.connect(now)
        self._stop_answer(now)
        if self._turn is not None:
            self._end_turn("interrupted", now)
        self._turns += 1
        turn = Turn(f"turn_{self._turns}", now, now + self._policy.max_turn_s, kind)
        if kind != "message":
            self._take_pre_roll(turn)
        self._turn = turn
        self._outbox.emit(TurnStarted(turn.id))
        if kind == "button":
            self._do(PlayEarcon(self._playout.epoch, "start"))
        return turn

    def _resume(self, turn: Turn, now: float) -> None:
        """Speak on: the turn before waits for a link and nothing of it was asked yet, so it grows."""
        turn.phase = Phase.LISTENING
        self._take_pre_roll(turn)
        turn.post_roll_left = None
        turn.is_latched = False
        turn.deadline = now + max(1.0, self._policy.max_turn_s - turn.frames / wire.SAMPLE_RATE)
        if self._links.main is None:
            self._links.connect(now)
        self._do(PlayEarcon(self._playout.epoch, "start"))

    def _on_audio(self, event: AudioCaptured, now: float) -> None:
        frames = len(event.pcm) // 2
        self._captured_at = now
        turn = self._turn
        if turn is None or turn.phase is not Phase.LISTENING:
            self._recent.keep(event)
            if self._brief.ear is not None:
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

    def _take_pre_roll(self, turn: Turn) -> None:
        for event in self._recent.take():
            turn.add_audio(event.pcm, event.peak)

    def _check_silence(self, turn: Turn, now: float) -> None:
        quiet_ms = turn.speech.quiet_frames / _FRAMES_PER_MS
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
        elif turn.frames < self._policy.min_turn_ms * _FRAMES_PER_MS:
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

    def _discard(self, turn: Turn, outcome: _Outcome, now: float) -> None:
        self._clear_server_buffer(turn)
        if turn.kind == "button":
            self._do(PlayEarcon(self._playout.epoch, "cancel"))
        self._end_turn(outcome, now)

    def _clear_server_buffer(self, turn: Turn) -> None:
        if turn.sent_bytes > 0 and not turn.is_commit_sent:
            self._outbox.send(wire.InputAudioBufferClear())

    def _on_overrun(self, now: float) -> None:
        turn = self._turn
        if turn is not None and turn.phase is Phase.LISTENING:
            self._report("overrun", now)
            self._end_capture(turn, now)

    # --- what is said in writing --------------------------------------------------------------------------------

    def _on_message(self, event: MessageGiven, now: float) -> None:
        is_busy_listening = self._turn is not None and self._turn.phase is Phase.LISTENING
        if not event.wants_answer or is_busy_listening:
            self._create_item(event.item, text=event.text)  # a turn that is being spoken answers for it
            return
        turn = self._start_turn(now, kind="message")
        turn.phase = Phase.COMMITTING
        turn.deadline = now + self._policy.link_wait_s
        turn.message = event.item
        turn.item_id = str(event.item["id"])
        turn.heard_text = event.text

    def _create_item(self, item: Mapping[str, Any], *, text: str) -> None:
        """Put an item of ours into the conversation, here at once and on the server when there is one."""
        images = [str(part["image_url"]) for part in item.get("content", ()) if "image_url" in part]
        known = HistoryItem(id=str(item["id"]), role=str(item["role"]), text=text, images=tuple(images))
        self._tell(self._history.insert(known, None))
        self._outbox.send(wire.ConversationItemCreate(event_id=f"item_{item['id']}", item=dict(item)))

    def _on_frame_given(self, event: FrameGiven, now: float) -> None:
        frame = dict(event.frame)
        if self._outbox.link is None:
            self._report("not_connected", now, detail=f"{frame.get('type')}: there is no connection to send it on")
            return
        response = frame.get("response") or {}
        if frame.get("type") == "response.create" and response.get("conversation") != "none":
            # It would take the slot: it is a wish like any other, and gets what it asked for.
            turn = self._start_turn(now, kind="message")
            turn.phase = Phase.ANSWERING
            turn.is_commit_sent = True
            turn.response = response
            turn.deadline = now + self._policy.answer_s
            self._sequencer.want(turn.id)
            return
        if frame.get("type") == "session.update":
            event_id = str(frame.setdefault("event_id", self._outbox.next_event_id()))
            self._updates.append(_Update(event_id, "raw", frame.get("session") or {}))
        self._outbox.send(wire.RawClientEvent(frame=frame))

    def _on_history_replaced(self, event: HistoryReplaced) -> None:
        deletes, creates = self._history.diff(event.items)
        for item_id in deletes:
            self._tell(self._history.remove(item_id))
            self._outbox.send(wire.ConversationItemDelete(event_id=f"item_{item_id}", item_id=item_id))
        for item, previous in creates:
            frame = wire_item(item)
            if frame is None:
                continue
            self._tell(self._history.insert(item, previous))
            # The one before may be an item that cannot be written; then the order is kept by what is there.
            at = self._history.before(item.id)
            self._outbox.send(
                wire.ConversationItemCreate(event_id=f"item_{item.id}", item=frame, previous_item_id=at or "root")
            )

    # --- ending turns -------------------------------------------------------------------------------------------

    def _interrupt(self, now: float) -> None:
        """Stop the answer and listen to nothing; what is being spoken by the user goes on."""
        turn = self._turn
        if turn is not None and turn.phase is Phase.LISTENING:
            return
        self._stop_answer(now)
        self._end_turn("interrupted", now)

    def _stop_answer(self, now: float, *, must_cancel: bool = True) -> None:
        """Flush, truncate what was not heard whole, cancel: the one path of interruption.

        Args:
            now: Monotonic seconds.
            must_cancel: False where the server is known to cancel by itself.
        """
        was_playing = self._playout.is_pending
        queued = {one.item_id for one in self._playout.heard()}
        cut = self._playout.flush()
        self._do(FlushPlayback(self._playout.epoch))
        if was_playing and cut:
            self._outbox.emit(AnswerInterrupted(cut[0].item_id, cut[0].heard_ms))
        if self._links.main is not None and self._playout_link == self._links.main.id:
            for one in cut:
                self._outbox.send(
                    wire.ConversationItemTruncate(
                        item_id=one.item_id, content_index=one.content_index, audio_end_ms=one.heard_ms
                    )
                )
        for one in cut:
            self._tell(self._history.cut(one.item_id, one.heard_ms, one.received_frames // _FRAMES_PER_MS))
        for item_id in self._guard.held_items - queued:
            self._forget_unheard(item_id)
        self._guard.reset()
        response_id = self._sequencer.cancel(now + self._policy.cancel_s)
        if response_id is not None and must_cancel:
            self._outbox.send(wire.ResponseCancel(response_id=response_id))

    def _forget_unheard(self, item_id: str) -> None:
        """Nobody heard a word of it: the model is not to believe that it was said."""
        item = self._history.get(item_id)
        if item is None or item.status == "in_progress":
            self._unheard.add(item_id)
            return
        self._unheard.discard(item_id)
        self._tell(self._history.remove(item_id))
        self._outbox.send(wire.ConversationItemDelete(event_id=f"item_{item_id}", item_id=item_id))

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
        self._end_turn(outcome, now)

    def _end_turn(self, outcome: _Outcome, now: float) -> None:
        turn = self._turn
        if turn is None:
            return
        for call in self._calls:
            if call.turn == turn.id:
                self._release_call(call)
        self._turn = None
        self._guard.reset()
        if turn.agent:
            self._outbox.emit(AgentEnded(turn.agent, turn.said))
        spoken = turn.frames * turn.was_spoken + turn.answer_frames
        if spoken:
            self._count(None, {}, spoken / wire.SAMPLE_RATE, now)
        self._outbox.emit(TurnEnded(turn.id, outcome, tuple(sorted(turn.usage.items()))))

    def _release_call(self, call: Call) -> None:
        """The turn of a call is over: what has not begun never will, what can be cancelled is, the rest runs on."""
        if call.stage is not Stage.RUNNING:
            self._answer_call(call, "The user did not approve this call.", is_error=True)
        elif call.card is not None and call.card.is_cancellable:
            self._do(CancelTool(call.call_id))
            self._answer_call(call, "The user interrupted, so this call was cancelled.", is_error=True)

    def _drop_calls(self, turn: Turn) -> None:
        for call_id in turn.open_calls:
            self._calls.pop(call_id)
            self._do(CancelTool(call_id))
        turn.open_calls.clear()

    def _report(self, kind: str, now: float, *, detail: str = "", flash: bool = True) -> None:
        self._trouble = kind
        if flash:
            self._error_until = now + self._policy.error_light_s
        self._outbox.emit(TroubleReported(kind, detail or sentence(kind)))

    # --- the server ---------------------------------------------------------------------------------------------

    def _on_server_event(self, link: Link, event: wire.ServerEvent, now: float) -> None:
        if self._asides.owns(event):
            self._count_response(event, now)
            return
        self._tell(self._history.apply(event))
        match event:
            case wire.SessionCreated():
                self._on_session_created(link, event, now)
            case wire.SessionUpdated():
                self._on_session_updated(event, now)
            case wire.ErrorEvent():
                self._on_error(link, event.error, now)
            case wire.SpeechStarted():
                self._on_speech_started(event, now)
            case wire.InputAudioBufferCommitted():
                self._on_committed(event, now)
            case wire.InputTranscriptionDelta():
                self._outbox.emit(HeardTextGrew(event.item_id, event.delta))
            case wire.InputTranscriptionCompleted():
                self._on_heard(event, now)
            case wire.InputTranscriptionFailed():
                if self._turn is not None and self._turn.item_id == event.item_id and not self._turn.is_checked:
                    self._refuse_input(self._turn, "transcript", "what you said could not be written down", now)
            case wire.ResponseCreated():
                self._on_response_created(event.response, now)
            case wire.OutputAudioDelta():
                self._on_output_audio(link, event, now)
            case wire.OutputAudioTranscriptDelta() | wire.OutputTextDelta():
                self._on_output_text(event.response_id, event.item_id, event.delta, now, is_final=False)
            case wire.OutputAudioTranscriptDone():
                self._on_output_text(event.response_id, event.item_id, event.transcript, now, is_final=True)
            case wire.OutputTextDone():
                self._on_output_text(event.response_id, event.item_id, event.text, now, is_final=True)
            case wire.OutputItemAdded():
                if event.item.type == "mcp_call" and self._answering(event.response_id) is not None:
                    self._on_mcp_call(event.item, now)
            case wire.OutputItemDone():
                self._on_output_item_done(event, now)
            case wire.McpCallCompleted() | wire.McpCallFailed():
                self._on_mcp_call_ended(event.item_id, now)
            case wire.McpListToolsFailed():
                self._report("server_error", now, detail="the list of an MCP server's tools could not be read")
            case wire.ResponseDone():
                self._on_response_done(event.response, now)
            case _:
                pass  # nothing else is needed for progress (PROTOCOL.md §8: the minimal contract)

    def _on_speech_started(self, event: wire.SpeechStarted, now: float) -> None:
        """The server's ear hears the user: a barge-in, and a turn that the server will end."""
        ear = self._brief.ear
        if ear is None:
            return
        turn = self._turn
        if turn is None or turn.phase is not Phase.LISTENING:
            if ear.get("interrupt_response", True):
                self._sequencer.cancelled_by_server(now + self._policy.cancel_s)
            turn = self._start_turn(now, kind="vad")
            turn.is_cleared = True
            turn.sent_bytes = len(turn.audio)
        turn.item_id = event.item_id

    def _on_committed(self, event: wire.InputAudioBufferCommitted, now: float) -> None:
        turn = self._turn
        ear = self._brief.ear
        if ear is not None and (turn is None or turn.kind == "vad"):
            turn = turn or self._start_turn(now, kind="vad")  # an idle user is prompted without having spoken
            self._on_committed_by_server(turn, ear, now)
        elif turn is None or not turn.is_commit_sent or turn.phase is not Phase.COMMITTING:
            return
        turn.item_id = event.item_id
        self._turn_of_item[event.item_id] = turn.id
        while len(self._turn_of_item) > _REMEMBERED_ITEMS:
            self._turn_of_item.popitem(last=False)
        self._to_answering(turn, now)

    def _on_committed_by_server(self, turn: Turn, ear: Mapping[str, Any], now: float) -> None:
        turn.is_cleared = turn.is_commit_sent = turn.was_spoken = True
        turn.phase = Phase.COMMITTING
        if ear.get("create_response", True):
            self._sequencer.asked(turn.id, "")
            self._begin_answer(turn, now)
        else:
            self._begin_checks(turn, now)
            self._sequencer.want(turn.id)

    def _to_answering(self, turn: Turn, now: float) -> None:
        if turn.phase is Phase.COMMITTING:
            turn.phase = Phase.ANSWERING
        turn.deadline = now + self._policy.answer_s

    def _on_heard(self, event: wire.InputTranscriptionCompleted, now: float) -> None:
        text = event.transcript.strip()
        turn_id = self._turn_of_item.get(event.item_id)
        if turn_id is not None:
            self._outbox.emit(HeardTextReceived(turn_id, text))
        self._count(transcription_usd(self._transcriber, event.usage), {}, 0.0, now, is_free=event.usage is None)
        turn = self._turn
        if turn is not None and turn.item_id == event.item_id:
            turn.heard_text = text
            if not turn.is_checked:
                self._do(CheckText(f"input_{turn.id}", self._brief.agent, "input", text))

    def _on_response_created(self, response: wire.Response, now: float) -> None:
        match self._sequencer.created(response):
            case Arrival.ACCEPT:
                if self._turn is not None and self._turn.phase is not Phase.LISTENING:
                    self._to_answering(self._turn, now)
            case Arrival.CANCEL:
                self._outbox.send(wire.ResponseCancel(response_id=response.id))
            case Arrival.IGNORE:
                pass

    def _answering(self, response_id: str) -> Turn | None:
        """The turn that this response answers now; None for anything late, cancelled or foreign."""
        turn = self._turn
        request = self._sequencer.request
        if turn is None or turn.phase is Phase.LISTENING or request is None or request.turn != turn.id:
            return None
        return turn if self._sequencer.is_current(response_id) else None

    def _on_output_audio(self, link: Link, event: wire.OutputAudioDelta, now: float) -> None:
        turn = self._answering(event.response_id)
        if turn is None or not event.delta:
            return
        self._to_answering(turn, now)
        link.has_spoken = True
        turn.has_output = turn.has_audio = True
        turn.audio.clear()
        turn.sent_bytes = 0
        turn.answer_frames += len(event.delta) // 2
        if self._is_guarded and self._policy.hold_audio:
            self._guard.hold(event.item_id, event.content_index, event.delta)
            self._release(turn, now)
        else:
            self._play(turn, event.item_id, event.content_index, event.delta, now)

    @property
    def _is_guarded(self) -> bool:
        return self._brief.has_output_guardrails

    def _play(self, turn: Turn, item_id: str, content_index: int, pcm: bytes, now: float) -> None:
        if not self._playout.is_pending:
            self._played_at = now
        turn.must_finish = True
        self._playout_link = self._links.main.id if self._links.main else 0
        self._playout.queue(item_id, content_index, len(pcm) // 2)
        self._do(Play(self._playout.epoch, item_id, pcm))

    def _release(self, turn: Turn, now: float) -> None:
        """Play what the guardrails have let pass."""
        for piece in self._guard.release():
            self._play(turn, piece.item_id, piece.content_index, piece.pcm, now)
        if not turn.is_response_open and not self._guard.held_items:
            self._finish_play(turn)

    def _finish_play(self, turn: Turn) -> None:
        if turn.must_finish:
            turn.must_finish = False
            self._do(FinishPlay(self._playout.epoch))
            items = self._playout.heard()
            self._outbox.emit(AnswerAudioEnded(items[-1].item_id if items else ""))

    def _on_output_text(self, response_id: str, item_id: str, text: str, now: float, *, is_final: bool) -> None:
        turn = self._answering(response_id)
        if turn is None or not (text or is_final):
            return
        self._to_answering(turn, now)
        if text:
            turn.has_output = turn.has_text = True
            if is_final:
                turn.said = f"{turn.said} {text.strip()}".strip()
            self._outbox.emit(AnswerTextReceived(turn.id, text, is_final))
        if self._is_guarded:
            grew = self._guard.ended if is_final else self._guard.grew
            self._check(grew(item_id, text, now))

    def _on_output_item_done(self, event: wire.OutputItemDone, now: float) -> None:
        turn = self._answering(event.response_id)
        if turn is not None:
            self._on_output_item(event.item, now)
        elif event.item.id in self._unheard or self._is_never_heard(event.item):
            self._forget_unheard(event.item.id)

    def _is_never_heard(self, item: wire.Item) -> bool:
        """An answer that came too late to be played at all."""
        known = self._history.get(item.id)
        if item.type != "message" or item.role != "assistant" or known is None or known.heard_ms is not None:
            return False
        return all(one.item_id != item.id for one in self._playout.heard())

    def _on_response_done(self, response: wire.Response, now: float) -> None:
        turn = self._answering(response.id)
        request = self._sequencer.done(response)
        self._count(
            response_usd(self._model, response.usage), response.usage or {}, 0.0, now, is_free=not response.usage
        )
        if turn is None or request is None or request.is_cancelled:
            return
        self._to_answering(turn, now)
        turn.is_response_open = False
        turn.add_usage(response.usage)
        for item in response.output:
            self._on_output_item(item, now)
        if self._is_guarded:
            for check in self._guard.all_ended(now):
                self._check(check)
        self._release(turn, now)
        if response.status == "failed":
            turn.failure = "answer_failed"
            turn.failure_detail = response.error.message if response.error else ""
        elif response.status == "cancelled" and self._brief.ear is not None and not turn.has_output:
            self._end_turn("interrupted", now)  # the server's ear heard the user again
            return
        if any(item.type == "message" and item.role == "assistant" for item in response.output):
            turn.seen_calls -= turn.mcp_calls  # the model has spoken about them already
        if turn.seen_calls and not turn.failure:
            self._ask_again(turn)
        else:
            turn.is_answer_done = True

    def _ask_again(self, turn: Turn) -> None:
        """Once a response is done and all its calls are answered, the model speaks on: asked for exactly once."""
        if turn.is_response_open or turn.open_calls or not turn.seen_calls:
            return
        wants_answer = bool(turn.seen_calls - turn.background_calls)
        turn.seen_calls.clear()
        turn.background_calls.clear()
        turn.mcp_calls.clear()
        turn.rounds += 1
        if wants_answer:
            self._sequencer.want(turn.id)
        else:
            turn.is_answer_done = turn.is_background = True

    def _on_session_updated(self, event: wire.SessionUpdated, now: float) -> None:
        """The server has accepted an update; which one, its content or their order tells."""
        transcription = (event.session.get("audio") or {}).get("input", {}).get("transcription") or {}
        self._transcriber = str(transcription.get("model") or "")
        instructions = event.session.get("instructions")
        fits = [one for one in self._updates if one.session.get("instructions", instructions) == instructions]
        if not self._updates:
            return
        accepted = fits[0] if fits else self._updates[0]
        while self._updates.popleft() is not accepted:
            pass
        if accepted.kind == "handoff":
            self._hand_over(accepted, now)

    def _on_error(self, link: Link, error: wire.ErrorDetail, now: float) -> None:
        link.last_error = error.code or error.type
        turn = self._turn
        update = next((one for one in self._updates if one.event_id == error.event_id), None)
        if update is not None:
            self._updates.remove(update)
            self._on_update_refused(link, update, error, now)
        elif self._asides.refused(error):
            pass
        elif error.code == "conversation_already_has_active_response":
            if self._sequencer.refused(error.event_id, now + self._policy.refused_retry_s) and turn is not None:
                turn.is_response_open = False
        elif error.event_id is not None and (request := self._sequencer.abandon(error.event_id)) is not None:
            if turn is not None and request.turn == turn.id:
                self._fail_turn("answer_failed", now, detail=error.message)
        elif turn is not None and error.event_id == f"commit_{turn.id}_{turn.replays}":
            self._fail_turn("server_error", now, detail=error.message)
        elif error.event_id is not None and error.event_id.startswith("item_"):
            self._on_item_refused(error, now)
        elif link.is_ready and error.code not in _BENIGN and not _is_truncate_race(error):
            self._report("server_error", now, detail=error.message)

    def _on_update_refused(self, link: Link, update: _Update, error: wire.ErrorDetail, now: float) -> None:
        if update.kind == "connect":
            self._do(Disconnect(link.id))
            self._report("server_error", now, detail=error.message)
            self._lose_link(Verdict("fatal", "settings_refused", sentence("settings_refused")), now)
        elif update.kind == "handoff":
            self._fail_handoff(update.call_id, error.message, now)
        else:
            self._report("server_error", now, detail=error.message)

    def _on_item_refused(self, error: wire.ErrorDetail, now: float) -> None:
        """An item that we wrote, or deleted, is not on the server: so it is not here."""
        item_id = (error.event_id or "").removeprefix("item_")
        self._tell(self._history.remove(item_id))
        self._report("item_refused", now, detail=error.message)
        turn = self._turn
        if turn is not None and turn.kind == "message" and turn.item_id == item_id:
            self._fail_turn("server_error", now, detail=error.message)

    # --- before an answer is asked for: instructions and input guardrails ---------------------------------------

    def _begin_checks(self, turn: Turn, now: float) -> None:
        brief = self._brief
        if brief.is_asked_at_turn:
            turn.is_briefed = False
            self._do(PrepareAgent(f"turn_{turn.id}_{turn.replays}", brief.agent, "turn"))
        if brief.has_input_guardrails and turn.is_checked and turn.trips == 0 and not turn.was_let_in:
            turn.is_checked = False
            if turn.heard_text is not None:
                self._do(CheckText(f"input_{turn.id}", brief.agent, "input", turn.heard_text))
        wait_s = self._policy.prepare_s if turn.is_checked else self._policy.transcript_s + self._policy.guardrail_s
        turn.check_deadline = now + wait_s

    def _on_checks_late(self, turn: Turn, now: float) -> None:
        if not turn.is_checked:
            self._refuse_input(turn, "guardrail", "what you said could not be checked in time", now)
        elif not turn.is_briefed:
            self._report("instructions_late", now)
            turn.is_briefed = True

    def _refuse_input(self, turn: Turn, name: str, reason: str, now: float) -> None:
        """What the user said is not to be answered: the model is not to know it either."""
        self._outbox.emit(GuardrailTripped(turn.id, "input", turn.item_id, name, reason))
        if turn.item_id and self._history.get(turn.item_id) is not None:
            self._tell(self._history.remove(turn.item_id))
            self._outbox.send(wire.ConversationItemDelete(event_id=f"item_{turn.item_id}", item_id=turn.item_id))
        self._fail_turn("refused", now, detail=f"{name}: {reason}", outcome="refused")

    def _on_agent_prepared(self, event: AgentPrepared, now: float) -> None:
        kind, _, rest = event.key.partition("_")
        turn, link = self._turn, self._links.main
        if kind == "handoff":
            self._on_handoff_prepared(rest, event, now)
            return
        if event.brief is None:
            self._report("instructions_late", now, detail=event.problem)
        if kind == "connect":
            if link is not None and rest == str(link.id) and not link.is_configured:
                self._brief = event.brief or self._brief
                self._configure(link)
        elif turn is not None and event.key == f"turn_{turn.id}_{turn.replays}" and not turn.is_briefed:
            turn.is_briefed = True
            if event.brief is not None and event.brief != self._brief and event.brief.agent == self._brief.agent:
                self._brief = event.brief
                self._update_session(_Update(f"turn_{turn.id}", "turn", self._session_of(event.brief)))

    # --- guardrails on the answer -------------------------------------------------------------------------------

    def _check(self, check: Check | None) -> None:
        if check is not None:
            self._do(CheckText(check.key, self._brief.agent, "output", check.text))

    def _on_guardrails_checked(self, event: GuardrailsChecked, now: float) -> None:
        turn = self._turn
        if turn is None:
            return
        if event.key == f"input_{turn.id}":
            if turn.is_checked:
                return
            if event.tripped:
                self._refuse_input(turn, event.tripped, event.reason, now)
            else:
                turn.is_checked = turn.was_let_in = True
            return
        check = self._guard.pending(event.key)
        if check is None:
            return  # of an answer that is over
        if event.tripped:
            self._trip(turn, check, event.tripped, event.reason, now)
        else:
            self._guard.passed(event.key)
            self._release(turn, now)

    def _trip(self, turn: Turn, check: Check, name: str, reason: str, now: float) -> None:
        """An answer must not go on: stop it, tell the model why, and let it try again, but not for ever."""
        self._outbox.emit(GuardrailTripped(turn.id, "output", check.item_id, name, reason))
        self._drop_calls_of_trip(turn)
        self._stop_answer(now)
        turn.trips += 1
        turn.said = ""
        turn.is_response_open = False
        turn.seen_calls.clear()
        self._say_as_system(
            f"Your last answer was stopped by the guardrail {name!r}"
            + (f" ({reason})" if reason else "")
            + ". The user has not heard the rest of it. Do not repeat it; answer in another way."
        )
        if turn.trips >= self._policy.max_trips:
            self._fail_turn("stopped", now, detail=f"{name}: {reason}", outcome="refused")
        else:
            turn.deadline = now + self._policy.answer_s
            self._sequencer.want(turn.id)

    def _drop_calls_of_trip(self, turn: Turn) -> None:
        """Calls of the stopped answer: none begins any more; what runs is answered, and not spoken about."""
        for call in self._calls:
            if call.turn == turn.id:
                self._release_call(call)
        turn.open_calls.clear()

    def _say_as_system(self, text: str) -> None:
        item = {
            "id": self._history.new_id(),
            "type": "message",
            "role": "system",
            "content": [{"type": "input_text", "text": text}],
        }
        self._create_item(item, text=text)

    # --- tools --------------------------------------------------------------------------------------------------

    def _on_output_item(self, item: wire.Item, now: float) -> None:
        turn, link = self._turn, self._links.main
        if turn is None or link is None:
            return
        if item.type == "mcp_approval_request":
            self._on_mcp_approval(item, turn, link, now)
        elif item.type == "mcp_call":
            self._on_mcp_call_ended(item.id, now)
        if item.type != "function_call" or item.status in ("incomplete", "in_progress"):
            return
        if not item.call_id or item.call_id in self._calls or item.call_id in turn.seen_calls:
            return
        call = Call(
            call_id=item.call_id,
            kind="tool",
            name=item.name,
            arguments=item.arguments,
            agent=self._brief.agent,
            turn=turn.id,
            link=link.id,
            asked_at=now,
            deadline=now + self._policy.tool_s,
        )
        self._open_call(turn, call)
        handoff = self._brief.handoff(item.name)
        if item.name in self._brief.disabled:
            self._refuse_call(call, f"The tool {item.name} is not available now.", now)
        elif handoff is not None:
            call.kind, call.handoff = "handoff", handoff
            self._begin_handoff(call, now)
        elif (card := self._brief.tool(item.name)) is not None:
            call.card = card
            self._begin_tool(call, now)
        else:
            self._refuse_call(call, f"There is no tool {item.name!r}; there are: {self._tool_names()}.", now)

    def _open_call(self, turn: Turn, call: Call) -> None:
        turn.has_output = True
        turn.seen_calls.add(call.call_id)
        turn.open_calls.add(call.call_id)
        self._calls.add(call)

    def _tool_names(self) -> str:
        names = [one.name for one in self._brief.tools or ()] + [one.name for one in self._brief.handoffs]
        return ", ".join(sorted(set(names) - set(self._brief.disabled))) or "none"

    def _begin_tool(self, call: Call, now: float) -> None:
        assert call.card is not None
        decided = self._calls.decided(call)
        if call.card.approval == "never" or (decided is not None and decided[0]):
            self._run(call, now)
        elif decided is not None:
            self._refuse_call(call, decided[1], now)
        elif call.card.approval == "asked":
            call.stage = Stage.CHECKING
            self._do(CheckApproval(call.call_id, call.name, call.arguments, call.agent))
        else:
            self._request_approval(call, now)

    def _request_approval(self, call: Call, now: float) -> None:
        call.stage = Stage.APPROVAL
        call.asked_at = now
        call.deadline = now + self._policy.approval_s
        self._do(PlayEarcon(self._playout.epoch, "approval"))
        self._outbox.emit(ApprovalRequested(call.turn, call.call_id, call.name, call.arguments, call.agent))

    def _on_approval_checked(self, event: ApprovalChecked, now: float) -> None:
        call = self._calls.get(event.call_id)
        if call is None or call.stage is not Stage.CHECKING:
            return
        if event.problem:
            self._refuse_call(call, event.problem, now)
        elif event.needed:
            self._request_approval(call, now)
        else:
            self._run(call, now)

    def _on_approval_answered(self, event: ApprovalAnswered, now: float) -> None:
        call = self._calls.get(event.call_id)
        if call is None or not call.awaits_approval:
            return
        message = event.message or "The user rejected this call."
        if event.always:
            self._calls.decide_always(call, event.approved, message)
        if event.approved:
            self._approve(call, now)
        else:
            self._reject(call, message, now)

    def _approve(self, call: Call, now: float) -> None:
        if call.kind == "mcp":
            self._answer_mcp_approval(call, now, approved=True)
        else:
            self._run(call, now)

    def _reject(self, call: Call, output: str, now: float) -> None:
        if call.kind == "mcp":
            self._answer_mcp_approval(call, now, approved=False, reason=output)
        else:
            self._refuse_call(call, output, now)

    def _refuse_call(self, call: Call, output: str, now: float) -> None:
        """Answer a call without making it."""
        call.stage = Stage.RUNNING
        self._outbox.emit(ToolStarted(call.turn, call.call_id, call.name, call.arguments, call.agent))
        self._close_call(call, output, now, is_error=True)

    def _run(self, call: Call, now: float) -> None:
        card = call.card
        limit_s = self._policy.tool_s if card is None or card.timeout_s is None else card.timeout_s + _TOOL_GRACE_S
        call.stage = Stage.RUNNING
        call.deadline = now + limit_s
        if card is not None and card.working_after_s is not None:
            call.working_at = now + card.working_after_s
        self._outbox.emit(ToolStarted(call.turn, call.call_id, call.name, call.arguments, call.agent))
        self._do(RunTool(call.call_id, call.name, call.arguments, call.agent))

    def _on_call_working(self, call: Call) -> None:
        """A tool takes a while: the user hears that something goes on, unless there is something to hear anyway."""
        if call.turn != self.turn_id or self._playout.is_pending:
            return
        self._do(PlayEarcon(self._playout.epoch, "working"))
        if call.card is not None and call.card.filler:
            self._do(Announce(self._playout.epoch, call.card.filler, "working"))

    def _on_call_late(self, call: Call, now: float) -> None:
        if call.awaits_approval:
            self._reject(call, "The user did not answer, so this call was not made.", now)
        elif call.stage is Stage.CHECKING:
            self._request_approval(call, now)  # nobody said that it needs none
        elif call.kind == "handoff":
            self._fail_handoff(call.call_id, "it took too long", now)
        elif call.kind == "mcp":
            self._report("tool_late", now, detail=f"the MCP server's {call.name} took too long")
            self._on_mcp_call_ended(call.call_id, now)
        else:
            self._do(CancelTool(call.call_id))
            self._report("tool_late", now, detail=f"{call.name} took longer than {now - call.asked_at:.0f} s")
            self._close_call(call, f"The tool {call.name} took too long and was given up.", now, is_error=True)

    def _on_tool_finished(self, event: ToolFinished, now: float) -> None:
        call = self._calls.get(event.call_id)
        if call is not None and call.kind == "tool" and call.stage is Stage.RUNNING:
            if event.is_background and self._turn is not None and self._turn.id == call.turn:
                self._turn.background_calls.add(call.call_id)
            self._close_call(call, event.output, now, is_error=event.is_error)

    def _close_call(self, call: Call, output: str, now: float, *, is_error: bool) -> None:
        self._answer_call(call, output, is_error=is_error)
        self._settle_call(call, now)

    def _settle_call(self, call: Call, now: float) -> None:
        """A call is answered: when it was the last one, its turn goes on."""
        turn = self._turn
        if turn is not None and turn.id == call.turn:
            turn.open_calls.discard(call.call_id)
            turn.deadline = now + self._policy.answer_s
            self._ask_again(turn)

    def _answer_call(self, call: Call, output: str, *, is_error: bool) -> None:
        """Give the model the output; also after a barge-in, for a call without output confuses it for good."""
        self._calls.pop(call.call_id)
        if call.kind == "mcp":
            if call.awaits_approval:
                self._send_mcp_verdict(call, approved=False, reason=output)
            return
        self._outbox.emit(ToolEnded(call.turn, call.call_id, call.name, output, is_error, call.agent))
        if self._links.main is not None and self._links.main.id == call.link:
            item_id = self._history.new_id()
            item = {"id": item_id, "type": "function_call_output", "call_id": call.call_id, "output": output}
            told = HistoryItem(id=item_id, type="function_call_output", call_id=call.call_id, output=output)
            self._tell(self._history.insert(told, None))
            self._outbox.send(wire.ConversationItemCreate(event_id=f"item_{item_id}", item=item))

    # --- calls of MCP servers on the far side -------------------------------------------------------------------

    def _mcp_call(self, item: wire.Item, turn: Turn, link: Link, now: float) -> Call:
        return Call(
            call_id=item.id,
            kind="mcp",
            name=f"{item.server_label}.{item.name}",
            arguments=item.arguments,
            agent=self._brief.agent,
            turn=turn.id,
            link=link.id,
            asked_at=now,
            deadline=now + self._policy.tool_s,
        )

    def _on_mcp_approval(self, item: wire.Item, turn: Turn, link: Link, now: float) -> None:
        if not item.id or item.id in self._calls or item.id in turn.seen_calls:
            return
        call = self._mcp_call(item, turn, link, now)
        self._open_call(turn, call)
        decided = self._calls.decided(call)
        if decided is None:
            self._request_approval(call, now)
        else:
            self._answer_mcp_approval(call, now, approved=decided[0], reason=decided[1])

    def _answer_mcp_approval(self, call: Call, now: float, *, approved: bool, reason: str = "") -> None:
        self._calls.pop(call.call_id)
        self._send_mcp_verdict(call, approved=approved, reason=reason)
        self._settle_call(call, now)

    def _send_mcp_verdict(self, call: Call, *, approved: bool, reason: str) -> None:
        if self._links.main is None or self._links.main.id != call.link:
            return
        item: dict[str, Any] = {
            "id": self._history.new_id(),
            "type": "mcp_approval_response",
            "approval_request_id": call.call_id,
            "approve": approved,
        }
        if not approved and reason:
            item["reason"] = reason
        self._tell(self._history.insert(HistoryItem(id=item["id"], type="mcp_approval_response"), None))
        self._outbox.send(wire.ConversationItemCreate(event_id=f"item_{item['id']}", item=item))

    def _on_mcp_call(self, item: wire.Item, now: float) -> None:
        """The server runs a call itself: the turn waits for it, as for one of ours."""
        turn, link = self._turn, self._links.main
        if turn is None or link is None or not item.id or item.id in self._calls or item.id in turn.mcp_calls:
            return
        call = self._mcp_call(item, turn, link, now)
        self._open_call(turn, call)
        turn.mcp_calls.add(item.id)
        self._outbox.emit(ToolStarted(call.turn, call.call_id, call.name, call.arguments, call.agent))

    def _on_mcp_call_ended(self, item_id: str, now: float) -> None:
        call = self._calls.get(item_id)
        if call is None or call.kind != "mcp" or call.awaits_approval:
            return
        self._calls.pop(item_id)
        item = self._history.get(item_id)
        self._outbox.emit(ToolEnded(call.turn, call.call_id, call.name, item.output if item else "", False, call.agent))
        self._settle_call(call, now)

    # --- handoffs -----------------------------------------------------------------------------------------------

    def _begin_handoff(self, call: Call, now: float) -> None:
        assert call.handoff is not None
        if self._calls.handoff is not call:
            self._refuse_call(call, "Another handoff is under way; this one was not made.", now)
            return
        self._outbox.emit(ToolStarted(call.turn, call.call_id, call.name, call.arguments, call.agent))
        self._do(
            PrepareAgent(
                f"handoff_{call.call_id}", call.handoff.agent, "handoff", call.agent, call.name, call.arguments
            )
        )

    def _on_handoff_prepared(self, call_id: str, event: AgentPrepared, now: float) -> None:
        call = self._calls.get(call_id)
        if call is None or call.kind != "handoff" or call.brief is not None:
            return
        if event.brief is None:
            self._close_call(call, event.problem or "The handoff failed.", now, is_error=True)
            return
        call.brief = event.brief
        update = _Update(f"handoff_{call_id}", "handoff", self._session_of(event.brief), event.brief, call_id)
        self._update_session(update)

    def _hand_over(self, update: _Update, now: float) -> None:
        """The server has accepted the new agent: from here on it talks."""
        assert update.brief is not None
        before, self._brief = self._brief, update.brief
        turn = self._turn
        if turn is not None and turn.agent:
            self._outbox.emit(AgentEnded(before.agent, turn.said))
        self._outbox.emit(HandedOver(before.agent, self._brief.agent))
        if turn is not None and turn.agent:
            turn.agent, turn.said = self._brief.agent, ""
            self._outbox.emit(AgentStarted(turn.agent))
        call = self._calls.get(update.call_id)
        if call is not None:
            if turn is not None and turn.id == call.turn and call.handoff is not None:
                turn.first_sentence = call.handoff.first_sentence
            self._close_call(call, f'{{"assistant": "{self._brief.agent}"}}', now, is_error=False)

    def _fail_handoff(self, call_id: str, reason: str, now: float) -> None:
        """The server did not take the new agent: the old one goes on."""
        call = self._calls.get(call_id)
        if call is None:
            return
        self._report("handoff_failed", now, detail=f"{call.name}: {reason}")
        sent = [one for one in self._updates if one.call_id == call_id]
        if sent:  # nobody knows what holds on the server now
            self._updates = deque(replace(one, kind="rollback") if one in sent else one for one in self._updates)
            self._update_session(_Update(f"rollback_{call_id}", "rollback", self._session_of(self._brief)))
        self._close_call(call, f"The handoff failed: {reason}. You are still {call.agent}.", now, is_error=True)

    # --- usage and budget ---------------------------------------------------------------------------------------

    def _count_response(self, event: wire.ServerEvent, now: float) -> None:
        if isinstance(event, wire.ResponseDone):
            usage = event.response.usage
            self._count(response_usd(self._model, usage), usage or {}, 0.0, now, is_free=not usage)

    def _count(
        self, usd: float | None, usage: Mapping[str, Any], audio_s: float, now: float, *, is_free: bool = False
    ) -> None:
        """Add to the day's account; what the offline brain does costs nothing."""
        link = self._links.main
        if is_free or (link is not None and link.endpoint == self._policy.offline_endpoint):
            return
        percent = self._budget.add(usd, audio_s)
        counted = Turn("", 0.0, 0.0)
        counted.add_usage(usage)
        self._outbox.emit(
            UsageCounted(
                tuple(sorted(counted.usage.items())), usd, audio_s, self._budget.spent_usd, self._budget.spent_s
            )
        )
        if percent is not None:
            message = self._budget.sentence(percent)
            self._outbox.emit(BudgetReached(percent, message))
            if percent >= 100:
                takes_over = self._policy.offline_endpoint is not None
                self._do(Announce(self._playout.epoch, message + " I go on offline." * takes_over, "offline"))
                self._restrict_links(now)

    # --- the rest of the device ---------------------------------------------------------------------------------

    def _restrict_links(self, now: float) -> None:
        """With the budget spent, only the offline brain may answer."""
        is_spent = self._budget.is_spent and self._policy.offline_endpoint is not None
        self._links.restrict(self._policy.offline_endpoint if is_spent else None, now)

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

    def _shut_down(self, reason: str, now: float) -> None:
        """End cleanly: tell the server what was heard, say goodbye to the link, and stop."""
        self._stop_answer(now)
        turn = self._turn
        if turn is not None:
            self._drop_calls(turn)
            if turn.phase is Phase.LISTENING:
                self._clear_server_buffer(turn)
            self._end_turn("cancelled", now)
        self._asides.lose()
        for link in (self._links.main, self._links.spare):
            if link is not None:
                self._do(Disconnect(link.id))
        self._is_stopped = True
        self._do(Stop(reason))


def _is_truncate_race(error: wire.ErrorDetail) -> bool:
    """ "Audio content of 9250ms is already shorter than 57340ms": no code, and no harm."""
    return (error.code or "").startswith("item_truncate") or "already shorter than" in error.message
