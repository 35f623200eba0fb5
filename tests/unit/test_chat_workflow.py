"""The chat workflow against a small HTTP server on loopback, defined in this file."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPSConnection
from typing import Any

import pytest

from appliance.errors import SettingsError, SpeechError
from appliance.speech.stages import CallPart, ResponseRequest, TextPart
from appliance.speech.workflows.chat import ChatWorkflow, messages
from appliance.speech.workflows.http import Timeouts

LAMP = {
    "type": "function",
    "name": "set_lamp",
    "description": "Switch the lamp.",
    "parameters": {"type": "object", "properties": {"on": {"type": "boolean"}}},
}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
QUICK = Timeouts(connect_s=2, answer_s=2, pause_s=2)


@dataclass
class Endpoint:
    """The server's URL, and what it received."""

    url: str = ""
    head: str = ""
    body: dict[str, Any] = field(default_factory=dict)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)


Script = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def endpoint(script: Script) -> AsyncIterator[Endpoint]:
    seen = Endpoint()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            seen.head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = int(seen.head.lower().split("content-length:")[1].split("\r\n")[0])
            seen.body = json.loads(await reader.readexactly(length))
            await script(writer)
            await writer.drain()
            if not writer.is_closing():
                writer.write_eof()
            await reader.read()
        except (ConnectionError, OSError):
            pass
        finally:
            seen.hung_up.set()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    seen.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with server:
        yield seen
        await asyncio.wait_for(seen.hung_up.wait(), 5)


def chunked(text: str) -> bytes:
    raw = text.encode()
    return f"{len(raw):x}\r\n".encode() + raw + b"\r\n"


def event(delta: Mapping[str, Any], finish: str | None = None) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return f"data: {json.dumps({'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n"


def stream(*events: str, end: bytes = b"0\r\n\r\n") -> Script:
    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"".join(map(chunked, events)) + end)

    return script


def raw(answer: bytes) -> Script:
    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    return script


def user(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def request(*items: Mapping[str, Any], tools: Sequence[Mapping[str, Any]] = (LAMP,), **more: Any) -> ResponseRequest:
    return ResponseRequest(items=items or (user("Hello"),), tools=tools, **more)


async def ask(seen: Endpoint, asked: ResponseRequest | None = None, **more: Any) -> list[TextPart | CallPart]:
    workflow = ChatWorkflow(url=seen.url, model="qwen", timeouts=QUICK, **more)
    return [part async for part in workflow.respond(asked or request())]


async def failure(script: Script, **more: Any) -> str:
    async with endpoint(script) as seen:
        with pytest.raises(SpeechError) as caught:
            await ask(seen, **more)
    return str(caught.value)


async def test_text_is_streamed_as_it_arrives() -> None:
    go_on = asyncio.Event()

    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + chunked(event({"role": "assistant", "content": "Good"})))
        await go_on.wait()
        writer.write(chunked(event({"content": " day."}, "stop")) + chunked("data: [DONE]\n\n") + b"0\r\n\r\n")

    async with endpoint(script) as seen:
        parts = ChatWorkflow(url=seen.url, model="qwen", timeouts=QUICK).respond(request())
        assert await anext(parts) == TextPart("Good")  # before the rest was sent
        go_on.set()
        assert [part async for part in parts] == [TextPart(" day.")]


async def test_request_has_model_messages_tools_and_key() -> None:
    async with endpoint(stream(event({"content": "Yes."}, "stop"), "data: [DONE]\n\n")) as seen:
        await ask(seen, request(user("Hi"), instructions="Be brief."), key="sk-secret")
    assert seen.head.startswith("POST /v1/chat/completions HTTP/1.1\r\n")
    assert "Authorization: Bearer sk-secret\r\n" in seen.head
    assert seen.body == {
        "model": "qwen",
        "stream": True,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "set_lamp",
                    "description": "Switch the lamp.",
                    "parameters": {"type": "object", "properties": {"on": {"type": "boolean"}}},
                },
            }
        ],
        "tool_choice": "auto",
    }


async def test_named_tool_choice_is_converted_to_the_chat_shape() -> None:
    async with endpoint(stream(event({"content": "x"}, "stop"))) as seen:
        await ask(seen, request(tool_choice={"type": "function", "name": "set_lamp"}))
    assert seen.body["tool_choice"] == {"type": "function", "function": {"name": "set_lamp"}}


