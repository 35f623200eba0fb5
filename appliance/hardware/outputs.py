"""The outputs: a lamp that is switched and a light that is dimmed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from appliance.errors import BadPin
from appliance.hardware.pins import claimed, given_back

__all__ = ["Outputs", "open_outputs"]


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
            if pin is None:
                return None
            try:
                with claimed(pin, "output", factory):
                    device = device_type(pin, active_high=active_high, pin_factory=factory)
            except BadPin as exc:
                log.warning("%s; going on without this output", exc)
                return None
            stack.callback(given_back, device)
            return device

        yield Outputs(opened(DigitalOutputDevice, lamp_pin), opened(PWMOutputDevice, dimmer_pin))
