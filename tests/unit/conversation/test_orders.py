"""Scenes whose order of commands no other test covers.

They assert little: the corpus records them, and `test_corpus` compares every command.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from appliance.agents.spec import AgentSpec, ToolCard
from appliance.conversation.events import (
    AgentPrepared,
    AlarmRang,
    ButtonEdge,
    DeadlinePassed,
    FrameGiven,
    LinkDown,
    OutOfBandAsked,
    ServerEventReceived,
    TurnKey,
)
from appliance.realtime import protocol as wire
from tests.support.stage import SESSION, Stage

SERVER_VAD = {"type": "realtime", "audio": {"input": {"turn_detection": {"type": "server_vad"}}}}


def spec(**more: Any) -> AgentSpec:
    return AgentSpec(**({"agent": "ann", "session": SESSION} | more))


def with_a_spare() -> Stage:
    """Fail over to the second endpoint and start a spare to the first."""
    stage = Stage(endpoints=2)
    stage.start()
    stage.lose("refused", None)
    stage.link_ready()
    stage.server({"type": "session.updated", "session": SESSION})
    stage.advance(70.0)
    stage.speaks_on = 2
    return stage


def take_over(stage: Stage) -> None:
    """Let the spare become ready and lose the main link."""
    greeting = {"type": "session.created", "event_id": "greeting", "session": {}}
    stage.do(ServerEventReceived(3, wire.decode(json.dumps(greeting))))
    stage.lose()
    stage.speaks_on = 3


def test_a_link_is_lost_with_an_out_of_band_question_two_items_and_unordered_calls():
    stage = Stage(specs=[spec(tools=None)]).ready().asked()
    stage.do(OutOfBandAsked("key", {"input": []}))
    stage.item_added("item_a")
    stage.audio()
    stage.item_added("item_b")
    stage.wrote("never heard", item_id="item_b")
    stage.called("one", "call_b")
    stage.called("two", "call_a")
    stage.play(240)
    stage.lose()
    stage.advance(30.0)
    assert "failed" in stage.outcomes()


def test_a_spare_takes_over_before_the_answer_starts():
    stage = with_a_spare()
    stage.say()
    stage.committed()
    take_over(stage)
    stage.committed("item_2")
    stage.created("resp_2")
    stage.audio("resp_2", "item_c")
    stage.done("resp_2")
    stage.play(4800, drained=True)
    assert stage.outcomes() == ["answered"]


def test_a_spare_takes_over_in_the_middle_of_an_answer_and_the_user_barges_in():
    stage = with_a_spare()
    stage.asked()
    stage.item_added("item_a")
    stage.wrote("Hello there, this is long.")
    stage.audio(ms=2000)
    stage.item_added("item_b")
    stage.wrote("unheard", item_id="item_b")
    stage.play(12000)
    take_over(stage)
    stage.press()
    stage.hear(300)
    assert stage.outcomes() == ["interrupted"]


def test_a_response_belongs_to_the_agent_in_force_when_it_was_requested():
    stage = Stage(specs=[spec(is_asked_at_turn=True, tools=None)]).ready()
    stage.say()
    stage.committed()
    stage.advance(6.0)
    stage.do(AgentPrepared(TurnKey("turn_1", 0), spec(is_asked_at_turn=True)))
    assert stage.troubles() == ["instructions_late"]


def test_instructions_arriving_while_the_server_responds_apply_from_the_next_response():
    stage = Stage(specs=[spec(session=SERVER_VAD, is_asked_at_turn=True, tools=None)]).ready()
    stage.server({"type": "input_audio_buffer.speech_started", "item_id": "user", "audio_start_ms": 0})
    stage.committed("user")
    later = spec(session=SERVER_VAD | {"instructions": "new"}, is_asked_at_turn=True, tools=(ToolCard(name="b"),))
    stage.do(AgentPrepared(TurnKey("turn_1", 0), later))
    stage.created(turn=None)
    stage.called("gone", "call_1")
    assert "session.update" in stage.sent_types()


def test_an_answer_is_checked_completely_before_its_audio_is_finished():
    stage = Stage(specs=[spec(has_output_guardrails=True)], guardrail_debounce=-1).ready().asked()
    stage.item_added("item_a")
    stage.wrote("Hello.")
    stage.audio()
    stage.done()
    assert len(stage.plays()) == 1


@pytest.mark.parametrize("has_guardrails", [False, True])
def test_calls_questions_alarms_and_updates_time_out_in_one_event(has_guardrails: bool):
    tools = (
        ToolCard(name="slow", working_after_s=1.0, filler="wait", timeout_s=2.0),
        ToolCard(name="asks", approval="always"),
    )
    agent = spec(tools=tools, has_output_guardrails=has_guardrails)
    stage = Stage(specs=[agent], guardrail_debounce=1).ready().asked()
    stage.do(OutOfBandAsked("key", {"input": []}, 5.0))
    stage.do(AlarmRang("alarm", "egg"))
    stage.wrote("Hello.")
    stage.called("slow", "call_1")
    stage.called("asks", "call_2")
    stage.done()
    stage.do(FrameGiven({"type": "session.update", "session": SESSION}))
    stage.now += 100.0
    stage.do(DeadlinePassed())
    stage.advance(60.0)
    assert stage.conversation.turn_id is None


def test_a_check_and_its_answer_time_out_in_one_event():
    stage = Stage(specs=[spec(has_output_guardrails=True)], guardrail_debounce=1).ready().asked()
    stage.wrote("Hello.")
    stage.now += 100.0
    stage.do(DeadlinePassed())
    stage.advance(60.0)
    assert stage.conversation.turn_id is None


def test_a_held_button_an_alarm_a_question_and_a_spare_are_due_in_one_event():
    stage = with_a_spare()
    stage.do(ButtonEdge(True))
    stage.do(AlarmRang("alarm", "egg"))
    stage.do(OutOfBandAsked("key", {"input": []}, 5.0))
    stage.now += 200.0
    stage.do(DeadlinePassed())
    stage.advance(60.0)
    assert "button_stuck" in stage.troubles()


@pytest.mark.parametrize("is_rung_first", [True, False])
def test_a_connecting_link_an_alarm_and_a_release_are_due_in_one_event(is_rung_first: bool):
    stage = Stage().start()
    stage.advance(2.0)
    if is_rung_first:
        stage.do(AlarmRang("alarm", ""))
        stage.press()
    else:
        stage.press()
        stage.do(AlarmRang("alarm", ""))
    stage.do(ButtonEdge(False))
    stage.now += 100.0 if is_rung_first else 200.0
    stage.do(DeadlinePassed())
    stage.advance(20.0)
    assert "timeout" in stage.troubles()


def test_a_rejecting_hold_and_the_approval_deadline_are_due_in_one_event():
    stage = Stage(specs=[spec(tools=(ToolCard(name="asks", approval="always"),))]).ready().asked()
    stage.called("asks", "call_1")
    stage.press()
    stage.do(OutOfBandAsked("key", {"input": []}, 5.0))
    stage.now += 100.0
    stage.do(DeadlinePassed())
    stage.advance(20.0)
    assert stage.tool_runs() == []


def test_a_stuck_button_and_the_turn_limit_are_due_in_one_event():
    stage = Stage(specs=[spec(tools=None)], stuck_s=1.0, max_turn_s=5.0).ready().asked()
    stage.called("tool", "call_1")
    stage.press()
    stage.hear(200)
    stage.now += 100.0
    stage.do(DeadlinePassed())
    stage.advance(20.0)
    assert "button_stuck" in stage.troubles()


def test_two_links_time_out_one_after_the_other():
    stage = Stage(endpoints=2)
    stage.start()
    stage.do(LinkDown(1, "refused", None, "no"))
    stage.now += 100.0
    stage.do(DeadlinePassed())
    stage.advance(20.0)
    assert [one.endpoint for one in stage.connects()][:2] == [0, 1]
