"""Tests of the `out_of_band` region: questions outside the conversation."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.conversation.commands import Emit
from appliance.conversation.events import OutOfBandAsked
from appliance.conversation.notices import OutOfBandEnded
from appliance.conversation.regions.out_of_band import OutOfBand
from appliance.conversation.support.outbox import Outbox, OutOfBandOf
from appliance.realtime import protocol as wire
from appliance.realtime.items import HistoryItem
from tests.unit.conversation.regions.outcome import frames, linked, notices


def with_questions(out: Outbox, *keys: str) -> OutOfBand:
    """Ask these questions at 100.0 with a timeout of 30 s."""
    region = OutOfBand(out)
    for key in keys:
        region.ask(OutOfBandAsked(key, {"input": []}), 100.0)
    out.take()
    return region


def created(response_id: str, **metadata: str) -> wire.ResponseCreated:
    return wire.ResponseCreated(response=wire.Response(id=response_id, metadata=metadata))


def done(response_id: str, status: str = "completed", aside: str = "", **more: Any) -> wire.ResponseDone:
    metadata = {"aside": aside} if aside else {}
    return wire.ResponseDone(response=wire.Response(id=response_id, status=status, metadata=metadata, **more))


def cancel(response_id: str) -> list[dict[str, Any]]:
    return [{"type": "response.cancel", "response_id": response_id}]


def problems(out: Outbox) -> list[tuple[str, str]]:
    return [(one.key, one.problem) for one in notices(out.take()) if isinstance(one, OutOfBandEnded)]


def test_a_question_is_sent_with_conversation_none_and_an_event_id() -> None:
    out = linked()
    region = OutOfBand(out)
    region.ask(OutOfBandAsked("k", {"input": [], "metadata": {"mine": "1"}, "conversation": "auto"}), 100.0)
    response = {"input": [], "conversation": "none", "metadata": {"mine": "1", "aside": "k"}}
    assert frames(out.take()) == [{"type": "response.create", "event_id": "aside_k", "response": response}]
    assert out.cause("aside_k") == OutOfBandOf("k")
    assert (bool(region), list(region.deadlines())) == (True, [130.0])


def test_a_question_without_a_link_ends_at_once() -> None:
    out = Outbox()
    region = OutOfBand(out)
    region.ask(OutOfBandAsked("k", {}), 100.0)
    assert ([key for key, problem in problems(out) if problem], bool(region)) == (["k"], False)


def test_the_answer_is_emitted_once_and_ends_the_question() -> None:
    out = linked()
    region = with_questions(out, "k")
    part = wire.ContentPart(type="output_text", text="yes")
    item = wire.Item(type="message", id="i", role="assistant", status="completed", content=(part,))
    for _ in range(2):
        assert region.owns(done("r", aside="k", output=(item,)))
    assert out.take() == [Emit(OutOfBandEnded("k", (HistoryItem(id="i", role="assistant", text="yes"),)))]
    assert not region


@pytest.mark.parametrize(("error", "named"), [(wire.ErrorDetail(message="too long"), "too long"), (None, "failed")])
def test_a_failed_answer_names_the_reason(error: wire.ErrorDetail | None, named: str) -> None:
    out = linked()
    with_questions(out, "k").owns(done("r", "failed", aside="k", error=error))
    ((key, problem),) = problems(out)
    assert (key, named in problem) == ("k", True)


def test_a_question_owns_exactly_the_events_of_its_response() -> None:
    region = with_questions(linked(), "k")
    delta = {"item_id": "i", "delta": "word"}
    assert region.owns(created("r", aside="k"))
    assert region.owns(wire.OutputTextDelta(response_id="r", **delta))
    assert region.owns(done("r"))  # from a server that drops the metadata
    assert not region.owns(created("r2", turn="turn_1"))
    assert not region.owns(wire.OutputTextDelta(response_id="r2", **delta))
    assert not region.owns(done("r2"))
    assert not region.owns(wire.InputAudioBufferCommitted(item_id="i"))


def test_a_refused_question_ends_once_with_the_reason() -> None:
    out = linked()
    region = with_questions(out, "k", "k2")
    assert region.refuse("k", "no such voice")
    assert problems(out) == [("k", "no such voice")]
    assert (region.refuse("k", "again"), problems(out), bool(region)) == (False, [], True)
    region.refuse("k2", "")
    ((_, problem),) = problems(out)
    assert problem


def test_a_late_question_ends_and_is_cancelled_if_its_response_has_started() -> None:
    out = linked()
    region = with_questions(out, "begun", "not_begun")
    region.owns(created("r", aside="begun"))
    region.advance(129.9)
    assert out.take() == []
    region.advance(130.0)
    commands = out.take()
    assert frames(commands) == cancel("r")
    assert [(one.key, "30 s" in one.problem) for one in notices(commands)] == [("begun", True), ("not_begun", True)]
    assert not region


def test_a_response_created_after_its_question_timed_out_is_cancelled() -> None:
    out = linked()
    region = with_questions(out, "k")
    region.advance(130.0)
    out.take()
    assert region.owns(created("r", aside="k"))
    assert frames(out.take()) == cancel("r")


def test_a_lost_link_ends_every_question_and_forgets_its_responses() -> None:
    out = linked()
    region = with_questions(out, "k", "k2")
    region.owns(created("r", aside="k"))
    region.given({"metadata": {"mine": "1"}})
    region.lose()
    assert [key for key, problem in problems(out) if problem] == ["k", "k2"]
    assert not region
    assert not region.owns(done("r"))
    assert not region.owns(created("r2", mine="1"))


def test_a_raw_out_of_band_frame_is_recognised_once_by_its_metadata() -> None:
    out = linked()
    region = OutOfBand(out)
    region.given({"metadata": {"mine": "1"}})
    assert not region.owns(created("r1", mine="2"))
    assert region.owns(created("r2", mine="1"))
    assert region.owns(done("r2"))
    assert not region.owns(created("r3", mine="1"))
    assert out.take() == []


def test_a_rejected_question_is_never_sent() -> None:
    out = linked()
    region = OutOfBand(out)
    region.reject("k", "the budget is spent")
    assert out.take() == [Emit(OutOfBandEnded("k", (), "the budget is spent"))]
    assert not region


def test_only_the_newest_64_responses_are_remembered() -> None:
    region = OutOfBand(linked())
    for number in range(65):
        region.owns(created(f"r{number}", aside="k"))
    assert [region.owns(done(f"r{number}")) for number in (0, 1, 64)] == [False, True, True]