async def test_tool_choice_none_offers_no_tools() -> None:
    async with endpoint(stream(event({"content": "x"}, "stop"))) as seen:
        await ask(seen, request(tool_choice="none"))
    assert "tools" not in seen.body


async def test_calls_are_assembled_from_fragments() -> None:
    def piece(index: int, **function: str) -> dict[str, Any]:
        return {"tool_calls": [{"index": index, "id": f"call_{index}", "function": function}]}

    events = (
        event(piece(0, name="set_lamp", arguments="")),
        event(piece(0, arguments='{"on"')),
        event(piece(1, name="set_lamp", arguments='{"on": false}')),
        event(piece(0, arguments=": true}")),
        event({}, "tool_calls"),
        "data: [DONE]\n\n",
    )
    async with endpoint(stream(*events)) as seen:
        assert await ask(seen) == [CallPart("set_lamp", '{"on": true}'), CallPart("set_lamp", '{"on": false}')]


async def test_whole_calls_without_an_index_stay_separate() -> None:
    def whole(name: str, on: bool) -> dict[str, Any]:
        return {"tool_calls": [{"id": name, "function": {"name": "set_lamp", "arguments": {"on": on}}}]}

    async with endpoint(stream(event(whole("a", True)), event(whole("b", False), "stop"))) as seen:
        assert await ask(seen) == [CallPart("set_lamp", '{"on": true}'), CallPart("set_lamp", '{"on": false}')]


async def test_thoughts_are_removed_even_if_a_tag_is_split() -> None:
    pieces = ("<thi", "nk>He wants", " tea.</th", "ink>\n\nHello", " <b", "ye.")
    async with endpoint(stream(*(event({"content": one}) for one in pieces), event({}, "stop"))) as seen:
        parts = await ask(seen)
    assert "".join(part.text for part in parts if isinstance(part, TextPart)) == "Hello <bye."


async def test_answer_without_streaming_is_accepted() -> None:
    message = {"choices": [{"message": {"role": "assistant", "content": "All at once."}, "finish_reason": "stop"}]}
    body = json.dumps(message).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    async with endpoint(raw(head + body)) as seen:
        assert await ask(seen) == [TextPart("All at once.")]


async def test_body_without_a_length_ends_with_the_connection() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    async with endpoint(raw(head + event({"content": "Hi."}, "stop").replace("\n", "\r\n").encode())) as seen:
        assert await ask(seen) == [TextPart("Hi.")]


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        ("401 Unauthorized", "check the key"),
        ("404 Not Found", "the name of the model"),
        ("429 Too Many Requests", "raise its rate limit"),
        ("302 Found", "the redirect's target"),
        ("500 Internal Server Error", "see the log"),
    ],
)
async def test_http_error_names_the_address_status_reason_and_remedy(status: str, remedy: str) -> None:
    body = json.dumps({"error": {"message": "not with sk-secret", "type": "x"}}).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    text = await failure(raw(head + body), key="sk-secret")
    assert "http://127.0.0.1:" in text and f"answered {status}: not with ***" in text and remedy in text
    assert "sk-secret" not in text


async def test_stream_that_is_cut_off_yields_its_text_and_then_raises() -> None:
    async with endpoint(stream(event({"content": "I was about to"}), end=b"")) as seen:
        parts = ChatWorkflow(url=seen.url, model="qwen", timeouts=QUICK).respond(request())
        assert await anext(parts) == TextPart("I was about to")
        with pytest.raises(SpeechError, match="closed in the middle"):
            await anext(parts)


async def test_stream_that_ends_without_a_finish_reason_raises() -> None:
    assert "ended early" in await failure(stream(event({"content": "I was about to"})))


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (raw(b"SSH-2.0-OpenSSH_9.2\r\n"), "does not answer in HTTP/1.1"),
        (raw(b""), "closed before an answer came"),
        (raw(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 2_000_000), "does not answer in HTTP/1.1"),
        (raw(HEAD + b"zz\r\n"), "closed in the middle"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\ndata: {}\n\n"), "closed in the middle"),
        (stream("data: " + "x" * 1_100_000), "a line of more than"),
        (stream("data: {oops\n\n"), "invalid JSON"),
        (stream("data: [1]\n\n"), "not an object"),
        (stream('data: {"error": {"message": "out of memory"}}\n\n'), "out of memory"),
    ],
    ids=[
        "not-http",
        "nothing",
        "endless-header",
        "bad-chunk",
        "too-short",
        "endless-line",
        "bad-json",
        "no-object",
        "error-event",
    ],
)
async def test_invalid_answer_raises_a_specific_error(script: Script, expected: str) -> None:
    assert expected in await failure(script)


