"""What happens in a conversation, as facts: a session yields them; the log, the panel and hooks follow them. Pure.

The conversation emits all but `Audio`, `Announcement` and `Raw`, which the session makes of what it plays, says and
receives. Agents are named: `RealtimeSession.agents` has the objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeAlias

from appliance.conversation.events import LinkFailure
from appliance.realtime.items import HistoryItem
from appliance.records import Record

__all__ = [
    "AgentEnd",
    "AgentStart",
    "Announcement",
    "AnswerText",
    "Audio",
    "AudioEnd",
    "AudioInterrupted",
    "BudgetWarning",
    "Connected",
    "Error",
    "Guardrail",
    "HandoffDone",
    "HistoryChanged",
    "HistoryGrew",
    "InputText",
    "Notice",
    "OutOfBandEnded",
    "Outcome",
    "Raw",
    "SessionEvent",
    "ToolApproval",
    "ToolEnd",
    "ToolStart",
    "TroubleKind",
    "TurnEnd",
    "TurnStart",
    "Usage",
]

Outcome: TypeAlias = Literal["answered", "too_short", "silence", "interrupted", "failed", "cancelled", "refused"]
"""How a turn ended: ``refused`` by a guardrail, ``cancelled`` by the program or the button that began it."""

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
        "input_refused",
        "stopped",
        "handoff_failed",
        "instructions_late",
        "not_connected",
        "item_refused",
        "budget_spent",
        "trace_failed",
    ]
)
"""What went wrong: stable and machine-readable; the table ``trouble`` of the wording files has a sentence for each."""


class TurnStart(Record, frozen=True):
    """A turn begins: the user speaks, or a message is answered."""

    type: ClassVar[Literal["turn_start"]] = "turn_start"
    turn: str
    kind: Literal["button", "program", "message", "vad"] = "button"
    """What began it."""


class TurnEnd(Record, frozen=True):
    """A turn is over: ``answered``, or why not."""

    type: ClassVar[Literal["turn_end"]] = "turn_end"
    turn: str
    outcome: Outcome
    usage: Mapping[str, int] = {}
    """Tokens of all responses of the turn, by name; empty where the server gave none."""


class InputText(Record, frozen=True):
    """A piece of what the user said, or (`is_final`) all of it; may come before, in or after the answer."""

    type: ClassVar[Literal["input_text"]] = "input_text"
    unprinted = ("text",)

    text: str
    is_final: bool
    item_id: str = ""
    """Of a piece."""
    turn: str = ""
    """Of the whole."""


class AnswerText(Record, frozen=True):
    """A piece of the answer's text, or (`is_final`) the whole of one message."""

    type: ClassVar[Literal["answer_text"]] = "answer_text"
    unprinted = ("text",)

    turn: str
    text: str
    is_final: bool


class Audio(Record, frozen=True):
    """A piece of the answer, to be played behind the one before."""

    type: ClassVar[Literal["audio"]] = "audio"
    unprinted = ("audio",)

    audio: bytes
    """In the session's `output_audio_format`; pcm16 is 24 kHz mono little-endian."""
    item_id: str
    agent: str


class AudioEnd(Record, frozen=True):
    """All audio of an answer was handed over."""

    type: ClassVar[Literal["audio_end"]] = "audio_end"
    item_id: str


class AudioInterrupted(Record, frozen=True):
    """Stop playing now, and drop what is queued: it will not be heard."""

    type: ClassVar[Literal["audio_interrupted"]] = "audio_interrupted"
    item_id: str
    heard_ms: int


class ToolStart(Record, frozen=True):
    """A call begins, or is refused."""

    type: ClassVar[Literal["tool_start"]] = "tool_start"
    turn: str
    call_id: str
    name: str
    arguments: str
    agent: str = ""


class ToolEnd(Record, frozen=True):
    """A call was answered. Emitted for every call whose `ToolStart` was."""

    type: ClassVar[Literal["tool_end"]] = "tool_end"
    turn: str
    call_id: str
    name: str
    output: str
    is_error: bool
    agent: str = ""


class ToolApproval(Record, frozen=True):
    """A call waits for the user, or for `RealtimeSession.approve` and `RealtimeSession.reject`."""

    type: ClassVar[Literal["tool_approval_requested"]] = "tool_approval_requested"
    turn: str
    call_id: str
    name: str
    arguments: str
    agent: str = ""


