"""Agents in a session: which application functions are called, when, with what, and how failures are handled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import BaseModel, Field

from appliance.agents.agent import RealtimeAgent
from appliance.agents.context import RunContext
from appliance.agents.guardrails import GuardrailFunctionOutput, input_guardrail, output_guardrail
from appliance.agents.handoffs import handoff
from appliance.agents.spec import AgentSpec
from appliance.agents.tools import tool
from appliance.conversation.commands import CheckText, PrepareAgent
from appliance.conversation.events import (
    AgentPrepared,
    ConnectKey,
    Event,
    GuardrailsChecked,
    OutputCheck,
    TurnKey,
)
from appliance.errors import ToolError
from appliance.realtime.items import HistoryItem
from appliance.runtime.agent_preparer import AgentPreparer
from appliance.runtime.agent_runtime import AgentRuntime

# --- one preparer -----------------------------------------------------------------------------------------------------


def compose(agent: RealtimeAgent, instructions: str, tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"type": "realtime", "instructions": instructions, "tools": [dict(one) for one in tools]}


class Desk:
    """A preparer and the queue of its answers."""

    def __init__(self, *agents: RealtimeAgent, **options: Any) -> None:
        self.answers: asyncio.Queue[Event] = asyncio.Queue()
        self.preparer = AgentPreparer(
            {one.name: one for one in agents}, compose=compose, post=self.answers.put_nowait, **options
        )

    async def prepared(self, agent: str, reason: Any = "connect", **of_handoff: str) -> AgentPrepared:
        self.preparer.prepare_agent(PrepareAgent(TurnKey("turn_1", 0), agent, reason, **of_handoff))
        answer = await asyncio.wait_for(self.answers.get(), 10)
        assert isinstance(answer, AgentPrepared)
        assert answer.key == TurnKey("turn_1", 0)
        return answer

    async def spec(self, agent: str, reason: Any = "connect", **of_handoff: str) -> AgentSpec:
        answer = await self.prepared(agent, reason, **of_handoff)
        assert answer.spec is not None, answer.problem
        return answer.spec

    async def checked(self, text: str, agent: str = "Ada", side: Any = "output") -> tuple[str, str]:
        self.preparer.check_text(CheckText(OutputCheck(1), agent, side, text))
        answer = await asyncio.wait_for(self.answers.get(), 10)
        assert isinstance(answer, GuardrailsChecked)
        assert answer.key == OutputCheck(1)
        return answer.tripped, answer.reason


@asynccontextmanager
async def at_desk(*agents: RealtimeAgent, **options: Any) -> AsyncIterator[Desk]:
    desk = Desk(*agents, **options)
    task = asyncio.create_task(desk.preparer.run())
    try:
        yield desk
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _sync(context: RunContext[Any], agent: RealtimeAgent) -> str:
    return f"{agent.name} knows {context.context} and {len(context.history)} items."


async def _async(context: RunContext[Any], agent: RealtimeAgent) -> str:
    await asyncio.sleep(0)
    return _sync(context, agent)


class _Object:
    async def __call__(self, context: RunContext[Any], agent: RealtimeAgent) -> str:
        return _sync(context, agent)


@pytest.mark.parametrize("instructions", [_sync, _async, _Object()])
async def test_instructions_function_may_be_sync_or_async(instructions: Any) -> None:
    agent = RealtimeAgent(name="Ada", instructions=instructions)
    async with at_desk(agent, context="Eve", history=lambda: (HistoryItem(id="1"),)) as desk:
        spec = await desk.spec("Ada")
    assert spec.session["instructions"] == "Ada knows Eve and 1 items."
    assert spec.is_asked_at_connect


async def test_instructions_string_is_not_refreshed() -> None:
    async with at_desk(RealtimeAgent(name="Ada", instructions="Be brief.")) as desk:
        spec = await desk.spec("Ada")
    assert spec.session["instructions"] == "Be brief."
    assert (spec.is_asked_at_connect, spec.is_asked_at_turn) == (False, False)


def _raises(*_: Any) -> Any:
    raise KeyError("weather")


@pytest.mark.parametrize(
    ("instructions", "problem"),
    [
        (_raises, "the agent 'Ada' could not be prepared: KeyError: 'weather'"),
        (lambda context, agent: 7, "agent 'Ada': its instructions are int, expected a string"),
    ],
)
async def test_failing_instructions_are_reported_and_the_next_request_works(instructions: Any, problem: str) -> None:
    agents = RealtimeAgent(name="Ada", instructions=instructions), RealtimeAgent(name="Bob")
    async with at_desk(*agents) as desk:
        answer = await desk.prepared("Ada")
        assert (answer.spec, answer.problem) == (None, problem)
        assert (await desk.spec("Bob")).agent == "Bob"


async def test_hanging_instructions_time_out_and_the_error_names_the_limit() -> None:
    async def hangs(context: RunContext[Any], agent: RealtimeAgent) -> str:
        await asyncio.Event().wait()
        return ""

    async with at_desk(RealtimeAgent(name="Ada", instructions=hangs), timeout_s=0.01) as desk:
        answer = await desk.prepared("Ada")
    assert answer.problem == "the agent 'Ada' was not ready within 0.01 s"


async def test_request_before_run_waits_for_it() -> None:
    desk = Desk(RealtimeAgent(name="Ada"))
    desk.preparer.prepare_agent(PrepareAgent(ConnectKey(1), "Ada", "connect"))
    assert desk.answers.empty()
    task = asyncio.create_task(desk.preparer.run())
    answer = await asyncio.wait_for(desk.answers.get(), 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert isinstance(answer, AgentPrepared)
    assert answer.key == ConnectKey(1)


# --- predicates -------------------------------------------------------------------------------------------------------


def _says(value: Any) -> Callable[..., Any]:
    return lambda context, agent: value


async def _later(context: RunContext[Any], agent: RealtimeAgent) -> bool:
    await asyncio.sleep(0)
    return bool(context.context["night"]) and agent.name == "Ada"


@pytest.mark.parametrize(
    ("enabled", "is_offered"),
    [(True, True), (False, False), (_says(True), True), (_says(0), False), (_later, True), (_raises, False)],
)
async def test_tool_is_offered_only_if_its_predicate_returns_true(enabled: Any, is_offered: bool) -> None:
    @tool(enabled=enabled)
    def ping() -> str:
        return "pong"

    async with at_desk(RealtimeAgent(name="Ada", tools=[ping]), context={"night": True}) as desk:
        spec = await desk.spec("Ada")
    assert [one["name"] for one in spec.session["tools"]] == (["ping"] if is_offered else [])
    assert spec.disabled == (() if is_offered else ("ping",))
    assert spec.tool("ping") is not None, "a call of a disabled tool is answered, so its card is needed"
    assert spec.is_asked_at_connect == callable(enabled)


@pytest.mark.parametrize(("enabled", "is_offered"), [(_says(True), True), (_says(False), False), (_raises, False)])
async def test_handoff_is_offered_only_if_its_predicate_returns_true(enabled: Any, is_offered: bool) -> None:
    bob = RealtimeAgent(name="Bob")
    async with at_desk(RealtimeAgent(name="Ada", handoffs=[handoff(bob, enabled=enabled)]), bob) as desk:
        spec = await desk.spec("Ada")
    assert [one["name"] for one in spec.session["tools"]] == (["transfer_to_bob"] if is_offered else [])
    assert spec.disabled == (() if is_offered else ("transfer_to_bob",))


async def test_tool_card_holds_the_options_of_the_tool() -> None:
    @tool(needs_approval=True, cancellable=True, working_after_ms=700, filler="Wait.", timeout_s=3)
    def slow() -> None: ...

    @tool(needs_approval=lambda context, arguments, call_id: True)
    def asked() -> None: ...

    async with at_desk(RealtimeAgent(name="Ada", tools=[slow, asked])) as desk:
        spec = await desk.spec("Ada")
    card, other = spec.tool("slow"), spec.tool("asked")
    assert card is not None
    assert other is not None
    assert (card.approval, card.is_cancellable, card.working_after_s) == ("always", True, 0.7)
    assert (card.filler, card.timeout_s, other.approval) == ("Wait.", 3, "asked")


# --- handoffs ---------------------------------------------------------------------------------------------------------


class Order(BaseModel):
    dish: str
    servings: int = Field(ge=1)


async def _hand_over(arguments: str, **options: Any) -> tuple[AgentPrepared, list[Any]]:
    given: list[Any] = []
    bob = RealtimeAgent(name="Bob", instructions="Cook.")
    ada = RealtimeAgent(
        name="Ada",
        handoffs=[handoff(bob, on_handoff=lambda context, order: given.append((context.agent.name, order)), **options)],
    )
    async with at_desk(ada, bob) as desk:
        answer = await desk.prepared(
            "Bob", "handoff", from_agent="Ada", tool_name="transfer_to_bob", arguments=arguments
        )
    return answer, given


async def test_on_handoff_gets_the_parsed_input() -> None:
    answer, given = await _hand_over('{"dish":"soup","servings":2}', input_type=Order)
    assert given == [("Ada", Order(dish="soup", servings=2))]
    assert answer.spec is not None
    assert answer.spec.session["instructions"] == "Cook."


async def test_handoff_input_type_is_in_the_tool_schema() -> None:
    bob = RealtimeAgent(name="Bob")
    ada = RealtimeAgent(name="Ada", handoffs=[handoff(bob, on_handoff=lambda c, o: None, input_type=Order)])
    async with at_desk(ada, bob) as desk:
        (definition,) = (await desk.spec("Ada")).session["tools"]
    assert definition["parameters"]["properties"] == {
        "dish": {"type": "string"},
        "servings": {"type": "integer", "minimum": 1},
    }
    assert definition["parameters"]["required"] == ["dish", "servings"]


@pytest.mark.parametrize("arguments", ['{"dish":"soup","servings":0}', "{}", "soup"])
async def test_handoff_with_invalid_arguments_fails_with_a_reason(
    arguments: str,
) -> None:
    answer, given = await _hand_over(arguments, input_type=Order)
    assert given == []
    assert answer.spec is None
    assert answer.problem.startswith("transfer_to_bob: ")


async def test_disabled_handoff_fails() -> None:
    answer, given = await _hand_over('{"dish":"soup","servings":2}', input_type=Order, enabled=False)
    assert given == []
    assert answer.problem == "The tool transfer_to_bob is not available now."


@pytest.mark.parametrize("is_async", [False, True])
async def test_on_handoff_that_raises_keeps_the_old_agent(is_async: bool) -> None:
    async def refuses(context: RunContext[Any]) -> None:
        raise PermissionError("the kitchen is closed")

    def refuses_at_once(context: RunContext[Any]) -> None:
        raise PermissionError("the kitchen is closed")

    bob = RealtimeAgent(name="Bob")
    ada = RealtimeAgent(name="Ada", handoffs=[handoff(bob, on_handoff=refuses if is_async else refuses_at_once)])
    async with at_desk(ada, bob) as desk:
        answer = await desk.prepared("Bob", "handoff", from_agent="Ada", tool_name="transfer_to_bob")
    assert answer.spec is None
    assert "the kitchen is closed" in answer.problem


# --- guardrails -------------------------------------------------------------------------------------------------------


class Watch:
    """Guardrails that record when they start and end."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def guardrail(self, name: str, *, trips: bool = False) -> Any:
        @output_guardrail(name=name)
        async def look(context: RunContext[Any], agent: RealtimeAgent, text: str) -> GuardrailFunctionOutput:
            self.lines.append(f"{name} begins")
            await asyncio.sleep(0)
            self.lines.append(f"{name} ends")
            return GuardrailFunctionOutput(output_info=f"{name} saw {text!r}", tripwire_triggered=trips)

        return look


