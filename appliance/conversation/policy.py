"""The limits and times of the conversation. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from appliance.conversation.support.prices import PRICES, PriceTable

__all__ = ["Policy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The limits and times of the conversation; units are in the names."""

    button_mode: str = "auto"
    """"hold": talk while pressed; "tap": each press toggles; "auto": a short press toggles, a long one holds."""
    min_press_ms: int = 0
    """A shorter pulse of the button is no press; the settings have the default of a real button."""
    tap_max_ms: int = 300
    double_tap: str = ""
    """What a double tap does: "mute", "new_conversation" or "next_agent"; "" for no double taps."""
    double_tap_ms: int = 400
    """From the first release to the second press."""
    hold_ms: int = 1000
    """A hold of this length rejects a call."""
    mute_hold_s: float = 0.0
    """A hold of this length mutes and unmutes; 0 for none."""
    power_off_hold_s: float = 0.0
    """A hold of this length announces the power-off; 0 for none."""
    power_off_s: float = 5.0
    """How long after that announcement a release switches off; a later one does not."""
    next_agents: Mapping[str, str] = field(default_factory=dict)
    """The agent that follows each one, by name; for `double_tap` = "next_agent"."""
    release_debounce_ms: int = 20
    pre_roll_ms: int = 300
    post_roll_ms: int = 250
    min_turn_ms: int = 100
    """A shorter turn is discarded as too short: the server refuses a commit of less than 100 ms."""
    max_turn_s: float = 60.0
    silence_ms: int = 1200
    """Quiet that ends a turn started by a tap."""
    no_speech_s: float = 6.0
    """A turn started by a tap ends after this time without speech."""
    silence_peak: int = 2
    """A turn whose peak is not above this is digital silence: a dead input, not a quiet room."""
    connect_s: float = 15.0
    commit_s: float = 5.0
    answer_s: float = 20.0
    playout_stall_s: float = 5.0
    tool_s: float = 20.0
    approval_s: float = 30.0
    link_wait_s: float = 900.0
    """How long speech is kept while no connection takes it; then the turn fails, and the device says so."""
    cancel_s: float = 3.0
    refused_retry_s: float = 1.0
    fatal_retry_s: float = 300.0
    """How long a fatal reason (bad key, no credit) blocks an endpoint; a press retries at once if all are blocked."""
    stable_s: float = 10.0
    """A connection that lasts this long resets the backoff."""
    backoff_initial_s: float = 0.5
    backoff_max_s: float = 30.0
    awaited_retry_s: float = 3.0
    """Longest backoff while a turn waits for a connection; the first is at most a second."""
    stuck_s: float = 30.0
    start_guard_s: float = 1.0
    """A button that reads pressed this soon after the start was not pressed by a person."""
    error_light_s: float = 3.0
    alarm_s: float = 60.0
    alarm_every_s: float = 3.0
    max_replays: int = 2
    max_bad_frames: int = 10
    """More invalid frames than this close the connection."""
    max_tool_rounds: int = 8

    guardrail_debounce: int = 100
    """Characters of new text between two checks of an answer; -1 to check only the whole text."""
    guardrail_s: float = 5.0
    """A check that takes longer counts as tripped."""
    hold_audio: bool = False
    """Play no audio before its text has passed the guardrails."""
    max_trips: int = 2
    """The turn fails once guardrails have stopped this many of its answers."""
    transcript_s: float = 10.0
    """How long input guardrails wait for the transcript."""
    prepare_s: float = 5.0
    """How long instructions and predicates may take; after that the last known ones are used."""

    endpoints: int = 1
    """Number of endpoints, the best first."""
    offline_endpoint: int | None = None
    """Index of the free endpoint, which takes over when the budget is spent; None without one."""
    failback_s: float = 60.0
    """Interval between attempts to return to a better endpoint."""
    rotate_after_s: float = 3300.0
    """A session is replaced in the first idle gap after this; the server ends it at 3600 s."""
    max_history: int = 500
    outputs: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Outputs of calls that no tool produces, by key: the table ``output`` of a wording file."""
    replay_items: int = 100
    """Number of newest history items that are sent to a new connection."""
    budget_usd: float | None = None
    """US dollars per day; None for no limit."""
    budget_s: float | None = None
    """Seconds of audio per day, both ways; None for no limit."""
    prices: PriceTable = PRICES
    """Prices of responses and transcriptions; a model that the table lacks counts as free."""

    def output(self, key: str, **values: str) -> str:
        """Return the output of a call that no tool produces; the key itself if `outputs` lacks it."""
        return self.outputs.get(key, key).format(**values)
