"""Push to talk without `turn`, as programs for the OpenAI Agents SDK do it: audio in chunks, then a commit."""

from __future__ import annotations

import base64

import pytest

from appliance.agents.agent import RealtimeAgent
from appliance.agents.handoffs import handoff
from appliance.conversation.notices import Audio, AudioInterrupted, Error, HandoffDone, HistoryGrew, TurnEnd, TurnStart
from appliance.conversation.policy import Policy
from appliance.realtime.payload import RealtimeSessionSettings, ServerVad
from appliance.runtime.session import RealtimeSession
from tests.support.scripted_server import Connection, ScriptedServer, expect, hold, reply, send
from tests.support.sessions import (
    READY,
    answering,
    arrived,
    audio,
    calling,
    committed,
    done,
    pcm,
    spoken,
    talking,
    updated,
)

CHUNKS = [pcm(480, sample) for sample in range(1, 21)]  # 400 ms
ANSWERED = [*READY, expect("input_audio_buffer.commit"), send(committed()), *answering(*spoken()), hold()]


def appended(connection: Connection) -> bytes:
    return b"".join(base64.b64decode(one["audio"]) for one in connection.of_type("input_audio_buffer.append"))


def talk_by_commit(session: RealtimeSession) -> None:
    """The loop of the SDK: the last chunk commits."""
    for chunk in CHUNKS[:-1]:
        session.send_audio(chunk)
    session.send_audio(CHUNKS[-1], commit=True)


def talk_by_commit_and_create(session: RealtimeSession) -> None:
    """The SDK's commit requests no answer, so its programs request one."""
    talk_by_commit(session)
    session.send_event({"type": "response.create"})


def talk_by_frames(session: RealtimeSession) -> None:
    for chunk in CHUNKS:
        session.send_audio(chunk)
    session.send_event({"type": "input_audio_buffer.commit"})
    session.send_event({"type": "response.create"})


def talk_by_empty_commit(session: RealtimeSession) -> None:
    for chunk in CHUNKS:
        session.send_audio(chunk)
    session.send_audio(b"", commit=True)


WAYS = [talk_by_commit, talk_by_commit_and_create, talk_by_frames, talk_by_empty_commit]


@pytest.mark.parametrize("talk", WAYS)
async def test_all_audio_arrives_before_one_commit_and_one_request(talk) -> None:  # type: ignore[no-untyped-def]
    async with ScriptedServer(ANSWERED) as server:
        async with talking(server.base_url) as (session, reader):
            talk(session)
            ended = await reader.until(TurnEnd)
        server.assert_complete()
        connection = server.connections[0]
    assert appended(connection) == b"".join(CHUNKS)
    rest = [one for one in connection.types if one not in ("input_audio_buffer.append", "session.update")]
    assert rest == ["input_audio_buffer.clear", "input_audio_buffer.commit", "response.create"]
    last_append = max(at for at, one in enumerate(connection.types) if one == "input_audio_buffer.append")
    assert last_append < connection.types.index("input_audio_buffer.commit")
    assert (ended.outcome, [one.kind for one in reader.of(TurnStart)]) == ("answered", ["program"])


@pytest.mark.parametrize("talk", WAYS)
async def test_second_turn_works_like_the_first(talk) -> None:  # type: ignore[no-untyped-def]
    again = [expect("input_audio_buffer.commit"), send(committed("item_v")), *answering(*spoken("b", "b", "resp_2"))]
    async with ScriptedServer([*ANSWERED[:-1], *again, hold()]) as server:
        async with talking(server.base_url) as (session, reader):
            for _ in range(2):
                talk(session)
                await reader.until(TurnEnd)
            assert not session.turn.is_open
        connection = server.connections[0]
    assert appended(connection) == 2 * b"".join(CHUNKS)
    assert [one.outcome for one in reader.of(TurnEnd)] == ["answered", "answered"]
    assert connection.types.count("response.create") == 2


