"""A Realtime server on loopback that follows a script, frame by literal frame.

A script is a list of steps for one connection; the first connection gets the first script, and so on. After the last
step the connection stays open and silent until the client leaves.

::

    async with ScriptedServer([send(SESSION_CREATED), expect("session.update"), close(1001)]) as server:
        ...  # connect to server.url or server.base_url
        server.assert_complete()

Every frame that arrives is kept with its time in ``server.connections[n].arrivals``. If the client does not do what
`expect` expects, `assert_complete` fails, not the handler; the connection then stays open and silent.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias, assert_never

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from tests.support.patience import patient

__all__ = [
    "SESSION_CREATED",
    "Arrival",
    "Connection",
    "Frame",
    "ScriptedServer",
    "Step",
    "abort",
    "close",
    "expect",
    "hold",
    "pace",
    "refuse",
    "reply",
    "resume_reading",
    "send",
    "send_raw",
    "sleep",
    "stall_handshake",
    "stop_reading",
    "tcp_server",
]

Frame: TypeAlias = dict[str, Any]

_LAST_STEP_S = 0.1  # time for a script to finish after the client left

SESSION_CREATED: Frame = {
    "type": "session.created",
    "event_id": "event_1",
    "session": {"type": "realtime", "object": "realtime.session", "id": "sess_1", "model": "gpt-realtime-2.1"},
}


# --- steps ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Expect:
    type: str
    is_next: bool
    timeout_s: float


@dataclass(frozen=True)
class _Send:
    frames: tuple[str | bytes, ...]


@dataclass(frozen=True)
class _Reply:
    answer: Callable[[Connection], Frame | Sequence[Frame]]


@dataclass(frozen=True)
class _Pace:
    frames: tuple[str, ...]
    every_s: float


@dataclass(frozen=True)
class _Sleep:
    seconds: float


@dataclass(frozen=True)
class _Hold:
    pass


@dataclass(frozen=True)
class _Reading:
    is_on: bool


@dataclass(frozen=True)
class _Close:
    code: int
    reason: str


@dataclass(frozen=True)
class _Abort:
    pass


@dataclass(frozen=True)
class _Refuse:
    status: int
    body: str
    headers: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _StallHandshake:
    pass


Step: TypeAlias = (
    _Expect | _Send | _Reply | _Pace | _Sleep | _Hold | _Reading | _Close | _Abort | _Refuse | _StallHandshake
)


def expect(type: str, *, is_next: bool = False, timeout_s: float = 10.0) -> Step:
    """Wait for a frame of this type; other frames before it are skipped, or fail if `is_next`."""
    return _Expect(type, is_next, timeout_s)


def send(*frames: Mapping[str, Any]) -> Step:
    """Send frames without a pause."""
    return _Send(tuple(_text(frame) for frame in frames))


def send_raw(*frames: str | bytes) -> Step:
    """Send text or binary frames unchanged; they may be invalid."""
    return _Send(frames)


def reply(answer: Callable[[Connection], Frame | Sequence[Frame]]) -> Step:
    """Send the frames that a function returns for the connection, e.g. from ``connection.last("response.create")``."""
    return _Reply(answer)


def pace(frames: Iterable[Mapping[str, Any]], *, every_s: float) -> Step:
    """Send frames at a fixed interval without drift; they are encoded in advance."""
    return _Pace(tuple(_text(frame) for frame in frames), every_s)


def sleep(seconds: float) -> Step:
    """Do nothing for a while; frames that arrive are still recorded."""
    return _Sleep(seconds)


def hold() -> Step:
    """Stay silent until the client leaves."""
    return _Hold()


def stop_reading() -> Step:
    """Stop reading, pings included, like a dead network; what the client sends fills the buffers."""
    return _Reading(False)


def resume_reading() -> Step:
    """Read again."""
    return _Reading(True)


def close(code: int = 1000, reason: str = "") -> Step:
    """Close with a code and a reason."""
    return _Close(code, reason)


def abort() -> Step:
    """Reset the TCP connection without a close frame."""
    return _Abort()


def refuse(status: int, body: str | Mapping[str, Any] = "", headers: Mapping[str, str] | None = None) -> Step:
    """Answer the upgrade with an HTTP status; MUST be the only step of its script."""
    text = body if isinstance(body, str) else json.dumps(body)
    return _Refuse(status, text, tuple((headers or {}).items()))


def stall_handshake() -> Step:
    """Accept the upgrade request and never answer; MUST be the only step of its script."""
    return _StallHandshake()


def _text(frame: Mapping[str, Any]) -> str:
    return json.dumps(frame, separators=(",", ":"))


# --- records ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arrival:
    """One frame from the client."""

    at: float
    """`time.monotonic` seconds."""
    raw: str | bytes
    frame: Frame
    """Empty if `raw` is not a JSON object."""

    @property
    def type(self) -> str:
        return str(self.frame.get("type", ""))


@dataclass
class Connection:
    """The server's record of one connection."""

    number: int
    path: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    arrivals: list[Arrival] = field(default_factory=list)
    close_code: int | None = None
    """The client's close code; None while it is open, 1006 if it left without a close frame."""
    close_reason: str = ""
    failure: str | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at the end of the script."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the client has left."""
    _seen: int = 0
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def types(self) -> list[str]:
        """The types of all frames, in order."""
        return [arrival.type for arrival in self.arrivals]

    def of_type(self, type: str) -> list[Frame]:
        return [arrival.frame for arrival in self.arrivals if arrival.type == type]

    def last(self, type: str) -> Frame:
        """The latest frame of a type; fails if there is none."""
        frames = self.of_type(type)
        assert frames, f"connection {self.number}: no {type} yet, only {self.types}"
        return frames[-1]

    def _record(self, raw: str | bytes) -> None:
        try:
            frame = json.loads(raw)
        except ValueError:
            frame = {}
        self.arrivals.append(Arrival(time.monotonic(), raw, frame if isinstance(frame, dict) else {}))
        self._arrived.set()

    async def _next(self) -> Arrival:
        while self._seen >= len(self.arrivals):
            if self.ended.is_set():
                raise _Failed("the client left")
            self._arrived.clear()
            await self._arrived.wait()
        self._seen += 1
        return self.arrivals[self._seen - 1]


