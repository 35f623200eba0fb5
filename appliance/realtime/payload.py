"""Payloads sent to the server: the session's settings, and the messages that a program writes.

Pure. One unknown key makes the server discard a whole ``session.update``, so this module names only keys of the GA
protocol, and the tests check each against the types of the ``openai`` package. How the server merges objects below
``audio.input`` is not documented, so each sub-object that is sent is complete.

**Which setting wins**, from the weakest to the strongest, both at each connection and after each handoff:

1. the server's own default (unset keys are not sent),
2. the settings of the session,
3. `RealtimeAgent.settings` of the active agent,
4. `RealtimeAgent.voice` of that agent, if it has one,
5. `provider_data`, merged in unchanged.

Source: Realtime API, session.update, conversation.item.create.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, TypeAlias

from appliance.errors import SettingsError, did_you_mean
from appliance.realtime.protocol import SAMPLE_RATE, JsonObject
from appliance.sdk_names import explained_class

__all__ = [
    "MAX_IMAGE_BYTES",
    "Modality",
    "NoiseReduction",
    "PromptTemplate",
    "RealtimeSessionSettings",
    "RetentionRatio",
    "SemanticVad",
    "ServerVad",
    "ToolChoice",
    "Transcription",
    "image_part",
    "message_item",
    "session_object",
]

Modality: TypeAlias = Literal["audio", "text"]
ToolChoice: TypeAlias = Literal["auto", "none", "required"] | Mapping[str, str]
"""Or ``{"type": "function", "name": …}`` for one tool, ``{"type": "mcp", "server_label": …}`` for a hosted server."""

MAX_IMAGE_BYTES = 10 * 1024 * 1024  # 13.4 MB as base64, below the 15 MiB of one frame (Realtime API, append)
_IMAGE_TYPES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


def _set_keys(**values: Any) -> JsonObject:
    return {key: value for key, value in values.items() if value is not None}


def _require(holds: bool, name: str, value: Any, expected: str) -> None:
    if not holds:
        raise SettingsError(f"session settings: {name} is {value!r}, expected {expected}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseReduction:
    """The server's noise filter, applied before turn detection, the model and transcription."""

    type: Literal["near_field", "far_field"]
    """Speaking close to the microphone, or from across a room."""
    strength: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcription:
    """The transcription of the user's speech."""

    model: str
    language: str | None = None
    """ISO 639-1; not together with `languages`."""
    languages: Sequence[str] | None = None
    prompt: str | None = None
    keywords: Sequence[str] | None = None
    delay: Literal["minimal", "low", "medium", "high", "xhigh"] | None = None

    def __post_init__(self) -> None:
        _require(not (self.language and self.languages), "transcription.languages", self.languages, "not both")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerVad:
    """The server ends a turn after a silence."""

    threshold: float | None = None
    """0 to 1: how loud audio must be to count as speech."""
    prefix_padding_ms: int | None = None
    silence_duration_ms: int | None = None
    """The reference gives 500 as the default, but the service was seen to use 200: better set it."""
    create_response: bool = True
    interrupt_response: bool = True
    idle_timeout_ms: int | None = None
    """5,000 to 30,000: the model speaks unprompted after this much silence. Each time costs tokens."""

    def __post_init__(self) -> None:
        threshold, idle = self.threshold, self.idle_timeout_ms
        _require(threshold is None or 0 <= threshold <= 1, "turn_detection.threshold", threshold, "0 to 1")
        _require(idle is None or 5000 <= idle <= 30000, "turn_detection.idle_timeout_ms", idle, "5000 to 30000")


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticVad:
    """The server ends a turn when the user's sentence sounds finished."""

    eagerness: Literal["low", "medium", "high", "auto"] = "auto"
    create_response: bool = True
    interrupt_response: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionRatio:
    """How much of a full context to keep: dropping more at once keeps the prompt cache valid for longer."""

    retention_ratio: float
    """0 to 1."""
    post_instructions: int | None = None
    """Token limit for everything after the instructions."""

    def __post_init__(self) -> None:
        _require(0 <= self.retention_ratio <= 1, "truncation.retention_ratio", self.retention_ratio, "0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTemplate:
    """A prompt that is stored on the server. OpenAI retires stored prompts on 2026-11-30: prefer instructions."""

    id: str
    version: str | None = None
    """None takes the current one."""
    variables: Mapping[str, Any] | None = None
    """Values for the template's variables: texts, or content parts."""

    def __post_init__(self) -> None:
        _require(bool(self.id), "prompt.id", self.id, "the id of a stored prompt")
        given = self.variables
        _require(given is None or isinstance(given, Mapping), "prompt.variables", given, "a mapping of names to values")


_PROMPT_KEYS = [one.name for one in fields(PromptTemplate)]
_SERVER_DEFAULTS: Mapping[str, Any] = {
    "tool_choice": "auto",
    "prompt": {},
    "speed": 1.0,
    "max_output_tokens": "inf",
    "truncation": "auto",
}
"""What a new session has, for each setting that an agent may override and a later update can set back."""


@explained_class
@dataclass(frozen=True, slots=True, kw_only=True)
class RealtimeSessionSettings:
    """The settings of a session. A None is not sent, so the server's default applies.

    The exception is `turn_detection`: the server's default would turn on its turn detection.

    Raises:
        SettingsError: The server is known to refuse a value.
    """

    model: str = "gpt-realtime-2.1"
    """Any string; part of the URL, so it cannot change on a connection."""
    voice: str | Mapping[str, str] | None = None
    """A name, or ``{"id": "voice_…"}``; cannot change once the connection has produced audio."""
    speed: float | None = None
    """0.25 to 1.5."""
    output_modalities: Sequence[Modality] = ("audio",)
    """One of the two: audio always includes a transcript."""
    input_audio_format: Literal["pcm16", "g711_ulaw", "g711_alaw"] = "pcm16"
    """Format that the program sends (pcm16: 24 kHz mono little-endian; G.711: 8 kHz). The wire is always pcm16."""
    output_audio_format: Literal["pcm16", "g711_ulaw", "g711_alaw"] = "pcm16"
    """Format that the program receives."""
    noise_reduction: NoiseReduction | Literal["near_field", "far_field"] | None = None
    transcription: Transcription | str | None = None
    """The settings, or the model's name. None turns it off; the history then lacks the user's words."""
    turn_detection: ServerVad | SemanticVad | Mapping[str, Any] | None = None
    """None is push to talk (an explicit ``null``)."""
    tool_choice: ToolChoice | None = None
    """Applies to the first response of a turn: after a forced call, the model may answer."""
    prompt: PromptTemplate | Mapping[str, Any] | None = None
    """An agent's instructions, if it has some, replace those of the prompt. An empty mapping clears it."""
    max_output_tokens: int | Literal["inf"] | None = None
    """1 to 4096, or "inf"."""
    reasoning_effort: str | None = None
    """Only for models of the 2.x family; others refuse the whole update."""
    parallel_tool_calls: bool | None = None
    """Reasoning models only."""
    truncation: RetentionRatio | str | Mapping[str, Any] | None = None
    """"auto", "disabled", or a ratio."""
    tracing: str | Mapping[str, Any] | None = None
    include: Sequence[str] | None = None
    """Such as ``item.input_audio_transcription.logprobs``."""
    provider_data: Mapping[str, Any] = field(default_factory=dict)
    """Merged into the ``session`` object unchanged, for keys that this class does not have."""

    def __post_init__(self) -> None:
        _require(self.speed is None or 0.25 <= self.speed <= 1.5, "speed", self.speed, "0.25 to 1.5")
        _require(len(self.output_modalities) == 1, "output_modalities", list(self.output_modalities), "exactly one")
        tokens = self.max_output_tokens
        _require(not isinstance(tokens, int) or 1 <= tokens <= 4096, "max_output_tokens", tokens, '1 to 4096, or "inf"')
        choice = self.tool_choice
        _require(choice is None or _is_tool_choice(choice), "tool_choice", choice, _TOOL_CHOICES)
        if isinstance(self.prompt, Mapping):
            for key in self.prompt:
                _require(key in _PROMPT_KEYS, "prompt", dict(self.prompt), f"no keys but {', '.join(_PROMPT_KEYS)}")
            _require(not self.prompt or "id" in self.prompt, "prompt", dict(self.prompt), "the key id")
            if self.prompt:
                PromptTemplate(**self.prompt)
        else:
            _require(
                self.prompt is None or isinstance(self.prompt, PromptTemplate),
                "prompt",
                self.prompt,
                'a PromptTemplate or {"id": …, "version": …, "variables": {…}}',
            )

    def shared_by(self, agents: Iterable[Mapping[str, Any]]) -> RealtimeSessionSettings:
        """Return these settings, with the server's default for what an agent overrides and they do not set.

        The server keeps what an update omits: the next agent would inherit the setting.

        Args:
            agents: The settings of each agent.
        """
        overridden = {name for own in agents for name in own if getattr(self, name, "") is None}
        return replace(self, **{name: value for name, value in _SERVER_DEFAULTS.items() if name in overridden})

    def of_agent(self, own: Mapping[str, Any], *, voice: str | Mapping[str, str] = "") -> RealtimeSessionSettings:
        """Return these settings, overridden by those of an agent.

        Raises:
            SettingsError: There is no such setting, or a value is out of range.
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
    """Return the ``session`` object of a ``session.update``.

    Args:
        settings: The effective settings, with the agent's own applied.
        instructions: "" clears the server's default instructions, unless there is a prompt; None keeps them.
        tools: Flat function tools, or MCP tools. A `tool_choice` that names none of them is sent as "auto": the tool is
            not offered now, and the server would refuse the whole update.
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
            instructions=None if settings.prompt and not instructions else instructions,
            tools=None if tools is None else [dict(tool) for tool in tools],
            tool_choice=_offered(settings.tool_choice, tools),
            max_output_tokens=settings.max_output_tokens,
            reasoning=None if settings.reasoning_effort is None else {"effort": settings.reasoning_effort},
            parallel_tool_calls=settings.parallel_tool_calls,
            truncation=_plain(settings.truncation),
            tracing=_plain(settings.tracing),
            include=_plain(settings.include),
        ),
        **({} if settings.prompt is None else {"prompt": _plain(settings.prompt) or None}),
    }
    return _merged(session, settings.provider_data)