async def test_audio_during_an_answer_interrupts_it_and_begins_a_turn() -> None:
    script = [
        *ANSWERED[:-2],
        send(*spoken()[:2], audio(pcm(24_000))),
        expect("response.cancel"),
        send(done(status="cancelled")),
        expect("input_audio_buffer.commit"),
        send(committed("item_v")),
        *answering(*spoken(item_id="item_b", response_id="resp_2")),
        hold(),
    ]
    async with ScriptedServer(script) as server:
        async with talking(server.base_url) as (session, reader):
            talk_by_frames(session)
            await reader.until(Audio)
            talk_by_frames(session)
            await reader.until(AudioInterrupted)
            await reader.until(TurnEnd, lambda one: one.outcome == "answered")
        server.assert_complete()
    assert [one.outcome for one in reader.of(TurnEnd)] == ["interrupted", "answered"]


async def test_request_after_the_commit_is_confirmed_is_the_same_answer() -> None:
    script = [*ANSWERED[:-2], send(*spoken()[:1]), expect("conversation.item.create"), send(*spoken()[1:]), hold()]
    async with ScriptedServer(script) as server:
        async with talking(server.base_url) as (session, reader):
            talk_by_commit(session)
            await reader.until(HistoryGrew)
            session.send_event({"type": "response.create"})
            session.send_message("a mark", role="system", respond=False)
            await reader.until(TurnEnd)
        server.assert_complete()
        assert server.connections[0].types.count("response.create") == 1


async def test_with_server_turn_detection_audio_is_only_sent() -> None:
    settings = RealtimeSessionSettings(turn_detection=ServerVad())
    async with ScriptedServer([*READY, hold()]) as server:
        async with talking(server.base_url, settings=settings) as (session, reader):
            for chunk in CHUNKS:
                session.send_audio(chunk)
            assert not session.turn.is_open
            session.send_event({"type": "input_audio_buffer.commit"})
            await arrived(server, "input_audio_buffer.commit")
        connection = server.connections[0]
    assert appended(connection) == b"".join(CHUNKS)
    assert reader.of(TurnStart) == []
    assert not {"input_audio_buffer.clear", "response.create"} & set(connection.types)


async def test_turn_detection_of_the_agent_in_force_decides() -> None:
    listening = RealtimeAgent(name="Bo", instructions="Listen.", settings={"turn_detection": ServerVad()})
    agent = RealtimeAgent(name="Ada", instructions="Be brief.", handoffs=[handoff(listening, tool_name="to_bo")])
    script = [
        *READY,
        *answering(*calling("to_bo")),
        expect("session.update"),
        reply(updated),
        *answering(*spoken(response_id="resp_2")),
        hold(),
    ]
    async with ScriptedServer(script) as server:
        async with talking(server.base_url, agent) as (session, reader):
            talk_by_commit(session)
            await reader.until(HandoffDone)
            await reader.until(TurnEnd)
            for chunk in CHUNKS:
                session.send_audio(chunk)
            await arrived(server, "input_audio_buffer.append", 40)
            assert not session.turn.is_open
    assert len(reader.of(TurnStart)) == 1


async def test_spent_budget_is_reported_once_per_turn_and_not_per_chunk() -> None:
    answer = [*spoken()[:2], audio(pcm(4800)), *spoken()[4:]]
    async with ScriptedServer([*READY, *answering(*answer), hold()]) as server:
        async with talking(server.base_url, policy=Policy(pre_roll_ms=0, budget_s=0.1)) as (session, reader):
            session.send_message("Hi!")
            await reader.until(TurnEnd)
            talk_by_commit(session)
            await reader.until(Error)
            session.send_message("a mark", respond=False)
            await reader.until(HistoryGrew, lambda one: one.item.text == "a mark")
    assert [one.kind for one in reader.of(Error)] == ["budget_spent"]
