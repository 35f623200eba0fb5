"""Streams the answer to one POST, and its server-sent events: `http.client` on a dedicated thread.

It does not reuse connections, follow redirects, use proxies or decompress: a chat endpoint on the same machine or
network needs none of these. The thread is a daemon and not from the executor, because process exit waits for executor
threads and a name look-up cannot be cancelled. The event loop keeps all deadlines. On a barge-in or a timeout it shuts
the socket down, which ends the thread unless it is still connecting.

Source: WHATWG HTML, "Server-sent events".
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead, RemoteDisconnected
from threading import Semaphore, Thread
from typing import Any
from urllib.parse import urlsplit, urlunsplit

__all__ = ["BadAnswer", "HttpAnswer", "Timeouts", "events", "is_printable", "post"]

_MAX_LINE_BYTES = 1 << 20
_MOST_WAITING = 16  # blocks read ahead
_BLOCK_BYTES = 16_384


class BadAnswer(Exception):
    """The server does not speak HTTP/1.1, or closed the connection before the end of its answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Timeouts of each phase of a request, in seconds."""

    connect_s: float = 5.0
    answer_s: float = 120.0
    """Until the head of the answer: a server may load its model from a slow disk and process a long prompt first."""
    pause_s: float = 30.0
    """Between two blocks of the body."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """The head of an answer, and its body as a stream."""

    status: int
    reason: str
    content_type: str
    blocks: AsyncIterator[bytes]
    """Ends at the end of the body. Raises BadAnswer if the connection closes early, TimeoutError after a pause."""

    async def text(self, *, most_bytes: int) -> str:
        """Return the first `most_bytes` of the body as text; an error ends it early."""
        body = b""
        with suppress(BadAnswer, OSError):
            async for block in self.blocks:
                body += block
                if len(body) >= most_bytes:
                    break
        return body[:most_bytes].decode(errors="replace")


@asynccontextmanager
async def post(url: str, body: bytes, *, headers: Mapping[str, str], timeouts: Timeouts) -> AsyncIterator[HttpAnswer]:
    """Send a request and yield the answer when its head has arrived; the connection is closed on exit.

    Args:
        headers: Their values must be printable ASCII.

    Raises:
        OSError: The connection failed, including TLS errors.
        TimeoutError: No connection or no head in time.
        BadAnswer: The answer is not HTTP/1.1.
    """
    exchange = _Exchange(url, body, headers, connect_s=timeouts.connect_s)
    try:
        await exchange.step(timeouts.connect_s)
        head = await exchange.step(timeouts.answer_s)
        yield HttpAnswer(
            head.status, head.reason, head.getheader("content-type", ""), exchange.blocks(timeouts.pause_s)
        )
    finally:
        exchange.hang_up()


async def events(blocks: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Yield the data of each server-sent event.

    Raises:
        BadAnswer: A line is longer than 1 MiB.
    """
    found = list[str]()
    async for line in _lines(blocks):
        if line.startswith("data:"):
            found.append(line[5:].removeprefix(" "))
        elif not line and found:
            yield "\n".join(found)
            found = []
    if found:
        yield "\n".join(found)


async def _lines(blocks: AsyncIterator[bytes]) -> AsyncIterator[str]:
    rest = b""
    async for block in blocks:
        *whole, rest = (rest + block).split(b"\n")
        if len(rest) > _MAX_LINE_BYTES:
            raise BadAnswer(f"a line of more than {_MAX_LINE_BYTES} bytes")
        for line in whole:
            yield line.rstrip(b"\r").decode(errors="replace")
    yield rest.rstrip(b"\r").decode(errors="replace")


def is_printable(text: str) -> bool:
    """Return whether a text is valid in a header: printable ASCII."""
    return text.isascii() and text.isprintable()


class _Exchange:
    """A request and its answer. The thread posts steps: None once connected, the head, blocks, b"" at the end."""

    def __init__(self, url: str, body: bytes, headers: Mapping[str, str], *, connect_s: float) -> None:
        parts = urlsplit(url)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._connection = kind(parts.hostname or "", parts.port or kind.default_port, timeout=connect_s)
        self._socket: socket.socket | None = None
        self._is_over = False
        self._loop = asyncio.get_running_loop()
        self._taken: asyncio.Queue[Any] = asyncio.Queue()
        self._room = Semaphore(_MOST_WAITING)
        """Free places in `_taken`; without one the thread stops reading, which holds the server back."""
        target = urlunsplit(("", "", parts.path or "/", parts.query, ""))
        steps = self._steps(target, body, {"Connection": "close", **headers})
        Thread(target=self._run, args=(steps,), name="chat", daemon=True).start()

    async def step(self, timeout_s: float) -> Any:
        """Wait for the thread's next step; raises the error that ended the thread."""
        async with asyncio.timeout(timeout_s):
            step = await self._taken.get()
        self._room.release()
        if isinstance(step, Exception):
            raise step
        return step

    async def blocks(self, pause_s: float) -> AsyncIterator[bytes]:
        while block := await self.step(pause_s):
            yield block

    def hang_up(self) -> None:
        """End the thread; if it is still connecting, it ends by itself after that."""
        self._is_over = True
        self._room.release()
        if self._socket is not None:
            with suppress(OSError):  # already closed
                self._socket.shutdown(socket.SHUT_RDWR)

    def _run(self, steps: Iterator[Any]) -> None:
        with suppress(RuntimeError):  # the event loop is closed
            try:
                for step in steps:
                    self._room.acquire()
                    if self._is_over:
                        return
                    self._loop.call_soon_threadsafe(self._taken.put_nowait, step)
            except Exception as exc:  # noqa: BLE001 - `step` raises it
                self._loop.call_soon_threadsafe(self._taken.put_nowait, exc)
            finally:
                self._connection.close()

    def _steps(self, target: str, body: bytes, headers: Mapping[str, str]) -> Iterator[Any]:
        self._connection.connect()
        self._socket = self._connection.sock  # the connection drops its reference when the head has arrived
        self._socket.settimeout(None)
        if self._is_over:
            return
        yield None
        self._connection.request("POST", target, body, headers)
        try:
            response = self._connection.getresponse()
        except RemoteDisconnected:
            raise BadAnswer("the connection was closed before an answer came") from None
        except HTTPException:
            raise BadAnswer("it does not answer in HTTP/1.1") from None
        with response:
            yield response
            yield from _body(response)


def _body(response: HTTPResponse) -> Iterator[bytes]:
    try:
        while block := response.read1(_BLOCK_BYTES):
            yield block
        if response.length:
            raise IncompleteRead(b"")
    except (HTTPException, ConnectionError):
        raise BadAnswer("the connection was closed in the middle of the answer") from None
    yield b""
