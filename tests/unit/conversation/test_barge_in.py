"""Tests of the conversation core: barge-in, lost speech, tools and approval."""

from __future__ import annotations

import pytest

from appliance.conversation.events import (
    AudioCaptured,
    CaptureOverrun,
    PlayoutProgress,
    ToolFinished,
)
from appliance.conversation.notices import ToolEnd
from appliance.conversation.support.feedback import light_state
from tests.support.stage import Stage, period

# --- barge-in ---------------------------------------------------------------------------------------------------------


def test_a_barge_in_flushes_truncates_cancels_clears_and_appends_in_this_order() -> None:
    stage = Stage().ready()
    stage.answering()
    stage.hear(100)
    commands = stage.press()
    names = [type(one).__name__ for one in commands]
    assert names.index("FlushPlayback") < names.index("Send")
    assert stage.sent_types(commands) == [
        "conversation.item.truncate",
        "response.cancel",
        "input_audio_buffer.clear",
        "input_audio_buffer.append",
    ]
    truncate, cancel, *_ = stage.sent(commands)
    assert truncate == {
        "type": "conversation.item.truncate",
        "event_id": "truncate_item_a",
        "item_id": "item_a",
        "content_index": 0,
        "audio_end_ms": 100,
    }
    assert cancel["response_id"] == "resp_1"
    assert stage.outcomes() == ["interrupted"]
    assert stage.sent_types(stage.hear(100)) == ["input_audio_buffer.append"]


def test_each_queued_item_is_truncated_at_its_heard_length() -> None:
    stage = Stage().ready()
    stage.say()
    stage.committed()
    stage.created()
    stage.audio(item_id="item_a", ms=200)
    stage.audio(item_id="item_b", ms=300)
    stage.audio(item_id="item_c", ms=100)
    stage.play(24 * 250)
    frames = [one for one in stage.sent(stage.press()) if one["type"] == "conversation.item.truncate"]
    assert [(one["item_id"], one["audio_end_ms"]) for one in frames] == [("item_b", 50), ("item_c", 0)]


def test_nothing_is_truncated_when_everything_was_heard() -> None:
    stage = Stage().ready()
    stage.answering(ms=100)
    assert "conversation.item.truncate" not in stage.sent_types(stage.press())


def test_a_new_response_waits_until_the_cancelled_one_is_done() -> None:
    stage = Stage().ready()
    stage.answering()
    stage.say()
    assert "response.create" not in stage.sent_types()
    stage.done("resp_1", status="cancelled")
    assert stage.sent()[-1]["response"]["metadata"] == {"turn": "turn_2"}


def test_a_cancelled_response_that_never_ends_does_not_hold_up_the_next_turn() -> None:
    stage = Stage(cancel_s=3.0).ready()
    stage.answering()
    stage.say()
    stage.committed("item_2")
    assert "response.create" not in stage.sent_types()
    stage.advance(3.0)
    assert stage.sent_types()[-1] == "response.create"


def test_barge_in_before_response_created_cancels_the_late_answer() -> None:
    """This trace shows the bug of naive clients: turn 1's answer is played in turn 2."""
    stage = Stage().ready()
    stage.say()
    stage.committed()
    stage.say()  # turn 2 starts before turn 1's response is created
    assert "response.cancel" not in stage.sent_types(), "there is no response to cancel yet"
    commands = stage.created("resp_1", turn="turn_1")
    assert stage.sent(commands) == [{"type": "response.cancel", "response_id": "resp_1"}]
    stage.audio("resp_1")
    assert stage.plays() == []
    stage.done("resp_1", turn="turn_1", status="cancelled")
    stage.committed("item_2")
    stage.created("resp_2", turn="turn_2")
    stage.audio("resp_2", "item_b")
    assert [one.item_id for one in stage.plays()] == ["item_b"]


def test_barge_in_before_response_created_works_without_metadata_too() -> None:
    stage = Stage().ready()
    stage.say()
    stage.committed()
    stage.say()
    assert stage.sent_types(stage.created("resp_1", turn=None)) == ["response.cancel"]
    stage.audio("resp_1")
    stage.done("resp_1", turn=None, status="cancelled")
    stage.created("resp_2", turn=None)
    stage.audio("resp_2", "item_b")
    assert [one.item_id for one in stage.plays()] == ["item_b"]


