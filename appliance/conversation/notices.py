"""The events of a conversation, as a session yields them; the log, the panel and hooks observe them too. Pure.

The conversation emits all but `Audio`, `Announcement` and `Raw`, which the session creates for what it plays, announces
and receives. Agents are given by name: `RealtimeSession.agents` has the objects.
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
    "AgentUpdateEnded",
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
"""How a turn ended: ``refused`` by a guardrail, ``cancelled`` by the program, a stuck button, a mute or shutdown."""

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
        "approval_void",
        "overrun",
        "too_long",
        "bad_frame",
        "server_error",
        "settings_refused",
        "tool_late",
        "tool_stopped",
        "output_truncated",
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
        "bad_settings",
    ]
)
"""What went wrong: stable and machine-readable; the table ``trouble`` of the wording files has a sentence for each."""


class TurnStart(Record, frozen=True):
    """A turn starts: the user speaks, or a message is answered."""

    type: ClassVar[Literal["turn_start"]] = "turn_start"
    turn: str
    kind: Literal["button", "program", "message", "vad"] = "button"
    """What started it."""


class TurnEnd(Record, frozen=True):
    """A turn has ended."""

    type: ClassVar[Literal["turn_end"]] = "turn_end"
    turn: str
    outcome: Outcome
    usage: Mapping[str, int] = {}
    """Token counts of the turn's responses, by name; empty if the server sent none."""


class InputText(Record, frozen=True):
    """A piece of the user's transcript, or (`is_final`) all of it; may arrive before, during or after the answer."""

    type: ClassVar[Literal["input_text"]] = "input_text"
    unprinted = ("text",)

    text: str
    is_final: bool
    item_id: str = ""
    """Id of the user's item; set for a piece only."""
    turn: str = ""
    """Id of the turn; set for the whole transcript only."""


class AnswerText(Record, frozen=True):
    """A piece of the answer's text, or (`is_final`) the whole of one message."""

    type: ClassVar[Literal["answer_text"]] = "answer_text"
    unprinted = ("text",)

    turn: str
    text: str
    is_final: bool
    item_id: str = ""
    """Of the answer; like `response_id` in this and other events, a session fills it in."""
    response_id: str = ""
    """"" if the server does not name the response."""


class Audio(Record, frozen=True):
    """A piece of the answer's audio, to play after the previous one."""

    type: ClassVar[Literal["audio"]] = "audio"
    unprinted = ("audio",)

    audio: bytes
    """In the session's `output_audio_format`; pcm16 is 24 kHz mono little-endian."""
    item_id: str
    agent: str
    response_id: str = ""


class AudioEnd(Record, frozen=True):
    """All audio of an answer has been emitted."""

    type: ClassVar[Literal["audio_end"]] = "audio_end"
    item_id: str
    response_id: str = ""


class AudioInterrupted(Record, frozen=True):
    """The answer was interrupted: stop playing, and drop the queued audio."""

    type: ClassVar[Literal["audio_interrupted"]] = "audio_interrupted"
    item_id: str
    heard_ms: int
    response_id: str = ""


class ToolStart(Record, frozen=True):
    """A call starts. A call that is refused, rejected or void never starts: its output is in `HistoryGrew`."""

    type: ClassVar[Literal["tool_start"]] = "tool_start"
    turn: str
    call_id: str
    name: str
    arguments: str
    agent: str = ""


class ToolEnd(Record, frozen=True):
    """A call has ended; emitted once for every call with a `ToolStart`, and for no other."""

    type: ClassVar[Literal["tool_end"]] = "tool_end"
    turn: str
    call_id: str
    name: str
    output: str
    is_error: bool
    agent: str = ""
    arguments: str = ""


class ToolApproval(Record, frozen=True):
    """A call waits for the user, or for `RealtimeSession.approve` or `RealtimeSession.reject`."""

    type: ClassVar[Literal["tool_approval_requested"]] = "tool_approval_requested"
    turn: str
    call_id: str
    name: str
    arguments: str
    agent: str = ""


