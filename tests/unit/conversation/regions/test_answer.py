"""Tests of the `answer` region: the request, the answering agent, and what was received."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.agents.spec import AgentSpec
from appliance.conversation.commands import CheckText, Emit, FinishPlay, Play
from appliance.conversation.events import OutputCheck
from appliance.conversation.notices import AgentEnd, AgentStart, AnswerText, AudioEnd, HandoffDone
from appliance.conversation.policy import Policy
from appliance.conversation.regions.answer import Answer
from appliance.conversation.support.outbox import Outbox
from appliance.conversation.support.playback import Playback
from appliance.realtime import protocol as wire
from tests.unit.conversation.regions.outcome import frames, linked, notices, spec

ANN = spec("ann")
WRITTEN = spec("ann", session={"type": "realtime", "output_modalities": ["text"]})


def started(out: Outbox | None = None, **policy: Any) -> Answer:
    region = Answer(Policy(**policy), out or linked())
    region.begin()
    return region


def ask(region: Answer, turn: str = "turn_1", by: AgentSpec = ANN, *, rounds: int = 0, now: float = 100.0) -> None:
    region.slot.want(turn)
    assert region.slot.grant(now) == turn
    region.ask(turn, by, rounds=rounds, is_taken=True, is_free=False, now=now)


def requested(
    out: Outbox, by: AgentSpec = ANN, *, options: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    """Send a request and return its response object."""
    region = started(out, max_tool_rounds=8)
    region.asked.options = options or {}
    ask(region, by=by, **more)
    (frame,) = frames(out.take())
    response: dict[str, Any] = frame["response"]
    return response


def response(response_id: str, turn: str = "turn_1", status: str = "in_progress") -> wire.Response:
    return wire.Response(id=response_id, status=status, metadata={"turn": turn})


def audio(frames_: int, item_id: str = "i") -> wire.OutputAudioDelta:
    return wire.OutputAudioDelta(response_id="r", item_id=item_id, delta=bytes(2 * frames_))


def text(region: Answer, said: str) -> None:
    region.read(wire.OutputAudioTranscriptDone(item_id="i", transcript=said), said, "turn_1", 100.0, is_final=True)


# --- one response at a time -----------------------------------------------------------------------------------------


def test_a_response_is_requested_when_the_previous_one_is_done() -> None:
    region = started()
    ask(region)
    region.slot.want("turn_2")
    assert region.slot.grant(101.0) is None
    region.created(response("r"))
    region.slot.done(response("r", status="completed"))
    assert region.slot.grant(102.0) == "turn_2"


def test_a_response_cancelled_before_it_is_created_is_cancelled_on_arrival() -> None:
    out = linked()
    region = started(out)
    ask(region)
    out.take()
    region.cancel(101.0)
    assert out.take() == []
    assert not region.created(response("r"))
    assert frames(out.take()) == [{"type": "response.cancel", "response_id": "r"}]
    assert not region.answers("r", "turn_1")


def test_a_running_response_is_cancelled_at_once_and_frees_its_slot_if_it_never_ends() -> None:
    out = linked()
    region = started(out, cancel_s=3.0)
    ask(region)
    region.created(response("r"))
    out.take()
    region.cancel(101.0)
    region.cancel(102.0)
    assert frames(out.take()) == [{"type": "response.cancel", "response_id": "r"}]
    region.slot.want("turn_2")
    assert next(iter(region.deadlines())) == 104.0
    region.slot.advance(103.9)
    assert region.slot.grant(103.9) is None
    region.slot.advance(104.0)
    assert region.slot.grant(104.0) == "turn_2"


def test_a_response_without_response_created_is_recognised_by_its_first_event() -> None:
    region = started()
    ask(region)
    assert not region.answers("r", None)
    assert not region.answers("r", "turn_2")
    assert region.answers("r", "turn_1")
    assert not region.answers("another", "turn_1")


def test_a_request_refused_by_a_busy_server_is_retried_with_the_same_answer_deadline() -> None:
    out = linked()
    region = started(out, answer_s=20.0)
    ask(region)
    (frame,) = frames(out.take())
    assert not region.slot.refused("another", 102.0)
    assert region.slot.refused(frame["event_id"], 102.0)
    region.retry()
    region.slot.advance(101.9)
    assert (region.slot.grant(101.9), region.slot.grant(102.0)) == (None, "turn_1")
    ask(region, now=102.0)
    assert region.deadline == 120.0


def test_an_error_naming_the_request_frees_the_slot_and_returns_its_turn() -> None:
    out = linked()
    region = started(out)
    ask(region)
    (frame,) = frames(out.take())
    assert [region.slot.names_request(one) for one in (None, "another")] == [False, False]
    assert region.slot.names_request(frame["event_id"])
    refused = region.slot.abandon()
    assert refused is not None
    assert refused.turn == "turn_1"
    region.slot.want("turn_2")
    assert region.slot.grant(101.0) == "turn_2"


# --- the request ----------------------------------------------------------------------------------------------------


def test_the_first_request_has_all_given_options_and_later_ones_no_input_or_tool_choice() -> None:
    options = {"input": [], "tool_choice": "required", "max_output_tokens": 5, "metadata": {"mine": "1"}}
    first = requested(linked(), options=options)
    assert first == {**options, "metadata": {"mine": "1", "turn": "turn_1"}}
    later = requested(linked(), options=options, rounds=1)
    assert later == {"max_output_tokens": 5, "metadata": {"mine": "1", "turn": "turn_1"}}


@pytest.mark.parametrize(
    ("choice", "rounds", "sent"),
    [("required", 0, None), ("required", 1, "auto"), ("none", 1, None), ("auto", 1, None), ("required", 8, "none")],
)
def test_tool_choice_required_applies_once_and_none_applies_after_the_last_round(
    choice: str, rounds: int, sent: str | None
) -> None:
    by = spec(session={"type": "realtime", "tool_choice": choice})
    assert requested(linked(), by, rounds=rounds).get("tool_choice") == sent


def test_a_first_sentence_applies_to_the_next_response_only() -> None:
    out = linked()
    region = started(out)
    region.speaker.first_sentence = "Bob here."
    ask(region)
    (frame,) = frames(out.take())
    assert str(ANN.session["instructions"]) in frame["response"]["instructions"]
    assert frame["response"]["instructions"].endswith("Bob here.")
    region.created(response("r"))
    region.accept(ANN)
    region.close()
    region.slot.done(response("r", status="completed"))
    ask(region, rounds=1)
    (frame,) = frames(out.take())
    assert "instructions" not in frame["response"]


# --- the answering agent --------------------------------------------------------------------------------------------


def test_an_agent_starts_once_a_turn_and_ends_with_what_it_said() -> None:
    out = linked()
    region = started(out)
    ask(region)
    text(region, " Hello. ")
    region.created(response("r"))
    region.slot.done(response("r", status="completed"))
    ask(region, rounds=1)
    text(region, "Bye.")
    region.end()
    told = [one for one in notices(out.take()) if not isinstance(one, AnswerText)]
    assert told == [AgentStart("ann"), AgentEnd("ann", "Hello. Bye.")]


def test_a_handoff_ends_an_agent_and_starts_the_next_only_if_the_first_had_started() -> None:
    out = linked()
    region = started(out)
    region.hand_over("ann", "bob", is_answering=True)
    assert notices(out.take()) == [HandoffDone("ann", "bob")]
    ask(region)
    text(region, "Hello.")
    out.take()
    region.hand_over("ann", "bob", is_answering=True)
    region.end()
    assert notices(out.take()) == [
        AgentEnd("ann", "Hello."),
        HandoffDone("ann", "bob"),
        AgentStart("bob"),
        AgentEnd("bob", ""),
    ]


# --- what was received ----------------------------------------------------------------------------------------------


def test_text_alone_counts_as_an_answer_only_if_the_output_is_text() -> None:
    for by, options, is_empty in (
        (ANN, {}, True),
        (WRITTEN, {}, False),
        (ANN, {"output_modalities": ["text"]}, False),
        (WRITTEN, {"output_modalities": ["audio"]}, True),
    ):
        region = started()
        region.asked.options = options
        ask(region, by=by)
        assert region.is_empty
        text(region, "Hello.")
        assert region.is_empty is is_empty


def test_an_answer_is_under_way_from_the_request_until_its_response_and_checks_end() -> None:
    region = started(guardrail_debounce=1)
    found = [region.is_under_way]
    region.slot.want("turn_1")
    found.append(region.is_under_way)
    ask(region, by=spec("ann", has_output_guardrails=True))
    found.append(region.is_under_way)
    text(region, "Hello.")
    region.close()
    found.append(region.is_under_way)
    region.playback.gate.passed(1)
    found.append(region.is_under_way)
    assert found == [False, True, True, True, False]


def test_a_request_opens_the_response_and_records_whether_it_is_free() -> None:
    for is_free in (False, True):
        region = started()
        region.asked.is_done = True
        region.open(ANN, is_taken=False, is_free=is_free, now=100.0)
        assert (region.asked.is_open, region.asked.is_done, region.asked.is_free) == (True, False, is_free)
        region.retry()
        assert (region.asked.is_open, region.asked.is_retry) == (False, True)


def test_the_agent_in_force_when_the_response_starts_is_its_speaker() -> None:
    region = started()
    ask(region)
    region.accept(spec("bob", has_output_guardrails=True))
    assert region.speaker.spec is not None
    assert (region.speaker.spec.agent, region.playback.guards) == ("bob", "bob")


def test_the_next_turn_starts_without_the_previous_answer() -> None:
    region = started()
    region.asked.options = {"max_output_tokens": 5}
    ask(region, by=spec("ann", has_output_guardrails=True))
    region.hear(audio(480), 1, 100.0)
    region.begin()
    assert (region.speaker.agent, region.received.frames) == ("", 0)
    assert (region.asked.options, region.playback.guards) == ({}, "")


def test_text_is_emitted_as_it_arrives_and_a_text_answer_counts_as_played() -> None:
    out = linked()
    for by, played in ((ANN, ()), (WRITTEN, ("i",))):
        region = started(out)
        ask(region, by=by)
        out.take()
        region.read(wire.OutputTextDelta(item_id="i", delta="Hel"), "Hel", "turn_1", 100.0, is_final=False)
        text(region, "Hello.")
        text(region, "")
        assert notices(out.take()) == [AnswerText("turn_1", "Hel", False), AnswerText("turn_1", "Hello.", True)]
        assert (region.playback.played_items, region.received.has_output) == (played, True)


def test_after_a_guardrail_trips_the_answer_starts_again_empty() -> None:
    region = started()
    region.asked.options = {"tool_choice": "required"}
    ask(region)
    text(region, "Bad word.")
    region.hear(audio(480), 1, 100.0)
    assert (region.begin_again(), region.begin_again()) == (1, 2)
    assert (region.speaker.said, region.is_empty) == ("", True)
    assert (region.asked.is_open, region.received.frames) == (False, 480)
    assert "tool_choice" not in region.asked.response("turn_1", ANN, rounds=0, first_sentence="")


def test_a_lost_link_drains_the_received_audio_and_keeps_an_earlier_failure() -> None:
    for failure, reported in (("", "answer_cut"), ("answer_failed", "answer_failed")):
        out = linked()
        region = started(out)
        ask(region)
        region.hear(audio(480), 1, 100.0)
        assert (region.received.has_output, region.is_empty) == (True, False)
        if failure:
            region.fail("answer_failed", "no reason")
            assert region.received.failure_detail == "no reason"
        region.cut_off()
        assert FinishPlay(0) in out.take()
        assert (region.asked.is_done, region.received.failure, region.is_playing) == (True, reported, True)


def test_a_late_answer_item_is_unplayed_until_it_is_done() -> None:
    region = started()
    ask(region)
    region.hear(audio(480, "played"), 1, 100.0)
    late = wire.Item(type="message", id="late", role="assistant")
    played = wire.Item(type="message", id="played", role="assistant")
    question = wire.Item(type="message", id="question", role="user")
    assert [region.is_unplayed(one, is_unheard=True) for one in (late, played, question)] == [True, False, False]
    assert not region.is_unplayed(late, is_unheard=False)
    region.note_unplayed("late", is_done=False)
    assert region.is_unplayed(late, is_unheard=False)
    region.note_unplayed("late", is_done=True)
    assert not region.is_unplayed(late, is_unheard=False)


# --- its audio: holding, checking, ending; epochs are in `tests.unit.test_playback` -----------------------------------

MS = 24  # frames
SECOND = bytes(2 * 1000 * MS)


def playback(out: Outbox, *, guards: str = "", **policy: Any) -> Playback:
    player = Answer(Policy(**policy), out).playback
    player.guards = guards
    return player


def feed(player: Playback, item_id: str) -> None:
    """Feed one second of audio."""
    player.feed(item_id, 0, SECOND, 1, 100.0)


def test_held_audio_plays_as_far_as_the_checked_text_and_fully_once_all_text_has_passed() -> None:
    out = linked()
    player = playback(out, guards="ann", hold_audio=True, guardrail_debounce=5)
    feed(player, "a")
    assert out.take() == []
    player.read("a", 0, "Hello", 100.0, is_final=False)
    assert out.take() == [CheckText(OutputCheck(1), "ann", "output", "Hello")]
    player.gate.passed(1)
    player.release(1, 100.0, is_over=False)
    (first,) = out.take()
    assert isinstance(first, Play)
    assert len(first.pcm) == len(SECOND) // 5  # 5 of 25 characters a second
    player.read("a", 0, "Hello there", 100.0, is_final=True)
    player.gate.passed(2)
    player.release(1, 100.0, is_over=True)
    _, rest, *end = out.take()
    assert isinstance(rest, Play)
    assert len(first.pcm + rest.pcm) == len(SECOND)
    assert end == [FinishPlay(0), Emit(AudioEnd("a"))]


def test_audio_plays_at_once_without_guardrails_or_without_hold_audio() -> None:
    for guards, hold in (("", True), ("ann", False)):
        out = linked()
        feed(playback(out, guards=guards, hold_audio=hold), "a")
        assert out.take() == [Play(0, "a", SECOND)]


def test_at_the_end_every_text_is_checked_once_including_those_only_in_response_done() -> None:
    out = linked()
    player = playback(out, guards="ann", guardrail_debounce=-1)
    player.read("a", 0, "one", 100.0, is_final=False)
    player.read("b", 0, "two", 100.0, is_final=True)
    part = wire.ContentPart(type="output_audio", transcript="three")
    items = tuple(wire.Item(type="message", id=one, role="assistant", content=(part,)) for one in ("b", "c"))
    player.check_rest(wire.Response(id="r", output=items), 100.0)
    assert [one.text for one in out.take() if isinstance(one, CheckText)] == ["two", "three", "one"]
    player.check_rest(wire.Response(id="r", output=items), 100.0)
    assert out.take() == []


def test_the_end_of_playback_is_queued_once_and_only_after_audio() -> None:
    out = linked()
    player = playback(out)
    player.finish()
    assert out.take() == []
    feed(player, "a")
    feed(player, "b")
    out.take()
    player.finish()
    player.finish()
    assert out.take() == [FinishPlay(0), Emit(AudioEnd("b"))]


def test_only_the_newest_64_played_items_are_remembered() -> None:
    player = playback(linked())
    for number in range(65):
        player.note_played(f"i{number}")
        player.note_played(f"i{number}")
    assert player.played_items == tuple(f"i{number}" for number in range(1, 65))


def test_the_end_of_playback_is_queued_when_the_response_is_done() -> None:
    out = linked()
    region = started(out)
    ask(region)
    region.hear(audio(480), 1, 100.0)
    out.take()
    region.release(1, 100.0)
    assert out.take() == []
    region.close()
    region.release(1, 100.0)
    assert out.take() == [FinishPlay(0), Emit(AudioEnd("i"))]


def test_held_audio_is_never_played_after_a_flush_or_a_lost_link() -> None:
    for stop in (lambda region: region.playback.flush(), lambda region: region.cut_off()):
        out = linked()
        region = started(out, hold_audio=True)
        ask(region, by=spec("ann", has_output_guardrails=True))
        region.hear(audio(480), 1, 100.0)
        assert region.playback.gate.is_busy
        stop(region)
        assert not region.playback.gate.is_busy
        region.release(1, 100.0)
        assert not any(isinstance(one, Play) for one in out.take())
