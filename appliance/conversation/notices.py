"""What observers are told: the log, `ask`, the panel, a program. Facts, in the order of the commands. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from appliance.conversation.events import LinkFailure
from appliance.realtime.items import HistoryItem

__all__ = [
    "AgentEnded",
    "AgentStarted",
    "AnswerAudioEnded",
    "AnswerInterrupted",
    "AnswerTextReceived",
    "ApprovalRequested",
    "AsideEnded",
    "BudgetReached",
    "GuardrailTripped",
    "HandedOver",
    "HeardTextGrew",
    "HeardTextReceived",
    "HistoryAdded",
    "HistoryRemoved",
    "HistoryUpdated",
    "LinkChanged",
    "Notice",
    "Outcome",
    "ToolEnded",
    "ToolStarted",
    "TroubleKind",
    "TroubleReported",
    "TurnEnded",
    "TurnStarted",
    "UsageCounted",
]

Outcome: TypeAlias = Literal["answered", "slip", "silence", "interrupted", "failed", "cancelled", "refused"]
"""How a turn ended: ``refused`` by a guardrail, ``cancelled`` by whoever began it."""

TroubleKind: TypeAlias = (
    LinkFailure
    | Literal[
        "silent_microphone",
        "no_microphone",
        "no_speaker",
        "muted",
        "no_link",
        "no_answer",
        "empty_answer",
        "answer_failed",
        "answer_incomplete",
        "answer_cut",
        "overrun",
        "too_long",
        "bad_frame",
        "server_error",
        "settings_refused",
        "tool_late",
        "button_stuck",
        "playout_stalled",
        "refused",
        "stopped",
        "handoff_failed",
        "instructions_late",
        "not_connected",
        "item_refused",
        "budget_spent",
        "trace_failed",
    ]
)
"""What went wrong: stable and machine-readable; `troubles.sentence` says it in words."""


@dataclass(frozen=True, slots=True)
class TurnStarted:
    turn: str
    kind: Literal["button", "program", "message", "vad"] = "button"
    """What began it."""


@dataclass(frozen=True, slots=True)
class HeardTextReceived:
    """What the model's side understood of the user's speech; may come before, in or after the answer."""

    turn: str
    text: str


@dataclass(frozen=True, slots=True)
class AnswerTextReceived:
    """The whole text of one message of the answer; `is_final` False for a piece while it streams."""

    turn: str
    text: str
    is_final: bool


@dataclass(frozen=True, slots=True)
class HeardTextGrew:
    """A piece of what the user said, while it is still being written down."""

    item_id: str
    delta: str


@dataclass(frozen=True, slots=True)
class ToolStarted:
    turn: str
    call_id: str
    name: str
    arguments: str
    agent: str = ""


@dataclass(frozen=True, slots=True)
class ToolEnded:
    turn: str
    call_id: str
    name: str
    output: str
    is_error: bool
    agent: str = ""


@dataclass(frozen=True, slots=True)
class ApprovalRequested:
    """A call waits for the user; the light asks too."""

    turn: str
    call_id: str
    name: str
    arguments: str
    agent: str = ""


@dataclass(frozen=True, slots=True)
class AgentStarted:
    """An agent begins to answer a turn, or has taken over."""

    agent: str


@dataclass(frozen=True, slots=True)
class AgentEnded:
    """An agent is done with a turn, or has handed over."""

    agent: str
    output: str
    """What it said."""


@dataclass(frozen=True, slots=True)
class HandedOver:
    """The server has accepted another agent."""

    from_agent: str
    to_agent: str


@dataclass(frozen=True, slots=True)
class GuardrailTripped:
    """A guardrail stopped an answer, or kept a turn from being answered."""

    turn: str
    side: Literal["input", "output"]
    item_id: str
    """Of the answer, or of what the user said."""
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class AnswerInterrupted:
    """Something of the answer was queued and will not be heard."""

    item_id: str
    heard_ms: int


@dataclass(frozen=True, slots=True)
class AnswerAudioEnded:
    """All audio of an answer has been handed over for playing."""

    item_id: str


@dataclass(frozen=True, slots=True)
class HistoryAdded:
    item: HistoryItem
    previous_item_id: str
    """"" at the beginning."""


@dataclass(frozen=True, slots=True)
class HistoryUpdated:
    item: HistoryItem


@dataclass(frozen=True, slots=True)
class HistoryRemoved:
    item_id: str


@dataclass(frozen=True, slots=True)
class AsideEnded:
    """The answer to ``AskedAside``."""

    key: str
    items: tuple[HistoryItem, ...]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class UsageCounted:
    """What one response, or one transcription, has cost."""

    usage: tuple[tuple[str, int], ...]
    usd: float | None
    """None where the price is not known."""
    audio_s: float = 0.0
    """Audio of the turn that it ends, both ways."""
    spent_usd: float = 0.0
    """All of the day so far."""
    spent_s: float = 0.0


@dataclass(frozen=True, slots=True)
class BudgetReached:
    """A share of the day's budget is spent: 80 or 100 percent."""

    percent: int
    message: str


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """The conversation goes on over another connection."""

    link: int
    endpoint: int


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """A turn is over: ``answered``, or why not."""

    turn: str
    outcome: Outcome
    usage: tuple[tuple[str, int], ...] = ()
    """Tokens of all responses of the turn: (("input_tokens", 12), …), empty where the server gave none."""


@dataclass(frozen=True, slots=True)
class TroubleReported:
    """Something went wrong, in a user's words; `kind` is stable and machine-readable (see `troubles`)."""

    kind: TroubleKind
    message: str


Notice: TypeAlias = (
    TurnStarted
    | HeardTextReceived
    | HeardTextGrew
    | AnswerTextReceived
    | ToolStarted
    | ToolEnded
    | ApprovalRequested
    | AgentStarted
    | AgentEnded
    | HandedOver
    | GuardrailTripped
    | AnswerInterrupted
    | AnswerAudioEnded
    | HistoryAdded
    | HistoryUpdated
    | HistoryRemoved
    | AsideEnded
    | UsageCounted
    | BudgetReached
    | LinkChanged
    | TurnEnded
    | TroubleReported
)
