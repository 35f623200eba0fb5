"""What is known of the answer to one turn. Pure records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from appliance.agents.spec import AgentSpec
from appliance.conversation.notices import TroubleKind
from appliance.conversation.support.values import mapping

__all__ = ["Asked", "Received", "Speaker"]


@dataclass(slots=True)
class Speaker:
    """Who answers."""

    spec: AgentSpec | None = None
    """The agent that gives the response that is under way: its tools are called, its guardrails watch."""
    agent: str = ""
    """"" before an answer was asked for."""
    said: str = field(default="", repr=False)
    """What that agent has said."""
    first_sentence: str = ""
    """What the next response begins with."""


@dataclass(slots=True)
class Received:
    """What came of it."""

    frames: int = 0
    has_output: bool = False
    """Audio, text or a call came. After this, replaying the turn would repeat side effects."""
    has_audio: bool = False
    has_text: bool = False
    failure: TroubleKind | Literal[""] = ""
    """Why the answer is not whole; reported after the received part has played."""
    failure_detail: str = ""


@dataclass(slots=True)
class Asked:
    """What was asked for."""

    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What the program wants of the response beyond the session's settings."""
    is_open: bool = False
    """A response was asked for, and its ``response.done`` has not come."""
    is_done: bool = False
    """All of the answer is here."""
    is_retry: bool = False
    """The server was busy with another response; the wait for an answer began before."""
    is_free: bool = False
    """The offline brain answers. A snapshot: the connection may be gone when the turn ends."""
    trips: int = 0
    """Responses that a guardrail stopped."""

    def response(self, turn: str, spec: AgentSpec, *, rounds: int, first_sentence: str) -> dict[str, Any]:
        """Return the ``response`` object of the next request.

        Args:
            turn: The running turn, which the server echoes.
            spec: The agent in force.
            rounds: Responses of this turn that made calls.
            first_sentence: What the answer must begin with; "" for anything.
        """
        wanted = self.options
        if rounds or self.trips:  # what it began from, and must call, holds for the first one
            wanted = {key: value for key, value in wanted.items() if key not in ("tool_choice", "input")}
        response: dict[str, Any] = {**wanted, "metadata": {**mapping(wanted.get("metadata")), "turn": turn}}
        if rounds and spec.session.get("tool_choice", "auto") not in ("auto", "none"):
            response["tool_choice"] = "auto"  # what must be called was called: else the model could never answer
        if first_sentence:
            own = spec.session.get("instructions", "")
            response["instructions"] = f"{own}\n\nBegin your answer with exactly this sentence: {first_sentence}"
        return response
