"""`RealtimeSession` against a scripted server on loopback: a program's calls and the events it gets, in order."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.agents.agent import RealtimeAgent
from appliance.agents.context import RunContext, ToolContext
from appliance.agents.guardrails import GuardrailFunctionOutput, input_guardrail, output_guardrail
from appliance.agents.hooks import RealtimeAgentHooks, RealtimeRunHooks
from appliance.agents.tools import Tool, tool
from appliance.conversation.events import Event, LinkUp, ServerEventReceived
from appliance.conversation.notices import (
    Announcement,
    AnswerText,
    Audio,
    AudioEnd,
    AudioInterrupted,
    BudgetWarning,
    Connected,
    Error,
    Guardrail,
    HandoffDone,
    HistoryChanged,
    HistoryGrew,
    InputText,
    Raw,
    ToolApproval,
    ToolEnd,
    ToolStart,
    TurnEnd,
    Usage,
)
from appliance.conversation.policy import Policy
from appliance.errors import LinkError, SettingsError, ToolError
from appliance.realtime import protocol as wire
from appliance.realtime.items import HistoryItem
from appliance.realtime.payload import MAX_IMAGE_BYTES, RealtimeSessionSettings, ServerVad, Transcription
from appliance.realtime.transports.websocket import Endpoint, WebSocketTransport
from appliance.runtime.session import RealtimeSession
from tests.support.scripted_server import (
    SESSION_CREATED,
    Connection,
    Frame,
    ScriptedServer,
    Step,
    close,
    expect,
    hold,
    refuse,
    reply,
    send,
    send_raw,
    stall_handshake,
)
from tests.support.sessions import (
    JPEG,
    PNG,
    READY,
    TOKENS,
    Lamp,
    Reader,
    all_words,
    answering,
    arrived,
    audio,
    calling,
    committed,
    created,
    done,
    output_of,
    pcm,
    spoken,
    talking,
    updated,
    words,
)

# --- turns ------------------------------------------------------------------------------------------------------------


async def test_message_is_answered_and_each_step_is_an_event() -> None:
    async with ScriptedServer([*READY, *answering(*spoken("Hello.")), hold()]) as server:
        async with talking(server.base_url) as (session, reader):
            item_id = session.send_message("Hi!")
            await reader.until(TurnEnd)
        server.assert_complete()
    assert reader.types == [
        "connected",
        "turn_start",
        "history_added",
        "agent_start",
        "history_added",
        "answer_text",
        "audio",
        "history_updated",
        "answer_text",
        "history_updated",
        "audio_end",
        "agent_end",
        "usage",
        "turn_end",
    ]
    assert reader.of(Audio) == [Audio(pcm(), "item_a", "Ada", "resp_1")]
    assert [(one.text, one.is_final) for one in reader.of(AnswerText)] == [("Hello.", False), ("Hello.", True)]
    assert reader.of(TurnEnd)[0].outcome == "answered"
    assert [one.item.id for one in reader.of(HistoryGrew)] == [item_id, "item_a"]


async def test_turn_sends_clear_audio_commit_and_create_in_order() -> None:
    async with ScriptedServer(
        [*READY, expect("input_audio_buffer.commit"), send(committed()), *answering(*spoken()), hold()]
    ) as server:
        async with talking(server.base_url) as (session, reader):
            session.turn.begin()
            session.send_audio(pcm(4800, 1234))
            session.turn.commit()
            await reader.until(TurnEnd)
        connection = server.connections[0]
    kinds = [name for name in connection.types if name != "input_audio_buffer.append"]
    assert kinds == ["session.update", "input_audio_buffer.clear", "input_audio_buffer.commit", "response.create"]
    heard = b"".join(base64.b64decode(one["audio"]) for one in connection.of_type("input_audio_buffer.append"))
    assert heard == pcm(4800, 1234)


async def test_send_audio_with_commit_is_a_complete_turn() -> None:
    async with ScriptedServer([*READY, expect("input_audio_buffer.commit"), *answering(*spoken()), hold()]) as server:
        async with talking(server.base_url) as (session, reader):
            session.send_audio(pcm(4800), commit=True)
            await reader.until(TurnEnd)
        server.assert_complete()
    assert reader.types.count("turn_start") == 1


async def test_aborted_turn_is_neither_committed_nor_answered() -> None:
    async with ScriptedServer([*READY, expect("conversation.item.create"), hold()]) as server:
        async with talking(server.base_url) as (session, reader):
            session.turn.begin()
            session.send_audio(pcm(4800))
            session.turn.abort()
            ended = await reader.until(TurnEnd)
            session.send_message("a mark", respond=False)
            await reader.until(HistoryGrew)
        connection = server.connections[0]
    assert ended.outcome == "cancelled"
    assert not {"input_audio_buffer.commit", "response.create"} & set(connection.types)


async def test_redundant_begin_commit_and_abort_are_no_ops() -> None:
    async with ScriptedServer([*READY, *answering(*spoken()), hold()]) as server:
        async with talking(server.base_url) as (session, reader):
            session.turn.commit()
            session.turn.abort()
            session.turn.begin()
            session.turn.begin()
            session.send_audio(pcm(4800))
            session.turn.commit()
            session.turn.commit()
            session.turn.abort()
            await reader.until(TurnEnd)
        connection = server.connections[0]
    assert connection.types.count("input_audio_buffer.commit") == 1
    assert [one.outcome for one in reader.of(TurnEnd)] == ["answered"]


async def test_turn_can_be_started_again_after_the_time_limit_ended_one() -> None:
    policy = Policy(pre_roll_ms=0, max_turn_s=0.12)
    script = [*READY, *answering(*spoken()), *answering(*spoken(item_id="item_b", response_id="resp_2")), hold()]
    async with ScriptedServer(script) as server:
        async with talking(server.base_url, policy=policy) as (session, reader):
            session.turn.begin()
            session.send_audio(pcm(4800))
            await reader.until(TurnEnd)
            assert not session.turn.is_open
            session.send_audio(pcm(4800), commit=True)
            await reader.until(TurnEnd)
        server.assert_complete()


async def test_half_a_sample_is_refused_and_the_error_names_the_length() -> None:
    async with ScriptedServer([*READY, hold()]) as server:
        async with talking(server.base_url) as (session, _):
            with pytest.raises(SettingsError, match="3 bytes"):
                session.send_audio(b"\0\0\0")


async def test_input_transcript_is_yielded_in_parts_and_then_complete() -> None:
    place = {"event_id": "event_i", "item_id": "item_u", "content_index": 0}
    transcription = "conversation.item.input_audio_transcription"
    heard = [
        {"type": f"{transcription}.delta", **place, "delta": "turn "},
        {"type": f"{transcription}.delta", **place, "delta": "it on"},
        {"type": f"{transcription}.completed", **place, "transcript": "turn it on"},
    ]
    script = [*READY, expect("input_audio_buffer.commit"), send(committed(), *heard), *answering(*spoken()), hold()]
    async with ScriptedServer(script) as server:
        async with talking(server.base_url, settings=RealtimeSessionSettings(transcription="whisper-1")) as (
            session,
            reader,
        ):
            session.send_audio(pcm(4800), commit=True)
            await reader.until(TurnEnd)
            assert session.history[0].text == "turn it on"
    assert [(one.text, one.is_final) for one in reader.of(InputText)] == [
        ("turn ", False),
        ("it on", False),
        ("turn it on", True),
    ]


async def test_server_turn_detection_gets_all_audio_and_starts_the_turn() -> None:
    started = {
        "type": "input_audio_buffer.speech_started",
        "event_id": "e1",
        "audio_start_ms": 0,
        "item_id": "item_u",
    }
    stopped = {"type": "input_audio_buffer.speech_stopped", "event_id": "e2", "audio_end_ms": 200, "item_id": "item_u"}
    script = [*READY, expect("input_audio_buffer.append"), send(started, stopped, committed(), *spoken()), hold()]
    async with ScriptedServer(script) as server:
        async with talking(server.base_url, settings=RealtimeSessionSettings(turn_detection=ServerVad())) as (
            session,
            reader,
        ):
            session.send_audio(pcm(4800))
            ended = await reader.until(TurnEnd)
        connection = server.connections[0]
    assert ended.outcome == "answered"
    assert not {"input_audio_buffer.commit", "response.create"} & set(connection.types)


# --- messages, images, frames -----------------------------------------------------------------------------------------


async def test_system_message_without_respond_is_not_answered() -> None:
    async with ScriptedServer([*READY, expect("conversation.item.create"), *answering(*spoken()), hold()]) as server:
        async with talking(server.base_url) as (session, reader):
            item_id = session.send_message("It is late.", role="system", respond=False)
            session.send_message("Hi!")
            await reader.until(TurnEnd)
        connection = server.connections[0]
    assert connection.of_type("conversation.item.create")[0]["item"] == {
        "id": item_id,
        "type": "message",
        "role": "system",
        "content": [{"type": "input_text", "text": "It is late."}],
    }
    assert connection.types.count("response.create") == 1


@pytest.mark.parametrize(("image", "kind"), [(PNG, "image/png"), (JPEG, "image/jpeg")])
async def test_image_is_sent_with_the_text_as_a_data_url(image: bytes, kind: str) -> None:
    async with ScriptedServer([*READY, *answering(*spoken()), hold()]) as server:
        async with talking(server.base_url) as (session, reader):
            session.send_image(image, text="What is this?", detail="low")
            await reader.until(TurnEnd)
            shown = session.history[0].images
        item = server.connections[0].last("conversation.item.create")["item"]
    address = f"data:{kind};base64,{base64.b64encode(image).decode()}"
    assert item["content"] == [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": address, "detail": "low"},
    ]
    assert shown == (address,)


async def test_image_may_be_a_path(tmp_path: Path) -> None:
    path = tmp_path / "shot.jpg"
    path.write_bytes(JPEG)
    async with ScriptedServer([*READY, expect("conversation.item.create"), hold()]) as server:
        async with talking(server.base_url) as (session, reader):
            session.send_image(str(path), respond=False)
            await reader.until(HistoryGrew)
            await arrived(server, "conversation.item.create")
        item = server.connections[0].last("conversation.item.create")["item"]
    assert item["content"] == [
        {"type": "input_image", "image_url": f"data:image/jpeg;base64,{base64.b64encode(JPEG).decode()}"}
    ]


@pytest.mark.parametrize(
    ("image", "complaint"), [(b"GIF89a" + bytes(9), "neither PNG nor JPEG"), (PNG + bytes(MAX_IMAGE_BYTES), "at most")]
)
async def test_invalid_image_is_refused_and_the_error_names_the_limit(image: bytes, complaint: str) -> None:
    async with ScriptedServer([*READY, hold()]) as server:
        async with talking(server.base_url) as (session, _):
            with pytest.raises(SettingsError, match=complaint):
                session.send_image(image)


async def test_any_frame_can_be_sent_unchanged() -> None:
    frame = {"type": "conversation.item.retrieve", "event_id": "mine", "item_id": "item_1", "of_the_future": [1]}
    async with ScriptedServer([*READY, expect("conversation.item.retrieve"), hold()]) as server:
        async with talking(server.base_url) as (session, _):
            session.send_event(frame)
            await arrived(server, "conversation.item.retrieve")
        assert server.connections[0].last("conversation.item.retrieve") == frame


async def test_frame_without_a_type_is_refused_and_the_error_names_its_keys() -> None:
    async with ScriptedServer([*READY, hold()]) as server:
        async with talking(server.base_url) as (session, _):
            with pytest.raises(SettingsError, match=r"\['item'\]"):
                session.send_event({"item": {}})


async def test_response_create_frame_is_sent_unchanged_and_starts_a_normal_turn() -> None:
    async with ScriptedServer([*READY, *answering(*spoken()), hold()]) as server:
        async with talking(server.base_url) as (session, reader):
            session.send_event({"type": "response.create", "response": {"instructions": "Sing."}})
            ended = await reader.until(TurnEnd)
        response = server.connections[0].last("response.create")["response"]
    assert response["instructions"] == "Sing."
    assert ended.outcome == "answered"


async def test_every_server_frame_is_yielded_unchanged() -> None:
    odd = {"type": "weather.changed", "event_id": "event_9", "degrees": 21.5}
    async with ScriptedServer([*READY, send(odd), hold()]) as server:
        async with talking(server.base_url) as (_, reader):
            await reader.until(Raw, lambda one: one.data == odd)
    assert reader.of(Raw)[0].data == SESSION_CREATED


async def test_raw_events_can_be_turned_off() -> None:
    async with ScriptedServer([*READY, *answering(*spoken()), hold()]) as server:
        async with talking(server.base_url, raw_events=False) as (session, reader):
            session.send_message("Hi!")
            await reader.until(TurnEnd)
    assert reader.of(Raw) == []


async def test_malformed_frame_is_an_error_event_and_the_session_continues() -> None:
    async with ScriptedServer([*READY, send_raw("{", b"\x00"), *answering(*spoken()), hold()]) as server:
        async with talking(server.base_url) as (session, reader):
            await reader.until(Error)
            session.send_message("Hi!")
            ended = await reader.until(TurnEnd)
    assert ended.outcome == "answered"


# --- interruption -----------------------------------------------------------------------------------------------------


async def _interrupted(interrupt: Callable[[RealtimeSession], object]) -> tuple[Reader, Connection]:
    """Play 100 ms of a one-second answer, then interrupt it; the server still sends a few late frames."""
    late = [audio(pcm(480, 99)), words("late"), done(status="cancelled")]
    script = [
        *READY,
        expect("response.create"),
        send(*spoken()[:2], words("I was going to say"), audio(pcm(24_000))),
        expect("response.cancel"),
        send(*late),
        hold(),
    ]
    async with ScriptedServer(script) as server:
        async with talking(server.base_url, playback="reported") as (session, reader):
            session.send_message("Hi!")
            await reader.until(Audio)
            session.played("item_a", 2400)
            interrupt(session)
            await reader.until(AudioInterrupted)
            await reader.until(Raw, lambda one: one.data == late[-1])
        server.assert_complete()
        return reader, server.connections[0]


@pytest.mark.parametrize("by", ["interrupt", "turn", "message"])
async def test_interruption_truncates_the_answer_where_it_was_heard(by: str) -> None:
    ways: dict[str, Callable[[RealtimeSession], object]] = {
        "interrupt": RealtimeSession.interrupt,
        "turn": lambda session: session.turn.begin(),
        "message": lambda session: session.send_message("Stop!"),
    }
    reader, connection = await _interrupted(ways[by])
    assert reader.of(AudioInterrupted) == [AudioInterrupted("item_a", 100, "resp_1")]
    truncate = connection.last("conversation.item.truncate")
    assert (truncate["item_id"], truncate["content_index"], truncate["audio_end_ms"]) == ("item_a", 0, 100)
    assert connection.last("response.cancel")["response_id"] == "resp_1"


async def test_late_frames_of_an_interrupted_answer_are_not_yielded() -> None:
    reader, _ = await _interrupted(RealtimeSession.interrupt)
    assert reader.of(Audio) == [Audio(pcm(24_000), "item_a", "Ada", "resp_1")]
    assert "late" not in [one.text for one in reader.of(AnswerText)]


async def test_history_marks_how_much_of_an_interrupted_answer_was_heard() -> None:
    reader, _ = await _interrupted(RealtimeSession.interrupt)
    cut = next(one for one in reader.session.history if one.id == "item_a")
    assert (cut.heard_ms, cut.status) == (100, "incomplete")


async def test_interruption_without_an_answer_sends_nothing() -> None:
    async with ScriptedServer([*READY, *answering(*spoken()), hold()]) as server:
        async with talking(server.base_url) as (session, reader):
            session.interrupt()
            session.send_message("Hi!")
            await reader.until(TurnEnd)
        connection = server.connections[0]
    assert reader.of(AudioInterrupted) == []
    assert not {"response.cancel", "conversation.item.truncate"} & set(connection.types)


async def test_with_reported_playback_the_turn_lasts_until_all_audio_was_heard() -> None:
    async with ScriptedServer([*READY, *answering(*spoken()), expect("conversation.item.create"), hold()]) as server:
        async with talking(server.base_url, playback="reported") as (session, reader):
            session.send_message("Hi!")
            await reader.until(AudioEnd)
            session.send_message("a mark", role="system", respond=False)
            await reader.until(HistoryGrew, lambda one: one.item.text == "a mark")
            assert reader.of(TurnEnd) == []
            session.played("item_a", 480)
            ended = await reader.until(TurnEnd)
    assert ended.outcome == "answered"


async def test_reported_playback_is_counted_for_each_answer_by_itself() -> None:
    first, second = spoken(), spoken("A long story.", "item_b", "resp_2")
    first[3], second[3] = audio(pcm(96_000)), audio(pcm(96_000), "item_b", "resp_2")
    script = [*READY, *answering(*first), *answering(*second), expect("conversation.item.truncate"), hold()]
    async with ScriptedServer(script) as server:
        async with talking(server.base_url, playback="reported") as (session, reader):
            session.send_message("Hi!")
            await reader.until(AudioEnd)
            session.played("item_a", 96_000)
            await reader.until(TurnEnd)
            session.send_message("Tell me a story.")
            await reader.until(AudioEnd, lambda one: one.item_id == "item_b")
            session.played("item_a", 96_000)  # an older answer
            session.played("item_b", 24_000)
            session.interrupt()
            await reader.until(AudioInterrupted)
            session.played("item_b", 96_000)  # flushed
        server.assert_complete()
    assert reader.of(AudioInterrupted) == [AudioInterrupted("item_b", 1000, "resp_2")]
    assert server.connections[0].last("conversation.item.truncate")["audio_end_ms"] == 1000


async def test_reported_playback_of_a_later_item_counts_the_earlier_items_as_heard() -> None:
    frames = [*spoken()[:2], audio(pcm(24_000)), audio(pcm(24_000), "item_b")]
    async with ScriptedServer([*READY, *answering(*frames), expect("response.cancel"), hold()]) as server:
        async with talking(server.base_url, playback="reported") as (session, reader):
            session.send_message("Hi!")
            await reader.until(Audio, lambda one: one.item_id == "item_b")
            session.played("item_a", 20_000)
            session.played("item_b", 2400)
            session.played("item_a", 24_000)  # late: nothing is taken back
            session.interrupt()
            await reader.until(AudioInterrupted)
        server.assert_complete()
    assert reader.of(AudioInterrupted) == [AudioInterrupted("item_b", 100, "resp_1")]


async def test_report_without_an_item_is_an_error_that_names_the_new_form() -> None:
    session: Any = RealtimeSession(RealtimeAgent(name="Ada"), playback="reported")
    with pytest.raises(SettingsError, match=r"played\(item_id, frames\)"):
        session.played(2400)


# --- tools and approvals ----------------------------------------------------------------------------------------------


CALLED_THEN_SPOKEN = [
    *READY,
    *answering(*calling("set_lamp", '{"on":true}')),
    *answering(*spoken(response_id="resp_2")),
    hold(),
]


async def test_tool_is_run_and_reported_as_events_and_its_output_is_answered() -> None:
    lamp = Lamp()
    agent = lamp.agent()
    async with ScriptedServer(CALLED_THEN_SPOKEN) as server:
        async with talking(server.base_url, agent) as (session, reader):
            session.send_message("Light!")
            ended = await reader.until(TurnEnd)
        server.assert_complete()
        output = output_of(server.connections[0])
    assert lamp.switched == [True]
    assert output == "done"
    assert ended.outcome == "answered"
    assert session.agents == {"Ada": agent}
    assert reader.of(ToolStart) == [ToolStart(ended.turn, "call_1", "set_lamp", '{"on":true}', "Ada")]
    expected = ToolEnd(ended.turn, "call_1", "set_lamp", "done", False, "Ada", '{"on":true}')
    assert reader.of(ToolEnd) == [expected]


async def test_call_of_an_unknown_tool_gets_an_error_output_and_never_starts() -> None:
    script = [*READY, *answering(*calling("fly")), *answering(*spoken(response_id="resp_2")), hold()]
    async with ScriptedServer(script) as server:
        async with talking(server.base_url, Lamp().agent()) as (session, reader):
            session.send_message("Fly!")
            ended = await reader.until(TurnEnd)
        assert "fly" in output_of(server.connections[0])
    outputs = [one.item for one in reader.of(HistoryGrew) if one.item.type == "function_call_output"]
    assert [(one.call_id, "fly" in one.output) for one in outputs] == [("call_1", True)]
    assert reader.of(ToolStart) == reader.of(ToolEnd) == []
    assert "fly" not in [one.name for one in session.agents["Ada"].tools]
    assert ended.outcome == "answered"


async def test_call_waits_for_approval_and_runs_when_approved() -> None:
    lamp = Lamp()
    async with ScriptedServer(CALLED_THEN_SPOKEN) as server:
        async with talking(server.base_url, lamp.agent(needs_approval=True)) as (session, reader):
            session.send_message("Light!")
            asked = await reader.until(ToolApproval)
            assert (asked.name, asked.arguments, asked.call_id) == ("set_lamp", '{"on":true}', "call_1")
            assert lamp.switched == []
            session.approve(asked)
            await reader.until(TurnEnd)
        assert output_of(server.connections[0]) == "done"
    assert lamp.switched == [True]


async def test_rejected_call_is_not_run_and_the_model_gets_the_reason() -> None:
    lamp = Lamp()
    async with ScriptedServer(CALLED_THEN_SPOKEN) as server:
        async with talking(server.base_url, lamp.agent(needs_approval=True)) as (session, reader):
            session.send_message("Light!")
            await reader.until(ToolApproval)
            session.reject("call_1", message="the children sleep")
            ended = await reader.until(TurnEnd)
        assert "the children sleep" in output_of(server.connections[0])
    assert lamp.switched == []
    assert ended.outcome == "answered"


TWO_CALLS = [
    *READY,
    *answering(*calling("set_lamp", '{"on":true}', "call_1", "resp_1")),
    *answering(*calling("set_lamp", '{"on":false}', "call_2", "resp_2")),
    *answering(*spoken(response_id="resp_3")),
    hold(),
]


@pytest.mark.parametrize(("is_approved", "switched"), [(True, [True, False]), (False, [])])
async def test_approve_or_reject_always_applies_to_later_calls(is_approved: bool, switched: list[bool]) -> None:
    lamp = Lamp()
    async with ScriptedServer(TWO_CALLS) as server:
        async with talking(server.base_url, lamp.agent(needs_approval=True)) as (session, reader):
            session.send_message("Light, on and off!")
            asked = await reader.until(ToolApproval)
            (session.approve if is_approved else session.reject)(asked, always=True)
            await reader.until(TurnEnd)
        server.assert_complete()
    assert lamp.switched == switched
    assert len(reader.of(ToolApproval)) == 1


async def test_approval_of_a_call_that_does_not_wait_is_ignored() -> None:
    lamp = Lamp()
    async with ScriptedServer(CALLED_THEN_SPOKEN) as server:
        async with talking(server.base_url, lamp.agent(needs_approval=True)) as (session, reader):
            session.approve("call_1", always=True)
            session.send_message("Light!")
            await reader.until(ToolApproval)
            assert lamp.switched == []
            session.reject("call_1")
            await reader.until(TurnEnd)
    assert lamp.switched == []


async def test_slow_tool_announces_its_filler() -> None:
    let_go = asyncio.Event()

    @tool(working_after_ms=1, filler="One moment.")
    async def set_lamp(on: bool) -> str:
        await let_go.wait()
        return "done"

    async with ScriptedServer(CALLED_THEN_SPOKEN) as server:
        async with talking(server.base_url, RealtimeAgent(name="Ada", tools=[set_lamp])) as (session, reader):
            session.send_message("Light!")
            said = await reader.until(Announcement)
            let_go.set()
            await reader.until(TurnEnd)
    assert said.text == "One moment."


# --- context and hooks ------------------------------------------------------------------------------------------------


async def test_all_functions_share_one_mutable_context_object() -> None:
    seen: dict[str, Any] = {}

    @tool(
        enabled=lambda context, agent: bool(seen.setdefault("enabled", context.context)),
        needs_approval=lambda context, arguments, call_id: bool(seen.setdefault("approval", context.context)) and False,
    )
    def set_lamp(context: ToolContext[dict[str, int]], on: bool) -> str:
        """Switch the lamp."""
        context.context["switched"] += 1
        seen["tool"] = context.context
        return "done"

    @output_guardrail
    def nothing(context: RunContext[Any], agent: RealtimeAgent, text: str) -> bool:
        seen["guardrail"] = context.context
        return False

    box = {"switched": 0}
    agent = RealtimeAgent(
        name="Ada",
        instructions=lambda context, agent: f"Lamps: {seen.setdefault('instructions', context.context)}",
        tools=[set_lamp],
        output_guardrails=[nothing],
    )
    async with ScriptedServer(CALLED_THEN_SPOKEN) as server:
        async with talking(server.base_url, agent, context=box) as (session, reader):
            assert session.context is box
            session.send_message("Light!")
            await reader.until(TurnEnd)
    assert sorted(seen) == ["approval", "enabled", "guardrail", "instructions", "tool"]
    assert all(one is box for one in seen.values())
    assert box == {"switched": 1}


async def test_tool_context_holds_the_history_and_the_call() -> None:
    seen: list[ToolContext[Any]] = []

    @tool
    def set_lamp(context: ToolContext[Any], on: bool) -> str:
        """Switch the lamp."""
        seen.append(context)
        return "done"

    async with ScriptedServer(CALLED_THEN_SPOKEN) as server:
        async with talking(server.base_url, RealtimeAgent(name="Ada", tools=[set_lamp])) as (session, reader):
            session.send_message("Light!")
            await reader.until(TurnEnd)
    (context,) = seen
    assert [one.text for one in context.history if one.role == "user"] == ["Light!"]
    assert (context.agent.name, context.tool_name, context.call_id) == ("Ada", "set_lamp", "call_1")
    assert context.arguments == '{"on":true}'


async def test_hooks_get_the_context_object_and_the_history() -> None:
    seen: asyncio.Queue[RunContext[Any]] = asyncio.Queue()

    class Watching(RealtimeRunHooks):
        async def on_agent_end(self, context: RunContext[Any], agent: RealtimeAgent, output: str) -> None:
            seen.put_nowait(context)

    box = object()
    async with ScriptedServer([*READY, *answering(*spoken("Hello.")), hold()]) as server:
        async with talking(server.base_url, context=box, hooks=Watching()) as (session, _):
            session.send_message("Hi!")
            context = await asyncio.wait_for(seen.get(), 10)
    assert context.context is box
    assert [one.text for one in context.history] == ["Hi!", "Hello."]


class Diary(RealtimeRunHooks):
    """Records every hook of the session."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        self.written = asyncio.Event()

    def write(self, line: str) -> None:
        self.lines.append(line)
        self.written.set()

    async def until(self, line: str) -> None:
        """Wait for a line; hooks run outside the conversation."""
        async with asyncio.timeout(10):
            while line not in self.lines:
                self.written.clear()
                await self.written.wait()

    async def on_agent_start(self, context: RunContext[Any], agent: RealtimeAgent) -> None:
        self.write(f"session: {agent.name} starts")

    async def on_agent_end(self, context: RunContext[Any], agent: RealtimeAgent, output: str) -> None:
        self.write(f"session: {agent.name} ends with {output!r}")

    async def on_handoff(self, context: RunContext[Any], from_agent: RealtimeAgent, to_agent: RealtimeAgent) -> None:
        self.write(f"session: {from_agent.name} hands over to {to_agent.name}")

    async def on_tool_start(self, context: RunContext[Any], agent: RealtimeAgent, tool: Tool) -> None:
        self.write(f"session: {agent.name} runs {tool.name}")

    async def on_tool_end(self, context: RunContext[Any], agent: RealtimeAgent, tool: Tool, result: str) -> None:
        self.write(f"session: {agent.name} ran {tool.name}: {result}")


