"""Tests of the daily budget."""

from __future__ import annotations

import pytest

from appliance.conversation.notices import BudgetWarning
from appliance.conversation.regions.account import Budget
from appliance.errors import SettingsError

MONDAY, TUESDAY = "2026-11-23", "2026-11-24"


def test_eighty_and_a_hundred_percent_are_each_reported_once() -> None:
    budget = Budget(limit_usd=1.0)
    budget.begin_day(MONDAY)
    assert [budget.add(usd, 0.0) for usd in (0.5, 0.29, 0.01, 0.1, 0.09, 0.01, 0.5)] == [
        None,
        None,
        80,
        None,
        None,
        100,
        None,
    ]


def test_an_update_that_crosses_both_shares_reports_only_a_hundred_percent() -> None:
    budget = Budget(limit_usd=1.0)
    assert [budget.add(0.7, 0.0), budget.add(0.5, 0.0), budget.add(0.1, 0.0)] == [None, 100, None]


def test_ten_times_ten_cents_reach_a_dollar_despite_rounding() -> None:
    budget = Budget(limit_usd=1.0)
    told = [budget.add(0.1, 0.0) for _ in range(10)]
    assert (told[7], told[9], budget.is_spent) == (80, 100, True)
    assert budget.spent_usd < 1.0  # as floats they are not, which must not matter


def test_the_larger_share_of_money_and_time_decides() -> None:
    budget = Budget(limit_usd=1.0, limit_s=600.0)
    assert budget.add(0.1, 480.0) == 80
    assert budget.share == pytest.approx(0.8)
    assert budget.add(0.85, 0.0) is None  # 95 % of the money; 80 is already reported
    assert budget.share == pytest.approx(0.95)
    assert budget.add(0.0, 120.0) == 100


def test_an_unknown_price_adds_no_money_but_its_seconds_count() -> None:
    budget = Budget(limit_usd=1.0, limit_s=60.0)
    assert budget.add(None, 30.0) is None
    assert (budget.spent_usd, budget.spent_s, budget.share) == (0.0, 30.0, 0.5)


@pytest.mark.parametrize(("usd", "seconds"), [(-1.0, 0.0), (0.0, -5.0), (float("nan"), float("nan"))])
def test_negative_and_nan_amounts_are_ignored(usd: float, seconds: float) -> None:
    budget = Budget(limit_usd=1.0)
    budget.add(0.5, 10.0)
    assert budget.add(usd, seconds) is None
    assert (budget.spent_usd, budget.spent_s) == (0.5, 10.0)


def test_without_limits_the_budget_is_never_spent() -> None:
    budget = Budget()
    budget.begin_day(MONDAY, 1e6, 1e6)
    assert budget.add(1e9, 1e9) is None
    assert (budget.is_spent, budget.share) == (False, 0.0)
    assert budget.spent_usd == 1e6 + 1e9


def test_a_new_day_resets_a_spent_budget_and_reports_both_shares_again() -> None:
    budget = Budget(limit_usd=1.0)
    budget.begin_day(MONDAY)
    assert budget.add(1.2, 90.0) == 100
    assert budget.is_spent
    budget.begin_day(TUESDAY)
    assert (budget.is_spent, budget.spent_usd, budget.spent_s, budget.day) == (False, 0.0, 0.0, TUESDAY)
    assert [budget.add(0.8, 0.0), budget.add(0.2, 0.0)] == [80, 100]


def test_a_day_that_starts_at_85_percent_reports_only_a_hundred_percent() -> None:
    budget = Budget(limit_usd=1.0)
    budget.begin_day(MONDAY, 0.85, 0.0)
    assert [budget.add(0.05, 0.0), budget.add(0.1, 0.0)] == [None, 100]


def test_a_day_that_starts_spent_reports_nothing() -> None:
    budget = Budget(limit_s=60.0)
    budget.begin_day(MONDAY, 0.0, 61.0)
    assert budget.is_spent
    assert budget.add(0.1, 10.0) is None


def test_repeating_the_same_day_keeps_the_spend_and_does_not_report_twice() -> None:
    budget = Budget(limit_usd=1.0)
    budget.begin_day(MONDAY)
    assert budget.add(0.9, 30.0) == 80
    budget.begin_day(MONDAY, 0.2, 40.0)
    assert (budget.spent_usd, budget.spent_s) == (0.9, 40.0)
    assert [budget.add(0.05, 0.0), budget.add(0.05, 0.0)] == [None, 100]


def test_the_warning_names_the_money() -> None:
    budget = Budget(limit_usd=1.0)
    budget.add(0.812, 0.0)
    assert budget.warning(80) == BudgetWarning(80, "usd", 0.812, 1.0)


def test_the_warning_names_the_minutes_if_they_are_spent_further() -> None:
    budget = Budget(limit_usd=1.0, limit_s=1800.0)
    budget.add(0.5, 1815.0)
    assert budget.warning(100) == BudgetWarning(100, "minutes", 30.25, 30.0)


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_a_limit_not_above_zero_is_refused_with_the_remedy(limit: float) -> None:
    with pytest.raises(SettingsError, match=r"a budget of .+ US dollars a day: must be above 0; leave it out"):
        Budget(limit_usd=limit)
    with pytest.raises(SettingsError, match=r"a budget of .+ seconds a day: must be above 0; leave it out"):
        Budget(limit_s=limit)