class AgentStart(Record, frozen=True):
    """An agent starts to answer a turn, or takes it over after a handoff."""

    type: ClassVar[Literal["agent_start"]] = "agent_start"
    agent: str


class AgentEnd(Record, frozen=True):
    """An agent has finished a turn, or has handed it over."""

    type: ClassVar[Literal["agent_end"]] = "agent_end"
    unprinted = ("output",)

    agent: str
    output: str
    """The text that it said."""


class HandoffDone(Record, frozen=True):
    """The server has accepted another agent."""

    type: ClassVar[Literal["handoff"]] = "handoff"
    from_agent: str
    to_agent: str


class Guardrail(Record, frozen=True):
    """A guardrail tripped: it stopped an answer, or refused a turn."""

    type: ClassVar[Literal["guardrail_tripped"]] = "guardrail_tripped"
    turn: str
    side: Literal["input", "output"]
    item_id: str
    """The item of the answer, or for ``input`` that of the user."""
    guardrail: str
    reason: str


class HistoryGrew(Record, frozen=True):
    """An item was added to the history."""

    type: ClassVar[Literal["history_added"]] = "history_added"
    item: HistoryItem
    previous_item_id: str
    """Id of its predecessor; "" for the first item."""


class HistoryChanged(Record, frozen=True):
    """An item of the history was changed or removed."""

    type: ClassVar[Literal["history_updated"]] = "history_updated"
    item_id: str
    item: HistoryItem | None = None
    """The changed item; None if it was removed."""


class OutOfBandEnded(Record, frozen=True):
    """The end of an out-of-band question (``OutOfBandAsked``)."""

    type: ClassVar[Literal["out_of_band_ended"]] = "out_of_band_ended"
    key: str
    items: tuple[HistoryItem, ...]
    problem: str = ""


class AgentUpdateEnded(Record, frozen=True):
    """The end of a replacement of the active agent (``AgentReplaced``)."""

    type: ClassVar[Literal["agent_update_ended"]] = "agent_update_ended"
    key: str
    problem: str = ""
    """Why the previous agent stays active; "" if the new one is."""


class Usage(Record, frozen=True):
    """The cost of a response, a transcription, or the audio of a turn."""

    type: ClassVar[Literal["usage"]] = "usage"
    tokens: Mapping[str, int]
    usd: float | None
    """US dollars; None for an unknown price."""
    audio_s: float = 0.0
    """Seconds of the turn's audio, both ways; set at its end only."""
    spent_usd: float = 0.0
    """US dollars of the day so far; `spent_s` has the seconds."""
    spent_s: float = 0.0


class BudgetWarning(Record, frozen=True):
    """80 or 100 percent of the day's budget are spent."""

    type: ClassVar[Literal["budget"]] = "budget"
    percent: int
    unit: Literal["usd", "minutes"]
    spent: float
    limit: float
    message: str = ""
    """The warning in the user's language; a session fills it in."""


class Connected(Record, frozen=True):
    """The conversation continues on a new connection."""

    type: ClassVar[Literal["connected"]] = "connected"
    link: int
    endpoint: int
    """Index in the list of endpoints; `RealtimeSession.endpoints` has their names."""


class Announcement(Record, frozen=True):
    """A sentence that the device says with its own voice: a trouble, a filler, or the spent budget."""

    type: ClassVar[Literal["announcement"]] = "announcement"
    text: str


class Error(Record, frozen=True):
    """Something went wrong, and the conversation continues."""

    type: ClassVar[Literal["error"]] = "error"
    kind: TroubleKind
    detail: str = ""
    """Technical, e.g. the server's message or the name of a tool; "" if `kind` says everything."""
    message: str = ""
    """A sentence in the user's language, with the detail in parentheses; a session fills it in."""


class Raw(Record, frozen=True):
    """A frame of the server, unchanged."""

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

Notice: TypeAlias = _Yielded | OutOfBandEnded | AgentUpdateEnded
"""What the conversation emits; a session returns `OutOfBandEnded` and `AgentUpdateEnded` to their callers."""

SessionEvent: TypeAlias = _Yielded | Audio | Announcement | Raw
"""Every event of a session; `event.type` distinguishes them, also for a type checker."""
