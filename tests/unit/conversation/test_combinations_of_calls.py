"""Tests of the conversation core: calls and handoffs in combinations that tests of a single feature do not reach."""

from __future__ import annotations

from appliance.agents.spec import AgentSpec, HandoffCard, ToolCard
from appliance.conversation.events import (
    AgentPrepared,
    ApprovalAnswered,
    FrameGiven,
    HandoffKey,
    InterruptAsked,
    ShutdownRequested,
)
from appliance.conversation.notices import ToolEnd, ToolStart
from tests.support.stages.agents import AUDIO_SESSION, BILLING, GREETER, WatchedStage, greeter
from tests.support.stages.messages import note, spoken, vad


def test_a_failed_response_with_a_running_call_does_not_fail_a_later_complete_answer() -> None:
    scene = WatchedStage(specs=[greeter(ToolCard(name="a"))]).ready().asked()
    scene.called("a", "call_1")
    scene.done(status="failed")
    scene.tool_finished("call_1", "1")
    asks = len(scene.asks())
    if asks == 2:
        scene.created("resp_2")
        scene.audio("resp_2", "item_b", 200)
        scene.done("resp_2")
        scene.play(4800, drained=True)
        assert scene.outcomes() == ["answered"], "the second answer was complete"
    else:
        assert scene.outcomes() == ["failed"]


def test_an_update_of_the_program_after_a_handoff_does_not_make_the_driver_spin() -> None:
    scene = WatchedStage(specs=[GREETER]).ready().asked()
    scene.called("transfer_to_billing", "call_1")
    scene.do(AgentPrepared(HandoffKey("call_1"), BILLING))
    scene.done()
    scene.advance(1.0)
    scene.do(
        FrameGiven({"type": "session.update", "session": {"type": "realtime", "audio": {"output": {"speed": 1.2}}}})
    )
    scene.advance(10.0)


def test_a_handoff_after_dropped_audio_leaves_the_voice_out() -> None:
    scene = WatchedStage(specs=[GREETER]).ready()
    scene.say()
    scene.committed()
    scene.press()  # before response.created
    scene.created("resp_1", "turn_1")
    scene.audio("resp_1", "item_late", 200)  # the session has spoken: its voice is fixed from here on
    scene.done("resp_1", "turn_1", status="cancelled")
    scene.hear(500)
    scene.release()
    scene.hear(260, 30, -60.0)
    scene.committed("item_2")
    scene.created("resp_2", "turn_2")
    scene.called("transfer_to_billing", "call_1", response_id="resp_2")
    scene.do(AgentPrepared(HandoffKey("call_1"), BILLING))
    update = scene.updates()[-1]
    assert update["event_id"] == "handoff_call_1"
    assert "voice" not in update["session"]["audio"]["output"], "the server would refuse it, failing the handoff"


def test_a_tool_required_by_a_raw_response_create_is_required_only_once() -> None:
    scene = WatchedStage(specs=[greeter(ToolCard(name="a"))]).ready()
    scene.do(FrameGiven({"type": "response.create", "response": {"tool_choice": "required"}}))
    scene.created()
    scene.called("a", "call_1")
    scene.done()
    scene.tool_finished("call_1", "1")
    assert scene.asks()[1].get("tool_choice") != "required", "the model could never answer; the tool would run 8 times"


def test_every_tool_start_has_a_tool_end_when_the_link_is_lost_after_a_barge_in() -> None:
    scene = WatchedStage(specs=[greeter(ToolCard(name="a"))]).ready().asked()
    scene.called("a", "call_1")
    scene.done()
    scene.press()
    scene.hear(200)
    scene.lose()
    scene.tool_finished("call_1", "1")
    scene.advance(60.0)
    assert len(scene.notices(ToolStart)) == 1
    assert len(scene.notices(ToolEnd)) == 1


def test_a_link_lost_during_an_mcp_call_emits_no_tool_end_without_a_tool_start() -> None:
    scene = WatchedStage(specs=[greeter()]).ready().asked()
    item = {"id": "mcp_1", "type": "mcp_call", "server_label": "files", "name": "list", "arguments": ""}
    scene.server({"type": "response.output_item.added", "response_id": "resp_1", "output_index": 0, "item": item})
    scene.lose()
    assert len(scene.notices(ToolStart)) == len(scene.notices(ToolEnd))


