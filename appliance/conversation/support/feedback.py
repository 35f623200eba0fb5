"""What the appliance shows: state → light state → pattern. Pure functions; nobody sets a light.

The order is the priority of DESIGN.md, first match wins (the rule, not the code, follows the Home Assistant Voice
PE's single script with an explicit priority list). A single-colour light must be readable too: no two patterns
share effect, period, duty and level.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from appliance.conversation.commands import LightPattern

__all__ = ["PATTERNS", "State", "View", "light_state", "pattern"]


class State(StrEnum):
    """What the appliance is doing. Resting states have no deadline; every other one has."""

    BOOTING = "booting"
    CONNECTING = "connecting"
    READY = "ready"
    LISTENING = "listening"
    COMMITTING = "committing"
    THINKING = "thinking"
    SPEAKING = "speaking"
    AWAITING_APPROVAL = "awaiting_approval"
    OFFLINE = "offline"
    MUTED = "muted"
    FAILED = "failed"

    @property
    def is_resting(self) -> bool:
        return self in (State.READY, State.OFFLINE, State.MUTED, State.FAILED)


@dataclass(frozen=True, slots=True)
class View:
    """The conversation as the light, the panel and the log see it."""

    state: State = State.BOOTING
    cards_lost: tuple[str, ...] = ()
    """"capture", "playback": the directions without a card."""
    is_link_lost: bool = False
    """A connection was tried or held and is not there (a first attempt under way does not count)."""
    is_button_stuck: bool = False
    is_ringing: bool = False
    has_error: bool = False
    """Something went wrong a moment ago."""
    is_muted: bool = False
    timers_running: int = 0
    trouble: str = ""
    """The kind of the last trouble that still matters (see `troubles`)."""


def light_state(view: View) -> str:
    """Name what the light shows; the first that applies."""
    busy = {
        State.AWAITING_APPROVAL: "approval",
        State.LISTENING: "listening",
        State.COMMITTING: "thinking",
        State.THINKING: "thinking",
        State.SPEAKING: "speaking",
    }
    candidates = (
        (view.state is State.FAILED, "failed"),
        (bool(view.cards_lost), "no_card"),
        (view.is_link_lost, "no_link"),
        (view.is_button_stuck, "button_stuck"),
        (view.is_ringing, "ringing"),
        (view.state in busy, busy.get(view.state, "")),
        (view.has_error, "error"),
        (view.is_muted, "muted"),
        (view.state is State.BOOTING, "booting"),
        (view.state in (State.CONNECTING, State.OFFLINE), "connecting"),
        (view.timers_running > 0, "timer"),
    )
    return next((name for applies, name in candidates if applies), "ready")


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
"""Every light state. Red is "something is wrong" only; listening is green and steady, the brightest of all."""


def pattern(view: View) -> LightPattern:
    """The light is this function of the state, and nothing else."""
    return PATTERNS[light_state(view)]
