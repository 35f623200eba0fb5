"""Agents in a session: which application functions are called, when, with what, and how failures are handled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

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
from appliance.conversation.notices import Connected, HandoffDone, SessionEvent, ToolEnd, TurnEnd
from appliance.conversation.policy import Policy
from appliance.errors import ToolError
from appliance.realtime.items import HistoryItem
from appliance.realtime.payload import RealtimeSessionSettings
from appliance.runtime.agent_preparer import AgentPreparer
from appliance.runtime.agent_runtime import AgentRuntime
from appliance.runtime.session import RealtimeSession
from tests.support.scripted_server import (
    SESSION_CREATED,
    Connection,
    Frame,
    ScriptedServer,
    close,
    expect,
    hold,
    reply,
    send,
)

E = TypeVar("E", bound=SessionEvent)


# --- one preparer ------------------------------------------------------------------------------------------------


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


# --- predicates -------------------------------------------------------------------------------------------------


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


# --- handoffs ---------------------------------------------------------------------------------------------------


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


# --- guardrails -------------------------------------------------------------------------------------------------


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


# --- the runtime ---------------------------------------------------------------------------------------------------


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


# --- when they are called during a session ----------------------------------------------------------------------


def created(response_id: str) -> Frame:
    response = {"id": response_id, "object": "realtime.response", "status": "in_progress", "output": []}
    return {"type": "response.created", "event_id": "event_c", "response": response}


def written(text: str, response_id: str = "resp_1") -> list[Frame]:
    """A complete text answer."""
    item = {
        "id": f"item_{response_id}",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": text}],
    }
    place = {"response_id": response_id, "output_index": 0}
    inside = {**place, "item_id": f"item_{response_id}", "content_index": 0}
    response = {"id": response_id, "object": "realtime.response", "status": "completed", "output": [item]}
    return [
        created(response_id),
        {"type": "response.output_text.done", "event_id": "event_1", **inside, "text": text},
        {"type": "response.output_item.done", "event_id": "event_2", **place, "item": item},
        {"type": "response.done", "event_id": "event_3", "response": response},
    ]


def function_call(name: str, arguments: str, call_id: str) -> Frame:
    return {
        "id": f"item_{call_id}",
        "type": "function_call",
        "status": "completed",
        "name": name,
        "call_id": call_id,
        "arguments": arguments,
    }


def calling(name: str, arguments: str = "{}", response_id: str = "resp_1") -> list[Frame]:
    """A complete answer that calls one tool."""
    item = function_call(name, arguments, "call_1")
    response = {"id": response_id, "object": "realtime.response", "status": "completed", "output": [item]}
    return [
        created(response_id),
        {
            "type": "response.output_item.done",
            "event_id": "event_1",
            "response_id": response_id,
            "output_index": 0,
            "item": item,
        },
        {"type": "response.done", "event_id": "event_2", "response": response},
    ]


def updated(connection: Connection) -> Frame:
    """Return the server's ``session.updated`` for the latest ``session.update``."""
    session = {"object": "realtime.session", "id": "sess_1", **connection.last("session.update")["session"]}
    return {"type": "session.updated", "event_id": "event_u", "session": session}


READY = [send(SESSION_CREATED), expect("session.update"), reply(updated)]
WRITTEN = RealtimeSessionSettings(output_modalities=("text",))
QUICK = Policy(pre_roll_ms=0, backoff_initial_s=0.01, stable_s=0.0)


async def until(session: RealtimeSession, kind: type[E]) -> E:
    """Return the next event of a kind."""
    async with asyncio.timeout(10):
        async for event in session:
            if isinstance(event, kind):
                return event
    raise AssertionError(f"the session ended without {kind.__name__}")


def sent_instructions(connection: Connection) -> list[str]:
    """Return the instructions of each ``session.update``, in order."""
    return [one["session"]["instructions"] for one in connection.of_type("session.update")]