class OwnDiary(RealtimeAgentHooks):
    """Records every hook of one agent, in the same list."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    async def on_start(self, context: RunContext[Any], agent: RealtimeAgent) -> None:
        self.lines.append(f"own: {agent.name} starts")

    async def on_end(self, context: RunContext[Any], agent: RealtimeAgent, output: str) -> None:
        self.lines.append(f"own: {agent.name} ends")

    async def on_handoff(self, context: RunContext[Any], agent: RealtimeAgent, source: RealtimeAgent) -> None:
        self.lines.append(f"own: {agent.name} takes over from {source.name}")

    async def on_tool_start(self, context: RunContext[Any], agent: RealtimeAgent, tool: Tool) -> None:
        self.lines.append(f"own: {agent.name} runs {tool.name}")

    async def on_tool_end(self, context: RunContext[Any], agent: RealtimeAgent, tool: Tool, result: str) -> None:
        self.lines.append(f"own: {agent.name} ran {tool.name}")


async def test_hooks_are_called_in_event_order_session_hooks_first() -> None:
    lines: list[str] = []
    diary = Diary(lines)
    agent = RealtimeAgent(name="Ada", tools=[Lamp().tool()], hooks=OwnDiary(lines))
    async with ScriptedServer(CALLED_THEN_SPOKEN) as server:
        async with talking(server.base_url, agent, hooks=diary) as (session, reader):
            session.send_message("Light!")
            await reader.until(TurnEnd)
            await diary.until("session: Ada ends with 'Hello.'")
            await asyncio.sleep(0)
    assert lines == [
        "session: Ada starts",
        "own: Ada starts",
        "session: Ada runs set_lamp",
        "own: Ada runs set_lamp",
        "session: Ada ran set_lamp: done",
        "own: Ada ran set_lamp",
        "session: Ada ends with 'Hello.'",
        "own: Ada ends",
    ]


async def test_hook_that_raises_is_logged_and_the_next_one_is_called(caplog: pytest.LogCaptureFixture) -> None:
    lines: list[str] = []

    class Clumsy(Diary):
        async def on_agent_start(self, context: RunContext[Any], agent: RealtimeAgent) -> None:
            raise ValueError("oh")

    diary = Clumsy(lines)
    async with ScriptedServer([*READY, *answering(*spoken()), hold()]) as server:
        async with talking(server.base_url, hooks=diary) as (session, reader):
            session.send_message("Hi!")
            ended = await reader.until(TurnEnd)
            await diary.until("session: Ada ends with 'Hello.'")
    assert ended.outcome == "answered"
    assert "a hook failed at AgentStart" in caplog.text


# --- handoffs and settings --------------------------------------------------------------------------------------------


def pair(**of_bob: Any) -> RealtimeAgent:
    """Return Ada, who can hand over to Bob."""
    bob = RealtimeAgent(name="Bob", instructions="You are Bob.", **of_bob)
    return RealtimeAgent(name="Ada", instructions="You are Ada.", handoffs=[bob])


HANDED_OVER = [
    *READY,
    reply(updated),
    *answering(*calling("transfer_to_bob")),
    expect("session.update"),
    reply(updated),
    *answering(*spoken("I am Bob.", response_id="resp_2")),
    hold(),
]


async def test_handoff_is_yielded_as_an_event_and_the_new_agent_answers() -> None:
    lines: list[str] = []
    diary = Diary(lines)
    agent = pair(hooks=OwnDiary(lines))
    async with ScriptedServer(HANDED_OVER) as server:
        async with talking(server.base_url, agent, hooks=diary) as (session, reader):
            assert session.agent is agent
            session.send_message("Bob, please.")
            await reader.until(TurnEnd)
            assert session.agent.name == "Bob"
            await diary.until("session: Bob ends with 'I am Bob.'")
            await asyncio.sleep(0)
        server.assert_complete()
    (handed,) = reader.of(HandoffDone)
    assert (handed.from_agent, handed.to_agent) == ("Ada", "Bob")
    assert session.agents[handed.from_agent] is agent
    assert session.agents[handed.to_agent] is session.agent
    assert [one.agent for one in reader.of(Audio)] == ["Bob"]
    assert reader.of(ToolStart) == reader.of(ToolEnd) == []
    assert lines == [
        "session: Ada starts",
        "session: Ada ends with ''",
        "session: Ada hands over to Bob",
        "own: Bob takes over from Ada",
        "session: Bob starts",
        "own: Bob starts",
        "session: Bob ends with 'I am Bob.'",
        "own: Bob ends",
    ]


async def test_handoff_refused_by_the_server_is_an_error_event_and_the_old_agent_answers() -> None:
    def refused(connection: Connection) -> Frame:
        error = {
            "type": "invalid_request_error",
            "code": "invalid_value",
            "message": "no",
            "param": None,
            "event_id": connection.last("session.update")["event_id"],
        }
        return {"type": "error", "event_id": "event_e", "error": error}

    script = [
        *READY,
        reply(updated),
        *answering(*calling("transfer_to_bob")),
        expect("session.update"),
        reply(refused),
        *answering(*spoken("Still Ada.", response_id="resp_2")),
        hold(),
    ]
    async with ScriptedServer(script) as server:
        async with talking(server.base_url, pair()) as (session, reader):
            session.send_message("Bob, please.")
            await reader.until(TurnEnd)
            assert session.agent.name == "Ada"
        server.assert_complete()
    assert reader.of(HandoffDone) == []
    assert len(reader.of(Error)) == 1
    assert [one.agent for one in reader.of(Audio)] == ["Ada"]


async def test_session_settings_apply_after_a_handoff_unless_the_new_agent_overrides_them() -> None:
    settings = RealtimeSessionSettings(
        speed=1.25,
        transcription=Transcription(model="whisper-1", language="en"),
        max_output_tokens=500,
        provider_data={"x_house": {"room": "kitchen"}},
    )
    agent = pair(settings={"speed": 0.75, "tool_choice": "none"})
    async with ScriptedServer(HANDED_OVER) as server:
        async with talking(server.base_url, agent, settings) as (session, reader):
            session.send_message("Bob, please.")
            await reader.until(TurnEnd)
        first, second = (one["session"] for one in server.connections[0].of_type("session.update"))
    for one in (first, second):
        assert one["audio"]["input"]["transcription"] == {"model": "whisper-1", "language": "en"}
        assert one["max_output_tokens"] == 500
        assert one["x_house"] == {"room": "kitchen"}
    assert (first["audio"]["output"]["speed"], second["audio"]["output"]["speed"]) == (1.25, 0.75)
    assert (first["tool_choice"], second["tool_choice"]) == ("auto", "none")
    assert (first["instructions"], second["instructions"]) == ("You are Ada.", "You are Bob.")


async def test_provider_data_wins_and_is_sent_unchanged() -> None:
    settings = RealtimeSessionSettings(
        speed=1.0, provider_data={"audio": {"output": {"speed": 1.5, "pitch": 2}}, "mood": None}
    )
    async with ScriptedServer([*READY, hold()]) as server:
        async with talking(server.base_url, RealtimeAgent(name="Ada", voice="cedar"), settings):
            await arrived(server, "session.update")
        sent = server.connections[0].last("session.update")["session"]
    assert sent["audio"]["output"] == {
        "format": {"type": "audio/pcm", "rate": 24000},
        "voice": "cedar",
        "speed": 1.5,
        "pitch": 2,
    }
    assert sent["mood"] is None


async def test_unknown_setting_of_an_agent_is_refused_before_connecting() -> None:
    with pytest.raises(SettingsError, match="did you mean 'speed'"):
        RealtimeSession(pair(settings={"sped": 1.0}), url="ws://127.0.0.1:9/v1")


@pytest.mark.parametrize(
    ("choice", "complaint"),
    [
        ({"type": "function", "name": "set_lmap"}, "'Bob' has no tool 'set_lmap'; there are: none; set tool_choice in"),
        ({"type": "mcp", "server_label": "dice"}, "'Bob' has no hosted MCP server 'dice'; there are: none"),
    ],
)
def test_choice_of_a_tool_that_does_not_exist_is_refused_before_connecting(choice: Any, complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        RealtimeSession(pair(settings={"tool_choice": choice}))
    agent = RealtimeAgent(name="Ada", tools=[Lamp().tool()], handoffs=[RealtimeAgent(name="Bob")])
    with pytest.raises(SettingsError, match="'Ada' has no tool 'set_lmap'; did you mean 'set_lamp'"):
        RealtimeSession(agent, RealtimeSessionSettings(tool_choice={"type": "function", "name": "set_lmap"}))


def test_choice_of_a_tool_or_a_handoff_of_the_agent_is_accepted() -> None:
    for name in ("set_lamp", "transfer_to_bob"):
        own = {"tool_choice": {"type": "function", "name": name}}
        RealtimeSession(
            RealtimeAgent(name="Ada", tools=[Lamp().tool()], handoffs=[RealtimeAgent(name="Bob")], settings=own)
        )


# --- guardrails -------------------------------------------------------------------------------------------------------


@output_guardrail
def no_prices(context: RunContext[Any], agent: RealtimeAgent, text: str) -> GuardrailFunctionOutput:
    return GuardrailFunctionOutput(output_info="a price", tripwire_triggered="$" in text)


async def test_tripped_guardrail_is_an_event_and_stops_the_item() -> None:
    start = [*spoken()[:2], words("It costs $5"), audio(pcm(240)), all_words("It costs $5.")]
    script = [
        *READY,
        expect("response.create"),
        send(*start),
        expect("response.cancel"),
        send(audio(pcm(240, 99)), done(status="cancelled")),
        *answering(*spoken("I cannot say.", "item_b", "resp_2")),
        hold(),
    ]
    async with ScriptedServer(script) as server:
        agent = RealtimeAgent(name="Ada", output_guardrails=[no_prices])
        async with talking(server.base_url, agent, playback="reported") as (session, reader):
            session.send_message("How much?")
            tripped = await reader.until(Guardrail)
            await reader.until(AudioEnd)
            session.played("item_b", 480)
            ended = await reader.until(TurnEnd)
        server.assert_complete()
    assert tripped == Guardrail(ended.turn, "output", "item_a", "no_prices", "a price")
    assert [one.item_id for one in reader.of(AudioInterrupted)] == ["item_a"]
    assert pcm(240, 99) not in [one.audio for one in reader.of(Audio)]


async def test_empty_answer_after_a_trip_is_announced_and_not_counted_as_answered() -> None:
    script = [
        *READY,
        expect("response.create"),
        send(*spoken()[:2], words("It costs $5"), audio(pcm(240)), all_words("It costs $5.")),
        expect("response.cancel"),
        send(done(status="cancelled")),
        *answering(created("resp_2"), done("resp_2")),
        hold(),
    ]
    async with ScriptedServer(script) as server:
        agent = RealtimeAgent(name="Ada", output_guardrails=[no_prices])
        async with talking(server.base_url, agent) as (session, reader):
            session.send_message("How much?")
            ended = await reader.until(TurnEnd)
    assert ended.outcome != "answered"
    assert reader.of(Announcement) != [], "the user is not left in silence"


@input_guardrail
def no_secrets(context: RunContext[Any], agent: RealtimeAgent, text: str) -> bool:
    return "password" in text


async def test_tripped_input_guardrail_prevents_the_request_to_the_model() -> None:
    async with ScriptedServer([*READY, hold()]) as server:
        agent = RealtimeAgent(name="Ada", input_guardrails=[no_secrets])
        settings = RealtimeSessionSettings(transcription="whisper-1")
        async with talking(server.base_url, agent, settings) as (session, reader):
            session.send_message("My password is swordfish.")
            tripped = await reader.until(Guardrail)
            ended = await reader.until(TurnEnd)
        assert "response.create" not in server.connections[0].types
    assert (tripped.guardrail, tripped.side) == ("no_secrets", "input")
    assert ended.outcome == "refused"


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        (RealtimeSessionSettings(), "set transcription"),
        (RealtimeSessionSettings(transcription="whisper-1", turn_detection=ServerVad()), "create_response=False"),
        (RealtimeSessionSettings(transcription="whisper-1", turn_detection={"type": "server_vad"}), "create_response"),
    ],
)
def test_input_guardrails_that_cannot_work_are_refused_with_the_remedy(
    settings: RealtimeSessionSettings, remedy: str
) -> None:
    with pytest.raises(SettingsError, match=remedy):
        RealtimeSession(RealtimeAgent(name="Ada", input_guardrails=[no_secrets]), settings, url="offline")


def test_duplicate_agent_name_is_refused_before_connecting() -> None:
    twin = RealtimeAgent(name="Ada")
    with pytest.raises(ToolError, match="two agents are named 'Ada'"):
        RealtimeSession(RealtimeAgent(name="Ada", handoffs=[twin]), url="offline")


# --- history ----------------------------------------------------------------------------------------------------------


def user_said(text: str, item_id: str = "") -> HistoryItem:
    return HistoryItem(id=item_id, role="user", text=text)


async def test_earlier_history_is_sent_to_the_model_at_connect() -> None:
    before = [user_said("I am Eve.", "old_1"), HistoryItem(id="old_2", role="assistant", text="Hi!", is_spoken=True)]
    async with ScriptedServer([*READY, hold()]) as server:
        session = RealtimeSession(RealtimeAgent(name="Ada"), url=server.base_url, history=before)
        assert session.history == tuple(before)
        async with session:
            await arrived(server, "conversation.item.create", 2)
            assert session.history == tuple(before)
        items = [one["item"] for one in server.connections[0].of_type("conversation.item.create")]
    assert [(one["role"], one["content"]) for one in items] == [
        ("user", [{"type": "input_text", "text": "I am Eve."}]),
        ("assistant", [{"type": "output_text", "text": "Hi!"}]),
    ]


async def test_update_history_deletes_missing_items_and_creates_new_ones_in_order() -> None:
    script = [
        *READY,
        *answering(*spoken("Hello.")),
        hold(),
    ]
    async with ScriptedServer(script) as server:
        async with talking(server.base_url) as (session, reader):
            asked = session.send_message("Hi!")
            await reader.until(TurnEnd)
            session.update_history(lambda items: [*items[1:], user_said("By the way …")])
            changed = await reader.until(HistoryChanged, lambda one: one.item_id == asked)
            left = [one.id for one in session.history]
            await arrived(server, "conversation.item.create", 2)
            texts = [one.text for one in session.history]
        connection = server.connections[0]
    assert connection.last("conversation.item.delete")["item_id"] == asked
    new = connection.last("conversation.item.create")
    assert (new["previous_item_id"], new["item"]["content"]) == (
        "item_a",
        [{"type": "input_text", "text": "By the way …"}],
    )
    assert changed.item is None
    assert left[0] == "item_a"
    assert asked not in left
    assert texts == ["Hello.", "By the way …"]


async def test_update_history_accepts_a_list() -> None:
    async with ScriptedServer([*READY, hold()]) as server:
        async with talking(server.base_url) as (session, _):
            item_id = session.send_message("Hi!", respond=False)
            session.update_history([])
            await arrived(server, "conversation.item.delete")
            assert session.history == ()
        assert server.connections[0].last("conversation.item.delete")["item_id"] == item_id


# --- questions outside the conversation -------------------------------------------------------------------------------


def aside(connection: Connection, status: str = "completed", **more: Any) -> Frame:
    """Return the answer to an out-of-band question: a response with the question's metadata."""
    metadata = connection.last("response.create")["response"]["metadata"]
    item = {
        "id": "item_x",
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [{"type": "output_text", "text": "Forty-two."}],
    }
    return done("resp_x", status, metadata=metadata, output=[item], conversation_id=None, **more)


