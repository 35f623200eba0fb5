"""Where the regions of the conversation put what they decide, in order. Pure."""

from __future__ import annotations

from appliance.conversation.commands import Command, Emit, Notice, Send
from appliance.realtime.protocol import ClientEvent

__all__ = ["Outbox"]


class Outbox:
    """The commands of one event; and the connection on which the conversation speaks, if it can."""

    def __init__(self) -> None:
        self.link: int | None = None
        """The connection that is ready and configured; None: there is none, and what is sent is dropped."""
        self._commands: list[Command] = []
        self._ids = 0

    def do(self, *commands: Command) -> None:
        self._commands.extend(commands)

    def emit(self, *notices: Notice) -> None:
        self._commands.extend(Emit(one) for one in notices)

    def send(self, event: ClientEvent) -> None:
        """Send on the connection; a no-op without one, for its conversation is gone with it."""
        if self.link is not None:
            self._commands.append(Send(self.link, event))

    def next_event_id(self) -> str:
        """Make an id, so that an error can be told to be of this event."""
        self._ids += 1
        return f"ev_{self._ids}"

    def take(self) -> list[Command]:
        """Return what there is, and begin anew."""
        commands, self._commands = self._commands, []
        return commands
