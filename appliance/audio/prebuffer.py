"""The length of the pre-buffer: longer after a pause of the network, shorter after answers without one. Pure."""

from __future__ import annotations

__all__ = ["Prebuffer"]

_FIRST_STEP_MS = 150  # after the first pause; each further pause doubles it
_QUIET_ANSWERS = 3  # in a row, until it is halved


class Prebuffer:
    """The pre-buffer, between a least and a most length.

    Args:
        least_ms: The length at the start.
        most_ms: The length that no pause exceeds; `least_ms` if it is shorter than that.
    """

    def __init__(self, least_ms: int, most_ms: int) -> None:
        self._least_ms = least_ms
        self._most_ms = max(least_ms, most_ms)
        self._quiet_answers = 0
        self._has_paused = False
        self.ms = least_ms
        """Its length now."""

    def answer_paused(self) -> None:
        """Count a pause within an answer: audio arrived after the card had run empty."""
        self._has_paused = True
        self.ms = min(max(2 * self.ms, _FIRST_STEP_MS), self._most_ms)

    def answer_ended(self) -> None:
        """Count an answer whose audio is complete."""
        self._quiet_answers = 0 if self._has_paused else self._quiet_answers + 1
        self._has_paused = False
        if self._quiet_answers == _QUIET_ANSWERS:
            self._quiet_answers = 0
            shorter = self.ms // 2
            self.ms = shorter if shorter >= max(_FIRST_STEP_MS, self._least_ms) else self._least_ms
