"""Rules for results of tools, approvals, agents and guardrails, and for the calls of the model. Pure."""

from __future__ import annotations

import json
from dataclasses import replace

from appliance.conversation import events as ev
from appliance.conversation.commands import Sentence
from appliance.conversation.notices import AgentUpdateEnded, Guardrail
from appliance.conversation.procedures import Procedures, RunningTurn
from appliance.conversation.regions.session import SessionUpdateSent
from appliance.conversation.support.call import Made
from appliance.conversation.support.text_gate import Check
from appliance.conversation.support.troubles import sentence
from appliance.realtime import protocol as wire

_NEXT = "next"  # key of the replacement that a double tap asks for; those of programs are numbers

# --- calls ------------------------------------------------------------------------------------------------------------


def take_item(do: Procedures, item: wire.Item, now: float) -> None:
    origin = _origin(do)
    if origin is None:
        return
    if item.type == "mcp_call":
        do.close_call(do.calls.close_mcp(item), now)
    elif item.type == "mcp_approval_request":
        if do.calls.open.is_unknown(item.id):
            do.answer.note_output()
            do.close_call(do.calls.take_mcp_request(item, origin, now), now)
    elif item.type == "function_call" and (call := do.calls.take(item, origin, now)) is not None:
        do.speech_taken(now)
        do.answer.note_output()
        in_force = do.session.spec
        by = do.answer.speaker.spec or in_force
        do.close_call(do.calls.begin(call, by, in_force.agent, now), now)


def mcp_call(do: Procedures, item: wire.Item, now: float) -> None:
    origin = _origin(do)
    if origin is not None and do.calls.open.is_unknown_mcp(item.id):
        do.answer.note_output()
        do.calls.take_mcp(item, origin, now)


def _origin(do: Procedures) -> Made | None:
    """Return the turn, link and agent of the calls that the current response makes."""
    if do.turn is None or do.link.main is None:
        return None
    return Made(do.turn.id, do.link.main.id, (do.answer.speaker.spec or do.session.spec).agent)


def approval_answered(do: Procedures, event: ev.ApprovalAnswered, now: float) -> None:
    call = do.calls.open.get(event.call_id)
    if call is None or not call.awaits_approval:
        if do.calls.is_void(event.call_id):
            do.device.report("approval_void", now, detail=event.call_id, flash=False)
        return
    message = event.message or do.policy.output("rejected")
    decided = do.calls.decide_always(call, approves=event.approved, message=message) if event.always else [call]
    for one in decided:
        do.close_call(do.calls.approve(one, now) if event.approved else do.calls.reject(one, message), now)


def late_calls(do: Procedures, now: float) -> None:
    do.calls.work(now, do.turn_id, is_playing=do.answer.is_playing)
    for call in do.calls.open.late(now):
        if call.kind == "handoff":
            fail_handoff(do, call.call_id, "it took too long", now)
        else:
            do.close_call(do.calls.give_up(call, now), now)


# --- agents and handoffs ----------------------------------------------------------------------------------------------


def agent_prepared(do: Procedures, event: ev.AgentPrepared, now: float) -> None:
    key, spec = event.key, event.spec
    if isinstance(key, ev.NextKey):
        if do.session.is_next(key.number):
            _next_prepared(do, event, now)
        return
    if isinstance(key, ev.HandoffKey):
        _handoff_prepared(do, key.call_id, event, now)
        return
    if spec is None:
        do.device.report("instructions_late", now, detail=event.problem)
    if isinstance(key, ev.ConnectKey):
        link = do.link.main
        if link is not None and key.link == link.id and not link.is_configured:
            do.session.put_in_force(spec or do.session.spec)
            do.configure(link, now)
    elif key == ev.TurnKey(do.turn_id or "", do.speech.replays) and not do.gate.is_prepared:
        do.gate.prepared()
        in_force = do.session.spec
        is_new = spec is not None and spec != in_force and spec.agent == in_force.agent
        if spec is not None and is_new and not do.session.has_handoff:  # the new agent brings its own
            do.session.change_for_turn(key.turn, spec, do.session_of(spec), now)


def _handoff_prepared(do: Procedures, call_id: str, event: ev.AgentPrepared, now: float) -> None:
    call = do.calls.open.get(call_id)
    if call is None or call.kind != "handoff" or call.spec is not None:
        return
    if event.spec is None:
        do.device.report("handoff_failed", now, detail=f"{call.name}: {event.problem}")
        do.close_call(do.calls.close(call, event.problem or do.policy.output("handoff_failed"), is_error=True), now)
    else:
        call.spec = event.spec
        do.session.request_handoff(call_id, event.spec, do.session_of(event.spec), now)


def _next_prepared(do: Procedures, event: ev.AgentPrepared, now: float) -> None:
    """Hand over to the agent that the user asked for with a double tap, and say its name."""
    if event.spec is None:
        _next_failed(do, event.problem, now)
    else:
        replace_agent(do, ev.AgentReplaced(_NEXT, event.spec), now)
        do.out.announce(Sentence("device.agent", {"agent": event.spec.agent}), "start")


