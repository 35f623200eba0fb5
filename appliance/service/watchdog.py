"""systemd's watchdog: fed while the loop runs, the inbox drains and the card's frames advance.

Each second the ages are compared with their limits: of the five pings in ``WatchdogSec=5`` one is enough. An age that
passes half of its limit is logged and is in the status line, so the journal says what was slow before the service
manager ends the process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

from appliance.service.status_line import StatusLine
from appliance.service.systemd import Notifier

__all__ = ["HEALTHY_LAG_S", "HEALTHY_SILENCE_S", "LOOK_S", "Watchdog"]

log = logging.getLogger(__name__)

HEALTHY_LAG_S: Final = 5.0
HEALTHY_SILENCE_S: Final = 10.0
LOOK_S: Final = 1.0
_REPEAT_S: Final = 60.0  # between two lines about the same age


class Watchdog:
    """Feeds the watchdog of the unit.

    Args:
        notifier: Its `watchdog_interval_s` is the longest time between two pings.
        status: Shows what approaches its limit.
        lag: Returns the age of the oldest event in the inbox, in seconds.
        silence: Returns the seconds since the last callback of each stream that is open and whose card is there: a
            restart would not bring a card back.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        notifier: Notifier,
        status: StatusLine,
        *,
        lag: Callable[[], float],
        silence: Callable[[], Mapping[str, float]],
        clock: Callable[[], float],
    ) -> None:
        self._notifier = notifier
        self._status = status
        self._lag = lag
        self._silence = silence
        self._clock = clock
        self._looked_at = clock()
        self._near: set[str] = set()
        self._logged_at: dict[str, float] = {}

    async def run(self) -> None:
        """Look and feed until cancelled; without a watchdog, return at once."""
        while (interval_s := self._notifier.watchdog_interval_s) is not None:
            self.look()
            await asyncio.sleep(min(LOOK_S, interval_s))

    def look(self) -> None:
        """Compare the ages with their limits; feed the watchdog if none is above."""
        interval_s = self._notifier.watchdog_interval_s or LOOK_S
        now = self._clock()
        stopped_s, self._looked_at = max(0.0, now - self._looked_at - LOOK_S), now
        ages = {"inbox": (self._lag(), HEALTHY_LAG_S)}
        ages |= {name: (age_s, HEALTHY_SILENCE_S) for name, age_s in self._silence().items()}
        is_healthy = all(age_s < limit_s for age_s, limit_s in ages.values())
        self._warn(ages | {"event loop": (stopped_s, 2 * interval_s)}, now)
        if is_healthy:
            self._notifier.watchdog()

    def _warn(self, ages: Mapping[str, tuple[float, float]], now: float) -> None:
        near = {name for name, (age_s, limit_s) in ages.items() if age_s >= limit_s / 2}
        for name in sorted(near - self._near):
            if now - self._logged_at.get(name, -_REPEAT_S) >= _REPEAT_S:
                self._logged_at[name] = now
                log.warning("%s: late by %.1f s, and the watchdog ends the process at %.1f s", name, *ages[name])
        if near != self._near:
            self._near = near
            late = {name: f"{ages[name][0]:.1f}" for name in sorted(near)}
            parts = ", ".join(f"{name} {seconds} s" for name, seconds in late.items())
            self._status.remark("watchdog", "status.late" if near else "", parts=parts)
