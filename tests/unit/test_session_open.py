"""Calls to a session that is not open, or from another thread: each raises `SessionNotOpen`, and none is dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from appliance import SessionNotOpen
from appliance.agents.agent import RealtimeAgent
from appliance.conversation.events import FrameGiven
from appliance.conversation.notices import AudioEnd, TurnEnd
from appliance.errors import LinkError
from appliance.runtime.session import RealtimeSession
from tests.support.scripted_server import ScriptedServer, expect, hold
from tests.support.sessions import PNG, READY, answering, pcm, spoken, talking

CALLS: dict[str, Callable[[RealtimeSession], object]] = {
    "send_audio": lambda session: session.send_audio(pcm()),
    "send_audio of nothing": lambda session: session.send_audio(b""),
    "send_audio, commit": lambda session: session.send_audio(pcm(4800), commit=True),
    "send_message": lambda session: session.send_message("Hi!"),
    "send_image": lambda session: session.send_image(PNG),
    "send_event": lambda session: session.send_event({"type": "response.create"}),
    "mute": lambda session: session.mute(),
    "interrupt": lambda session: session.interrupt(),
    "approve": lambda session: session.approve("call_1"),
    "reject": lambda session: session.reject("call_1"),
    "update_history": lambda session: session.update_history([]),
    "update_history by a function": lambda session: session.update_history(lambda items: items),
    "turn.begin": lambda session: session.turn.begin(),
    "turn.commit": lambda session: session.turn.commit(),
    "turn.abort": lambda session: session.turn.abort(),
    "played": lambda session: session.played("item_a", 480),
}


def new(url: str, **options: Any) -> RealtimeSession:
    return RealtimeSession(RealtimeAgent(name="Ada"), url=url, **options)


@pytest.mark.parametrize("call", CALLS)
def test_call_before_async_with_is_refused(call: str) -> None:
    with pytest.raises(SessionNotOpen, match="async with"):
        CALLS[call](new("ws://127.0.0.1:1/v1"))


@pytest.mark.parametrize("call", CALLS)
async def test_call_after_the_end_is_refused(call: str) -> None:
    async with ScriptedServer([*READY, hold()]) as server:
        async with new(server.base_url) as session:
            pass
        with pytest.raises(SessionNotOpen, match="closed"):
            CALLS[call](session)


@pytest.mark.parametrize("call", CALLS)
async def test_call_from_another_thread_is_refused_and_names_the_remedy(call: str) -> None:
    async with ScriptedServer([*READY, hold()]) as server:
        async with new(server.base_url) as session:
            with pytest.raises(SessionNotOpen, match="call_soon_threadsafe"):
                await asyncio.to_thread(CALLS[call], session)


async def test_playout_reported_from_another_thread_is_refused_and_counts_nothing() -> None:
    async with ScriptedServer([*READY, *answering(*spoken()), hold()]) as server:
        async with talking(server.base_url, playback="reported") as (session, reader):
            session.send_message("Hi!")
            item_id = (await reader.until(AudioEnd)).item_id
            with pytest.raises(SessionNotOpen, match="call_soon_threadsafe"):
                await asyncio.to_thread(session.played, item_id, 24_000)
            session.interrupt()
            await reader.until(TurnEnd)
        truncations = server.connections[0].of_type("conversation.item.truncate")
    assert [one["audio_end_ms"] for one in truncations] == [0]


async def test_question_is_refused_before_the_start_after_the_end_and_on_another_thread() -> None:
    async with ScriptedServer([*READY, hold()]) as server:
        session = new(server.base_url)
        with pytest.raises(SessionNotOpen, match="async with"):
            await session.ask("Are you there?")
        async with session:
            with pytest.raises(SessionNotOpen, match="call_soon_threadsafe"):
                await asyncio.to_thread(lambda: asyncio.run(_ask(session)))
        with pytest.raises(SessionNotOpen, match="closed"):
            await session.ask("Are you there?")


async def _ask(session: RealtimeSession) -> None:
    await session.ask("Are you there?")


async def test_call_while_the_session_closes_is_refused() -> None:
    """Its events would be behind the shutdown in the inbox."""
    async with ScriptedServer([*READY, hold()]) as server:
        async with new(server.base_url) as session:
            closing = asyncio.create_task(session.close())
            await asyncio.sleep(0)
            with pytest.raises(SessionNotOpen, match="closed"):
                session.send_message("Wait!")
            await closing


async def test_turn_begun_too_early_does_not_spoil_the_first_one() -> None:
    async with ScriptedServer([*READY, expect("input_audio_buffer.commit"), *answering(*spoken()), hold()]) as server:
        session = new(server.base_url)
        with pytest.raises(SessionNotOpen):
            session.turn.begin()
        async with session:
            session.turn.begin()
            session.send_audio(pcm(4800))
            session.turn.commit()
            async with asyncio.timeout(5):
                async for event in session:
                    if isinstance(event, TurnEnd):
                        break
        assert event.outcome == "answered"


async def test_broken_session_names_its_reason() -> None:
    def observer(now: float, event: Any, commands: Any, view: Any) -> None:
        if isinstance(event, FrameGiven):
            raise RuntimeError("an observer's bug")

    async with ScriptedServer([*READY, hold()]) as server:
        session = await new(server.base_url, observers=[observer]).__aenter__()
        session.turn.begin()
        session.send_event({"type": "x"})
        async for _ in session:
            pass
        for call in ("send_message", "turn.begin", "send_audio"):
            with pytest.raises(SessionNotOpen, match="an observer's bug"):
                CALLS[call](session)
        with pytest.raises(BaseException):  # noqa: B017
            await session.close()


async def test_reading_is_allowed_at_any_time_and_on_any_thread() -> None:
    def read(session: RealtimeSession) -> tuple[Any, ...]:
        return session.history, session.agent.name, tuple(session.agents), session.turn.is_open, aiter(session) is None

    async with ScriptedServer([*READY, hold()]) as server:
        session = new(server.base_url)
        expected = ((), "Ada", ("Ada",), False, False)
        assert read(session) == expected
        async with session:
            assert await asyncio.to_thread(read, session) == expected
        assert read(session) == expected


async def test_input_may_be_given_by_call_soon_threadsafe() -> None:
    async with ScriptedServer([*READY, *answering(*spoken()), hold()]) as server:
        async with talking(server.base_url) as (session, reader):
            loop = asyncio.get_running_loop()
            await asyncio.to_thread(loop.call_soon_threadsafe, session.send_message, "Hi!")
            await reader.until(TurnEnd)


def test_it_is_a_link_error() -> None:
    assert issubclass(SessionNotOpen, LinkError)
