"""`ToolRunner` with agents: whose tools, which of them are enabled, their errors, and their approval."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from appliance.agents.agent import RealtimeAgent
from appliance.agents.context import RunContext, ToolContext
from appliance.agents.tools import Tool, background, tool
from appliance.conversation.commands import CheckApproval, RunTool
from appliance.conversation.events import ApprovalChecked, ToolFinished
from appliance.errors import HardwareError, ToolError
from appliance.realtime.items import HistoryItem
from appliance.runtime.functions import ToolTimeout
from appliance.runtime.tool_runner import ToolRunner
from tests.support.tool_inbox import ToolInbox, running, serving
from tests.support.tool_runs import Asked, answer, async_predicate, ping, predicate, raises, raises_on_loop, says
from tests.support.virtual_time import in_virtual_time

# --- agents -----------------------------------------------------------------------------------------------------------


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
