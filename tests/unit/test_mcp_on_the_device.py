"""MCP servers that are not needed at the start: the device begins without their tools, and gets them later."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from appliance.agents.agent import RealtimeAgent
from appliance.agents.handoffs import handoff
from appliance.agents.spec import AgentSpec
from appliance.agents.tools import Tool, tool
from appliance.conversation.commands import PrepareAgent
from appliance.conversation.events import AgentPrepared, Event, TurnKey
from appliance.errors import LinkError, ToolError
from appliance.runtime import agent_runtime
from appliance.runtime.agent_runtime import AgentRuntime


@tool
async def unlock() -> str:
    """Unlock the door."""
    return "open"


class Server:
    """An MCP server that fails with each of `errors` in turn, and then is there; `hangs` never answers."""

    def __init__(self, *errors: Exception, tools: Sequence[Tool] = (unlock,), name: str = "house") -> None:
        self.name = name
        self.errors = list(errors)
        self.tools = tools
        self.hangs = False
        self.tries = 0
        self.closed = 0

    async def connect(self) -> None:
        self.tries += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.errors:
            raise self.errors.pop(0)

    async def close(self) -> None:
        self.closed += 1

    async def list_tools(self) -> Sequence[Tool]:
        return self.tools


def compose(agent: RealtimeAgent, instructions: str, tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"type": "realtime", "instructions": instructions, "tools": [dict(one) for one in tools]}


class Desk:
    """A running runtime with its inbox."""

    def __init__(self, agent: RealtimeAgent, *, are_servers_needed: bool = False) -> None:
        self.answers: asyncio.Queue[Event] = asyncio.Queue()
        self.runtime = AgentRuntime(
            agent,
            compose=compose,
            post=self.answers.put_nowait,
            guardrail_s=5.0,
            are_servers_needed=are_servers_needed,
        )

    async def at_turn(self, agent: str = "Ada") -> AgentSpec:
        self.runtime.preparer.prepare_agent(PrepareAgent(TurnKey("turn_1", 0), agent, "turn"))
        answer = await self.answers.get()
        assert isinstance(answer, AgentPrepared)
        assert answer.spec is not None, answer.problem
        return answer.spec


@asynccontextmanager
async def at_desk(agent: RealtimeAgent) -> AsyncIterator[Desk]:
    desk = Desk(agent)
    async with asyncio.timeout(10), desk.runtime:
        task = asyncio.create_task(desk.runtime.run())
        try:
            yield desk
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_runtime, "_RETRY_S", 0.001)
    monkeypatch.setattr(agent_runtime, "_LONGEST_RETRY_S", 0.004)
    monkeypatch.setattr(agent_runtime, "_START_S", 0.05)


def offered(spec: AgentSpec) -> list[str]:
    return [one["name"] for one in spec.session["tools"]]


async def test_a_server_that_is_not_there_is_one_warning_and_its_tools_come_with_a_later_turn(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = Server(*(LinkError("MCP server 'house' cannot be connected: no route") for _ in range(3)))
    async with at_desk(RealtimeAgent(name="Ada", mcp_servers=[server])) as desk:
        [begun] = await desk.runtime.specs()
        assert (offered(begun), begun.tools) == ([], ())
        assert begun.is_asked_at_turn
        assert begun.is_asked_at_connect
        await until(lambda: desk.runtime.tool("Ada", "unlock") is not None)
        spec = await desk.at_turn()
        assert offered(spec) == ["unlock"]
        assert [one.name for one in spec.tools or ()] == ["unlock"]
        assert not spec.is_asked_at_turn
        assert not spec.is_asked_at_connect
    assert (server.tries, server.closed) == (4, 1)
    warnings = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert warnings == [
        "MCP server 'house' cannot be connected: no route; starting without its tools, and trying again"
    ]


async def test_a_server_that_does_not_answer_does_not_hold_up_the_start(caplog: pytest.LogCaptureFixture) -> None:
    slow, quick = Server(name="slow"), Server(name="quick", tools=[])
    slow.hangs = True
    async with at_desk(RealtimeAgent(name="Ada", mcp_servers=[slow, quick])) as desk:
        assert (slow.tries, quick.tries) == (1, 1)
        slow.hangs = False
        await until(lambda: desk.runtime.tool("Ada", "unlock") is not None)
    assert caplog.messages[0].startswith("MCP server 'slow' has not answered in ")


async def test_a_server_that_comes_while_a_spec_is_made_is_in_the_next_one() -> None:
    async def comes(context: Any, agent: RealtimeAgent) -> bool:
        server.errors.clear()
        await until(lambda: desk.runtime.tool("Ada", "unlock") is not None)
        return True

    server = Server(*(LinkError("no route"),) * 1000)
    ping = replace(unlock, name="ping", enabled=comes)
    async with at_desk(RealtimeAgent(name="Ada", tools=[ping], mcp_servers=[server])) as desk:
        assert (await desk.at_turn()).is_asked_at_turn
        assert offered(await desk.at_turn()) == ["ping", "unlock"]


async def test_a_server_of_ones_own_may_fail_with_any_error_of_the_network() -> None:
    server = Server(OSError("no route"), TimeoutError("no answer"), ConnectionResetError())
    async with at_desk(RealtimeAgent(name="Ada", mcp_servers=[server])) as desk:
        await until(lambda: desk.runtime.tool("Ada", "unlock") is not None)


async def test_a_server_that_has_two_tools_of_one_name_offers_none(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(LinkError("no route"), tools=[unlock, unlock])
    async with at_desk(RealtimeAgent(name="Ada", mcp_servers=[server])) as desk:
        await until(lambda: len(caplog.messages) > 1)
        assert offered(await desk.at_turn()) == []
    assert "has a tool 'unlock', and so has another" in caplog.messages[-1]


async def test_a_server_that_is_there_changes_nothing() -> None:
    async with at_desk(RealtimeAgent(name="Ada", mcp_servers=[Server()])) as desk:
        [begun] = await desk.runtime.specs()
    assert offered(begun) == ["unlock"]
    assert not begun.is_asked_at_turn
    assert not begun.is_asked_at_connect


async def test_two_agents_that_share_a_server_both_get_its_tools_and_the_others_ask_nothing_more() -> None:
    server = Server(LinkError("gone"))
    cook = RealtimeAgent(name="Cook", mcp_servers=[server])
    idle = RealtimeAgent(name="Idle")
    ada = RealtimeAgent(name="Ada", mcp_servers=[server], handoffs=[handoff(cook), handoff(idle)])
    async with at_desk(ada) as desk:
        assert not (await desk.at_turn("Idle")).is_asked_at_turn
        await until(lambda: desk.runtime.tool("Cook", "unlock") is not None)
        assert offered(await desk.at_turn("Cook")) == ["unlock"]
        assert offered(await desk.at_turn("Ada"))[0] == "unlock"
    assert (server.tries, server.closed) == (2, 1)


async def test_instructions_that_are_asked_for_at_connect_are_not_asked_for_at_each_turn_meanwhile() -> None:
    asked: list[str] = []

    def instructions(context: Any, agent: RealtimeAgent) -> str:
        asked.append(agent.name)
        return f"Asked {len(asked)} times."

    server = Server(*[LinkError("gone")] * 1000)
    async with at_desk(RealtimeAgent(name="Ada", instructions=instructions, mcp_servers=[server])) as desk:
        await desk.runtime.specs()
        for _ in range(3):
            assert (await desk.at_turn()).session["instructions"] == "Asked 1 times."
    assert asked == ["Ada"]


@pytest.mark.parametrize(
    "server",
    [
        Server(ToolError("it needs the package mcp 2")),
        Server(tools=[unlock, Tool("lamp", "", {}, print)]),
        Server(tools=[Tool("transfer_to_bob", "", {}, print)]),
    ],
    ids=["extra", "tool", "handoff"],
)
async def test_a_wrong_description_is_an_error_of_the_start(server: Server) -> None:
    lamp = Tool("lamp", "", {}, print)
    with pytest.raises(ToolError, match=r"needs the package mcp 2|has a tool '(lamp|transfer_to_bob)', and so has"):
        bob = RealtimeAgent(name="Bob")
        async with at_desk(RealtimeAgent(name="Ada", tools=[lamp], handoffs=[bob], mcp_servers=[server])):
            pass
    assert server.closed == 1


async def test_a_wrong_description_that_is_found_later_is_one_error_line(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(LinkError("gone"))
    taken = Tool("unlock", "", {}, print)
    async with at_desk(RealtimeAgent(name="Ada", tools=[taken], mcp_servers=[server])) as desk:
        await until(lambda: len(caplog.records) == 2)
        assert not (await desk.at_turn()).is_asked_at_turn
        assert offered(await desk.at_turn()) == ["unlock"]
    assert caplog.messages[1] == (
        "agent 'Ada': the MCP server 'house' has a tool 'unlock', and so has another: leave it out by allowed_tools; "
        "its tools are not offered"
    )
    assert server.tries == 2


async def test_where_servers_are_needed_one_that_is_not_there_is_an_error() -> None:
    server = Server(LinkError("gone"))
    with pytest.raises(LinkError, match="gone"):
        async with Desk(RealtimeAgent(name="Ada", mcp_servers=[server]), are_servers_needed=True).runtime:
            pass
    assert server.tries == 1
