"""The light: shows one light state at a time, by brightness and rhythm, on an RGB LED by colour too.

The loop animates it: 25 steps per second while it pulses, none while it is steady. It needs no thread. Several kinds of
light can show it at once.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Protocol

from appliance import plugins
from appliance.errors import HardwareError
from appliance.hardware.lights.quiet import Quiet
from appliance.hardware.patterns import OFF, PATTERNS, LightPattern

__all__ = ["KINDS", "Emitter", "Light", "brightness", "openers", "without_dimming"]

log = logging.getLogger(__name__)

_STEP_S = 0.04
_QUIET_CHECK_S = 60.0
_LOUD = frozenset({"failed", "no_card", "no_link", "button_stuck", "error", "ringing"})  # not dimmed in quiet hours
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


def without_dimming(pattern: LightPattern) -> LightPattern:
    """Return what stands for a steady, dimmed pattern on a light that can only be on or off at rest. Pure.

    A faint one becomes a flash of 40 ms every 2 s, a brighter one a gap of 40 ms every 2 s: no PWM runs at rest.
    """
    if pattern.effect != "solid" or not 0.0 < pattern.level < 1.0:
        return pattern
    return replace(pattern, effect="blink", period_s=2.0, duty=0.02 if pattern.level <= 0.2 else 0.98, level=1.0)


class Emitter(Protocol):
    """The LEDs of one kind of light. Called on the event loop: `write` MUST be quick; it MAY raise."""

    holds_level: bool
    """Whether a brightness between dark and full costs nothing while it does not change."""

    def write(self, color: tuple[float, float, float], level: float) -> None:
        """Show a colour (red, green, blue, 0.0 to 1.0) at a brightness (0.0 to 1.0)."""

    def close(self) -> None:
        """Switch the LEDs off and release the pins."""


KINDS: Mapping[str, str] = {
    "led": "appliance.hardware.lights.leds:PinLeds",
    "rgb": "appliance.hardware.lights.leds:PinLeds",
    "apa102": "appliance.hardware.lights.spi:open_apa102",
    "ws2812": "appliance.hardware.lights.spi:open_ws2812",
}
"""Kind → function of (pins, factory=…, active_high=…, count=…) that returns an open `Emitter`."""


def openers(kind: str) -> dict[str, Callable[..., Emitter]]:
    """Return the functions that open the kinds of light in a setting: "led", "led+apa102" or "none".

    Raises:
        SettingsError: A kind is neither in `KINDS` nor in an installed package.
    """
    names = [] if kind == "none" else [one.strip() for one in kind.split("+")]
    return {one: plugins.named(KINDS, one, kind="light", group="voice_appliance.lights") for one in names}


class Light:
    """One light, of one or several kinds.

    Args:
        kind: "none", or names of `KINDS` or of packages' entries, with a plus sign between them.
        pins: Kind → BCM numbers, for kinds on pins.
        factory: A gpiozero pin factory.
        patterns: How each light state looks; a state without a pattern is dark.
        quiet: When it is dimmed; problems and a ringing alarm are not.
        options: Passed to the kinds' functions: ``active_high`` (default: a high pin lights the LED) and others.

    Raises:
        SettingsError: See `openers`.

    A light that cannot be opened is logged and left dark: the conversation goes on without it.
    """

    def __init__(
        self,
        kind: str,
        pins: Mapping[str, Sequence[int]],
        *,
        factory: Any,
        patterns: Mapping[str, LightPattern] = PATTERNS,
        quiet: Quiet = Quiet("", 1.0),  # noqa: B008 - frozen
        **options: Any,
    ) -> None:
        self._patterns = patterns
        self._pattern = OFF
        self._changed = asyncio.Event()
        self._has_failed = False
        self._quiet = quiet
        self._emitters: list[Emitter] = []
        for name, opened in openers(kind).items():
            try:
                self._emitters.append(opened(pins.get(name, ()), factory=factory, **{"active_high": True, **options}))
            except HardwareError as exc:
                log.warning("%s; going on without this light", exc)

    @property
    def quiet(self) -> Quiet:
        """When it is dimmed; a new value counts at once."""
        return self._quiet

    @quiet.setter
    def quiet(self, quiet: Quiet) -> None:
        self._quiet = quiet
        self._changed.set()

    def show(self, state: str) -> None:
        """Show a light state, from the start of its pattern; no-op if that pattern is already shown."""
        pattern = self._patterns.get(state, OFF)
        if not all(one.holds_level for one in self._emitters):
            pattern = without_dimming(pattern)
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
        emitters, self._emitters = self._emitters, []
        for emitter in emitters:
            try:
                emitter.close()
            except OSError as exc:
                log.warning("cannot switch the light off: %s", exc)

    def _until_next_step(self, pattern: LightPattern, elapsed_s: float) -> float | None:
        """Return the seconds until the brightness changes; None for never."""
        if not self._emitters or pattern.effect == "off":
            return None
        if pattern.effect == "solid":
            return _QUIET_CHECK_S if self._quiet.hours else None
        if pattern.effect == "pulse":
            return _STEP_S
        phase_s = elapsed_s % pattern.period_s
        on_s = pattern.period_s * pattern.duty
        return max((on_s if phase_s < on_s else pattern.period_s) - phase_s, 0.001)

    def _write(self, level: float) -> None:
        if self._quiet.hours and self._pattern.name not in _LOUD:
            level *= self._quiet.share(datetime.now().time())
        for emitter in self._emitters:
            try:
                emitter.write(self._pattern.color, level)
            except Exception as exc:  # noqa: BLE001 - a failing light must not end the conversation
                if not self._has_failed:
                    log.warning("cannot set the light: %s", exc)
                self._has_failed = True