async def test_model_can_be_asked_outside_the_conversation() -> None:
    async with ScriptedServer([*READY, expect("response.create"), reply(aside), hold()]) as server:
        async with talking(server.base_url) as (session, reader):
            answer = await session.ask("What is six by seven?", instructions="Reckon.")
            assert session.history == ()
        response = server.connections[0].last("response.create")["response"]
    assert [one.text for one in answer] == ["Forty-two."]
    assert response["conversation"] == "none"
    assert response["output_modalities"] == ["text"]
    assert response["instructions"] == "Reckon."
    assert response["input"] == [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "What is six by seven?"}]}
    ]
    assert "turn_start" not in reader.types


async def test_question_that_sees_the_history_is_sent_as_instructions() -> None:
    async with ScriptedServer([*READY, expect("response.create"), reply(aside), hold()]) as server:
        async with talking(server.base_url) as (session, _):
            await session.ask("Sum it up.", instructions="Be brief.", sees_history=True)
        response = server.connections[0].last("response.create")["response"]
    assert response["instructions"] == "Be brief.\n\nSum it up."
    assert "input" not in response


async def test_failed_question_raises_with_the_servers_message() -> None:
    def failed(connection: Connection) -> Frame:
        details = {"type": "failed", "error": {"type": "server_error", "code": "x", "message": "the model fell over"}}
        return aside(connection, "failed", status_details=details)

    async with ScriptedServer([*READY, expect("response.create"), reply(failed), hold()]) as server:
        async with talking(server.base_url) as (session, _):
            with pytest.raises(LinkError, match="the model fell over"):
                await session.ask("Are you there?")


