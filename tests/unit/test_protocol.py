"""Literal frames: each server event decoded once, and invalid frames refused."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from openai.types.realtime import RealtimeServerEvent

from appliance.errors import RemoteProtocolError
from appliance.realtime import protocol as wire
from appliance.realtime.protocol import ContentPart, ErrorDetail, Item, Response, ServerEvent, decode
from tests.support.frames import PCM, types_of
from tests.support.oracle import check_server_frame

AUDIO = "AAECAwQFBgc="

PLACE: dict[str, Any] = {"response_id": "resp_1", "item_id": "item_2", "output_index": 1}

CONTENT: dict[str, Any] = {**PLACE, "content_index": 2}

SESSION = (
    '{"type":"realtime","object":"realtime.session","id":"sess_1","model":"gpt-realtime-2.1",'
    '"output_modalities":["audio"],"instructions":"x","tools":[],"tool_choice":"auto","max_output_tokens":"inf",'
    '"tracing":null,"truncation":"auto","prompt":null,"expires_at":1795000000,"audio":{"input":{"format":'
    '{"type":"audio/pcm","rate":24000},"transcription":null,"noise_reduction":null,"turn_detection":null},'
    '"output":{"format":{"type":"audio/pcm","rate":24000},"voice":"marin","speed":1.0}},"include":null}'
)

USER_ITEM = (
    '{"id":"item_1","type":"message","status":"completed","role":"user",'
    '"content":[{"type":"input_audio","transcript":null}]}'
)

ANSWER_ITEM = (
    '{"id":"item_2","type":"message","status":"completed","role":"assistant",'
    '"content":[{"type":"output_audio","transcript":"It is ten."}]}'
)

CALL_ITEM = (
    '{"id":"item_3","type":"function_call","status":"completed","name":"set_lamp","call_id":"call_1",'
    '"arguments":"{\\"on\\":true}"}'
)

USER = Item(type="message", id="item_1", status="completed", role="user", content=(ContentPart(type="input_audio"),))

ANSWER = Item(
    type="message",
    id="item_2",
    status="completed",
    role="assistant",
    content=(ContentPart(type="output_audio", transcript="It is ten."),),
)

CALL = Item(
    type="function_call",
    id="item_3",
    status="completed",
    name="set_lamp",
    call_id="call_1",
    arguments='{"on":true}',
)

RESPONSE_CREATED = (
    '{"object":"realtime.response","id":"resp_1","status":"in_progress","status_details":null,"output":[],'
    '"conversation_id":"conv_1","output_modalities":["audio"],"max_output_tokens":"inf","usage":null,'
    '"metadata":{"turn":"t1"}}'
)

USAGE = (
    '{"total_tokens":320,"input_tokens":132,"output_tokens":188,"input_token_details":{"text_tokens":59,'
    '"audio_tokens":73,"cached_tokens":64},"output_token_details":{"text_tokens":41,"audio_tokens":147}}'
)

RESPONSE_CANCELLED = (
    '{"object":"realtime.response","id":"resp_1","status":"cancelled","status_details":{"type":"cancelled",'
    f'"reason":"client_cancelled"}},"output":[{ANSWER_ITEM},{CALL_ITEM}],"conversation_id":null,"usage":{USAGE},'
    '"metadata":null}'
)

RESPONSE_FAILED = (
    '{"object":"realtime.response","id":"resp_2","status":"failed","status_details":{"type":"failed",'
    '"error":{"type":"server_error","code":"inference_rate_limit_exceeded"}},"output":[]}'
)

# A literal frame (the test adds its ``event_id``) and the expected event.
EVENTS: list[tuple[str, ServerEvent]] = [
    (
        '{"type":"error","error":{"type":"invalid_request_error","code":"unknown_parameter",'
        '"message":"Unknown parameter.","param":"session.foo","event_id":"mine_1"}}',
        wire.ErrorEvent(
            error=ErrorDetail(
                type="invalid_request_error",
                code="unknown_parameter",
                message="Unknown parameter.",
                param="session.foo",
                event_id="mine_1",
            )
        ),
    ),
    (
        '{"type":"error","error":{"type":"insufficient_quota","code":"credit_balance_exhausted","message":"m"}}',
        wire.ErrorEvent(error=ErrorDetail(type="insufficient_quota", code="credit_balance_exhausted", message="m")),
    ),
    (f'{{"type":"session.created","session":{SESSION}}}', wire.SessionCreated(session=json.loads(SESSION))),
    (f'{{"type":"session.updated","session":{SESSION}}}', wire.SessionUpdated(session=json.loads(SESSION))),
    (
        f'{{"type":"conversation.item.added","previous_item_id":"item_0","item":{USER_ITEM}}}',
        wire.ConversationItemAdded(item=USER, previous_item_id="item_0"),
    ),
    (
        f'{{"type":"conversation.item.done","previous_item_id":null,"item":{ANSWER_ITEM}}}',
        wire.ConversationItemDone(item=ANSWER),
    ),
    (
        '{"type":"conversation.item.retrieved","item":{"id":"item_1","type":"message","role":"user",'
        f'"content":[{{"type":"input_audio","audio":"{AUDIO}","transcript":"hi"}}]}}}}',
        wire.ConversationItemRetrieved(
            item=Item(
                type="message",
                id="item_1",
                role="user",
                content=(ContentPart(type="input_audio", audio=AUDIO, transcript="hi"),),
            )
        ),
    ),
    (
        '{"type":"conversation.item.truncated","item_id":"item_2","content_index":0,"audio_end_ms":1500}',
        wire.ConversationItemTruncated(item_id="item_2", audio_end_ms=1500),
    ),
    ('{"type":"conversation.item.deleted","item_id":"item_2"}', wire.ConversationItemDeleted(item_id="item_2")),
    (
        '{"type":"conversation.item.input_audio_transcription.delta","item_id":"item_1","content_index":0,'
        '"delta":"turn the","obfuscation":"aX9"}',
        wire.InputTranscriptionDelta(item_id="item_1", delta="turn the"),
    ),
    (
        '{"type":"conversation.item.input_audio_transcription.completed","item_id":"item_1","content_index":0,'
        '"transcript":"turn the lamp on","usage":{"type":"duration","seconds":2.0}}',
        wire.InputTranscriptionCompleted(
            item_id="item_1", transcript="turn the lamp on", usage={"type": "duration", "seconds": 2.0}
        ),
    ),
    (
        '{"type":"conversation.item.input_audio_transcription.failed","item_id":"item_1","content_index":0,'
        '"error":{"type":"server_error","code":"audio_unintelligible","message":"m"}}',
        wire.InputTranscriptionFailed(
            item_id="item_1", error=ErrorDetail(type="server_error", code="audio_unintelligible", message="m")
        ),
    ),
    (
        '{"type":"input_audio_buffer.committed","previous_item_id":"item_0","item_id":"item_1"}',
        wire.InputAudioBufferCommitted(item_id="item_1", previous_item_id="item_0"),
    ),
    (
        '{"type":"input_audio_buffer.speech_started","audio_start_ms":1200,"item_id":"item_1"}',
        wire.SpeechStarted(item_id="item_1", audio_start_ms=1200),
    ),
    (
        f'{{"type":"response.created","response":{RESPONSE_CREATED}}}',
        wire.ResponseCreated(response=Response(id="resp_1", conversation_id="conv_1", metadata={"turn": "t1"})),
    ),
    (
        f'{{"type":"response.done","response":{RESPONSE_CANCELLED}}}',
        wire.ResponseDone(
            response=Response(
                id="resp_1",
                status="cancelled",
                reason="client_cancelled",
                output=(ANSWER, CALL),
                usage=json.loads(USAGE),
            )
        ),
    ),
    (
        f'{{"type":"response.done","response":{RESPONSE_FAILED}}}',
        wire.ResponseDone(
            response=Response(
                id="resp_2",
                status="failed",
                error=ErrorDetail(type="server_error", code="inference_rate_limit_exceeded"),
            )
        ),
    ),
    (
        f'{{"type":"response.output_item.added","response_id":"resp_1","output_index":1,"item":{CALL_ITEM}}}',
        wire.OutputItemAdded(response_id="resp_1", output_index=1, item=CALL),
    ),
    (
        f'{{"type":"response.output_item.done","response_id":"resp_1","output_index":1,"item":{ANSWER_ITEM}}}',
        wire.OutputItemDone(response_id="resp_1", output_index=1, item=ANSWER),
    ),
    (
        '{"type":"response.output_text.delta","response_id":"resp_1","item_id":"item_2","output_index":1,'
        '"content_index":2,"delta":"It","obfuscation":"q8"}',
        wire.OutputTextDelta(**CONTENT, delta="It"),
    ),
    (
        '{"type":"response.output_text.done","response_id":"resp_1","item_id":"item_2","output_index":1,'
        '"content_index":2,"text":"It is ten."}',
        wire.OutputTextDone(**CONTENT, text="It is ten."),
    ),
    (
        '{"type":"response.output_audio.delta","response_id":"resp_1","item_id":"item_2","output_index":1,'
        f'"content_index":2,"delta":"{AUDIO}","obfuscation":"q"}}',
        wire.OutputAudioDelta(**CONTENT, delta=PCM),
    ),
    (
        '{"type":"response.output_audio_transcript.delta","response_id":"resp_1","item_id":"item_2",'
        '"output_index":1,"content_index":2,"delta":"It"}',
        wire.OutputAudioTranscriptDelta(**CONTENT, delta="It"),
    ),
    (
        '{"type":"response.output_audio_transcript.done","response_id":"resp_1","item_id":"item_2",'
        '"output_index":1,"content_index":2,"transcript":"It is ten."}',
        wire.OutputAudioTranscriptDone(**CONTENT, transcript="It is ten."),
    ),
    (
        '{"type":"response.mcp_call_arguments.done","response_id":"resp_1","item_id":"item_2","output_index":1,'
        '"arguments":"{}"}',
        wire.McpCallArgumentsDone(**PLACE, arguments="{}"),
    ),
    (
        '{"type":"response.mcp_call.completed","item_id":"item_2","output_index":1}',
        wire.McpCallCompleted(item_id="item_2", output_index=1),
    ),
    (
        '{"type":"response.mcp_call.failed","item_id":"item_2","output_index":1}',
        wire.McpCallFailed(item_id="item_2", output_index=1),
    ),
    ('{"type":"mcp_list_tools.failed","item_id":"mcpl_1"}', wire.McpListToolsFailed(item_id="mcpl_1")),
]

# Frames without an event class, which are kept unchanged.
UNREAD = [
    '{"type":"conversation.created","conversation":{"id":"conv_1","object":"realtime.conversation"}}',
    (
        '{"type":"conversation.item.input_audio_transcription.segment","item_id":"item_1","content_index":0,'
        '"id":"seg_1","text":"hello","speaker":"A","start":0.5,"end":1.25}'
    ),
    '{"type":"input_audio_buffer.cleared"}',
    '{"type":"input_audio_buffer.speech_stopped","audio_end_ms":2400,"item_id":"item_1"}',
    '{"type":"input_audio_buffer.timeout_triggered","audio_start_ms":1,"audio_end_ms":2,"item_id":"item_1"}',
    '{"type":"input_audio_buffer.dtmf_event_received","event":"9","received_at":1763605109}',
    '{"type":"output_audio_buffer.started","response_id":"resp_1"}',
    '{"type":"output_audio_buffer.stopped","response_id":"resp_1"}',
    '{"type":"output_audio_buffer.cleared","response_id":"resp_1"}',
    (
        '{"type":"response.content_part.added","response_id":"resp_1","item_id":"item_2","output_index":1,'
        '"content_index":2,"part":{"type":"audio","transcript":""}}'
    ),
    (
        '{"type":"response.content_part.done","response_id":"resp_1","item_id":"item_2","output_index":1,'
        '"content_index":2,"part":{"type":"text","text":"It is ten."}}'
    ),
    (
        '{"type":"response.output_audio.done","response_id":"resp_1","item_id":"item_2","output_index":1,'
        '"content_index":2}'
    ),
    (
        '{"type":"response.function_call_arguments.delta","response_id":"resp_1","item_id":"item_2",'
        '"output_index":1,"call_id":"call_1","delta":"{\\"on\\""}'
    ),
    (
        '{"type":"response.function_call_arguments.done","response_id":"resp_1","item_id":"item_2",'
        '"output_index":1,"call_id":"call_1","name":"set_lamp","arguments":"{\\"on\\":true}"}'
    ),
    (
        '{"type":"response.mcp_call_arguments.delta","response_id":"resp_1","item_id":"item_2","output_index":1,'
        '"delta":"{"}'
    ),
    '{"type":"response.mcp_call.in_progress","item_id":"item_2","output_index":1}',
    '{"type":"mcp_list_tools.in_progress","item_id":"mcpl_1"}',
    '{"type":"mcp_list_tools.completed","item_id":"mcpl_1"}',
    (
        '{"type":"rate_limits.updated","rate_limits":[{"name":"tokens","limit":50000,"remaining":49950,'
        '"reset_seconds":0.06}]}'
    ),
    # sent by xAI:
    '{"type":"response.function_call_arguments.done","call_id":"call_1","name":"f","arguments":"{}"}',
    '{"type":"response.output_audio.done","response_id":"r"}',
    '{"type":"response.content_part.done","response_id":"r"}',
]

IDS = [type(event).__name__ for _, event in EVENTS]

# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("frame", "event"), EVENTS, ids=IDS)
def test_server_event_is_decoded(frame: str, event: ServerEvent) -> None:
    read = decode(frame.replace("{", '{"event_id":"event_1",', 1))

    assert type(read) is type(event)
    assert read.event_id == "event_1"
    assert replace(read, event_id="") == event


@pytest.mark.parametrize("frame", UNREAD)
def test_event_without_a_class_is_kept_whole(frame: str) -> None:
    read = decode(frame)

    assert read == wire.UnknownEvent(name=json.loads(frame)["type"], raw=json.loads(frame))


@pytest.mark.parametrize("frame", [*(frame for frame, _ in EVENTS), *UNREAD[:-3]])  # without the three events of xAI
def test_literal_frames_match_the_protocol(frame: str) -> None:
    raw = json.loads(frame)
    has_event_id = raw["type"] != "input_audio_buffer.dtmf_event_received"  # the only type without one
    check_server_frame({**raw, "event_id": "event_1"} if has_event_id else raw)


def test_every_server_event_is_covered() -> None:
    in_the_sdk = types_of(RealtimeServerEvent)

    unread = {json.loads(frame)["type"] for frame in UNREAD}
    assert in_the_sdk - {"conversation.item.created"} - unread == set(wire.SERVER_EVENTS)
    assert {type(event).type for _, event in EVENTS} == set(wire.SERVER_EVENTS)


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("response.text.delta", "response.output_text.delta"),
        ("response.text.done", "response.output_text.done"),
        ("response.audio.delta", "response.output_audio.delta"),
        ("response.audio_transcript.delta", "response.output_audio_transcript.delta"),
        ("response.audio_transcript.done", "response.output_audio_transcript.done"),
        ("conversation.item.created", "conversation.item.added"),
    ],
)
def test_beta_names_are_understood(alias: str, name: str) -> None:
    frame, event = next((frame, event) for frame, event in EVENTS if event.type == name)

    assert decode(frame.replace(f'"{name}"', f'"{alias}"')) == event


@pytest.mark.parametrize(
    "frame",
    [
        '{"type":"response.brand_new","event_id":"e","deep":{"a":[1]}}',
        '{"type":"ping","timestamp":1763605109}',
        '{"type":""}',
    ],
)
def test_unknown_type_is_kept_whole(frame: str) -> None:
    event = decode(frame)

    assert isinstance(event, wire.UnknownEvent)
    assert event.raw == json.loads(frame)
    assert event.name == json.loads(frame)["type"]


@pytest.mark.parametrize(("frame", "event"), EVENTS, ids=IDS)
def test_unknown_keys_and_a_null_event_id_are_ignored(frame: str, event: ServerEvent) -> None:
    assert decode(frame.replace("{", '{"event_id":null,"brand_new":{"x":[null]},', 1)) == event


THIRD_PARTIES = [
    (
        '{"type":"response.done","response":{"id":"r","status":"cancelled","status_details":"client_cancelled"}}',
        wire.ResponseDone(response=Response(id="r", status="cancelled", reason="client_cancelled")),
    ),
    ('{"type":"error","error":"overloaded"}', wire.ErrorEvent(error=ErrorDetail(message="overloaded"))),
    (
        '{"type":"error","error":{"code":503,"message":"busy"}}',
        wire.ErrorEvent(error=ErrorDetail(code="503", message="busy")),
    ),
    (
        '{"type":"conversation.item.truncated","item_id":"i","audio_end_ms":1500.0}',
        wire.ConversationItemTruncated(item_id="i", audio_end_ms=1500),
    ),
    (
        '{"type":"conversation.item.added","item":{"type":"force_message","content":null,"id":"i"}}',
        wire.ConversationItemAdded(item=Item(type="force_message", id="i")),
    ),
]


@pytest.mark.parametrize(("frame", "event"), THIRD_PARTIES)
def test_third_party_dialects_are_understood(frame: str, event: ServerEvent) -> None:
    assert decode(frame) == event


BROKEN = [
    ("", "not JSON"),
    ("{", "not JSON"),
    ('{"type":"error"', "not JSON"),
    ("\x00", "not JSON"),
    ("[" * 100_000, "nests too deeply"),
    ('{"a":' * 100_000, "nests too deeply"),
    ("1" * 5000, "not JSON"),
    ("null", "NoneType"),
    ("[]", "list"),
    ('"session.created"', "str"),
    ("{}", "no 'type'"),
    ('{"type":null}', "no 'type'"),
    ('{"type":["error"]}', "no 'type'"),
    ('{"type":"error"}', "'error' is missing"),
    ('{"type":"error","error":[]}', "'error' is list"),
    ('{"type":"session.created","session":"x"}', "'session' is str, expected an object"),
    ('{"type":"response.created","response":{}}', "'id' is missing"),
    ('{"type":"response.created","response":{"id":5}}', "'id' is int, expected a string"),
    ('{"type":"response.done","response":{"id":"r","output":{}}}', "'output' is dict, expected a list"),
    ('{"type":"response.done","response":{"id":"r","output":[5]}}', "expected an object"),
    ('{"type":"response.output_item.done","response_id":"r"}', "'item' is missing"),
    ('{"type":"response.output_item.done","item":{"type":"message"}}', "'response_id' is missing"),
    ('{"type":"conversation.item.added","item":{"id":"i"}}', "'type' is missing"),
    ('{"type":"conversation.item.truncated","item_id":"i","audio_end_ms":12.5}', "expected an integer"),
    ('{"type":"conversation.item.truncated","item_id":"i","audio_end_ms":"0"}', "expected an integer"),
    ('{"type":"conversation.item.truncated","item_id":"i","audio_end_ms":true}', "expected an integer"),
    ('{"type":"conversation.item.truncated","item_id":"i","audio_end_ms":NaN}', "expected an integer"),
    ('{"type":"conversation.item.truncated","item_id":"i","audio_end_ms":1e999}', "expected an integer"),
    ('{"type":"response.output_text.delta"}', "'delta' is missing"),
    ('{"type":"response.output_audio.delta"}', "'delta' is missing"),
    ('{"type":"response.output_audio.delta","delta":5}', "'delta' is int"),
    ('{"type":"response.output_audio.delta","delta":"AA"}', "not base64"),
    ('{"type":"response.output_audio.delta","delta":"A?=="}', "not base64"),
    ('{"type":"response.output_audio.delta","delta":"äöü="}', "not base64"),
]


@pytest.mark.parametrize(("frame", "problem"), BROKEN, ids=range(len(BROKEN)))
def test_invalid_frame_is_refused_with_a_short_reason(frame: str, problem: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode(frame)

    assert problem in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("half", ["\\ud800", "\udc00"], ids=["escaped", "bare"])
def test_lone_surrogate_in_a_delta_is_decoded(half: str) -> None:
    assert decode(f'{{"type":"response.output_text.delta","delta":"{half}"}}') == wire.OutputTextDelta(
        delta=json.loads(f'"{half}"')
    )


def test_delta_that_nests_too_deeply_in_an_ignored_key_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="nests too deeply"):
        decode('{"type":"response.output_text.delta","delta":"It","deep":' + "[" * 100_000)


def test_binary_frame_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="binary frame of 3 bytes"):
        decode(b"{}\x00")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)

FREQUENT = [
    "conversation.item.input_audio_transcription.delta",
    "response.output_audio.delta",
    "response.output_audio_transcript.delta",
    "response.output_text.delta",
]


def read_or_refuse(frame: str) -> None:
    try:
        event = decode(frame)
    except RemoteProtocolError as exc:
        assert len(str(exc)) < 200
    else:
        assert isinstance(event, ServerEvent)
        repr(event)


@given(JSON)
def test_any_json_is_decoded_or_refused(value: Any) -> None:
    read_or_refuse(json.dumps(value))


@given(st.text())
def test_any_text_is_decoded_or_refused(frame: str) -> None:
    read_or_refuse(frame)


@given(st.sampled_from(EVENTS), st.data(), JSON)
def test_server_event_with_one_replaced_value_is_decoded_or_refused(
    literal: tuple[str, ServerEvent], data: st.DataObject, value: Any
) -> None:
    frame = json.loads(literal[0])
    places = [place for place in _places(frame) if place[1] != "type" or place[0] is not frame]
    container, key = data.draw(st.sampled_from(places)) if places else (frame, "event_id")
    container[key] = value

    read_or_refuse(json.dumps(frame))


@given(st.sampled_from(FREQUENT), st.data(), JSON)
def test_fast_and_tolerant_decoding_of_a_delta_agree(name: str, data: st.DataObject, value: Any) -> None:
    frame = json.loads(next(frame for frame, event in EVENTS if event.type == name))
    frame[data.draw(st.sampled_from([*frame, "event_id", "brand_new"]))] = value

    assert outcome(decode, json.dumps(frame)) == outcome(lambda text: wire.parse(json.loads(text)), json.dumps(frame))


def outcome(read: Callable[[str], ServerEvent], frame: str) -> str:
    try:
        event = read(frame)
    except RemoteProtocolError as exc:
        return str(exc)
    return f"{event!r} {getattr(event, 'delta', None)!r}"  # compared as text, because NaN is not equal to itself


def _places(value: Any) -> list[tuple[Any, Any]]:
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    return [place for key in keys for place in [(value, key), *_places(value[key])]]


@given(st.binary(max_size=64))
def test_audio_round_trips(pcm: bytes) -> None:
    pcm = pcm[: len(pcm) // 2 * 2]
    frame = {"type": "response.output_audio.delta", "delta": base64.b64encode(pcm).decode()}

    event = decode(json.dumps(frame))

    assert isinstance(event, wire.OutputAudioDelta)
    assert event.delta == pcm


def test_audio_is_in_no_repr() -> None:
    assert "AAEC" not in repr(wire.OutputAudioDelta(delta=PCM))
    assert "\\x01" not in repr(wire.OutputAudioDelta(delta=PCM))
    assert "\\x01" not in repr(wire.InputAudioBufferAppend(audio=PCM))
    assert "AAEC" not in repr(Item(type="message", content=(ContentPart(type="input_audio", audio=AUDIO),)))


def test_fields_that_may_hold_a_key_are_in_no_repr() -> None:
    session = {"type": "realtime", "tools": [{"type": "mcp", "authorization": "hush"}]}
    for event in (
        wire.SessionCreated(session=session),
        wire.SessionUpdated(session=session),
        wire.SessionUpdate(session=session, event_id="mine"),
        wire.RawClientEvent(frame={"type": "session.update", "session": session}),
    ):
        assert "hush" not in repr(event)
    assert repr(wire.SessionUpdate(session=session, event_id="mine")) == "SessionUpdate(event_id='mine')"


def test_events_are_frozen_and_compare_by_value() -> None:
    event = wire.OutputTextDelta(delta="It")

    assert event == decode('{"type":"response.output_text.delta","delta":"It"}') != wire.OutputTextDelta(delta="is")
    with pytest.raises(AttributeError):
        event.delta = "is"  # type: ignore[misc]


def test_protocol_does_not_import_numpy_pydantic_or_dataclasses() -> None:
    code = "import sys, appliance.realtime.protocol; print({'numpy', 'pydantic', 'dataclasses'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "set()\n"
