"""Names of OpenAI's Agents SDKs, in Python and JavaScript, and what they are called here. Pure.

A program that comes from one of the SDKs gets an error that names the counterpart: ``from appliance import
RealtimeRunner``, ``session.approve_tool_call(…)``, ``session.sendMessage(…)``, ``RealtimeAgent(prompt=…)``. Arguments
with another name and the same meaning are accepted: ``@tool(name_override="lamp")``. ``docs/from-the-agents-sdk.md``
has every name.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

__all__ = [
    "ALIASES",
    "ARGUMENTS",
    "ATTRIBUTES",
    "EVENTS",
    "NAMES",
    "SAME",
    "Absent",
    "explained",
    "explained_class",
    "missing_name",
]

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)


class Absent(str):
    """Why an SDK's name has no counterpart here."""


# --- names to import --------------------------------------------------------------------------------------------

ALIASES: Final = {"function_tool": "tool", "realtime_handoff": "handoff", "RunContextWrapper": "RunContext"}
"""Names that can be imported from `appliance` too: the same object."""

EVENTS: Final = {
    "RealtimeAgentEndEvent": "AgentEnd",
    "RealtimeAgentStartEvent": "AgentStart",
    "RealtimeAudio": "Audio",
    "RealtimeAudioEnd": "AudioEnd",
    "RealtimeAudioInterrupted": "AudioInterrupted",
    "RealtimeError": "Error",
    "RealtimeGuardrailTripped": "Guardrail",
    "RealtimeHandoffEvent": "HandoffDone",
    "RealtimeHistoryAdded": "HistoryGrew",
    "RealtimeHistoryUpdated": "HistoryChanged",
    "RealtimeRawModelEvent": "Raw",
    "RealtimeSessionEvent": "SessionEvent",
    "RealtimeToolApprovalRequired": "ToolApproval",
    "RealtimeToolEnd": "ToolEnd",
    "RealtimeToolStart": "ToolStart",
}
"""Classes of events; here they are in ``appliance.conversation.notices``."""

_SESSION = "RealtimeSession(agent, settings, …), used by `async with`"
_ITEM = "HistoryItem; its type, role and text say what it is"
_CONTENT = "a part of HistoryItem.content"
_MESSAGE = "the argument of RealtimeSession.send_message, a text or a dict"
_TRANSPORT = "a transport: RealtimeSession(transport=…), see appliance.realtime.transports"
_FRAME = "a frame of the server: the data of a `raw` event"
_INPUT = "a method of RealtimeSession (send_audio, send_message, interrupt), or send_event with a frame"
_FORMAT = "RealtimeSessionSettings.input_audio_format and output_audio_format"
_NO_TEXT_RUN = Absent("the model speaks, and there is no run of a text model")
_TRIPPED = Absent("a tripped guardrail is the event `guardrail_tripped`, not an exception")
_STOPPED = Absent("it is an `error` event of the kind `tool_stopped`, not an exception")
_OUTPUT_TEXT = "the return value of a tool: text, or what JSON can express"

