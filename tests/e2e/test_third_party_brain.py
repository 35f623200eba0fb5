"""Third-party clients against the real `appliance brain` process, with real speech, recognition and voice."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from agents.realtime import RealtimeAgent, RealtimeToolEnd

from appliance.simulator.simulated_device import speak
from tests.support.third_party import LAMP, agents_of, answered, appliance_brain, of_type, says, sdk_of, set_lamp

pytestmark = pytest.mark.e2e


async def test_openai_sdk_converses_with_the_brain() -> None:
    async with appliance_brain() as brain, sdk_of(brain) as sdk:
        realtime = sdk.connection
        await sdk.until("session.created")
        audio_in = {"turn_detection": None, "transcription": {"model": "gpt-transcribe"}}
        await realtime.session.update(session={"type": "realtime", "audio": {"input": audio_in}, "tools": [LAMP]})  # type: ignore[typeddict-item]
        await sdk.until("session.updated")

        # Text.
        await realtime.conversation.item.create(
            item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]}
        )
        await realtime.response.create(response={"output_modalities": ["text"]})
        events = await sdk.until("response.done")
        assert "Hello" in "".join(one.text for one in events if one.type == "response.output_text.done")

        # Speech, a call, its output, and the answer in speech.
        speech = await speak("turn on the lamp", voice="slt")
        await realtime.input_audio_buffer.append(audio=base64.b64encode(speech).decode())
        await realtime.input_audio_buffer.commit()
        await realtime.response.create()
        events = await sdk.until("response.done")
        assert [one.transcript for one in events if one.type.endswith("transcription.completed")] == [
            "turn on the lamp"
        ]
        (call,) = events[-1].response.output
        assert (call.name, call.arguments) == ("set_lamp", '{"on": true}')
        await realtime.conversation.item.create(
            item={"type": "function_call_output", "call_id": call.call_id, "output": '{"on": true}'}
        )
        await realtime.response.create()
        await sdk.until("response.output_audio.delta")

        # Truncate the answer while it is spoken, or just after; the next turn works.
        done = await sdk.until("response.done")
        (message,) = done[-1].response.output
        await realtime.conversation.item.truncate(item_id=message.id, content_index=0, audio_end_ms=200)
        await sdk.until("conversation.item.truncated")
        await realtime.response.create(response={"output_modalities": ["text"], "conversation": "none"})
        await sdk.until("response.done")


async def test_openai_agents_converses_with_the_brain() -> None:
    agent: RealtimeAgent[Any] = RealtimeAgent(name="Box", instructions="Be brief.", tools=[set_lamp])
    async with appliance_brain() as brain, agents_of(brain, agent) as agents:
        await agents.session.send_message("hello")
        await agents.until(of_type("audio"))
        await agents.until(answered)

        await agents.session.send_audio(await speak("turn on the lamp", voice="slt"))
        await agents.session.send_audio(bytes(48 * 1500))
        ended = await agents.until(of_type("tool_end"))
        assert isinstance(ended, RealtimeToolEnd)
        assert (ended.arguments, ended.output) == ('{"on": true}', "The lamp is on.")
        await agents.until(of_type("audio"))
        await agents.until(answered)

        await agents.session.interrupt()
        await agents.until(of_type("audio_interrupted"))
        await agents.session.send_message("thank you")
        await agents.until(says("You are welcome."))
        await agents.until(answered)