async def test_call_to_an_unknown_tool_is_refused() -> None:
    call = {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "format_disk", "arguments": "{}"}}]}
    assert "'format_disk', which is not one of its tools" in await failure(stream(event(call, "tool_calls")))


@pytest.mark.parametrize("arguments", ["{on: true}", "[1]", '"x"'])
async def test_arguments_that_are_not_an_object_are_refused(arguments: str) -> None:
    call = {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "set_lamp", "arguments": arguments}}]}
    assert "not a JSON object" in await failure(stream(event(call, "tool_calls")))


async def test_refused_connection_raises_with_the_address() -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    workflow = ChatWorkflow(url=f"http://127.0.0.1:{port}/v1", model="qwen")
    with pytest.raises(SpeechError, match=rf"127\.0\.0\.1:{port}.*cannot be reached.*is that server running"):
        await anext(workflow.respond(request()))


async def test_silent_server_times_out() -> None:
    async def script(_: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)

    async with endpoint(script) as seen:
        workflow = ChatWorkflow(url=seen.url, model="qwen", timeouts=Timeouts(answer_s=0.05))
        with pytest.raises(SpeechError, match="did not answer in time"):
            await anext(workflow.respond(request()))


async def test_closing_the_iterator_closes_the_connection() -> None:
    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + chunked(event({"content": "A long story"})))
        await writer.drain()
        while True:
            await asyncio.sleep(0.01)
            writer.write(chunked(event({"content": " and more"})))
            await writer.drain()

    async with endpoint(script) as seen:
        parts = ChatWorkflow(url=seen.url, model="qwen", timeouts=QUICK).respond(request())
        assert await anext(parts) == TextPart("A long story")
        await parts.aclose()  # type: ignore[attr-defined]
        await asyncio.wait_for(seen.hung_up.wait(), 5)


