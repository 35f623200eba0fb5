"""The hours in which the light is dimmed, or the sound quieter. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import time

__all__ = ["Quiet"]


@dataclass(frozen=True, slots=True)
class Quiet:
    """Quiet hours."""

    hours: str
    """"22:00-07:00", local time; "always"; "" for never."""
    level: float
    """Share of the brightness, or of the volume, that is left."""

    def share(self, now: time) -> float:
        """Return the share that is left at a local time, 0.0 to 1.0."""
        if not self.hours:
            return 1.0
        if self.hours == "always":
            return self.level
        begin, end = (time.fromisoformat(one) for one in re.split(r"\s*-\s*", self.hours))
        is_quiet = begin <= now < end if begin <= end else now >= begin or now < end
        return self.level if is_quiet else 1.0
