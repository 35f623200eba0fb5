"""Who can be talking: what the conversation must know of each agent, as plain data. Pure.

Agents hold functions (instructions, predicates, tools), which only the outside can call. It calls them and hands in
an `AgentSpec`: what the server is to be told, and how each tool is to be treated. A spec holds nothing that JSON
cannot, so a trace records it and a replay needs none of the maker's code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["AgentSpec", "HandoffCard", "ToolCard"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCard:
    """How the calls of one tool are treated."""

    name: str
    approval: Literal["never", "always", "asked"] = "never"
    """``asked``: a predicate decides for each call."""
    is_cancellable: bool = False
    """A barge-in cancels it; else it runs on, and its output is still sent."""
    working_after_s: float | None = None
    """Running longer than this, it is heard: an earcon, and `filler`."""
    filler: str = ""
    timeout_s: float | None = None
    """How long it may run; None is the policy's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoffCard:
    """A tool that hands over."""

    name: str
    agent: str
    first_sentence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSpec:
    """One agent, ready to talk."""

    agent: str
    session: Mapping[str, Any] = field(repr=False)
    """The whole ``session`` object of its ``session.update``."""
    tools: tuple[ToolCard, ...] | None = None
    """None: not listed; every call is passed on to the tool runner."""
    handoffs: tuple[HandoffCard, ...] = ()
    has_output_guardrails: bool = False
    has_input_guardrails: bool = False
    is_asked_at_connect: bool = False
    """Made by functions that may say something else at the next connection."""
    is_asked_at_turn: bool = False
    """Made by functions that may say something else at the next turn."""
    disabled: tuple[str, ...] = ()
    """Tools and handoffs that exist and are not offered now."""
    approvals: tuple[str, ...] = ()
    """Where `tools` is None: those that need the user's approval."""

    def tool(self, name: str) -> ToolCard | None:
        """Return the card of a tool; a default policy if this agent's tools are not listed."""
        if self.tools is None:
            return ToolCard(name=name, approval="always" if name in self.approvals else "never")
        return next((one for one in self.tools if one.name == name), None)

    def handoff(self, name: str) -> HandoffCard | None:
        return next((one for one in self.handoffs if one.name == name), None)

    @property
    def turn_detection(self) -> Mapping[str, Any] | None:
        """How the server finds the turns by itself; None: it does not, push to talk."""
        found = self.session.get("audio", {}).get("input", {}).get("turn_detection")
        return found if isinstance(found, Mapping) else None

    @property
    def is_written(self) -> bool:
        """Answers are text, not speech."""
        return list(self.session.get("output_modalities", ())) == ["text"]

    def without_secrets(self) -> Mapping[str, Any]:
        """The session for a server that is somebody else's: without MCP servers that need a secret of ours."""
        tools = self.session.get("tools")
        if not isinstance(tools, list):
            return self.session
        kept = [one for one in tools if not (one.get("type") == "mcp" and {"authorization", "headers"} & set(one))]
        return {**self.session, "tools": kept}

    def without_voice(self) -> Mapping[str, Any]:
        """The session for a connection that has spoken already: the server would refuse it with a voice."""
        audio = dict(self.session.get("audio", {}))
        if "output" in audio:
            audio["output"] = {key: value for key, value in audio["output"].items() if key != "voice"}
        return {**self.session, "audio": audio} if audio else self.session
