"""The default pins of the button and the light, by the keys of the settings. Pure, and quick to import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["WIRING"]

WIRING: Final[Mapping[str, Any]] = {
    "pins.factory": "gpiod",
    "button.pin": 17,
    "button.pull": "up",
    "light.kind": "led",
    "light.pin": 25,
    "light.blue_pin": 23,
    "light.active_high": True,
}
