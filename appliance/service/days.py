"""The days of the budget: who spends today, and how much was spent so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from appliance.conversation.commands import Command, Emit
from appliance.conversation.events import DayBegan, Event
from appliance.conversation.notices import Usage
from appliance.conversation.support.feedback import View

__all__ = ["Days", "iso_date"]


def iso_date(unix_s: float) -> str:
    """Return the ISO date of a moment, local time."""
    return time.strftime("%Y-%m-%d", time.localtime(unix_s))


class Days:
    """An observer of the driver that posts ``DayBegan`` at the first step of each day.

    It stands behind the observer that stores the spend.

    Args:
        post: Takes the events.
        spent: What is stored of a day (ISO date): US dollars and seconds of audio.
        clock: Seconds since 1970, UTC.
    """

    def __init__(
        self,
        post: Callable[[Event], None],
        spent: Callable[[str], tuple[float, float]],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._post = post
        self._spent = spent
        self._clock = clock
        self._day = ""
        self._is_in_flight = False

    def __call__(self, now: float, event: Event, commands: Sequence[Command], view: View) -> None:
        """Take one step; a day that somebody else has begun is not posted again."""
        if isinstance(event, DayBegan):
            self._day = event.day
            self._is_in_flight = False
        today = iso_date(self._clock())
        is_counted = any(isinstance(one, Emit) and isinstance(one.notice, Usage) for one in commands)
        # Usage that overtakes the event is counted for the old day and stored for the new one: post again.
        if today != self._day or (self._is_in_flight and is_counted):
            self._day = today
            self._is_in_flight = True
            self._post(DayBegan(today, *self._spent(today)))
