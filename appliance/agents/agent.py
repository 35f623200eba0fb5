"""`RealtimeAgent`: an assistant's name, instructions, tools, handoffs and guardrails. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from appliance.agents.context import ASK_TIMEOUT_S, InstructionsFunction, ToolContext
from appliance.agents.guardrails import InputGuardrail, OutputGuardrail
from appliance.agents.handoffs import Handoff, handoff, transfer_name
from appliance.agents.hooks import RealtimeAgentHooks
from appliance.agents.tools import Tool, tool
from appliance.errors import ToolError
from appliance.sdk_names import explained_class

if TYPE_CHECKING:
    from appliance.agents.mcp_servers import HostedMcp, McpServer

__all__ = ["RealtimeAgent", "agents_of"]


@explained_class
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RealtimeAgent:
    """An assistant for a speech-to-speech model.

    For two agents that hand over to each other, pass `handoffs` as a list and append to it once both exist. The session
    reads all fields when it starts.

    Raises:
        ToolError: Two tools or handoffs have the same name, or the agent has no name.
    """

    name: str
    instructions: str | InstructionsFunction = ""
    """A string, or a sync or async function of (context, agent) that returns one."""
    refresh_instructions: Literal["connect", "turn"] = "connect"
    """When to call an `instructions` function: at each connection and handoff, or also before each answer."""
    tools: Sequence[Tool] = ()
    handoffs: Sequence[RealtimeAgent | Handoff] = ()
    handoff_description: str = ""
    """When to hand over to this agent; shown to the model of the other agents."""
    voice: str | Mapping[str, str] = ""
    """"" uses the session's voice. The server cannot change the voice once a connection has produced audio."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Session settings that this agent overrides, by their name in `RealtimeSessionSettings`, such as ``speed``."""
    output_guardrails: Sequence[OutputGuardrail] = ()
    input_guardrails: Sequence[InputGuardrail] = ()
    mcp_servers: Sequence[McpServer | HostedMcp] = ()
    hooks: RealtimeAgentHooks | None = None

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ToolError("an agent has no name: give it one, its handoffs are named after it")
        self.check()

    def __repr__(self) -> str:
        return f"<RealtimeAgent {self.name!r}: {len(self.tools)} tools, {len(self.handoffs)} handoffs>"

    def check(self) -> None:
        """Check the names of tools and handoffs, whose lists may have changed since the agent was created.

        Raises:
            ToolError: Two tools or handoffs have the same name.
        """
        names = [one.name for one in self.tools] + [one.tool_name for one in self.transfers()]
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        if twice:
            raise ToolError(f"agent {self.name!r}: two tools are named {', '.join(twice)}; give each its own name")

    def transfers(self) -> list[Handoff]:
        """Return the handoffs, with a default `Handoff` for each bare agent."""
        return [one if isinstance(one, Handoff) else handoff(one) for one in self.handoffs]

    def clone(self, **changes: Any) -> RealtimeAgent:
        """Return a copy with `changes` applied; lists that are not among them are shared with the original.

        Raises:
            TypeError: There is no such field.
        """
        return RealtimeAgent(**{f.name: getattr(self, f.name) for f in fields(self)} | changes)

    def as_tool(self, *, tool_name: str = "", tool_description: str = "", timeout_s: float = ASK_TIMEOUT_S) -> Tool:
        """Return a tool that asks this agent outside the conversation and returns its answer as text.

        The agent can call its own tools that are enabled and never need approval, but not its handoffs or the tools of
        its MCP servers. Its answer is not spoken; the calling agent receives it as the tool's output.

        Args:
            tool_name: Default: ``ask_<name>``.
            tool_description: Default: built from `handoff_description`.
            timeout_s: Longest wait for the answer, including the agent's tools.

        Raises:
            ToolError: The name or the limit is invalid.
        """

        async def ask(context: ToolContext[Any], question: str) -> str:
            """Ask.

            Args:
                question: The whole question; the other agent does not hear the conversation.
            """
            if context.ask_agent is None:
                raise ToolError(f"The {self.name} agent cannot be asked: there is no model to ask here.")
            return await context.ask_agent(self, context, question, timeout_s=timeout_s)

        return tool(
            name=tool_name or "ask_" + transfer_name(self.name).removeprefix("transfer_to_"),
            description=tool_description or f"Ask the {self.name} agent. {self.handoff_description}".strip(),
            timeout_s=timeout_s,
        )(ask)


def agents_of(start: RealtimeAgent) -> dict[str, RealtimeAgent]:
    """Return every agent that can be reached from `start` by handoffs, by name, `start` first.

    Raises:
        ToolError: Two agents have the same name, or two tools of one agent do.
    """
    found: dict[str, RealtimeAgent] = {}
    waiting = [start]
    while waiting:
        agent = waiting.pop(0)
        known = found.setdefault(agent.name, agent)
        if known is not agent:
            raise ToolError(f"two agents are named {agent.name!r}; give each its own name")
        agent.check()
        waiting += [one.agent for one in agent.transfers() if found.get(one.agent.name) is not one.agent]
    return found
