"""`RealtimeSession` against a scripted server on loopback: a program's calls and the events it gets, in order."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.agents.agent import RealtimeAgent
from appliance.conversation.notices import (
    AnswerText,
    Audio,
    AudioEnd,
    AudioInterrupted,
    Connected,
    Error,
    HistoryChanged,
    HistoryGrew,
    InputText,
    Raw,
    TurnEnd,
)
from appliance.conversation.policy import Policy
from appliance.errors import SettingsError
from appliance.realtime.items import HistoryItem
from appliance.realtime.payload import MAX_IMAGE_BYTES, RealtimeSessionSettings, ServerVad
from appliance.runtime.session import RealtimeSession
from tests.support.scripted_server import (
    SESSION_CREATED,
    Connection,
    ScriptedServer,
    expect,
    hold,
    send,
    send_raw,
)
from tests.support.sessions import (
    JPEG,
    PNG,
    READY,
    Reader,
    answering,
    arrived,
    audio,
    calling,
    committed,
    done,
    pcm,
    spoken,
    talking,
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
