"""What we tell the server: the session's configuration, and the items and requests that we build ourselves.

Pure. One unknown key makes the server discard a whole ``session.update``, so only keys of the GA protocol are named
here, and every one is checked against the ``openai`` package's types in the tests. The server merges objects in a
way that is not documented below ``audio.input``: each sub-object that is sent is complete.

Source: Realtime API, session.update, conversation.item.create, response.create.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from appliance.errors import LocalProtocolError
from appliance.realtime.protocol import SAMPLE_RATE, ConversationItemCreate, JsonObject, ResponseCreate, SessionUpdate

__all__ = [
    "Modality",
    "SessionConfig",
    "assistant_message",
    "function_call_output",
    "response_create",
    "session_update",
    "user_message",
]

Modality: TypeAlias = Literal["audio", "text"]

_METADATA_PAIRS = 16  # Realtime API, response.create: at most 16 pairs, keys of 64 and values of 512 characters
_METADATA_KEY_CHARACTERS = 64
_METADATA_VALUE_CHARACTERS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionConfig:
    """A session's configuration. None means that the key is not sent, so that the server's default holds.

    The one exception is `turn_detection`: its default on the server would make it listen by itself.

    Raises:
        LocalProtocolError: A value that the server is known to refuse.
    """

    instructions: str | None = None
    """"" clears the server's own default text."""
    voice: str | Mapping[str, str] | None = None
    """A name, or ``{"id": "voice_…"}``; cannot change once the session has spoken."""
    speed: float | None = None
    """0.25 to 1.5."""
    output_modalities: Sequence[Modality] = ("audio",)
    """One of the two: audio always brings a transcript."""
    transcription_model: str | None = None
    """What writes down the user's speech; None leaves that off."""
    language: str | None = None
    """ISO 639-1, a hint for the transcription; means nothing without `transcription_model`."""
    noise_reduction: Literal["near_field", "far_field"] | None = None
    turn_detection: Mapping[str, Any] | None = None
    """None is push to talk (an explicit ``null``); else a whole ``server_vad`` or ``semantic_vad`` object."""
    tools: Sequence[Mapping[str, Any]] | None = None
    """Flat function tools, or MCP tools."""
    tool_choice: str | Mapping[str, Any] | None = None
    max_output_tokens: int | Literal["inf"] | None = None
    """1 to 4096, or "inf"."""
    reasoning_effort: str | None = None
    """Models of the 2.x family only; others refuse the whole update."""
    parallel_tool_calls: bool | None = None
    """Reasoning models only."""
    truncation: str | Mapping[str, Any] | None = None
    """"auto", "disabled", or a ``retention_ratio`` object."""
    tracing: str | Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.speed is not None and not 0.25 <= self.speed <= 1.5:
            raise LocalProtocolError(f"session.update: speed {self.speed}, expected 0.25 to 1.5")
        if len(self.output_modalities) != 1:
            raise LocalProtocolError(f"session.update: output_modalities {list(self.output_modalities)}, expected one")
        if isinstance(self.max_output_tokens, int) and not 1 <= self.max_output_tokens <= 4096:
            raise LocalProtocolError(f"session.update: max_output_tokens {self.max_output_tokens}, expected 1 to 4096")


def session_update(config: SessionConfig, *, event_id: str | None = None) -> SessionUpdate:
    """Return the ``session.update`` that puts a configuration into force."""
    return SessionUpdate(session=_session(config), event_id=event_id)


def _session(config: SessionConfig) -> JsonObject:
    return {
        "type": "realtime",
        "output_modalities": list(config.output_modalities),
        "audio": {"input": _audio_input(config), "output": _audio_output(config)},
        **_set_keys(
            instructions=config.instructions,
            tools=None if config.tools is None else [dict(tool) for tool in config.tools],
            tool_choice=_plain(config.tool_choice),
            max_output_tokens=config.max_output_tokens,
            reasoning=None if config.reasoning_effort is None else {"effort": config.reasoning_effort},
            parallel_tool_calls=config.parallel_tool_calls,
            truncation=_plain(config.truncation),
            tracing=_plain(config.tracing),
        ),
    }


