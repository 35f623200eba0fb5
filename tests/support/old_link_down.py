"""What a ``LinkDown(link, code, reason)`` of an older trace would be called today.

Traces recorded before failures were typed hold the reason alone, with a tag before it where there was no code
(``refused: …``). These are the rules by which it was read then.
"""

from __future__ import annotations

import re
from typing import Final, get_args

from appliance.conversation.events import FAILURE_OF_ERROR_CODE, LinkFailure

__all__ = ["translate"]

_BY_PHRASE: Final[tuple[tuple[str, LinkFailure], ...]] = (
    ("maximum duration", "session_expired"),
    ("due to inactivity", "session_expired"),
    ("session expired", "session_expired"),
    ("incorrect api key", "bad_key"),
    ("invalid api key", "bad_key"),
    ("invalid token", "bad_key"),
    ("unauthorized", "unauthorized"),
    ("unauthorised", "unauthorized"),
    ("not authenticated", "unauthorized"),
    ("authentication failed", "unauthorized"),
    ("exceeded your current quota", "no_credit"),
    ("rate limit", "rate_limited"),
    ("too many requests", "rate_limited"),
)

_BY_SYSTEM_TEXT: Final[tuple[tuple[str, LinkFailure], ...]] = (
    ("unreadable frames", "bad_frames"),
    ("connection refused", "refused"),
    ("connect call failed", "refused"),
    ("name or service not known", "name_not_found"),
    ("temporary failure in name resolution", "name_not_found"),
    ("no address associated", "name_not_found"),
    ("getaddrinfo", "name_not_found"),
    ("unreachable", "unreachable"),
    ("no route to host", "unreachable"),
    ("network is down", "unreachable"),
    ("certificate", "tls"),
    ("ssl", "tls"),
    ("timed out", "timeout"),
    ("timeout", "timeout"),
)

_BY_CLOSE_CODE: Final[dict[int, LinkFailure]] = {
    1000: "closed",
    1001: "closed",
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
    3000: "unauthorized",
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

_BY_STATUS: Final[dict[int, LinkFailure]] = {
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
    511: "not_a_server",
}


def translate(code: int | None, reason: str) -> LinkFailure:
    """Return the kind that an old code and reason stood for, whatever error event came before them."""
    return _of_words(code, reason) or _of_number(code, reason)


def _of_words(code: int | None, reason: str) -> LinkFailure | None:
    lowered = reason.lower()
    words = frozenset(re.findall(r"[a-z0-9_]+", lowered))
    for error_code, kind in FAILURE_OF_ERROR_CODE.items():
        if error_code in words:
            return kind
    if code is not None and code < 1000:
        return None
    return next((kind for phrase, kind in _BY_PHRASE if phrase in lowered), None)


def _of_number(code: int | None, reason: str) -> LinkFailure:
    if code is None:
        tag = reason.partition(":")[0]
        kinds: tuple[LinkFailure, ...] = get_args(LinkFailure)
        tagged = next((kind for kind in kinds if kind == tag), None)
        return tagged or next((kind for text, kind in _BY_SYSTEM_TEXT if text in reason.lower()), "lost")
    if code < 1000:
        by_class: LinkFailure = "not_a_server" if code < 400 else "bad_shape" if code < 500 else "server_error"
        return _BY_STATUS.get(code, by_class)
    known = _BY_CLOSE_CODE.get(code)
    if known in {None, "unauthorized", "bad_shape"} and reason.startswith("invalid_request_error"):
        return "bad_shape"
    return known or "closed"
