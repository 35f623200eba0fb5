"""Literal frames: each client event encoded once."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.realtime import RealtimeClientEvent

from appliance.errors import LocalProtocolError
from appliance.realtime import protocol as wire
from tests.support.frames import PCM, types_of
from tests.support.oracle import check_client_frame

ITEM = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hé"}]}

SENT: list[tuple[wire.ClientEvent, str]] = [
    (
        wire.SessionUpdate(session={"type": "realtime", "audio": {"input": {"turn_detection": None}}}),
        '{"type":"session.update","session":{"type":"realtime","audio":{"input":{"turn_detection":null}}}}',
    ),
    (wire.InputAudioBufferAppend(audio=PCM), '{"type":"input_audio_buffer.append","audio":"AAECAwQFBgc="}'),
    (
        wire.InputAudioBufferAppend(audio=PCM, event_id="a"),
        '{"type":"input_audio_buffer.append","audio":"AAECAwQFBgc=","event_id":"a"}',
    ),
    (wire.InputAudioBufferCommit(event_id="c"), '{"type":"input_audio_buffer.commit","event_id":"c"}'),
    (wire.InputAudioBufferClear(), '{"type":"input_audio_buffer.clear"}'),
    (
        wire.ConversationItemCreate(item=ITEM, previous_item_id="root"),
        '{"type":"conversation.item.create","item":{"type":"message","role":"user",'
        '"content":[{"type":"input_text","text":"hé"}]},"previous_item_id":"root"}',
    ),
    (
        wire.ConversationItemTruncate(item_id="i", audio_end_ms=0),
        '{"type":"conversation.item.truncate","item_id":"i","audio_end_ms":0,"content_index":0}',
    ),
    (wire.ConversationItemDelete(item_id="i"), '{"type":"conversation.item.delete","item_id":"i"}'),
    (wire.ResponseCreate(), '{"type":"response.create"}'),
    (
        wire.ResponseCreate(event_id="r", response={"metadata": {"turn": "t"}}),
        '{"type":"response.create","event_id":"r","response":{"metadata":{"turn":"t"}}}',
    ),
    (wire.ResponseCancel(), '{"type":"response.cancel"}'),
    (wire.ResponseCancel(response_id="resp_1"), '{"type":"response.cancel","response_id":"resp_1"}'),
    (wire.RawClientEvent(frame={"type": "response.cancel"}), '{"type":"response.cancel"}'),
]


@pytest.mark.parametrize(("event", "frame"), SENT, ids=[type(event).__name__ for event, _ in SENT])
def test_client_event_is_encoded_as_in_the_protocol(event: wire.ClientEvent, frame: str) -> None:
    assert event.encode() == frame
    assert event.to_wire() == json.loads(frame)
    check_client_frame(json.loads(frame))


def test_every_client_event_is_covered() -> None:
    in_the_sdk = types_of(RealtimeClientEvent) - {"conversation.item.retrieve", "output_audio_buffer.clear"}

    assert {type(event).type for event, _ in SENT if type(event).type} == in_the_sdk


def test_session_update_without_a_type_is_a_local_protocol_error() -> None:
    with pytest.raises(LocalProtocolError, match=r"session\.type"):
        wire.SessionUpdate(session={"instructions": "x"})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), b"x"])
def test_value_that_is_not_json_is_a_local_protocol_error(value: object) -> None:
    with pytest.raises(LocalProtocolError, match=r"conversation\.item\.create"):
        wire.ConversationItemCreate(item={"x": value}).encode()


@given(st.text() | st.just("file \udcff name \ud83d"))
def test_any_text_can_be_sent_as_utf8(text: str) -> None:
    frame = wire.ConversationItemCreate(item={"output": text}).encode()

    sent = json.loads(frame.encode())["item"]["output"]
    assert sent == text or any("\ud800" <= ch <= "\udfff" for ch in text)
    assert len(sent) == len(text)


@given(st.binary(min_size=2, max_size=64), st.none() | st.text(min_size=1, max_size=8))
def test_fast_audio_encoding_matches_to_wire(pcm: bytes, event_id: str | None) -> None:
    event = wire.InputAudioBufferAppend(audio=pcm, event_id=event_id)

    assert json.loads(event.encode()) == event.to_wire()
