"""Everything that can happen to the appliance, as facts for `Conversation.handle`.

One FIFO carries them all. Each event has the id of its link, epoch or call, so that a late one can be recognised and
ignored. Times are not in the events: the driver passes ``now`` (monotonic seconds) with each.

Frames in this package are in the wire's format: mono int16 at 24 kHz, whatever the rate of the card.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

from appliance.agents.spec import AgentSpec
from appliance.conversation.policy import Policy
from appliance.realtime.items import HistoryItem
from appliance.realtime.protocol import ServerEvent
from appliance.records import Record

__all__ = [
    "FAILURE_OF_ERROR_CODE",
    "AbortAsked",
    "AgentKey",
    "AgentPrepared",
    "AgentReplaced",
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
    "NextKey",
    "OutOfBandAsked",
    "OutputCheck",
    "PlayoutProgress",
    "PolicyReplaced",
    "ServerEventReceived",
    "SettingsRefused",
    "ShutdownRequested",
    "Started",
    "TimersChanged",
    "ToolBegan",
    "ToolFinished",
    "TracingFailed",
    "TurnKey",
]

Direction: TypeAlias = Literal["capture", "playback"]


class ConnectKey(Record, frozen=True):
    """An agent is prepared for a new connection."""

    link: int


class TurnKey(Record, frozen=True):
    """An agent is prepared for a turn, or for its replay on another connection."""

    turn: str
    replay: int


class HandoffKey(Record, frozen=True):
    """An agent is prepared because a call hands over to it."""

    call_id: str


class InputCheck(Record, frozen=True):
    """The user's words in a turn are checked."""

    turn: str


class OutputCheck(Record, frozen=True):
    """A text of an answer is checked."""

    number: int


class NextKey(Record, frozen=True):
    """An agent is prepared because the user asked for the next one."""

    number: int


AgentKey: TypeAlias = ConnectKey | TurnKey | HandoffKey | NextKey
CheckKey: TypeAlias = InputCheck | OutputCheck


class Started(Record, frozen=True):
    """The process has started: cards are open or known to be missing, tools are loaded."""


class DeadlinePassed(Record, frozen=True):
    """The time `Conversation.deadline` has passed; harmless if posted late or twice."""


class ShutdownRequested(Record, frozen=True):
    """SIGTERM, SIGINT or the end of a simulation."""

    reason: str


class ButtonEdge(Record, frozen=True):
    """The level of the button, at an edge or re-read while it is held; not debounced."""

    pressed: bool
    is_second: bool = False
    """It is the second button, which mutes."""
    at: float | None = None
    """When the kernel saw the edge, monotonic seconds; None for a level that was read, and without such a time."""


class AudioCaptured(Record, frozen=True):
    """Sound of the microphone, in order, at 24 kHz: usually one period."""

    unprinted = ("pcm",)

    pcm: bytes
    """int16 little-endian mono; a period has 480 frames (20 ms)."""
    peak: int
    """Largest absolute sample, 0 to 32768."""
    level_db: float
    """RMS in dBFS, at least -96."""
    pre_roll: int = 0
    """Frames at its start from before the press: a microphone posts them with the first sound of a turn."""


class CaptureOverrun(Record, frozen=True):
    """Microphone frames were lost: they waited too long for the loop or for the network."""

    frames: int


class PlayoutProgress(Record, frozen=True):
    """How much answer audio was heard since the last flush.

    Earcons, announcements and frames still in the card's buffer do not count.
    """

    epoch: int
    played_frames: int
    """Frames at 24 kHz, cumulative since the epoch started."""
    drained: bool
    """All audio queued in this epoch was heard."""


class CardLost(Record, frozen=True):
    """A stream stopped or stalled; the audio side keeps trying to reopen it."""

    direction: Direction
    reason: str


class CardFound(Record, frozen=True):
    """A lost stream runs again."""

    direction: Direction


class LinkUp(Record, frozen=True):
    """The socket of connection `link` is open; the session is ready only after ``session.created``."""

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
"""Why a connection failed or ended; `retry.classify` decides what follows."""

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
"""Types and codes of the server's errors, in lower case, from an ``error`` event, the body of an HTTP refusal, or a
close reason ``<type>.<code>``. If both the type and the code are listed, the first in this order wins."""


class LinkDown(Record, frozen=True):
    """Connection `link` failed or ended; posted exactly once for each ``Connect``."""

    link: int
    kind: LinkFailure
    code: int | None
    """The WebSocket close code or the HTTP status; None without either (DNS, refused, time-out)."""
    detail: str
    """The text of the peer or the operating system, for logs only: no decision depends on it."""
    retry_after_s: float | None = None
    """How long the server asks to wait; None if it does not."""


class ServerEventReceived(Record, frozen=True):
    """A server event on connection `link`."""

    link: int
    event: ServerEvent


