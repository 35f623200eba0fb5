"""The Realtime protocol over a WebSocket: the transport of the appliance.

Theory of operation. The driver calls `connect`, `disconnect` and `send`, which return at once; `run` owns the tasks.
Each ``Connect`` creates a link: an outbox, a task that dials and then reads, and a writer task. Every link ends in
`_Link.end`, which posts ``LinkDown`` once; nothing is posted for the link after that. The closing handshake of the
socket may take a little longer. So a new link never waits for an old one.

* **Down** (server to client): the reader never pauses to slow the audio down, because a cancel or an error would queue
  behind it. It yields to the loop after each frame, so that a minute of speech in one burst cannot starve a button.
* **Up** (client to server): the outbox has no hard limit; the capture pump checks `has_room` and leaves audio in its
  ring. The kernel may buffer only a little unsent data (``TCP_NOTSENT_LOWAT``). Otherwise a stalled network would hide
  a minute of speech there, and `outbox_audio_s` would be wrong.
* **Half-open connections** (Wi-Fi gone, no FIN) are detected by pings, by ``TCP_USER_TIMEOUT`` for sent bytes, and by a
  limit on how long one send may take.
* **Names are resolved on a daemon thread**, not in the loop's executor: without a network the resolver blocks for half
  a minute, and process exit waits for the executor's threads. This is why a host's addresses are raced here and not by
  ``loop.create_connection``, which runs the same race but resolves in the executor. On Python 3.11 it also merges
  several failures into a message without an errno: a server that is down on both addresses of ``localhost`` would no
  longer be classified as ``refused``.
* **The library is loaded by the first link**, on a thread: a device is ready before it is connected.
* **Secrets** appear in no log, exception or repr: the library's own logger (which prints headers at DEBUG) is replaced
  by a muted one, and details are scrubbed of header values. What the server says is scrubbed by `open_transport`.
  Redirects are not followed, because they would carry the key to another host.

`failures` classifies the failures.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import sys
import threading
from asyncio.staggered import staggered_race
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import cache, partial
from importlib import import_module
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import unquote, urlsplit

from appliance.conversation.events import Event, FrameRefused, LinkDown, LinkUp, ServerEventReceived
from appliance.errors import ApplianceError, LinkError, RemoteProtocolError, is_loopback, one_line
from appliance.realtime.protocol import SAMPLE_RATE, ClientEvent, InputAudioBufferAppend, decode
from appliance.realtime.transports.endpoints import UNIX, Endpoint, endpoint_url
from appliance.realtime.transports.failures import Failure, of_close, of_opening
from appliance.safe_text import Secrets, bare_address

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

__all__ = ["USER_AGENT", "Endpoint", "WebSocketTransport", "endpoint_url"]

log = logging.getLogger(__name__)

USER_AGENT = "voice-appliance/0.1.0"  # a literal, as reading the version costs an import; a test compares the two

_BYTES_PER_S = 2 * SAMPLE_RATE
_UNSENT_BYTES = 64 * 1024  # one second of audio as base64: the kernel's limit for unsent data
_STAGGER_S = 0.25  # RFC 8305, section 5: delay before the next address is tried in parallel
_DETAIL_CHARACTERS = 200
_CLOSED_BY_US = Failure("closed", "closed by us", 1000)
_LIBRARY: Final = "appliance.realtime.transports.handshake"
_MUTE = logging.Logger("websockets, muted", logging.CRITICAL + 1)  # outside the tree: no setting re-enables it


_system_trust = cache(ssl.create_default_context)
"""Reading the trust store takes a tenth of a second on a slow board: call it on a thread; it releases the lock."""


class _Link:
    """One connection, from ``Connect`` to ``LinkDown``; on the loop's thread only."""

    def __init__(self, number: int, endpoint: Endpoint, secrets: Secrets, post: Callable[[Event], None]) -> None:
        self.number = number
        self.endpoint = endpoint
        self.secrets = secrets
        self.outbox: deque[ClientEvent] = deque()
        self.audio_bytes = 0
        self.filled = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.is_open = False
        self.is_over = False
        self._post = post

    def post(self, event: Event) -> None:
        """Post an event, unless LinkDown was already posted."""
        if not self.is_over:
            self._post(event)

    def end(self, failure: Failure) -> None:
        """Report the end, once."""
        if self.is_over:
            return
        detail = self.clean(failure.detail)
        log.info("link %d: down, %s (code %s): %s", self.number, failure.kind, failure.code, detail)
        self.is_over = True
        self._post(LinkDown(self.number, failure.kind, failure.code, detail, failure.retry_after_s))

    def clean(self, text: str) -> str:
        """Return `text` as one printable line, with secrets redacted."""
        return one_line(self.secrets.redact(text), _DETAIL_CHARACTERS)


