"""Tests that each day of the budget is posted once, with the amount already spent."""

from __future__ import annotations

import time

import pytest

from appliance.conversation.commands import Emit
from appliance.conversation.events import DayBegan, DeadlinePassed, Event
from appliance.conversation.notices import Usage
from appliance.conversation.support.feedback import View
from appliance.service.days import Days, iso_date

pytestmark = pytest.mark.usefixtures("utc")

DAY_S = 86_400.0
NOON = 1_795_521_600.0  # 2026-11-24 12:00 UTC
COUNTED = Emit(Usage({}, 0.25, 1.0))


class Calendar:
    """`Days` with a settable clock and a settable spend."""

    def __init__(self) -> None:
        self.now = NOON
        self.spent = (0.0, 0.0)
        self.posted: list[Event] = []
        self._days = Days(self.posted.append, lambda day: self.spent, clock=lambda: self.now)

    def step(self, event: Event | None = None, *commands: Emit) -> None:
        self._days(1.0, event or DeadlinePassed(), commands, View())


def test_the_day_is_the_local_one_not_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "EST5")
    time.tzset()
    assert iso_date(NOON - 9 * 3600) == "2026-11-23"  # 03:00 UTC is 22:00 of the previous day there


def test_each_new_day_is_posted_once_with_its_spend() -> None:
    calendar = Calendar()
    calendar.spent = (0.5, 30.0)
    calendar.step()
    calendar.step(calendar.posted[0])  # the event returns through the inbox
    calendar.step(None, COUNTED)
    calendar.now += DAY_S
    calendar.spent = (0.125, 2.0)
    calendar.step()
    calendar.step()
    assert calendar.posted == [DayBegan("2026-11-24", 0.5, 30.0), DayBegan("2026-11-25", 0.125, 2.0)]


def test_usage_that_overtakes_the_new_day_posts_the_day_again_with_its_spend() -> None:
    calendar = Calendar()
    calendar.step()
    calendar.spent = (0.25, 1.0)
    calendar.step(None, COUNTED)
    assert calendar.posted == [DayBegan("2026-11-24"), DayBegan("2026-11-24", 0.25, 1.0)]


def test_a_day_posted_by_another_source_is_not_posted_again() -> None:
    calendar = Calendar()
    calendar.step(DayBegan("2026-11-24"))
    calendar.step()
    assert calendar.posted == []
