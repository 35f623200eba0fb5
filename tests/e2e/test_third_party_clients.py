"""Third-party clients converse with the offline brain: the `openai` SDK and `openai-agents`.

Neither shares code with our client, and both parse the brain's frames with their own types; openai-agents turns each
frame that it cannot validate into an error event. Everything runs on loopback.
"""

from __future__ import annotations

import base64
from typing import Any

import pytest
from agents.realtime import RealtimeAgent, RealtimeToolEnd

from appliance.brain.server import BrainServer
from tests.support.scripted import ScriptedPipeline, sine
from tests.support.third_party import (
    LAMP,
    agents_of,
    answered,
    of_type,
    says,
    sdk_of,
    set_lamp,
)

pytestmark = pytest.mark.e2e

# --- the openai SDK ---------------------------------------------------------------------------------------------------


async def test_openai_sdk_talks_calls_a_tool_and_interrupts() -> None:
    pipeline = ScriptedPipeline(hears="lamp please")
    async with BrainServer(pipeline, token="sk-local") as server, sdk_of(server) as sdk:
        realtime = sdk.connection
        assert (await sdk.until("session.created"))[0].session.model == "gpt-realtime-2.1"
        await realtime.session.update(
            session={
                "type": "realtime",
                "audio": {"input": {"turn_detection": None, "transcription": {"model": "gpt-transcribe"}}},
                "tools": [LAMP],  # type: ignore[list-item]
            }
        )
        await sdk.until("session.updated")

        # A text turn.
        await realtime.conversation.item.create(
            item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "good day"}]}
        )
        await realtime.response.create(response={"output_modalities": ["text"]})
        events = await sdk.until("response.done")
        assert [one.text for one in events if one.type == "response.output_text.done"] == ["You said good day."]

        # A spoken turn that ends in a tool call.
        await realtime.input_audio_buffer.append(audio=base64.b64encode(sine(500)).decode())
        await realtime.input_audio_buffer.commit()
        await realtime.response.create(response={"metadata": {"turn": "2"}})
        events = await sdk.until("response.done")
        assert [one.transcript for one in events if one.type.endswith("transcription.completed")] == ["lamp please"]
        (call,) = events[-1].response.output
        assert (call.type, call.name, call.arguments) == ("function_call", "set_lamp", '{"on": true}')
        assert events[-1].response.metadata == {"turn": "2"}

        # The tool's output, and the spoken answer.
        await realtime.conversation.item.create(
            item={"type": "function_call_output", "call_id": call.call_id, "output": "The lamp is on."}
        )
        await realtime.response.create()
        events = await sdk.until("response.done")
        audio = b"".join(base64.b64decode(one.delta) for one in events if one.type == "response.output_audio.delta")
        assert audio == sine(1000)
        (message,) = events[-1].response.output
        assert message.content[0].transcript == "The lamp is on."

        # The user heard part of the answer, then interrupted it.
        await realtime.conversation.item.truncate(item_id=message.id, content_index=0, audio_end_ms=300)
        await sdk.until("conversation.item.truncated")
        await realtime.conversation.item.retrieve(item_id=message.id)
        (retrieved,) = await sdk.until("conversation.item.retrieved")
        assert base64.b64decode(retrieved.item.content[0].audio) == sine(1000)[: 300 * 48]
    assert pipeline.closed == len(pipeline.requests) == 3


async def test_openai_sdk_cancels_an_answer_while_it_is_spoken() -> None:
    async with BrainServer(ScriptedPipeline(sentences=500)) as server, sdk_of(server) as sdk:
        await sdk.until("session.created")
        await sdk.connection.conversation.item.create(
            item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a story"}]}
        )
        await sdk.connection.response.create()
        await sdk.until("response.output_audio.delta")
        await sdk.connection.response.cancel()
        done = (await sdk.until("response.done"))[-1].response
        assert (done.status, done.status_details.reason) == ("cancelled", "client_cancelled")
        assert done.output[0].status == "incomplete"


# --- openai-agents ----------------------------------------------------------------------------------------------------


async def test_openai_agents_talks_calls_a_tool_and_interrupts() -> None:
    pipeline = ScriptedPipeline(hears="the lamp please")
    agent: RealtimeAgent[Any] = RealtimeAgent(name="Box", instructions="Be brief.", tools=[set_lamp])
    async with BrainServer(pipeline, token="sk-local") as server, agents_of(server, agent) as agents:
        # A text turn, answered in speech.
        await agents.session.send_message("good day")
        await agents.until(of_type("audio"))
        await agents.until(says("You said good day."))
        await agents.until(answered)
        assert pipeline.requests[0].instructions == "Be brief."

        # A spoken turn: the brain detects its end, the tool runs in the client, the brain speaks its output.
        for _ in range(3):
            await agents.session.send_audio(sine(200))
        await agents.session.send_audio(bytes(48 * 1000))
        await agents.until(of_type("tool_start"))
        ended = await agents.until(of_type("tool_end"))
        assert isinstance(ended, RealtimeToolEnd)
        assert (ended.arguments, ended.output) == ('{"on": true}', "The lamp is on.")
        await agents.until(says("The lamp is on."))
        await agents.until(answered)

        # An interruption: the client truncates the item to the heard part, and retrieves it.
        await agents.session.interrupt()
        await agents.until(of_type("audio_interrupted"))
        await agents.session.send_message("thank you")
        await agents.until(says("You said thank you."))
        await agents.until(answered)
    assert [request.items[-1]["type"] for request in pipeline.requests] == [
        "message",
        "message",
        "function_call_output",
        "message",
    ]


async def test_openai_agents_is_interrupted_by_speech_while_the_answer_is_generated() -> None:
    pipeline = ScriptedPipeline(hears="stop", sentences=500)
    agent: RealtimeAgent[Any] = RealtimeAgent(name="Box")
    async with BrainServer(pipeline) as server, agents_of(server, agent) as agents:
        await agents.session.send_message("a long story")
        await agents.until(of_type("audio"))
        await agents.session.send_audio(sine(300))
        await agents.until(of_type("audio_interrupted"))
        await agents.until(answered)
        pipeline.sentences = 1
        await agents.session.send_audio(bytes(48 * 1000))
        await agents.until(says("You said stop."))
        await agents.until(answered)
    assert pipeline.closed == 2
