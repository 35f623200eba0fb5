"""The WebSocket transport against a scripted server on loopback: how links end, and bad frames."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from appliance.conversation.events import FrameRefused, LinkDown, LinkFailure, LinkUp, ServerEventReceived
from appliance.errors import SettingsError
from appliance.realtime import protocol as wire
from appliance.realtime.transports import websocket
from tests.support.link_inbox import KEY, LinkInbox, end_of, running
from tests.support.scripted_server import (
    SESSION_CREATED,
    ScriptedServer,
    abort,
    close,
    hold,
    refuse,
    send,
    send_raw,
    stall_handshake,
    tcp_server,
)

# --- ends -------------------------------------------------------------------------------------------------------------


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
    inbox = LinkInbox()
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
    inbox = LinkInbox()
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


async def test_goodbye_waits_until_the_server_has_all_that_was_sent() -> None:
    """A stop of the device cancels the transport right after it."""
    sound = wire.InputAudioBufferAppend(audio="A" * 200_000)
    inbox = LinkInbox()
    async with ScriptedServer([hold()]) as server:
        async with running(server.url, inbox) as transport:
            transport.connect(1)
            await inbox.up()
            for event in [*[sound] * 50, wire.ResponseCancel()]:
                transport.send(1, event)
            transport.disconnect(1)
            await transport.said_goodbye()
        connection = await server.connection()
        await connection.ended.wait()
    assert connection.types == ["input_audio_buffer.append"] * 50 + ["response.cancel"]
    assert connection.close_code == 1000


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
    inbox = LinkInbox()
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


# --- bad frames -------------------------------------------------------------------------------------------------------


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
        inbox = LinkInbox()
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