async def test_unanswered_question_times_out_and_the_error_names_the_limit() -> None:
    async with ScriptedServer([*READY, hold()]) as server:
        async with talking(server.base_url) as (session, _):
            with pytest.raises(LinkError, match=r"no answer within 0\.02 s"):
                await session.ask("Are you there?", timeout_s=0.02)


async def test_question_fails_when_the_connection_is_lost() -> None:
    script = [*READY, expect("response.create"), close(1001)]
    async with ScriptedServer(script, every_other=[*READY, hold()]) as server:
        async with talking(server.base_url) as (session, _):
            with pytest.raises(LinkError, match="lost"):
                await session.ask("Are you there?")


async def test_question_fails_when_the_session_is_closed() -> None:
    async with ScriptedServer([*READY, hold()]) as server:
        async with talking(server.base_url) as (session, _):
            asking = asyncio.ensure_future(session.ask("Are you there?"))
            await asyncio.sleep(0)
            await session.close()
            with pytest.raises(LinkError):
                await asyncio.wait_for(asking, 5)


async def test_question_to_a_closed_session_fails_at_once() -> None:
    async with ScriptedServer([*READY, hold()]) as server:
        async with talking(server.base_url) as (session, _):
            await session.close()
            with pytest.raises(LinkError):
                await asyncio.wait_for(session.ask("Are you there?"), 2)


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_close_sends_1000_ends_the_events_and_is_idempotent() -> None:
    async with ScriptedServer([*READY, hold()]) as server:
        async with talking(server.base_url) as (session, reader):
            await reader.until(Connected)
            await session.close()
            await session.close()
            await reader.end()
        await asyncio.wait_for(server.connections[0].ended.wait(), 10)
        assert server.connections[0].close_code == 1000


