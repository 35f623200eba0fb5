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
from tests.unit.regions.outcome import notices


def because(kind: LinkFailure) -> Verdict:
    return classify(kind, None)


LOST, BAD_KEY, EXPIRED = because("lost"), because("bad_key"), because("session_expired")


def links(out: Outbox | None = None, *, seed: int = 0, **policy: Any) -> Links:
    return Links(Policy(**policy), out or Outbox(), seed=seed)


def greet(made: Links, now: float) -> None:
    """Let the server of the main link create its session and get its configuration."""
    assert made.main is not None
    made.created(made.main, now)
    made.configured(made.main)


def on_the_second(out: Outbox, **policy: Any) -> Links:
    """Fail to reach the first of two endpoints at 0.0 and use the second from 1.0."""
    made = links(out, endpoints=2, failback_s=60.0, **policy)
    made.connect(0.0)
    made.lose(LOST, 0.0)
    greet(made, 1.0)
    out.take()
    return made


def with_a_spare(out: Outbox) -> Links:
    """Request a spare (link 3) to the first endpoint at 61.0."""
    made = on_the_second(out)
    made.rest(61.0)
    out.take()
    return made


# --- the main link --------------------------------------------------------------------------------------------------


def test_the_link_is_usable_once_it_is_configured() -> None:
    out = Outbox()
    made = links(out, prepare_s=5.0)
    made.connect(0.0)
    assert made.main is not None
    made.created(made.main, 1.0, model="voice-1")
    assert (out.link, made.is_ready, made.is_usable, made.model) == (None, True, False, "voice-1")
    assert list(made.deadlines(is_idle=False)) == [6.0]
    made.configured(made.main)
    assert (out.link, made.is_usable, list(made.deadlines(is_idle=False))) == (1, True, [])
    made.connect(2.0)
    assert (out.link, made.is_usable) == (None, False)


def test_a_failed_connect_tries_the_next_endpoint_at_once() -> None:
    out = Outbox()
    made = links(out, endpoints=3)
    made.connect(0.0)
    made.lose(LOST, 1.0)
    made.lose(LOST, 2.0)
    assert out.take() == [Connect(1, 0), Connect(2, 1), Connect(3, 2)]


def test_a_new_round_starts_after_a_wait_once_all_endpoints_failed() -> None:
    out = Outbox()
    made = links(out, endpoints=2, backoff_initial_s=4.0)
    made.connect(0.0)
    made.lose(LOST, 1.0)
    made.lose(LOST, 2.0)
    out.take()
    assert made.retry_at is not None
    assert (made.retry_at >= 4.0, made.failures, list(made.deadlines(is_idle=True))) == (True, 1, [made.retry_at])
    made.advance(made.retry_at - 0.1)
    assert out.take() == []
    made.advance(made.retry_at)
    assert (out.take(), made.retry_at) == ([Connect(3, 0)], None)


def test_the_backoff_grows_to_its_limit_and_is_determined_by_the_seed() -> None:
    def waits(seed: int) -> list[float]:
        made, now, found = links(seed=seed, backoff_initial_s=1.0, backoff_max_s=8.0), 0.0, []
        for _ in range(8):
            made.connect(now)
            made.lose(LOST, now)
            assert made.retry_at is not None
            found.append(made.retry_at - now)
            now = made.retry_at
        return found

    assert waits(1) == waits(1) != waits(2)
    assert max(waits(1)[:1]) <= 1.0 < max(waits(1)) <= 8.0


def test_a_stable_link_is_retried_after_a_wait_and_an_unstable_one_moves_on_at_once() -> None:
    for lost_at, at_once in ((10.9, [Connect(2, 1)]), (11.0, [])):
        out = Outbox()
        made = links(out, endpoints=2, stable_s=10.0, backoff_initial_s=1.0)
        made.connect(0.0)
        greet(made, 1.0)
        out.take()
        assert made.lose(LOST, lost_at)
        assert out.take() == at_once
        made.advance(20.0)
        assert out.take() == ([] if at_once else [Connect(2, 0)])


def test_without_a_configured_link_nothing_is_ready_and_an_idle_gap_does_nothing() -> None:
    out = Outbox()
    made = links(out, endpoints=2, offline_endpoint=1)
    made.restrict(1, 0.0)
    made.rest(0.0)
    assert (made.is_ready, made.is_usable, made.model, made.main_id) == (False, False, "", None)
    made.restrict(None, 0.0)
    made.connect(0.0)
    made.restrict(1, 1.0)
    made.rest(1.0)  # not configured yet
    assert out.take() == [Connect(1, 0)]


def test_a_blocked_endpoint_is_skipped_until_its_retry_time() -> None:
    out = Outbox()
    made = links(out, endpoints=2, fatal_retry_s=300.0)
    made.connect(0.0)
    made.lose(BAD_KEY, 0.0)
    made.lose(LOST, 1.0)
    assert made.fatal is None
    made.connect(2.0)
    made.lose(LOST, 2.0)
    made.connect(300.0)
    assert out.take() == [Connect(1, 0), Connect(2, 1), Connect(3, 1), Connect(4, 0)]


def test_the_link_has_failed_when_every_endpoint_is_blocked_until_a_session_is_created() -> None:
    made = links(endpoints=2, fatal_retry_s=300.0)
    made.connect(0.0)
    made.lose(BAD_KEY, 1.0)
    assert made.fatal is None
    made.lose(BAD_KEY, 2.0)
    assert (made.fatal, made.retry_at, made.failures) == (BAD_KEY, 301.0, 1)
    made.connect(5.0)
    greet(made, 6.0)
    assert made.fatal is None
    made.lose(LOST, 100.0)
    assert made.fatal is None  # session.created has unblocked this endpoint