class Weather:
    """Instructions that differ at each call."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, context: RunContext[Any], agent: RealtimeAgent) -> str:
        self.asked += 1
        return f"{agent.name}, day {self.asked}."


async def test_instructions_function_is_called_at_each_connection() -> None:
    agent = RealtimeAgent(name="Ada", instructions=Weather())
    async with ScriptedServer([*READY, close(1001)], [*READY, hold()]) as server:
        async with RealtimeSession(agent, WRITTEN, url=server.base_url, policy=QUICK, raw_events=False) as session:
            await until(session, Connected)
            await until(session, Connected)
            second = await server.connection(1)
            async with asyncio.timeout(10):
                while "session.update" not in second.types:
                    await asyncio.sleep(0.001)
        first = server.connections[0]
    days = [sent_instructions(one)[-1] for one in (first, second)]
    assert days == sorted(set(days)), "each connection gets newer instructions"


async def test_instructions_function_is_called_before_each_answer_with_refresh_turn() -> None:
    agent = RealtimeAgent(name="Ada", instructions=Weather(), refresh_instructions="turn")
    turn = [expect("session.update"), reply(updated), expect("response.create", is_next=True)]
    script = [
        *READY,
        expect("conversation.item.create"),
        *turn,
        send(*written("One.")),
        expect("conversation.item.create"),
        *turn,
        send(*written("Two.", "resp_2")),
    ]
    async with ScriptedServer(script) as server:
        async with RealtimeSession(agent, WRITTEN, url=server.base_url) as session:
            for _ in range(2):
                session.send_message("Hi!")
                assert (await until(session, TurnEnd)).outcome == "answered"
        server.assert_complete()
        days = sent_instructions(server.connections[0])
    assert len(days) == 3
    assert days == sorted(set(days)), "each turn gets newer instructions"


async def test_instructions_function_is_not_called_for_an_answer_by_default() -> None:
    weather = Weather()
    agent = RealtimeAgent(name="Ada", instructions=weather)
    script = [*READY, expect("response.create"), send(*written("One."))]
    async with ScriptedServer(script) as server:
        async with RealtimeSession(agent, WRITTEN, url=server.base_url) as session:
            async with asyncio.timeout(10):
                while "session.update" not in server.connections[0].types:
                    await asyncio.sleep(0.001)
            asked = weather.asked
            session.send_message("Hi!")
            await until(session, TurnEnd)
        server.assert_complete()
    assert weather.asked == asked


async def test_instructions_function_sees_the_context_changed_by_on_handoff() -> None:
    box: dict[str, Any] = {}

    async def note(context: RunContext[dict[str, Any]], order: Order) -> None:
        context.context["order"] = order.dish

    bob = RealtimeAgent(name="Bob", instructions=lambda context, agent: f"Cook {context.context['order']}.")
    ada = RealtimeAgent(name="Ada", handoffs=[handoff(bob, on_handoff=note, input_type=Order)])
    script = [
        *READY,
        expect("response.create"),
        send(*calling("transfer_to_bob", '{"dish":"soup","servings":2}')),
        expect("session.update"),
        reply(updated),
        expect("response.create"),
        send(*written("Soup!", "resp_2")),
    ]
    async with ScriptedServer(script) as server:
        async with RealtimeSession(ada, WRITTEN, url=server.base_url, context=box) as session:
            session.send_message("Soup for two.")
            handed = await until(session, HandoffDone)
            await until(session, TurnEnd)
        server.assert_complete()
        assert sent_instructions(server.connections[0]) == ["", "Cook soup."]
    assert (handed.from_agent, handed.to_agent) == ("Ada", "Bob")
    assert (session.agents["Ada"], session.agents["Bob"]) == (ada, bob)


async def test_refused_handoff_is_reported_to_the_model_and_the_old_agent_answers() -> None:
    def closed(context: RunContext[Any]) -> None:
        raise PermissionError("the kitchen is closed")

    ada = RealtimeAgent(name="Ada", handoffs=[handoff(RealtimeAgent(name="Bob"), on_handoff=closed)])
    script = [
        *READY,
        expect("response.create"),
        send(*calling("transfer_to_bob")),
        expect("response.create"),
        send(*written("It is closed.", "resp_2")),
    ]
    async with ScriptedServer(script) as server:
        async with RealtimeSession(ada, WRITTEN, url=server.base_url) as session:
            session.send_message("Soup.")
            assert (await until(session, TurnEnd)).outcome == "answered"
            assert session.agent is ada
        server.assert_complete()
        connection = server.connections[0]
    output = connection.last("conversation.item.create")["item"]
    assert (output["type"], output["call_id"]) == ("function_call_output", "call_1")
    assert "the kitchen is closed" in output["output"]
    assert len(sent_instructions(connection)) == 1


# --- an agent as a tool -----------------------------------------------------------------------------------------


def aside(*items: Frame) -> Callable[[Connection], Frame]:
    """Return the answer to an out-of-band question: a response with the question's metadata."""

    def answer(connection: Connection) -> Frame:
        metadata = connection.last("response.create")["response"]["metadata"]
        response = {
            "id": f"resp_{len(connection.arrivals)}",
            "object": "realtime.response",
            "status": "completed",
            "output": list(items),
            "metadata": metadata,
        }
        return {"type": "response.done", "event_id": "event_x", "response": response}

    return answer


