"""Edges of one button → gestures: press, release, tap, double tap, hold, stuck.

Pure; time is an argument. Theory of operation: the first edge down is a press, at once, for a person must never
wait for a debouncer. An edge up is only *pending*: it becomes a release when the level has stayed up for
`release_debounce_s`, dated at the edge itself. Contact bounce therefore costs nothing on the press and cannot end
a turn. The level is re-read while held (`ButtonEdge` repeats), so that a lost edge heals itself.

A button that reads pressed from the start is no person: it is not acted on, and after `stuck_s` it is reported as
stuck until it is seen released. (Sources: gpiozero issues 550 and 1039 on library debounce that drops edges.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["Gesture", "GestureKind", "Gestures"]

GestureKind: TypeAlias = Literal["press", "release", "tap", "double_tap", "hold", "stuck", "freed"]


@dataclass(frozen=True, slots=True)
class Gesture:
    """One gesture; a tap comes after its release, a double tap after its second tap."""

    kind: GestureKind
    at: float
    """Monotonic seconds of the edge that made it."""
    held_s: float = 0.0


@dataclass(slots=True)
class _Press:
    at: float
    acted_on: bool
    up_since: float | None = None
    hold_told: bool = False
    stuck_told: bool = False


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
        return self._press is not None and self._press.stuck_told

    @property
    def deadline(self) -> float | None:
        """When `advance` has something to say, monotonic seconds."""
        press = self._press
        if press is None:
            return None
        if press.up_since is not None:
            return press.up_since + self._release_debounce_s
        times = []
        if press.acted_on and not press.hold_told:
            times.append(press.at + self._hold_s)
        if not press.stuck_told:
            times.append(press.at + self._stuck_after(press))
        return min(times, default=None)

    def feed(self, pressed: bool, now: float, *, is_guarded: bool = False) -> list[Gesture]:
        """Take one reading of the level.

        Args:
            pressed: The level, at an edge or at a re-reading.
            now: Monotonic seconds.
            is_guarded: The appliance has only just started: a press now is not a person's.
        """
        gestures = self.advance(now)
        press = self._press
        if pressed and press is None:
            self._press = _Press(now, acted_on=not is_guarded)
            if not is_guarded:
                gestures.append(Gesture("press", now))
        elif pressed and press is not None:
            press.up_since = None
        elif press is not None and press.up_since is None:
            press.up_since = now
        return gestures

    def advance(self, now: float) -> list[Gesture]:
        """Let time pass: confirm a release, notice a hold or a stuck button."""
        press = self._press
        if press is None:
            return []
        gestures: list[Gesture] = []
        if press.up_since is not None:
            if now < press.up_since + self._release_debounce_s:
                return []
            return self._released(press, press.up_since)
        if press.acted_on and not press.hold_told and now >= press.at + self._hold_s:
            press.hold_told = True
            gestures.append(Gesture("hold", press.at + self._hold_s, self._hold_s))
        if not press.stuck_told and now >= press.at + self._stuck_after(press):
            press.stuck_told = True
            gestures.append(Gesture("stuck", now, now - press.at))
        return gestures

    def _stuck_after(self, press: _Press) -> float:
        return self._longest_press_s if press.acted_on else self._stuck_s

    def _released(self, press: _Press, at: float) -> list[Gesture]:
        self._press = None
        held_s = at - press.at
        gestures = [Gesture("freed", at, held_s)] if press.stuck_told else []
        if not press.acted_on or press.stuck_told:
            return gestures
        gestures.append(Gesture("release", at, held_s))
        if held_s <= self._tap_max_s:
            gestures.append(Gesture("tap", at, held_s))
            if press.at - self._last_tap_at <= self._double_tap_s:
                gestures.append(Gesture("double_tap", at, held_s))
            self._last_tap_at = at
        return gestures
