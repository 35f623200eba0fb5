"""Tests of the conversation core: instructions that are made for a link or for a turn."""

from __future__ import annotations

from typing import Any

from appliance.agents.spec import AgentSpec
from appliance.conversation.commands import (
    PrepareAgent,
)
from appliance.conversation.events import (
    AgentPrepared,
    ConnectKey,
    InterruptAsked,
    TurnKey,
)
from appliance.conversation.notices import (
    Error,
)
from tests.support.stages.agents import AUDIO_SESSION, GREETER, AgentStage, prepared

MORNING = AgentSpec(agent="greeter", session={**AUDIO_SESSION, "instructions": "Greet. It is morning."})


def test_instructions_are_requested_at_connect_and_sent_to_the_session() -> None:
    scene = AgentStage(specs=[AgentSpec(agent="greeter", session=AUDIO_SESSION, is_asked_at_connect=True)]).start()
    scene.link_ready()
    assert scene.of(PrepareAgent) == [PrepareAgent(ConnectKey(1), "greeter", "connect")]
    assert scene.sent() == [], "nothing is sent before the instructions arrive"
    scene.do(AgentPrepared(ConnectKey(1), MORNING))
    assert [one["session"]["instructions"] for one in scene.updates()] == ["Greet. It is morning."]


def test_late_instructions_for_a_link_keep_the_old_ones() -> None:
    spec = AgentSpec(agent="greeter", session=AUDIO_SESSION, is_asked_at_connect=True)
    scene = AgentStage(specs=[spec], prepare_s=5.0).start()
    scene.link_ready()
    scene.advance(4.9)
    assert scene.updates() == []
    scene.advance(0.2)
    assert [one["session"]["instructions"] for one in scene.updates()] == ["Greet."]
    assert scene.troubles() == ["instructions_late"]
    assert scene.do(AgentPrepared(ConnectKey(1), MORNING)) == []


def test_failed_instructions_for_a_link_keep_the_old_ones_and_are_reported() -> None:
    scene = AgentStage(specs=[AgentSpec(agent="greeter", session=AUDIO_SESSION, is_asked_at_connect=True)]).start()
    scene.link_ready()
    scene.do(AgentPrepared(ConnectKey(1), None, "KeyError: 'name'"))
    assert [one["session"]["instructions"] for one in scene.updates()] == ["Greet."]
    assert [(one.kind, one.detail) for one in scene.notices(Error)] == [("instructions_late", "KeyError: 'name'")]


def test_instructions_for_an_old_link_are_not_sent_to_the_next() -> None:
    spec = AgentSpec(agent="greeter", session=AUDIO_SESSION, is_asked_at_connect=True)
    scene = AgentStage(specs=[spec]).start()
    scene.link_ready()
    scene.lose()
    scene.advance(1.0)
    scene.link_ready()
    assert scene.do(AgentPrepared(ConnectKey(1), MORNING)) == []
    assert [one.key for one in scene.of(PrepareAgent)] == [ConnectKey(1), ConnectKey(2)]


def test_a_turn_spoken_while_a_link_waits_for_its_instructions_is_sent_after_them() -> None:
    scene = AgentStage(specs=[AgentSpec(agent="greeter", session=AUDIO_SESSION, is_asked_at_connect=True)]).start()
    scene.advance(2.0)
    scene.link_ready()
    scene.say()
    assert scene.sent() == []
    scene.do(AgentPrepared(ConnectKey(1), MORNING))
    assert scene.sent_types() == [
        "session.update",
        "input_audio_buffer.clear",
        "input_audio_buffer.append",
        "input_audio_buffer.commit",
        "response.create",
    ]


def _turn_by_turn(**policy: Any) -> AgentStage:
    """Speak a turn to an agent whose instructions are made for each turn."""
    scene = AgentStage(
        specs=[AgentSpec(agent="greeter", session=AUDIO_SESSION, is_asked_at_turn=True)], **policy
    ).ready()
    scene.session_updated()
    scene.say()
    scene.committed()
    return scene


