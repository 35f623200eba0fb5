"""Transient or fatal: the one place that decides what a lost connection means, and how long to wait.

Pure. The transport says of what kind a failure is (`events.LinkFailure`). That may be no more than what a number stands
for, and numbers lie: OpenAI closes with 1013 ("try again later") when the account has no credit, and with 1001 ("going
away") when a session reached its hour. So the code of the last ``error`` event on that link wins over such a kind:
OpenAI accepts, sends the error, then closes, and the close may be lost on the way.

What says nothing is transient: an appliance that gives up for an unknown reason is worse than one that tries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from appliance.conversation.events import FAILURE_OF_ERROR_CODE, LinkFailure

__all__ = ["Action", "Backoff", "Verdict", "classify"]

Action: TypeAlias = Literal["retry", "fatal", "expired"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a lost connection means."""

    action: Action
    """``retry`` with backoff; ``fatal``: trying again cannot help before somebody acts; ``expired``: a normal end of
    the session, connect again at once."""
    kind: LinkFailure | Literal["settings_refused"]
    """Stable and machine-readable. ``settings_refused`` is of the conversation: the link was there."""
    message: str
    """One or two sentences for the user, fit to be said aloud: what is wrong and what helps."""


_FATAL: Final[Mapping[LinkFailure, str]] = {
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
_RETRY: Final[Mapping[LinkFailure, str]] = {
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
_EXPIRED: Final[Mapping[LinkFailure, str]] = {
    "session_expired": "The session reached its longest time. I begin a new one."
}

_MESSAGES: Final[Mapping[Action, Mapping[LinkFailure, str]]] = {
    "fatal": _FATAL,
    "retry": _RETRY,
    "expired": _EXPIRED,
}
_VERDICTS: Final[Mapping[LinkFailure, Verdict]] = {
    kind: Verdict(action, kind, message) for action, messages in _MESSAGES.items() for kind, message in messages.items()
}

_NAMED: Final[frozenset[LinkFailure]] = frozenset(FAILURE_OF_ERROR_CODE.values()) - {
    "bad_shape",
    "model_not_found",
    "rate_limited",
    "server_error",
    "unauthorized",
}
"""Kinds that the server names by an error code alone; a close code may stand for each of the five others."""


def classify(kind: LinkFailure, code: int | None, *, last_error: str | None = None) -> Verdict:
    """Decide what the end of a link means.

    Args:
        kind: What the transport makes of it.
        code: The WebSocket close code (1000 and above), the HTTP status that refused the upgrade, or None for neither.
        last_error: The ``code`` (or the ``type``) of the last ``error`` event seen on that link, if any.
    """
    return _VERDICTS[kind if kind in _NAMED else _of_last_error(code, last_error) or kind]


def _of_last_error(code: int | None, last_error: str | None) -> LinkFailure | None:
    kind = FAILURE_OF_ERROR_CODE.get((last_error or "").lower())
    if kind is None or (code is None and _VERDICTS[kind].action == "retry"):
        return None  # a transient error of long ago says nothing about a cable that was pulled now
    return kind


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
