"""Everything that can happen to the appliance, as facts for `Conversation.handle`.

One FIFO carries them all. Each event carries the id of what it belongs to (link, epoch, call), so that a late one
can be told from a current one and ignored. Times are not in the events: the driver passes ``now`` (monotonic
seconds) beside each.

Frames in this package are samples of the wire's format: mono int16 at 24 kHz, whatever rate the card runs at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

from appliance.agents.spec import AgentSpec
from appliance.realtime.items import HistoryItem
from appliance.realtime.protocol import ServerEvent
from appliance.records import Record

__all__ = [
    "FAILURE_OF_ERROR_CODE",
    "AbortAsked",
    "AgentKey",
    "AgentPrepared",
    "AlarmRang",
    "ApprovalAnswered",
    "ApprovalChecked",
    "AudioCaptured",
    "BeginAsked",
    "ButtonEdge",
    "CaptureOverrun",
    "CardFound",
    "CardLost",
    "CheckKey",
    "CommitAsked",
    "ConnectKey",
    "DayBegan",
    "DeadlinePassed",
    "Direction",
    "Event",
    "FrameGiven",
    "FrameRefused",
    "GuardrailsChecked",
    "HandoffKey",
    "HistoryReplaced",
    "InputCheck",
    "InterruptAsked",
    "LinkDown",
    "LinkFailure",
    "LinkUp",
    "MessageGiven",
    "MuteSwitched",
    "OutOfBandAsked",
    "OutputCheck",
    "PlayoutProgress",
    "ServerEventReceived",
    "ShutdownRequested",
    "Started",
    "TimersChanged",
    "ToolFinished",
    "TracingFailed",
    "TurnKey",
]

Direction: TypeAlias = Literal["capture", "playback"]


class ConnectKey(Record, frozen=True):
    """An agent is prepared for a new connection."""

    link: int


class TurnKey(Record, frozen=True):
    """An agent is prepared for a turn, as it is sent the first time or again."""

    turn: str
    replay: int


class HandoffKey(Record, frozen=True):
    """An agent is prepared because a call hands over to it."""

    call_id: str


class InputCheck(Record, frozen=True):
    """What the user said in a turn is checked."""

    turn: str


class OutputCheck(Record, frozen=True):
    """A text of an answer is checked; checks are numbered."""

    number: int


AgentKey: TypeAlias = ConnectKey | TurnKey | HandoffKey
CheckKey: TypeAlias = InputCheck | OutputCheck


class Started(Record, frozen=True):
    """The process is up: cards are open or known to be missing, tools are loaded."""


class DeadlinePassed(Record, frozen=True):
    """The instant that `Conversation.deadline` named has come; harmless when it comes late or twice."""


class ShutdownRequested(Record, frozen=True):
    """SIGTERM, SIGINT or the end of a simulation."""

    reason: str


class ButtonEdge(Record, frozen=True):
    """The button's level, at an edge or at a re-reading while it is held; not debounced."""

    pressed: bool


class AudioCaptured(Record, frozen=True):
    """One period of the microphone, in order, at 24 kHz."""

    unprinted = ("pcm",)

    pcm: bytes
    """int16 little-endian mono; usually 480 frames (20 ms)."""
    peak: int
    """Largest absolute sample, 0 to 32768."""
    level_db: float
    """RMS of the period in dBFS, at least -96."""


class CaptureOverrun(Record, frozen=True):
    """The capture ring was full: these frames of the microphone are lost."""

    frames: int


class PlayoutProgress(Record, frozen=True):
    """How much of the answers' audio has been heard since the last flush.

    Earcons and announcements do not count. Frames still in the device's own buffer are not counted as heard.
    """

    epoch: int
    played_frames: int
    """Cumulative since the epoch began, 24 kHz frames."""
    drained: bool
    """Nothing that was handed over in this epoch is left to be heard."""


class CardLost(Record, frozen=True):
    """A stream stopped or stalled; the audio side keeps trying to get it back."""

    direction: Direction
    reason: str


class CardFound(Record, frozen=True):
    """A stream that was lost runs again."""

    direction: Direction


class LinkUp(Record, frozen=True):
    """The socket of connection `link` is open; the session is not there before ``session.created``."""

    link: int


LinkFailure: TypeAlias = Literal[
    "account_closed",
    "bad_address",
    "bad_frames",
    "bad_key",
    "bad_shape",
    "closed",
    "lost",
    "model_not_found",
    "name_not_found",
    "no_credit",
    "no_key",
    "not_a_server",
    "not_an_endpoint",
    "policy",
    "protocol_error",
    "proxy",
    "rate_limited",
    "refused",
    "region",
    "server_error",
    "session_expired",
    "timeout",
    "tls",
    "too_big",
    "unauthorized",
    "unreachable",
]
"""Why a connection could not be made, or ended; `retry.classify` says what follows from it."""

FAILURE_OF_ERROR_CODE: Final[Mapping[str, LinkFailure]] = {
    "invalid_api_key": "bad_key",
    "incorrect_api_key": "bad_key",
    "authentication_error": "bad_key",
    "insufficient_quota": "no_credit",
    "credit_balance_exhausted": "no_credit",
    "billing_hard_limit_reached": "no_credit",
    "billing_not_active": "no_credit",
    "account_deactivated": "account_closed",
    "insufficient_permissions": "unauthorized",
    "permission_error": "unauthorized",
    "mismatched_project": "unauthorized",
    "mismatched_organization": "unauthorized",
    "unsupported_country_region_territory": "region",
    "model_not_found": "model_not_found",
    "invalid_model": "model_not_found",
    "missing_model": "model_not_found",
    "deploymentnotfound": "model_not_found",
    "beta_api_shape_disabled": "bad_shape",
    "session_expired": "session_expired",
    "rate_limit_exceeded": "rate_limited",
    "inference_rate_limit_exceeded": "rate_limited",
    "server_shutdown": "server_error",
    "server_error": "server_error",
    "internal_error": "server_error",
}
"""Types and codes of the server's errors, in lower case: of an ``error`` event, of the body of a refusal, of a close
reason ``<type>.<code>``. Where a type and its code are both here, the first in this order wins."""


