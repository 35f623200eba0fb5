"""The messages of the OpenAI Realtime protocol (GA), typed, in both directions.

Pure: no socket, clock or log. `decode` turns one text frame into a `ServerEvent`; `ClientEvent.encode` turns a
client event into one text frame. Guarantees to callers:

* **Unknown events are kept.** A type without a class here becomes an `UnknownEvent` that holds the whole frame, so a
  new server event never breaks an old client. Only events that the package uses have a class. Unknown keys are ignored.
* **Third-party dialects are read, never written.** Beta names of deltas (``response.audio.delta``) are aliases of
  the GA names; a missing ``event_id``, ``output_index`` or ``content_index`` gets its default; ``status_details``
  may be a bare string.
* **Invalid frames raise.** JSON that does not parse, a missing key, a wrong type or bad base64 raises
  `RemoteProtocolError`, whose message names the event and the key, and never quotes more than a few characters.

msgspec decodes the frequent deltas, base64 included, if they have the exact form of the reference. Every other frame
takes the tolerant path: `json.loads`, then `parse`, which knows the dialects.

Source: the OpenAI Realtime API reference (GA), server and client events.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache, partial
from types import NoneType
from typing import Any, ClassVar, TypeAlias, TypeVar, get_args

import msgspec

from appliance.errors import LocalProtocolError, RemoteProtocolError
from appliance.records import Record
from appliance.safe_text import redact

__all__ = [
    "SAMPLE_RATE",
    "ClientEvent",
    "ContentPart",
    "ConversationItemCreate",
    "ConversationItemDelete",
    "ConversationItemTruncate",
    "ErrorDetail",
    "InputAudioBufferAppend",
    "InputAudioBufferClear",
    "InputAudioBufferCommit",
    "Item",
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


class _WireName:
    """The ``type`` of an event, on the class and its instances: the class's msgspec tag."""

    def __get__(self, event: object, cls: type[msgspec.Struct]) -> str:
        tag = cls.__struct_config__.tag
        return tag if isinstance(tag, str) else ""


# ---------------------------------------------------------------------------------------------------------------
# Objects inside events


class ContentPart(Record, frozen=True):
    """One part of a message's content."""

    unprinted = ("audio",)

    type: str
    text: str | None = None
    transcript: str | None = None
    audio: str | None = None
    """Base64, not decoded: only ``conversation.item.retrieved`` carries it, and few callers need the samples."""


class Item(Record, frozen=True):
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
    """Error of an MCP call: an object in the reference, a string from other servers."""


class ErrorDetail(Record, frozen=True):
    """The ``error`` object; `code` is None for several errors of the live service."""

    type: str = "error"
    message: str = ""
    code: str | None = None
    param: str | None = None
    event_id: str | None = None
    """The id of the *client* event that caused the error, if it had one."""


class Response(Record, frozen=True):
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


class ServerEvent(Record, frozen=True, kw_only=True):
    """Base class of the events that the server sends."""

    type: ClassVar[_WireName] = _WireName()
    event_id: str = ""


class UnknownEvent(ServerEvent, frozen=True):
    """An event whose type has no class here; ignored, with the frame kept for the log and the trace."""

    name: str
    raw: Mapping[str, Any]


class ErrorEvent(ServerEvent, frozen=True, tag="error"):
    error: ErrorDetail


class SessionCreated(ServerEvent, frozen=True, tag="session.created"):
    unprinted = ("session",)

    session: JsonObject


class SessionUpdated(ServerEvent, frozen=True, tag="session.updated"):
    unprinted = ("session",)

    session: JsonObject


class ConversationItemAdded(ServerEvent, frozen=True, tag="conversation.item.added"):
    item: Item
    previous_item_id: str | None = None


class ConversationItemDone(ServerEvent, frozen=True, tag="conversation.item.done"):
    item: Item
    previous_item_id: str | None = None


class ConversationItemRetrieved(ServerEvent, frozen=True, tag="conversation.item.retrieved"):
    item: Item


class ConversationItemTruncated(ServerEvent, frozen=True, tag="conversation.item.truncated"):
    item_id: str
    audio_end_ms: int = 0
    content_index: int = 0


