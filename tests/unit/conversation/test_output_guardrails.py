"""Tests of the conversation core: guardrails of answers."""

from __future__ import annotations

from typing import Any

from appliance.agents.spec import AgentSpec, ToolCard
from appliance.conversation.commands import (
    CheckText,
    FinishPlay,
)
from appliance.conversation.events import (
    ApprovalAnswered,
)
from appliance.conversation.notices import (
    Guardrail,
)
from tests.support.stages.agents import AUDIO_SESSION, GREETER, AgentStage, accepted, greeter, guarded, prepared

# --- output guardrails: what is checked, and when ---------------------------------------------------------------------


def _watched(**policy: Any) -> AgentStage:
    """Start an answer of an agent with output guardrails."""
    return AgentStage(specs=[guarded()], **policy).ready().asked()


def test_text_is_checked_after_every_hundred_characters() -> None:
    scene = _watched()
    assert scene.checks(scene.wrote("a" * 99)) == []
    (first,) = scene.checks(scene.wrote("b"))
    assert (first.agent, first.side, first.text) == ("greeter", "output", "a" * 99 + "b")
    assert scene.checks(scene.wrote("c" * 99)) == []
    (second,) = scene.checks(scene.wrote("d"))
    assert second.text == "a" * 99 + "b" + "c" * 99 + "d"
    assert second.key != first.key


def test_the_debounce_is_configurable() -> None:
    scene = _watched(guardrail_debounce=10)
    assert scene.checks(scene.wrote("a" * 9)) == []
    assert [one.text for one in scene.checks(scene.wrote("b"))] == ["aaaaaaaaab"]


def test_with_a_debounce_of_minus_one_only_the_final_text_is_checked() -> None:
    scene = _watched(guardrail_debounce=-1)
    for _ in range(20):
        assert scene.checks(scene.wrote("a" * 50)) == []
    assert [one.text for one in scene.checks(scene.wrote("whole", is_final=True))] == ["whole"]


def test_a_reply_shorter_than_the_debounce_is_checked() -> None:
    scene = _watched()
    scene.wrote("Forty-two.")
    assert [one.text for one in scene.checks(scene.wrote("Forty-two.", is_final=True))] == ["Forty-two."]


def test_the_tail_of_a_long_answer_is_checked() -> None:
    scene = _watched()
    scene.wrote("a" * 150)
    scene.wrote("tail")
    (check,) = scene.checks(scene.wrote("a" * 150 + "tail", is_final=True))
    assert check.text.endswith("tail")


def test_text_without_a_done_event_is_checked_at_the_end_of_the_response() -> None:
    scene = _watched()
    scene.wrote("Forty-two.")
    assert [one.text for one in scene.checks(scene.done())] == ["Forty-two."]


def test_the_final_text_is_checked_once() -> None:
    scene = _watched()
    scene.wrote("Forty-two.")
    scene.wrote("Forty-two.", is_final=True)
    assert scene.checks(scene.done()) == []


def test_a_text_answer_is_checked_too() -> None:
    scene = _watched()
    of_part = {"response_id": "resp_1", "item_id": "item_a", "output_index": 0, "content_index": 0}
    commands = scene.server({"type": "response.output_text.done", **of_part, "text": "Forty-two."})
    assert [one.text for one in scene.checks(commands)] == ["Forty-two."]


def test_each_item_of_an_answer_is_checked() -> None:
    scene = _watched()
    scene.wrote("One.", is_final=True)
    assert [one.text for one in scene.checks(scene.wrote("Two.", is_final=True, item_id="item_b"))] == ["Two."]


def test_each_part_of_an_item_is_checked() -> None:
    scene = _watched()
    scene.wrote("One.", is_final=True)
    (check,) = scene.checks(scene.wrote("Two.", is_final=True, part=1))
    assert "Two." in check.text


def test_without_guardrails_nothing_is_checked() -> None:
    scene = AgentStage(specs=[GREETER]).ready().asked()
    scene.wrote("a" * 200)
    scene.wrote("a" * 200, is_final=True)
    assert scene.checks() == []


def test_text_after_an_accepted_handoff_in_the_same_response_is_checked_by_the_old_agents_guardrails() -> None:
    """The call precedes the sentence in the response; the server accepts the new agent before the sentence arrives."""
    spec = AgentSpec(agent="greeter", session=AUDIO_SESSION, handoffs=GREETER.handoffs, has_output_guardrails=True)
    scene = AgentStage(specs=[spec]).ready()
    scene.session_updated()
    scene.asked()
    scene.called("transfer_to_billing", "call_1")
    prepared(scene)
    accepted(scene)
    commands = scene.wrote("The password is swordfish.", is_final=True)
    assert [(one.agent, one.text) for one in scene.checks(commands)] == [("greeter", "The password is swordfish.")]


