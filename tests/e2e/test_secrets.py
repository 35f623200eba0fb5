"""Marked keys are planted everywhere, hostile servers quote them everywhere, and then everything is searched.

The appliance runs as a process: its journal, trace, terminal, JSON output and the environment of its children are what
a user would find.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance import RealtimeAgent, RealtimeSession
from appliance.agents.mcp_servers import HostedMcp
from appliance.errors import ApplianceError, LinkError, SpeechError, ToolError
from appliance.runtime.mcp import McpServerHttp
from appliance.service.trace import replay
from appliance.speech.stages import ResponseRequest
from appliance.speech.workflows.chat import ChatWorkflow
from tests.support.mcp_server import PROGRAM, House, over_http
from tests.support.patience import patient
from tests.support.processes import children
from tests.support.rig import COMMITTED, audio_delta, calling, created, done, updated
from tests.support.scripted_server import (
    SESSION_CREATED,
    Connection,
    Frame,
    ScriptedServer,
    Step,
    close,
    expect,
    hold,
    refuse,
    reply,
    send,
    send_raw,
    tcp_server,
)

pytestmark = pytest.mark.timeout(180)  # not timing-sensitive: runs beside the unit tests


def marked(name: str) -> str:
    """Return a key of no known shape."""
    return f"Zq8v{name}4xW7kR2tY"


LINK, UNUSED, CHAT, HEADER = marked("Link"), marked("Unused"), marked("Chat"), marked("Header")
HOUSE, PROGRAM_TOKEN, HOSTED = marked("House"), marked("Program"), marked("Hosted")
KEYS = (LINK, UNUSED, CHAT, HEADER, HOUSE, PROGRAM_TOKEN, HOSTED)
ECHO = " ".join(one for one in KEYS if one not in (UNUSED, HEADER))
"""What a server says that knows every key that the device sends; a program sends `HEADER`."""

AGENT = f"""
name = "House"
instructions = "Look after the house."
tools = ["set_volume"]

[[mcp]]
name = "house"
url = "http://127.0.0.1:PORT/mcp"
headers = {{ Authorization = "Bearer ${{HOUSE_TOKEN}}" }}
allowed_tools = ["betray"]

[[mcp]]
name = "program"
command = {json.dumps(sys.executable)}
args = [{json.dumps(str(PROGRAM))}]
env = {{ HOUSE_TOKEN = "${{PROGRAM_TOKEN}}" }}
allowed_tools = ["add"]

