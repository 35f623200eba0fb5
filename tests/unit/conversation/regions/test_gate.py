"""Tests of the `gate` region: the conditions that hold up the answer to a turn."""

from __future__ import annotations

from appliance.conversation.commands import CheckText, PrepareAgent
from appliance.conversation.events import InputCheck, TurnKey
from appliance.conversation.policy import Policy
from appliance.conversation.regions.gate import Gate
from appliance.conversation.support.outbox import Outbox


def started(out: Outbox | None = None, **policy: float) -> Gate:
    return Gate(Policy(**policy), out or Outbox())


def is_open(gate: Gate) -> bool:
    return gate.is_prepared and gate.is_checked


def test_before_the_first_turn_the_gate_is_open_and_refuses_nothing() -> None:
    gate = started()
    assert (is_open(gate), gate.end("turn_1")) == (True, False)


def test_a_turn_without_conditions_has_an_open_gate() -> None:
    gate = started()
    assert (is_open(gate), gate.deadline(7.0)) == (True, 7.0)


def test_instructions_are_requested_for_one_turn_and_replay_and_open_the_gate() -> None:
    out = Outbox()
    gate = started(out)
    gate.prepare(TurnKey("turn_1", 2), "ann", 100.0)
    assert out.take() == [PrepareAgent(TurnKey("turn_1", 2), "ann", "turn")]
    assert not is_open(gate)
    gate.prepared()
    assert is_open(gate)


def test_the_transcript_is_checked_before_the_gate_opens() -> None:
    out = Outbox()
    gate = started(out)
    gate.await_words(100.0)
    assert (is_open(gate), out.take()) == (False, [])
    gate.check(InputCheck("turn_1"), "ann", "hello", 101.0)
    assert out.take() == [CheckText(InputCheck("turn_1"), "ann", "input", "hello")]
    assert not is_open(gate)
    gate.checked()
    assert (is_open(gate), gate.has_passed) == (True, True)


def test_the_gate_needs_both_the_instructions_and_the_check() -> None:
    gate = started()
    gate.prepare(TurnKey("turn_1", 0), "ann", 100.0)
    gate.await_words(100.0)
    gate.checked()
    assert not is_open(gate)
    gate.await_words(100.0)
    gate.prepared()
    assert not is_open(gate)


def test_the_deadline_is_that_of_the_earliest_wait_and_a_check_has_its_own() -> None:
    gate = started(prepare_s=5.0, transcript_s=10.0, guardrail_s=2.0)
    gate.await_words(100.0)
    assert gate.deadline(1000.0) == 110.0
    gate.prepare(TurnKey("turn_1", 0), "ann", 100.0)
    assert gate.deadline(1000.0) == 105.0
    gate.check(InputCheck("turn_1"), "ann", "hello", 102.0)
    assert gate.deadline(1000.0) == 104.0


def test_a_wait_is_late_from_its_deadline_until_it_is_over() -> None:
    gate = started(prepare_s=5.0, transcript_s=10.0)
    gate.prepare(TurnKey("turn_1", 0), "ann", 100.0)
    gate.await_words(100.0)
    assert (gate.are_instructions_late(104.9), gate.are_instructions_late(105.0)) == (False, True)
    assert (gate.is_check_late(109.9), gate.is_check_late(110.0)) == (False, True)
    gate.prepared()
    gate.checked()
    assert not (gate.are_instructions_late(200.0) or gate.is_check_late(200.0))


def test_a_turn_that_ends_unchecked_is_refused_permanently() -> None:
    gate = started()
    gate.await_words(100.0)
    assert gate.end("turn_1")
    assert not gate.end("turn_1")
    assert (gate.refuses("turn_1"), gate.refuses("turn_2"), is_open(gate)) == (True, False, True)


def test_a_turn_without_a_check_is_not_refused_even_if_its_instructions_never_arrive() -> None:
    gate = started()
    gate.prepare(TurnKey("turn_1", 0), "ann", 100.0)
    assert not gate.end("turn_1")
    assert not gate.refuses("turn_1")


def test_the_next_turn_starts_with_an_open_gate_and_no_passed_check() -> None:
    gate = started()
    gate.await_words(100.0)
    gate.checked()
    gate.prepare(TurnKey("turn_1", 0), "ann", 100.0)
    assert not gate.end("turn_1")
    assert (is_open(gate), gate.has_passed) == (True, False)


def test_only_the_newest_64_refused_turns_are_remembered() -> None:
    gate = started()
    for number in range(65):
        gate.await_words(100.0)
        gate.end(f"turn_{number}")
    assert [gate.refuses(f"turn_{number}") for number in (0, 1, 64)] == [False, True, True]