def test_the_turn_ends_only_after_its_last_check() -> None:
    scene = _watched()
    scene.audio(ms=200)
    (check,) = scene.checks(scene.wrote("Fine.", is_final=True))
    scene.done()
    scene.play(4800, drained=True)
    assert scene.outcomes() == []
    assert scene.state == "thinking"
    scene.passed(check)
    assert scene.outcomes() == ["answered"]


# --- output guardrails: a trip ----------------------------------------------------------------------------------------


def _tripping(**policy: Any) -> tuple[AgentStage, CheckText]:
    """Receive two seconds of an answer, play 100 ms of it, and start a check of its text."""
    scene = _watched(**policy)
    scene.audio(ms=2000)
    scene.play(2400)
    (check,) = scene.checks(scene.wrote("My number is 4711. " * 6))
    scene.commands.clear()
    return scene, check


def test_a_trip_flushes_truncates_and_cancels() -> None:
    scene, check = _tripping()
    epoch = scene.conversation.epoch
    commands = scene.tripped(check)
    assert [one.epoch for one in scene.flushes()] == [epoch + 1]
    truncate, cancel = scene.sent(commands)[:2]
    assert (truncate["type"], truncate["item_id"], truncate["audio_end_ms"]) == (
        "conversation.item.truncate",
        "item_a",
        100,
    )
    assert (cancel["type"], cancel["response_id"]) == ("response.cancel", "resp_1")


def test_nothing_more_of_a_tripped_answer_is_played_or_emitted() -> None:
    scene, check = _tripping()
    scene.tripped(check)
    assert scene.audio() == []
    assert scene.wrote("more") == []
    assert scene.plays() == []


def test_a_trip_names_the_item_the_guardrail_and_the_reason() -> None:
    scene, check = _tripping()
    scene.tripped(check, "no_numbers", "4711")
    assert scene.notices(Guardrail) == [Guardrail("turn_1", "output", "item_a", "no_numbers", "4711")]


def test_the_model_gets_the_reason_as_a_system_message() -> None:
    scene, check = _tripping()
    scene.tripped(check, "no_numbers", "4711")
    (told,) = [frame["item"] for frame in scene.sent() if frame["type"] == "conversation.item.create"]
    assert (told["type"], told["role"]) == ("message", "system")
    assert "'no_numbers' (4711)" in told["content"][0]["text"]


def test_a_new_answer_is_requested_once_the_tripped_response_is_done() -> None:
    scene, check = _tripping()
    scene.tripped(check)
    assert scene.asks() == [], "the tripped response is still active on the server"
    scene.done(status="cancelled")
    assert scene.asks() == [{"metadata": {"turn": "turn_1"}}]
    assert scene.outcomes() == []


def test_a_trip_after_response_done_requests_again_at_once_and_cancels_nothing() -> None:
    scene = _watched()
    scene.audio(ms=200)
    (check,) = scene.checks(scene.wrote("4711", is_final=True))
    scene.done()
    scene.commands.clear()
    scene.tripped(check)
    assert scene.sent_types() == ["conversation.item.truncate", "conversation.item.create", "response.create"]


def test_the_second_answer_is_checked_played_and_ends_the_turn() -> None:
    scene, check = _tripping()
    scene.tripped(check)
    scene.done(status="cancelled")
    scene.created("resp_2")
    scene.audio("resp_2", "item_b", ms=200)
    (second,) = scene.checks(scene.wrote("Fine.", is_final=True, response_id="resp_2", item_id="item_b"))
    scene.passed(second)
    scene.done("resp_2")
    scene.played_frames = 0  # of the new epoch
    scene.play(4800, drained=True)
    assert scene.played_frames_of("item_b") == 4800
    assert scene.outcomes() == ["answered"]


def test_the_last_allowed_trip_ends_the_turn_as_refused_with_an_announcement() -> None:
    scene, check = _tripping(max_trips=2)
    scene.tripped(check)
    scene.done(status="cancelled")
    scene.created("resp_2")
    (second,) = scene.checks(scene.wrote("4711", is_final=True, response_id="resp_2", item_id="item_b"))
    scene.commands.clear()
    scene.tripped(second)
    scene.done("resp_2", status="cancelled")
    assert scene.outcomes() == ["refused"]
    assert scene.announced() == ["I stopped my answer."]
    assert scene.asks() == []


def test_with_max_trips_one_the_first_trip_refuses_the_turn() -> None:
    scene, check = _tripping(max_trips=1)
    scene.tripped(check)
    assert scene.outcomes() == ["refused"]
    assert scene.asks() == []


def test_trips_are_counted_per_turn() -> None:
    scene, check = _tripping(max_trips=2)
    scene.tripped(check)
    scene.say()
    scene.done(status="cancelled")
    scene.committed("item_user_2")
    scene.created("resp_2", "turn_2")
    (second,) = scene.checks(scene.wrote("4711", is_final=True, response_id="resp_2", item_id="item_b"))
    scene.tripped(second)
    assert scene.outcomes() == ["interrupted"], "the second turn may still retry"


