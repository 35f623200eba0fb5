"""`RealtimeSession` against a scripted server on loopback: questions outside the conversation."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from appliance.errors import LinkError
from tests.support.scripted_server import (
    Connection,
    Frame,
    ScriptedServer,
    close,
    expect,
    hold,
    reply,
)
from tests.support.sessions import (
    READY,
    done,
    talking,
)


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