def _audio_input(config: SessionConfig) -> JsonObject:
    transcription = None
    if config.transcription_model is not None:
        transcription = {"model": config.transcription_model, **_set_keys(language=config.language)}
    return {
        "format": _audio_format(),
        "turn_detection": _plain(config.turn_detection),
        **_set_keys(
            transcription=transcription,
            noise_reduction=None if config.noise_reduction is None else {"type": config.noise_reduction},
        ),
    }


def _audio_output(config: SessionConfig) -> JsonObject:
    return {"format": _audio_format(), **_set_keys(voice=_plain(config.voice), speed=config.speed)}


def _audio_format() -> JsonObject:
    return {"type": "audio/pcm", "rate": SAMPLE_RATE}


def user_message(text: str, *, previous_item_id: str | None = None) -> ConversationItemCreate:
    """Return the item of a typed message, or of a turn replayed from the history."""
    content = [{"type": "input_text", "text": text}]
    return _message("user", content, previous_item_id)


def assistant_message(text: str, *, previous_item_id: str | None = None) -> ConversationItemCreate:
    """Return an answer replayed from the history: a client may write text for the assistant, never audio."""
    return _message("assistant", [{"type": "output_text", "text": text}], previous_item_id)


def _message(role: str, content: list[dict[str, str]], previous_item_id: str | None) -> ConversationItemCreate:
    item: JsonObject = {"type": "message", "role": role, "content": content}
    return ConversationItemCreate(item=item, previous_item_id=previous_item_id)


def function_call_output(call_id: str, output: str) -> ConversationItemCreate:
    """Return the item that gives a tool's result to the model."""
    return ConversationItemCreate(item={"type": "function_call_output", "call_id": call_id, "output": output})


def response_create(
    turn: str,
    *,
    event_id: str,
    instructions: str | None = None,
    output_modalities: Sequence[Modality] | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    tool_choice: str | Mapping[str, Any] | None = None,
    conversation: Literal["auto", "none"] | None = None,
    items: Sequence[Mapping[str, Any]] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> ResponseCreate:
    """Ask for an answer; what is not given holds as the session says.

    Args:
        turn: Goes into ``metadata["turn"]``, which the server echoes: the only way to tell a late answer of an old
            turn from the answer of this one.
        event_id: Ours, so that an error can be told to be this request's.
        instructions: For this response only.
        output_modalities: For this response only.
        tools: For this response only.
        tool_choice: "none" forbids another round of calls.
        conversation: "none" for an answer out of band, which leaves the conversation alone.
        items: The ``input`` that replaces the conversation as context; empty for no context at all.
        metadata: Further pairs.

    Raises:
        LocalProtocolError: More or longer metadata than the server takes.
    """
    pairs = {**(metadata or {}), "turn": turn}
    _check_metadata(pairs)
    response = {
        "metadata": pairs,
        **_set_keys(
            instructions=instructions,
            output_modalities=None if output_modalities is None else list(output_modalities),
            tools=None if tools is None else [dict(tool) for tool in tools],
            tool_choice=_plain(tool_choice),
            conversation=conversation,
            input=None if items is None else [dict(item) for item in items],
        ),
    }
    return ResponseCreate(event_id=event_id, response=response)


def _check_metadata(pairs: Mapping[str, str]) -> None:
    if len(pairs) > _METADATA_PAIRS:
        raise LocalProtocolError(f"response.create: {len(pairs)} pairs of metadata, at most {_METADATA_PAIRS}")
    for key, value in pairs.items():
        if len(key) > _METADATA_KEY_CHARACTERS or len(value) > _METADATA_VALUE_CHARACTERS:
            raise LocalProtocolError(
                f"response.create: metadata {key[:_METADATA_KEY_CHARACTERS]!r} is too long: "
                f"at most {_METADATA_KEY_CHARACTERS} characters for a key, {_METADATA_VALUE_CHARACTERS} for a value"
            )


def _set_keys(**values: Any) -> JsonObject:
    return {key: value for key, value in values.items() if value is not None}


def _plain(value: Any) -> Any:
    """A copy of a mapping that JSON can write; anything else as it is."""
    return dict(value) if isinstance(value, Mapping) else value
