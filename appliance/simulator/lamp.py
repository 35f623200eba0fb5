"""The brightness of a lamp on mock pins, read from the pins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["SimulatedLamp"]


class SimulatedLamp:
    """One lamp of one or three colours on mock pins."""

    def __init__(self, factory: Any, pins: Sequence[int], *, active_high: bool = True) -> None:
        self._pins = [factory.pin(pin) for pin in pins]
        self._active_high = active_high

    @property
    def color(self) -> tuple[float, ...]:
        """Brightness of each pin, 0.0 to 1.0."""
        states = [float(pin.state) for pin in self._pins]
        return tuple(state if self._active_high else 1.0 - state for state in states)

    @property
    def level(self) -> float:
        """Brightness of the brightest pin, 0.0 to 1.0."""
        return max(self.color)
