"""The WebSocket transport over TLS and through proxies."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance.conversation.events import LinkDown, LinkUp
from appliance.realtime.transports import websocket
from tests.support.link_inbox import end_of
from tests.support.scripted_server import (
    ScriptedServer,
    close,
    tcp_server,
)

# --- ends -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make name resolution fail as without a network: no packet leaves the machine."""
    real = socket.getaddrinfo

    def fake(host: Any, *args: Any, **options: Any) -> Any:
        if str(host).endswith(".invalid") and not options.get("flags"):
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return real(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", fake)


# --- TLS and proxies --------------------------------------------------------------------------------------------------


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