def test_a_turn_does_not_wait_for_an_mcp_call_of_a_lost_link() -> None:
    scene = WatchedStage(specs=[greeter()]).ready().asked()
    item = {"id": "mcp_1", "type": "mcp_call", "server_label": "files", "name": "list", "arguments": "{}"}
    scene.server({"type": "response.output_item.added", "response_id": "resp_1", "output_index": 0, "item": item})
    scene.audio()
    scene.done(output=[item | {"status": "in_progress"}, spoken()])
    scene.play(4800, drained=True)
    scene.lose()
    assert scene.outcomes() != [], "no result can arrive any more"


def test_a_model_that_spoke_only_before_its_mcp_call_gets_another_request() -> None:
    scene = WatchedStage(specs=[greeter()]).ready().asked()
    item = {"id": "mcp_1", "type": "mcp_call", "server_label": "files", "name": "list", "arguments": "{}"}
    scene.audio()
    scene.server({"type": "response.output_item.added", "response_id": "resp_1", "output_index": 1, "item": item})
    done = item | {"status": "completed", "output": "a.txt"}
    scene.server({"type": "response.output_item.done", "response_id": "resp_1", "output_index": 1, "item": done})
    scene.done(output=[spoken(text="Let me look."), done])
    assert len(scene.asks()) == 2, "'Let me look.' is not the answer"


def test_the_output_of_a_handoff_is_valid_json_for_any_agent_name() -> None:
    import json

    other = AgentSpec(agent='The "boss"', session=BILLING.session, tools=())
    spec = AgentSpec(
        agent="greeter", session=AUDIO_SESSION, tools=(), handoffs=(HandoffCard(name="t", agent='The "boss"'),)
    )
    scene = WatchedStage(specs=[spec]).ready().asked()
    scene.called("t", "call_1")
    scene.do(AgentPrepared(HandoffKey("call_1"), other))
    scene.session_updated(dict(other.session))
    assert json.loads(scene.outputs()["call_1"][0]) == {"assistant": 'The "boss"'}


def test_a_tool_cancelled_by_a_guardrail_is_not_reported_as_interrupted_by_the_user() -> None:
    spec = greeter(ToolCard(name="a", is_cancellable=True), has_output_guardrails=True)
    scene = WatchedStage(specs=[spec]).ready().asked()
    scene.called("a", "call_1")
    (check,) = scene.checks(scene.wrote("4711", is_final=True))
    scene.tripped(check)
    assert "The user interrupted" not in scene.outputs()["call_1"][0]


def test_a_handoff_that_is_never_confirmed_does_not_make_the_driver_spin() -> None:
    scene = WatchedStage(specs=[GREETER]).ready().asked()
    scene.called("transfer_to_billing", "call_1")
    scene.done()
    scene.advance(3.0)  # on_handoff and the instructions are slow
    scene.do(AgentPrepared(HandoffKey("call_1"), BILLING))
    scene.advance(40.0)


def test_a_withdrawn_question_emits_no_tool_end_without_a_tool_start() -> None:
    scene = WatchedStage(specs=[greeter(ToolCard(name="a", approval="always"))]).ready().asked()
    scene.called("a", "call_1")
    scene.done()
    scene.do(InterruptAsked())
    assert len(scene.notices(ToolStart)) == len(scene.notices(ToolEnd))


def test_every_tool_start_has_a_tool_end_at_the_end_of_the_session() -> None:
    scene = WatchedStage(specs=[greeter(ToolCard(name="a"))]).ready().asked()
    scene.called("a", "call_1")
    scene.done()
    scene.do(InterruptAsked())
    scene.do(ShutdownRequested("over"))
    assert len(scene.notices(ToolEnd)) == 1


def test_an_idle_timeout_while_a_tool_runs_does_not_lose_its_result() -> None:
    scene = vad()
    scene.called("a", "call_1")
    scene.done(turn=None)
    scene.committed("item_2")  # idle_timeout_ms: the server commits silence and answers it
    scene.created("resp_2", None)
    scene.audio("resp_2", "item_b", 200)
    scene.tool_finished("call_1", "1")
    assert scene.outputs() == {"call_1": ["1"]}
    scene.done("resp_2", None)
    scene.play(4800, drained=True)
    assert len(scene.asks()) == 1, "the output was sent, so a response must be requested"