class FrameRefused(Record, frozen=True):
    """A frame of the server could not be parsed (`RemoteProtocolError`)."""

    link: int
    problem: str


class ToolBegan(Record, frozen=True):
    """The input guardrails of a tool have passed: it runs now."""

    call_id: str


class ToolFinished(Record, frozen=True):
    """A tool ended with a result, or with an error text for the model."""

    call_id: str
    output: str
    is_error: bool = False
    is_background: bool = False
    """The output is sent to the model, but no response is requested for it."""
    is_truncated: bool = False
    """The output is too long for the model: it is the start, marked as such."""
    stopped_by: str = ""
    """The guardrail of the tool that ends the turn, with its reason."""


class ApprovalChecked(Record, frozen=True):
    """A tool's predicate has decided whether this call needs the user's approval."""

    call_id: str
    needed: bool
    problem: str = ""
    """Why the arguments are invalid: the call is refused with this output."""


class ApprovalAnswered(Record, frozen=True):
    """The program has approved or rejected a call; on the appliance, the button does so (`ButtonEdge`)."""

    call_id: str
    approved: bool
    always: bool = False
    """Whether it applies to every later call of this tool, until the session ends."""
    message: str = ""
    """The output of a rejected call."""


class AgentPrepared(Record, frozen=True):
    """The result of ``PrepareAgent``: the agent with its instructions and predicates evaluated."""

    key: AgentKey
    spec: AgentSpec | None
    problem: str = ""
    """Why there is no spec."""


class AgentReplaced(Record, frozen=True):
    """The program replaces the active agent; answered by the notice ``AgentUpdateEnded``."""

    key: str
    spec: AgentSpec


class GuardrailsChecked(Record, frozen=True):
    """The result of ``CheckText``."""

    key: CheckKey
    tripped: str = ""
    """Name of the guardrail that tripped; "" for none."""
    reason: str = ""


class BeginAsked(Record, frozen=True):
    """The program starts a turn: audio from now on belongs to it. Like a press, it is a barge-in."""


class CommitAsked(Record, frozen=True):
    """The program ends the turn that it started, and wants its answer."""


class AbortAsked(Record, frozen=True):
    """The program cancels the turn that it started: it is not answered."""


class InterruptAsked(Record, frozen=True):
    """The program stops the answer, without starting a turn."""


class MessageGiven(Record, frozen=True):
    """The program or an input of the device sends a message of text or images."""

    unprinted = ("item", "text")

    item: Mapping[str, Any]
    """A message item of the Realtime API, with our own `id`."""
    text: str
    """Its text, for the guardrails."""
    wants_answer: bool = True
    """Whether it starts a turn, which is a barge-in; else it is only added to the conversation."""
    must_wait: bool = False
    """Whether its turn starts only after the running one."""
    is_event: bool = False
    """It reports an event of the device: the offline brain, which knows only sentences of users, does not answer it."""


class OutOfBandAsked(Record, frozen=True):
    """The program asks a question outside the conversation; answered by the notice ``OutOfBandEnded``."""

    unprinted = ("response",)

    key: str
    response: Mapping[str, Any]
    """The ``response`` object of the request; ``conversation`` and ``metadata`` are added to it."""
    timeout_s: float = 30.0


class FrameGiven(Record, frozen=True):
    """The program sends a raw frame, of any type."""

    unprinted = ("frame",)

    frame: Mapping[str, Any]


class HistoryReplaced(Record, frozen=True):
    """The program replaces the conversation: missing items are deleted, new ones created, in this order."""

    items: tuple[HistoryItem, ...]


class DayBegan(Record, frozen=True):
    """A new day of the budget, or the first of this process, with the amounts already spent on it."""

    day: str
    """ISO date, local time."""
    spent_usd: float = 0.0
    spent_s: float = 0.0


class AlarmRang(Record, frozen=True):
    """A timer expired."""

    alarm_id: str
    label: str


class TimersChanged(Record, frozen=True):
    """The number of running timers changed; the light shows whether there are any."""

    running: int


class MuteSwitched(Record, frozen=True):
    """The microphone was muted or unmuted: by the program, a signal or a tool, or by the switch on the device."""

    muted: bool
    is_by_switch: bool = False
    """It is the position of the hardware switch: while that mutes, nothing else unmutes."""


class TracingFailed(Record, frozen=True):
    """The trace can no longer be written (disk full); the conversation continues without it."""

    problem: str


class PolicyReplaced(Record, frozen=True):
    """The settings were read again; the conversation continues with these limits and times."""

    policy: Policy


class SettingsRefused(Record, frozen=True):
    """The settings were read again and are wrong; the old ones stay in force."""

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
    | ToolBegan
    | ToolFinished
    | AlarmRang
    | TimersChanged
    | MuteSwitched
    | TracingFailed
    | PolicyReplaced
    | SettingsRefused
    | AgentPrepared
    | AgentReplaced
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