def test_a_verdict_on_an_interrupted_answer_is_ignored() -> None:
    scene, check = _tripping()
    scene.press()
    assert scene.tripped(check) == []
    assert scene.passed(check) == []
    assert scene.notices(Guardrail) == []


def test_a_late_verdict_on_the_tripped_answer_is_ignored_by_the_next() -> None:
    scene = _watched()
    scene.audio(ms=2000)
    (first,) = scene.checks(scene.wrote("a" * 100))
    (second,) = scene.checks(scene.wrote("b" * 100))
    scene.tripped(second)
    scene.done(status="cancelled")
    scene.created("resp_2")
    scene.wrote("Fine.", response_id="resp_2", item_id="item_b")
    assert scene.tripped(first) == []
    assert len(scene.notices(Guardrail)) == 1


def test_a_check_that_times_out_counts_as_tripped() -> None:
    scene, check = _tripping(guardrail_s=5.0)
    scene.advance(4.9)
    assert scene.notices(Guardrail) == []
    scene.advance(0.2)
    (trip,) = scene.notices(Guardrail)
    assert (trip.side, trip.item_id, trip.reason) == ("output", "item_a", "it took too long")
    assert scene.tripped(check) == []


def test_checks_run_concurrently_and_a_later_one_may_trip_first() -> None:
    scene = _watched()
    scene.audio(ms=2000)
    (first,) = scene.checks(scene.wrote("a" * 100))
    (second,) = scene.checks(scene.wrote("b" * 100))
    scene.tripped(second)
    assert scene.passed(first) == []
    assert len(scene.flushes()) >= 1


def test_a_call_of_a_tripped_answer_that_awaits_approval_is_never_run() -> None:
    spec = greeter(ToolCard(name="open_door", approval="always"), has_output_guardrails=True)
    scene = AgentStage(specs=[spec]).ready().asked()
    scene.audio()
    (check,) = scene.checks(scene.wrote("4711", is_final=True))
    scene.called("open_door", "call_1")
    scene.tripped(check)
    assert len(scene.outputs()["call_1"]) == 1
    scene.do(ApprovalAnswered("call_1", approved=True))
    scene.tap()
    assert scene.tool_runs() == []


def test_a_tool_running_when_its_answer_trips_is_answered_without_its_own_request() -> None:
    spec = greeter(ToolCard(name="slow"), has_output_guardrails=True)
    scene = AgentStage(specs=[spec]).ready().asked()
    scene.audio()
    (check,) = scene.checks(scene.wrote("4711", is_final=True))
    scene.called("slow", "call_1")
    scene.commands.clear()
    scene.tripped(check)
    scene.done(status="cancelled")
    scene.tool_finished("call_1", "done")
    assert scene.outputs() == {"call_1": ["done"]}
    assert len(scene.asks()) == 1, "only the request for the second try"
    scene.created("resp_2")
    scene.audio("resp_2", "item_b", ms=200)
    scene.done("resp_2")
    assert len(scene.asks()) == 1, "the calls of the tripped answer request no response"


# --- output guardrails: held audio ------------------------------------------------------------------------------------


FRAMES_PER_CHARACTER = 24_000 // 25


def _held(**policy: Any) -> AgentStage:
    """Receive and hold eight seconds of an answer."""
    scene = AgentStage(specs=[guarded()], hold_audio=True, **policy).ready().asked()
    scene.audio(ms=8000)
    return scene


def test_held_audio_is_not_played_before_its_text_has_passed() -> None:
    scene = _held()
    scene.wrote("a" * 100)
    assert scene.plays() == []
    assert scene.state == "thinking"


def test_checked_text_releases_40_ms_of_audio_per_character() -> None:
    scene = _held()
    (first,) = scene.checks(scene.wrote("a" * 100))
    scene.passed(first)
    assert scene.played_frames_of("item_a") == 100 * FRAMES_PER_CHARACTER
    (second,) = scene.checks(scene.wrote("b" * 50 + "c" * 50))
    assert scene.played_frames_of("item_a") == 100 * FRAMES_PER_CHARACTER, "the second check is still pending"
    scene.passed(second)
    assert scene.played_frames_of("item_a") == 200 * FRAMES_PER_CHARACTER


def test_audio_arriving_after_its_text_has_passed_is_released_up_to_that_text() -> None:
    scene = AgentStage(specs=[guarded()], hold_audio=True).ready().asked()
    (check,) = scene.checks(scene.wrote("a" * 100))
    scene.passed(check)
    scene.audio(ms=3000)
    assert scene.played_frames_of("item_a") == 3000 * 24
    scene.audio(ms=3000)
    assert scene.played_frames_of("item_a") == 100 * FRAMES_PER_CHARACTER


