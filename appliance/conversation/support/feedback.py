"""The light state, by name, as a function of the conversation's view. Pure.

The order in `light_state` is the priority, first match wins: what keeps the device from working, then what it is doing,
then what can wait. (The idea is from Home Assistant Voice PE: one script with an explicit priority list.) How a light
state looks is defined in `hardware.patterns`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from appliance.conversation.notices import TroubleKind

__all__ = ["State", "View", "light_state"]


class State(StrEnum):
    """What the appliance is doing. Resting states have no deadline; all others do."""

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
    """No connection is ready, after a loss or a failed round of attempts; not during the first round."""
    endpoint: int | None = None
    """Index of the endpoint whose connection is ready; None without one."""
    is_button_stuck: bool = False
    is_ringing: bool = False
    has_error: bool = False
    """An error was reported a moment ago."""
    is_muted: bool = False
    is_mute_kept: bool = False
    """The mute outlives a restart: it is not only the position of the switch."""
    timers_running: int = 0
    trouble: TroubleKind | Literal[""] = ""
    """The kind of the last trouble; "" once a new connection is ready."""


def light_state(view: View) -> str:
    """Return the name of the light state: the first that applies."""
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