async def test_read_ahead_of_an_unread_answer_is_bounded() -> None:
    sent = 0

    async def script(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(HEAD + chunked(event({"content": "A long story"})))
        piece = chunked(event({"content": "x" * 60_000}))
        while True:
            writer.write(piece)
            await writer.drain()
            sent += len(piece)

    async with endpoint(script) as seen:
        parts = ChatWorkflow(url=seen.url, model="qwen", timeouts=QUICK).respond(request())
        assert await anext(parts) == TextPart("A long story")
        before = -1
        for _ in range(100):  # until the server stops sending because its socket buffer is full
            if before == sent:
                break
            before = sent
            await asyncio.sleep(0.1)
        assert before == sent < 50_000_000
        await parts.aclose()  # type: ignore[attr-defined]
        await asyncio.wait_for(seen.hung_up.wait(), 5)


@pytest.mark.parametrize(("url", "port"), [("http://[::1]/v1", 80), ("https://[fd00::beef]/v1", 443)])
async def test_ipv6_address_without_a_port_gets_the_default_port(
    monkeypatch: pytest.MonkeyPatch, url: str, port: int
) -> None:
    dialled: list[tuple[str, int]] = []

    def refuse(self: HTTPConnection) -> None:
        dialled.append((self.host, self.port))
        raise ConnectionRefusedError(111, "refused")

    monkeypatch.setattr(HTTPConnection, "connect", refuse)
    monkeypatch.setattr(HTTPSConnection, "connect", refuse)
    with pytest.raises(SpeechError, match="refused"):
        await ask(Endpoint(url))
    assert dialled == [(url.partition("[")[2].partition("]")[0], port)]


async def test_cancelling_the_wait_for_an_answer_closes_the_connection_at_once_and_ends_the_thread() -> None:
    """A barge-in while the server still processes the prompt."""
    asked, hung_up = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()
        hung_up.set()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        answer = asyncio.ensure_future(ask(Endpoint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")))
        await asyncio.wait_for(asked.wait(), 5)
        answer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answer
        await asyncio.wait_for(hung_up.wait(), 1)
    for thread in [one for one in threading.enumerate() if one.name == "chat"]:
        thread.join(1)
        assert not thread.is_alive()


async def test_server_that_pauses_too_long_times_out_after_its_first_text() -> None:
    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + chunked(event({"content": "Well,"})))
        await writer.drain()
        await asyncio.sleep(0.3)

    async with endpoint(script) as seen:
        parts = ChatWorkflow(url=seen.url, model="qwen", timeouts=Timeouts(pause_s=0.1)).respond(request())
        assert await anext(parts) == TextPart("Well,")
        with pytest.raises(SpeechError, match="did not answer in time"):
            await anext(parts)


async def test_https_endpoint_without_tls_raises_a_tls_error() -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        with pytest.raises(SpeechError, match=r"TLS failed \(\w+\): check the address and the certificate"):
            await ask(Endpoint(url))


async def test_silence_is_not_sent_to_the_endpoint() -> None:
    workflow = ChatWorkflow(url="http://127.0.0.1:1/v1", model="qwen", silence="Nothing heard.")
    spoken = {"type": "message", "role": "user", "content": [{"type": "input_audio", "transcript": ""}]}
    assert [part async for part in workflow.respond(request(spoken))] == [TextPart("Nothing heard.")]


def test_items_become_messages_and_consecutive_calls_share_one() -> None:
    items = (
        user("Lights, please"),
        {"type": "function_call", "call_id": "a", "name": "set_lamp", "arguments": '{"on":true}'},
        {"type": "function_call", "call_id": "b", "name": "set_light", "arguments": ""},
        {"type": "function_call", "call_id": "lost", "name": "set_light", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "on"},
        {"type": "function_call_output", "call_id": "b", "output": "done"},
        {"type": "function_call_output", "call_id": "stray", "output": "?"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_audio", "transcript": "Done."}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_audio"}]},
        user("Thanks"),
    )
    assert messages(request(*items)) == [
        {"role": "user", "content": "Lights, please"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "set_lamp", "arguments": '{"on":true}'}},
                {"id": "b", "type": "function", "function": {"name": "set_light", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "on"},
        {"role": "tool", "tool_call_id": "b", "content": "done"},
        {"role": "assistant", "content": "Done."},
        {"role": "user", "content": "Thanks"},
    ]


def test_empty_output_is_still_a_message() -> None:
    call = {"type": "function_call", "call_id": "a", "name": "set_lamp", "arguments": "{}"}
    items = (call, {"type": "function_call_output", "call_id": "a", "output": ""}, user("And?"))
    assert [one["role"] for one in messages(request(*items))] == ["assistant", "tool", "user"]


@pytest.mark.parametrize(
    ("given", "endpoint_url"),
    [
        ("http://127.0.0.1:8080/v1", "http://127.0.0.1:8080/v1/chat/completions"),
        ("https://box.local/v1/", "https://box.local/v1/chat/completions"),
        ("http://[::1]:80/chat/completions", "http://[::1]:80/chat/completions"),
    ],
)
def test_path_is_added_to_the_base_url_once(given: str, endpoint_url: str) -> None:
    assert endpoint_url in repr(ChatWorkflow(url=given, model="m"))


@pytest.mark.parametrize("url", ["", "localhost:11434", "ftp://x/v1", "http://", "http://a b/v1", "http://x:99999/"])
def test_invalid_url_is_refused_by_the_constructor(url: str) -> None:
    with pytest.raises(SettingsError, match="11434/v1"):
        ChatWorkflow(url=url, model="m")


@pytest.mark.parametrize("key", ["a\r\nX: y", "schlüssel"])
def test_key_that_would_break_the_header_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(SettingsError, match="key") as caught:
        ChatWorkflow(url="http://127.0.0.1/v1", model="m", key=key)
    assert key not in str(caught.value)


def test_password_in_the_url_is_refused() -> None:
    with pytest.raises(SettingsError, match="password"):
        ChatWorkflow(url="http://user:hunter2@127.0.0.1/v1", model="m")