[[mcp]]
label = "recipes"
url = "https://recipes.example.com/mcp"
headers = {{ X-Odd = "${{HOSTED_TOKEN}}" }}
"""


def assert_nowhere(**places: str) -> None:
    """Fail with the name of the place, and what stands around the first key."""
    for place, text in places.items():
        for key in KEYS:
            at = text.find(key)
            assert at < 0, f"{key} in the {place}: {text[max(0, at - 200) : at + 60]!r}"
        assert "Zq8v" not in text, place


# --- what a hostile server says -----------------------------------------------------------------------------------


def failed(**more: Any) -> Frame:
    return {"type": "error", "event_id": LINK, "error": {"type": "invalid_request_error", "message": ECHO} | more}


def spoken(connection: Connection) -> Sequence[Frame]:
    """An answer whose item, transcript and usage quote the keys, and its end."""
    message = {"type": "message", "role": "assistant", "content": [{"type": "output_audio", "transcript": ECHO}]}
    item = {"id": "item_said", "status": "completed", **message}
    delta = audio_delta(connection)
    words = {"type": "response.output_audio_transcript.delta", "delta": ECHO}
    ended = {"type": "response.output_audio_transcript.done", "transcript": ECHO}
    return [
        created(connection),
        {"type": "conversation.item.added", "item": item},
        delta,
        {**delta, **words},
        {**delta, **ended},
        {"type": "response.output_item.done", "response_id": delta["response_id"], "item": item},
        done(connection),
    ]


HEARD = {
    "type": "conversation.item.input_audio_transcription.completed",
    "item_id": COMMITTED["item_id"],
    "transcript": ECHO,
}
OPENED: list[Step] = [
    send(SESSION_CREATED | {"session": {"type": "realtime", "instructions": ECHO, LINK: [ECHO]}}),
    expect("session.update"),
    send({"type": f"odd.{LINK}", "tools": [{"type": "mcp", "headers": {"X": HOSTED}}], "text": json.dumps([ECHO])}),
    send(failed(), failed(code=LINK, param=HOSTED)),
]
TURN: list[Step] = [
    expect("input_audio_buffer.commit"),
    send(COMMITTED, HEARD),
    expect("response.create"),
    reply(calling("set_volume", percent=50, note=ECHO, token=LINK)),
    expect("response.create"),
    reply(calling("betray", note=ECHO)),
    expect("response.create"),
    reply(spoken),
]
FAULTS: list[list[Step]] = [
    [refuse(503, {"error": {"type": LINK, "code": HOSTED, "message": ECHO}}, headers={"X-Odd": ECHO})],
    [send(SESSION_CREATED), send_raw(f'{{"{LINK}"', f'{{"type":"error","error":7,"{LINK}":0}}'), close(1012, ECHO)],
    [send(SESSION_CREATED), send(failed()), close(1011, f"{LINK}\x00\x1b[2J")],
]
"""Connections that fail; the device then tries again."""


# --- the appliance as a process -----------------------------------------------------------------------------------


class Planted:
    """A folder with settings and keys, and the environment and arguments that use them."""

    def __init__(self, folder: Path, base_url: str, port: int) -> None:
        self.folder = folder
        self.trace = folder / "trace.jsonl"
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("APPLIANCE_", "OPENAI_"))},
            "HOUSE_TOKEN": HOUSE,
            "PROGRAM_TOKEN": PROGRAM_TOKEN,
            "HOSTED_TOKEN": HOSTED,
            "CHAT_TOKEN": CHAT,
            "STATE_DIRECTORY": str(folder),
        }
        (folder / "house.toml").write_text(AGENT.replace("PORT", str(port)), encoding="utf-8")
        (folder / "key").write_text(UNUSED, encoding="utf-8")
        (folder / "key").chmod(0o600)
        self.settings = [
            *("audio.backend=simulated", "pins.factory=mock", f"service.trace={self.trace}", "service.log_level=debug"),
            *(f"link.base_url={base_url}", "link.backoff_initial_s=0.1", "link.backoff_max_s=0.2", "link.fallbacks="),
            *(f"assistant.agents_file={folder / 'house.toml'}", "brain.chat_key_env=CHAT_TOKEN"),
            *("history.persist=true", "audio.announcements=false"),
        ]

    def key_in(self, source: str) -> None:
        """Put the link's key into a source; the sources behind it hold another key."""
        credentials = self.folder / "credentials"
        credentials.mkdir(exist_ok=True)
        self.environ["OPENAI_API_KEY"] = UNUSED
        if source == "credential":
            (credentials / "openai_api_key").write_text(LINK, encoding="utf-8")
            self.environ["CREDENTIALS_DIRECTORY"] = str(credentials)
        if source == "file":
            (self.folder / "key").write_text(LINK, encoding="utf-8")
        if source == "environment":
            self.environ["OPENAI_API_KEY"] = LINK
        else:
            self.settings.append(f"link.key_file={self.folder / 'key'}")

    def forget_the_agent(self) -> None:
        self.settings = [one for one in self.settings if "agents_file" not in one]

    @asynccontextmanager
    async def started(self, *command: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """Run a command; its standard error is a journal, in the file ``journal``."""
        with (self.folder / "journal").open("w", encoding="utf-8") as journal:
            status = os.fstat(journal.fileno())
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "appliance.cli", *command),
                *(word for one in self.settings for word in ("--set", one)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=journal,
                env=self.environ | {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"},
            )
            try:
                yield process
            finally:
                if process.returncode is None:
                    process.kill()
                await process.wait()

    @property
    def files(self) -> dict[str, str]:
        """Every file that the appliance wrote, by name."""
        planted = {"key", "openai_api_key"}
        paths = [path for path in self.folder.rglob("*") if path.is_file() and path.name not in planted]
        return {path.name: path.read_bytes().decode(errors="replace") for path in paths}

    def logs(self, text: str) -> bool:
        return text in (self.folder / "journal").read_text(encoding="utf-8")

    def assert_clean(self, **more: str) -> None:
        assert_nowhere(**self.files, **more)
        assert "***" in self.files["trace.jsonl"], "the servers did quote the keys"
        assert all(isinstance(json.loads(line), dict) for line in self.files["trace.jsonl"].splitlines())
        assert replay(self.trace)[1] == []


@asynccontextmanager
async def planted(folder: Path, *scripts: Sequence[Step]) -> AsyncIterator[tuple[Planted, ScriptedServer]]:
    house = House(token=f"Bearer {HOUSE}")
    async with over_http(house) as port, ScriptedServer(*scripts) as server:
        yield Planted(folder, server.base_url, port), server


@pytest.mark.parametrize(
    "last",
    [
        [*OPENED, hold()],
        [refuse(401, f"no such key: {LINK}")],
        [send(failed()), close(1008, f"invalid_api_key: {LINK}")],
    ],
)
async def test_daemon_tells_no_key_to_the_journal_the_trace_or_its_children(tmp_path: Path, last: list[Step]) -> None:
    async with planted(tmp_path, *FAULTS, last) as (device, server):
        device.key_in("credential")
        async with device.started("run") as daemon:
            while len(server.connections) <= len(FAULTS) or not device.logs(f"link {len(FAULTS) + 1}: "):
                assert daemon.returncode is None, device.files["journal"]
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.5)
            found = children(daemon.pid)
            daemon.send_signal(signal.SIGTERM)
            await asyncio.wait_for(daemon.wait(), patient(30))
        assert LINK in json.dumps(server.connections[-1].headers), "the key was sent"
        [program] = [environ for command, environ in found.items() if str(PROGRAM) in command]
        assert f"HOUSE_TOKEN={PROGRAM_TOKEN}\n" in program, "the variable that its maker named"
        assert_nowhere(children="".join(found.values()).replace(PROGRAM_TOKEN, ""))
        device.assert_clean()
        journal = device.files["journal"]
    assert "***" in journal
    assert all(line.startswith(("<7>", "<6>", "<4>", "<3>")) for line in journal.removesuffix("\n").split("\n"))
    assert journal.replace("\n", "").isprintable()


