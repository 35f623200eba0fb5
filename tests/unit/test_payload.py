"""Payloads sent to the server, checked strictly against the types of the `openai` package: no unknown keys."""

from __future__ import annotations

import json
from typing import Any

import pytest

from appliance.errors import SettingsError
from appliance.realtime.payload import (
    MAX_IMAGE_BYTES,
    NoiseReduction,
    PromptTemplate,
    RealtimeSessionSettings,
    RetentionRatio,
    SemanticVad,
    ServerVad,
    Transcription,
    image_part,
    message_item,
    session_object,
)
from appliance.realtime.protocol import ConversationItemCreate, SessionUpdate
from tests.support.oracle import WrongFrame, check_client_frame

TOOL = {
    "type": "function",
    "name": "set_lamp",
    "description": "Switch the lamp.",
    "parameters": {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]},
}
PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)
JPEG = b"\xff\xd8\xff\xe0" + bytes(40)

EVERYTHING = RealtimeSessionSettings(
    voice="cedar",
    speed=1.1,
    output_modalities=["audio"],
    transcription=Transcription(model="gpt-live-transcribe", language="en", prompt="recipes", delay="low"),
    noise_reduction=NoiseReduction(type="far_field", strength=0.5),
    turn_detection=SemanticVad(eagerness="low"),
    tool_choice={"type": "function", "name": "set_lamp"},
    max_output_tokens=800,
    reasoning_effort="low",
    parallel_tool_calls=True,
    truncation=RetentionRatio(retention_ratio=0.8, post_instructions=8000),
    tracing="auto",
    include=["item.input_audio_transcription.logprobs"],
    prompt=PromptTemplate(id="pmpt_1", version="3", variables={"room": "hall"}),
)


def update(settings: RealtimeSessionSettings, **more: Any) -> dict[str, Any]:
    session = session_object(settings, **({"instructions": None, "tools": None} | more))
    return SessionUpdate(session=session).to_wire()


def test_default_settings_send_only_push_to_talk_and_the_audio_formats() -> None:
    assert update(RealtimeSessionSettings()) == {
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


def test_null_turn_detection_is_encoded() -> None:
    session = session_object(RealtimeSessionSettings(), instructions=None, tools=None)
    assert '"turn_detection":null' in SessionUpdate(session=session).encode()


def test_every_setting_is_at_its_place_in_the_protocol() -> None:
    assert update(EVERYTHING, instructions="Be brief.", tools=[TOOL])["session"] == {
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
                "transcription": {
                    "model": "gpt-live-transcribe",
                    "language": "en",
                    "prompt": "recipes",
                    "delay": "low",
                },
                "noise_reduction": {"type": "far_field", "strength": 0.5},
            },
            "output": {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "cedar", "speed": 1.1},
        },
        "tools": [TOOL],
        "tool_choice": {"type": "function", "name": "set_lamp"},
        "max_output_tokens": 800,
        "reasoning": {"effort": "low"},
        "parallel_tool_calls": True,
        "truncation": {"type": "retention_ratio", "retention_ratio": 0.8, "token_limits": {"post_instructions": 8000}},
        "tracing": "auto",
        "include": ["item.input_audio_transcription.logprobs"],
        "prompt": {"id": "pmpt_1", "version": "3", "variables": {"room": "hall"}},
    }


def test_prompt_without_instructions_is_not_overridden_by_empty_ones() -> None:
    session = session_object(RealtimeSessionSettings(prompt={"id": "pmpt_1"}), instructions="", tools=None)
    assert "instructions" not in session
    assert session["prompt"] == {"id": "pmpt_1"}
    session = session_object(RealtimeSessionSettings(prompt={"id": "pmpt_1"}), instructions="Be brief.", tools=None)
    assert session["instructions"] == "Be brief."


def test_empty_prompt_clears_that_of_the_agent_before() -> None:
    frame = update(RealtimeSessionSettings(prompt={}), instructions="")
    assert (frame["session"]["prompt"], frame["session"]["instructions"]) == (None, "")
    check_client_frame(frame)


