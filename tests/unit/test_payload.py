"""What we tell the server, checked against the types of the `openai` package: strictly, with no unknown keys."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.errors import LocalProtocolError
from appliance.realtime.payload import (
    SessionConfig,
    assistant_message,
    function_call_output,
    response_create,
    session_update,
    user_message,
)
from appliance.realtime.protocol import ClientEvent
from tests.support.oracle import WrongFrame, check_client_frame

TOOL = {
    "type": "function",
    "name": "set_lamp",
    "description": "Switch the lamp.",
    "parameters": {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]},
}

EVERYTHING = SessionConfig(
    instructions="Be brief.",
    voice="cedar",
    speed=1.1,
    output_modalities=["audio"],
    transcription_model="gpt-live-transcribe",
    language="en",
    noise_reduction="far_field",
    turn_detection={"type": "semantic_vad", "eagerness": "low", "create_response": True, "interrupt_response": True},
    tools=[TOOL],
    tool_choice={"type": "function", "name": "set_lamp"},
    max_output_tokens=800,
    reasoning_effort="low",
    parallel_tool_calls=True,
    truncation={"type": "retention_ratio", "retention_ratio": 0.8, "token_limits": {"post_instructions": 8000}},
    tracing="auto",
)


def test_the_bare_configuration_is_push_to_talk_with_explicit_formats_and_nothing_else() -> None:
    assert session_update(SessionConfig()).to_wire() == {
        "type": "session.update",
        "session": {
            "type": "realtime",
            "output_modalities": ["audio"],
            "audio": {
                "input": {"format": {"type": "audio/pcm", "rate": 24000}, "turn_detection": None},
                "output": {"format": {"type": "audio/pcm", "rate": 24000}},
            },
        },
    }


def test_the_null_of_push_to_talk_survives_the_encoding() -> None:
    assert '"turn_detection":null' in session_update(SessionConfig()).encode()


def test_the_whole_configuration_lies_where_the_protocol_wants_it() -> None:
    assert session_update(EVERYTHING, event_id="s1").to_wire() == {
        "type": "session.update",
        "event_id": "s1",
        "session": {
            "type": "realtime",
            "output_modalities": ["audio"],
            "instructions": "Be brief.",
            "audio": {
                "input": {
                    "format": {"type": "audio/pcm", "rate": 24000},
                    "turn_detection": {
                        "type": "semantic_vad",
                        "eagerness": "low",
                        "create_response": True,
                        "interrupt_response": True,
                    },
                    "transcription": {"model": "gpt-live-transcribe", "language": "en"},
                    "noise_reduction": {"type": "far_field"},
                },
                "output": {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "cedar", "speed": 1.1},
            },
            "tools": [TOOL],
            "tool_choice": {"type": "function", "name": "set_lamp"},
            "max_output_tokens": 800,
            "reasoning": {"effort": "low"},
            "parallel_tool_calls": True,
            "truncation": {
                "type": "retention_ratio",
                "retention_ratio": 0.8,
                "token_limits": {"post_instructions": 8000},
            },
            "tracing": "auto",
        },
    }


CONFIGS = [
    SessionConfig(),
    EVERYTHING,
    SessionConfig(instructions="", tools=[], tool_choice="none", max_output_tokens="inf", truncation="disabled"),
    SessionConfig(output_modalities=["text"], voice={"id": "voice_123"}),
    SessionConfig(turn_detection={"type": "server_vad", "threshold": 0.5, "silence_duration_ms": 500}),
    SessionConfig(tools=[{"type": "mcp", "server_label": "home", "server_url": "https://example.invalid/mcp"}]),
    SessionConfig(tracing={"workflow_name": "kitchen"}),
    SessionConfig(language="en"),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_every_configuration_is_valid_on_the_wire(config: SessionConfig) -> None:
    check_client_frame(session_update(config).to_wire())


def test_the_oracle_refuses_a_key_of_the_beta() -> None:
    frame = session_update(SessionConfig()).to_wire()
    frame["session"]["modalities"] = ["audio"]

    with pytest.raises(WrongFrame):
        check_client_frame(frame)


def test_a_language_without_transcription_is_not_sent() -> None:
    assert "transcription" not in session_update(SessionConfig(language="en")).session["audio"]["input"]


def test_an_empty_text_and_an_empty_list_are_sent_for_they_clear() -> None:
    session = session_update(SessionConfig(instructions="", tools=[])).session

    assert session["instructions"] == ""
    assert session["tools"] == []


def test_two_updates_share_no_object_that_a_caller_could_change() -> None:
    first = session_update(EVERYTHING).session
    first["audio"]["input"]["format"]["rate"] = 8000
    first["tools"][0]["name"] = "changed"

    second = session_update(EVERYTHING).session

    assert second["audio"]["input"]["format"]["rate"] == 24000
    assert second["audio"]["output"]["format"]["rate"] == 24000
    assert second["tools"][0]["name"] == "set_lamp"


@pytest.mark.parametrize(
    "bad",
    [
        {"speed": 1.6},
        {"speed": 0.2},
        {"output_modalities": []},
        {"output_modalities": ["audio", "text"]},
        {"max_output_tokens": 0},
        {"max_output_tokens": 4097},
    ],
)
def test_what_the_server_is_known_to_refuse_is_refused_here(bad: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError, match=next(iter(bad))):
        SessionConfig(**bad)


EVENTS: list[tuple[ClientEvent, dict[str, Any]]] = [
    (
        user_message("hello"),
        {
            "type": "conversation.item.create",
            "item": {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]},
        },
    ),
    (
        assistant_message("hi", previous_item_id="root"),
        {
            "type": "conversation.item.create",
            "item": {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hi"}]},
            "previous_item_id": "root",
        },
    ),
    (
        function_call_output("call_1", "done"),
        {
            "type": "conversation.item.create",
            "item": {"type": "function_call_output", "call_id": "call_1", "output": "done"},
        },
    ),
    (
        response_create("turn_1", event_id="r1"),
        {"type": "response.create", "event_id": "r1", "response": {"metadata": {"turn": "turn_1"}}},
    ),
    (
        response_create(
            "turn_2",
            event_id="r2",
            instructions="Say hello.",
            output_modalities=["text"],
            tools=[TOOL],
            tool_choice="none",
            conversation="none",
            items=[],
            metadata={"topic": "greeting", "turn": "not this"},
        ),
        {
            "type": "response.create",
            "event_id": "r2",
            "response": {
                "metadata": {"topic": "greeting", "turn": "turn_2"},
                "instructions": "Say hello.",
                "output_modalities": ["text"],
                "tools": [TOOL],
                "tool_choice": "none",
                "conversation": "none",
                "input": [],
            },
        },
    ),
]


@pytest.mark.parametrize(("event", "frame"), EVENTS)
def test_what_we_build_is_what_the_protocol_asks_for(event: ClientEvent, frame: dict[str, Any]) -> None:
    assert event.to_wire() == frame
    check_client_frame(frame)


@pytest.mark.parametrize(
    "metadata", [{"k" * 65: "v"}, {"k": "v" * 513}, {str(count): "v" for count in range(16)}], ids=["key", "value", "n"]
)
def test_metadata_that_the_server_would_refuse_is_refused_here(metadata: dict[str, str]) -> None:
    with pytest.raises(LocalProtocolError, match="metadata"):
        response_create("t", event_id="e", metadata=metadata)
