"""Everything that the conversation can ask of the world, as imperatives for the driver to dispatch.

A command is dispatched synchronously and takes effect asynchronously: no dispatch blocks, and what comes of it
comes back as an event. Commands are frozen and compare by value, so that a trace can be replayed and compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

from appliance.conversation.earcons import Earcon
from appliance.conversation.events import AgentKey, CheckKey
from appliance.conversation.notices import Notice
from appliance.realtime.protocol import ClientEvent
from appliance.records import Record

__all__ = [
    "Announce",
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
    "OpenCapture",
    "Play",
    "PlayEarcon",
    "PrepareAgent",
    "RunTool",
    "Send",
    "Sentence",
    "SilenceAlarm",
    "Stop",
]


class Connect(Record, frozen=True):
    """Open connection `link`; answered by ``LinkUp``, then or instead ``LinkDown``. Others stay as they are."""

    link: int
    endpoint: int = 0
    """Which of the configured endpoints, by its place in the list."""


class Disconnect(Record, frozen=True):
    """Close connection `link`; answered by ``LinkDown``."""

    link: int


class Send(Record, frozen=True):
    """Put one event into the outbox of connection `link`; dropped if that connection is gone."""

    link: int
    event: ClientEvent


class Play(Record, frozen=True):
    """Queue audio of an answer behind what is queued already; dropped unless `epoch` is the current one."""

    unprinted = ("pcm",)

    epoch: int
    item_id: str
    pcm: bytes
    """int16 little-endian mono at 24 kHz, any length."""


class FinishPlay(Record, frozen=True):
    """End of this epoch's audio: drain the buffer without prebuffering."""

    epoch: int


class FlushPlayback(Record, frozen=True):
    """Stop all sound within a period (with a short fade) and begin `epoch`; what is queued is never heard."""

    epoch: int


class PlayEarcon(Record, frozen=True):
    """Play a short cue, behind what is queued in this epoch."""

    epoch: int
    name: Earcon


class Sentence(Record, frozen=True):
    """A sentence for the user, as a key of the wording files and the values of its placeholders."""

    key: str
    """Table and name: ``alarm.time_up``."""
    values: Mapping[str, str | int | float] = {}


class Announce(Record, frozen=True):
    """Speak a sentence with the device's own voice, behind what is queued in this epoch.

    Without a voice for it, the earcon `fallback` sounds instead.
    """

    epoch: int
    sentence: Sentence | str
    """A text is a maker's and is spoken verbatim."""
    fallback: Earcon = "error"


class RunTool(Record, frozen=True):
    """Run a tool; answered by ``ToolFinished`` with the same `call_id`, whatever happens."""

    call_id: str
    name: str
    arguments: str
    """A JSON object as text, as the model wrote it: not yet validated."""
    agent: str = ""
    """Whose tool it is."""


class CheckApproval(Record, frozen=True):
    """Ask the predicate of a tool whether this call needs approval; answered by ``ApprovalChecked``."""

    call_id: str
    name: str
    arguments: str
    agent: str = ""


class PrepareAgent(Record, frozen=True):
    """Ask an agent's instructions and predicates; answered by ``AgentPrepared`` with the same `key`."""

    key: AgentKey
    agent: str
    reason: Literal["connect", "turn", "handoff"]
    from_agent: str = ""
    """Of a handoff: who hands over, by which tool, with what. Its ``on_handoff`` is called first."""
    tool_name: str = ""
    arguments: str = ""


class CheckText(Record, frozen=True):
    """Run an agent's guardrails on a text; answered by ``GuardrailsChecked`` with the same `key`."""

    unprinted = ("text",)

    key: CheckKey
    agent: str
    side: Literal["input", "output"]
    text: str


class CancelTool(Record, frozen=True):
    """Cancel a running tool if it can be cancelled; what it still reports is ignored."""

    call_id: str


class OpenCapture(Record, frozen=True):
    """Open the microphone again after a mute."""


class CloseCapture(Record, frozen=True):
    """Close the microphone: muted means that no audio is read at all."""


class SilenceAlarm(Record, frozen=True):
    """The alarm was acknowledged, or has rung long enough."""

    alarm_id: str


class Stop(Record, frozen=True):
    """End the process; the driver returns after dispatching what came before."""

    reason: str


class Emit(Record, frozen=True):
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
