"""Classify failed connections as a `LinkFailure`, from typed facts. Pure.

The facts are the class of an exception, an errno, an HTTP status, a close code, and an error code where servers put
one: OpenAI closes with the reason ``<type>.<code>``, and refuses with a JSON body. A known error code wins over the
number, which may be wrong (see `conversation.support.retry`). All other text is for logs and is never searched: a host
may be called ``unauthorized.example.org``.

Sources: the close frames recorded from the live service; RFC 6455 section 7.4; RFC 9110 section 15.
"""

from __future__ import annotations

import errno
import json
import re
import socket
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from appliance.conversation.events import FAILURE_OF_ERROR_CODE, LinkFailure
from appliance.safe_text import bare_address

if TYPE_CHECKING:
    from websockets.exceptions import ConnectionClosed, InvalidStatus

__all__ = ["Failure", "kind_of_close", "kind_of_status", "of_close", "of_opening"]


@dataclass(frozen=True, slots=True)
class Failure:
    """The fields of a ``LinkDown``, without the link."""

    kind: LinkFailure
    detail: str
    code: int | None = None
    """The close code or the HTTP status."""
    retry_after_s: float | None = None
    """The header ``Retry-After``, in seconds."""


_OF_CLOSE_CODE: Final[Mapping[int, LinkFailure]] = {
    1000: "closed",
    1001: "closed",  # going away: the server restarts
    1002: "protocol_error",
    1003: "protocol_error",
    1005: "lost",
    1006: "lost",
    1007: "protocol_error",
    1008: "policy",
    1009: "too_big",
    1010: "protocol_error",
    1011: "server_error",
    1012: "server_error",
    1013: "server_error",
    1014: "server_error",
    1015: "tls",
    3000: "unauthorized",  # IANA registry: 3000 Unauthorized, 3003 Forbidden, 3008 Timeout
    3003: "unauthorized",
    3008: "timeout",
    4000: "bad_shape",
    4001: "unauthorized",
    4003: "unauthorized",
    4004: "model_not_found",
    4401: "unauthorized",
    4403: "unauthorized",
    4404: "model_not_found",
    4408: "timeout",
    4429: "rate_limited",
}

_OF_WHOLE_REASON: Final[tuple[tuple[re.Pattern[str], LinkFailure], ...]] = (
    # OpenAI, recorded: 1001 after an hour; an `error` event `session_expired` comes first
    (re.compile(r"Your session hit the maximum duration of \d+ minutes\.?"), "session_expired"),
    # A third-party server (which one was not noted): 1008 after a long silence
    (re.compile(r"Conversation timed out after [\d.]+ seconds due to inactivity"), "session_expired"),
    (re.compile(r"Unauthori[sz]ed", re.IGNORECASE), "unauthorized"),  # third party: 1008 with the phrase of HTTP 401
)
"""Complete close reasons of servers that send no error code."""

_OF_STATUS: Final[Mapping[int, LinkFailure]] = {
    400: "bad_shape",
    401: "bad_key",
    402: "no_credit",
    403: "unauthorized",
    404: "not_an_endpoint",
    405: "not_an_endpoint",
    407: "proxy",
    408: "timeout",
    410: "not_an_endpoint",
    425: "rate_limited",
    426: "not_an_endpoint",
    429: "rate_limited",
    504: "timeout",
    511: "not_a_server",  # Network Authentication Required: a captive portal
}

_OF_ERRNO: Final[Mapping[int, LinkFailure]] = {
    errno.ECONNREFUSED: "refused",
    errno.ENETUNREACH: "unreachable",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETDOWN: "unreachable",
    errno.EADDRNOTAVAIL: "unreachable",
    errno.ETIMEDOUT: "timeout",
}

_CODED_REASON: Final = re.compile(
    r"([a-z_]+)\.([a-z0-9_]+)(?:[.:]?(?:\s.*)?)|([A-Za-z0-9_]+)(?::(?:\s.*)?)?", re.DOTALL
)
"""``type.code`` or ``code``, optionally followed by text (``type.code. Some text``, ``code: Some text``)."""


def kind_of_close(code: int, reason: str) -> LinkFailure:
    """Classify a close frame."""
    names = _names_in(reason)
    if (named := _of_names(names)) is not None:
        return named
    for whole, kind in _OF_WHOLE_REASON:
        if whole.fullmatch(reason):
            return kind
    by_number = _OF_CLOSE_CODE.get(code, "closed")
    is_ours = "invalid_request_error" in names and (code not in _OF_CLOSE_CODE or by_number == "unauthorized")
    return "bad_shape" if is_ours else by_number