def test_the_rest_is_released_when_the_final_text_has_passed() -> None:
    scene = _held()
    (check,) = scene.checks(scene.wrote("Short.", is_final=True))
    assert scene.plays() == []
    scene.passed(check)
    assert scene.played_frames_of("item_a") == 8000 * 24


def test_all_held_audio_is_released_in_order() -> None:
    scene = AgentStage(specs=[guarded()], hold_audio=True).ready().asked()
    scene.audio(ms=3000)
    scene.audio(ms=3000)
    (first,) = scene.checks(scene.wrote("a" * 100))
    scene.passed(first)
    (final,) = scene.checks(scene.wrote("a" * 100 + ".", is_final=True))
    scene.passed(final)
    scene.audio(item_id="item_b", ms=1000)
    (last,) = scene.checks(scene.wrote("b", is_final=True, item_id="item_b"))
    scene.passed(last)
    assert scene.played_frames_of("item_a") == 6000 * 24
    assert [one.item_id for one in scene.plays()] == ["item_a", "item_a", "item_a", "item_b"]


def test_finish_play_is_emitted_only_after_all_audio_is_released() -> None:
    scene = _held()
    (first,) = scene.checks(scene.wrote("a" * 100))
    scene.passed(first)
    (check,) = scene.checks(scene.wrote("a" * 100 + ".", is_final=True))
    scene.done()
    assert scene.of(FinishPlay) == [], "only half of the audio is released"
    commands = scene.passed(check)
    assert len(scene.of(FinishPlay, commands)) == 1


def test_the_text_of_one_item_does_not_release_the_audio_of_another() -> None:
    scene = _held()
    (other,) = scene.checks(scene.wrote("fine", is_final=True, item_id="item_b"))
    scene.passed(other)
    assert scene.plays() == []


def test_held_audio_without_any_text_is_checked_as_empty_text_and_ends_the_turn() -> None:
    scene = _held()
    (check,) = scene.checks(scene.done())
    assert check.text == ""
    scene.passed(check)
    scene.play(8000 * 24, drained=True)
    assert scene.outcomes() == ["answered"]


def test_a_transcript_that_appears_only_in_response_done_is_checked() -> None:
    scene = _held()
    message = {
        "id": "item_a",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_audio", "transcript": "My number is 4711."}],
    }
    assert [one.text for one in scene.checks(scene.done(output=[message]))] == ["My number is 4711."]


def test_held_audio_is_not_played_after_a_trip() -> None:
    scene = _held()
    (check,) = scene.checks(scene.wrote("a" * 100))
    (second,) = scene.checks(scene.wrote("b" * 100))
    scene.tripped(second)
    scene.passed(check)
    scene.done(status="cancelled")
    scene.advance(3)
    assert scene.plays() == []


def test_held_audio_is_not_played_after_a_barge_in() -> None:
    scene = _held()
    (check,) = scene.checks(scene.wrote("a" * 100))
    scene.press()
    scene.passed(check)
    scene.hear(200)
    scene.done(status="cancelled")
    assert scene.plays() == []


def test_an_answer_without_released_audio_is_deleted_instead_of_truncated() -> None:
    scene = _held()
    item = {"id": "item_a", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    scene.server({"type": "conversation.item.added", "previous_item_id": None, "item": item})
    (check,) = scene.checks(scene.wrote("a" * 100))
    scene.tripped(check)
    scene.server(
        {
            "type": "response.output_item.done",
            "response_id": "resp_1",
            "output_index": 0,
            "item": item | {"status": "incomplete"},
        }
    )
    assert "conversation.item.truncate" not in scene.sent_types()
    assert [frame["item_id"] for frame in scene.sent() if frame["type"] == "conversation.item.delete"] == ["item_a"]
    assert "item_a" not in [one.id for one in scene.conversation.history]


def test_an_answer_is_truncated_at_the_end_of_its_released_and_played_part() -> None:
    """All released audio was played; the model must not assume that the held rest was heard too."""
    scene = _held()
    (check,) = scene.checks(scene.wrote("a" * 100))
    scene.passed(check)
    (second,) = scene.checks(scene.wrote("b" * 100))
    scene.play(100 * FRAMES_PER_CHARACTER)
    commands = scene.tripped(second)
    truncates = [frame for frame in scene.sent(commands) if frame["type"] == "conversation.item.truncate"]
    assert [(one["item_id"], one["audio_end_ms"]) for one in truncates] == [("item_a", 4000)]


def test_without_guardrails_no_audio_is_held() -> None:
    scene = AgentStage(specs=[GREETER], hold_audio=True).ready().asked()
    scene.audio(ms=200)
    assert scene.played_frames_of("item_a") == 4800
