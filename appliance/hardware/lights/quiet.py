"""The hours in which the light is dimmed, or the sound quieter. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import time

from appliance.hours import covers

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
        return self.level if covers(self.hours, now) else 1.0
