"""Tests of the conversation core in combinations that tests of a single feature do not reach."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.agents.spec import AgentSpec
from appliance.conversation.events import (
    AgentPrepared,
    CommitAsked,
    DayBegan,
    FrameGiven,
    HandoffKey,
    InputCheck,
    InterruptAsked,
    OutOfBandAsked,
)
from appliance.conversation.notices import BudgetWarning, InputText
from appliance.realtime import protocol as wire
from tests.support.stages.agents import AUDIO_SESSION, BILLING, GREETER, WatchedStage, greeter
from tests.support.stages.messages import VAD_SESSION, note, spoken, vad

TEXT_SESSION = {"type": "realtime", "output_modalities": ["text"], "audio": {"input": {"turn_detection": None}}}


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
    assert scene.outcomes() == ["failed"], "two minutes without an answer or an error"
    assert scene.state == "ready"


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
    assert scene.state == "ready"


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


def test_a_trip_with_server_turn_detection_requests_a_new_response() -> None:
    scene = vad(has_output_guardrails=True)
    (check,) = scene.checks(scene.wrote("4711", is_final=True))
    scene.tripped(check)
    scene.done(turn=None, status="cancelled")
    assert len(scene.asks()) == 1
    scene.created("resp_2", "turn_1")
    scene.audio("resp_2", "item_b", 200)
    assert [one.item_id for one in scene.plays()] == ["item_b"]


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

    scene = vad(is_asked_at_turn=True)
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
