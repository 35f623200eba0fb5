"""`ToolExecutor`: every call is answered exactly once, and no tool ends the session."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import BaseModel, model_serializer

from appliance.agents.executor import ToolExecutor
from appliance.agents.tools import Tool, tool
from appliance.conversation.commands import RunTool
from appliance.conversation.events import Event, ToolFinished
from appliance.errors import HardwareError, ToolError


@dataclass
class Inbox:
    """Takes what is posted; `next` waits for it."""

    events: asyncio.Queue[ToolFinished] = field(default_factory=asyncio.Queue)
    thread: int = field(default_factory=threading.get_ident)

    def post(self, event: Event) -> None:
        assert isinstance(event, ToolFinished)
        assert threading.get_ident() == self.thread
        self.events.put_nowait(event)

    async def next(self) -> ToolFinished:
        async with asyncio.timeout(20):
            return await self.events.get()

    async def nothing_more(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        assert self.events.empty()


@contextlib.asynccontextmanager
async def running(*tools: Tool) -> AsyncIterator[tuple[ToolExecutor, Inbox]]:
    inbox = Inbox()
    executor = ToolExecutor(tools, post=inbox.post)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(executor.run())
        await asyncio.sleep(0)
        yield executor, inbox
        assert not task.done()
        task.cancel()


async def answer(made: Tool, arguments: str = "{}") -> ToolFinished:
    async with running(made) as (executor, inbox):
        executor.run_tool(RunTool("call_1", made.name, arguments))
        finished = await inbox.next()
        await inbox.nothing_more()
        assert finished.call_id == "call_1"
        return finished


class Reading(BaseModel):
    celsius: float
    note: Any = None


@pytest.mark.parametrize(
    ("result", "output"),
    [
        ("as it is", "as it is"),
        ("", ""),
        ({"on": True, "text": "ä"}, '{"on":true,"text":"ä"}'),
        ([1, 2.5, None], "[1,2.5,null]"),
        (None, "null"),
        (Reading(celsius=21.5), '{"celsius":21.5,"note":null}'),
        ([Reading(celsius=1.0)], '[{"celsius":1.0,"note":null}]'),
        ({1}, "[1]"),
        ("half \ud800 a pair", "half ? a pair"),
    ],
)
async def test_a_result_is_told_as_text_or_json(result: Any, output: str) -> None:
    assert await answer(tool(name="give")(lambda: result)) == ToolFinished("call_1", output)


_RING: list[Any] = []
_RING.append(_RING)


@pytest.mark.parametrize(
    "result", [object(), float("nan"), {"a": float("inf")}, _RING, Reading(celsius=1, note=object())]
)
async def test_a_result_that_json_cannot_hold_is_told_as_an_error(result: Any) -> None:
    finished = await answer(tool(name="give")(lambda: result))
    assert finished.is_error
    assert finished.output.startswith("The tool give ran, but its result cannot be told")


async def test_an_async_tool_runs_on_the_loop_and_a_sync_one_beside_it() -> None:
    @tool
    async def on_loop() -> int:
        return threading.get_ident()

    @tool
    def beside() -> int:
        return threading.get_ident()

    assert int((await answer(on_loop)).output) == threading.get_ident()
    assert int((await answer(beside)).output) != threading.get_ident()


async def test_a_sync_wrapper_of_an_async_function_is_awaited() -> None:
    async def inner() -> str:
        return "inner"

    assert (await answer(tool(name="outer")(lambda: inner()))).output == "inner"


async def test_arguments_are_checked_before_the_tool_is_called() -> None:
    calls: list[int] = []

    @tool
    async def count(step: int) -> str:
        calls.append(step)
        return "counted"

    for wrong in ("{", "[]", "{}", '{"step": "x"}', '{"step": 1, "more": 1}'):
        finished = await answer(count, wrong)
        assert finished.is_error
        assert finished.output.startswith("count: ")
    assert calls == []
    assert await answer(count, '{"step": 3}') == ToolFinished("call_1", "counted")
    assert calls == [3]


async def test_an_unknown_tool_is_answered_with_those_that_exist() -> None:
    async with running(tool(name="ping")(lambda: "pong")) as (executor, inbox):
        executor.run_tool(RunTool("call_1", "pong", "{}"))
        assert await inbox.next() == ToolFinished("call_1", "There is no tool 'pong'; there are: ping.", True)


def raises(error: BaseException) -> Callable[[], None]:
    def function() -> None:
        raise error

    return function


def raises_on_loop(error: BaseException) -> Callable[[], Any]:
    async def function() -> None:
        raise error

    return function


@pytest.mark.parametrize("make", [raises, raises_on_loop])
@pytest.mark.parametrize(
    ("error", "output"),
    [
        (ValueError("no such shelf"), "The tool bad failed: ValueError: no such shelf"),
        (ToolError("Say which shelf."), "Say which shelf."),
        (HardwareError("GPIO 5 is taken"), "The tool bad failed: GPIO 5 is taken"),
        (TimeoutError("the lamp is silent"), "The tool bad failed: TimeoutError: the lamp is silent"),
        (SystemExit(3), "SystemExit: 3"),
        (GeneratorExit("odd"), "GeneratorExit: odd"),
    ],
)
async def test_a_tool_that_raises_is_told_and_the_next_call_works(
    make: Callable[[BaseException], Callable[[], Any]], error: BaseException, output: str
) -> None:
    bad = tool(name="bad")(make(error))
    async with running(bad, tool(name="ping")(lambda: "pong")) as (executor, inbox):
        executor.run_tool(RunTool("call_1", "bad", "{}"))
        finished = await inbox.next()
        assert (finished.call_id, finished.is_error) == ("call_1", True)
        assert finished.output.endswith(output)
        executor.run_tool(RunTool("call_2", "ping", "{}"))
        assert await inbox.next() == ToolFinished("call_2", "pong")


async def test_stop_iteration_of_a_thread_is_told() -> None:
    finished = await answer(tool(name="bad")(raises(StopIteration("empty"))))
    assert finished.is_error
    assert "StopIteration: empty" in finished.output


async def test_a_tool_that_cancels_itself_is_answered_as_cancelled() -> None:
    finished = await answer(tool(name="bad")(raises_on_loop(asyncio.CancelledError())))
    assert finished == ToolFinished("call_1", "The call of bad was cancelled.", True)


async def test_a_hanging_async_tool_is_given_up() -> None:
    was_cancelled = asyncio.Event()

    @tool(timeout_s=0.01)
    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            was_cancelled.set()

    finished = await answer(hang)
    assert finished == ToolFinished("call_1", "The tool hang took longer than 0.01 s and was given up.", True)
    assert was_cancelled.is_set()


async def test_a_hanging_thread_is_given_up_and_its_late_result_dropped() -> None:
    release = threading.Event()
    ended = threading.Event()

    @tool(timeout_s=0.01)
    def hang() -> str:
        release.wait(20)
        ended.set()
        return "too late"

    async with running(hang) as (executor, inbox):
        executor.run_tool(RunTool("call_1", "hang", "{}"))
        finished = await inbox.next()
        assert finished.is_error
        assert "given up" in finished.output
        release.set()
        assert ended.wait(20)
        await asyncio.sleep(0.01)
        await inbox.nothing_more()


async def test_hanging_threads_do_not_keep_others_from_running() -> None:
    release = threading.Event()
    hang = tool(name="hang", timeout_s=60.0)(lambda: release.wait(20))
    async with running(hang, tool(name="ping")(lambda: "pong")) as (executor, inbox):
        for number in range(40):
            executor.run_tool(RunTool(f"hang_{number}", "hang", "{}"))
        executor.run_tool(RunTool("call_1", "ping", "{}"))
        assert await inbox.next() == ToolFinished("call_1", "pong")
        release.set()
        assert {(await inbox.next()).call_id for _ in range(40)} == {f"hang_{number}" for number in range(40)}


@pytest.mark.parametrize("steps_before", [0, 1, 3])
async def test_a_cancelled_call_is_answered_once_whenever_it_is_cancelled(steps_before: int) -> None:
    @tool
    async def hang() -> None:
        await asyncio.Event().wait()

    async with running(hang) as (executor, inbox):
        executor.run_tool(RunTool("call_1", "hang", "{}"))
        for _ in range(steps_before):
            await asyncio.sleep(0)
        executor.cancel("call_1")
        executor.cancel("call_1")
        assert await inbox.next() == ToolFinished("call_1", "The call of hang was cancelled.", True)
        executor.cancel("call_1")
        executor.cancel("never_begun")
        await inbox.nothing_more()


async def test_calls_before_run_wait_for_it_and_can_be_cancelled() -> None:
    inbox = Inbox()
    executor = ToolExecutor([tool(name="ping")(lambda: "pong")], post=inbox.post)
    executor.run_tool(RunTool("call_1", "ping", "{}"))
    executor.run_tool(RunTool("call_2", "ping", "{}"))
    executor.cancel("call_1")
    assert await inbox.next() == ToolFinished("call_1", "The call of ping was cancelled.", True)
    await inbox.nothing_more()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(executor.run())
        assert await inbox.next() == ToolFinished("call_2", "pong")
        await inbox.nothing_more()
        task.cancel()


async def test_the_end_of_the_session_ends_the_tools_with_it() -> None:
    is_ended = False

    @tool
    async def hang() -> None:
        nonlocal is_ended
        try:
            await asyncio.Event().wait()
        finally:
            is_ended = True

    async with running(hang) as (executor, _):
        executor.run_tool(RunTool("call_1", "hang", "{}"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert is_ended
    executor.run_tool(RunTool("call_2", "hang", "{}"))  # after the end: no error, no answer


async def test_a_flood_of_text_is_cut() -> None:
    assert len((await answer(tool(name="flood")(lambda: "x" * 1_000_000))).output) == 100_000


async def test_what_is_posted_can_go_over_the_wire(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "appliance.agents.executor")  # parallel runs cannot report a half surrogate
    finished = await answer(tool(name="bad")(raises(ValueError("lone \udfff"))))
    json.dumps(finished.output, ensure_ascii=False).encode("utf-8")


async def test_sys_exit_in_a_tool_does_not_end_the_process() -> None:
    @tool
    def leave() -> None:
        sys.exit("bye")

    finished = await answer(leave)
    assert finished.is_error
    assert "bye" in finished.output


class Unspeakable(Exception):
    """An error whose text is a bug itself."""

    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize("make", [raises, raises_on_loop])
async def test_an_error_that_cannot_be_put_into_words_is_told_by_its_name(
    make: Callable[[BaseException], Callable[[], Any]],
) -> None:
    async with running(tool(name="bad")(make(Unspeakable())), tool(name="ping")(lambda: "pong")) as (executor, inbox):
        executor.run_tool(RunTool("call_1", "bad", "{}"))
        finished = await inbox.next()
        assert finished.is_error
        assert "Unspeakable" in finished.output
        executor.run_tool(RunTool("call_2", "ping", "{}"))
        assert await inbox.next() == ToolFinished("call_2", "pong")


async def test_a_result_that_fails_while_it_is_written_down_is_told() -> None:
    class Nasty(BaseModel):
        @model_serializer
        def tell(self) -> str:
            raise RuntimeError("not today")

    finished = await answer(tool(name="give")(lambda: Nasty()))
    assert finished.is_error
    assert "not today" in finished.output


async def test_two_calls_of_one_tool_run_at_once_and_are_answered_each() -> None:
    both = asyncio.Barrier(2)

    @tool
    async def meet(place: str) -> str:
        await both.wait()
        return place

    async with running(meet) as (executor, inbox):
        executor.run_tool(RunTool("call_1", "meet", '{"place": "here"}'))
        executor.run_tool(RunTool("call_2", "meet", '{"place": "there"}'))
        answers = {await inbox.next(), await inbox.next()}
    assert answers == {ToolFinished("call_1", "here"), ToolFinished("call_2", "there")}


async def test_no_tools_at_all_are_said_to_be_none() -> None:
    async with running() as (executor, inbox):
        executor.run_tool(RunTool("call_1", "ping", "{}"))
        assert await inbox.next() == ToolFinished("call_1", "There is no tool 'ping'; there are: none.", True)
