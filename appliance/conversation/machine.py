"""The brain of the appliance: `Conversation.handle(event, now)` returns what to do, and nothing else decides.

Theory of operation
-------------------
Ten regions live side by side, each owns its state alone, and `state` is derived, never stored. An event is routed
here to one region, to a rule (`user_events`, `server_events`), or to a step that couples regions (`procedures`).

* **link**: none, connecting, ready (``session.created``), configured (the server was told who speaks and what was said
  so far). Beside it, at times, a spare, which takes over in an idle gap.
* **speech**: what the user says in the running turn. It is captured whether or not there is a link. The settle steps,
  after every event, send what the link lacks, then ask for a response. So a press before the link is up, a link lost
  in mid-sentence and the ordinary case are one path.
* **gate**: instructions and input guardrails that the answer waits for.
* **answer**: one ``response.create`` at a time, cancelled on arrival if a barge-in was first; its playback in epochs.
* **session**: the agent in force. A handoff asks the server first, and changes the agent only when the server agrees.
* **calls**, **history**, **account**, **out_of_band** and **device** outlive turns.

Every state but the resting ones has a deadline, collected in `deadline`; the driver posts ``DeadlinePassed`` behind
whatever else is in the inbox, so that an answer that is already here always wins against its own time-out.

Pure: no clock, thread, socket, file, log or ``await``; the same events at the same times give the same commands,
which is what `appliance replay` relies on. Randomness (the jitter of the backoff) comes from a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from appliance.conversation import events as ev
from appliance.conversation.commands import Command, Disconnect, Stop
from appliance.conversation.policy import Policy
from appliance.conversation.procedures import Procedures
from appliance.conversation.roster import Brief
from appliance.conversation.server_events import ServerEvents
from appliance.conversation.support.feedback import State, View
from appliance.conversation.support.retry import classify
from appliance.conversation.support.troubles import sentence
from appliance.conversation.user_events import UserEvents
from appliance.realtime import protocol as wire
from appliance.realtime.items import HistoryItem

__all__ = ["DEADLINES", "SETTLE", "Conversation"]


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
        self._do = Procedures(policy=policy, brief=briefs[0], history=history, seed=seed, is_muted=is_muted)
        self._user = UserEvents(self._do)
        self._server = ServerEvents(self._do)
        self._is_stopped = False

    def __repr__(self) -> str:
        return f"<Conversation {self.state.value} {self.turn_id or '-'} {self._do.link!r}>"

    def handle(self, event: ev.Event, now: float) -> list[Command]:
        """Take one event and decide.

        Args:
            event: What happened.
            now: Monotonic seconds; never less than at the call before.

        Returns:
            Commands in the order in which they must be dispatched.

        Raises:
            LocalProtocolError: We were about to break the protocol: a bug.
        """
        if not self._is_stopped:
            self._route(event, now)
        if not self._is_stopped:
            for settle in SETTLE:
                settle(self._do, now)
        return self._do.out.take()

    def _route(self, event: ev.Event, now: float) -> None:
        do, user = self._do, self._user
        match event:
            case ev.AudioCaptured():
                user.audio(event, now)
            case ev.PlayoutProgress():
                do.answer.playback.progress(event, now)
            case ev.ServerEventReceived():
                self._server_event(event, now)
            case ev.DeadlinePassed():
                for step in DEADLINES:
                    step(self, now)
            case ev.ButtonEdge():
                user.gestures(do.device.edge(event, now), now)
            case ev.LinkUp():
                pass  # an open socket proves nothing: readiness is session.created
            case ev.LinkDown():
                self._link_down(event, now)
            case ev.FrameRefused():
                self._frame_refused(event, now)
            case ev.CaptureOverrun():
                user.overrun(now)
            case ev.CardLost():
                user.lose_card(event, now)
            case ev.CardFound():
                do.device.find_card(event.direction)
            case ev.AlarmRang():
                do.device.begin_alarm(event, now)
                user.ring(now)
            case ev.TimersChanged():
                do.device.timers_running = event.running
            case ev.MuteSwitched():
                user.mute(event.muted, now)
            case ev.TracingFailed():
                do.device.report("trace_failed", now, detail=event.problem)
            case ev.DayBegan():
                do.account.begin_day(event.day, event.spent_usd, event.spent_s)
                do.link.restrict(do.account.only_endpoint, now)
            case ev.ToolFinished():
                do.close_call(do.calls.finish(event, do.turn_id), now)
            case ev.ApprovalChecked():
                do.close_call(do.calls.checked(event, now), now)
            case ev.ApprovalAnswered():
                self._approval_answered(event, now)
            case ev.AgentPrepared():
                self._agent_prepared(event, now)
            case ev.GuardrailsChecked():
                self._guardrails_checked(event, now)
            case ev.BeginAsked():
                user.begin(now)
            case ev.CommitAsked():
                if user.is_speaking():
                    do.end_capture("captured", now)
            case ev.AbortAsked():
                if user.is_speaking():
                    do.discard("cancelled", now)
            case ev.InterruptAsked():
                user.interrupt(now)
            case ev.MessageGiven():
                user.message(event, now)
            case ev.OutOfBandAsked():
                if do.may_ask:
                    do.out_of_band.ask(event, now)
                else:
                    do.out_of_band.reject(event.key, sentence("budget_spent"))
            case ev.FrameGiven():
                user.frame(event, now)
            case ev.HistoryReplaced():
                do.history.replace(event.items)
            case ev.Started():
                do.device.start(now)
                do.link.connect(now)
            case ev.ShutdownRequested():
                self._shut_down(event.reason, now)
            case _:
                raise AssertionError(f"nobody handles {event!r}")

    # --- what others read ---------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The one word for what the appliance is doing, derived from all regions."""
        do = self._do
        if not do.device.is_started:
            return State.BOOTING
        if do.turn is not None:
            if do.speech.is_open:
                return State.LISTENING
            if not do.speech.is_taken:
                return State.COMMITTING
            if do.calls.open.awaiting_approval is not None:
                return State.AWAITING_APPROVAL
            return State.SPEAKING if do.answer.is_playing else State.THINKING
        if do.link.fatal is not None and do.link.main is None:
            return State.FAILED
        if do.device.is_muted:
            return State.MUTED
        if do.link.main is None:
            return State.OFFLINE
        return State.READY if do.link.is_ready else State.CONNECTING

    @property
    def view(self) -> View:
        """What the light and the panel are functions of."""
        device, link = self._do.device, self._do.link
        return View(
            state=self.state,
            cards_lost=device.cards_lost,
            is_link_lost=device.is_started and link.failures > 0 and not link.is_ready,
            is_button_stuck=device.is_stuck,
            is_ringing=device.is_ringing,
            has_error=device.has_error,
            is_muted=device.is_muted,
            timers_running=device.timers_running,
            trouble=device.trouble,
        )

    @property
    def deadline(self) -> float | None:
        """When to post ``DeadlinePassed`` next, monotonic seconds; None if nothing is pending."""
        return None if self._is_stopped else min((at for at in self._deadlines() if at is not None), default=None)

    @property
    def turn_id(self) -> str | None:
        """The running turn, for logs and tests."""
        return self._do.turn_id

    @property
    def link_id(self) -> int:
        """The newest connection that was asked for, for tests; 0 before the first."""
        return self._do.link.made

    @property
    def epoch(self) -> int:
        """The current flush generation of the playback."""
        return self._do.out.epoch

    @property
    def history(self) -> tuple[HistoryItem, ...]:
        """The conversation so far, in order."""
        return self._do.history.items

    @property
    def agent(self) -> str:
        """Who talks."""
        return self._do.session.brief.agent

    def _deadlines(self) -> Iterator[float | None]:
        do = self._do
        yield from do.link.deadlines(is_idle=do.is_idle)
        yield self._turn_deadline()
        yield from do.calls.open.deadlines()
        yield from do.out_of_band.deadlines()
        yield from do.session.deadlines()
        yield from do.device.deadlines()
        yield from do.answer.deadlines()

    def _turn_deadline(self) -> float | None:
        """When the running turn is late; while it is answered and calls are open, they have deadlines of their own."""
        do = self._do
        if do.turn is None or (do.speech.is_taken and do.calls.open.round.open):
            return None
        if not do.speech.is_taken:
            return do.speech.deadline
        at = do.answer.due()
        return min(at, do.gate.deadline(at))

    # --- connections --------------------------------------------------------------------------------------------

    def _server_event(self, event: ev.ServerEventReceived, now: float) -> None:
        main, spare = self._do.link.main, self._do.link.spare
        if main is not None and event.link == main.id:
            self._server.handle(main, event.event, now)
        elif spare is not None and event.link == spare.id:
            if isinstance(event.event, wire.SessionCreated) and not spare.is_ready:
                self._do.link.created(spare, now, model=str(event.event.session.get("model") or ""))
            elif isinstance(event.event, wire.ErrorEvent):
                spare.last_error = event.event.error.code or event.event.error.type

    def _link_down(self, event: ev.LinkDown, now: float) -> None:
        main, spare = self._do.link.main, self._do.link.spare
        if main is not None and event.link == main.id:
            self._do.lose_link(classify(event.kind, event.code, last_error=main.last_error), now)
        elif spare is not None and event.link == spare.id:
            self._do.link.lose_spare(now, classify(event.kind, event.code, last_error=spare.last_error))

    def _frame_refused(self, event: ev.FrameRefused, now: float) -> None:
        link = self._do.link.main
        if link is None or event.link != link.id:
            return
        link.bad_frames += 1
        self._do.device.report("bad_frame", now, detail=event.problem)
        if link.bad_frames > self._do.policy.max_bad_frames:
            self._do.drop_link(classify("bad_frames", None), now)

    # --- what the maker's functions answer ----------------------------------------------------------------------

    def _approval_answered(self, event: ev.ApprovalAnswered, now: float) -> None:
        do = self._do
        call = do.calls.open.get(event.call_id)
        if call is None or not call.awaits_approval:
            return
        message = event.message or "The user rejected this call."
        decided = do.calls.decide_always(call, approves=event.approved, message=message) if event.always else [call]
        for one in decided:
            do.close_call(do.calls.approve(one, now) if event.approved else do.calls.reject(one, message), now)

    def _agent_prepared(self, event: ev.AgentPrepared, now: float) -> None:
        do, key, brief = self._do, event.key, event.brief
        if isinstance(key, ev.HandoffKey):
            self._handoff_prepared(key.call_id, event, now)
            return
        if brief is None:
            do.device.report("instructions_late", now, detail=event.problem)
        if isinstance(key, ev.ConnectKey):
            link = do.link.main
            if link is not None and key.link == link.id and not link.is_configured:
                do.session.brief = brief or do.session.brief
                do.configure(link, now)
        elif key == ev.TurnKey(do.turn_id or "", do.speech.replays) and not do.gate.is_prepared:
            do.gate.prepared()
            in_force = do.session.brief
            is_news = brief is not None and brief != in_force and brief.agent == in_force.agent
            if brief is not None and is_news and not do.session.has_handoff:  # else that agent has its own instructions
                do.session.change_for_turn(key.turn, brief, do.session_of(brief), now)

    def _handoff_prepared(self, call_id: str, event: ev.AgentPrepared, now: float) -> None:
        do = self._do
        call = do.calls.open.get(call_id)
        if call is None or call.kind != "handoff" or call.brief is not None:
            return
        if event.brief is None:
            do.device.report("handoff_failed", now, detail=f"{call.name}: {event.problem}")
            do.close_call(do.calls.close(call, event.problem or "The handoff failed.", is_error=True), now)
        else:
            call.brief = event.brief
            do.session.request_handoff(call_id, event.brief, do.session_of(event.brief), now)

    def _guardrails_checked(self, event: ev.GuardrailsChecked, now: float) -> None:
        do, key = self._do, event.key
        turn = do.turn
        if turn is None:
            return
        if isinstance(key, ev.InputCheck):
            if key.turn != turn.id or do.gate.is_checked:
                return
            if event.tripped:
                do.refuse_input(event.tripped, event.reason, now)
            else:
                do.gate.checked()
        elif (check := do.answer.playback.pending(key)) is not None:  # else of an answer that is over
            if event.tripped:
                do.trip(turn, check, event.tripped, event.reason, now)
            else:
                do.answer.playback.passed(key)
                do.answer.release(do.link.main_id or 0, now)

    # --- time ---------------------------------------------------------------------------------------------------

    def _late_gestures(self, now: float) -> None:
        self._user.gestures(self._do.device.late_gestures(now), now)

    def _late_alarms(self, now: float) -> None:
        if self._do.device.is_alarm_due(now):
            self._user.ring(now)

    def _late_main(self, now: float) -> None:
        do = self._do
        link = do.link.main
        if link is None or link.is_configured or now < link.deadline:
            return
        if link.is_ready:  # the greeting is here, the agent's own instructions are not
            do.device.report("instructions_late", now)
            do.configure(link, now)
        else:
            do.drop_link(classify("timeout", None, last_error=link.last_error), now)

    def _late_calls(self, now: float) -> None:
        do = self._do
        do.calls.work(now, do.turn_id, is_playing=do.answer.is_playing)
        for call in do.calls.open.late(now):
            if call.kind == "handoff":
                do.fail_handoff(call.call_id, "it took too long", now)
            else:
                do.close_call(do.calls.give_up(call, now), now)

    def _late_check(self, now: float) -> None:
        check = self._do.answer.playback.late_check(now)
        if check is not None and self._do.turn is not None:
            self._do.trip(self._do.turn, check, "guardrail", "it took too long", now)

    def _late_turn(self, now: float) -> None:
        do = self._do
        deadline = self._turn_deadline()
        if deadline is None:
            return
        if do.speech.is_taken and now >= do.gate.deadline(now + 1.0):
            if do.gate.are_instructions_late(now):
                do.device.report("instructions_late", now)
                do.gate.prepared()
            if do.gate.is_check_late(now):
                do.refuse_input("guardrail", "what you said could not be checked in time", now)
        elif now < deadline:
            return
        elif do.speech.is_open:
            do.end_capture("captured" if do.speech.is_in_post_roll else "too_long", now)
        elif not do.speech.is_taken:
            if do.speech.is_sent and do.link.main is not None:
                # The server took the audio and said nothing: a dead peer. Another connection may be better.
                do.drop_link(classify("timeout", None), now)
            else:
                do.fail_turn("no_link", now)
        elif do.answer.is_playing:
            do.fail_turn("playout_stalled" if do.device.has_speaker else "no_speaker", now)
        else:
            do.fail_turn(do.answer.received.failure or "no_answer", now)

    def _shut_down(self, reason: str, now: float) -> None:
        """End cleanly: tell the server what was heard, close the connections, and stop."""
        do = self._do
        do.stop_answer(now)
        if do.turn is not None:
            do.calls.drop()
            if do.speech.is_open:
                do.speech.clear_server_buffer()
            do.end_turn("cancelled", now)
        do.calls.drop_others(None)
        do.out_of_band.lose()
        for link in (do.link.main, do.link.spare):
            if link is not None:
                do.out.do(Disconnect(link.id))
        self._is_stopped = True
        do.out.do(Stop(reason))


