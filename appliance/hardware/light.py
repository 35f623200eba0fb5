"""The light: shows one light state at a time, by brightness and rhythm, on an RGB LED by colour too.

The loop animates it: 25 steps per second while it pulses, none while it is steady. It needs no thread.
`KINDS` has the kinds of light by name. To add one, write a function that returns an `Emitter`, add it to `KINDS`, and
add its name and its pins to ``LightSettings`` in ``settings.py``.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from appliance.errors import BadPin
from appliance.hardware.patterns import OFF, PATTERNS, LightPattern
from appliance.hardware.pins import claimed, given_back

__all__ = ["KINDS", "Emitter", "Light", "brightness"]

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


class Emitter(Protocol):
    """The LEDs of one kind of light. Called on the event loop: `write` MUST be quick; it MAY raise."""

    def write(self, color: tuple[float, float, float], level: float) -> None:
        """Show a colour (red, green, blue, 0.0 to 1.0) at a brightness (0.0 to 1.0)."""

    def close(self) -> None:
        """Switch the LEDs off and release the pins."""


class _PinLeds:
    def __init__(self, pins: Sequence[int], *, factory: Any, active_high: bool) -> None:
        from gpiozero import PWMLED

        self._leds: list[Any] = []
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


KINDS: Mapping[str, Callable[..., Emitter] | None] = {"led": _PinLeds, "rgb": _PinLeds, "none": None}
"""Kind → function of (pins, factory=…, active_high=…) that opens its LEDs; None for no LEDs."""


class Light:
    """One light.

    Args:
        kind: A key of `KINDS`: "led" (one pin, PWM), "rgb" (three) or "none".
        pins: BCM numbers: one, or red, green, blue.
        factory: A gpiozero pin factory.
        patterns: How each light state looks; a state without a pattern is dark.
        options: Passed to the kind's function: ``active_high`` (default: a high pin lights the LED).

    A light that cannot be opened is logged and left dark: the conversation goes on without it.
    """

    def __init__(
        self,
        kind: str,
        pins: Sequence[int],
        *,
        factory: Any,
        patterns: Mapping[str, LightPattern] = PATTERNS,
        **options: Any,
    ) -> None:
        self._patterns = patterns
        self._pattern = OFF
        self._changed = asyncio.Event()
        self._has_failed = False
        opened = KINDS[kind]
        self._emitter: Emitter | None = None
        try:
            self._emitter = opened(pins, factory=factory, **{"active_high": True, **options}) if opened else None
        except BadPin as exc:
            log.warning("%s; going on without the light", exc)

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
        emitter, self._emitter = self._emitter, None
        if emitter is not None:
            emitter.close()

    def _until_next_step(self, pattern: LightPattern, elapsed_s: float) -> float | None:
        """Return the seconds until the brightness changes; None for never."""
        if pattern.effect in ("off", "solid") or self._emitter is None:
            return None
        if pattern.effect == "pulse":
            return _STEP_S
        phase_s = elapsed_s % pattern.period_s
        on_s = pattern.period_s * pattern.duty
        return max((on_s if phase_s < on_s else pattern.period_s) - phase_s, 0.001)

    def _write(self, level: float) -> None:
        if self._emitter is None:
            return
        try:
            self._emitter.write(self._pattern.color, level)
        except Exception as exc:  # noqa: BLE001 - a failing light must not end the conversation
            if not self._has_failed:
                log.warning("cannot set the light: %s", exc)
            self._has_failed = True
