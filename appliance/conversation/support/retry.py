"""Transient or fatal: the one place that decides what a lost connection means, and how long to wait.

Pure. `classify` looks at words before numbers, for numbers lie: OpenAI closes with 1013 ("try again later") when the
account has no credit, and with 1001 ("going away") when a session reached its hour. The order is:

1. error codes and phrases in the close reason (``invalid_request_error.invalid_api_key``, "Incorrect API key"),
2. the code of the last ``error`` event on that link (OpenAI accepts, sends the error, then closes),
3. the close code or the HTTP status,
4. for a link without either, the tag that our own transport puts before its reason (``refused: …``), or what the
   operating system is known to say.

Whatever nothing matches is transient: an appliance that gives up for an unknown reason is worse than one that tries.

Sources: the close frames recorded from the live service; RFC 6455 section 7.4; RFC 9110 section 15.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from appliance.conversation.notices import TroubleKind

__all__ = ["Action", "Backoff", "Verdict", "classify"]

Action: TypeAlias = Literal["retry", "fatal", "expired"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a lost connection means."""

    action: Action
    """``retry`` with backoff; ``fatal``: trying again cannot help before somebody acts; ``expired``: a normal end of
    the session, connect again at once."""
    kind: TroubleKind
    """Stable and machine-readable: ``bad_key``, ``no_credit``, ``refused``, …"""
    message: str
    """One or two sentences for the user, fit to be said aloud: what is wrong and what helps."""


_FATAL = {
    "bad_key": "The server does not accept my API key. Please put a valid key into the settings.",
    "no_key": "I have no API key. Please put one into the settings.",
    "no_credit": "The account of my API key has no credit left. Please add credit to it.",
    "account_closed": "The account of my API key is deactivated. Please ask the service about it.",
    "unauthorized": "The server does not let me in. Please check that my API key may use this model.",
    "region": "The service is not offered in this country.",
    "model_not_found": "The server does not have the model that I asked for. Please check its name in the settings.",
    "bad_shape": "The server does not understand how I talk to it. Please check its address, or update me.",
    "policy": "The server refused the session because of its rules. Please look into my log.",
    "not_an_endpoint": "The address is not that of a Realtime endpoint. Please check the base URL in the settings.",
    "bad_address": "The address of the server cannot be right. Please check the base URL in the settings.",
    "proxy": "The proxy does not let me through. Please check the proxy settings of this device.",
}
_RETRY = {
    "refused": "Nothing answers at the server's address. Is the server running? I keep trying.",
    "unreachable": "I cannot reach the network. Please check the Wi-Fi or the cable. I keep trying.",
    "name_not_found": "I cannot find the server by its name. Is the internet connection working? I keep trying.",
    "tls": "I cannot make a safe connection. Please check the date and time of this device. I keep trying.",
    "not_a_server": "Something else than the server answers at its address, perhaps a login page of the network. "
    "I keep trying.",
    "timeout": "The server does not answer in time. I keep trying.",
    "rate_limited": "The server has too many requests from us. I wait a little and try again.",
    "server_error": "The server has a problem. I keep trying.",
    "bad_frames": "The server sends what I cannot read. I connect again.",
    "protocol_error": "The connection broke because of something that one side sent. I connect again.",
    "too_big": "The connection broke because a message was too long. I connect again.",
    "closed": "The server ended the connection. I connect again.",
    "lost": "I lost the connection to the server. I connect again.",
}
_EXPIRED = {"session_expired": "The session reached its longest time. I begin a new one."}

_MESSAGES: dict[Action, dict[str, str]] = {"fatal": _FATAL, "retry": _RETRY, "expired": _EXPIRED}
_VERDICTS = {
    kind: Verdict(action, cast(TroubleKind, kind), message)
    for action, messages in _MESSAGES.items()
    for kind, message in messages.items()
}

