"""Names of the Agents SDKs: each works here, or raises an error with its name here; the page lists every one."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import agents as sdk
import pytest
from agents import realtime as sdk_realtime

import appliance
from appliance import RealtimeAgent, RealtimeSession, RealtimeSessionSettings, handoff, tool
from appliance.conversation import notices
from appliance.sdk_names import ALIASES, ARGUMENTS, ATTRIBUTES, EVENTS, NAMES, SAME

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "from-the-agents-sdk.md").read_text(encoding="utf-8")
OURS: dict[str, Callable[..., Any]] = {
    "tool": tool,
    "handoff": handoff,
    "RealtimeAgent": RealtimeAgent,
    "RealtimeSession": RealtimeSession,
    "RealtimeSessionSettings": RealtimeSessionSettings,
}
CONFIGS = (
    "RealtimeModelConfig",
    "RealtimeSessionModelSettings",
    "RealtimeRunConfig",
    "RealtimeGuardrailsSettings",
    "RealtimeToolExecutionConfig",
    "RealtimeModelTracingConfig",
    "RealtimeTurnDetectionConfig",
    "RealtimeInputAudioTranscriptionConfig",
    "RealtimeInputAudioNoiseReductionConfig",
    "RealtimeReasoningConfig",
)
OF_JAVASCRIPT = """
    initialAgent options transport currentAgent usage context muted history availableMcpTools
    getInitialSessionConfig computeInitialSessionConfig updateAgent connect updateHistory sendMessage addImage
    mute close sendAudio interrupt approve reject on once off apiKey model outputGuardrails
    outputGuardrailSettings config toolExecution historyStoreAudio tracingDisabled groupId traceMetadata
    workflowName automaticallyTriggerResponseForMcpToolCalls toolErrorFormatter url callId agent_start
    agent_end agent_handoff agent_tool_start agent_tool_end transport_event audio_start audio_stopped audio
    audio_interrupted guardrail_tripped history_updated history_added error tool_approval_requested
    mcp_tool_call_completed mcp_tools_changed
"""
"""Members of RealtimeSession, its options and its events, from the type declarations of @openai/agents-realtime."""


def listed() -> set[str]:
    """Return every name in the first column of the page's tables."""
    firsts = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("|")]
    names = re.findall(r"`([\w.@/-]+)", " ".join(firsts))
    return {part for name in names for part in (name, name.rpartition(".")[2])}


