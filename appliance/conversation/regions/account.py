"""What the conversation costs, and what it may cost. Pure: days and costs are handed in.

Each day has a limit in US dollars, one in seconds of audio, both or none; the one that is further spent counts. Two
percentages are announced, once a day each: 80 as a warning, and 100, from where the budget `is_spent` until a new day
begins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from appliance.conversation.commands import Sentence
from appliance.conversation.notices import BudgetWarning, Usage
from appliance.conversation.policy import Policy
from appliance.conversation.support.outbox import Outbox
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
        for name, limit in (("US dollars", limit_usd), ("seconds", limit_s)):
            if limit is not None and not limit > 0:
                raise SettingsError(f"a budget of {limit!r} {name} a day: must be above 0; leave it out for no limit")
        self._limit_usd = limit_usd
        self._limit_s = limit_s
        self._told = 0
        self.day = ""
        """ISO date; "" before the first day has begun."""
        self.spent_usd = 0.0
        self.spent_s = 0.0
        self.is_spent = False
        """Nothing is left for today."""

    @property
    def share(self) -> float:
        """What is spent of the limit, 0.0 for nothing and 1.0 for all of it; more is possible. 0.0 without limits."""
        return max(_part(self.spent_usd, self._limit_usd), _part(self.spent_s, self._limit_s))

    def begin_day(self, day: str, spent_usd: float = 0.0, spent_s: float = 0.0) -> None:
        """Begin a day with what was spent on it already; shares that it has passed are not told again.

        The same day once more takes nothing back of what was counted since.

        Args:
            day: ISO date, local time.
            spent_usd: US dollars.
            spent_s: Seconds of audio.
        """
        if day == self.day:
            spent_usd, spent_s = max(spent_usd, self.spent_usd), max(spent_s, self.spent_s)
        else:
            self._told = 0
        self.day, self.spent_usd, self.spent_s = day, spent_usd, spent_s
        self._told = max(self._told, self._passed())

    def add(self, usd: float | None, seconds: float) -> int | None:
        """Add what one response or transcription has cost.

        Args:
            usd: US dollars; None where the price is not known, which counts as nothing.
            seconds: Of audio, both ways.

        Returns:
            80 or 100 when that percentage of the budget is reached for the first time today (both at once: 100), else
            None.
        """
        self.spent_usd += max(0.0, usd or 0.0)
        self.spent_s += max(0.0, seconds)
        passed = self._passed()
        if passed <= self._told:
            return None
        self._told = passed
        return passed

    def warning(self, percent: int) -> BudgetWarning:
        """Return the warning at this percentage, about the limit that is further spent."""
        money, time = _part(self.spent_usd, self._limit_usd), _part(self.spent_s, self._limit_s)
        if self._limit_usd is not None and money >= time:
            return BudgetWarning(percent, "usd", self.spent_usd, self._limit_usd)
        return BudgetWarning(percent, "minutes", self.spent_s / 60, (self._limit_s or 0.0) / 60)

    def _passed(self) -> int:
        self.is_spent = self.share >= 1.0
        return next((share for share in SHARES if self.share >= share / 100), 0)


def _part(spent: float, limit: float | None) -> float:
    # Rounded: ten times ten cents are a dollar, though not as floats.
    return 0.0 if limit is None else round(spent / limit, 9)


class Account:
    """Counts tokens, money and seconds of audio: of the day for the budget, of the turn for its end.

    Writes `Usage` and `BudgetWarning`; the machine restricts the links at 100 percent.
    """

    def __init__(self, policy: Policy, out: Outbox) -> None:
        self._out = out
        self.budget = Budget(limit_usd=policy.budget_usd, limit_s=policy.budget_s)
        self._offline_endpoint = policy.offline_endpoint
        self._turn: Counter[str] = Counter()

    @property
    def only_endpoint(self) -> int | None:
        """The endpoint that may still be used: with the budget spent, only the offline brain; None for any."""
        return self._offline_endpoint if self.budget.is_spent else None

    def count(self, usd: float | None, usage: Mapping[str, Any], audio_s: float) -> int | None:
        """Add to the day.

        Args:
            usd: US dollars; None where the price is not known.
            usage: The ``usage`` object of the server.
            audio_s: Seconds of audio, both ways.

        Returns:
            80 or 100 when that percentage of the budget is reached for the first time today, else None.
        """
        percent = self.budget.add(usd, audio_s)
        budget = self.budget
        self._out.emit(Usage(_by_name(token_counts(usage)), usd, audio_s, budget.spent_usd, budget.spent_s))
        if percent is not None:
            warning = budget.warning(percent)
            self._out.emit(warning)
            if percent >= 100:
                key = f"budget.{warning.unit}" + "_then_offline" * (self._offline_endpoint is not None)
                values = {"percent": percent, "spent": warning.spent, "limit": warning.limit}
                self._out.announce(Sentence(key, values), "offline")
        return percent

    def add_to_turn(self, usage: Mapping[str, Any] | None) -> None:
        self._turn.update(token_counts(usage or {}))

    def end_turn(self) -> dict[str, int]:
        """Return the tokens of all responses of the turn, by name."""
        counts, self._turn = self._turn, Counter()
        return _by_name(counts)


def token_counts(usage: Mapping[str, Any], prefix: str = "") -> Counter[str]:
    """Flatten a ``usage`` object: ``input_token_details.audio_tokens`` is "input_audio_tokens"."""
    counts: Counter[str] = Counter()
    for key, value in usage.items():
        if isinstance(value, Mapping):
            counts.update(
                token_counts(value, prefix + key.removesuffix("token_details").removesuffix("tokens_details"))
            )
        elif isinstance(value, int) and not isinstance(value, bool):
            counts[f"{prefix}{key}"] += value
    return counts


def _by_name(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items()))
