"""Tests of the conversation core: program turns, messages, questions, raw frames, server VAD, interruption, responses.

Literal frames in, commands out, time as a variable. Button turns are in `test_machine`.
"""

from __future__ import annotations

import base64
from typing import Any

import pytest

from appliance.agents.spec import AgentSpec
from appliance.conversation.commands import CheckText, Command
from appliance.conversation.events import (
    AbortAsked,
    BeginAsked,
    CommitAsked,
    FrameGiven,
    GuardrailsChecked,
    InterruptAsked,
    MessageGiven,
    OutOfBandAsked,
    OutputCheck,
    PlayoutProgress,
    ShutdownRequested,
)
from appliance.conversation.notices import AnswerText, AudioInterrupted, Error, InputText, OutOfBandEnded, TurnStart
from appliance.realtime.items import HistoryItem
from tests.support.stage import SESSION, period
from tests.support.stages.program import ProgramStage

PIXEL = "data:image/png;base64,iVBORw0KGgo="


def message(
    text: str = "What time is it?", item_id: str = "note_1", *, wants_answer: bool = True, image: str = ""
) -> MessageGiven:
    """Return a text message, with or without an image, that wants an answer or not."""
    content: list[dict[str, Any]] = [{"type": "input_text", "text": text}] if text else []
    content += [{"type": "input_image", "image_url": image}] if image else []
    item = {"id": item_id, "type": "message", "role": "user", "content": content}
    return MessageGiven(item, text, wants_answer=wants_answer)


def aside(key: str = "k1", *, timeout_s: float = 30.0, **response: Any) -> OutOfBandAsked:
    return OutOfBandAsked(key, {"output_modalities": ["text"], **response}, timeout_s)


def of_part(part: int, *, ms: int) -> dict[str, Any]:
    """Return an audio delta of one content part of an item."""
    return {
        "type": "response.output_audio.delta",
        "response_id": "resp_1",
        "item_id": "item_a",
        "output_index": 0,
        "content_index": part,
        "delta": base64.b64encode(period(frames=24 * ms)).decode(),
    }


TRUNCATION = {
    "type": "conversation.item.truncate",
    "event_id": "truncate_item_a",
    "item_id": "item_a",
    "content_index": 0,
    "audio_end_ms": 100,
}


def listening_server(**detection: Any) -> AgentSpec:
    """Return an agent whose session uses server turn detection."""
    turn_detection = {"type": "server_vad"} | detection
    return AgentSpec(agent="ada", session={"type": "realtime", "audio": {"input": {"turn_detection": turn_detection}}})


# --- turns of the program ----------------------------------------------------------------------------------------


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


# --- messages ----------------------------------------------------------------------------------------------------


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


# --- images ------------------------------------------------------------------------------------------------------


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


# --- transcripts of the user -------------------------------------------------------------------------------------


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


# --- out-of-band questions ---------------------------------------------------------------------------------------


def test_a_question_is_sent_out_of_band_with_its_key() -> None:
    scene = ProgramStage().ready()
    commands = scene.do(aside("k1", instructions="Sum it up.", metadata={"topic": "summary"}))
    assert scene.sent(commands) == [
        {
            "type": "response.create",
            "event_id": "aside_k1",
            "response": {
                "output_modalities": ["text"],
                "instructions": "Sum it up.",
                "conversation": "none",
                "metadata": {"topic": "summary", "aside": "k1"},
            },
        }
    ]
    assert scene.state == "ready", "a question starts no turn"


def test_the_answer_to_a_question_is_emitted_once_with_its_items() -> None:
    scene = ProgramStage().ready()
    scene.do(aside())
    scene.aside_created()
    scene.aside_done("Rain.")
    scene.aside_done("Rain.")
    (ended,) = scene.asides()
    assert (ended.key, [one.text for one in ended.items], ended.problem) == ("k1", ["Rain."], "")
    scene.advance(60)
    scene.lose()
    assert len(scene.asides()) == 1


def test_a_question_does_not_disturb_a_running_answer() -> None:
    scene = ProgramStage().ready()
    scene.answering()
    assert scene.sent_types(scene.do(aside())) == ["response.create"], "a question does not wait for the slot"
    scene.aside_created()
    scene.aside_done()
    scene.audio(ms=100)
    assert [one.item_id for one in scene.plays()] == ["item_a"]
    scene.done()
    scene.play(24 * 2100, drained=True)
    assert scene.outcomes() == ["answered"]
    assert scene.flushes() == []


def test_an_answer_can_be_requested_while_a_question_is_open() -> None:
    scene = ProgramStage().ready()
    scene.do(aside())
    scene.aside_created()
    scene.do(message())
    assert len(scene.requests()) == 2
    scene.answered()
    assert scene.outcomes() == ["answered"]
    assert scene.asides() == []


def test_a_barge_in_does_not_cancel_a_question() -> None:
    scene = ProgramStage().ready()
    scene.answering()
    scene.do(aside())
    scene.aside_created()
    commands = scene.press()
    assert [one["response_id"] for one in scene.sent(commands) if one["type"] == "response.cancel"] == ["resp_1"]
    scene.aside_done("Rain.")
    assert [one.problem for one in scene.asides()] == [""]


def test_the_answer_to_a_question_is_not_played_not_emitted_as_the_answer_and_not_in_the_history() -> None:
    scene = ProgramStage().ready()
    scene.say()
    scene.committed()
    scene.created()
    before = scene.known()
    scene.do(aside())
    scene.aside_created()
    scene.item_added("item_k", "resp_k")
    scene.audio("resp_k", "item_k", ms=200)
    scene.wrote("Rain.", response_id="resp_k", item_id="item_k")
    scene.wrote("Rain.", is_final=True, response_id="resp_k", item_id="item_k")
    scene.item_done("Rain.", "item_k", "resp_k", status="completed")
    scene.aside_done("Rain.")
    assert scene.plays() == []
    assert scene.notices(AnswerText) == []
    assert scene.known() == before
    assert scene.state == "thinking"


