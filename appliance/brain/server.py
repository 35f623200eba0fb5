"""The offline brain on a WebSocket: a server for any client of the Realtime protocol (GA).

Each connection has one `ServerModel` and one `_BrainSession` that carries out its effects: frames go to the outbox;
each utterance and each response runs in a task over the `VoicePipeline`. Everything runs on the event loop; the
pipeline moves blocking work off it. Audio is sent faster than real time, in chunks of 150 ms, but no faster than the
client reads it.

No client can stall another one. A long frame is encoded and sent in slices. While too many bytes wait for a client, its
events are not read; if it then reads nothing for `SLOW_READER_S`, its connection is closed with 1008.

Like the live service, the server refuses a wrong key or a missing model *after* the handshake: it sends one ``error``
event, then closes with the reason ``<error.type>.<error.code>``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import ssl
import string
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import zip_longest
from types import TracebackType
from typing import Any, NamedTuple, assert_never
from urllib.parse import parse_qs

from websockets.asyncio.server import Server, ServerConnection, serve, unix_serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from appliance.brain.activity import Activity
from appliance.brain.admission import (
    Guesses,
    HttpConnection,
    has_key,
    refused_request,
    too_many_attempts,
)
from appliance.brain.model import (
    BYTES_PER_MS,
    Close,
    CodedAudio,
    Effect,
    EmitFrame,
    Generate,
    GenerationRequest,
    ServerModel,
    StopGenerating,
    Transcribe,
)
from appliance.brain.private_socket import PATH, PrivateSocket
from appliance.errors import ApplianceError, SpeechBusy, SpeechError, is_loopback
from appliance.speech.stages import CallPart, Part, ResponseRequest, SpokenPart, TextPart, VoicePipeline, closed_after

__all__ = ["BrainServer"]

logger = logging.getLogger(__name__)

MAX_FRAME_BYTES = 16 * 2**20  # an append may carry 15 MiB of base64
CHUNK_BYTES = 150 * BYTES_PER_MS
OUTBOX_BYTES = 4 * 2**20  # unsent bytes above which a client's events are not read
SLOW_READER_S = 10.0
SLICE_CHARS = 128_000  # a longer frame is sent in fragments
OUTBOX_FRAMES = 16  # 2.4 s of audio; the socket's own buffers hold more
CLOSE_TIMEOUT_S = 2.0  # a client that does not answer our close is dropped
_ID_ALPHABET = string.ascii_letters + string.digits
_AUDIO = secrets.token_hex(16)  # stands for audio in the text of a frame; no client can guess it


class _Refusal(NamedTuple):
    """Why a connection is refused after the handshake."""

    code: int
    type: str
    error_code: str
    message: str


_WRONG_KEY = _Refusal(3000, "invalid_request_error", "invalid_api_key", "Incorrect API key provided.")


class _Frame(NamedTuple):
    """A frame for the client, with its audio not yet encoded."""

    text: str
    audio: list[CodedAudio]

    @classmethod
    def of(cls, frame: Mapping[str, Any]) -> _Frame:
        audio: list[CodedAudio] = []

        def keep(one: CodedAudio) -> str:
            audio.append(one)
            return _AUDIO

        return cls(json.dumps(frame, separators=(",", ":"), default=keep), audio)

    @property
    def size(self) -> int:
        """Bytes held until the frame is sent."""
        return len(self.text) + sum(len(one.pcm) for one in self.audio)

    def slices(self) -> Iterator[str]:
        texts = self.text.split(_AUDIO) if self.audio else [self.text]
        for text, audio in zip_longest(texts, self.audio):
            for at in range(0, len(text), SLICE_CHARS):
                yield text[at : at + SLICE_CHARS]
            if audio is not None:
                yield from audio.slices()


def _wire_logger() -> logging.Logger:
    """Return the logger for websockets, which drops its error about clients that leave during the handshake."""
    wire = logging.getLogger(f"{__name__}.websockets")
    wire.setLevel(logging.WARNING)
    wire.filters[:] = [lambda record: record.msg != "opening handshake failed"]
    return wire


class BrainServer:
    """Serves the Realtime protocol over a pipeline; use it as an async context manager.

    Args:
        pipeline: Transcribes and answers; shared by all sessions.
        host: Address to listen on. Any address except loopback needs a `token`.
        port: 0 picks a free port; see `url`.
        private: Listen on this socket, and require its token, instead of `host`, `port` and `token`.
        token: Key that clients must send as ``Authorization: Bearer …``, in ASCII; None accepts every client.
        tls: Serve ``wss`` with this context; see `admission.server_tls`.
        max_sessions: Further connections are refused with close code 1013.
        max_responses: Unfinished responses of all sessions together, by default two for each of `max_sessions`; a
            further one gets an ``error`` event with the code ``rate_limit_exceeded``. Each session has its own maximum
            too, see `ServerModel`.

    Raises:
        ApplianceError: A network address without a token, a token that no header can carry, or the server cannot listen
            on the address.
    """

    def __init__(
        self,
        pipeline: VoicePipeline,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        private: PrivateSocket | None = None,
        token: str | None = None,
        tls: ssl.SSLContext | None = None,
        max_sessions: int = 8,
        max_responses: int | None = None,
    ) -> None:
        if private is not None:
            token = private.token
        elif not token and not is_loopback(host):
            raise ApplianceError(
                f"the offline brain on {host!r} would be open to the network: give it a token, or listen on 127.0.0.1"
            )
        if token and not (token.isascii() and token.isprintable() and " " not in token):
            raise ApplianceError(
                "the offline brain's token has a space or a character that is not ASCII: choose another"
            )
        self._pipeline = pipeline
        self._host = host
        self._port = port
        self._private = private
        self._token = token or None
        self._tls = tls
        self._guesses = Guesses()
        self._checking: set[asyncio.Task[Any]] = set()
        self._max_sessions = max_sessions
        self._max_responses = max(32, 2 * max_sessions) if max_responses is None else max_responses
        self._sessions: set[_BrainSession] = set()
        self.activity = Activity()
        """Of the sessions."""
        self._server: Server | None = None

    async def __aenter__(self) -> BrainServer:
        options: dict[str, Any] = {
            "create_connection": HttpConnection,
            "process_request": self._check_request,
            "ssl": self._tls,
            "select_subprotocol": _select_subprotocol,
            "max_size": MAX_FRAME_BYTES,
            "compression": None,  # base64 audio hardly compresses, and loopback has bandwidth to spare
            "close_timeout": CLOSE_TIMEOUT_S,
            "logger": _wire_logger(),
        }
        try:
            if self._private is None:
                self._server = await serve(self._serve, self._host, self._port, **options)
            else:
                self._server = await unix_serve(self._serve, sock=self._private.listening, **options)
        except OSError as error:
            raise ApplianceError(
                f"the offline brain cannot listen on {self._host}:{self._port} ({error.strerror or error}): "
                "choose another port, or 0 for a free one"
            ) from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all sessions with code 1001 and wait for their tasks to end."""
        server, self._server = self._server, None
        if server is not None:
            for task in self._checking:
                task.cancel()
            server.close()
            waiting = asyncio.ensure_future(server.wait_closed())
            await asyncio.wait([waiting], timeout=2 * CLOSE_TIMEOUT_S)
            for session in self._sessions:  # their clients do not read
                session.abort()
            await waiting

    @property
    def url(self) -> str:
        """The URL to connect to, without the model.

        ``ws://127.0.0.1:PORT/v1/realtime``, or ``ws+unix:PATH:/v1/realtime`` on a Unix socket.
        """
        if self._server is None:
            raise ApplianceError("the offline brain is not listening: enter it with 'async with' first")
        if self._private is not None:
            return self._private.url
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'wss' if self._tls else 'ws'}://{host}:{self.port}{PATH}"

    def headers(self) -> dict[str, str]:
        """Return the headers that let a client in; they contain the token."""
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    @property
    def port(self) -> int:
        """The port in use; the port given if the server is not listening on one."""
        if self._server is None or self._private is not None:
            return self._port
        return int(next(iter(self._server.sockets)).getsockname()[1])

    @property
    def sessions(self) -> int:
        """Number of open sessions."""
        return len(self._sessions)

    @property
    def unsent_bytes(self) -> int:
        """Bytes that wait until clients have read."""
        return sum(session.unsent_bytes for session in self._sessions)

    @property
    def responses(self) -> int:
        """Number of unfinished responses of all sessions."""
        return sum(session.responses for session in self._sessions)

    def _check_request(self, connection: ServerConnection, request: Request) -> Response | None:
        if (refused := refused_request(request, token=self._token)) is not None:
            return refused
        return too_many_attempts(request) if self._guesses.is_full(_host_of(connection)) else None

    async def _is_admitted(self, connection: ServerConnection, request: Request) -> bool:
        if self._token is None:
            return True
        is_right = has_key(request, self._token)
        if self._private is not None:  # a random key: guessing is hopeless, and must not delay the right client
            return is_right
        task = asyncio.current_task()
        assert task is not None
        self._checking.add(task)
        try:
            return await self._guesses.check(_host_of(connection), is_right=is_right)
        except asyncio.CancelledError:
            connection.transport.abort()  # websockets closes a connection only after its handler returned or failed
            raise
        finally:
            self._checking.discard(task)

    async def _serve(self, connection: ServerConnection) -> None:
        request = connection.request
        assert request is not None  # set before the handler runs
        target = request.path.encode("ascii", "surrogateescape").decode("utf-8", "replace")
        query = parse_qs(target.partition("?")[2])
        is_admitted = await self._is_admitted(connection, request)
        refusal = self._refusal(request, query) if is_admitted else _WRONG_KEY
        if refusal is not None:
            logger.info("session refused: %s.%s", refusal.type, refusal.error_code)
            await _refuse(connection, refusal)
            return
        session = _BrainSession(
            connection,
            self._pipeline,
            model=query["model"][0],
            may_respond=lambda: self.responses < self._max_responses,
            on_frame=self.activity.used,
        )
        self._sessions.add(session)
        self.activity.joined()
        try:
            await session.run()
        finally:
            self._sessions.discard(session)
            self.activity.left()

    def _refusal(self, request: Request, query: Mapping[str, list[str]]) -> _Refusal | None:
        invalid = "invalid_request_error"
        if "realtime=v1" in ",".join(request.headers.get_all("OpenAI-Beta")):
            text = "The Realtime Beta API is no longer supported. Please use /v1/realtime for the GA API."
            return _Refusal(4000, invalid, "beta_api_shape_disabled", text)
        if "transcription" in query.get("intent", ()):
            text = "The offline brain does not support transcription sessions: omit 'intent' and give a model."
            return _Refusal(4000, invalid, "unsupported_intent", text)
        if "call_id" in query:
            text = "The offline brain does not support WebRTC or SIP calls: give a model instead of 'call_id'."
            return _Refusal(4000, invalid, "unsupported_call_id", text)
        if not query.get("model"):
            text = f"You must provide a model parameter, for example {self.url}?model=gpt-realtime-2.1"
            return _Refusal(4000, invalid, "missing_model", text)
        if len(self._sessions) >= self._max_sessions:
            text = f"The offline brain already has {self._max_sessions} sessions, its maximum: close one first."
            return _Refusal(1013, "server_error", "too_many_sessions", text)
        return None


