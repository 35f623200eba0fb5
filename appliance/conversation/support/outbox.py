"""Where the regions of the conversation put what they decide, in order. Pure."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TypeAlias

from appliance.conversation.commands import Announce, Command, Earcon, Emit, PlayEarcon, Send, Sentence
from appliance.conversation.notices import Notice
from appliance.realtime.protocol import ClientEvent

__all__ = ["Cause", "CommitOf", "ItemOf", "OutOfBandOf", "Outbox"]

_REMEMBERED = 20_480  # events of ours that an error may still name: twice the longest history that settings allow


@dataclass(frozen=True, slots=True)
class CommitOf:
    """The event committed the audio of a turn."""

    turn: str
    replay: int


@dataclass(frozen=True, slots=True)
class ItemOf:
    """The event created or deleted an item."""

    item_id: str


@dataclass(frozen=True, slots=True)
class OutOfBandOf:
    """The event asked an out-of-band question."""

    key: str


Cause: TypeAlias = CommitOf | ItemOf | OutOfBandOf
"""What an event of ours was sent for: an ``error`` of the server names the event, and so its cause."""


class Outbox:
    """The commands of one event, and the two facts that every region needs to write them.

    `link` has one writer, the link region; `epoch` has one writer, the answer region.
    """

    def __init__(self) -> None:
        self.link: int | None = None
        """The connection that is configured; None: there is none, and what is sent is dropped."""
        self.epoch = 0
        """The flush generation of the playback."""
        self._commands: list[Command] = []
        self._ids = 0
        self._causes: OrderedDict[str, Cause] = OrderedDict()

    def do(self, *commands: Command) -> None:
        self._commands.extend(commands)

    def emit(self, *notices: Notice) -> None:
        self._commands.extend(Emit(one) for one in notices)

    def send(self, event: ClientEvent, *, about: Cause | None = None) -> None:
        """Send on the connection; a no-op without one, because its conversation is gone with it.

        Args:
            event: What to send.
            about: Why it is sent; `cause` finds it by the event's id until the connection changes.
        """
        if self.link is None:
            return
        self._commands.append(Send(self.link, event))
        event_id = event.event_id
        if about is not None and event_id:
            self._causes[event_id] = about
            self._causes.move_to_end(event_id)
            while len(self._causes) > _REMEMBERED:
                self._causes.popitem(last=False)

    def cause(self, event_id: str | None) -> Cause | None:
        """Return why an event of ours was sent; None if no region said why, or it is of another connection."""
        return self._causes.get(event_id) if event_id else None

    def forget_causes(self) -> None:
        """The connection is gone: no error names its events any more."""
        self._causes.clear()

    def earcon(self, name: Earcon) -> None:
        self._commands.append(PlayEarcon(self.epoch, name))

    def announce(self, sentence: Sentence | str, fallback: Earcon = "error") -> None:
        self._commands.append(Announce(self.epoch, sentence, fallback))

    def next_event_id(self) -> str:
        """Make an id, so that an error can name this event."""
        self._ids += 1
        return f"ev_{self._ids}"

    def take(self) -> list[Command]:
        """Return the commands so far, and begin an empty list."""
        commands, self._commands = self._commands, []
        return commands