def test_late_audio_of_an_ended_question_is_ignored() -> None:
    scene = ProgramStage().ready()
    scene.do(aside())
    scene.aside_created()
    scene.aside_done()
    scene.do(message())
    scene.audio("resp_k", "item_k", ms=200)
    assert scene.plays() == []
    scene.answered()
    assert scene.outcomes() == ["answered"]


def test_two_open_questions_are_told_apart() -> None:
    scene = ProgramStage().ready()
    scene.do(aside("k1"))
    scene.do(aside("k2"))
    scene.aside_created("k1", "resp_k1")
    scene.aside_created("k2", "resp_k2")
    scene.aside_done("Two.", "k2", "resp_k2")
    scene.aside_done("One.", "k1", "resp_k1")
    assert [(one.key, one.items[0].text) for one in scene.asides()] == [("k2", "Two."), ("k1", "One.")]


def test_a_refused_question_ends_with_the_server_message_and_does_not_affect_the_turn() -> None:
    scene = ProgramStage().ready()
    scene.do(message())
    scene.do(aside())
    scene.error("invalid_value", event_id="aside_k1", message="Unknown modality.")
    assert scene.asides() == [OutOfBandEnded("k1", (), "Unknown modality.")]
    assert scene.troubles() == []
    scene.answered()
    assert scene.outcomes() == ["answered"]


def test_a_question_whose_response_failed_names_the_reason() -> None:
    scene = ProgramStage().ready()
    scene.do(aside())
    scene.aside_created()
    details = {"type": "failed", "error": {"type": "server_error", "code": "oops", "message": "Out of order."}}
    scene.aside_done("", status="failed", status_details=details)
    assert [(one.items, one.problem) for one in scene.asides()] == [((), "Out of order.")]


def test_an_unanswered_question_is_cancelled_by_its_response_id_at_its_deadline() -> None:
    scene = ProgramStage().ready()
    scene.do(aside(timeout_s=8.0))
    assert scene.conversation.deadline == scene.now + 8.0
    scene.aside_created()
    commands = scene.advance(8.0)
    assert scene.sent(commands) == [{"type": "response.cancel", "response_id": "resp_k"}]
    assert scene.asides() == [OutOfBandEnded("k1", (), "no answer within 8 s")]
    scene.aside_done()
    assert len(scene.asides()) == 1, "the late answer is not emitted"


def test_the_deadline_of_a_question_does_not_cancel_the_running_answer() -> None:
    scene = ProgramStage().ready()
    scene.do(aside(timeout_s=8.0))
    scene.do(message())
    scene.created()
    commands = scene.advance(8.0)
    assert scene.sent(commands) == [], "the question has no response id yet; the running response is another"
    scene.answered()
    assert scene.outcomes() == ["answered"]


def test_a_question_that_timed_out_before_response_created_is_cancelled_on_arrival() -> None:
    scene = ProgramStage().ready()
    scene.do(aside(timeout_s=8.0))
    scene.advance(8.0)
    assert scene.sent(scene.aside_created()) == [{"type": "response.cancel", "response_id": "resp_k"}]


def test_a_question_ends_with_its_link_and_is_not_asked_again() -> None:
    scene = ProgramStage().ready()
    scene.do(aside())
    scene.aside_created()
    commands = scene.relink()
    assert scene.requests(commands) == []
    assert scene.asides() == [OutOfBandEnded("k1", (), "the connection to the model was lost")]


def test_a_question_without_a_link_ends_at_once() -> None:
    scene = ProgramStage().ready()
    scene.lose()
    commands = scene.do(aside())
    assert scene.sent(commands) == []
    assert scene.asides() == [OutOfBandEnded("k1", (), "there is no connection to the model")]


def test_an_open_question_ends_at_shutdown() -> None:
    scene = ProgramStage().ready()
    scene.do(aside())
    scene.do(ShutdownRequested("bye"))
    assert [one.key for one in scene.asides()] == ["k1"]


# --- raw frames --------------------------------------------------------------------------------------------------


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


# --- server turn detection ---------------------------------------------------------------------------------------


def test_with_server_vad_all_audio_is_sent_without_a_turn() -> None:
    scene = ProgramStage(specs=[listening_server()]).ready()
    commands = scene.hear(200, sample=1234)
    assert scene.sent_audio(commands) == period(1234, frames=24 * 200)
    assert scene.state == "ready"


def test_with_server_vad_speech_starts_a_turn_that_the_commit_ends() -> None:
    scene = ProgramStage(specs=[listening_server()]).ready()
    scene.hear(100)
    scene.speech_started()
    assert scene.state == "listening"
    scene.hear(400)
    scene.speech_stopped()
    assert scene.state == "listening"
    scene.committed()
    assert scene.state == "thinking"
    assert [one.turn for one in scene.notices(TurnStart)] == ["turn_1"]


def test_with_server_vad_audio_is_sent_once_and_never_cleared_or_committed_by_the_client() -> None:
    scene = ProgramStage(specs=[listening_server()]).ready()
    for sample, speak in ((1, lambda: None), (2, scene.speech_started), (3, scene.speech_stopped)):
        scene.hear(100, sample=sample)
        speak()
    scene.committed()
    assert scene.sent_audio() == b"".join(period(sample, frames=2400) for sample in (1, 2, 3))
    assert scene.sent_types() == ["input_audio_buffer.append"]


def test_with_server_vad_the_servers_own_response_is_played() -> None:
    scene = ProgramStage(specs=[listening_server()]).ready()
    scene.spoke_to_server()
    scene.answered(turn=None)
    assert [one.item_id for one in scene.plays()] == ["item_a"]
    assert scene.requests() == []
    assert scene.outcomes() == ["answered"]


def test_without_create_response_one_response_is_requested() -> None:
    scene = ProgramStage(specs=[listening_server(create_response=False)]).ready()
    scene.spoke_to_server()
    assert [one["response"] for one in scene.requests()] == [{"metadata": {"turn": "turn_1"}}]
    scene.answered()
    assert scene.outcomes() == ["answered"]


