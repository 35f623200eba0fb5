"""Tests of the conversation core in combinations that tests of a single feature do not reach."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.agents.spec import AgentSpec, HandoffCard, ToolCard
from appliance.conversation.events import (
    AgentPrepared,
    ApprovalAnswered,
    CommitAsked,
    DayBegan,
    FrameGiven,
    HandoffKey,
    InputCheck,
    InterruptAsked,
    MessageGiven,
    OutOfBandAsked,
    ShutdownRequested,
)
from appliance.conversation.notices import BudgetWarning, InputText, ToolEnd, ToolStart
from appliance.realtime import protocol as wire
from tests.support.stages.agents import AUDIO_SESSION, BILLING, GREETER, WatchedStage, greeter

TEXT_SESSION = {"type": "realtime", "output_modalities": ["text"], "audio": {"input": {"turn_detection": None}}}


def spoken(item_id: str = "item_a", text: str = "Hello there.", status: str = "completed") -> dict[str, Any]:
    return {
        "id": item_id,
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [{"type": "output_audio", "transcript": text}],
    }


def note(text: str = "Hi.", item_id: str = "m1", **more: Any) -> MessageGiven:
    content = [{"type": "input_text", "text": text}]
    return MessageGiven({"id": item_id, "type": "message", "role": "user", "content": content}, text, **more)


def test_an_item_fully_heard_before_the_barge_in_is_not_deleted() -> None:
    scene = WatchedStage(specs=[greeter()]).ready().asked()
    scene.item_added()
    scene.wrote("First sentence.")
    scene.audio(ms=200)
    scene.play(4800, drained=True)  # all received audio was heard; the rest is still to come
    scene.press()
    commands = scene.done(status="cancelled", output=[spoken(text="First sentence.", status="incomplete")])
    assert "conversation.item.delete" not in scene.sent_types(commands), "it was heard"
    assert "item_a" in scene.known()


def test_a_fully_heard_item_is_not_deleted_by_a_barge_in_during_the_next_item() -> None:
    scene = WatchedStage(specs=[greeter()]).ready().asked()
    scene.item_added()
    scene.audio(ms=200)
    scene.server({"type": "response.output_item.done", "response_id": "resp_1", "output_index": 0, "item": spoken()})
    scene.item_added("item_b")
    scene.audio(item_id="item_b", ms=200)
    scene.play(4800 + 2400)
    scene.press()
    scene.done(status="cancelled", output=[spoken(), spoken("item_b", "And more.", "incomplete")])
    assert "item_a" in scene.known(), "the item was fully heard"


def test_a_text_answer_already_emitted_is_not_deleted_by_an_interruption() -> None:
    scene = WatchedStage(specs=[AgentSpec(agent="a", session=TEXT_SESSION, tools=())]).ready()
    scene.do(note())
    scene.created()
    scene.item_added()
    scene.wrote_text("The capital of France is")
    scene.do(InterruptAsked())
    item = spoken(text="", status="incomplete") | {"content": [{"type": "output_text", "text": "The capital of F"}]}
    scene.done(status="cancelled", output=[item])
    assert "item_a" in scene.known(), "the text was emitted as it arrived, so it was read"


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


def test_a_late_commit_confirmation_is_not_taken_for_the_next_turn() -> None:
    spec = AgentSpec(agent="greeter", session=AUDIO_SESSION, tools=(), has_input_guardrails=True)
    scene = WatchedStage(specs=[spec]).ready()
    scene.say()  # committed, but not yet confirmed on a slow link
    scene.say()  # the next turn is committed too
    scene.committed("item_1")
    checks = scene.checks(scene.heard("What is the weather?", "item_1"))
    scene.committed("item_2")
    assert [one.key for one in checks] != [InputCheck("turn_2")], "the transcript of turn 1 must not clear turn 2"
    (check,) = scene.checks(scene.heard("Something bad.", "item_2"))
    scene.tripped(check)
    deleted = [one["item_id"] for one in scene.sent() if one["type"] == "conversation.item.delete"]
    assert "item_2" in deleted


def test_a_transcript_is_emitted_under_its_own_turn() -> None:
    scene = WatchedStage(specs=[greeter()]).ready()
    scene.say()
    scene.say()
    scene.committed("item_1")
    scene.committed("item_2")
    scene.heard("One.", "item_1")
    scene.heard("Two.", "item_2")
    assert InputText("Two.", is_final=True, turn="turn_2") in scene.notices(InputText)


def test_unchecked_speech_of_an_interrupted_turn_is_deleted() -> None:
    spec = AgentSpec(agent="greeter", session=AUDIO_SESSION, tools=(), has_input_guardrails=True)
    scene = WatchedStage(specs=[spec]).ready()
    scene.say()
    scene.committed("item_1")
    scene.say()  # speaks again before the first turn is transcribed
    scene.committed("item_2")
    for check in scene.checks(scene.heard("Something bad.", "item_1")):
        scene.tripped(check)
    (check,) = scene.checks(scene.heard("Answer what I said.", "item_2"))
    scene.passed(check)
    assert len(scene.asks()) == 1
    deleted = [one["item_id"] for one in scene.sent() if one["type"] == "conversation.item.delete"]
    assert "item_1" in deleted, "the model would know speech that passed no guardrail"


def test_a_message_given_while_the_user_speaks_is_checked_too() -> None:
    spec = AgentSpec(agent="greeter", session=AUDIO_SESSION, tools=(), has_input_guardrails=True)
    scene = WatchedStage(specs=[spec]).ready()
    scene.press()
    scene.hear(500)
    commands = scene.do(note("Something bad."))
    commands += scene.release() + scene.hear(260, 30, -60.0)
    scene.committed()
    commands += scene.heard("Hello.")
    assert "Something bad." in " ".join(one.text for one in scene.checks(commands))


def test_a_turn_replayed_after_a_long_outage_waits_for_its_transcript_again() -> None:
    spec = AgentSpec(agent="greeter", session=AUDIO_SESSION, tools=(), has_input_guardrails=True)
    scene = WatchedStage(specs=[spec]).ready()
    scene.say()
    scene.committed()
    scene.lose()
    for _ in range(3):
        scene.advance(4.0)
        if scene.has_connection:
            scene.lose("refused", None)
    scene.advance(5.0)
    scene.link_ready()
    scene.committed("item_again")
    scene.advance(2.0)
    assert scene.outcomes() == [], "the transcript is still pending"
    (check,) = scene.checks(scene.heard("Hello.", "item_again"))
    scene.passed(check)
    assert len(scene.asks()) == 1


def test_a_message_that_waits_for_a_link_is_not_lost_when_the_user_speaks() -> None:
    scene = WatchedStage(specs=[greeter()]).start()
    scene.advance(2.0)
    scene.do(note("Remember the milk."))
    scene.say()
    scene.link_ready()
    sent = [one["item"] for one in scene.sent() if one["type"] == "conversation.item.create"]
    assert [one["content"][0]["text"] for one in sent] == ["Remember the milk."]


def test_a_server_that_keeps_refusing_does_not_hold_up_the_turn_for_ever() -> None:
    scene = WatchedStage(specs=[greeter()]).ready()
    scene.say()
    scene.committed()
    for _ in range(120):
        scene.error("conversation_already_has_active_response")
        scene.advance(1.01)
    assert scene.outcomes() != [], "two minutes without an answer or an error"


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


def test_an_out_of_band_response_of_the_program_is_not_cancelled() -> None:
    scene = WatchedStage(specs=[greeter()]).ready()
    scene.do(
        FrameGiven({"type": "response.create", "response": {"conversation": "none", "output_modalities": ["text"]}})
    )
    commands = scene.server(
        {
            "type": "response.created",
            "response": {"id": "resp_x", "status": "in_progress", "output": [], "conversation_id": None},
        }
    )
    assert scene.sent_types(commands) == []


def test_an_out_of_band_response_of_the_program_is_neither_played_nor_kept_in_the_history() -> None:
    scene = WatchedStage(specs=[greeter()]).ready()
    frame = {"type": "response.create", "response": {"conversation": "none", "metadata": {"topic": "x"}}}
    scene.do(FrameGiven(frame))
    scene.say()
    scene.committed()  # our own request waits for its response.created
    response = {"id": "resp_x", "status": "in_progress", "output": [], "metadata": {"topic": "x"}}
    scene.server({"type": "response.created", "response": response})
    scene.audio("resp_x", "item_x", 200)
    assert scene.plays() == [], "the out-of-band audio is not the answer"
    scene.server(
        {"type": "response.done", "response": response | {"status": "completed", "output": [spoken("item_x")]}}
    )
    assert "item_x" not in scene.known(), "out-of-band items are not part of the conversation"


def test_a_tool_required_by_a_raw_response_create_is_required_only_once() -> None:
    scene = WatchedStage(specs=[greeter(ToolCard(name="a"))]).ready()
    scene.do(FrameGiven({"type": "response.create", "response": {"tool_choice": "required"}}))
    scene.created()
    scene.called("a", "call_1")
    scene.done()
    scene.tool_finished("call_1", "1")
    assert scene.asks()[1].get("tool_choice") != "required", "the model could never answer; the tool would run 8 times"


@pytest.mark.parametrize("response", [None, "x", {"metadata": None}, {"metadata": "x"}])
def test_a_raw_response_create_of_any_shape_is_handled(response: Any) -> None:
    scene = WatchedStage(specs=[greeter()]).ready()
    scene.do(FrameGiven({"type": "response.create", "response": response}))
    assert scene.state != "booting"


@pytest.mark.parametrize("session", [None, "x", []])
def test_a_raw_session_update_of_any_shape_is_handled(session: Any) -> None:
    scene = WatchedStage(specs=[greeter()]).ready()
    scene.conversation.handle(FrameGiven({"type": "session.update", "session": session}), scene.now)
    scene.session_updated()


@pytest.mark.parametrize("audio", [{"input": None}, [], "x", {"input": []}, {"input": {"transcription": "whisper-1"}}])
def test_a_session_updated_of_any_shape_is_handled(audio: Any) -> None:
    scene = WatchedStage(specs=[greeter()]).ready()
    try:
        event = wire.parse({"type": "session.updated", "session": {"type": "realtime", "audio": audio}})
    except wire.RemoteProtocolError:
        return
    from appliance.conversation.events import ServerEventReceived

    scene.do(ServerEventReceived(scene.link, event))


def test_a_text_response_requested_in_an_audio_session_counts_as_an_answer() -> None:
    scene = WatchedStage(specs=[greeter()]).ready()
    scene.do(FrameGiven({"type": "response.create", "response": {"output_modalities": ["text"]}}))
    scene.created()
    scene.wrote_text("Paris.", is_final=True)
    scene.done()
    assert scene.outcomes() == ["answered"]


def test_held_audio_lost_with_the_link_is_not_replayed_as_said() -> None:
    spec = AgentSpec(agent="greeter", session=AUDIO_SESSION, tools=(), has_output_guardrails=True)
    scene = WatchedStage(specs=[spec], hold_audio=True).ready().asked()
    scene.item_added()
    scene.wrote("The code of the safe is 4711, which nobody has heard.")
    scene.audio(ms=2000)
    assert scene.plays() == []
    scene.lose()
    scene.commands.clear()
    scene.advance(2.0)
    scene.link_ready()
    scene.advance(30.0)
    texts = [str(one["item"]) for one in scene.sent() if one["type"] == "conversation.item.create"]
    said = [one for one in texts if "4711" in one]
    deleted = [one["item_id"] for one in scene.sent() if one["type"] == "conversation.item.delete"]
    assert not said or "item_a" in deleted, "none of it was heard"


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


def _budgeted(**policy: Any) -> WatchedStage:
    more = {"endpoints": 2, "offline_endpoint": 1, "budget_s": 4.0} | policy
    scene = WatchedStage(specs=[greeter()], **more)
    scene.do(DayBegan("2027-01-01"))
    scene.ready()
    return scene


def test_a_barge_in_that_spends_the_budget_is_answered_by_the_offline_brain() -> None:
    scene = _budgeted(budget_s=1.0)
    scene.say()
    scene.committed()
    scene.created()
    scene.audio(ms=2000)
    scene.play(2400)
    scene.say()  # a barge-in: speech and answer exceed the budget
    assert [one.percent for one in scene.notices(BudgetWarning)] == [100]
    commits = [one for one in scene.sent_types() if one == "input_audio_buffer.commit"]
    assert len(commits) == 1, "the second turn must not go to the paid model"
    assert scene.connects()[-1].endpoint == 1


def test_with_a_spent_budget_and_no_offline_brain_questions_and_raw_requests_are_refused_too() -> None:
    scene = WatchedStage(specs=[greeter()], budget_s=1.0)
    scene.do(DayBegan("2027-01-01", 0.0, 2.0))
    scene.ready()
    scene.do(OutOfBandAsked("k", {"output_modalities": ["text"]}))
    scene.do(FrameGiven({"type": "response.create"}))
    assert scene.asks() == []


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


VAD_SESSION = {"type": "realtime", "audio": {"input": {"turn_detection": {"type": "server_vad"}}}}


def _vad(**more: Any) -> WatchedStage:
    spec = AgentSpec(agent="greeter", session=VAD_SESSION, tools=(ToolCard(name="a"),), **more)
    scene = WatchedStage(specs=[spec]).ready()
    scene.hear(200)
    scene.server({"type": "input_audio_buffer.speech_started", "item_id": "item_1", "audio_start_ms": 0})
    scene.hear(500)
    scene.committed("item_1")
    scene.created("resp_1", None)
    return scene


def test_an_idle_timeout_while_a_tool_runs_does_not_lose_its_result() -> None:
    scene = _vad()
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


def test_a_trip_with_server_turn_detection_requests_a_new_response() -> None:
    scene = _vad(has_output_guardrails=True)
    (check,) = scene.checks(scene.wrote("4711", is_final=True))
    scene.tripped(check)
    scene.done(turn=None, status="cancelled")
    assert len(scene.asks()) == 1
    scene.created("resp_2", "turn_1")
    scene.audio("resp_2", "item_b", 200)
    assert [one.item_id for one in scene.plays()] == ["item_b"]


def test_speech_during_a_tool_round_with_server_turn_detection_is_answered_once() -> None:
    scene = _vad()
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


def test_a_commit_by_the_program_is_ignored_with_server_turn_detection() -> None:
    scene = WatchedStage(specs=[AgentSpec(agent="greeter", session=VAD_SESSION, tools=())]).ready()
    scene.server({"type": "input_audio_buffer.speech_started", "item_id": "item_1", "audio_start_ms": 0})
    scene.hear(500)
    scene.do(CommitAsked())
    assert scene.outcomes() == [], "'turn is not used' with the server's own turn detection"


def test_a_trip_removes_a_text_answer_whether_or_not_it_is_complete() -> None:
    spec = AgentSpec(agent="a", session=TEXT_SESSION, tools=(), has_output_guardrails=True)

    def tripped(*, late: bool) -> list[str]:
        scene = WatchedStage(specs=[spec]).ready()
        scene.do(note())
        scene.created()
        scene.item_added()
        (check,) = scene.checks(scene.wrote_text("4711", is_final=True))
        item = spoken(text="") | {"content": [{"type": "output_text", "text": "4711"}]}
        if late:
            scene.done(output=[item])
            scene.tripped(check)
        else:
            scene.tripped(check)
            scene.done(status="cancelled", output=[item])
        return [one for one in scene.known() if one == "item_a"]

    assert tripped(late=True) == tripped(late=False), "the timing must not decide whether the item is kept"


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


def test_an_incomplete_answer_is_reported() -> None:
    scene = WatchedStage(specs=[greeter()]).ready().asked()
    scene.audio()
    scene.done(status="incomplete", status_details={"type": "incomplete", "reason": "content_filter"})
    scene.play(4800, drained=True)
    assert scene.outcomes() != ["answered"] or scene.troubles() != []


# requirements of the specification without another test


def test_a_clone_is_a_copy_with_changes() -> None:
    from appliance.agents.agent import RealtimeAgent

    day = RealtimeAgent(name="Day", instructions="Be loud.", voice="marin", settings={"speed": 1.2})
    night = day.clone(name="Night", voice="cedar")
    assert (night.name, night.voice, night.instructions, night.settings) == (
        "Night",
        "cedar",
        "Be loud.",
        {"speed": 1.2},
    )
    assert (day.name, day.voice) == ("Day", "marin")
    with pytest.raises(TypeError):
        day.clone(colour="red")


def test_instructions_are_requested_for_each_turn_with_server_turn_detection_too() -> None:
    from appliance.conversation.commands import PrepareAgent

    scene = _vad(is_asked_at_turn=True)
    assert [one.reason for one in scene.of(PrepareAgent)] == ["turn"], "instructions were not requested"


def test_a_spoken_out_of_band_answer_also_fixes_the_voice() -> None:
    scene = WatchedStage(specs=[GREETER]).ready()
    scene.do(OutOfBandAsked("k", {"output_modalities": ["audio"]}))
    response = {"id": "resp_k", "status": "in_progress", "output": [], "metadata": {"aside": "k"}}
    scene.server({"type": "response.created", "response": response})
    scene.audio("resp_k", "item_k", 200)
    scene.server({"type": "response.done", "response": response | {"status": "completed"}})
    scene.asked()
    scene.called("transfer_to_billing", "call_1")
    scene.do(AgentPrepared(HandoffKey("call_1"), BILLING))
    assert "voice" not in scene.updates()[-1]["session"]["audio"]["output"]


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
