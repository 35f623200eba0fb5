"""`RealtimeSession.update_agent`: another agent during a session, and what of it holds from then on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from appliance.agents.agent import RealtimeAgent
from appliance.agents.context import RunContext
from appliance.agents.guardrails import input_guardrail, output_guardrail
from appliance.agents.hooks import RealtimeAgentHooks
from appliance.agents.tools import Tool, tool
from appliance.conversation.notices import AgentStart, Audio, Guardrail, HandoffDone, ToolEnd, TurnEnd
from appliance.errors import LinkError, SessionNotOpen, SettingsError, ToolError
from appliance.runtime.session import RealtimeSession
from tests.support.scripted_server import ScriptedServer, Step, close, expect, hold, reply, send
from tests.support.sessions import READY, answering, calling, spoken, talking, updated

ADA = RealtimeAgent(name="Ada", instructions="Be brief.")
ACCEPTED: list[Step] = [expect("session.update"), reply(updated)]


@tool
def grade() -> str:
    """Grade the answer."""
    return "good"


class Server:
    """An MCP server in this process, with one tool; `calls` are its connections."""

    def __init__(self, name: str = "school", tools: Sequence[Tool] = (grade,), problem: str = "") -> None:
        self.name = name
        self.calls: list[str] = []
        self._tools = tools
        self._problem = problem

    async def connect(self) -> None:
        self.calls.append("connect")
        if self._problem:
            raise LinkError(self._problem)

    async def close(self) -> None:
        self.calls.append("close")

    async def list_tools(self) -> Sequence[Tool]:
        return self._tools


def tutor(**more: Any) -> RealtimeAgent:
    return RealtimeAgent(name="Tutor", instructions="Teach.", **more)


async def test_new_agent_is_active_and_its_tools_and_hooks_hold() -> None:
    heard: list[str] = []

    class Hooks(RealtimeAgentHooks):
        async def on_start(self, context: RunContext[Any], agent: RealtimeAgent) -> None:
            heard.append(f"start {agent.name}")

        async def on_handoff(self, context: RunContext[Any], agent: RealtimeAgent, source: RealtimeAgent) -> None:
            heard.append(f"{source.name} to {agent.name}")

    script = [*READY, *ACCEPTED, *answering(*calling("grade")), *answering(*spoken(response_id="resp_2")), hold()]
    async with ScriptedServer(script) as server:
        async with talking(server.base_url, ADA) as (session, reader):
            new = tutor(tools=[grade], hooks=Hooks())
            await session.update_agent(new)
            assert session.agent is new
            session.send_message("How was it?")
            assert (await reader.until(ToolEnd)).output == "good"
            await reader.until(TurnEnd)
        sent = server.connections[0].of_type("session.update")
    assert [frame["session"]["instructions"] for frame in sent] == ["Be brief.", "Teach."]
    assert [one["name"] for one in sent[1]["session"]["tools"]] == ["grade"]
    assert reader.of(HandoffDone) == [HandoffDone("Ada", "Tutor")]
    assert [one.agent for one in reader.of(AgentStart)] == ["Tutor"]
    assert heard == ["Ada to Tutor", "start Tutor"]


async def test_copy_of_the_active_agent_replaces_it() -> None:
    async with ScriptedServer([*READY, reply(updated), *ACCEPTED, *answering(*calling("grade")), hold()]) as server:
        async with talking(server.base_url, ADA) as (session, reader):
            copy = ADA.clone(tools=[grade])
            await session.update_agent(copy)
            assert session.agents == {"Ada": copy}
            session.send_message("How was it?")
            assert (await reader.until(ToolEnd)).output == "good"


async def test_audio_of_the_answer_under_way_is_still_that_of_the_previous_agent() -> None:
    script = [*READY, *answering(*spoken()[:-2]), *ACCEPTED, send(*spoken()[3:]), hold()]
    async with ScriptedServer(script) as server:
        async with talking(server.base_url, ADA) as (session, reader):
            session.send_message("Hi!")
            await reader.until(Audio)
            await session.update_agent(tutor())
            await reader.until(TurnEnd)
    assert [one.agent for one in reader.of(Audio)] == ["Ada", "Ada"]


async def test_guardrails_and_handoffs_of_the_new_agent_hold() -> None:
    @output_guardrail
    def no_hello(context: RunContext[Any], agent: RealtimeAgent, text: str) -> bool:
        return "Hello" in text

    script = [*READY, *ACCEPTED, *answering(*spoken("Hello.")), hold()]
    async with ScriptedServer(script) as server:
        async with talking(server.base_url, ADA) as (session, reader):
            new = tutor(output_guardrails=[no_hello], handoffs=[RealtimeAgent(name="Nurse")])
            await session.update_agent(new)
            assert list(session.agents) == ["Ada", "Tutor", "Nurse"]
            session.send_message("Hi!")
            assert (await reader.until(Guardrail)).guardrail == "no_hello"


async def test_next_connection_gets_the_new_agent_and_the_history() -> None:
    first = [*READY, *ACCEPTED, *answering(*spoken()), expect("conversation.item.create"), close(1001)]
    async with ScriptedServer(first, [*READY, expect("conversation.item.create"), hold()]) as server:
        async with talking(server.base_url, ADA) as (session, reader):
            await session.update_agent(tutor())
            session.send_message("Hi!")
            await reader.until(TurnEnd)
            session.send_message("A note.", respond=False)
            while len(server.connections) < 2 or not server.connections[1].of_type("conversation.item.create"):
                await asyncio.sleep(0.01)
        second = server.connections[1]
    assert second.last("session.update")["session"]["instructions"] == "Teach."


async def test_servers_of_the_new_agent_are_connected_and_closed_with_the_session() -> None:
    mcp = Server()
    script = [*READY, *ACCEPTED, *answering(*calling("grade")), expect("response.create"), *ACCEPTED, hold()]
    async with ScriptedServer(script) as server:
        async with talking(server.base_url, ADA) as (session, reader):
            await session.update_agent(tutor(mcp_servers=[mcp]))
            session.send_message("How was it?")
            assert (await reader.until(ToolEnd)).output == "good"
            session.interrupt()
            await session.update_agent(RealtimeAgent(name="Nurse", mcp_servers=[mcp]))
            assert mcp.calls == ["connect"]
        assert mcp.calls == ["connect", "close"]
        assert [one["name"] for one in server.connections[0].last("session.update")["session"]["tools"]] == ["grade"]


def _same_names() -> RealtimeAgent:
    return tutor(handoffs=[RealtimeAgent(name="Nurse"), RealtimeAgent(name="Doctor", handoffs=[tutor()])])


def _two_tools() -> RealtimeAgent:
    tools = [grade]
    agent = tutor(tools=tools)
    tools.append(grade)
    return agent


def _unchecked_input() -> RealtimeAgent:
    return tutor(input_guardrails=[input_guardrail(lambda context, agent, text: False, name="polite")])  # type: ignore[call-overload]


def _broken_instructions(context: RunContext[Any], agent: RealtimeAgent) -> str:
    raise KeyError("no instructions")


@pytest.mark.parametrize(
    ("agent", "error", "words"),
    [
        (_same_names, ToolError, "two agents are named 'Tutor'"),
        (_two_tools, ToolError, "two tools are named grade"),
        (_unchecked_input, SettingsError, "transcription"),
        (lambda: tutor(settings={"sped": 2.0}), SettingsError, "sped"),
        (lambda: tutor(mcp_servers=[Server(problem="nobody is there")]), LinkError, "nobody is there"),
        (lambda: tutor(tools=[grade], mcp_servers=[Server()]), ToolError, "has a tool 'grade'"),
        (lambda: RealtimeAgent(name="Ada", instructions=_broken_instructions), KeyError, "no instructions"),
    ],
)
async def test_invalid_agent_raises_and_nothing_changes(agent: Any, error: type[Exception], words: str) -> None:
    new = agent()
    async with ScriptedServer([*READY, hold()]) as server:
        async with talking(server.base_url, ADA) as (session, reader):
            with pytest.raises(error, match=words):
                await session.update_agent(new)
            assert session.agents == {"Ada": ADA}
            assert session.agent is ADA
        assert len(server.connections[0].of_type("session.update")) == 1
    assert reader.of(HandoffDone) == []
    assert [one.calls for one in new.mcp_servers if not one._problem] in ([], [["connect", "close"]])


async def test_refused_agent_raises_and_the_previous_one_stays() -> None:
    refusal = {"type": "invalid_request_error", "code": "invalid_value", "message": "No such voice."}

    def refused(connection: Any) -> dict[str, Any]:
        event_id = connection.last("session.update")["event_id"]
        return {"type": "error", "event_id": "event_e", "error": {**refusal, "event_id": event_id}}

    async with ScriptedServer([*READY, expect("session.update"), reply(refused), hold()]) as server:
        async with talking(server.base_url, ADA) as (session, _):
            with pytest.raises(LinkError, match=r"'Ada' was not made the active one: No such voice\."):
                await session.update_agent(ADA.clone(voice="nobody"))
            assert session.agents == {"Ada": ADA}


@pytest.mark.parametrize("is_accepted", [True, False])
async def test_answer_to_an_update_whose_caller_was_cancelled_still_counts(is_accepted: bool) -> None:
    def answer(connection: Any) -> dict[str, Any]:
        if is_accepted:
            return updated(connection)
        error = {"type": "invalid_request_error", "message": "No.", "event_id": "agent_1"}
        return {"type": "error", "event_id": "event_e", "error": error}

    late = [expect("session.update"), expect("conversation.item.create"), reply(answer)]
    async with ScriptedServer([*READY, reply(updated), *late, *answering(*spoken()), hold()]) as server:
        async with talking(server.base_url, ADA) as (session, reader):
            copy = ADA.clone(voice="cedar")
            waiting = asyncio.create_task(session.update_agent(copy))
            while len(server.connections[0].of_type("session.update")) < 2:
                await asyncio.sleep(0.01)
            waiting.cancel()
            assert session.agent is ADA, "the server has not answered yet"
            session.send_message("Hi!")
            await reader.until(TurnEnd)
            assert session.agent is (copy if is_accepted else ADA)


async def test_update_that_waits_fails_when_the_session_ends() -> None:
    async with ScriptedServer([*READY, expect("session.update"), hold()]) as server:
        async with talking(server.base_url, ADA) as (session, _):
            waiting = asyncio.create_task(session.update_agent(tutor()))
            while len(server.connections[0].of_type("session.update")) < 2:
                await asyncio.sleep(0.01)
            await session.close()
            with pytest.raises(LinkError, match="the session has ended"):
                await waiting


async def test_update_outside_of_async_with_is_refused() -> None:
    session = RealtimeSession(ADA, url="ws://127.0.0.1:1/v1")
    with pytest.raises(SessionNotOpen, match="async with"):
        await session.update_agent(tutor())


async def test_tool_may_change_the_agent() -> None:
    @tool
    async def call_the_tutor() -> str:
        """Call the tutor."""
        await session.update_agent(tutor())
        return "called"

    script = [*READY, *answering(*calling("call_the_tutor")), *ACCEPTED, *answering(*spoken(response_id="resp_2"))]
    async with ScriptedServer([*script, hold()]) as server:
        async with talking(server.base_url, ADA.clone(tools=[call_the_tutor])) as (session, reader):
            session.send_message("Call the tutor!")
            await reader.until(TurnEnd)
    assert [one.agent for one in reader.of(AgentStart)] == ["Ada", "Tutor"]
    assert [one.agent for one in reader.of(Audio)] == ["Tutor"]
