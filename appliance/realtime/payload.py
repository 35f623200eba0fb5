"""What we tell the server: the session's settings, and the messages that a program writes.

Pure. One unknown key makes the server discard a whole ``session.update``, so only keys of the GA protocol are named
here, and every one is checked against the ``openai`` package's types in the tests. The server merges objects in a
way that is not documented below ``audio.input``: each sub-object that is sent is complete.

**Which setting wins**, from the weakest to the strongest, at each connection and after each handoff alike:

1. the server's own default (a key that nobody set is not sent),
2. the settings of the session,
3. `RealtimeAgent.settings` of the agent that talks,
4. `RealtimeAgent.voice` of that agent, if it has one,
5. `provider_data`, merged in as it is.

Source: Realtime API, session.update, conversation.item.create.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, TypeAlias

from appliance.errors import SettingsError, did_you_mean
from appliance.realtime.protocol import SAMPLE_RATE, JsonObject

__all__ = [
    "MAX_IMAGE_BYTES",
    "Modality",
    "NoiseReduction",
    "RealtimeSessionSettings",
    "RetentionRatio",
    "SemanticVad",
    "ServerVad",
    "Transcription",
    "image_part",
    "message_item",
    "session_object",
]

Modality: TypeAlias = Literal["audio", "text"]

MAX_IMAGE_BYTES = 10 * 1024 * 1024  # 13.4 MB as base64, below the 15 MiB of one frame (Realtime API, append)
_IMAGE_TYPES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


def _set_keys(**values: Any) -> JsonObject:
    return {key: value for key, value in values.items() if value is not None}


def _require(holds: bool, name: str, value: Any, expected: str) -> None:
    if not holds:
        raise SettingsError(f"session settings: {name} is {value!r}, expected {expected}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseReduction:
    """The server's noise filter, before it listens and before it transcribes."""

    type: Literal["near_field", "far_field"]
    """Speaking into the box, or across a room."""
    strength: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcription:
    """What writes down the user's speech."""

    model: str
    language: str | None = None
    """ISO 639-1; not together with `languages`."""
    languages: Sequence[str] | None = None
    prompt: str | None = None
    keywords: Sequence[str] | None = None
    delay: Literal["minimal", "low", "medium", "high", "xhigh"] | None = None

    def __post_init__(self) -> None:
        _require(not (self.language and self.languages), "transcription.languages", self.languages, "none beside one")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerVad:
    """The server ends a turn after a silence."""

    threshold: float | None = None
    """0 to 1: how loud counts as speech."""
    prefix_padding_ms: int | None = None
    silence_duration_ms: int | None = None
    """The reference says 500, the service is seen to take 200: better said than left out."""
    create_response: bool = True
    interrupt_response: bool = True
    idle_timeout_ms: int | None = None
    """5,000 to 30,000: the model speaks up after so much silence. Each time costs tokens."""

    def __post_init__(self) -> None:
        threshold, idle = self.threshold, self.idle_timeout_ms
        _require(threshold is None or 0 <= threshold <= 1, "turn_detection.threshold", threshold, "0 to 1")
        _require(idle is None or 5000 <= idle <= 30000, "turn_detection.idle_timeout_ms", idle, "5000 to 30000")


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticVad:
    """The server ends a turn when what was said sounds finished."""

    eagerness: Literal["low", "medium", "high", "auto"] = "auto"
    create_response: bool = True
    interrupt_response: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionRatio:
    """How much of a context that is full is kept: less than all keeps the cache of the rest useful."""

    retention_ratio: float
    """0 to 1."""
    post_instructions: int | None = None
    """Most tokens beside the instructions."""

    def __post_init__(self) -> None:
        _require(0 <= self.retention_ratio <= 1, "truncation.retention_ratio", self.retention_ratio, "0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class RealtimeSessionSettings:
    """The settings of a session. None means that the key is not sent, so that the server's default holds.

    The one exception is `turn_detection`: its default on the server would make it listen by itself.

    Raises:
        SettingsError: A value that the server is known to refuse.
    """

    model: str = "gpt-realtime-2.1"
    """Any string; goes into the address, and cannot change on a connection."""
    voice: str | Mapping[str, str] | None = None
    """A name, or ``{"id": "voice_…"}``; cannot change on a connection that has spoken."""
    speed: float | None = None
    """0.25 to 1.5."""
    output_modalities: Sequence[Modality] = ("audio",)
    """One of the two: audio always brings a transcript."""
    input_audio_format: Literal["pcm16", "g711_ulaw", "g711_alaw"] = "pcm16"
    """Of what the program sends (pcm16: 24 kHz mono little-endian; G.711: 8 kHz). The wire is always pcm16."""
    output_audio_format: Literal["pcm16", "g711_ulaw", "g711_alaw"] = "pcm16"
    """Of what the program is given."""
    noise_reduction: NoiseReduction | Literal["near_field", "far_field"] | None = None
    transcription: Transcription | str | None = None
    """The settings, or the model's name; None leaves it off, and the user's words out of the history."""
    turn_detection: ServerVad | SemanticVad | Mapping[str, Any] | None = None
    """None is push to talk (an explicit ``null``)."""
    tool_choice: str | Mapping[str, Any] | None = None
    max_output_tokens: int | Literal["inf"] | None = None
    """1 to 4096, or "inf"."""
    reasoning_effort: str | None = None
    """Models of the 2.x family only; others refuse the whole update."""
    parallel_tool_calls: bool | None = None
    """Reasoning models only."""
    truncation: RetentionRatio | str | Mapping[str, Any] | None = None
    """"auto", "disabled", or a ratio."""
    tracing: str | Mapping[str, Any] | None = None
    include: Sequence[str] | None = None
    """Such as ``item.input_audio_transcription.logprobs``."""
    provider_data: Mapping[str, Any] = field(default_factory=dict)
    """Merged into the ``session`` object as it is, for servers that know more than this class."""

    def __post_init__(self) -> None:
        _require(self.speed is None or 0.25 <= self.speed <= 1.5, "speed", self.speed, "0.25 to 1.5")
        _require(len(self.output_modalities) == 1, "output_modalities", list(self.output_modalities), "one of them")
        tokens = self.max_output_tokens
        _require(not isinstance(tokens, int) or 1 <= tokens <= 4096, "max_output_tokens", tokens, '1 to 4096, or "inf"')

    def of_agent(self, own: Mapping[str, Any], *, voice: str | Mapping[str, str] = "") -> RealtimeSessionSettings:
        """Return these settings with those of an agent in force.

        Raises:
            SettingsError: There is no such setting, or the value is out of bounds.
        """
        names = [f.name for f in fields(self) if f.name != "model"]
        for name in own:
            if name not in names:
                meant = did_you_mean(name, names) or f"; there are: {', '.join(names)}"
                raise SettingsError(f"an agent's settings: there is no {name!r}{meant}")
        return replace(self, **{**own, **({"voice": voice} if voice else {})})


def session_object(
    settings: RealtimeSessionSettings, *, instructions: str | None, tools: Sequence[Mapping[str, Any]] | None
) -> JsonObject:
    """Return the ``session`` of the ``session.update`` that puts settings into force.

    Args:
        settings: With the agent's own in force.
        instructions: "" clears the server's own default text; None leaves it.
        tools: Flat function tools, or MCP tools.
    """
    noise, transcription = settings.noise_reduction, settings.transcription
    session = {
        "type": "realtime",
        "output_modalities": list(settings.output_modalities),
        "audio": {
            "input": {
                "format": {"type": "audio/pcm", "rate": SAMPLE_RATE},
                "turn_detection": _plain(settings.turn_detection),
                **_set_keys(
                    transcription=_plain(
                        Transcription(model=transcription) if isinstance(transcription, str) else transcription
                    ),
                    noise_reduction=_plain(NoiseReduction(type=noise) if isinstance(noise, str) else noise),
                ),
            },
            "output": {
                "format": {"type": "audio/pcm", "rate": SAMPLE_RATE},
                **_set_keys(voice=_plain(settings.voice), speed=settings.speed),
            },
        },
        **_set_keys(
            instructions=instructions,
            tools=None if tools is None else [dict(tool) for tool in tools],
            tool_choice=_plain(settings.tool_choice),
            max_output_tokens=settings.max_output_tokens,
            reasoning=None if settings.reasoning_effort is None else {"effort": settings.reasoning_effort},
            parallel_tool_calls=settings.parallel_tool_calls,
            truncation=_plain(settings.truncation),
            tracing=_plain(settings.tracing),
            include=_plain(settings.include),
        ),
    }
    return _merged(session, settings.provider_data)


def message_item(
    item_id: str, role: Literal["user", "system"], text: str, images: Sequence[Mapping[str, Any]] = ()
) -> JsonObject:
    """Return a message of the user or of the system, as an item to be created.

    Args:
        item_id: Ours to choose, at most 32 characters.
        role: Who says it.
        text: May be empty beside images.
        images: Parts made by `image_part`; the user's only.
    """
    content = [{"type": "input_text", "text": text}] if text else []
    return {"id": item_id, "type": "message", "role": role, "content": [*content, *images]}


def image_part(image: bytes, *, detail: Literal["auto", "low", "high"] | None = None) -> JsonObject:
    """Return an image as a content part.

    Args:
        image: A PNG or JPEG file, at most `MAX_IMAGE_BYTES`.
        detail: How closely the model is to look; None leaves it to the server.

    Raises:
        SettingsError: It is neither, or too large.
    """
    kind = next((name for magic, name in _IMAGE_TYPES.items() if image.startswith(magic)), None)
    if kind is None:
        raise SettingsError(f"an image of {len(image)} bytes is neither PNG nor JPEG: convert it to one of the two")
    if len(image) > MAX_IMAGE_BYTES:
        raise SettingsError(
            f"an image of {len(image)} bytes: at most {MAX_IMAGE_BYTES} fit into one frame; make it smaller, "
            "640 by 480 as JPEG is usually enough"
        )
    url = f"data:{kind};base64,{base64.b64encode(image).decode('ascii')}"
    return {"type": "input_image", "image_url": url, **_set_keys(detail=detail)}


def _plain(value: Any) -> Any:
    """What JSON can write of a setting, without what is unset; a mapping is copied."""
    if isinstance(value, RetentionRatio):
        limits = None if value.post_instructions is None else {"post_instructions": value.post_instructions}
        return {"type": "retention_ratio", **_set_keys(retention_ratio=value.retention_ratio, token_limits=limits)}
    if is_dataclass(value):
        keys = {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
        return {**_VAD_TYPES.get(type(value), {}), **_set_keys(**keys)}
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


_VAD_TYPES: Mapping[type, JsonObject] = {ServerVad: {"type": "server_vad"}, SemanticVad: {"type": "semantic_vad"}}


def _merged(base: JsonObject, more: Mapping[str, Any]) -> JsonObject:
    merged = dict(base)
    for key, value in more.items():
        known = merged.get(key)
        merged[key] = _merged(known, value) if isinstance(known, dict) and isinstance(value, Mapping) else value
    return merged
