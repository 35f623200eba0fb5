"""The commands that the regions of the conversation write, in order. Pure."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TypeAlias

from appliance.conversation.commands import Announce, Command, Earcon, Emit, PlayEarcon, Send, Sentence
from appliance.conversation.notices import Notice
from appliance.realtime.protocol import ClientEvent

__all__ = ["Cause", "CommitOf", "ItemOf", "OutOfBandOf", "Outbox", "TruncationOf"]

_REMEMBERED = 20_480  # our events that an error may still name: twice the longest history that settings allow


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
    """The event requested an out-of-band response."""

    key: str


@dataclass(frozen=True, slots=True)
class TruncationOf:
    """The event truncated an item of an answer."""

    item_id: str


Cause: TypeAlias = CommitOf | ItemOf | OutOfBandOf | TruncationOf
"""Why one of our events was sent; an ``error`` names the event, and so leads to its cause."""


class Outbox:
    """The commands of one event, and the two facts that every region needs to write them.

    Only the link region sets `link`; only the answer region sets `epoch`.
    """

    def __init__(self) -> None:
        self.link: int | None = None
        """The configured connection; None without one, and then `send` drops its events."""
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
        """Send an event on the configured connection; a no-op without one.

        Args:
            event: The event.
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
        """Return why one of our events was sent; None without a cause, or for another connection."""
        return self._causes.get(event_id) if event_id else None

    def forget_causes(self) -> None:
        """Forget all causes: the connection that sent the events is lost."""
        self._causes.clear()

    def earcon(self, name: Earcon) -> None:
        self._commands.append(PlayEarcon(self.epoch, name))

    def announce(self, sentence: Sentence | str, fallback: Earcon = "error") -> None:
        self._commands.append(Announce(self.epoch, sentence, fallback))

    def next_event_id(self) -> str:
        """Return a new id, by which an error can name the event."""
        self._ids += 1
        return f"ev_{self._ids}"

    def take(self) -> list[Command]:
        """Return the commands so far, and start an empty list."""
        commands, self._commands = self._commands, []
        return commands
