"""Distributes the events of one session to its readers (``async for``) and callbacks; on the event loop's thread only.

Theory of operation. Each reader has its own queue, which gets every event from the reader's creation on. While there is
no reader, events are kept for the next one: the first gets them from the start, and a loop that follows another
continues where that one stopped. A program that reads by callbacks alone never takes the kept events: with callbacks,
only a few are kept, and then none.

Callbacks are chosen when an event arrives, and called one after another in a task of their own.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import weakref
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, get_args

from appliance.conversation.notices import SessionEvent
from appliance.errors import SettingsError, did_you_mean

__all__ = ["Callback", "EventReaders"]

log = logging.getLogger(__name__)

Callback: TypeAlias = Callable[[Any], Awaitable[object] | object]
"""Takes an event; sync or async."""

EVENT_TYPES: Final = frozenset({"*", *(one.type for one in get_args(SessionEvent))})
"""What a callback can be registered for; ``*`` is any event."""

_KEPT_WITH_CALLBACKS = 500  # unread events, about 2 s of an answer: a loop that starts at once loses none


class _Unread:
    """The events that one reader has not read yet; the oldest are dropped beyond `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._events: deque[SessionEvent] = deque()
        self._arrived = asyncio.Event()
        self._has_dropped = False
        self._is_over = False

    def __len__(self) -> int:
        return len(self._events)

    def put(self, event: SessionEvent) -> None:
        if len(self._events) >= self._most:
            self._events.popleft()
            if not self._has_dropped:
                log.warning("no reader takes the events of this session: dropping the oldest of %d", self._most)
            self._has_dropped = True
        self._events.append(event)
        self._arrived.set()

    def end(self) -> None:
        self._is_over = True
        self._arrived.set()

    async def take(self) -> SessionEvent:
        """Return the next event.

        Raises:
            StopAsyncIteration: The session has ended, and all events were taken.
        """
        while not self._events:
            if self._is_over:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        return self._events.popleft()


class _Reader:
    """One iteration over the events; dropped by its loop, it leaves the unread ones to the next."""

    def __init__(self, unread: _Unread) -> None:
        self._unread = unread

    def __aiter__(self) -> AsyncIterator[SessionEvent]:
        return self

    async def __anext__(self) -> SessionEvent:
        return await self._unread.take()


@dataclass(slots=True, eq=False)
class _Registration:
    """A callback for a type of event."""

    type: str
    function: Callback
    is_once: bool
    is_spent: bool = False
    """It was for one event, which has arrived."""
    is_off: bool = False


class EventReaders:
    """The readers and callbacks of one session.

    Args:
        most: Most unread events of one reader, and most calls of callbacks that wait.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._readers: list[tuple[weakref.ref[_Reader], _Unread]] = []
        self._kept: _Unread | None = _Unread(most)
        """The unread events for the next reader; None while there is a reader, or if callbacks read alone."""
        self._registrations: list[_Registration] = []
        self._calls: asyncio.Queue[tuple[_Registration, SessionEvent]] = asyncio.Queue()
        self._has_dropped_calls = False
        self._is_over = False

    # --- readers ------------------------------------------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[SessionEvent]:
        """Start a reader: it gets the kept events, and every event from now on."""
        self._forget_dropped()
        unread, self._kept = self._kept or _Unread(self._most), None
        if self._is_over:
            unread.end()
        reader = _Reader(unread)
        self._readers.append((weakref.ref(reader), unread))
        return reader

    def put(self, event: SessionEvent) -> None:
        """Give an event to every reader, and queue the calls of its callbacks."""
        self._forget_dropped()
        for _, unread in self._readers:
            unread.put(event)
        if self._registrations and self._kept is not None and len(self._kept) >= min(_KEPT_WITH_CALLBACKS, self._most):
            self._kept = None
        if self._kept is not None:
            self._kept.put(event)
        for one in self._registrations:
            if one.type in ("*", event.type) and not one.is_spent:
                one.is_spent = one.is_once
                self._call_later(one, event)

    def _call_later(self, registration: _Registration, event: SessionEvent) -> None:
        if self._calls.qsize() >= self._most:
            self._calls.get_nowait()
            self._calls.task_done()
            if not self._has_dropped_calls:
                log.warning("the callbacks of this session are too slow: dropping the oldest of %d calls", self._most)
            self._has_dropped_calls = True
        self._calls.put_nowait((registration, event))

    def end(self) -> None:
        """End every reader after its unread events."""
        self._is_over = True
        for _, unread in self._readers:
            unread.end()
        if self._kept is not None:
            self._kept.end()

    def _forget_dropped(self) -> None:
        """Forget the readers whose loop has ended; the last one leaves its unread events."""
        dropped = [unread for reader, unread in self._readers if reader() is None]
        if dropped:
            self._readers = [one for one in self._readers if one[0]() is not None]
            self._kept = None if self._readers else dropped[-1]

    # --- callbacks ----------------------------------------------------------------------------------------------

    def on(self, event_type: str, callback: Callback, *, is_once: bool = False) -> None:
        """Register a callback.

        Raises:
            SettingsError: There is no such type of event, or the callback is not callable.
        """
        _check_type(event_type)
        if not callable(callback):
            raise SettingsError(f"the callback for {event_type!r} is {callback!r}, which cannot be called")
        self._registrations.append(_Registration(event_type, callback, is_once))

    def off(self, event_type: str, callback: Callback) -> None:
        """Remove a callback; a no-op if it is not registered.

        Raises:
            SettingsError: There is no such type of event.
        """
        _check_type(event_type)
        for one in self._registrations:
            one.is_off = one.is_off or (one.type, one.function) == (event_type, callback)
        self._registrations = [one for one in self._registrations if not one.is_off]

    async def run(self) -> None:
        """Call the callbacks, one after another, until cancelled."""
        own = asyncio.current_task()
        assert own is not None
        while not own.cancelling():  # also if a callback swallowed our cancellation
            registration, event = await self._calls.get()
            try:
                await self._call(registration, event)
            except asyncio.CancelledError:
                if own.cancelling():
                    raise
                log.warning("a callback for %r was cancelled from within", event.type)
            except Exception:  # application code: log its failure and continue
                log.exception("a callback for %r failed", event.type)
            finally:
                self._calls.task_done()

    async def _call(self, registration: _Registration, event: SessionEvent) -> None:
        if registration.is_off:
            return
        if registration.is_once:
            self._registrations.remove(registration)
        result = registration.function(event)
        if inspect.isawaitable(result):
            await result

    async def callbacks_are_done(self) -> None:
        """Wait until the callbacks of all events so far have returned."""
        await self._calls.join()


def _check_type(event_type: str) -> None:
    if event_type not in EVENT_TYPES:
        known = ", ".join(sorted(EVENT_TYPES))
        hint = did_you_mean(str(event_type), EVENT_TYPES)
        raise SettingsError(f"no event has the type {event_type!r}; there are: {known}{hint}")