def test_speech_during_an_answer_stops_it_without_a_cancel_if_the_server_interrupts() -> None:
    scene = ProgramStage(specs=[listening_server(interrupt_response=True)]).ready()
    scene.spoke_to_server()
    scene.created(turn=None)
    scene.audio(ms=2000)
    scene.play(2400)
    commands = scene.speech_started("item_2")
    assert [one for one in scene.sent(commands) if one["type"] != "input_audio_buffer.append"] == [TRUNCATION]
    assert len(scene.flushes()) >= 1
    assert scene.notices(AudioInterrupted) == [AudioInterrupted("item_a", 100)]
    assert scene.state == "listening"


def test_without_interrupt_response_speech_during_an_answer_sends_a_cancel() -> None:
    scene = ProgramStage(specs=[listening_server(interrupt_response=False)]).ready()
    scene.spoke_to_server()
    scene.created(turn=None)
    scene.audio(ms=2000)
    scene.play(2400)
    commands = scene.speech_started("item_2")
    assert scene.sent_types(commands) == ["conversation.item.truncate", "response.cancel"]


def test_with_server_vad_the_answer_after_an_interrupted_one_is_played() -> None:
    scene = ProgramStage(specs=[listening_server()]).ready()
    scene.spoke_to_server()
    scene.created(turn=None)
    scene.audio(ms=2000)
    scene.play(2400)
    scene.spoke_to_server("item_2")
    scene.audio("resp_1", "item_a", ms=200)
    scene.done("resp_1", turn=None, status="cancelled", status_details={"type": "cancelled", "reason": "turn_detected"})
    scene.played_frames = 0
    scene.created("resp_2", turn=None)
    scene.audio("resp_2", "item_b", ms=100)
    assert [one.item_id for one in scene.plays()] == ["item_a", "item_b"], "no late audio of the first"
    scene.done("resp_2", turn=None)
    scene.play(2400, drained=True)
    assert scene.outcomes() == ["interrupted", "answered"]


def test_a_response_the_server_cancels_before_any_audio_counts_as_interrupted() -> None:
    scene = ProgramStage(specs=[listening_server()]).ready()
    scene.spoke_to_server()
    scene.created(turn=None)
    scene.done(turn=None, status="cancelled", status_details={"type": "cancelled", "reason": "turn_detected"})
    assert scene.outcomes() == ["interrupted"]
    assert scene.troubles() == []


def test_with_server_vad_a_press_stops_the_answer_and_starts_no_turn() -> None:
    scene = ProgramStage(specs=[listening_server()]).ready()
    scene.spoke_to_server()
    scene.created(turn=None)
    scene.audio(ms=2000)
    scene.play(2400)
    commands = scene.press()
    assert scene.sent_types(commands) == ["conversation.item.truncate", "response.cancel"]
    assert scene.state == "ready"


def test_with_server_vad_an_idle_timeout_prompt_is_played() -> None:
    scene = ProgramStage(specs=[listening_server(idle_timeout_ms=6000)]).ready()
    scene.hear(100)
    scene.server(
        {
            "type": "input_audio_buffer.timeout_triggered",
            "item_id": "item_idle",
            "audio_start_ms": 0,
            "audio_end_ms": 6000,
        }
    )
    scene.committed("item_idle")
    scene.answered(turn=None)
    assert [one.item_id for one in scene.plays()] == ["item_a"]
    assert scene.outcomes() == ["answered"]


def test_without_server_vad_speech_started_is_ignored() -> None:
    scene = ProgramStage().ready()
    scene.answering()
    assert scene.speech_started() == []
    assert scene.state == "speaking"


def test_with_server_vad_a_link_lost_in_mid_sentence_gets_the_sentence_again() -> None:
    scene = ProgramStage(specs=[listening_server()], pre_roll_ms=100).ready()
    scene.hear(100, sample=1)
    scene.speech_started()
    scene.hear(100, sample=2)
    scene.lose()
    scene.hear(100, sample=3)
    scene.advance(5)
    before = len(scene.commands)
    scene.link_ready()
    again = scene.commands[before:]
    assert scene.sent_types(again) == ["session.update", "input_audio_buffer.clear", "input_audio_buffer.append"]
    assert scene.sent_audio(again) == b"".join(period(sample, frames=2400) for sample in (1, 2, 3))
    scene.speech_started("item_again")
    scene.committed("item_again")
    scene.answered(turn=None)
    assert scene.outcomes() == ["answered"]
    assert [one.turn for one in scene.notices(TurnStart)] == ["turn_1"]


def test_with_server_vad_a_link_lost_before_the_answer_gets_the_turn_again() -> None:
    scene = ProgramStage(specs=[listening_server()], pre_roll_ms=0).ready()
    scene.speech_started()
    scene.hear(200, sample=5)
    scene.committed()
    scene.created(turn=None)
    again = scene.relink()
    assert scene.sent_audio(again) == period(5, frames=4800)
    assert scene.known() == [], "the replayed turn gets a new item"


def test_with_server_vad_a_turn_the_server_never_ends_fails_and_is_reported() -> None:
    scene = ProgramStage(specs=[listening_server()], max_turn_s=10.0).ready()
    scene.speech_started()
    scene.hear(200)
    scene.advance(10.0)
    assert (scene.outcomes(), scene.troubles(), len(scene.announced())) == (["failed"], ["no_answer"], 1)


def test_with_server_vad_a_response_that_is_created_before_the_commit_is_played() -> None:
    scene = ProgramStage(specs=[listening_server()]).ready()
    scene.speech_started()
    scene.hear(400)
    scene.speech_stopped()
    scene.created(turn=None)
    scene.committed()
    scene.audio(ms=100)
    scene.done(turn=None)
    scene.play(2400, drained=True)
    assert (len(scene.plays()), scene.requests(), scene.outcomes()) == (1, [], ["answered"])