@pytest.mark.parametrize("source", ["credential", "file", "environment"])
async def test_simulated_turn_shows_no_key_in_the_terminal(tmp_path: Path, source: str) -> None:
    async with planted(tmp_path, [*OPENED, *TURN, hold()]) as (device, server):
        device.key_in(source)
        async with device.started("simulate") as process:
            shown, _ = await asyncio.wait_for(process.communicate(b"turn on the lamp\n"), patient(90))
        server.assert_complete()
        terminal = shown.decode()
        device.assert_clean(terminal=terminal)
    for line in ("you said   ***", "it answers ***", "tool       set_volume", "tool       betray", "trouble"):
        assert line in terminal
    assert "Wrong token: ***" in terminal, "the MCP server quotes its header"


async def test_json_of_a_turn_holds_no_key(tmp_path: Path) -> None:
    async with planted(tmp_path, [*OPENED, *TURN, hold()]) as (device, server):
        device.key_in("environment")
        async with device.started("ask", "turn on the lamp", "--json") as process:
            printed, _ = await asyncio.wait_for(process.communicate(), patient(90))
        server.assert_complete()
        device.assert_clean(json=printed.decode())
    found = json.loads(printed)
    assert found["reply"].startswith("***")
    assert [tool["name"] for tool in found["tools"]] == ["set_volume", "betray"]


@pytest.mark.parametrize("action", ["show", "check"])
async def test_settings_are_shown_without_a_key(tmp_path: Path, action: str) -> None:
    async with planted(tmp_path) as (device, _):
        device.key_in("file")
        device.settings += [f"assistant.name={LINK}", f"assistant.instructions=the key is {LINK}"]
        device.forget_the_agent()
        async with device.started("config", action) as process:
            printed, _ = await asyncio.wait_for(process.communicate(), patient(60))
    assert_nowhere(output=printed.decode(), journal=device.files["journal"])
    assert process.returncode == 0, device.files["journal"]


