"""What the appliance shows: state → light state, by name. Pure functions; nobody sets a light.

The order of `light_state` is the priority, first match wins: what keeps the device from working, then what it is doing,
then what can wait (the rule, not the code, follows the Home Assistant Voice PE's single script with an explicit
priority list). How a light state looks is the light's affair.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from appliance.conversation.notices import TroubleKind

__all__ = ["State", "View", "light_state"]


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
    trouble: TroubleKind | Literal[""] = ""
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