def test_with_server_vad_a_late_response_of_the_turn_before_is_not_taken_for_the_answer() -> None:
    scene = ProgramStage(specs=[listening_server(interrupt_response=False)], cancel_s=3.0).ready()
    scene.spoke_to_server()
    scene.speech_started("item_2")
    scene.advance(3.1)
    assert scene.sent(scene.created(turn=None)) == [{"type": "response.cancel", "response_id": "resp_1"}]
    assert scene.state == "listening"


# --- interruption: one path --------------------------------------------------------------------------------------

CUT = [
    TRUNCATION,
    {"type": "response.cancel", "response_id": "resp_1"},
]
GUARDED = AgentSpec(agent="ada", session=SESSION, has_output_guardrails=True)
WAYS = ["button", "program", "interrupt", "message", "frame", "ear", "tripwire"]


def interrupted(way: str, *, is_done: bool = False) -> tuple[ProgramStage, list[Command]]:
    """Interrupt an answer of 2 s after 100 ms were heard; return the scene and the resulting commands."""
    spec = listening_server(interrupt_response=False) if way == "ear" else GUARDED
    scene = ProgramStage(specs=[spec], pre_roll_ms=0).ready()
    if way == "ear":
        scene.spoke_to_server()
    else:
        scene.say()
        scene.committed()
    scene.created(turn=None)
    scene.audio(ms=2000)
    scene.play(2400)
    scene.wrote("My password is swordfish.", is_final=True)
    if is_done:
        scene.done(turn=None)
    scene.commands.clear()
    return scene, _interrupt(scene, way)


def _interrupt(scene: ProgramStage, way: str) -> list[Command]:
    match way:
        case "button":
            return scene.press()
        case "program":
            return scene.do(BeginAsked())
        case "interrupt":
            return scene.do(InterruptAsked())
        case "message":
            return scene.do(message("Stop!"))
        case "frame":
            return scene.do(FrameGiven({"type": "response.create"}))
        case "ear":
            return scene.speech_started("item_2")
        case _:
            return scene.do(GuardrailsChecked(OutputCheck(1), "no_secrets", "a password"))


@pytest.mark.parametrize("way", WAYS)
def test_every_kind_of_interruption_flushes_first_and_sends_the_same_frames(way: str) -> None:
    scene, commands = interrupted(way)
    assert scene.sent(commands)[:2] == CUT
    kinds = [type(one).__name__ for one in commands]
    assert kinds.index("FlushPlayback") < kinds.index("Send")
    assert scene.notices(AudioInterrupted) == [AudioInterrupted("item_a", 100)]
    assert len(scene.flushes()) == 1


@pytest.mark.parametrize("way", WAYS)
def test_after_any_interruption_late_parts_of_the_answer_are_not_played_emitted_or_run(way: str) -> None:
    scene, _ = interrupted(way)
    scene.audio(ms=200)
    scene.wrote(" And there is more.")
    scene.wrote("All of it.", is_final=True)
    scene.called("open_door", "call_1")
    assert scene.plays() == []
    assert scene.notices(AnswerText) == []
    assert scene.tool_runs() == []
    assert [one for one in scene.commands if isinstance(one, CheckText)] == []


@pytest.mark.parametrize("way", WAYS)
def test_a_complete_answer_that_still_plays_is_cut_without_a_cancel(way: str) -> None:
    scene, commands = interrupted(way, is_done=True)
    assert scene.sent(commands)[0] == CUT[0]
    assert "response.cancel" not in scene.sent_types(commands)
    assert scene.notices(AudioInterrupted) == [AudioInterrupted("item_a", 100)]


@pytest.mark.parametrize("way", ["button", "program", "interrupt", "message", "frame"])
def test_an_interruption_before_the_response_is_created_cancels_it_on_arrival(way: str) -> None:
    scene = ProgramStage(pre_roll_ms=0).ready()
    scene.say()
    scene.committed()
    assert "response.cancel" not in scene.sent_types(_interrupt(scene, way)), "there is no response to cancel yet"
    assert scene.sent(scene.created()) == [{"type": "response.cancel", "response_id": "resp_1"}]
    scene.audio()
    assert scene.plays() == []


def test_with_server_vad_speech_before_response_created_cancels_that_response() -> None:
    scene = ProgramStage(specs=[listening_server(interrupt_response=False)]).ready()
    scene.spoke_to_server()
    scene.speech_started("item_2")
    assert scene.sent(scene.created(turn=None)) == [{"type": "response.cancel", "response_id": "resp_1"}]
    scene.audio()
    assert scene.plays() == []


def test_an_interruption_while_the_user_speaks_leaves_the_turn_alone() -> None:
    scene = ProgramStage().ready()
    scene.press()
    scene.hear(300)
    assert scene.do(InterruptAsked()) == []
    assert scene.state == "listening"


def test_a_repeated_interruption_is_reported_once() -> None:
    scene = ProgramStage().ready()
    scene.answering()
    scene.do(InterruptAsked())
    commands = scene.do(InterruptAsked())
    assert scene.sent(commands) == []
    assert len(scene.notices(AudioInterrupted)) == 1
    assert scene.outcomes() == ["interrupted"]


def test_after_an_interruption_the_next_turn_is_answered() -> None:
    scene = ProgramStage().ready()
    scene.answering()
    scene.do(InterruptAsked())
    scene.done("resp_1", status="cancelled")
    scene.played_frames = 0
    scene.say()
    scene.committed("item_2")
    scene.answered("resp_2", "turn_2", "item_b")
    assert scene.outcomes() == ["interrupted", "answered"]


# --- interruption: what is truncated -----------------------------------------------------------------------------


@pytest.mark.parametrize(("frames", "heard_ms"), [(0, 0), (23, 0), (24, 1), (2423, 100), (4799, 199)])
def test_a_truncation_is_in_whole_heard_milliseconds(frames: int, heard_ms: int) -> None:
    scene = ProgramStage().ready()
    scene.say()
    scene.committed()
    scene.created()
    scene.audio(ms=200)
    scene.play(frames)
    (truncate, _) = scene.sent(scene.do(InterruptAsked()))
    assert (truncate["audio_end_ms"], type(truncate["audio_end_ms"])) == (heard_ms, int)


