"""`AgentSpec`: what the conversation knows about an agent, as plain data. Pure.

Agents hold functions (instructions, predicates, tools), which the pure conversation cannot call. The runtime calls them
and passes in an `AgentSpec`: the session object for the server, and how to treat each tool. A spec holds only values
that JSON can express, so a trace can record it and a replay needs no application code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["AgentSpec", "HandoffCard", "ToolCard"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCard:
    """How to treat the calls of one tool."""

    name: str
    approval: Literal["never", "always", "asked"] = "never"
    """``asked``: a predicate decides for each call."""
    is_cancellable: bool = False
    """A barge-in cancels the call; otherwise it keeps running and its output is still sent."""
    working_after_s: float | None = None
    """A call that runs longer than this plays an earcon and `filler`."""
    filler: str = ""
    timeout_s: float | None = None
    """How long it may run, with its guardrails; None uses the policy's limit."""
    has_input_guardrails: bool = False
    """The call starts when ``ToolBegan`` says that its guardrails have passed."""


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
    """None: not listed; every call goes to the tool runner."""
    handoffs: tuple[HandoffCard, ...] = ()
    has_output_guardrails: bool = False
    has_input_guardrails: bool = False
    is_asked_at_connect: bool = False
    """Built by functions whose result may change; prepare the agent again at each connection."""
    is_asked_at_turn: bool = False
    """Built by functions whose result may change; prepare the agent again at each turn."""
    disabled: tuple[str, ...] = ()
    """Tools and handoffs that exist but are not offered now."""
    phrases: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By the name of a tool or handoff: what the offline brain gets of it besides its definition."""
    approvals: tuple[str, ...] = ()
    """If `tools` is None: names of the tools that need the user's approval."""

    def tool(self, name: str) -> ToolCard | None:
        """Return the card of a tool; a default policy if this agent's tools are not listed."""
        if self.tools is None:
            return ToolCard(name=name, approval="always" if name in self.approvals else "never")
        return next((one for one in self.tools if one.name == name), None)

    def handoff(self, name: str) -> HandoffCard | None:
        return next((one for one in self.handoffs if one.name == name), None)

    @property
    def turn_detection(self) -> Mapping[str, Any] | None:
        """The session's server-side turn detection; None for push to talk."""
        found = self.session.get("audio", {}).get("input", {}).get("turn_detection")
        return found if isinstance(found, Mapping) else None

    @property
    def is_written(self) -> bool:
        """Answers are text, not speech."""
        return list(self.session.get("output_modalities", ())) == ["text"]

    def without_secrets(self) -> Mapping[str, Any]:
        """Return the session for a third-party server: without MCP servers that carry our credentials."""
        tools = self.session.get("tools")
        if not isinstance(tools, list):
            return self.session
        kept = [one for one in tools if not (one.get("type") == "mcp" and {"authorization", "headers"} & set(one))]
        return {**self.session, "tools": kept}

    def for_offline_brain(self) -> Mapping[str, Any]:
        """Return the session for the offline brain: without MCP servers, and with the phrases of its tools.

        Any other server would refuse the key ``phrases``.
        """
        tools = self.session.get("tools")
        if not isinstance(tools, list):
            return self.session
        kept = [one for one in tools if one.get("type") == "function"]
        told = [{**one, "phrases": self.phrases[one["name"]]} if one["name"] in self.phrases else one for one in kept]
        return {**self.session, "tools": told}

    def without_voice(self) -> Mapping[str, Any]:
        """Return the session for a connection that has produced audio: the server would refuse a voice."""
        audio = dict(self.session.get("audio", {}))
        if "output" in audio:
            audio["output"] = {key: value for key, value in audio["output"].items() if key != "voice"}
        return {**self.session, "audio": audio} if audio else self.session
