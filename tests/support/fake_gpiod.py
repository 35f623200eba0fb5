"""A fake `gpiod` 2.x: chips, line requests and edge events with the types of the library, behaving as the kernel.

A request's descriptor is readable while edges wait, so a real event loop can watch it. The buffer of edges is bounded
and drops the oldest, as the kernel's does. `installed` puts the module into ``sys.modules``.
"""

from __future__ import annotations

import enum
import errno
import importlib
import os
import sys
import threading
import time
import types
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

__all__ = ["FakeBoard", "installed"]


class Value(enum.Enum):
    INACTIVE = 0
    ACTIVE = 1

    def __bool__(self) -> bool:
        return self is Value.ACTIVE


Direction = enum.Enum("Direction", "AS_IS INPUT OUTPUT")
Bias = enum.Enum("Bias", "AS_IS UNKNOWN DISABLED PULL_UP PULL_DOWN")
Drive = enum.Enum("Drive", "PUSH_PULL OPEN_DRAIN OPEN_SOURCE")
Edge = enum.Enum("Edge", "NONE RISING FALLING BOTH")
Clock = enum.Enum("Clock", "MONOTONIC REALTIME HTE")


@dataclass
class LineSettings:
    """``gpiod.LineSettings``."""

    direction: Direction = Direction.AS_IS
    edge_detection: Edge = Edge.NONE
    bias: Bias = Bias.AS_IS
    drive: Drive = Drive.PUSH_PULL
    active_low: bool = False
    debounce_period: timedelta = timedelta()
    event_clock: Clock = Clock.MONOTONIC
    output_value: Value = Value.INACTIVE


@dataclass(frozen=True)
class EdgeEvent:
    """``gpiod.EdgeEvent``."""

    Type = enum.Enum("Type", "RISING_EDGE FALLING_EDGE")
    event_type: Any
    timestamp_ns: int
    line_offset: int
    global_seqno: int
    line_seqno: int


@dataclass
class Line:
    """One line of the header."""

    level: int = 0
    settings: LineSettings | None = None
    """None while nobody in this process holds the line."""
    held_by: str = ""
    """The other program that holds the line."""
    written: list[int] = field(default_factory=list)
    request: Request | None = None


@dataclass(frozen=True)
class ChipInfo:
    name: str
    label: str
    num_lines: int


@dataclass(frozen=True)
class LineInfo:
    offset: int
    name: str
    used: bool
    consumer: str


class FakeBoard:
    """The lines by number. `clock` gives the kernel's time of an edge."""

    def __init__(self, labels: tuple[str, ...] = ("gpio-brcmstb", "pinctrl-bcm2711")) -> None:
        self.labels = labels
        self.lines: dict[int, Line] = {}
        self.opened: list[str] = []
        self.read_on: set[str] = set()
        """Names of the threads that read edges."""
        self.problem: OSError | None = None
        self.on_write: Callable[[int, int], None] = lambda number, level: None
        self.at_s: float | None = None
        """Time of the next edges; None for now."""

    def line(self, number: int) -> Line:
        return self.lines.setdefault(number, Line())

    def drive(self, number: int, *levels: int) -> None:
        """Set a line from outside, as a finger does."""
        for level in levels:
            line = self.line(number)
            if line.level != level:
                line.level = level
                if line.request is not None:
                    line.request.edge(number, level)

    def lose_newest_edge(self, number: int) -> None:
        """Drop the newest queued edge of a line: only its level tells of it."""
        request = self.line(number).request
        assert request is not None
        request.edges.pop()

    def module(self) -> dict[str, types.ModuleType]:
        """Return the modules ``gpiod`` and ``gpiod.line``."""
        top: Any = types.ModuleType("gpiod")
        lines: Any = types.ModuleType("gpiod.line")
        for one in (Value, Direction, Bias, Drive, Edge, Clock):
            setattr(lines, one.__name__, one)
        board = self
        top.line = lines
        top.LineSettings, top.EdgeEvent, top.LineRequest = LineSettings, EdgeEvent, Request
        top.Chip = lambda path: Chip(board, path)
        top.request_lines = lambda path, **options: Chip(board, path).request_lines(**options)
        top.is_gpiochip_device = lambda path: Path(path).name.startswith("gpiochip")
        return {"gpiod": top, "gpiod.line": lines}