def test_a_playback_report_beyond_the_queued_audio_is_clamped() -> None:
    scene = ProgramStage().ready()
    scene.say()
    scene.committed()
    scene.created()
    scene.audio(ms=200)
    scene.play(24 * 5000)
    scene.audio(ms=300)
    (truncate, _) = scene.sent(scene.do(InterruptAsked()))
    assert truncate["audio_end_ms"] == 200


def test_each_queued_item_is_truncated_once_and_no_other() -> None:
    scene = ProgramStage().ready()
    scene.say()
    scene.committed()
    scene.created()
    for item_id in ("item_a", "item_a", "item_b", "item_b", "item_c"):
        scene.audio(item_id=item_id, ms=100)
    scene.play(24 * 250)
    cuts = [one for one in scene.sent(scene.do(InterruptAsked())) if one["type"] == "conversation.item.truncate"]
    assert [(one["item_id"], one["audio_end_ms"]) for one in cuts] == [("item_b", 50), ("item_c", 0)]


def test_each_content_part_of_an_item_is_truncated_at_what_was_heard() -> None:
    scene = ProgramStage().ready()
    scene.say()
    scene.committed()
    scene.created()
    scene.audio(ms=100)
    scene.server(of_part(1, ms=100))
    scene.play(24 * 130)
    cuts = [one for one in scene.sent(scene.do(InterruptAsked())) if one["type"] == "conversation.item.truncate"]
    assert [(one["content_index"], one["audio_end_ms"]) for one in cuts] == [(1, 30)]


def test_a_fully_heard_answer_is_not_truncated_or_reported_as_interrupted() -> None:
    scene = ProgramStage().ready()
    scene.say()
    scene.committed()
    scene.created()
    scene.audio(ms=200)
    scene.play(4800, drained=True)
    commands = scene.do(InterruptAsked())
    assert scene.sent(commands) == [{"type": "response.cancel", "response_id": "resp_1"}]
    assert scene.notices(AudioInterrupted) == []


def test_an_interruption_while_thinking_emits_no_audio_interrupted() -> None:
    scene = ProgramStage().ready()
    scene.say()
    scene.committed()
    scene.created()
    commands = scene.do(InterruptAsked())
    assert scene.sent(commands) == [{"type": "response.cancel", "response_id": "resp_1"}]
    assert scene.notices(AudioInterrupted) == []
    assert scene.outcomes() == ["interrupted"]


def test_a_playback_report_of_the_old_answer_does_not_count_for_the_new_one() -> None:
    scene = ProgramStage().ready()
    scene.answering()
    old = scene.conversation.epoch
    scene.do(message())
    scene.done("resp_1", status="cancelled")
    scene.created("resp_2", "turn_2")
    scene.audio("resp_2", "item_b", ms=500)
    scene.do(PlayoutProgress(old, 24 * 400, False))
    (truncate, _) = scene.sent(scene.do(InterruptAsked()))
    assert (truncate["item_id"], truncate["audio_end_ms"]) == ("item_b", 0)


# --- interruption: unheard answers -------------------------------------------------------------------------------


def test_an_answer_arriving_after_the_interruption_is_deleted() -> None:
    scene = ProgramStage().ready()
    scene.say()
    scene.committed()
    scene.do(InterruptAsked())
    scene.created()
    scene.item_added()
    scene.audio(ms=200)
    commands = scene.item_done("It is noon.")
    assert scene.sent(commands) == [
        {"type": "conversation.item.delete", "event_id": "item_item_a", "item_id": "item_a"}
    ]
    assert scene.known() == ["item_user"]


def test_a_partly_heard_answer_is_kept_with_the_heard_part() -> None:
    scene = ProgramStage().ready()
    scene.say()
    scene.committed()
    scene.created()
    scene.item_added()
    scene.audio(ms=2000)
    scene.play(24 * 1000)
    scene.wrote("It is noon, and the sun is shining.", is_final=True)
    scene.do(InterruptAsked())
    commands = scene.item_done("It is noon, and the sun is shining.")
    assert "conversation.item.delete" not in scene.sent_types(commands)
    item = scene.conversation.history[-1]
    assert (item.id, item.heard_ms, item.status) == ("item_a", 1000, "incomplete")
    assert item.text == "It is noon, and"


def test_an_item_added_after_the_interruption_is_deleted_too() -> None:
    """The first message is partly heard; the server adds the second before the cancel arrives."""
    scene = ProgramStage().ready()
    scene.say()
    scene.committed()
    scene.created()
    scene.item_added("item_a")
    scene.audio(ms=2000)
    scene.play(2400)
    scene.do(InterruptAsked())
    scene.item_done("One.", "item_a")
    scene.item_added("item_b")
    scene.audio(item_id="item_b", ms=100)
    commands = scene.item_done("Two.", "item_b")
    assert [one["item_id"] for one in scene.sent(commands)] == ["item_b"]
    assert scene.known() == ["item_user", "item_a"]


def test_an_unheard_answer_that_appears_only_in_response_done_is_deleted() -> None:
    scene = ProgramStage().ready()
    scene.say()
    scene.committed()
    scene.do(InterruptAsked())
    scene.created()
    content = [{"type": "output_audio", "transcript": "It is noon."}]
    item = {"id": "item_a", "type": "message", "role": "assistant", "status": "incomplete", "content": content}
    commands = scene.done(status="cancelled", output=[item])
    assert scene.sent_types(commands) == ["conversation.item.delete"]
    assert scene.known() == ["item_user"]


# --- responses: one at a time ------------------------------------------------------------------------------------


def test_of_several_waiting_requests_only_the_newest_is_sent() -> None:
    scene = ProgramStage().ready()
    scene.answering()
    for number in (1, 2, 3):
        scene.do(message(f"Number {number}.", f"note_{number}"))
    assert scene.requests() == []
    scene.done("resp_1", status="cancelled")
    assert [one["response"]["metadata"]["turn"] for one in scene.requests()] == ["turn_4"]
    assert scene.given() == ["note_1", "note_2", "note_3"], "all messages are sent"