async def test_parallel_guardrails_run_concurrently_and_the_first_listed_trip_is_reported() -> None:
    watch = Watch()
    rails = [watch.guardrail("one"), watch.guardrail("two", trips=True), watch.guardrail("three", trips=True)]
    async with at_desk(RealtimeAgent(name="Ada", output_guardrails=rails), is_parallel=True) as desk:
        assert await desk.checked("hm") == ("two", "two saw 'hm'")
    assert watch.lines == ["one begins", "two begins", "three begins", "one ends", "two ends", "three ends"]


async def test_sequential_guardrails_stop_at_the_first_that_trips() -> None:
    watch = Watch()
    rails = [watch.guardrail("one"), watch.guardrail("two", trips=True), watch.guardrail("three", trips=True)]
    async with at_desk(RealtimeAgent(name="Ada", output_guardrails=rails), is_parallel=False) as desk:
        assert await desk.checked("hm") == ("two", "two saw 'hm'")
    assert watch.lines == ["one begins", "one ends", "two begins", "two ends"]


@pytest.mark.parametrize("is_parallel", [True, False])
async def test_text_passes_if_no_guardrail_trips(is_parallel: bool) -> None:
    rails = [Watch().guardrail("one"), Watch().guardrail("two")]
    async with at_desk(RealtimeAgent(name="Ada", output_guardrails=rails), is_parallel=is_parallel) as desk:
        assert await desk.checked("hm") == ("", "")


