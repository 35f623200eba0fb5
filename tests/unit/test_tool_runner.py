"""`ToolRunner`: every call is answered exactly once, and no tool ends the session."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel, model_serializer

from appliance.agents.tools import background, tool
from appliance.conversation.commands import RunTool
from appliance.conversation.events import ToolFinished
from appliance.errors import HardwareError, ToolError
from appliance.runtime.functions import within
from appliance.runtime.tool_runner import ToolRunner
from tests.support.tool_inbox import ToolInbox, running
from tests.support.tool_runs import answer, ping, raises, raises_on_loop
from tests.support.virtual_time import in_virtual_time


class Point(msgspec.Struct):
    x: int
    y: int


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
        ([Point(1, 2)], '[{"x":1,"y":2}]'),
        ({1}, "[1]"),
        ("half \ud800 a pair", "half ? a pair"),
    ],
)
async def test_result_is_sent_as_text_or_json(result: Any, output: str) -> None:
    assert await answer(tool(name="give")(lambda: result)) == ToolFinished("call_1", output)


_RING: list[Any] = []


_RING.append(_RING)


@pytest.mark.parametrize(
    "result", [object(), float("nan"), {"a": float("inf")}, _RING, Reading(celsius=1, note=object())]
)
async def test_result_that_json_cannot_hold_is_sent_as_str(result: Any) -> None:
    assert await answer(tool(name="give")(lambda: result)) == ToolFinished("call_1", str(result))


async def test_result_whose_str_raises_is_an_error() -> None:
    class Mute:
        def __str__(self) -> str:
            raise ValueError("no words")

    finished = await answer(tool(name="give")(Mute))
    assert finished == ToolFinished("call_1", "The tool give failed: ValueError.", True)


async def test_async_tool_runs_on_the_loop_and_sync_tool_in_a_thread() -> None:
    @tool
    async def on_loop() -> int:
        return threading.get_ident()

    @tool
    def beside() -> int:
        return threading.get_ident()

    assert int((await answer(on_loop)).output) == threading.get_ident()
    assert int((await answer(beside)).output) != threading.get_ident()


async def test_sync_wrapper_of_an_async_function_is_awaited() -> None:
    async def inner() -> str:
        return "inner"

    assert (await answer(tool(name="outer")(lambda: inner()))).output == "inner"


async def test_arguments_are_validated_before_the_tool_is_called() -> None:
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


async def test_unknown_tool_error_lists_the_existing_tools() -> None:
    async with running(tool(name="ping")(lambda: "pong")) as (runner, inbox):
        runner.run_tool(RunTool("call_1", "pong", "{}"))
        assert await inbox.next() == ToolFinished("call_1", "There is no tool pong; there are: ping.", True)


@pytest.mark.parametrize("make", [raises, raises_on_loop])
@pytest.mark.parametrize(
    ("error", "output"),
    [
        (ValueError("no such shelf"), "The tool bad failed: ValueError."),
        (ToolError("Say which shelf."), "Say which shelf."),
        (HardwareError("GPIO 5 is taken"), "The tool bad failed: HardwareError."),
        (TimeoutError("the lamp is silent"), "The tool bad failed: TimeoutError."),
        (SystemExit(3), "The tool bad failed: SystemExit."),
        (KeyboardInterrupt(), "The tool bad failed: KeyboardInterrupt."),
        (GeneratorExit("odd"), "The tool bad failed: GeneratorExit."),
    ],
)
async def test_tool_that_raises_is_reported_and_the_next_call_works(
    make: Callable[[BaseException], Callable[[], Any]], error: BaseException, output: str
) -> None:
    bad = tool(name="bad")(make(error))
    async with running(bad, tool(name="ping")(lambda: "pong")) as (runner, inbox):
        runner.run_tool(RunTool("call_1", "bad", "{}"))
        finished = await inbox.next()
        assert (finished.call_id, finished.is_error) == ("call_1", True)
        assert finished.output == output
        runner.run_tool(RunTool("call_2", "ping", "{}"))
        assert await inbox.next() == ToolFinished("call_2", "pong")


async def test_stop_iteration_in_a_thread_is_reported() -> None:
    finished = await answer(tool(name="bad")(raises(StopIteration("empty"))))
    assert finished.is_error
    assert finished.output == "The tool bad failed: StopIteration."


async def test_cancelled_future_inside_a_sync_tool_is_a_failure_of_the_tool() -> None:
    finished = await answer(tool(name="bad")(raises(concurrent.futures.CancelledError())))
    assert finished.is_error
    assert finished.output == "The tool bad failed: CancelledError."


async def test_parse_function_that_raises_is_reported() -> None:
    def breaks(arguments: str) -> dict[str, Any]:
        raise KeyError("unit")

    finished = await answer(replace(tool(name="bad")(lambda: "fine"), parse=breaks))
    assert finished.is_error
    assert finished.output == "The tool bad failed: KeyError."


async def test_tool_that_cancels_itself_is_answered_as_cancelled() -> None:
    finished = await answer(tool(name="bad")(raises_on_loop(asyncio.CancelledError())))
    assert finished == ToolFinished("call_1", "The call of bad was cancelled.", True)


async def test_hanging_async_tool_times_out() -> None:
    was_cancelled = asyncio.Event()

    @tool(timeout_s=0.01)
    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            was_cancelled.set()

    finished = await answer(hang)
    assert finished == ToolFinished("call_1", "The tool hang took too long and was stopped.", True)
    assert was_cancelled.is_set()


async def test_hanging_sync_tool_times_out_and_its_late_result_is_dropped() -> None:
    release = threading.Event()
    ended = threading.Event()

    @tool(timeout_s=0.01)
    def hang() -> str:
        release.wait(20)
        ended.set()
        return "too late"

    async with running(hang) as (runner, inbox):
        runner.run_tool(RunTool("call_1", "hang", "{}"))
        finished = await inbox.next()
        assert finished.is_error
        assert "took too long" in finished.output
        release.set()
        assert ended.wait(20)
        await asyncio.sleep(0.01)
        await inbox.nothing_more()


async def test_hanging_sync_tools_do_not_block_others() -> None:
    release = threading.Event()
    hang = tool(name="hang", timeout_s=60.0)(lambda: release.wait(20))
    async with running(hang, tool(name="ping")(lambda: "pong")) as (runner, inbox):
        for number in range(40):
            runner.run_tool(RunTool(f"hang_{number}", "hang", "{}"))
        runner.run_tool(RunTool("call_1", "ping", "{}"))
        assert await inbox.next() == ToolFinished("call_1", "pong")
        release.set()
        assert {(await inbox.next()).call_id for _ in range(40)} == {f"hang_{number}" for number in range(40)}


@pytest.mark.parametrize("steps_before", [0, 1, 3])
async def test_cancelled_call_is_answered_once(steps_before: int) -> None:
    @tool
    async def hang() -> None:
        await asyncio.Event().wait()

    async with running(hang) as (runner, inbox):
        runner.run_tool(RunTool("call_1", "hang", "{}"))
        for _ in range(steps_before):
            await asyncio.sleep(0)
        runner.cancel("call_1")
        runner.cancel("call_1")
        assert await inbox.next() == ToolFinished("call_1", "The call of hang was cancelled.", True)
        runner.cancel("call_1")
        runner.cancel("never_begun")
        await inbox.nothing_more()


async def test_calls_before_run_wait_for_it_and_can_be_cancelled() -> None:
    inbox = ToolInbox()
    runner = ToolRunner([tool(name="ping")(lambda: "pong")], post=inbox.post)
    runner.run_tool(RunTool("call_1", "ping", "{}"))
    runner.run_tool(RunTool("call_2", "ping", "{}"))
    runner.cancel("call_1")
    assert await inbox.next() == ToolFinished("call_1", "The call of ping was cancelled.", True)
    await inbox.nothing_more()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(runner.run())
        assert await inbox.next() == ToolFinished("call_2", "pong")
        await inbox.nothing_more()
        task.cancel()


async def test_end_of_the_session_cancels_running_tools() -> None:
    is_ended = False

    @tool
    async def hang() -> None:
        nonlocal is_ended
        try:
            await asyncio.Event().wait()
        finally:
            is_ended = True

    async with running(hang) as (runner, _):
        runner.run_tool(RunTool("call_1", "hang", "{}"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert is_ended
    runner.run_tool(RunTool("call_2", "hang", "{}"))  # after run has ended: no error, no answer


async def test_long_text_ends_with_a_marker() -> None:
    finished = await answer(tool(name="flood")(lambda: "x" * 1_000_000))
    assert finished.output == "x" * 100_000 + " [truncated: this is the start of 1000000 characters]"
    assert (finished.is_truncated, finished.is_error) == (True, False)


@pytest.mark.parametrize("result", [["a"] * 40_000, json.dumps(["a"] * 40_000)])
async def test_long_json_is_still_json(result: Any) -> None:
    finished = await answer(tool(name="flood")(lambda: background(result)))
    found = json.loads(finished.output)
    assert (found["truncated"], len(found["output"]), found["output"][:4]) == (True, 50_000, '["a"')
    assert len(finished.output) < 101_000
    assert (finished.is_truncated, finished.is_background) == (True, True)


async def test_long_error_ends_with_a_marker() -> None:
    finished = await answer(tool(name="bad")(raises(ToolError("x" * 100_001))))
    assert finished.output.endswith("x [truncated: this is the start of 100001 characters]")
    assert (finished.is_truncated, finished.is_error) == (True, True)


async def test_output_at_the_limit_is_sent_unchanged() -> None:
    assert await answer(tool(name="fit")(lambda: "x" * 100_000)) == ToolFinished("call_1", "x" * 100_000)


async def test_output_can_be_encoded_as_utf8() -> None:
    finished = await answer(tool(name="bad")(raises(ToolError("lone \udfff"))))
    json.dumps(finished.output, ensure_ascii=False).encode("utf-8")


async def test_sys_exit_in_a_tool_does_not_end_the_process() -> None:
    @tool
    def leave() -> None:
        sys.exit("bye")

    finished = await answer(leave)
    assert finished.is_error
    assert finished.output == "The tool leave failed: SystemExit."


async def _interrupted_by_the_user() -> None:
    @tool
    async def wait() -> None:
        signal.raise_signal(signal.SIGINT)
        await asyncio.Event().wait()

    await answer(wait)


def test_ctrl_c_during_a_tool_ends_the_program() -> None:
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(_interrupted_by_the_user())


def test_ctrl_c_during_a_tool_ends_the_program_on_a_loop_that_does_not_handle_it() -> None:
    loop = asyncio.new_event_loop()
    scene = loop.create_task(within(20.0, "it", lambda: signal.raise_signal(signal.SIGINT)))
    for _ in range(2):  # the task of the function, then that of its caller
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(scene)
    loop.close()


class Unspeakable(Exception):
    """An error whose ``__str__`` raises."""

    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize("make", [raises, raises_on_loop])
async def test_error_whose_str_raises_is_reported_by_its_type(
    make: Callable[[BaseException], Callable[[], Any]],
) -> None:
    async with running(tool(name="bad")(make(Unspeakable())), tool(name="ping")(lambda: "pong")) as (runner, inbox):
        runner.run_tool(RunTool("call_1", "bad", "{}"))
        finished = await inbox.next()
        assert finished.is_error
        assert "Unspeakable" in finished.output
        runner.run_tool(RunTool("call_2", "ping", "{}"))
        assert await inbox.next() == ToolFinished("call_2", "pong")


async def test_result_whose_serializer_raises_is_sent_as_str() -> None:
    class Nasty(BaseModel):
        celsius: int = 3

        @model_serializer
        def tell(self) -> str:
            raise RuntimeError("not today")

    assert await answer(tool(name="give")(lambda: Nasty())) == ToolFinished("call_1", "celsius=3")


async def test_two_calls_of_one_tool_run_concurrently() -> None:
    both = asyncio.Barrier(2)

    @tool
    async def meet(place: str) -> str:
        await both.wait()
        return place

    async with running(meet) as (runner, inbox):
        runner.run_tool(RunTool("call_1", "meet", '{"place": "here"}'))
        runner.run_tool(RunTool("call_2", "meet", '{"place": "there"}'))
        answers = {await inbox.next(), await inbox.next()}
    assert answers == {ToolFinished("call_1", "here"), ToolFinished("call_2", "there")}


async def test_unknown_tool_error_without_any_tools_says_none() -> None:
    async with running() as (runner, inbox):
        runner.run_tool(RunTool("call_1", "ping", "{}"))
        assert await inbox.next() == ToolFinished("call_1", "There is no tool ping; there are: -.", True)


def test_each_hanging_call_times_out_at_its_limit() -> None:
    async def scene() -> None:
        @tool
        async def hang() -> None:
            await asyncio.Event().wait()

        async with running(hang) as (runner, inbox):
            for _ in range(2):
                began = asyncio.get_running_loop().time()
                runner.run_tool(RunTool("call_1", "hang", "{}"))
                assert (await inbox.next()).output == "The tool hang took too long and was stopped."
                assert asyncio.get_running_loop().time() - began == pytest.approx(15.0)

    in_virtual_time(scene())


def test_async_tool_that_ignores_cancellation_is_answered_and_abandoned() -> None:
    async def scene() -> None:
        release = asyncio.Event()
        ended = asyncio.Event()

        @tool(timeout_s=3.0)
        async def stubborn() -> str:
            while not release.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await release.wait()
            ended.set()
            return "too late"

        async with running(stubborn, tool(name="ping")(ping)) as (runner, inbox):
            runner.run_tool(RunTool("call_1", "stubborn", "{}"))
            finished = await inbox.next()
            assert finished == ToolFinished("call_1", "The tool stubborn took too long and was stopped.", True)
            assert asyncio.get_running_loop().time() < 3.0 + 2.0  # the conversation abandons it then
            runner.run_tool(RunTool("call_2", "stubborn", "{}"))
            for _ in range(3):
                await asyncio.sleep(0)
            runner.cancel("call_2")
            assert await inbox.next() == ToolFinished("call_2", "The call of stubborn was cancelled.", True)
            runner.run_tool(RunTool("call_3", "ping", "{}"))
            assert await inbox.next() == ToolFinished("call_3", "pong")
            release.set()
            await ended.wait()
            await inbox.nothing_more()

    in_virtual_time(scene())


async def test_error_after_a_timeout_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    @tool(timeout_s=0.01)
    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("while cleaning up")

    assert (await answer(hang)).output == "The tool hang took too long and was stopped."
    assert "never retrieved" not in caplog.text