def test_a_request_refused_because_of_an_active_response_is_repeated_when_that_is_done() -> None:
    scene = ProgramStage().ready()
    scene.do(message())
    (ask,) = scene.requests()
    scene.error("conversation_already_has_active_response", event_id=ask["event_id"])
    assert len(scene.requests()) == 1
    assert scene.troubles() == [], "a race of the protocol is not an error"
    commands = scene.done("resp_other", turn=None)
    assert [one["response"] for one in scene.requests(commands)] == [ask["response"]]
    scene.answered("resp_2")
    assert scene.outcomes() == ["answered"]


def test_a_refused_request_is_retried_at_its_deadline_if_the_other_response_never_ends() -> None:
    scene = ProgramStage(refused_retry_s=1.0).ready()
    scene.do(message())
    scene.error("conversation_already_has_active_response", event_id=scene.requests()[0]["event_id"])
    assert scene.conversation.deadline == scene.now + 1.0
    assert scene.requests(scene.advance(0.9)) == []
    assert len(scene.requests(scene.advance(0.1))) == 1


def test_a_refused_request_is_retried_after_every_refusal() -> None:
    scene = ProgramStage(refused_retry_s=1.0).ready()
    scene.do(message())
    for _ in range(5):
        scene.error("conversation_already_has_active_response", event_id=scene.requests()[-1]["event_id"])
        scene.advance(1.0)
    assert len(scene.requests()) == 6
    scene.answered("resp_2")
    assert scene.outcomes() == ["answered"]


def test_a_refusal_without_an_event_id_applies_to_the_pending_request() -> None:
    scene = ProgramStage().ready()
    scene.do(message())
    scene.error("conversation_already_has_active_response")
    assert len(scene.requests(scene.done("resp_other", turn=None))) == 1


def test_a_refused_request_of_an_interrupted_turn_is_not_repeated() -> None:
    scene = ProgramStage().ready()
    scene.do(message())
    ask = scene.requests()[0]
    scene.do(InterruptAsked())
    scene.error("conversation_already_has_active_response", event_id=ask["event_id"])
    scene.done("resp_other", turn=None)
    scene.advance(60)
    assert len(scene.requests()) == 1
    assert scene.state == "ready"


def test_an_invalid_request_frees_the_slot_for_the_next_turn() -> None:
    scene = ProgramStage().ready()
    scene.do(message())
    scene.error("invalid_value", event_id=scene.requests()[0]["event_id"], message="No such voice.")
    assert scene.outcomes() == ["failed"]
    commands = scene.do(message("Again.", "note_2"))
    assert len(scene.requests(commands)) == 1


ERRORS = [("server_error", None), (None, None), ("unknown_parameter", "somebody_elses")]


@pytest.mark.parametrize("moment", ["asked", "created"])
@pytest.mark.parametrize(("code", "event_id"), ERRORS)
def test_an_unrelated_error_does_not_prevent_the_answer(moment: str, code: str | None, event_id: str | None) -> None:
    scene = ProgramStage().ready()
    scene.do(message())
    if moment == "created":
        scene.created()
    scene.error(code, event_id=event_id, message="Something else.")
    scene.answered()
    assert scene.outcomes() == ["answered"]
    assert len(scene.requests()) == 1


@pytest.mark.parametrize(("code", "event_id"), ERRORS)
def test_an_unrelated_error_neither_frees_nor_wedges_the_slot(code: str | None, event_id: str | None) -> None:
    scene = ProgramStage().ready()
    scene.answering()
    scene.do(message())
    assert scene.requests(scene.error(code, event_id=event_id, message="Something else.")) == []
    assert len(scene.requests(scene.done("resp_1", status="cancelled"))) == 1


def _refused_while_answered() -> ProgramStage:
    """Let an error name the request of an answer that has started."""
    scene = ProgramStage(pre_roll_ms=0).ready()
    scene.say()
    scene.committed()
    scene.created()
    scene.audio()
    scene.error("server_error", event_id=scene.requests()[0]["event_id"], message="Something else.")
    return scene


def test_an_error_about_a_request_whose_response_has_started_is_reported_and_the_answer_plays_on() -> None:
    scene = _refused_while_answered()
    assert (scene.troubles(), scene.outcomes()) == (["server_error"], [])
    scene.audio(ms=100)
    assert len(scene.plays()) == 2
    scene.done()
    scene.play(7200, drained=True)
    assert scene.outcomes() == ["answered"]


def test_after_such_an_error_a_barge_in_cancels_the_old_response_and_plays_the_new_answer() -> None:
    scene = _refused_while_answered()
    assert {"type": "response.cancel", "response_id": "resp_1"} in scene.sent(scene.press())
    scene.hear(500)
    scene.release()
    scene.hear(260, 30)
    scene.committed("item_user_2")
    count = len(scene.plays())
    scene.audio("resp_1")
    assert len(scene.plays()) == count, "late audio of the old answer"
    scene.done("resp_1", status="cancelled")
    scene.created("resp_2", "turn_2")
    scene.audio("resp_2", item_id="item_b")
    assert [play.item_id for play in scene.plays()[count:]] == ["item_b"]


FOREIGN = {"conversation_id": None, "metadata": {"asked_by": "somebody else"}}


def test_a_foreign_out_of_band_response_is_never_taken_for_the_answer() -> None:
    scene = ProgramStage().ready()
    scene.do(message())
    response = {"id": "resp_x", "status": "in_progress", "output": [], **FOREIGN}
    scene.server({"type": "response.created", "response": response})
    scene.audio("resp_x", item_id="item_x")
    scene.server({"type": "response.done", "response": {**response, "status": "completed"}})
    assert (scene.plays(), scene.outcomes()) == ([], [])
    scene.answered("resp_1", "turn_1")
    assert scene.outcomes() == ["answered"]