class LinkDown(Record, frozen=True):
    """Connection `link` could not be made, or ended; comes exactly once for each ``Connect``."""

    link: int
    kind: LinkFailure
    code: int | None
    """The WebSocket close code or the HTTP status; None where there was neither (DNS, refused, time-out)."""
    detail: str
    """What the peer or the operating system said, for logs only: no decision looks at it."""


class ServerEventReceived(Record, frozen=True):
    """One event of the server on connection `link`."""

    link: int
    event: ServerEvent


class FrameRefused(Record, frozen=True):
    """A frame of the server that could not be read (`RemoteProtocolError`)."""

    link: int
    problem: str


class ToolFinished(Record, frozen=True):
    """A tool ended: with a result, or with a text that tells the model what went wrong."""

    call_id: str
    output: str
    is_error: bool = False
    is_background: bool = False
    """The output goes to the model, which is not asked to speak about it."""


class ApprovalChecked(Record, frozen=True):
    """A tool's predicate has said whether this call needs the user's approval."""

    call_id: str
    needed: bool
    problem: str = ""
    """The arguments do not fit: the call is not made, and this is its output."""


class ApprovalAnswered(Record, frozen=True):
    """The program that owns the session has decided on a call; on the appliance, the button does (`ButtonEdge`)."""

    call_id: str
    approved: bool
    always: bool = False
    """From now on for every call of this tool, until the session ends."""
    message: str = ""
    """The output of a rejected call."""


class AgentPrepared(Record, frozen=True):
    """The answer to ``PrepareAgent``: an agent's instructions and predicates were asked."""

    key: AgentKey
    spec: AgentSpec | None
    problem: str = ""
    """Why there is no spec."""


class GuardrailsChecked(Record, frozen=True):
    """The answer to ``CheckText``."""

    key: CheckKey
    tripped: str = ""
    """Name of the guardrail that tripped; "": none did."""
    reason: str = ""


class BeginAsked(Record, frozen=True):
    """The program begins a turn: what is captured from here on belongs to it. Like a press, it barges in."""


class CommitAsked(Record, frozen=True):
    """The program ends the turn that it began, and wants its answer."""


class AbortAsked(Record, frozen=True):
    """The program takes back the turn that it began: nothing of it is answered."""


class InterruptAsked(Record, frozen=True):
    """Stop the answer, as a press would, and listen to nothing."""


class MessageGiven(Record, frozen=True):
    """The program says something in writing, or shows an image."""

    unprinted = ("item", "text")

    item: Mapping[str, Any]
    """A message item of the Realtime API, with an `id` of ours."""
    text: str
    """Its text, for the guardrails."""
    wants_answer: bool = True
    """Like a turn, it barges in and is answered; else it is only put into the conversation."""


class OutOfBandAsked(Record, frozen=True):
    """The program asks something beside the conversation; answered by the notice ``OutOfBandEnded``."""

    unprinted = ("response",)

    key: str
    response: Mapping[str, Any]
    """The ``response`` object of the request; ``conversation`` and ``metadata`` are filled in."""
    timeout_s: float = 30.0


class FrameGiven(Record, frozen=True):
    """Any frame at all, to be sent as it is."""

    unprinted = ("frame",)

    frame: Mapping[str, Any]


class HistoryReplaced(Record, frozen=True):
    """The program wants the conversation to be this: what is gone is deleted, what is new created, in this order."""

    items: tuple[HistoryItem, ...]


class DayBegan(Record, frozen=True):
    """A new day of the budget, or the first of this process, with what was spent on it already."""

    day: str
    """ISO date, local time."""
    spent_usd: float = 0.0
    spent_s: float = 0.0


class AlarmRang(Record, frozen=True):
    """A timer came to its end."""

    alarm_id: str
    label: str


class TimersChanged(Record, frozen=True):
    """How many timers are running; the light shows whether any is."""

    running: int


class MuteSwitched(Record, frozen=True):
    """The microphone was muted or unmuted, by a switch, a gesture or a tool."""

    muted: bool


class TracingFailed(Record, frozen=True):
    """The trace could not be written any more (disk full); the conversation goes on without it."""

    problem: str


Event: TypeAlias = (
    Started
    | DeadlinePassed
    | ShutdownRequested
    | ButtonEdge
    | AudioCaptured
    | CaptureOverrun
    | PlayoutProgress
    | CardLost
    | CardFound
    | LinkUp
    | LinkDown
    | ServerEventReceived
    | FrameRefused
    | ToolFinished
    | AlarmRang
    | TimersChanged
    | MuteSwitched
    | TracingFailed
    | AgentPrepared
    | ApprovalAnswered
    | ApprovalChecked
    | GuardrailsChecked
    | BeginAsked
    | CommitAsked
    | AbortAsked
    | InterruptAsked
    | MessageGiven
    | OutOfBandAsked
    | FrameGiven
    | HistoryReplaced
    | DayBegan
)
