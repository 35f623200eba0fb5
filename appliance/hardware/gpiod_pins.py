"""gpiozero pins over libgpiod 2: the kernel queues edges, and the event loop reads them when there are some.

Nothing runs while no edge arrives: no thread, no timer. (lgpio polls: 1,827 context switches per second at idle.) An
edge has the kernel's time. The kernel keeps 1,024 edges per line; when it drops some, the level is read again.

The kernel has no PWM on its lines. A brightness between dark and full needs a thread, which runs only meanwhile; with
the overlay ``pwm``, GPIO 12 and 13 are channels of the PWM hardware, which needs none.
"""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import gpiod
from gpiod.line import Bias, Direction, Edge, Value
from gpiozero.exc import PinFixedPull, PinInvalidFunction, PinPWMFixedValue, PinSetInput, PinUnknownPi
from gpiozero.pins.local import LocalPiFactory, LocalPiPin

from appliance.hardware.pins import CONSUMER, EDGES
from appliance.hardware.pwm import PwmChannel

__all__ = ["GpiodFactory", "GpiodPin"]

_UNKNOWN_BOARD = 0xA020D3  # a Pi 3B+: gpiozero needs the header of some board, and all since 2014 have the same pins
_BIAS = {"up": Bias.PULL_UP, "down": Bias.PULL_DOWN, "floating": Bias.DISABLED}
_EDGES = {"both": Edge.BOTH, "rising": Edge.RISING, "falling": Edge.FALLING, "none": Edge.NONE}


class GpiodFactory(LocalPiFactory):  # type: ignore[misc]
    """The pins of one chip. Inputs with edges need a running event loop; their callbacks run on its thread.

    Args:
        chip: An open ``gpiod.Chip``; closed by `close`.
        requests: Line → a request of this line that the pin takes over, with the level when the request was made; see
            `appliance.service.first_light`.
    """

    def __init__(self, chip: Any, requests: Mapping[int, tuple[Any, bool]] | None = None) -> None:
        super().__init__()
        self.chip = chip
        self.pin_class = GpiodPin
        self.requests = dict(requests or {})
        self.software_pwm = SoftwarePwm()
        self._has_pwm_hardware: dict[int, PwmChannel | None] = {}

    def close(self) -> None:
        super().close()
        for request, _ in self.requests.values():
            request.release()
        self.requests.clear()
        self.chip.close()

    def consumer(self, number: int) -> str:
        """Return the name of the program that holds a line; "" if it is free."""
        line = self.chip.get_line_info(number)
        return (line.consumer or "the kernel") if line.used else ""

    def holds_pwm(self, number: int) -> bool:
        """Tell whether a pin keeps any brightness without a thread."""
        return self.pwm_channel(number) is not None

    def pwm_channel(self, number: int) -> PwmChannel | None:
        """Return the channel of the PWM hardware that drives a pin; None if there is none."""
        if number not in self._has_pwm_hardware:
            self._has_pwm_hardware[number] = PwmChannel.of_pin(number)
        return self._has_pwm_hardware[number]

    def _get_revision(self) -> int:
        try:
            return int(super()._get_revision())
        except PinUnknownPi:
            return _UNKNOWN_BOARD


