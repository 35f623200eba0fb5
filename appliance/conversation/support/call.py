"""One call of the model, from its request to its output. Pure records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Literal

from appliance.agents.spec import AgentSpec, HandoffCard, ToolCard

__all__ = ["Call", "Closed", "Made", "Round", "Stage", "mcp_error", "tool_names"]


class Stage(Enum):
    CHECKING = auto()
    APPROVAL = auto()
    RUNNING = auto()


@dataclass(frozen=True, slots=True)
class Made:
    """Where a call comes from."""

    turn: str
    link: int
    agent: str
    """The agent that gives the response; the call names one of its tools."""


@dataclass(slots=True)
class Call:
    """A call without an output so far."""

    call_id: str
    kind: Literal["tool", "handoff", "mcp"]
    name: str
    arguments: str
    agent: str
    """The agent that made the call; it names one of its tools."""
    turn: str
    link: int
    asked_at: float
    deadline: float
    stage: Stage = Stage.RUNNING
    card: ToolCard | HandoffCard | None = None
    spec: AgentSpec | None = None
    """For a handoff: the agent that the server is asked to accept."""
    working_at: float | None = None
    """When to play the working cue."""
    is_started: bool = False
    """``ToolStart`` was emitted."""
    outcome: Literal["", "ok", "error"] = ""
    """For an MCP call: how it ended, until its item arrives with the output."""

    @property
    def handoff(self) -> HandoffCard | None:
        return self.card if isinstance(self.card, HandoffCard) else None

    @property
    def outlives_link(self) -> bool:
        """It is a tool of ours that runs: a lost connection does not end it."""
        return self.kind == "tool" and self.stage is Stage.RUNNING

    @property
    def awaits_approval(self) -> bool:
        return self.stage is Stage.APPROVAL


@dataclass(frozen=True, slots=True)
class Closed:
    """A call that was just closed, for `Procedures.close_call`."""

    call: Call
    output: str
    """The output, or the reason of a rejection."""
    reply: Literal["output", "approve", "reject", "none"]
    """What to send to the server: the output, a verdict on an MCP call, or nothing."""


@dataclass(slots=True)
class Round:
    """The calls of the running turn; a round is one response that made calls."""

    number: int = 0
    """How many rounds are over."""
    open: set[str] = field(default_factory=set)
    seen: set[str] = field(default_factory=set)
    mcp: set[str] = field(default_factory=set)
    """Those of `seen` that are MCP calls, which the server runs."""
    background: set[str] = field(default_factory=set)
    """Those of `seen` whose output the model must not speak about."""
    used_mcp: bool = False
    """The turn has made MCP calls, which cannot be sent to another connection."""
    is_background: bool = False
    """All calls of the last round were background calls."""

    def end(self) -> bool:
        """Start the next round; returns whether the model must speak about any call of this one."""
        wants_answer = bool(self.seen - self.background)
        self.seen.clear()
        self.background.clear()
        self.mcp.clear()
        self.number += 1
        self.is_background = not wants_answer
        return wants_answer


def tool_names(spec: AgentSpec) -> str:
    """Return the names of what an agent may call, joined by commas."""
    names = [one.name for one in spec.tools or ()] + [one.name for one in spec.handoffs]
    return ", ".join(sorted(set(names) - set(spec.disabled))) or "none"


def mcp_error(error: Any) -> str:
    """Return the message of ``{"type": "tool_execution_error", "message": …}``, else its type."""
    return str(error.get("message") or error.get("type") or "") if isinstance(error, Mapping) else str(error or "")