def test_speech_during_a_tool_round_with_server_turn_detection_is_answered_once() -> None:
    scene = vad()
    scene.called("a", "call_1")
    scene.done(turn=None)
    scene.server({"type": "input_audio_buffer.speech_started", "item_id": "item_2", "audio_start_ms": 900})
    scene.tool_finished("call_1", "1")
    scene.committed("item_2")
    scene.created("resp_2", None)
    scene.audio("resp_2", "item_b", 200)
    scene.done("resp_2", None)
    scene.play(4800, drained=True)
    assert scene.asks() == []
    assert scene.outcomes() == ["interrupted", "answered"]


def test_a_call_of_a_tripped_response_gets_one_output() -> None:
    spec = greeter(ToolCard(name="a"), has_output_guardrails=True)
    scene = WatchedStage(specs=[spec]).ready().asked()
    (check,) = scene.checks(scene.wrote("4711", is_final=True))
    scene.called("a", "call_1")
    scene.tripped(check)
    scene.tool_finished("call_1", "1")
    call = {"id": "item_call_1", "type": "function_call", "name": "a", "call_id": "call_1", "arguments": "{}"}
    scene.done(status="cancelled", output=[spoken(text="4711"), call | {"status": "completed"}])
    assert scene.outputs() == {"call_1": ["1"]}
    assert len(scene.asks()) == 2


def test_a_handoff_whose_answer_trips_still_starts_with_the_first_sentence() -> None:
    spec = AgentSpec(
        agent="greeter",
        session=AUDIO_SESSION,
        tools=(),
        handoffs=GREETER.handoffs,
        has_output_guardrails=True,
    )
    scene = WatchedStage(specs=[spec]).ready().asked()
    (check,) = scene.checks(scene.wrote("4711", is_final=True))
    scene.called("transfer_to_billing", "call_1")
    scene.do(AgentPrepared(HandoffKey("call_1"), BILLING))
    scene.tripped(check)
    scene.session_updated(dict(BILLING.session))
    scene.done(status="cancelled")
    assert scene.conversation.agent == "billing"
    assert "Billing here." in scene.asks()[-1].get("instructions", "")


def test_an_open_approval_survives_a_message_without_an_answer() -> None:
    scene = WatchedStage(specs=[greeter(ToolCard(name="a", approval="always"))]).ready().asked()
    scene.called("a", "call_1")
    scene.done()
    scene.do(note(wants_answer=False))
    scene.do(ApprovalAnswered("call_1", True))
    scene.tool_finished("call_1", "1")
    assert scene.outputs() == {"call_1": ["1"]}
    assert len(scene.asks()) == 2


def test_a_model_that_ignores_tool_choice_none_does_not_loop_for_ever() -> None:
    scene = WatchedStage(specs=[greeter(ToolCard(name="a"))], max_tool_rounds=2).ready()
    scene.say()
    scene.committed()
    for index in range(1, 12):
        scene.created(f"resp_{index}")
        scene.called("a", f"call_{index}", response_id=f"resp_{index}")
        scene.done(f"resp_{index}")
        scene.tool_finished(f"call_{index}", "1")
    assert len(scene.asks()) <= 4, "the loop must end although tool_choice none is ignored"


def test_a_call_without_committed_or_response_created_confirms_the_audio() -> None:
    scene = WatchedStage(specs=[greeter(ToolCard(name="a", timeout_s=15.0))]).ready()
    scene.say()  # the server sends neither ``committed`` nor ``response.created``
    scene.called("a", "call_1")
    scene.advance(8.0)
    assert len(scene.connects()) == 0, "the link must survive while the tool runs"
    scene.tool_finished("call_1", "1")
    assert scene.outputs() == {"call_1": ["1"]}


def test_a_tool_required_by_the_session_is_required_once_a_turn() -> None:
    scene = WatchedStage(
        specs=[AgentSpec(agent="a", session=AUDIO_SESSION | {"tool_choice": "required"}, tools=(ToolCard(name="a"),))]
    ).ready()
    scene.asked()
    assert "tool_choice" not in scene.asks()[0], "the session already sets it"
    scene.called("a", "call_1")
    scene.done()
    scene.tool_finished("call_1", "1")
    assert scene.asks()[1]["tool_choice"] == "auto", "otherwise the model could never answer"