DEADLINES: tuple[Callable[[Conversation, float], None], ...] = (
    Conversation._late_gestures,
    lambda self, now: self._do.answer.advance(now),
    lambda self, now: self._do.session.expire(now),
    lambda self, now: self._do.out_of_band.advance(now),
    lambda self, now: self._do.device.end_error_light(now),
    Conversation._late_alarms,
    Conversation._late_main,
    lambda self, now: self._do.link.advance(now),
    Conversation._late_calls,
    Conversation._late_check,
    Conversation._late_turn,
)
"""What may be late, in order: each step sees what the step before did."""


def _send(do: Procedures, now: float) -> None:
    """Bring the server up to date with the turn."""
    if do.turn is not None and do.link.is_usable and not do.speech.is_taken:
        do.send_turn(do.turn, now)


def _ask(do: Procedures, now: float) -> None:
    """Ask for the response that is wished for."""
    if do.turn is not None and do.link.is_usable and do.gate.is_open and do.answer.grants(do.turn.id, now):
        rounds, is_taken, is_free = do.calls.open.round.number, do.speech.is_taken, do.link.is_free
        do.answer.ask(do.turn.id, do.session.brief, rounds=rounds, is_taken=is_taken, is_free=is_free, now=now)


def _finish(do: Procedures, now: float) -> None:
    """End the turn when all of its answer was heard."""
    if do.speech.is_taken:
        do.finish_turn(now)


def _rest(do: Procedures, now: float) -> None:
    """Use an idle gap: another connection may take over."""
    if do.is_idle:
        do.rest(now)


SETTLE: tuple[Callable[[Procedures, float], None], ...] = (_send, _ask, _finish, _rest)
"""What follows every event, in order."""