NAMES: Final[Mapping[str, str]] = {
    "Agent": "RealtimeAgent",
    "AgentBase": "RealtimeAgent",
    "AgentHooks": "RealtimeAgentHooks",
    "AgentsException": "ApplianceError",
    "AssistantMessageItem": _ITEM,
    "AssistantText": _CONTENT,
    "DEFAULT_MODEL_SETTINGS": "RealtimeSessionSettings(), whose defaults are push to talk",
    "FunctionTool": "Tool, made by @tool",
    "HostedMCPTool": "HostedMcp, in RealtimeAgent(mcp_servers=…)",
    "InputAudio": _CONTENT,
    "InputText": _CONTENT,
    "MCPServerSse": "McpServerHttp, in RealtimeAgent(mcp_servers=…)",
    "MCPServerStdio": "McpServerStdio, in RealtimeAgent(mcp_servers=…)",
    "MCPServerStreamableHttp": "McpServerHttp, in RealtimeAgent(mcp_servers=…)",
    "ModelSettings": "RealtimeSessionSettings, or RealtimeAgent(settings=…)",
    "OpenAIRealtimeWebRTC": _TRANSPORT,
    "OpenAIRealtimeWebSocket": _TRANSPORT,
    "OpenAIRealtimeWebSocketModel": _TRANSPORT,
    "Prompt": "PromptTemplate",
    "RealtimeAudioFormat": _FORMAT,
    "RealtimeClientMessage": "the argument of RealtimeSession.send_event, a dict",
    "RealtimeContextData": "RunContext, which has context and history",
    "RealtimeGuardrailsSettings": "Policy(guardrail_debounce=…)",
    "RealtimeInputAudioNoiseReductionConfig": "NoiseReduction",
    "RealtimeInputAudioTranscriptionConfig": "Transcription",
    "RealtimeItem": _ITEM,
    "RealtimeMessageItem": _ITEM,
    "RealtimeModel": _TRANSPORT,
    "RealtimeModelConfig": "RealtimeSession(url=…, api_key=…, headers=…, playback=…)",
    "RealtimeModelListener": "the events of the session: `async for event in session`",
    "RealtimeModelName": "RealtimeSessionSettings.model, any string",
    "RealtimeModelTracingConfig": "RealtimeSessionSettings.tracing",
    "RealtimeOutputGuardrail": "OutputGuardrail, made by @output_guardrail",
    "RealtimePlaybackState": "RealtimeSession.played(item_id, frames)",
    "RealtimePlaybackTracker": 'RealtimeSession(playback="reported") and its method played(item_id, frames)',
    "RealtimeReasoningConfig": "RealtimeSessionSettings.reasoning_effort",
    "RealtimeReasoningEffort": "RealtimeSessionSettings.reasoning_effort",
    "RealtimeResponse": "the response in the data of a `raw` event",
    "RealtimeRunConfig": "an argument of RealtimeSession, such as settings, policy, output_guardrails",
    "RealtimeRunner": _SESSION,
    "RealtimeSessionConfig": "RealtimeSessionSettings",
    "RealtimeSessionEventTypes": "appliance.conversation.notices.SessionEvent",
    "RealtimeSessionModelSettings": "RealtimeSessionSettings",
    "RealtimeToolCallItem": _ITEM,
    "RealtimeTransportLayer": _TRANSPORT,
    "RealtimeTurnDetectionConfig": "ServerVad or SemanticVad",
    "RealtimeUserInput": _MESSAGE,
    "RealtimeUserInputMessage": _MESSAGE,
    "RealtimeUserInputText": _MESSAGE,
    "RunConfig": "an argument of RealtimeSession, such as settings, policy, output_guardrails",
    "RunHooks": "RealtimeRunHooks",
    "Runner": _SESSION,
    "SystemMessageItem": _ITEM,
    "ToolOutputText": _OUTPUT_TEXT,
    "Usage": "RealtimeSession.usage, and the event `usage`",
    "UserError": "SettingsError or ToolError, of appliance.errors",
    "UserMessageItem": _ITEM,
    "backgroundResult": "background",
    "defineRealtimeOutputGuardrail": "@output_guardrail",
    "default_tool_error_function": "the default; @tool(error_function=…) words a failure",
    "get_api_key": "RealtimeSession(api_key=…), else the variable OPENAI_API_KEY",
    **dict.fromkeys(("RealtimeConnectionStatus", "RealtimeModelConnectionStatusEvent"), "the event `connected`"),
    **dict.fromkeys(
        (
            "RealtimeModelAudioDoneEvent",
            "RealtimeModelAudioEvent",
            "RealtimeModelAudioInterruptedEvent",
            "RealtimeModelCachedTokensDetails",
            "RealtimeModelEndOfStreamEvent",
            "RealtimeModelErrorEvent",
            "RealtimeModelEvent",
            "RealtimeModelExceptionEvent",
            "RealtimeModelInputAudioTranscriptionCompletedEvent",
            "RealtimeModelInputTokensDetails",
            "RealtimeModelItemDeletedEvent",
            "RealtimeModelItemUpdatedEvent",
            "RealtimeModelOtherEvent",
            "RealtimeModelOutputTextDeltaEvent",
            "RealtimeModelOutputTokensDetails",
            "RealtimeModelToolCallEvent",
            "RealtimeModelTranscriptDeltaEvent",
            "RealtimeModelTurnEndedEvent",
            "RealtimeModelTurnStartedEvent",
            "RealtimeModelUsageEvent",
        ),
        _FRAME,
    ),
    **dict.fromkeys(
        (
            "RealtimeModelInputTextContent",
            "RealtimeModelRawClientMessage",
            "RealtimeModelSendAudio",
            "RealtimeModelSendEvent",
            "RealtimeModelSendInterrupt",
            "RealtimeModelSendRawMessage",
            "RealtimeModelSendSessionUpdate",
            "RealtimeModelSendToolOutput",
            "RealtimeModelSendUserInput",
            "RealtimeModelUserInput",
            "RealtimeModelUserInputMessage",
        ),
        _INPUT,
    ),
    "OpenAIRealtimeSIP": Absent("telephone calls by SIP are not supported"),
    "OpenAIRealtimeSIPModel": Absent("telephone calls by SIP are not supported"),
    "RealtimeEventInfo": Absent("the context of an event is RealtimeSession.context"),
    "RealtimeToolExecutionConfig": Absent("the guardrails of a tool run once, after the approval"),
    "ToolOutputImage": Absent("send an image with RealtimeSession.send_image"),
    "ToolOutputFileContent": Absent("the Realtime API takes no files"),
    "WebSearchTool": Absent("hosted tools of the Responses API do not exist in the Realtime API; use HostedMcp"),
    "FileSearchTool": Absent("hosted tools of the Responses API do not exist in the Realtime API; use HostedMcp"),
    "RunResult": _NO_TEXT_RUN,
    "RunState": _NO_TEXT_RUN,
    "Session": Absent("RealtimeSession keeps its history; RealtimeSession(history=…) continues one"),
    "SQLiteSession": Absent("RealtimeSession keeps its history; RealtimeSession(history=…) continues one"),
    "InputGuardrailTripwireTriggered": _TRIPPED,
    "OutputGuardrailTripwireTriggered": _TRIPPED,
    "ToolInputGuardrailTripwireTriggered": _STOPPED,
    "ToolOutputGuardrailTripwireTriggered": _STOPPED,
    **{name: f"appliance.conversation.notices.{own}" for name, own in EVENTS.items()},
}
"""Names of the SDKs' packages that have another name here, or no counterpart."""