class ConversationItemDeleted(ServerEvent, frozen=True, tag="conversation.item.deleted"):
    item_id: str


class InputTranscriptionDelta(ServerEvent, frozen=True, tag="conversation.item.input_audio_transcription.delta"):
    item_id: str
    delta: str = ""
    content_index: int = 0


class InputTranscriptionCompleted(
    ServerEvent, frozen=True, tag="conversation.item.input_audio_transcription.completed"
):
    item_id: str
    transcript: str = ""
    content_index: int = 0
    usage: JsonObject | None = None


class InputTranscriptionFailed(ServerEvent, frozen=True, tag="conversation.item.input_audio_transcription.failed"):
    item_id: str
    error: ErrorDetail
    content_index: int = 0


class InputAudioBufferCommitted(ServerEvent, frozen=True, tag="input_audio_buffer.committed"):
    item_id: str
    previous_item_id: str | None = None


class SpeechStarted(ServerEvent, frozen=True, tag="input_audio_buffer.speech_started"):
    item_id: str = ""
    audio_start_ms: int = 0


class ResponseCreated(ServerEvent, frozen=True, tag="response.created"):
    response: Response


class ResponseDone(ServerEvent, frozen=True, tag="response.done"):
    response: Response


class _OfResponse(ServerEvent, frozen=True, kw_only=True, gc=False):
    """Base class of the events inside a response; some servers send only the item id."""

    response_id: str = ""
    item_id: str = ""
    output_index: int = 0


class _OfContent(_OfResponse, frozen=True, kw_only=True):
    content_index: int = 0


class OutputItemAdded(ServerEvent, frozen=True, tag="response.output_item.added"):
    response_id: str
    item: Item
    output_index: int = 0


class OutputItemDone(ServerEvent, frozen=True, tag="response.output_item.done"):
    response_id: str
    item: Item
    output_index: int = 0


class OutputTextDelta(_OfContent, frozen=True, tag="response.output_text.delta"):
    delta: str


class OutputTextDone(_OfContent, frozen=True, tag="response.output_text.done"):
    text: str = ""


class OutputAudioDelta(_OfContent, frozen=True, tag="response.output_audio.delta"):
    """A chunk of the answer's audio, decoded."""

    unprinted = ("delta",)

    delta: bytes
    """16-bit samples; it may end within a sample, and the next delta continues it."""
    """PCM16 mono at 24 kHz, little-endian."""


class OutputAudioTranscriptDelta(_OfContent, frozen=True, tag="response.output_audio_transcript.delta"):
    delta: str


class OutputAudioTranscriptDone(_OfContent, frozen=True, tag="response.output_audio_transcript.done"):
    transcript: str = ""


class McpCallArgumentsDone(_OfResponse, frozen=True, tag="response.mcp_call_arguments.done"):
    arguments: str = ""


class McpCallCompleted(_OfResponse, frozen=True, tag="response.mcp_call.completed"):
    pass


class McpCallFailed(_OfResponse, frozen=True, tag="response.mcp_call.failed"):
    pass


class McpListToolsFailed(ServerEvent, frozen=True, tag="mcp_list_tools.failed"):
    item_id: str = ""


SERVER_EVENTS: dict[str, type[ServerEvent]] = {
    cls.type: cls
    for cls in (
        *ServerEvent.__subclasses__(),
        *_OfResponse.__subclasses__(),
        *_OfContent.__subclasses__(),
    )
    if cls.type
}
"""Every server event with a class, by its wire name."""

ALIASES = {
    "response.text.delta": "response.output_text.delta",
    "response.text.done": "response.output_text.done",
    "response.audio.delta": "response.output_audio.delta",
    "response.audio_transcript.delta": "response.output_audio_transcript.delta",
    "response.audio_transcript.done": "response.output_audio_transcript.done",
    "conversation.item.created": "conversation.item.added",
}
"""Names of the beta protocol that third-party servers still send."""


# ---------------------------------------------------------------------------------------------------------------
# Reading

