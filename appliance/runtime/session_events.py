"""What the program of a `RealtimeSession` hears: its queue of events, and what is noted of them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from appliance.agents.agent import RealtimeAgent
from appliance.conversation.commands import Announce, Command, Emit, Play
from appliance.conversation.events import Event
from appliance.conversation.notices import (
    Announcement,
    Audio,
    Connected,
    Error,
    Notice,
    OutOfBandEnded,
    Raw,
    SessionEvent,
    ToolApproval,
    ToolEnd,
    ToolStart,
    TurnEnd,
    TurnStart,
)
from appliance.conversation.support.feedback import State

__all__ = ["SessionEvents"]

log = logging.getLogger(__name__)

_MOST_EVENTS = 10_000  # nobody reads: a minute of answers, then the oldest are dropped, and that is logged


class SessionEvents:
    """The event queue of one session, filled as an observer of its driver; for one reader.

    Args:
        agents: By name; a tool's event of a handoff is yielded as the handoff only.
        encode: Makes the program's audio of the wire's.
        speaker: Name of the agent that talks.
        take_turn: Is given each begin and end of a turn.
    """

    def __init__(
        self,
        agents: Mapping[str, RealtimeAgent],
        *,
        encode: Callable[[bytes], bytes],
        speaker: Callable[[], str],
        take_turn: Callable[[TurnStart | TurnEnd], None],
    ) -> None:
        self._agents = agents
        self._encode = encode
        self._speaker = speaker
        self._take_turn = take_turn
        self._queue: asyncio.Queue[SessionEvent | None] = asyncio.Queue()
        self._has_dropped = False
        self._is_over = False
        self.settled = asyncio.Event()
        """Set once a connection stands, or none will."""
        self.trouble = ""
        """The last error's words."""

    async def __aiter__(self) -> AsyncIterator[SessionEvent]:
        while not (self._is_over and self._queue.empty()):
            event = await self._queue.get()
            if event is not None:
                yield event

    def end(self) -> None:
        """Let the reader come to its end, after what is queued."""
        self._is_over = True
        self._queue.put_nowait(None)
        self.settled.set()

    def observe(self, now: float, event: Event, commands: Sequence[Command], view: Any) -> None:
        """Queue what the program is told of one event; an `Observer` of the driver."""
        for command in commands:
            match command:
                case Play():
                    self._put(Audio(self._encode(command.pcm), command.item_id, self._speaker()))
                case Announce():
                    self._put(Announcement(command.text))
                case Emit():
                    self._take(command.notice)
        if view.state is State.FAILED:
            self.settled.set()

    def put_raw(self, link: int, frame: str) -> None:
        """Queue a frame as it came; a tap of the transport."""
        try:
            data = json.loads(frame)
        except (ValueError, RecursionError):
            return  # reported as an error by whoever reads it
        if isinstance(data, dict):
            self._put(Raw(data))

    def _take(self, notice: Notice) -> None:
        match notice:
            case OutOfBandEnded():
                return  # returned by `ask`
            case ToolStart() | ToolEnd() | ToolApproval():
                if any(one.tool_name == notice.name for one in self._agents[notice.agent].transfers()):
                    return
            case Connected():
                self.settled.set()
            case TurnStart() | TurnEnd():
                self._take_turn(notice)
            case Error():
                self.trouble = notice.message
        self._put(notice)

    def _put(self, event: SessionEvent) -> None:
        if self._queue.qsize() >= _MOST_EVENTS:
            self._queue.get_nowait()
            if not self._has_dropped:
                log.warning("nobody reads the events of this session: the oldest of %d are dropped", _MOST_EVENTS)
            self._has_dropped = True
        self._queue.put_nowait(event)
