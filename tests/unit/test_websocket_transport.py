"""The WebSocket transport against a scripted server on loopback: which events a link posts, in order, how often."""

from __future__ import annotations

import asyncio
import base64
import errno
import importlib.metadata
import json
import logging
import socket
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.conversation.events import Event, FrameRefused, LinkDown, LinkFailure, LinkUp, ServerEventReceived
from appliance.errors import SettingsError
from appliance.realtime import protocol as wire
from appliance.realtime.transports import websocket
from appliance.realtime.transports.websocket import USER_AGENT, Endpoint, WebSocketTransport, endpoint_url
from tests.support.scripted_server import (
    SESSION_CREATED,
    ScriptedServer,
    abort,
    close,
    expect,
    hold,
    refuse,
    resume_reading,
    send,
    send_raw,
    sleep,
    stall_handshake,
    stop_reading,
    tcp_server,
)

KEY = "sk-test-do-not-print-1234567890"
CHUNK = bytes(960)  # 20 ms


class Inbox:
    """Collects events, and waits for the one that a test needs."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._arrived = asyncio.Event()

    def post(self, event: Event) -> None:
        self.events.append(event)
        self._arrived.set()

    async def wait(self, is_it: Callable[[Event], bool], timeout_s: float = 10.0) -> Event:
        seen = 0
        async with asyncio.timeout(timeout_s):
            while True:
                for event in self.events[seen:]:
                    if is_it(event):
                        return event
                seen = len(self.events)
                self._arrived.clear()
                await self._arrived.wait()

    async def down(self, link: int = 1) -> LinkDown:
        event = await self.wait(lambda e: isinstance(e, LinkDown) and e.link == link)
        assert isinstance(event, LinkDown)
        return event

    async def up(self, link: int = 1) -> None:
        await self.wait(lambda e: e == LinkUp(link))

    def of(self, link: int) -> list[Event]:
        return [event for event in self.events if getattr(event, "link", None) == link]


@asynccontextmanager
async def running(
    url: str, inbox: Inbox, *, headers: Callable[[], Mapping[str, str]] = dict, **options: Any
) -> AsyncIterator[WebSocketTransport]:
    transport = WebSocketTransport(Endpoint(url=url, headers=headers, name="test"), post=inbox.post, **options)
    task = asyncio.create_task(transport.run())
    await asyncio.sleep(0)
    try:
        yield transport
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def end_of(url: str, **options: Any) -> tuple[LinkDown, list[Event]]:
    """Connect once and wait for ``LinkDown``."""
    inbox = Inbox()
    async with running(url, inbox, **options) as transport:
        transport.connect(1)
        down = await inbox.down()
    return down, inbox.of(1)


def append(pcm: bytes = CHUNK) -> wire.InputAudioBufferAppend:
    return wire.InputAudioBufferAppend(audio=pcm)


# --- addresses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("https://api.openai.com/v1", "wss://api.openai.com/v1/realtime?model=gpt-realtime-2.1"),
        ("https://api.openai.com/v1/", "wss://api.openai.com/v1/realtime?model=gpt-realtime-2.1"),
        ("https://api.openai.com/v1/realtime", "wss://api.openai.com/v1/realtime?model=gpt-realtime-2.1"),
        ("http://127.0.0.1:8080/v1", "ws://127.0.0.1:8080/v1/realtime?model=gpt-realtime-2.1"),
        ("ws://box.local:1/v1/realtime", "ws://box.local:1/v1/realtime?model=gpt-realtime-2.1"),
        ("wss://h/v1?a=b&c=", "wss://h/v1/realtime?a=b&c=&model=gpt-realtime-2.1"),
        ("wss://h/v1/realtime?model=mine", "wss://h/v1/realtime?model=mine"),
        ("wss://h/v1/realtime?call_id=rtc_1", "wss://h/v1/realtime?call_id=rtc_1"),
        ("https://h", "wss://h/realtime?model=gpt-realtime-2.1"),
        (" https://[::1]:9/v1 ", "wss://[::1]:9/v1/realtime?model=gpt-realtime-2.1"),
    ],
)
def test_base_url_becomes_the_websocket_url(base_url: str, url: str) -> None:
    assert endpoint_url(base_url, "gpt-realtime-2.1") == url


def test_model_may_be_any_string() -> None:
    assert endpoint_url("http://h/v1", "a b/c&d") == "ws://h/v1/realtime?model=a%20b%2Fc%26d"
    assert endpoint_url("http://h/v1", "") == "ws://h/v1/realtime"


@pytest.mark.parametrize(
    "bad", ["", "api.openai.com/v1", "ftp://h/v1", "http://", "http://h:port/v1", "http://h:99999"]
)
def test_invalid_base_url_is_refused_with_an_example(bad: str) -> None:
    with pytest.raises(SettingsError, match="base URL"):
        endpoint_url(bad, "m")


def test_key_in_a_url_is_never_printed() -> None:
    endpoint = Endpoint(url=f"ws://user:{KEY}@h/v1/realtime?key={KEY}", headers=dict, name="x")

    assert KEY not in repr(endpoint)
    assert KEY not in repr(WebSocketTransport(endpoint, post=print))
    with pytest.raises(SettingsError) as caught:
        endpoint_url(f"http://user:{KEY}@h:port/v1?key={KEY}", "m")
    assert KEY not in str(caught.value)


# --- a good link ------------------------------------------------------------------------------------------------


async def test_link_comes_up_carries_frames_both_ways_and_goes_down_once() -> None:
    script = [send(SESSION_CREATED), expect("input_audio_buffer.commit"), send({"type": "x.new"}), close(1000, "bye")]
    inbox = Inbox()
    async with ScriptedServer(script) as server, running(server.url, inbox) as transport:
        transport.connect(7)
        await inbox.up(7)
        transport.send(7, wire.InputAudioBufferCommit())
        await inbox.down(7)
        server.assert_complete()

    up, created, unknown, down = inbox.events
    assert up == LinkUp(7)
    assert isinstance(created, ServerEventReceived)
    assert isinstance(created.event, wire.SessionCreated)
    assert isinstance(unknown, ServerEventReceived)
    assert isinstance(unknown.event, wire.UnknownEvent)
    assert down == LinkDown(7, "closed", 1000, "bye")


async def test_handshake_has_no_compression_no_beta_header_and_our_user_agent() -> None:
    inbox = Inbox()
    async with (
        ScriptedServer([hold()]) as server,
        running(
            endpoint_url(server.base_url, "m 1"), inbox, headers=lambda: {"Authorization": f"Bearer {KEY}"}
        ) as transport,
    ):
        transport.connect(1)
        connection = await server.connection()

    headers = {name.lower(): value for name, value in connection.headers.items()}
    assert connection.path == "/v1/realtime?model=m%201"
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["user-agent"] == USER_AGENT
    assert not {"openai-beta", "sec-websocket-extensions", "sec-websocket-protocol"} & set(headers)


def test_user_agent_has_the_package_version() -> None:
    assert importlib.metadata.version("voice-appliance") == USER_AGENT.partition("/")[2]


async def test_headers_are_read_at_each_connect() -> None:
    keys = iter(["first", "second"])
    inbox = Inbox()
    async with (
        ScriptedServer([hold()], [hold()]) as server,
        running(server.url, inbox, headers=lambda: {"Authorization": f"Bearer {next(keys)}"}) as transport,
    ):
        for link in (1, 2):
            transport.connect(link)
            await inbox.up(link)

    assert [c.headers["Authorization"] for c in server.connections] == ["Bearer first", "Bearer second"]


async def test_events_sent_before_the_link_is_up_keep_their_order() -> None:
    inbox = Inbox()
    async with ScriptedServer([expect("response.create")]) as server, running(server.url, inbox) as transport:
        transport.connect(1)
        for number in range(100):
            transport.send(1, append(number.to_bytes(2, "little")))
        transport.send(1, wire.InputAudioBufferCommit())
        transport.send(1, wire.ResponseCreate(event_id="r"))
        connection = await server.connection()
        await asyncio.wait_for(connection.done.wait(), 10)

    assert connection.types == ["input_audio_buffer.append"] * 100 + ["input_audio_buffer.commit", "response.create"]
    heard = [base64.b64decode(frame["audio"]) for frame in connection.of_type("input_audio_buffer.append")]
    assert heard == [number.to_bytes(2, "little") for number in range(100)]


async def test_disconnect_drains_the_outbox_and_closes_with_1000() -> None:
    inbox = Inbox()
    async with (
        ScriptedServer([expect("response.cancel")]) as server,
        running(server.url, inbox, close_timeout_s=60) as transport,
    ):
        transport.connect(1)
        await inbox.up()
        transport.send(1, wire.ResponseCancel())
        transport.disconnect(1)
        assert inbox.of(1)[-1] == LinkDown(1, "closed", 1000, "closed by us")
        connection = await server.connection()
        await asyncio.wait_for(connection.ended.wait(), 10)

    assert connection.types == ["response.cancel"]
    assert connection.close_code == 1000
    server.assert_complete()


async def test_reader_yields_to_the_loop_between_frames() -> None:
    delta = {"type": "response.output_text.delta", "delta": "x"}
    inbox = Inbox()
    turns = 0
    async with ScriptedServer([send(*[delta] * 200), close()]) as server, running(server.url, inbox) as transport:
        counts: list[int] = []
        transport._post = lambda event: (counts.append(turns), inbox.post(event))  # type: ignore[assignment,func-returns-value]
        transport.connect(1)
        while not any(isinstance(event, LinkDown) for event in inbox.events):
            turns += 1
            await asyncio.sleep(0)

    gaps = [later - earlier for earlier, later in pairwise(counts[1:201])]
    assert len(gaps) == 199
    assert min(gaps) >= 1


# --- ends -------------------------------------------------------------------------------------------------------

CLOSES: list[tuple[int, str, LinkFailure]] = [
    (1000, "", "closed"),
    (1001, "Your session hit the maximum duration of 60 minutes.", "session_expired"),
    (3000, "invalid_request_error.invalid_api_key", "bad_key"),
    (1013, "insufficient_quota.credit_balance_exhausted", "no_credit"),
    (4000, "invalid_request_error.beta_api_shape_disabled", "bad_shape"),
    (1011, "", "server_error"),
    (1008, "the host unauthorized.example.org has a session expired", "policy"),
]


@pytest.mark.parametrize(("code", "reason", "kind"), CLOSES)
async def test_close_is_reported_with_kind_code_and_reason(code: int, reason: str, kind: LinkFailure) -> None:
    async with ScriptedServer([send(SESSION_CREATED), close(code, reason)]) as server:
        down, events = await end_of(server.url)

    assert down == LinkDown(1, kind, code, reason)
    assert [type(event) for event in events] == [LinkUp, ServerEventReceived, LinkDown]


async def test_bad_key_at_openai_is_an_error_event_and_then_a_close() -> None:
    error = {
        "type": "error",
        "event_id": "event_1",
        "error": {"type": "invalid_request_error", "code": "invalid_api_key", "message": f"Incorrect API key: {KEY}"},
    }
    async with ScriptedServer([send(error), close(3000, "invalid_request_error.invalid_api_key")]) as server:
        down, events = await end_of(server.url)

    assert isinstance(events[1], ServerEventReceived)
    assert isinstance(events[1].event, wire.ErrorEvent)
    assert events[1].event.error.code == "invalid_api_key"
    assert down.kind == "bad_key"


STATUSES: list[tuple[int, str | dict[str, Any], str, LinkFailure]] = [
    (302, "", "Scripted", "not_a_server"),
    (400, "", "Scripted", "bad_shape"),
    (401, "", "Scripted", "bad_key"),
    (403, "", "Scripted", "unauthorized"),
    (404, "", "Scripted", "not_an_endpoint"),
    (429, "", "Scripted", "rate_limited"),
    (429, {"error": {"type": "insufficient_quota", "code": None}}, "insufficient_quota", "no_credit"),
    (500, "", "Scripted", "server_error"),
    (503, "", "Scripted", "server_error"),
    (
        401,
        {"error": {"type": "invalid_request_error", "code": "invalid_api_key", "message": f"Incorrect: {KEY}"}},
        "invalid_request_error.invalid_api_key",
        "bad_key",
    ),
    (401, '{"error": "no"}', "Scripted", "bad_key"),
    (401, "[" * 100_000, "Scripted", "bad_key"),
]


@pytest.mark.parametrize(("status", "body", "detail", "kind"), STATUSES)
async def test_refused_upgrade_is_reported_with_its_status(
    status: int, body: str | dict[str, Any], detail: str, kind: LinkFailure
) -> None:
    async with ScriptedServer([refuse(status, body)]) as server:
        down, events = await end_of(server.url)
        server.assert_complete()

    assert events == [down]
    assert down == LinkDown(1, kind, status, detail)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("20", 20.0), (" 7 ", 7.0), ("-5", None), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("", None)],
)
async def test_retry_after_in_seconds_is_reported(header: str, seconds: float | None) -> None:
    async with ScriptedServer([refuse(429, headers={"Retry-After": header})]) as server:
        down, _ = await end_of(server.url)

    assert (down.kind, down.retry_after_s) == ("rate_limited", seconds)


async def test_redirect_is_not_followed() -> None:
    async with ScriptedServer() as other:
        redirect = refuse(307, headers={"Location": other.url})
        async with ScriptedServer([redirect]) as server:
            down, _ = await end_of(server.url, headers=lambda: {"Authorization": f"Bearer {KEY}"})
        assert other.connections == []
        other.assert_complete()

    assert down.code == 307


async def test_tcp_reset_is_a_lost_connection() -> None:
    async with ScriptedServer([send(SESSION_CREATED), abort()]) as server:
        down, events = await end_of(server.url)

    assert down.code == 1006
    assert down.kind == "lost"
    assert isinstance(events[0], LinkUp)


async def test_refused_connection_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as placeholder:
        port = placeholder.getsockname()[1]
    down, events = await end_of(f"ws://127.0.0.1:{port}/v1/realtime")

    assert events == [down]
    assert down.code is None
    assert down.kind == "refused"


@pytest.fixture
def no_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make name resolution fail as without a network: no packet leaves the machine."""
    real = socket.getaddrinfo

    def fake(host: Any, *args: Any, **options: Any) -> Any:
        if str(host).endswith(".invalid") and not options.get("flags"):
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return real(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", fake)


@pytest.mark.usefixtures("no_resolver")
async def test_unknown_host_name_is_reported() -> None:
    down, _ = await end_of("ws://invalid.invalid/v1/realtime")

    assert down == LinkDown(1, "name_not_found", None, "invalid.invalid: Temporary failure in name resolution")


@pytest.mark.usefixtures("no_resolver")
async def test_words_in_the_host_name_do_not_change_the_failure() -> None:
    down, _ = await end_of("ws://unauthorized.invalid/v1/realtime")

    assert down == LinkDown(1, "name_not_found", None, "unauthorized.invalid: Temporary failure in name resolution")


@pytest.mark.parametrize("host", ["a..b", "x" * 70 + ".example"])
async def test_invalid_host_name_is_reported(host: str) -> None:
    down, _ = await end_of(f"ws://{host}/v1/realtime")

    assert down.kind == "name_not_found"


async def test_hanging_resolver_blocks_neither_disconnect_nor_shutdown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released = threading.Event()
    asked = threading.Event()

    def hang(*_: Any, **options: Any) -> Any:
        if options.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "not digits")
        asked.set()
        released.wait(30)
        raise socket.gaierror(socket.EAI_AGAIN, "late")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    inbox = Inbox()
    async with running("ws://slow.invalid/", inbox) as transport:
        transport.connect(1)
        assert await asyncio.to_thread(asked.wait, 10)
        resolver = next(thread for thread in threading.enumerate() if thread.name == "resolver")
        assert resolver.daemon
        transport.disconnect(1)
    released.set()
    resolver.join(10)

    assert inbox.events == [LinkDown(1, "closed", 1000, "closed by us")]