async def test_close_during_an_answer_truncates_it_where_it_was_heard() -> None:
    script = [*READY, expect("response.create"), send(*spoken()[:2], audio(pcm(24_000))), hold()]
    async with ScriptedServer(script) as server:
        async with talking(server.base_url, playback="reported") as (session, reader):
            session.send_message("Hi!")
            await reader.until(Audio)
            session.played("item_a", 2400)
            await session.close()
        await asyncio.wait_for(server.connections[0].ended.wait(), 10)
        assert server.connections[0].last("conversation.item.truncate")["audio_end_ms"] == 100


async def test_exception_in_the_async_with_block_closes_the_session_and_propagates() -> None:
    async with ScriptedServer([*READY, hold()]) as server:
        with pytest.raises(ZeroDivisionError):
            async with RealtimeSession(RealtimeAgent(name="Ada"), url=server.base_url):
                raise ZeroDivisionError
        await asyncio.wait_for(server.connections[0].ended.wait(), 10)
        assert server.connections[0].close_code == 1000


async def test_without_a_reader_the_oldest_events_are_dropped_and_this_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("appliance.runtime.session_body._MOST_EVENTS", 5)
    frames = [{"type": "of.the.future", "event_id": f"event_{n}"} for n in range(20)]
    async with ScriptedServer([*READY, send(*frames), *answering(*calling("mark")), hold()]) as server:
        async with RealtimeSession(RealtimeAgent(name="Ada"), url=server.base_url) as session:
            session.send_message("Hi!")
            await arrived(server, "response.create", 2)
        left = [event async for event in session]
    assert len(left) == 5
    assert "no reader" in caplog.text


