"""An event loop in virtual time: whenever nothing is ready, the clock jumps to the next timer.

Sockets, pipes and signals are real and take no virtual time: what was written to a socket is delivered before the clock
moves.
"""

from __future__ import annotations

import asyncio
import inspect
import selectors
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest

__all__ = ["ThreadlessLoop", "VirtualTimeLoop", "in_virtual_time", "virtual_clocks"]

T = TypeVar("T")

_REAL_POLL_S = 0.001


class _Selector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Advances the clock of a loop instead of waiting."""

    loop: VirtualTimeLoop

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None or self.loop.is_waiting_for_threads:
            return super().select(_REAL_POLL_S)
        self.loop.now += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose `time` starts at 0 and moves only when nothing is ready; it waits for no thread."""

    now = 0.0
    is_waiting_for_threads = False

    def __init__(self) -> None:
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now


class ThreadlessLoop(VirtualTimeLoop):
    """The same for a whole device, from 1,000 s: it runs blocking work itself, and its `time` waits for threads."""

    now = 1000.0

    def __init__(self) -> None:
        self._own_threads = threading.active_count()
        super().__init__()

    @property
    def is_waiting_for_threads(self) -> bool:  # type: ignore[override]
        return threading.active_count() > self._own_threads

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as exc:  # noqa: BLE001 - it is raised where it is awaited
            done.set_exception(exc)
        return done


def in_virtual_time(scene: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time, which goes on while a thread hangs; return its result."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(scene)


class Wall:
    """The wall clock, which can be set; it goes as fast as the loop."""

    def __init__(self, loop: VirtualTimeLoop, start: datetime) -> None:
        self._loop = loop
        self._ahead_s = start.timestamp() - loop.time()

    def time(self) -> float:
        return self._loop.time() + self._ahead_s

    def set_forward(self, seconds: float) -> None:
        """Set the clock forward, or back if `seconds` is negative."""
        self._ahead_s += seconds


@contextmanager
def virtual_clocks(loop: VirtualTimeLoop, start: datetime, package: str) -> Iterator[Wall]:
    """Let `time.time`, `time.monotonic`, and ``datetime.now`` of a package's modules, follow a loop.

    Args:
        loop: The loop.
        start: The time of day at which it starts.
        package: Its modules that are imported by now; a clock that is the default of an argument follows, too.
    """
    wall = Wall(loop, start)

    class VirtualDatetime(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> VirtualDatetime:
            return cls.fromtimestamp(wall.time(), tz or UTC).replace(tzinfo=tz)

    clocks = {time.monotonic: loop.time, time.time: wall.time}
    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] == package:
                for function in _functions(module):
                    _patch_defaults(patch, function, clocks)
                if getattr(module, "datetime", None) is datetime:
                    patch.setattr(module, "datetime", VirtualDatetime)
        patch.setattr(time, "monotonic", loop.time)
        patch.setattr(time, "monotonic_ns", lambda: int(loop.time() * 1e9))
        patch.setattr(time, "time", wall.time)
        yield wall


def _functions(module: Any) -> Iterator[Any]:
    for one in list(vars(module).values()):
        if inspect.isfunction(one):
            yield one
        elif inspect.isclass(one) and one.__module__ == module.__name__:
            yield from filter(inspect.isfunction, vars(one).values())


def _patch_defaults(patch: pytest.MonkeyPatch, function: Any, clocks: Mapping[Any, Any]) -> None:
    defaults = function.__kwdefaults__ or {}
    for name, value in list(defaults.items()):
        if inspect.isbuiltin(value) and value in clocks:
            patch.setitem(defaults, name, clocks[value])
