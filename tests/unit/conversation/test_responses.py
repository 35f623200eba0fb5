"""Tests of the conversation core: one response at a time, and a deadline on every wait."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.conversation.events import (
    BeginAsked,
    CommitAsked,
    InterruptAsked,
)
from appliance.conversation.notices import Error
from tests.support.stages.program import ProgramStage, message

# --- responses: one at a time -----------------------------------------------------------------------------------------


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


# --- responses: a deadline on every wait ------------------------------------------------------------------------------


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
