"""The cost of the conversation and the budget of a day. Pure: days and costs are arguments.

A day has a limit in US dollars, in seconds of audio, in both or in neither; the one of which more is spent counts.
Two percentages are reported once a day: 80 as a warning, and 100, after which `is_spent` holds until the next day.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from appliance.conversation.commands import Sentence
from appliance.conversation.notices import BudgetWarning, Usage
from appliance.conversation.policy import Policy
from appliance.conversation.support.outbox import Outbox
from appliance.conversation.support.usage import SessionUsage, token_counts
from appliance.errors import SettingsError

__all__ = ["SHARES", "Account", "Budget"]

SHARES = (100, 80)
"""Percentages to announce, highest first; if one update crosses both, only the higher is announced."""


class Budget:
    """The budget of one day.

    Args:
        limit_usd: US dollars a day; None for no limit.
        limit_s: Seconds of audio a day, both ways; None for no limit.

    Raises:
        SettingsError: A limit is not above 0.
    """

    def __init__(self, *, limit_usd: float | None = None, limit_s: float | None = None) -> None:
        self._reported = 0
        self.day = ""
        """ISO date; "" before the first day."""
        self.spent_usd = 0.0
        self.spent_s = 0.0
        self.limit(usd=limit_usd, s=limit_s)

    def limit(self, *, usd: float | None, s: float | None) -> None:
        """Set the limits of a day; a percentage that today's amounts have reached is not reported.

        Raises:
            SettingsError: A limit is not above 0.
        """
        for name, limit in (("US dollars", usd), ("seconds", s)):
            if limit is not None and not limit > 0:
                raise SettingsError(f"a budget of {limit!r} {name} a day: must be above 0; leave it out for no limit")
        self._limit_usd = usd
        self._limit_s = s
        self._reported = self._highest_reached()

    @property
    def is_spent(self) -> bool:
        """Nothing is left for today."""
        return self.share >= 1.0

    @property
    def share(self) -> float:
        """The share of the limit that is spent: 1.0 is all of it, more is possible; 0.0 without limits."""
        return max(_share(self.spent_usd, self._limit_usd), _share(self.spent_s, self._limit_s))

    def begin_day(self, day: str, spent_usd: float = 0.0, spent_s: float = 0.0) -> None:
        """Start a day with the amounts already spent; percentages they have reached are not reported again.

        Starting the current day again never lowers its amounts.

        Args:
            day: ISO date, local time.
            spent_usd: US dollars.
            spent_s: Seconds of audio.
        """
        if day == self.day:
            spent_usd, spent_s = max(spent_usd, self.spent_usd), max(spent_s, self.spent_s)
        else:
            self._reported = 0
        self.day, self.spent_usd, self.spent_s = day, spent_usd, spent_s
        self._reported = max(self._reported, self._highest_reached())

    def add(self, usd: float | None, seconds: float) -> int | None:
        """Add the cost of a response or a transcription, or the audio of a turn.

        Args:
            usd: US dollars; None for an unknown price, which counts as 0.
            seconds: Seconds of audio, both ways.

        Returns:
            80 or 100 if that percentage is reached for the first time today (100 if both are), else None.
        """
        self.spent_usd += max(0.0, usd or 0.0)
        self.spent_s += max(0.0, seconds)
        reached = self._highest_reached()
        if reached <= self._reported:
            return None
        self._reported = reached
        return reached

    def warning(self, percent: int) -> BudgetWarning:
        """Return the warning for a percentage; it names the limit with the larger share spent."""
        money, time = _share(self.spent_usd, self._limit_usd), _share(self.spent_s, self._limit_s)
        if self._limit_usd is not None and money >= time:
            return BudgetWarning(percent, "usd", self.spent_usd, self._limit_usd)
        return BudgetWarning(percent, "minutes", self.spent_s / 60, (self._limit_s or 0.0) / 60)

    def _highest_reached(self) -> int:
        return next((share for share in SHARES if self.share >= share / 100), 0)


def _share(spent: float, limit: float | None) -> float:
    # Rounded, because ten times 0.1 is not exactly 1.0 in floats.
    return 0.0 if limit is None else round(spent / limit, 9)


class Account:
    """Counts US dollars and seconds of audio per day, for the budget, and tokens per turn and of the session.

    Emits `Usage` and `BudgetWarning`; `Procedures.count` restricts the links at 100 percent.
    """

    def __init__(self, policy: Policy, out: Outbox) -> None:
        self.policy = policy
        self._out = out
        self.budget = Budget(limit_usd=policy.budget_usd, limit_s=policy.budget_s)
        self._turn: Counter[str] = Counter()
        self.session = SessionUsage()
        """Of all responses and transcriptions, those of the offline brain too."""

    def use(self, policy: Policy) -> None:
        """Use these limits from now on."""
        self.policy = policy
        self.budget.limit(usd=policy.budget_usd, s=policy.budget_s)

    @property
    def only_endpoint(self) -> int | None:
        """The only endpoint that may be used: the offline brain once the budget is spent; None for any."""
        return self.policy.offline_endpoint if self.budget.is_spent else None

    def count(self, usd: float | None, usage: Mapping[str, Any], audio_s: float) -> int | None:
        """Add to the totals of the day, and announce a spent budget.

        Args:
            usd: US dollars; None for an unknown price.
            usage: The server's ``usage`` object.
            audio_s: Seconds of audio, both ways.

        Returns:
            80 or 100 if that percentage is reached for the first time today, else None.
        """
        percent = self.budget.add(usd, audio_s)
        budget = self.budget
        self._out.emit(Usage(_by_name(token_counts(usage)), usd, audio_s, budget.spent_usd, budget.spent_s))
        if percent is not None:
            warning = budget.warning(percent)
            self._out.emit(warning)
            if percent >= 100:
                key = f"budget.{warning.unit}" + "_then_offline" * (self.policy.offline_endpoint is not None)
                values = {"percent": percent, "spent": warning.spent, "limit": warning.limit}
                self._out.announce(Sentence(key, values), "offline")
        return percent

    def add_to_session(self, usage: Mapping[str, Any], usd: float | None, *, requests: int) -> None:
        """Add a response (one request) or a transcription (none)."""
        self.session = self.session.plus(usage, usd, requests=requests)

    def add_to_turn(self, usage: Mapping[str, Any] | None) -> None:
        self._turn.update(token_counts(usage or {}))

    def end_turn(self) -> dict[str, int]:
        """Return the token counts of the turn by name, and reset them."""
        counts, self._turn = self._turn, Counter()
        return _by_name(counts)


def _by_name(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items()))
