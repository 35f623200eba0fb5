"""Tests of the classification of link failures, the use of the last error, and the backoff."""

from __future__ import annotations

import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.conversation.events import FAILURE_OF_ERROR_CODE, LinkFailure
from appliance.conversation.support.retry import Backoff, classify
from appliance.wording import Wording

KINDS: tuple[LinkFailure, ...] = get_args(LinkFailure)
FATAL = {
    "account_closed",
    "bad_address",
    "bad_key",
    "bad_shape",
    "model_not_found",
    "no_credit",
    "no_key",
    "not_an_endpoint",
    "policy",
    "proxy",
    "region",
    "unauthorized",
}

# (kind, code, last error) -> kind; the first block is recorded from the live service
ROWS = [
    ("session_expired", 1001, "session_expired", "session_expired"),
    ("closed", 1001, "session_expired", "session_expired"),
    ("bad_key", 3000, "invalid_api_key", "bad_key"),
    ("no_credit", 1013, "credit_balance_exhausted", "no_credit"),
    # the error is more precise than the close code, which may be lost
    ("lost", 1006, "invalid_api_key", "bad_key"),
    ("lost", None, "insufficient_quota", "no_credit"),
    ("lost", 1006, "account_deactivated", "account_closed"),
    ("lost", 1006, "billing_hard_limit_reached", "no_credit"),
    ("server_error", 1011, "rate_limit_exceeded", "rate_limited"),
    ("server_error", 1013, "insufficient_quota", "no_credit"),
    ("unauthorized", 3000, "invalid_api_key", "bad_key"),
    ("bad_shape", 4000, "missing_model", "model_not_found"),
    ("policy", 1008, "session_expired", "session_expired"),
    ("timeout", None, "INVALID_API_KEY", "bad_key"),
    # the last error is missing or unrelated
    ("lost", 1006, None, "lost"),
    ("lost", 1006, "", "lost"),
    ("lost", 1006, "response_cancel_not_active", "lost"),
    # an old transient error, then an unplugged cable
    ("refused", None, "rate_limit_exceeded", "refused"),
    ("timeout", None, "server_error", "timeout"),
    # the close names the kind itself
    ("session_expired", 1001, "rate_limit_exceeded", "session_expired"),
    ("no_credit", 1013, "server_error", "no_credit"),
    ("bad_key", 3000, "rate_limit_exceeded", "bad_key"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_one_meaning(kind: LinkFailure) -> None:
    verdict = classify(kind, None)

    action = "fatal" if kind in FATAL else "expired" if kind == "session_expired" else "retry"
    assert (verdict.action, verdict.kind) == (action, kind)


@pytest.mark.parametrize(("kind", "code", "last_error", "meaning"), ROWS)
def test_the_last_error_decides_if_the_kind_comes_from_a_close_code_only(
    kind: LinkFailure, code: int | None, last_error: str | None, meaning: str
) -> None:
    assert classify(kind, code, last_error=last_error).kind == meaning


@pytest.mark.parametrize("kind", KINDS)
def test_each_sentence_can_be_spoken_and_names_no_internals(kind: LinkFailure) -> None:
    sentence = Wording().trouble(classify(kind, None).kind)

    assert sentence.endswith(".")
    assert 20 < len(sentence) < 160
    rest = sentence.replace("OPENAI_API_KEY", "")  # the place that a program must know
    assert not re.search(r"[_{}<>]|errno|\b\d{3,}\b", rest, re.IGNORECASE), sentence


@pytest.mark.parametrize("kind", sorted(FATAL - {"region"}))
def test_each_fatal_sentence_names_a_remedy(kind: LinkFailure) -> None:
    assert "Please" in Wording().trouble(kind)


def test_a_tls_failure_is_retried_because_the_clock_may_not_be_set_yet() -> None:
    assert classify("tls", None).action == "retry"


@given(
    st.sampled_from(KINDS),
    st.none() | st.integers(0, 5000),
    st.none() | st.text() | st.sampled_from(sorted(FAILURE_OF_ERROR_CODE)),
)
def test_the_verdict_is_always_that_of_the_kind_or_of_the_last_error(
    kind: LinkFailure, code: int | None, last_error: str | None
) -> None:
    verdict = classify(kind, code, last_error=last_error)

    assert verdict.kind in {kind, FAILURE_OF_ERROR_CODE.get((last_error or "").lower())}


def test_the_delay_doubles_up_to_its_limit() -> None:
    backoff = Backoff(1.0, 30.0)

    assert [backoff.delay_s(attempt, 0.999999) for attempt in range(7)] == pytest.approx(
        [1, 2, 4, 8, 16, 30, 30], rel=1e-5
    )


def test_the_jitter_is_full_but_the_delay_has_a_minimum() -> None:
    backoff = Backoff(1.0, 30.0)

    assert backoff.delay_s(5, 0.0) == 0.5
    assert backoff.delay_s(5, 0.1) == pytest.approx(3.0)
    assert backoff.delay_s(0, 0.2) == 0.5


def test_a_huge_attempt_number_does_not_overflow() -> None:
    assert Backoff(1.0, 30.0).delay_s(10**9, 0.5) == 15.0
    assert Backoff(1.0, 30.0, factor=1.0).delay_s(10**9, 0.9) == pytest.approx(0.9)


@given(
    st.floats(0.01, 10), st.floats(1, 100), st.integers(0, 10_000), st.floats(0, 1, exclude_max=True), st.floats(1, 5)
)
def test_every_delay_is_between_half_the_initial_and_the_limit(
    initial_s: float, times: float, attempt: int, unit: float, factor: float
) -> None:
    longest_s = initial_s * times

    delay_s = Backoff(initial_s, longest_s, factor).delay_s(attempt, unit)

    assert initial_s / 2 <= delay_s <= longest_s


@pytest.mark.parametrize("bad", [(0.0, 1.0, 2.0), (2.0, 1.0, 2.0), (1.0, 2.0, 0.5)])
def test_an_invalid_backoff_is_refused(bad: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="backoff"):
        Backoff(*bad)
