"""Every figure that the conversation goes by. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from appliance.conversation.support.prices import PRICES, PriceTable

__all__ = ["Policy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Every figure that the conversation goes by; times in seconds unless the name says otherwise."""

    button_mode: str = "auto"
    """"hold": talk while pressed; "tap": each press toggles; "auto": a short press toggles, a long one holds."""
    tap_max_ms: int = 300
    release_debounce_ms: int = 20
    pre_roll_ms: int = 300
    post_roll_ms: int = 250
    min_turn_ms: int = 100
    """A shorter turn is discarded as too short; the server refuses a commit of less than 100 ms."""
    max_turn_s: float = 60.0
    silence_ms: int = 1200
    """Quiet that ends a turn begun by a tap."""
    no_speech_s: float = 6.0
    """A turn begun by a tap in which nobody speaks ends after this."""
    silence_peak: int = 2
    """A turn whose loudest sample is not above this is digital silence: a dead input, not a quiet room."""
    connect_s: float = 15.0
    commit_s: float = 5.0
    answer_s: float = 20.0
    playout_stall_s: float = 5.0
    tool_s: float = 20.0
    approval_s: float = 30.0
    link_wait_s: float = 30.0
    cancel_s: float = 3.0
    refused_retry_s: float = 1.0
    fatal_retry_s: float = 300.0
    """A fatal reason (bad key, no credit) is tried again this rarely, and at each press."""
    stable_s: float = 10.0
    """A connection that held this long resets the backoff."""
    backoff_initial_s: float = 0.5
    backoff_max_s: float = 30.0
    stuck_s: float = 30.0
    start_guard_s: float = 1.0
    """A button found pressed this soon after the start is not a person's press."""
    error_light_s: float = 3.0
    alarm_s: float = 60.0
    alarm_every_s: float = 3.0
    max_replays: int = 2
    max_bad_frames: int = 10
    """More unreadable frames than this on one connection end it."""
    max_tool_rounds: int = 8

    guardrail_debounce: int = 100
    """Characters of new text between two checks of an answer; -1: only its whole text."""
    guardrail_s: float = 5.0
    """A check that takes longer counts as tripped."""
    hold_audio: bool = False
    """Play no audio before its text has passed the guardrails."""
    max_trips: int = 2
    """Answers of one turn that a guardrail may stop; after the last the model is not asked again."""
    transcript_s: float = 10.0
    """How long input guardrails wait for the words of the user."""
    prepare_s: float = 5.0
    """How long instructions and predicates may take; then the last known ones hold."""

    endpoints: int = 1
    """How many endpoints there are, the best first."""
    offline_endpoint: int | None = None
    """The one that costs nothing: it takes over when the budget is spent."""
    failback_s: float = 60.0
    """Between two tries to get back to a better endpoint."""
    rotate_after_s: float = 3300.0
    """A session is replaced in an idle gap after this; the server ends it at 3600 s."""
    max_history: int = 500
    outputs: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Outputs of calls that no tool answers, by key: the table ``output`` of a wording file."""
    replay_items: int = 100
    """How many of the newest history items a new connection is sent."""
    budget_usd: float | None = None
    """Of one day; None: no limit."""
    budget_s: float | None = None
    """Seconds of speech, both ways, of one day; None: no limit."""
    prices: PriceTable = PRICES
    """What responses and transcriptions cost; those of models that are not in it count as nothing."""

    def output(self, key: str, **values: str) -> str:
        """Return the output of a call that no tool answers; the key itself if `outputs` lacks it."""
        return self.outputs.get(key, key).format(**values)