class _BrainSession:
    """One connection; carries out the effects of its `ServerModel`."""

    def __init__(
        self,
        connection: ServerConnection,
        pipeline: VoicePipeline,
        *,
        model: str,
        may_respond: Callable[[], bool],
        on_frame: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._on_frame = on_frame
        self._pipeline = pipeline
        self._clock = asyncio.get_running_loop().time
        self._model = ServerModel(
            session_id=_new_id("sess"),
            model=model,
            now=self._clock(),
            wall_s=int(time.time()),
            ids=_new_id,
            may_respond=may_respond,
        )
        self._outbox: asyncio.Queue[_Frame | Close] = asyncio.Queue()
        self.unsent_bytes = 0
        """Bytes of the frames in the outbox, and of the frame that is being sent."""
        self._has_sent = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._deadline_moved = asyncio.Event()
        self._tasks = asyncio.TaskGroup()
        self._work: set[asyncio.Task[None]] = set()
        self._generators: dict[str, asyncio.Task[None]] = {}

    @property
    def responses(self) -> int:
        """Number of unfinished responses."""
        return len(self._model.running)

    async def run(self) -> None:
        """Serve until either side closes; return when every task of the session has ended."""
        logger.info("session opened")
        async with self._tasks:
            self._start(self._write())
            self._start(self._keep_time())
            self._apply(self._model.connect(self._clock()))
            await self._read()
            for task in self._work:
                task.cancel()
        logger.info("session closed")

    async def _read(self) -> None:
        try:
            async for frame in self._connection:
                self._on_frame()
                self._apply(self._model.receive(frame, self._clock()))
                await asyncio.sleep(0)  # the iteration does not yield while frames are waiting
                await self._wait_for_reader()
        except TimeoutError:
            logger.warning("session closed: the client read nothing for %g s", SLOW_READER_S)
            await self._drop(1008, "invalid_request_error.slow_reader")
        except ConnectionClosed as closed:
            logger.info("session lost: %s", closed)

    async def _wait_for_reader(self) -> None:
        """Wait until the client has read enough.

        Raises:
            TimeoutError: It has read nothing for `SLOW_READER_S`.
        """
        while self.unsent_bytes > OUTBOX_BYTES:
            self._has_sent.clear()
            async with asyncio.timeout(SLOW_READER_S):
                await self._has_sent.wait()

    async def _drop(self, code: int, reason: str) -> None:
        """Close in the middle of a frame, within `CLOSE_TIMEOUT_S`; the library's ``close`` waits for the reader."""
        with suppress(TimeoutError, ConnectionClosed):
            async with asyncio.timeout(CLOSE_TIMEOUT_S), self._connection.send_context():
                self._connection.protocol.fail(code, reason)
        self.abort()

    def abort(self) -> None:
        """Close the socket without a closing handshake."""
        self._connection.transport.abort()

    async def _write(self) -> None:
        try:
            while True:
                mail = await self._outbox.get()
                if self._outbox.qsize() < OUTBOX_FRAMES:
                    self._has_room.set()
                if isinstance(mail, Close):
                    await self._connection.close(mail.code, mail.reason)
                    return
                if mail.size <= SLICE_CHARS:
                    await self._connection.send("".join(mail.slices()))
                else:
                    await self._connection.send(self._in_turn(mail))
                self.unsent_bytes -= mail.size
                self._has_sent.set()
        except ConnectionClosed:
            return  # `_read` sees it too, and ends the session

    async def _in_turn(self, frame: _Frame) -> AsyncIterator[str]:
        """Yield the frame in slices, and let the other sessions run between them."""
        for part in frame.slices():
            yield part
            self._has_sent.set()
            await asyncio.sleep(0)

    async def _keep_time(self) -> None:
        while (deadline := self._model.deadline) is not None:
            self._deadline_moved.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._deadline_moved.wait()
            except TimeoutError:
                self._apply(self._model.tick(self._clock()))

    def _apply(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case EmitFrame(frame):
                    self._post(_Frame.of(frame))
                case Close():
                    self._post(effect)
                case Transcribe(item_id, pcm, tools):
                    self._start(self._transcribe(item_id, pcm, tools))
                case Generate(response_id, request):
                    self._generators[response_id] = self._start(self._generate(response_id, request))
                case StopGenerating(response_id):
                    if (task := self._generators.pop(response_id, None)) is not None:
                        task.cancel()
                case _:
                    assert_never(effect)
        self._deadline_moved.set()

    def _post(self, mail: _Frame | Close) -> None:
        self._outbox.put_nowait(mail)
        self.unsent_bytes += mail.size if isinstance(mail, _Frame) else 0
        if self._outbox.qsize() >= OUTBOX_FRAMES:
            self._has_room.clear()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._tasks.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        return task

    async def _transcribe(self, item_id: str, pcm: bytes, tools: tuple[Mapping[str, Any], ...]) -> None:
        started = self._clock()
        try:
            heard = await self._pipeline.transcribe(pcm, tools=tools)
        except SpeechError as error:
            logger.warning("transcription of %d ms failed: %s", len(pcm) // BYTES_PER_MS, error)
            code = "rate_limit_exceeded" if isinstance(error, SpeechBusy) else "transcription_failed"
            self._apply(self._model.transcription_failed(item_id, str(error), code=code))
            return
        logger.info("transcribed %d ms in %.0f ms", len(pcm) // BYTES_PER_MS, 1000 * (self._clock() - started))
        self._apply(self._model.transcribed(item_id, heard.text))

    async def _generate(self, response_id: str, request: GenerationRequest) -> None:
        answer = self._pipeline.respond(
            ResponseRequest(
                items=request.items,
                tools=request.tools,
                instructions=request.instructions,
                tool_choice=request.tool_choice,
                metadata=request.metadata,
            ),
            spoken=request.spoken,
            voice=request.voice,
            speed=request.speed,
        )
        async with closed_after(answer) as parts:
            try:
                async for part in parts:
                    await self._deliver(response_id, part)
            except SpeechError as error:
                logger.warning("response failed: %s", error)
                self._apply(self._model.fail_response(response_id, str(error), now=self._clock()))
            else:
                self._apply(self._model.finish_response(response_id, now=self._clock()))
            finally:
                self._generators.pop(response_id, None)

    async def _deliver(self, response_id: str, part: Part) -> None:
        match part:
            case TextPart(text):
                self._apply(self._model.response_text(response_id, text))
            case CallPart(name, arguments):
                self._apply(self._model.response_call(response_id, name, arguments))
            case SpokenPart(text, pcm):
                self._apply(self._model.response_text(response_id, text))
                for at in range(0, len(pcm), CHUNK_BYTES):
                    await self._breathe()
                    self._apply(self._model.response_audio(response_id, "", pcm[at : at + CHUNK_BYTES]))
            case _:
                assert_never(part)
        await self._breathe()

    async def _breathe(self) -> None:
        """Let the reader process a cancel, and wait until a slow client has read."""
        await asyncio.sleep(0)
        await self._has_room.wait()


async def _refuse(connection: ServerConnection, refusal: _Refusal) -> None:
    error = {
        "type": refusal.type,
        "code": refusal.error_code,
        "message": refusal.message,
        "param": None,
        "event_id": None,
    }
    try:
        await connection.send(json.dumps({"type": "error", "event_id": _new_id("event"), "error": error}))
    except ConnectionClosed:
        return
    await connection.close(refusal.code, f"{refusal.type}.{refusal.error_code}")


def _select_subprotocol(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """Select ``realtime`` for browsers; their other entry carries the key and is not echoed."""
    return Subprotocol("realtime") if "realtime" in offered else None


def _host_of(connection: ServerConnection) -> str:
    """Return the address of a client, without its port; "" on a Unix socket."""
    address = connection.remote_address
    return str(address[0]) if address else ""


def _new_id(prefix: str) -> str:
    return f"{prefix}_{''.join(secrets.choice(_ID_ALPHABET) for _ in range(21))}"
