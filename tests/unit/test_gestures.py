"""Tests of the conversion of edges to gestures, in virtual time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from appliance.conversation.support.gestures import Gesture, Gestures


def _run(edges: list[tuple[float, bool]], until: float, *, guarded_before: float = 0.0) -> list[Gesture]:
    """Feed edges at their times and advance at every deadline in between."""
    gestures, reported = Gestures(), []
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
    assert _kinds(_run(edges, 3.0)) == ["press", "release", "tap", "press", "release", "tap", "double_tap"]


def test_two_slow_taps_are_not_a_double_tap() -> None:
    assert "double_tap" not in _kinds(_run([(1.0, True), (1.1, False), (3.0, True), (3.1, False)], 5.0))


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
    gestures, at = Gestures(), 1.0
    for delay, pressed in steps:
        at += delay
        gestures.feed(pressed, at)
        gestures.advance(at)
        assert gestures.deadline is None or gestures.deadline > at
