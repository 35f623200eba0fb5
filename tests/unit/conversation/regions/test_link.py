"""Tests of the `link` region: the active link and, while rotating or failing back, a spare."""

from __future__ import annotations

from typing import Any

from appliance.conversation.commands import Connect, Disconnect, Emit
from appliance.conversation.events import LinkFailure
from appliance.conversation.notices import Connected
from appliance.conversation.policy import Policy
from appliance.conversation.regions.link import Links
from appliance.conversation.support.outbox import Outbox
from appliance.conversation.support.retry import Verdict, classify
from tests.unit.conversation.regions.outcome import notices


def verdict(kind: LinkFailure) -> Verdict:
    return classify(kind, None)


LOST, BAD_KEY, EXPIRED = verdict("lost"), verdict("bad_key"), verdict("session_expired")


def links(out: Outbox | None = None, *, seed: int = 0, **policy: Any) -> Links:
    return Links(Policy(**policy), out or Outbox(), seed=seed)


def make_usable(region: Links, now: float) -> None:
    """Let the server of the main link create its session and get its configuration."""
    assert region.main is not None
    region.created(region.main, now)
    region.configured(region.main)


def on_second_endpoint(out: Outbox, **policy: Any) -> Links:
    """Fail to reach the first of two endpoints at 0.0 and use the second from 1.0."""
    region = links(out, endpoints=2, failback_s=60.0, **policy)
    region.connect(0.0)
    region.lose(LOST, 0.0)
    make_usable(region, 1.0)
    out.take()
    return region


def with_a_spare(out: Outbox) -> Links:
    """Request a spare (link 3) to the first endpoint at 61.0."""
    region = on_second_endpoint(out)
    region.rest(61.0)
    out.take()
    return region


# --- the main link --------------------------------------------------------------------------------------------------


def test_the_link_is_usable_once_it_is_configured() -> None:
    out = Outbox()
    region = links(out, prepare_s=5.0)
    region.connect(0.0)
    assert region.main is not None
    region.created(region.main, 1.0, model="voice-1")
    assert (out.link, region.is_ready, region.is_usable, region.model) == (None, True, False, "voice-1")
    assert list(region.deadlines(is_idle=False)) == [6.0]
    region.configured(region.main)
    assert (out.link, region.is_usable, list(region.deadlines(is_idle=False))) == (1, True, [])
    region.connect(2.0)
    assert (out.link, region.is_usable) == (None, False)


def test_a_failed_connect_tries_the_next_endpoint_at_once() -> None:
    out = Outbox()
    region = links(out, endpoints=3)
    region.connect(0.0)
    region.lose(LOST, 1.0)
    region.lose(LOST, 2.0)
    assert out.take() == [Connect(1, 0), Connect(2, 1), Connect(3, 2)]


def test_a_new_round_starts_after_a_wait_once_all_endpoints_failed() -> None:
    out = Outbox()
    region = links(out, endpoints=2, backoff_initial_s=4.0)
    region.connect(0.0)
    region.lose(LOST, 1.0)
    region.lose(LOST, 2.0)
    out.take()
    assert region.retry_at is not None
    assert (region.retry_at >= 4.0, region.failures) == (True, 1)
    assert list(region.deadlines(is_idle=True)) == [region.retry_at]
    region.advance(region.retry_at - 0.1)
    assert out.take() == []
    region.advance(region.retry_at)
    assert (out.take(), region.retry_at) == ([Connect(3, 0)], None)


def test_the_backoff_grows_to_its_limit_and_is_determined_by_the_seed() -> None:
    def waits(seed: int) -> list[float]:
        region, now, found = links(seed=seed, backoff_initial_s=1.0, backoff_max_s=8.0), 0.0, []
        for _ in range(8):
            region.connect(now)
            region.lose(LOST, now)
            assert region.retry_at is not None
            found.append(region.retry_at - now)
            now = region.retry_at
        return found

    assert waits(1) == waits(1) != waits(2)
    assert max(waits(1)[:1]) <= 1.0 < max(waits(1)) <= 8.0


