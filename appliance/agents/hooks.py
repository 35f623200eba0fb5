"""Hooks: base classes whose methods an application overrides as needed. Pure.

Hooks run one after another, in the order of the events, outside the conversation: a slow hook delays the next hook,
never the audio. A hook that raises is logged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from appliance.agents.context import RunContext

if TYPE_CHECKING:
    from appliance.agents.agent import RealtimeAgent
    from appliance.agents.tools import Tool

__all__ = ["RealtimeAgentHooks", "RealtimeRunHooks"]


class RealtimeRunHooks:
    """Hooks of a whole session."""

    async def on_agent_start(self, context: RunContext[Any], agent: RealtimeAgent) -> None:
        """An agent starts to answer a turn, or takes over by a handoff."""

    async def on_agent_end(self, context: RunContext[Any], agent: RealtimeAgent, output: str) -> None:
        """An agent has finished a turn, or hands over; `output` is what it said."""

    async def on_handoff(self, context: RunContext[Any], from_agent: RealtimeAgent, to_agent: RealtimeAgent) -> None:
        """The server has accepted the new agent."""

    async def on_tool_start(self, context: RunContext[Any], agent: RealtimeAgent, tool: Tool) -> None:
        """A tool is about to run; not called for a call that is refused or rejected."""

    async def on_tool_end(self, context: RunContext[Any], agent: RealtimeAgent, tool: Tool, result: str) -> None:
        """A tool has ended; `result` is the output that the model gets."""


class RealtimeAgentHooks:
    """Hooks of one agent."""

    async def on_start(self, context: RunContext[Any], agent: RealtimeAgent) -> None:
        """This agent starts to answer a turn, or takes over by a handoff."""

    async def on_end(self, context: RunContext[Any], agent: RealtimeAgent, output: str) -> None:
        """This agent has finished a turn, or hands over."""

    async def on_handoff(self, context: RunContext[Any], agent: RealtimeAgent, source: RealtimeAgent) -> None:
        """This agent takes over from `source`."""

    async def on_tool_start(self, context: RunContext[Any], agent: RealtimeAgent, tool: Tool) -> None:
        """A tool of this agent is about to run."""

    async def on_tool_end(self, context: RunContext[Any], agent: RealtimeAgent, tool: Tool, result: str) -> None:
        """A tool of this agent has ended."""