class AgentStart(Record, frozen=True):
    """An agent begins to answer a turn, or has taken over."""

    type: ClassVar[Literal["agent_start"]] = "agent_start"
    agent: str


class AgentEnd(Record, frozen=True):
    """An agent is done with a turn, or has handed over."""

    type: ClassVar[Literal["agent_end"]] = "agent_end"
    unprinted = ("output",)

    agent: str
    output: str
    """What it said."""


class HandoffDone(Record, frozen=True):
    """The server has accepted another agent."""

    type: ClassVar[Literal["handoff"]] = "handoff"
    from_agent: str
    to_agent: str


class Guardrail(Record, frozen=True):
    """A guardrail stopped an answer, or kept a turn from being answered."""

    type: ClassVar[Literal["guardrail_tripped"]] = "guardrail_tripped"
    turn: str
    side: Literal["input", "output"]
    item_id: str
    """Of the answer, or of what the user said."""
    guardrail: str
    reason: str


class HistoryGrew(Record, frozen=True):
    """An item is new in the history."""

    type: ClassVar[Literal["history_added"]] = "history_added"
    item: HistoryItem
    previous_item_id: str
    """"" at the beginning."""


class HistoryChanged(Record, frozen=True):
    """An item of the history is another one now, or is gone."""

    type: ClassVar[Literal["history_updated"]] = "history_updated"
    item_id: str
    item: HistoryItem | None = None
    """None: it is gone."""


class OutOfBandEnded(Record, frozen=True):
    """The answer to ``OutOfBandAsked``."""

    type: ClassVar[Literal["out_of_band_ended"]] = "out_of_band_ended"
    key: str
    items: tuple[HistoryItem, ...]
    problem: str = ""


class Usage(Record, frozen=True):
    """What one response, one transcription, or the audio of one turn costs."""

    type: ClassVar[Literal["usage"]] = "usage"
    tokens: Mapping[str, int]
    usd: float | None
    """None where the price is not known."""
    audio_s: float = 0.0
    """Audio of the turn that it ends, both ways."""
    spent_usd: float = 0.0
    """All of the day so far."""
    spent_s: float = 0.0


class BudgetWarning(Record, frozen=True):
    """A share of the day's budget is spent: 80 or 100 percent."""

    type: ClassVar[Literal["budget"]] = "budget"
    percent: int
    unit: Literal["usd", "minutes"]
    spent: float
    limit: float
    message: str = ""
    """In the user's language; a session fills it in."""


class Connected(Record, frozen=True):
    """The conversation goes on over a new connection."""

    type: ClassVar[Literal["connected"]] = "connected"
    link: int
    endpoint: int
    """Its place in the list of endpoints; `RealtimeSession.endpoints` has their names."""


class Announcement(Record, frozen=True):
    """What the device would say with its own voice: a trouble, a filler, that the budget is spent."""

    type: ClassVar[Literal["announcement"]] = "announcement"
    text: str


class Error(Record, frozen=True):
    """Something went wrong, and the conversation continues."""

    type: ClassVar[Literal["error"]] = "error"
    kind: TroubleKind
    detail: str = ""
    """Technical: the server's message, the name of a tool; "" if `kind` says everything."""
    message: str = ""
    """In the user's language, with the detail in parentheses; a session fills it in."""


class Raw(Record, frozen=True):
    """A frame of the server, as it came."""

    type: ClassVar[Literal["raw"]] = "raw"
    unprinted = ("data",)

    data: Mapping[str, Any]


_Yielded: TypeAlias = (
    TurnStart
    | TurnEnd
    | InputText
    | AnswerText
    | AudioEnd
    | AudioInterrupted
    | ToolStart
    | ToolEnd
    | ToolApproval
    | AgentStart
    | AgentEnd
    | HandoffDone
    | Guardrail
    | HistoryGrew
    | HistoryChanged
    | Usage
    | BudgetWarning
    | Connected
    | Error
)

Notice: TypeAlias = _Yielded | OutOfBandEnded
"""What the conversation emits; a session returns the answer to a question where it was asked."""

SessionEvent: TypeAlias = _Yielded | Audio | Announcement | Raw
"""Every event of a session; `event.type` tells them apart, for a type checker too."""