def test_a_foreign_out_of_band_response_that_was_created_long_ago_is_still_foreign() -> None:
    scene = ProgramStage().ready()
    ids = [f"resp_x{number}" for number in range(200)]
    for response_id in ids:
        response = {"id": response_id, "status": "in_progress", "output": [], **FOREIGN}
        scene.server({"type": "response.created", "response": response})
    scene.do(message())
    for response_id in ids:
        scene.audio(response_id, item_id="item_x")
    assert scene.plays() == []
    scene.answered("resp_1", "turn_1")
    assert scene.outcomes() == ["answered"]


def test_a_request_ended_by_an_error_without_an_event_id_does_not_hold_up_the_next_turn() -> None:
    """The server never answers the request, and the error does not name it; the wait still has a deadline."""
    scene = ProgramStage(answer_s=20.0, cancel_s=3.0).ready()
    scene.do(message())
    scene.error("server_error", message="The server had an error while processing your request.")
    scene.advance(20.0)
    assert scene.outcomes() == ["failed"]
    scene.do(message("Again.", "note_2"))
    assert len(scene.requests()) == 1
    assert len(scene.requests(scene.advance(3.0))) == 1
    scene.answered("resp_2", "turn_2")
    assert scene.outcomes() == ["failed", "answered"]


def test_a_late_cancel_is_not_reported_and_wedges_nothing() -> None:
    scene = ProgramStage().ready()
    scene.answering()
    scene.do(InterruptAsked())
    scene.done("resp_1")
    scene.error("response_cancel_not_active", message="Cancellation failed: no active response found")
    assert scene.troubles() == []
    assert len(scene.requests(scene.do(message()))) == 1


# --- responses: a deadline on every wait -------------------------------------------------------------------------


def _quiet(**policy: Any) -> ProgramStage:
    """Return a scene in which only the deadline under test is near."""
    return ProgramStage(post_roll_ms=0, pre_roll_ms=0, **policy).ready()


def test_a_missing_commit_confirmation_leads_to_a_new_link() -> None:
    scene = _quiet(commit_s=5.0)
    scene.do(BeginAsked())
    scene.hear(500)
    scene.do(CommitAsked())
    assert scene.conversation.deadline == pytest.approx(scene.now + 5.5)
    link = scene.link
    scene.advance(10.0)
    assert scene.link > link


@pytest.mark.parametrize("moment", ["asked", "created", "begun"])
def test_a_missing_or_stalled_answer_fails_the_turn_with_an_announcement(moment: str) -> None:
    scene = _quiet(answer_s=20.0)
    scene.do(message())
    if moment != "asked":
        scene.advance(7.0)
        scene.created()
    if moment == "begun":
        scene.advance(7.0)
        scene.audio(ms=100)
        scene.play(2400)
    assert scene.conversation.deadline == pytest.approx(scene.now + 20.0)
    scene.advance(20.0)
    assert scene.outcomes() == ["failed"]
    assert scene.troubles() == ["no_answer"]
    assert len(scene.announced()) == 1


def test_a_slow_answer_that_keeps_arriving_is_waited_for() -> None:
    scene = _quiet(answer_s=20.0)
    scene.do(message())
    scene.created()
    for _ in range(4):
        scene.advance(15.0)
        scene.audio(ms=100)
        scene.play(2400)
    scene.done()
    assert scene.outcomes() == ["answered"]


def test_a_stalled_playback_ends_the_wait_for_it() -> None:
    scene = _quiet(answer_s=20.0, playout_stall_s=30.0)
    scene.do(message())
    scene.created()
    scene.audio(ms=2000)
    scene.done()
    scene.play(2400)
    assert scene.conversation.deadline == pytest.approx(scene.now + 30.0)
    scene.advance(30.0)
    assert scene.troubles() == ["playout_stalled"]


def test_the_wait_for_a_cancelled_response_has_a_deadline() -> None:
    scene = _quiet(cancel_s=3.0)
    scene.answering()
    scene.do(message())
    assert scene.conversation.deadline == pytest.approx(scene.now + 3.0)
    assert len(scene.requests(scene.advance(3.0))) == 1


def test_the_wait_for_a_response_cancelled_before_it_is_created_has_a_deadline() -> None:
    scene = _quiet(cancel_s=3.0)
    scene.do(message())
    scene.do(message("Again.", "note_2"))
    assert scene.conversation.deadline == pytest.approx(scene.now + 3.0)
    assert [one["response"]["metadata"]["turn"] for one in scene.requests(scene.advance(3.0))] == ["turn_2"]


def test_a_late_response_of_an_abandoned_request_is_cancelled_and_not_played() -> None:
    scene = _quiet(cancel_s=3.0)
    scene.do(message())
    scene.do(message("Again.", "note_2"))
    scene.advance(3.0)
    assert scene.sent(scene.created("resp_1", "turn_1")) == [{"type": "response.cancel", "response_id": "resp_1"}]
    scene.audio("resp_1")
    assert scene.plays() == []
    scene.answered("resp_2", "turn_2")
    assert scene.outcomes() == ["interrupted", "answered"]


def test_without_metadata_a_late_response_of_an_abandoned_request_is_cancelled_on_arrival() -> None:
    scene = _quiet(cancel_s=3.0)
    scene.do(message())
    scene.do(message("Again.", "note_2"))
    scene.advance(3.0)
    assert scene.sent(scene.created("resp_1", None)) == [{"type": "response.cancel", "response_id": "resp_1"}]
    scene.audio("resp_1")
    assert scene.plays() == []
    scene.done("resp_1", None, status="cancelled")
    scene.answered("resp_2", None)
    assert scene.outcomes() == ["interrupted", "answered"]


def test_without_metadata_each_abandoned_request_is_matched_by_order() -> None:
    scene = _quiet(cancel_s=3.0)
    for number in range(3):
        scene.do(message("Again.", f"note_{number}"))
        scene.advance(3.0)
    assert len(scene.requests()) == 3
    for response_id in ("resp_1", "resp_2"):
        assert scene.sent(scene.created(response_id, None)) == [{"type": "response.cancel", "response_id": response_id}]
        scene.done(response_id, None, status="cancelled")
    scene.answered("resp_3", None)
    assert scene.outcomes()[-1] == "answered"


