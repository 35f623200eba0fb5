"""What a maker adds, on the whole appliance: agents and hooks in Python, tools, MCP servers, guardrails, prices."""

from __future__ import annotations

import json
import logging
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from appliance.errors import SettingsError
from appliance.runtime import agent_runtime
from appliance.service.trace import replay
from tests.support.mcp_server import House, over_http
from tests.support.rig import (
    ASKED,
    COMMITTED,
    OPENED,
    Rig,
    answer,
    called,
    calling,
    offered,
    outputs,
    running,
    saying,
    updated,
)
from tests.support.scripted_server import (
    SESSION_CREATED,
    Connection,
    Frame,
    ScriptedServer,
    expect,
    reply,
    send,
)

pytestmark = pytest.mark.timeout(120)  # not timing-sensitive: runs beside the unit tests


def write(folder: Path, **files: str) -> Path:
    """Write files, ``name__ext`` for ``name.ext``; returns the settings file, ``appliance__toml``."""
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return folder / "appliance.toml"


# --- agents in Python ---------------------------------------------------------------------------------------------

HOUSE = """
from appliance import GuardrailFunctionOutput, RealtimeAgent, RealtimeAgentHooks, handoff, output_guardrail
from e2e_kitchen import kitchen

happened = []


def instructions(context, agent):
    happened.append("instructions")
    return f"{len(context.history)} items so far."


@output_guardrail
def no_prices(context, agent, text):
    return GuardrailFunctionOutput("a price", tripwire_triggered="dollars" in text)


class Noted(RealtimeAgentHooks):
    async def on_tool_end(self, context, agent, tool, result):
        happened.append(f"{agent.name}: {tool.name}")


def agent(tools):
    return RealtimeAgent(
        name="House",
        instructions=instructions,
        refresh_instructions="turn",
        tools=[tools["set_lamp"]],
        handoffs=[handoff(kitchen)],
        output_guardrails=[no_prices],
        hooks=Noted(),
    )
"""
KITCHEN = """
from appliance import RealtimeAgent, tool

boiled = []


@tool(needs_approval=True)
def boil(minutes: int) -> str:
    "Boil an egg."
    boiled.append(minutes)
    return "The egg boils."


kitchen = RealtimeAgent(name="Kitchen", instructions="Cook.", tools=[boil])
"""
RUN_HOOKS = """
from appliance import RealtimeRunHooks

happened = []


class Noted(RealtimeRunHooks):
    async def on_handoff(self, context, from_agent, to_agent):
        happened.append(f"{from_agent.name} to {to_agent.name}")


hooks = Noted()
"""


async def test_a_python_agent_has_its_tools_instructions_guardrails_hooks_and_handoffs_on_the_device(
    folder: Path,
) -> None:
    path = write(
        folder,
        appliance__toml='[assistant]\nagent = "e2e_house:agent"\nhooks = "e2e_hooks:hooks"\n',
        e2e_house__py=HOUSE,
        e2e_kitchen__py=KITCHEN,
        e2e_hooks__py=RUN_HOOKS,
    )
    script = [
        *OPENED,
        *called("set_lamp", on=True),
        *[*ASKED, reply(saying("That is nine dollars and ")), expect("response.create"), reply(answer)],
        *[*ASKED, reply(calling("transfer_to_kitchen")), expect("session.update"), reply(updated)],
        *[expect("response.create"), reply(calling("boil", minutes=4)), expect("response.create"), reply(answer)],
    ]
    async with ScriptedServer(script) as server, running(Rig(server.base_url, config=path)) as rig:
        await rig.at_rest()
        [connection] = server.connections
        assert offered(connection) == ["set_lamp", "transfer_to_kitchen"]
        assert await rig.turn() == "answered"
        assert "lamp on" in rig.device.lamp_line()
        assert await rig.turn() == "answered"
        told = [one["item"] for one in connection.of_type("conversation.item.create")]
        assert any("stopped by the guardrail 'no_prices' (a price)" in str(one) for one in told)
        count = len(rig.outcomes)
        await rig.talk()
        await rig.until(lambda: rig.light == "approval")
        rig.device.finger.press()
        rig.device.finger.release()
        await rig.until(lambda: len(rig.outcomes) > count)
        assert rig.outcomes[-1] == "answered"
        server.assert_complete()
        house, kitchen = sys.modules["e2e_house"], sys.modules["e2e_kitchen"]
        assert kitchen.boiled == [4]
        assert "House: set_lamp" in house.happened
        assert house.happened.count("instructions") >= 3
        assert sys.modules["e2e_hooks"].happened == ["House to Kitchen"]
        assert outputs(connection)[-1] == "The egg boils."


async def test_a_device_whose_agent_is_missing_does_not_start_and_says_why(folder: Path) -> None:
    path = write(folder, appliance__toml='[assistant]\nagent = "e2e_house:agnet"\n', e2e_house__py=KITCHEN)
    async with ScriptedServer() as server:
        with pytest.raises(
            SettingsError, match=r"2: assistant\.agent: found \"e2e_house:agnet\", and the module has no"
        ):
            await Rig(server.base_url, config=path).device.run()


