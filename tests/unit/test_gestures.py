"""Tests of the conversion of edges to gestures, in virtual time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.conversation.support.gestures import Gesture, Gestures


def _run(
    edges: list[tuple[float, bool]], until: float, *, guarded_before: float = 0.0, **times: float
) -> list[Gesture]:
    """Feed edges at their times and advance at every deadline in between."""
    gestures, reported = Gestures(**times), []
    for at, pressed in [*edges, (until, None)]:
        while (due := gestures.deadline) is not None and due <= at:
            reported += gestures.advance(due)
        if pressed is not None:
            reported += gestures.feed(pressed, at, is_guarded=at < guarded_before)
    return reported


def _kinds(reported: list[Gesture]) -> list[str]:
    return [one.kind for one in reported]


def test_a_press_is_reported_at_its_first_edge() -> None:
    assert _run([(1.0, True)], 1.0) == [Gesture("press", 1.0)]


def test_a_release_has_the_time_of_its_edge_not_of_its_confirmation() -> None:
    reported = _run([(1.0, True), (1.6, False)], 3.0)
    assert [(one.kind, one.at) for one in reported] == [("press", 1.0), ("release", 1.6)]


def test_bounce_on_both_edges_is_one_press_and_one_release() -> None:
    bounce = [(1.0, True), (1.003, False), (1.006, True), (1.5, False), (1.504, True), (1.508, False)]
    assert _kinds(_run(bounce, 3.0)) == ["press", "release"]


def test_a_short_press_is_a_tap_and_two_are_a_double_tap() -> None:
    edges = [(1.0, True), (1.1, False), (1.3, True), (1.4, False)]
    assert _kinds(_run(edges, 3.0, double_tap_s=0.4)) == ["press", "release", "tap", "double_tap", "release"]
    assert _kinds(_run(edges, 3.0)) == ["press", "release", "tap"] * 2


def test_three_taps_are_a_double_tap_and_a_tap() -> None:
    edges = [(at + start, at == 0) for start in (1.0, 1.2, 1.4) for at in (0, 0.1)]
    kinds = ["press", "release", "tap", "double_tap", "release", "press", "release", "tap"]
    assert _kinds(_run(edges, 3.0, double_tap_s=0.4)) == kinds


def test_two_slow_taps_are_not_a_double_tap() -> None:
    edges = [(1.0, True), (1.1, False), (1.5, True), (1.6, False)]
    assert "double_tap" not in _kinds(_run(edges, 5.0, double_tap_s=0.4))


@pytest.mark.parametrize("ms", [0, 2, 8, 14])
def test_pulse_that_is_too_short_is_no_gesture(ms: int) -> None:
    assert _run([(1.0, True), (1.0 + ms / 1000, False)], 60.0, min_press_s=0.015) == []


def test_press_is_confirmed_after_its_shortest_time_and_has_the_time_of_its_edge() -> None:
    gestures = Gestures(min_press_s=0.015)
    assert gestures.feed(True, 1.0) == []
    assert (gestures.is_pending, gestures.is_held, gestures.deadline) == (True, False, 1.015)
    assert gestures.advance(1.015) == [Gesture("press", 1.0)]
    assert (gestures.is_pending, gestures.is_held) == (False, True)


def test_bounce_does_not_delay_the_confirmation_of_a_press() -> None:
    bounce = [(1.0, True), (1.003, False), (1.006, True), (1.009, False), (1.012, True), (1.5, False)]
    assert _kinds(_run(bounce, 1.016, min_press_s=0.015))[:1] == ["press"]


def test_spikes_in_a_row_are_no_press() -> None:
    """Each is closer to the next than the debounce of a release."""
    spikes = [(1.0 + 0.018 * number + at, at == 0) for number in range(50) for at in (0, 0.002)]
    assert _run(spikes, 5.0, min_press_s=0.015) == []


def test_press_that_has_answered_something_makes_no_tap_and_no_hold() -> None:
    gestures = Gestures()
    gestures.feed(True, 1.0)
    gestures.use_up()
    assert _kinds([*gestures.advance(10.0), *gestures.feed(False, 11.0), *gestures.advance(12.0)]) == ["release"]


def test_holds_are_reported_in_order_however_late() -> None:
    gestures = Gestures(holds={"power_off_hold": 10.0, "hold": 1.0, "mute_hold": 4.0})
    gestures.feed(True, 1.0)
    reported = gestures.advance(12.0)
    assert [(one.kind, one.at) for one in reported] == [("hold", 2.0), ("mute_hold", 5.0), ("power_off_hold", 11.0)]


def test_a_hold_is_reported_once_after_one_second() -> None:
    reported = _run([(1.0, True), (5.0, False)], 6.0)
    assert [(one.kind, one.at) for one in reported] == [("press", 1.0), ("hold", 2.0), ("release", 5.0)]


def test_a_hold_is_never_a_tap_however_long_a_tap_may_be() -> None:
    gestures = Gestures(tap_max_s=2.0)
    reported = [*gestures.feed(True, 1.0), *gestures.advance(2.0), *gestures.feed(False, 2.5), *gestures.advance(3.0)]
    assert _kinds(reported) == ["press", "hold", "release"]


def test_a_button_held_down_at_the_start_is_not_a_press_but_stuck_after_30_s() -> None:
    assert _kinds(_run([(0.5, True)], 31.0, guarded_before=1.0)) == ["stuck"]
    assert _kinds(_run([(0.5, True), (10.0, False)], 60.0, guarded_before=1.0)) == []
    assert _kinds(_run([(0.5, True), (40.0, False)], 60.0, guarded_before=1.0)) == ["stuck", "freed"]


def test_reading_the_level_again_recovers_a_lost_edge() -> None:
    assert _kinds(_run([(1.0, True), (1.25, True), (1.5, False)], 3.0)) == ["press", "release"]


@given(st.lists(st.tuples(st.floats(0.001, 2.0), st.booleans()), max_size=60))
def test_presses_and_releases_always_alternate(steps: list[tuple[float, bool]]) -> None:
    at, edges = 1.0, []
    for delay, pressed in steps:
        at += delay
        edges.append((at, pressed))
    kinds = [kind for kind in _kinds(_run(edges, at + 1.0)) if kind in ("press", "release")]
    assert kinds[::2] == ["press"] * len(kinds[::2])
    assert kinds[1::2] == ["release"] * len(kinds[1::2])


@given(st.lists(st.tuples(st.floats(0.0, 3.0), st.booleans()), max_size=60))
def test_a_passed_deadline_is_removed(steps: list[tuple[float, bool]]) -> None:
    gestures, at = Gestures(min_press_s=0.015, double_tap_s=0.4), 1.0
    for delay, pressed in steps:
        at += delay
        gestures.feed(pressed, at)
        gestures.advance(at)
        assert gestures.deadline is None or gestures.deadline > at
