"""The outputs: a lamp that is switched, a light that is dimmed, and the switches of `[[gpio.outputs]]`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from appliance.errors import BadPin
from appliance.hardware.pins import claimed, given_back

__all__ = ["Outputs", "Switch", "open_outputs", "open_switches"]


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outputs:
    """The gpiozero devices of the outputs; None if no pin is configured, or it cannot be used."""

    lamp: Any
    """A ``DigitalOutputDevice``."""
    dimmer: Any
    """A ``PWMOutputDevice``."""


@contextmanager
def open_outputs(*, lamp_pin: int | None, dimmer_pin: int | None, active_high: bool, factory: Any) -> Iterator[Outputs]:
    """Open the outputs that have a pin, until the context is left; one that cannot be used is logged and left out."""
    from gpiozero import DigitalOutputDevice, PWMOutputDevice

    with ExitStack() as stack:

        def opened(device_type: Callable[..., Any], pin: int | None) -> Any:
            device = None if pin is None else _device(device_type, pin, "output", active_high, factory)
            if device is not None:
                stack.callback(given_back, device)
            return device

        yield Outputs(opened(DigitalOutputDevice, lamp_pin), opened(PWMOutputDevice, dimmer_pin))


class Switch:
    """One output that is switched, or switched on for a time. Used on the event loop's thread.

    Args:
        device: A ``DigitalOutputDevice``, which is off.
        loop: Ends the pulses.
    """

    def __init__(self, device: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._device = device
        self._loop = loop
        self._end: asyncio.TimerHandle | None = None

    def set(self, on: bool) -> None:
        """Switch on or off."""
        self._device.value = on

    def pulse(self, seconds: float) -> float:
        """Switch on for a time; a pulse that runs is not prolonged.

        Returns:
            Seconds until the output is off again.
        """
        if self._end is None:
            self.set(True)
            self._end = self._loop.call_later(seconds, self._finish)
        return self._end.when() - self._loop.time()

    def close(self) -> None:
        """Switch off and release the pin; idempotent."""
        if self._end is not None:
            self._end.cancel()
        if not self._device.closed:
            try:
                self.set(False)
            except Exception as exc:  # noqa: BLE001 - lgpio.error: the chip may be gone
                log.warning("cannot switch an output off: %s", exc)
            given_back(self._device)

    def _finish(self) -> None:
        self._end = None
        self.set(False)


@contextmanager
def open_switches(
    wiring: Mapping[str, tuple[int, bool]], *, factory: Any, loop: asyncio.AbstractEventLoop
) -> Iterator[dict[str, Switch]]:
    """Open switches by name until the context is left; one that cannot be used is logged and left out.

    Args:
        wiring: Name → BCM number of the pin, and whether a low pin switches it on.
    """
    from gpiozero import DigitalOutputDevice

    with ExitStack() as stack:
        switches = {}
        for name, (pin, active_low) in wiring.items():
            device = _device(DigitalOutputDevice, pin, f"output {name}", not active_low, factory)
            if device is not None:
                switches[name] = Switch(device, loop)
                stack.callback(switches[name].close)
        yield switches


def _device(device_type: Callable[..., Any], pin: int, purpose: str, active_high: bool, factory: Any) -> Any:
    """Return an open output; None if it cannot be used, which is logged."""
    try:
        with claimed(pin, purpose, factory):
            return device_type(pin, active_high=active_high, pin_factory=factory)
    except BadPin as exc:
        log.warning("%s; going on without this output", exc)
        return None
