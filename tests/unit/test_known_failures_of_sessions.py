"""Three of ten known failures of the reference SDK, of calls and links: see `test_known_failures`."""

from __future__ import annotations

import asyncio
import json

import pytest

from appliance.conversation.notices import Connected, Error, TurnEnd
from tests.support.reference_sdk import (
    MARK,
    READY,
    answering,
    asks,
    audio,
    call,
    created,
    done,
    message,
    played,
    reference,
    referring,
    talking,
    with_tools,
)
from tests.support.scripted_server import (
    ScriptedServer,
    close,
    expect,
    send,
    send_raw,
)
from tests.support.stage import Stage

# --- 8: two answers for two calls -------------------------------------------------------------------------------------


def test_two_calls_of_one_response_lead_to_one_answer_when_both_are_done() -> None:
    """The reference requests an answer after the first output, which lacks the second, and then another answer.

    Each call sends its output with ``start_response=True`` (``_send_tool_output``); only requests that wait at the same
    time are merged.
    """
    stage = Stage(specs=[with_tools("weather", "traffic")]).ready()
    stage.do(message())
    stage.created()
    stage.called("weather", "call_1")
    stage.called("traffic", "call_2")
    stage.done()
    stage.tool_finished("call_1", '"rain"')
    assert asks(stage) == ["turn_1"]
    stage.tool_finished("call_2", '"none"')
    assert asks(stage) == ["turn_1", "turn_1"]
    stage.created("resp_2")
    stage.audio("resp_2", ms=100)
    stage.done("resp_2")
    stage.play(2400, drained=True)
    assert stage.outcomes() == ["answered"]
    assert asks(stage) == ["turn_1", "turn_1"]


@reference
async def test_the_reference_gives_two_answers_for_two_calls() -> None:
    import agents

    is_first_answered = asyncio.Event()

    @agents.function_tool
    async def weather() -> str:
        return "rain"

    @agents.function_tool
    async def traffic() -> str:
        await is_first_answered.wait()
        return "none"

    calls = [created(), call("weather", "call_1"), call("traffic", "call_2"), done()]
    script = [*READY, expect("response.create"), send(*calls), expect("response.create")]
    script += [send(created("resp_2"), audio(response_id="resp_2"), done("resp_2"), MARK)]
    script += [expect("conversation.item.create"), expect("response.create")]
    async with ScriptedServer(script) as server, referring(server, tools=[weather, traffic]) as theirs:
        await theirs.session.send_message("Hi!")
        await theirs.until_mark()
        is_first_answered.set()
        await theirs.until(lambda one: one.type == "tool_end")
        await played(server)
        assert server.connections[0].types.count("response.create") == 3


# --- 9: one malformed frame ending the session ------------------------------------------------------------------------


@pytest.mark.parametrize("frame", ["{", "5", "[]", '{"type": 7}', '{"type": "response.done"}', b"\x00\xff"])
async def test_one_malformed_frame_is_an_error_event_and_the_session_continues(frame: str | bytes) -> None:
    """The reference ends: JSON that does not parse becomes an "exception" event of its model.

    The session stores that (``on_event``), and the iteration closes the session and raises it.
    """
    async with ScriptedServer([*READY, send_raw(frame), *answering()]) as server:
        async with talking(server) as (session, reader):
            await reader.until(Error)
            session.send_message("Hi!")
            assert (await reader.until(TurnEnd)).outcome == "answered"
        assert len(server.connections) == 1


@reference
async def test_the_reference_ends_the_session_with_one_malformed_frame() -> None:
    async with ScriptedServer([*READY, send_raw("{")]) as server, referring(server) as theirs:
        with pytest.raises(json.JSONDecodeError):
            await theirs.until(lambda one: False)
        await asyncio.wait_for(server.connections[0].ended.wait(), 20)


# --- 10: a clean close ending the session silently --------------------------------------------------------------------


@pytest.mark.parametrize("code", [1000, 1001])
async def test_a_clean_close_is_followed_by_a_reconnect_that_emits_connected(code: int) -> None:
    """The reference's iteration just ends, as if the program had closed the session: no event, no exception.

    ``_emit_normal_disconnect`` sends a "connection_status" that the session drops and an "end_of_stream" that ends
    the iteration; nobody connects again.
    """
    scripts = [[*READY, expect("response.create"), close(code)], [*READY, *answering()]]
    async with ScriptedServer(*scripts) as server, talking(server) as (session, reader):
        await reader.until(Connected)
        session.send_message("Hi!")
        await reader.until(Connected)
        assert (await reader.until(TurnEnd)).outcome == "answered"
        await played(server)


@pytest.mark.parametrize("code", [1000, 1001])
async def test_after_a_clean_close_between_two_turns_the_next_turn_is_answered(code: int) -> None:
    """As above, without a running turn."""
    scripts = [[*READY, close(code)], [*READY, *answering()]]
    async with ScriptedServer(*scripts) as server, talking(server) as (session, reader):
        await reader.until(Connected)
        await reader.until(Connected)
        session.send_message("Hi!")
        assert (await reader.until(TurnEnd)).outcome == "answered"


@pytest.mark.parametrize("code", [1000, 1001])
@reference
async def test_the_reference_ends_silently_after_a_clean_close(code: int) -> None:
    script = [*READY, expect("response.create"), close(code)]
    async with ScriptedServer(script) as server, referring(server) as theirs:
        await theirs.session.send_message("Hi!")
        with pytest.raises(AssertionError, match="the session is over"):
            await theirs.until(lambda one: False)
        assert len(server.connections) == 1
    assert set(theirs.types) <= {"history_updated", "history_added"}