_FREQUENT = msgspec.json.Decoder(
    OutputAudioDelta | OutputAudioTranscriptDelta | OutputTextDelta | InputTranscriptionDelta
)
"""Returns the same event as `parse`, or raises: it accepts no other types, aliases, nulls, or 1.0 for 1."""


def decode(frame: str | bytes) -> ServerEvent:
    """Read one frame from the server.

    Args:
        frame: A text frame. A binary frame is refused: the Realtime protocol has none.

    Raises:
        RemoteProtocolError: The frame is binary, is not a JSON object, or lacks a key that its type needs.
    """
    if not isinstance(frame, str):
        raise RemoteProtocolError(f"binary frame of {len(frame)} bytes: the Realtime protocol has text frames only")
    try:
        event: ServerEvent = _FREQUENT.decode(frame)
        return event
    except (msgspec.MsgspecError, ValueError, RecursionError):  # ValueError: half a surrogate pair
        pass
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
        RemoteProtocolError: It is not an object, has no ``type``, or lacks a key that its type needs.
    """
    if not isinstance(raw, dict):
        raise RemoteProtocolError(f"frame is a JSON {type(raw).__name__}, expected an object")
    name = raw.get("type")
    if not isinstance(name, str):
        raise RemoteProtocolError("frame has no 'type'")
    cls = SERVER_EVENTS.get(ALIASES.get(name, name))
    if cls is None:
        event_id = raw.get("event_id")
        return UnknownEvent(event_id=event_id if isinstance(event_id, str) else "", name=name, raw=raw)
    return _build(cls, raw, name)


_R = TypeVar("_R", bound=Record)
_Reader: TypeAlias = Callable[[Any, str], Any]


def _build(cls: type[_R], raw: JsonObject, where: str) -> _R:
    values: dict[str, Any] = {}
    for key, read, is_required in _plan(cls):
        value = raw.get(key)
        if value is not None:  # null is read as absent
            values[key] = read(value, f"{where}: {key!r}")
        elif is_required:
            raise RemoteProtocolError(f"{where}: {key!r} is missing")
    return cls(**values)


@cache
def _plan(cls: type[Record]) -> tuple[tuple[str, _Reader, bool], ...]:
    """Return (key, reader, is required) for each field of a class; computed once, at first use."""
    return tuple((one.name, _reader(one.type), one.required) for one in msgspec.structs.fields(cls))


def _reader(annotation: Any) -> _Reader:
    alternatives = get_args(annotation)
    return _READERS[alternatives[0] if NoneType in alternatives else annotation]


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


def _object(value: Any, where: str) -> JsonObject:
    if not isinstance(value, dict):
        raise _wrong(value, where, "an object")
    return value


def _pairs(value: Any, where: str) -> Mapping[str, str]:
    return {str(key): str(one) for key, one in _object(value, where).items()}


def _audio(value: Any, where: str) -> bytes:
    try:
        return msgspec.convert(_text(value, where), bytes)
    except (msgspec.ValidationError, ValueError):
        raise RemoteProtocolError(f"{where} is not base64 (a string of {len(value)} characters)") from None


def _record(cls: type[_R], value: Any, where: str) -> _R:
    return _build(cls, _object(value, where), where)


def _records(cls: type[_R], value: Any, where: str) -> tuple[_R, ...]:
    if not isinstance(value, list):
        raise _wrong(value, where, "a list of objects")
    return tuple(_record(cls, one, where) for one in value)


def _error(value: Any, where: str) -> ErrorDetail:
    """Read an error, and redact the API key that the live service quotes ("Incorrect API key provided: sk-…")."""
    if isinstance(value, str):  # seen from third-party servers
        value = {"message": value}
    raw = {  # gateways send numbers as codes: convert them, so that the error itself still gets through
        key: str(one) if isinstance(one, (int, float)) else one for key, one in _object(value, where).items()
    }
    if isinstance(raw.get("message"), str):
        raw["message"] = redact(raw["message"])
    return _build(ErrorDetail, raw, where)


def _response(value: Any, where: str) -> Response:
    raw = dict(_object(value, where))
    details = raw.get("status_details")
    if isinstance(details, str):  # xAI sends the bare reason
        raw["reason"] = details
    elif isinstance(details, dict):
        raw["reason"] = details.get("reason")
        raw["error"] = details.get("error")
    return _build(Response, raw, where)


_READERS: dict[Any, _Reader] = {
    str: _text,
    int: _integer,
    bytes: _audio,
    Any: lambda value, where: value,
    JsonObject: _object,
    Mapping[str, Any]: _object,
    Mapping[str, str]: _pairs,
    tuple[ContentPart, ...]: partial(_records, ContentPart),
    Item: partial(_record, Item),
    tuple[Item, ...]: partial(_records, Item),
    ErrorDetail: _error,
    Response: _response,
}
"""The reader of each field type, without ``| None``."""


# ---------------------------------------------------------------------------------------------------------------
# Client events

_APPENDS = msgspec.json.Encoder()


class ClientEvent(Record, frozen=True, kw_only=True):
    """Base class of the events that the client sends."""

    type: ClassVar[_WireName] = _WireName()
    event_id: str | None = None
    """Chosen by the client, at most 512 characters; the server echoes it only inside an ``error``."""

    def to_wire(self) -> JsonObject:
        """Return the frame as a JSON object, without unset keys."""
        frame = {"type": self.type, "event_id": self.event_id} | msgspec.structs.asdict(self)
        return {key: value for key, value in frame.items() if value is not None}

    def encode(self) -> str:
        """Return the frame as JSON text.

        Raises:
            LocalProtocolError: It holds a value that JSON cannot express (NaN, a Python object).
        """
        # Not msgspec: it would write null for NaN, and a string for bytes.
        try:
            text = json.dumps(self.to_wire(), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as exc:
            raise LocalProtocolError(f"{self.to_wire().get('type')}: cannot be written as JSON: {exc}") from None
        if text.isascii():
            return text
        return text.encode(errors="replace").decode()  # UTF-8 cannot encode a lone surrogate, as in an odd file name


class SessionUpdate(ClientEvent, frozen=True, tag="session.update"):
    """Change the keys that are present. ``session.type`` is required; one unknown key makes the server refuse all."""

    unprinted = ("session",)  # it may hold the keys of MCP servers

    session: JsonObject

    def __post_init__(self) -> None:
        if "type" not in self.session:
            raise LocalProtocolError("session.update: session.type is missing")


class InputAudioBufferAppend(ClientEvent, frozen=True, omit_defaults=True, tag="input_audio_buffer.append"):
    """Add audio to the server's buffer; never acknowledged."""

    unprinted = ("audio",)

    audio: bytes
    """PCM16 mono at 24 kHz, little-endian, not empty."""

    def to_wire(self) -> JsonObject:
        frame: JsonObject = msgspec.to_builtins(self)
        return frame

    def encode(self) -> str:
        return _APPENDS.encode(self).decode()  # msgspec for speed: called up to fifty times a second


class InputAudioBufferCommit(ClientEvent, frozen=True, tag="input_audio_buffer.commit"):
    pass


class InputAudioBufferClear(ClientEvent, frozen=True, tag="input_audio_buffer.clear"):
    pass


class ConversationItemCreate(ClientEvent, frozen=True, tag="conversation.item.create"):
    item: JsonObject
    previous_item_id: str | None = None


class ConversationItemTruncate(ClientEvent, frozen=True, tag="conversation.item.truncate"):
    """Report how much of an item was heard; the server deletes the rest, and the item's transcript."""

    item_id: str
    audio_end_ms: int
    content_index: int = 0


class ConversationItemDelete(ClientEvent, frozen=True, tag="conversation.item.delete"):
    item_id: str


class ResponseCreate(ClientEvent, frozen=True, tag="response.create"):
    response: JsonObject | None = None


class ResponseCancel(ClientEvent, frozen=True, tag="response.cancel"):
    response_id: str | None = None


class RawClientEvent(ClientEvent, frozen=True):
    """Any frame, for events that have no class here."""

    unprinted = ("frame",)

    frame: JsonObject

    def to_wire(self) -> JsonObject:
        return dict(self.frame)