class WebSocketTransport:
    """A `transports.RunningTransport` over WebSockets.

    Args:
        endpoints: Where to connect; a ``Connect`` gives the index.
        post: Takes events; called on the loop's thread.
        connect_timeout_s: From ``Connect`` to an open WebSocket: name, TCP, TLS and upgrade.
        ping_interval_s: Time between pings to the server.
        ping_timeout_s: How long the server may take to answer a ping, and to acknowledge sent bytes.
        close_timeout_s: How long a close may take; only process shutdown waits for it.
        outbox_limit_s: Seconds of queued audio above which `has_room` is False.
        max_frame_bytes: A longer frame ends the link.
        user_agent: The ``User-Agent`` of the HTTP upgrade.
        tls: For ``wss``; None uses the system's trust store.
        tap: Called with the link number and each raw frame, before the frame is decoded; MUST NOT raise.
    """

    def __init__(
        self,
        endpoints: Endpoint | Sequence[Endpoint],
        *,
        post: Callable[[Event], None],
        connect_timeout_s: float = 10.0,
        ping_interval_s: float = 20.0,
        ping_timeout_s: float = 10.0,
        close_timeout_s: float = 0.5,
        outbox_limit_s: float = 5.0,
        max_frame_bytes: int = 32 * 1024 * 1024,
        user_agent: str = USER_AGENT,
        tls: ssl.SSLContext | None = None,
        tap: Callable[[int, str], None] | None = None,
    ) -> None:
        self._endpoints = [endpoints] if isinstance(endpoints, Endpoint) else list(endpoints)
        self._post = post
        self._connect_timeout_s = connect_timeout_s
        self._ping_interval_s = ping_interval_s
        self._ping_timeout_s = ping_timeout_s
        self._send_timeout_s = ping_interval_s + ping_timeout_s
        self._close_timeout_s = close_timeout_s
        self._outbox_limit_s = outbox_limit_s
        self._max_frame_bytes = max_frame_bytes
        self._user_agent = user_agent
        self._tls = tls
        self._tap = tap
        self._secrets = Secrets()
        self._links: dict[int, _Link] = {}
        self._group: asyncio.TaskGroup | None = None
        self._serving: set[asyncio.Task[None]] = set()
        if not all(_split_unix(one.url)[1] for one in self._endpoints):
            "".encode("idna")  # loads the codec now; else the first look-up of a name does, while sound plays

    def __repr__(self) -> str:
        links = [f"link {one.number} {'open' if one.is_open else 'connecting'}" for one in self._links.values()]
        state = ", ".join(links) or "no link"
        return f"<WebSocketTransport {self._endpoints!r}, {state}, outbox {self.outbox_audio_s:.2f} s>"

    # --- called by the driver -----------------------------------------------------------------------------------

    def connect(self, link: int, endpoint: int = 0) -> None:
        """Open link `link`; answered by ``LinkUp`` and later ``LinkDown``, or by ``LinkDown`` alone.

        Other links are not affected: a standby link opens while the active one is still in use.
        """
        if link in self._links:
            self.disconnect(link)
        self._links[link] = made = _Link(link, self._endpoints[endpoint], self._secrets, self._post)
        self._start(made)

    def disconnect(self, link: int) -> None:
        """Close link `link` after draining its outbox; post ``LinkDown`` at once. A no-op for an unknown link."""
        current = self._links.pop(link, None)
        if current is None:
            return
        current.end(_CLOSED_BY_US)
        if current.task is None:
            return
        if current.is_open:
            current.filled.set()  # the writer drains the outbox and closes
            asyncio.get_running_loop().call_later(self._close_timeout_s, current.task.cancel)
        else:
            current.task.cancel()

    def send(self, link: int, event: ClientEvent) -> None:
        """Queue an event; dropped if there is no such link."""
        current = self._links.get(link)
        if current is None:
            return
        current.outbox.append(event)
        current.audio_bytes += _audio_bytes(event)
        current.filled.set()

    @property
    def has_room(self) -> bool:
        """False while the queued audio exceeds `outbox_limit_s`: leave the audio in its ring."""
        return self.outbox_audio_s <= self._outbox_limit_s

    @property
    def outbox_audio_s(self) -> float:
        """Seconds of audio in the outboxes of all links, including the event that is being written."""
        return sum(one.audio_bytes for one in self._links.values()) / _BYTES_PER_S

    # --- the tasks ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Own the tasks of the links until cancelled; then close the open ones with 1000, within `close_timeout_s`."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for link in self._links.values():
                    self._start(link)
                await asyncio.Event().wait()
        finally:
            self._group = None
            for link in self._links.values():
                link.end(_CLOSED_BY_US)
            self._links.clear()

    async def said_goodbye(self) -> None:
        """Wait until every disconnected link has drained its outbox and closed; at most twice `close_timeout_s`."""
        if self._serving:
            await asyncio.wait(self._serving, timeout=2 * self._close_timeout_s)

    def _start(self, link: _Link) -> None:
        """Start the task of a link; before `run`, do nothing: `run` starts it."""
        if self._group is not None:
            link.task = self._group.create_task(self._serve(link), name=f"link {link.number}")
            self._serving.add(link.task)
            link.task.add_done_callback(self._serving.discard)

    async def _serve(self, link: _Link) -> None:
        connection: ClientConnection | None = None
        try:
            if _LIBRARY not in sys.modules:  # takes a tenth of a second on a Pi; not in the loop
                await asyncio.to_thread(import_module, _LIBRARY)
            connection = await self._dial(link)
            if link.is_over:
                return
            link.is_open = True
            log.info("link %d: open to %s", link.number, link.endpoint.name or "the endpoint")
            link.post(LinkUp(link.number))
            link.end(await self._exchange(link, connection))
        except _Refused as refused:
            link.end(refused.failure)
        finally:
            link.end(_CLOSED_BY_US)  # a no-op unless the task was cancelled
            if self._links.get(link.number) is link:
                del self._links[link.number]
            if connection is not None:
                await self._close(connection)

    async def _exchange(self, link: _Link, connection: ClientConnection) -> Failure:
        """Read and write until the connection ends; return the reason."""
        from websockets.exceptions import ConnectionClosed

        stalled: list[Failure] = []

        async def write() -> None:
            try:
                await self._write(link, connection)
            except TimeoutError:
                stalled.append(Failure("timeout", f"the server accepted no data for {self._send_timeout_s:g} s"))
                connection.transport.abort()
            except ConnectionClosed:
                pass  # the reader gets the same exception and reports it

        async with asyncio.TaskGroup() as group:
            writer = group.create_task(write(), name=f"link {link.number}, writer")
            failure = await self._read(link, connection)
            writer.cancel()
        return stalled[0] if stalled else failure

    async def _read(self, link: _Link, connection: ClientConnection) -> Failure:
        from websockets.exceptions import ConnectionClosed

        try:
            while True:
                frame = await connection.recv()
                if self._tap is not None and isinstance(frame, str) and not link.is_over:
                    self._tap(link.number, frame)
                try:
                    link.post(ServerEventReceived(link.number, decode(frame)))
                except RemoteProtocolError as exc:
                    link.post(FrameRefused(link.number, link.clean(str(exc))))
                await asyncio.sleep(0)  # `recv` does not yield while frames are waiting
        except ConnectionClosed as exc:
            return of_close(exc, ping_timeout_s=self._ping_timeout_s)

    async def _write(self, link: _Link, connection: ClientConnection) -> None:
        while True:
            while link.outbox:
                event = link.outbox.popleft()
                async with asyncio.timeout(self._send_timeout_s):
                    await connection.send(event.encode())
                link.audio_bytes -= _audio_bytes(event)
            if link.is_over:
                await connection.close()
                return
            link.filled.clear()
            await link.filled.wait()

    async def _close(self, connection: ClientConnection) -> None:
        """Close within the timeout; then abort the socket in any case."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._close_timeout_s):
                    await connection.close()
        finally:
            connection.transport.abort()

    # --- opening ------------------------------------------------------------------------------------------------

    async def _dial(self, link: _Link) -> ClientConnection:
        """Open the WebSocket.

        Raises:
            _Refused: With the failure for the ``LinkDown``.
        """
        from websockets.exceptions import WebSocketException

        try:
            async with asyncio.timeout(self._connect_timeout_s):
                return await self._open(link.endpoint, self._headers(link))
        except _Refused:
            raise
        except TimeoutError:
            raise _Refused(Failure("timeout", f"no WebSocket within {self._connect_timeout_s:g} s")) from None
        except (OSError, WebSocketException, EOFError, ImportError) as exc:
            raise _Refused(of_opening(exc, link.endpoint.url)) from None

    def _headers(self, link: _Link) -> dict[str, str]:
        try:
            headers = dict(link.endpoint.headers())
        except LinkError as exc:  # the source of the key is unreachable: transient, so retry
            raise _Refused(Failure("lost", str(exc))) from None
        except (ApplianceError, OSError) as exc:
            raise _Refused(Failure("no_key", str(exc))) from None
        link.secrets.add_named(headers.items())
        for name, value in headers.items():
            if not (value.isascii() and value.isprintable()):
                raise _Refused(Failure("no_key", f"the header {name} has characters that HTTP does not allow"))
        return headers

    async def _open(self, endpoint: Endpoint, headers: Mapping[str, str]) -> ClientConnection:
        from appliance.realtime.transports.handshake import Handshake, proxy_of_the_environment

        address, unix_socket = _split_unix(endpoint.url)
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "wss" else 80)
        if parts.scheme not in {"ws", "wss"} or not host:
            raise _Refused(Failure("bad_address", f"{bare_address(endpoint.url)!r} is not a WebSocket address"))
        is_secure = parts.scheme == "wss"
        options: dict[str, Any] = {}
        if is_secure:
            options["ssl"] = self._tls or await asyncio.to_thread(_system_trust)
        proxy = None if is_loopback(host) else proxy_of_the_environment(is_secure, host, port)
        if proxy is not None:
            options["happy_eyeballs_delay"] = _STAGGER_S
        elif unix_socket:
            options["sock"] = await _open_unix_socket(unix_socket)
        else:  # asyncio takes over the socket and closes it in any case
            options["sock"] = await _open_socket(host, port, unacknowledged_s=self._ping_timeout_s)
        connection = await Handshake(
            address,
            additional_headers=headers,
            user_agent_header=self._user_agent,
            compression=None,  # base64 of PCM compresses poorly and costs CPU time on the Pi
            proxy=proxy,
            open_timeout=None,
            ping_interval=self._ping_interval_s,
            ping_timeout=self._ping_timeout_s,
            close_timeout=self._close_timeout_s,
            max_size=self._max_frame_bytes,
            logger=_MUTE,
            **options,
        )
        if proxy is not None:
            _tune(connection.transport.get_extra_info("socket"), unacknowledged_s=self._ping_timeout_s)
        return connection


class _Refused(LinkError):
    """The connection could not be opened; carries the failure for the ``LinkDown``."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.detail)
        self.failure = failure


