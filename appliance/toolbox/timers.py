"""Kitchen timers: they post alarms to the conversation and survive a restart."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from appliance.conversation.events import AlarmRang, Event, TimersChanged

__all__ = ["MOST_TIMERS", "Timer", "Timers"]

log = logging.getLogger(__name__)

MOST_TIMERS = 20
_LONGEST_WAIT_S = 60.0  # the longest delay until a change of the wall clock is noticed
_CLOCK_WAS_SET_S = 2.0


@dataclass(frozen=True, slots=True)
class Timer:
    """One running timer."""

    id: str
    label: str
    seconds: int
    due: float
    """Time on the `clock` of `Timers`, which does not jump when NTP sets the wall clock minutes after a Pi's start."""


@dataclass(frozen=True, slots=True)
class _Kept:
    id: Annotated[str, Field(pattern=r"^timer_[0-9]{1,9}$")]
    label: str
    seconds: int
    ends_at: Annotated[float, Field(allow_inf_nan=False)]
    """Unix seconds."""


_KEPT = TypeAdapter(list[_Kept])


class Timers:
    """All running timers.

    Args:
        post: Receives ``AlarmRang`` and ``TimersChanged``; called on the event loop's thread.
        path: File that keeps the timers across a restart; None keeps them in memory only.
        clock: Monotonic seconds; running timers use it.
        wall: Unix seconds; the file uses it.
    """

    def __init__(
        self,
        *,
        post: Callable[[Event], None],
        path: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._post = post
        self._path = path
        self._clock = clock
        self._wall = wall
        self._is_loaded = False
        self._saved_offset_s = 0.0
        self._timers: dict[str, Timer] = {}
        self._count = 0
        self._changed = asyncio.Event()
        self.save_problem = ""
        """Why the timers could not be saved; "" if they are saved."""

    @property
    def is_full(self) -> bool:
        """Whether `MOST_TIMERS` are running."""
        self._load()
        return len(self._timers) >= MOST_TIMERS

    def start(self, seconds: int, label: str = "") -> Timer:
        """Start a timer; the caller checks `is_full`."""
        self._load()
        self._count += 1
        timer = Timer(f"timer_{self._count}", label.strip(), seconds, self._clock() + seconds)
        self._timers[timer.id] = timer
        self._on_change()
        return timer

    def running(self) -> list[tuple[Timer, int]]:
        """Return every timer with its remaining seconds, the next to ring first."""
        self._load()
        now = self._clock()
        by_due = sorted(self._timers.values(), key=lambda timer: timer.due)
        return [(timer, max(0, round(timer.due - now))) for timer in by_due]

    def cancel(self, label: str | None = None) -> list[Timer]:
        """Cancel the timers with this label, or all; return the cancelled ones."""
        self._load()
        wanted = label.strip().casefold() if label else None
        gone = [timer for timer in self._timers.values() if wanted is None or timer.label.casefold() == wanted]
        for timer in gone:
            del self._timers[timer.id]
        if gone:
            self._on_change()
        return gone

    def silence(self, alarm_id: str) -> None:
        """Acknowledge an alarm: no-op, because a timer is removed when it starts to ring."""

    async def run(self) -> None:
        """Ring due timers until cancelled."""
        self._load()
        if self._timers:
            self._post(TimersChanged(len(self._timers)))
        while True:
            self._changed.clear()
            self.ring_due()
            self._follow_wall()
            due = min((timer.due for timer in self._timers.values()), default=None)
            wait_s = None if due is None else min(max(due - self._clock(), 0.0), _LONGEST_WAIT_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()

    def ring_due(self) -> None:
        """Post an alarm for every timer that is due."""
        now = self._clock()
        due = [timer for timer in self._timers.values() if timer.due <= now]
        for timer in due:
            del self._timers[timer.id]
            self._post(AlarmRang(timer.id, timer.label))
        if due:
            self._on_change()

    def _on_change(self) -> None:
        self._changed.set()
        self._save()
        self._post(TimersChanged(len(self._timers)))

    def _follow_wall(self) -> None:
        """Save again after the wall clock was set, because the file has wall clock times."""
        if self._timers and abs(self._wall() - self._clock() - self._saved_offset_s) > _CLOCK_WAS_SET_S:
            self._save()

    def _save(self) -> None:
        """Save the timers with wall clock times; replaces the file atomically."""
        self._saved_offset_s = offset_s = self._wall() - self._clock()
        if self._path is None:
            return
        kept = [_Kept(one.id, one.label, one.seconds, one.due + offset_s) for one in self._timers.values()]
        partial = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("w", encoding="utf-8") as out:
                out.write(_KEPT.dump_json(kept).decode())
                out.flush()
                os.fsync(out.fileno())
            partial.replace(self._path)
            self.save_problem = ""
        except OSError as exc:
            self.save_problem = f"{self._path}: {exc.strerror or exc}"
            log.warning("timers will not survive a restart: %s", self.save_problem)

    def _load(self) -> None:
        """Load the saved timers, once; a timer that ended meanwhile is due now."""
        if self._is_loaded:
            return
        self._is_loaded = True
        self._saved_offset_s = offset_s = self._wall() - self._clock()
        if self._path is None:
            return
        try:
            kept = _KEPT.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, ValueError) as exc:
            log.warning("%s: the saved timers cannot be read: %s", self._path, type(exc).__name__)
            return
        now = self._clock()
        for one in kept:
            # If the wall clock is behind (no battery, no NTP yet), a timer must not run longer than it was set.
            due = min(one.ends_at - offset_s, now + one.seconds)
            self._timers[one.id] = Timer(one.id, one.label, one.seconds, due)
            self._count = max(self._count, int(one.id.rpartition("_")[2]))