def parameters(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def sdk_names() -> dict[str, list[str]]:
    """Return the names that the page must list, by where they come from."""
    events = get_args(sdk_realtime.RealtimeSessionEvent)
    fields = {f"fields of {one.__name__}": [field.name for field in dataclasses.fields(one)] for one in events}
    configs = {f"keys of {name}": list(getattr(sdk_realtime, name).__annotations__) for name in CONFIGS}
    return {
        "agents.realtime": list(sdk_realtime.__all__),
        "RealtimeAgent": parameters(sdk_realtime.RealtimeAgent),
        "methods of RealtimeAgent": [name for name in dir(sdk_realtime.RealtimeAgent) if not name.startswith("_")],
        "function_tool": parameters(sdk.function_tool),
        "realtime_handoff": parameters(sdk_realtime.realtime_handoff),
        "methods of RealtimeSession": [name for name in dir(sdk_realtime.RealtimeSession) if not name.startswith("_")],
        "RealtimeSession": parameters(sdk_realtime.RealtimeSession.__init__),
        "RealtimeRunner": parameters(sdk_realtime.RealtimeRunner.__init__),
        "RealtimeRunner.run": parameters(sdk_realtime.RealtimeRunner.run),
        "types of events": [one.type for one in events],
        **fields,
        **configs,
    }


@pytest.mark.parametrize(("where", "names"), sdk_names().items())
def test_page_lists_every_name_of_the_python_sdk(where: str, names: list[str]) -> None:
    assert names
    assert sorted(set(names) - listed()) == [], where


def test_page_lists_every_name_of_the_javascript_session() -> None:
    assert sorted(set(OF_JAVASCRIPT.split()) - listed()) == []


def test_page_lists_every_name_that_has_an_error_or_an_alias() -> None:
    named = {*ALIASES, *NAMES, *(name for names in SAME.values() for name in names)}
    assert sorted(named - listed()) == []


# --- names to import ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sdk_realtime.__all__)
def test_every_name_of_the_realtime_package_is_here_or_its_error_says_what_to_use(name: str) -> None:
    if name in appliance.__all__:
        assert getattr(appliance, name) is not None
    else:
        with pytest.raises(
            ImportError, match=f"appliance has no '{name}': (here it is called|there is no counterpart)"
        ):
            exec(f"from appliance import {name}")


def test_alias_is_the_same_object() -> None:
    for name, own in ALIASES.items():
        assert getattr(appliance, name) is getattr(appliance, own)


def test_unknown_name_is_an_ordinary_error() -> None:
    with pytest.raises(ImportError, match="cannot import name 'RealtimeNonsense'"):
        exec("from appliance import RealtimeNonsense")
    assert not hasattr(appliance, "nonsense")


def test_every_event_class_that_an_error_names_exists() -> None:
    assert [own for own in EVENTS.values() if not hasattr(notices, own)] == []
    assert [name for name in NAMES if name in appliance.__all__] == []


# --- arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("own", "names"), SAME.items())
def test_same_argument_is_a_parameter_with_another_name(own: str, names: Mapping[str, str]) -> None:
    taken = parameters(OURS[own])
    assert [name for name in names.values() if name not in taken] == []
    assert [name for name in (*names, *ARGUMENTS[own]) if name in taken] == []


@pytest.mark.parametrize(
    ("own", "theirs"),
    [
        ("tool", parameters(sdk.function_tool)[1:]),
        ("handoff", parameters(sdk_realtime.realtime_handoff)),
        ("RealtimeAgent", parameters(sdk_realtime.RealtimeAgent)),
        ("RealtimeSessionSettings", list(sdk_realtime.RealtimeSessionModelSettings.__annotations__)),
        ("RealtimeSession", list(sdk_realtime.RealtimeModelConfig.__annotations__)),
        ("RealtimeSession", list(sdk_realtime.RealtimeRunConfig.__annotations__)),
    ],
)
def test_every_argument_of_the_sdk_is_taken_or_refused_with_its_name_here(own: str, theirs: list[str]) -> None:
    known = {*parameters(OURS[own]), *SAME.get(own, {}), *ARGUMENTS[own], "output_guardrails"}
    assert [name for name in theirs if name not in known] == []


def test_arguments_with_the_sdks_names_make_the_same_tool_and_handoff() -> None:
    def excuse(context: Any, error: Exception) -> str:
        return "sorry"

    @appliance.function_tool(
        name_override="lamp", is_enabled=False, failure_error_function=excuse, timeout=2.0, description_override=None
    )
    def set_lamp(on: bool) -> None:
        """Switch the lamp."""

    assert (set_lamp.name, set_lamp.enabled, set_lamp.error_function) == ("lamp", False, excuse)
    assert (set_lamp.timeout_s, set_lamp.description) == (2.0, "Switch the lamp.")
    made = appliance.realtime_handoff(RealtimeAgent(name="Bob"), tool_name_override="to_bob", is_enabled=True)
    assert (made.tool_name, made.enabled) == ("to_bob", True)
    settings = RealtimeSessionSettings(model_name="m", input_audio_transcription={"model": "gpt-transcribe"})
    assert (settings.model, settings.transcription) == ("m", {"model": "gpt-transcribe"})


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: tool(strict_mode=True), "'strict_mode': there is no counterpart here: the schema is always strict"),
        (lambda: tool(isEnabled=True), "'isEnabled': here it is called enabled"),
        (lambda: tool(timeoutMs=1), "'timeoutMs': here it is called timeout_s, in seconds"),
        (lambda: tool(name_override="a", name="b"), "'name_override' is the SDK's name of 'name'; give one of them"),
        (lambda: tool(failure_error_function=None), "a failing tool does not end the session"),
        (lambda: tool(colour="red"), "unexpected keyword argument 'colour'"),
        (lambda: handoff(RealtimeAgent(name="A"), inputFilter=None), "'inputFilter': there is no counterpart"),
        (lambda: RealtimeAgent(name="A", handoffDescription=""), "here it is called handoff_description"),
        (lambda: RealtimeAgent(name="A", prompt=None), 'here it is called settings={"prompt"'),
        (lambda: RealtimeSession(RealtimeAgent(name="A"), run_config={}), "here it is called settings, policy"),
        (lambda: RealtimeSession(RealtimeAgent(name="A"), debounce_text_length=9), "guardrail_debounce"),
        (lambda: RealtimeSession(RealtimeAgent(name="A"), apiKey="k"), "here it is called api_key"),
        (lambda: RealtimeSessionSettings(reasoning={"effort": "low"}), "here it is called reasoning_effort"),
    ],
)
def test_refused_argument_names_its_counterpart(make: Callable[[], object], expected: str) -> None:
    with pytest.raises(TypeError, match=expected):
        make()


# --- attributes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("own", "names"), ATTRIBUTES.items())
def test_every_explained_attribute_is_missing(own: str, names: Mapping[str, str]) -> None:
    assert [name for name in names if hasattr(OURS[own], name)] == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("approve_tool_call", r"here it is called approve\(event\)"),
        ("model", "here it is called the session itself: session.send_event"),
        ("transport", "here it is called the session itself: session.send_event"),
        ("sendMessage", "here it is called send_message$"),
        ("updateHistory", "here it is called update_history$"),
        ("addImage", r"here it is called send_image\(image\)"),
        ("availableMcpTools", "there is no counterpart here"),
        ("colour", "object has no attribute 'colour'$"),
        ("sendColour", "object has no attribute 'sendColour'$"),
    ],
)
def test_missing_attribute_of_a_session_names_its_counterpart(name: str, expected: str) -> None:
    session = RealtimeSession(RealtimeAgent(name="Ada"))
    with pytest.raises(AttributeError, match=expected):
        getattr(session, name)
    assert not hasattr(session, name)


def test_every_method_of_the_sdks_session_is_here_or_explained() -> None:
    theirs = [name for name in dir(sdk_realtime.RealtimeSession) if not name.startswith("_")]
    known = {*dir(RealtimeSession), *ATTRIBUTES["RealtimeSession"], "update_agent"}
    assert [name for name in theirs if name not in known] == []


def test_decorated_class_and_function_keep_their_signature() -> None:
    assert parameters(RealtimeAgent)[:2] == ["name", "instructions"]
    assert parameters(tool)[:2] == ["function", "name"]
    assert (tool.__name__, RealtimeSession.__doc__ is not None) == ("tool", True)