SAYS_SUNNY: Frame = {
    "id": "item_x",
    "type": "message",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "Sunny."}],
}


@tool
def look_outside(window: str) -> str:
    """Look out of a window."""
    return f"sun in the {window}"


async def _asked(expert: RealtimeAgent, *answers: Callable[[Connection], Frame]) -> tuple[ToolEnd, Connection]:
    ada = RealtimeAgent(name="Ada", tools=[expert.as_tool()])
    asides = [step for one in answers for step in (expect("response.create"), reply(one))]
    script = [
        *READY,
        expect("response.create"),
        send(*calling("ask_expert", '{"question":"Will it rain?"}')),
        *asides,
        expect("response.create"),
        send(*written("No.", "resp_2")),
    ]
    async with ScriptedServer(script) as server:
        async with RealtimeSession(ada, WRITTEN, url=server.base_url) as session:
            session.send_message("Rain?")
            ended = await until(session, ToolEnd)
            assert (await until(session, TurnEnd)).outcome == "answered"
            assert "Sunny." not in [one.text for one in session.history], "it is outside the conversation"
        server.assert_complete()
        return ended, server.connections[0]


async def test_agent_as_tool_is_asked_out_of_band_with_its_own_instructions() -> None:
    expert = RealtimeAgent(name="Expert", instructions=lambda context, agent: f"You are the {agent.name}.")
    ended, connection = await _asked(expert, aside(SAYS_SUNNY))
    assert (ended.name, ended.output, ended.is_error) == ("ask_expert", "Sunny.", False)
    _, asked, _ = (one["response"] for one in connection.of_type("response.create"))
    assert asked["conversation"] == "none"
    assert asked["instructions"] == "You are the Expert."
    assert asked["input"] == [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Will it rain?"}]}
    ]


async def test_agent_as_tool_runs_its_own_tools_and_gets_their_outputs() -> None:
    expert = RealtimeAgent(name="Expert", tools=[look_outside])
    call = function_call("look_outside", '{"window":"east"}', "call_9")
    ended, connection = await _asked(expert, aside(call), aside(SAYS_SUNNY))
    assert ended.output == "Sunny."
    again = connection.of_type("response.create")[2]["response"]
    assert [one["name"] for one in again["tools"]] == ["look_outside"]
    assert again["input"][1:] == [
        {
            "type": "function_call",
            "name": "look_outside",
            "arguments": '{"window":"east"}',
            "call_id": "call_9",
        },
        {"type": "function_call_output", "call_id": "call_9", "output": "sun in the east"},
    ]


async def test_agent_as_tool_is_not_offered_tools_that_need_approval() -> None:
    @tool(needs_approval=True)
    def open_window() -> None: ...

    expert = RealtimeAgent(name="Expert", tools=[look_outside, open_window])
    _, connection = await _asked(expert, aside(SAYS_SUNNY))
    asked = connection.of_type("response.create")[1]["response"]
    assert [one["name"] for one in asked["tools"]] == ["look_outside"]


async def test_agent_as_tool_that_only_calls_tools_fails_with_an_error_for_the_model() -> None:
    expert = RealtimeAgent(name="Expert", tools=[look_outside])
    call = function_call("look_outside", '{"window":"east"}', "call_9")
    ended, _ = await _asked(expert, *[aside(call)] * 5)
    assert ended.is_error
    assert "gave no answer" in ended.output
