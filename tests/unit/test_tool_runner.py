"""`ToolRunner`: every call is answered exactly once, and no tool ends the session. Also agents as tools."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel, model_serializer

from appliance.agents.agent import RealtimeAgent
from appliance.agents.context import RunContext, ToolContext
from appliance.agents.tools import Tool, background, tool
from appliance.conversation.commands import CheckApproval, RunTool
from appliance.conversation.events import ApprovalChecked, ToolFinished
from appliance.errors import HardwareError, LinkError, ToolError
from appliance.realtime.items import HistoryItem
from appliance.runtime.functions import ToolTimeout, within
from appliance.runtime.tool_runner import ToolRunner
from tests.support.oracle import check_client_frame
from tests.support.tool_inbox import ToolInbox, running, serving
from tests.support.virtual_time import in_virtual_time


async def answer(made: Tool, arguments: str = "{}") -> ToolFinished:
    async with running(made) as (runner, inbox):
        runner.run_tool(RunTool("call_1", made.name, arguments))
        finished = await inbox.next()
        await inbox.nothing_more()
        assert finished.call_id == "call_1"
        return finished


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


# --- agents -----------------------------------------------------------------------------------------------------------


async def ping() -> str:
    return "pong"


def says(text: str, name: str = "ping") -> Tool:
    async def say() -> str:
        return text

    return tool(name=name)(say)


def agents_with(**tools: Sequence[Tool]) -> dict[str, RealtimeAgent]:
    return {name: RealtimeAgent(name=name, tools=own) for name, own in tools.items()}


async def output_of(runner: ToolRunner, inbox: ToolInbox, name: str, agent: str = "", arguments: str = "{}") -> str:
    runner.run_tool(RunTool("call_1", name, arguments, agent))
    return (await inbox.next()).output


async def test_tool_is_looked_up_in_the_calling_agent() -> None:
    async with serving(agents_with(kitchen=[says("soup")], garden=[says("leek")])) as (runner, inbox):
        assert await output_of(runner, inbox, "ping", "garden") == "leek"
        assert await output_of(runner, inbox, "ping", "kitchen") == "soup"
        assert await output_of(runner, inbox, "ping") == "soup"


async def test_tool_of_another_agent_is_unknown() -> None:
    agents = agents_with(kitchen=[says("soup", "cook")], garden=[says("leek", "dig"), says("beet", "all")])
    async with serving(agents) as (runner, inbox):
        assert await output_of(runner, inbox, "cook", "garden") == "There is no tool cook; there are: all, dig."


async def test_unknown_agent_error_lists_the_existing_agents() -> None:
    async with serving(agents_with(kitchen=[], garden=[])) as (runner, inbox):
        expected = "There is no agent 'cellar'; there are: garden, kitchen."
        assert await output_of(runner, inbox, "ping", "cellar") == expected
    async with serving({}) as (runner, inbox):
        assert await output_of(runner, inbox, "ping") == "There is no agent ''; there are: none."


async def test_extra_tools_are_requested_at_each_call() -> None:
    extra: dict[str, list[Tool]] = {"kitchen": [], "garden": []}
    async with serving(agents_with(kitchen=[says("soup")], garden=[]), extra_tools=extra.__getitem__) as (
        runner,
        inbox,
    ):
        extra["garden"].append(says("leek"))
        assert await output_of(runner, inbox, "ping", "garden") == "leek"
        extra["garden"].clear()
        assert await output_of(runner, inbox, "ping", "garden") == "There is no tool ping; there are: -."
        extra["kitchen"].append(says("other"))
        assert await output_of(runner, inbox, "ping", "kitchen") == "soup"  # the agent's own tool wins


@pytest.mark.parametrize("broken", ["history", "extra_tools"])
async def test_call_is_answered_if_history_or_extra_tools_raises(broken: str) -> None:
    is_broken = True

    def surroundings(*_: Any) -> Sequence[Any]:
        if is_broken:
            raise ValueError("odd")
        return ()

    options: dict[str, Any] = {broken: surroundings}
    async with serving([says("pong")], **options) as (runner, inbox):
        assert await output_of(runner, inbox, "ping") == "The tool ping failed: ValueError."
        runner.check_approval(CheckApproval("call_1", "ping", "{}"))
        assert await inbox.next_check() == ApprovalChecked("call_1", needed=True)
        is_broken = False
        assert await output_of(runner, inbox, "ping") == "pong"


@pytest.mark.parametrize("is_async", [True, False])
async def test_tool_with_a_context_parameter_gets_the_context(is_async: bool) -> None:
    seen: list[tuple[ToolContext[Any], int]] = []

    async def look(shelf: int, where: ToolContext[dict[str, str]]) -> str:
        seen.append((where, shelf))
        return where.context["owner"]

    def look_beside(shelf: int, where: ToolContext[dict[str, str]]) -> str:
        seen.append((where, shelf))
        return where.context["owner"]

    agents = agents_with(kitchen=[], garden=[tool(name="look")(look if is_async else look_beside)])
    history = [HistoryItem(id="item_1", text="Look!")]
    ask = Asked()
    options = {"context": {"owner": "Ada"}, "history": lambda: tuple(history), "ask": ask}
    async with serving(agents, **options) as (runner, inbox):
        runner.run_tool(RunTool("call_7", "look", '{"shelf": 2}', "garden"))
        assert await inbox.next() == ToolFinished("call_7", "Ada")
    ((context, shelf),) = seen
    assert shelf == 2
    assert context.agent is agents["garden"]
    assert tuple(context.history) == tuple(history)
    assert (context.tool_name, context.call_id, context.arguments) == ("look", "call_7", '{"shelf": 2}')
    assert context.ask is ask


async def test_tool_without_parse_gets_the_arguments_unchanged() -> None:
    async def read(**arguments: Any) -> Any:
        return arguments

    listed = Tool(name="read", description="", parameters={"type": "object"}, function=read)
    assert (await answer(listed, '{"path": "a", "line no": [1]}')).output == '{"path":"a","line no":[1]}'
    refused = await answer(listed, "[]")
    assert refused.is_error
    assert refused.output.startswith("read: ")


async def test_background_result_is_marked_and_formatted_like_others() -> None:
    assert await answer(tool(name="give")(lambda: background({"on": True}))) == ToolFinished(
        "call_1", '{"on":true}', is_background=True
    )
    assert await answer(tool(name="give")(lambda: background("done"))) == ToolFinished(
        "call_1", "done", is_background=True
    )


async def test_background_result_that_json_cannot_hold_is_sent_as_str() -> None:
    finished = await answer(tool(name="give")(lambda: background(float("inf"))))
    assert finished == ToolFinished("call_1", "inf", is_background=True)


# --- enabled ----------------------------------------------------------------------------------------------------------


NOT_NOW = ToolFinished("call_1", "The tool lamp is not available now.", True)


def predicate(result: Any) -> Callable[..., Any]:
    """Return a sync predicate that returns `result`, or raises it."""

    def ask(*_: Any) -> Any:
        if isinstance(result, BaseException):
            raise result
        return result

    return ask


def async_predicate(result: Any) -> Callable[..., Any]:
    async def ask(*_: Any) -> Any:
        await asyncio.sleep(0)
        if isinstance(result, BaseException):
            raise result
        return result

    return ask


async def hanging(*_: Any) -> Any:
    await asyncio.Event().wait()
    raise AssertionError


BROKEN = [ValueError("odd"), ToolError("odd"), SystemExit(3), asyncio.CancelledError(), TimeoutError()]


@pytest.mark.parametrize("make", [predicate, async_predicate])
@pytest.mark.parametrize("result", [False, 0, None, *BROKEN])
async def test_tool_is_not_called_if_its_predicate_is_false_or_raises(make: Callable[[Any], Any], result: Any) -> None:
    calls: list[str] = []
    lamp = tool(name="lamp", enabled=make(result), error_function=lambda *_: "never said")(lambda: calls.append("lit"))
    async with running(lamp, says("pong")) as (runner, inbox):
        runner.run_tool(RunTool("call_1", "lamp", "{}"))
        assert await inbox.next() == NOT_NOW
        assert calls == []
        assert await output_of(runner, inbox, "ping") == "pong"


async def test_disabled_tool_is_not_called() -> None:
    assert await answer(tool(name="lamp", enabled=False)(lambda: "lit")) == NOT_NOW


def test_hanging_enabled_predicate_disables_the_tool_at_its_time_limit() -> None:
    async def scene() -> None:
        assert await answer(tool(name="lamp", enabled=hanging, timeout_s=4.0)(ping)) == NOT_NOW
        assert asyncio.get_running_loop().time() == pytest.approx(4.0)

    in_virtual_time(scene())


async def test_enabled_predicate_is_called_on_the_loop_at_each_call() -> None:
    states = [True, False, True]
    seen: list[tuple[Any, str, int]] = []

    def is_enabled(context: RunContext[Any], agent: RealtimeAgent) -> bool:
        seen.append((context.context, agent.name, threading.get_ident()))
        return states.pop(0)

    agents = agents_with(kitchen=[tool(name="lamp", enabled=is_enabled)(ping)])
    async with serving(agents, context="mine") as (runner, inbox):
        outputs = [await output_of(runner, inbox, "lamp") for _ in range(3)]
    assert outputs == ["pong", NOT_NOW.output, "pong"]
    assert seen == [("mine", "kitchen", threading.get_ident())] * 3


# --- error functions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize("make", [raises, raises_on_loop])
@pytest.mark.parametrize("error", [ValueError("no such shelf"), ToolError("Say which."), HardwareError("GPIO 5")])
async def test_error_function_formats_the_error(
    make: Callable[[BaseException], Callable[[], Any]], is_async: bool, error: Exception
) -> None:
    seen: list[tuple[ToolContext[Any], Exception]] = []

    def excuse(context: ToolContext[Any], error: Exception) -> str:
        seen.append((context, error))
        return "Sorry \ud800."

    async def excuse_later(context: ToolContext[Any], error: Exception) -> str:
        await asyncio.sleep(0)
        return excuse(context, error)

    bad = tool(name="bad", error_function=excuse_later if is_async else excuse)(make(error))
    assert await answer(bad) == ToolFinished("call_1", "Sorry ?.", True)
    ((context, given),) = seen
    assert (context.tool_name, context.call_id) == ("bad", "call_1")
    assert given is error


async def test_error_function_gets_system_exit_as_a_runtime_error() -> None:
    seen: list[Exception] = []

    def excuse(_: ToolContext[Any], error: Exception) -> str:
        seen.append(error)
        return "Sorry."

    bad = tool(name="bad", error_function=excuse)(raises_on_loop(SystemExit(3)))
    assert (await answer(bad)).output == "Sorry."
    assert "SystemExit: 3" in str(seen[0])


@pytest.mark.parametrize("is_async", [True, False])
async def test_error_function_gets_a_tool_timeout(is_async: bool) -> None:
    release = threading.Event()
    seen: list[Exception] = []

    def excuse(_: ToolContext[Any], error: Exception) -> str:
        seen.append(error)
        return "It takes too long."

    make = tool(name="hang", timeout_s=0.01, error_function=excuse)
    assert (await answer(make(hanging_tool if is_async else lambda: release.wait(20)))).output == "It takes too long."
    release.set()
    assert isinstance(seen[0], ToolTimeout)
    assert isinstance(seen[0], TimeoutError)
    assert str(seen[0]) == "The tool hang took longer than 0.01 s and was given up."


async def hanging_tool() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("make", [predicate, async_predicate])
@pytest.mark.parametrize("broken", BROKEN)
async def test_error_function_that_raises_falls_back_to_the_default_message(
    make: Callable[[Any], Any], broken: BaseException
) -> None:
    bad = tool(name="bad", error_function=make(broken))(raises_on_loop(ValueError("no such shelf")))
    assert await answer(bad) == ToolFinished("call_1", "The tool bad failed: ValueError.", True)


def test_error_function_that_hangs_falls_back_to_the_default_message_in_time() -> None:
    async def scene() -> None:
        bad = tool(name="bad", timeout_s=5.0, error_function=hanging)(hanging_tool)
        assert (await answer(bad)).output == "The tool bad took too long and was stopped."
        assert asyncio.get_running_loop().time() < 5.0 + 2.0  # the conversation abandons it then

    in_virtual_time(scene())


async def test_invalid_arguments_do_not_call_the_error_function() -> None:
    @tool(error_function=lambda *_: "Sorry.")
    async def count(step: int) -> None: ...

    assert (await answer(count, "{}")).output == "count: step: Field required"


class UnspeakableToolError(ToolError):
    def __str__(self) -> str:
        raise ValueError("no words")


async def test_tool_error_whose_str_raises_is_reported_by_its_type() -> None:
    assert "UnspeakableToolError" in (await answer(tool(name="bad")(raises(UnspeakableToolError())))).output


# --- approval ---------------------------------------------------------------------------------------------------------


async def check(made: Tool, arguments: str = "{}") -> ApprovalChecked:
    async with running(made) as (runner, inbox):
        runner.check_approval(CheckApproval("call_1", made.name, arguments))
        checked = await inbox.next_check()
        await inbox.nothing_more()
        assert checked.call_id == "call_1"
        return checked


@pytest.mark.parametrize("make", [predicate, async_predicate])
@pytest.mark.parametrize(("result", "needed"), [(True, True), (False, False), (1, True), (None, False)])
async def test_predicate_decides_whether_approval_is_needed(
    make: Callable[[Any], Any], result: Any, needed: bool
) -> None:
    assert await check(tool(name="ping", needs_approval=make(result))(ping)) == ApprovalChecked("call_1", needed)


@pytest.mark.parametrize("needed", [True, False])
async def test_bool_decides_whether_approval_is_needed(needed: bool) -> None:
    assert await check(tool(name="ping", needs_approval=needed)(ping)) == ApprovalChecked("call_1", needed)


async def test_approval_predicate_is_called_on_the_loop_with_validated_arguments() -> None:
    seen: list[Any] = []
    calls: list[int] = []

    def is_dear(context: RunContext[Any], arguments: dict[str, Any], call_id: str) -> bool:
        seen.append((context.context, context.agent.name, arguments, call_id, threading.get_ident()))
        return int(arguments["price"]) > 10

    @tool(needs_approval=is_dear)
    async def buy(price: int, where: ToolContext[Any], note: str = "") -> None:
        calls.append(price)

    async with serving(agents_with(shop=[buy]), context="mine") as (runner, inbox):
        runner.check_approval(CheckApproval("call_1", "buy", '{"price": "11"}', "shop"))
        assert await inbox.next_check() == ApprovalChecked("call_1", needed=True)
        runner.check_approval(CheckApproval("call_2", "buy", '{"price": 9, "note": "x"}', "shop"))
        assert await inbox.next_check() == ApprovalChecked("call_2", needed=False)
    own = threading.get_ident()
    assert seen == [
        ("mine", "shop", {"price": 11, "note": ""}, "call_1", own),
        ("mine", "shop", {"price": 9, "note": "x"}, "call_2", own),
    ]
    assert calls == []


async def test_invalid_arguments_are_a_problem_and_the_predicate_is_not_called() -> None:
    @tool(needs_approval=predicate(AssertionError("asked")))
    async def buy(price: int) -> None: ...

    assert await check(buy, '{"price": "\\u00e4"}') == ApprovalChecked(
        "call_1", True, "buy: price: Input should be a valid integer, unable to parse string as an integer"
    )


async def test_approval_of_an_impossible_call_is_a_problem() -> None:
    lamp = tool(name="lamp", needs_approval=predicate(False), enabled=False)(ping)
    async with serving(agents_with(kitchen=[lamp])) as (runner, inbox):
        for name, agent, problem in (
            ("oven", "kitchen", "There is no tool oven; there are: lamp."),
            ("lamp", "cellar", "There is no agent 'cellar'; there are: kitchen."),
            ("lamp", "", "The tool lamp is not available now."),
        ):
            runner.check_approval(CheckApproval("call_1", name, "{}", agent))
            assert await inbox.next_check() == ApprovalChecked("call_1", True, problem)


@pytest.mark.parametrize("make", [predicate, async_predicate])
@pytest.mark.parametrize("broken", BROKEN)
async def test_approval_predicate_that_raises_requires_approval(
    make: Callable[[Any], Any], broken: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    assert await check(tool(name="ping", needs_approval=make(broken))(ping)) == ApprovalChecked("call_1", needed=True)
    assert "asking whether ping needs approval failed" in caplog.text


def test_approval_predicate_that_hangs_requires_approval_at_the_time_limit() -> None:
    async def scene() -> None:
        checked = await check(tool(name="ping", needs_approval=hanging, timeout_s=4.0)(ping))
        assert checked == ApprovalChecked("call_1", needed=True)
        assert asyncio.get_running_loop().time() == pytest.approx(4.0)

    in_virtual_time(scene())


async def test_approval_check_before_run_waits_for_it_and_ignores_cancel() -> None:
    inbox = ToolInbox()
    runner = ToolRunner([tool(name="ping", needs_approval=predicate(False))(ping)], post=inbox.post)
    runner.check_approval(CheckApproval("call_1", "ping", "{}"))
    runner.cancel("call_1")
    await inbox.nothing_more()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(runner.run())
        assert await inbox.next_check() == ApprovalChecked("call_1", needed=False)
        runner.cancel("call_1")
        await inbox.nothing_more()
        task.cancel()


async def test_approval_check_cut_off_by_the_end_of_the_session_requires_approval() -> None:
    async with running(tool(name="ping", needs_approval=hanging)(ping)) as (runner, inbox):
        runner.check_approval(CheckApproval("call_1", "ping", "{}"))
        for _ in range(3):
            await asyncio.sleep(0)
    assert await inbox.next_check() == ApprovalChecked("call_1", needed=True)


# --- an agent as a tool -----------------------------------------------------------------------------------------------


@dataclass
class Asked:
    """A model for out-of-band questions: gives scripted answers and records the questions."""

    answers: list[Sequence[HistoryItem] | Exception] = field(default_factory=list)
    questions: list[dict[str, Any]] = field(default_factory=list)

    async def __call__(
        self,
        text: str,
        *,
        instructions: str = "",
        tools: Sequence[Mapping[str, Any]] = (),
        items: Sequence[Mapping[str, Any]] = (),
        timeout_s: float = 30.0,
    ) -> Sequence[HistoryItem]:
        self.questions.append(
            {"text": text, "instructions": instructions, "tools": list(tools), "items": json.loads(json.dumps(items))}
        )
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def assert_complete(self) -> None:
        assert self.answers == []


def message(text: str) -> HistoryItem:
    return HistoryItem(id="item_m", role="assistant", text=text)


def function_call(name: str, arguments: str = "{}", call_id: str = "call_a") -> HistoryItem:
    return HistoryItem(id="item_c", type="function_call", name=name, call_id=call_id, arguments=arguments)


async def answered_by(
    agent: RealtimeAgent, *answers: Sequence[HistoryItem] | Exception, **options: Any
) -> tuple[ToolFinished, list[dict[str, Any]]]:
    ask = Asked(list(answers))
    made = agent.as_tool()
    async with serving([made], ask=ask, **options) as (runner, inbox):
        runner.run_tool(RunTool("call_1", made.name, '{"question": "How long do eggs boil?"}'))
        finished = await inbox.next()
    ask.assert_complete()
    return finished, ask.questions


@tool
async def minutes(dish: str) -> int:
    """Look up how long it boils."""
    return {"eggs": 6}[dish]


def test_agent_as_tool_has_one_question_parameter() -> None:
    agent = RealtimeAgent(name="Head Chef", handoff_description="Knows recipes.")
    made = agent.as_tool()
    assert made.definition() == {
        "type": "function",
        "name": "ask_head_chef",
        "description": "Ask the Head Chef agent. Knows recipes.",
        "parameters": {
            "type": "object",
            "properties": {
                "question": {
                    "type": "string",
                    "description": "The whole question; the other agent does not hear the conversation.",
                }
            },
            "required": ["question"],
            "additionalProperties": False,
        },
    }
    assert made.timeout_s == 30.0
    other = agent.as_tool(tool_name="cook", tool_description="Ask the cook.", timeout_s=5.0)
    assert (other.name, other.description, other.timeout_s) == ("cook", "Ask the cook.", 5.0)


async def test_answer_of_the_asked_agent_is_the_tool_result() -> None:
    agent = RealtimeAgent(name="Chef", instructions="Be brief.", tools=[minutes])
    finished, questions = await answered_by(agent, [message("Six minutes."), message("Then cold water.")])
    assert finished == ToolFinished("call_1", "Six minutes.\nThen cold water.")
    assert questions == [
        {
            "text": "How long do eggs boil?",
            "instructions": "Be brief.",
            "tools": [minutes.definition()],
            "items": [],
        }
    ]


async def test_tools_called_by_the_asked_agent_run_and_their_outputs_are_sent() -> None:
    agent = RealtimeAgent(name="Chef", tools=[minutes])
    finished, questions = await answered_by(
        agent,
        [message("I look it up."), function_call("minutes", '{"dish": "eggs"}')],
        [function_call("minutes", '{"dish": "rice"}', "call_b"), function_call("minutes", "{}", "call_c")],
        [message("Six.")],
    )
    assert finished == ToolFinished("call_1", "Six.")
    first = [
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "How long do eggs boil?"}],
        },
        {"type": "function_call", "name": "minutes", "call_id": "call_a", "arguments": '{"dish": "eggs"}'},
        {"type": "function_call_output", "call_id": "call_a", "output": "6"},
    ]
    second = [
        {"type": "function_call", "name": "minutes", "call_id": "call_b", "arguments": '{"dish": "rice"}'},
        {"type": "function_call_output", "call_id": "call_b", "output": "The tool minutes failed: KeyError."},
        {"type": "function_call", "name": "minutes", "call_id": "call_c", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_c", "output": "minutes: dish: Field required"},
    ]
    assert [one["items"] for one in questions] == [[], first, first + second]
    assert {one["text"] for one in questions} == {"How long do eggs boil?"}
    check_client_frame({"type": "response.create", "response": {"conversation": "none", "input": first + second}})


async def test_asked_agent_gets_only_enabled_tools_without_approval() -> None:
    calls: list[str] = []

    def made(name: str, **options: Any) -> Tool:
        return tool(name=name, **options)(lambda: calls.append(name))

    agent = RealtimeAgent(
        name="Chef",
        tools=[
            made("always", needs_approval=True),
            made("maybe", needs_approval=predicate(False)),
            made("off", enabled=False),
            made("off_now", enabled=async_predicate(False)),
            made("broken", enabled=predicate(ValueError("odd"))),
            made("free", enabled=async_predicate(True)),
        ],
    )
    names = ["always", "maybe", "off", "off_now", "broken"]
    finished, questions = await answered_by(agent, [function_call(name) for name in names], [message("No.")])
    assert finished == ToolFinished("call_1", "No.")
    assert [one["name"] for one in questions[0]["tools"]] == ["free"]
    outputs = [one["output"] for one in questions[1]["items"] if one["type"] == "function_call_output"]
    assert outputs == [f"There is no tool {name}; there are: free." for name in names]
    assert calls == []


async def test_functions_of_the_asked_agent_get_that_agent_and_the_same_context() -> None:
    seen: list[Any] = []

    async def instructions(context: RunContext[Any], agent: RealtimeAgent) -> str:
        seen.append((context.context, context.agent, agent))
        return "Be brief."

    @tool
    async def look(where: ToolContext[Any]) -> str:
        seen.append((where.context, where.agent, where.tool_name, where.call_id))
        return "seen"

    agent = RealtimeAgent(name="Chef", instructions=instructions, tools=[look])
    _, questions = await answered_by(agent, [function_call("look")], [message("Six.")], context="mine")
    assert questions[0]["instructions"] == "Be brief."
    assert seen == [("mine", agent, agent), ("mine", agent, "look", "call_a")]


async def test_asked_agent_is_stopped_after_four_rounds_of_calls() -> None:
    calls: list[str] = []
    agent = RealtimeAgent(name="Chef", tools=[tool(name="look")(lambda: calls.append("look"))])
    finished, questions = await answered_by(agent, *[[function_call("look")]] * 5)
    assert finished == ToolFinished("call_1", "The Chef agent called tools in 4 rounds and gave no answer.", True)
    assert (len(questions), len(calls)) == (5, 4)


async def test_asked_agent_may_answer_after_four_rounds_of_calls() -> None:
    agent = RealtimeAgent(name="Chef", tools=[says("pong")])
    finished, _ = await answered_by(agent, *[[function_call("ping")]] * 4, [message("At last.")])
    assert finished == ToolFinished("call_1", "At last.")


async def test_error_without_a_model_names_the_agent() -> None:
    async with serving([RealtimeAgent(name="Chef").as_tool()]) as (runner, inbox):
        runner.run_tool(RunTool("call_1", "ask_chef", '{"question": "?"}'))
        assert await inbox.next() == ToolFinished(
            "call_1", "The Chef agent cannot be asked: there is no model to ask here.", True
        )


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (LinkError("there is no connection"), "The Chef agent could not be asked: there is no connection"),
        ([], "The Chef agent gave no answer."),
        ([message("")], "The Chef agent gave no answer."),
        (ValueError("odd"), "The tool ask_chef failed: ValueError."),
    ],
)
async def test_error_without_an_answer_names_the_agent(
    answer: Sequence[HistoryItem] | Exception, expected: str
) -> None:
    finished, _ = await answered_by(RealtimeAgent(name="Chef"), answer)
    assert finished == ToolFinished("call_1", expected, True)


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [
        (predicate(ValueError("odd")), "its instructions failed: ValueError"),
        (async_predicate(ValueError("odd")), "its instructions failed: ValueError"),
        (predicate(None), "its instructions failed: agent 'Chef': its instructions are NoneType, expected a string"),
    ],
)
async def test_error_of_failing_instructions_names_the_agent(instructions: Callable[..., Any], expected: str) -> None:
    finished, questions = await answered_by(RealtimeAgent(name="Chef", instructions=instructions))
    assert finished == ToolFinished("call_1", f"The Chef agent cannot be asked: {expected}", True)
    assert questions == []


def test_unanswered_agent_as_tool_times_out() -> None:
    async def scene() -> None:
        async with serving([RealtimeAgent(name="Chef").as_tool(timeout_s=8.0)], ask=hanging_ask) as (runner, inbox):
            runner.run_tool(RunTool("call_1", "ask_chef", '{"question": "?"}'))
            assert (await inbox.next()).output == "The tool ask_chef took too long and was stopped."
            assert asyncio.get_running_loop().time() == pytest.approx(8.0)

    in_virtual_time(scene())


async def hanging_ask(text: str, **_: Any) -> Sequence[HistoryItem]:
    await asyncio.Event().wait()
    raise AssertionError