# --- connecting -------------------------------------------------------------------------------------------------------


WRITTEN = RealtimeSessionSettings(output_modalities=("text",))

QUICK = Policy(pre_roll_ms=0, backoff_initial_s=0.01, backoff_max_s=0.02, stable_s=0.0)


async def _refusal(*urls: str, **options: Any) -> str:
    """Return the error message of a failed ``async with``; check that no task is left running."""
    with pytest.raises(LinkError) as caught:
        async with RealtimeSession(RealtimeAgent(name="Ada"), url=urls, **options):
            raise AssertionError("it is connected")
    assert "realtime session" not in {task.get_name() for task in asyncio.all_tasks()}
    return str(caught.value)


async def test_refused_key_fails_at_once_and_the_error_names_the_endpoint() -> None:
    async with ScriptedServer(every_other=[refuse(401, {"error": {"message": "bad key"}})]) as server:
        text = await _refusal(server.base_url, api_key="sk-test-1234567890")
        assert len(server.connections) == 1
        assert text.startswith(f"{server.base_url}: ")
    assert "API key" in text
    assert "sk-test" not in text


async def test_unreachable_server_fails_at_the_time_limit_with_the_cause() -> None:
    async with ScriptedServer() as server:
        url = server.base_url
    text = await _refusal(url, connect_timeout_s=0.1)
    assert text.startswith(f"{url}: ")
    assert "no connection within" not in text, "the reason is known"