class _Failed(Exception):
    """The client did not follow the script."""


# --- the server -------------------------------------------------------------------------------------------------


class ScriptedServer:
    """The server, an async context manager; takes one script per expected connection.

    Args:
        *scripts: In the order of the connections.
        every_other: The script of all further connections; None refuses them with 503 and fails `assert_complete`.
        ping_interval_s: None sends no pings.
        port: 0 picks a free port.
    """

    def __init__(
        self,
        *scripts: Sequence[Step],
        every_other: Sequence[Step] | None = None,
        ping_interval_s: float | None = None,
        port: int = 0,
    ) -> None:
        self._port = port
        self.connections: list[Connection] = []
        self._scripts = list(scripts)
        self._every_other = every_other
        self._ping_interval_s = ping_interval_s
        self._server: Server | None = None
        self._over = asyncio.Event()
        self._surplus = 0
        self._connected = asyncio.Event()

    async def __aenter__(self) -> ScriptedServer:
        self._server = await serve(
            self._handle,
            "127.0.0.1",
            self._port,
            process_request=self._admit,
            compression=None,
            max_size=None,
            ping_interval=self._ping_interval_s,
            close_timeout=0.2,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over.set()
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = next(iter(self._server.sockets)).getsockname()[1]
        return port

    @property
    def base_url(self) -> str:
        """The base URL for the settings: ``http://127.0.0.1:PORT/v1``."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def url(self) -> str:
        """The WebSocket URL, with a model."""
        return f"ws://127.0.0.1:{self.port}/v1/realtime?model=test"

    async def connection(self, number: int = 0, *, timeout_s: float = 10.0) -> Connection:
        """Wait for the connection with this number, counted from 0."""
        async with asyncio.timeout(patient(timeout_s)):
            while len(self.connections) <= number:
                self._connected.clear()
                await self._connected.wait()
        return self.connections[number]

    def assert_complete(self) -> None:
        """Fail unless every script ran to its end and no further client connected."""
        problems = [f"connection {c.number}: {c.failure}" for c in self.connections if c.failure]
        problems += [
            f"connection {c.number}: its script did not finish; received {c.types}"
            for c in self.connections[: len(self._scripts)]
            if not c.done.is_set() and not c.failure
        ]
        if len(self.connections) < len(self._scripts):
            problems.append(f"{len(self.connections)} connections, expected {len(self._scripts)}")
        if self._surplus:
            problems.append(f"{self._surplus} more connections than scripts")
        assert not problems, "; ".join(problems)

    # --- internals ----------------------------------------------------------------------------------------------

    async def _admit(self, socket_side: ServerConnection, request: Request) -> Response | None:
        number = len(self.connections)
        script = self._scripts[number] if number < len(self._scripts) else self._every_other
        if script is None:
            self._surplus += 1
            return socket_side.respond(503, "no script is left\n")
        record = Connection(number, request.path, dict(request.headers.raw_items()))
        self.connections.append(record)
        self._connected.set()
        match script[0] if script else None:
            case _Refuse(status, body, headers):
                record.done.set()
                return _refusal(socket_side, status, body, headers)
            case _StallHandshake():
                record.done.set()
                await self._over.wait()
        socket_side.script = script  # type: ignore[attr-defined]
        socket_side.record = record  # type: ignore[attr-defined]
        return None

    async def _handle(self, socket_side: ServerConnection) -> None:
        record: Connection = socket_side.record  # type: ignore[attr-defined]
        async with asyncio.TaskGroup() as group:
            script = group.create_task(self._play(socket_side, record))
            await self._read(socket_side, record)
            await asyncio.wait({script}, timeout=_LAST_STEP_S)
            if script.cancel():
                record.failure = "the client left before the end of the script"

    async def _read(self, socket_side: ServerConnection, record: Connection) -> None:
        with suppress(ConnectionClosed):
            while True:
                record._record(await socket_side.recv())
        record.close_code = socket_side.close_code
        record.close_reason = socket_side.close_reason or ""
        record.ended.set()
        record._arrived.set()

    async def _play(self, socket_side: ServerConnection, record: Connection) -> None:
        script: Sequence[Step] = socket_side.script  # type: ignore[attr-defined]
        try:
            for step in script:
                await self._do(step, socket_side, record)
            record.done.set()
        except _Failed as failure:
            record.failure = str(failure)
        except ConnectionClosed:
            record.failure = "the client left in the middle of the script"

    async def _do(self, step: Step, socket_side: ServerConnection, record: Connection) -> None:
        match step:
            case _Expect():
                await _await_frame(step, record)
            case _Send(frames):
                for frame in frames:
                    await socket_side.send(frame)
            case _Reply(answer):
                made = answer(record)
                for one in [made] if isinstance(made, dict) else made:
                    await socket_side.send(_text(one))
            case _Pace(frames, every_s):
                await _beat(socket_side, frames, every_s)
            case _Sleep(seconds):
                await asyncio.sleep(seconds)
            case _Hold():
                await record.ended.wait()
            case _Reading(is_on):
                (socket_side.transport.resume_reading if is_on else socket_side.transport.pause_reading)()
            case _Close(code, reason):
                await socket_side.close(code, reason)
            case _Abort():
                _reset(socket_side)
            case _Refuse() | _StallHandshake():
                raise _Failed("a refusal must be the only step of its script")
            case _:
                assert_never(step)


async def _await_frame(step: _Expect, record: Connection) -> None:
    skipped: list[str] = []
    try:
        async with asyncio.timeout(patient(step.timeout_s)):
            while (arrival := await record._next()).type != step.type:
                skipped.append(arrival.type)
                if step.is_next:
                    raise _Failed(f"expected {step.type} next, got {arrival.type or arrival.raw[:80]!r}")
    except TimeoutError:
        raise _Failed(f"no {step.type} within {step.timeout_s:g} s; after {skipped}") from None
    except _Failed as failure:
        raise _Failed(f"while waiting for {step.type}: {failure}; after {skipped}") from None


async def _beat(socket_side: ServerConnection, frames: Sequence[str], every_s: float) -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    for count, frame in enumerate(frames):
        await asyncio.sleep(max(0.0, start + count * every_s - loop.time()))
        await socket_side.send(frame)


def _reset(socket_side: ServerConnection) -> None:
    opened: socket.socket = socket_side.transport.get_extra_info("socket")
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST instead of FIN
    socket_side.transport.abort()


def _refusal(socket_side: ServerConnection, status: int, body: str, headers: tuple[tuple[str, str], ...]) -> Response:
    response = socket_side.respond(200, body)
    return Response(status, "Scripted", Headers([*response.headers.raw_items(), *headers]), response.body)


@asynccontextmanager
async def tcp_server(answer: bytes | None = None, *, hangs_up: bool = False) -> AsyncIterator[int]:
    """Listen on loopback without speaking HTTP; yields the port.

    Args:
        answer: Sent after the client's first byte; None sends nothing.
        hangs_up: Close after the client's first byte, and the answer if any.
    """
    over = asyncio.Event()

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.read(1)
            if answer is not None:
                writer.write(answer)
                await writer.drain()
            if not hangs_up:
                await over.wait()
        writer.close()

    server = await asyncio.start_server(serve_one, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        over.set()
        server.close()
        await server.wait_closed()
