"""The pattern of each light state, by name. Pure.

A single-colour light must show them apart too: no two patterns have the same effect, period, duty and level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["OFF", "PATTERNS", "LightPattern"]


@dataclass(frozen=True, slots=True)
class LightPattern:
    """How one light state looks.

    A single-colour light shows only `level` and the rhythm, so no two patterns may differ in colour alone.
    """

    name: str
    """The light state: "listening", "thinking", …"""
    color: tuple[float, float, float]
    """Red, green, blue, 0.0 to 1.0, at full brightness."""
    effect: Literal["off", "solid", "blink", "pulse"]
    """`blink` switches hard, `pulse` fades up and down."""
    period_s: float = 1.0
    """Length of one blink or pulse."""
    duty: float = 0.5
    """Share of the period during which a blink is on."""
    level: float = 1.0
    """Peak brightness, 0.0 to 1.0."""


OFF = LightPattern("off", (0.0, 0.0, 0.0), "off")
PATTERNS: dict[str, LightPattern] = {
    one.name: one
    for one in (
        LightPattern("failed", (1.0, 0.0, 0.0), "blink", period_s=0.4, duty=0.5),
        LightPattern("no_card", (1.0, 0.3, 0.0), "blink", period_s=2.0, duty=0.5),
        LightPattern("no_link", (1.0, 0.0, 0.0), "pulse", period_s=2.4, level=0.6),
        LightPattern("button_stuck", (1.0, 0.0, 0.6), "blink", period_s=3.0, duty=0.9),
        LightPattern("ringing", (0.0, 0.4, 1.0), "blink", period_s=0.6, duty=0.3),
        LightPattern("approval", (1.0, 0.7, 0.0), "blink", period_s=1.0, duty=0.5),
        LightPattern("listening", (0.0, 1.0, 0.0), "solid"),
        LightPattern("thinking", (1.0, 0.9, 0.2), "pulse", period_s=0.8),
        LightPattern("speaking", (0.0, 0.8, 0.8), "pulse", period_s=1.6),
        LightPattern("error", (1.0, 0.0, 0.0), "blink", period_s=0.2, duty=0.5),
        LightPattern("muted", (1.0, 0.0, 0.0), "solid", level=0.3),
        LightPattern("timer", (0.0, 0.3, 0.4), "pulse", period_s=4.0, level=0.3),
        LightPattern("booting", (0.0, 0.2, 1.0), "blink", period_s=1.4, duty=0.2, level=0.6),
        LightPattern("connecting", (0.0, 0.2, 1.0), "pulse", period_s=1.2, level=0.5),
        LightPattern("ready", (0.0, 0.3, 0.0), "solid", level=0.1),
    )
}
"""Every light state. Pure red means that something is wrong or muted; listening is steady green, the brightest."""