def missing_name(name: str) -> str:
    """Return what to say about a name that `appliance` does not export; "" if no SDK has it."""
    return _sentence(f"appliance has no {name!r}", NAMES[name]) if name in NAMES else ""


def _sentence(what: str, meant: str) -> str:
    return f"{what}: {'there is no counterpart here: ' if isinstance(meant, Absent) else 'here it is called '}{meant}"


# --- arguments and attributes -----------------------------------------------------------------------------------

SAME: Final[Mapping[str, Mapping[str, str]]] = {
    "tool": {
        "name_override": "name",
        "description_override": "description",
        "failure_error_function": "error_function",
        "is_enabled": "enabled",
        "tool_input_guardrails": "input_guardrails",
        "tool_output_guardrails": "output_guardrails",
        "timeout": "timeout_s",
    },
    "handoff": {
        "tool_name_override": "tool_name",
        "tool_description_override": "description",
        "is_enabled": "enabled",
    },
    "RealtimeSessionSettings": {
        "model_name": "model",
        "modalities": "output_modalities",
        "input_audio_transcription": "transcription",
        "input_audio_noise_reduction": "noise_reduction",
    },
}
"""Arguments with another name and the same meaning, by callable; a None, the SDK's default, is the default here."""

_OF_THE_AGENT = "an argument of RealtimeAgent"
_IN_SETTINGS = "RealtimeAgent(settings={…}), or the settings of the session"

