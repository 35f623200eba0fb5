"""Which endpoint to try next: in the order of preference, without those that refuse us. Pure."""

from __future__ import annotations

__all__ = ["Endpoints"]


class Endpoints:
    """The configured endpoints by their place in the list, the best first.

    A round tries each once. A blocked endpoint refused us for a reason that only somebody can mend.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._tried: set[int] = set()
        self._tried_as_spare: set[int] = set()
        self._blocked_until: dict[int, float] = {}
        self.only: int | None = None
        """The one endpoint that may be used; None for all of them."""

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
        """Return when the first is free again, if all are blocked."""
        if all(self._is_blocked(one, now) for one in self.allowed):
            return min(self._blocked_until[one] for one in self.allowed)
        return None

    def try_(self, endpoint: int) -> None:
        """Note that an endpoint was tried in this round."""
        self._tried.add(endpoint)

    def begin_round(self) -> None:
        self._tried.clear()

    def has_untried(self, now: float) -> bool:
        return any(one not in self._tried and not self._is_blocked(one, now) for one in self.allowed)

    def next(self, now: float) -> int:
        """Return the best that was not tried in this round and is not blocked; else the best there is."""
        fresh = [one for one in self.allowed if one not in self._tried]
        return next((one for one in fresh if not self._is_blocked(one, now)), (fresh or self.allowed)[0])

    def try_as_spare(self, endpoint: int) -> None:
        self._tried_as_spare.add(endpoint)

    def begin_spares(self) -> None:
        self._tried_as_spare.clear()

    def better(self, than: int, now: float) -> int | None:
        """Return the best endpoint above one; None if each is blocked or was tried as a spare."""
        allowed = self.allowed
        above = allowed[: allowed.index(than)] if than in allowed else allowed
        fresh = (one for one in above if not self._is_blocked(one, now) and one not in self._tried_as_spare)
        return next(fresh, None)

    def _is_blocked(self, endpoint: int, now: float) -> bool:
        return now < self._blocked_until.get(endpoint, now)
