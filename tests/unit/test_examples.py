"""The examples: each runs against the offline brain if possible, otherwise against a scripted server."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import runpy
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support.scripted_server import (
    SESSION_CREATED,
    Connection,
    Frame,
    ScriptedServer,
    Step,
    expect,
    hold,
    reply,
    send,
)

FOLDER = Path(__file__).resolve().parents[2] / "examples"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.py"))


def example(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import one example again, without the module cache."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses look up names there
    spec.loader.exec_module(module)
    return module


# --- frames of the server ---------------------------------------------------------------------------------------


def created(response_id: str) -> Frame:
    response = {"id": response_id, "object": "realtime.response", "status": "in_progress", "output": []}
    return {"type": "response.created", "event_id": "event_c", "response": response}


def ended(response_id: str, item: Frame) -> list[Frame]:
    response = {"id": response_id, "object": "realtime.response", "status": "completed", "output": [item]}
    return [
        {
            "type": "response.output_item.done",
            "event_id": "event_i",
            "response_id": response_id,
            "output_index": 0,
            "item": item,
        },
        {"type": "response.done", "event_id": "event_d", "response": response},
    ]


def written(text: str, response_id: str) -> Step:
    """A complete text answer."""
    item = {
        "id": f"item_{response_id}",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": text}],
    }
    done = {
        "type": "response.output_text.done",
        "event_id": "event_t",
        "response_id": response_id,
        "item_id": f"item_{response_id}",
        "output_index": 0,
        "content_index": 0,
        "text": text,
    }
    return send(created(response_id), done, *ended(response_id, item))


def calling(name: str, arguments: str, response_id: str) -> Step:
    """A complete answer that calls one tool."""
    item = {
        "id": f"item_{response_id}",
        "type": "function_call",
        "status": "completed",
        "name": name,
        "call_id": f"call_{response_id}",
        "arguments": arguments,
    }
    return send(created(response_id), *ended(response_id, item))


def updated(connection: Connection) -> Frame:
    """Return the server's ``session.updated`` for the latest ``session.update``."""
    session = {"object": "realtime.session", "id": "sess_1", **connection.last("session.update")["session"]}
    return {"type": "session.updated", "event_id": "event_u", "session": session}


READY = [send(SESSION_CREATED), expect("session.update"), reply(updated)]


def outputs(connection: Connection) -> list[str]:
    """Return the tool outputs sent to the model."""
    items = [one["item"] for one in connection.of_type("conversation.item.create")]
    return [one["output"] for one in items if one["type"] == "function_call_output"]


# --- all of them ------------------------------------------------------------------------------------------------