class Chip:
    """``gpiod.Chip``: all chips show the same lines."""

    def __init__(self, board: FakeBoard, path: str) -> None:
        if board.problem is not None:
            raise board.problem
        self._board = board
        self._path = path
        board.opened.append(path)

    def close(self) -> None:
        if self._path in self._board.opened:
            self._board.opened.remove(self._path)

    def get_info(self) -> ChipInfo:
        name = Path(self._path).name
        return ChipInfo(name, self._board.labels[int(name.removeprefix("gpiochip"))], 58)

    def get_line_info(self, line: int) -> LineInfo:
        one = self._board.line(line)
        held_by = one.held_by or (one.request.consumer if one.request is not None else "")
        return LineInfo(line, f"GPIO{line}", bool(held_by), held_by)

    def request_lines(
        self, config: dict[int, LineSettings], consumer: str = "?", event_buffer_size: int | None = None
    ) -> Request:
        for number in config:
            if self.get_line_info(number).used:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        return Request(self._board, config, consumer, event_buffer_size or 16)


class Request:
    """``gpiod.LineRequest``."""

    def __init__(self, board: FakeBoard, config: dict[int, LineSettings], consumer: str, size: int) -> None:
        self._board = board
        self.offsets = list(config)
        self.consumer = consumer
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.edges: deque[EdgeEvent] = deque(maxlen=size)
        self._sequence = dict.fromkeys(self.offsets, 0)
        for number in self.offsets:
            board.line(number).request = self
        self.reconfigure_lines(config)

    def reconfigure_lines(self, config: dict[int, LineSettings]) -> None:
        for number, settings in config.items():
            line = self._board.line(number)
            line.settings = replace(settings)
            if settings.direction is Direction.OUTPUT:
                self._set(number, settings.output_value)
            elif settings.bias in (Bias.PULL_UP, Bias.PULL_DOWN):
                line.level = int(settings.bias is Bias.PULL_UP)

    def get_value(self, number: int) -> Value:
        return Value(self._board.line(number).level)

    def set_value(self, number: int, value: Value) -> None:
        assert self.fd >= 0, "released"
        self._set(number, value)

    def wait_edge_events(self, timeout: float | None = None) -> bool:
        assert timeout == 0, "waits on the event loop"
        return bool(self.edges)

    def read_edge_events(self, max_events: int | None = None) -> list[EdgeEvent]:
        self._board.read_on.add(threading.current_thread().name)
        taken = [self.edges.popleft() for _ in range(min(len(self.edges), max_events or 16))]
        if not self.edges:
            os.eventfd_read(self.fd)
        return taken

    def release(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1
        for number in self.offsets:
            line = self._board.line(number)
            line.request = line.settings = None

    def edge(self, number: int, level: int) -> None:
        """Queue an edge if the line is watched."""
        settings = self._board.line(number).settings
        wanted = (Edge.BOTH, Edge.RISING if level else Edge.FALLING)
        if settings is None or settings.edge_detection not in wanted:
            return
        self._sequence[number] += 1
        at_s = self._board.at_s if self._board.at_s is not None else time.monotonic()
        kind = EdgeEvent.Type.RISING_EDGE if level else EdgeEvent.Type.FALLING_EDGE
        seqno = self._sequence[number]
        self.edges.append(EdgeEvent(kind, int(at_s * 1e9), number, seqno, seqno))
        os.eventfd_write(self.fd, 1)

    def _set(self, number: int, value: Value) -> None:
        line = self._board.line(number)
        line.level = value.value
        line.written.append(line.level)
        self._board.on_write(number, line.level)


@contextmanager
def installed(board: FakeBoard, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBoard]:
    """Make ``import gpiod`` return this board, and import the pins on top of it."""
    names = ("gpiod", "gpiod.line", "appliance.hardware.gpiod_pins")
    before = {name: sys.modules.pop(name, None) for name in names}
    sys.modules.update(board.module())
    plain_glob = Path.glob

    def glob(folder: Path, pattern: str) -> Any:
        if folder != Path("/dev"):
            return plain_glob(folder, pattern)
        return [folder / f"gpiochip{number}" for number in range(len(board.labels))]

    monkeypatch.setattr(Path, "glob", glob)
    try:
        importlib.import_module("appliance.hardware.gpiod_pins")
        yield board
    finally:
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module
