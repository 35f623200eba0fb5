"""The choice of the next endpoint: by preference, without blocked ones. Pure."""

from __future__ import annotations

__all__ = ["Endpoints"]


class Endpoints:
    """The configured endpoints by their index in the list, the best first.

    A round tries each once. A blocked endpoint has refused us for a reason that needs a person to fix.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._tried: set[int] = set()
        self._tried_as_spare: set[int] = set()
        self._blocked_until: dict[int, float] = {}
        self.only: int | None = None
        """The only endpoint that may be used; None for all."""

    @property
    def allowed(self) -> list[int]:
        return list(range(self._count)) if self.only is None else [self.only]

    def allow(self, endpoint: int) -> bool:
        return self.only is None or endpoint == self.only

    def block(self, endpoint: int, until: float) -> None:
        self._blocked_until[endpoint] = until

    def unblock(self, endpoint: int) -> None:
        self._blocked_until.pop(endpoint, None)

    def all_blocked_until(self, now: float) -> float | None:
        """Return when the first is unblocked, if all allowed ones are blocked; else None."""
        if all(self._is_blocked(one, now) for one in self.allowed):
            return min(self._blocked_until[one] for one in self.allowed)
        return None

    def try_(self, endpoint: int) -> None:
        """Mark an endpoint as tried in this round."""
        self._tried.add(endpoint)

    def begin_round(self) -> None:
        self._tried.clear()

    def has_untried(self, now: float) -> bool:
        return any(one not in self._tried and not self._is_blocked(one, now) for one in self.allowed)

    def next(self, now: float) -> int:
        """Return the best untried endpoint that is not blocked; else the best untried one, else the best."""
        fresh = [one for one in self.allowed if one not in self._tried]
        return next((one for one in fresh if not self._is_blocked(one, now)), (fresh or self.allowed)[0])

    def try_as_spare(self, endpoint: int) -> None:
        self._tried_as_spare.add(endpoint)

    def begin_spares(self) -> None:
        self._tried_as_spare.clear()

    def better(self, than: int, now: float) -> int | None:
        """Return the best endpoint better than `than`; None if all are blocked or were tried as a spare."""
        allowed = self.allowed
        above = allowed[: allowed.index(than)] if than in allowed else allowed
        fresh = (one for one in above if not self._is_blocked(one, now) and one not in self._tried_as_spare)
        return next(fresh, None)

    def _is_blocked(self, endpoint: int, now: float) -> bool:
        return now < self._blocked_until.get(endpoint, now)
