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

from collections import deque
from collections.abc import Mapping
from typing import Any, assert_never

from appliance.conversation.commands import (
    AsideEnded,
    CancelTool,
    CloseCapture,
    Command,
    Disconnect,
    HeardTextGrew,
    Stop,
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
from appliance.conversation.links import Link
from appliance.conversation.listening import Listening
from appliance.conversation.regions import FRAMES_PER_MS, SessionUpdateSent
from appliance.conversation.retry import Verdict, classify
from appliance.conversation.troubles import sentence
from appliance.conversation.turn import Phase, Turn
from appliance.realtime import protocol as wire

__all__ = ["Conversation"]

_APPEND_BYTES = 2 * 20 * FRAMES_PER_MS  # one period a frame: a press is on the wire at once, a replay as quick as any
_BENIGN = frozenset({"response_cancel_not_active", "conversation_already_has_active_response", "session_expired"})
"""Errors of races that are part of the protocol (PROTOCOL.md §2.7), and one whose close frame says it again."""


class Conversation(Listening):
    """The pure core of the appliance."""

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
                self._begin_by_program(now)
            case CommitAsked():
                if self._turn is not None and self._turn.phase is Phase.LISTENING and self._turn.kind == "program":
                    self._end_capture(self._turn, now)
            case AbortAsked():
                if self._turn is not None and self._turn.phase is Phase.LISTENING and self._turn.kind == "program":
                    self._discard(self._turn, "cancelled", now)
            case InterruptAsked():
                self._interrupt(now)
            case MessageGiven():
                self._on_message(event, now)
            case AskedAside():
                if self._may_ask:
                    self._asides.ask(event, now)
                else:
                    self._outbox.emit(AsideEnded(event.key, (), sentence("budget_spent")))
            case FrameGiven():
                self._on_frame_given(event, now)
            case HistoryReplaced():
                self._on_history_replaced(event)
            case _:
                raise AssertionError(f"nobody handles {event!r}")

    def _settle(self, now: float) -> None:
        """Bring the server up to date with the turn, ask for what is wished, end what is over, use what is idle."""
        turn = self._turn
        if self._links.is_usable:
            if turn is not None and turn.phase is not Phase.ANSWERING:
                self._send_turn(turn, now)
            self._ask(now)
        if turn is not None and turn is self._turn and turn.phase is Phase.ANSWERING:
            self._finish(turn, now)
        if self._is_idle:
            self._rest(now)

    def _rest(self, now: float) -> None:
        """Use a gap: another connection may take over."""
        before = self._links.main
        self._links.rest(now)
        link = self._links.main
        if link is not before:
            self._on_link_left()
            if link is not None and link.is_ready:
                self._on_link_ready(link, now)

    def _send_turn(self, turn: Turn, now: float) -> None:
        if turn.kind == "message":
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
            self._commits.append(turn.id)
            self._outbox.send(wire.InputAudioBufferCommit(event_id=f"commit_{turn.id}_{turn.replays}"))
            self._begin_checks(turn, now)
            self._sequencer.want(turn.id)

    def _send_message(self, turn: Turn, now: float) -> None:
        turn.is_commit_sent = True
        if turn.message is not None:
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
        wanted = turn.response
        if turn.rounds or turn.trips:  # what it began from, and must call, holds for the first one
            wanted = {key: value for key, value in wanted.items() if key not in ("tool_choice", "input")}
        response: dict[str, Any] = {**wanted, "metadata": {**_mapping(wanted.get("metadata")), "turn": turn.id}}
        if turn.rounds and self._brief.session.get("tool_choice", "auto") not in ("auto", "none"):
            response["tool_choice"] = "auto"  # what must be called was called: else the model could never answer
        if turn.rounds >= self._policy.max_tool_rounds:
            response["tool_choice"] = "none"
        if turn.first_sentence:
            own = self._brief.session.get("instructions", "")
            response["instructions"] = f"{own}\n\nBegin your answer with exactly this sentence: {turn.first_sentence}"
        self._sequencer.asked(turn.id, event_id)
        self._begin_answer(turn, now)
        self._outbox.send(wire.ResponseCreate(event_id=event_id, response=response))

    def _finish(self, turn: Turn, now: float) -> None:
        if turn.is_response_open or turn.open_calls or self._sequencer.wish == turn.id or self._guard.is_busy:
            return
        if not turn.is_answer_done or self._playout.is_pending:
            return
        if turn.failure:
            self._mark_heard()
            self._fail_turn(turn.failure, now, detail=turn.failure_detail)
        elif not (turn.has_audio or (turn.has_text and turn.is_written) or turn.is_background):
            self._fail_turn("empty_answer", now)
        else:
            self._end_turn("answered", now)

    def _on_deadline(self, now: float) -> None:
        self._on_gestures(self._gestures.advance(now), now)
        if self._is_stopped:
            return
        self._sequencer.advance(now)
        # Some servers never say that they have accepted one.
        self._updates = deque(one for one in self._updates if now < one.deadline)
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
            self._on_call_working(call, now)
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
                    self._lose_link(classify("timeout", None), now)
                else:
                    self._fail_turn("no_link", now)
            case Phase.ANSWERING:
                if self._playout.is_pending:
                    self._fail_turn("no_speaker" if "playback" in self._cards_lost else "playout_stalled", now)
                else:
                    self._fail_turn(turn.failure or "no_answer", now)
            case _:
                assert_never(turn.phase)

    def _on_frame(self, event: ServerEventReceived, now: float) -> None:
        main, spare = self._links.main, self._links.spare
        if main is not None and event.link == main.id:
            self._on_server_event(main, event.event, now)
        elif spare is not None and event.link == spare.id:
            if isinstance(event.event, wire.SessionCreated) and not spare.is_ready:
                self._links.created(spare, now, model=str(event.event.session.get("model") or ""))
            elif isinstance(event.event, wire.ErrorEvent):
                spare.last_error = event.event.error.code or event.event.error.type

    def _on_frame_given(self, event: FrameGiven, now: float) -> None:
        frame = dict(event.frame)
        if self._outbox.link is None:
            self._report("not_connected", now, detail=f"{frame.get('type')}: there is no connection to send it on")
            return
        response = _mapping(frame.get("response"))
        if frame.get("type") == "response.create" and not self._may_ask:
            self._report("budget_spent", now)
            return
        if frame.get("type") == "response.create" and response.get("conversation") == "none":
            self._asides.given(response)
        if frame.get("type") == "response.create" and response.get("conversation") != "none":
            # It would take the slot: it is a wish like any other, and gets what it asked for.
            speaking = self._turn
            if speaking is not None and (speaking.phase is Phase.LISTENING or speaking.is_unsent_speech):
                speaking.response = response  # the user has the word; the answer will be this one
                return
            turn = self._start_turn(now, kind="message")
            turn.phase = Phase.ANSWERING
            turn.is_commit_sent = True
            turn.response = response
            turn.deadline = now + self._policy.answer_s
            self._sequencer.want(turn.id)
            return
        if frame.get("type") == "session.update":
            event_id = str(frame.setdefault("event_id", self._outbox.next_event_id()))
            deadline = now + self._policy.commit_s
            self._updates.append(SessionUpdateSent(event_id, "raw", _mapping(frame.get("session")), deadline=deadline))
        self._outbox.send(wire.RawClientEvent(frame=frame))

    def _on_server_event(self, link: Link, event: wire.ServerEvent, now: float) -> None:
        if isinstance(event, wire.OutputAudioDelta):
            link.has_spoken = True  # whoever hears it: the server keeps the voice from here on
        if self._asides.owns(event):
            if isinstance(event, wire.ResponseDone):
                self._count_response(event.response, now)
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
                self._on_output_audio(event, now)
            case wire.OutputAudioTranscriptDelta() | wire.OutputTextDelta():
                self._on_output_text(event, event.delta, now, is_final=False)
            case wire.OutputAudioTranscriptDone():
                self._on_output_text(event, event.transcript, now, is_final=True)
            case wire.OutputTextDone():
                self._on_output_text(event, event.text, now, is_final=True)
            case wire.OutputItemAdded():
                if event.item.type == "mcp_call" and self._answering(event.response_id) is not None:
                    self._on_mcp_call(event.item, now)
            case wire.OutputItemDone():
                self._on_output_item_done(event, now)
            case wire.McpCallArgumentsDone():
                self._on_mcp_arguments(event)
            case wire.McpCallCompleted() | wire.McpCallFailed():
                self._on_mcp_call_over(event.item_id, now, is_error=isinstance(event, wire.McpCallFailed))
            case wire.McpListToolsFailed():
                self._report("server_error", now, detail="the list of an MCP server's tools could not be read")
            case wire.ResponseDone():
                self._on_response_done(event.response, now)
            case _:
                pass  # nothing else is needed for progress (PROTOCOL.md §8: the minimal contract)

    def _on_session_updated(self, event: wire.SessionUpdated, now: float) -> None:
        """The server has accepted an update; which one, its content or their order tells."""
        audio_input = _mapping(_mapping(event.session.get("audio")).get("input"))
        self._transcriber = str(_mapping(audio_input.get("transcription")).get("model") or "")
        instructions = event.session.get("instructions")
        fits = [one for one in self._updates if one.session.get("instructions", instructions) == instructions]
        is_old = instructions is not None and instructions == self._brief.session.get("instructions")
        if not self._updates or (is_old and not fits):
            return  # of an update that is answered already
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
                turn.is_retry = True
        elif error.event_id is not None and (request := self._sequencer.abandon(error.event_id)) is not None:
            if turn is not None and request.turn == turn.id:
                self._fail_turn("answer_failed", now, detail=error.message)
        elif turn is not None and error.event_id == f"commit_{turn.id}_{turn.replays}":
            if turn.id in self._commits:
                self._commits.remove(turn.id)
            self._fail_turn("server_error", now, detail=error.message)
        elif error.event_id is not None and error.event_id.startswith("item_"):
            self._on_item_refused(error, now)
        elif link.is_ready and error.code not in _BENIGN and not _is_truncate_race(error):
            self._report("server_error", now, detail=error.message)

    def _on_update_refused(self, link: Link, update: SessionUpdateSent, error: wire.ErrorDetail, now: float) -> None:
        if update.kind == "connect":
            self._do(Disconnect(link.id))
            self._report("server_error", now, detail=error.message)
            self._lose_link(Verdict("fatal", "settings_refused", sentence("settings_refused")), now)
        elif update.kind == "handoff":
            self._fail_handoff(update.call_id, error.message, now)
        else:
            if update.kind == "turn" and update.brief is not None:
                self._brief = update.brief  # the one before holds on
            self._report("server_error", now, detail=error.message)

    def _on_item_refused(self, error: wire.ErrorDetail, now: float) -> None:
        """An item that we wrote, or deleted, is not on the server: so it is not here."""
        item_id = (error.event_id or "").removeprefix("item_")
        self._tell(self._history.remove(item_id))
        self._report("item_refused", now, detail=error.message)
        turn = self._turn
        if turn is not None and turn.kind == "message" and turn.item_id == item_id:
            self._fail_turn("server_error", now, detail=error.message)

    def _shut_down(self, reason: str, now: float) -> None:
        """End cleanly: tell the server what was heard, say goodbye to the link, and stop."""
        self._stop_answer(now)
        turn = self._turn
        if turn is not None:
            self._drop_calls(turn)
            if turn.phase is Phase.LISTENING:
                self._clear_server_buffer(turn)
            self._end_turn("cancelled", now)
        for call in self._calls:
            self._calls.pop(call.call_id)
            self._do(CancelTool(call.call_id))
            self._tell_lost(call)
        self._asides.lose()
        for link in (self._links.main, self._links.spare):
            if link is not None:
                self._do(Disconnect(link.id))
        self._is_stopped = True
        self._do(Stop(reason))


def _mapping(value: Any) -> Mapping[str, Any]:
    """What a program or a server gave, where an object belongs; anything else is as if there were none."""
    return value if isinstance(value, Mapping) else {}


def _is_truncate_race(error: wire.ErrorDetail) -> bool:
    """ "Audio content of 9250ms is already shorter than 57340ms": no code, and no harm."""
    return (error.code or "").startswith("item_truncate") or "already shorter than" in error.message
