"""One call of the model, from its wish to our answer. Pure records."""

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
    """Where a call was made."""

    turn: str
    link: int
    agent: str
    """The agent that gives the response: its tools are meant."""


@dataclass(slots=True)
class Call:
    """A call that is not answered yet."""

    call_id: str
    kind: Literal["tool", "handoff", "mcp"]
    name: str
    arguments: str
    agent: str
    """The agent that made it: its tools are meant."""
    turn: str
    link: int
    asked_at: float
    deadline: float
    stage: Stage = Stage.RUNNING
    card: ToolCard | HandoffCard | None = None
    spec: AgentSpec | None = None
    """Of a handoff: the agent that the server is being asked to take."""
    working_at: float | None = None
    """When the user hears that it takes a while."""
    is_started: bool = False
    """Of a call of an MCP server: ``ToolStart`` was emitted, when its arguments came."""
    outcome: Literal["", "ok", "error"] = ""
    """Of a call of an MCP server: how it ended, while its item with the output is awaited."""

    @property
    def handoff(self) -> HandoffCard | None:
        return self.card if isinstance(self.card, HandoffCard) else None

    @property
    def awaits_approval(self) -> bool:
        return self.stage is Stage.APPROVAL


@dataclass(frozen=True, slots=True)
class Closed:
    """A call that was just answered, for the machine to go on with."""

    call: Call
    output: str
    """The output, or the reason of a rejection."""
    reply: Literal["output", "approve", "reject", "none"]
    """What the server is sent: an output, a verdict on an MCP server's call, or nothing."""


@dataclass(slots=True)
class Round:
    """The calls of the running turn; a round is one response that made calls."""

    number: int = 0
    """Rounds that are over."""
    open: set[str] = field(default_factory=set)
    seen: set[str] = field(default_factory=set)
    mcp: set[str] = field(default_factory=set)
    """Those of `seen` that an MCP server of the model's side runs."""
    background: set[str] = field(default_factory=set)
    """Those of `seen` whose output the model does not speak about."""
    is_background: bool = False
    """The last round was all in the background."""

    def end(self) -> bool:
        """Begin the next round; returns whether the model must speak about any call of this one."""
        wants_answer = bool(self.seen - self.background)
        self.seen.clear()
        self.background.clear()
        self.mcp.clear()
        self.number += 1
        self.is_background = not wants_answer
        return wants_answer


def tool_names(spec: AgentSpec) -> str:
    """Name what an agent may call."""
    names = [one.name for one in spec.tools or ()] + [one.name for one in spec.handoffs]
    return ", ".join(sorted(set(names) - set(spec.disabled))) or "none"


def mcp_error(error: Any) -> str:
    """Return ``{"type": "tool_execution_error", "message": …}`` as one line."""
    return str(error.get("message") or error.get("type") or "") if isinstance(error, Mapping) else str(error or "")
