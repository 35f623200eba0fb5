"""Who may open a session of the offline brain: the path, method, origin and key of an HTTP request.

Each refusal is one line of the log, and a JSON error in the shape of the live service. Nothing of a key is logged.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import ssl
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from appliance.brain.private_socket import PATH
from appliance.errors import SettingsError, is_loopback, one_line

__all__ = ["Guesses", "HttpConnection", "has_key", "refused_request", "server_tls", "too_many_attempts"]

logger = logging.getLogger(__name__)

FIRST_DELAY_S = 0.25  # after the first wrong key of a host; doubled after each further one
LONGEST_DELAY_S = 4.0
MAX_WAITING = 8  # attempts of one host; further ones are refused with 429
_MAX_HOSTS = 1_000  # that are remembered
_MAX_LINE_BYTES = 8_192  # as in the library
_KEY_ENTRY = "openai-insecure-api-key."


class HttpConnection(ServerConnection):
    """A connection that answers methods other than GET; the library closes the socket without an answer."""

    _first = b""
    """The bytes of the request line so far."""
    _is_upgrade = False
    _is_refused = False

    def data_received(self, data: bytes) -> None:
        if self._is_upgrade:
            super().data_received(data)
        elif not self._is_refused:
            self._first += data
            line, end, _ = self._first.partition(b"\r\n")
            if end or len(self._first) > _MAX_LINE_BYTES:
                self._read_request_line(line)

    def _read_request_line(self, line: bytes) -> None:
        method, _, rest = line.partition(b" ")
        if method == b"GET" or not method.isalpha() or b" HTTP/1." not in rest:
            self._is_upgrade = True  # the library refuses what is not HTTP
            super().data_received(self._first)
            return
        self._is_refused = True
        path = rest.partition(b" ")[0].decode("ascii", "replace")
        name = method.decode("ascii")
        text = f"The method {name[:20]} is not supported: open a WebSocket at {PATH} with GET."
        response = _refuse(HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed", text, path)
        response.headers["Allow"] = "GET"
        self.transport.write(response.serialize())
        if self.transport.can_write_eof():  # the rest of the request is dropped; closing now could lose the answer
            self.transport.write_eof()
        else:
            self.transport.close()


def refused_request(request: Request, *, token: str | None) -> Response | None:
    """Return the answer to a request that cannot become a session; None if it may."""
    path = request.path.partition("?")[0]
    if path != PATH:
        return _refuse(HTTPStatus.NOT_FOUND, "not_found", f"The Realtime protocol is served at {PATH}.", path)
    if token is None and not all(map(_is_local, request.headers.get_all("Origin"))):
        # Any page in a browser on this machine can reach loopback; without a token, refuse it.
        return _refuse(HTTPStatus.FORBIDDEN, "forbidden_origin", "Pages of other hosts need a token.", path)
    if "websocket" not in ",".join(request.headers.get_all("Upgrade")).lower():
        text = "Open a WebSocket: the header 'Upgrade: websocket' is missing."
        response = _refuse(HTTPStatus.UPGRADE_REQUIRED, "upgrade_required", text, path)
        response.headers["Upgrade"] = "websocket"
        return response
    if token is not None and not all(key.isascii() for key in _keys(request)):
        return _refuse(HTTPStatus.UNAUTHORIZED, "invalid_api_key", "Incorrect API key provided.", path)
    return None


def too_many_attempts(request: Request) -> Response:
    """Return the answer to a host that tries many wrong keys at once."""
    text = "Too many wrong API keys: wait before you try again."
    response = _refuse(HTTPStatus.TOO_MANY_REQUESTS, "too_many_attempts", text, request.path.partition("?")[0])
    response.headers["Retry-After"] = str(int(LONGEST_DELAY_S))
    return response


def has_key(request: Request, token: str) -> bool:
    """Tell whether a request carries the token; takes the same time for each wrong key of the same length."""
    return any(hmac.compare_digest(key.encode("utf-8", "surrogateescape"), token.encode()) for key in _keys(request))


@dataclass(slots=True)
class _Host:
    wrong: int = 0
    waiting: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Guesses:
    """Slows down hosts that guess keys.

    After a wrong key, the attempts of the same host, right or wrong, wait one behind the other, each longer than the
    last. A right key ends that.

    Args:
        sleep: Waits for a number of seconds.
    """

    def __init__(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._sleep = sleep
        self._hosts: OrderedDict[str, _Host] = OrderedDict()

    def is_full(self, host: str) -> bool:
        """Tell whether so many attempts of a host wait that a further one is refused."""
        return host in self._hosts and self._hosts[host].waiting >= MAX_WAITING

    async def check(self, host: str, *, is_right: bool) -> bool:
        """Return `is_right`, at once unless the host has sent wrong keys."""
        if host in self._hosts:
            known = self._hosts[host]
            known.waiting += 1
            try:
                async with known.turn:
                    if known.wrong:
                        await self._sleep(min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** (known.wrong - 1)))
                    self._count(host, is_right)
            finally:
                known.waiting -= 1
        else:
            self._count(host, is_right)
        return is_right

    def _count(self, host: str, is_right: bool) -> None:
        if not is_right:
            known = self._hosts.setdefault(host, _Host())
            known.wrong = min(known.wrong + 1, 10)
            self._hosts.move_to_end(host)
            if len(self._hosts) > _MAX_HOSTS:
                self._hosts.popitem(last=False)
        elif host in self._hosts:
            self._hosts.pop(host).wrong = 0


def server_tls(cert: Path, key: Path | None = None) -> ssl.SSLContext:
    """Return the TLS context of a server.

    Args:
        cert: PEM file with the certificate and those of its issuers.
        key: PEM file with the private key, without a password; None if `cert` has it too.

    Raises:
        SettingsError: A file cannot be read, or the key does not belong to the certificate.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key, password="")
    except OSError as exc:  # ssl.SSLError too
        files = f"{cert} and {key}" if key else str(cert)
        raise SettingsError(f"--tls-cert, --tls-key: cannot use {files}: {exc.strerror or exc}") from None
    return context


def _refuse(status: HTTPStatus, code: str, message: str, path: str) -> Response:
    logger.info("refused with %d %s: %s", status, code, one_line(path, 100))
    error = {"type": "invalid_request_error", "code": code, "message": message, "param": None}
    body = json.dumps({"error": error}).encode()
    headers = Headers({"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"})
    return Response(status.value, status.phrase, headers, body)


def _is_local(origin: str) -> bool:
    try:
        return is_loopback(urlsplit(origin).hostname or "")
    except ValueError:  # malformed
        return False


def _keys(request: Request) -> list[str]:
    """Return the keys that a client sent: bearer tokens, and the subprotocol entries of browsers."""
    bearers = [value.partition(" ") for value in request.headers.get_all("Authorization")]
    keys = [key.strip() for scheme, _, key in bearers if scheme.lower() == "bearer"]
    for header in request.headers.get_all("Sec-WebSocket-Protocol"):
        entries = (entry.strip() for entry in header.split(","))
        keys += [entry.removeprefix(_KEY_ENTRY) for entry in entries if entry.startswith(_KEY_ENTRY)]
    return keys
