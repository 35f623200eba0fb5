"""Readers and callbacks of a `RealtimeSession`: who gets which event, and in which order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from appliance.agents.agent import RealtimeAgent
from appliance.conversation.notices import Raw, SessionEvent
from appliance.errors import SettingsError
from appliance.runtime.event_readers import EventReaders
from appliance.runtime.session import RealtimeSession
from tests.support.scripted_server import ScriptedServer, Step, expect, hold, send
from tests.support.sessions import READY, answering, spoken


def event(number: int) -> Raw:
    return Raw({"number": number})


def number_of(one: SessionEvent) -> int:
    assert isinstance(one, Raw)
    return int(one.data["number"])


async def read(reader: AsyncIterator[SessionEvent], count: int) -> list[int]:
    return [number_of(await anext(reader)) for _ in range(count)]


async def rest(reader: AsyncIterator[SessionEvent]) -> list[int]:
    return [number_of(one) async for one in reader]


async def call_all(readers: EventReaders) -> None:
    """Run the callbacks until those of all events so far have returned."""
    task = asyncio.create_task(readers.run())
    await asyncio.wait_for(readers.callbacks_are_done(), 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


# --- readers ----------------------------------------------------------------------------------------------------------


async def test_first_reader_gets_the_events_before_it_and_each_further_one_those_from_its_creation_on() -> None:
    readers = EventReaders(100)
    readers.put(event(1))
    first = aiter(readers)
    readers.put(event(2))
    second = aiter(readers)
    readers.put(event(3))
    readers.end()
    assert await rest(first) == [1, 2, 3]
    assert await rest(second) == [3]
    assert await rest(aiter(readers)) == []


async def test_each_reader_gets_every_event_when_they_read_at_the_same_time() -> None:
    readers = EventReaders(100)
    tasks = [asyncio.create_task(rest(aiter(readers))) for _ in range(3)]
    await asyncio.sleep(0)
    for number in range(5):
        readers.put(event(number))
    readers.end()
    assert await asyncio.gather(*tasks) == [[0, 1, 2, 3, 4]] * 3


async def test_loop_after_another_continues_where_that_one_stopped() -> None:
    readers = EventReaders(100)
    for number in range(3):
        readers.put(event(number))
    async for one in readers:
        assert number_of(one) == 0
        break
    readers.put(event(3))
    readers.end()
    assert await rest(aiter(readers)) == [1, 2, 3]


async def test_slow_reader_loses_its_oldest_events_and_the_other_reader_none(caplog: pytest.LogCaptureFixture) -> None:
    readers = EventReaders(3)
    slow, quick = aiter(readers), aiter(readers)
    for number in range(5):
        readers.put(event(number))
        assert await read(quick, 1) == [number]
    readers.end()
    assert await rest(slow) == [2, 3, 4]
    assert len(caplog.records) == 1


async def test_reader_that_was_dropped_next_to_another_one_fills_no_queue(caplog: pytest.LogCaptureFixture) -> None:
    readers = EventReaders(3)
    kept, dropped = aiter(readers), aiter(readers)
    del dropped
    for number in range(5):
        readers.put(event(number))
        await read(kept, 1)
    assert caplog.records == []


# --- callbacks --------------------------------------------------------------------------------------------------------


async def test_callbacks_run_in_the_order_of_events_and_registration_sync_or_async() -> None:
    readers = EventReaders(100)
    calls: list[tuple[str, int]] = []

    async def slow(one: Raw) -> None:
        await asyncio.sleep(0)
        calls.append(("slow", number_of(one)))

    readers.on("raw", slow)
    readers.on("*", lambda one: calls.append(("quick", number_of(one))))
    readers.on("audio", lambda one: calls.append(("audio", 0)))
    readers.put(event(1))
    readers.put(event(2))
    await call_all(readers)
    assert calls == [("slow", 1), ("quick", 1), ("slow", 2), ("quick", 2)]


async def test_failing_callback_is_logged_and_the_next_one_runs(caplog: pytest.LogCaptureFixture) -> None:
    readers = EventReaders(100)
    calls: list[int] = []

    def broken(one: Raw) -> None:
        raise KeyError(number_of(one))

    async def cancelled(one: Raw) -> None:
        raise asyncio.CancelledError

    for one in (broken, cancelled, lambda one: calls.append(number_of(one))):
        readers.on("raw", one)
    readers.put(event(1))
    await call_all(readers)
    assert calls == [1]
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


async def test_once_is_called_for_one_event_and_off_removes_a_callback() -> None:
    readers = EventReaders(100)
    calls: list[tuple[str, int]] = []

    def always(one: Raw) -> None:
        calls.append(("always", number_of(one)))

    readers.on("raw", lambda one: calls.append(("once", number_of(one))), is_once=True)
    readers.on("raw", always)
    readers.put(event(1))
    readers.put(event(2))
    await call_all(readers)
    readers.put(event(3))
    readers.off("raw", always)
    readers.off("raw", always)
    readers.put(event(4))
    await call_all(readers)
    assert calls == [("once", 1), ("always", 1), ("always", 2)]


async def test_callback_removed_before_its_only_event_is_delivered_is_not_called() -> None:
    readers = EventReaders(100)
    calls: list[Raw] = []
    readers.on("raw", calls.append, is_once=True)
    readers.put(event(1))
    readers.off("raw", calls.append)
    await call_all(readers)
    assert calls == []


def test_unknown_type_of_event_raises_and_names_the_closest() -> None:
    readers = EventReaders(100)
    for call in (readers.on, readers.off):
        with pytest.raises(SettingsError, match="did you mean 'tool_start'"):
            call("tool_started", print)
    with pytest.raises(SettingsError, match="cannot be called"):
        readers.on("audio", None)  # type: ignore[arg-type]


async def test_callbacks_alone_keep_no_events_and_warn_of_no_reader(caplog: pytest.LogCaptureFixture) -> None:
    readers = EventReaders(100)
    calls: list[Any] = []
    readers.on("*", calls.append)
    for number in range(1000):
        readers.put(event(number))
        if number % 50 == 0:
            await call_all(readers)
    readers.end()
    await call_all(readers)
    assert len(calls) == 1000
    assert await rest(aiter(readers)) == []
    assert caplog.records == []


async def test_callback_that_hangs_loses_the_oldest_calls_and_this_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    readers = EventReaders(3)
    calls: list[int] = []
    readers.on("raw", lambda one: calls.append(number_of(one)))
    for number in range(5):
        readers.put(event(number))
    await call_all(readers)
    assert calls == [2, 3, 4]
    assert "too slow" in caplog.text


# --- a session --------------------------------------------------------------------------------------------------------


def one_answer() -> list[Step]:
    return [*READY, *answering(*spoken("Hello.")), hold()]


async def test_session_has_two_readers_and_a_callback_and_all_see_the_whole_answer() -> None:
    called: list[str] = []
    async with ScriptedServer(one_answer()) as server:
        session = RealtimeSession(RealtimeAgent(name="Ada"), url=server.base_url)
        session.on("*", lambda one: called.append(one.type))
        async with session:

            async def types() -> list[str]:
                return [one.type async for one in session]

            readers = [asyncio.create_task(types()) for _ in range(2)]
            done = asyncio.Event()
            session.once("turn_end", lambda one: done.set())
            await asyncio.sleep(0)
            session.send_message("Hi!")
            await asyncio.wait_for(done.wait(), 10)
        first, second = await asyncio.gather(*readers)
    assert first == called
    assert "connected" in first  # yielded before the loop began
    assert [one for one in first if one in ("turn_start", "audio", "audio_end", "turn_end")] == [
        one for one in second if one in ("turn_start", "audio", "audio_end", "turn_end")
    ]
    assert "turn_end" in second


async def test_callback_may_use_the_session_and_the_last_events_reach_it_before_the_end() -> None:
    outcomes: list[str] = []
    async with ScriptedServer([*READY, expect("conversation.item.create"), send({"type": "x"}), hold()]) as server:
        session = RealtimeSession(RealtimeAgent(name="Ada"), url=server.base_url)
        session.once("connected", lambda one: session.turn.begin())
        session.on("turn_start", lambda one: session.send_message("A note.", respond=False))
        arrived = asyncio.Event()
        session.once("history_added", lambda one: arrived.set())
        session.on("turn_end", lambda one: outcomes.append(one.outcome))
        async with session:
            await asyncio.wait_for(arrived.wait(), 10)
    assert outcomes == ["cancelled"]
