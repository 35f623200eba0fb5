"""What the conversation costs, and what it may cost. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from appliance.conversation.notices import BudgetWarning, Usage
from appliance.conversation.policy import Policy
from appliance.conversation.support.budget import Budget
from appliance.conversation.support.outbox import Outbox

__all__ = ["Account"]


class Account:
    """Counts tokens, money and seconds of audio: of the day for the budget, of the turn for its end.

    Writes `Usage` and `BudgetWarning`; the machine restricts the links at 100 percent.
    """

    def __init__(self, policy: Policy, out: Outbox) -> None:
        self._out = out
        self._budget = Budget(limit_usd=policy.budget_usd, limit_s=policy.budget_s)
        self._offline_endpoint = policy.offline_endpoint
        self._turn: Counter[str] = Counter()

    @property
    def is_spent(self) -> bool:
        return self._budget.is_spent

    @property
    def allows_nothing(self) -> bool:
        """The budget is spent, and there is no offline brain to take over."""
        return self.is_spent and self._offline_endpoint is None

    @property
    def only_endpoint(self) -> int | None:
        """The endpoint that may still be used: with the budget spent, only the offline brain; None for any."""
        return self._offline_endpoint if self.is_spent else None

    def begin_day(self, day: str, spent_usd: float, spent_s: float) -> None:
        self._budget.begin_day(day, spent_usd, spent_s)

    def count(self, usd: float | None, usage: Mapping[str, Any], audio_s: float) -> int | None:
        """Add to the day.

        Args:
            usd: US dollars; None where the price is not known.
            usage: The ``usage`` object of the server.
            audio_s: Seconds of audio, both ways.

        Returns:
            80 or 100 when that percentage of the budget is reached for the first time today, else None.
        """
        percent = self._budget.add(usd, audio_s)
        budget = self._budget
        self._out.emit(Usage(_by_name(token_counts(usage)), usd, audio_s, budget.spent_usd, budget.spent_s))
        if percent is not None:
            message = budget.sentence(percent)
            self._out.emit(BudgetWarning(percent, message))
            if percent >= 100:
                takes_over = self._offline_endpoint is not None
                self._out.announce(message + " I go on offline." * takes_over, "offline")
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
