"""Kitchen timers: they ring through the conversation, and survive a restart."""

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
_LONGEST_WAIT_S = 60.0  # how late it is seen that the wall clock was set
_CLOCK_WAS_SET_S = 2.0


@dataclass(frozen=True, slots=True)
class Timer:
    """One running timer."""

    id: str
    label: str
    seconds: int
    due: float
    """On the `clock` of `Timers`: it does not jump when the network sets the wall clock, minutes after a Pi's start."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """A timer in the file."""

    id: Annotated[str, Field(pattern=r"^timer_[0-9]{1,9}$")]
    label: str
    seconds: int
    ends_at: Annotated[float, Field(allow_inf_nan=False)]
    """Unix seconds."""


_KEPT = TypeAdapter(list[_Kept])


class Timers:
    """All running timers.

    Args:
        post: Takes ``AlarmRang`` and ``TimersChanged``; called on the loop's thread.
        path: Where they are kept over a restart; None for nowhere.
        clock: Monotonic seconds; timers run by it.
        wall: Unix seconds; they are kept by it.
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
        """Why the timers would not survive a restart; "" while they would."""

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
        self._tell()
        return timer

    def running(self) -> list[tuple[Timer, int]]:
        """Every timer with the seconds that it has left, the next to ring first."""
        self._load()
        now = self._clock()
        by_due = sorted(self._timers.values(), key=lambda timer: timer.due)
        return [(timer, max(0, round(timer.due - now))) for timer in by_due]

    def cancel(self, label: str | None = None) -> list[Timer]:
        """Cancel the timers with this label, or all; returns those that were running."""
        self._load()
        wanted = label.strip().casefold() if label else None
        gone = [timer for timer in self._timers.values() if wanted is None or timer.label.casefold() == wanted]
        for timer in gone:
            del self._timers[timer.id]
        if gone:
            self._tell()
        return gone

    def silence(self, alarm_id: str) -> None:
        """An alarm was acknowledged: no-op, a timer is removed when it begins to ring."""

    async def run(self) -> None:
        """Ring what is due, until cancelled."""
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
        """Post an alarm for every timer that has ended."""
        now = self._clock()
        due = [timer for timer in self._timers.values() if timer.due <= now]
        for timer in due:
            del self._timers[timer.id]
            self._post(AlarmRang(timer.id, timer.label))
        if due:
            self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._save()
        self._post(TimersChanged(len(self._timers)))

    def _follow_wall(self) -> None:
        """Save again when the wall clock was set: the kept ends are by it."""
        if self._timers and abs(self._wall() - self._clock() - self._saved_offset_s) > _CLOCK_WAS_SET_S:
            self._save()

    def _save(self) -> None:
        """Keep the timers by the wall clock; replaces the file in one step."""
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
            log.warning("timers would not survive a restart: %s", self.save_problem)

    def _load(self) -> None:
        """Take up what was kept, once; what ended meanwhile is due now."""
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
            log.warning("%s: the kept timers cannot be read: %s", self._path, type(exc).__name__)
            return
        now = self._clock()
        for one in kept:
            # A wall clock that is behind (no battery, no network yet) must not make a timer longer than it was set.
            due = min(one.ends_at - offset_s, now + one.seconds)
            self._timers[one.id] = Timer(one.id, one.label, one.seconds, due)
            self._count = max(self._count, int(one.id.rpartition("_")[2]))