class Addresses:
    """A host with several loopback addresses; connections to the dead ones hang.

    Names are resolved without a thread, and every socket that the transport opens is recorded.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *hosts: str, dead: Sequence[str] = ()) -> None:
        self.tried: list[str] = []
        self.sockets: list[socket.socket] = []
        self._dead = dead
        self._listed = [self._entry(host) for host in hosts]
        loop = asyncio.get_running_loop()
        self._connect = loop.sock_connect
        monkeypatch.setattr(loop, "sock_connect", self._sock_connect)
        monkeypatch.setattr(socket, "getaddrinfo", self._getaddrinfo)

    @staticmethod
    def _entry(host: str) -> tuple[Any, str]:
        return (socket.AF_INET6 if ":" in host else socket.AF_INET), host

    def _getaddrinfo(self, _: Any, port: Any, *__: Any, **___: Any) -> list[Any]:
        return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port)) for family, host in self._listed]

    async def _sock_connect(self, opened: socket.socket, target: Any) -> None:
        self.tried.append(target[0])
        self.sockets.append(opened)
        if target[0] in self._dead:
            await asyncio.Event().wait()
        await self._connect(opened, target)

    @property
    def are_closed(self) -> bool:
        return all(one.fileno() == -1 for one in self.sockets)


async def test_dead_address_delays_the_next_one_by_the_stagger_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(websocket, "_STAGGER_S", 0.01)
    async with ScriptedServer([close(1000, "reached")]) as server:
        addresses = Addresses(monkeypatch, "127.0.0.9", "127.0.0.1", dead=["127.0.0.9"])
        down, _ = await end_of(f"ws://two.invalid:{server.port}/", connect_timeout_s=2.0)

    assert down.detail == "reached"
    assert addresses.tried == ["127.0.0.9", "127.0.0.1"]
    assert addresses.are_closed


async def test_next_address_is_tried_at_once_if_one_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "_STAGGER_S", 60.0)
    async with ScriptedServer([close(1000, "reached")]) as server:
        addresses = Addresses(monkeypatch, "127.0.0.9", "127.0.0.1")
        down, _ = await end_of(f"ws://two.invalid:{server.port}/")

    assert down.detail == "reached"
    assert addresses.tried == ["127.0.0.9", "127.0.0.1"]


async def test_address_that_answers_before_the_stagger_is_the_only_one_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(websocket, "_STAGGER_S", 60.0)
    async with ScriptedServer([close(1000, "reached")]) as server:
        addresses = Addresses(monkeypatch, "127.0.0.1", "127.0.0.9")
        await end_of(f"ws://two.invalid:{server.port}/")

    assert addresses.tried == ["127.0.0.1"]


async def test_address_families_alternate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "_STAGGER_S", 0.01)
    async with ScriptedServer([close(1000, "reached")]) as server:
        addresses = Addresses(monkeypatch, "::2", "::3", "127.0.0.1", dead=["::2", "::3"])
        down, _ = await end_of(f"ws://many.invalid:{server.port}/", connect_timeout_s=2.0)

    assert down.detail == "reached"
    assert addresses.tried == ["::2", "127.0.0.1"]


async def test_server_down_on_all_addresses_is_reported_as_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as placeholder:
        port = placeholder.getsockname()[1]
    addresses = Addresses(monkeypatch, "127.0.0.1", "127.0.0.9")
    down, _ = await end_of(f"ws://two.invalid:{port}/")

    assert (down.kind, down.code) == ("refused", None)
    assert len(addresses.tried) == 2
    assert addresses.are_closed


async def test_all_dead_addresses_are_a_timeout_and_leave_no_socket_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "_STAGGER_S", 0.01)
    hosts = ["127.0.0.8", "127.0.0.9"]
    addresses = Addresses(monkeypatch, *hosts, dead=hosts)
    down, _ = await end_of("ws://two.invalid/", connect_timeout_s=0.5)
    await asyncio.sleep(0)

    assert down.kind == "timeout"
    assert addresses.tried == hosts
    assert addresses.are_closed


@pytest.mark.parametrize("turns", range(16))
async def test_disconnect_in_any_loop_iteration_leaves_no_socket_open(
    turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "_STAGGER_S", 0.0)
    inbox = Inbox()
    async with ScriptedServer(every_other=[hold()]) as server:
        addresses = Addresses(monkeypatch, "127.0.0.9", "127.0.0.1", dead=["127.0.0.9"])
        async with running(f"ws://two.invalid:{server.port}/", inbox) as transport:
            transport.connect(1)
            for _ in range(turns):
                await asyncio.sleep(0)
            transport.disconnect(1)
            await transport.said_goodbye()
        for _ in range(3):
            await asyncio.sleep(0)

    assert isinstance(inbox.events[-1], LinkDown)
    assert addresses.are_closed


@pytest.mark.parametrize("turns", range(8))
async def test_address_that_answers_while_another_refuses_does_not_wait_for_a_third(
    turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "_STAGGER_S", 0.01)
    async with ScriptedServer([close(1000, "reached")]) as server:
        addresses = Addresses(monkeypatch, "127.0.0.1", "127.0.0.8", "127.0.0.9", dead=["127.0.0.9"])
        refused = asyncio.Event()
        loop = asyncio.get_running_loop()
        connect = loop.sock_connect

        async def sock_connect(opened: socket.socket, target: Any) -> None:
            if target[0] == "127.0.0.8":
                refused.set()
                raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
            if target[0] == "127.0.0.1":
                await refused.wait()
                for _ in range(turns):
                    await asyncio.sleep(0)
            await connect(opened, target)

        monkeypatch.setattr(loop, "sock_connect", sock_connect)
        down, _ = await end_of(f"ws://three.invalid:{server.port}/", connect_timeout_s=2.0)

    assert down.detail == "reached"
    assert addresses.are_closed


async def test_addresses_of_a_proxy_are_raced_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "_STAGGER_S", 0.01)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with tcp_server(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n") as port:
        addresses = Addresses(monkeypatch, "127.0.0.9", "127.0.0.1", dead=["127.0.0.9"])
        monkeypatch.setenv("http_proxy", f"http://proxy.invalid:{port}")
        down, _ = await end_of("ws://far.invalid/", connect_timeout_s=2.0)

    assert down.kind == "proxy"
    assert addresses.tried == ["127.0.0.9", "127.0.0.1"]
    assert addresses.are_closed


async def test_server_that_never_answers_the_upgrade_is_a_timeout() -> None:
    async with ScriptedServer([stall_handshake()]) as server:
        down, events = await end_of(server.url, connect_timeout_s=0.1)

    assert events == [down]
    assert down == LinkDown(1, "timeout", None, "no WebSocket within 0.1 s")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"220 mail.example ESMTP\r\n\r\n", "not_a_server"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nlogin", "not_a_server"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "not_a_server"),
        (b"\x00" * 70_000, "not_a_server"),
        (b"", "lost"),
    ],
)
async def test_server_that_does_not_speak_websocket_is_reported(answer: bytes, kind: str) -> None:
    async with tcp_server(answer, hangs_up=True) as port:
        down, events = await end_of(f"ws://127.0.0.1:{port}/")

    assert events == [down]
    assert down.kind == kind


async def test_server_that_accepts_and_sends_nothing_only_comes_up() -> None:
    inbox = Inbox()
    async with ScriptedServer([hold()]) as server, running(server.url, inbox) as transport:
        transport.connect(1)
        await inbox.up()
        await asyncio.sleep(0.05)
        assert inbox.events == [LinkUp(1)]


async def test_url_with_another_scheme_is_reported() -> None:
    down, _ = await end_of("ftp://127.0.0.1/")

    assert down.kind == "bad_address"


@pytest.mark.parametrize(
    "problem",
    [
        SettingsError("the key file is empty"),
        SettingsError("token file missing"),
        SettingsError("invalid token file: it names no session_expired, and no rate limit"),
        PermissionError(13, "Permission denied"),
    ],
)
async def test_key_that_cannot_be_read_is_reported_without_connecting(problem: Exception) -> None:
    def headers() -> Mapping[str, str]:
        raise problem

    async with ScriptedServer() as server:
        down, _ = await end_of(server.url, headers=headers)
        assert server.connections == []

    assert down.kind == "no_key"


async def test_key_with_a_newline_is_refused() -> None:
    async with ScriptedServer() as server:
        down, _ = await end_of(server.url, headers=lambda: {"Authorization": f"Bearer {KEY}\r\nX-Evil: 1"})
        assert server.connections == []

    assert down.kind == "no_key"
    assert KEY not in down.detail


# --- bad frames -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    ["{", "[]", "null", '{"type": 5}', b"\x00\x01", '{"type":"response.output_audio.delta","delta":"?"}', "[" * 50_000],
)
async def test_invalid_frame_is_refused_and_the_link_stays_up(bad: str | bytes) -> None:
    async with ScriptedServer([send_raw(bad), send(SESSION_CREATED), close()]) as server:
        _, events = await end_of(server.url)

    assert [type(event) for event in events] == [LinkUp, FrameRefused, ServerEventReceived, LinkDown]
    assert isinstance(events[1], FrameRefused)
    assert 10 < len(events[1].problem) < 200


async def test_text_frame_that_is_not_utf8_ends_the_link() -> None:
    async with ScriptedServer([hold()]) as server:
        inbox = Inbox()
        async with running(server.url, inbox) as transport:
            transport.connect(1)
            await inbox.up()
            side = next(iter(server._server.connections))  # type: ignore[union-attr]
            side.transport.write(b"\x81\x02\xff\xfe")
            down = await inbox.down()

    assert down.code == 1007
    assert down.kind == "protocol_error"


async def test_frame_above_the_size_limit_ends_the_link() -> None:
    async with ScriptedServer([send({"type": "x", "long": "x" * 5000}), hold()]) as server:
        down, _ = await end_of(server.url, max_frame_bytes=4096)

    assert down.code == 1009
    assert down.kind == "too_big"


# --- half-open links and back-pressure --------------------------------------------------------------------------


async def test_lost_network_is_detected_by_a_ping() -> None:
    async with ScriptedServer([send(SESSION_CREATED), stop_reading(), hold()]) as server:
        down, _ = await end_of(server.url, ping_interval_s=0.05, ping_timeout_s=0.05)

    assert down.code is None
    assert down.kind == "timeout"
    assert down.detail == "no answer to a ping within 0.05 s"


@pytest.mark.parametrize("kernel_helps", [True, False])
async def test_server_that_accepts_no_data_ends_the_link_even_if_pings_hang(
    kernel_helps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kernel_helps:  # without TCP_USER_TIMEOUT the limit on one send ends the link
        monkeypatch.setattr(websocket, "_tune", lambda *_, **__: None)
    inbox = Inbox()
    async with (
        ScriptedServer([stop_reading(), hold()]) as server,
        running(server.url, inbox, ping_interval_s=0.3, ping_timeout_s=0.2) as transport,
    ):
        transport.connect(1)
        await inbox.up()
        for _ in range(200):  # 200 s of audio: more than all buffers on the way hold
            transport.send(1, append(bytes(48_000)))
        down = await inbox.down()

    assert down.code is None
    assert kernel_helps or "accepted no data" in down.detail
    assert down.kind == "timeout"


async def test_has_room_limits_the_outbox_by_seconds_of_audio_and_it_drains_in_order() -> None:
    inbox = Inbox()
    async with (
        ScriptedServer([stop_reading(), sleep(0.2), resume_reading(), expect("input_audio_buffer.commit")]) as server,
        running(server.url, inbox, outbox_limit_s=5.0) as transport,
    ):
        transport.connect(1)
        await inbox.up()
        sent_s = 0
        while transport.has_room:
            transport.send(1, append(sent_s.to_bytes(2, "little") * 24_000))
            sent_s += 1
            await asyncio.sleep(0)
            assert sent_s < 120, "the buffers on the way take everything"
        assert 5.0 < transport.outbox_audio_s <= 6.0
        transport.send(1, wire.InputAudioBufferCommit())
        connection = await server.connection()
        await asyncio.wait_for(connection.done.wait(), 10)
        assert transport.outbox_audio_s == 0.0
        assert transport.has_room

    heard = [base64.b64decode(frame["audio"])[:2] for frame in connection.of_type("input_audio_buffer.append")]
    assert heard == [number.to_bytes(2, "little") for number in range(sent_s)]
    assert connection.types[-1] == "input_audio_buffer.commit"


async def test_outbox_of_a_lost_link_is_dropped() -> None:
    inbox = Inbox()
    async with running("ws://127.0.0.1:1/", inbox) as transport:
        transport.connect(1)
        transport.send(1, append(bytes(480_000)))
        assert transport.outbox_audio_s == 10.0
        assert not transport.has_room
        await inbox.down()
        await asyncio.sleep(0)
        assert transport.outbox_audio_s == 0.0
        assert transport.has_room


async def test_socket_has_user_timeout_nodelay_and_notsent_lowat() -> None:
    inbox = Inbox()
    async with (
        ScriptedServer([hold()]) as server,
        running(server.url, inbox, ping_timeout_s=7.0) as transport,
    ):
        opened = await websocket._open_socket("127.0.0.1", server.port, unacknowledged_s=7.0)
        try:
            assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000
            assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 64 * 1024
        finally:
            opened.close()
        transport.disconnect(1)


# --- exactly one LinkDown ---------------------------------------------------------------------------------------


async def test_commands_for_an_unknown_link_are_no_ops() -> None:
    inbox = Inbox()
    async with ScriptedServer([hold()]) as server, running(server.url, inbox) as transport:
        transport.send(3, append())
        transport.disconnect(3)
        transport.connect(1)
        await inbox.up()
        transport.disconnect(1)
        transport.disconnect(1)
        transport.send(1, append())
        connection = await server.connection()
        await asyncio.wait_for(connection.ended.wait(), 10)

    assert inbox.events == [LinkUp(1), LinkDown(1, "closed", 1000, "closed by us")]
    assert connection.arrivals == []


async def test_disconnect_while_connecting_cancels_the_attempt() -> None:
    inbox = Inbox()
    async with ScriptedServer([stall_handshake()]) as server, running(server.url, inbox) as transport:
        transport.connect(1)
        await server.connection()
        transport.disconnect(1)
        assert inbox.events == [LinkDown(1, "closed", 1000, "closed by us")]
        await asyncio.sleep(0.02)
        assert "link 1" not in {task.get_name() for task in asyncio.all_tasks()}

    assert len(inbox.events) == 1


async def test_connect_during_shutdown_is_answered() -> None:
    inbox = Inbox()
    transport = WebSocketTransport(Endpoint(url="ws://127.0.0.1:1/", headers=dict), post=inbox.post)
    task = asyncio.create_task(transport.run())
    await asyncio.sleep(0)
    task.cancel()
    transport.connect(1)
    with suppress(asyncio.CancelledError):
        await task

    assert inbox.events == [LinkDown(1, "closed", 1000, "closed by us")]


async def test_two_links_are_open_at_once_and_each_gets_its_own_frames() -> None:
    inbox = Inbox()
    async with ScriptedServer([hold()], [hold()]) as server, running(server.url, inbox) as transport:
        transport.connect(1)
        await inbox.up(1)
        transport.connect(2)
        await inbox.up(2)
        transport.send(1, wire.InputAudioBufferClear())
        transport.send(2, wire.InputAudioBufferCommit())
        transport.disconnect(1)
        await asyncio.wait_for(server.connections[0].ended.wait(), 10)
        assert inbox.events == [LinkUp(1), LinkUp(2), LinkDown(1, "closed", 1000, "closed by us")]
        transport.disconnect(2)
        await asyncio.wait_for(server.connections[1].ended.wait(), 10)

    assert [one.types for one in server.connections] == [["input_audio_buffer.clear"], ["input_audio_buffer.commit"]]


async def test_connect_selects_the_endpoint_by_index() -> None:
    inbox = Inbox()
    async with ScriptedServer([hold()]) as first, ScriptedServer([hold()]) as second:
        endpoints = [Endpoint(one.url, dict, f"server {place}") for place, one in enumerate((first, second))]
        transport = WebSocketTransport(endpoints, post=inbox.post)
        task = asyncio.ensure_future(transport.run())
        transport.connect(1, 1)
        await inbox.up(1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert (len(first.connections), len(second.connections)) == (0, 1)


async def test_tap_gets_every_raw_frame_also_invalid_ones() -> None:
    inbox, seen = Inbox(), []
    frames = [{"type": "session.created", "session": {}, "of_the_future": 1}, {"no": "type"}]
    async with ScriptedServer([send(*frames), hold()]) as server:
        transport = WebSocketTransport(
            Endpoint(server.url, dict), post=inbox.post, tap=lambda link, frame: seen.append((link, json.loads(frame)))
        )
        task = asyncio.ensure_future(transport.run())
        transport.connect(7)
        await inbox.wait(lambda event: isinstance(event, FrameRefused))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert seen == [(7, frames[0]), (7, frames[1])]


async def test_no_event_of_a_link_follows_its_link_down() -> None:
    chatter = send(*[{"type": "response.output_text.delta", "delta": "x"}] * 300)
    inbox = Inbox()
    async with ScriptedServer([chatter, hold()]) as server, running(server.url, inbox) as transport:
        transport.connect(1)
        await inbox.wait(lambda event: isinstance(event, ServerEventReceived))
        transport.disconnect(1)
        count = len(inbox.events)
        connection = await server.connection()
        await asyncio.wait_for(connection.ended.wait(), 10)

    assert inbox.events[count:] == []
    assert isinstance(inbox.events[-1], LinkDown)


async def test_connect_before_run_waits_for_it() -> None:
    inbox = Inbox()
    async with ScriptedServer([close(1000, "hello")]) as server:
        transport = WebSocketTransport(Endpoint(url=server.url, headers=dict), post=inbox.post)
        transport.connect(1)
        await asyncio.sleep(0.01)
        assert inbox.events == []
        task = asyncio.create_task(transport.run())
        await inbox.down()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    assert inbox.events == [LinkUp(1), LinkDown(1, "closed", 1000, "hello")]


async def test_end_of_run_closes_with_1000_and_posts_link_down() -> None:
    inbox = Inbox()
    async with ScriptedServer([hold()]) as server:
        async with running(server.url, inbox) as transport:
            transport.connect(1)
            await inbox.up()
        connection = await server.connection()
        await asyncio.wait_for(connection.ended.wait(), 10)

    assert connection.close_code == 1000
    assert inbox.events == [LinkUp(1), LinkDown(1, "closed", 1000, "closed by us")]


async def test_end_of_run_does_not_wait_for_a_server_that_stopped_reading() -> None:
    inbox = Inbox()
    async with (
        ScriptedServer([stop_reading(), hold()]) as server,
        asyncio.timeout(5),
        running(server.url, inbox, close_timeout_s=0.05) as transport,
    ):
        transport.connect(1)
        await inbox.up()
        transport.send(1, append(bytes(4_800_000)))

    assert inbox.events[-1] == LinkDown(1, "closed", 1000, "closed by us")


STEPS = st.lists(
    st.sampled_from(["connect", "disconnect", "disconnect old", "send", "wait", "up", "tick"]), min_size=1, max_size=12
)
SCRIPTS = {
    "good": [send(SESSION_CREATED), hold()],
    "closes": [send(SESSION_CREATED), close(1011)],
    "resets": [send(SESSION_CREATED), abort()],
    "refuses": [refuse(503)],
    "stalls": [stall_handshake()],
    "garbage": [send_raw("{", b"\x00"), hold()],
}


@given(steps=STEPS, kind=st.sampled_from(sorted(SCRIPTS)))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_connect_gets_exactly_one_link_down_as_its_last_event(steps: Sequence[str], kind: str) -> None:
    events = asyncio.run(_play(steps, kind))

    links = 0
    for link in range(1, steps.count("connect") + 1):
        of_link = [event for event in events if getattr(event, "link", None) == link]
        assert sum(isinstance(event, LinkDown) for event in of_link) == 1, of_link
        assert isinstance(of_link[-1], LinkDown)
        assert sum(isinstance(event, LinkUp) for event in of_link) <= 1
        assert not any(isinstance(event, LinkUp) for event in of_link[1:])
        links += 1
    assert {event.link for event in events if isinstance(event, LinkDown)} == set(range(1, links + 1))


def _is_of(link: int, event: Event) -> bool:
    return getattr(event, "link", None) == link


async def _play(steps: Iterable[str], kind: str) -> list[Event]:
    inbox = Inbox()
    link = 0
    async with (
        ScriptedServer(every_other=SCRIPTS[kind]) as server,
        running(server.url, inbox, connect_timeout_s=0.05, close_timeout_s=0.05) as transport,
    ):
        for step in steps:
            match step:
                case "connect":
                    link += 1
                    transport.connect(link)
                case "disconnect":
                    transport.disconnect(link)
                case "disconnect old":
                    transport.disconnect(link - 1)
                case "send":
                    transport.send(link, append())
                case "wait":
                    await asyncio.sleep(0.01)
                case "tick":
                    await asyncio.sleep(0)
                case "up" if link:
                    await inbox.wait(partial(_is_of, link))
    return inbox.events


# --- secrets ----------------------------------------------------------------------------------------------------


async def test_key_appears_in_no_log_and_no_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    scripts = [
        [send(SESSION_CREATED), expect("response.cancel"), close(3000, f"no such key {KEY}")],
        [refuse(401, {"error": {"type": f"for {KEY}", "code": KEY}})],
        [send_raw(f'{{"type":"error","error":5,"{KEY}":1}}'), close(4000, "sk-live-another-key-1234")],
    ]
    inbox = Inbox()
    async with (
        ScriptedServer(*scripts) as server,
        running(server.url, inbox, headers=lambda: {"Authorization": f"Bearer {KEY}"}) as transport,
    ):
        for link in (1, 2, 3):
            transport.connect(link)
            transport.send(link, wire.ResponseCancel())
            await inbox.down(link)
        server.assert_complete()

    client_side = [record for record in caplog.records if not record.name.startswith("websockets.server")]
    assert any(record.name == websocket.__name__ for record in client_side)
    said = "\n".join(record.getMessage() for record in client_side) + repr(inbox.events) + repr(transport)
    assert KEY not in said
    assert "sk-live-another" not in said


async def test_key_of_any_shape_is_redacted_because_it_was_sent() -> None:
    async with ScriptedServer([close(4999, "who is Zm9v-bar?")]) as server:
        down, _ = await end_of(server.url, headers=lambda: {"api-key": "Zm9v-bar"})

    assert down.detail == "who is ***?"


async def test_reason_is_one_printable_line_of_limited_length() -> None:
    async with ScriptedServer(
        [close(4999, "a\nb\x1b[31m" + "c" * 100)], [refuse(418, {"error": {"type": "d" * 999}})]
    ) as server:
        first, _ = await end_of(server.url)
        second, _ = await end_of(server.url)

    assert first.detail.startswith("a b\\u001b[31mc")
    assert first.detail.isprintable()
    assert len(second.detail) == 200


# --- TLS and proxies --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    return key, cert


@asynccontextmanager
async def tls_server(certificate: tuple[Path, Path]) -> AsyncIterator[int]:
    from websockets.asyncio.server import ServerConnection, serve

    async def greet(side: ServerConnection) -> None:
        await side.close(1000, "over TLS")

    key, cert = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    async with serve(greet, "127.0.0.1", 0, ssl=context) as server:
        yield next(iter(server.sockets)).getsockname()[1]


async def test_tls_works_with_a_trusted_certificate(certificate: tuple[Path, Path]) -> None:
    async with tls_server(certificate) as port:
        down, events = await end_of(f"wss://127.0.0.1:{port}/", tls=ssl.create_default_context(cafile=certificate[1]))

    assert events == [LinkUp(1), LinkDown(1, "closed", 1000, "over TLS")]
    assert down.code == 1000


async def test_untrusted_certificate_is_reported(certificate: tuple[Path, Path]) -> None:
    async with tls_server(certificate) as port:
        down, _ = await end_of(f"wss://127.0.0.1:{port}/")

    assert down.code is None
    assert down.kind == "tls"
    assert "self-signed" in down.detail or "self signed" in down.detail


async def test_trust_store_is_read_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    readers: list[threading.Thread] = []

    def read() -> ssl.SSLContext:
        readers.append(threading.current_thread())
        return ssl.create_default_context()

    monkeypatch.setattr(websocket, "_system_trust", read)
    async with ScriptedServer() as server:
        await end_of(server.url.replace("ws:", "wss:"))
    assert [one is threading.main_thread() for one in readers] == [False]


async def test_tls_to_a_server_without_tls_is_reported() -> None:
    async with ScriptedServer() as server:
        down, _ = await end_of(server.url.replace("ws:", "wss:"))

    assert down.kind in {"tls", "lost"}


async def test_tls_handshake_without_an_answer_is_a_timeout() -> None:
    async with tcp_server(None) as port:
        down, _ = await end_of(f"wss://127.0.0.1:{port}/", connect_timeout_s=0.1)

    assert down.kind == "timeout"


@pytest.mark.usefixtures("no_resolver")
async def test_proxy_of_the_environment_is_used_except_for_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with tcp_server(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n") as port:
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        far, _ = await end_of("ws://invalid.invalid/v1/realtime")
        async with ScriptedServer([close(1000, "direct")]) as server:
            near, _ = await end_of(server.url)

    assert far.kind == "proxy"
    assert near.detail == "direct"
