"""The procedures that couple regions of the conversation: one method each, whose lines are the steps. Pure.

The order of the steps is the order of the commands. A fact that a change destroys is read above it in the same method,
or returned by it (`Cut`, `Closed`, or a plain value). Regions do not know each other: facts are passed as arguments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from appliance.agents.spec import AgentSpec
from appliance.conversation.commands import Disconnect, PrepareAgent, Sentence
from appliance.conversation.events import ConnectKey, InputCheck, ToolFinished, TurnKey
from appliance.conversation.notices import AgentUpdateEnded, Guardrail, Outcome, TroubleKind, TurnEnd, TurnStart
from appliance.conversation.policy import Policy
from appliance.conversation.regions.account import Account
from appliance.conversation.regions.answer import Answer
from appliance.conversation.regions.calls import Calls
from appliance.conversation.regions.device import Device
from appliance.conversation.regions.gate import Gate
from appliance.conversation.regions.history import History
from appliance.conversation.regions.link import Link, Links
from appliance.conversation.regions.out_of_band import OutOfBand
from appliance.conversation.regions.session import Session, SessionUpdateSent, session_for
from appliance.conversation.regions.speech import Kind, Speech
from appliance.conversation.support.call import Closed
from appliance.conversation.support.outbox import Outbox
from appliance.conversation.support.recording import Ended
from appliance.conversation.support.troubles import sentence
from appliance.realtime import protocol as wire
from appliance.realtime.items import HistoryItem

__all__ = ["Procedures", "RunningTurn"]


@dataclass(frozen=True, slots=True)
class RunningTurn:
    """The running turn: from a press to the end of its answer."""

    id: str
    kind: Kind


class Procedures:
    """The ten regions, the running turn, and the procedures that couple them."""

    def __init__(
        self, *, policy: Policy, spec: AgentSpec, history: Sequence[HistoryItem], seed: int, is_muted: bool
    ) -> None:
        self.policy = policy
        self.out = out = Outbox()
        self.device = Device(policy, out, is_muted=is_muted)
        self.link = Links(policy, out, seed=seed)
        self.session = Session(policy, out, spec)
        self.history = History(policy, out, history)
        self.speech = Speech(policy, out)
        self.gate = Gate(policy, out)
        self.calls = Calls(policy, out, self.device.report)
        self.answer = Answer(policy, out)
        self.account = Account(policy, out)
        self.out_of_band = OutOfBand(out)
        self.turn: RunningTurn | None = None
        self._turns = 0

    @property
    def turn_id(self) -> str | None:
        return self.turn.id if self.turn is not None else None

    @property
    def is_free(self) -> bool:
        """The main link goes to the offline brain, which costs nothing."""
        return self.link.main is not None and self.link.main.endpoint == self.policy.offline_endpoint

    @property
    def may_ask(self) -> bool:
        """The budget allows a request to the model of the main link."""
        return not self.account.budget.is_spent or self.is_free

    @property
    def is_idle(self) -> bool:
        """Nothing runs that a change of the connection would disturb."""
        return self.turn is None and not (self.session.is_waiting or self.out_of_band or self.calls.open)

    def replace_policy(self, policy: Policy, now: float) -> None:
        """Continue with other limits and times; a running turn keeps the deadlines that it has."""
        self.policy = self.link.policy = self.session.policy = self.history.policy = self.speech.policy = policy
        self.gate.policy = self.calls.policy = self.answer.policy = self.answer.playback.policy = policy
        self.device.use(policy)
        self.account.use(policy)
        self.link.restrict(self.account.only_endpoint, now)

    # --- a turn -------------------------------------------------------------------------------------------------

    def begin_turn(self, kind: Kind, now: float, *, at: float | None = None) -> RunningTurn:
        """Stop the answer and start a turn; `at` is the edge of the button that asked for it, a moment before `now`."""
        if self.link.main is None:
            self.link.hurry(now)  # from here on, nothing is sent
        self.stop_answer(now)
        is_message = self.turn is not None and self.turn.kind == "message"
        if is_message and (message := self.speech.unsent_message) is not None:
            self.history.add_message(message, self.speech.heard or "")  # kept: the next answer is for both
        self.end_turn("interrupted", now)
        if not self.may_ask:  # read after the old turn was counted
            self.go_offline(now)
        self._turns += 1
        self.turn = turn = RunningTurn(f"turn_{self._turns}", kind)
        self.answer.begin()
        at = now if at is None else at
        self.speech.begin(turn.id, kind, () if kind == "message" else self.device.take_pre_roll(at), at)
        self.out.emit(TurnStart(turn.id, kind))
        if kind == "button":
            self.out.earcon("start")
        return turn

    def end_capture(self, how: Ended, now: float) -> None:
        """End the speech of the turn: let it be committed, or end the turn if it has no usable speech."""
        if how == "too_short" or how == "silence":
            self.discard(how, now)
            return
        if how == "too_long" and self.turn is not None and self.turn.kind != "vad":
            self.device.report("too_long", now)
        match self.speech.close(now, until_release=how == "too_long" and self.device.is_held):
            case "silent_microphone":
                self.speech.clear_server_buffer()
                self.fail_turn("silent_microphone", now, outcome="silence")
            case "no_answer":
                self.fail_turn("no_answer", now)
            case "too_short":
                self.discard("too_short", now)

    def discard(self, outcome: Outcome, now: float) -> None:
        """End a turn that is still captured, so that no answer needs to be stopped."""
        self.speech.clear_server_buffer()
        if self.turn is not None and self.turn.kind == "button":
            self.out.earcon("cancel")
        self.end_turn(outcome, now)

    def fail_turn(self, kind: TroubleKind, now: float, *, detail: str = "", outcome: Outcome = "failed") -> None:
        """End the turn, and report and announce why.

        Args:
            kind: The trouble; its sentence is spoken.
            now: Monotonic seconds.
            detail: Technical, for observers.
            outcome: How the turn ended.
        """
        if self.speech.is_open:
            self.speech.clear_server_buffer()
        else:
            self.stop_answer(now)
        self.device.report(kind, now, detail=detail)
        self.out.announce(sentence(kind), "offline" if kind == "no_link" else "error")
        self.end_turn(outcome, now)

    def end_turn(self, outcome: Outcome, now: float) -> None:
        turn = self.turn
        if turn is None:
            return
        for call in self.calls.open.end_turn(turn.id):
            self.reply(self.calls.release(call, self.policy.output("interrupted")))
        self.turn = None
        if self.gate.end(turn.id):  # unchecked: the model must not see it
            for item_id in self.speech.items:
                self.history.delete(item_id)
        frames = self.speech.end() + self.answer.end()
        if frames and not self.answer.asked.is_free:
            self.count(None, {}, frames / wire.SAMPLE_RATE, now)
        self.out.emit(TurnEnd(turn.id, outcome, self.account.end_turn()))

    def count(self, usd: float | None, usage: Mapping[str, Any], audio_s: float, now: float) -> None:
        """Add to the totals of the day; once the budget is spent, allow only the offline brain."""
        if not self.is_free and self.account.count(usd, usage, audio_s) == 100:
            self.link.restrict(self.account.only_endpoint, now)

    def count_response(self, usage: Mapping[str, Any] | None, now: float) -> None:
        usd = self.policy.prices.response_usd(self.link.model, usage) if usage else 0.0
        self.account.add_to_session(usage or {}, 0.0 if self.is_free else usd, requests=1)
        if usage:
            self.count(usd, usage, 0.0, now)

    # --- the answer ---------------------------------------------------------------------------------------------

    def begin_checks(self, now: float) -> None:
        """Start what the response waits for: new instructions, and the input guardrails."""
        self.prepare_for_turn(now)
        if self.session.spec.has_input_guardrails and not self.answer.asked.trips and not self.gate.has_passed:
            self.gate.await_words(now)
            if self.speech.heard is not None:
                self.check_input(self.speech.heard, now)

    def prepare_for_turn(self, now: float) -> None:
        if self.session.spec.is_asked_at_turn:
            self.gate.prepare(TurnKey(self.turn_id or "", self.speech.replays), self.session.spec.agent, now)

    def check_input(self, heard: str, now: float) -> None:
        self.gate.check(InputCheck(self.turn_id or ""), self.session.spec.agent, self.speech.checked_text(heard), now)

    def refuse_input(self, name: str, reason: str, now: float) -> None:
        """End the turn because an input guardrail refused it."""
        item_id = self.speech.item_id
        self.out.emit(Guardrail(self.turn_id or "", "input", item_id, name, reason))
        self.fail_turn("input_refused", now, detail=f"{name}: {reason}", outcome="refused")

    def speech_taken(self, now: float) -> None:
        """Count the speech as taken, and restart the deadline of the answer; called for every event of the answer."""
        self.speech.take()
        self.answer.prolong(now)

    def stop_answer(self, now: float) -> None:
        """Flush, truncate what was not heard whole, cancel: the one path of interruption."""
        playback = self.answer.playback
        cut = playback.flush()  # reads the heard and held audio, then raises the epoch
        is_elsewhere = playback.link != self.out.link
        if not is_elsewhere:
            playback.truncate(cut)  # all truncations before the first cut
        for one, received_ms in cut.items:
            self.history.cut(one.item_id, one.heard_ms, received_ms, is_elsewhere=is_elsewhere)
        for item_id in cut.unplayed:
            self.forget_unplayed(item_id)
        self.answer.cancel(now)  # response.cancel is last

    def mark_heard(self) -> None:
        """Mark the items of an answer that a lost connection cut, once the received part has played."""
        for one in self.answer.playback.heard():
            item = self.history.get(one.item_id)
            if item is not None and item.status == "incomplete" and one.is_whole:
                is_elsewhere = self.answer.playback.link != self.out.link
                self.history.cut(one.item_id, one.heard_ms, one.heard_ms, is_elsewhere=is_elsewhere)

    def forget_unplayed(self, item_id: str) -> None:
        """Delete an unheard answer, so that the model does not assume it was said."""
        item = self.history.get(item_id)
        is_done = item is not None and item.status != "in_progress"
        self.answer.note_unplayed(item_id, is_done=is_done)
        if is_done:
            self.history.delete(item_id)

    # --- calls --------------------------------------------------------------------------------------------------

    def finish_call(self, event: ToolFinished, now: float) -> None:
        """Close the call of a tool that has ended; a guardrail that stopped it ends the turn too."""
        closed = self.calls.finish(event, self.turn_id, now)
        if closed is None or not event.stopped_by:
            self.close_call(closed, now)
            return
        self.reply(closed)
        detail = f"{closed.call.name}: {event.stopped_by}"
        if self.turn_id == closed.call.turn:
            self.fail_turn("tool_stopped", now, detail=detail, outcome="refused")
        else:
            self.device.report("tool_stopped", now, detail=detail)

    def close_call(self, closed: Closed | None, now: float) -> None:
        """Send the output of a closed call, and continue its turn if it was the last; a no-op for None."""
        self.reply(closed)
        turn = self.turn
        if closed is None or self.calls.open.is_detached(closed.call.call_id):
            return
        if turn is not None and turn.id == closed.call.turn:
            self.answer.prolong(now)
            self.speech.wait_until(self.answer.deadline)
            self.ask_again(turn)

    def reply(self, closed: Closed | None) -> None:
        """Send the output or verdict of a closed call; that of a lost connection is sent only if a tool of ours ran."""
        if closed is None:
            return
        if closed.call.link != self.link.main_id:
            if closed.call.kind != "tool":
                return
            self.history.add_call(closed.call)
        if closed.reply == "output":
            self.history.add_output(closed.call.call_id, closed.output)
        elif closed.reply != "none":
            approves = closed.reply == "approve"
            self.history.add_verdict(closed.call.call_id, approves=approves, reason=closed.output)

    def ask_again(self, turn: RunningTurn) -> None:
        """Request the next response, once the last one is done and all its calls are closed."""
        asked, round_ = self.answer.asked, self.calls.open.round
        if asked.is_open or round_.open or not round_.seen or self.answer.received.failure:
            return
        self.answer.end_wait()
        if round_.number >= self.policy.max_tool_rounds or not round_.end():
            self.answer.finish()  # the round limit is reached, or no call needs an answer
        else:
            self.answer.slot.want(turn.id)

    def replace_agent(self, key: str, spec: AgentSpec) -> None:
        """Put the agent in force that the program wants; an open response is still that of the previous one."""
        self.answer.hand_over(self.session.put_in_force(spec), spec.agent, is_answering=False)
        self.out.emit(AgentUpdateEnded(key))

    # --- connections --------------------------------------------------------------------------------------------

    def go_offline(self, now: float) -> None:
        """Switch to the offline brain at once: the budget is spent."""
        main = self.link.main
        if self.policy.offline_endpoint is not None and main is not None:
            self.out.do(Disconnect(main.id))
            self.link.connect(now)
            self.link_left()

    def announce_detour(self) -> None:
        """Say once that the offline brain answers, and what a person can do about it."""
        detour = self.link.take_detour()
        if detour is None:
            return
        if detour.action == "fatal":
            self.out.announce(sentence(detour.kind), "offline")
        self.out.announce(Sentence("link.offline"), "offline")

    def link_left(self) -> None:
        """Forget the state of the old connection: on a new one, the conversation is empty."""
        self.answer.forget_link()
        self.out_of_band.lose()
        for update in self.session.forget():
            if update.spec is not None:  # the next connection starts with it
                self.replace_agent(update.key, update.spec)
        self.speech.forget_commits()
        self.out.forget_causes()
        self.history.end_open()

    def link_ready(self, link: Link, now: float) -> None:
        self.device.forget_trouble()
        if self.session.spec.is_asked_at_connect:
            self.link.await_instructions(link, now)
            self.out.do(PrepareAgent(ConnectKey(link.id), self.session.spec.agent, "connect"))
        else:
            self.configure(link, now)

    def configure(self, link: Link, now: float) -> None:
        """Send the agent's session and the history to a new connection."""
        self.link.configured(link)
        spec = self.session.spec
        self.session.update(SessionUpdateSent(f"session_{link.id}", "connect", self.session_of(spec), spec), now)
        self.history.replay()

    def session_of(self, spec: AgentSpec) -> Mapping[str, Any]:
        main = self.link.main
        is_trusted = main is None or main.endpoint == 0
        has_spoken = main is not None and main.has_spoken
        return session_for(spec, is_offline=self.is_free, is_trusted=is_trusted, has_spoken=has_spoken)
