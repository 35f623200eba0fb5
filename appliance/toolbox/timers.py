"""Kitchen timers: they ring through the conversation, and survive a restart."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from appliance.conversation.events import AlarmRang, Event, TimersChanged
from appliance.errors import ToolError

__all__ = ["Timer", "TimerShelf"]

log = logging.getLogger(__name__)

MOST_TIMERS = 20


@dataclass(frozen=True, slots=True)
class Timer:
    """One running timer."""

    id: str
    label: str
    seconds: int
    ends_at: float
    """Unix seconds: a timer must survive a restart, so it goes by the wall clock."""


class TimerShelf:
    """All running timers.

    Args:
        post: Takes ``AlarmRang`` and ``TimersChanged``; called on the loop's thread.
        path: Where they are kept over a restart; None for nowhere.
        wall: Unix seconds.
    """

    def __init__(
        self, *, post: Callable[[Event], None], path: Path | None = None, wall: Callable[[], float] = time.time
    ) -> None:
        self._post = post
        self._path = path
        self._wall = wall
        self._timers: dict[str, Timer] = {}
        self._count = 0
        self._changed = asyncio.Event()
        self.save_problem = ""
        """Why the timers would not survive a restart; "" while they would."""

    def __repr__(self) -> str:
        return f"<TimerShelf {len(self._timers)} running>"

    def start(self, seconds: int, label: str = "") -> Timer:
        """Start a timer.

        Raises:
            ToolError: There are too many.
        """
        if len(self._timers) >= MOST_TIMERS:
            raise ToolError(f"There are {MOST_TIMERS} timers already, which is the most; cancel one first.")
        self._count += 1
        timer = Timer(f"timer_{self._count}", label.strip(), seconds, self._wall() + seconds)
        self._timers[timer.id] = timer
        self._tell()
        return timer

    def running(self) -> list[tuple[Timer, int]]:
        """Every timer with the seconds that it has left, the next to ring first."""
        now = self._wall()
        pairs = [(timer, max(0, round(timer.ends_at - now))) for timer in self._timers.values()]
        return sorted(pairs, key=lambda pair: pair[1])

    def cancel(self, label: str | None = None) -> list[Timer]:
        """Cancel the timers with this label, or all; returns those that were running."""
        wanted = label.strip().casefold() if label else None
        gone = [timer for timer in self._timers.values() if wanted is None or timer.label.casefold() == wanted]
        for timer in gone:
            del self._timers[timer.id]
        if gone:
            self._tell()
        return gone

    def silence(self, alarm_id: str) -> None:
        """An alarm was acknowledged; it left the shelf when it began to ring."""

    async def run(self) -> None:
        """Ring what is due, until cancelled."""
        self._load()
        if self._timers:
            self._post(TimersChanged(len(self._timers)))
        while True:
            self._changed.clear()
            self.ring_due()
            due = min((timer.ends_at for timer in self._timers.values()), default=None)
            wait_s = None if due is None else min(max(due - self._wall(), 0.0), 60.0)  # the wall clock may be set
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def ring_due(self) -> None:
        """Post an alarm for every timer that has ended."""
        now = self._wall()
        due = [timer for timer in self._timers.values() if timer.ends_at <= now]
        for timer in due:
            del self._timers[timer.id]
            self._post(AlarmRang(timer.id, timer.label))
        if due:
            self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._save()
        self._post(TimersChanged(len(self._timers)))

    def _save(self) -> None:
        if self._path is None:
            return
        partial = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("w", encoding="utf-8") as out:
                json.dump([asdict(timer) for timer in self._timers.values()], out)
                out.flush()
                os.fsync(out.fileno())
            partial.replace(self._path)
            self.save_problem = ""
        except OSError as exc:
            self.save_problem = f"{self._path}: {exc.strerror or exc}"
            log.warning("timers would not survive a restart: %s", self.save_problem)

    def _load(self) -> None:
        if self._path is None or not self._path.exists():
            return
        try:
            kept = [Timer(**one) for one in json.loads(self._path.read_text(encoding="utf-8"))]
        except (OSError, ValueError, TypeError) as exc:
            log.warning("%s: the kept timers cannot be read: %s", self._path, exc)
            return
        self._timers |= {timer.id: timer for timer in kept}
        self._count = max([self._count, *(int(timer.id.rpartition("_")[2]) for timer in kept)])
