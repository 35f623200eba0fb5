"""An agent as a tool, in `ToolRunner`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from appliance.agents.agent import RealtimeAgent
from appliance.agents.context import RunContext, ToolContext
from appliance.agents.tools import Tool, tool
from appliance.conversation.commands import RunTool
from appliance.conversation.events import ToolFinished
from appliance.errors import LinkError
from appliance.realtime.items import HistoryItem
from tests.support.oracle import check_client_frame
from tests.support.tool_inbox import serving
from tests.support.tool_runs import Asked, async_predicate, predicate, says
from tests.support.virtual_time import in_virtual_time


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
