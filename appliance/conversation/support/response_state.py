"""The state of the answer to one turn. Pure records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from appliance.agents.spec import AgentSpec
from appliance.conversation.notices import AgentEnd, AgentStart, TroubleKind
from appliance.conversation.support.values import mapping

__all__ = ["Asked", "Received", "Speaker"]


@dataclass(slots=True)
class Speaker:
    """The agent that answers."""

    spec: AgentSpec | None = None
    """The agent that gives the current response: its tools are called, its guardrails apply."""
    agent: str = ""
    """Its name; "" before a response is requested."""
    said: str = field(default="", repr=False)
    """What it has said in this turn."""
    first_sentence: str = ""
    """What the next response must begin with; "" for anything."""

    def change(self, agent: str) -> list[AgentEnd | AgentStart]:
        """Let an agent answer; returns the notices: none if it answers already."""
        if agent == self.agent:
            return []
        ended = [AgentEnd(self.agent, self.said)] if self.agent else []
        self.agent, self.said = agent, ""
        return [*ended, AgentStart(agent)]


@dataclass(slots=True)
class Received:
    """What was received of the answer."""

    frames: int = 0
    half_sample: tuple[str, int, bytes] = ("", 0, b"")
    """Item, content index and first byte of a sample whose second byte is in the next delta."""
    has_output: bool = False
    """Audio, text or a call has arrived. After this, replaying the turn would repeat side effects."""
    is_begun: bool = False
    """Audio or text of the open response has arrived."""
    has_audio: bool = False
    response_has_audio: bool = False
    """Audio of the newest response has arrived; an earlier one of the turn may have spoken before its calls."""
    is_audio_whole: bool = False
    """The server has ended the audio of the newest item."""
    late_response: str = ""
    """A response that is done, and whose audio has not arrived yet."""
    has_text: bool = False
    failure: TroubleKind | Literal[""] = ""
    """Why the answer is incomplete; reported after the received part has played."""
    failure_detail: str = ""


@dataclass(slots=True)
class Asked:
    """What was requested for the turn."""

    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Response options of the program, on top of the session's settings."""
    is_open: bool = False
    """A response was requested, and is not done."""
    is_done: bool = False
    """The answer is complete."""
    is_retry: bool = False
    """A busy server refused the request: its repetition keeps the deadline."""
    is_free: bool = False
    """The offline brain answers. A snapshot: the connection may be lost before the turn ends."""
    link_deadline: float | None = None
    """When to stop waiting for a connection that is asked to go on with the answer; None if none is awaited."""
    losses: int = 0
    """Connections lost since the answer has begun with calls."""
    trips: int = 0
    """Responses that a guardrail stopped."""

    def await_link(self, deadline: float) -> None:
        """Wait for another connection, which continues the answer."""
        self.link_deadline = deadline
        self.losses += 1

    def response(self, turn: str, spec: AgentSpec, *, rounds: int, first_sentence: str) -> dict[str, Any]:
        """Return the ``response`` object of the next request.

        Args:
            turn: The running turn, which the server echoes.
            spec: The agent in force.
            rounds: Responses of this turn that made calls.
            first_sentence: What the answer must begin with; "" for anything.
        """
        wanted = self.options
        if rounds or self.trips:  # input and tool_choice apply to the first response only
            wanted = {key: value for key, value in wanted.items() if key not in ("tool_choice", "input")}
        response: dict[str, Any] = {**wanted, "metadata": {**mapping(wanted.get("metadata")), "turn": turn}}
        if rounds and spec.session.get("tool_choice", "auto") not in ("auto", "none"):
            response["tool_choice"] = "auto"  # the required call was made: now the model may answer
        if first_sentence:
            own = spec.session.get("instructions", "")
            response["instructions"] = f"{own}\n\nBegin your answer with exactly this sentence: {first_sentence}"
        return response
