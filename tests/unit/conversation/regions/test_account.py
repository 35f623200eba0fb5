"""Tests of the `account` region: the cost of the conversation and the daily budget."""

from __future__ import annotations

from typing import Any

from appliance.conversation.commands import Announce, Sentence
from appliance.conversation.notices import BudgetWarning, Usage
from appliance.conversation.policy import Policy
from appliance.conversation.regions.account import Account
from appliance.conversation.support.outbox import Outbox
from tests.unit.conversation.regions.outcome import notices

USAGE = {
    "total_tokens": 30,
    "input_tokens": 20,
    "output_tokens": 10,
    "input_token_details": {"text_tokens": 5, "audio_tokens": 15, "cached_tokens_details": {"audio_tokens": 4}},
}


def account(out: Outbox | None = None, **policy: Any) -> Account:
    region = Account(Policy(**policy), out or Outbox())
    region.budget.begin_day("2026-01-01", 0.0, 0.0)
    return region


def test_each_budget_share_is_reported_once_a_day() -> None:
    out = Outbox()
    region = account(out, budget_usd=1.0)
    assert [region.count(usd, {}, 0.0) for usd in (0.79, 0.01, 0.19, 0.01, 1.0)] == [None, 80, None, 100, None]
    assert [one.percent for one in notices(out.take()) if isinstance(one, BudgetWarning)] == [80, 100]


def test_usage_is_emitted_before_the_warning_and_the_announcement_comes_last() -> None:
    out = Outbox()
    account(out, budget_usd=1.0).count(1.0, {}, 0.0)
    commands = out.take()
    assert [type(one) for one in notices(commands)] == [Usage, BudgetWarning]
    assert isinstance(commands[-1], Announce)
    assert commands[-1].fallback == "offline"


def test_eighty_percent_is_not_announced() -> None:
    out = Outbox()
    account(out, budget_usd=1.0).count(0.8, {}, 0.0)
    assert not any(isinstance(one, Announce) for one in out.take())


def test_the_announcement_mentions_the_offline_brain_only_if_there_is_one() -> None:
    said = []
    for offline in (None, 1):
        out = Outbox()
        account(out, budget_usd=1.0, endpoints=2, offline_endpoint=offline).count(1.0, {}, 0.0)
        said += [one.sentence for one in out.take() if isinstance(one, Announce)]
    values = {"percent": 100, "spent": 1.0, "limit": 1.0}
    assert said == [Sentence("budget.usd", values), Sentence("budget.usd_then_offline", values)]


def test_a_spent_budget_allows_only_the_offline_brain_if_there_is_one() -> None:
    alone, helped = account(budget_usd=1.0), account(budget_usd=1.0, endpoints=2, offline_endpoint=1)
    assert [(one.budget.is_spent, one.only_endpoint) for one in (alone, helped)] == [(False, None)] * 2
    for one in (alone, helped):
        one.count(1.0, {}, 0.0)
    assert (alone.budget.is_spent, alone.only_endpoint) == (True, None)
    assert (helped.budget.is_spent, helped.only_endpoint) == (True, 1)


def test_a_new_day_starts_with_what_was_already_spent_that_day() -> None:
    region = account(budget_usd=1.0)
    region.count(1.0, {}, 0.0)
    region.budget.begin_day("2026-01-02", 0.5, 0.0)
    assert not region.budget.is_spent
    assert region.count(0.3, {}, 0.0) == 80


def test_a_response_without_a_price_counts_its_seconds_only() -> None:
    out = Outbox()
    region = account(out, budget_s=60.0)
    region.count(0.25, {}, 10.0)
    out.take()
    region.count(None, {"total_tokens": 3}, 20.0)
    assert notices(out.take()) == [Usage({"total_tokens": 3}, None, 20.0, 0.25, 30.0)]


def test_nested_token_counts_are_flattened_and_sorted_by_name() -> None:
    region = account()
    region.add_to_turn(USAGE)
    assert list(region.end_turn().items()) == [
        ("input_audio_tokens", 15),
        ("input_cached_audio_tokens", 4),
        ("input_text_tokens", 5),
        ("input_tokens", 20),
        ("output_tokens", 10),
        ("total_tokens", 30),
    ]


def test_only_integers_count_as_tokens() -> None:
    region = account()
    region.add_to_turn({"type": "duration", "seconds": 1.5, "is_final": True, "input_tokens": None, "total_tokens": 2})
    assert region.end_turn() == {"total_tokens": 2}


def test_the_tokens_of_a_turn_are_those_of_its_responses_only() -> None:
    region = account()
    region.add_to_turn({"total_tokens": 100})
    assert region.end_turn() == {"total_tokens": 100}
    region.add_to_turn({"total_tokens": 3})
    region.count(0.1, {"total_tokens": 50}, 0.0)
    region.add_to_turn({"total_tokens": 4})
    region.add_to_turn(None)
    assert region.end_turn() == {"total_tokens": 7}
    assert region.end_turn() == {}
