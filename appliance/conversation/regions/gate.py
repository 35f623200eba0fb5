"""The conditions that a turn waits for before its response is requested. Pure.

They are new instructions of the agent, and the input guardrails.
"""

from __future__ import annotations

from collections import deque

from appliance.conversation.commands import CheckText, PrepareAgent
from appliance.conversation.events import InputCheck, TurnKey
from appliance.conversation.policy import Policy
from appliance.conversation.support.outbox import Outbox

__all__ = ["Gate"]

_REMEMBERED = 64  # refused turns whose item the server may still confirm


class Gate:
    """Holds back the response to the running turn.

    Emits `PrepareAgent` and `CheckText`; their results open the gate, and so does a time-out of the instructions.
    """

    def __init__(self, policy: Policy, out: Outbox) -> None:
        self.policy = policy
        self._out = out
        self.is_prepared = True
        """False while the instructions for this turn are pending."""
        self.is_checked = True
        """False while the input guardrails are pending."""
        self.has_passed = False
        """The input guardrails have passed this turn: they do not run again on another connection."""
        self._prepare_deadline = 0.0
        self._check_deadline = 0.0
        self._refused_turns: deque[str] = deque(maxlen=_REMEMBERED)

    def deadline(self, default: float) -> float:
        """Return the earlier deadline of the pending waits; `default` if there is none."""
        waits = [self._prepare_deadline] * (not self.is_prepared) + [self._check_deadline] * (not self.is_checked)
        return min(waits, default=default)

    def are_instructions_late(self, now: float) -> bool:
        return not self.is_prepared and now >= self._prepare_deadline

    def is_check_late(self, now: float) -> bool:
        return not self.is_checked and now >= self._check_deadline

    def refuses(self, turn: str) -> bool:
        """Return whether a turn ended before its input check passed: its items must not stay on the server."""
        return turn in self._refused_turns

    def prepare(self, key: TurnKey, agent: str, now: float) -> None:
        """Request the agent's instructions for this turn."""
        self.is_prepared = False
        self._prepare_deadline = now + self.policy.prepare_s
        self._out.do(PrepareAgent(key, agent, "turn"))

    def prepared(self) -> None:
        self.is_prepared = True

    def await_words(self, now: float) -> None:
        """Wait for the transcript, which the guardrails check."""
        self.is_checked = False
        self._check_deadline = now + self.policy.transcript_s

    def check(self, key: InputCheck, agent: str, text: str, now: float) -> None:
        self._check_deadline = now + self.policy.guardrail_s
        self._out.do(CheckText(key, agent, "input", text))

    def checked(self) -> None:
        """Open the gate: the guardrails have passed the turn."""
        self.is_checked = self.has_passed = True

    def end(self, turn: str) -> bool:
        """End the turn; returns whether it ended unchecked, so that its items must be deleted."""
        is_unchecked = not self.is_checked
        if is_unchecked:
            self._refused_turns.append(turn)
        self.is_prepared = self.is_checked = True
        self.has_passed = False
        return is_unchecked