def kind_of_status(status: int, names: Iterable[str] = ()) -> LinkFailure:
    """Classify an HTTP response that refuses the upgrade.

    Args:
        status: The HTTP status; anything but 101.
        names: The type and the code of the error in the body, if present.
    """
    if (named := _of_names(names)) is not None:
        return named
    if status in _OF_STATUS:
        return _OF_STATUS[status]
    if status < 400:  # a page, or a redirect to one: a captive portal looks like this
        return "not_a_server"
    return "bad_shape" if status < 500 else "server_error"


def of_close(exc: ConnectionClosed, *, ping_timeout_s: float) -> Failure:
    """Return why an open WebSocket ended."""
    if exc.rcvd is not None:
        return Failure(kind_of_close(exc.rcvd.code, exc.rcvd.reason), exc.rcvd.reason, exc.rcvd.code)
    if exc.sent is not None and exc.sent.reason == "keepalive ping timeout":  # the library's own constant
        return Failure("timeout", f"no answer to a ping within {ping_timeout_s:g} s")
    if exc.sent is not None and exc.sent.code != 1000:  # the library refused a frame of the server
        return Failure(kind_of_close(exc.sent.code, ""), exc.sent.reason, exc.sent.code)
    cause = exc.__cause__
    if isinstance(cause, OSError) and cause.errno == errno.ETIMEDOUT:
        return Failure("timeout", f"sent bytes were not acknowledged within {ping_timeout_s:g} s")
    return Failure("lost", "" if cause is None else _text_of(cause), 1006)


def of_opening(exc: Exception, url: str) -> Failure:
    """Return why a WebSocket to `url` could not be opened."""
    from websockets.exceptions import (  # loads the library, which a device does after its start
        InvalidHandshake,
        InvalidMessage,
        InvalidProxy,
        InvalidProxyMessage,
        InvalidProxyStatus,
        InvalidStatus,
        InvalidURI,
        ProxyError,
        WebSocketException,
    )

    match exc:
        case InvalidStatus():
            return _of_answer(exc)
        case InvalidProxyStatus():
            status = exc.response.status_code
            return Failure(kind_of_status(status), f"the proxy answered {status}", status)
        case InvalidProxy() | InvalidProxyMessage() | ProxyError() | ImportError():
            return Failure("proxy", type(exc).__name__)
        case InvalidURI():
            return Failure("bad_address", f"{bare_address(url)!r} is not a WebSocket address")
        case InvalidMessage() if isinstance(exc.__cause__, EOFError):
            return Failure("lost", "the connection was closed during the handshake")
        case InvalidHandshake() | WebSocketException():
            return Failure("not_a_server", f"{type(exc).__name__} in the WebSocket handshake")
        case ssl.SSLCertVerificationError():
            return Failure("tls", exc.verify_message)
        case ssl.SSLError():
            return Failure("tls", getattr(exc, "reason", None) or "the handshake failed")
        case socket.gaierror():
            return Failure("name_not_found", f"{urlsplit(url).hostname}: {_text_of(exc)}")
        case OSError():
            return Failure(_OF_ERRNO.get(exc.errno or 0, "lost"), _text_of(exc))
        case _:
            return Failure("lost", type(exc).__name__)


def _of_answer(exc: InvalidStatus) -> Failure:
    """Classify by ``type`` and ``code`` of an OpenAI error body; its message is not used, it may quote the key."""
    status = exc.response.status_code
    try:
        error = json.loads(exc.response.body or b"")["error"]
        names = [error[key] for key in ("type", "code") if isinstance(error.get(key), str)]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        names = []
    detail = ".".join(names) or exc.response.reason_phrase
    wait = exc.response.headers.get("Retry-After", "").strip()
    # A date (RFC 9110, 10.2.3) is ignored: without a network, the clock of a Raspberry Pi is wrong.
    return Failure(kind_of_status(status, names), detail, status, float(wait) if wait.isdecimal() else None)


def _names_in(reason: str) -> frozenset[str]:
    found = _CODED_REASON.fullmatch(reason)
    return frozenset(name for name in found.groups() if name) if found else frozenset()


def _of_names(names: Iterable[str]) -> LinkFailure | None:
    lowered = {name.lower() for name in names}
    return next((kind for name, kind in FAILURE_OF_ERROR_CODE.items() if name in lowered), None)


def _text_of(exc: BaseException) -> str:
    return (exc.strerror if isinstance(exc, OSError) else None) or type(exc).__name__
