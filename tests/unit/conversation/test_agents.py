"""Tests of the conversation core with agents: tools, approvals, handoffs, guardrails and instructions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from appliance.agents.spec import AgentSpec, HandoffCard, ToolCard
from appliance.conversation.commands import (
    Announce,
    CancelTool,
    CheckApproval,
    CheckText,
    Command,
    FinishPlay,
    PlayEarcon,
    PrepareAgent,
)
from appliance.conversation.events import (
    AgentPrepared,
    ApprovalAnswered,
    ApprovalChecked,
    BeginAsked,
    ConnectKey,
    FrameGiven,
    HandoffKey,
    InterruptAsked,
    MessageGiven,
    ShutdownRequested,
    TurnKey,
)
from appliance.conversation.notices import (
    AgentEnd,
    AgentStart,
    Error,
    Guardrail,
    HandoffDone,
    ToolApproval,
    ToolEnd,
    ToolStart,
    TurnEnd,
)
from appliance.conversation.support.feedback import light_state
from tests.support.stages.agents import AUDIO_SESSION, BILLING, GREETER, AgentStage, greeter

# --- tools: the barrier ------------------------------------------------------------------------------------------


def test_two_calls_may_finish_in_any_order_and_lead_to_one_request() -> None:
    scene = AgentStage(specs=[greeter(ToolCard(name="a"), ToolCard(name="b"))]).ready().asked()
    scene.called("a", "call_1")
    scene.called("b", "call_2")
    scene.done()
    scene.tool_finished("call_2", "2")
    assert len(scene.asks()) == 1, "one call is still running"
    scene.tool_finished("call_1", "1")
    assert scene.outputs() == {"call_1": ["1"], "call_2": ["2"]}
    assert len(scene.asks()) == 2


def test_a_late_tool_delays_the_answer_only_until_its_deadline() -> None:
    scene = AgentStage(tool_s=5.0, specs=[greeter(ToolCard(name="a"), ToolCard(name="b"))]).ready().asked()
    scene.called("a", "call_1")
    scene.called("b", "call_2")
    scene.done()
    scene.tool_finished("call_1", "1")
    scene.advance(4.9)
    assert len(scene.asks()) == 1
    scene.advance(0.2)
    assert "took too long" in scene.outputs()["call_2"][0]
    assert len(scene.asks()) == 2
    assert scene.of(CancelTool) == [CancelTool("call_2")]


def test_the_late_result_of_a_timed_out_tool_is_not_sent_as_a_second_output() -> None:
    scene = AgentStage(tool_s=5.0, specs=[greeter(ToolCard(name="a"))]).ready().asked()
    scene.called("a", "call_1")
    scene.done()
    scene.advance(5.1)
    assert scene.tool_finished("call_1", "late") == []
    assert len(scene.outputs()["call_1"]) == 1


def test_a_tool_may_run_for_the_timeout_on_its_card() -> None:
    scene = AgentStage(tool_s=5.0, specs=[greeter(ToolCard(name="a", timeout_s=30.0))]).ready().asked()
    scene.called("a", "call_1")
    scene.done()
    scene.advance(30.0)
    scene.tool_finished("call_1", "slow but fine")
    assert scene.outputs() == {"call_1": ["slow but fine"]}
    assert scene.ended() == [("call_1", False)]


def test_a_tool_with_its_own_timeout_is_cancelled_shortly_after_it() -> None:
    scene = AgentStage(tool_s=60.0, specs=[greeter(ToolCard(name="a", timeout_s=1.0))]).ready().asked()
    scene.called("a", "call_1")
    scene.done()
    scene.advance(5.0)
    assert scene.ended() == [("call_1", True)]


def test_a_rejected_call_and_a_running_one_lead_to_one_request() -> None:
    scene = AgentStage(specs=[greeter(ToolCard(name="a"), ToolCard(name="open", approval="always"))]).ready().asked()
    scene.called("a", "call_1")
    scene.called("open", "call_2")
    scene.done()
    scene.do(ApprovalAnswered("call_2", approved=False))
    assert len(scene.asks()) == 1
    scene.tool_finished("call_1", "1")
    assert len(scene.asks()) == 2
    assert [call.call_id for call in scene.tool_runs()] == ["call_1"]


@pytest.mark.parametrize("name", ["nothing_like_it", "asleep"])
def test_an_impossible_call_and_a_running_one_lead_to_one_request(name: str) -> None:
    scene = (
        AgentStage(specs=[greeter(ToolCard(name="a"), ToolCard(name="asleep"), disabled=("asleep",))]).ready().asked()
    )
    scene.called(name, "call_1")
    scene.called("a", "call_2")
    scene.done()
    assert len(scene.asks()) == 1
    scene.tool_finished("call_2", "2")
    assert len(scene.asks()) == 2
    assert set(scene.outputs()) == {"call_1", "call_2"}


def test_calls_that_all_end_before_response_done_lead_to_one_request_after_it() -> None:
    scene = AgentStage(specs=[greeter(ToolCard(name="a"))]).ready().asked()
    scene.called("a", "call_1")
    scene.tool_finished("call_1", "1")
    scene.called("unknown", "call_2")
    assert len(scene.asks()) == 1
    scene.done()
    assert len(scene.asks()) == 2


def test_an_unknown_tool_is_answered_with_the_known_names_and_the_turn_continues() -> None:
    spec = greeter(ToolCard(name="clock"), ToolCard(name="asleep"), handoffs=GREETER.handoffs, disabled=("asleep",))
    scene = AgentStage(specs=[spec]).ready().asked()
    scene.called("weather", "call_1")
    scene.done()
    assert scene.outputs() == {"call_1": ["There is no tool weather; there are: clock, transfer_to_billing."]}
    assert scene.tool_runs() == []
    assert len(scene.asks()) == 2
    scene.created("resp_2")
    scene.audio("resp_2", "item_b")
    scene.done("resp_2")
    scene.play(4800, drained=True)
    assert scene.outcomes() == ["answered"]


def test_a_disabled_tool_is_not_run_and_the_model_gets_the_reason() -> None:
    scene = AgentStage(specs=[greeter(ToolCard(name="clock"), disabled=("clock",))]).ready().asked()
    scene.called("clock", "call_1")
    scene.done()
    assert scene.tool_runs() == []
    assert "not available" in scene.outputs()["call_1"][0]
    assert len(scene.asks()) == 2


def test_a_disabled_handoff_is_not_made() -> None:
    spec = AgentSpec(
        agent="greeter", session=AUDIO_SESSION, handoffs=GREETER.handoffs, disabled=("transfer_to_billing",)
    )
    scene = AgentStage(specs=[spec]).ready().asked()
    scene.called("transfer_to_billing", "call_1")
    assert scene.of(PrepareAgent) == []
    assert "not available" in scene.outputs()["call_1"][0]


def test_a_failed_tool_answers_the_model_and_the_turn_continues() -> None:
    scene = AgentStage(specs=[greeter(ToolCard(name="a"))]).ready().asked()
    scene.called("a", "call_1")
    scene.done()
    scene.tool_finished("call_1", "ValueError: no such city", is_error=True)
    assert scene.outputs() == {"call_1": ["ValueError: no such city"]}
    assert scene.ended() == [("call_1", True)]
    assert len(scene.asks()) == 2


def test_run_tool_names_the_agent_that_owns_the_tool() -> None:
    scene = AgentStage(specs=[greeter(ToolCard(name="a"))]).ready().asked()
    scene.called("a", "call_1", '{"x":1}')
    (run,) = scene.tool_runs()
    assert (run.agent, run.name, run.arguments) == ("greeter", "a", '{"x":1}')
    assert scene.notices(ToolStart) == [ToolStart("turn_1", "call_1", "a", '{"x":1}', "greeter")]


def test_an_incomplete_call_is_not_run() -> None:
    scene = AgentStage(specs=[greeter(ToolCard(name="a"))]).ready().asked()
    item = {
        "id": "item_call_1",
        "type": "function_call",
        "status": "incomplete",
        "name": "a",
        "call_id": "call_1",
        "arguments": '{"x":',
    }
    scene.server({"type": "response.output_item.done", "response_id": "resp_1", "output_index": 0, "item": item})
    assert scene.tool_runs() == []
    assert scene.outputs() == {}


# --- tools: background -------------------------------------------------------------------------------------------


def test_a_background_result_is_sent_without_requesting_a_response() -> None:
    scene = AgentStage(specs=[greeter(ToolCard(name="note"))]).ready().asked()
    scene.called("note", "call_1")
    scene.done()
    scene.tool_finished("call_1", "noted", is_background=True)
    assert scene.outputs() == {"call_1": ["noted"]}
    assert len(scene.asks()) == 1, "only the request of the turn itself"
    assert scene.outcomes() == ["answered"]
    assert scene.state == "ready"
    assert scene.announced() == []


def test_a_background_result_before_response_done_ends_the_turn_at_response_done() -> None:
    scene = AgentStage(specs=[greeter(ToolCard(name="note"))]).ready().asked()
    scene.called("note", "call_1")
    scene.tool_finished("call_1", "noted", is_background=True)
    assert scene.outcomes() == []
    scene.done()
    assert scene.outcomes() == ["answered"]
    assert len(scene.asks()) == 1


def test_a_background_result_lets_the_spoken_sentence_play_to_its_end() -> None:
    scene = AgentStage(specs=[greeter(ToolCard(name="note"))]).ready().asked()
    scene.audio(ms=200)
    scene.called("note", "call_1")
    scene.done()
    scene.tool_finished("call_1", "noted", is_background=True)
    assert scene.outcomes() == []
    scene.play(4800, drained=True)
    assert scene.outcomes() == ["answered"]


@pytest.mark.parametrize("background_first", [True, False])
def test_a_background_result_and_an_ordinary_one_lead_to_one_request(background_first: bool) -> None:
    scene = AgentStage(specs=[greeter(ToolCard(name="note"), ToolCard(name="clock"))]).ready().asked()
    scene.called("note", "call_1")
    scene.called("clock", "call_2")
    scene.done()
    order = [("call_1", True), ("call_2", False)]
    for call_id, is_background in order if background_first else reversed(order):
        scene.tool_finished(call_id, "x", is_background=is_background)
    assert len(scene.asks()) == 2
    assert set(scene.outputs()) == {"call_1", "call_2"}


# --- tools: barge-in ---------------------------------------------------------------------------------------------


def _running(**card: Any) -> AgentStage:
    """Start a tool whose response is done."""
    scene = AgentStage(specs=[greeter(ToolCard(name="slow", **card))]).ready().asked()
    scene.called("slow", "call_1")
    scene.done()
    scene.commands.clear()
    return scene


def test_after_a_barge_in_a_running_tools_output_is_sent_without_a_request() -> None:
    scene = _running()
    scene.press()
    scene.hear(200)
    commands = scene.tool_finished("call_1", "done")
    (frame,) = scene.sent(commands)
    assert frame["item"]["output"] == "done"
    assert scene.of(CancelTool) == []
    assert scene.asks() == []


def test_an_output_arriving_in_the_next_turn_does_not_request_a_second_answer() -> None:
    scene = _running()
    scene.say()
    scene.committed("item_user_2")
    scene.created("resp_2", "turn_2")
    scene.tool_finished("call_1", "done")
    scene.audio("resp_2", "item_b")
    scene.done("resp_2", "turn_2")
    scene.play(4800, drained=True)
    assert scene.outputs() == {"call_1": ["done"]}
    assert [ask["metadata"] for ask in scene.asks()] == [{"turn": "turn_2"}]
    assert scene.outcomes() == ["interrupted", "answered"]


def test_a_cancellable_tool_is_cancelled_by_a_barge_in_and_answered() -> None:
    scene = _running(is_cancellable=True)
    scene.press()
    assert scene.of(CancelTool) == [CancelTool("call_1")]
    assert "cancelled" in scene.outputs()["call_1"][0]
    assert scene.ended() == [("call_1", True)]
    assert scene.tool_finished("call_1", "late") == []
    assert scene.asks() == []


def test_an_interruption_by_the_program_treats_tools_like_a_press() -> None:
    scene = _running(is_cancellable=True)
    scene.do(InterruptAsked())
    assert scene.of(CancelTool) == [CancelTool("call_1")]
    assert set(scene.outputs()) == {"call_1"}
    assert scene.outcomes() == ["interrupted"]


def test_a_tool_that_hangs_after_a_barge_in_is_answered_at_its_deadline() -> None:
    scene = _running()
    scene.do(InterruptAsked())
    scene.advance(19.9)
    assert scene.outputs() == {}
    scene.advance(0.2)
    assert "took too long" in scene.outputs()["call_1"][0]


def test_a_complete_call_arriving_after_the_barge_in_is_answered_but_not_run() -> None:
    """The server had completed the call before our cancel arrived; without an output it stays open for ever."""
    scene = AgentStage(specs=[greeter(ToolCard(name="a"))]).ready().asked()
    scene.press()
    scene.called("a", "call_1")
    scene.done(status="cancelled")
    assert scene.tool_runs() == []
    assert len(scene.outputs().get("call_1", [])) == 1


# --- slow tools --------------------------------------------------------------------------------------------------


def test_a_slow_tool_plays_the_working_earcon_once_at_its_time() -> None:
    scene = _running(working_after_s=1.5)
    scene.advance(1.499)
    assert scene.earcons() == []
    scene.advance(0.002)
    assert scene.earcons() == ["working"]
    scene.advance(10)
    assert scene.earcons() == ["working"]


def test_the_filler_is_announced_with_the_earcon() -> None:
    scene = _running(working_after_s=1.5, filler="One moment, I am looking.")
    scene.advance(1.51)
    epoch = scene.conversation.epoch
    assert [one for one in scene.commands if isinstance(one, PlayEarcon | Announce)] == [
        PlayEarcon(epoch, "working"),
        Announce(epoch, "One moment, I am looking.", "working"),
    ]


def test_a_quick_tool_plays_no_working_earcon() -> None:
    scene = _running(working_after_s=1.5, filler="One moment.")
    scene.advance(1.4)
    scene.tool_finished("call_1")
    scene.advance(5)
    assert "working" not in scene.earcons()
    assert scene.announced() == []


def test_no_working_earcon_plays_while_an_answer_plays() -> None:
    scene = AgentStage(specs=[greeter(ToolCard(name="slow", working_after_s=1.0, filler="Wait."))]).ready().asked()
    scene.audio(ms=2000)
    scene.play(2400)
    scene.called("slow", "call_1")
    scene.done()
    scene.advance(1.1)
    assert "working" not in scene.earcons()
    assert scene.announced() == []


def test_no_working_earcon_plays_in_the_next_turn() -> None:
    scene = _running(working_after_s=1.0)
    scene.press()
    scene.hear(2000)
    assert "working" not in scene.earcons()


def test_waiting_for_approval_does_not_count_as_working() -> None:
    scene = _running(approval="always", working_after_s=1.0)
    scene.advance(5)
    assert "working" not in scene.earcons()
    scene.do(ApprovalAnswered("call_1", approved=True))
    scene.advance(0.99)
    assert "working" not in scene.earcons()
    scene.advance(0.02)
    assert scene.earcons().count("working") == 1


# --- approval ----------------------------------------------------------------------------------------------------


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
    scene = _running()
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


# --- MCP calls ---------------------------------------------------------------------------------------------------


def _mcp_asked(scene: AgentStage, item_id: str = "mcpr_1") -> list[Command]:
    """Receive an approval request for an MCP tool."""
    item = {
        "id": item_id,
        "type": "mcp_approval_request",
        "server_label": "files",
        "name": "delete",
        "arguments": '{"path":"/a"}',
    }
    return scene.server({"type": "response.output_item.done", "response_id": "resp_1", "output_index": 0, "item": item})


def _mcp_item(**more: Any) -> dict[str, Any]:
    return {"id": "mcp_1", "type": "mcp_call", "server_label": "files", "name": "list", "arguments": "{}"} | more


def _mcp_called(scene: AgentStage) -> list[Command]:
    """Let the server start an MCP call."""
    return scene.server(
        {
            "type": "response.output_item.added",
            "response_id": "resp_1",
            "output_index": 0,
            "item": _mcp_item(arguments=""),
        }
    )


def _mcp_ended(scene: AgentStage, *, failed: bool = False, **result: Any) -> None:
    """End the MCP call with the two frames in the order of the API reference."""
    kind = "failed" if failed else "completed"
    scene.server({"type": f"response.mcp_call.{kind}", "item_id": "mcp_1", "output_index": 0})
    scene.server(
        {
            "type": "response.output_item.done",
            "response_id": "resp_1",
            "output_index": 0,
            "item": _mcp_item(**result),
        }
    )


def _verdicts(scene: AgentStage) -> list[dict[str, Any]]:
    items = [frame.get("item", {}) for frame in scene.sent()]
    return [{**item, "id": "…"} for item in items if item.get("type") == "mcp_approval_response"]


def test_an_mcp_approval_request_asks_the_user_like_any_other_call() -> None:
    scene = AgentStage(specs=[GREETER]).ready().asked()
    _mcp_asked(scene)
    scene.done()
    assert scene.state == "awaiting_approval"
    assert scene.announced()[-1] == "May I use files.delete? Press briefly for yes, hold for no."
    assert scene.notices(ToolApproval) == [ToolApproval("turn_1", "mcpr_1", "files.delete", '{"path":"/a"}', "greeter")]
    assert _verdicts(scene) == []
    assert len(scene.asks()) == 1


def test_a_tap_approves_an_mcp_call_and_requests_a_response() -> None:
    scene = AgentStage(specs=[GREETER]).ready().asked()
    _mcp_asked(scene)
    scene.done()
    scene.tap()
    assert _verdicts(scene) == [
        {"id": "…", "type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True}
    ]
    assert scene.tool_runs() == [], "the server runs it"
    assert scene.outputs() == {}
    assert len(scene.asks()) == 2


def test_an_mcp_call_is_rejected_with_the_reason() -> None:
    scene = AgentStage(specs=[GREETER]).ready().asked()
    _mcp_asked(scene)
    scene.done()
    scene.do(ApprovalAnswered("mcpr_1", approved=False, message="Delete nothing."))
    (verdict,) = _verdicts(scene)
    assert (verdict["approve"], verdict["reason"]) == (False, "Delete nothing.")
    assert len(scene.asks()) == 2


def test_an_mcp_call_without_approval_is_rejected_at_the_deadline() -> None:
    scene = AgentStage(approval_s=30.0, specs=[GREETER]).ready().asked()
    _mcp_asked(scene)
    scene.done()
    scene.advance(29.9)
    assert _verdicts(scene) == []
    scene.advance(0.2)
    assert [one["approve"] for one in _verdicts(scene)] == [False]


def test_an_interruption_rejects_an_mcp_call() -> None:
    scene = AgentStage(specs=[GREETER]).ready().asked()
    _mcp_asked(scene)
    scene.done()
    scene.do(InterruptAsked())
    assert [one["approve"] for one in _verdicts(scene)] == [False]
    assert len(scene.asks()) == 1


@pytest.mark.parametrize("approved", [True, False])
def test_a_permanent_decision_answers_the_next_call_of_that_mcp_tool(approved: bool) -> None:
    scene = AgentStage(specs=[GREETER]).ready().asked()
    _mcp_asked(scene)
    scene.do(ApprovalAnswered("mcpr_1", approved=approved, always=True))
    _mcp_asked(scene, "mcpr_2")
    assert [(one["approval_request_id"], one["approve"]) for one in _verdicts(scene)] == [
        ("mcpr_1", approved),
        ("mcpr_2", approved),
    ]
    assert len(scene.notices(ToolApproval)) == 1


def test_an_approval_request_received_twice_asks_once() -> None:
    scene = AgentStage(specs=[GREETER]).ready().asked()
    _mcp_asked(scene)
    item = {
        "id": "mcpr_1",
        "type": "mcp_approval_request",
        "server_label": "files",
        "name": "delete",
        "arguments": '{"path":"/a"}',
    }
    scene.done(output=[item])
    assert len(scene.notices(ToolApproval)) == 1


def test_the_turn_waits_for_an_mcp_call_and_then_requests_one_response() -> None:
    scene = AgentStage(specs=[GREETER]).ready().asked()
    _mcp_called(scene)
    scene.done()
    assert len(scene.asks()) == 1
    assert scene.state == "thinking"
    _mcp_ended(scene, output="a.txt")
    assert len(scene.asks()) == 2
    assert scene.outputs() == {}, "the server has the output already"


def test_a_model_that_spoke_after_its_mcp_call_gets_no_second_request() -> None:
    scene = AgentStage(specs=[GREETER]).ready().asked()
    _mcp_called(scene)
    _mcp_ended(scene, output="a.txt")
    scene.audio()
    message = {
        "id": "item_a",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_audio", "transcript": "There is one file."}],
    }
    scene.done(output=[_mcp_item(output="a.txt"), message])
    scene.play(4800, drained=True)
    assert len(scene.asks()) == 1
    assert scene.outcomes() == ["answered"]


def test_the_end_of_an_mcp_call_is_emitted_with_its_output() -> None:
    scene = AgentStage(specs=[GREETER]).ready().asked()
    _mcp_called(scene)
    _mcp_ended(scene, output="a.txt")
    assert scene.notices(ToolEnd) == [ToolEnd("turn_1", "mcp_1", "files.list", "a.txt", False, "greeter", "{}")]


def test_a_failed_mcp_call_is_emitted_as_an_error() -> None:
    scene = AgentStage(specs=[GREETER]).ready().asked()
    _mcp_called(scene)
    _mcp_ended(scene, failed=True, error={"type": "tool_execution_error", "message": "no such folder"})
    assert scene.ended() == [("mcp_1", True)]


def test_an_mcp_call_that_never_ends_times_out_and_a_response_is_requested() -> None:
    scene = AgentStage(tool_s=20.0, specs=[GREETER]).ready().asked()
    _mcp_called(scene)
    scene.done()
    scene.advance(20.1)
    assert scene.troubles() == ["tool_late"]
    assert len(scene.asks()) == 2


def test_an_mcp_call_and_a_local_call_lead_to_one_request() -> None:
    scene = AgentStage(specs=[greeter(ToolCard(name="a"))]).ready().asked()
    _mcp_called(scene)
    scene.called("a", "call_1")
    scene.done()
    scene.tool_finished("call_1")
    assert len(scene.asks()) == 1
    _mcp_ended(scene, output="a.txt")
    assert len(scene.asks()) == 2


def test_a_failed_list_of_mcp_tools_is_reported_and_ends_nothing() -> None:
    scene = AgentStage(specs=[GREETER]).ready()
    scene.server({"type": "mcp_list_tools.failed", "item_id": "mcpl_1"})
    assert scene.troubles() == ["server_error"]
    assert scene.state == "ready"


# --- handoffs ----------------------------------------------------------------------------------------------------


def _handing(specs: tuple[AgentSpec, ...] = (GREETER, BILLING), **policy: Any) -> AgentStage:
    """Let the greeter call the handoff to billing, and end its response."""
    scene = AgentStage(specs=specs, **policy).ready()
    scene.session_updated()
    scene.asked()
    scene.commands.clear()
    scene.called("transfer_to_billing", "call_1", '{"why":"money"}')
    scene.done()
    return scene


def _prepared(scene: AgentStage, spec: AgentSpec | None = BILLING, problem: str = "") -> list[Command]:
    return scene.do(AgentPrepared(HandoffKey("call_1"), spec, problem))


def _accepted(scene: AgentStage) -> list[Command]:
    return scene.session_updated({"type": "realtime", "instructions": "Bill."})


def test_prepare_agent_names_the_previous_agent_and_the_arguments_of_the_handoff() -> None:
    scene = _handing()
    assert scene.of(PrepareAgent) == [
        PrepareAgent(HandoffKey("call_1"), "billing", "handoff", "greeter", "transfer_to_billing", '{"why":"money"}')
    ]
    assert scene.tool_runs() == []
    assert scene.updates() == []


def test_a_handoff_sends_a_session_update_with_an_event_id() -> None:
    scene = _handing()
    (frame,) = scene.sent(_prepared(scene))
    assert frame == {"type": "session.update", "event_id": "handoff_call_1", "session": BILLING.session}


def test_the_agent_is_swapped_only_when_the_server_has_accepted_it() -> None:
    scene = _handing()
    _prepared(scene)
    assert scene.conversation.agent == "greeter"
    assert scene.outputs() == {}
    _accepted(scene)
    assert scene.conversation.agent == "billing"
    assert scene.outputs() == {"call_1": ['{"assistant": "billing"}']}
    assert scene.ended() == [("call_1", False)]


def test_a_response_of_the_new_agent_is_requested_once_it_is_accepted() -> None:
    scene = _handing()
    _prepared(scene)
    assert scene.asks() == []
    _accepted(scene)
    assert len(scene.asks()) == 1


def test_the_new_agent_starts_with_its_first_sentence_and_says_it_once() -> None:
    scene = _handing()
    _prepared(scene)
    _accepted(scene)
    (ask,) = scene.asks()
    assert ask["instructions"] == "Bill.\n\nBegin your answer with exactly this sentence: Billing here."
    scene.created("resp_2")
    scene.called("refund", "call_2", response_id="resp_2")
    scene.done("resp_2")
    scene.tool_finished("call_2")
    assert "instructions" not in scene.asks()[1]


def test_a_first_sentence_is_kept_when_the_connection_is_lost_before_the_answer_begins() -> None:
    scene = _handing()
    _prepared(scene)
    _accepted(scene)
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
    _prepared(scene)
    commands = _accepted(scene)
    (create,) = [frame for frame in scene.sent(commands) if frame["type"] == "response.create"]
    scene.error("conversation_already_has_active_response", event_id=create["event_id"])
    scene.advance(1.1)
    assert [ask.get("instructions", "") for ask in scene.asks()][-1].endswith("Billing here.")


def test_a_handoff_without_a_first_sentence_sends_no_instructions_with_the_request() -> None:
    spec = AgentSpec(
        agent="greeter", session=AUDIO_SESSION, handoffs=(HandoffCard(name="transfer_to_billing", agent="billing"),)
    )
    scene = _handing((spec,))
    _prepared(scene)
    _accepted(scene)
    (ask,) = scene.asks()
    assert ask == {"metadata": {"turn": "turn_1"}}


def test_agent_and_handoff_notices_are_emitted_in_order() -> None:
    scene = AgentStage(specs=[GREETER]).ready()
    scene.session_updated()
    scene.asked()
    scene.wrote("I hand you over.", is_final=True)
    scene.called("transfer_to_billing", "call_1")
    scene.done()
    _prepared(scene)
    _accepted(scene)
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
    (frame,) = scene.sent(_prepared(scene))
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
    _prepared(scene)
    scene.session_updated()
    assert scene.conversation.agent == "greeter"
    scene.session_updated()
    assert scene.conversation.agent == "billing"


def test_confirming_an_update_of_the_program_does_not_swap_agents() -> None:
    scene = _handing()
    scene.do(FrameGiven({"type": "session.update", "session": {"type": "realtime", "max_output_tokens": 500}}))
    _prepared(scene)
    scene.session_updated({"type": "realtime", "instructions": "Greet.", "max_output_tokens": 500})
    assert scene.conversation.agent == "greeter"
    _accepted(scene)
    assert scene.conversation.agent == "billing"


def test_a_confirmation_with_the_old_instructions_does_not_swap_agents() -> None:
    scene = _handing()
    _prepared(scene)
    scene.session_updated({"type": "realtime", "instructions": "Greet."})
    assert scene.conversation.agent == "greeter"


def test_a_refused_handoff_is_rolled_back_reported_and_answered() -> None:
    scene = _handing()
    _prepared(scene)
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
    _prepared(scene)
    scene.error("invalid_value", event_id="ev_999", message="Something else.")
    scene.error(None, message="And something without an id.")
    assert scene.ended() == []
    _accepted(scene)
    assert scene.conversation.agent == "billing"


def test_a_handoff_whose_agent_cannot_be_prepared_is_answered_with_the_problem() -> None:
    scene = _handing()
    _prepared(scene, None, "why: field required")
    assert scene.updates() == []
    assert scene.outputs() == {"call_1": ["why: field required"]}
    assert scene.conversation.agent == "greeter"
    assert len(scene.asks()) == 1


def test_a_handoff_never_confirmed_is_rolled_back_at_its_deadline() -> None:
    scene = _handing(tool_s=20.0)
    _prepared(scene)
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
    _prepared(scene)
    scene.advance(20.1)
    _accepted(scene)
    assert scene.conversation.agent == "greeter"
    assert scene.notices(HandoffDone) == []
    assert len(scene.outputs()["call_1"]) == 1


def test_a_handoff_whose_agent_is_never_prepared_fails_at_its_deadline_without_an_update() -> None:
    scene = _handing(tool_s=20.0)
    scene.advance(20.1)
    assert scene.updates() == []
    assert scene.troubles() == ["handoff_failed"]
    assert _prepared(scene) == [], "the preparation is too late"


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
    _prepared(scene)
    _accepted(scene)
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
    _prepared(scene)
    _accepted(scene)
    assert len(scene.asks()) == 1
    scene.tool_finished("call_2")
    assert len(scene.asks()) == 2


def test_calls_of_the_new_agent_use_its_own_tools() -> None:
    scene = _handing()
    _prepared(scene)
    _accepted(scene)
    scene.created("resp_2")
    scene.called("refund", "call_2", response_id="resp_2")
    scene.called("transfer_to_billing", "call_3", response_id="resp_2")
    assert [(run.name, run.agent) for run in scene.tool_runs()] == [("refund", "billing")]
    assert "There is no tool" in scene.outputs()["call_3"][0]


def test_a_barge_in_before_acceptance_does_not_stop_the_handoff() -> None:
    scene = _handing()
    _prepared(scene)
    scene.press()
    scene.hear(200)
    _accepted(scene)
    assert scene.conversation.agent == "billing"
    assert scene.outputs() == {"call_1": ['{"assistant": "billing"}']}
    assert scene.asks() == [], "the user is speaking"


def test_a_turn_after_a_barge_in_during_a_handoff_has_no_first_sentence() -> None:
    scene = _handing()
    _prepared(scene)
    scene.press()
    scene.hear(200)
    _accepted(scene)
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
    _prepared(scene)
    scene.say()  # a barge-in: its instructions are requested before the server confirms the handoff
    at_noon = AgentSpec(agent="greeter", session={**AUDIO_SESSION, "instructions": "Greet. It is noon."})
    scene.do(AgentPrepared(TurnKey("turn_2", 0), at_noon))
    for update in scene.updates():
        scene.session_updated(update["session"])
    told = {"Bill.": "billing", "Greet.": "greeter", "Greet. It is noon.": "greeter"}
    assert told[scene.updates()[-1]["session"]["instructions"]] == scene.conversation.agent


def test_a_link_lost_during_a_handoff_keeps_the_old_agent() -> None:
    scene = _handing()
    _prepared(scene)
    scene.lose()
    scene.advance(1.0)
    scene.commands.clear()
    scene.link_ready()
    assert scene.conversation.agent == "greeter"
    assert [one["session"]["instructions"] for one in scene.updates()] == ["Greet."]
    assert _prepared(scene) == [], "its preparation is ignored"
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
    _prepared(scene)
    _accepted(scene)
    scene.lose()
    scene.advance(1.0)
    scene.commands.clear()
    scene.link_ready()
    assert [one["session"] for one in scene.updates()] == [BILLING.session]


# --- output guardrails: what is checked, and when ----------------------------------------------------------------


def guarded(**more: Any) -> AgentSpec:
    return AgentSpec(agent="greeter", session=AUDIO_SESSION, tools=(), has_output_guardrails=True, **more)


def _watched(**policy: Any) -> AgentStage:
    """Start an answer of an agent with output guardrails."""
    return AgentStage(specs=[guarded()], **policy).ready().asked()


def test_text_is_checked_after_every_hundred_characters() -> None:
    scene = _watched()
    assert scene.checks(scene.wrote("a" * 99)) == []
    (first,) = scene.checks(scene.wrote("b"))
    assert (first.agent, first.side, first.text) == ("greeter", "output", "a" * 99 + "b")
    assert scene.checks(scene.wrote("c" * 99)) == []
    (second,) = scene.checks(scene.wrote("d"))
    assert second.text == "a" * 99 + "b" + "c" * 99 + "d"
    assert second.key != first.key


def test_the_debounce_is_configurable() -> None:
    scene = _watched(guardrail_debounce=10)
    assert scene.checks(scene.wrote("a" * 9)) == []
    assert [one.text for one in scene.checks(scene.wrote("b"))] == ["aaaaaaaaab"]


def test_with_a_debounce_of_minus_one_only_the_final_text_is_checked() -> None:
    scene = _watched(guardrail_debounce=-1)
    for _ in range(20):
        assert scene.checks(scene.wrote("a" * 50)) == []
    assert [one.text for one in scene.checks(scene.wrote("whole", is_final=True))] == ["whole"]


def test_a_reply_shorter_than_the_debounce_is_checked() -> None:
    scene = _watched()
    scene.wrote("Forty-two.")
    assert [one.text for one in scene.checks(scene.wrote("Forty-two.", is_final=True))] == ["Forty-two."]


def test_the_tail_of_a_long_answer_is_checked() -> None:
    scene = _watched()
    scene.wrote("a" * 150)
    scene.wrote("tail")
    (check,) = scene.checks(scene.wrote("a" * 150 + "tail", is_final=True))
    assert check.text.endswith("tail")


def test_text_without_a_done_event_is_checked_at_the_end_of_the_response() -> None:
    scene = _watched()
    scene.wrote("Forty-two.")
    assert [one.text for one in scene.checks(scene.done())] == ["Forty-two."]


def test_the_final_text_is_checked_once() -> None:
    scene = _watched()
    scene.wrote("Forty-two.")
    scene.wrote("Forty-two.", is_final=True)
    assert scene.checks(scene.done()) == []


def test_a_text_answer_is_checked_too() -> None:
    scene = _watched()
    of_part = {"response_id": "resp_1", "item_id": "item_a", "output_index": 0, "content_index": 0}
    commands = scene.server({"type": "response.output_text.done", **of_part, "text": "Forty-two."})
    assert [one.text for one in scene.checks(commands)] == ["Forty-two."]


def test_each_item_of_an_answer_is_checked() -> None:
    scene = _watched()
    scene.wrote("One.", is_final=True)
    assert [one.text for one in scene.checks(scene.wrote("Two.", is_final=True, item_id="item_b"))] == ["Two."]


def test_each_part_of_an_item_is_checked() -> None:
    scene = _watched()
    scene.wrote("One.", is_final=True)
    (check,) = scene.checks(scene.wrote("Two.", is_final=True, part=1))
    assert "Two." in check.text


def test_without_guardrails_nothing_is_checked() -> None:
    scene = AgentStage(specs=[GREETER]).ready().asked()
    scene.wrote("a" * 200)
    scene.wrote("a" * 200, is_final=True)
    assert scene.checks() == []


def test_text_after_an_accepted_handoff_in_the_same_response_is_checked_by_the_old_agents_guardrails() -> None:
    """The call precedes the sentence in the response; the server accepts the new agent before the sentence arrives."""
    spec = AgentSpec(agent="greeter", session=AUDIO_SESSION, handoffs=GREETER.handoffs, has_output_guardrails=True)
    scene = AgentStage(specs=[spec]).ready()
    scene.session_updated()
    scene.asked()
    scene.called("transfer_to_billing", "call_1")
    _prepared(scene)
    _accepted(scene)
    commands = scene.wrote("The password is swordfish.", is_final=True)
    assert [(one.agent, one.text) for one in scene.checks(commands)] == [("greeter", "The password is swordfish.")]


def test_the_turn_ends_only_after_its_last_check() -> None:
    scene = _watched()
    scene.audio(ms=200)
    (check,) = scene.checks(scene.wrote("Fine.", is_final=True))
    scene.done()
    scene.play(4800, drained=True)
    assert scene.outcomes() == []
    assert scene.state == "thinking"
    scene.passed(check)
    assert scene.outcomes() == ["answered"]


# --- output guardrails: a trip -----------------------------------------------------------------------------------


def _tripping(**policy: Any) -> tuple[AgentStage, CheckText]:
    """Receive two seconds of an answer, play 100 ms of it, and start a check of its text."""
    scene = _watched(**policy)
    scene.audio(ms=2000)
    scene.play(2400)
    (check,) = scene.checks(scene.wrote("My number is 4711. " * 6))
    scene.commands.clear()
    return scene, check


def test_a_trip_flushes_truncates_and_cancels() -> None:
    scene, check = _tripping()
    epoch = scene.conversation.epoch
    commands = scene.tripped(check)
    assert [one.epoch for one in scene.flushes()] == [epoch + 1]
    truncate, cancel = scene.sent(commands)[:2]
    assert (truncate["type"], truncate["item_id"], truncate["audio_end_ms"]) == (
        "conversation.item.truncate",
        "item_a",
        100,
    )
    assert (cancel["type"], cancel["response_id"]) == ("response.cancel", "resp_1")


def test_nothing_more_of_a_tripped_answer_is_played_or_emitted() -> None:
    scene, check = _tripping()
    scene.tripped(check)
    assert scene.audio() == []
    assert scene.wrote("more") == []
    assert scene.plays() == []


def test_a_trip_names_the_item_the_guardrail_and_the_reason() -> None:
    scene, check = _tripping()
    scene.tripped(check, "no_numbers", "4711")
    assert scene.notices(Guardrail) == [Guardrail("turn_1", "output", "item_a", "no_numbers", "4711")]


def test_the_model_gets_the_reason_as_a_system_message() -> None:
    scene, check = _tripping()
    scene.tripped(check, "no_numbers", "4711")
    (told,) = [frame["item"] for frame in scene.sent() if frame["type"] == "conversation.item.create"]
    assert (told["type"], told["role"]) == ("message", "system")
    assert "'no_numbers' (4711)" in told["content"][0]["text"]


def test_a_new_answer_is_requested_once_the_tripped_response_is_done() -> None:
    scene, check = _tripping()
    scene.tripped(check)
    assert scene.asks() == [], "the tripped response is still active on the server"
    scene.done(status="cancelled")
    assert scene.asks() == [{"metadata": {"turn": "turn_1"}}]
    assert scene.outcomes() == []


def test_a_trip_after_response_done_requests_again_at_once_and_cancels_nothing() -> None:
    scene = _watched()
    scene.audio(ms=200)
    (check,) = scene.checks(scene.wrote("4711", is_final=True))
    scene.done()
    scene.commands.clear()
    scene.tripped(check)
    assert scene.sent_types() == ["conversation.item.truncate", "conversation.item.create", "response.create"]


def test_the_second_answer_is_checked_played_and_ends_the_turn() -> None:
    scene, check = _tripping()
    scene.tripped(check)
    scene.done(status="cancelled")
    scene.created("resp_2")
    scene.audio("resp_2", "item_b", ms=200)
    (second,) = scene.checks(scene.wrote("Fine.", is_final=True, response_id="resp_2", item_id="item_b"))
    scene.passed(second)
    scene.done("resp_2")
    scene.played_frames = 0  # of the new epoch
    scene.play(4800, drained=True)
    assert scene.played_frames_of("item_b") == 4800
    assert scene.outcomes() == ["answered"]


def test_the_last_allowed_trip_ends_the_turn_as_refused_with_an_announcement() -> None:
    scene, check = _tripping(max_trips=2)
    scene.tripped(check)
    scene.done(status="cancelled")
    scene.created("resp_2")
    (second,) = scene.checks(scene.wrote("4711", is_final=True, response_id="resp_2", item_id="item_b"))
    scene.commands.clear()
    scene.tripped(second)
    scene.done("resp_2", status="cancelled")
    assert scene.outcomes() == ["refused"]
    assert scene.announced() == ["I stopped my answer."]
    assert scene.asks() == []


def test_with_max_trips_one_the_first_trip_refuses_the_turn() -> None:
    scene, check = _tripping(max_trips=1)
    scene.tripped(check)
    assert scene.outcomes() == ["refused"]
    assert scene.asks() == []


def test_trips_are_counted_per_turn() -> None:
    scene, check = _tripping(max_trips=2)
    scene.tripped(check)
    scene.say()
    scene.done(status="cancelled")
    scene.committed("item_user_2")
    scene.created("resp_2", "turn_2")
    (second,) = scene.checks(scene.wrote("4711", is_final=True, response_id="resp_2", item_id="item_b"))
    scene.tripped(second)
    assert scene.outcomes() == ["interrupted"], "the second turn may still retry"


def test_a_verdict_on_an_interrupted_answer_is_ignored() -> None:
    scene, check = _tripping()
    scene.press()
    assert scene.tripped(check) == []
    assert scene.passed(check) == []
    assert scene.notices(Guardrail) == []


def test_a_late_verdict_on_the_tripped_answer_is_ignored_by_the_next() -> None:
    scene = _watched()
    scene.audio(ms=2000)
    (first,) = scene.checks(scene.wrote("a" * 100))
    (second,) = scene.checks(scene.wrote("b" * 100))
    scene.tripped(second)
    scene.done(status="cancelled")
    scene.created("resp_2")
    scene.wrote("Fine.", response_id="resp_2", item_id="item_b")
    assert scene.tripped(first) == []
    assert len(scene.notices(Guardrail)) == 1


def test_a_check_that_times_out_counts_as_tripped() -> None:
    scene, check = _tripping(guardrail_s=5.0)
    scene.advance(4.9)
    assert scene.notices(Guardrail) == []
    scene.advance(0.2)
    (trip,) = scene.notices(Guardrail)
    assert (trip.side, trip.item_id, trip.reason) == ("output", "item_a", "it took too long")
    assert scene.tripped(check) == []


def test_checks_run_concurrently_and_a_later_one_may_trip_first() -> None:
    scene = _watched()
    scene.audio(ms=2000)
    (first,) = scene.checks(scene.wrote("a" * 100))
    (second,) = scene.checks(scene.wrote("b" * 100))
    scene.tripped(second)
    assert scene.passed(first) == []
    assert len(scene.flushes()) >= 1


def test_a_call_of_a_tripped_answer_that_awaits_approval_is_never_run() -> None:
    spec = greeter(ToolCard(name="open_door", approval="always"), has_output_guardrails=True)
    scene = AgentStage(specs=[spec]).ready().asked()
    scene.audio()
    (check,) = scene.checks(scene.wrote("4711", is_final=True))
    scene.called("open_door", "call_1")
    scene.tripped(check)
    assert len(scene.outputs()["call_1"]) == 1
    scene.do(ApprovalAnswered("call_1", approved=True))
    scene.tap()
    assert scene.tool_runs() == []


def test_a_tool_running_when_its_answer_trips_is_answered_without_its_own_request() -> None:
    spec = greeter(ToolCard(name="slow"), has_output_guardrails=True)
    scene = AgentStage(specs=[spec]).ready().asked()
    scene.audio()
    (check,) = scene.checks(scene.wrote("4711", is_final=True))
    scene.called("slow", "call_1")
    scene.commands.clear()
    scene.tripped(check)
    scene.done(status="cancelled")
    scene.tool_finished("call_1", "done")
    assert scene.outputs() == {"call_1": ["done"]}
    assert len(scene.asks()) == 1, "only the request for the second try"
    scene.created("resp_2")
    scene.audio("resp_2", "item_b", ms=200)
    scene.done("resp_2")
    assert len(scene.asks()) == 1, "the calls of the tripped answer request no response"


# --- output guardrails: held audio -------------------------------------------------------------------------------

FRAMES_PER_CHARACTER = 24_000 // 25


def _held(**policy: Any) -> AgentStage:
    """Receive and hold eight seconds of an answer."""
    scene = AgentStage(specs=[guarded()], hold_audio=True, **policy).ready().asked()
    scene.audio(ms=8000)
    return scene


def test_held_audio_is_not_played_before_its_text_has_passed() -> None:
    scene = _held()
    scene.wrote("a" * 100)
    assert scene.plays() == []
    assert scene.state == "thinking"


def test_checked_text_releases_40_ms_of_audio_per_character() -> None:
    scene = _held()
    (first,) = scene.checks(scene.wrote("a" * 100))
    scene.passed(first)
    assert scene.played_frames_of("item_a") == 100 * FRAMES_PER_CHARACTER
    (second,) = scene.checks(scene.wrote("b" * 50 + "c" * 50))
    assert scene.played_frames_of("item_a") == 100 * FRAMES_PER_CHARACTER, "the second check is still pending"
    scene.passed(second)
    assert scene.played_frames_of("item_a") == 200 * FRAMES_PER_CHARACTER


def test_audio_arriving_after_its_text_has_passed_is_released_up_to_that_text() -> None:
    scene = AgentStage(specs=[guarded()], hold_audio=True).ready().asked()
    (check,) = scene.checks(scene.wrote("a" * 100))
    scene.passed(check)
    scene.audio(ms=3000)
    assert scene.played_frames_of("item_a") == 3000 * 24
    scene.audio(ms=3000)
    assert scene.played_frames_of("item_a") == 100 * FRAMES_PER_CHARACTER


def test_the_rest_is_released_when_the_final_text_has_passed() -> None:
    scene = _held()
    (check,) = scene.checks(scene.wrote("Short.", is_final=True))
    assert scene.plays() == []
    scene.passed(check)
    assert scene.played_frames_of("item_a") == 8000 * 24


def test_all_held_audio_is_released_in_order() -> None:
    scene = AgentStage(specs=[guarded()], hold_audio=True).ready().asked()
    scene.audio(ms=3000)
    scene.audio(ms=3000)
    (first,) = scene.checks(scene.wrote("a" * 100))
    scene.passed(first)
    (final,) = scene.checks(scene.wrote("a" * 100 + ".", is_final=True))
    scene.passed(final)
    scene.audio(item_id="item_b", ms=1000)
    (last,) = scene.checks(scene.wrote("b", is_final=True, item_id="item_b"))
    scene.passed(last)
    assert scene.played_frames_of("item_a") == 6000 * 24
    assert [one.item_id for one in scene.plays()] == ["item_a", "item_a", "item_a", "item_b"]


def test_finish_play_is_emitted_only_after_all_audio_is_released() -> None:
    scene = _held()
    (first,) = scene.checks(scene.wrote("a" * 100))
    scene.passed(first)
    (check,) = scene.checks(scene.wrote("a" * 100 + ".", is_final=True))
    scene.done()
    assert scene.of(FinishPlay) == [], "only half of the audio is released"
    commands = scene.passed(check)
    assert len(scene.of(FinishPlay, commands)) == 1


def test_the_text_of_one_item_does_not_release_the_audio_of_another() -> None:
    scene = _held()
    (other,) = scene.checks(scene.wrote("fine", is_final=True, item_id="item_b"))
    scene.passed(other)
    assert scene.plays() == []


def test_held_audio_without_any_text_is_checked_as_empty_text_and_ends_the_turn() -> None:
    scene = _held()
    (check,) = scene.checks(scene.done())
    assert check.text == ""
    scene.passed(check)
    scene.play(8000 * 24, drained=True)
    assert scene.outcomes() == ["answered"]


def test_a_transcript_that_appears_only_in_response_done_is_checked() -> None:
    scene = _held()
    message = {
        "id": "item_a",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_audio", "transcript": "My number is 4711."}],
    }
    assert [one.text for one in scene.checks(scene.done(output=[message]))] == ["My number is 4711."]


def test_held_audio_is_not_played_after_a_trip() -> None:
    scene = _held()
    (check,) = scene.checks(scene.wrote("a" * 100))
    (second,) = scene.checks(scene.wrote("b" * 100))
    scene.tripped(second)
    scene.passed(check)
    scene.done(status="cancelled")
    scene.advance(3)
    assert scene.plays() == []


def test_held_audio_is_not_played_after_a_barge_in() -> None:
    scene = _held()
    (check,) = scene.checks(scene.wrote("a" * 100))
    scene.press()
    scene.passed(check)
    scene.hear(200)
    scene.done(status="cancelled")
    assert scene.plays() == []


def test_an_answer_without_released_audio_is_deleted_instead_of_truncated() -> None:
    scene = _held()
    item = {"id": "item_a", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    scene.server({"type": "conversation.item.added", "previous_item_id": None, "item": item})
    (check,) = scene.checks(scene.wrote("a" * 100))
    scene.tripped(check)
    scene.server(
        {
            "type": "response.output_item.done",
            "response_id": "resp_1",
            "output_index": 0,
            "item": item | {"status": "incomplete"},
        }
    )
    assert "conversation.item.truncate" not in scene.sent_types()
    assert [frame["item_id"] for frame in scene.sent() if frame["type"] == "conversation.item.delete"] == ["item_a"]
    assert "item_a" not in [one.id for one in scene.conversation.history]


def test_an_answer_is_truncated_at_the_end_of_its_released_and_played_part() -> None:
    """All released audio was played; the model must not assume that the held rest was heard too."""
    scene = _held()
    (check,) = scene.checks(scene.wrote("a" * 100))
    scene.passed(check)
    (second,) = scene.checks(scene.wrote("b" * 100))
    scene.play(100 * FRAMES_PER_CHARACTER)
    commands = scene.tripped(second)
    truncates = [frame for frame in scene.sent(commands) if frame["type"] == "conversation.item.truncate"]
    assert [(one["item_id"], one["audio_end_ms"]) for one in truncates] == [("item_a", 4000)]


def test_without_guardrails_no_audio_is_held() -> None:
    scene = AgentStage(specs=[GREETER], hold_audio=True).ready().asked()
    scene.audio(ms=200)
    assert scene.played_frames_of("item_a") == 4800


# --- input guardrails --------------------------------------------------------------------------------------------


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


# --- dynamic instructions ----------------------------------------------------------------------------------------

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
    (update,) = [one for one in scene.sent(_prepared(scene)) if one["type"] == "session.update"]
    assert "voice" not in update["session"].get("audio", {}).get("output", {})
