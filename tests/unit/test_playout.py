"""Tests of `Playout`: how much of the queued audio was heard."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from appliance.conversation.support.playback import Heard, Playout


def test_played_frames_are_attributed_to_the_items_in_order() -> None:
    playout = Playout()
    playout.queue("a", 0, 2400)
    playout.queue("b", 0, 2400)
    playout.progress(3600, drained=False)
    assert [(one.item_id, one.heard_ms, one.is_whole) for one in playout.heard()] == [
        ("a", 100, True),
        ("b", 50, False),
    ]


def test_after_a_flush_nothing_is_queued_and_nothing_more_is_heard() -> None:
    playout = Playout()
    playout.queue("a", 0, 2400)
    playout.queue("b", 0, 2400)
    playout.progress(3600, drained=False)
    playout.flush()
    assert playout.heard() == []
    assert not playout.is_pending
    assert not playout.progress(9999, drained=True)


def test_after_a_flush_frames_are_counted_from_zero() -> None:
    playout = Playout()
    playout.queue("a", 0, 2400)
    playout.progress(1200, drained=False)
    playout.flush()
    playout.queue("a", 0, 4800)
    assert playout.heard() == [Heard("a", 0, 4800, 0, False)]
    assert playout.progress(480, drained=False)
    assert playout.heard() == [Heard("a", 0, 4800, 20, False)]


def test_a_report_never_goes_back_or_beyond_what_was_queued() -> None:
    playout = Playout()
    playout.queue("a", 0, 1000)
    assert playout.progress(5000, drained=False)
    assert not playout.progress(10, drained=False)
    assert (playout.heard()[0].heard_ms, playout.heard()[0].is_whole) == (41, True)


def test_drained_tolerates_rate_rounding_but_not_a_report_from_before_the_last_delta() -> None:
    playout = Playout()
    playout.queue("a", 0, 10_000)
    playout.progress(9_990, drained=True)
    assert not playout.is_pending
    playout.queue("a", 0, 10_000)
    playout.progress(10_000, drained=True)
    assert playout.is_pending, "the report was made before the second delta was queued"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5000)), min_size=1), st.integers(0, 60_000))
def test_heard_and_received_frames_add_up(queued: list[tuple[str, int]], played: int) -> None:
    playout = Playout()
    for item, frames in queued:
        playout.queue(item, 0, frames)
    playout.progress(played, drained=False)
    heard = playout.heard()
    total = sum(frames for _, frames in queued)
    assert sum(one.received_frames for one in heard if one.is_whole) <= min(played, total)
    assert all(one.is_whole for one in heard) == (played >= total)
    assert sum(one.received_frames for one in heard) == total
    assert all(one.heard_ms <= one.received_frames * 1000 // 24_000 for one in heard)
    assert playout.is_pending == (played < total)
