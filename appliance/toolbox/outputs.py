"""A lamp that goes on and off, and a light that is dimmed, on pins."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Any

from appliance.errors import BadPin

__all__ = ["Dimmer", "Lamp", "Outputs", "open_outputs"]

log = logging.getLogger(__name__)


class Lamp:
    """An output that is on or off."""

    def __init__(self, pin: int, *, active_high: bool, factory: Any) -> None:
        from gpiozero import DigitalOutputDevice

        self._device = _claimed(DigitalOutputDevice, pin, active_high=active_high, pin_factory=factory)

    @property
    def is_on(self) -> bool:
        return bool(self._device.value)

    def switch(self, on: bool) -> None:
        self._device.value = 1 if on else 0

    def close(self) -> None:
        self._device.close()


class Dimmer:
    """An output of any brightness, by PWM."""

    def __init__(self, pin: int, *, active_high: bool, factory: Any) -> None:
        from gpiozero import PWMOutputDevice

        self._device = _claimed(PWMOutputDevice, pin, active_high=active_high, pin_factory=factory)
        self._last_percent = 100

    @property
    def percent(self) -> int:
        """Brightness now, 0 to 100."""
        return round(float(self._device.value) * 100)

    def set(self, percent: int) -> None:
        """Set the brightness; 0 is off, and remembered brightness is what `on` comes back to."""
        if percent > 0:
            self._last_percent = percent
        self._device.value = percent / 100

    def on(self) -> None:
        """Light it as bright as it was."""
        self.set(self._last_percent)

    def close(self) -> None:
        self._device.close()


def _claimed(device: Any, pin: int, **options: Any) -> Any:
    try:
        return device(pin, **options)
    except Exception as exc:  # noqa: BLE001 - gpiozero's errors, and lgpio.error, which is made at import
        raise BadPin(f"output: GPIO {pin}: {exc}; pins are BCM numbers, each for one purpose") from None


class Outputs:
    """What the device can switch; close it to give the pins back."""

    def __init__(self, lamp: Lamp | None, dimmer: Dimmer | None) -> None:
        self.lamp = lamp
        self.dimmer = dimmer

    def __enter__(self) -> Outputs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for output in (self.lamp, self.dimmer):
            if output is not None:
                try:
                    output.close()
                except Exception as exc:  # noqa: BLE001 - lgpio.error: the chip is gone, and its pins with it
                    log.warning("an output cannot be given back: %s", exc)


def open_outputs(*, lamp_pin: int | None, dimmer_pin: int | None, active_high: bool, factory: Any) -> Outputs:
    """Open the outputs that have a pin.

    Raises:
        BadPin: A pin cannot be had.
    """
    lamp = None if lamp_pin is None else Lamp(lamp_pin, active_high=active_high, factory=factory)
    try:
        dimmer = None if dimmer_pin is None else Dimmer(dimmer_pin, active_high=active_high, factory=factory)
    except BadPin:
        if lamp is not None:
            lamp.close()
        raise
    return Outputs(lamp, dimmer)