_BY_ERROR_CODE = {
    "invalid_api_key": "bad_key",
    "incorrect_api_key": "bad_key",
    "authentication_error": "bad_key",
    "insufficient_quota": "no_credit",
    "credit_balance_exhausted": "no_credit",
    "billing_hard_limit_reached": "no_credit",
    "billing_not_active": "no_credit",
    "account_deactivated": "account_closed",
    "insufficient_permissions": "unauthorized",
    "permission_error": "unauthorized",
    "mismatched_project": "unauthorized",
    "mismatched_organization": "unauthorized",
    "unsupported_country_region_territory": "region",
    "model_not_found": "model_not_found",
    "invalid_model": "model_not_found",
    "missing_model": "model_not_found",
    "deploymentnotfound": "model_not_found",
    "beta_api_shape_disabled": "bad_shape",
    "session_expired": "session_expired",
    "rate_limit_exceeded": "rate_limited",
    "inference_rate_limit_exceeded": "rate_limited",
    "server_shutdown": "server_error",
    "server_error": "server_error",
    "internal_error": "server_error",
}
"""Codes as they stand in a close reason (``<type>.<code>``) or an ``error`` event; the first in this order wins."""

_BY_PHRASE = (
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
"""What servers write instead of codes, in lower case."""

_BY_CLOSE_CODE = {
    1000: "closed",
    1001: "closed",  # going away: a server that restarts
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

_BY_STATUS = {
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

_BY_SYSTEM_TEXT = (
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
"""For a link that had neither a close code nor a status and whose reason has no tag; the first match wins."""


def classify(code: int | None, reason: str, *, last_error: str | None = None) -> Verdict:
    """Decide what the end of a link means.

    Args:
        code: The WebSocket close code (1000 and above), the HTTP status that refused the upgrade, or None for neither.
        reason: The close reason, or what the transport or the operating system said.
        last_error: The ``code`` (or the ``type``) of the last ``error`` event seen on that link, if any.
    """
    kind = _from_words(code, reason) or _from_last_error(code, last_error) or _from_number(code, reason)
    return _VERDICTS[kind]


def _from_words(code: int | None, reason: str) -> str | None:
    lowered = reason.lower()
    words = frozenset(re.findall(r"[a-z0-9_]+", lowered))
    for error_code, kind in _BY_ERROR_CODE.items():
        if error_code in words:
            return kind
    if code is not None and code < 1000:
        return None  # the reason phrase of HTTP ("Unauthorized") says no more than its number
    return next((kind for phrase, kind in _BY_PHRASE if phrase in lowered), None)


def _from_last_error(code: int | None, last_error: str | None) -> str | None:
    kind = _BY_ERROR_CODE.get((last_error or "").lower())
    if kind is None or (code is None and _VERDICTS[kind].action == "retry"):
        return None  # a transient error of long ago says nothing about a cable that was pulled now
    return kind


def _from_number(code: int | None, reason: str) -> str:
    if code is None:
        return _from_transport(reason)
    if code < 1000:
        return _from_status(code)
    known = _BY_CLOSE_CODE.get(code)
    if known is None:
        return "bad_shape" if reason.startswith("invalid_request_error") else "closed"
    if known in {"unauthorized", "bad_shape"} and reason.startswith("invalid_request_error"):
        return "bad_shape"
    return known


def _from_status(status: int) -> str:
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status < 400:  # a page, or a redirect to one: a captive portal looks like this
        return "not_a_server"
    return "bad_shape" if status < 500 else "server_error"


def _from_transport(reason: str) -> str:
    tag = reason.partition(":")[0]
    if tag in _VERDICTS:
        return tag
    lowered = reason.lower()
    return next((kind for text, kind in _BY_SYSTEM_TEXT if text in lowered), "lost")


@dataclass(frozen=True, slots=True)
class Backoff:
    """Capped exponential waiting with full jitter, so that a thousand devices do not come back in step."""

    initial_s: float
    max_s: float
    factor: float = 2.0

    def __post_init__(self) -> None:
        if not 0.0 < self.initial_s <= self.max_s:
            raise ValueError(
                f"backoff: initial {self.initial_s} s and longest {self.max_s} s, expected 0 < initial <= max"
            )
        if self.factor < 1.0:
            raise ValueError(f"backoff: factor {self.factor}, expected at least 1")

    def delay_s(self, attempt: int, unit: float) -> float:
        """Return how long to wait before the next try.

        Args:
            attempt: How many tries failed in a row before this wait, less one: 0 for the first wait.
            unit: A random number in [0, 1).

        Returns:
            From half of `initial_s` (never 0: a refusal comes back in a millisecond) up to `max_s`.
        """
        ceiling_s = self.initial_s
        for _ in range(attempt):  # not a power: that overflows after a night without network
            if ceiling_s >= self.max_s or self.factor == 1.0:
                break
            ceiling_s *= self.factor
        return max(self.initial_s / 2.0, unit * min(ceiling_s, self.max_s))
