"""The messages of the OpenAI Realtime protocol (GA), typed, in both directions.

Pure: no socket, clock or log. `decode` turns one text frame into a `ServerEvent`; `ClientEvent.encode` turns a
command of ours into one text frame. What this module promises to a caller:

* **Unknown is kept.** A type that we do not know becomes `UnknownEvent` with the whole frame in it, so that a new
  server event never breaks an old client. Unknown keys are ignored.
* **Third-party dialects are read, never written.** Beta names of deltas (``response.audio.delta``) are aliases of
  the GA names; a missing ``event_id``, ``output_index`` or ``content_index`` gets its default; ``status_details``
  may be a bare string (PROTOCOL.md §8).
* **Broken is named.** JSON that does not parse, a missing key, a wrong type or bad base64 raises
  `RemoteProtocolError`, whose text names the event and the key, and never quotes more than a few characters.

Dataclasses rather than pydantic models: importing fifty models costs tens of milliseconds and megabytes, and the
audio path parses ten deltas a second on a Pi Zero.

Source: the OpenAI Realtime API reference (GA), server and client events.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, TypeAlias

from appliance.errors import KEY_SHAPE, LocalProtocolError, RemoteProtocolError

__all__ = [
    "SAMPLE_RATE",
    "ClientEvent",
    "ContentPart",
    "ConversationItemCreate",
    "ConversationItemDelete",
    "ConversationItemRetrieve",
    "ConversationItemTruncate",
    "ErrorDetail",
    "InputAudioBufferAppend",
    "InputAudioBufferClear",
    "InputAudioBufferCommit",
    "Item",
    "OutputAudioBufferClear",
    "RawClientEvent",
    "Response",
    "ResponseCancel",
    "ResponseCreate",
    "ServerEvent",
    "SessionUpdate",
    "UnknownEvent",
    "decode",
    "parse",
]

SAMPLE_RATE = 24_000  # audio/pcm on the wire: 16-bit little-endian mono at 24 kHz

JsonObject: TypeAlias = dict[str, Any]


# ---------------------------------------------------------------------------------------------------------------
# Objects inside events


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentPart:
    """One part of a message's content, or the ``part`` of a ``response.content_part.*`` event."""

    type: str
    text: str | None = None
    transcript: str | None = None
    audio: str | None = None
    """Base64, as it came: only ``conversation.item.retrieved`` carries it, and few callers want it decoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A conversation item; the keys depend on `type`, so most of them are optional."""

    type: str
    id: str = ""
    status: str | None = None
    role: str | None = None
    content: tuple[ContentPart, ...] = ()
    name: str = ""
    call_id: str = ""
    arguments: str = ""
    output: str | None = None
    server_label: str = ""
    approval_request_id: str | None = None
    error: Any = None
    """Of a call of an MCP server: an object by the reference, a text from others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorDetail:
    """The ``error`` object; `code` is None for several errors of the live service."""

    type: str = "error"
    message: str = ""
    code: str | None = None
    param: str | None = None
    event_id: str | None = None
    """The id of *our* event that caused the error, if we gave it one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A response object, as in ``response.created`` and ``response.done``."""

    id: str
    status: str = "in_progress"
    reason: str | None = None
    """From ``status_details``: turn_detected, client_cancelled, max_output_tokens, content_filter, …"""
    error: ErrorDetail | None = None
    output: tuple[Item, ...] = ()
    conversation_id: str | None = None
    usage: Mapping[str, Any] | None = None
    metadata: Mapping[str, str] | None = None


# ---------------------------------------------------------------------------------------------------------------
# Server events


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerEvent:
    """Base of everything that the server sends."""

    type: ClassVar[str] = ""
    event_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownEvent(ServerEvent):
    """A type that this version does not know; to be ignored, with the frame kept for the log and the trace."""

    name: str
    raw: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorEvent(ServerEvent):
    type: ClassVar[str] = "error"
    error: ErrorDetail


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionCreated(ServerEvent):
    type: ClassVar[str] = "session.created"
    session: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionUpdated(ServerEvent):
    type: ClassVar[str] = "session.updated"
    session: JsonObject = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationCreated(ServerEvent):
    type: ClassVar[str] = "conversation.created"
    conversation: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationItemAdded(ServerEvent):
    type: ClassVar[str] = "conversation.item.added"
    item: Item
    previous_item_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationItemDone(ServerEvent):
    type: ClassVar[str] = "conversation.item.done"
    item: Item
    previous_item_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationItemRetrieved(ServerEvent):
    type: ClassVar[str] = "conversation.item.retrieved"
    item: Item


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationItemTruncated(ServerEvent):
    type: ClassVar[str] = "conversation.item.truncated"
    item_id: str
    audio_end_ms: int = 0
    content_index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationItemDeleted(ServerEvent):
    type: ClassVar[str] = "conversation.item.deleted"
    item_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InputTranscriptionDelta(ServerEvent):
    type: ClassVar[str] = "conversation.item.input_audio_transcription.delta"
    item_id: str
    delta: str = ""
    content_index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class InputTranscriptionCompleted(ServerEvent):
    type: ClassVar[str] = "conversation.item.input_audio_transcription.completed"
    item_id: str
    transcript: str = ""
    content_index: int = 0
    usage: JsonObject | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InputTranscriptionSegment(ServerEvent):
    type: ClassVar[str] = "conversation.item.input_audio_transcription.segment"
    item_id: str
    text: str = ""
    speaker: str = ""
    start: float = 0.0
    end: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class InputTranscriptionFailed(ServerEvent):
    type: ClassVar[str] = "conversation.item.input_audio_transcription.failed"
    item_id: str
    error: ErrorDetail
    content_index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class InputAudioBufferCommitted(ServerEvent):
    type: ClassVar[str] = "input_audio_buffer.committed"
    item_id: str
    previous_item_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InputAudioBufferCleared(ServerEvent):
    type: ClassVar[str] = "input_audio_buffer.cleared"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechStarted(ServerEvent):
    type: ClassVar[str] = "input_audio_buffer.speech_started"
    item_id: str = ""
    audio_start_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechStopped(ServerEvent):
    type: ClassVar[str] = "input_audio_buffer.speech_stopped"
    item_id: str = ""
    audio_end_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeoutTriggered(ServerEvent):
    type: ClassVar[str] = "input_audio_buffer.timeout_triggered"
    item_id: str = ""
    audio_start_ms: int = 0
    audio_end_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DtmfReceived(ServerEvent):
    type: ClassVar[str] = "input_audio_buffer.dtmf_event_received"
    event: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputAudioBufferStarted(ServerEvent):
    type: ClassVar[str] = "output_audio_buffer.started"
    response_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputAudioBufferStopped(ServerEvent):
    type: ClassVar[str] = "output_audio_buffer.stopped"
    response_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputAudioBufferCleared(ServerEvent):
    type: ClassVar[str] = "output_audio_buffer.cleared"
    response_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseCreated(ServerEvent):
    type: ClassVar[str] = "response.created"
    response: Response


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseDone(ServerEvent):
    type: ClassVar[str] = "response.done"
    response: Response


@dataclass(frozen=True, slots=True, kw_only=True)
class _OfResponse(ServerEvent):
    """What every event inside a response says of its place; some servers leave all but the item out."""

    response_id: str = ""
    item_id: str = ""
    output_index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _OfContent(_OfResponse):
    content_index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputItemAdded(ServerEvent):
    type: ClassVar[str] = "response.output_item.added"
    response_id: str
    item: Item
    output_index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputItemDone(ServerEvent):
    type: ClassVar[str] = "response.output_item.done"
    response_id: str
    item: Item
    output_index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentPartAdded(_OfContent):
    type: ClassVar[str] = "response.content_part.added"
    part: ContentPart | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentPartDone(_OfContent):
    type: ClassVar[str] = "response.content_part.done"
    part: ContentPart | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputTextDelta(_OfContent):
    type: ClassVar[str] = "response.output_text.delta"
    delta: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputTextDone(_OfContent):
    type: ClassVar[str] = "response.output_text.done"
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputAudioDelta(_OfContent):
    """A piece of the answer's audio, decoded."""

    type: ClassVar[str] = "response.output_audio.delta"
    delta: bytes = field(repr=False)
    """PCM16 mono at 24 kHz, little-endian."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputAudioDone(_OfContent):
    type: ClassVar[str] = "response.output_audio.done"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputAudioTranscriptDelta(_OfContent):
    type: ClassVar[str] = "response.output_audio_transcript.delta"
    delta: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputAudioTranscriptDone(_OfContent):
    type: ClassVar[str] = "response.output_audio_transcript.done"
    transcript: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionCallArgumentsDelta(_OfResponse):
    type: ClassVar[str] = "response.function_call_arguments.delta"
    call_id: str = ""
    delta: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionCallArgumentsDone(_OfResponse):
    type: ClassVar[str] = "response.function_call_arguments.done"
    call_id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class McpCallArgumentsDelta(_OfResponse):
    type: ClassVar[str] = "response.mcp_call_arguments.delta"
    delta: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class McpCallArgumentsDone(_OfResponse):
    type: ClassVar[str] = "response.mcp_call_arguments.done"
    arguments: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class McpCallInProgress(_OfResponse):
    type: ClassVar[str] = "response.mcp_call.in_progress"


@dataclass(frozen=True, slots=True, kw_only=True)
class McpCallCompleted(_OfResponse):
    type: ClassVar[str] = "response.mcp_call.completed"


@dataclass(frozen=True, slots=True, kw_only=True)
class McpCallFailed(_OfResponse):
    type: ClassVar[str] = "response.mcp_call.failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class McpListToolsInProgress(ServerEvent):
    type: ClassVar[str] = "mcp_list_tools.in_progress"
    item_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class McpListToolsCompleted(ServerEvent):
    type: ClassVar[str] = "mcp_list_tools.completed"
    item_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class McpListToolsFailed(ServerEvent):
    type: ClassVar[str] = "mcp_list_tools.failed"
    item_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitsUpdated(ServerEvent):
    type: ClassVar[str] = "rate_limits.updated"
    rate_limits: list[JsonObject] = field(default_factory=list)


SERVER_EVENTS: dict[str, type[ServerEvent]] = {
    cls.type: cls
    for cls in (
        *ServerEvent.__subclasses__(),
        *_OfResponse.__subclasses__(),
        *_OfContent.__subclasses__(),
    )
    if cls.type
}
"""Every server event by its wire name."""

ALIASES = {
    "response.text.delta": "response.output_text.delta",
    "response.text.done": "response.output_text.done",
    "response.audio.delta": "response.output_audio.delta",
    "response.audio.done": "response.output_audio.done",
    "response.audio_transcript.delta": "response.output_audio_transcript.delta",
    "response.audio_transcript.done": "response.output_audio_transcript.done",
    "conversation.item.created": "conversation.item.added",
}
"""Names of the beta protocol that third-party servers still send."""


# ---------------------------------------------------------------------------------------------------------------
# Reading


def decode(frame: str | bytes) -> ServerEvent:
    """Read one frame from the server.

    Args:
        frame: A text frame. A binary frame is refused: the Realtime protocol has none.

    Raises:
        RemoteProtocolError: The frame is binary, is not a JSON object, or misses what its type needs.
    """
    if not isinstance(frame, str):
        raise RemoteProtocolError(f"binary frame of {len(frame)} bytes: the Realtime protocol has text frames only")
    try:
        raw = json.loads(frame)
    except ValueError as exc:
        raise RemoteProtocolError(f"frame of {len(frame)} characters is not JSON: {exc}") from None
    except RecursionError:
        raise RemoteProtocolError(f"frame of {len(frame)} characters nests too deeply") from None
    return parse(raw)


def parse(raw: Any) -> ServerEvent:
    """Turn a decoded frame into its event.

    Raises:
        RemoteProtocolError: It is not an object, has no ``type``, or misses what its type needs.
    """
    if not isinstance(raw, dict):
        raise RemoteProtocolError(f"frame is a JSON {type(raw).__name__}, expected an object")
    name = raw.get("type")
    if not isinstance(name, str):
        raise RemoteProtocolError("frame has no 'type'")
    cls = SERVER_EVENTS.get(ALIASES.get(name, name))
    if cls is None:
        return UnknownEvent(event_id=_event_id(raw), name=name, raw=raw)
    event: ServerEvent = _build(cls, raw, name)
    return event


def _event_id(raw: JsonObject) -> str:
    value = raw.get("event_id")
    return value if isinstance(value, str) else ""


_Reader: TypeAlias = Callable[[Any, str], Any]
_PLANS: dict[type[Any], tuple[tuple[str, _Reader, bool], ...]] = {}


def _plan(cls: type[Any]) -> tuple[tuple[str, _Reader, bool], ...]:
    """Work out once, at first use, how each field of a class is read: (key, reader, is required)."""
    return tuple(
        (f.name, _READERS[str(f.type)], f.default is MISSING and f.default_factory is MISSING) for f in fields(cls)
    )


def _build(cls: type[Any], raw: JsonObject, where: str) -> Any:
    plan = _PLANS.get(cls)
    if plan is None:
        plan = _PLANS[cls] = _plan(cls)
    values: dict[str, Any] = {}
    for key, read, required in plan:
        value = raw.get(key)
        if value is None:
            if required:
                raise RemoteProtocolError(f"{where}: {key!r} is missing")
            continue
        values[key] = read(value, f"{where}: {key!r}")
    return cls(**values)


def _wrong(value: Any, where: str, expected: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"{where} is {type(value).__name__}, expected {expected}")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _wrong(value, where, "a string")
    return value


def _integer(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value // 1:
        raise _wrong(value, where, "an integer")
    return int(value)


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong(value, where, "a number")
    try:
        return float(value)
    except OverflowError:
        raise _wrong(value, where, "a number of usual size") from None


def _object(value: Any, where: str) -> JsonObject:
    if not isinstance(value, dict):
        raise _wrong(value, where, "an object")
    return value


def _anything(value: Any, where: str) -> Any:
    return value


def _objects(value: Any, where: str) -> list[JsonObject]:
    if not isinstance(value, list):
        raise _wrong(value, where, "a list of objects")
    return [_object(one, where) for one in value]


def _audio(value: Any, where: str) -> bytes:
    try:
        pcm = base64.b64decode(_text(value, where), validate=True)
    except (binascii.Error, ValueError):
        raise RemoteProtocolError(f"{where} is not base64 (a text of {len(value)} characters)") from None
    if len(pcm) % 2:
        raise RemoteProtocolError(f"{where} holds {len(pcm)} bytes, expected whole 16-bit samples")
    return pcm


def _parts(value: Any, where: str) -> tuple[ContentPart, ...]:
    return tuple(_build(ContentPart, one, where) for one in _objects(value, where))


def _part(value: Any, where: str) -> ContentPart:
    part: ContentPart = _build(ContentPart, _object(value, where), where)
    return part


def _item(value: Any, where: str) -> Item:
    item: Item = _build(Item, _object(value, where), where)
    return item


def _items(value: Any, where: str) -> tuple[Item, ...]:
    return tuple(_item(one, where) for one in _objects(value, where))


def _error(value: Any, where: str) -> ErrorDetail:
    """Read an error; the live service quotes the key in it ("Incorrect API key provided: sk-…"), we do not."""
    if isinstance(value, str):  # seen from third-party servers
        return ErrorDetail(message=KEY_SHAPE.sub(r"\1-…", value))
    raw = {  # a number as code, seen from gateways, must not hide the error behind another one
        key: str(one) if isinstance(one, (int, float)) else one for key, one in _object(value, where).items()
    }
    if isinstance(raw.get("message"), str):
        raw["message"] = KEY_SHAPE.sub(r"\1-…", raw["message"])
    detail: ErrorDetail = _build(ErrorDetail, raw, where)
    return detail


def _response(value: Any, where: str) -> Response:
    raw = dict(_object(value, where))
    details = raw.get("status_details")
    if isinstance(details, str):  # xAI sends the bare reason
        raw["reason"] = details
    elif isinstance(details, dict):
        raw["reason"] = details.get("reason")
        raw["error"] = details.get("error")
    response: Response = _build(Response, raw, where)
    return response


def _pairs(value: Any, where: str) -> Mapping[str, str]:
    return {str(key): str(one) for key, one in _object(value, where).items()}


_READERS: dict[str, _Reader] = {
    "str": _text,
    "str | None": _text,
    "int": _integer,
    "float": _number,
    "bytes": _audio,
    "JsonObject": _object,
    "JsonObject | None": _object,
    "Mapping[str, Any] | None": _object,
    "Mapping[str, str] | None": _pairs,
    "list[JsonObject]": _objects,
    "tuple[ContentPart, ...]": _parts,
    "ContentPart | None": _part,
    "Any": _anything,
    "Item": _item,
    "tuple[Item, ...]": _items,
    "ErrorDetail": _error,
    "ErrorDetail | None": _error,
    "Response": _response,
}
"""How to read a field, by its annotation as written above."""


# ---------------------------------------------------------------------------------------------------------------
# Client events


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientEvent:
    """Base of everything that we send."""

    type: ClassVar[str] = ""
    event_id: str | None = None
    """Ours to choose, at most 512 characters; the server echoes it only inside an ``error``."""

    def to_wire(self) -> JsonObject:
        """Return the frame as a JSON object, without keys that are unset."""
        frame: JsonObject = {"type": self.type}
        for f in fields(self):
            value = getattr(self, f.name)
            if value is not None:
                frame[f.name] = value
        return frame

    def encode(self) -> str:
        """Return the frame as it goes on the wire.

        Raises:
            LocalProtocolError: It holds what JSON cannot say (NaN, an object of Python).
        """
        try:
            text = json.dumps(self.to_wire(), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as exc:
            raise LocalProtocolError(f"{self.to_wire().get('type')}: cannot be written as JSON: {exc}") from None
        if text.isascii():
            return text
        return text.encode(errors="replace").decode()  # half a surrogate pair, as in an odd file name, is no UTF-8


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionUpdate(ClientEvent):
    """Change the keys that are present; ``session.type`` is always needed, and one unknown key refuses them all."""

    type: ClassVar[str] = "session.update"
    session: JsonObject = field(repr=False)
    """Not in the repr: it may hold the keys of MCP servers."""

    def __post_init__(self) -> None:
        if "type" not in self.session:
            raise LocalProtocolError("session.update: session.type is missing")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputAudioBufferAppend(ClientEvent):
    """Add audio to the server's buffer; never acknowledged."""

    type: ClassVar[str] = "input_audio_buffer.append"
    audio: bytes = field(repr=False)
    """PCM16 mono at 24 kHz, little-endian, not empty."""

    def to_wire(self) -> JsonObject:
        frame: JsonObject = {"type": self.type, "audio": base64.b64encode(self.audio).decode("ascii")}
        if self.event_id is not None:
            frame["event_id"] = self.event_id
        return frame

    def encode(self) -> str:
        if self.event_id is not None:
            return json.dumps(self.to_wire(), separators=(",", ":"))
        # Fifty times a second: base64 needs no escaping, so the JSON encoder has nothing to add.
        return f'{{"type":"input_audio_buffer.append","audio":"{base64.b64encode(self.audio).decode("ascii")}"}}'


