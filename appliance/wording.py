"""How things are said to people. Pure."""

from __future__ import annotations

__all__ = ["duration"]


def duration(seconds: int, *, most: int = 3) -> str:
    """Return a duration in words, by its largest units, at most so many: "1 hour and 30 minutes"."""
    days, rest = divmod(max(0, seconds), 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    units = ((days, "day"), (hours, "hour"), (minutes, "minute"), (rest, "second"))
    parts = [f"{count} {unit}{'s' if count != 1 else ''}" for count, unit in units if count][:most]
    return " and ".join(parts) or "0 seconds"
