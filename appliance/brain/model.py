"""The server side of one Realtime protocol (GA) session: a pure state machine.

Theory of operation
-------------------
`ServerModel` takes events and returns effects, in order. It never waits and uses no clock, socket or thread. Its owner
carries out the effects::

    client frame ──► receive ─┐                  ┌─► EmitFrame            one frame for the client
    time ──────────► tick ────┤                  ├─► Transcribe      answer: transcribed, transcription_failed
                              ├─► [ServerModel] ─┼─► Generate        answer: response_text, response_audio,
    generator ─► response_… ──┤                  │                   response_call; finish_response, fail_response
    recogniser ► transcribed ─┘                  ├─► StopGenerating  later calls for this response return []
                                                 └─► Close

It has two uses: behind `server.py` it is the offline brain; in the tests it is the server that our client talks to, and
the test decides when the model hears, speaks and fails. It shares no code with the client's conversation, so a bug in
one cannot hide a bug in the other.

* **Late calls are normal.** A call for a response or an item that is over returns ``[]``.
* **A response starts in two steps.** ``response.created`` is emitted at once. `Generate` follows when every utterance
  that it must answer has a result (`transcribed` or `transcription_failed`), because a workflow works on text. With
  ``wait_for_transcripts=False`` both are emitted together, and a transcript may arrive at any time.
* **At most one response is active in the conversation**; out-of-band ones (``conversation: "none"``) run in parallel.
  Beyond `MAX_RESPONSES` unfinished ones, a response is refused with ``rate_limit_exceeded``.
* **A refused event has no effect** except one `EmitFrame` of an ``error`` that echoes its ``event_id``.
* **Turn detection** follows the energy of the audio (`vad`). ``semantic_vad`` uses the same detector; its eagerness
  only selects the silence that ends a turn.

* **Memory is bounded.** An item is refused with ``conversation_full`` if the conversation has `MAX_ITEMS` items, or
  `MAX_ITEM_BYTES` of text and images. Audio is freed instead, beyond that or beyond `MAX_AUDIO_BYTES`: the oldest items
  keep their transcripts only.
* **A tool of an unknown type is left out**: the rest of its event takes effect, and one ``error`` a tool names it in
  ``param``. Its ``event_id`` is null, because a client takes an error with the id of its event for a refusal of all.

Limits: MCP tools, transcription sessions and ``output_audio_buffer.clear`` are refused. ``rate_limits.updated`` is
never sent, because nothing is limited. Context is never truncated. Audio token counts follow the live service (1 per
100 ms in, 1 per 50 ms out), text token counts are an estimate (1 per 4 characters), and images count as 0.

Sources: the OpenAI Realtime API reference (GA) and recorded sessions; see also `client_schema`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal, TypeAlias

from appliance.audio.g711 import NarrowbandDecoder, NarrowbandEncoder
from appliance.brain.client_schema import CLIENT_EVENTS, JsonObject, Refused, audio_bytes, bad_value, invalid_value
from appliance.brain.vad import EnergyVad
from appliance.realtime.protocol import SAMPLE_RATE

__all__ = [
    "Close",
    "CodedAudio",
    "Effect",
    "EmitFrame",
    "Generate",
    "GenerationRequest",
    "ServerModel",
    "StopGenerating",
    "Transcribe",
]

BYTES_PER_MS = SAMPLE_RATE * 2 // 1000
MIN_COMMIT_MS = 100  # the live service refuses less
MAX_SESSION_S = 3600.0  # the live service closes the session after this time
MAX_BUFFER_S = 600  # 29 MB; bounds the memory of a client that never commits
MAX_ITEMS = 2_000  # about 500 turns with calls
MAX_ITEM_BYTES = 48 * 2**20  # mostly images
MAX_AUDIO_BYTES = 6 * 2**20  # 2 minutes: only `conversation.item.retrieve` reads old audio, and a device has 512 MB
MAX_RESPONSES = 8  # unfinished ones of a session; out-of-band responses run in parallel
MAX_QUIET_S = 60  # audio kept before speech starts, with turn detection

DEFAULT_INSTRUCTIONS = "You are a helpful assistant. Answer briefly, in one or two spoken sentences."
DEFAULT_VOICE = "marin"
DEFAULT_THRESHOLD = 0.5
DEFAULT_PREFIX_MS = 300

_SERVER_VAD: JsonObject = {
    "type": "server_vad",
    "threshold": DEFAULT_THRESHOLD,
    "prefix_padding_ms": DEFAULT_PREFIX_MS,
    # The reference says 500, recorded sessions show 200; recognition of whole sentences works better with 500.
    "silence_duration_ms": 500,
    "create_response": True,
    "interrupt_response": True,
    "idle_timeout_ms": None,
}
_SEMANTIC_VAD: JsonObject = {
    "type": "semantic_vad",
    "eagerness": "auto",
    "create_response": True,
    "interrupt_response": True,
}
_SEMANTIC_SILENCE_MS = {"low": 1500, "medium": 800, "auto": 800, "high": 400}

_SLICE_BYTES = 96_000  # 2 s

Status: TypeAlias = Literal["completed", "cancelled", "failed", "incomplete"]


# ---------------------------------------------------------------------------------------------------------------
# Effects


@dataclass(frozen=True, slots=True)
class CodedAudio:
    """A long base64 string in a frame, encoded slice by slice when the frame is sent."""

    pcm: bytes = field(repr=False)
    """PCM16 mono at 24 kHz."""
    wire_format: JsonObject
    """The session's format, which the text has."""

    def __str__(self) -> str:
        return "".join(self.slices())

    def slices(self) -> Iterator[str]:
        """Yield the base64 text in pieces of at most 128,004 characters."""
        encoder, rest = _encoder(self.wire_format), b""
        for at in range(0, len(self.pcm), _SLICE_BYTES):
            part = self.pcm[at : at + _SLICE_BYTES]
            coded = rest + (part if encoder is None else encoder.encode(part))
            whole = len(coded) - len(coded) % 3  # base64 joins only after whole groups of three bytes
            rest = coded[whole:]
            yield _base64(coded[:whole])
        yield _base64(rest if encoder is None else rest + encoder.flush())


