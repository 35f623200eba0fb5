"""Tests of the conversation core: turns, messages, images and raw frames of a program."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.conversation.events import (
    AbortAsked,
    BeginAsked,
    CommitAsked,
    FrameGiven,
    InterruptAsked,
)
from appliance.conversation.notices import InputText, TurnStart
from appliance.realtime.items import HistoryItem
from tests.support.stage import period
from tests.support.stages.program import ProgramStage, message

PIXEL = "data:image/png;base64,iVBORw0KGgo="

# --- turns of the program ---------------------------------------------------------------------------------------------


def test_a_turn_started_and_committed_by_the_program_is_sent_and_answered() -> None:
    scene = ProgramStage(pre_roll_ms=0).ready()
    commands = scene.do(BeginAsked()) + scene.hear(200, sample=1234)
    assert scene.state == "listening"
    commands += scene.do(CommitAsked())
    assert scene.sent_types(commands) == [
        "input_audio_buffer.clear",
        "input_audio_buffer.append",
        "input_audio_buffer.commit",
        "response.create",
    ]
    assert scene.sent_audio(commands) == period(1234, frames=24 * 200)
    scene.committed()
    scene.answered()
    assert scene.outcomes() == ["answered"]


def test_a_commit_by_the_program_adds_no_post_roll() -> None:
    scene = ProgramStage().ready()
    scene.do(BeginAsked())
    scene.hear(200)
    scene.do(CommitAsked())
    assert scene.state == "committing"
    assert scene.hear(100) == [], "later audio is not part of this turn"


def test_a_turn_of_the_program_plays_no_button_earcons() -> None:
    scene = ProgramStage().ready()
    scene.do(BeginAsked())
    scene.hear(200)
    scene.do(CommitAsked())
    scene.do(BeginAsked())
    scene.do(AbortAsked())
    assert scene.earcons() == []


def test_a_turn_of_the_program_below_the_minimum_is_too_short() -> None:
    scene = ProgramStage(pre_roll_ms=0).ready()
    scene.do(BeginAsked())
    scene.hear(80)
    commands = scene.do(CommitAsked())
    assert scene.sent_types(commands) == ["input_audio_buffer.clear"]
    assert scene.outcomes() == ["too_short"]


def test_an_aborted_turn_is_cleared_and_requests_no_response() -> None:
    scene = ProgramStage().ready()
    scene.do(BeginAsked())
    scene.hear(200)
    commands = scene.do(AbortAsked())
    assert scene.sent_types(commands) == ["input_audio_buffer.clear"]
    assert scene.outcomes() == ["cancelled"]
    assert scene.state == "ready"


def test_an_abort_after_the_commit_is_ignored() -> None:
    scene = ProgramStage().ready()
    scene.do(BeginAsked())
    scene.hear(200)
    scene.do(CommitAsked())
    assert scene.do(AbortAsked()) == []
    scene.committed()
    scene.answered()
    assert scene.outcomes() == ["answered"]


@pytest.mark.parametrize("event", [CommitAsked(), AbortAsked(), InterruptAsked()])
def test_without_a_turn_commit_abort_and_interrupt_do_nothing(event: Any) -> None:
    scene = ProgramStage().ready()
    assert scene.sent(scene.do(event)) == []
    assert scene.outcomes() == []


def test_begin_during_a_spoken_turn_does_not_start_another() -> None:
    scene = ProgramStage().ready()
    scene.do(BeginAsked())
    scene.hear(100)
    assert scene.do(BeginAsked()) == []
    assert [one.turn for one in scene.notices(TurnStart)] == ["turn_1"]


def test_begin_interrupts_an_answer_like_a_press() -> None:
    scene = ProgramStage(pre_roll_ms=0).ready()
    scene.answering()
    commands = scene.do(BeginAsked())
    assert scene.sent_types(commands) == [
        "conversation.item.truncate",
        "response.cancel",
        "input_audio_buffer.clear",
    ]
    assert scene.outcomes() == ["interrupted"]
    assert scene.state == "listening"


def test_silence_does_not_end_a_turn_of_the_program() -> None:
    scene = ProgramStage(silence_ms=1200).ready()
    scene.do(BeginAsked())
    scene.hear(400)
    scene.hear(3000, sample=20, level_db=-70.0)
    assert scene.state == "listening"


def test_a_turn_the_program_never_ends_is_committed_at_the_limit_and_reported() -> None:
    scene = ProgramStage(max_turn_s=2.0).ready()
    scene.do(BeginAsked())
    scene.hear(2000)
    scene.advance(0.1)
    assert scene.sent_types()[-2:] == ["input_audio_buffer.commit", "response.create"]
    assert scene.troubles() == ["too_long"]


def test_a_press_during_a_turn_of_the_program_commits_it_once() -> None:
    """The press ends the turn; its release must not end or start another."""
    scene = ProgramStage().ready()
    scene.do(BeginAsked())
    scene.hear(300)
    scene.press()
    scene.hear(260)
    scene.release()
    assert scene.sent_types().count("input_audio_buffer.commit") == 1
    assert [one.turn for one in scene.notices(TurnStart)] == ["turn_1"]


def test_a_turn_of_the_program_started_offline_is_sent_when_the_session_is_ready() -> None:
    scene = ProgramStage(pre_roll_ms=0).ready()
    scene.lose()
    scene.do(BeginAsked())
    scene.hear(200, sample=77)
    scene.do(CommitAsked())
    assert scene.sent() == []
    scene.link_ready()
    assert scene.sent_audio() == period(77, frames=24 * 200)
    assert scene.sent_types()[-2:] == ["input_audio_buffer.commit", "response.create"]


def test_starting_again_while_offline_continues_the_turn_of_the_program() -> None:
    scene = ProgramStage(pre_roll_ms=0).ready()
    scene.lose()
    for sample in (11, 22):
        scene.do(BeginAsked())
        scene.hear(200, sample=sample)
        scene.do(CommitAsked())
    scene.link_ready()
    assert scene.sent_audio() == period(11, frames=24 * 200) + period(22, frames=24 * 200)
    assert [one.turn for one in scene.notices(TurnStart)] == ["turn_1"]


# --- messages ---------------------------------------------------------------------------------------------------------


def test_a_message_creates_an_item_and_requests_a_response_for_its_turn() -> None:
    scene = ProgramStage().ready()
    given = message()
    create, ask = scene.sent(scene.do(given))
    assert create == {"type": "conversation.item.create", "event_id": "item_note_1", "item": given.item}
    assert (ask["type"], ask["response"]) == ("response.create", {"metadata": {"turn": "turn_1"}})
    assert scene.state == "thinking"
    scene.answered()
    assert scene.outcomes() == ["answered"]


def test_a_message_without_an_answer_creates_an_item_and_no_turn() -> None:
    scene = ProgramStage().ready()
    commands = scene.do(message(wants_answer=False))
    assert scene.sent_types(commands) == ["conversation.item.create"]
    assert scene.state == "ready"
    assert scene.notices(TurnStart) == []


def test_a_message_without_an_answer_does_not_interrupt_the_running_answer() -> None:
    scene = ProgramStage().ready()
    scene.answering()
    commands = scene.do(message(wants_answer=False))
    assert scene.sent_types(commands) == ["conversation.item.create"]
    assert scene.flushes() == []
    assert scene.state == "speaking"


def test_a_message_that_wants_an_answer_barges_in() -> None:
    scene = ProgramStage().ready()
    scene.answering()
    commands = scene.do(message())
    assert scene.sent_types(commands) == [
        "conversation.item.truncate",
        "response.cancel",
        "conversation.item.create",
    ], "the new response waits until the cancelled one is done"
    assert scene.sent_types(scene.done("resp_1", status="cancelled")) == ["response.create"]


def test_a_message_during_a_spoken_turn_is_answered_with_it() -> None:
    scene = ProgramStage().ready()
    scene.press()
    scene.hear(300)
    commands = scene.do(message(image=PIXEL))
    assert scene.sent_types(commands) == ["conversation.item.create"]
    assert scene.state == "listening"
    scene.release()
    scene.hear(260)
    assert len(scene.requests()) == 1
    assert [one.turn for one in scene.notices(TurnStart)] == ["turn_1"]


def test_of_two_successive_messages_both_are_sent_and_the_second_is_answered() -> None:
    scene = ProgramStage().ready()
    scene.do(message("Hi!", "note_1"))
    scene.do(message("And the weather?", "note_2"))
    scene.created("resp_1", turn="turn_1")
    scene.done("resp_1", turn="turn_1", status="cancelled")
    assert scene.given() == ["note_1", "note_2"]
    assert [one["response"]["metadata"]["turn"] for one in scene.requests()] == ["turn_1", "turn_2"]


@pytest.mark.parametrize("wants_answer", [True, False])
def test_a_message_given_offline_is_sent_once_when_the_link_is_ready(wants_answer: bool) -> None:
    scene = ProgramStage().ready()
    scene.lose()
    scene.do(message(wants_answer=wants_answer))
    assert scene.sent() == []
    scene.advance(5)
    scene.link_ready()
    assert scene.given() == ["note_1"]
    assert len(scene.requests()) == wants_answer
    assert scene.known() == ["note_1"]


def test_a_message_given_offline_is_sent_after_the_history() -> None:
    scene = ProgramStage(history=[HistoryItem(id="item_old", role="user", text="Good morning.")]).ready()
    scene.lose()
    scene.do(message())
    scene.advance(5)
    scene.link_ready()
    assert scene.given() == ["item_old", "note_1"]
    assert scene.sent_types()[-1] == "response.create"


def test_of_two_messages_given_offline_both_are_sent_and_one_answer_is_requested() -> None:
    scene = ProgramStage().ready()
    scene.lose()
    scene.do(message("Hi!", "note_1"))
    scene.do(message("And the weather?", "note_2"))
    scene.advance(5)
    scene.link_ready()
    assert scene.given() == ["note_1", "note_2"]
    assert len(scene.requests()) == 1


def test_a_message_waits_until_the_session_is_created() -> None:
    scene = ProgramStage().start()
    scene.do(message())
    assert scene.sent() == []
    scene.link_ready()
    assert scene.sent_types() == ["session.update", "conversation.item.create", "response.create"]


def test_a_message_that_finds_no_link_fails_and_is_reported() -> None:
    scene = ProgramStage(link_wait_s=30.0).ready()
    scene.lose()
    scene.do(message())
    scene.advance(30.1)
    assert scene.outcomes() == ["failed"]
    assert "no_link" in scene.troubles()


@pytest.mark.parametrize("moment", ["asked", "created"])
def test_a_message_whose_answer_has_not_started_is_sent_again_on_the_next_link(moment: str) -> None:
    scene = ProgramStage().ready()
    scene.do(message())
    if moment == "created":
        scene.created()
    commands = scene.relink()
    assert scene.sent_types(commands) == ["session.update", "conversation.item.create", "response.create"]
    assert scene.given(commands) == ["note_1"]
    scene.answered("resp_2")
    assert scene.outcomes() == ["answered"]


def test_a_message_whose_answer_has_started_is_not_answered_twice() -> None:
    scene = ProgramStage().ready()
    scene.do(message())
    scene.created()
    scene.audio(ms=200)
    commands = scene.relink()
    assert scene.requests(commands) == []
    assert scene.given(commands)[:1] == ["note_1"], "the message is replayed as history"


def test_a_refused_message_fails_its_turn_and_leaves_the_history() -> None:
    scene = ProgramStage().ready()
    scene.do(message())
    scene.error("invalid_value", event_id="item_note_1", message="Invalid image.")
    assert scene.outcomes() == ["failed"]
    assert scene.known() == []
    assert "item_refused" in scene.troubles()


# --- images -----------------------------------------------------------------------------------------------------------


def test_an_image_is_sent_unchanged_and_kept_in_the_history() -> None:
    scene = ProgramStage().ready()
    scene.do(message("What is this?", image=PIXEL))
    (create,) = [one for one in scene.sent() if one["type"] == "conversation.item.create"]
    assert create["item"]["content"] == [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": PIXEL},
    ]
    (item,) = scene.conversation.history
    assert (item.text, item.images) == ("What is this?", (PIXEL,))


def test_an_image_without_text_is_replayed_on_the_next_link() -> None:
    scene = ProgramStage().ready()
    scene.do(message("", image=PIXEL, wants_answer=False))
    (create,) = [one for one in scene.sent(scene.relink()) if one["type"] == "conversation.item.create"]
    assert create["item"]["content"] == [{"type": "input_image", "image_url": PIXEL}]


# --- transcripts of the user ------------------------------------------------------------------------------------------


def test_transcript_deltas_of_the_user_are_emitted_as_they_arrive() -> None:
    scene = ProgramStage().ready()
    scene.say()
    scene.committed()
    for piece in ("What ", "time?"):
        scene.server(
            {
                "type": "conversation.item.input_audio_transcription.delta",
                "item_id": "item_user",
                "content_index": 0,
                "delta": piece,
            }
        )
    assert scene.notices(InputText) == [
        InputText("What ", is_final=False, item_id="item_user"),
        InputText("time?", is_final=False, item_id="item_user"),
    ]


# --- raw frames -------------------------------------------------------------------------------------------------------


def test_a_raw_frame_is_sent_unchanged() -> None:
    scene = ProgramStage().ready()
    frame = {"type": "conversation.item.retrieve", "event_id": "mine", "item_id": "item_7"}
    assert scene.sent(scene.do(FrameGiven(frame))) == [frame]


def test_a_raw_response_create_becomes_a_request_with_its_options() -> None:
    scene = ProgramStage().ready()
    response = {"instructions": "In French.", "metadata": {"mine": "1"}}
    (ask,) = scene.sent(scene.do(FrameGiven({"type": "response.create", "response": response})))
    assert ask["response"] == {"instructions": "In French.", "metadata": {"mine": "1", "turn": "turn_1"}}
    scene.answered()
    assert scene.outcomes() == ["answered"]


def test_a_raw_response_create_waits_for_the_slot() -> None:
    scene = ProgramStage().ready()
    scene.answering()
    commands = scene.do(FrameGiven({"type": "response.create"}))
    assert scene.sent_types(commands) == ["conversation.item.truncate", "response.cancel"]
    assert scene.sent_types(scene.done("resp_1", status="cancelled")) == ["response.create"]


def test_a_raw_response_create_during_speech_applies_to_the_spoken_turn() -> None:
    scene = ProgramStage().ready()
    scene.press()
    scene.hear(500, sample=3210)
    scene.do(FrameGiven({"type": "response.create", "response": {"instructions": "In French."}}))
    assert scene.state == "listening"
    scene.release()
    scene.hear(260)
    assert scene.sent_types().count("input_audio_buffer.commit") == 1
    assert [one["response"]["instructions"] for one in scene.requests()] == ["In French."], "one answer for both"


def test_a_raw_response_create_behind_a_commit_is_the_answer_already_requested() -> None:
    scene = ProgramStage().ready()
    scene.do(BeginAsked())
    scene.hear(200)
    scene.do(CommitAsked())
    assert scene.do(FrameGiven({"type": "response.create"})) == [], "requested, not confirmed"
    scene.committed()
    scene.created()
    assert scene.do(FrameGiven({"type": "response.create", "response": {}})) == [], "created"
    scene.answered()
    assert scene.outcomes() == ["answered"]
    assert len(scene.requests()) == 1


def test_a_raw_response_create_with_options_behind_a_commit_replaces_the_request() -> None:
    scene = ProgramStage().ready()
    scene.do(BeginAsked())
    scene.hear(200)
    scene.do(CommitAsked())
    scene.do(FrameGiven({"type": "response.create", "response": {"instructions": "In French."}}))
    assert scene.sent_types(scene.created()) == ["response.cancel"]
    scene.done("resp_1", status="cancelled")
    assert [one["response"].get("instructions") for one in scene.requests()] == [None, "In French."]
    scene.answered("resp_2")
    assert scene.outcomes() == ["answered"], "one turn, and one answer with these options"


def test_an_error_about_a_request_that_was_replaced_does_not_end_the_turn() -> None:
    scene = ProgramStage().ready()
    scene.do(BeginAsked())
    scene.hear(200)
    scene.do(CommitAsked())
    event_id = scene.sent()[-1]["event_id"]
    scene.committed()
    scene.do(FrameGiven({"type": "response.create", "response": {"instructions": "In French."}}))
    scene.error("server_error", event_id=event_id, message="overloaded")
    assert [one["response"].get("instructions") for one in scene.requests()] == [None, "In French."]
    scene.answered("resp_2")
    assert scene.outcomes() == ["answered"]


def test_a_raw_clear_discards_the_audio_of_the_open_turn_so_far() -> None:
    scene = ProgramStage(pre_roll_ms=0).ready()
    clear = {"type": "input_audio_buffer.clear", "event_id": "mine"}
    scene.do(BeginAsked())
    scene.hear(200, sample=1111)
    assert scene.sent(scene.do(FrameGiven(clear))) == [clear]
    assert scene.state == "listening"
    scene.hear(200, sample=2222)
    scene.do(CommitAsked())
    scene.committed()
    scene.lose()
    scene.advance(1.0)
    scene.commands.clear()
    scene.link_ready()
    assert scene.sent_audio() == period(2222, frames=4800), "the next connection gets no more than that"


def test_a_turn_that_is_committed_behind_a_raw_clear_is_too_short() -> None:
    scene = ProgramStage(pre_roll_ms=0).ready()
    scene.do(BeginAsked())
    scene.hear(200)
    scene.do(FrameGiven({"type": "input_audio_buffer.clear"}))
    scene.hear(40)
    scene.do(CommitAsked())
    assert scene.outcomes() == ["too_short"]


def test_a_raw_clear_without_a_connection_discards_the_audio_and_is_no_error() -> None:
    scene = ProgramStage(pre_roll_ms=0)
    scene.start()
    scene.do(BeginAsked())
    scene.hear(200, sample=1111)
    scene.do(FrameGiven({"type": "input_audio_buffer.clear"}))
    scene.hear(200, sample=2222)
    scene.do(CommitAsked())
    scene.link_ready()
    assert (scene.sent_audio(), scene.troubles()) == (period(2222, frames=4800), [])


def test_a_raw_out_of_band_response_takes_no_slot_and_starts_no_turn() -> None:
    scene = ProgramStage().ready()
    scene.answering()
    frame = {"type": "response.create", "response": {"conversation": "none", "metadata": {"mine": "1"}}}
    assert scene.sent(scene.do(FrameGiven(frame))) == [frame]
    assert scene.state == "speaking"
    created = {"id": "resp_mine", "status": "in_progress", "output": [], "metadata": {"mine": "1"}}
    assert scene.sent(scene.server({"type": "response.created", "response": created})) == []
    scene.audio("resp_mine", "item_mine")
    assert scene.plays() == []
    assert scene.flushes() == []


def test_a_raw_session_update_gets_an_event_id_that_identifies_its_refusal() -> None:
    scene = ProgramStage().ready()
    frame = {"type": "session.update", "session": {"type": "realtime", "tool_choice": "none"}}
    (sent,) = scene.sent(scene.do(FrameGiven(frame)))
    assert {key: sent[key] for key in frame} == frame
    scene.error("invalid_value", event_id=sent["event_id"], message="No.")
    assert scene.troubles() == ["server_error"]
    assert scene.state == "ready", "the previous session settings stay in force"


def test_a_raw_session_update_keeps_its_own_event_id() -> None:
    scene = ProgramStage().ready()
    frame = {"type": "session.update", "event_id": "mine", "session": {"type": "realtime"}}
    assert scene.sent(scene.do(FrameGiven(frame))) == [frame]


def test_a_raw_frame_without_a_link_is_reported_and_dropped() -> None:
    scene = ProgramStage().ready()
    scene.lose()
    scene.do(FrameGiven({"type": "response.cancel"}))
    assert "not_connected" in scene.troubles()
    scene.advance(5)
    scene.link_ready()
    assert "response.cancel" not in scene.sent_types()
