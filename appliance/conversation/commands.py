"""Everything that the conversation can request, as imperatives for the driver to dispatch.

A command is dispatched synchronously and takes effect asynchronously: no dispatch blocks, and the result is posted as
an event. Commands are frozen and compare by value, so that a trace can be replayed and compared.
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
    "PowerOff",
    "PrepareAgent",
    "RunTool",
    "Send",
    "Sentence",
    "SilenceAlarm",
    "Stop",
]


class Connect(Record, frozen=True):
    """Open connection `link`; answered by ``LinkUp`` and later ``LinkDown``, or by ``LinkDown`` alone.

    Other connections are not affected.
    """

    link: int
    endpoint: int = 0
    """Index in the list of configured endpoints."""


class Disconnect(Record, frozen=True):
    """Close connection `link`; answered by ``LinkDown``."""

    link: int


class Send(Record, frozen=True):
    """Queue one event on connection `link`; dropped if that connection is closed."""

    link: int
    event: ClientEvent


class Play(Record, frozen=True):
    """Queue audio of an answer; dropped unless `epoch` is the current one."""

    unprinted = ("pcm",)

    epoch: int
    item_id: str
    pcm: bytes
    """int16 little-endian mono at 24 kHz, any length."""


class FinishPlay(Record, frozen=True):
    """End of this epoch's audio: drain the buffer without prebuffering."""

    epoch: int


class FlushPlayback(Record, frozen=True):
    """Stop all sound within one period (with a short fade), drop the queue, and start `epoch`."""

    epoch: int


class PlayEarcon(Record, frozen=True):
    """Queue a short cue, behind the audio of this epoch."""

    epoch: int
    name: Earcon


class Sentence(Record, frozen=True):
    """A sentence for the user: a key of the wording files, and the values of its placeholders."""

    key: str
    """Table and name, e.g. ``alarm.time_up``."""
    values: Mapping[str, str | int | float] = {}


class Announce(Record, frozen=True):
    """Speak a sentence with the device's own voice, behind the audio of this epoch.

    Without a voice for it, play the earcon `fallback` instead.
    """

    epoch: int
    sentence: Sentence | str
    """A string is spoken verbatim."""
    fallback: Earcon = "error"


class RunTool(Record, frozen=True):
    """Run a tool; always answered by ``ToolFinished`` with the same `call_id`."""

    call_id: str
    name: str
    arguments: str
    """JSON text as the model wrote it, not yet validated."""
    agent: str = ""
    """Name of the agent that has the tool."""


class CheckApproval(Record, frozen=True):
    """Ask the predicate of a tool whether this call needs approval; answered by ``ApprovalChecked``."""

    call_id: str
    name: str
    arguments: str
    agent: str = ""


class PrepareAgent(Record, frozen=True):
    """Evaluate an agent's instructions and predicates; answered by ``AgentPrepared`` with the same `key`."""

    key: AgentKey
    agent: str
    reason: Literal["connect", "turn", "handoff"]
    from_agent: str = ""
    """For a handoff: the previous agent; with `tool_name` and `arguments`. Its ``on_handoff`` is called first."""
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
    """Cancel a running tool if it is cancellable; its result is ignored."""

    call_id: str


class OpenCapture(Record, frozen=True):
    """Reopen the microphone after a mute."""


class CloseCapture(Record, frozen=True):
    """Close the microphone: while muted, no audio is read at all."""


class SilenceAlarm(Record, frozen=True):
    """Stop an alarm: it was acknowledged, or has reached its time limit."""

    alarm_id: str


class PowerOff(Record, frozen=True):
    """Switch the whole device off: the user held the button until it was announced, and then released it."""


class Stop(Record, frozen=True):
    """End the process; the driver returns after the commands before this one."""

    reason: str


class Emit(Record, frozen=True):
    """Emit a notice to the observers."""

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
    | PowerOff
    | Stop
    | Emit
)
