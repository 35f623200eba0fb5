"""An agent as a tool of another: asked beside the conversation, in writing, with its own instructions and tools."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from appliance.agents.agent import RealtimeAgent
from appliance.agents.context import HistoryItem, RunContext, ToolContext
from appliance.agents.executor import called
from appliance.agents.handoffs import transfer_name
from appliance.agents.tools import Tool, tool
from appliance.errors import ToolError

__all__ = ["consult_tool"]

_MOST_ROUNDS = 4  # of calls before the answer has to come


def consult_tool(
    agent: RealtimeAgent, *, tool_name: str = "", tool_description: str = "", timeout_s: float = 30.0
) -> Tool:
    """See `RealtimeAgent.as_tool`."""

    async def ask(
        context: ToolContext[Any],
        question: Annotated[
            str, Field(description="The whole question; the other agent does not hear the conversation.")
        ],
    ) -> str:
        return await _asked(agent, context, question)

    return tool(
        name=tool_name or transfer_name(agent.name).replace("transfer_to_", "ask_", 1),
        description=tool_description or f"Ask the {agent.name} agent. {agent.handoff_description}".strip(),
        timeout_s=timeout_s,
    )(ask)


async def _asked(agent: RealtimeAgent, context: ToolContext[Any], question: str) -> str:
    """Ask, run what the agent calls, and ask again with the results.

    Raises:
        ToolError: Nobody can be asked here, or the agent came to no answer.
        LinkError: There is no connection, or no answer came in time.
    """
    if context.ask is None:
        raise ToolError(f"The {agent.name} agent cannot be asked: there is no connection to a model here.")
    own = RunContext(context=context.context, agent=agent, history=context.history)
    instructions = await _text(agent, own)
    tools = {one.name: one for one in agent.tools if one.needs_approval is False and await _is_enabled(one, own)}
    items: list[Mapping[str, Any]] = [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": question}]}
    ]
    for _ in range(_MOST_ROUNDS):
        answer = await context.ask(
            question, instructions=instructions, tools=[one.definition() for one in tools.values()], items=items
        )
        calls = [one for one in answer if one.type == "function_call"]
        if not calls:
            return " ".join(one.text for one in answer if one.type == "message" and one.text)
        for call in calls:
            items += await _run(call, tools, replace(context, agent=agent))
    raise ToolError(f"The {agent.name} agent called tools {_MOST_ROUNDS} times and came to no answer.")


async def _run(call: HistoryItem, tools: Mapping[str, Tool], context: ToolContext[Any]) -> list[Mapping[str, Any]]:
    """Run one call of the agent that is asked; returns the call and its output as items."""
    found = tools.get(call.name)
    if found is None:
        output = f"There is no tool {call.name!r}; there are: {', '.join(sorted(tools)) or 'none'}."
    else:
        own = replace(context, tool_name=call.name, call_id=call.call_id, arguments=call.arguments)
        output, _, _ = await called(found, own)
    return [
        {"type": "function_call", "name": call.name, "arguments": call.arguments, "call_id": call.call_id},
        {"type": "function_call_output", "call_id": call.call_id, "output": output},
    ]


async def _text(agent: RealtimeAgent, context: RunContext[Any]) -> str:
    if isinstance(agent.instructions, str):
        return agent.instructions
    text = agent.instructions(context, agent)
    return str(await text if inspect.isawaitable(text) else text)


async def _is_enabled(one: Tool, context: RunContext[Any]) -> bool:
    if not callable(one.enabled):
        return one.enabled
    enabled = one.enabled(context, context.agent)
    return bool(await enabled if inspect.isawaitable(enabled) else enabled)
