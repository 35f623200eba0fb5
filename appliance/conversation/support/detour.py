"""Why the first endpoint is not used, for the announcement. Pure."""

from __future__ import annotations

from appliance.conversation.support.retry import Verdict

__all__ = ["Detour"]


class Detour:
    """The failure of the first endpoint that was not announced yet.

    A fatal reason is announced once per kind, all others once together, until the first endpoint is in use again.
    """

    def __init__(self) -> None:
        self._verdict: Verdict | None = None
        self._told: set[str] = set()

    def note(self, verdict: Verdict) -> None:
        """Note why the first endpoint failed."""
        self._verdict = verdict

    def take(self) -> Verdict | None:
        """Return the reason if it was not returned before, else None."""
        verdict, self._verdict = self._verdict, None
        if verdict is None:
            return None
        reason = verdict.kind if verdict.action == "fatal" else ""
        if reason in self._told:
            return None
        self._told.add(reason)
        return verdict

    def end(self) -> None:
        """Forget all reasons: the first endpoint is in use."""
        self._verdict = None
        self._told.clear()
