"""Agents in a session over a socket: when their functions are called, and agents as tools."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, Field

from appliance.agents.agent import RealtimeAgent
from appliance.agents.context import RunContext
from appliance.agents.handoffs import handoff
from appliance.agents.tools import tool
from appliance.conversation.notices import Connected, HandoffDone, SessionEvent, ToolEnd, TurnEnd
from appliance.conversation.policy import Policy
from appliance.realtime.payload import RealtimeSessionSettings
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

# --- handoffs ---------------------------------------------------------------------------------------------------------


class Order(BaseModel):
    dish: str
    servings: int = Field(ge=1)


# --- when they are called during a session ----------------------------------------------------------------------------


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


# --- an agent as a tool -----------------------------------------------------------------------------------------------


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