def test_the_instructions_of_a_turn_are_sent_before_its_request() -> None:
    scene = _turn_by_turn()
    assert scene.of(PrepareAgent) == [PrepareAgent(TurnKey("turn_1", 0), "greeter", "turn")]
    assert scene.asks() == []
    commands = scene.do(AgentPrepared(TurnKey("turn_1", 0), MORNING))
    update, create = scene.sent(commands)
    assert update["session"]["instructions"] == "Greet. It is morning."
    assert create["type"] == "response.create"


def test_unchanged_instructions_are_not_sent_again() -> None:
    scene = _turn_by_turn()
    commands = scene.do(
        AgentPrepared(TurnKey("turn_1", 0), AgentSpec(agent="greeter", session=AUDIO_SESSION, is_asked_at_turn=True))
    )
    assert scene.sent_types(commands) == ["response.create"]


def test_late_instructions_for_a_turn_keep_the_old_ones() -> None:
    scene = _turn_by_turn(prepare_s=5.0)
    scene.advance(4.5)
    assert scene.asks() == []
    scene.advance(1.0)
    assert len(scene.asks()) == 1
    assert scene.troubles() == ["instructions_late"]
    assert scene.do(AgentPrepared(TurnKey("turn_1", 0), MORNING)) == []
    assert scene.updates() == []


def test_failed_instructions_for_a_turn_keep_the_old_ones() -> None:
    scene = _turn_by_turn()
    scene.do(AgentPrepared(TurnKey("turn_1", 0), None, "KeyError: 'name'"))
    assert scene.updates() == []
    assert len(scene.asks()) == 1
    assert scene.troubles() == ["instructions_late"]


def test_instructions_of_an_interrupted_turn_are_not_sent() -> None:
    scene = _turn_by_turn()
    scene.press()
    assert scene.do(AgentPrepared(TurnKey("turn_1", 0), MORNING)) == []


def test_instructions_are_requested_for_each_turn() -> None:
    scene = _turn_by_turn()
    scene.do(InterruptAsked())
    scene.say()
    assert [one.key for one in scene.of(PrepareAgent)] == [TurnKey("turn_1", 0), TurnKey("turn_2", 0)]


def test_a_turn_that_needs_instructions_and_a_check_waits_for_both() -> None:
    spec = AgentSpec(agent="greeter", session=AUDIO_SESSION, is_asked_at_turn=True, has_input_guardrails=True)
    scene = AgentStage(specs=[spec]).ready()
    scene.say()
    scene.committed()
    (check,) = scene.checks(scene.heard("Hello"))
    scene.passed(check)
    assert scene.asks() == []
    scene.do(AgentPrepared(TurnKey("turn_1", 0), spec))
    assert len(scene.asks()) == 1


def test_late_instructions_use_their_own_deadline_not_that_of_the_transcript() -> None:
    spec = AgentSpec(agent="greeter", session=AUDIO_SESSION, is_asked_at_turn=True, has_input_guardrails=True)
    scene = AgentStage(specs=[spec], prepare_s=5.0, transcript_s=10.0).ready()
    scene.say()
    scene.committed()
    (check,) = scene.checks(scene.heard("Hello"))
    scene.passed(check)
    scene.advance(5.5)
    assert len(scene.asks()) == 1


def test_the_voice_is_left_out_even_if_the_session_spoke_only_in_a_cancelled_response() -> None:
    scene = AgentStage(specs=[GREETER]).ready().asked()
    scene.press()  # a barge-in before any audio
    scene.audio()
    assert scene.plays() == []
    scene.done(status="cancelled")
    scene.hear(500)
    scene.release()
    scene.hear(260, 30, -60.0)
    scene.committed("item_user_2")
    scene.created("resp_2", "turn_2")
    scene.called("transfer_to_billing", "call_1", response_id="resp_2")
    (update,) = [one for one in scene.sent(prepared(scene)) if one["type"] == "session.update"]
    assert "voice" not in update["session"].get("audio", {}).get("output", {})