def test_late_audio_of_a_cancelled_response_is_dropped() -> None:
    stage = Stage().ready()
    stage.answering()
    stage.press()
    stage.audio("resp_1")
    assert stage.plays() == []


def test_a_late_report_of_an_old_epoch_is_ignored() -> None:
    stage = Stage().ready()
    stage.answering()
    old = stage.conversation.epoch
    stage.say()
    stage.done("resp_1", status="cancelled")
    stage.committed("item_2")
    stage.created("resp_2", turn="turn_2")
    stage.audio("resp_2", "item_b", ms=200)
    stage.do(PlayoutProgress(old, 4800, True))
    assert stage.state == "speaking"


def test_an_unsolicited_response_is_cancelled_and_not_played() -> None:
    stage = Stage().ready()
    commands = stage.created("resp_x", turn=None)
    assert stage.sent_types(commands) == ["response.cancel"]
    stage.audio("resp_x")
    assert stage.plays() == []


def test_already_active_keeps_the_request_and_repeats_it_after_the_other_response() -> None:
    stage = Stage(refused_retry_s=1.0).ready()
    stage.say()
    event_id = stage.sent()[-1]["event_id"]
    stage.committed()
    stage.error("conversation_already_has_active_response", event_id=event_id)
    assert stage.sent_types().count("response.create") == 1
    stage.done("resp_other", turn="turn_0")
    assert stage.sent_types().count("response.create") == 2
    stage.created("resp_2")
    stage.audio("resp_2")
    assert len(stage.plays()) == 1


def test_already_active_is_retried_after_a_delay_without_response_done() -> None:
    stage = Stage(refused_retry_s=1.0).ready()
    stage.say()
    stage.committed()
    stage.error("conversation_already_has_active_response", event_id=stage.sent()[-1]["event_id"])
    stage.advance(1.1)
    assert stage.sent_types().count("response.create") == 2


def test_an_unrelated_error_never_wedges_the_turn() -> None:
    stage = Stage().ready()
    stage.say()
    stage.committed()
    stage.error("something_else", message="whatever")
    stage.error(None, message="Audio content of 9250ms is already shorter than 57340ms")
    stage.created()
    stage.audio()
    stage.done()
    stage.play(4800, drained=True)
    assert stage.outcomes() == ["answered"]
    assert stage.troubles() == ["server_error"]


# --- no speech is lost ------------------------------------------------------------------------------------------------


def test_a_turn_spoken_before_the_link_is_up_is_sent_when_the_session_is_ready() -> None:
    stage = Stage().start()
    stage.advance(2)
    stage.hear(300, 111)
    stage.press()
    stage.hear(400, 222)
    stage.release()
    stage.hear(260, 333)
    assert stage.state == "committing"
    assert stage.sent() == []
    stage.link_ready()
    assert stage.sent_types() == [
        "session.update",
        "input_audio_buffer.clear",
        "input_audio_buffer.append",
        "input_audio_buffer.commit",
        "response.create",
    ]
    assert stage.sent_audio().startswith(period(111) * 15 + period(222) * 20)


def test_a_missing_link_is_reported_and_ends_the_turn() -> None:
    stage = Stage(link_wait_s=30.0).start()
    stage.advance(2)
    stage.say()
    stage.lose()
    stage.advance(31)
    assert stage.outcomes() == ["failed"]
    assert "no_link" in stage.troubles()
    assert "could not send" in stage.announced()[0]


def test_speaking_again_while_waiting_for_a_link_extends_the_turn() -> None:
    stage = Stage(pre_roll_ms=0).start()
    stage.advance(2)
    stage.say(200, 111)
    stage.say(200, 222)
    stage.link_ready()
    audio = stage.sent_audio()
    assert period(111) in audio
    assert period(222) in audio
    assert stage.sent_types().count("input_audio_buffer.commit") == 1


@pytest.mark.parametrize("moment", ["listening", "committing", "thinking", "created"])
def test_a_link_lost_before_the_answer_starts_replays_the_turn(moment: str) -> None:
    stage = Stage(pre_roll_ms=0).ready()
    stage.press()
    stage.hear(400, 777)
    if moment != "listening":
        stage.release()
        stage.hear(260, 55)
    if moment in ("thinking", "created"):
        stage.committed()
    if moment == "created":
        stage.created()
    stage.lose()
    if moment == "listening":
        stage.release()
        stage.hear(260, 55)
    stage.advance(3)
    stage.commands.clear()
    stage.link_ready()
    assert stage.sent_types() == [
        "session.update",
        "input_audio_buffer.clear",
        "input_audio_buffer.append",
        "input_audio_buffer.commit",
        "response.create",
    ]
    assert stage.sent_audio().count(period(777)) >= 1
    assert len(stage.sent_audio()) >= (400 + 240) * 48
    stage.committed("item_again")
    stage.created("resp_again")
    stage.audio("resp_again")
    stage.done("resp_again")
    stage.play(4800, drained=True)
    assert stage.outcomes() == ["answered"]