def test_one_expired_session_is_normal_and_two_in_a_row_are_a_failure() -> None:
    made = links()
    made.connect(0.0)
    greet(made, 1.0)
    assert (made.lose(EXPIRED, 2.0), made.retry_at, made.failures) == (False, 2.0, 0)
    made.advance(2.0)
    greet(made, 3.0)
    assert made.lose(EXPIRED, 4.0)


def test_after_a_stable_session_expires_the_best_endpoint_is_tried_at_once() -> None:
    out = Outbox()
    made = links(out, endpoints=2, stable_s=10.0)
    made.connect(0.0)
    made.lose(LOST, 0.0)
    made.lose(LOST, 0.0)
    made.connect(1.0)
    made.lose(EXPIRED, 1.0)
    made.advance(100.0)
    made.lose(LOST, 100.0)
    greet(made, 101.0)
    out.take()
    assert (made.main.endpoint if made.main else None, made.failures) == (1, 1)
    assert not made.lose(EXPIRED, 111.0)
    assert (made.retry_at, made.failures) == (111.0, 0)
    made.advance(111.0)
    assert out.take()[-1] == Connect(made.made, 0)


# --- the spare ------------------------------------------------------------------------------------------------------


def test_a_spare_to_a_better_endpoint_is_opened_only_when_idle() -> None:
    out = Outbox()
    made = on_the_second(out)
    assert (list(made.deadlines(is_idle=False)), list(made.deadlines(is_idle=True))) == ([], [61.0])
    made.rest(60.9)
    assert out.take() == []
    made.rest(61.0)
    assert (out.take(), made.main_id, out.link) == ([Connect(3, 0)], 2, 2)


def test_a_ready_spare_takes_over_in_an_idle_gap() -> None:
    out = Outbox()
    made = with_a_spare(out)
    assert made.spare is not None
    made.created(made.spare, 62.0)
    assert (out.take(), made.main_id) == ([], 2)
    made.rest(63.0)
    commands = out.take()
    assert commands[0] == Disconnect(2)
    assert notices(commands) == [Connected(3, 0)]
    assert (made.main_id, made.spare, out.link) == (3, None, None)


def test_a_spare_takes_over_when_the_main_link_is_lost_whether_ready_or_not() -> None:
    for is_ready in (True, False):
        out = Outbox()
        made = with_a_spare(out)
        assert made.spare is not None
        if is_ready:
            made.created(made.spare, 62.0)
        made.lose(LOST, 63.0)
        assert (made.main_id, made.spare, out.link, made.retry_at) == (3, None, None, None)
        assert out.take() == [Emit(Connected(3, 0))] * is_ready


def test_a_spare_that_times_out_leaves_the_main_link_and_is_retried_later() -> None:
    out = Outbox()
    made = with_a_spare(out)
    assert list(made.deadlines(is_idle=False)) == [76.0]
    made.advance(75.9)
    assert out.take() == []
    made.advance(76.0)
    assert out.take() == [Disconnect(3)]
    assert (made.main_id, made.spare, out.link, list(made.deadlines(is_idle=True))) == (2, None, 2, [136.0])


def test_better_endpoints_are_tried_in_order_and_later_again_unless_blocked() -> None:
    out = Outbox()
    made = links(out, endpoints=3, failback_s=60.0, fatal_retry_s=300.0)
    made.connect(0.0)
    made.lose(LOST, 0.0)
    made.lose(LOST, 0.0)
    greet(made, 1.0)
    out.take()
    made.rest(61.0)
    made.lose_spare(62.0, BAD_KEY)
    made.rest(62.0)
    made.lose_spare(63.0, LOST)
    made.rest(122.9)
    assert out.take() == [Connect(4, 0), Connect(5, 1)]
    made.rest(123.0)
    assert out.take() == [Connect(6, 1)]


def test_without_an_unblocked_better_endpoint_the_main_link_stays_and_failback_is_retried_later() -> None:
    out = Outbox()
    made = links(out, endpoints=2, failback_s=60.0, fatal_retry_s=300.0)
    made.connect(0.0)
    made.lose(BAD_KEY, 0.0)
    greet(made, 1.0)
    out.take()
    made.rest(61.0)
    assert (out.take(), made.spare, list(made.deadlines(is_idle=True))) == ([], None, [121.0])


def test_a_session_is_rotated_to_the_same_endpoint_before_it_expires() -> None:
    out = Outbox()
    made = links(out, rotate_after_s=3300.0)
    made.connect(0.0)
    greet(made, 1.0)
    made.rest(3300.9)
    assert made.spare is None
    made.rest(3301.0)
    assert out.take()[-1] == Connect(2, 0)
    assert made.main_id == 1


# --- the budget -----------------------------------------------------------------------------------------------------


def test_a_restriction_to_the_offline_brain_switches_endpoints_and_lifting_it_allows_failback() -> None:
    out = Outbox()
    made = links(out, endpoints=2, offline_endpoint=1, failback_s=60.0)
    made.connect(0.0)
    greet(made, 1.0)
    out.take()
    made.restrict(1, 10.0)
    assert list(made.deadlines(is_idle=True)) == [10.0]
    made.rest(10.0)
    assert (out.take(), out.link) == ([Disconnect(1), Connect(2, 1)], None)
    greet(made, 11.0)
    made.rest(1000.0)
    made.restrict(None, 1000.0)
    assert list(made.deadlines(is_idle=True)) == [1060.0]