def _audio_bytes(event: ClientEvent) -> int:
    return len(event.audio) if isinstance(event, InputAudioBufferAppend) else 0


def _split_unix(url: str) -> tuple[str, str]:
    """Return the address for the handshake, and the path of the Unix socket; "" for an address of TCP."""
    parts = urlsplit(url)
    if parts.scheme != UNIX:
        return url, ""
    path, _, target = parts.path.rpartition(":")
    return f"ws://localhost{target}?{parts.query}", unquote(path)


# ---------------------------------------------------------------------------------------------------------------
# Sockets

_Address: TypeAlias = tuple[socket.AddressFamily, socket.SocketKind, int, Any]


async def _open_socket(host: str, port: int, *, unacknowledged_s: float) -> socket.socket:
    """Connect to the first address of a host that answers (Happy Eyeballs, RFC 8305).

    Raises:
        OSError: The error of the last address; `socket.gaierror` if the host has no address.
    """
    won: list[socket.socket] = []

    async def attempt(address: _Address) -> None:
        if won:  # Python 3.11 does not always cancel an attempt that starts while another one wins
            raise OSError(errno.ECANCELED, "another address was faster")
        won.append(await _connect_socket(address, unacknowledged_s=unacknowledged_s))

    addresses = _interleaved(await _resolve(host, port))
    try:
        _, _, problems = await staggered_race([partial(attempt, one) for one in addresses], _STAGGER_S)
    except BaseException:  # cancelled just after an attempt won
        for opened in won:
            opened.close()
        raise
    if not won:
        raise (problems[-1] if problems else None) or OSError(errno.EHOSTUNREACH, "no address")
    return won[0]


