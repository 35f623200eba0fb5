"""The voice appliance: a press-to-talk voice assistant for the Raspberry Pi.

The public names are exported here. Each is loaded on first access (PEP 562), so importing the package is cheap::

    from appliance import RealtimeAgent, RealtimeSession, tool
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from appliance.agents.agent import RealtimeAgent
    from appliance.agents.context import RunContext, ToolContext
    from appliance.agents.context import RunContext as RunContextWrapper
    from appliance.agents.guardrails import (
        GuardrailFunctionOutput,
        ToolGuardrailFunctionOutput,
        ToolInputGuardrailData,
        ToolOutputGuardrailData,
        input_guardrail,
        output_guardrail,
        tool_input_guardrail,
        tool_output_guardrail,
    )
    from appliance.agents.handoffs import Handoff, handoff
    from appliance.agents.handoffs import handoff as realtime_handoff
    from appliance.agents.hooks import RealtimeAgentHooks, RealtimeRunHooks
    from appliance.agents.mcp_servers import HostedMcp
    from appliance.agents.tools import Tool, background, tool
    from appliance.agents.tools import tool as function_tool
    from appliance.conversation.policy import Policy
    from appliance.errors import ApplianceError, SessionNotOpen
    from appliance.realtime.items import HistoryItem
    from appliance.realtime.payload import (
        NoiseReduction,
        PromptTemplate,
        RealtimeSessionSettings,
        RetentionRatio,
        SemanticVad,
        ServerVad,
        Transcription,
    )
    from appliance.runtime.agent_loader import load_agents
    from appliance.runtime.mcp import McpServerHttp, McpServerStdio
    from appliance.runtime.session import RealtimeSession

__all__ = [
    "ApplianceError",
    "GuardrailFunctionOutput",
    "Handoff",
    "HistoryItem",
    "HostedMcp",
    "McpServerHttp",
    "McpServerStdio",
    "NoiseReduction",
    "Policy",
    "PromptTemplate",
    "RealtimeAgent",
    "RealtimeAgentHooks",
    "RealtimeRunHooks",
    "RealtimeSession",
    "RealtimeSessionSettings",
    "RetentionRatio",
    "RunContext",
    "RunContextWrapper",
    "SemanticVad",
    "ServerVad",
    "SessionNotOpen",
    "Tool",
    "ToolContext",
    "ToolGuardrailFunctionOutput",
    "ToolInputGuardrailData",
    "ToolOutputGuardrailData",
    "Transcription",
    "background",
    "function_tool",
    "handoff",
    "input_guardrail",
    "load_agents",
    "output_guardrail",
    "realtime_handoff",
    "tool",
    "tool_input_guardrail",
    "tool_output_guardrail",
]

_HOMES = {
    "appliance.agents.agent": ("RealtimeAgent",),
    "appliance.agents.context": ("RunContext", "ToolContext"),
    "appliance.agents.guardrails": (
        "GuardrailFunctionOutput",
        "ToolGuardrailFunctionOutput",
        "ToolInputGuardrailData",
        "ToolOutputGuardrailData",
        "input_guardrail",
        "output_guardrail",
        "tool_input_guardrail",
        "tool_output_guardrail",
    ),
    "appliance.agents.handoffs": ("Handoff", "handoff"),
    "appliance.agents.hooks": ("RealtimeAgentHooks", "RealtimeRunHooks"),
    "appliance.agents.mcp_servers": ("HostedMcp",),
    "appliance.agents.tools": ("Tool", "background", "tool"),
    "appliance.conversation.policy": ("Policy",),
    "appliance.errors": ("ApplianceError", "SessionNotOpen"),
    "appliance.realtime.items": ("HistoryItem",),
    "appliance.realtime.payload": (
        "NoiseReduction",
        "PromptTemplate",
        "RealtimeSessionSettings",
        "RetentionRatio",
        "SemanticVad",
        "ServerVad",
        "Transcription",
    ),
    "appliance.runtime.agent_loader": ("load_agents",),
    "appliance.runtime.mcp": ("McpServerHttp", "McpServerStdio"),
    "appliance.runtime.session": ("RealtimeSession",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    from appliance.sdk_names import ALIASES, missing_name

    if name in ALIASES:
        return __getattr__(ALIASES[name])
    if sentence := missing_name(name):
        raise ImportError(sentence)  # ``from appliance import …`` would replace the message of an AttributeError
    raise AttributeError(f"module 'appliance' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