@pytest.mark.parametrize("is_parallel", [True, False])
async def test_guardrail_that_raises_counts_as_tripped(is_parallel: bool) -> None:
    agent = RealtimeAgent(name="Ada", output_guardrails=[output_guardrail(name="broken")(_raises)])
    async with at_desk(agent, is_parallel=is_parallel) as desk:
        assert await desk.checked("hm") == ("broken", "it failed: KeyError")
        assert (await desk.spec("Ada")).agent == "Ada", "the preparer still works"


async def test_guardrail_that_hangs_counts_as_tripped() -> None:
    @output_guardrail
    async def asleep(context: RunContext[Any], agent: RealtimeAgent, text: str) -> bool:
        return await asyncio.Event().wait()

    async with at_desk(RealtimeAgent(name="Ada", output_guardrails=[asleep]), timeout_s=0.01) as desk:
        assert await desk.checked("hm") == ("asleep", "it failed: ToolTimeout")


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (True, ("rail", "")),
        (False, ("", "")),
        (GuardrailFunctionOutput({"word": "naïve"}, True), ("rail", '{"word": "naïve"}')),
        (GuardrailFunctionOutput(None, True), ("rail", "")),
        (GuardrailFunctionOutput("why", False), ("", "")),
    ],
)
async def test_guardrail_verdict_is_a_bool_or_an_output_with_a_reason(verdict: Any, expected: tuple[str, str]) -> None:
    agent = RealtimeAgent(name="Ada", output_guardrails=[output_guardrail(name="rail")(lambda *_: verdict)])
    async with at_desk(agent) as desk:
        assert await desk.checked("hm") == expected


