"""Tests of the conversation core: questions outside the conversation."""

from __future__ import annotations

from typing import Any

from appliance.conversation.events import (
    OutOfBandAsked,
    ShutdownRequested,
)
from appliance.conversation.notices import AnswerText, OutOfBandEnded
from tests.support.stages.program import ProgramStage, message


def aside(key: str = "k1", *, timeout_s: float = 30.0, **response: Any) -> OutOfBandAsked:
    return OutOfBandAsked(key, {"output_modalities": ["text"], **response}, timeout_s)


# --- out-of-band questions --------------------------------------------------------------------------------------------


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