def _next_failed(do: Procedures, reason: str, now: float) -> None:
    do.device.report("handoff_failed", now, detail=reason)
    do.out.announce(sentence("handoff_failed"))


def hand_over(do: Procedures, update: SessionUpdateSent, now: float) -> None:
    """Complete a handoff: the server has accepted the new agent."""
    assert update.spec is not None
    before = do.session.put_in_force(update.spec)
    do.answer.hand_over(before, update.spec.agent, is_answering=do.turn is not None)
    call = do.calls.open.get(update.call_id)
    if call is not None:
        if do.turn_id == call.turn and call.handoff is not None:
            do.answer.begin_with(call.handoff.first_sentence)
        output = json.dumps({"assistant": update.spec.agent})
        do.close_call(do.calls.close(call, output, is_error=False), now)


def fail_handoff(do: Procedures, call_id: str, reason: str, now: float) -> None:
    """Fail a handoff and revert to the previous agent."""
    call = do.calls.open.get(call_id)
    if call is None:
        return
    do.device.report("handoff_failed", now, detail=f"{call.name}: {reason}")
    spec = do.session.wanted  # overwrites what the server may have applied
    do.session.roll_back(call_id, replace(spec, session=do.session_of(spec)).without_voice(), now)
    _expect_another(do)
    output = do.policy.output("handoff_refused", reason=reason.rstrip("."), agent=call.agent)
    do.close_call(do.calls.close(call, output, is_error=True), now)


def replace_agent(do: Procedures, event: ev.AgentReplaced, now: float) -> None:
    """Replace the active agent: now without a connection, else when the server accepts it."""
    handoff = do.calls.open.handoff
    if handoff is not None and handoff.spec is None:  # still being prepared: it would undo the program's choice
        do.close_call(do.calls.close(handoff, do.policy.output("second_handoff"), is_error=True), now)
    do.gate.prepared()  # the previous agent's instructions are not needed any more
    link = do.link.main
    if do.out.link is not None:
        do.session.request_agent(event.key, event.spec, do.session_of(event.spec), now)
        return
    do.replace_agent(event.key, event.spec)
    if link is not None and link.is_ready:  # it waits for the previous agent's instructions
        do.configure(link, now)


def refuse_agent(do: Procedures, update: SessionUpdateSent, reason: str, now: float) -> None:
    """Report that the server has not accepted the agent that the program, or a double tap, wants."""
    do.out.emit(AgentUpdateEnded(update.key, reason))
    if update.key == _NEXT:
        _next_failed(do, reason, now)
    _expect_another(do)


def _expect_another(do: Procedures) -> None:
    """Let the agent that is left check the response that was requested for a refused one."""
    if not do.answer.slot.is_begun:
        do.answer.expect(do.session.upcoming)


def late_updates(do: Procedures, now: float) -> None:
    """Give up agents that the server has not confirmed in time."""
    for update in do.session.expire(now):
        spec = do.session.wanted  # overwrites what the server may have applied
        session = replace(spec, session=do.session_of(spec)).without_voice()
        do.session.update(SessionUpdateSent(f"rollback_{update.key}", "rollback", session), now)
        refuse_agent(do, update, "the server did not confirm it in time", now)


# --- guardrails -------------------------------------------------------------------------------------------------------


def guardrails_checked(do: Procedures, event: ev.GuardrailsChecked, now: float) -> None:
    key = event.key
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
    elif (check := do.answer.playback.gate.pending(key.number)) is not None:  # else the answer is over
        if event.tripped:
            trip(do, turn, check, event.tripped, event.reason, now)
        else:
            do.answer.playback.gate.passed(key.number)
            do.answer.release(do.link.main_id or 0, now)


def late_check(do: Procedures, now: float) -> None:
    check = do.answer.playback.gate.late(now)
    if check is not None and do.turn is not None:
        trip(do, do.turn, check, "guardrail", "it took too long", now)


def trip(do: Procedures, turn: RunningTurn, check: Check, name: str, reason: str, now: float) -> None:
    """Stop an answer, tell the model why, and request another, up to `Policy.max_trips` times."""
    do.out.emit(Guardrail(turn.id, "output", check.item_id, name, reason))
    for call in do.calls.open.of(turn.id):  # closes waiting and cancellable calls; the model does not speak about them
        do.reply(do.calls.release(call, do.policy.output("guardrail")))
    do.stop_answer(now)
    trips = do.answer.begin_again()
    do.calls.forget_round()
    do.history.add_system_message(
        f"Your last answer was stopped by the guardrail {name!r}"
        + (f" ({reason})" if reason else "")
        + ". The user has not heard the rest of it. Do not repeat it; answer in another way."
    )
    if trips >= do.policy.max_trips or do.answer.received.failure:
        do.fail_turn("stopped", now, detail=f"{name}: {reason}", outcome="refused")
    else:
        do.answer.prolong(now)
        do.answer.slot.want(turn.id)
