"""A small HTTP/1.1 client for one streamed answer: POST, TLS, chunked bodies, server-sent events; asyncio only.

No connection is kept, no redirect followed, no proxy used, nothing decompressed: a chat endpoint on the same machine or
network needs none of it, and an HTTP library costs ten megabytes.

Sources: RFC 9112 (HTTP/1.1), WHATWG HTML, "Server-sent events".
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

__all__ = ["BadAnswer", "HttpAnswer", "Timeouts", "events", "is_printable", "post"]

_MAX_LINE_BYTES = 1 << 20  # of one event, of one header
_MAX_HEADERS = 100
_BLOCK_BYTES = 16_384


class BadAnswer(Exception):
    """The other side does not speak HTTP/1.1, or closed in the middle of an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long to wait for what, in seconds."""

    connect_s: float = 5.0
    answer_s: float = 120.0
    """For the first byte: a local model may have to be loaded from a slow disk, and to read a long prompt."""
    pause_s: float = 30.0
    """Between two blocks."""


@dataclass(slots=True)
class HttpAnswer:
    """The head of an answer, and its body as it comes."""

    status: int
    reason: str
    headers: Mapping[str, str]
    """Names in lower case."""
    _reader: asyncio.StreamReader = field(repr=False)
    _pause_s: float = 30.0

    async def blocks(self) -> AsyncIterator[bytes]:
        """Yield the body; ends where the answer says that it ends.

        Raises:
            BadAnswer: The connection was closed before, or the body is malformed.
            TimeoutError: Nothing came for too long.
        """
        try:
            if "chunked" in self.headers.get("transfer-encoding", "").lower():
                async for block in self._chunks():
                    yield block
            elif (length := self.headers.get("content-length")) is not None:
                async for block in self._exactly(_number(length, 10)):
                    yield block
            else:
                while block := await self._timed(self._reader.read(_BLOCK_BYTES)):
                    yield block
        except (asyncio.IncompleteReadError, ConnectionError):
            raise BadAnswer("the connection was closed in the middle of the answer") from None
        except (asyncio.LimitOverrunError, ValueError):
            raise BadAnswer(f"a line of more than {_MAX_LINE_BYTES} bytes") from None

    async def text(self, *, most_bytes: int) -> str:
        """Return the beginning of the body as text; whatever goes wrong ends it."""
        body = b""
        try:
            async for block in self.blocks():
                body += block
                if len(body) >= most_bytes:
                    break
        except (BadAnswer, TimeoutError, OSError):
            pass
        return body[:most_bytes].decode(errors="replace")

    async def _chunks(self) -> AsyncIterator[bytes]:
        while True:
            line = await self._timed(self._reader.readuntil(b"\n"))
            size = _number(line.split(b";")[0].decode("latin-1"), 16)
            if size == 0:
                return
            async for block in self._exactly(size):
                yield block
            await self._timed(self._reader.readexactly(2))

    async def _exactly(self, size: int) -> AsyncIterator[bytes]:
        while size:
            block = await self._timed(self._reader.read(min(size, _BLOCK_BYTES)))
            if not block:
                raise BadAnswer("the connection was closed in the middle of the answer")
            size -= len(block)
            yield block

    async def _timed(self, reading: Awaitable[bytes]) -> bytes:
        async with asyncio.timeout(self._pause_s):
            return await reading


@asynccontextmanager
async def post(url: str, body: bytes, *, headers: Mapping[str, str], timeouts: Timeouts) -> AsyncIterator[HttpAnswer]:
    """Send a request and yield the answer once its head is there; the connection is closed at the end.

    Args:
        headers: Their values must be printable ASCII.

    Raises:
        OSError: No connection, TLS included.
        TimeoutError: No connection or no head in time.
        BadAnswer: What came is no HTTP.
    """
    parts = urlsplit(url)
    async with asyncio.timeout(timeouts.connect_s):
        reader, writer = await asyncio.open_connection(
            parts.hostname, _port(parts), ssl=_tls(parts), limit=_MAX_LINE_BYTES
        )
    try:
        writer.write(_request(parts, body, headers) + body)
        async with asyncio.timeout(timeouts.answer_s):
            await writer.drain()
            status, reason, found = await _head(reader)
        yield HttpAnswer(status, reason, found, reader, timeouts.pause_s)
    finally:
        # abort, not close: a cancelled answer must not wait for the other side's goodbye
        writer.transport.abort()


async def events(blocks: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Yield the data of each server-sent event.

    Raises:
        BadAnswer: An event is larger than a megabyte.
    """
    rest, lines = b"", list[str]()
    async for block in blocks:
        rest += block
        *whole, rest = rest.split(b"\n")
        if len(rest) > _MAX_LINE_BYTES:
            raise BadAnswer(f"a line of more than {_MAX_LINE_BYTES} bytes")
        for raw in whole:
            line = raw.rstrip(b"\r").decode(errors="replace")
            if not line and lines:
                yield "\n".join(lines)
                lines = []
            elif line.startswith("data:"):
                lines.append(line[5:].removeprefix(" "))
    last = rest.rstrip(b"\r").decode(errors="replace")
    if last.startswith("data:"):
        lines.append(last[5:].removeprefix(" "))
    if lines:
        yield "\n".join(lines)


def is_printable(text: str) -> bool:
    """Tell whether a text may stand in a header."""
    return text.isascii() and text.isprintable()


async def _head(reader: asyncio.StreamReader) -> tuple[int, str, dict[str, str]]:
    try:
        while True:
            version, _, rest = (await _line(reader)).partition(" ")
            status, _, reason = rest.partition(" ")
            if not version.startswith("HTTP/1.") or not (len(status) == 3 and status.isdecimal()):
                raise BadAnswer("it does not answer in HTTP/1.1")
            headers = await _headers(reader)
            if int(status) >= 200:  # 1xx: the answer proper follows
                return int(status), reason, headers
    except asyncio.IncompleteReadError:
        raise BadAnswer("the connection was closed before an answer came") from None
    except (asyncio.LimitOverrunError, ValueError):
        raise BadAnswer("it does not answer in HTTP/1.1") from None


async def _headers(reader: asyncio.StreamReader) -> dict[str, str]:
    headers: dict[str, str] = {}
    for _ in range(_MAX_HEADERS):
        line = await _line(reader)
        if not line:
            return headers
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    raise BadAnswer(f"more than {_MAX_HEADERS} headers")


async def _line(reader: asyncio.StreamReader) -> str:
    return (await reader.readuntil(b"\n")).rstrip(b"\r\n").decode("latin-1")


def _request(parts: SplitResult, body: bytes, headers: Mapping[str, str]) -> bytes:
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    named = {
        "Host": f"{host}:{parts.port}" if parts.port else f"{host}",
        "Content-Length": str(len(body)),
        "Accept-Encoding": "identity",
        "Connection": "close",
        **headers,
    }
    target = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
    lines = [f"POST {target} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items()), "", ""]
    return "\r\n".join(lines).encode("ascii")


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _tls(parts: SplitResult) -> ssl.SSLContext | None:
    return ssl.create_default_context() if parts.scheme == "https" else None


def _number(text: str, base: int) -> int:
    try:
        number = int(text.strip(), base)
    except ValueError:
        number = -1
    if number < 0:
        raise BadAnswer(f"a length that is no number: {text.strip()[:20]!r}")
    return number
