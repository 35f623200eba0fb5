"""Announces each new day to the conversation, with the amount already spent, to reset the budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from appliance.conversation.commands import Command, Emit
from appliance.conversation.events import DayBegan, Event
from appliance.conversation.notices import Usage
from appliance.conversation.support.feedback import View

__all__ = ["Days", "iso_date"]


def iso_date(unix_s: float) -> str:
    """Return the local ISO date of a Unix time."""
    return time.strftime("%Y-%m-%d", time.localtime(unix_s))


class Days:
    """An observer of the driver that posts ``DayBegan`` at the first step of each day.

    It runs after the observer that stores the spend.

    Args:
        post: Receives the events.
        spent: Returns the stored spend of a day (ISO date): US dollars and seconds of audio.
        clock: Unix seconds.
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
        """Observe one step; a day that another source has posted is not posted again."""
        if isinstance(event, DayBegan):
            self._day = event.day
            self._is_in_flight = False
        today = iso_date(self._clock())
        is_counted = any(isinstance(one, Emit) and isinstance(one.notice, Usage) for one in commands)
        # Usage handled before the posted event counts for the old day but is stored for the new one: post again.
        if today != self._day or (self._is_in_flight and is_counted):
            self._day = today
            self._is_in_flight = True
            self._post(DayBegan(today, *self._spent(today)))
