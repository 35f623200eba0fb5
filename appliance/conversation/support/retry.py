"""The one place that decides whether a lost connection is retried, and after what wait.

Pure. The transport reports the kind of a failure (`events.LinkFailure`). That may be only the meaning of a status or
close code, and codes mislead: OpenAI closes with 1013 ("try again later") when the account has no credit, and with 1001
("going away") when a session reaches its time limit. So the code of the last ``error`` event on that link wins over
such a kind: OpenAI accepts the connection, sends the error, then closes, and the close frame may be lost.

An unknown reason is transient: an appliance that gives up without need is worse than one that retries.
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
    """``retry``: reconnect with backoff; ``fatal``: a retry cannot help before a person acts; ``expired``: the normal
    end of a session, reconnect at once."""
    kind: LinkFailure | Literal["settings_refused"]
    """Stable and machine-readable. Only the conversation sets ``settings_refused``: the link itself was up."""
    retry_after_s: float = 0.0
    """How long the server asks to wait before the next connection."""


_LONGEST_WAIT_S: Final = 3600.0  # a server that asks for more is tried again after an hour

_ACTIONS: Final[Mapping[LinkFailure, Action]] = {
    "bad_key": "fatal",
    "no_key": "fatal",
    "no_credit": "fatal",
    "account_closed": "fatal",
    "unauthorized": "fatal",
    "region": "fatal",
    "model_not_found": "fatal",
    "bad_shape": "fatal",
    "policy": "fatal",
    "not_an_endpoint": "fatal",
    "bad_address": "fatal",
    "proxy": "fatal",
    "refused": "retry",
    "unreachable": "retry",
    "name_not_found": "retry",
    "tls": "retry",
    "not_a_server": "retry",
    "timeout": "retry",
    "rate_limited": "retry",
    "server_error": "retry",
    "bad_frames": "retry",
    "protocol_error": "retry",
    "too_big": "retry",
    "closed": "retry",
    "lost": "retry",
    "session_expired": "expired",
}

_ONLY_BY_ERROR_CODE: Final[frozenset[LinkFailure]] = frozenset(FAILURE_OF_ERROR_CODE.values()) - {
    "bad_shape",
    "model_not_found",
    "rate_limited",
    "server_error",
    "unauthorized",
}
"""Kinds that only an error code gives; each of the five excluded ones may also come from a status or close code."""


def classify(
    kind: LinkFailure, code: int | None, *, last_error: str | None = None, retry_after_s: float | None = None
) -> Verdict:
    """Return what the end of a link means.

    Args:
        kind: The kind that the transport reports.
        code: The WebSocket close code (1000 and above), the HTTP status that refused the upgrade, or None for neither.
        last_error: The ``code``, else the ``type``, of the last ``error`` event on that link; None without one.
        retry_after_s: How long the server asks to wait; None if it does not.
    """
    if kind not in _ONLY_BY_ERROR_CODE:
        kind = _kind_of_last_error(code, last_error) or kind
    return Verdict(_ACTIONS[kind], kind, min(retry_after_s or 0.0, _LONGEST_WAIT_S))


def _kind_of_last_error(code: int | None, last_error: str | None) -> LinkFailure | None:
    kind = FAILURE_OF_ERROR_CODE.get((last_error or "").lower())
    if kind is None or (code is None and _ACTIONS[kind] == "retry"):
        return None  # an old transient error does not explain a connection that breaks now
    return kind


@dataclass(frozen=True, slots=True)
class Backoff:
    """Capped exponential backoff with full jitter, so that many devices do not reconnect at the same time."""

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
        """Return how long to wait before the next attempt, in seconds.

        Args:
            attempt: Number of failed attempts in a row, less one: 0 for the first wait.
            unit: A random number in [0, 1).

        Returns:
            Between half of `initial_s` and `max_s`; never 0, because a refusal takes only a millisecond.
        """
        ceiling_s = self.initial_s
        for _ in range(attempt):  # a power would overflow after a night without network
            if ceiling_s >= self.max_s or self.factor == 1.0:
                break
            ceiling_s *= self.factor
        return max(self.initial_s / 2.0, unit * min(ceiling_s, self.max_s))