ARGUMENTS: Final[Mapping[str, Mapping[str, str]]] = {
    "tool": {
        "docstring_style": Absent("the docstring is read in Google style"),
        "use_docstring_info": Absent("description=… replaces the docstring"),
        "strict_mode": Absent("the schema is always strict"),
        "strict": Absent("the schema is always strict"),
        "timeout_behavior": Absent("a late call is an error for the model"),
        "timeout_error_function": "error_function, which gets a TimeoutError",
        "timeout_ms": "timeout_s, in seconds",
        "defer_loading": "HostedMcp(defer_loading=…); a function is always loaded",
        "custom_data_extractor": Absent("keep such data in RealtimeSession(context=…)"),
        "allowed_callers": Absent("the model of the conversation is the only caller"),
        "output_type": Absent("return what JSON can express"),
        "output_json_schema": Absent("return what JSON can express"),
        "parameters": "the signature of the function",
        "execute": "the function under @tool",
    },
    "handoff": {
        "input_filter": Absent("the new agent sees the whole conversation; update_history changes it"),
        "nest_handoff_history": Absent("the new agent sees the whole conversation"),
    },
    "RealtimeAgent": {
        "prompt": 'settings={"prompt": {"id": …}}',
        "model": "RealtimeSessionSettings(model=…): the model belongs to the connection",
        "model_settings": "settings={…}",
        "mcp_config": Absent("schemas are passed on as they are, names without the server"),
        "output_type": Absent("the model speaks"),
        "tool_use_behavior": "background(…), for a result that needs no answer",
        "reset_tool_choice": Absent("tool_choice applies to the first response of a turn"),
    },
    "RealtimeSession": {
        "model": "RealtimeSessionSettings(model=…), or transport=…",
        "model_config": "url, api_key, headers and playback",
        "run_config": "settings, policy, hooks and output_guardrails",
        "config": "settings=RealtimeSessionSettings(…)",
        "model_settings": "settings=RealtimeSessionSettings(…)",
        "debounce_text_length": "policy=Policy(guardrail_debounce=…)",
        "guardrails_settings": "policy=Policy(guardrail_debounce=…)",
        "output_guardrail_settings": "policy=Policy(guardrail_debounce=…)",
        "tool_execution": Absent("the guardrails of a tool run once, after the approval"),
        "tool_error_formatter": "language=…, or @tool(error_function=…)",
        "async_tool_calls": Absent("tools always run beside the conversation"),
        "tracing_disabled": Absent("only RealtimeSessionSettings(tracing=…) turns tracing on"),
        "group_id": 'RealtimeSessionSettings(tracing={"group_id": …})',
        "trace_metadata": 'RealtimeSessionSettings(tracing={"metadata": …})',
        "workflow_name": 'RealtimeSessionSettings(tracing={"workflow_name": …})',
        "history_store_audio": Absent("the events `audio` have the audio"),
        "automatically_trigger_response_for_mcp_tool_calls": Absent("the model always speaks about a result"),
        "playback_tracker": 'playback="reported", and the method played',
        "call_id": Absent("telephone calls by SIP are not supported"),
        "initial_model_settings": "settings=RealtimeSessionSettings(…)",
    },
    "RealtimeSessionSettings": {
        "instructions": _OF_THE_AGENT,
        "tools": _OF_THE_AGENT,
        "handoffs": _OF_THE_AGENT,
        "reasoning": "reasoning_effort",
        "audio": "flat: input_audio_format, noise_reduction, transcription, turn_detection, voice, speed, …",
        "temperature": Absent("the Realtime API has no temperature"),
    },
}
"""Arguments that are refused, by callable, and what they are called here; JavaScript's names in Python's case."""

