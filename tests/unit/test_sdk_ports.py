"""Push to talk and messages as programs for OpenAI's Agents SDKs write them, word for word.

The functions of the Python SDK run on `openai-agents` and on this package against one scripted server, which must get
the same from both. Those of the JavaScript SDK are in Python's syntax, with its names in Python's case.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from agents import set_tracing_disabled
from agents.realtime import RealtimeAgent as SdkAgent
from agents.realtime import RealtimeModelSendRawMessage, RealtimeRunner

from appliance import RealtimeAgent, RealtimeSession
from appliance.conversation.notices import AudioInterrupted, HandoffDone, TurnEnd
from tests.support.scripted_server import SESSION_CREATED, Connection, ScriptedServer, Step, expect, hold, reply, send
from tests.support.sessions import READY, TOKENS, answering, audio, committed, done, pcm, spoken, talking, updated

MICROPHONE = [pcm(480, sample) for sample in range(1, 21)]  # 400 ms

# --- the Python SDK ---------------------------------------------------------------------------------------------


async def push_to_talk(session: Any, microphone: list[bytes]) -> None:
    for chunk in microphone[:-1]:
        await session.send_audio(chunk)
    await session.send_audio(microphone[-1], commit=True)


async def message(session: Any, _: list[bytes]) -> None:
    await session.send_message("What is this?")


async def structured_message(session: Any, _: list[bytes]) -> None:
    await session.send_message(
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "What is this?"},
                {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo=", "detail": "high"},
            ],
        }
    )


async def interrupt(session: Any, _: list[bytes]) -> None:
    await session.interrupt()
    await session.send_message("Stop.")


Program = Callable[[Any, list[bytes]], Awaitable[None]]


@asynccontextmanager
async def sdk_session(url: str) -> AsyncIterator[Any]:
    set_tracing_disabled(True)
    settings: Any = {"tracing_disabled": True, "model_settings": {"turn_detection": None}}
    runner = RealtimeRunner(SdkAgent(name="Ada", instructions="Be brief."), config=settings)
    async with await runner.run(
        model_config={"url": f"{url.replace('http', 'ws')}/realtime?model=m", "api_key": "sk-local"}
    ) as session:
        reading = asyncio.create_task(_read(session))
        yield session
        reading.cancel()


@asynccontextmanager
async def our_session(url: str) -> AsyncIterator[Any]:
    async with RealtimeSession(RealtimeAgent(name="Ada", instructions="Be brief."), url=url) as session:
        yield session


async def _read(session: Any) -> None:
    async for _ in session:
        pass


def what_was_said(connection: Connection) -> dict[str, Any]:
    """Return what the server got: the audio, the commits, and the messages without their ids."""
    items = [one["item"] for one in connection.of_type("conversation.item.create")]
    return {
        "audio": b"".join(base64.b64decode(one["audio"]) for one in connection.of_type("input_audio_buffer.append")),
        "commits": connection.types.count("input_audio_buffer.commit"),
        "messages": [{name: value for name, value in item.items() if name != "id"} for item in items],
    }


@pytest.mark.parametrize("program", [push_to_talk, message, structured_message, interrupt])
async def test_program_of_the_python_sdk_says_the_same_here(program: Program) -> None:
    said = []
    for open_session in (sdk_session, our_session):
        last = "input_audio_buffer.commit" if program is push_to_talk else "response.create"
        async with ScriptedServer([send(SESSION_CREATED), expect(last), hold()]) as server:
            async with open_session(server.base_url) as session:
                await program(session, MICROPHONE)
                async with asyncio.timeout(20):
                    while not server.connections or last not in server.connections[0].types:
                        await asyncio.sleep(0.01)
        said.append(what_was_said(server.connections[0]))
    assert said[0] == said[1]
    assert said[0]["audio"] or said[0]["messages"]


async def test_result_of_a_message_is_its_id_awaited_or_not() -> None:
    async with ScriptedServer([*READY, hold()]) as server, our_session(server.base_url) as session:
        item_id = session.send_message("Hi!", respond=False)
        assert await item_id == item_id
        assert isinstance(item_id, str)
        with pytest.raises(AttributeError, match="send_event"):
            await session.model.send_event(RealtimeModelSendRawMessage(message={"type": "response.create"}))


# --- the JavaScript SDK -----------------------------------------------------------------------------------------


async def test_program_of_the_javascript_sdk_talks_by_frames_is_muted_and_changes_the_agent() -> None:
    heard: list[bytes] = []
    speaking = [*spoken()[:2], audio(pcm(24_000))]
    script: list[Step] = [
        *READY,
        expect("input_audio_buffer.commit"),
        send(committed()),
        *answering(*speaking),
        expect("response.cancel"),
        send(done(status="cancelled")),
        expect("session.update"),
        reply(updated),
        *answering(*spoken("Hi, I am Bo.", "item_b", "resp_2")[:-1], done("resp_2", usage=TOKENS)),
        hold(),
    ]
    async with ScriptedServer(script) as server:
        async with talking(server.base_url) as (session, reader):
            session.on("audio", lambda event: heard.append(event.audio))

            # The button is pressed …
            session.interrupt()
            session.send_event({"type": "input_audio_buffer.clear"})
            for chunk in MICROPHONE:
                session.send_audio(chunk)
            # … and released.
            session.send_event({"type": "input_audio_buffer.commit"})
            session.send_event({"type": "response.create"})

            while not heard:
                await asyncio.sleep(0.01)
            session.interrupt()
            await reader.until(AudioInterrupted)

            session.mute(True)
            assert session.muted
            session.send_audio(MICROPHONE[0])
            session.mute(False)

            await session.update_agent(RealtimeAgent(name="Bo", instructions="Be Bo."))
            await reader.until(HandoffDone)
            session.send_message("Who are you?")
            await reader.until(TurnEnd, lambda one: one.outcome == "answered")
            assert session.usage.output_tokens == 200
            assert [item.role for item in session.history if item.text] == ["user", "assistant"]
        server.assert_complete()
    connection = server.connections[0]
    assert what_was_said(connection)["audio"] == b"".join(MICROPHONE), "nothing of it was sent while muted"
    assert connection.types.count("input_audio_buffer.commit") == 1
    assert connection.types.count("response.create") == 2
