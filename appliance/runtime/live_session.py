"""A `RealtimeSession` while it runs: one task for its conversation, driver and transport."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

from appliance.conversation.events import AgentReplaced, Event, MessageGiven, OutOfBandAsked, ShutdownRequested, Started
from appliance.conversation.machine import Conversation
from appliance.conversation.support.feedback import State
from appliance.errors import LinkError, SessionNotOpen, SettingsError, first_of, one_line
from appliance.realtime.messages import text_of
from appliance.realtime.transports import RunningTransport
from appliance.runtime.agent_runtime import AgentRuntime, check_json
from appliance.runtime.driver import Driver, Observer
from appliance.runtime.session_body import NoDevice, PacedPlayback, SessionEvents

__all__ = ["LiveSession", "ProgramInput"]

_HOOKS_S = 2.0  # longest wait for running hooks and callbacks when the session ends


class LiveSession:
    """A session while it runs: its conversation, driver and transport, in one task that ends with the conversation.

    Args:
        conversation: Not started yet.
        transport: Connects to the session's servers.
        playback: Replaces the sound card.
        runtime: Entered already; the session exits it.
        events: Observes the driver, and ends with the task.
        observers: Further observers, from the program.
    """

    def __init__(
        self,
        conversation: Conversation,
        transport: RunningTransport,
        *,
        playback: PacedPlayback,
        runtime: AgentRuntime,
        events: SessionEvents,
        observers: Sequence[Observer],
    ) -> None:
        self.conversation = conversation
        self._transport = transport
        self._playback = playback
        self._runtime = runtime
        self._events = events
        self.driver = Driver(
            conversation,
            transport=transport,
            audio=playback,
            tools=runtime.tools,
            agents=runtime.preparer,
            light=NoDevice(),
            announcer=NoDevice(),
            alarms=NoDevice(),
            observers=[events.observe, runtime.observe, *observers],
        )
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._ended = ""
        """Why the program's input is refused; "" while it is taken."""
        self.is_over = False
        """True once posted events are no longer handled."""
        self.driver.post(Started())
        self._task = asyncio.create_task(self._run(), name="realtime session")
        self._task.add_done_callback(self._end)  # runs also if the task is cancelled before its first step

    async def until_connected(self, timeout_s: float, endpoints: Sequence[str]) -> None:
        """Wait for the first connection.

        Raises:
            LinkError: There is none within the time, or connecting failed for good; names the endpoints.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._events.settled.wait()
        if self._task.done():
            await self._task
            raise LinkError("the session was closed while it connected")
        if self.conversation.state in (State.FAILED, State.OFFLINE, State.CONNECTING):
            why = self._events.trouble or f"no connection within {timeout_s:g} s"
            raise LinkError(f"{', '.join(endpoints)}: {why}")

    def check(self) -> None:
        """Check that input of the program is handled.

        Raises:
            SessionNotOpen: The session has ended, or this is not the thread of its event loop.
        """
        if self._ended:
            raise SessionNotOpen(self._ended)
        if threading.get_ident() != self._thread:
            raise SessionNotOpen(
                "a session takes calls only on the thread of its event loop: "
                "use loop.call_soon_threadsafe(session.send_message, text)"
            )

    def post(self, event: Event) -> None:
        """Post an event of the session's own parts; dropped once the session is over."""
        if not self.is_over:
            self.driver.post(event)

    def post_after_inbox(self, event: Callable[[], Event]) -> None:
        """Make an event and post it once everything in the inbox is handled."""
        if self.driver.is_busy and not self._ended:
            self._loop.call_soon(self.post_after_inbox, event)
        elif not self._ended:
            self.driver.post(event())

    def close(self) -> None:
        """Take no more input of the program, and end the conversation."""
        self._ended = self._ended or "the session is closed"
        self.post(ShutdownRequested("closed"))

    async def stop(self) -> None:
        """Close, and wait for the task; raise the exception that broke it, if any."""
        self.close()
        # Not awaited directly: a tool may close the session, and cancelling the tool would cancel the awaited task.
        await asyncio.wait({self._task})
        if not self._task.cancelled():
            self._task.result()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            parts = (self._transport, self._playback, self._runtime, self._events.readers)
            tasks = [group.create_task(one.run()) for one in parts]
            await self.driver.run()
            await self._transport.said_goodbye()
            with suppress(TimeoutError):
                async with asyncio.timeout(_HOOKS_S):
                    await self._runtime.hooks_are_done()
                    await self._events.readers.callbacks_are_done()
            for task in tasks:
                task.cancel()

    def _end(self, task: asyncio.Task[None]) -> None:
        self.is_over = True
        failure = None if task.cancelled() else task.exception()
        error = None if failure is None else first_of(failure)
        why = "its task was cancelled" if error is None else one_line(f"{type(error).__name__}: {error}")
        self._ended = self._ended or f"the session has ended: {why}"
        self._runtime.end("the session has ended")
        self._events.end()


class ProgramInput:
    """Takes the events of a `RealtimeSession`: those of the program only while the session is open."""

    def __init__(self) -> None:
        self.live: LiveSession | None = None
        """The running session; None before ``async with``."""

    def opened(self) -> LiveSession:
        """Return the running session.

        Raises:
            SessionNotOpen: It has not started or has ended, or this is not the thread of its event loop.
        """
        if self.live is None:
            raise SessionNotOpen("the session is not open: use it inside `async with session:`")
        self.live.check()
        return self.live

    def has_turn_detection(self) -> bool:
        """Return whether the server detects the turns, with the agent in force."""
        return self.opened().conversation.has_turn_detection

    def give(self, event: Event) -> None:
        """Post input of the program.

        Raises:
            SessionNotOpen: It would not be handled; see `opened`.
        """
        self.opened().post(event)

    def write(self, item: Mapping[str, Any], respond: bool, on_busy: Literal["interrupt", "wait"] = "interrupt") -> str:
        """Post a message item; returns its id.

        Raises:
            SettingsError: `on_busy` is neither of the two, or JSON cannot express the item.
        """
        if on_busy not in ("interrupt", "wait"):
            raise SettingsError(f"send_message: on_busy is {on_busy!r}, expected 'interrupt' or 'wait'")
        check_json(item, "send_message")
        self.give(MessageGiven(item, text_of(item), respond, must_wait=on_busy == "wait"))
        return str(item["id"])

    def post(self, event: Event) -> None:
        """Post an event of the session's own parts; dropped if the session is not running."""
        if isinstance(event, (OutOfBandAsked, AgentReplaced)):
            self.give(event)  # somebody waits for the answer
        elif self.live is not None:
            self.live.post(event)