def test_a_server_that_never_confirms_the_commit_is_replaced_by_a_new_link() -> None:
    stage = Stage(commit_s=5.0, max_replays=2).ready()
    stage.say()
    for _ in range(3):
        stage.advance(7)
        stage.advance(8)
        if stage.outcomes():
            break
        stage.link_ready()
    stage.advance(60)
    assert stage.outcomes() == ["failed"], "the turn fails after the last replay and is reported"
    assert stage.announced()
    assert len(stage.connects()) >= 3


def test_a_link_lost_during_the_answer_plays_the_received_part_and_reports_it() -> None:
    stage = Stage().ready()
    stage.answering(ms=1000)
    stage.lose()
    assert stage.state == "speaking"
    stage.play(24_000 - 2400, drained=True)
    assert stage.outcomes() == ["failed"]
    assert "answer_cut" in stage.troubles()


def test_a_link_lost_after_the_whole_answer_does_not_fail_the_turn() -> None:
    stage = Stage().ready()
    stage.answering(ms=1000)
    stage.done()
    stage.lose()
    stage.play(24_000 - 2400, drained=True)
    assert stage.outcomes() == ["answered"]


def test_an_item_of_a_lost_session_is_not_truncated_on_the_next() -> None:
    stage = Stage().ready()
    stage.answering(ms=5000)
    stage.lose()
    stage.advance(1)
    stage.link_ready()
    stage.commands.clear()
    assert "conversation.item.truncate" not in stage.sent_types(stage.press())


def test_audio_still_in_the_ring_at_the_release_belongs_to_the_turn() -> None:
    """On a stalled network the pump leaves a second of speech in its ring; it is delivered after the release."""
    stage = Stage(post_roll_ms=100, pre_roll_ms=0).ready()
    stage.press()
    stage.hear(400, 111)
    stage.advance(1.0)
    stage.release()
    stage.advance(3.0)
    assert stage.state == "listening", "the microphone is not lost, so its audio is still expected"
    for _ in range(50):
        stage.do(AudioCaptured(period(222), 222, -40.0))
    for _ in range(20):
        stage.do(AudioCaptured(period(333), 333, -40.0))
    assert stage.sent_audio().count(period(222)[:2]) == 50 * 480
    assert stage.sent_audio().count(period(333)[:2]) == 5 * 480
    assert stage.sent_types()[-1] == "response.create"


def test_a_long_turn_may_upload_for_as_long_as_it_was_spoken() -> None:
    stage = Stage(commit_s=5.0).ready()
    stage.press()
    stage.hear(20_000)
    stage.release()
    stage.hear(260)
    stage.advance(20.0)
    assert stage.state == "committing"
    assert stage.connects() == []


def test_an_overrun_is_reported_and_commits_the_captured_audio() -> None:
    stage = Stage().ready()
    stage.press()
    stage.hear(500)
    stage.do(CaptureOverrun(480))
    assert stage.troubles() == ["overrun"]
    assert "input_audio_buffer.commit" in stage.sent_types()


# --- tools ------------------------------------------------------------------------------------------------------------


def test_a_tool_call_is_run_and_answered_and_the_model_continues() -> None:
    stage = Stage().ready()
    stage.say()
    stage.committed()
    stage.created()
    stage.called("set_lamp", "call_1", '{"on":true}')
    (run,) = stage.tool_runs()
    assert (run.name, run.arguments) == ("set_lamp", '{"on":true}')
    stage.done()
    assert stage.state == "thinking"
    commands = stage.tool_finished("call_1", '{"lamp":"on"}')
    item, create = stage.sent(commands)
    assert item["item"] == {
        "id": "local_1",
        "type": "function_call_output",
        "call_id": "call_1",
        "output": '{"lamp":"on"}',
    }
    assert create["type"] == "response.create"
    assert create["response"]["metadata"] == {"turn": "turn_1"}


