"""Announces each new day to the conversation, with the amount already spent, to reset the budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from appliance.conversation.commands import Command, Emit
from appliance.conversation.events import DayBegan, Event
from appliance.conversation.notices import Usage
from appliance.conversation.support.feedback import View

__all__ = ["FIRST_S", "Days", "is_dated", "iso_date"]

FIRST_S = 1_704_067_200.0  # 2024-01-01 UTC
"""Unix seconds; no appliance ran before. An earlier time comes from a clock that was not set: a Pi starts in 1970."""


def iso_date(unix_s: float) -> str:
    """Return the local ISO date of a Unix time."""
    return time.strftime("%Y-%m-%d", time.localtime(unix_s))


def is_dated(day: str) -> bool:
    """Return whether a local ISO date can be true; False if the clock was not set yet."""
    return day >= "2024"


class Days:
    """An observer of the driver that posts ``DayBegan`` at the first step of each day.

    It runs after the observer that stores the spend.

    Args:
        post: Receives the events.
        spent: Returns the spend of a day (ISO date): US dollars and seconds of audio; None while the store cannot be
            read. The day is then posted again as soon as it can.
        clock: Unix seconds.
    """

    def __init__(
        self,
        post: Callable[[Event], None],
        spent: Callable[[str], tuple[float, float] | None],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._post = post
        self._spent = spent
        self._clock = clock
        self._day = ""
        self._is_in_flight = False
        self._is_spend_known = True

    def __call__(self, now: float, event: Event, commands: Sequence[Command], view: View) -> None:
        """Observe one step; a day that another source has posted is not posted again."""
        if isinstance(event, DayBegan):
            self._day = event.day
            self._is_in_flight = False
        today = iso_date(self._clock())
        is_counted = any(isinstance(one, Emit) and isinstance(one.notice, Usage) for one in commands)
        # Usage handled before the posted event counts for the old day but is stored for the new one: post again.
        if today != self._day or (self._is_in_flight and is_counted) or not self._is_spend_known:
            spent = self._spent(today)
            if spent is None and today == self._day:
                return
            self._is_spend_known = spent is not None
            self._day = today
            self._is_in_flight = True
            self._post(DayBegan(today, *(spent or (0.0, 0.0))))