@dataclass(frozen=True, slots=True, kw_only=True)
class InputAudioBufferCommit(ClientEvent):
    type: ClassVar[str] = "input_audio_buffer.commit"


@dataclass(frozen=True, slots=True, kw_only=True)
class InputAudioBufferClear(ClientEvent):
    type: ClassVar[str] = "input_audio_buffer.clear"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationItemCreate(ClientEvent):
    type: ClassVar[str] = "conversation.item.create"
    item: JsonObject
    previous_item_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationItemRetrieve(ClientEvent):
    type: ClassVar[str] = "conversation.item.retrieve"
    item_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationItemTruncate(ClientEvent):
    """Tell the server how much of an item was heard; it forgets the rest, and the item's transcript."""

    type: ClassVar[str] = "conversation.item.truncate"
    item_id: str
    audio_end_ms: int
    content_index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationItemDelete(ClientEvent):
    type: ClassVar[str] = "conversation.item.delete"
    item_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseCreate(ClientEvent):
    type: ClassVar[str] = "response.create"
    response: JsonObject | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseCancel(ClientEvent):
    type: ClassVar[str] = "response.cancel"
    response_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputAudioBufferClear(ClientEvent):
    """WebRTC and SIP only: over a WebSocket the client owns the playback."""

    type: ClassVar[str] = "output_audio_buffer.clear"


@dataclass(frozen=True, slots=True, kw_only=True)
class RawClientEvent(ClientEvent):
    """Any frame at all, for what this module does not name."""

    frame: JsonObject = field(repr=False)

    def to_wire(self) -> JsonObject:
        return dict(self.frame)