async def _open_unix_socket(path: str) -> socket.socket:
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        opened.setblocking(False)
        await asyncio.get_running_loop().sock_connect(opened, path)
    except BaseException:
        opened.close()
        raise
    return opened


async def _connect_socket(address: _Address, *, unacknowledged_s: float) -> socket.socket:
    family, kind, protocol, target = address
    opened = socket.socket(family, kind, protocol)
    try:
        opened.setblocking(False)
        _tune(opened, unacknowledged_s=unacknowledged_s)
        await asyncio.get_running_loop().sock_connect(opened, target)
    except BaseException:
        opened.close()
        raise
    return opened


def _tune(opened: Any, *, unacknowledged_s: float) -> None:
    """Set the TCP options of a link; skip those that the system does not support."""
    for name, value in (
        ("TCP_NODELAY", 1),
        ("TCP_USER_TIMEOUT", int(unacknowledged_s * 1000)),
        ("TCP_NOTSENT_LOWAT", _UNSENT_BYTES),
    ):
        with suppress(OSError, AttributeError):
            opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


async def _resolve(host: str, port: int) -> list[_Address]:
    """Look up a name without blocking the loop or process exit.

    Raises:
        socket.gaierror: There is no such name, or no resolver can be reached.
    """
    with suppress(socket.gaierror):  # a numeric address needs no thread
        return _addresses(host, port, socket.AI_NUMERICHOST)
    answer: Future[list[_Address]] = Future()
    answer.set_running_or_notify_cancel()  # if the caller is cancelled, the thread's answer is dropped

    def ask() -> None:
        try:
            answer.set_result(_addresses(host, port, 0))
        except OSError as exc:
            answer.set_exception(exc)

    threading.Thread(target=ask, name="resolver", daemon=True).start()
    return await asyncio.wrap_future(answer)


def _interleaved(addresses: Sequence[_Address]) -> list[_Address]:
    """Alternate the address families: a network with broken IPv6 then costs one delay (RFC 8305, section 4)."""
    families: dict[socket.AddressFamily, list[_Address]] = {}
    for address in addresses:
        families.setdefault(address[0], []).append(address)
    return [address for row in zip_longest(*families.values()) for address in row if address is not None]


def _addresses(host: str, port: int, flags: int) -> list[_Address]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=flags)
    except UnicodeError:  # a label that is empty or too long
        raise socket.gaierror(socket.EAI_NONAME, "not a host name") from None
    return [(family, kind, protocol, target) for family, kind, protocol, _, target in found]
