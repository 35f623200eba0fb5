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
    if kind not in _NAMED:
        kind = _of_last_error(code, last_error) or kind
    return Verdict(_ACTIONS[kind], kind)


def _of_last_error(code: int | None, last_error: str | None) -> LinkFailure | None:
    kind = FAILURE_OF_ERROR_CODE.get((last_error or "").lower())
    if kind is None or (code is None and _ACTIONS[kind] == "retry"):
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
