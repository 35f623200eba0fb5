"""Tests of the conversation core: handoffs from one agent to another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from appliance.agents.spec import AgentSpec, HandoffCard, ToolCard
from appliance.conversation.commands import (
    PrepareAgent,
)
from appliance.conversation.events import (
    AgentPrepared,
    FrameGiven,
    HandoffKey,
    TurnKey,
)
from appliance.conversation.notices import (
    AgentEnd,
    AgentStart,
    Error,
    HandoffDone,
    TurnEnd,
)
from tests.support.stages.agents import AUDIO_SESSION, BILLING, GREETER, AgentStage, accepted, prepared


def _handing(specs: tuple[AgentSpec, ...] = (GREETER, BILLING), **policy: Any) -> AgentStage:
    """Let the greeter call the handoff to billing, and end its response."""
    scene = AgentStage(specs=specs, **policy).ready()
    scene.session_updated()
    scene.asked()
    scene.commands.clear()
    scene.called("transfer_to_billing", "call_1", '{"why":"money"}')
    scene.done()
    return scene


def test_prepare_agent_names_the_previous_agent_and_the_arguments_of_the_handoff() -> None:
    scene = _handing()
    assert scene.of(PrepareAgent) == [
        PrepareAgent(HandoffKey("call_1"), "billing", "handoff", "greeter", "transfer_to_billing", '{"why":"money"}')
    ]
    assert scene.tool_runs() == []
    assert scene.updates() == []


def test_a_handoff_sends_a_session_update_with_an_event_id() -> None:
    scene = _handing()
    (frame,) = scene.sent(prepared(scene))
    assert frame == {"type": "session.update", "event_id": "handoff_call_1", "session": BILLING.session}


def test_the_agent_is_swapped_only_when_the_server_has_accepted_it() -> None:
    scene = _handing()
    prepared(scene)
    assert scene.conversation.agent == "greeter"
    assert scene.outputs() == {}
    accepted(scene)
    assert scene.conversation.agent == "billing"
    assert scene.outputs() == {"call_1": ['{"assistant": "billing"}']}
    assert scene.ended() == [("call_1", False)]


def test_a_response_of_the_new_agent_is_requested_once_it_is_accepted() -> None:
    scene = _handing()
    prepared(scene)
    assert scene.asks() == []
    accepted(scene)
    assert len(scene.asks()) == 1


def test_the_new_agent_starts_with_its_first_sentence_and_says_it_once() -> None:
    scene = _handing()
    prepared(scene)
    accepted(scene)
    (ask,) = scene.asks()
    assert ask["instructions"] == "Bill.\n\nBegin your answer with exactly this sentence: Billing here."
    scene.created("resp_2")
    scene.called("refund", "call_2", response_id="resp_2")
    scene.done("resp_2")
    scene.tool_finished("call_2")
    assert "instructions" not in scene.asks()[1]


def test_a_first_sentence_is_kept_when_the_connection_is_lost_before_the_answer_begins() -> None:
    scene = _handing()
    prepared(scene)
    accepted(scene)
    scene.created("resp_2")
    scene.lose()
    scene.advance(1.0)
    scene.link_ready()
    first, second = [ask.get("instructions") for ask in scene.asks()]
    assert first == second == "Bill.\n\nBegin your answer with exactly this sentence: Billing here."


def test_a_first_sentence_that_was_begun_is_not_requested_again() -> None:
    guarded = replace(BILLING, has_output_guardrails=True)
    scene = AgentStage(specs=(GREETER, guarded), guardrail_debounce=1).ready()
    scene.session_updated()
    scene.asked()
    scene.called("transfer_to_billing", "call_1")
    scene.done()
    scene.do(AgentPrepared(HandoffKey("call_1"), guarded))
    scene.session_updated({"type": "realtime", "instructions": "Bill."})
    scene.created("resp_2")
    scene.wrote("Billing here. You owe 4711.", response_id="resp_2", item_id="item_b")
    scene.tripped(scene.checks()[-1])
    scene.done("resp_2", status="cancelled")
    assert ["instructions" in ask for ask in scene.asks()[-2:]] == [True, False]


def test_a_first_sentence_is_kept_when_a_busy_server_refuses_the_request() -> None:
    scene = _handing()
    prepared(scene)
    commands = accepted(scene)
    (create,) = [frame for frame in scene.sent(commands) if frame["type"] == "response.create"]
    scene.error("conversation_already_has_active_response", event_id=create["event_id"])
    scene.advance(1.1)
    assert [ask.get("instructions", "") for ask in scene.asks()][-1].endswith("Billing here.")


def test_a_handoff_without_a_first_sentence_sends_no_instructions_with_the_request() -> None:
    spec = AgentSpec(
        agent="greeter", session=AUDIO_SESSION, handoffs=(HandoffCard(name="transfer_to_billing", agent="billing"),)
    )
    scene = _handing((spec,))
    prepared(scene)
    accepted(scene)
    (ask,) = scene.asks()
    assert ask == {"metadata": {"turn": "turn_1"}}


def test_agent_and_handoff_notices_are_emitted_in_order() -> None:
    scene = AgentStage(specs=[GREETER]).ready()
    scene.session_updated()
    scene.asked()
    scene.wrote("I hand you over.", is_final=True)
    scene.called("transfer_to_billing", "call_1")
    scene.done()
    prepared(scene)
    accepted(scene)
    scene.created("resp_2")
    scene.audio("resp_2", "item_b")
    scene.wrote("Billing here.", is_final=True, response_id="resp_2", item_id="item_b")
    scene.done("resp_2")
    scene.play(4800, drained=True)
    kinds = (AgentStart, AgentEnd, HandoffDone, TurnEnd)
    told = [getattr(one, "notice", None) for one in scene.commands]
    assert [one for one in told if isinstance(one, kinds)] == [
        AgentStart("greeter"),
        AgentEnd("greeter", "I hand you over."),
        HandoffDone("greeter", "billing"),
        AgentStart("billing"),
        AgentEnd("billing", "Billing here."),
        TurnEnd("turn_1", "answered"),
    ]


def test_the_voice_is_left_out_once_the_session_has_spoken() -> None:
    scene = AgentStage(specs=[GREETER]).ready()
    scene.session_updated()
    scene.asked()
    scene.audio()
    scene.called("transfer_to_billing", "call_1")
    (frame,) = scene.sent(prepared(scene))
    assert frame["session"] == {
        "type": "realtime",
        "instructions": "Bill.",
        "audio": {"input": {"turn_detection": None}, "output": {}},
    }


def test_a_new_link_gets_the_voice_again() -> None:
    scene = AgentStage(specs=[GREETER]).ready()
    scene.session_updated()
    scene.answering(ms=200)
    scene.lose()
    scene.advance(1.0)
    scene.commands.clear()
    scene.link_ready()
    assert [one["session"] for one in scene.updates()] == [AUDIO_SESSION]


def test_a_late_confirmation_of_an_earlier_update_does_not_swap_agents() -> None:
    scene = AgentStage(specs=[GREETER]).start()
    scene.link_ready()  # the first session.update is not confirmed yet
    scene.advance(2.0)
    scene.asked()
    scene.called("transfer_to_billing", "call_1")
    scene.done()
    prepared(scene)
    scene.session_updated()
    assert scene.conversation.agent == "greeter"
    scene.session_updated()
    assert scene.conversation.agent == "billing"


def test_confirming_an_update_of_the_program_does_not_swap_agents() -> None:
    scene = _handing()
    scene.do(FrameGiven({"type": "session.update", "session": {"type": "realtime", "max_output_tokens": 500}}))
    prepared(scene)
    scene.session_updated({"type": "realtime", "instructions": "Greet.", "max_output_tokens": 500})
    assert scene.conversation.agent == "greeter"
    accepted(scene)
    assert scene.conversation.agent == "billing"


def test_a_confirmation_with_the_old_instructions_does_not_swap_agents() -> None:
    scene = _handing()
    prepared(scene)
    scene.session_updated({"type": "realtime", "instructions": "Greet."})
    assert scene.conversation.agent == "greeter"


def test_a_refused_handoff_is_rolled_back_reported_and_answered() -> None:
    scene = _handing()
    prepared(scene)
    scene.error("invalid_value", event_id="handoff_call_1", message="Unknown voice 'cedar'.")
    assert scene.conversation.agent == "greeter"
    (trouble,) = scene.notices(Error)
    assert (trouble.kind, trouble.detail) == ("handoff_failed", "transfer_to_billing: Unknown voice 'cedar'.")
    assert "Unknown voice 'cedar'" in scene.outputs()["call_1"][0]
    assert "You are still greeter." in scene.outputs()["call_1"][0]
    assert scene.ended() == [("call_1", True)]
    assert scene.notices(HandoffDone) == []
    assert len(scene.asks()) == 1, "the old agent continues"
    assert "instructions" not in scene.asks()[0]


def test_an_error_of_another_event_does_not_roll_the_handoff_back() -> None:
    scene = _handing()
    prepared(scene)
    scene.error("invalid_value", event_id="ev_999", message="Something else.")
    scene.error(None, message="And something without an id.")
    assert scene.ended() == []
    accepted(scene)
    assert scene.conversation.agent == "billing"


def test_a_handoff_whose_agent_cannot_be_prepared_is_answered_with_the_problem() -> None:
    scene = _handing()
    prepared(scene, None, "why: field required")
    assert scene.updates() == []
    assert scene.outputs() == {"call_1": ["why: field required"]}
    assert scene.conversation.agent == "greeter"
    assert len(scene.asks()) == 1


def test_a_handoff_never_confirmed_is_rolled_back_at_its_deadline() -> None:
    scene = _handing(tool_s=20.0)
    prepared(scene)
    scene.advance(20.1)
    assert scene.conversation.agent == "greeter"
    assert scene.troubles() == ["handoff_failed"]
    assert [one["session"]["instructions"] for one in scene.updates()] == ["Bill.", "Greet."], (
        "the state of the server is unknown, so the session is sent again"
    )
    assert "too long" in scene.outputs()["call_1"][0]
    assert len(scene.asks()) == 1


def test_a_confirmation_after_the_rollback_does_not_swap_agents() -> None:
    scene = _handing(tool_s=20.0)
    prepared(scene)
    scene.advance(20.1)
    accepted(scene)
    assert scene.conversation.agent == "greeter"
    assert scene.notices(HandoffDone) == []
    assert len(scene.outputs()["call_1"]) == 1


def test_a_handoff_whose_agent_is_never_prepared_fails_at_its_deadline_without_an_update() -> None:
    scene = _handing(tool_s=20.0)
    scene.advance(20.1)
    assert scene.updates() == []
    assert scene.troubles() == ["handoff_failed"]
    assert prepared(scene) == [], "the preparation is too late"


def test_a_second_handoff_in_the_same_response_is_refused() -> None:
    spec = AgentSpec(
        agent="greeter",
        session=AUDIO_SESSION,
        handoffs=(*GREETER.handoffs, HandoffCard(name="transfer_to_sales", agent="sales")),
    )
    scene = AgentStage(specs=[spec]).ready()
    scene.session_updated()
    scene.asked()
    scene.called("transfer_to_billing", "call_1")
    scene.called("transfer_to_sales", "call_2")
    scene.done()
    assert [one.agent for one in scene.of(PrepareAgent)] == ["billing"]
    assert "not made" in scene.outputs()["call_2"][0]
    prepared(scene)
    accepted(scene)
    assert scene.conversation.agent == "billing"
    assert len(scene.asks()) == 2


def test_a_handoff_and_a_tool_call_lead_to_one_request() -> None:
    spec = AgentSpec(agent="greeter", session=AUDIO_SESSION, tools=(ToolCard(name="a"),), handoffs=GREETER.handoffs)
    scene = AgentStage(specs=[spec]).ready()
    scene.session_updated()
    scene.asked()
    scene.called("transfer_to_billing", "call_1")
    scene.called("a", "call_2")
    scene.done()
    prepared(scene)
    accepted(scene)
    assert len(scene.asks()) == 1
    scene.tool_finished("call_2")
    assert len(scene.asks()) == 2


def test_calls_of_the_new_agent_use_its_own_tools() -> None:
    scene = _handing()
    prepared(scene)
    accepted(scene)
    scene.created("resp_2")
    scene.called("refund", "call_2", response_id="resp_2")
    scene.called("transfer_to_billing", "call_3", response_id="resp_2")
    assert [(run.name, run.agent) for run in scene.tool_runs()] == [("refund", "billing")]
    assert "There is no tool" in scene.outputs()["call_3"][0]


def test_a_barge_in_before_acceptance_does_not_stop_the_handoff() -> None:
    scene = _handing()
    prepared(scene)
    scene.press()
    scene.hear(200)
    accepted(scene)
    assert scene.conversation.agent == "billing"
    assert scene.outputs() == {"call_1": ['{"assistant": "billing"}']}
    assert scene.asks() == [], "the user is speaking"


def test_a_turn_after_a_barge_in_during_a_handoff_has_no_first_sentence() -> None:
    scene = _handing()
    prepared(scene)
    scene.press()
    scene.hear(200)
    accepted(scene)
    scene.release()
    scene.hear(260)
    (ask,) = scene.asks()
    assert ask == {"metadata": {"turn": "turn_2"}}
    assert scene.notices(AgentStart)[-1] == AgentStart("billing")


def test_instructions_for_a_turn_do_not_undo_a_pending_handoff() -> None:
    """After all confirmations, client and server must agree on the agent."""
    first = AgentSpec(agent="greeter", session=AUDIO_SESSION, handoffs=GREETER.handoffs, is_asked_at_turn=True)
    scene = AgentStage(specs=[first]).ready()
    scene.session_updated()
    scene.say()
    scene.do(AgentPrepared(TurnKey("turn_1", 0), first))
    scene.committed()
    scene.created()
    scene.called("transfer_to_billing", "call_1")
    scene.done()
    prepared(scene)
    scene.say()  # a barge-in: its instructions are requested before the server confirms the handoff
    at_noon = AgentSpec(agent="greeter", session={**AUDIO_SESSION, "instructions": "Greet. It is noon."})
    scene.do(AgentPrepared(TurnKey("turn_2", 0), at_noon))
    for update in scene.updates():
        scene.session_updated(update["session"])
    told = {"Bill.": "billing", "Greet.": "greeter", "Greet. It is noon.": "greeter"}
    assert told[scene.updates()[-1]["session"]["instructions"]] == scene.conversation.agent


def test_a_link_lost_during_a_handoff_keeps_the_old_agent() -> None:
    scene = _handing()
    prepared(scene)
    scene.lose()
    scene.advance(1.0)
    scene.commands.clear()
    scene.link_ready()
    assert scene.conversation.agent == "greeter"
    assert [one["session"]["instructions"] for one in scene.updates()] == ["Greet."]
    assert prepared(scene) == [], "its preparation is ignored"
    scene.session_updated()
    assert scene.conversation.agent == "greeter"


def test_a_turn_whose_link_is_lost_during_a_handoff_fails_with_an_announcement() -> None:
    scene = _handing()
    scene.lose()
    scene.advance(1.0)
    assert scene.outcomes() == ["failed"]
    assert scene.announced() == ["I lost the connection in the middle of my answer. Please ask again."]


def test_a_new_link_after_a_handoff_gets_the_new_agent() -> None:
    scene = _handing()
    prepared(scene)
    accepted(scene)
    scene.lose()
    scene.advance(1.0)
    scene.commands.clear()
    scene.link_ready()
    assert [one["session"] for one in scene.updates()] == [BILLING.session]
