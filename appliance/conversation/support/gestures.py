"""Edges of one button → gestures: press, release, tap, double tap, hold, stuck.

Pure; time is an argument. Theory of operation: the first edge down is a press at once, without debouncing, because a
person must never wait. An edge up is only *pending*: it becomes a release once the level has stayed up for
`release_debounce_s`, dated at the edge itself. So contact bounce never delays a press and cannot end a turn. The level
is re-read while held (`ButtonEdge` repeats), so a lost edge is corrected.

A button that reads pressed from the start was not pressed by a person: it makes no press, and is reported as stuck
after `stuck_s`, until it is released. (Sources: gpiozero issues 550 and 1039 on library debounce that drops edges.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["Gesture", "GestureKind", "Gestures"]

GestureKind: TypeAlias = Literal["press", "release", "tap", "double_tap", "hold", "stuck", "freed"]


@dataclass(frozen=True, slots=True)
class Gesture:
    """One gesture; a tap follows its release, a double tap its second tap."""

    kind: GestureKind
    at: float
    """Time of the edge that made it, monotonic seconds."""
    held_s: float = 0.0


@dataclass(slots=True)
class _Press:
    at: float
    is_deliberate: bool
    up_since: float | None = None
    is_hold_reported: bool = False
    is_stuck_reported: bool = False


class Gestures:
    """The debouncer and gesture recogniser of one button."""

    def __init__(
        self,
        *,
        release_debounce_s: float = 0.02,
        tap_max_s: float = 0.3,
        double_tap_s: float = 0.4,
        hold_s: float = 1.0,
        stuck_s: float = 30.0,
        longest_press_s: float = 90.0,
    ) -> None:
        self._release_debounce_s = release_debounce_s
        self._tap_max_s = tap_max_s
        self._double_tap_s = double_tap_s
        self._hold_s = hold_s
        self._stuck_s = stuck_s
        self._longest_press_s = longest_press_s
        self._press: _Press | None = None
        self._last_tap_at = float("-inf")

    def __repr__(self) -> str:
        return f"<Gestures {'held' if self.is_held else 'released'}{', stuck' if self.is_stuck else ''}>"

    @property
    def is_held(self) -> bool:
        """The button counts as pressed (a pending release still does)."""
        return self._press is not None

    @property
    def is_stuck(self) -> bool:
        return self._press is not None and self._press.is_stuck_reported

    @property
    def deadline(self) -> float | None:
        """When to call `advance` next, monotonic seconds."""
        press = self._press
        if press is None:
            return None
        if press.up_since is not None:
            return press.up_since + self._release_debounce_s
        times = []
        if press.is_deliberate and not press.is_hold_reported:
            times.append(press.at + self._hold_s)
        if not press.is_stuck_reported:
            times.append(press.at + self._stuck_after(press))
        return min(times, default=None)

    def feed(self, pressed: bool, now: float, *, is_guarded: bool = False) -> list[Gesture]:
        """Handle one reading of the level; returns the gestures that it completes.

        Args:
            pressed: The level, at an edge or at a re-reading.
            now: Monotonic seconds.
            is_guarded: Whether the appliance has only just started, so that a press is not a person's.
        """
        gestures = self.advance(now)
        press = self._press
        if pressed and press is None:
            self._press = _Press(now, is_deliberate=not is_guarded)
            if not is_guarded:
                gestures.append(Gesture("press", now))
        elif pressed and press is not None:
            press.up_since = None
        elif press is not None and press.up_since is None:
            press.up_since = now
        return gestures

    def advance(self, now: float) -> list[Gesture]:
        """Return the gestures that time completes: a release, a hold, a stuck button."""
        press = self._press
        if press is None:
            return []
        gestures: list[Gesture] = []
        if press.up_since is not None:
            if now < press.up_since + self._release_debounce_s:
                return []
            return self._released(press, press.up_since)
        if press.is_deliberate and not press.is_hold_reported and now >= press.at + self._hold_s:
            press.is_hold_reported = True
            gestures.append(Gesture("hold", press.at + self._hold_s, self._hold_s))
        if not press.is_stuck_reported and now >= press.at + self._stuck_after(press):
            press.is_stuck_reported = True
            gestures.append(Gesture("stuck", now, now - press.at))
        return gestures

    def _stuck_after(self, press: _Press) -> float:
        return self._longest_press_s if press.is_deliberate else self._stuck_s

    def _released(self, press: _Press, at: float) -> list[Gesture]:
        self._press = None
        held_s = at - press.at
        gestures = [Gesture("freed", at, held_s)] if press.is_stuck_reported else []
        if not press.is_deliberate or press.is_stuck_reported:
            return gestures
        gestures.append(Gesture("release", at, held_s))
        if held_s <= self._tap_max_s and not press.is_hold_reported:
            gestures.append(Gesture("tap", at, held_s))
            if press.at - self._last_tap_at <= self._double_tap_s:
                gestures.append(Gesture("double_tap", at, held_s))
            self._last_tap_at = at
        return gestures