async def test_server_that_does_not_answer_times_out() -> None:
    async with ScriptedServer([stall_handshake()]) as server:
        text = await _refusal(server.base_url, connect_timeout_s=0.05)
        assert text == f"{server.base_url}: no connection within 0.05 s"


async def test_invalid_url_is_refused_and_named() -> None:
    with pytest.raises(SettingsError, match="ftp://house/v1"):
        async with RealtimeSession(RealtimeAgent(name="Ada"), url="ftp://house/v1"):
            pass


async def test_key_and_headers_are_sent_and_the_model_is_in_the_url() -> None:
    settings = RealtimeSessionSettings(model="house-1")
    async with ScriptedServer([*READY, hold()]) as server:
        options = {"api_key": "sk-test", "headers": {"OpenAI-Safety-Identifier": "u1"}}
        async with talking(server.base_url, settings=settings, **options) as (session, _):
            assert "sk-test" not in repr(session)
        connection = server.connections[0]
    assert connection.path == "/v1/realtime?model=house-1"
    assert connection.headers["Authorization"] == "Bearer sk-test"
    assert connection.headers["OpenAI-Safety-Identifier"] == "u1"


async def test_key_is_fetched_for_each_connection() -> None:
    keys = iter(["first", "second"])
    async with ScriptedServer([*READY, close(1001)], [*READY, hold()]) as server:
        async with talking(server.base_url, api_key=lambda: next(keys), policy=QUICK) as (_, reader):
            await reader.until(Connected)
            await reader.until(Connected)
        sent = [one.headers["Authorization"] for one in server.connections]
    assert sent == ["Bearer first", "Bearer second"]


async def test_key_defaults_to_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-house")
    async with ScriptedServer([*READY, hold()]) as server:
        async with talking(server.base_url):
            pass
        assert server.connections[0].headers["Authorization"] == "Bearer sk-of-the-house"


async def test_next_url_is_used_if_the_first_refuses() -> None:
    async with ScriptedServer(every_other=[refuse(503)]) as first, ScriptedServer([*READY, hold()]) as second:
        async with talking([first.base_url, second.base_url], policy=QUICK) as (session, reader):
            connected = await reader.until(Connected)
        assert session.endpoints == (first.base_url, second.base_url)
        assert session.endpoints[connected.endpoint] == second.base_url


async def test_key_is_sent_to_the_first_server_only() -> None:
    async with ScriptedServer(every_other=[refuse(503)]) as first, ScriptedServer([*READY, hold()]) as second:
        async with talking([first.base_url, second.base_url], policy=QUICK, api_key="sk-cloud"):
            pass
        shown = [one.connections[0].headers.get("Authorization") for one in (first, second)]
    assert shown == ["Bearer sk-cloud", None]


async def test_offline_brain_answers_if_no_server_accepts() -> None:
    async with ScriptedServer(every_other=[refuse(503)]) as server:
        async with talking([server.base_url, "offline"], policy=QUICK, settings=WRITTEN) as (session, reader):
            assert session.endpoints[(await reader.until(Connected)).endpoint] == "offline brain"
            session.send_message("who are you")
            answer = await reader.until(AnswerText, lambda one: one.is_final)
    assert answer.text.startswith("I am the voice of this box.")


async def test_turn_cut_off_by_a_clean_close_is_reported_and_answered_on_the_next_connection() -> None:
    scripts = [
        [*READY, expect("input_audio_buffer.commit"), close(1000)],
        [*READY, expect("input_audio_buffer.commit"), *answering(*spoken()), hold()],
    ]
    async with ScriptedServer(*scripts) as server:
        async with talking(server.base_url, policy=QUICK) as (session, reader):
            session.send_audio(pcm(4800, 1234), commit=True)
            await reader.until(Error)
            ended = await reader.until(TurnEnd)
        server.assert_complete()
        heard = [
            b"".join(base64.b64decode(one["audio"]) for one in connection.of_type("input_audio_buffer.append"))
            for connection in server.connections
        ]
    assert ended.outcome == "answered"
    assert heard == [pcm(4800, 1234)] * 2
    assert len(reader.of(Connected)) == 2


