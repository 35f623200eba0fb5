"""MCP servers over stdio and streamable HTTP on loopback: how they connect, end and come back."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from appliance.errors import LinkError, ToolError
from appliance.runtime.mcp import McpServerHttp, McpServerStdio
from tests.support.mcp_programs import TOKEN, call, program, running
from tests.support.mcp_server import House, over_http


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def ends(pid: int) -> bool:
    """Wait for a process to end: a process killed while it starts is reaped a little later."""
    while is_running(pid):
        await asyncio.sleep(0.01)
    return True


async def test_close_works_from_another_task_and_twice_and_ends_the_program() -> None:
    server = program(allowed_tools=["get_pid"])
    await asyncio.create_task(server.connect())
    (get_pid,) = await server.list_tools()
    pid = int(await call(get_pid))
    assert is_running(pid)
    await asyncio.create_task(server.close())
    await server.close()
    assert not is_running(pid)
    with pytest.raises(LinkError, match=r"connect\(\) comes first"):
        await server.list_tools()
    with pytest.raises(ToolError, match="cannot be called now"):
        await call(get_pid)


async def test_connect_on_a_connected_server_keeps_its_program() -> None:
    server = program(allowed_tools=["get_pid"])
    async with running(server) as tools:
        pid = await call(tools["get_pid"])
        await asyncio.gather(server.connect(), server.connect())
        assert await call(tools["get_pid"]) == pid


async def test_close_without_connect_is_a_no_op() -> None:
    server = program()
    await server.close()
    assert repr(server) == f"<McpServerStdio 'house': {sys.executable}, not connected>"


async def test_program_that_dies_fails_only_its_calls_and_list(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = program()
    async with running(server) as tools:
        hanging = asyncio.create_task(call(tools["hang"]))
        for dying in (call(tools["die"]), hanging):
            with pytest.raises(ToolError, match="the server closed the connection"):
                await dying
        with pytest.raises(ToolError, match=r"add cannot be called now: .* it was lost"):
            await call(tools["add"], '{"a": 1, "b": 2}')
        with pytest.raises(LinkError, match=r"'house'.* it was lost"):
            await server.list_tools()
        assert repr(server).endswith("lost>")
    assert "MCP server house was lost" in caplog.text


async def test_program_that_dies_during_list_tools_is_a_link_error() -> None:
    server = program()
    async with running(server) as tools:
        dying = asyncio.create_task(call(tools["die"]))
        with pytest.raises(LinkError, match="'house'"):
            while True:
                await server.list_tools()
        with pytest.raises(ToolError):
            await dying


async def test_connect_restarts_a_program_that_died() -> None:
    server = program()
    async with running(server) as tools:
        with pytest.raises(ToolError):
            await call(tools["die"])
        await server.connect()
        assert await call(tools["add"], '{"a": 1, "b": 2}') == "3"


@pytest.mark.parametrize("is_old", [False, True], ids=["without a session", "with a session"])
async def test_later_call_reconnects_an_http_server_that_came_back(is_old: bool) -> None:
    async with over_http(House(is_old=is_old)) as port:
        server = McpServerHttp("house", f"http://127.0.0.1:{port}/mcp", allowed_tools=["add"])
        await server.connect()
        (add,) = await server.list_tools()
    for _ in range(2):
        with pytest.raises(ToolError):
            await call(add, '{"a": 1, "b": 2}')
    with pytest.raises(LinkError):
        await server.list_tools()
    async with over_http(House(is_old=is_old), port=port):
        assert await call(add, '{"a": 1, "b": 2}') == "3"
        await server.close()


async def test_next_call_starts_a_new_session_if_an_http_server_forgot_it() -> None:
    async with over_http(House(is_old=True)) as port:
        server = McpServerHttp("house", f"http://127.0.0.1:{port}/mcp", allowed_tools=["add"])
        await server.connect()
        (add,) = await server.list_tools()
    async with over_http(House(is_old=True), port=port):
        with pytest.raises(ToolError):
            await call(add, '{"a": 1, "b": 2}')
        assert await call(add, '{"a": 1, "b": 2}') == "3"
        await server.close()


async def test_call_does_not_reconnect_a_closed_server() -> None:
    async with over_http(House()) as port:
        server = McpServerHttp("house", f"http://127.0.0.1:{port}/mcp", allowed_tools=["add"])
        async with running(server) as tools:
            pass
        with pytest.raises(ToolError, match=r"connect\(\) comes first"):
            await call(tools["add"], '{"a": 1, "b": 2}')


@pytest.mark.parametrize(
    ("command", "reason"),
    [("no-such-program", "No such file or directory"), ("false", "the server closed the connection")],
)
async def test_error_of_a_broken_program_names_it_and_the_reason(command: str, reason: str) -> None:
    with pytest.raises(LinkError) as caught:
        await McpServerStdio("house", command, ["--token", TOKEN], env={"KEY": TOKEN}).connect()
    message = str(caught.value)
    assert message.startswith(f"MCP server 'house' ({command}) cannot be connected: ")
    assert reason in message
    assert TOKEN not in message


SILENT = "exec sed d"  # exits at the end of its input

STUBBORN = "exec sleep 1000"


def silent(note: Path, manner: str = SILENT, *, timeout_s: float = 100) -> McpServerStdio:
    """A program that writes its process id to a file and never answers."""
    return McpServerStdio("house", "sh", ["-c", f'echo $$ > "$0"; {manner}', str(note)], timeout_s=timeout_s)


async def test_program_that_does_not_answer_times_out_and_is_ended(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    with pytest.raises(LinkError, match=r"'house' \(sh\) cannot be connected: no answer in 0\.5 s"):
        await silent(note, timeout_s=0.5).connect()
    assert not written(note) or await ends(int(written(note)))


def written(note: Path) -> str:
    text = note.read_text() if note.exists() else ""
    return text if text.endswith("\n") else ""


async def started(server: McpServerStdio, note: Path) -> tuple[asyncio.Task[None], int]:
    connecting = asyncio.create_task(server.connect())
    while not written(note) and not connecting.done():
        await asyncio.sleep(0.01)
    return connecting, int(written(note))


async def test_cancelling_connect_ends_the_program(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    server = silent(note)
    connecting, pid = await started(server, note)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    assert await ends(pid)


@pytest.mark.parametrize("manner", [SILENT, STUBBORN])
async def test_close_while_connecting_ends_connect_and_the_program(tmp_path: Path, manner: str) -> None:
    note = tmp_path / "pid"
    server = silent(note, manner)
    connecting, pid = await started(server, note)
    await server.close()
    with pytest.raises(LinkError, match="it was closed meanwhile"):
        await connecting
    assert await ends(pid)


async def test_stubborn_program_is_killed_after_the_connect_timeout(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    server = silent(note, STUBBORN, timeout_s=1)
    connecting, pid = await started(server, note)
    with pytest.raises(LinkError, match="no answer in 1 s"):
        await connecting
    assert await ends(pid)


async def test_close_right_after_connect_starts_ends_it() -> None:
    async with over_http(House()) as port:
        server = McpServerHttp("house", f"http://127.0.0.1:{port}/mcp")
        await server.connect()  # imports the package
        await server.close()
        outcomes: set[str] = set()
        for steps in range(40):
            connecting = asyncio.create_task(server.connect())
            for _ in range(steps):
                await asyncio.sleep(0)
            await server.close()
            try:
                await connecting
                await server.close()
                outcomes.add("connected")
            except LinkError as exc:
                outcomes.add(str(exc).rpartition(": ")[2])
        assert outcomes <= {"connected", "it was closed meanwhile"}
        assert "it was closed meanwhile" in outcomes


async def test_error_of_an_unreachable_http_server_names_it_and_the_reason() -> None:
    async with over_http(House()) as port:
        pass
    with pytest.raises(LinkError) as caught:
        await McpServerHttp("house", f"http://me:{TOKEN}@127.0.0.1:{port}/mcp?key={TOKEN}").connect()
    message = str(caught.value)
    assert message.startswith(f"MCP server 'house' (http://127.0.0.1:{port}/mcp) cannot be connected: ConnectError: ")
    assert TOKEN not in message


async def test_error_of_a_refused_token_has_the_http_status() -> None:
    async with over_http(House(token="Bearer right")) as port:
        with pytest.raises(LinkError, match="HTTP status 401 Unauthorized"):
            await McpServerHttp(
                "house", f"http://127.0.0.1:{port}/mcp", headers={"Authorization": "Bearer wrong"}
            ).connect()
