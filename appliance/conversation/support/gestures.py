"""Edges of one button → gestures: press, release, tap, double tap, holds, stuck.

Pure; time is an argument. Theory of operation: the first edge down is a *pending* press at once: the light shows it,
and the pre-roll keeps everything from before it. It becomes a press after `min_press_s`, dated at the edge; a shorter
pulse (a relay on the next pin, a static discharge) is no gesture at all. An edge up is pending too: it becomes a
release once the level has stayed up for `release_debounce_s`, dated at the edge itself. So contact bounce delays no
press and cannot end a turn. The level is re-read while held (`ButtonEdge` repeats), so a lost edge is corrected.

A double tap is a second press within `double_tap_s` of the release of a tap; it makes no tap and no hold of its own.
Only with `double_tap_s` does anything wait for a second tap (`awaits_second_tap`).

A button that reads pressed from the start was not pressed by a person: it makes no press, and is reported as stuck
after `stuck_s`, until it is released. (Sources: gpiozero issues 550 and 1039 on library debounce that drops edges.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Literal, TypeAlias

__all__ = ["Gesture", "GestureKind", "Gestures", "HoldKind"]

HoldKind: TypeAlias = Literal["hold", "mute_hold", "power_off_hold"]
GestureKind: TypeAlias = Literal["press", "release", "tap", "double_tap", "stuck", "freed"] | HoldKind


@dataclass(frozen=True, slots=True)
class Gesture:
    """One gesture; a tap follows its release, a double tap is the second press."""

    kind: GestureKind
    at: float
    """Time of the edge that made it, monotonic seconds."""
    held_s: float = 0.0


@dataclass(slots=True)
class _Press:
    at: float
    is_deliberate: bool
    is_confirmed: bool = False
    is_second: bool = False
    """It is the second one of a double tap."""
    is_used: bool = False
    """It makes no more taps and holds: it was a second tap, or it has answered something."""
    up_since: float | None = None
    holds: int = 0
    """Number of holds reported."""
    is_stuck_reported: bool = False


class Gestures:
    """The debouncer and gesture recogniser of one button."""

    def __init__(
        self,
        *,
        min_press_s: float = 0.0,
        release_debounce_s: float = 0.02,
        tap_max_s: float = 0.3,
        double_tap_s: float = 0.0,
        holds: Mapping[HoldKind, float] | None = None,
        stuck_s: float = 30.0,
        longest_press_s: float = 90.0,
    ) -> None:
        """Create the recogniser of a button that is up; see `set_times`."""
        self.set_times(
            min_press_s=min_press_s,
            release_debounce_s=release_debounce_s,
            tap_max_s=tap_max_s,
            double_tap_s=double_tap_s,
            holds={"hold": 1.0} if holds is None else holds,
            stuck_s=stuck_s,
            longest_press_s=longest_press_s,
        )
        self._press: _Press | None = None
        self._tap_at: float | None = None
        """Release of a tap that a second one may follow."""
        self._is_tap_used = False

    def set_times(
        self,
        *,
        min_press_s: float,
        release_debounce_s: float,
        tap_max_s: float,
        double_tap_s: float,
        holds: Mapping[HoldKind, float],
        stuck_s: float,
        longest_press_s: float,
    ) -> None:
        """Set all times; a press that is held goes on.

        Args:
            min_press_s: A shorter pulse is no press.
            release_debounce_s: A shorter pulse up is no release.
            tap_max_s: Longest tap.
            double_tap_s: From the release of a tap to a second press; 0 for no double taps.
            holds: Seconds after which each hold is reported.
            stuck_s: When a button that was down at the start is stuck.
            longest_press_s: When a pressed button is stuck.
        """
        self._min_press_s = min_press_s
        self._release_debounce_s = release_debounce_s
        self._tap_max_s = tap_max_s
        self._double_tap_s = double_tap_s
        self._holds = sorted(holds.items(), key=lambda one: one[1])
        self._stuck_s = stuck_s
        self._longest_press_s = longest_press_s

    def __repr__(self) -> str:
        return f"<Gestures {'held' if self.is_held else 'released'}{', stuck' if self.is_stuck else ''}>"

    @property
    def is_held(self) -> bool:
        """The button counts as pressed (a pending release still does, a pending press does not)."""
        return self._press is not None and not self.is_pending

    @property
    def is_pending(self) -> bool:
        """The button went down, and it is not known yet whether that is a press."""
        return self._press is not None and self._press.is_deliberate and not self._press.is_confirmed

    @property
    def pressed_at(self) -> float:
        """When the button went down, monotonic seconds; inf while it is up."""
        return inf if self._press is None else self._press.at

    @property
    def is_stuck(self) -> bool:
        return self._press is not None and self._press.is_stuck_reported

    @property
    def awaits_second_tap(self) -> bool:
        """The last press is a tap, or may become one, that a second tap would make a double tap."""
        press = self._press
        may_become_tap = press is not None and press.is_confirmed and not press.is_used and press.holds == 0
        return self._tap_at is not None or (self._double_tap_s > 0 and may_become_tap)

    @property
    def deadline(self) -> float | None:
        """When to call `advance` next, monotonic seconds."""
        press = self._press
        if press is None:
            return None if self._tap_at is None else self._tap_at + self._double_tap_s
        if press.up_since is not None:
            return press.up_since + self._release_debounce_s
        if self.is_pending:
            return press.at + self._min_press_s
        return min(self._times(press), default=None)

    def _times(self, press: _Press) -> Iterator[float]:
        if press.is_deliberate and not press.is_used and press.holds < len(self._holds):
            yield press.at + self._holds[press.holds][1]
        if not press.is_stuck_reported:
            yield press.at + self._stuck_after(press)

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
            gestures += self.advance(now)
        elif pressed and press is not None:
            if self.is_pending and now >= press.at + self._min_press_s:
                press.at = now  # another pulse, not the rest of the first one
            press.up_since = None
        elif press is not None and press.up_since is None:
            press.up_since = now
        return gestures

    def use_up(self) -> None:
        """Let the press that is held, or the last tap, make no more taps and holds: it has answered something."""
        self._is_tap_used = True
        if self._press is not None:
            self._press.is_used = True

    def advance(self, now: float) -> list[Gesture]:
        """Return the gestures that time completes: a press, a release, a hold, a stuck button."""
        press = self._press
        if press is None:
            self._end_tap(now)
            return []
        if press.up_since is not None:
            if now < press.up_since + self._release_debounce_s:
                return []
            gestures = self._released(press, press.up_since)
            self._end_tap(now)
            return gestures
        gestures = self._confirmed(press) if self.is_pending and now >= press.at + self._min_press_s else []
        if press.is_confirmed:
            gestures += self._held(press, now)
        if not press.is_stuck_reported and now >= press.at + self._stuck_after(press):
            press.is_stuck_reported = True
            gestures.append(Gesture("stuck", now, now - press.at))
        return gestures

    def _confirmed(self, press: _Press) -> list[Gesture]:
        press.is_confirmed = True
        tap_at, self._tap_at = self._tap_at, None
        if tap_at is None or press.at >= tap_at + self._double_tap_s:
            self._is_tap_used = False
            return [Gesture("press", press.at)]
        press.is_second = press.is_used = True
        return [] if self._is_tap_used else [Gesture("double_tap", press.at)]

    def _held(self, press: _Press, now: float) -> list[Gesture]:
        reported: list[Gesture] = []
        while not press.is_used and press.holds < len(self._holds) and now >= press.at + self._holds[press.holds][1]:
            kind, after_s = self._holds[press.holds]
            press.holds += 1
            reported.append(Gesture(kind, press.at + after_s, after_s))
        return reported

    def _stuck_after(self, press: _Press) -> float:
        return self._longest_press_s if press.is_deliberate else self._stuck_s

    def _end_tap(self, now: float) -> None:
        if self._tap_at is not None and now >= self._tap_at + self._double_tap_s:
            self._tap_at = None

    def _released(self, press: _Press, at: float) -> list[Gesture]:
        self._press = None
        held_s = at - press.at
        gestures = [Gesture("freed", at, held_s)] if press.is_stuck_reported else []
        if not press.is_confirmed or press.is_stuck_reported:
            return gestures
        gestures.append(Gesture("release", at, held_s))
        if held_s > self._tap_max_s or press.holds > 0:
            return gestures
        if not press.is_used:
            gestures.append(Gesture("tap", at, held_s))
        if self._double_tap_s > 0 and not press.is_second:
            self._tap_at = at
        return gestures
