"""Seven of ten known failures of the reference SDK: for each, a test of this package and one of the SDK."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from appliance.agents.tools import tool
from appliance.conversation.commands import CheckText
from appliance.conversation.events import GuardrailsChecked, InterruptAsked
from appliance.conversation.notices import AudioInterrupted, Guardrail, ToolEnd, TurnEnd
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
    pcm,
    played,
    reference,
    referring,
    talking,
    with_tools,
)
from tests.support.scripted_server import (
    Connection,
    Frame,
    ScriptedServer,
    expect,
    reply,
    send,
)
from tests.support.stage import Stage

# --- frames of the server ---------------------------------------------------------------------------------------------


def words(text: str, response_id: str = "resp_1", item_id: str = "item_a") -> Frame:
    place = {"response_id": response_id, "item_id": item_id, "output_index": 0, "content_index": 0}
    return {"type": "response.output_audio_transcript.delta", "event_id": "event_w", **place, "delta": text}


def all_words(text: str, response_id: str = "resp_1", item_id: str = "item_a") -> Frame:
    place = {"response_id": response_id, "item_id": item_id, "output_index": 0, "content_index": 0}
    return {"type": "response.output_audio_transcript.done", "event_id": "event_x", **place, "transcript": text}


def error(code: str | None, *, event_id: str | None = None, message: str = "Something.") -> Frame:
    told = {"type": "invalid_request_error", "code": code, "message": message, "param": None, "event_id": event_id}
    return {"type": "error", "event_id": "event_e", "error": told}


SPEECH_STARTED: Frame = {
    "type": "input_audio_buffer.speech_started",
    "event_id": "event_s",
    "item_id": "item_2",
    "audio_start_ms": 0,
}

# --- the reference ----------------------------------------------------------------------------------------------------


SIGNALLED = expect("conversation.item.retrieve")
"""The reference has had time to act on its own."""

# --- 1: late audio after an interruption ------------------------------------------------------------------------------


def test_late_audio_after_an_interruption_is_not_played() -> None:
    """The reference yields the audio: `interrupt()` names no response, so its model does not know which audio to drop.

    ``_send_interrupt`` adds to ``_interrupted_audio_response_ids`` only where the event has a ``response_id``, which
    only a tripped guardrail gives; ``_handle_audio_delta`` passes every other delta on.
    """
    stage = Stage().ready()
    stage.answering()
    stage.do(InterruptAsked())
    commands = stage.audio(ms=200)
    assert stage.plays(commands) == []
    assert stage.notices(AudioInterrupted) == [AudioInterrupted("item_a", 100)]


@reference
async def test_the_reference_yields_late_audio_after_an_interruption() -> None:
    script = [*READY, expect("response.create"), send(created(), audio(200)), expect("response.cancel")]
    script += [send(audio(20, sample=99), MARK)]
    async with ScriptedServer(script) as server, referring(server) as theirs:
        await theirs.session.send_message("Hi!")
        await theirs.until(lambda one: one.type == "audio")
        await theirs.session.interrupt()
        await theirs.until_mark()
        await played(server)
    after = theirs.types[theirs.types.index("audio_interrupted") :]
    assert "audio" in after
    assert theirs.of("audio")[-1].audio.data == pcm(20, sample=99)


# --- 2: interruption before response.created --------------------------------------------------------------------------


def test_an_interruption_before_response_created_cancels_the_answer_on_arrival() -> None:
    """The reference forgets the interruption: it cancels nothing and plays the whole answer.

    ``_cancel_response`` returns where ``_ongoing_response`` is False, which it is until ``response.created``, and
    keeps no note for later.
    """
    stage = Stage().ready()
    stage.do(message())
    stage.do(InterruptAsked())
    commands = stage.created()
    assert stage.sent(commands) == [{"type": "response.cancel", "response_id": "resp_1"}]
    stage.audio()
    assert stage.plays() == []


@reference
async def test_the_reference_forgets_an_interruption_before_response_created() -> None:
    script = [*READY, expect("response.create"), send(MARK), SIGNALLED, send(created(), audio(), done(), MARK)]
    async with ScriptedServer(script) as server, referring(server) as theirs:
        await theirs.session.send_message("Hi!")
        await theirs.until_mark()
        await theirs.session.interrupt()
        await theirs.signal()
        await theirs.until_mark()
        await played(server)
        assert "response.cancel" not in server.connections[0].types
    assert len(theirs.of("audio")) == 1


# --- 3: a create wedged by an unrelated error -------------------------------------------------------------------------


def test_an_error_that_does_not_name_the_request_never_wedges_the_next_one() -> None:
    """The reference waits for ever: its sequencer has no deadline.

    After ``response.create`` it is in "create_requested" until ``response.created``, ``response.done`` or an error
    that has an ``event_id``, the code "bad_response_create" or "response.create" in its message
    (``_error_matches_pending_response_create``). A server that answers the request with any other error leaves every
    later request waiting in ``wait_for_response_create_slot``.
    """
    stage = Stage().ready()
    stage.do(message())
    stage.error("server_error", message="The server had an error while processing your request.")
    stage.do(message("Still there?", "note_2"))
    stage.advance(3.0)
    assert asks(stage) == ["turn_1", "turn_2"]


@reference
async def test_the_reference_is_wedged_by_an_error_that_does_not_name_the_request() -> None:
    nameless = error("server_error", message="The server had an error while processing your request.")
    script = [*READY, expect("response.create"), send(nameless, MARK), expect("conversation.item.create"), SIGNALLED]
    async with ScriptedServer([*script, send(MARK)]) as server, referring(server) as theirs:
        await theirs.session.send_message("Hi!")
        await theirs.until_mark()
        await theirs.session.send_message("Still there?")
        await theirs.signal()
        await theirs.until_mark()
        await played(server)
        assert server.connections[0].types.count("response.create") == 1
        assert theirs.session.model._response_control == "create_requested"


# --- 4: the lost request after "already has an active response" -------------------------------------------------------


def test_a_request_refused_for_another_response_is_repeated_when_that_is_done() -> None:
    """The reference loses the request: the user has asked and is never answered.

    ``mark_response_create_sent`` removes the request when the frame is sent, so the refusal finds nothing to keep.
    While the other response runs, the refusal only becomes an "error" event; otherwise the pending request is cleared
    (``clear_pending_response_create``) and not repeated.
    """
    stage = Stage().ready()
    stage.do(message())
    event_id = stage.sent()[-1]["event_id"]
    stage.error("conversation_already_has_active_response", event_id=event_id)
    assert asks(stage) == ["turn_1"]
    stage.done("resp_other", turn=None)
    assert asks(stage) == ["turn_1", "turn_1"]


def _refused(connection: Connection) -> Frame:
    event_id = connection.last("response.create")["event_id"]
    return error("conversation_already_has_active_response", event_id=event_id)


@reference
async def test_the_reference_loses_a_request_refused_for_another_response() -> None:
    script = [*READY, expect("response.create"), send(created("resp_other")), reply(_refused)]
    script += [send(done("resp_other"), MARK), SIGNALLED, send(MARK)]
    async with ScriptedServer(script) as server, referring(server) as theirs:
        await theirs.session.send_message("Hi!")
        await theirs.until_mark()
        await theirs.signal()
        await theirs.until_mark()
        await played(server)
        assert server.connections[0].types.count("response.create") == 1


# --- 5: speaking over the user after an interrupted tool --------------------------------------------------------------


def test_the_output_of_an_interrupted_tool_is_sent_without_requesting_a_response() -> None:
    """The reference speaks over the user.

    ``_handle_tool_call`` always sends the output with ``start_response=True``, even while the user speaks.
    """
    stage = Stage(specs=[with_tools("look_up")]).ready()
    stage.do(message())
    stage.created()
    stage.called("look_up", "call_1")
    stage.done()
    stage.press()
    stage.hear(200)
    commands = stage.tool_finished("call_1", '"rain"')
    (output,) = stage.sent(commands)
    assert (output["item"]["type"], output["item"]["output"]) == ("function_call_output", '"rain"')
    assert asks(stage) == ["turn_1"]
    assert stage.state == "listening"


@reference
async def test_the_reference_requests_a_response_while_the_user_speaks() -> None:
    import agents

    interrupted = asyncio.Event()

    @agents.function_tool
    async def look_up() -> str:
        await interrupted.wait()
        return "rain"

    script = [*READY, expect("response.create"), send(created(), call("look_up", "call_1"), done(), SPEECH_STARTED)]
    script += [send(MARK), expect("conversation.item.create"), expect("response.create")]
    async with ScriptedServer(script) as server, referring(server, tools=[look_up]) as theirs:
        await theirs.session.send_message("Hi!")
        await theirs.until_mark()
        interrupted.set()
        await theirs.until(lambda one: one.type == "tool_end")
        await played(server)
        assert server.connections[0].types.count("response.create") == 2


# --- 6: short replies and tails unguarded -----------------------------------------------------------------------------


SECRET = "It is swordfish."

HARMLESS = "I am glad that you have asked me this, for there are many things that one may say of a good password. "


def _checks(stage: Stage) -> list[CheckText]:
    return [one for one in stage.commands if isinstance(one, CheckText)]


@pytest.mark.parametrize("before", ["", HARMLESS], ids=["short reply", "tail"])
def test_a_short_reply_and_the_tail_of_a_long_one_are_checked(before: str) -> None:
    """The reference checks only at multiples of 100 characters and not at the end of the answer.

    ``_record_output_guardrail_delta`` runs the guardrails when the text has passed the next multiple of
    ``debounce_text_length`` (100); "turn_ended" clears the texts without another run.
    """
    stage = Stage(specs=[with_tools(has_output_guardrails=True)]).ready()
    stage.do(message())
    stage.created()
    if before:
        stage.server(words(before))
        stage.do(GuardrailsChecked(_checks(stage)[-1].key))
    stage.server(words(SECRET))
    stage.audio(ms=2000)
    stage.server(all_words(before + SECRET))
    check = _checks(stage)[-1]
    assert check.text == before + SECRET
    stage.do(GuardrailsChecked(check.key, "no_secrets", "a password"))
    assert [one.guardrail for one in stage.notices(Guardrail)] == ["no_secrets"]
    assert stage.flushes() != []


@pytest.mark.parametrize("before", ["", HARMLESS], ids=["short reply", "tail"])
@reference
async def test_the_reference_checks_neither_short_replies_nor_tails(before: str) -> None:
    import agents

    checked: list[str] = []

    async def no_secrets(context: Any, agent: Any, text: str) -> Any:
        checked.append(text)
        return agents.GuardrailFunctionOutput(output_info=None, tripwire_triggered="swordfish" in text)

    pieces = [words(one) for one in (before, SECRET) if one]
    answer = [created(), *pieces, audio(), all_words(before + SECRET), done(), MARK]
    script = [*READY, expect("response.create"), send(*answer), SIGNALLED, send(MARK)]
    guardrail = agents.OutputGuardrail(guardrail_function=no_secrets)
    async with ScriptedServer(script) as server, referring(server, output_guardrails=[guardrail]) as theirs:
        await theirs.session.send_message("Hi!")
        await theirs.until_mark()
        await theirs.signal()
        await theirs.until_mark()
    assert checked == [before][: bool(before)]
    assert theirs.of("guardrail_tripped") == []
    assert len(theirs.of("audio")) == 1


# --- 7: a tool exception ending the session ---------------------------------------------------------------------------


async def test_a_tool_that_raises_answers_the_model_and_the_session_continues() -> None:
    """The reference ends: a tool that raises (``failure_error_function=None``, or a custom tool) is fatal.

    ``_on_tool_call_task_done`` stores the exception, and the iteration closes the session and raises it. The call is
    left without an output.
    """

    @tool
    def look_up() -> str:
        """Look it up."""
        raise ValueError("no such city")

    script = [*READY, expect("response.create"), send(created(), call("look_up", "call_1"), done())]
    script += [expect("conversation.item.create"), *answering("resp_2"), *answering("resp_3")]
    async with ScriptedServer(script) as server, talking(server, look_up) as (session, reader):
        session.send_message("Hi!")
        assert (await reader.until(TurnEnd)).outcome == "answered"
        output = server.connections[0].of_type("conversation.item.create")[-1]["item"]
        session.send_message("And now?")
        assert (await reader.until(TurnEnd)).outcome == "answered"
    assert (output["type"], output["call_id"]) == ("function_call_output", "call_1")
    assert output["output"] == "The tool look_up failed: ValueError."
    assert [one.is_error for one in reader.events if isinstance(one, ToolEnd)] == [True]


@reference
async def test_the_reference_ends_the_session_with_the_exception_of_a_tool() -> None:
    import agents

    @agents.function_tool(failure_error_function=None)
    def look_up() -> str:
        raise ValueError("no such city")

    script = [*READY, expect("response.create"), send(created(), call("look_up", "call_1"), done())]
    async with ScriptedServer(script) as server, referring(server, tools=[look_up]) as theirs:
        await theirs.session.send_message("Hi!")
        with pytest.raises(ValueError, match="no such city"):
            await theirs.until(lambda one: False)
        connection = server.connections[0]
        await asyncio.wait_for(connection.ended.wait(), 20)
    items = [one["item"]["type"] for one in connection.of_type("conversation.item.create")]
    assert "function_call_output" not in items
