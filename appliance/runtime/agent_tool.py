"""An agent as a tool of another: asked outside the conversation, in text, with its own instructions and tools.

Theory of operation. The question is one out-of-band response. While the answer contains tool calls, the agent's tools
are run like those of the conversation (`tool_runner.called`), and the model is asked again with the question, the calls
and their outputs: the server keeps no state of out-of-band responses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from appliance.agents.agent import RealtimeAgent
from appliance.agents.context import ToolContext
from appliance.agents.tools import Tool
from appliance.errors import ApplianceError, ToolError
from appliance.realtime.items import HistoryItem
from appliance.runtime.functions import instructions_of, is_enabled, kind_of, words
from appliance.runtime.tool_runner import ToolStopped, called, find_tool

__all__ = ["ask_agent"]

_MOST_ROUNDS = 4  # of tool calls; an agent without an answer by then is probably in a loop


async def ask_agent(agent: RealtimeAgent, context: ToolContext[Any], question: str, *, timeout_s: float) -> str:
    """Ask, run the tools that the agent calls, and ask again with the outputs; an `AskAgent`.

    Only the agent's own tools that are enabled and never need approval are offered.

    Raises:
        ToolError: There is no model to ask, or the agent gave no answer.
        ToolStopped: A guardrail of one of its tools ends the turn.
    """
    own = replace(context, agent=agent)
    if own.ask is None:
        raise ToolError(f"The {agent.name} agent cannot be asked: there is no model to ask here.")
    try:
        instructions = await instructions_of(agent, own, timeout_s)
    except Exception as exc:
        why = words(exc) if isinstance(exc, ToolError) else kind_of(exc)
        raise ToolError(f"The {agent.name} agent cannot be asked: its instructions failed: {why}") from exc
    tools = [one for one in agent.tools if one.needs_approval is False and await is_enabled(one, own, one.timeout_s)]
    definitions = [one.definition() for one in tools]
    items: list[Mapping[str, Any]] = []
    for left in reversed(range(_MOST_ROUNDS + 1)):
        try:
            answer = await own.ask(
                question, instructions=instructions, tools=definitions, items=tuple(items), timeout_s=timeout_s
            )
        except ApplianceError as exc:
            raise ToolError(f"The {agent.name} agent could not be asked: {exc}") from exc
        calls = [one for one in answer if one.type == "function_call"]
        if not calls:
            said = "\n".join(one.text for one in answer if one.type == "message" and one.text)
            if not said:
                raise ToolError(f"The {agent.name} agent gave no answer.")
            return said
        if not left:
            break
        if not items:
            items.append({"type": "message", "role": "user", "content": [{"type": "input_text", "text": question}]})
        for call in calls:
            items += await _run(call, tools, own)
    raise ToolError(f"The {agent.name} agent called tools in {_MOST_ROUNDS} rounds and gave no answer.")


async def _run(call: HistoryItem, tools: Sequence[Tool], context: ToolContext[Any]) -> list[Mapping[str, Any]]:
    """Run one call of the asked agent; return the call and its output as wire items."""
    own = replace(context, tool_name=call.name, call_id=call.call_id, arguments=call.arguments)
    try:
        found = find_tool(call.name, tools)
    except ToolError as exc:
        output = str(exc)
    else:
        finished = await called(found, own)
        if finished.stopped_by:
            raise ToolStopped(finished.stopped_by)  # it ends the turn of the agent that asks
        output = finished.output
    return [
        {"type": "function_call", "name": call.name, "call_id": call.call_id, "arguments": call.arguments},
        {"type": "function_call_output", "call_id": call.call_id, "output": output},
    ]
