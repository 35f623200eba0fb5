"""The server side of one session, event by event; `Served` checks every emitted frame against the oracle."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from tests.support.brain_frames import LAMP, request_of
from tests.support.served import MS, Served, names, silence, the_error, tone


@pytest.fixture
def served() -> Served:
    return Served()


# --- connecting and configuring ---------------------------------------------------------------------------------------


def test_session_created_is_the_first_frame_with_its_keys_in_the_recorded_order() -> None:
    created = Served(wall_s=1_800_000_000).created[0]
    assert created["type"] == "session.created"
    session = created["session"]
    assert list(session) == [
        "type",
        "object",
        "id",
        "model",
        "output_modalities",
        "instructions",
        "tools",
        "tool_choice",
        "max_output_tokens",
        "tracing",
        "truncation",
        "prompt",
        "expires_at",
        "audio",
        "include",
    ]
    assert list(session["audio"]["input"]) == ["format", "transcription", "noise_reduction", "turn_detection"]
    assert list(session["audio"]["output"]) == ["format", "voice", "speed"]
    assert session["expires_at"] == 1_800_003_600
    assert session["audio"]["input"]["turn_detection"]["type"] == "server_vad"


def test_update_changes_the_given_keys_and_keeps_the_rest(served: Served) -> None:
    frames = served.update(instructions="Be brief.", audio={"output": {"speed": 1.25}}, tools=[LAMP])
    session = frames[0]["session"]
    assert names(frames) == ["session.updated"]
    assert (session["instructions"], session["tools"]) == ("Be brief.", [LAMP])
    assert session["audio"]["output"] == {
        "format": {"type": "audio/pcm", "rate": 24000},
        "voice": "marin",
        "speed": 1.25,
    }
    assert session["audio"]["input"]["turn_detection"] is None


def test_update_clears_with_empty_values_and_null(served: Served) -> None:
    served.update(instructions="x", tools=[LAMP], audio={"input": {"transcription": {"model": "m", "language": "en"}}})
    session = served.update(instructions="", tools=[], audio={"input": {"transcription": None}})[0]["session"]
    assert (session["instructions"], session["tools"]) == ("", [])
    assert session["audio"]["input"]["transcription"] is None


def test_turn_detection_of_the_same_type_is_merged_and_of_another_type_gets_its_defaults() -> None:
    served = Served(push_to_talk=False)
    turns = {"turn_detection": {"type": "server_vad", "threshold": 0.7}}
    served.update(audio={"input": turns})
    turns = {"turn_detection": {"type": "server_vad", "silence_duration_ms": 900}}
    merged = served.update(audio={"input": turns})[0]["session"]["audio"]["input"]["turn_detection"]
    assert (merged["threshold"], merged["silence_duration_ms"]) == (0.7, 900)
    semantic = served.update(audio={"input": {"turn_detection": {"type": "semantic_vad", "eagerness": "high"}}})
    assert semantic[0]["session"]["audio"]["input"]["turn_detection"] == {
        "type": "semantic_vad",
        "eagerness": "high",
        "create_response": True,
        "interrupt_response": True,
    }


def test_noise_reduction_keeps_its_strength_until_its_type_changes(served: Served) -> None:
    def set_to(value: dict[str, Any]) -> Any:
        return served.update(audio={"input": {"noise_reduction": value}})[0]["session"]["audio"]["input"][
            "noise_reduction"
        ]

    set_to({"type": "near_field", "strength": 0.5})
    assert set_to({"type": "near_field"}) == {"type": "near_field", "strength": 0.5}
    assert set_to({"type": "far_field"}) == {"type": "far_field"}


def test_other_model_in_an_update_is_ignored(served: Served) -> None:
    assert served.update(model="another")[0]["session"]["model"] == "gpt-realtime-2.1"


def test_unknown_key_refuses_the_whole_update(served: Served) -> None:
    error = the_error(served.update(instructions="changed", voice="alloy"))
    assert (error["code"], error["param"]) == ("unknown_parameter", "session.voice")
    assert error["message"] == "Unknown parameter: 'session.voice'."
    assert served.update()[0]["session"]["instructions"] != "changed"


@pytest.mark.parametrize(
    ("session", "code", "param"),
    [
        ({"audio": {"input": {"format": "pcm16"}}}, "invalid_type", "session.audio.input.format"),
        ({"audio": {"input": {"format": {"type": "pcm16"}}}}, "invalid_value", "session.audio.input.format.type"),
        (
            {"audio": {"input": {"format": {"type": "audio/pcm", "rate": 8000}}}},
            "integer_below_min_value",
            "session.audio.input.format.rate",
        ),
        (
            {"audio": {"input": {"turn_detection": {"type": "server_vad", "threshold": 1.5}}}},
            "decimal_above_max_value",
            "session.audio.input.turn_detection.threshold",
        ),
        (
            {"audio": {"input": {"turn_detection": {"type": "server_vad", "idle_timeout_ms": 4999}}}},
            "integer_below_min_value",
            "session.audio.input.turn_detection.idle_timeout_ms",
        ),
        (
            {"audio": {"input": {"turn_detection": {"threshold": 0.5}}}},
            "missing_required_parameter",
            "session.audio.input.turn_detection.type",
        ),
        ({"audio": {"input": {"noise": None}}}, "unknown_parameter", "session.audio.input.noise"),
        ({"audio": {"output": {"speed": 2}}}, "decimal_above_max_value", "session.audio.output.speed"),
        ({"audio": {"output": {"speed": "fast"}}}, "invalid_type", "session.audio.output.speed"),
        ({"output_modalities": ["text", "audio"]}, "invalid_value", "session.output_modalities"),
        ({"output_modalities": ["smell"]}, "invalid_value", "session.output_modalities[0]"),
        ({"max_output_tokens": 0}, "integer_below_min_value", "session.max_output_tokens"),
        ({"max_output_tokens": "many"}, "invalid_value", "session.max_output_tokens"),
        ({"max_output_tokens": True}, "invalid_type", "session.max_output_tokens"),
        ({"instructions": None}, "invalid_type", "session.instructions"),
        ({"tools": [{"type": "function"}]}, "missing_required_parameter", "session.tools[0].name"),
        ({"tools": [{"type": "function", "function": {}}]}, "unknown_parameter", "session.tools[0].function"),
        ({"tools": [{"name": "x"}]}, "missing_required_parameter", "session.tools[0].type"),
        ({"tools": [{"type": 3}]}, "invalid_type", "session.tools[0].type"),
        ({"tools": LAMP}, "invalid_type", "session.tools"),
        ({"tool_choice": "maybe"}, "invalid_value", "session.tool_choice"),
        ({"tool_choice": {"type": "function"}}, "missing_required_parameter", "session.tool_choice.name"),
        ({"truncation": {"type": "retention_ratio", "retention_ratio": 2}}, "decimal_above_max_value", None),
        ({"reasoning": {"effort": "heroic"}}, "invalid_value", "session.reasoning.effort"),
        ({"include": ["everything"]}, "invalid_value", "session.include[0]"),
        ({"id": "sess_2"}, "unknown_parameter", "session.id"),
        ({"temperature": 0.8}, "unknown_parameter", "session.temperature"),
        ({"type": "transcription"}, "invalid_value", "session.type"),
    ],
)
def test_invalid_update_gets_code_and_param(served: Served, session: dict[str, Any], code: str, param: str) -> None:
    before = served.update()[0]["session"]
    error = the_error(served.send("session.update", session={"type": "realtime", **session}, event_id="mine"))
    assert (error["code"], error["event_id"]) == (code, "mine")
    assert error["param"] == param or param is None
    assert served.update()[0]["session"] == before


MCP = {"type": "mcp", "server_label": "notes", "server_url": "https://notes.example/mcp"}


def test_tool_of_an_unknown_type_is_refused_and_the_rest_of_the_update_applies(served: Served) -> None:
    tools = [MCP, LAMP, {"type": "web_search"}]
    frames = served.send(
        "session.update", event_id="e1", session={"type": "realtime", "instructions": "Be brief.", "tools": tools}
    )
    assert names(frames) == ["session.updated", "error", "error"]
    assert (frames[0]["session"]["instructions"], frames[0]["session"]["tools"]) == ("Be brief.", [LAMP])
    errors = [frame["error"] for frame in frames[1:]]
    assert [one["param"] for one in errors] == ["session.tools[0].type", "session.tools[2].type"]
    assert errors[0]["message"] == "Invalid value: 'mcp'. Supported values are: 'function'."
    assert [one["event_id"] for one in errors] == [None, None], "the update itself was not refused"


def test_tool_of_an_unknown_type_is_left_out_of_a_response(served: Served) -> None:
    frames = served.send("response.create", response={"tools": [MCP, LAMP]})
    assert names(frames) == ["response.created", "error"]
    assert frames[1]["error"]["param"] == "response.tools[0].type"
    assert request_of(served, frames[0]["response"]["id"]).tools == (LAMP,)


def test_sample_rate_error_has_the_text_of_the_live_service(served: Served) -> None:
    error = the_error(served.update(audio={"input": {"format": {"type": "audio/pcm", "rate": 8000}}}))
    assert error["message"] == (
        "Invalid 'session.audio.input.format.rate': integer below minimum value. "
        "Expected a value >= 24000, but got 8000 instead."
    )


def test_session_type_is_required(served: Served) -> None:
    error = the_error(served.send("session.update", session={"instructions": "x"}))
    assert (error["code"], error["param"]) == ("missing_required_parameter", "session.type")
    assert error["message"] == "Missing required parameter: 'session.type'."


def test_voice_cannot_change_after_the_first_audio(served: Served) -> None:
    assert names(served.update(audio={"output": {"voice": "cedar"}})) == ["session.updated"]
    served.spoken_answer()
    error = the_error(served.update(audio={"output": {"voice": "ash"}}))
    assert error["code"] == "cannot_update_voice"
    assert names(served.update(audio={"output": {"voice": "cedar"}})) == ["session.updated"]


def test_enabled_tracing_can_only_be_disabled(served: Served) -> None:
    assert names(served.update(tracing="auto")) == ["session.updated"]
    assert names(served.update(tracing="auto")) == ["session.updated"]
    assert the_error(served.update(tracing={"workflow_name": "x"}))["param"] == "session.tracing"
    assert served.update(tracing=None)[0]["session"]["tracing"] is None


# --- push to talk -----------------------------------------------------------------------------------------------------


def test_push_to_talk_turn_has_the_event_order_of_the_reference(served: Served) -> None:
    assert names(served.send("input_audio_buffer.clear")) == ["input_audio_buffer.cleared"]
    assert served.append(tone(500)) == []
    committed = served.send("input_audio_buffer.commit")
    assert names(committed) == ["input_audio_buffer.committed", "conversation.item.added", "conversation.item.done"]
    item_id = committed[0]["item_id"]
    assert committed[1]["item"] == {
        "id": item_id,
        "type": "message",
        "status": "completed",
        "role": "user",
        "content": [{"type": "input_audio", "transcript": None}],
    }
    assert served.to_transcribe[item_id].pcm == tone(500)
    response_id = served.ask(metadata={"turn": "1"})
    assert served.generating == {}, "generation waits for the transcript"
    assert served.hear(item_id, "hello") == [], "the client did not enable transcription"
    request = request_of(served, response_id)
    assert request.items[0]["content"] == [{"type": "input_audio", "transcript": "hello"}]
    assert (request.spoken, request.metadata) == (True, {"turn": "1"})
    started = served.speak(response_id, "Good day.", 300)
    assert names(started) == [
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        "response.output_audio_transcript.delta",
        "response.output_audio.delta",
    ]
    assert started[0]["item"]["status"] == "in_progress"
    assert started[0]["item"]["content"] == []
    assert started[1]["previous_item_id"] == item_id
    assert started[2]["part"] == {"type": "audio", "transcript": ""}
    assert base64.b64decode(started[4]["delta"]) == tone(300)
    ended = served.finish(response_id)
    assert names(ended) == [
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
    ]
    done = ended[-1]["response"]
    assert (done["status"], done["metadata"]) == ("completed", {"turn": "1"})
    assert done["output"][0]["content"] == [{"type": "output_audio", "transcript": "Good day."}]


def test_transcript_is_emitted_if_transcription_is_enabled(served: Served) -> None:
    served.update(audio={"input": {"transcription": {"model": "gpt-transcribe"}}})
    served.append(tone(1000))
    item_id = served.send("input_audio_buffer.commit")[0]["item_id"]
    frames = served.hear(item_id, "turn it on")
    assert [frame["type"].rpartition(".")[2] for frame in frames] == ["delta", "completed"]
    assert frames[1]["transcript"] == "turn it on"
    assert frames[1]["usage"]["input_token_details"]["audio_tokens"] == 10
    retrieved = served.send("conversation.item.retrieve", item_id=item_id)[0]["item"]
    assert retrieved["content"][0]["transcript"] == "turn it on"
    assert base64.b64decode(retrieved["content"][0]["audio"]) == tone(1000)


def test_failed_transcription_is_emitted_and_the_response_continues(served: Served) -> None:
    served.update(audio={"input": {"transcription": {"model": "gpt-transcribe"}}})
    served.append(tone(200))
    item_id = served.send("input_audio_buffer.commit")[0]["item_id"]
    response_id = served.ask()
    frames = served.do(served.model.transcription_failed(item_id, "no engine"))
    assert names(frames) == ["conversation.item.input_audio_transcription.failed"]
    assert frames[0]["error"]["message"] == "no engine"
    assert request_of(served, response_id).items[0]["content"][0]["transcript"] is None


def test_transcript_may_arrive_after_the_answer_without_waiting() -> None:
    served = Served(wait_for_transcripts=False)
    served.update(audio={"input": {"transcription": {"model": "m"}}})
    served.append(tone(200))
    item_id = served.send("input_audio_buffer.commit")[0]["item_id"]
    response_id = served.ask()
    assert response_id in served.generating
    served.speak(response_id, "Yes.", 100)
    served.finish(response_id)
    assert len(served.hear(item_id, "late")) == 2


def test_commit_below_100_ms_is_refused_and_keeps_the_buffer(served: Served) -> None:
    error = the_error(served.send("input_audio_buffer.commit", event_id="c1"))
    assert (error["code"], error["event_id"]) == ("input_audio_buffer_commit_empty", "c1")
    assert error["message"].endswith("Expected at least 100ms of audio, but buffer only has 0.00ms of audio.")
    served.append(silence(99))
    assert "99.00ms" in the_error(served.send("input_audio_buffer.commit"))["message"]
    served.append(silence(1))
    assert names(served.send("input_audio_buffer.commit"))[0] == "input_audio_buffer.committed"
    assert served.send("input_audio_buffer.commit")[0]["type"] == "error", "a commit empties the buffer"


def test_clear_empties_the_buffer(served: Served) -> None:
    served.append(tone(500))
    served.send("input_audio_buffer.clear")
    assert the_error(served.send("input_audio_buffer.commit"))["code"] == "input_audio_buffer_commit_empty"


def test_uncommitted_buffer_is_bounded(served: Served) -> None:
    for _ in range(10):
        assert served.append(bytes(60_000 * MS)) == []
    assert the_error(served.append(bytes(MS)))["code"] == "input_audio_buffer_full"
    assert names(served.send("input_audio_buffer.clear")) == ["input_audio_buffer.cleared"]


def test_text_answer_uses_the_text_events(served: Served) -> None:
    served.say("hi")
    response_id = served.ask(output_modalities=["text"])
    assert request_of(served, response_id).spoken is False
    started = served.write(response_id, "Hello ")
    assert started[2]["part"] == {"type": "text", "text": ""}
    assert names(served.write(response_id, "you.")) == ["response.output_text.delta"]
    ended = served.finish(response_id)
    assert names(ended)[:2] == ["response.output_text.done", "response.content_part.done"]
    assert ended[0]["text"] == "Hello you."
    assert ended[-1]["response"]["output"][0]["content"] == [{"type": "output_text", "text": "Hello you."}]


def test_response_without_output_is_still_done(served: Served) -> None:
    assert names(served.finish(served.ask())) == ["response.done"]


# --- responses --------------------------------------------------------------------------------------------------------


def test_function_call_has_the_event_order_of_the_reference(served: Served) -> None:
    served.update(tools=[LAMP])
    response_id = served.ask()
    assert request_of(served, response_id).tools == (LAMP,)
    frames = served.call(response_id, "set_lamp", '{"on":true}')
    assert names(frames) == [
        "response.output_item.added",
        "conversation.item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "conversation.item.done",
        "response.output_item.done",
    ]
    assert (frames[0]["item"]["status"], frames[0]["item"]["arguments"]) == ("in_progress", "")
    assert frames[3]["name"] == "set_lamp"
    call = frames[-1]["item"]
    assert (call["status"], call["arguments"]) == ("completed", '{"on":true}')
    assert served.finish(response_id)[-1]["response"]["output"] == [call]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": '{"ok":true}'}
    assert names(served.send("conversation.item.create", item=output)) == [
        "conversation.item.added",
        "conversation.item.done",
    ]
    items = request_of(served, served.ask()).items
    assert [item["type"] for item in items] == ["function_call", "function_call_output"]


def test_call_closes_the_message_before_it(served: Served) -> None:
    served.update(tools=[LAMP])
    response_id = served.ask()
    served.speak(response_id, "One moment.", 200)
    frames = served.call(response_id, "set_lamp", "{}")
    assert names(frames)[:6] == [
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.output_item.added",
    ]
    assert [frame["output_index"] for frame in frames if "output_index" in frame] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert [item["type"] for item in served.finish(response_id)[-1]["response"]["output"]] == [
        "message",
        "function_call",
    ]


def test_output_of_an_unknown_call_is_refused(served: Served) -> None:
    output = {"type": "function_call_output", "call_id": "call_x", "output": "1"}
    assert the_error(served.send("conversation.item.create", item=output))["code"] == "invalid_tool_call_id"


def test_second_response_is_refused_while_one_is_active(served: Served) -> None:
    response_id = served.ask()
    error = the_error(served.send("response.create", event_id="r2"))
    assert (error["code"], error["event_id"]) == ("conversation_already_has_active_response", "r2")
    assert response_id in error["message"]
    served.finish(response_id)
    assert served.ask() != response_id


def test_cancel_closes_every_open_part_and_leaves_an_incomplete_item(served: Served) -> None:
    response_id = served.ask()
    served.speak(response_id, "A long story", 400)
    frames = served.send("response.cancel")
    assert names(frames) == [
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
    ]
    assert frames[-1]["response"]["status_details"] == {"type": "cancelled", "reason": "client_cancelled"}
    assert frames[-2]["item"]["status"] == "incomplete"
    assert frames[-1]["response"]["usage"]["output_token_details"]["audio_tokens"] == 8
    assert served.stopped == [response_id]
    assert served.speak(response_id, "more", 100) == []
    assert served.call(response_id, "set_lamp", "{}") == []
    assert served.finish(response_id) == []
    assert served.fail(response_id, "late") == []


def test_response_cancelled_before_generation_emits_no_stop(served: Served) -> None:
    served.append(tone(200))
    item_id = served.send("input_audio_buffer.commit")[0]["item_id"]
    response_id = served.ask()
    assert names(served.send("response.cancel", response_id=response_id)) == ["response.done"]
    served.hear(item_id, "too late")
    assert (served.generating, served.stopped) == ({}, [])


@pytest.mark.parametrize("keys", [{}, {"response_id": "resp_unknown"}])
def test_cancel_without_an_active_response_is_an_error(served: Served, keys: dict[str, str]) -> None:
    error = the_error(served.send("response.cancel", **keys))
    assert error["code"] == "response_cancel_not_active"
    assert error["message"] == "Cancellation failed: no active response found"


def test_failed_response_carries_its_error_and_the_session_continues(served: Served) -> None:
    response_id = served.ask()
    done = served.fail(response_id, "flite is not installed")[-1]["response"]
    assert done["status"] == "failed"
    assert done["status_details"]["error"]["message"] == "flite is not installed"
    assert served.ask() != response_id


def test_response_over_max_output_tokens_ends_as_incomplete(served: Served) -> None:
    response_id = served.ask(max_output_tokens=10)
    assert "response.done" not in names(served.speak(response_id, "", 500))
    frames = served.speak(response_id, "", 500)
    assert frames[-1]["response"]["status_details"] == {"type": "incomplete", "reason": "max_output_tokens"}
    assert served.stopped == [response_id]


def test_usage_counts_audio_tokens_like_the_live_service(served: Served) -> None:
    served.update(instructions="")
    served.append(tone(5850))
    served.hear(served.send("input_audio_buffer.commit")[0]["item_id"], "a long question")
    response_id = served.ask()
    served.speak(response_id, "x" * 164, 7300)
    usage = served.finish(response_id)[-1]["response"]["usage"]
    assert usage["input_token_details"]["audio_tokens"] == 58
    assert usage["output_token_details"] == {"text_tokens": 41, "audio_tokens": 146}
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["input_tokens"] == 58


def test_response_settings_override_the_session_for_that_response_only(served: Served) -> None:
    served.update(instructions="session", tools=[LAMP])
    own = {"type": "function", "name": "own", "parameters": {}}
    response_id = served.ask(instructions="own", tools=[own], tool_choice={"type": "function", "name": "own"})
    request = request_of(served, response_id)
    assert (request.instructions, request.tools) == ("own", (own,))
    served.finish(response_id)
    request = request_of(served, served.ask())
    assert (request.instructions, request.tools, request.tool_choice) == ("session", (LAMP,), "auto")


def test_tool_choice_with_an_unknown_tool_is_refused(served: Served) -> None:
    response = {"tool_choice": {"type": "function", "name": "ghost"}}
    assert the_error(served.send("response.create", response=response))["param"] == "tool_choice"
    assert served.model.running == ()


# --- out of band ------------------------------------------------------------------------------------------------------


def test_out_of_band_response_runs_in_parallel_and_adds_no_item(served: Served) -> None:
    served.say("hi")
    default = served.ask()
    aside = served.ask(conversation="none", output_modalities=["text"], metadata={"topic": "x"})
    frames = served.write(aside, "aside") + served.finish(aside)
    assert not [name for name in names(frames) if name.startswith("conversation.")]
    done = frames[-1]["response"]
    assert (done["conversation_id"], done["metadata"]) == (None, {"topic": "x"})
    assert [item["role"] for item in served.model.items] == ["user"]
    assert served.model.running == (default,)


def test_out_of_band_response_is_cancelled_only_by_its_id(served: Served) -> None:
    aside = served.ask(conversation="none")
    assert the_error(served.send("response.cancel"))["code"] == "response_cancel_not_active"
    assert names(served.send("response.cancel", response_id=aside)) == ["response.done"]


def test_input_replaces_the_context_and_may_reference_items(served: Served) -> None:
    served.say("first", event_id="a")
    second = served.say("second")[0]["item"]["id"]
    note = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "note"}]}
    given = [{"type": "item_reference", "id": second}, note]
    request = request_of(served, served.ask(conversation="none", input=given))
    assert [item["content"][0]["text"] for item in request.items] == ["second", "note"]
    assert request_of(served, served.ask(conversation="none", input=[])).items == ()
    assert len(request_of(served, served.ask(conversation="none")).items) == 2
    assert len(served.model.items) == 2


def test_reference_to_an_unknown_item_is_refused(served: Served) -> None:
    error = the_error(served.send("response.create", response={"input": [{"type": "item_reference", "id": "ghost"}]}))
    assert error["param"] == "response.input[0].id"


def test_audio_in_the_input_of_a_response_is_transcribed_first(served: Served) -> None:
    part = {"type": "input_audio", "audio": base64.b64encode(tone(200)).decode()}
    item = {"id": "own", "type": "message", "role": "user", "content": [part]}
    response_id = served.ask(conversation="none", input=[item])
    assert served.generating == {}
    assert served.to_transcribe["own"].pcm == tone(200)
    served.hear("own", "heard")
    assert request_of(served, response_id).items[0]["content"][0]["transcript"] == "heard"
