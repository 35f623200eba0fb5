"""Tests of the conversation core: guardrails of what the user says."""

from __future__ import annotations

from typing import Any

from appliance.agents.spec import AgentSpec, ToolCard
from appliance.conversation.events import (
    MessageGiven,
)
from appliance.conversation.notices import (
    Guardrail,
)
from tests.support.stages.agents import AUDIO_SESSION, GREETER, AgentStage, greeter


def _screened(**policy: Any) -> AgentStage:
    """Speak a turn to an agent with input guardrails."""
    spec = AgentSpec(agent="greeter", session=AUDIO_SESSION, tools=(), has_input_guardrails=True)
    scene = AgentStage(specs=[spec], **policy).ready()
    scene.say()
    scene.committed()
    return scene


def test_an_answer_is_requested_only_after_the_transcript_has_passed() -> None:
    scene = _screened()
    scene.advance(2)
    assert scene.asks() == []
    (check,) = scene.checks(scene.heard("What is the weather?"))
    assert (check.agent, check.side, check.text) == ("greeter", "input", "What is the weather?")
    assert scene.asks() == []
    scene.passed(check)
    assert scene.asks() == [{"metadata": {"turn": "turn_1"}}]


def test_a_refused_transcript_is_deleted_reported_and_never_answered() -> None:
    scene = _screened()
    (check,) = scene.checks(scene.heard("Something bad."))
    scene.commands.clear()
    scene.tripped(check, "no_bad_words", "a bad word")
    assert scene.sent() == [{"type": "conversation.item.delete", "event_id": "item_item_user", "item_id": "item_user"}]
    assert scene.notices(Guardrail) == [Guardrail("turn_1", "input", "item_user", "no_bad_words", "a bad word")]
    assert scene.announced() == ["I can't answer that."]
    assert scene.outcomes() == ["refused"]
    assert scene.conversation.history == ()
    scene.advance(30)
    assert scene.asks() == []


def test_a_failed_transcript_is_refused() -> None:
    scene = _screened()
    scene.server(
        {
            "type": "conversation.item.input_audio_transcription.failed",
            "item_id": "item_user",
            "content_index": 0,
            "error": {"type": "server_error", "message": "?"},
        }
    )
    assert scene.outcomes() == ["refused"]
    assert scene.asks() == []
    assert "conversation.item.delete" in scene.sent_types()


def test_a_failed_transcript_is_ignored_without_input_guardrails() -> None:
    scene = AgentStage(specs=[GREETER]).ready().asked()
    scene.server(
        {
            "type": "conversation.item.input_audio_transcription.failed",
            "item_id": "item_user",
            "content_index": 0,
            "error": {"type": "server_error", "message": "?"},
        }
    )
    assert scene.outcomes() == []


def test_a_missing_transcript_is_refused_at_its_deadline() -> None:
    scene = _screened(transcript_s=10.0, guardrail_s=5.0)
    scene.advance(9.5)
    assert scene.outcomes() == []
    scene.advance(1.0)
    assert scene.outcomes() == ["refused"]
    assert [one.side for one in scene.notices(Guardrail)] == ["input"]
    assert scene.asks() == []


def test_an_input_check_that_times_out_refuses_the_turn() -> None:
    scene = _screened(transcript_s=10.0, guardrail_s=5.0)
    scene.advance(3.0)
    scene.heard("What is the weather?")
    scene.advance(4.9)
    assert scene.outcomes() == []
    scene.advance(0.2)
    assert scene.outcomes() == ["refused"]
    assert scene.asks() == []


def test_a_verdict_on_the_transcript_of_an_interrupted_turn_is_ignored() -> None:
    scene = _screened()
    (check,) = scene.checks(scene.heard("Something bad."))
    scene.press()
    assert scene.tripped(check) == []
    assert scene.outcomes() == ["interrupted"]


def test_the_transcript_of_another_item_is_not_checked_for_this_turn() -> None:
    scene = _screened()
    assert scene.checks(scene.heard("From before.", "item_old")) == []
    assert scene.asks() == []


def test_a_message_is_checked_by_its_text_and_deleted_when_refused() -> None:
    spec = AgentSpec(agent="greeter", session=AUDIO_SESSION, has_input_guardrails=True)
    scene = AgentStage(specs=[spec]).ready()
    item = {"id": "m1", "type": "message", "role": "user", "content": [{"type": "input_text", "text": "bad"}]}
    (check,) = scene.checks(scene.do(MessageGiven(item, "bad")))
    assert check.text == "bad"
    assert scene.asks() == []
    scene.tripped(check)
    assert scene.sent_types() == ["conversation.item.create", "conversation.item.delete"]
    assert scene.outcomes() == ["refused"]


def test_a_transcript_that_has_passed_is_not_checked_again_in_a_second_round() -> None:
    spec = greeter(ToolCard(name="a"), has_input_guardrails=True)
    scene = AgentStage(specs=[spec]).ready()
    scene.say()
    scene.committed()
    (check,) = scene.checks(scene.heard("What time is it?"))
    scene.passed(check)
    scene.created()
    scene.called("a", "call_1")
    scene.done()
    scene.tool_finished("call_1")
    assert len(scene.asks()) == 2
    assert len(scene.checks()) == 1


def test_a_replayed_turn_is_checked_again_before_it_is_answered() -> None:
    scene = _screened()
    scene.lose()
    scene.advance(1.0)
    scene.link_ready()
    scene.committed("item_again")
    assert scene.asks() == []
    (check,) = scene.checks(scene.heard("What is the weather?", "item_again"))
    scene.passed(check)
    assert len(scene.asks()) == 1