def test_readme_lists_exactly_the_examples() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\]\((\w+)\.py\)", text)) == EXAMPLES


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs_as_a_program_without_key_and_network(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py"])
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert said
    assert "error:" not in said


# --- against the offline brain ----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_allowed", [True, False])
async def test_approval_example_switches_the_lamp_only_with_approval(
    is_allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    approval = example("approval", monkeypatch)
    answer = await approval.main("offline", is_allowed=is_allowed)
    assert approval.lamp == {"is_on": is_allowed}
    assert answer == ("The lamp is on." if is_allowed else "The user said no.")


async def test_guardrail_example_trips_on_the_door_code(monkeypatch: pytest.MonkeyPatch) -> None:
    result = await example("guardrail", monkeypatch).main("offline")
    assert result.tripped == ["no_codes"]


async def test_image_example_gets_a_text_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = await example("text_and_image", monkeypatch).main("offline", question="who are you")
    assert answer.startswith("I can't see pictures while I am offline. I am the voice of this box.")


# --- against a scripted server ----------------------------------------------------------------------------------


async def test_image_example_sends_a_png_with_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    script = [*READY, expect("response.create"), written("A red square.", "resp_1"), hold()]
    async with ScriptedServer(script) as server:
        answer = await example("text_and_image", monkeypatch).main(server.base_url, question="What is this?")
        notice, shown = (one["item"] for one in server.connections[0].of_type("conversation.item.create"))
    assert answer == "A red square."
    assert notice["role"] == "system"
    assert shown["content"][0] == {"type": "input_text", "text": "What is this?"}
    assert shown["content"][1]["image_url"].startswith("data:image/png;base64,")


async def test_greeter_example_hands_over_to_the_gardener(monkeypatch: pytest.MonkeyPatch) -> None:
    script = [
        *READY,
        expect("response.create"),
        calling("transfer_to_gardener", "{}", "resp_1"),
        expect("session.update"),
        reply(updated),
        expect("response.create"),
        calling("water_need", '{"plant":"Tomato"}', "resp_2"),
        expect("response.create"),
        written("Hello, this is the gardener. Two litres a day.", "resp_3"),
    ]
    async with ScriptedServer(script) as server:
        assert await example("greeter", monkeypatch).main(server.base_url) == "Gardener"
        server.assert_complete()
        connection = server.connections[0]
    assert outputs(connection)[-1] == "two litres a day"
    offered = [[one["name"] for one in u["session"]["tools"]] for u in connection.of_type("session.update")]
    assert offered == [["transfer_to_gardener"], ["water_need"]]
    assert "Hello, this is the gardener." in json.dumps(connection.of_type("response.create")[1])


class ChatServer:
    """A chat endpoint on loopback that answers one question."""

    def __init__(self, answer: str) -> None:
        self._answer = answer
        self.url = ""
        self.head = ""
        self.body: dict[str, Any] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(self.head.lower().split("content-length:")[1].split("\r\n")[0])
        self.body = json.loads(await reader.readexactly(length))
        body = json.dumps({"choices": [{"message": {"role": "assistant", "content": self._answer}}]}).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        writer.write(head.encode() + b"Connection: close\r\n\r\n" + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def chat_server(answer: str) -> AsyncIterator[ChatServer]:
    chat = ChatServer(answer)
    server = await asyncio.start_server(chat.serve, "127.0.0.1", 0)
    async with server:
        chat.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        yield chat


async def test_delegation_example_sends_the_history_to_the_text_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = [
        *READY,
        expect("response.create"),
        calling("ask_expert", '{"question":"Why does the sky look blue?"}', "resp_1"),
        expect("response.create"),
        written("Because of the air.", "resp_2"),
    ]
    async with chat_server("Rayleigh scattering.") as chat, ScriptedServer(script) as server:
        monkeypatch.setenv("CHAT_URL", chat.url)
        monkeypatch.setenv("CHAT_MODEL", "house-1")
        monkeypatch.setenv("CHAT_KEY", "sk-chat")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        answer = await example("delegation", monkeypatch).main(server.base_url, question="Why is the sky blue?")
        server.assert_complete()
        sent = outputs(server.connections[0])
    assert answer == "Because of the air."
    assert sent == ["Rayleigh scattering."]
    assert chat.head.startswith("POST /v1/chat/completions ")
    assert "authorization: bearer sk-chat" in chat.head.lower()
    assert chat.body["model"] == "house-1"
    assert [(one["role"], one["content"]) for one in chat.body["messages"][1:]] == [
        ("user", "Why is the sky blue?"),
        ("user", "Why does the sky look blue?"),
    ]


async def test_delegation_example_reports_an_unreachable_endpoint_to_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = [
        *READY,
        expect("response.create"),
        calling("ask_expert", '{"question":"Why?"}', "resp_1"),
        expect("response.create"),
        written("I cannot say.", "resp_2"),
    ]
    async with chat_server("never") as chat:
        gone = chat.url
    async with ScriptedServer(script) as server:
        monkeypatch.setenv("CHAT_URL", gone)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert await example("delegation", monkeypatch).main(server.base_url) == "I cannot say."
        (output,) = outputs(server.connections[0])
    assert "ask_expert failed" in output
