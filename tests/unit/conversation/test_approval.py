"""Tests of the conversation core: calls that wait for an approval."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.agents.spec import AgentSpec, HandoffCard, ToolCard
from appliance.conversation.commands import (
    CheckApproval,
)
from appliance.conversation.events import (
    AgentPrepared,
    ApprovalAnswered,
    ApprovalChecked,
    BeginAsked,
    HandoffKey,
    InterruptAsked,
    MessageGiven,
    ShutdownRequested,
)
from appliance.conversation.notices import (
    ToolApproval,
    ToolEnd,
    ToolStart,
)
from appliance.conversation.support.feedback import light_state
from tests.support.stages.agents import BILLING, AgentStage, greeter, running


def _asking(approval: str = "always", **policy: Any) -> AgentStage:
    """Let the model call open_door."""
    scene = AgentStage(specs=[greeter(ToolCard(name="open_door", approval=approval))], **policy).ready().asked()
    scene.called("open_door", "call_1", '{"door":"front"}')
    scene.done()
    return scene


def test_a_tool_that_always_needs_approval_sets_the_light_plays_a_cue_and_emits_a_notice() -> None:
    scene = _asking()
    assert light_state(scene.conversation.view) == "approval"
    assert scene.announced()[-1] == "May I use open door? Press briefly for yes, hold for no."
    assert scene.notices(ToolApproval) == [ToolApproval("turn_1", "call_1", "open_door", '{"door":"front"}', "greeter")]
    assert scene.tool_runs() == []


@pytest.mark.parametrize(("seconds", "runs"), [(0.1, ["call_1"]), (1.01, [])])
def test_a_gesture_that_decides_stops_the_spoken_question(seconds: float, runs: list[str]) -> None:
    scene = _asking()
    count = len(scene.flushes())
    scene.press()
    scene.advance(seconds)
    scene.release()
    assert len(scene.flushes()) == count + 1
    assert [run.call_id for run in scene.tool_runs()] == runs


def test_a_gesture_does_not_cut_the_answer_that_plays_before_the_question() -> None:
    scene = AgentStage(specs=[greeter(ToolCard(name="open_door", approval="always"))]).ready().asked()
    scene.audio(ms=2000)
    scene.called("open_door", "call_1", "{}")
    scene.done()
    count = len(scene.flushes())
    scene.tap()
    assert len(scene.flushes()) == count
    assert [run.call_id for run in scene.tool_runs()] == ["call_1"]


def test_after_a_decision_the_next_call_that_waits_is_asked_about_again() -> None:
    scene = (
        AgentStage(specs=[greeter(*(ToolCard(name=name, approval="always") for name in ("one", "two")))])
        .ready()
        .asked()
    )
    scene.called("one", "call_1", "{}")
    scene.called("two", "call_2", "{}")
    scene.done()
    scene.tap()
    asked = [said.split("?")[0].removeprefix("May I use ") for said in scene.announced()]
    assert asked == ["one", "two", "two"]
    scene.tap()
    assert [run.call_id for run in scene.tool_runs()] == ["call_1", "call_2"]


def test_a_link_lost_while_approval_is_asked_voids_the_question_and_says_so() -> None:
    scene = _asking()
    scene.lose()
    assert (scene.outcomes(), scene.troubles()[-1]) == (["failed"], "approval_void")
    assert scene.announced()[-1] == "I lost the connection, so my question no longer counts. Please ask again."
    count = len(scene.troubles())
    scene.do(ApprovalAnswered("call_1", approved=True))
    assert (scene.tool_runs(), scene.troubles()[count:]) == ([], ["approval_void"])


def test_closing_the_session_ends_a_running_call_with_that_reason() -> None:
    scene = running()
    scene.do(ShutdownRequested("closed"))
    assert [one.output for one in scene.notices(ToolEnd)] == ["The session was closed before this call was answered."]


def test_the_program_can_approve_a_call() -> None:
    scene = _asking()
    scene.do(ApprovalAnswered("call_1", approved=True))
    assert [run.call_id for run in scene.tool_runs()] == ["call_1"]
    assert scene.state == "thinking"


def test_a_rejection_gives_the_model_the_reason_and_requests_a_response() -> None:
    scene = _asking()
    scene.do(ApprovalAnswered("call_1", approved=False, message="Not after ten."))
    assert scene.tool_runs() == []
    assert scene.outputs() == {"call_1": ["Not after ten."]}
    assert scene.notices(ToolStart) == scene.notices(ToolEnd) == []
    assert len(scene.asks()) == 2


def test_a_second_answer_to_the_same_question_is_ignored() -> None:
    scene = _asking()
    scene.do(ApprovalAnswered("call_1", approved=False))
    assert scene.do(ApprovalAnswered("call_1", approved=True)) == []
    assert scene.tool_runs() == []


def test_approving_a_running_tool_does_not_run_it_twice() -> None:
    scene = _asking()
    scene.do(ApprovalAnswered("call_1", approved=True))
    assert scene.do(ApprovalAnswered("call_1", approved=True)) == []
    assert scene.do(ApprovalAnswered("call_1", approved=False)) == []
    assert len(scene.tool_runs()) == 1


def _calls_again(scene: AgentStage) -> None:
    """Let the model call the same tool in its next response."""
    scene.created("resp_2")
    scene.called("open_door", "call_2", response_id="resp_2")
    scene.done("resp_2")


def test_a_permanent_approval_is_not_asked_for_again() -> None:
    scene = _asking()
    scene.do(ApprovalAnswered("call_1", approved=True, always=True))
    scene.tool_finished("call_1")
    _calls_again(scene)
    assert [run.call_id for run in scene.tool_runs()] == ["call_1", "call_2"]
    assert len(scene.notices(ToolApproval)) == 1


def test_a_permanent_rejection_answers_later_calls_with_the_same_message() -> None:
    scene = _asking()
    scene.do(ApprovalAnswered("call_1", approved=False, always=True, message="Never this door."))
    _calls_again(scene)
    assert scene.tool_runs() == []
    assert scene.outputs() == {"call_1": ["Never this door."], "call_2": ["Never this door."]}
    assert len(scene.notices(ToolApproval)) == 1


def test_an_approval_of_one_call_applies_to_that_call_only() -> None:
    scene = _asking()
    scene.do(ApprovalAnswered("call_1", approved=True))
    scene.tool_finished("call_1")
    _calls_again(scene)
    assert [run.call_id for run in scene.tool_runs()] == ["call_1"]
    assert scene.state == "awaiting_approval"


def test_a_permanent_approval_applies_to_no_other_tool() -> None:
    cards = (ToolCard(name="open_door", approval="always"), ToolCard(name="open_safe", approval="always"))
    scene = AgentStage(specs=[greeter(*cards)]).ready().asked()
    scene.called("open_door", "call_1")
    scene.done()
    scene.do(ApprovalAnswered("call_1", approved=True, always=True))
    scene.tool_finished("call_1")
    scene.created("resp_2")
    scene.called("open_safe", "call_2", response_id="resp_2")
    assert [run.name for run in scene.tool_runs()] == ["open_door"]


def test_a_permanent_approval_applies_to_no_other_agent_with_the_same_tool() -> None:
    door = ToolCard(name="open_door", approval="always")
    to_billing = HandoffCard(name="transfer_to_billing", agent="billing")
    billing = AgentSpec(agent="billing", session=BILLING.session, tools=(door,))
    scene = AgentStage(specs=[greeter(door, handoffs=(to_billing,)), billing]).ready()
    scene.session_updated()
    scene.asked()
    scene.called("open_door", "call_1")
    scene.done()
    scene.do(ApprovalAnswered("call_1", approved=True, always=True))
    scene.tool_finished("call_1")
    scene.created("resp_2")
    scene.called("open_door", "call_2", response_id="resp_2")
    scene.called("transfer_to_billing", "call_3", response_id="resp_2")
    scene.done(response_id="resp_2")
    scene.tool_finished("call_2")
    scene.do(AgentPrepared(HandoffKey("call_3"), billing))
    scene.session_updated({"type": "realtime", "instructions": "Bill."})
    scene.created("resp_3")
    scene.called("open_door", "call_4", response_id="resp_3")
    assert [(run.call_id, run.agent) for run in scene.tool_runs()] == [("call_1", "greeter"), ("call_2", "greeter")]
    assert [(one.call_id, one.agent) for one in scene.notices(ToolApproval)][-1] == ("call_4", "billing")


def test_an_approval_predicate_is_asked_before_the_user() -> None:
    scene = _asking("asked")
    assert scene.of(CheckApproval) == [CheckApproval("call_1", "open_door", '{"door":"front"}', "greeter")]
    assert scene.tool_runs() == []
    assert scene.notices(ToolApproval) == []


def test_a_predicate_that_needs_no_approval_lets_the_tool_run() -> None:
    scene = _asking("asked")
    scene.do(ApprovalChecked("call_1", needed=False))
    assert [run.call_id for run in scene.tool_runs()] == ["call_1"]


def test_a_predicate_that_needs_approval_asks_the_user() -> None:
    scene = _asking("asked")
    scene.do(ApprovalChecked("call_1", needed=True))
    assert scene.tool_runs() == []
    assert scene.state == "awaiting_approval"


def test_a_call_with_invalid_arguments_is_not_run_and_the_model_gets_the_problem() -> None:
    scene = _asking("asked")
    scene.do(ApprovalChecked("call_1", needed=False, problem="door: field required"))
    assert scene.tool_runs() == []
    assert scene.outputs() == {"call_1": ["door: field required"]}
    assert len(scene.asks()) == 2


def test_a_predicate_that_times_out_asks_the_user() -> None:
    scene = _asking("asked", tool_s=20.0)
    scene.advance(20.1)
    assert scene.tool_runs() == []
    assert scene.state == "awaiting_approval"
    scene.do(ApprovalChecked("call_1", needed=False))
    assert scene.tool_runs() == [], "the late answer must not open the door"


def test_an_unanswered_question_is_rejected_at_its_deadline() -> None:
    scene = _asking(approval_s=30.0)
    scene.advance(29.9)
    assert scene.outputs() == {}
    scene.advance(0.2)
    assert "did not answer" in scene.outputs()["call_1"][0]
    assert scene.tool_runs() == []
    assert len(scene.asks()) == 2


def test_the_timeout_of_a_tool_starts_at_its_approval() -> None:
    scene = _asking(approval_s=30.0, tool_s=20.0)
    scene.advance(25)
    scene.do(ApprovalAnswered("call_1", approved=True))
    scene.advance(19)
    scene.tool_finished("call_1", "open")
    assert scene.outputs() == {"call_1": ["open"]}


def test_a_tap_approves_one_call_at_a_time() -> None:
    scene = AgentStage(specs=[greeter(ToolCard(name="open_door", approval="always"))]).ready().asked()
    scene.called("open_door", "call_1")
    scene.called("open_door", "call_2")
    scene.done()
    scene.tap()
    assert [run.call_id for run in scene.tool_runs()] == ["call_1"]
    scene.tap()
    assert [run.call_id for run in scene.tool_runs()] == ["call_1", "call_2"]


def test_a_hold_of_a_second_rejects_and_its_release_approves_nothing() -> None:
    scene = _asking()
    scene.press()
    scene.advance(0.99)
    assert scene.outputs() == {}
    scene.advance(0.02)
    assert "rejected" in scene.outputs()["call_1"][0]
    scene.release()
    assert scene.tool_runs() == []


def test_a_press_between_tap_and_hold_decides_nothing() -> None:
    scene = _asking()
    scene.press()
    scene.advance(0.6)
    scene.release()
    assert scene.state == "awaiting_approval"
    assert scene.tool_runs() == []
    assert scene.outputs() == {}


def test_a_press_while_the_predicate_runs_is_a_barge_in_and_approves_nothing() -> None:
    scene = _asking("asked")
    scene.press()
    scene.do(ApprovalChecked("call_1", needed=True))
    scene.release()
    assert scene.tool_runs() == []
    assert len(scene.outputs()["call_1"]) == 1


def test_a_tap_answers_only_the_question_open_when_it_started() -> None:
    """The press starts during the first question; the second arrives before the release and is not approved."""
    scene = AgentStage(specs=[greeter(ToolCard(name="open_door", approval="always"))]).ready().asked()
    scene.called("open_door", "call_1")
    scene.press()
    scene.advance(0.05)
    scene.do(ApprovalAnswered("call_1", approved=False))
    scene.called("open_door", "call_2")
    scene.release()
    assert scene.tool_runs() == []


def test_a_hold_answers_only_the_question_open_when_it_started() -> None:
    scene = AgentStage(specs=[greeter(ToolCard(name="open_door", approval="always"))]).ready().asked()
    scene.called("open_door", "call_1")
    scene.press()
    scene.advance(0.5)
    scene.do(ApprovalAnswered("call_1", approved=False))
    scene.called("open_door", "call_2")
    scene.advance(0.6)
    assert set(scene.outputs()) == {"call_1"}
    assert scene.state == "awaiting_approval"


def test_speech_while_a_call_waits_approves_nothing() -> None:
    scene = _asking()
    scene.press()
    scene.hear(600)
    scene.release()
    scene.heard("Yes, open it.")
    assert scene.tool_runs() == []
    assert scene.state == "awaiting_approval"


def test_a_turn_of_the_program_withdraws_the_question_and_approves_nothing() -> None:
    scene = _asking()
    scene.do(BeginAsked())
    assert scene.tool_runs() == []
    assert "did not approve" in scene.outputs()["call_1"][0]
    scene.do(ApprovalAnswered("call_1", approved=True))
    assert scene.tool_runs() == []


def test_a_written_yes_approves_nothing() -> None:
    scene = _asking()
    item = {"id": "m1", "type": "message", "role": "user", "content": [{"type": "input_text", "text": "Yes!"}]}
    scene.do(MessageGiven(item, "Yes!"))
    assert scene.tool_runs() == []
    assert len(scene.outputs()["call_1"]) == 1


def test_speech_detected_by_the_server_approves_nothing() -> None:
    ear = {"type": "realtime", "audio": {"input": {"turn_detection": {"type": "server_vad"}}}}
    spec = AgentSpec(agent="greeter", session=ear, tools=(ToolCard(name="open_door", approval="always"),))
    scene = AgentStage(specs=[spec]).ready()
    scene.server({"type": "input_audio_buffer.speech_started", "item_id": "item_user", "audio_start_ms": 0})
    scene.committed()
    scene.created(turn=None)
    scene.called("open_door", "call_1")
    scene.done(turn=None)
    assert scene.state == "awaiting_approval"
    scene.server({"type": "input_audio_buffer.speech_started", "item_id": "item_user_2", "audio_start_ms": 900})
    scene.heard("Yes", "item_user_2")
    assert scene.tool_runs() == []
    assert "did not approve" in scene.outputs()["call_1"][0]


def test_an_interruption_withdraws_a_question_and_answers_the_call() -> None:
    scene = _asking()
    scene.do(InterruptAsked())
    assert "did not approve" in scene.outputs()["call_1"][0]
    assert scene.state == "ready"
    assert len(scene.asks()) == 1
