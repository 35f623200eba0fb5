"""Validation of client events: the shape of every event, its session, its items and its responses.

Pure. A `Rule` takes a JSON value and its path, and returns the value normalised or raises `Refused` with the code,
the message and the ``param`` of the live service. As on the live service, one unknown key refuses the whole event.
A tool of an unknown type is refused alone: in the normalised ``tools`` a `Refused` stands in its place.

Source: the OpenAI Realtime API reference (GA), client events; error texts as recorded from the live service.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from appliance.errors import RemoteProtocolError
from appliance.realtime.protocol import SAMPLE_RATE

__all__ = ["CLIENT_EVENTS", "JsonObject", "Refused", "audio_bytes", "bad_value", "invalid_value"]

JsonObject: TypeAlias = dict[str, Any]
Rule: TypeAlias = Callable[[Any, str], Any]

MAX_APPEND_CHARS = 15 * 2**20  # OpenAPI document, RealtimeClientEventInputAudioBufferAppend


class Refused(RemoteProtocolError):
    """A client event that the server answers with an ``error`` event; the session continues."""

    def __init__(self, code: str | None, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


# ---------------------------------------------------------------------------------------------------------------
# Scalars


_KINDS = {
    type(None): "null",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal number",
    str: "a string",
    list: "an array",
    dict: "an object",
}


def _expect(value: Any, path: str, kind: type, *also: type, expected: str = "") -> None:
    if type(value) not in (kind, *also):
        raise Refused(
            "invalid_type",
            f"Invalid type for '{path}': expected {expected or _KINDS[kind]}, but got {_KINDS[type(value)]} instead.",
            path,
        )


def invalid_value(message: str, param: str) -> Refused:
    return Refused("invalid_value", message, param)


def bad_value(value: Any, path: str, allowed: tuple[str, ...]) -> Refused:
    """Return the refusal for a value outside an enumeration."""
    supported = ", ".join(f"'{one}'" for one in allowed)
    given = str(value)
    shown = f"{given[:64]}…" if len(given) > 64 else given
    return invalid_value(f"Invalid value: '{shown}'. Supported values are: {supported}.", path)


def string(*, longest: int | None = None) -> Rule:
    def check(value: Any, path: str) -> Any:
        _expect(value, path, str)
        if longest is not None and len(value) > longest:
            raise Refused(
                "string_above_max_length",
                f"Invalid '{path}': string too long. Expected a string with maximum length {longest}, "
                f"but got a string with length {len(value)} instead.",
                path,
            )
        return value

    return check


def boolean(value: Any, path: str) -> Any:
    _expect(value, path, bool)
    return value


def _ranged(value: float, path: str, least: float | None, most: float | None, kind: str) -> None:
    for limit, is_out, side, sign in (
        (least, least is not None and value < least, "below_min", ">="),
        (most, most is not None and value > most, "above_max", "<="),
    ):
        if is_out:
            words = side.replace("_min", " minimum").replace("_max", " maximum")
            raise Refused(
                f"{kind}_{side}_value",
                f"Invalid '{path}': {kind} {words} value. Expected a value {sign} {limit}, but got {value} instead.",
                path,
            )


def integer(least: int | None = None, most: int | None = None) -> Rule:
    def check(value: Any, path: str) -> Any:
        _expect(value, path, int)
        _ranged(value, path, least, most, "integer")
        return value

    return check


def number(least: float | None = None, most: float | None = None) -> Rule:
    def check(value: Any, path: str) -> Any:
        _expect(value, path, float, int)
        _ranged(value, path, least, most, "decimal")
        return float(value)

    return check


def one_of(*allowed: str) -> Rule:
    def check(value: Any, path: str) -> Any:
        _expect(value, path, str, expected=f"one of {', '.join(repr(one) for one in allowed)}")
        if value not in allowed:
            raise bad_value(value, path, allowed)
        return value

    return check


# ---------------------------------------------------------------------------------------------------------------
# Composites


def nullable(rule: Rule) -> Rule:
    return lambda value, path: None if value is None else rule(value, path)


def free_object(value: Any, path: str) -> Any:
    """Accept any object: a JSON Schema, or a type that another service defines."""
    _expect(value, path, dict)
    return value


def array(rule: Rule, *, least: int = 0) -> Rule:
    def check(value: Any, path: str) -> Any:
        _expect(value, path, list)
        if len(value) < least:
            raise Refused(
                "array_below_min_length",
                f"Invalid '{path}': array too short. Expected an array with minimum length {least}.",
                path,
            )
        return [rule(one, f"{path}[{i}]") for i, one in enumerate(value)]

    return check


def dictionary(rule: Rule) -> Rule:
    """Accept an object with any keys."""

    def check(value: Any, path: str) -> Any:
        return {key: rule(one, f"{path}.{key[:64]}") for key, one in free_object(value, path).items()}

    return check


def shape(fields: Mapping[str, Rule], *, required: tuple[str, ...] = (), null_is_absent: bool = False) -> Rule:
    """Accept an object with these keys and no others; with `null_is_absent`, a key with null counts as missing."""

    def check(value: Any, path: str) -> Any:
        free_object(value, path)
        inside = f"{path}." if path else ""
        for key in value:
            if key not in fields:
                raise Refused("unknown_parameter", f"Unknown parameter: '{inside}{key[:64]}'.", f"{inside}{key[:64]}")
        for key in required:
            if key not in value:
                where = f"{inside}{key}"
                raise Refused("missing_required_parameter", f"Missing required parameter: '{where}'.", where)
        given = {key: one for key, one in value.items() if not (null_is_absent and one is None)}
        return {key: fields[key](one, f"{inside}{key}") for key, one in given.items()}

    return check


def by_key(key: str, cases: Mapping[str, Rule]) -> Rule:
    """Choose the rule by the value of one key, usually ``type``."""
    choose = one_of(*cases)

    def check(value: Any, path: str) -> Any:
        free_object(value, path)
        where = f"{path}.{key}"
        if key not in value:
            raise Refused("missing_required_parameter", f"Missing required parameter: '{where}'.", where)
        return cases[choose(value[key], where)](value, path)

    return check


def text_or(words: tuple[str, ...], rule: Rule) -> Rule:
    """Accept one of the words, or whatever the rule accepts."""
    word = one_of(*words)
    return lambda value, path: word(value, path) if isinstance(value, str) else rule(value, path)


# ---------------------------------------------------------------------------------------------------------------
# The session

_text = string()
_type = _text  # by_key has already checked the value


def _audio_format(value: Any, path: str) -> Any:
    narrow = shape({"type": _type})
    cases = {"audio/pcm": shape({"type": _type, "rate": integer(SAMPLE_RATE, SAMPLE_RATE)}), "audio/pcmu": narrow}
    checked: JsonObject = by_key("type", cases | {"audio/pcma": narrow})(value, path)
    return {"type": "audio/pcm", "rate": SAMPLE_RATE} if checked["type"] == "audio/pcm" else checked


def _output_modalities(value: Any, path: str) -> Any:
    checked = array(one_of("text", "audio"))(value, path)
    if checked not in (["text"], ["audio"]):
        raise invalid_value(f"Invalid modalities: {checked}. Supported combinations are: ['text'] and ['audio'].", path)
    return checked


_turn_detection = by_key(
    "type",
    {
        "server_vad": shape(
            {
                "type": _type,
                "threshold": number(0, 1),
                "prefix_padding_ms": integer(0),
                "silence_duration_ms": integer(0),
                "create_response": boolean,
                "interrupt_response": boolean,
                "idle_timeout_ms": nullable(integer(5_000, 30_000)),
            }
        ),
        "semantic_vad": shape(
            {
                "type": _type,
                "eagerness": one_of("low", "medium", "high", "auto"),
                "create_response": boolean,
                "interrupt_response": boolean,
            }
        ),
    },
)

_transcription = shape(
    {
        "model": _text,
        "language": nullable(_text),
        "prompt": nullable(_text),
        "languages": array(_text, least=1),
        "keywords": array(_text),
        "delay": one_of("minimal", "low", "medium", "high", "xhigh"),
    }
)

_noise_reduction = shape({"type": one_of("near_field", "far_field"), "strength": number(0, 1)})


def _voice(value: Any, path: str) -> Any:
    return value if isinstance(value, str) else shape({"id": _text}, required=("id",))(value, path)


_slot = shape(
    {
        "type": one_of("integer", "boolean"),
        "minimum": integer(0),
        "maximum": integer(0),
        "enum": array(lambda value, path: string(longest=64)(str(value), path) and value),
    }
)
_phrases = shape({"say": array(string(longest=200)), "slots": dictionary(_slot), "agent": string(longest=64)})
_function_tool = shape(
    {
        "type": _type,
        "name": string(longest=64),
        "description": _text,
        "parameters": free_object,
        "phrases": _phrases,  # of our own client only: the live service has no such key
    },
    required=("name",),
)


def _tool(value: Any, path: str) -> Any:
    """Check one tool; of a type other than ``function`` (MCP needs a network), return its refusal instead."""
    free_object(value, path)
    name = value.get("type", "")
    if not isinstance(name, str) or name in ("", "function"):
        return by_key("type", {"function": _function_tool})(value, path)
    return bad_value(name, f"{path}.type", ("function",))


_tools = array(_tool)
_tool_choice = text_or(
    ("auto", "none", "required"),
    by_key("type", {"function": shape({"type": _type, "name": _text}, required=("name",))}),
)


_max_output_tokens = text_or(("inf",), integer(1, 4_096))
_tracing = text_or(("auto",), shape({"workflow_name": _text, "group_id": _text, "metadata": free_object}))
_truncation = text_or(
    ("auto", "disabled"),
    by_key(
        "type",
        {
            "retention_ratio": shape(
                {
                    "type": _type,
                    "retention_ratio": number(0, 1),
                    "token_limits": shape({"post_instructions": integer(0)}),
                },
                required=("retention_ratio",),
            )
        },
    ),
)
_prompt = shape({"id": _text, "version": nullable(_text), "variables": nullable(free_object)}, required=("id",))
_reasoning = shape({"effort": one_of("minimal", "low", "medium", "high", "xhigh")})


def _session_type(value: Any, path: str) -> Any:
    if value == "transcription":
        raise invalid_value("Passing a transcription session update event to a realtime session is not allowed.", path)
    return one_of("realtime")(value, path)


_session = shape(
    {
        "type": _session_type,
        "model": _text,
        "output_modalities": _output_modalities,
        "instructions": _text,
        "audio": shape(
            {
                "input": shape(
                    {
                        "format": _audio_format,
                        "transcription": nullable(_transcription),
                        "noise_reduction": nullable(_noise_reduction),
                        "turn_detection": nullable(_turn_detection),
                    }
                ),
                "output": shape({"format": _audio_format, "voice": _voice, "speed": number(0.25, 1.5)}),
            }
        ),
        "tools": _tools,
        "tool_choice": _tool_choice,
        "max_output_tokens": _max_output_tokens,
        "tracing": nullable(_tracing),
        "truncation": _truncation,
        "prompt": nullable(_prompt),
        "include": nullable(array(one_of("item.input_audio_transcription.logprobs"))),
        "reasoning": _reasoning,
        "parallel_tool_calls": boolean,
    },
    required=("type",),
)

# ---------------------------------------------------------------------------------------------------------------
# Items

_EXPECTED_AUDIO = "Invalid '{}'. Expected base64-encoded audio bytes (mono PCM16 at 24kHz) but got {}."


def audio_bytes(value: str, path: str, *, sample_bytes: int) -> bytes:
    """Decode base64 audio of whole samples.

    Raises:
        Refused: Not base64, empty, or not a whole number of samples.
    """
    try:
        audio = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise invalid_value(_EXPECTED_AUDIO.format(path, "an invalid value"), path) from None
    if not audio or len(audio) % sample_bytes:
        found = "an invalid value" if audio else "empty bytes"
        raise invalid_value(_EXPECTED_AUDIO.format(path, found), path)
    return audio


def _image_url(value: Any, path: str) -> Any:
    url: str = _text(value, path)
    if not url.startswith(("data:image/png;base64,", "data:image/jpeg;base64,")):
        raise invalid_value(f"Invalid '{path}'. Expected a base64-encoded data URI of a PNG or JPEG image.", path)
    return url


_written = shape({"type": _type, "text": _text}, required=("text",))
_input_audio = shape({"type": _type, "audio": _text, "transcript": nullable(_text)}, required=("audio",))
_input_image = shape(
    {"type": _type, "image_url": _image_url, "detail": one_of("auto", "low", "high")}, required=("image_url",)
)

_CONTENT = {
    "system": {"input_text": _written},
    "user": {"input_text": _written, "input_audio": _input_audio, "input_image": _input_image},
    "assistant": {"output_text": _written},  # the client cannot create assistant audio
}

_common: dict[str, Rule] = {
    "id": string(longest=32),
    "object": one_of("realtime.item"),
    "type": _type,
    "status": one_of("completed", "incomplete", "in_progress"),
}


def _message(parts: Mapping[str, Rule]) -> Rule:
    fields = _common | {"role": _text, "content": array(by_key("type", parts))}
    return shape(fields, required=("role", "content"))


_ITEMS: dict[str, Rule] = {
    "message": by_key("role", {role: _message(parts) for role, parts in _CONTENT.items()}),
    "function_call": shape(
        _common | {"name": _text, "arguments": _text, "call_id": _text}, required=("name", "arguments")
    ),
    "function_call_output": shape(_common | {"call_id": _text, "output": _text}, required=("call_id", "output")),
}
_item = by_key("type", _ITEMS)
_item_or_reference = by_key("type", _ITEMS | {"item_reference": shape({"type": _type, "id": _text}, required=("id",))})

# ---------------------------------------------------------------------------------------------------------------
# Responses


def _metadata(value: Any, path: str) -> Any:
    pairs: JsonObject = free_object(value, path)
    if len(pairs) > 16:
        raise Refused(
            "object_above_max_properties",
            f"Invalid '{path}': too many properties. Expected at most 16, but got {len(pairs)} instead.",
            path,
        )
    for key, one in pairs.items():
        string(longest=64)(key, path)
        string(longest=512)(one, f"{path}.{key}")
    return pairs


_response = shape(
    {
        "conversation": one_of("auto", "none"),
        "input": array(_item_or_reference),
        "instructions": _text,
        "output_modalities": _output_modalities,
        "audio": shape({"output": shape({"format": _audio_format, "voice": _voice})}),
        "tools": _tools,
        "tool_choice": _tool_choice,
        "max_output_tokens": _max_output_tokens,
        "metadata": _metadata,
        "parallel_tool_calls": boolean,
        "prompt": _prompt,
        "reasoning": _reasoning,
    },
    null_is_absent=True,  # the live service then takes the session's value; LiveKit sends `instructions: null`
)

# ---------------------------------------------------------------------------------------------------------------
# Events


def _event(fields: Mapping[str, Rule] | None = None, *, required: tuple[str, ...] = ()) -> Rule:
    return shape({"type": _type, "event_id": string(longest=512), **(fields or {})}, required=required)


CLIENT_EVENTS: Mapping[str, Rule] = {
    "session.update": _event({"session": _session}, required=("session",)),
    "input_audio_buffer.append": _event({"audio": string(longest=MAX_APPEND_CHARS)}, required=("audio",)),
    "input_audio_buffer.commit": _event(),
    "input_audio_buffer.clear": _event(),
    "conversation.item.create": _event({"item": _item, "previous_item_id": nullable(_text)}, required=("item",)),
    "conversation.item.retrieve": _event({"item_id": _text}, required=("item_id",)),
    "conversation.item.truncate": _event(
        {"item_id": _text, "content_index": integer(0), "audio_end_ms": integer(0)},
        required=("item_id", "content_index", "audio_end_ms"),
    ),
    "conversation.item.delete": _event({"item_id": _text}, required=("item_id",)),
    "response.create": _event({"response": nullable(_response)}),
    "response.cancel": _event({"response_id": nullable(_text)}),
}
"""The rule for each event type that a WebSocket session accepts: all except ``output_audio_buffer.clear``."""