ATTRIBUTES: Final[Mapping[str, Mapping[str, str]]] = {
    "RealtimeSession": {
        "run": "`async with RealtimeSession(…) as session`",
        "enter": "`async with RealtimeSession(…) as session`",
        "connect": "`async with RealtimeSession(…) as session`",
        "model": "the session itself: session.send_event({…}) sends a frame",
        "transport": "the session itself: session.send_event({…}) sends a frame",
        "on_event": "on(type, callback), or `async for event in session`",
        "approve_tool_call": "approve(event)",
        "reject_tool_call": "reject(event, message=…)",
        "add_image": "send_image(image)",
        "add_listener": "on(type, callback)",
        "remove_listener": "off(type, callback)",
        "current_agent": "agent",
        "initial_agent": "the first of agents",
        "options": "settings and the other arguments, as given",
        "available_mcp_tools": Absent("`await server.list_tools()` asks one server"),
        "get_initial_session_config": "appliance.realtime.payload.session_object",
        "compute_initial_session_config": "appliance.realtime.payload.session_object",
        "update_session_config": 'send_event({"type": "session.update", "session": {…}})',
        "request_response": 'send_event({"type": "response.create"})',
        "reset_history": "update_history(items)",
        "send_function_call_output": "the return value of the tool",
        "send_mcp_response": "approve(event) and reject(event)",
        "status": "the event `connected`",
    },
    "RealtimeAgent": {
        "prompt": 'settings["prompt"]',
        "get_all_tools": "tools; those of MCP servers are listed by `await server.list_tools()`",
        "get_mcp_tools": "`await server.list_tools()`",
        "get_system_prompt": "instructions, a text or a function",
    },
}
"""Attributes, by class, and what they are called here; JavaScript's names in Python's case."""


def explained(function: F) -> F:
    """Decorate a function: it accepts the arguments of `SAME`, and refuses those of `ARGUMENTS` with their names here.

    Raises:
        TypeError: By the function: an argument has another name here.
    """

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        return function(*arguments, **_own_names(function, function.__name__, named))

    return call  # type: ignore[return-value]


def explained_class(cls: C) -> C:
    """Decorate a class like `explained`; a missing attribute names its counterpart too.

    Raises:
        TypeError: By the class: an argument has another name here.
    """
    original: Callable[..., None] = cls.__init__  # type: ignore[misc]

    @functools.wraps(original)
    def initialize(self: object, *arguments: Any, **named: Any) -> None:
        original(self, *arguments, **_own_names(original, cls.__name__, named))

    def missing(self: object, name: str) -> Any:
        meant = ATTRIBUTES.get(cls.__name__, {}).get(_snake(name), "")
        if not meant and not name.startswith("_") and hasattr(cls, _snake(name)):
            meant = _snake(name)
        what = f"{cls.__name__!r} object has no attribute {name!r}"
        raise AttributeError(_sentence(what, meant) if meant else what, name=name, obj=self)

    cls.__init__ = initialize  # type: ignore[misc]
    cls.__getattr__ = missing  # type: ignore[attr-defined]
    return cls


def _own_names(function: Callable[..., Any], own: str, named: Mapping[str, Any]) -> dict[str, Any]:
    same, refused = SAME.get(own, {}), ARGUMENTS.get(own, {})
    found = {}
    for name, value in named.items():
        what, snake = f"{own}() has no argument {name!r}", _snake(name)
        if name in same:
            if same[name] in named:
                raise TypeError(f"{own}(): {name!r} is the SDK's name of {same[name]!r}; give one of them")
            if value is None and name == "failure_error_function":
                raise TypeError(f"{own}(): {name} is None, but a failing tool does not end the session; leave it out")
            if value is not None:
                found[same[name]] = value
        elif snake in refused:
            raise TypeError(_sentence(what, refused[snake]))
        elif snake != name and (snake in same or snake in inspect.signature(function).parameters):
            raise TypeError(_sentence(what, same.get(snake, snake)))
        else:
            found[name] = value
    return found


def _snake(name: str) -> str:
    """Return a name of the JavaScript SDK as Python would write it."""
    return re.sub(r"(?<=[a-z])([A-Z])", r"_\1", name).lower() if name[:1].islower() else name