@pytest.mark.parametrize(
    ("choice", "tools", "sent"),
    [
        ({"type": "function", "name": "set_lamp"}, [TOOL], {"type": "function", "name": "set_lamp"}),
        ({"type": "function", "name": "set_fan"}, [TOOL], "auto"),
        ({"type": "function", "name": "set_fan"}, None, {"type": "function", "name": "set_fan"}),
        ({"type": "mcp", "server_label": "dice"}, [TOOL], "auto"),
        (
            {"type": "mcp", "server_label": "dice"},
            [{"type": "mcp", "server_label": "dice"}],
            {"type": "mcp", "server_label": "dice"},
        ),
    ],
)
def test_choice_of_a_tool_that_is_not_offered_now_is_sent_as_auto(choice: Any, tools: Any, sent: Any) -> None:
    session = session_object(RealtimeSessionSettings(tool_choice=choice), instructions=None, tools=tools)
    assert session["tool_choice"] == sent


def test_what_one_agent_overrides_is_set_back_for_the_others() -> None:
    settings = RealtimeSessionSettings(speed=1.25)
    agents = [{"tool_choice": "required", "prompt": {"id": "pmpt_1"}, "speed": 0.75}, {}]
    shared = settings.shared_by(agents)
    first, second = (update(shared.of_agent(own), instructions="")["session"] for own in agents)
    assert (first["tool_choice"], first["prompt"], "instructions" in first) == ("required", {"id": "pmpt_1"}, False)
    assert (second["tool_choice"], second["prompt"], second["instructions"]) == ("auto", None, "")
    assert [one["audio"]["output"]["speed"] for one in (first, second)] == [0.75, 1.25]
    assert settings.shared_by([{}, {"voice": "cedar"}]) == settings


SETTINGS = [
    RealtimeSessionSettings(),
    EVERYTHING,
    RealtimeSessionSettings(tool_choice="none", max_output_tokens="inf", truncation="disabled"),
    RealtimeSessionSettings(output_modalities=["text"], voice={"id": "voice_123"}),
    RealtimeSessionSettings(turn_detection={"type": "server_vad", "threshold": 0.5, "silence_duration_ms": 500}),
    RealtimeSessionSettings(
        turn_detection=ServerVad(
            threshold=0.6,
            prefix_padding_ms=300,
            silence_duration_ms=500,
            create_response=False,
            interrupt_response=False,
            idle_timeout_ms=6000,
        )
    ),
    RealtimeSessionSettings(tracing={"workflow_name": "kitchen"}, transcription="gpt-transcribe"),
    RealtimeSessionSettings(
        transcription=Transcription(model="gpt-transcribe", languages=["en", "de"], keywords=["Hue"]),
        noise_reduction="near_field",
    ),
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_all_settings_are_valid_on_the_wire(settings: RealtimeSessionSettings) -> None:
    check_client_frame(update(settings, instructions="", tools=[TOOL]))


def test_oracle_refuses_a_beta_key() -> None:
    frame = update(RealtimeSessionSettings())
    frame["session"]["modalities"] = ["audio"]
    with pytest.raises(WrongFrame):
        check_client_frame(frame)


def test_empty_instructions_and_tools_are_sent() -> None:
    session = session_object(RealtimeSessionSettings(), instructions="", tools=[])
    assert (session["instructions"], session["tools"]) == ("", [])


def test_session_objects_share_no_mutable_state() -> None:
    first = session_object(EVERYTHING, instructions="", tools=[TOOL])
    first["audio"]["input"]["format"]["rate"] = 8000
    first["tools"][0]["name"] = "changed"
    second = session_object(EVERYTHING, instructions="", tools=[TOOL])
    assert second["audio"]["input"]["format"]["rate"] == 24000
    assert second["tools"][0]["name"] == "set_lamp"


def test_provider_data_is_merged_unchanged() -> None:
    settings = RealtimeSessionSettings(
        speed=1.0, provider_data={"temperature": 0.7, "audio": {"output": {"speed": 1.2, "model": "tts-1"}}}
    )
    session = session_object(settings, instructions=None, tools=None)
    assert session["temperature"] == 0.7
    assert session["audio"]["output"] == {
        "format": {"type": "audio/pcm", "rate": 24000},
        "speed": 1.2,
        "model": "tts-1",
    }


def test_agent_settings_override_the_session_and_its_voice_overrides_both() -> None:
    session = RealtimeSessionSettings(voice="marin", speed=1.0, max_output_tokens=100)
    own = session.of_agent({"speed": 1.2, "voice": "sage"}, voice="cedar")
    assert (own.voice, own.speed, own.max_output_tokens) == ("cedar", 1.2, 100)
    assert session.of_agent({}).voice == "marin", "an agent without a voice uses the session's"


def test_misspelt_agent_setting_is_refused_with_a_suggestion() -> None:
    with pytest.raises(SettingsError, match="'sped'; did you mean 'speed'"):
        RealtimeSessionSettings().of_agent({"sped": 1.0})


def test_agent_cannot_change_the_model() -> None:
    with pytest.raises(SettingsError, match="model"):
        RealtimeSessionSettings().of_agent({"model": "another"})


@pytest.mark.parametrize(
    "bad",
    [
        {"speed": 1.6},
        {"speed": 0.2},
        {"output_modalities": []},
        {"output_modalities": ["audio", "text"]},
        {"max_output_tokens": 0},
        {"max_output_tokens": 4097},
        {"tool_choice": "requird"},
        {"tool_choice": {"type": "function"}},
        {"tool_choice": {"type": "function", "name": "a", "server_label": "b"}},
        {"tool_choice": {"type": "tool", "name": "a"}},
        {"tool_choice": {"name": "a"}},
        {"tool_choice": ["auto"]},
        {"prompt": "pmpt_1"},
        {"prompt": {"version": "3"}},
        {"prompt": {"id": ""}},
        {"prompt": {"id": "pmpt_1", "variable": {}}},
        {"prompt": {"id": "pmpt_1", "variables": ["hall"]}},
    ],
)
def test_settings_that_the_server_refuses_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(bad))):
        RealtimeSessionSettings(**bad)