def test_a_text_answer_in_a_spoken_session_is_announced() -> None:
    scene = ProgramStage().ready()
    scene.say()
    scene.committed()
    scene.created()
    scene.wrote("It is ", is_final=False)
    scene.wrote("It is noon.", is_final=True)
    scene.done()
    assert (scene.announced(), scene.outcomes(), scene.troubles()) == (["It is noon."], ["answered"], [])


def test_a_text_before_a_spoken_answer_is_not_announced() -> None:
    scene = ProgramStage().ready()
    scene.do(message())
    scene.created()
    scene.wrote("It is noon.", is_final=True)
    scene.audio(ms=100)
    scene.done()
    scene.play(2400, drained=True)
    assert (scene.announced(), scene.outcomes()) == ([], ["answered"])


@pytest.mark.parametrize("code", [None, "invalid_value", "item_not_found"])
def test_a_refused_truncation_is_no_error_of_the_next_turn(code: str | None) -> None:
    scene = ProgramStage().ready()
    scene.answering()
    [truncation] = [one for one in scene.sent(scene.press()) if one["type"] == "conversation.item.truncate"]
    scene.error(code, event_id=truncation["event_id"], message="No such item.")
    assert scene.troubles() == []


@pytest.mark.parametrize(("ends", "outcome"), [(True, "answered"), (False, "failed")])
def test_an_answer_whose_audio_ended_and_was_heard_counts_without_response_done(ends: bool, outcome: str) -> None:
    scene = _quiet(answer_s=20.0)
    scene.do(message())
    scene.created()
    scene.audio(ms=100)
    if ends:
        scene.server({"type": "response.output_audio.done", "response_id": "resp_1", "item_id": "item_a"})
    scene.play(2400, drained=True)
    scene.advance(19.9)
    assert scene.outcomes() == []
    commands = scene.advance(0.2)
    assert scene.outcomes() == [outcome]
    assert scene.announced() == ([] if ends else ["I got no answer. Please try again."])
    assert {"type": "response.cancel", "response_id": "resp_1"} in scene.sent(commands)


def test_an_answer_that_continues_after_its_audio_ended_is_not_whole() -> None:
    scene = _quiet(answer_s=20.0)
    scene.do(message())
    scene.created()
    scene.audio(ms=100)
    scene.server({"type": "response.output_audio.done", "response_id": "resp_1", "item_id": "item_a"})
    scene.audio(item_id="item_b", ms=100)
    scene.play(4800, drained=True)
    scene.advance(21)
    assert scene.outcomes() == ["failed"]


SPOKEN = {
    "id": "item_a",
    "type": "message",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_audio", "transcript": "It is noon."}],
}


@pytest.mark.parametrize("ends", [True, False])
def test_audio_after_response_done_is_played(ends: bool) -> None:
    scene = _quiet(answer_s=20.0)
    scene.do(message())
    scene.created()
    scene.done(output=[SPOKEN])
    assert scene.outcomes() == []
    scene.audio(ms=100)
    if ends:
        scene.server({"type": "response.output_audio.done", "response_id": "resp_1", "item_id": "item_a"})
    assert len(scene.plays()) == 1
    scene.play(2400, drained=True)
    scene.advance(0.0 if ends else 20.1)
    assert (scene.outcomes(), scene.troubles()) == (["answered"], [])


def test_audio_that_never_follows_response_done_is_reported() -> None:
    scene = _quiet(answer_s=20.0)
    scene.do(message())
    scene.created()
    scene.done(output=[SPOKEN])
    scene.advance(20.1)
    assert (scene.outcomes(), scene.troubles()) == (["failed"], ["no_answer"])


def test_late_audio_of_an_interrupted_turn_is_not_played() -> None:
    scene = _quiet()
    scene.do(message())
    scene.created()
    scene.done(output=[SPOKEN])
    scene.do(message("Again.", "note_2"))
    scene.audio(ms=100)
    assert scene.plays() == []


@pytest.mark.parametrize("cuts", [[3, 5], [1, 1, 1], [1, 2, 3, 4, 5, 6, 7]])
def test_audio_deltas_that_end_within_a_sample_play_whole_samples(cuts: list[int]) -> None:
    scene = ProgramStage().ready()
    scene.do(message())
    scene.created()
    pcm = bytes(range(200))
    at = 0
    for size in [*cuts, len(pcm) - sum(cuts)]:
        scene.delta(pcm[at : at + size])
        at += size
    played = [play.pcm for play in scene.plays()]
    assert b"".join(played) == pcm
    assert [len(one) % 2 for one in played] == [0] * len(played)
    scene.done()
    scene.play(100, drained=True)
    assert scene.outcomes() == ["answered"]


def test_half_a_sample_at_the_end_of_an_item_is_not_joined_to_the_next_item() -> None:
    scene = ProgramStage().ready()
    scene.do(message())
    scene.created()
    scene.delta(b"\x01\x02\x03", item_id="item_a")
    scene.delta(b"\x04\x05", item_id="item_b")
    assert [(play.item_id, play.pcm) for play in scene.plays()] == [("item_a", b"\x01\x02"), ("item_b", b"\x04\x05")]


@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_a_session_at_another_rate_is_refused_with_an_error(rate: int) -> None:
    scene = ProgramStage().ready()
    audio = {"output": {"format": {"type": "audio/pcm", "rate": rate}}}
    scene.server({"type": "session.updated", "session": {"type": "realtime", "audio": audio}})
    assert scene.troubles()[0] == "server_error"
    assert f"{rate} Hz" in scene.notices(Error)[0].detail
    assert scene.state == "failed"


def test_no_deadline_but_the_rotation_is_left_after_an_answer() -> None:
    scene = _quiet(rotate_after_s=3300.0)
    scene.do(message())
    scene.answered()
    at = scene.conversation.deadline
    assert at is not None
    assert at > scene.now + 3000, "the next deadline is the rotation of the session"