async def test_chat_endpoint_that_quotes_its_key_is_not_quoted(tmp_path: Path) -> None:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert f"Bearer {CHAT}" in head
        body = json.dumps({"error": {"message": f"{CHAT} {LINK}", "type": CHAT}})
        writer.write(f"HTTP/1.1 401 {CHAT}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(respond, "127.0.0.1", 0) as chat, planted(tmp_path) as (device, _):
        port = chat.sockets[0].getsockname()[1]
        device.key_in("environment")
        device.forget_the_agent()
        device.settings += [
            f"brain.chat_url=http://127.0.0.1:{port}/v1",
            "brain.workflow=chat",
            "link.provider=offline",
        ]
        async with device.started("simulate") as process:
            shown, _ = await asyncio.wait_for(process.communicate(b"turn on the lamp\n"), patient(90))
        assert_nowhere(terminal=shown.decode(), **device.files)
    assert "answered 401 ***" in shown.decode()


# --- a program ----------------------------------------------------------------------------------------------------


def told(error: BaseException | None) -> str:
    """Return all that an error and its chain say, suppressed contexts too."""
    lines = []
    while error is not None:
        lines += [str(error), repr(error), *traceback.format_exception(error), repr(error.__dict__)]
        error = error.__cause__ or error.__context__
    return "\n".join(lines)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    caplog.set_level(logging.DEBUG, "appliance")
    yield caplog
    assert_nowhere(log=caplog.text)


def session_to(url: str, **options: Any) -> RealtimeSession:
    hosted = HostedMcp(server_label="mail", server_url="https://mail.example/mcp", headers={"X-Odd": HOSTED})
    agent = RealtimeAgent(name="Ada", mcp_servers=[hosted])
    options = {"api_key": lambda: LINK, "headers": {"X-House-Token": HEADER}, "connect_timeout_s": 2.0} | options
    return RealtimeSession(agent, url=url, **options)


async def test_events_and_reprs_of_a_session_hold_no_key(log: pytest.LogCaptureFixture) -> None:
    said = f"{LINK} {HEADER} {HOSTED}"

    def spoken_to_a_program(connection: Connection) -> Sequence[Frame]:
        return json.loads(json.dumps(spoken(connection)).replace(ECHO, said))

    opened = [send(SESSION_CREATED | {"session": {"type": "realtime", "instructions": said}}), expect("session.update")]
    turn = [reply(updated), send(failed(message=said)), expect("response.create"), reply(spoken_to_a_program), hold()]
    async with ScriptedServer([*opened, *turn]) as server, session_to(server.base_url, raw_events=False) as session:
        session.send_message("hello")
        seen = []
        async with asyncio.timeout(patient(20)):
            async for event in session:
                seen += [repr(event), str(getattr(event, "text", "")), str(getattr(event, "message", ""))]
                if event.type == "turn_end":
                    break
        assert server.connections[0].headers["X-House-Token"] == HEADER
        assert_nowhere(events="\n".join(seen), reprs=repr(session) + repr(session.history) + repr(session.agents))
    assert "***" in "\n".join(seen)


@pytest.mark.parametrize(
    "script",
    [
        [refuse(401, {"error": {"type": LINK, "code": HEADER, "message": LINK}}, headers={"X-Odd": LINK})],
        [close(3000, f"invalid_request_error.{LINK}")],
        [send(failed(message=HEADER)), close(1008, HEADER)],
    ],
)
async def test_error_of_a_session_that_cannot_be_opened_holds_no_key(
    log: pytest.LogCaptureFixture, script: list[Step]
) -> None:
    async with ScriptedServer(every_other=script) as server:
        with pytest.raises(ApplianceError) as caught:
            async with session_to(server.base_url):
                pass
    assert_nowhere(error=told(caught.value))


async def test_error_of_a_key_function_holds_no_key(log: pytest.LogCaptureFixture) -> None:
    def fetch() -> str:
        raise OSError(f"the vault refuses {LINK}")

    with pytest.raises(ApplianceError) as caught:
        async with session_to("ws://127.0.0.1:9/v1", api_key=fetch):
            pass
    assert_nowhere(error=told(caught.value))


async def test_errors_of_mcp_servers_hold_no_key(log: pytest.LogCaptureFixture) -> None:
    async with over_http(House(token=f"Bearer {HOUSE}")) as port:
        headers = {"Authorization": f"Bearer {HOUSE}"}
        server = McpServerHttp("house", f"http://127.0.0.1:{port}/mcp?k={HEADER}", headers=headers)
        await server.connect()
        [betray] = [one for one in await server.list_tools() if one.name == "betray"]
        with pytest.raises(ToolError) as caught:
            await betray.function()
        await server.close()
    with pytest.raises(LinkError) as lost:
        await McpServerHttp("house", f"http://me:{HOUSE}@127.0.0.1:{port}/mcp", timeout_s=2.0).connect()
    assert_nowhere(error=told(caught.value), loss=told(lost.value), repr=repr(server) + repr(betray))


async def test_error_of_the_chat_endpoint_holds_no_key() -> None:
    async with tcp_server(f"HTTP/1.1 500 {CHAT}\r\nContent-Length: {len(CHAT)}\r\n\r\n{CHAT}".encode()) as port:
        workflow = ChatWorkflow(url=f"http://127.0.0.1:{port}/v1", model="m", key=CHAT)
        said_by_user = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello"}]}
        with pytest.raises(SpeechError) as caught:
            async for _ in workflow.respond(ResponseRequest(items=[said_by_user], tools=[])):
                pass
    assert_nowhere(error=told(caught.value), repr=repr(workflow))