class GpiodPin(LocalPiPin):  # type: ignore[misc]
    """One line. It is requested once a function is set: a line of the PWM hardware must not be."""

    changed_at: float | None = None
    """Kernel time of the edge that is being reported, monotonic seconds."""

    def __init__(self, factory: GpiodFactory, info: Any) -> None:
        super().__init__(factory, info)
        self._settings = gpiod.LineSettings(direction=Direction.INPUT, bias=Bias.DISABLED)
        self._request: Any
        self._first_level: bool | None
        self._request, self._first_level = factory.requests.pop(self._number, (None, None))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._edges = "both"
        self._frequency: float | None = None
        self._duty = 0.0
        self._pwm: PwmChannel | None = None
        self._last_seqno = 0
        if self._request is None and (holder := factory.consumer(self._number)):
            raise OSError(errno.EBUSY, f"is used by {holder!r}")

    def close(self) -> None:
        """Release the line; it becomes an input."""
        self.when_changed = None
        self.frequency = None
        if self._pwm is not None:
            self._pwm.write(0.0)
        if self._request is not None:
            self._request.release()
        self._request = self._pwm = None
        self._settings = gpiod.LineSettings(direction=Direction.INPUT, bias=Bias.DISABLED)

    def read_edges(self) -> None:
        """Report the edges that the kernel has queued, then the level if edges were dropped; never waits."""
        self._first_level = None
        while self._request is not None and self._request.wait_edge_events(0):
            was_dropped = False
            for event in self._request.read_edge_events(EDGES):
                was_dropped |= event.line_seqno != self._last_seqno + 1
                self._last_seqno = event.line_seqno
                self._report(event.timestamp_ns / 1e9, event.event_type is event.Type.RISING_EDGE)
            if was_dropped:
                self._report(time.monotonic(), bool(self._get_state()))

    def _report(self, at: float, level: bool) -> None:
        self.changed_at = at
        try:
            self._call_when_changed(at, level)
        finally:
            self.changed_at = None

    def _apply(self) -> None:
        if self._request is None:
            self._request = self.factory.chip.request_lines(
                {self._number: self._settings}, consumer=CONSUMER, event_buffer_size=EDGES
            )
        else:
            self._request.reconfigure_lines({self._number: self._settings})

    def _get_function(self) -> str:
        return "output" if self._pwm is not None or self._settings.direction is Direction.OUTPUT else "input"

    def _set_function(self, value: str) -> None:
        if value not in ("input", "output"):
            raise PinInvalidFunction(f"invalid function {value!r} for pin {self!r}")
        self._pwm = self.factory.pwm_channel(self._number) if value == "output" else None
        if self._pwm is None:
            self._settings.direction = Direction.OUTPUT if value == "output" else Direction.INPUT
            self._settings.bias = Bias.AS_IS if value == "output" else Bias.DISABLED
            if value == "output":
                self._settings.edge_detection = Edge.NONE
            self._apply_unless_early()

    def _apply_unless_early(self) -> None:
        """Request or change the line; an input that was requested early keeps what `first_light` set."""
        if self._first_level is None or self._settings.direction is Direction.OUTPUT:
            self._apply()

    def _get_state(self) -> float:
        if self._pwm is not None or self._frequency is not None:
            return self._duty
        if self._first_level is not None and self._settings.direction is Direction.INPUT:
            return bool(self._first_level)  # edges that are not yet read follow
        if self._request is None:
            self._apply()
        return bool(self._request.get_value(self._number))

    def _set_state(self, value: float) -> None:
        if self._get_function() == "input":
            raise PinSetInput(f"cannot set state of pin {self!r}")
        self._duty = min(max(float(value), 0.0), 1.0)
        if self._pwm is not None:
            self._pwm.write(self._duty)
        elif self._frequency is not None and 0.0 < self._duty < 1.0:
            self.factory.software_pwm.dim(self._number, self._write, self._duty)
        else:
            self.factory.software_pwm.stop(self._number)
            self._write(self._duty > 0.0)

    def _write(self, level: bool) -> None:
        self._settings.output_value = Value.ACTIVE if level else Value.INACTIVE
        self._request.set_value(self._number, self._settings.output_value)

    def _get_pull(self) -> str:
        return next((name for name, bias in _BIAS.items() if bias is self._settings.bias), "floating")

    def _set_pull(self, value: str) -> None:
        if self._get_function() != "input":
            raise PinFixedPull(f"cannot set pull on non-input pin {self!r}")
        if self.info.pull not in (value, ""):
            raise PinFixedPull(f"{self!r} has a physical pull-{self.info.pull} resistor")
        self._settings.bias = _BIAS[value]
        self._apply_unless_early()

    def _get_frequency(self) -> float | None:
        return self._frequency

    def _set_frequency(self, value: float | None) -> None:
        if value and self._get_function() != "output":
            raise PinPWMFixedValue(f"cannot start PWM on pin {self!r}")
        if not value:
            self.factory.software_pwm.stop(self._number)
        self._frequency = value or None

    def _get_bounce(self) -> None:
        return None

    def _set_bounce(self, value: float | None) -> None:
        if value is not None:
            raise ValueError("the kernel's debounce delays a press by its whole time; gestures debounce")

    def _get_edges(self) -> str:
        return self._edges

    def _set_edges(self, value: str) -> None:
        self._edges = value
        if self._loop is not None:
            self._settings.edge_detection = _EDGES[value]
            self._apply()

    def _enable_event_detect(self) -> None:
        self._settings.edge_detection = _EDGES[self._edges]
        self._apply_unless_early()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._request.fd, self.read_edges)

    def _disable_event_detect(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None and not loop.is_closed():
            loop.remove_reader(self._request.fd)
        self._settings.edge_detection = Edge.NONE
        self._first_level = None
        self._apply()


class SoftwarePwm:
    """One thread that dims any number of lines at 100 Hz; it ends when no line is between dark and full."""

    _PERIOD_S = 0.01

    def __init__(self) -> None:
        self._lines: dict[int, tuple[Callable[[bool], None], float]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def is_running(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None

    def dim(self, number: int, write: Callable[[bool], None], duty: float) -> None:
        """Switch a line on for a share of each period.

        Args:
            number: The line.
            write: Sets its level; called on this object's thread.
            duty: More than 0, less than 1.
        """
        with self._lock:
            self._lines[number] = (write, duty)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pwm", daemon=True)
                self._thread.start()

    def stop(self, number: int) -> None:
        """Leave a line alone; after the return the thread does not write it."""
        with self._lock:
            self._lines.pop(number, None)

    def _run(self) -> None:
        while True:
            began = time.monotonic()
            if not (due := self._begin_period()):
                return
            for off_at, number in due:
                time.sleep(max(began + off_at - time.monotonic(), 0.0))
                self._switch(number, on=False)
            time.sleep(max(began + self._PERIOD_S - time.monotonic(), 0.0))

    def _begin_period(self) -> list[tuple[float, int]]:
        """Switch all lines on; return when to switch each one off. Ends the thread if there are none."""
        with self._lock:
            if not self._lines:
                self._thread = None
            due = sorted((duty * self._PERIOD_S, number) for number, (_, duty) in self._lines.items())
        for _, number in due:
            self._switch(number, on=True)
        return due

    def _switch(self, number: int, *, on: bool) -> None:
        with self._lock:
            if number in self._lines:
                try:
                    self._lines[number][0](on)
                except OSError:  # the chip is gone; the light's next write says so
                    del self._lines[number]
