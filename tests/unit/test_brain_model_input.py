"""The server side of one session: invalid frames, items, turn detection, G.711, expiry and limits."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from appliance.audio.g711 import NarrowbandEncoder
from appliance.brain import model as brain_model
from appliance.brain.client_schema import CLIENT_EVENTS
from appliance.brain.model import MAX_RESPONSES, Close, CodedAudio
from tests.support.brain_frames import LAMP, request_of
from tests.support.served import MS, Served, names, silence, the_error, tone

PIXEL = "data:image/png;base64,iVBORw0KGgo="


@pytest.fixture
def served() -> Served:
    return Served()


# --- invalid frames ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("{", "invalid_json"),
        ("", "invalid_json"),
        ("NaN", "invalid_json"),
        ('{"type": "response.create", "x": NaN}', "invalid_json"),
        ('{"type": "\\ud800"}', "invalid_json"),
        ("[" * 100_000, "invalid_json"),
        ("1" * 10_000, "invalid_json"),
        ("[]", "invalid_event"),
        ('"response.create"', "invalid_event"),
        (b'{"type": "response.create"}', "invalid_event"),
        ("{}", "invalid_event"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_frame_that_is_not_an_event_is_refused_and_the_session_continues(
    served: Served, frame: str | bytes, code: str
) -> None:
    assert the_error(served.raw(frame))["code"] == code
    assert names(served.say("still here")) == ["conversation.item.added", "conversation.item.done"]


def test_event_without_type_is_refused_and_its_id_echoed(served: Served) -> None:
    error = the_error(served.raw('{"event_id": "e1"}'))
    assert (error["message"], error["event_id"]) == ("The 'type' field is missing.", "e1")


@pytest.mark.parametrize("name", ["response.go", "output_audio_buffer.clear", "transcription_session.update", 7, None])
def test_unknown_type_error_lists_the_supported_types(served: Served, name: Any) -> None:
    error = the_error(served.raw(json.dumps({"type": name, "event_id": "e1"})))
    assert (error["code"], error["param"], error["event_id"]) == ("invalid_value", "type", "e1")
    assert all(f"'{known}'" in error["message"] for known in CLIENT_EVENTS)
    assert "'output_audio_buffer.clear'" not in error["message"].partition("Supported")[2]


@pytest.mark.parametrize(
    ("event", "code", "param"),
    [
        ({"type": "input_audio_buffer.append"}, "missing_required_parameter", "audio"),
        ({"type": "input_audio_buffer.append", "audio": 3}, "invalid_type", "audio"),
        ({"type": "input_audio_buffer.append", "audio": ""}, "invalid_value", "audio"),
        ({"type": "input_audio_buffer.append", "audio": "no base64!"}, "invalid_value", "audio"),
        ({"type": "input_audio_buffer.append", "audio": "AAA"}, "invalid_value", "audio"),
        ({"type": "input_audio_buffer.append", "audio": "AA=="}, "invalid_value", "audio"),
        ({"type": "input_audio_buffer.commit", "final": True}, "unknown_parameter", "final"),
        ({"type": "input_audio_buffer.commit", "event_id": "x" * 513}, "string_above_max_length", "event_id"),
        ({"type": "input_audio_buffer.commit", "event_id": 5}, "invalid_type", "event_id"),
        ({"type": "conversation.item.create"}, "missing_required_parameter", "item"),
        ({"type": "conversation.item.delete"}, "missing_required_parameter", "item_id"),
        ({"type": "conversation.item.truncate", "item_id": "x"}, "missing_required_parameter", "content_index"),
        ({"type": "response.create", "response": {"temperature": 1}}, "unknown_parameter", "response.temperature"),
        ({"type": "response.create", "response": {"conversation": "new"}}, "invalid_value", "response.conversation"),
        ({"type": "response.create", "response": {"metadata": {"a": 1}}}, "invalid_type", "response.metadata.a"),
        (
            {"type": "response.create", "response": {"metadata": {str(i): "" for i in range(17)}}},
            "object_above_max_properties",
            "response.metadata",
        ),
        (
            {"type": "response.create", "response": {"metadata": {"a": "x" * 513}}},
            "string_above_max_length",
            "response.metadata.a",
        ),
    ],
)
def test_invalid_event_gets_code_and_param(served: Served, event: dict[str, Any], code: str, param: str) -> None:
    error = the_error(served.raw(json.dumps(event)))
    assert (error["code"], error["param"]) == (code, param)


def test_invalid_and_empty_audio_errors_have_the_text_of_the_live_service(served: Served) -> None:
    bad = the_error(served.send("input_audio_buffer.append", audio="%%%"))["message"]
    empty = the_error(served.send("input_audio_buffer.append", audio=""))["message"]
    assert bad == "Invalid 'audio'. Expected base64-encoded audio bytes (mono PCM16 at 24kHz) but got an invalid value."
    assert empty == "Invalid 'audio'. Expected base64-encoded audio bytes (mono PCM16 at 24kHz) but got empty bytes."


def test_null_event_id_is_accepted(served: Served) -> None:
    assert names(served.send("input_audio_buffer.clear", event_id=None)) == ["input_audio_buffer.cleared"]


def test_null_in_a_response_is_the_value_of_the_session(served: Served) -> None:
    served.update(instructions="Be brief.", tools=[LAMP], max_output_tokens=40)
    served.say("hello")
    keys = "conversation input instructions output_modalities audio tools tool_choice max_output_tokens metadata"
    absent = dict.fromkeys((*keys.split(), "parallel_tool_calls", "prompt", "reasoning"))
    request = request_of(served, served.ask(**absent))
    assert (request.instructions, request.tools, len(request.items)) == ("Be brief.", (LAMP,), 1)
    assert (request.spoken, request.metadata) == (True, {})


@pytest.mark.parametrize(
    "session",
    [
        {"tracing": None},
        {"prompt": None},
        {"include": None},
        {"audio": {"input": {"transcription": None}}},
        {"audio": {"input": {"transcription": {"model": "m", "language": None, "prompt": None}}}},
        {"audio": {"input": {"noise_reduction": None}}},
        {"audio": {"input": {"turn_detection": None}}},
        {"audio": {"input": {"turn_detection": {"type": "server_vad", "idle_timeout_ms": None}}}},
    ],
)
def test_null_clears_what_a_session_may_be_without(served: Served, session: dict[str, Any]) -> None:
    assert names(served.update(**session)) == ["session.updated"]


def test_session_as_the_server_shows_it_can_be_sent_back(served: Served) -> None:
    session = served.created[0]["session"]
    own = {key: one for key, one in session.items() if key not in ("id", "object", "expires_at")}
    assert names(served.update(**own)) == ["session.updated"]


# --- items ------------------------------------------------------------------------------------------------------------


def test_item_is_placed_after_previous_item_id_and_first_for_root(served: Served) -> None:
    first = served.say("first")[0]["item"]["id"]
    served.say("third")
    assert served.say("second", previous_item_id=first)[0]["previous_item_id"] == first
    assert served.say("zeroth", previous_item_id="root")[0]["previous_item_id"] is None
    assert [item["content"][0]["text"] for item in served.model.items] == ["zeroth", "first", "second", "third"]
    error = the_error(served.say("lost", previous_item_id="ghost"))
    assert error["code"] == "item_create_invalid_previous_item_id"
    assert len(served.model.items) == 4


def test_client_may_choose_an_item_id_once(served: Served) -> None:
    item = {"id": "mine", "type": "message", "role": "system", "content": [{"type": "input_text", "text": "x"}]}
    assert served.send("conversation.item.create", item=item)[0]["item"]["id"] == "mine"
    assert the_error(served.send("conversation.item.create", item=item))["param"] == "item.id"


def test_history_can_be_replayed(served: Served) -> None:
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Before."}]}
    call = {"type": "function_call", "name": "set_lamp", "arguments": "{}", "call_id": "call_1"}
    output = {"type": "function_call_output", "call_id": "call_1", "output": "ok"}
    for item in (said, call, output):
        assert len(served.send("conversation.item.create", item=item)) == 2
    assert [item["type"] for item in served.model.items] == ["message", "function_call", "function_call_output"]


def test_image_is_accepted_in_a_user_message(served: Served) -> None:
    content = [{"type": "input_image", "image_url": PIXEL, "detail": "low"}, {"type": "input_text", "text": "What?"}]
    item = {"type": "message", "role": "user", "content": content}
    assert served.send("conversation.item.create", item=item)[0]["item"]["content"] == content
    assert request_of(served, served.ask()).items[0]["content"] == content


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"type": "message", "role": "user", "content": [{"type": "text", "text": "x"}]}, "item.content[0].type"),
        ({"type": "message", "role": "assistant", "content": [{"type": "output_audio"}]}, "item.content[0].type"),
        ({"type": "message", "role": "robot", "content": []}, "item.role"),
        ({"type": "message", "role": "user"}, "item.content"),
        ({"type": "mcp_call", "id": "x"}, "item.type"),
        ({"type": "function_call", "name": "x"}, "item.arguments"),
        ({"type": "item_reference", "id": "x"}, "item.type"),
        (
            {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": "https://x/y.png"}]},
            "item.content[0].image_url",
        ),
        (
            {"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": "!"}]},
            "item.content[0].audio",
        ),
        ({"id": "x" * 33, "type": "message", "role": "user", "content": []}, "item.id"),
    ],
)
def test_invalid_item_is_refused(served: Served, item: dict[str, Any], param: str) -> None:
    assert the_error(served.send("conversation.item.create", item=item))["param"] == param
    assert served.model.items == ()


def test_truncate_cuts_the_audio_and_removes_the_transcript(served: Served) -> None:
    item_id = served.spoken_answer(1000, "Never heard to the end.")
    frames = served.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=250)
    assert names(frames) == ["conversation.item.truncated"]
    retrieved = served.send("conversation.item.retrieve", item_id=item_id)[0]["item"]["content"][0]
    assert retrieved["transcript"] is None
    assert base64.b64decode(retrieved["audio"]) == tone(1000)[: 250 * MS]
    assert "Never" not in json.dumps(request_of(served, served.ask()).items)


def test_truncated_answer_keeps_no_later_text_or_audio(served: Served) -> None:
    response_id = served.ask()
    item_id = served.speak(response_id, "One. ", 1000)[0]["item"]["id"]
    served.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=500)
    served.speak(response_id, "Two.", 1000)
    served.finish(response_id)
    retrieved = served.send("conversation.item.retrieve", item_id=item_id)[0]["item"]["content"][0]
    assert (retrieved["transcript"], len(base64.b64decode(retrieved["audio"]))) == (None, 500 * MS)


def test_truncate_refuses_invalid_arguments(served: Served) -> None:
    user = served.say("hi")[0]["item"]["id"]
    spoken = served.spoken_answer(1000)

    def cut(item_id: str, index: int, end_ms: Any) -> dict[str, Any]:
        return the_error(
            served.send("conversation.item.truncate", item_id=item_id, content_index=index, audio_end_ms=end_ms)
        )

    assert cut(spoken, 0, 57340)["message"] == "Audio content of 1000ms is already shorter than 57340ms"
    assert cut(spoken, 0, 57340)["code"] is None
    assert cut(user, 0, 0)["message"] == "Only model output audio messages can be truncated"
    assert cut("ghost", 0, 0)["code"] == "item_truncate_invalid_item_id"
    assert cut(spoken, 1, 0)["param"] == "content_index"
    assert cut(spoken, 0, -1)["code"] == "integer_below_min_value"
    assert cut(spoken, 0, 12.5)["code"] == "invalid_type"


def test_delete_and_retrieve_refuse_an_unknown_item(served: Served) -> None:
    for doing, verb in (("delete", "deleting"), ("retrieve", "retrieving")):
        error = the_error(served.send(f"conversation.item.{doing}", item_id="ghost"))
        assert error["code"] == f"item_{doing}_invalid_item_id"
        assert error["message"] == f"Error {verb} item: the item with id 'ghost' does not exist."


def test_response_does_not_wait_for_a_deleted_item(served: Served) -> None:
    served.append(tone(200))
    item_id = served.send("input_audio_buffer.commit")[0]["item_id"]
    response_id = served.ask()
    assert names(served.send("conversation.item.delete", item_id=item_id)) == ["conversation.item.deleted"]
    assert response_id in served.generating
    assert served.hear(item_id, "too late") == []
    assert served.model.items == ()


def test_answer_deleted_while_streaming_ends_without_a_conversation_event(served: Served) -> None:
    response_id = served.ask()
    item_id = served.speak(response_id, "x", 100)[0]["item"]["id"]
    served.send("conversation.item.delete", item_id=item_id)
    assert "conversation.item.done" not in names(served.finish(response_id))


# --- turn detection ---------------------------------------------------------------------------------------------------


def in_pieces(served: Served, pcm: bytes, piece_ms: int = 30) -> list[dict[str, Any]]:
    step = piece_ms * MS
    return [frame for at in range(0, len(pcm), step) for frame in served.append(pcm[at : at + step])]


def with_vad(**turns: Any) -> Served:
    served = Served(push_to_talk=False)
    served.update(audio={"input": {"turn_detection": {"type": "server_vad", **turns}}})
    return served


def test_server_vad_turn_has_the_event_order_of_the_reference() -> None:
    served = with_vad()
    assert in_pieces(served, silence(1000)) == []
    frames = in_pieces(served, tone(600) + silence(700))
    assert names(frames) == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
    ]
    assert len({frame["item_id"] for frame in frames if "item_id" in frame}) == 1
    assert frames[0]["audio_start_ms"] == 700, "speech at 1,000 ms less 300 ms of padding"
    assert frames[1]["audio_end_ms"] == 2100, "1,600 ms and 500 ms of silence"
    heard = served.to_transcribe[frames[0]["item_id"]].pcm
    assert heard == silence(300) + tone(600) + silence(500)


def test_two_turns_in_one_append_are_two_items() -> None:
    served = with_vad(create_response=False)
    frames = served.append((tone(400) + silence(800)) * 2)
    assert names(frames).count("input_audio_buffer.committed") == 2
    assert "response.created" not in names(frames)
    assert len(served.to_transcribe) == 2


def test_speech_interrupts_the_answer() -> None:
    served = with_vad()
    response_id = served.ask()
    served.speak(response_id, "A long story", 400)
    frames = in_pieces(served, tone(200))
    assert frames[0]["type"] == "input_audio_buffer.speech_started"
    assert frames[-1]["response"]["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
    assert served.stopped == [response_id]


def test_speech_without_interrupt_response_keeps_the_answer_and_starts_no_second_one() -> None:
    served = with_vad(interrupt_response=False)
    response_id = served.ask()
    frames = in_pieces(served, tone(300) + silence(700))
    assert the_error(frames[-1:])["code"] == "conversation_already_has_active_response"
    assert served.model.running == (response_id,)


def test_click_is_not_speech_and_the_threshold_applies() -> None:
    assert in_pieces(with_vad(), tone(40) + silence(600)) == []
    quiet = tone(500, level=400)  # -38 dBFS
    assert "input_audio_buffer.speech_started" in names(in_pieces(with_vad(), quiet))
    assert in_pieces(with_vad(threshold=0.9), quiet) == []


@pytest.mark.parametrize(("eagerness", "silence_ms"), [("high", 400), ("auto", 800), ("low", 1500)])
def test_semantic_vad_maps_eagerness_to_silence(eagerness: str, silence_ms: int) -> None:
    served = Served(push_to_talk=False)
    served.update(audio={"input": {"turn_detection": {"type": "semantic_vad", "eagerness": eagerness}}})
    frames = in_pieces(served, tone(600) + silence(2000), piece_ms=20)
    stopped = next(frame for frame in frames if frame["type"] == "input_audio_buffer.speech_stopped")
    assert stopped["audio_end_ms"] == 600 + silence_ms


def test_client_may_commit_during_speech() -> None:
    served = with_vad()
    started = in_pieces(served, tone(500))
    committed = served.send("input_audio_buffer.commit")
    assert committed[0]["item_id"] == started[0]["item_id"]
    assert in_pieces(served, silence(1000)) == []


def test_silence_kept_before_speech_is_bounded() -> None:
    served = with_vad()
    for _ in range(4):
        served.append(silence(30_000))
    served.send("input_audio_buffer.commit")
    (item,) = served.to_transcribe.values()
    assert len(item.pcm) == 60_000 * MS


def test_idle_timeout_runs_from_the_end_of_playback() -> None:
    served = with_vad(idle_timeout_ms=5000)
    served.append(silence(400))
    served.spoken_answer(2000)
    served.append(silence(600))
    assert served.model.deadline == served.now + 7.0
    assert served.pass_time(6.9) == []
    frames = served.pass_time(0.2)
    assert names(frames) == [
        "input_audio_buffer.timeout_triggered",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
    ]
    assert (frames[0]["audio_start_ms"], frames[0]["audio_end_ms"]) == (400, 1000)
    assert served.to_transcribe == {}
    assert len(served.generating) == 1


def test_speech_cancels_the_idle_timeout() -> None:
    served = with_vad(idle_timeout_ms=5000)
    served.spoken_answer(1000)
    in_pieces(served, tone(200))
    assert served.pass_time(60) == []


# --- G.711 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", ["audio/pcmu", "audio/pcma"])
def test_g711_session_decodes_its_input_and_encodes_its_output(served: Served, law: str) -> None:
    served.update(audio={"input": {"format": {"type": law}}, "output": {"format": {"type": law}}})
    quiet = 0xFF if law == "audio/pcmu" else 0xD5
    served.append(bytes([quiet]) * 8000)
    item_id = served.send("input_audio_buffer.commit")[0]["item_id"]
    assert len(served.to_transcribe[item_id].pcm) == 1000 * MS
    served.hear(item_id, "x")
    response_id = served.ask()
    frames = [*served.speak(response_id, "x", 500), *served.speak(response_id, "", 500), *served.finish(response_id)]
    coded = b"".join(base64.b64decode(one["delta"]) for one in frames if one["type"] == "response.output_audio.delta")
    assert abs(len(coded) - 8000) <= 8
    answer_id = frames[0]["item"]["id"]
    assert names(served.send("conversation.item.truncate", item_id=answer_id, content_index=0, audio_end_ms=1000)) == [
        "conversation.item.truncated"
    ]


# --- expiry -----------------------------------------------------------------------------------------------------------


def test_session_expires_after_sixty_minutes(served: Served) -> None:
    response_id = served.ask()
    assert served.pass_time(3599) == []
    frames = served.pass_time(1)
    assert the_error(frames)["code"] == "session_expired"
    assert served.closed == Close(1001, "Your session hit the maximum duration of 60 minutes.")
    assert served.stopped == [response_id]
    assert served.model.deadline is None
    assert served.say("anyone?") == []
    assert served.finish(response_id) == []


# --- limits -----------------------------------------------------------------------------------------------------------


def test_a_further_response_of_a_full_session_is_refused_and_the_next_is_accepted_after_one_is_done() -> None:
    served = Served()
    out_of_band: dict[str, Any] = {"conversation": "none"}
    first, *_ = [served.ask(**out_of_band) for _ in range(MAX_RESPONSES)]
    error = the_error(served.send("response.create", event_id="one more", response=out_of_band))
    assert (error["code"], error["event_id"]) == ("rate_limit_exceeded", "one more")
    assert f"{MAX_RESPONSES} responses in progress" in error["message"]
    assert len(served.generating) == MAX_RESPONSES
    served.finish(first)
    served.ask(**out_of_band)


def test_a_response_for_which_the_server_has_no_room_is_refused() -> None:
    room = False
    served = Served(may_respond=lambda: room)
    assert the_error(served.send("response.create"))["code"] == "rate_limit_exceeded"
    assert not served.generating
    room = True
    served.ask()


def test_items_beyond_the_maximum_are_refused_until_some_are_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brain_model, "MAX_ITEMS", 3)
    served = Served()
    first = served.say("one")[0]["item"]["id"]
    served.say("two")
    served.say("three")
    assert the_error(served.say("four"))["code"] == "conversation_full"
    assert the_error(served.send("response.create"))["code"] == "conversation_full"
    served.append(tone(200))
    assert the_error(served.send("input_audio_buffer.commit"))["code"] == "conversation_full"
    served.send("conversation.item.delete", item_id=first)
    assert names(served.send("input_audio_buffer.commit"))[0] == "input_audio_buffer.committed"


def test_images_beyond_the_maximum_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brain_model, "MAX_ITEM_BYTES", 10_000)
    served = Served()
    item = {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": PIXEL + "A" * 4000}]}
    for _ in range(2):
        assert "conversation.item.added" in names(served.send("conversation.item.create", item=item))
    assert the_error(served.send("conversation.item.create", item=item))["code"] == "conversation_full"
    own = {"conversation": "none", "input": [item]}
    assert the_error(served.send("response.create", response=own))["code"] == "conversation_full"
    assert len(served.model.items) == 2


def test_oldest_audio_makes_room_for_new_speech_and_keeps_its_transcript(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brain_model, "MAX_ITEM_BYTES", 2500 * MS)
    served = Served()
    served.update(audio={"input": {"transcription": {"model": "m"}}})
    spoken = []
    for text in ("one", "two", "three"):
        served.append(tone(1000))
        spoken.append(served.send("input_audio_buffer.commit")[0]["item_id"])
        served.hear(spoken[-1], text)
    retrieved = [served.send("conversation.item.retrieve", item_id=one)[0]["item"]["content"][0] for one in spoken]
    assert [len(base64.b64decode(one["audio"])) // MS for one in retrieved] == [0, 1000, 1000]
    assert [one["transcript"] for one in retrieved] == ["one", "two", "three"]


def test_only_the_newest_two_minutes_of_audio_are_kept() -> None:
    served = Served()
    spoken = []
    for _ in range(12):
        served.append(tone(30_000))
        spoken.append(served.send("input_audio_buffer.commit")[0]["item_id"])
    retrieved = [served.send("conversation.item.retrieve", item_id=one)[0]["item"]["content"][0] for one in spoken]
    assert [len(base64.b64decode(one["audio"])) // MS for one in retrieved] == [0] * 8 + [30_000] * 4


def test_audio_longer_than_what_is_kept_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brain_model, "MAX_AUDIO_BYTES", 1000 * MS)
    served = Served()
    for _ in range(2):
        served.append(tone(2000))
        item_id = served.send("input_audio_buffer.commit")[0]["item_id"]
        content = served.send("conversation.item.retrieve", item_id=item_id)[0]["item"]["content"]
        assert len(base64.b64decode(content[0]["audio"])) // MS == 2000


def test_turn_that_does_not_fit_is_an_error_and_the_session_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brain_model, "MAX_ITEMS", 1)
    served = Served(push_to_talk=False)
    item_id = served.say("one")[0]["item"]["id"]
    frames = served.append(tone(500) + silence(800))
    assert names(frames)[-1] == "error"
    assert frames[-1]["error"]["code"] == "conversation_full"
    served.send("conversation.item.delete", item_id=item_id)
    assert "input_audio_buffer.committed" in names(served.append(tone(500) + silence(800)))


@pytest.mark.parametrize("wire_format", ["audio/pcm", "audio/pcmu", "audio/pcma"])
@pytest.mark.parametrize("size", [0, 2, 95_998, 96_000, 96_002, 300_000])
def test_slices_of_coded_audio_join_to_its_base64(wire_format: str, size: int) -> None:
    pcm = tone(10_000)[:size]
    text = str(CodedAudio(pcm, {"type": wire_format}))
    if wire_format == "audio/pcm":
        assert text == base64.b64encode(pcm).decode()
    else:
        encoder = NarrowbandEncoder(wire_format)
        assert base64.b64decode(text, validate=True) == encoder.encode(pcm) + encoder.flush()