@pytest.mark.parametrize(
    ("kind", "bad", "word"),
    [
        (ServerVad, {"threshold": 1.1}, "threshold"),
        (ServerVad, {"idle_timeout_ms": 4999}, "idle_timeout_ms"),
        (RetentionRatio, {"retention_ratio": -0.1}, "retention_ratio"),
        (Transcription, {"model": "m", "language": "en", "languages": ["de"]}, "languages"),
    ],
)
def test_nested_settings_are_range_checked(kind: Any, bad: dict[str, Any], word: str) -> None:
    with pytest.raises(SettingsError, match=word):
        kind(**bad)


@pytest.mark.parametrize(
    "item",
    [
        message_item("local_1", "user", "hello"),
        message_item("local_2", "system", "It is late."),
        message_item("local_3", "user", "What is this?", [image_part(PNG, detail="low")]),
        message_item("local_4", "user", "", [image_part(JPEG)]),
    ],
)
def test_messages_are_valid_on_the_wire(item: dict[str, Any]) -> None:
    check_client_frame(ConversationItemCreate(item=item).to_wire())


def test_image_is_sent_as_a_data_url_of_its_type() -> None:
    assert image_part(PNG)["image_url"].startswith("data:image/png;base64,iVBORw0KGgo")
    assert image_part(JPEG)["image_url"].startswith("data:image/jpeg;base64,/9j/")


def test_unsupported_or_too_large_image_is_refused_and_the_error_names_the_limit() -> None:
    with pytest.raises(SettingsError, match="neither PNG nor JPEG"):
        image_part(b"GIF89a" + bytes(20))
    with pytest.raises(SettingsError, match=str(MAX_IMAGE_BYTES)):
        image_part(PNG + bytes(MAX_IMAGE_BYTES))


def test_largest_image_fits_into_one_frame() -> None:
    item = message_item("local_1", "user", "", [image_part(PNG[:8] + bytes(MAX_IMAGE_BYTES - 8))])
    assert len(json.dumps(item)) < 15 * 1024 * 1024