@dataclass(frozen=True, slots=True)
class EmitFrame:
    """Send one frame to the client."""

    frame: JsonObject
    """JSON, except that a string may be a `CodedAudio`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """The input of a response."""

    items: tuple[JsonObject, ...]
    """The context in order, as wire items without audio; user audio carries its recognised text in ``transcript``."""
    instructions: str
    tools: tuple[JsonObject, ...]
    tool_choice: str | JsonObject
    spoken: bool
    """True: answer with `response_audio`; False: with `response_text`."""
    voice: str
    speed: float
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Generate:
    """Start generating; end with `ServerModel.finish_response` or `ServerModel.fail_response`."""

    response_id: str
    request: GenerationRequest


@dataclass(frozen=True, slots=True)
class StopGenerating:
    """Stop the response's generator: the response is over."""

    response_id: str


@dataclass(frozen=True, slots=True)
class Transcribe:
    """Recognise an utterance; answer with `ServerModel.transcribed` or `ServerModel.transcription_failed`."""

    item_id: str
    pcm: bytes = field(repr=False)
    """PCM16 mono at 24 kHz, whatever the session's format is."""
    tools: tuple[JsonObject, ...] = ()


@dataclass(frozen=True, slots=True)
class Close:
    """Close the connection after the frames emitted before."""

    code: int
    reason: str


Effect: TypeAlias = EmitFrame | Generate | StopGenerating | Transcribe | Close


# ---------------------------------------------------------------------------------------------------------------
# State inside the session


@dataclass(slots=True)
class _Audio:
    """The audio of one content part; wire items do not carry it."""

    pcm: bytearray = field(default_factory=bytearray, repr=False)
    heard: str | None = None
    """Transcript of user audio for the workflow, kept even if the client did not enable transcription."""
    is_truncated: bool = False


@dataclass(slots=True, eq=False)
class _Item:
    wire: JsonObject = field(repr=False)
    """As the client sees it."""
    audio: dict[int, _Audio] = field(default_factory=dict)
    """By content index."""

    @property
    def id(self) -> str:
        return str(self.wire["id"])

    @property
    def type(self) -> str:
        return str(self.wire["type"])

    @property
    def size(self) -> int:
        """Bytes of audio, and characters of text and images."""
        values = [*self.wire.values(), *(value for part in self.wire.get("content", ()) for value in part.values())]
        return sum(len(one) for one in values if isinstance(one, str)) + sum(
            len(one.pcm) for one in self.audio.values()
        )

    def copy(self) -> JsonObject:
        return deepcopy(self.wire)

    def context(self) -> JsonObject:
        """Return the item in the form that a workflow reads."""
        frame = self.copy()
        for i, audio in self.audio.items():
            if frame["content"][i]["type"] == "input_audio":
                frame["content"][i]["transcript"] = audio.heard
        return frame


class _Conversation(list[_Item]):
    def find(self, item_id: str) -> _Item | None:
        return next((item for item in self if item.id == item_id), None)

    def known(self, item_id: str, code: str, doing: str) -> _Item:
        item = self.find(item_id)
        if item is None:
            raise Refused(code, f"Error {doing} item: the item with id '{item_id}' does not exist.")
        return item

    def id_before(self, item: _Item) -> str | None:
        at = self.index(item)
        return self[at - 1].id if at else None

    def place_after(self, item_id: str | None) -> int:
        if item_id is None:
            return len(self)
        if item_id == "root":
            return 0
        return self.index(self.known(item_id, "item_create_invalid_previous_item_id", "creating")) + 1

    def require_call(self, call_id: str) -> None:
        if not any(item.type == "function_call" and item.wire["call_id"] == call_id for item in self):
            raise Refused(
                "invalid_tool_call_id", f"Tool call ID '{call_id}' not found in conversation.", "item.call_id"
            )


class _InputBuffer:
    """Audio that was appended and not yet committed; positions are frames since the start of the session."""

    def __init__(self) -> None:
        self.pcm = bytearray()
        self.end = 0

    @property
    def start(self) -> int:
        return self.end - len(self.pcm) // 2

    @property
    def ms(self) -> float:
        return len(self.pcm) / BYTES_PER_MS

    def append(self, pcm: bytes) -> None:
        self.pcm += pcm
        self.end += len(pcm) // 2

    def take(self, until: int) -> bytes:
        """Remove the audio before a position, and return it."""
        size = max(0, 2 * (until - self.start))
        taken = bytes(self.pcm[:size])
        del self.pcm[:size]
        return taken


@dataclass(slots=True, kw_only=True)
class _Response:
    id: str
    is_default: bool
    context: list[_Item]
    waits_for: set[str]
    request: JsonObject
    """The effective settings: the session's, overridden by the event's."""
    is_generating: bool = False
    output: list[_Item] = field(default_factory=list)
    is_open: bool = False
    """True if the last item of `output` is a message that still receives deltas."""
    input_usage: JsonObject = field(default_factory=dict)
    text_chars: int = 0
    audio_bytes: int = 0
    encoder: NarrowbandEncoder | None = None

    @property
    def text_tokens(self) -> int:
        return _text_tokens(self.text_chars)

    @property
    def audio_tokens(self) -> int:
        return self.audio_bytes // (50 * BYTES_PER_MS)

    def wire(self, status: str, details: JsonObject | None) -> JsonObject:
        output: JsonObject = {"format": self.request["format"], "voice": self.request["voice"]}
        return {
            "object": "realtime.response",
            "id": self.id,
            "status": status,
            "status_details": details,
            "output": [item.copy() for item in self.output],
            "conversation_id": self.request["conversation_id"],
            "output_modalities": list(self.request["output_modalities"]),
            "max_output_tokens": self.request["max_output_tokens"],
            "audio": {"output": output},
            "usage": None if status == "in_progress" else self._usage(),
            "metadata": self.request["metadata"],
        }

    def _usage(self) -> JsonObject:
        given, made = self.input_usage, self.text_tokens + self.audio_tokens
        return {
            "total_tokens": sum(given.values()) + made,
            "input_tokens": sum(given.values()),
            "output_tokens": made,
            "input_token_details": {
                **given,
                "image_tokens": 0,
                "cached_tokens": 0,
                "cached_tokens_details": {"text_tokens": 0, "audio_tokens": 0, "image_tokens": 0},
            },
            "output_token_details": {"text_tokens": self.text_tokens, "audio_tokens": self.audio_tokens},
        }


