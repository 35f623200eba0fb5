"""The light: one interface over LEDs on pins and strips on SPI; `KINDS` has the kinds by name."""

from appliance.hardware.lights.light import KINDS, Emitter, Light, brightness, openers, without_dimming
from appliance.hardware.lights.quiet import Quiet

__all__ = ["KINDS", "Emitter", "Light", "Quiet", "brightness", "openers", "without_dimming"]