def message_item(
    item_id: str, role: Literal["user", "system"], text: str, images: Sequence[Mapping[str, Any]] = ()
) -> JsonObject:
    """Return a user or system message as the ``item`` of ``conversation.item.create``.

    Args:
        item_id: Chosen by the client, at most 32 characters.
        role: The author.
        text: May be empty if there are images.
        images: Parts made by `image_part`; only in user messages.
    """
    content = [{"type": "input_text", "text": text}] if text else []
    return {"id": item_id, "type": "message", "role": role, "content": [*content, *images]}


def image_part(image: bytes, *, detail: Literal["auto", "low", "high"] | None = None) -> JsonObject:
    """Return an image as a content part.

    Args:
        image: A PNG or JPEG file, at most `MAX_IMAGE_BYTES`.
        detail: How much detail the model sees; None uses the server's default.

    Raises:
        SettingsError: The image is neither PNG nor JPEG, or too large.
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


_TOOL_CHOICES = '"auto", "none", "required", {"type": "function", "name": …} or {"type": "mcp", "server_label": …}'


def _is_tool_choice(choice: object) -> bool:
    if not isinstance(choice, Mapping):
        return choice in ("auto", "none", "required")
    is_known = (choice.get("type"), set(choice) - {"type"}) in (
        ("function", {"name"}),
        ("mcp", {"server_label"}),
        ("mcp", {"server_label", "name"}),
    )
    return is_known and all(isinstance(one, str) and one for one in choice.values())


def _offered(choice: ToolChoice | None, tools: Sequence[Mapping[str, Any]] | None) -> Any:
    if isinstance(choice, Mapping) and tools is not None:
        key = "name" if choice["type"] == "function" else "server_label"
        if all(one.get(key) != choice[key] for one in tools):
            return "auto"
    return _plain(choice)


def _plain(value: Any) -> Any:
    """Return a setting as JSON types, without unset keys; a mapping is copied."""
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