def test_several_calls_lead_to_one_follow_up_response() -> None:
    stage = Stage().ready()
    stage.say()
    stage.committed()
    stage.created()
    stage.called("a", "call_1")
    stage.called("b", "call_2")
    stage.tool_finished("call_1", "1")
    stage.done()
    assert stage.sent_types().count("response.create") == 1
    stage.tool_finished("call_2", "2")
    assert stage.sent_types()[-2:] == ["conversation.item.create", "response.create"]
    assert stage.sent_types().count("response.create") == 2


def test_a_tool_that_finishes_before_response_done_waits_for_it() -> None:
    stage = Stage().ready()
    stage.say()
    stage.committed()
    stage.created()
    stage.called("a", "call_1")
    stage.tool_finished("call_1", "1")
    assert stage.sent_types().count("response.create") == 1
    stage.done()
    assert stage.sent_types().count("response.create") == 2


def test_a_call_that_appears_only_in_response_done_is_run_once() -> None:
    stage = Stage().ready()
    stage.say()
    stage.committed()
    stage.created()
    item = {"type": "function_call", "name": "a", "call_id": "call_1", "arguments": "{}", "status": "completed"}
    stage.done(output=[item])
    assert [run.call_id for run in stage.tool_runs()] == ["call_1"]


def test_a_hanging_tool_is_answered_at_its_deadline_and_its_late_result_ignored() -> None:
    stage = Stage(tool_s=20.0).ready()
    stage.say()
    stage.committed()
    stage.created()
    stage.called("slow", "call_1")
    stage.done()
    commands = stage.advance(20.1)
    assert "too long" in stage.sent(commands)[0]["item"]["output"]
    assert stage.do(ToolFinished("call_1", "late")) == []


def test_after_a_barge_in_the_tool_output_is_sent_without_requesting_a_response() -> None:
    stage = Stage().ready()
    stage.say()
    stage.committed()
    stage.created()
    stage.called("slow", "call_1")
    stage.done()
    stage.press()
    stage.hear(300)
    commands = stage.tool_finished("call_1", "done")
    assert stage.sent_types(commands) == ["conversation.item.create"]


def test_a_model_that_keeps_calling_tools_gets_tool_choice_none() -> None:
    stage = Stage(max_tool_rounds=2).ready()
    stage.say()
    stage.committed()
    for index in range(3):
        stage.created(f"resp_{index}")
        if "tool_choice" in stage.sent()[-1].get("response", {}):
            break
        stage.called("again", f"call_{index}", response_id=f"resp_{index}")
        stage.done(f"resp_{index}")
        stage.tool_finished(f"call_{index}", "{}")
    assert stage.sent()[-1]["response"]["tool_choice"] == "none"


# --- approval ---------------------------------------------------------------------------------------------------------


def _asking() -> Stage:
    stage = Stage(approvals=("open_door",)).ready()
    stage.say()
    stage.committed()
    stage.created()
    stage.called("open_door", "call_1")
    stage.done()
    return stage


def test_a_tool_that_needs_approval_does_not_run_before_a_tap() -> None:
    stage = _asking()
    assert stage.state == "awaiting_approval"
    assert light_state(stage.conversation.view) == "approval"
    assert stage.tool_runs() == []
    stage.press()
    stage.advance(0.1)
    stage.release()
    assert [run.name for run in stage.tool_runs()] == ["open_door"]
    assert stage.state == "thinking"


def test_a_hold_of_one_second_rejects() -> None:
    stage = _asking()
    stage.press()
    stage.advance(1.1)
    assert stage.tool_runs() == []
    assert "rejected" in stage.sent()[-2]["item"]["output"]
    assert stage.sent_types()[-1] == "response.create"


def test_an_unanswered_approval_is_rejected_at_its_deadline() -> None:
    stage = _asking()
    stage.advance(31)
    assert stage.tool_runs() == []
    assert "did not answer" in stage.sent()[-2]["item"]["output"]
    assert stage.notices(ToolEnd) == []


def test_a_press_that_started_before_the_question_does_not_answer_it() -> None:
    stage = Stage(approvals=("open_door",), button_mode="tap").ready()
    stage.press()
    stage.release()
    stage.hear(500)
    stage.press()  # ends the turn; the finger is still down when the question comes
    stage.hear(260)
    stage.committed()
    stage.created()
    stage.called("open_door", "call_1")
    stage.release()
    assert stage.tool_runs() == []
    assert stage.state == "awaiting_approval"
