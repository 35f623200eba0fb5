"""LEDs on pins: one, or red, green and blue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from appliance.errors import BadPin
from appliance.hardware.pins import claimed, given_back

__all__ = ["PinLeds"]


class PinLeds:
    """One LED or three, dimmed by PWM. An `Emitter`.

    Args:
        pins: BCM numbers: one, or red, green, blue.
        factory: A gpiozero pin factory.
        active_high: A high pin lights the LED.

    Raises:
        BadPin: A pin cannot be claimed.
    """

    def __init__(self, pins: Sequence[int], *, factory: Any, active_high: bool, **_: Any) -> None:
        from gpiozero import PWMLED

        self._leds: list[Any] = []
        holds_pwm = getattr(factory, "holds_pwm", None)  # gpiod has no PWM of its own; the others always have
        self.holds_level = holds_pwm is None or all(map(holds_pwm, pins))
        try:
            for pin in pins:
                with claimed(pin, "light", factory):
                    self._leds.append(PWMLED(pin, active_high=active_high, pin_factory=factory))
        except BadPin:
            self.close()
            raise

    def write(self, color: tuple[float, float, float], level: float) -> None:
        shares = color if len(self._leds) == 3 else (1.0,)  # a single LED shows the brightness only
        for led, share in zip(self._leds, shares, strict=False):
            led.value = min(max(level * share, 0.0), 1.0)

    def close(self) -> None:
        for led in self._leds:
            given_back(led)
