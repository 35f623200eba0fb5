"""MCP servers: hosted ones in the session object, and the tools and secrets of real ones over stdio and HTTP."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import types
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from openai.types.realtime.realtime_tools_config_union import Mcp

from appliance.agents.mcp_servers import HostedMcp, McpServer
from appliance.agents.tools import TOOL_NAME, Tool
from appliance.cli import main
from appliance.errors import LinkError, ToolError
from appliance.runtime.mcp import McpServerHttp, McpServerStdio
from tests.support.mcp_programs import TOKEN, call, program, running
from tests.support.mcp_server import PROGRAM, TOOLS, House, over_http
from tests.support.oracle import check_client_frame

OF_THE_SERVER = ("uvicorn", "mcp.server", "sse_starlette")


@asynccontextmanager
async def over_loopback(house: House | None = None, **options: Any) -> AsyncIterator[dict[str, Tool]]:
    async with over_http(house or House()) as port:
        async with running(McpServerHttp("house", f"http://127.0.0.1:{port}/mcp", **options)) as tools:
            yield tools


# --- hosted servers ---------------------------------------------------------------------------------------------------


def test_hosted_server_definition_omits_unset_keys() -> None:
    hosted = HostedMcp(server_label="docs", server_url="https://example.com/mcp")
    assert hosted.definition() == {
        "type": "mcp",
        "server_label": "docs",
        "server_url": "https://example.com/mcp",
        "require_approval": "always",
    }


@pytest.mark.parametrize(
    "hosted",
    [
        HostedMcp(server_label="docs", server_url="https://example.com/mcp", require_approval="never"),
        HostedMcp(server_label="mail", connector_id="connector_gmail", authorization="ya29.secret"),
        HostedMcp(server_label="home", tunnel_id="tunnel_1", defer_loading=False),
        HostedMcp(
            server_label="shop",
            server_url="https://example.com/mcp",
            server_description="Groceries",
            headers={"X-Key": "secret"},
            allowed_tools=("order", "list"),
            require_approval={"always": {"tool_names": ["order"]}, "never": {"read_only": True}},
            defer_loading=True,
        ),
    ],
    ids=lambda one: one.server_label,
)
def test_hosted_server_definition_matches_the_protocol(hosted: HostedMcp) -> None:
    definition = hosted.definition()
    assert Mcp.model_validate(definition, strict=True).model_extra == {}
    check_client_frame({"type": "session.update", "session": {"type": "realtime", "tools": [definition]}})


def test_hosted_server_definition_has_all_set_keys() -> None:
    hosted = HostedMcp(
        server_label="shop",
        tunnel_id="tunnel_1",
        server_description="Groceries",
        authorization="ya29",
        headers={"X-Key": "secret"},
        allowed_tools=("order",),
        require_approval={"never": {"tool_names": ["list"]}},
        defer_loading=False,
    )
    assert hosted.definition() == {
        "type": "mcp",
        "server_label": "shop",
        "tunnel_id": "tunnel_1",
        "server_description": "Groceries",
        "authorization": "ya29",
        "headers": {"X-Key": "secret"},
        "allowed_tools": ["order"],
        "require_approval": {"never": {"tool_names": ["list"]}},
        "defer_loading": False,
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "no address"),
        ({"server_url": "https://example.com", "tunnel_id": "t"}, "server_url and tunnel_id"),
        ({"server_url": "https://example.com", "connector_id": "c"}, "server_url and connector_id"),
        ({"server_url": "https://example.com", "require_approval": "sometimes"}, "sometimes"),
        ({"server_url": "https://example.com", "require_approval": {"ask": {}}}, "require_approval"),
        ({"server_url": "https://example.com", "allowed_tools": "order"}, "list"),
        ({"server_url": "https://example.com", "server_label": " "}, "server_label"),
    ],
)
def test_invalid_hosted_server_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ToolError, match=message):
        HostedMcp(**{"server_label": "docs", **values})


def test_hosted_server_repr_has_no_secrets() -> None:
    hosted = HostedMcp(
        server_label="docs",
        server_url=f"https://me:{TOKEN}@example.com/mcp?key={TOKEN}#{TOKEN}",
        authorization=TOKEN,
        headers={"X-Key": TOKEN},
    )
    assert repr(hosted) == "<HostedMcp 'docs' at https://example.com/mcp>"


# --- the package ------------------------------------------------------------------------------------------------------


def test_importing_the_module_does_not_import_mcp() -> None:
    script = (
        "import sys, appliance.runtime.mcp\n"
        "print([one for one in sys.modules if one.partition('.')[0] in ('mcp', 'mcp_types', 'httpx2', 'anyio')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("found", [None, types.ModuleType("mcp")], ids=["missing", "version 1"])
def test_config_check_finds_a_missing_mcp_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], found: types.ModuleType | None
) -> None:
    agent = 'name = "Ada"\ninstructions = "Be brief."\n[[mcp]]\nname = "notes"\ncommand = "python3"\n'
    (tmp_path / "ada.toml").write_text(agent, encoding="utf-8")
    path = tmp_path / "appliance.toml"
    path.write_text('[assistant]\nagents_file = "ada.toml"\n', encoding="utf-8")
    monkeypatch.setitem(sys.modules, "mcp", found)
    assert main(["config", "check", "--config", str(path)]) == 2
    assert capsys.readouterr().err == (
        f"{path}:2: assistant.agents_file: MCP server 'notes' needs the package mcp 2: "
        "pip install 'voice-appliance[mcp]'\n"
    )


@pytest.mark.parametrize("found", [None, types.ModuleType("mcp")], ids=["missing", "version 1"])
async def test_error_without_the_mcp_package_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, found: types.ModuleType | None
) -> None:
    monkeypatch.setitem(sys.modules, "mcp", found)
    with pytest.raises(ToolError, match=r"pip install 'voice-appliance\[mcp\]'"):
        await program().connect()


@pytest.mark.parametrize(
    "make",
    [
        lambda: McpServerStdio("", "run"),
        lambda: McpServerStdio("house", " "),
        lambda: McpServerStdio("house", "run", "one text"),
        lambda: McpServerStdio("house", "run", timeout_s=0),
        lambda: McpServerStdio("house", "run", needs_approval="add"),
        lambda: McpServerStdio("house", "run", allowed_tools="add"),
        lambda: McpServerHttp("house", "house.local/mcp"),
        lambda: McpServerHttp("house", "ftp://house.local/mcp"),
        lambda: McpServerHttp("house", "http://house.local:hush/mcp"),
    ],
)
def test_invalid_server_is_refused(make: Any) -> None:
    with pytest.raises(ToolError):
        make()


@pytest.mark.parametrize("value", [f"{TOKEN}\nX-Other: 1", f"{TOKEN}ü"])
def test_invalid_header_is_refused_and_the_error_hides_its_value(value: str) -> None:
    with pytest.raises(ToolError) as caught:
        McpServerHttp("house", "https://house.local/mcp", headers={"X-Key": value})
    assert "X-Key" in str(caught.value)
    assert TOKEN not in str(caught.value)


# --- tools ------------------------------------------------------------------------------------------------------------


async def test_tools_of_a_program_are_listed_and_called() -> None:
    server: McpServer = program()
    await server.connect()
    tools = {one.name: one for one in await server.list_tools()}
    assert len(tools) == len(TOOLS)  # the server sends pages of three
    assert tools["add"].definition() == {
        "type": "function",
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer", "description": "Added to a."}},
            "required": ["a", "b"],
        },
    }
    assert tools["add"].is_async
    assert await call(tools["add"], '{"a": 19, "b": 23}') == "42"
    await server.close()


async def test_tools_of_an_http_server_are_listed_and_called() -> None:
    async with over_loopback() as tools:
        assert len(tools) == len(TOOLS)
        assert await call(tools["add"], '{"a": 19, "b": 23}') == "42"


async def test_server_with_the_protocol_before_2026_works() -> None:
    async with over_loopback(House(is_old=True)) as tools:
        assert await call(tools["add"], '{"a": 19, "b": 23}') == "42"


async def test_illegal_names_are_changed_and_call_the_right_tool() -> None:
    async with over_loopback() as tools:
        assert all(TOOL_NAME.fullmatch(name) for name in tools)
        said = {name: await call(tools[name]) for name in ("house_lamp", "house_lamp_2", "house_lamp_3")}
    assert said == {
        "house_lamp": "called house_lamp",
        "house_lamp_2": "called house/lamp",
        "house_lamp_3": "called house lamp",
    }


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("say_lines", "one\ntwo"),
        ("measure", '{"celsius":21.5,"room":"Küche"}'),
        (
            "show",
            "[image, image/png]\n[resource house://plan, type unknown]\n[resource house://note, text/plain]\n"
            "Buy bread.\n[resource house://photo, type unknown]\n[audio, audio/wav]",
        ),
        ("nothing", "(no output)"),
    ],
)
async def test_result_is_formatted_as_text(name: str, said: str) -> None:
    async with over_loopback(allowed_tools=[name]) as tools:
        assert await call(tools[name]) == said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("refuse", "The lamp is broken."),
        ("break", "break of the MCP server 'house' failed: out of order"),
    ],
)
async def test_failed_call_is_reported_to_the_model_and_the_server_stays_connected(name: str, said: str) -> None:
    async with over_loopback() as tools:
        with pytest.raises(ToolError) as caught:
            await call(tools[name])
        assert str(caught.value) == said
        assert await call(tools["add"], '{"a": 1, "b": 2}') == "3"


async def test_only_allowed_tools_are_listed(caplog: pytest.LogCaptureFixture) -> None:
    async with over_loopback(allowed_tools=["house/lamp", "add", "fly"]) as tools:
        assert list(tools) == ["add", "house_lamp"]
    assert "allowed_tools names unknown tools: fly" in caplog.text


@pytest.mark.parametrize(
    ("needs_approval", "those"),
    [(False, []), (True, ["add", "house_lamp"]), (["house/lamp"], ["house_lamp"])],
)
async def test_needs_approval_applies_to_the_named_tools(needs_approval: Any, those: list[str]) -> None:
    async with over_loopback(needs_approval=needs_approval, allowed_tools=["add", "house/lamp"]) as tools:
        assert [name for name, one in tools.items() if one.needs_approval] == those


async def test_needs_approval_with_an_unknown_tool_is_refused() -> None:
    with pytest.raises(ToolError, match=r"needs_approval names unlock; it has the tools add, .*hang"):
        async with over_loopback(needs_approval=["unlock"]):
            pass


async def test_time_limit_of_a_server_applies_to_its_tools() -> None:
    async with over_loopback(timeout_s=7.5) as tools:
        assert {one.timeout_s for one in tools.values()} == {7.5}


async def test_endless_tool_list_is_an_error() -> None:
    with pytest.raises(LinkError, match="the list never ends"):
        async with over_loopback(House(is_endless=True)):
            pass


async def test_calls_overlap_and_cancelling_a_caller_cancels_only_its_call() -> None:
    house = House()
    async with over_loopback(house) as tools:
        hanging = asyncio.create_task(call(tools["hang"]))
        await house.hanging.wait()
        assert await call(tools["add"], '{"a": 1, "b": 2}') == "3"
        hanging.cancel()
        await house.given_up.wait()
        assert await call(tools["add"], '{"a": 3, "b": 4}') == "7"


# --- secrets ----------------------------------------------------------------------------------------------------------


def ours(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(one.getMessage() for one in caplog.records if not one.name.startswith(OF_THE_SERVER))


async def test_secrets_of_an_http_server_are_sent_but_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("httpx2", "httpcore2", "mcp"):  # our logging setup, maybe in an earlier test, silences them
        caplog.set_level(logging.DEBUG, logger=name)
    house = House(token=f"Bearer {TOKEN}")
    async with over_http(house) as port:
        server = McpServerHttp(
            "house", f"http://127.0.0.1:{port}/mcp?key={TOKEN}-2", headers={"Authorization": f"Bearer {TOKEN}"}
        )
        async with running(server) as tools:
            with pytest.raises(ToolError, match=r"Wrong token: \*\*\*$") as caught:
                await call(tools["betray"])
            shown = f"{caught.value} {server!r} {tools!r}"
    assert house.queries == [f"key={TOKEN}-2"]
    assert house.authorizations == [f"Bearer {TOKEN}"]
    assert TOKEN not in shown
    assert "HTTP Request: POST" in ours(caplog)  # the client libraries logged the request
    assert TOKEN not in ours(caplog)


async def test_user_and_password_of_a_url_are_sent_but_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    house = House(token="Basic bWU6aHVzaC1odXNoLTQy")
    async with over_http(house) as port:
        server = McpServerHttp("house", f"http://me:{TOKEN}@127.0.0.1:{port}/mcp")
        async with running(server) as tools:
            with pytest.raises(ToolError, match=r"Wrong token: Basic \*\*\*$"):
                await call(tools["betray"])
        assert repr(server) == f"<McpServerHttp 'house': http://127.0.0.1:{port}/mcp, not connected>"
    assert TOKEN not in ours(caplog)
    assert "bWU6aHVzaC1odXNoLTQy" not in ours(caplog)


async def test_env_of_a_program_is_passed_but_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server = program(env={"HOUSE_TOKEN": TOKEN})
    async with running(server) as tools:
        with pytest.raises(ToolError, match=r"Wrong token: \*\*\*$"):
            await call(tools["betray"])
        assert TOKEN not in repr(server)
    assert TOKEN not in ours(caplog)


async def test_program_does_not_inherit_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOUSE_TOKEN", TOKEN)
    async with running(program()) as tools:
        with pytest.raises(ToolError, match=r"^Wrong token: $"):
            await call(tools["betray"])


NOISY = """
import os, runpy, sys
token = os.environ["HOUSE_TOKEN"].encode()
sys.stderr.buffer.write(b"token " + token + b"\\n\\x00<0>forged \\x1b[2J\\n\\n" + b"x" * 9000)
sys.stderr.flush()
runpy.run_path(sys.argv[1], run_name="__main__")
"""


async def test_standard_error_of_a_program_is_logged_by_line_without_its_secrets(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    server = McpServerStdio("house", sys.executable, ["-c", NOISY, str(PROGRAM)], env={"HOUSE_TOKEN": TOKEN})
    async with running(server):
        pass
    lines = [one.getMessage().removeprefix("MCP server house: ") for one in caplog.records]
    assert lines[:2] == ["token ***", "\x00<0>forged \x1b[2J"], "the formatter of the log escapes"
    assert [len(line) for line in lines[2:]] == [4096, 4096, 808]


async def test_secret_in_the_result_of_a_tool_is_redacted() -> None:
    headers = {"Authorization": "Bearer house_lamp"}
    async with over_loopback(House(token="Bearer house_lamp"), headers=headers) as tools:
        assert await call(tools["house_lamp"]) == "called ***", "the server says the name of the tool"
