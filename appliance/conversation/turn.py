"""One turn: from a press to the end of its answer.

Pure. A turn keeps everything that was spoken until its answer has begun, so that a lost connection costs nothing:
on the next one the same audio is sent again (`forget_link`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Literal

from appliance.conversation.endpoint import SpeechEnd
from appliance.conversation.roster import Brief

__all__ = ["Phase", "Policy", "Turn"]


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
    """A shorter turn is a slip (and the server refuses a commit of less than 100 ms)."""
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
    """A connection that held this long starts the backoff anew."""
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
    replay_items: int = 100
    """The newest items of the history that a new connection is told."""
    budget_usd: float | None = None
    """Of one day; None: no limit."""
    budget_s: float | None = None
    """Seconds of speech, both ways, of one day; None: no limit."""


class Phase(Enum):
    LISTENING = auto()
    COMMITTING = auto()
    ANSWERING = auto()


@dataclass(slots=True)
class Turn:
    """The state of one turn; the machine decides, this keeps the account."""

    id: str
    started_at: float
    deadline: float
    kind: Literal["button", "program", "message", "vad"] = "button"
    """Who ends it: the button; the program that began it; nobody (a message is whole); the server's ear."""
    phase: Phase = Phase.LISTENING
    audio: bytearray = field(default_factory=bytearray, repr=False)
    """All that was said, in one piece: thousands of small ones among the frames of the wire fragment the memory."""
    frames: int = 0
    """All frames in `audio`, pre-roll included."""
    peak: int = 0
    speech: SpeechEnd = field(default_factory=SpeechEnd)
    is_latched: bool = False
    """Begun by a tap: another tap or silence ends it."""
    post_roll_left: int | None = None
    """Frames still to be kept after the end was asked for."""

    sent_bytes: int = 0
    """How much of `audio` this link was sent."""
    is_cleared: bool = False
    is_commit_sent: bool = False
    replays: int = 0

    open_calls: set[str] = field(default_factory=set)
    seen_calls: set[str] = field(default_factory=set)
    mcp_calls: set[str] = field(default_factory=set)
    """Those of `seen_calls` that an MCP server of the far side runs."""
    background_calls: set[str] = field(default_factory=set)
    """Those of `seen_calls` whose output the model is not to speak about."""
    is_background: bool = False
    """All was done in the background: there is nothing to be heard."""
    rounds: int = 0
    item_id: str = ""
    """The user's item on the server, once it is known."""
    message: Mapping[str, Any] | None = None
    """What was given in writing, instead of audio."""
    response: Mapping[str, Any] = field(default_factory=dict)
    """What the program wants of the response beyond the session's settings."""
    side_items: list[str] = field(default_factory=list)
    """Messages that were given while it was spoken: it answers for them."""
    side_texts: list[str] = field(default_factory=list)
    is_retry: bool = False
    """The server was busy with another response; the wait for an answer began before."""
    heard_text: str | None = None
    """What the user said, once it is written down."""
    is_briefed: bool = True
    """The agent's instructions for this turn are in force; an answer is not asked for before."""
    is_checked: bool = True
    """The input guardrails have let it pass; an answer is not asked for before."""
    brief_deadline: float = 0.0
    """When the wait for the instructions ends."""
    check_deadline: float = 0.0
    """When the wait for the user's words, then for their check, ends."""
    brief: Brief | None = None
    """Who gives the response that is under way: its tools are called, its guardrails watch."""
    was_let_in: bool = False
    """The input guardrails have seen it, and it is not checked again on another connection."""
    trips: int = 0
    agent: str = ""
    """Who answers; "" before anybody was asked to."""
    said: str = ""
    """What that agent has said."""
    first_sentence: str = ""
    """What the next answer begins with."""
    must_finish: bool = False
    """Audio was handed over, and the end of it not yet told."""
    answer_frames: int = 0
    """Frames of the answer that were received."""
    is_free: bool = False
    """The offline brain answers it."""
    was_spoken: bool = False
    """Its audio was committed: it counts for the budget."""
    has_output: bool = False
    """Something of the answer came: audio, text or a call. From here on a replay would do things twice."""
    has_audio: bool = False
    has_text: bool = False
    is_response_open: bool = False
    """An answer was asked for and its ``response.done`` has not come."""
    is_answer_done: bool = False
    failure: str = ""
    """Why the answer is not whole; told when what there is of it has been heard."""
    failure_detail: str = ""
    usage: Counter[str] = field(default_factory=Counter)

    @property
    def is_unsent_speech(self) -> bool:
        """It was spoken and waits for a connection: another press goes on with it, nothing else may replace it."""
        return self.phase is Phase.COMMITTING and not self.is_commit_sent and self.kind != "message"

    @property
    def is_unsent_message(self) -> bool:
        """It was given in writing and waits for a connection."""
        return self.phase is Phase.COMMITTING and not self.is_commit_sent and self.message is not None

    def add_audio(self, pcm: bytes, peak: int) -> None:
        self.audio += pcm
        self.frames += len(pcm) // 2
        self.peak = max(self.peak, peak)

    @property
    def guarded_by(self) -> str:
        """The agent whose guardrails watch the response that is under way; "" for none."""
        return self.brief.agent if self.brief is not None and self.brief.has_output_guardrails else ""

    @property
    def is_written(self) -> bool:
        """The answer is text, not speech: by the session, or by what the program asked of this response."""
        own = self.response.get("output_modalities")
        return list(own) == ["text"] if own else self.brief is not None and self.brief.is_written

    def deadline_of_checks(self, default: float) -> float:
        """When the wait for instructions or guardrails ends, whichever is first; `default` if there is none."""
        waits = [self.brief_deadline] * (not self.is_briefed) + [self.check_deadline] * (not self.is_checked)
        return min(waits, default=default)

    def forget_link(self) -> None:
        """Nothing of this turn is on the server any more: everything is to be sent again."""
        self.sent_bytes = 0
        self.is_cleared = False
        self.is_commit_sent = False
        self.is_response_open = False
        if self.kind != "message":
            self.heard_text = None  # it is written down again

    def add_usage(self, usage: Mapping[str, Any] | None) -> None:
        """Add up the token counts of one response; ``input_token_details.audio_tokens`` is "input_audio_tokens"."""

        def walk(prefix: str, node: Mapping[str, Any]) -> None:
            for key, value in node.items():
                if isinstance(value, Mapping):
                    walk(prefix + key.removesuffix("token_details").removesuffix("tokens_details"), value)
                elif isinstance(value, int) and not isinstance(value, bool):
                    self.usage[f"{prefix}{key}"] += value

        walk("", usage or {})