async def test_input_and_output_guardrails_are_separate() -> None:
    agent = RealtimeAgent(
        name="Ada",
        input_guardrails=[input_guardrail(name="ear")(lambda *_: True)],
        output_guardrails=[output_guardrail(name="mouth")(lambda *_: True)],
    )
    async with at_desk(agent) as desk:
        assert (await desk.checked("hm", side="input"))[0] == "ear"
        assert (await desk.checked("hm", side="output"))[0] == "mouth"
        spec = await desk.spec("Ada")
    assert (spec.has_input_guardrails, spec.has_output_guardrails) == (True, True)


# --- the runtime ------------------------------------------------------------------------------------------------------


def runtime_of(start: RealtimeAgent) -> AgentRuntime:
    return AgentRuntime(start, compose=compose, post=lambda event: None, guardrail_s=5.0)


def test_runtime_holds_all_agents_reachable_by_handoffs_also_in_a_cycle() -> None:
    back: list[Any] = []
    eve = RealtimeAgent(name="Eve", handoffs=back)
    bob = RealtimeAgent(name="Bob", handoffs=[handoff(eve)])
    ada = RealtimeAgent(name="Ada", handoffs=[bob])
    back.append(ada)
    assert list(runtime_of(ada).agents) == ["Ada", "Bob", "Eve"]


def test_duplicate_agent_name_is_refused_at_any_depth() -> None:
    bob = RealtimeAgent(name="Bob", handoffs=[RealtimeAgent(name="Eve", handoffs=[RealtimeAgent(name="Ada")])])
    with pytest.raises(ToolError, match="two agents are named 'Ada'"):
        runtime_of(RealtimeAgent(name="Ada", handoffs=[bob]))


def test_duplicate_tool_appended_after_construction_is_refused_at_start() -> None:
    @tool
    def ping() -> None: ...

    tools = [ping]
    agent = RealtimeAgent(name="Ada", tools=tools)
    tools.append(ping)
    with pytest.raises(ToolError, match="two tools are named ping"):
        runtime_of(agent)


def test_tool_with_the_name_of_a_handoff_is_refused() -> None:
    @tool(name="transfer_to_bob")
    def mine() -> None: ...

    with pytest.raises(ToolError, match="transfer_to_bob"):
        RealtimeAgent(name="Ada", tools=[mine], handoffs=[RealtimeAgent(name="Bob")])


def test_handoffs_with_the_same_tool_name_are_refused_unless_one_is_renamed() -> None:
    twins = RealtimeAgent(name="The Bob"), RealtimeAgent(name="the bob")
    with pytest.raises(ToolError, match="transfer_to_the_bob"):
        RealtimeAgent(name="Ada", handoffs=twins)
    named = RealtimeAgent(name="Ada", handoffs=[twins[0], handoff(twins[1], tool_name="other_bob")])
    assert [one.tool_name for one in named.transfers()] == ["transfer_to_the_bob", "other_bob"]


async def test_first_spec_is_that_of_the_first_agent() -> None:
    runtime = runtime_of(RealtimeAgent(name="Ada", handoffs=[RealtimeAgent(name="Bob")]))
    assert [one.agent for one in await runtime.specs()] == ["Ada"]