def test_a_stable_link_is_retried_after_a_wait_and_an_unstable_one_moves_on_at_once() -> None:
    for lost_at, at_once in ((10.9, [Connect(2, 1)]), (11.0, [])):
        out = Outbox()
        region = links(out, endpoints=2, stable_s=10.0, backoff_initial_s=1.0)
        region.connect(0.0)
        make_usable(region, 1.0)
        out.take()
        assert region.lose(LOST, lost_at)
        assert out.take() == at_once
        region.advance(20.0)
        assert out.take() == ([] if at_once else [Connect(2, 0)])


def test_without_a_configured_link_nothing_is_ready_and_an_idle_gap_does_nothing() -> None:
    out = Outbox()
    region = links(out, endpoints=2, offline_endpoint=1)
    region.restrict(1, 0.0)
    region.rest(0.0)
    assert (region.is_ready, region.is_usable, region.model, region.main_id) == (False, False, "", None)
    region.restrict(None, 0.0)
    region.connect(0.0)
    region.restrict(1, 1.0)
    region.rest(1.0)  # not configured yet
    assert out.take() == [Connect(1, 0)]


def test_a_blocked_endpoint_is_skipped_until_its_retry_time() -> None:
    out = Outbox()
    region = links(out, endpoints=2, fatal_retry_s=300.0)
    region.connect(0.0)
    region.lose(BAD_KEY, 0.0)
    region.lose(LOST, 1.0)
    assert region.fatal is None
    region.connect(2.0)
    region.lose(LOST, 2.0)
    region.connect(300.0)
    assert out.take() == [Connect(1, 0), Connect(2, 1), Connect(3, 1), Connect(4, 0)]


def test_the_link_has_failed_when_every_endpoint_is_blocked_until_a_session_is_created() -> None:
    region = links(endpoints=2, fatal_retry_s=300.0)
    region.connect(0.0)
    region.lose(BAD_KEY, 1.0)
    assert region.fatal is None
    region.lose(BAD_KEY, 2.0)
    assert (region.fatal, region.retry_at, region.failures) == (BAD_KEY, 301.0, 1)
    region.connect(5.0)
    make_usable(region, 6.0)
    assert region.fatal is None
    region.lose(LOST, 100.0)
    assert region.fatal is None  # session.created has unblocked this endpoint


def test_one_expired_session_is_normal_and_two_in_a_row_are_a_failure() -> None:
    region = links()
    region.connect(0.0)
    make_usable(region, 1.0)
    assert (region.lose(EXPIRED, 2.0), region.retry_at, region.failures) == (False, 2.0, 0)
    region.advance(2.0)
    make_usable(region, 3.0)
    assert region.lose(EXPIRED, 4.0)


def test_after_a_stable_session_expires_the_best_endpoint_is_tried_at_once() -> None:
    out = Outbox()
    region = links(out, endpoints=2, stable_s=10.0)
    region.connect(0.0)
    region.lose(LOST, 0.0)
    region.lose(LOST, 0.0)
    region.connect(1.0)
    region.lose(EXPIRED, 1.0)
    region.advance(100.0)
    region.lose(LOST, 100.0)
    make_usable(region, 101.0)
    out.take()
    assert (region.main.endpoint if region.main else None, region.failures) == (1, 1)
    assert not region.lose(EXPIRED, 111.0)
    assert (region.retry_at, region.failures) == (111.0, 0)
    region.advance(111.0)
    assert out.take()[-1] == Connect(region.made, 0)


# --- the spare ------------------------------------------------------------------------------------------------------


def test_a_spare_to_a_better_endpoint_is_opened_only_when_idle() -> None:
    out = Outbox()
    region = on_second_endpoint(out)
    assert (list(region.deadlines(is_idle=False)), list(region.deadlines(is_idle=True))) == ([], [61.0])
    region.rest(60.9)
    assert out.take() == []
    region.rest(61.0)
    assert (out.take(), region.main_id, out.link) == ([Connect(3, 0)], 2, 2)


