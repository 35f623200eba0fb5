"""A lamp that goes on and off, and a light that is dimmed, on pins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from appliance.hardware.pins import claimed, given_back

__all__ = ["Outputs", "open_outputs"]


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the device can switch: devices of gpiozero, None where there is no pin."""

    lamp: Any
    """A ``DigitalOutputDevice``."""
    dimmer: Any
    """A ``PWMOutputDevice``."""


@contextmanager
def open_outputs(*, lamp_pin: int | None, dimmer_pin: int | None, active_high: bool, factory: Any) -> Iterator[Outputs]:
    """Open the outputs that have a pin, for as long as the block lasts.

    Raises:
        BadPin: A pin cannot be had.
    """
    from gpiozero import DigitalOutputDevice, PWMOutputDevice

    with ExitStack() as stack:

        def opened(device_type: Callable[..., Any], pin: int | None) -> Any:
            if pin is None:
                return None
            with claimed(pin, "output"):
                device = device_type(pin, active_high=active_high, pin_factory=factory)
            stack.callback(given_back, device)
            return device

        yield Outputs(opened(DigitalOutputDevice, lamp_pin), opened(PWMOutputDevice, dimmer_pin))
