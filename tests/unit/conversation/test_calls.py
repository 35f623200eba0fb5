"""Tests of the conversation core: calls of tools, several at once, in the background, slow ones, and barge-in."""

from __future__ import annotations

import pytest

from appliance.agents.spec import AgentSpec, ToolCard
from appliance.conversation.commands import (
    Announce,
    CancelTool,
    PlayEarcon,
    PrepareAgent,
)
from appliance.conversation.events import (
    ApprovalAnswered,
    InterruptAsked,
)
from appliance.conversation.notices import (
    ToolStart,
)
from tests.support.stages.agents import AUDIO_SESSION, GREETER, AgentStage, greeter, running

# --- tools: the barrier -----------------------------------------------------------------------------------------------


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


# --- tools: background ------------------------------------------------------------------------------------------------


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


# --- tools: barge-in --------------------------------------------------------------------------------------------------


def test_after_a_barge_in_a_running_tools_output_is_sent_without_a_request() -> None:
    scene = running()
    scene.press()
    scene.hear(200)
    commands = scene.tool_finished("call_1", "done")
    (frame,) = scene.sent(commands)
    assert frame["item"]["output"] == "done"
    assert scene.of(CancelTool) == []
    assert scene.asks() == []


def test_an_output_arriving_in_the_next_turn_does_not_request_a_second_answer() -> None:
    scene = running()
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
    scene = running(is_cancellable=True)
    scene.press()
    assert scene.of(CancelTool) == [CancelTool("call_1")]
    assert "cancelled" in scene.outputs()["call_1"][0]
    assert scene.ended() == [("call_1", True)]
    assert scene.tool_finished("call_1", "late") == []
    assert scene.asks() == []


def test_an_interruption_by_the_program_treats_tools_like_a_press() -> None:
    scene = running(is_cancellable=True)
    scene.do(InterruptAsked())
    assert scene.of(CancelTool) == [CancelTool("call_1")]
    assert set(scene.outputs()) == {"call_1"}
    assert scene.outcomes() == ["interrupted"]


def test_a_tool_that_hangs_after_a_barge_in_is_answered_at_its_deadline() -> None:
    scene = running()
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


# --- slow tools -------------------------------------------------------------------------------------------------------


def test_a_slow_tool_plays_the_working_earcon_once_at_its_time() -> None:
    scene = running(working_after_s=1.5)
    scene.advance(1.499)
    assert scene.earcons() == []
    scene.advance(0.002)
    assert scene.earcons() == ["working"]
    scene.advance(10)
    assert scene.earcons() == ["working"]


def test_the_filler_is_announced_with_the_earcon() -> None:
    scene = running(working_after_s=1.5, filler="One moment, I am looking.")
    scene.advance(1.51)
    epoch = scene.conversation.epoch
    assert [one for one in scene.commands if isinstance(one, PlayEarcon | Announce)] == [
        PlayEarcon(epoch, "working"),
        Announce(epoch, "One moment, I am looking.", "working"),
    ]


def test_a_quick_tool_plays_no_working_earcon() -> None:
    scene = running(working_after_s=1.5, filler="One moment.")
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
    scene = running(working_after_s=1.0)
    scene.press()
    scene.hear(2000)
    assert "working" not in scene.earcons()


def test_waiting_for_approval_does_not_count_as_working() -> None:
    scene = running(approval="always", working_after_s=1.0)
    scene.advance(5)
    assert "working" not in scene.earcons()
    scene.do(ApprovalAnswered("call_1", approved=True))
    scene.advance(0.99)
    assert "working" not in scene.earcons()
    scene.advance(0.02)
    assert scene.earcons().count("working") == 1