def test_a_ready_spare_takes_over_in_an_idle_gap() -> None:
    out = Outbox()
    region = with_a_spare(out)
    assert region.spare is not None
    region.created(region.spare, 62.0)
    assert (out.take(), region.main_id) == ([], 2)
    region.rest(63.0)
    commands = out.take()
    assert commands[0] == Disconnect(2)
    assert notices(commands) == [Connected(3, 0)]
    assert (region.main_id, region.spare, out.link) == (3, None, None)


def test_a_spare_takes_over_when_the_main_link_is_lost_whether_ready_or_not() -> None:
    for is_ready in (True, False):
        out = Outbox()
        region = with_a_spare(out)
        assert region.spare is not None
        if is_ready:
            region.created(region.spare, 62.0)
        region.lose(LOST, 63.0)
        assert (region.main_id, region.spare, out.link, region.retry_at) == (3, None, None, None)
        assert out.take() == [Emit(Connected(3, 0))] * is_ready


def test_a_spare_that_times_out_leaves_the_main_link_and_is_retried_later() -> None:
    out = Outbox()
    region = with_a_spare(out)
    assert list(region.deadlines(is_idle=False)) == [76.0]
    region.advance(75.9)
    assert out.take() == []
    region.advance(76.0)
    assert out.take() == [Disconnect(3)]
    assert (region.main_id, region.spare, out.link, list(region.deadlines(is_idle=True))) == (2, None, 2, [136.0])


def test_better_endpoints_are_tried_in_order_and_later_again_unless_blocked() -> None:
    out = Outbox()
    region = links(out, endpoints=3, failback_s=60.0, fatal_retry_s=300.0)
    region.connect(0.0)
    region.lose(LOST, 0.0)
    region.lose(LOST, 0.0)
    make_usable(region, 1.0)
    out.take()
    region.rest(61.0)
    region.lose_spare(62.0, BAD_KEY)
    region.rest(62.0)
    region.lose_spare(63.0, LOST)
    region.rest(122.9)
    assert out.take() == [Connect(4, 0), Connect(5, 1)]
    region.rest(123.0)
    assert out.take() == [Connect(6, 1)]


def test_without_an_unblocked_better_endpoint_the_main_link_stays_and_failback_is_retried_later() -> None:
    out = Outbox()
    region = links(out, endpoints=2, failback_s=60.0, fatal_retry_s=300.0)
    region.connect(0.0)
    region.lose(BAD_KEY, 0.0)
    make_usable(region, 1.0)
    out.take()
    region.rest(61.0)
    assert (out.take(), region.spare, list(region.deadlines(is_idle=True))) == ([], None, [121.0])


def test_a_session_is_rotated_to_the_same_endpoint_before_it_expires() -> None:
    out = Outbox()
    region = links(out, rotate_after_s=3300.0)
    region.connect(0.0)
    make_usable(region, 1.0)
    region.rest(3300.9)
    assert region.spare is None
    region.rest(3301.0)
    assert out.take()[-1] == Connect(2, 0)
    assert region.main_id == 1


# --- the budget -----------------------------------------------------------------------------------------------------


def test_a_restriction_to_the_offline_brain_switches_endpoints_and_lifting_it_allows_failback() -> None:
    out = Outbox()
    region = links(out, endpoints=2, offline_endpoint=1, failback_s=60.0)
    region.connect(0.0)
    make_usable(region, 1.0)
    out.take()
    region.restrict(1, 10.0)
    assert list(region.deadlines(is_idle=True)) == [10.0]
    region.rest(10.0)
    assert (out.take(), out.link) == ([Disconnect(1), Connect(2, 1)], None)
    make_usable(region, 11.0)
    region.rest(1000.0)
    region.restrict(None, 1000.0)
    assert list(region.deadlines(is_idle=True)) == [1060.0]
