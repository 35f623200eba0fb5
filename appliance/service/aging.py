"""The scale on which the items of the history age; a wall clock that jumps must not delete them.

It counts the seconds in which the appliance runs, by a monotonic clock, and between two runs those of the wall clock,
within a limit. NTP moves the wall clock at any time, and that of a Pi without a battery may start in 1970.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable

from appliance.service.days import FIRST_S

__all__ = ["AgeClock"]

_LONGEST_GAP = 0.1  # of the age limit: how much the wall clock may age the items between two runs
_SAVE_EVERY_S = 3600.0  # a crash loses at most this; the gap to the next run makes up for it


class AgeClock:
    """Seconds on the scale of the column ``added_at``; the table ``clock`` keeps it across restarts.

    Args:
        max_age_s: The age limit; may be infinite.
        wall: Unix seconds.
        monotonic: Seconds of a clock that nobody sets.
    """

    def __init__(self, max_age_s: float, *, wall: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._max_age_s = max_age_s
        self._wall = wall
        self._monotonic = monotonic
        self._offset: float | None = None
        self._saved_at = -math.inf

    @property
    def is_due(self) -> bool:
        """Whether it is time to save."""
        return self._monotonic() - self._saved_at >= _SAVE_EVERY_S

    def start(self, connection: sqlite3.Connection) -> None:
        """Continue the scale of the last run; no-op if it runs.

        Raises:
            sqlite3.Error: The file cannot be read or written.
        """
        if self._offset is None:
            self._offset = self._continued(connection) - self._monotonic()

    def at(self, monotonic_s: float) -> float:
        """Return a monotonic time on the scale; call `start` before."""
        assert self._offset is not None
        return monotonic_s + self._offset

    def oldest(self) -> float:
        """Return the `added_at` of the oldest items to keep; call `start` before."""
        return max(0.0, self.at(self._monotonic()) - self._max_age_s)

    def save(self, connection: sqlite3.Connection) -> None:
        """Write the present time, in the caller's transaction."""
        now = self._monotonic()
        connection.execute("DELETE FROM clock")
        connection.execute("INSERT INTO clock VALUES (?, ?)", (self.at(now), self._wall()))
        self._saved_at = now

    def _continued(self, connection: sqlite3.Connection) -> float:
        wall = self._wall()
        row = connection.execute("SELECT seconds, wall FROM clock").fetchone()
        if row is not None:
            return float(row[0]) + self._gap(wall - row[1])
        # A new file, or one of a version that wrote wall times, of which some may be wrong.
        last = connection.execute("SELECT max(added_at) FROM items WHERE added_at <= ?", (wall,)).fetchone()[0]
        now = wall if last is None else float(last) + self._gap(wall - last)
        connection.execute("UPDATE items SET added_at = ? WHERE NOT added_at BETWEEN ? AND ?", (now, FIRST_S, now))
        return now

    def _gap(self, wall_s: float) -> float:
        return max(0.0, min(wall_s, _LONGEST_GAP * self._max_age_s))