# ---------------------------------------------------------------------------------------------------------------
# The session


class ServerModel:
    """The server side of one session; see the module docstring for how to drive it.

    Args:
        session_id: ``sess_…``.
        model: The model that the client asked for; any string.
        now: Monotonic seconds, as in every method below.
        wall_s: Unix seconds at `now`, for ``session.expires_at``.
        ids: Returns a new id for a prefix ("item" → "item_…"), at most 32 characters; default: a counter.
        wait_for_transcripts: See the module docstring.
        may_respond: Returns False while the server as a whole has as many unfinished responses as it takes.
    """

    def __init__(
        self,
        *,
        session_id: str,
        model: str,
        now: float,
        wall_s: int = 0,
        ids: Callable[[str], str] | None = None,
        wait_for_transcripts: bool = True,
        may_respond: Callable[[], bool] = lambda: True,
    ) -> None:
        self._ids = ids or _counter()
        self._now = now
        self._expires_at = now + MAX_SESSION_S
        self._waits_for_transcripts = wait_for_transcripts
        self._may_respond = may_respond
        self._session = _new_session(session_id, model, expires_at=wall_s + int(MAX_SESSION_S))
        self._conversation_id = self._ids("conv")
        self._items = _Conversation()
        self._unheard: dict[str, _Item] = {}
        """Items whose audio is being transcribed: items of the conversation or of a response's ``input``."""
        self._responses: dict[str, _Response] = {}
        self._default: _Response | None = None
        self._has_spoken = False
        self._buffer = _InputBuffer()
        self._decoder: NarrowbandDecoder | None = None
        self._speech_item_id: str | None = None
        self._vad = self._new_vad()
        self._idle_at: float | None = None
        self._idle_from_ms = 0
        self._out: list[Effect] = []
        self.is_closed = False

    # --- the client ------------------------------------------------------------------------------------------

    def connect(self, now: float) -> list[Effect]:
        """Emit ``session.created``; call it once, before anything else."""
        self._now = now
        self._emit("session.created", session=deepcopy(self._session))
        return self._effects()

    def receive(self, frame: str | bytes, now: float) -> list[Effect]:
        """Process one frame from the client: text, or bytes for a binary frame (which is refused)."""
        if self.is_closed:
            return []
        self._now = now
        event_id: str | None = None
        try:
            event = _parsed(frame)
            event_id = _event_id(event)
            self._handle(_checked(event))
        except Refused as refusal:
            self._refuse(refusal, event_id)
        return self._effects()

    def tick(self, now: float) -> list[Effect]:
        """Run what is due at `now`; calling early or late is harmless."""
        self._now = now
        if self.is_closed:
            return []
        if now >= self._expires_at:
            self._expire()
        elif self._idle_at is not None and now >= self._idle_at:
            self._prompt_idle_user()
        return self._effects()

    @property
    def deadline(self) -> float | None:
        """When `tick` is due next; None once the session is closed."""
        if self.is_closed:
            return None
        return self._expires_at if self._idle_at is None else min(self._idle_at, self._expires_at)

    @property
    def items(self) -> tuple[JsonObject, ...]:
        """The conversation in order, as wire items."""
        return tuple(item.copy() for item in self._items)

    @property
    def running(self) -> tuple[str, ...]:
        """Ids of the unfinished responses, oldest first."""
        return tuple(self._responses)

    # --- results of the recogniser ---------------------------------------------------------------------------

    def transcribed(self, item_id: str, text: str) -> list[Effect]:
        """Report the transcript of an utterance; "" if no speech was recognised."""
        item = self._unheard.pop(item_id, None)
        if item is None:
            return []
        index, audio = next(iter(item.audio.items()))
        audio.heard = text
        if self._transcribes:
            item.wire["content"][index]["transcript"] = text
            self._announce_transcript(item, index, text)
        self._heard(item_id)
        return self._effects()

    def transcription_failed(self, item_id: str, message: str, *, code: str = "transcription_failed") -> list[Effect]:
        """Report that the recogniser failed on an utterance; an ``error`` event if the client wants no transcripts."""
        item = self._unheard.pop(item_id, None)
        if item is None:
            return []
        error = {"type": "server_error", "code": code, "message": message, "param": None}
        if not self._transcribes:
            self._emit("error", error=error | {"event_id": None})
        else:
            self._emit(_TRANSCRIPTION + "failed", item_id=item_id, content_index=next(iter(item.audio)), error=error)
        self._heard(item_id)
        return self._effects()

    # --- output of the generator -----------------------------------------------------------------------------

    def response_text(self, response_id: str, delta: str) -> list[Effect]:
        """Add a piece of text: the answer itself, or the transcript of its audio."""
        return self.response_audio(response_id, delta, b"")

    def response_audio(self, response_id: str, text: str, pcm: bytes) -> list[Effect]:
        """Add a piece of speech; a text-only response drops the audio.

        Args:
            response_id: The id in `Generate`.
            text: Transcript of the audio; "" if an earlier call passed it.
            pcm: PCM16 mono at 24 kHz, any length.
        """
        response = self._responses.get(response_id)
        if response is None or not (text or pcm):
            return []
        item = self._open_message(response)
        place = _place(response, item) | {"content_index": 0}
        if text:
            self._grow_text(response, item, place, text)
        if pcm and item.audio:
            self._grow_audio(response, item.audio[0], place, pcm)
        self._enforce_limit(response)
        return self._effects()

    def response_call(self, response_id: str, name: str, arguments: str) -> list[Effect]:
        """Add a call to one of the request's tools; `arguments` is a JSON object as text."""
        response = self._responses.get(response_id)
        if response is None:
            return []
        self._close_message(response, "completed")
        call_id = self._ids("call")
        wire = {"id": self._ids("item"), "type": "function_call", "status": "in_progress"}
        item = _Item(wire | {"name": name, "call_id": call_id, "arguments": ""})
        self._start_item(response, item)
        place = _place(response, item)
        self._emit("response.function_call_arguments.delta", **place, call_id=call_id, delta=arguments)
        self._emit("response.function_call_arguments.done", **place, call_id=call_id, name=name, arguments=arguments)
        item.wire["arguments"] = arguments
        response.text_chars += len(name) + len(arguments)
        self._end_item(response, item, "completed")
        self._enforce_limit(response)
        return self._effects()

    def finish_response(
        self, response_id: str, *, now: float | None = None, status: Status = "completed", reason: str | None = None
    ) -> list[Effect]:
        """End a response; for ``incomplete``, `reason` is max_output_tokens or content_filter."""
        return self._finish(response_id, status, {"reason": reason} if reason else {}, now)

    def fail_response(
        self, response_id: str, message: str, *, code: str = "server_error", now: float | None = None
    ) -> list[Effect]:
        """End a response as failed; the session continues."""
        error = {"type": "server_error", "code": code, "message": message}
        return self._finish(response_id, "failed", {"error": error}, now)

    def _finish(self, response_id: str, status: Status, details: JsonObject, now: float | None) -> list[Effect]:
        response = self._responses.get(response_id)
        if response is None:
            return []
        self._now = self._now if now is None else now
        self._end_response(response, status, details)
        return self._effects()

    # --- client events ---------------------------------------------------------------------------------------

    def _handle(self, event: JsonObject) -> None:
        match event["type"]:
            case "session.update":
                self._update(event["session"])
            case "input_audio_buffer.append":
                self._append(event["audio"])
            case "input_audio_buffer.commit":
                self._commit_by_client()
            case "input_audio_buffer.clear":
                self._empty_buffer()
                self._emit("input_audio_buffer.cleared")
            case "conversation.item.create":
                self._create_item(event["item"], event.get("previous_item_id"))
            case "conversation.item.retrieve":
                self._retrieve(event["item_id"])
            case "conversation.item.truncate":
                self._truncate(event["item_id"], event["content_index"], event["audio_end_ms"])
            case "conversation.item.delete":
                self._delete(event["item_id"])
            case "response.create":
                self._create_response(event.get("response") or {})
            case "response.cancel":
                self._cancel(event.get("response_id"))

    def _update(self, update: JsonObject) -> None:
        update.pop("model", None)  # fixed at connect; some clients always send it
        refused = _take_refused_tools(update)
        merged = _merged(self._session, update)
        old, new = self._session["audio"], merged["audio"]
        if self._has_spoken and old["output"]["voice"] != new["output"]["voice"]:
            raise Refused("cannot_update_voice", _VOICE_IS_FIXED, "session.audio.output.voice")
        if self._session["tracing"] is not None and merged["tracing"] not in (None, self._session["tracing"]):
            raise invalid_value(
                "Cannot update tracing once it is enabled; it can only be disabled with null.", "session.tracing"
            )
        self._session = merged
        if old["input"]["format"] != new["input"]["format"]:
            self._decoder = _decoder(new["input"]["format"])
        if old["input"]["turn_detection"] != new["input"]["turn_detection"]:
            self._vad, self._speech_item_id, self._idle_at = self._new_vad(), None, None
        self._emit("session.updated", session=_without_phrases(merged))
        self._refuse_all(refused)

    def _append(self, audio: str) -> None:
        coded = audio_bytes(audio, "audio", sample_bytes=2 if self._decoder is None else 1)
        pcm = coded if self._decoder is None else self._decoder.decode(coded)
        if len(self._buffer.pcm) + len(pcm) > MAX_BUFFER_S * 1000 * BYTES_PER_MS:
            raise Refused(
                "input_audio_buffer_full",
                f"Error appending input audio: the buffer holds at most {MAX_BUFFER_S} s. Commit or clear it first.",
                "audio",
            )
        self._buffer.append(pcm)
        if self._vad is None:
            return
        for edge in list(self._vad.feed(pcm)):
            if edge.kind == "start":
                self._start_speech(edge.frame)
            else:
                self._stop_speech(edge.frame)
        if self._vad is not None and not self._vad.speaking:
            self._buffer.take(self._buffer.end - MAX_QUIET_S * SAMPLE_RATE)

    def _commit_by_client(self) -> None:
        held_ms = self._buffer.ms
        if held_ms < MIN_COMMIT_MS:  # keep the short buffer: the behaviour of the live service is not documented
            raise Refused(
                "input_audio_buffer_commit_empty",
                f"Error committing input audio buffer: buffer too small. Expected at least {MIN_COMMIT_MS}ms of audio, "
                f"but buffer only has {held_ms:.2f}ms of audio.",
            )
        self._make_room(len(self._buffer.pcm))
        self._commit(self._speech_item_id or self._ids("item"), self._empty_buffer())

    def _empty_buffer(self) -> bytes:
        self._speech_item_id = None
        self._vad = self._new_vad()
        return self._buffer.take(self._buffer.end)

    def _create_item(self, wire: JsonObject, previous_item_id: str | None) -> None:
        at = self._items.place_after(previous_item_id)
        if self._items.find(wire.get("id", "")) is not None:
            raise invalid_value(f"An item with the id '{wire['id']}' already exists.", "item.id")
        item = self._item_from(wire, "item")
        if item.type == "function_call_output":
            self._items.require_call(item.wire["call_id"])
        self._make_room(item.size)
        self._items.insert(at, item)
        self._announce_item(item)
        self._transcribe(item)

    def _retrieve(self, item_id: str) -> None:
        item = self._items.known(item_id, "item_retrieve_invalid_item_id", "retrieving")
        frame = item.copy()
        for i, audio in item.audio.items():
            side = "output" if frame["role"] == "assistant" else "input"
            frame["content"][i]["audio"] = CodedAudio(bytes(audio.pcm), self._session["audio"][side]["format"])
        self._emit("conversation.item.retrieved", item=frame)

    def _truncate(self, item_id: str, content_index: int, audio_end_ms: int) -> None:
        item = self._items.known(item_id, "item_truncate_invalid_item_id", "truncating")
        if item.wire.get("role") != "assistant" or not item.audio:
            raise Refused(None, "Only model output audio messages can be truncated")
        audio = item.audio.get(content_index)
        if audio is None:
            raise invalid_value(
                f"Invalid 'content_index': the item has no content part {content_index}.", "content_index"
            )
        held_ms = len(audio.pcm) // BYTES_PER_MS
        if audio_end_ms > held_ms:
            raise Refused(None, f"Audio content of {held_ms}ms is already shorter than {audio_end_ms}ms")
        del audio.pcm[audio_end_ms * BYTES_PER_MS :]
        item.wire["content"][content_index]["transcript"] = None  # the model must not see text that was not played
        audio.is_truncated = True
        self._emit(
            "conversation.item.truncated", item_id=item_id, content_index=content_index, audio_end_ms=audio_end_ms
        )

    def _delete(self, item_id: str) -> None:
        self._items.remove(self._items.known(item_id, "item_delete_invalid_item_id", "deleting"))
        self._emit("conversation.item.deleted", item_id=item_id)
        if self._unheard.pop(item_id, None) is not None:
            self._heard(item_id)

    def _cancel(self, response_id: str | None) -> None:
        response = self._default if response_id is None else self._responses.get(response_id)
        if response is None:
            raise Refused("response_cancel_not_active", "Cancellation failed: no active response found")
        self._stop(response, "cancelled", "client_cancelled")

    # --- responses -------------------------------------------------------------------------------------------

    def _create_response(self, asked: JsonObject) -> None:
        is_default = asked.get("conversation", "auto") == "auto"
        if is_default and self._default is not None:
            raise Refused(
                "conversation_already_has_active_response",
                f"Conversation already has an active response in progress: {self._default.id}. "
                "Wait until the response is finished before creating a new one.",
            )
        self._check_rate()
        if is_default:
            self._make_room(0)
        refused = _take_refused_tools(asked)
        request = self._effective(asked, is_default)
        context = list(self._items) if "input" not in asked else self._own_input(asked["input"])
        response = _Response(
            id=self._ids("resp"),
            is_default=is_default,
            context=context,
            waits_for={item.id for item in context if item.id in self._unheard},
            request=request,
            encoder=_encoder(request["format"]),
            input_usage=_input_usage(context, request),
        )
        self._responses[response.id] = response
        if is_default:
            self._default, self._idle_at = response, None
        self._emit("response.created", response=response.wire("in_progress", None))
        self._refuse_all(refused)
        self._generate_if_heard(response)

    def _check_rate(self) -> None:
        if len(self._responses) >= MAX_RESPONSES:
            raise Refused(
                "rate_limit_exceeded",
                f"This session already has {MAX_RESPONSES} responses in progress, its maximum: "
                "wait until one is finished, or cancel one.",
            )
        if not self._may_respond():
            raise Refused(
                "rate_limit_exceeded",
                "The server is busy: it already has its maximum of responses in progress. Try again in a moment.",
            )

    def _effective(self, asked: JsonObject, is_default: bool) -> JsonObject:
        session, output = self._session, asked.get("audio", {}).get("output", {})
        spoken = session["audio"]["output"]
        request = {key: asked.get(key, session[key]) for key in _OVERRIDES}
        request |= {
            "conversation_id": self._conversation_id if is_default else None,
            "metadata": asked.get("metadata"),
            "format": output.get("format", spoken["format"]),
            "voice": _voice_name(output.get("voice", spoken["voice"])),
            "speed": spoken["speed"],
        }
        if self._has_spoken and is_default and request["voice"] != spoken["voice"]:
            raise Refused("cannot_update_voice", _VOICE_IS_FIXED, "response.audio.output.voice")
        _check_tool_choice(request)
        return deepcopy(request)

    def _own_input(self, given: list[JsonObject]) -> list[_Item]:
        known = {i: self._referenced(one["id"], i) for i, one in enumerate(given) if one["type"] == "item_reference"}
        items = [known.get(i) or self._item_from(one, f"response.input[{i}]") for i, one in enumerate(given)]
        self._make_room(sum(item.size for i, item in enumerate(items) if i not in known))
        for item in items:
            if self._items.find(item.id) is None:
                self._transcribe(item)
        return items

    def _referenced(self, item_id: str, index: int) -> _Item:
        item = self._items.find(item_id)
        if item is None:
            where = f"response.input[{index}].id"
            raise invalid_value(f"Invalid '{where}': the item with id '{item_id}' does not exist.", where)
        return item

    def _generate_if_heard(self, response: _Response) -> None:
        if response.is_generating or (self._waits_for_transcripts and response.waits_for):
            return
        response.is_generating = True
        request = response.request
        self._out.append(
            Generate(
                response.id,
                GenerationRequest(
                    items=tuple(item.context() for item in response.context),
                    instructions=request["instructions"],
                    tools=tuple(request["tools"]),
                    tool_choice=request["tool_choice"],
                    spoken=request["output_modalities"] == ["audio"],
                    voice=request["voice"],
                    speed=request["speed"],
                    metadata=request["metadata"] or {},
                ),
            )
        )

    def _heard(self, item_id: str) -> None:
        for response in list(self._responses.values()):
            response.waits_for.discard(item_id)
            self._generate_if_heard(response)

    def _open_message(self, response: _Response) -> _Item:
        if response.is_open:
            return response.output[-1]
        wire = {"id": self._ids("item"), "type": "message", "status": "in_progress", "role": "assistant", "content": []}
        item = _Item(wire)
        self._start_item(response, item)
        if response.request["output_modalities"] == ["audio"]:
            item.wire["content"] = [{"type": "output_audio", "transcript": ""}]
            item.audio[0] = _Audio()
        else:
            item.wire["content"] = [{"type": "output_text", "text": ""}]
        response.is_open = True
        place = _place(response, item) | {"content_index": 0}
        self._emit("response.content_part.added", **place, part=_short_part(item))
        return item

    def _start_item(self, response: _Response, item: _Item) -> None:
        response.output.append(item)
        self._emit(
            "response.output_item.added",
            response_id=response.id,
            output_index=len(response.output) - 1,
            item=item.copy(),
        )
        if response.is_default:
            self._items.append(item)
            self._emit("conversation.item.added", previous_item_id=self._items.id_before(item), item=item.copy())

    def _end_item(self, response: _Response, item: _Item, status: str) -> None:
        item.wire["status"] = status
        if response.is_default and item in self._items:
            self._emit("conversation.item.done", previous_item_id=self._items.id_before(item), item=item.copy())
        self._emit(
            "response.output_item.done",
            response_id=response.id,
            output_index=len(response.output) - 1,
            item=item.copy(),
        )

    def _close_message(self, response: _Response, status: str) -> None:
        if not response.is_open:
            return
        response.is_open = False
        item = response.output[-1]
        part, place = item.wire["content"][0], _place(response, item) | {"content_index": 0}
        if not item.audio:
            self._emit("response.output_text.done", **place, text=part["text"])
        else:
            if response.encoder is not None and (tail := response.encoder.flush()):
                self._emit("response.output_audio.delta", **place, delta=_base64(tail))
            self._emit("response.output_audio.done", **place)
            self._emit("response.output_audio_transcript.done", **place, transcript=part["transcript"] or "")
        self._emit("response.content_part.done", **place, part=_short_part(item))
        self._end_item(response, item, status)

    def _grow_text(self, response: _Response, item: _Item, place: JsonObject, text: str) -> None:
        response.text_chars += len(text)
        part = item.wire["content"][0]
        if not item.audio:
            part["text"] += text
            self._emit("response.output_text.delta", **place, delta=text)
            return
        if not item.audio[0].is_truncated:
            part["transcript"] += text
        self._emit("response.output_audio_transcript.delta", **place, delta=text)

    def _grow_audio(self, response: _Response, audio: _Audio, place: JsonObject, pcm: bytes) -> None:
        response.audio_bytes += len(pcm)
        self._has_spoken = True
        if not audio.is_truncated:
            audio.pcm += pcm
        coded = pcm if response.encoder is None else response.encoder.encode(pcm)
        if coded:
            self._emit("response.output_audio.delta", **place, delta=_base64(coded))

    def _enforce_limit(self, response: _Response) -> None:
        limit = response.request["max_output_tokens"]
        if limit != "inf" and response.text_tokens + response.audio_tokens > limit:
            self._stop(response, "incomplete", "max_output_tokens")

    def _stop(self, response: _Response, status: Status, reason: str) -> None:
        if response.is_generating:
            self._out.append(StopGenerating(response.id))
        self._end_response(response, status, {"reason": reason})

    def _end_response(self, response: _Response, status: Status, details: JsonObject) -> None:
        self._close_message(response, "completed" if status == "completed" else "incomplete")
        del self._responses[response.id]
        if response is self._default:
            self._default = None
            self._arm_idle(response)
        self._emit("response.done", response=response.wire(status, {"type": status, **details}))

    # --- items -----------------------------------------------------------------------------------------------

    def _item_from(self, wire: JsonObject, path: str) -> _Item:
        """Build an item from the client's JSON, which the rules have validated except for its audio."""
        frame = {
            "id": wire.get("id") or self._ids("item"),
            "type": wire["type"],
            "status": wire.get("status", "completed"),
        }
        match wire["type"]:
            case "message":
                audio = {
                    i: self._audio_from(part, f"{path}.content[{i}].audio")
                    for i, part in enumerate(wire["content"])
                    if part["type"] == "input_audio"
                }
                content = [_without_audio(part) for part in wire["content"]]
                return _Item(frame | {"role": wire["role"], "content": content}, audio)
            case "function_call":
                call_id = wire.get("call_id") or self._ids("call")
                return _Item(frame | {"name": wire["name"], "call_id": call_id, "arguments": wire["arguments"]})
            case _:
                return _Item(frame | {"call_id": wire["call_id"], "output": wire["output"]})

    def _audio_from(self, part: JsonObject, path: str) -> _Audio:
        decoder = _decoder(self._session["audio"]["input"]["format"])
        coded = audio_bytes(part["audio"], path, sample_bytes=2 if decoder is None else 1)
        return _Audio(bytearray(coded if decoder is None else decoder.decode(coded)), part.get("transcript"))

    def _make_room(self, size: int) -> None:
        """Drop the audio of the oldest items until one more item, of `size` bytes, fits.

        Raises:
            Refused: It does not fit.
        """
        if len(self._items) >= MAX_ITEMS:
            text = f"The conversation has {MAX_ITEMS} items, its maximum: delete some, or open another session."
            raise Refused("conversation_full", text)
        used = {id(item): item for one in self._responses.values() for item in (*one.context, *one.output)}
        items = {id(item): item for item in self._items} | used
        completed = [item for item in self._items if item.wire["status"] == "completed"]
        old = [audio for item in completed for audio in item.audio.values() if audio.pcm]
        total = size + sum(item.size for item in items.values())
        kept = size + sum(len(audio.pcm) for audio in old)
        for audio in old:
            if total <= MAX_ITEM_BYTES and kept <= MAX_AUDIO_BYTES:
                return
            total -= len(audio.pcm)
            kept -= len(audio.pcm)
            audio.pcm.clear()
        if total > MAX_ITEM_BYTES:
            text = f"The conversation holds {MAX_ITEM_BYTES >> 20} MiB, its maximum: delete some items first."
            raise Refused("conversation_full", text)

    def _announce_item(self, item: _Item) -> None:
        previous = self._items.id_before(item)
        self._emit("conversation.item.added", previous_item_id=previous, item=item.copy())
        self._emit("conversation.item.done", previous_item_id=previous, item=item.copy())

    def _transcribe(self, item: _Item) -> None:
        """Request a transcript of the item's first audio part without one; further parts stay untranscribed."""
        audio = next((audio for audio in item.audio.values() if audio.heard is None), None)
        if audio is not None:
            self._unheard[item.id] = item
            self._out.append(Transcribe(item.id, bytes(audio.pcm), tuple(deepcopy(self._session["tools"]))))

    def _announce_transcript(self, item: _Item, index: int, text: str) -> None:
        place: JsonObject = {"item_id": item.id, "content_index": index}
        if text:
            self._emit(_TRANSCRIPTION + "delta", **place, delta=text)
        heard, written = _user_audio_tokens(item.audio[index]), _text_tokens(len(text))
        usage = {
            "type": "tokens",
            "total_tokens": heard + written,
            "input_tokens": heard,
            "input_token_details": {"text_tokens": 0, "audio_tokens": heard},
            "output_tokens": written,
        }
        self._emit(_TRANSCRIPTION + "completed", **place, transcript=text, usage=usage)

    @property
    def _transcribes(self) -> bool:
        return self._session["audio"]["input"]["transcription"] is not None

    # --- turns by voice activity -----------------------------------------------------------------------------

    @property
    def _turn_detection(self) -> JsonObject:
        return self._session["audio"]["input"]["turn_detection"] or {}

    def _new_vad(self) -> EnergyVad | None:
        turns = self._turn_detection
        if not turns:
            return None
        is_semantic = turns["type"] == "semantic_vad"
        silence_ms = _SEMANTIC_SILENCE_MS[turns["eagerness"]] if is_semantic else turns["silence_duration_ms"]
        threshold = turns.get("threshold", DEFAULT_THRESHOLD)
        return EnergyVad(threshold=threshold, silence_ms=silence_ms, position=self._buffer.end)

    def _start_speech(self, frame: int) -> None:
        padding_ms = self._turn_detection.get("prefix_padding_ms", DEFAULT_PREFIX_MS)
        self._buffer.take(frame - padding_ms * SAMPLE_RATE // 1000)
        self._speech_item_id = self._ids("item")
        self._idle_at = None
        start_ms = self._buffer.start * 1000 // SAMPLE_RATE
        self._emit("input_audio_buffer.speech_started", audio_start_ms=start_ms, item_id=self._speech_item_id)
        if self._turn_detection["interrupt_response"] and self._default is not None:
            self._stop(self._default, "cancelled", "turn_detected")

    def _stop_speech(self, frame: int) -> None:
        item_id = self._speech_item_id or self._ids("item")
        self._speech_item_id = None
        end_ms = frame * 1000 // SAMPLE_RATE
        self._emit("input_audio_buffer.speech_stopped", audio_end_ms=end_ms, item_id=item_id)
        self._end_turn(item_id, self._buffer.take(frame))

    def _end_turn(self, item_id: str, pcm: bytes, *, heard: str | None = None) -> None:
        try:
            self._make_room(len(pcm))
            self._commit(item_id, pcm, heard=heard)
            if self._turn_detection["create_response"]:
                self._create_response({})
        except Refused as refusal:  # such as a response that is still active, if interrupt_response is false
            self._refuse(refusal, None)

    def _commit(self, item_id: str, pcm: bytes, *, heard: str | None = None) -> None:
        self._idle_at = None
        content = [{"type": "input_audio", "transcript": None}]
        wire = {"id": item_id, "type": "message", "status": "completed", "role": "user", "content": content}
        item = _Item(wire, {0: _Audio(bytearray(pcm), heard)})
        self._items.append(item)
        self._emit("input_audio_buffer.committed", previous_item_id=self._items.id_before(item), item_id=item_id)
        self._announce_item(item)
        self._transcribe(item)

    def _arm_idle(self, response: _Response) -> None:
        """Schedule the idle prompt: ``idle_timeout_ms`` after the end of the response's playback."""
        timeout_ms = self._turn_detection.get("idle_timeout_ms")
        if timeout_ms is not None and self._speech_item_id is None:
            self._idle_at = self._now + (response.audio_bytes / BYTES_PER_MS + timeout_ms) / 1000
            self._idle_from_ms = self._buffer.end * 1000 // SAMPLE_RATE

    def _prompt_idle_user(self) -> None:
        self._idle_at = None
        item_id, end_ms = self._ids("item"), self._buffer.end * 1000 // SAMPLE_RATE
        self._emit(
            "input_audio_buffer.timeout_triggered",
            audio_start_ms=self._idle_from_ms,
            audio_end_ms=end_ms,
            item_id=item_id,
        )
        self._end_turn(item_id, self._empty_buffer(), heard="")  # silence by definition: nothing to transcribe

    # --- the end ---------------------------------------------------------------------------------------------

    def _expire(self) -> None:
        text = "Your session hit the maximum duration of 60 minutes."
        for response in self._responses.values():
            if response.is_generating:
                self._out.append(StopGenerating(response.id))
        self._responses.clear()
        self._unheard.clear()
        self._default = None
        self._refuse(Refused("session_expired", text), None)
        self._out.append(Close(1001, text))
        self.is_closed = True

    # --- effects ---------------------------------------------------------------------------------------------

    def _emit(self, event_type: str, **keys: Any) -> None:
        self._out.append(EmitFrame({"type": event_type, "event_id": self._ids("event"), **keys}))

    def _refuse(self, refusal: Refused, event_id: str | None) -> None:
        self._emit(
            "error",
            error={
                "type": "invalid_request_error",
                "code": refusal.code,
                "message": refusal.message,
                "param": refusal.param,
                "event_id": event_id,
            },
        )

    def _refuse_all(self, refusals: Iterable[Refused]) -> None:
        for refusal in refusals:
            self._refuse(refusal, None)

    def _effects(self) -> list[Effect]:
        effects, self._out = self._out, []
        return effects


# ---------------------------------------------------------------------------------------------------------------
# Reading a frame

_VOICE_IS_FIXED = "Cannot update a conversation's voice if assistant audio is present."
_TRANSCRIPTION = "conversation.item.input_audio_transcription."


def _parsed(frame: str | bytes) -> JsonObject:
    if isinstance(frame, bytes):
        raise Refused("invalid_event", "Binary frames are not supported. Send each event as a text frame of JSON.")
    try:
        event = json.loads(frame, parse_constant=_no_constant)
        if "\\u" in frame:  # an escape may contain a lone surrogate, which cannot be encoded later
            json.dumps(event, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise Refused("invalid_json", "The event could not be parsed as JSON.") from None
    if not isinstance(event, dict):
        raise Refused("invalid_event", "An event must be a JSON object.")
    return event


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _event_id(event: JsonObject) -> str | None:
    event_id = event.get("event_id")
    return event_id if isinstance(event_id, str) and len(event_id) <= 512 else None


def _checked(event: JsonObject) -> JsonObject:
    if "type" not in event:
        raise Refused("invalid_event", "The 'type' field is missing.")
    name = event["type"]
    if not isinstance(name, str) or name not in CLIENT_EVENTS:
        raise bad_value(name, "type", tuple(CLIENT_EVENTS))
    if event.get("event_id", "") is None:  # treat null as absent
        del event["event_id"]
    checked: JsonObject = CLIENT_EVENTS[name](event, "")
    return checked


def _take_refused_tools(asked: JsonObject) -> list[Refused]:
    """Remove the tools of an unknown type from a session or a response; return their refusals."""
    tools = asked.get("tools", [])
    refused = [one for one in tools if isinstance(one, Refused)]
    if refused:
        asked["tools"] = [one for one in tools if not isinstance(one, Refused)]
    return refused


def _counter() -> Callable[[str], str]:
    numbers = count(1)
    return lambda prefix: f"{prefix}_{next(numbers):06d}"


# ---------------------------------------------------------------------------------------------------------------
# The session object

_OVERRIDES = ("instructions", "tools", "tool_choice", "output_modalities", "max_output_tokens")
_REPLACED = frozenset({"tools", "tool_choice", "truncation", "tracing", "prompt", "include", "format", "voice"})


def _new_session(session_id: str, model: str, *, expires_at: int) -> JsonObject:
    """Return the default session with its keys in the order of recorded ``session.created`` frames."""
    return {
        "type": "realtime",
        "object": "realtime.session",
        "id": session_id,
        "model": model,
        "output_modalities": ["audio"],
        "instructions": DEFAULT_INSTRUCTIONS,
        "tools": [],
        "tool_choice": "auto",
        "max_output_tokens": "inf",
        "tracing": None,
        "truncation": "auto",
        "prompt": None,
        "expires_at": expires_at,
        "audio": {
            "input": {
                "format": {"type": "audio/pcm", "rate": SAMPLE_RATE},
                "transcription": None,
                "noise_reduction": None,
                "turn_detection": dict(_SERVER_VAD),
            },
            "output": {
                "format": {"type": "audio/pcm", "rate": SAMPLE_RATE},
                "voice": DEFAULT_VOICE,
                "speed": 1.0,
            },
        },
        "include": None,
    }


def _merged(old: JsonObject, update: JsonObject) -> JsonObject:
    """Return the session with an update applied: objects merge by key, other values are replaced, null clears."""
    merged = dict(old)
    for key, value in update.items():
        before = old.get(key)
        if key == "turn_detection":
            merged[key] = None if value is None else _turns(before, value)
        elif key == "voice":
            merged[key] = _voice_name(value)
        elif key in _REPLACED or not (isinstance(value, dict) and isinstance(before, dict)):
            merged[key] = value
        elif key == "noise_reduction" and "type" in value and value["type"] != before.get("type"):
            merged[key] = value  # another type: do not keep the strength of the old one
        else:
            merged[key] = _merged(before, value)
    return merged


def _without_phrases(session: JsonObject) -> JsonObject:
    """Return a copy of the session as the protocol knows it: the phrases of tools are our own addition."""
    tools = [{key: one for key, one in tool.items() if key != "phrases"} for tool in session["tools"]]
    return deepcopy({**session, "tools": tools})


def _turns(before: JsonObject | None, value: JsonObject) -> JsonObject:
    defaults = _SERVER_VAD if value["type"] == "server_vad" else _SEMANTIC_VAD
    is_same = before is not None and before["type"] == value["type"]
    return {**(before if is_same and before is not None else defaults), **value}


def _voice_name(voice: str | JsonObject) -> str:
    return voice if isinstance(voice, str) else str(voice["id"])


def _check_tool_choice(request: JsonObject) -> None:
    choice = request["tool_choice"]
    if isinstance(choice, dict) and choice["name"] not in {tool["name"] for tool in request["tools"]}:
        raise invalid_value(f"Tool choice '{choice['name']}' not found in 'tools' parameter.", "tool_choice")


# ---------------------------------------------------------------------------------------------------------------
# Audio, places, tokens


def _decoder(wire_format: JsonObject) -> NarrowbandDecoder | None:
    return None if wire_format["type"] == "audio/pcm" else NarrowbandDecoder(wire_format["type"])


def _encoder(wire_format: JsonObject) -> NarrowbandEncoder | None:
    return None if wire_format["type"] == "audio/pcm" else NarrowbandEncoder(wire_format["type"])


def _base64(audio: bytes) -> str:
    return base64.b64encode(audio).decode("ascii")


def _place(response: _Response, item: _Item) -> JsonObject:
    return {"response_id": response.id, "item_id": item.id, "output_index": len(response.output) - 1}


def _short_part(item: _Item) -> JsonObject:
    """Return a content part as ``response.content_part.*`` events carry it, with shorter type names than an item."""
    part = item.wire["content"][0]
    if item.audio:
        return {"type": "audio", "transcript": part["transcript"] or ""}
    return {"type": "text", "text": part["text"]}


def _without_audio(part: JsonObject) -> JsonObject:
    return {"type": "input_audio", "transcript": part.get("transcript")} if part["type"] == "input_audio" else part


def _text_tokens(chars: int) -> int:
    return (chars + 3) // 4


def _user_audio_tokens(audio: _Audio) -> int:
    return len(audio.pcm) // (100 * BYTES_PER_MS)


def _input_usage(context: Iterable[_Item], request: JsonObject) -> JsonObject:
    chars = len(request["instructions"]) + sum(len(json.dumps(tool)) for tool in request["tools"])
    audio_tokens = 0
    for item in context:
        parts = item.wire.get("content", ())
        chars += sum(len(part.get("text", "")) for part in parts)
        chars += sum(len(str(item.wire.get(key, ""))) for key in ("name", "call_id", "arguments", "output"))
        for i, audio in item.audio.items():
            is_user = parts[i]["type"] == "input_audio"
            audio_tokens += _user_audio_tokens(audio) if is_user else len(audio.pcm) // (50 * BYTES_PER_MS)
    return {"text_tokens": _text_tokens(chars), "audio_tokens": audio_tokens}
