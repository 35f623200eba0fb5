"""Everything that the conversation can ask of the world, as imperatives for the driver to dispatch.

A command is dispatched synchronously and takes effect asynchronously: no dispatch blocks, and what comes of it
comes back as an event. Commands are frozen and compare by value, so that a trace can be replayed and compared.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from appliance.realtime.items import HistoryItem
from appliance.realtime.protocol import ClientEvent

__all__ = [
    "AgentEnded",
    "AgentStarted",
    "Announce",
    "AnswerAudioEnded",
    "AnswerInterrupted",
    "AnswerTextReceived",
    "ApprovalRequested",
    "AsideEnded",
    "BudgetReached",
    "CancelTool",
    "CheckApproval",
    "CheckText",
    "CloseCapture",
    "Command",
    "Connect",
    "Disconnect",
    "Earcon",
    "Emit",
    "FinishPlay",
    "FlushPlayback",
    "GuardrailTripped",
    "HandedOver",
    "HeardTextGrew",
    "HeardTextReceived",
    "HistoryAdded",
    "HistoryRemoved",
    "HistoryUpdated",
    "LightPattern",
    "LinkChanged",
    "Notice",
    "OpenCapture",
    "Outcome",
    "Play",
    "PlayEarcon",
    "PrepareAgent",
    "RunTool",
    "Send",
    "SilenceAlarm",
    "Stop",
    "ToolEnded",
    "ToolStarted",
    "TroubleReported",
    "TurnEnded",
    "TurnStarted",
    "UsageCounted",
]

Outcome: TypeAlias = Literal["answered", "slip", "silence", "interrupted", "failed", "cancelled", "refused"]
"""How a turn ended: ``refused`` by a guardrail, ``cancelled`` by whoever began it."""

Earcon: TypeAlias = Literal["start", "end", "error", "offline", "cancel", "alarm", "approval", "muted", "working"]


@dataclass(frozen=True, slots=True)
class LightPattern:
    """What the light shows; a function of the state (`conversation.feedback.pattern`), never set by a handler.

    A single-colour light shows `level` and the rhythm only: no two patterns may differ in colour alone.
    """

    name: str
    """The light state: "listening", "thinking", …"""
    color: tuple[float, float, float]
    """Red, green, blue, 0.0 to 1.0, at full brightness."""
    effect: Literal["off", "solid", "blink", "pulse"]
    """`blink` switches hard, `pulse` fades up and down."""
    period_s: float = 1.0
    """One whole blink or pulse."""
    duty: float = 0.5
    """Share of the period that a blink is on."""
    level: float = 1.0
    """Peak brightness, 0.0 to 1.0."""


@dataclass(frozen=True, slots=True)
class Connect:
    """Open connection `link`; answered by ``LinkUp``, then or instead ``LinkDown``. Others stay as they are."""

    link: int
    endpoint: int = 0
    """Which of the configured endpoints, by its place in the list."""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close connection `link`; answered by ``LinkDown``."""

    link: int


@dataclass(frozen=True, slots=True)
class Send:
    """Put one event into the outbox of connection `link`; dropped if that connection is gone."""

    link: int
    event: ClientEvent


@dataclass(frozen=True, slots=True)
class Play:
    """Queue audio of an answer behind what is queued already; dropped unless `epoch` is the current one."""

    epoch: int
    item_id: str
    pcm: bytes = field(repr=False)
    """int16 little-endian mono at 24 kHz, any length."""


@dataclass(frozen=True, slots=True)
class FinishPlay:
    """No more audio comes for what was queued in this epoch so far: play out the tail, wait for nothing."""

    epoch: int


@dataclass(frozen=True, slots=True)
class FlushPlayback:
    """Stop all sound within a period (with a short fade) and begin `epoch`; what is queued is never heard."""

    epoch: int


@dataclass(frozen=True, slots=True)
class PlayEarcon:
    """Play a short cue, behind what is queued in this epoch."""

    epoch: int
    name: Earcon


@dataclass(frozen=True, slots=True)
class Announce:
    """Say a sentence of the device's own (not of the model), behind what is queued in this epoch.

    The device's local voice speaks it; where there is none, the earcon named by `fallback` sounds instead.
    """

    epoch: int
    text: str
    fallback: Earcon = "error"


@dataclass(frozen=True, slots=True)
class RunTool:
    """Run a tool; answered by ``ToolFinished`` with the same `call_id`, whatever happens."""

    call_id: str
    name: str
    arguments: str
    """A JSON object as text, as the model wrote it: not yet validated."""
    agent: str = ""
    """Whose tool it is."""


@dataclass(frozen=True, slots=True)
class CheckApproval:
    """Ask the predicate of a tool whether this call needs approval; answered by ``ApprovalChecked``."""

    call_id: str
    name: str
    arguments: str
    agent: str = ""


@dataclass(frozen=True, slots=True)
class PrepareAgent:
    """Ask an agent's instructions and predicates; answered by ``AgentPrepared`` with the same `key`."""

    key: str
    agent: str
    reason: Literal["connect", "turn", "handoff"]
    from_agent: str = ""
    """Of a handoff: who hands over, by which tool, with what. Its ``on_handoff`` is called first."""
    tool_name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class CheckText:
    """Run an agent's guardrails on a text; answered by ``GuardrailsChecked`` with the same `key`."""

    key: str
    agent: str
    side: Literal["input", "output"]
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class CancelTool:
    """Cancel a running tool if it can be cancelled; what it still reports is ignored."""

    call_id: str


@dataclass(frozen=True, slots=True)
class OpenCapture:
    """Open the microphone again after a mute."""


@dataclass(frozen=True, slots=True)
class CloseCapture:
    """Close the microphone: muted means that no audio is read at all."""


@dataclass(frozen=True, slots=True)
class SilenceAlarm:
    """The alarm was acknowledged, or has rung long enough."""

    alarm_id: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End the process; the driver returns after dispatching what came before."""

    reason: str


# --- facts for whoever watches: the log, `ask`, the panel, a program of the maker -------------------------------


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

    kind: str
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


@dataclass(frozen=True, slots=True)
class Emit:
    """Tell the observers."""

    notice: Notice


Command: TypeAlias = (
    Connect
    | Disconnect
    | Send
    | Play
    | FinishPlay
    | FlushPlayback
    | PlayEarcon
    | Announce
    | RunTool
    | CheckApproval
    | PrepareAgent
    | CheckText
    | CancelTool
    | OpenCapture
    | CloseCapture
    | SilenceAlarm
    | Stop
    | Emit
)