# --- formats ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "code", "sample"),
    # ITU-T G.711, tables 1a and 2a: the codes of the largest positive value, in 16 bits
    [("g711_ulaw", 0x80, 32124), ("g711_alaw", 0xAA, 32256)],
)
async def test_g711_is_converted_to_and_from_pcm_on_the_wire(name: Any, code: int, sample: int) -> None:
    settings = RealtimeSessionSettings(input_audio_format=name, output_audio_format=name)
    answer = [*spoken()[:2], audio(pcm(2400, sample)), *spoken()[4:]]
    async with ScriptedServer([*READY, *answering(*answer), hold()]) as server:
        async with talking(server.base_url, settings=settings) as (session, reader):
            session.send_audio(bytes([code]) * 1600, commit=True)
            given = await reader.until(Audio)
            await reader.until(TurnEnd)
        connection = server.connections[0]
    heard = b"".join(base64.b64decode(one["audio"]) for one in connection.of_type("input_audio_buffer.append"))
    assert len(heard) == 2 * 3 * 1600
    assert struct.unpack("<h", heard[-2:]) == (sample,)
    assert connection.last("session.update")["session"]["audio"]["input"]["format"] == {
        "type": "audio/pcm",
        "rate": 24000,
    }
    assert len(b"".join(one.audio for one in reader.of(Audio))) == 800
    assert given.audio[400] == code


@pytest.mark.parametrize("name", ["g711_ulaw", "g711_alaw"])
async def test_each_answer_in_g711_is_yielded_to_its_last_sample(name: Any) -> None:
    """The program reports the audio that it got: what the encoder kept back would never be heard."""
    settings = RealtimeSessionSettings(output_audio_format=name)
    cut, long, short = (spoken("Hello.", f"item_{key}", f"resp_{key}") for key in "abc")
    cut[3:] = [audio(pcm(2400), "item_a", "resp_a")]
    long[3], short[3] = audio(pcm(96_000), "item_b", "resp_b"), audio(pcm(2400, -4000), "item_c", "resp_c")
    script = [*READY, *answering(*cut), expect("response.cancel"), send(done("resp_a", "cancelled"))]
    script += [*answering(*long), *answering(*short), hold()]
    async with ScriptedServer(script) as server:
        async with talking(server.base_url, settings=settings, playback="reported") as (session, reader):

            async def answer(item_id: str) -> bytes:
                session.send_message("Hi!")
                await reader.until(AudioEnd, lambda one: one.item_id == item_id)
                heard = b"".join(one.audio for one in reader.of(Audio) if one.item_id == item_id)
                session.played(item_id, 3 * len(heard))
                assert (await reader.until(TurnEnd)).outcome == "answered"
                return heard

            session.send_message("Hi!")
            await reader.until(Audio)
            session.interrupt()
            await reader.until(TurnEnd)
            assert len(await answer("item_b")) == 96_000 // 3
            last = await answer("item_c")
    assert len(last) == 2400 // 3
    assert len({code & 0x80 for code in last}) == 1, "nothing of an earlier answer is in it"


async def test_input_and_output_formats_are_independent() -> None:
    settings = RealtimeSessionSettings(input_audio_format="g711_ulaw")
    async with ScriptedServer([*READY, *answering(*spoken()), hold()]) as server:
        async with talking(server.base_url, settings=settings) as (session, reader):
            session.send_audio(b"\xff" * 1600, commit=True)
            given = await reader.until(Audio)
            await reader.until(TurnEnd)
        connection = server.connections[0]
    heard = b"".join(base64.b64decode(one["audio"]) for one in connection.of_type("input_audio_buffer.append"))
    assert heard == bytes(2 * 3 * 1600), "0xFF is silence in µ-law"
    assert given.audio == pcm()


# --- usage and budget -------------------------------------------------------------------------------------------------


def of_model(model: str) -> list[Step]:
    """Return the first steps of a connection to a server with this model."""
    session = {"type": "realtime", "object": "realtime.session", "id": "sess_1", "model": model}
    return [send({"type": "session.created", "event_id": "event_1", "session": session}), expect("session.update")]


async def test_usage_lists_tokens_by_kind_and_no_cost_for_an_unknown_model() -> None:
    answer = [*spoken()[:-1], done(usage=TOKENS)]
    async with ScriptedServer([*of_model("house-1"), *answering(*answer), hold()]) as server:
        async with talking(server.base_url, settings=RealtimeSessionSettings(model="house-1")) as (session, reader):
            session.send_message("Hi!")
            used = await reader.until(Usage, lambda one: bool(one.tokens))
            ended = await reader.until(TurnEnd)
    assert {key: used.tokens[key] for key in ("input_tokens", "input_audio_tokens", "output_audio_tokens")} == {
        "input_tokens": 100,
        "input_audio_tokens": 40,
        "output_audio_tokens": 150,
    }
    assert used.usd is None
    assert ended.usage["total_tokens"] == 300


async def test_budget_warns_at_80_percent() -> None:
    answer = [*spoken()[:2], words("Hello."), audio(pcm(2160)), *spoken()[4:]]
    policy = Policy(pre_roll_ms=0, budget_s=0.1)
    async with ScriptedServer([*READY, *answering(*answer), hold()]) as server:
        async with talking(server.base_url, policy=policy) as (session, reader):
            session.send_message("Hi!")
            warned = await reader.until(BudgetWarning)
    assert warned.percent == 80


# --- the offline brain ------------------------------------------------------------------------------------------------


async def test_offline_brain_takes_a_message_calls_the_tool_and_answers() -> None:
    lamp = Lamp()
    async with talking("offline", lamp.agent(), raw_events=False) as (session, reader):
        assert session.endpoints[(await reader.until(Connected)).endpoint] == "offline brain"
        session.send_message("turn on the lamp")
        answer = await reader.until(AnswerText, lambda one: one.is_final)
        heard = await reader.until(AudioEnd)
        texts = [one.text for one in session.history if one.role == "assistant"]
        session.interrupt()
    assert lamp.switched == [True]
    assert answer.text.strip()
    assert texts == [answer.text]
    assert {one.item_id for one in reader.of(Audio)} == {heard.item_id}


async def test_offline_brain_is_the_default_without_key_and_url() -> None:
    async with RealtimeSession(RealtimeAgent(name="Ada"), raw_events=False) as session:
        event = await anext(aiter(session))
    assert event == Connected(1, 0)
    assert session.endpoints == ("offline brain",)


# --- the transport alone ----------------------------------------------------------------------------------------------


async def test_transport_can_be_used_without_agents() -> None:
    arrived: asyncio.Queue[Event] = asyncio.Queue()
    async with ScriptedServer([send(SESSION_CREATED), expect("response.create"), send(created()), hold()]) as server:
        transport = WebSocketTransport(Endpoint(server.url, dict), post=arrived.put_nowait)
        running = asyncio.create_task(transport.run())
        transport.connect(1)
        events = [await arrived.get(), await arrived.get()]
        transport.send(1, wire.RawClientEvent(frame={"type": "response.create", "response": {"instructions": "Sing."}}))
        events.append(await arrived.get())
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert server.connections[0].types == ["response.create"]
    assert events[0] == LinkUp(1)
    assert [one.event.type for one in events[1:] if isinstance(one, ServerEventReceived)] == [
        "session.created",
        "response.created",
    ]