# --- MCP servers --------------------------------------------------------------------------------------------------

TOKEN = "hush-hush-42"
HOUSE_FILE = """
name = "House"
instructions = "Look after the house."

[[mcp]]
name = "house"
url = "http://127.0.0.1:PORT/mcp"
headers = { Authorization = "Bearer ${HOUSE_TOKEN}" }
allowed_tools = ["add"]

[[mcp]]
label = "recipes"
url = "https://recipes.example.com/mcp"
headers = { Key = "${HOUSE_TOKEN}" }
"""


async def test_a_server_that_comes_after_the_start_offers_its_tools_at_the_next_turn_and_no_secret_is_told(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network is up later than the device. All is logged and traced: the secret is in neither."""
    monkeypatch.setattr(agent_runtime, "_RETRY_S", 0.05)
    caplog.set_level(logging.DEBUG, "appliance")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = '[assistant]\nagents_file = "house.toml"\n'
    path = write(folder, appliance__toml=settings, house__toml=HOUSE_FILE.replace("PORT", str(port)))
    with_tools = [expect("input_audio_buffer.commit"), send(COMMITTED), expect("session.update"), reply(updated)]
    with_tools += [expect("response.create", is_next=True), reply(calling("add", a=2, b=3))]
    script = [*OPENED, *ASKED, reply(answer), *with_tools, expect("response.create"), reply(answer)]
    async with ScriptedServer(script) as server:
        rig = Rig(server.base_url, config=path, environ={"HOUSE_TOKEN": TOKEN}, trace=folder / "trace.jsonl")
        async with running(rig):
            await rig.at_rest()
            [connection] = server.connections
            await rig.until_true(lambda: "session.update" in connection.types)
            assert offered(connection) == ["recipes"]
            assert await rig.turn() == "answered"
            assert connection.types.count("session.update") == 1
            async with over_http(House(token=f"Bearer {TOKEN}"), port=port):
                await rig.until_true(lambda: any("connected; its tools" in one for one in caplog.messages))
                assert await rig.turn() == "answered"
                assert offered(connection) == ["add", "recipes"]
                assert outputs(connection) == ["5"]
                assert connection.types.count("session.update") == 2
        server.assert_complete()
    warnings = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    [line] = [one for one in warnings if "MCP server 'house'" in one]
    assert line.startswith(f"MCP server 'house' (http://127.0.0.1:{port}/mcp) cannot be connected: ")
    assert line.endswith("; starting without its tools, and trying again")
    assert TOKEN in json.dumps(connection.last("session.update")), "of the server that the model's side calls"
    assert TOKEN not in caplog.text
    assert TOKEN not in (folder / "trace.jsonl").read_text(encoding="utf-8")
    assert replay(folder / "trace.jsonl")[1] == []


async def test_a_server_that_is_described_wrongly_keeps_the_device_from_starting(folder: Path) -> None:
    text = HOUSE_FILE.replace("127.0.0.1:PORT", "PLACE").replace('["add"]', '["add"]\nneeds_approval = ["substract"]')
    async with over_http(House()) as port, ScriptedServer() as server:
        text = text.replace("PLACE", f"127.0.0.1:{port}")
        path = write(folder, appliance__toml='[assistant]\nagents_file = "house.toml"\n', house__toml=text)
        with pytest.raises(
            SettingsError, match=r"2: assistant\.agents_file: MCP server 'house': needs_approval names sub"
        ):
            await Rig(server.base_url, config=path, environ={"HOUSE_TOKEN": TOKEN}).device.run()


# --- prices -------------------------------------------------------------------------------------------------------


async def test_a_daily_budget_holds_for_a_model_with_a_price_of_ones_own(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    usage = {
        "input_tokens": 1_000_000,
        "output_tokens": 0,
        "input_token_details": {"text_tokens": 1_000_000},
        "output_token_details": {"text_tokens": 0},
    }
    prices = '[[budget.prices]]\nmodel = "ours"\ntext = { input = 9.0, output = 9.0 }\n'
    budget = '[link]\nmodel = "ours"\n[assistant]\ntranscription_model = ""\n[budget]\ndaily_usd = 9.0\n'
    ours = SESSION_CREATED | {"session": SESSION_CREATED["session"] | {"model": "ours"}}

    def costly(connection: Connection) -> Sequence[Frame]:
        *frames, last = answer(connection)
        return [*frames, last | {"response": last["response"] | {"usage": usage}}]

    async def announced(settings: str) -> list[str]:
        script = [send(ours), expect("session.update"), *ASKED, reply(costly)]
        async with ScriptedServer(script) as server:
            async with running(Rig(server.base_url, config=write(folder, appliance__toml=settings))) as rig:
                await rig.at_rest()
                assert await rig.turn() == "answered"
        return rig.announced

    assert await announced(budget + prices) == ["100 percent of today's budget is spent: 9.00 of 9.00 US dollars."]
    assert [one for one in caplog.messages if "no price is known" in one] == []
    assert await announced(budget) == []
    [line] = [one for one in caplog.messages if "no price is known" in one]
    assert line.startswith("budget.daily_usd: no price is known for ours, which counts as nothing; ")
