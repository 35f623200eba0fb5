"""The core of the appliance: `Conversation.handle(event, now)` returns the commands, and makes every decision.

Theory of operation
-------------------
There are ten regions; each owns its state, and `state` is derived from them, never stored. An event is routed here to a
region, to a rule (`user_events`, `server_events`, `lost_links`, `agent_events`), or to a procedure that couples regions
(`procedures`).

* **link**: none, connecting, ready (``session.created``), configured (the agent and the history were sent). While
  rotating or failing back, a spare takes over in an idle gap.
* **device**: a press counts after ``min_press_ms``; until then only the light shows it.
* **speech**: the user's speech in the running turn, captured with or without a link. After every event, the settle
  steps send what the server lacks, then request a response. So a press before the link is up, a link lost in the
  middle of a sentence, and the ordinary case take the same path.
* **gate**: the instructions and input guardrails that the response waits for.
* **answer**: one ``response.create`` at a time, cancelled on arrival after an earlier barge-in; its playback in epochs.
* **session**: the agent in force. A handoff changes the agent only when the server accepts its ``session.update``.
* **calls**, **history**, **account**, **out_of_band** and **device** outlive turns.

Resting states have no deadline; all others do. `deadline` is the earliest. The driver posts ``DeadlinePassed`` behind
everything else in the inbox, so an answer that has already arrived always wins against its own time-out.

Pure: no clock, thread, socket, file, log or ``await``; `appliance replay` relies on it. The jitter has a seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from appliance.agents.spec import AgentSpec
from appliance.conversation import agent_events, gesture_events, lost_links, server_events, user_events
from appliance.conversation import events as ev
from appliance.conversation.commands import Command, Disconnect, Stop
from appliance.conversation.deadlines import DEADLINES, Step, turn_deadline
from appliance.conversation.policy import Policy
from appliance.conversation.procedures import Procedures
from appliance.conversation.support.feedback import State, View
from appliance.conversation.support.usage import SessionUsage
from appliance.realtime.items import HistoryItem

__all__ = ["SETTLE", "Conversation"]


class Conversation:
    """The pure core of the appliance."""

    def __init__(
        self,
        *,
        policy: Policy,
        specs: Sequence[AgentSpec],
        history: Sequence[HistoryItem] = (),
        seed: int = 0,
        is_muted: bool = False,
    ) -> None:
        """Create a conversation that waits for ``Started``.

        Args:
            policy: Times and limits.
            specs: The agents; the conversation starts with the first.
            history: Items of an earlier conversation, which are sent to each new connection.
            seed: Seed of the backoff's jitter; a trace records it.
            is_muted: Whether the microphone starts muted.
        """
        self._do = Procedures(policy=policy, spec=specs[0], history=history, seed=seed, is_muted=is_muted)
        self._is_stopped = False

    def __repr__(self) -> str:
        return f"<Conversation {self.state.value} {self.turn_id or '-'} {self._do.link!r}>"

    def handle(self, event: ev.Event, now: float) -> list[Command]:
        """Handle one event.

        Args:
            event: What happened.
            now: Monotonic seconds; never less than in the previous call.

        Returns:
            Commands in the order in which they must be dispatched.

        Raises:
            LocalProtocolError: We were about to violate the protocol: a bug.
        """
        if not self._is_stopped:
            self._route(event, now)
        if not self._is_stopped:
            for settle in SETTLE:
                settle(self._do, now)
        return self._do.out.take()

    def _route(self, event: ev.Event, now: float) -> None:
        do = self._do
        match event:
            case ev.AudioCaptured():
                user_events.audio(do, event, now)
            case ev.PlayoutProgress():
                do.answer.playback.progress(event, now)
            case ev.ServerEventReceived():
                server_events.received(do, event, now)
            case ev.DeadlinePassed():
                for late in DEADLINES:
                    late(do, now)
            case ev.ButtonEdge():
                rule = gesture_events.second_gestured if event.is_second else gesture_events.gestured
                rule(do, do.device.edge(event, now), now)
            case ev.LinkUp():
                pass  # an open socket proves nothing: the link is ready after session.created
            case ev.LinkDown():
                server_events.link_down(do, event, now)
            case ev.FrameRefused():
                server_events.frame_refused(do, event, now)
            case ev.CaptureOverrun():
                user_events.overrun(do, now)
            case ev.CardLost():
                user_events.lose_card(do, event, now)
            case ev.CardFound():
                do.device.find_card(event.direction)
            case ev.AlarmRang():
                do.device.begin_alarm(event, now)
                user_events.ring(do, now)
            case ev.TimersChanged():
                do.device.timers_running = event.running
            case ev.MuteSwitched():
                user_events.mute(do, event.muted, now, is_by_switch=event.is_by_switch)
            case ev.TracingFailed():
                do.device.report("trace_failed", now, detail=event.problem)
            case ev.PolicyReplaced():
                do.replace_policy(event.policy, now)
            case ev.SettingsRefused():
                do.device.report("bad_settings", now, detail=event.problem)
            case ev.DayBegan():
                do.account.budget.begin_day(event.day, event.spent_usd, event.spent_s)
                do.link.restrict(do.account.only_endpoint, now)
            case ev.ToolBegan():
                do.calls.began(event.call_id)
            case ev.ToolFinished():
                do.finish_call(event, now)
            case ev.ApprovalChecked():
                do.close_call(do.calls.checked(event, now), now)
            case ev.ApprovalAnswered():
                agent_events.approval_answered(do, event, now)
            case ev.AgentPrepared():
                agent_events.agent_prepared(do, event, now)
            case ev.AgentReplaced():
                agent_events.replace_agent(do, event, now)
            case ev.GuardrailsChecked():
                agent_events.guardrails_checked(do, event, now)
            case ev.BeginAsked():
                user_events.begin(do, now)
            case ev.CommitAsked():
                user_events.commit(do, now)
            case ev.AbortAsked():
                user_events.abort(do, now)
            case ev.InterruptAsked():
                user_events.interrupt(do, now)
            case ev.MessageGiven():
                user_events.message(do, event, now)
            case ev.OutOfBandAsked():
                user_events.ask(do, event, now)
            case ev.FrameGiven():
                user_events.send_frame(do, event, now)
            case ev.HistoryReplaced():
                do.history.replace(event.items)
            case ev.Started():
                do.device.start(now)
                do.link.connect(now)
            case ev.ShutdownRequested():
                self._shut_down(event.reason, now)
            case _:
                raise AssertionError(f"unhandled event: {event!r}")

    # --- state --------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """What the appliance is doing, derived from all regions."""
        do = self._do
        if not do.device.is_started:
            return State.BOOTING
        if do.speech.is_capturing or gesture_events.will_listen(do):
            return State.LISTENING
        if do.turn is not None:
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
        """The facts that the light and the panel depend on."""
        device, link = self._do.device, self._do.link
        return View(
            state=self.state,
            cards_lost=device.cards_lost,
            is_link_lost=device.is_started and link.failures > 0 and not link.is_ready,
            endpoint=link.main.endpoint if link.main is not None and link.main.is_ready else None,
            is_button_stuck=device.is_stuck,
            is_ringing=bool(device.alarms.ringing),
            has_error=device.has_error,
            is_muted=device.is_muted,
            is_mute_kept=device.mute.is_asked,
            timers_running=device.timers_running,
            trouble=device.trouble,
        )

    @property
    def deadline(self) -> float | None:
        """When to post ``DeadlinePassed`` next, monotonic seconds; None if nothing is pending."""
        return None if self._is_stopped else min((at for at in self._deadlines() if at is not None), default=None)

    @property
    def listens_since(self) -> float | None:
        """From when on captured audio is wanted, monotonic seconds; the pre-roll lies before it.

        Inf means no earlier audio than from now on; None means that nobody listens.
        """
        do = self._do
        return do.device.pressed_at if do.speech.is_capturing or self.has_turn_detection else None

    @property
    def turn_id(self) -> str | None:  # for logs and tests
        return self._do.turn_id

    @property
    def link_id(self) -> int:
        return self._do.link.made  # the newest connection, for tests; 0 before the first

    @property
    def epoch(self) -> int:  # the current flush generation of the playback
        return self._do.out.epoch

    @property
    def history(self) -> tuple[HistoryItem, ...]:
        """The conversation so far, in order."""
        return self._do.history.items

    @property
    def agent(self) -> str:
        """Name of the agent in force."""
        return self._do.session.spec.agent

    @property
    def usage(self) -> SessionUsage:  # of all connections
        return self._do.account.session

    @property
    def has_turn_detection(self) -> bool:  # of the server, with the agent in force
        return self._do.session.spec.turn_detection is not None

    def _deadlines(self) -> Iterator[float | None]:
        do = self._do
        yield from do.link.deadlines(is_idle=do.is_idle)
        yield turn_deadline(do)
        yield from do.calls.open.deadlines()
        yield from do.out_of_band.deadlines()
        yield from do.session.deadlines()
        yield from do.device.deadlines()
        yield from do.answer.deadlines()

    def _shut_down(self, reason: str, now: float) -> None:
        """Truncate the answer to what was heard, end the turn and the calls, close the connections, and stop."""
        do = self._do
        do.stop_answer(now)
        if do.turn is not None:
            do.calls.drop(do.policy.output("closed_session"))
            if do.speech.is_open:
                do.speech.clear_server_buffer()
            do.end_turn("cancelled", now)
        do.calls.drop_all(do.policy.output("closed_session"))
        do.out_of_band.lose()
        for link in (do.link.main, do.link.spare):
            if link is not None:
                do.out.do(Disconnect(link.id))
        self._is_stopped = True
        do.out.do(Stop(reason))


def _send(do: Procedures, now: float) -> None:
    """Send the part of the turn that the server lacks; once complete, wish for a response."""
    turn = do.turn
    if turn is None or do.out.link is None or do.speech.is_taken:
        return
    if turn.kind == "message":
        message, text = do.speech.take_message()
        if message is not None:
            do.history.add_message(message, text)
        do.begin_checks(now)
        do.speech_taken(now)
    elif do.speech.send(now, may_commit=not do.device.holds_commit):
        do.announce_detour()
        do.begin_checks(now)
    else:
        return
    do.answer.slot.want(turn.id)


def _ask(do: Procedures, now: float) -> None:
    """Send the request for the response that is wished for, once nothing holds it back."""
    if (
        do.turn is not None
        and do.out.link is not None
        and not lost_links.plays_on(do)
        and do.gate.is_prepared
        and do.gate.is_checked
        and do.answer.slot.grant(now) == do.turn.id
    ):
        rounds, is_taken, is_free = do.calls.open.round.number, do.speech.is_taken, do.is_free
        do.answer.ask(do.turn.id, do.session.spec, rounds=rounds, is_taken=is_taken, is_free=is_free, now=now)
        do.answer.expect(do.session.upcoming)  # without response.created, nothing else tells


def _finish(do: Procedures, now: float) -> None:
    """End the turn once its whole answer was heard."""
    answer, round_ = do.answer, do.calls.open.round
    if do.turn is None or not answer.asked.is_done or round_.open or answer.is_under_way or answer.is_playing:
        return
    if answer.received.failure:
        do.mark_heard()
        do.fail_turn(answer.received.failure, now, detail=answer.received.failure_detail)
    elif answer.is_unspoken:
        do.out.announce(answer.speaker.said)  # the model answered in text, and the session is spoken
        do.end_turn("answered", now)
    elif answer.is_empty and not round_.is_background:
        do.fail_turn("empty_answer", now)
    else:
        do.end_turn("answered", now)


def _rest(do: Procedures, now: float) -> None:
    """Use an idle gap: let another connection take over if it is due."""
    if do.turn is not None or not do.is_idle:
        return
    before = do.link.main
    do.link.rest(now)
    link = do.link.main
    if link is not before:
        do.link_left()
        if link is not None and link.is_ready:
            do.link_ready(link, now)


SETTLE: tuple[Step, ...] = (_send, _ask, _finish, user_events.next_message, _send, _ask, _rest)
"""The steps after every event, in order; a message that waited for the end of the turn is sent in the same event."""
