"""Tests that output checks of an agent that has handed over end with their turn."""

from __future__ import annotations

from dataclasses import replace

from appliance.conversation.commands import CheckText, Play
from appliance.conversation.events import AgentPrepared, HandoffKey, InterruptAsked
from appliance.conversation.notices import Guardrail
from tests.support.stages.agents import BILLING, GREETER, AgentStage


def handed_over(**policy: object) -> tuple[AgentStage, CheckText]:
    """Let a guarded agent say a sentence and hand over to an agent without guardrails, which is asked to speak."""
    guarded = replace(GREETER, has_output_guardrails=True)
    scene = AgentStage(specs=(guarded, BILLING), guardrail_debounce=1, **policy).ready()
    scene.session_updated()
    scene.asked()
    scene.wrote("I ask my colleague.")
    scene.audio()
    (check,) = scene.checks()
    scene.called("transfer_to_billing", "call_1")
    scene.done()
    scene.do(AgentPrepared(HandoffKey("call_1"), BILLING))
    scene.session_updated({"type": "realtime", "instructions": "Bill."})
    assert len(scene.asks()) == 2
    return scene, check


def test_an_interruption_removes_the_deadline_of_the_check() -> None:
    scene, _ = handed_over(rotate_after_s=1e6)
    scene.do(InterruptAsked())
    scene.advance(60.0)
    assert scene.conversation.deadline is None or scene.conversation.deadline > scene.now + 60.0


def test_a_check_of_the_previous_turn_never_trips_the_next() -> None:
    scene, _ = handed_over()
    scene.press()
    scene.hear(500)
    scene.advance(20.0)
    assert scene.notices(Guardrail) == []


def test_a_verdict_on_the_previous_turn_plays_nothing_in_the_next() -> None:
    scene, check = handed_over(hold_audio=True)
    scene.press()
    scene.hear(500)
    assert [one for one in scene.passed(check) if isinstance(one, Play)] == []
