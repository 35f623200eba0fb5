"""A fake GPIO chip for the real `LGPIOFactory`: the functions of `lgpio` that gpiozero calls, behaving as the kernel.

Edges arrive on a separate thread, as lgpio's do. `installed` puts a chip into ``sys.modules`` as `lgpio`, imports
gpiozero's lgpio pins again on top of it, and restores both modules at the end.
"""

from __future__ import annotations

import importlib
import queue
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

__all__ = ["FakeChip", "installed"]

_IS_OUT, _PULL_UP, _PULL_DOWN, _PULL_NONE, _IS_INPUT, _IS_OUTPUT, _IS_ALERT = 2, 32, 64, 128, 256, 512, 1024
_PULLS = _PULL_UP | _PULL_DOWN | _PULL_NONE
REVISION_OF_A_PI_4 = 0xC03114


class Error(Exception):
    """Replaces ``lgpio.error``."""


@dataclass
class Line:
    """One line of the chip."""

    mode: int = 0
    level: int = 0
    duty: float | None = None
    frequency: float = 0.0
    written: list[float] = field(default_factory=list)
    """Levels and duty cycles, in order."""
    callbacks: list[Any] = field(default_factory=list)


class FakeChip:
    """The lines by number, and the functions of the `lgpio` module."""

    def __init__(self, label: str = "pinctrl-bcm2711") -> None:
        self.label = label
        self.lines: dict[int, Line] = {}
        self.opened: list[int] = []
        self.problem: str = ""
        """Error message of every attempt to open the chip; "" for none."""
        self.is_gone = False
        """True: claiming and writing a line fail."""
        self.held: set[int] = set()
        """Lines that another program uses."""
        self.edge_threads: set[str] = set()
        self._edges: queue.SimpleQueue[tuple[Callable[..., None], int, int, int] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._deliver, name="lgpio-alerts", daemon=True)
        self._thread.start()

    def line(self, number: int) -> Line:
        return self.lines.setdefault(number, Line())

    def drive(self, number: int, level: int) -> None:
        """Set a line from outside, as a finger does."""
        line = self.line(number)
        if line.level != level:
            line.level = level
            rising_or_falling = 1 if level else 2
            for callback in list(line.callbacks):
                if callback.edges & rising_or_falling:
                    self._edges.put((callback.function, number, level, 1_000_000))

    def close(self) -> None:
        self._edges.put(None)
        self._thread.join(5)

    def module(self) -> types.ModuleType:
        """Return a module named ``lgpio`` with the chip's functions."""
        made: Any = types.ModuleType("lgpio")
        made.error = Error
        made.BOTH_EDGES, made.RISING_EDGE, made.FALLING_EDGE = 3, 1, 2
        made.SET_PULL_UP, made.SET_PULL_DOWN, made.SET_PULL_NONE = _PULL_UP, _PULL_DOWN, _PULL_NONE
        chip = self

        class Callback:
            def __init__(self, handle: int, number: int, edges: int, function: Callable[..., None]) -> None:
                self.edges, self.function = edges, function
                self._line = chip.line(number)
                self._line.callbacks.append(self)

            def cancel(self) -> None:
                if self in self._line.callbacks:
                    self._line.callbacks.remove(self)

        made.callback = Callback
        for name in vars(FakeChip):
            if name.startswith(("gpio", "tx_")):
                setattr(made, name, getattr(self, name))
        return made  # type: ignore[no-any-return]

    # --- functions that gpiozero calls --------------------------------------------------------------------------

    def gpiochip_open(self, number: int) -> int:
        if self.problem:
            raise Error(self.problem)
        self.opened.append(number)
        return number

    def gpiochip_close(self, handle: int) -> int:
        self.opened.remove(handle)
        return 0

    def gpio_get_chip_info(self, handle: int) -> tuple[int, int, str, str]:
        return 0, 58, f"gpiochip{handle}", self.label

    def gpio_get_line_info(self, handle: int, number: int) -> tuple[int, int, int, str, str]:
        is_held = number in self.held
        return 0, number, int(is_held), f"GPIO{number}", "relayd" if is_held else ""

    def gpio_claim_input(self, handle: int, number: int, flags: int = 0) -> int:
        self._check(number)
        line = self.line(number)
        line.mode = line.mode & ~(_IS_OUT | _PULLS | _IS_ALERT) | flags | _IS_INPUT
        if flags & (_PULL_UP | _PULL_DOWN):
            line.level = 1 if flags & _PULL_UP else 0
        return 0

    def gpio_claim_output(self, handle: int, number: int, level: int = 0, flags: int = 0) -> int:
        self._check(number)
        line = self.line(number)
        line.mode = _IS_OUT | _IS_OUTPUT | flags
        line.level = level
        return 0

    def gpio_claim_alert(self, handle: int, number: int, edges: int, flags: int = 0, notify: Any = None) -> int:
        self._check(number)
        self.line(number).mode |= _IS_ALERT | flags
        return 0

    def gpio_free(self, handle: int, number: int) -> int:
        self.line(number).mode = 0
        return 0

    def gpio_get_mode(self, handle: int, number: int) -> int:
        return self.line(number).mode

    def gpio_read(self, handle: int, number: int) -> int:
        return self.line(number).level

    def gpio_write(self, handle: int, number: int, level: int) -> int:
        self._check(number)
        line = self.line(number)
        line.level = int(level)
        line.written.append(line.level)
        return 0

    def gpio_set_debounce_micros(self, handle: int, number: int, micros: int) -> int:
        assert micros == 0, "the library's debounce drops edges"
        return 0

    def tx_pwm(self, handle: int, number: int, frequency: float, duty: float) -> int:
        self._check(number)
        line = self.line(number)
        line.frequency, line.duty = frequency, duty
        line.written.append(duty)
        return 0

    def _check(self, number: int) -> None:
        if number in self.held:
            raise Error("GPIO busy")
        if self.is_gone:
            raise Error("bad handle")

    def _deliver(self) -> None:
        while (edge := self._edges.get()) is not None:
            function, number, level, ticks = edge
            self.edge_threads.add(threading.current_thread().name)
            function(0, number, level, ticks)


@contextmanager
def installed(chip: FakeChip) -> Iterator[FakeChip]:
    """Make ``import lgpio`` return this chip, and import gpiozero's lgpio pins on top of it."""
    names = ("lgpio", "gpiozero.pins.lgpio")
    before = {name: sys.modules.pop(name, None) for name in names}
    sys.modules["lgpio"] = chip.module()
    try:
        pins = importlib.import_module("gpiozero.pins.lgpio")
        pins.LGPIOFactory._get_revision = lambda self: REVISION_OF_A_PI_4
        yield chip
    finally:
        chip.close()
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module
