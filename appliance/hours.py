"""Hours of the day, such as "22:00-07:00". Pure."""

from __future__ import annotations

from datetime import time

__all__ = ["covers"]


def covers(hours: str, at: time) -> bool:
    """Tell whether hours contain a local time; their end does not belong to them, and they may span midnight."""
    begin, end = (time.fromisoformat(one.strip()) for one in hours.split("-"))
    return begin <= at < end if begin <= end else at >= begin or at < end
