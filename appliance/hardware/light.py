"""The light: shows one light state at a time, by brightness and rhythm, on an RGB LED by colour too.

The loop animates it: 25 steps per second while it pulses, none while it is steady. It needs no thread.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from appliance.hardware.patterns import OFF, PATTERNS, LightPattern
from appliance.hardware.pins import claimed, given_back

__all__ = ["Light", "brightness"]

log = logging.getLogger(__name__)

_STEP_S = 0.04
_FAINTEST = 0.05  # of a pulse's peak: a light that goes out completely looks broken


def brightness(pattern: LightPattern, elapsed_s: float) -> float:
    """Return the brightness, 0.0 to 1.0, of a pattern `elapsed_s` seconds after its start. Pure."""
    phase = (elapsed_s / pattern.period_s) % 1.0
    match pattern.effect:
        case "off":
            return 0.0
        case "solid":
            return pattern.level
        case "blink":
            return pattern.level if phase < pattern.duty else 0.0
        case "pulse":
            swing = 0.5 - 0.5 * math.cos(2 * math.pi * phase)
            return pattern.level * (_FAINTEST + (1 - _FAINTEST) * swing)


class Light:
    """One light.

    Args:
        kind: "led" (one pin, PWM), "rgb" (three) or "none".
        pins: BCM numbers: one, or red, green, blue.
        factory: A gpiozero pin factory.
        active_high: A high pin switches the LED on.
        patterns: Pattern per light state; the light is off in any other state.

    Raises:
        BadPin: A pin does not exist, is in use, or is unsuitable.
    """

    def __init__(
        self,
        kind: Literal["led", "rgb", "none"],
        pins: Sequence[int],
        *,
        factory: Any,
        active_high: bool = True,
        patterns: Mapping[str, LightPattern] = PATTERNS,
    ) -> None:
        from gpiozero import PWMLED

        self._kind = kind
        self._patterns = patterns
        self._pattern = OFF
        self._changed = asyncio.Event()
        self._has_failed = False
        self._leds: list[Any] = []
        for pin in pins:
            with claimed(pin, "light"):
                self._leds.append(PWMLED(pin, active_high=active_high, pin_factory=factory))

    def show(self, state: str) -> None:
        """Show a light state, from the start of its pattern; no-op if that pattern is already shown."""
        pattern = self._patterns.get(state, OFF)
        if pattern != self._pattern:
            self._pattern = pattern
            self._write(brightness(pattern, 0.0))
            self._changed.set()

    async def run(self) -> None:
        """Animate until cancelled."""
        clock: Callable[[], float] = asyncio.get_running_loop().time
        while True:
            self._changed.clear()
            pattern, began = self._pattern, clock()
            self._write(brightness(pattern, 0.0))
            while not self._changed.is_set():
                wait_s = self._until_next_step(pattern, clock() - began)
                try:
                    async with asyncio.timeout(wait_s):
                        await self._changed.wait()
                except TimeoutError:
                    self._write(brightness(pattern, clock() - began))

    def close(self) -> None:
        """Switch the light off and release the pins; idempotent."""
        leds, self._leds = self._leds, []
        for led in leds:
            given_back(led)

    def _until_next_step(self, pattern: LightPattern, elapsed_s: float) -> float | None:
        """Return the seconds until the brightness changes; None for never."""
        if pattern.effect in ("off", "solid") or not self._leds:
            return None
        if pattern.effect == "pulse":
            return _STEP_S
        phase_s = elapsed_s % pattern.period_s
        on_s = pattern.period_s * pattern.duty
        return max((on_s if phase_s < on_s else pattern.period_s) - phase_s, 0.001)

    def _write(self, level: float) -> None:
        colours = self._pattern.color if self._kind == "rgb" else (1.0,)
        try:
            for led, share in zip(self._leds, colours, strict=False):
                led.value = min(max(level * share, 0.0), 1.0)
        except Exception as exc:  # noqa: BLE001 - a failing light must not end the conversation
            if not self._has_failed:
                log.warning("cannot set the light: %s", exc)
            self._has_failed = True
