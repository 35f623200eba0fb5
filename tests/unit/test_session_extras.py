"""Mute, usage and guardrails of a whole `RealtimeSession`."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from appliance.agents.agent import RealtimeAgent
from appliance.agents.context import RunContext
from appliance.agents.guardrails import output_guardrail
from appliance.conversation.notices import (
    AnswerText,
    Audio,
    AudioEnd,
    Guardrail,
    HandoffDone,
    HistoryGrew,
    InputText,
    Raw,
    TurnEnd,
    TurnStart,
)
from appliance.conversation.policy import Policy
from appliance.conversation.support.usage import SessionUsage
from appliance.realtime.payload import RealtimeSessionSettings, ServerVad
from appliance.runtime.session import RealtimeSession
from tests.support.scripted_server import ScriptedServer, expect, hold, reply, send
from tests.support.sessions import READY, answering, calling, committed, done, pcm, spoken, talking, updated

ADA = RealtimeAgent(name="Ada", instructions="Be brief.")

# --- mute -------------------------------------------------------------------------------------------------------------


async def test_muted_session_sends_no_audio_and_begins_no_turn() -> None:
    async with ScriptedServer([*READY, *answering(*spoken()), hold()]) as server:
        async with talking(server.base_url, ADA) as (session, reader):
            assert session.muted is False
            session.mute(True)
            assert session.muted is True
            session.send_audio(pcm(4800), commit=True)
            session.send_message("Hi!")
            assert (await reader.until(TurnEnd)).outcome == "answered"
        types = server.connections[0].types
    assert "input_audio_buffer.append" not in types
    assert reader.types.count("turn_start") == 1


async def test_mute_discards_the_open_turn_and_audio_after_it_begins_a_new_one() -> None:
    script = [*READY, expect("input_audio_buffer.commit"), send(committed()), *answering(*spoken()), hold()]
    async with ScriptedServer(script) as server:
        async with talking(server.base_url, ADA) as (session, reader):
            session.send_audio(pcm(4800, 1111))
            session.mute(True)
            session.send_audio(pcm(4800, 2222))
            session.mute(False)
            session.send_audio(pcm(4800, 3333), commit=True)
            outcomes = [(await reader.until(TurnEnd)).outcome for _ in range(2)]
        frames = server.connections[0].of_type("input_audio_buffer.append")
    assert outcomes == ["cancelled", "answered"]
    heard = b"".join(base64.b64decode(one["audio"]) for one in frames)
    assert pcm(1, 2222) not in heard
    assert heard.endswith(pcm(4800, 3333))


async def test_muted_session_with_turn_detection_sends_no_audio() -> None:
    settings = RealtimeSessionSettings(turn_detection=ServerVad())
    async with ScriptedServer([*READY, expect("conversation.item.create"), hold()]) as server:
        async with talking(server.base_url, ADA, settings) as (session, reader):
            session.mute()
            session.send_audio(pcm(4800))
            session.send_message("a mark", respond=False)
            await reader.until(HistoryGrew)
        assert "input_audio_buffer.append" not in server.connections[0].types


async def test_mute_discards_what_the_server_has_heard_with_turn_detection() -> None:
    started = {"type": "input_audio_buffer.speech_started", "event_id": "e", "audio_start_ms": 0, "item_id": "item_u"}
    script = [*READY, expect("conversation.item.create"), send(started), hold()]
    async with ScriptedServer(script) as server:
        settings = RealtimeSessionSettings(turn_detection=ServerVad())
        async with talking(server.base_url, ADA, settings) as (session, reader):
            session.send_audio(pcm(4800))
            session.send_message("a mark", respond=False)
            await reader.until(TurnStart)
            session.mute()
            assert (await reader.until(TurnEnd)).outcome == "cancelled"
        assert server.connections[0].types[-1] == "input_audio_buffer.clear"


async def test_speech_that_the_server_reports_after_the_mute_begins_no_turn() -> None:
    started = {"type": "input_audio_buffer.speech_started", "event_id": "e", "audio_start_ms": 0, "item_id": "item_u"}
    script = [*READY, expect("input_audio_buffer.clear"), send(started), *answering(*spoken()), hold()]
    async with ScriptedServer(script) as server:
        settings = RealtimeSessionSettings(turn_detection=ServerVad())
        async with talking(server.base_url, ADA, settings) as (session, reader):
            session.send_audio(pcm(4800))
            session.mute()
            await reader.until(Raw, lambda one: one.data == started)
            session.send_message("Hi!")
            assert (await reader.until(TurnEnd)).outcome == "answered"
    assert [one.kind for one in reader.of(TurnStart)] == ["message"]


async def test_raw_commit_ends_the_turn_that_began_right_after_a_discarded_one() -> None:
    script = [*READY, expect("input_audio_buffer.commit"), send(committed()), *answering(*spoken()), hold()]
    async with ScriptedServer(script) as server:
        async with talking(server.base_url, ADA) as (session, reader):
            session.turn.begin()
            session.turn.abort()
            session.send_audio(pcm(4800))
            for _ in range(2):
                await reader.until(TurnStart)
            session.send_event({"type": "input_audio_buffer.commit"})
            assert (await reader.until(TurnEnd)).outcome == "answered"
        types = server.connections[0].types
    assert (types.count("input_audio_buffer.commit"), types.count("response.create")) == (1, 1)


# --- usage ------------------------------------------------------------------------------------------------------------

USAGE = {
    "total_tokens": 150,
    "input_tokens": 100,
    "output_tokens": 50,
    "input_token_details": {
        "text_tokens": 30,
        "audio_tokens": 60,
        "image_tokens": 10,
        "cached_tokens": 20,
        "cached_tokens_details": {"text_tokens": 20, "audio_tokens": 0, "image_tokens": 0},
    },
    "output_token_details": {"text_tokens": 10, "audio_tokens": 40},
}


def with_usage(response_id: str = "resp_1") -> list[dict[str, Any]]:
    return [*spoken(response_id=response_id)[:-1], done(response_id, usage=USAGE)]


async def test_usage_is_the_sum_of_the_responses_by_kind_with_their_cost() -> None:
    assert RealtimeSession(ADA, url="offline").usage == SessionUsage()
    script = [*READY, *answering(*with_usage()), *answering(*with_usage("resp_2")), hold()]
    async with ScriptedServer(script) as server:
        async with talking(server.base_url, ADA) as (session, reader):
            session.send_message("Hi!")
            await reader.until(TurnEnd)
            first = session.usage
            session.send_message("And?")
            await reader.until(TurnEnd)
            second = session.usage
        assert session.usage == second
    assert first == SessionUsage(
        requests=1,
        input_tokens=100,
        output_tokens=50,
        total_tokens=150,
        input_text_tokens=30,
        input_audio_tokens=60,
        input_image_tokens=10,
        input_cached_tokens=20,
        output_text_tokens=10,
        output_audio_tokens=40,
        usd=first.usd,
    )
    assert first.usd is not None and second.usd is not None
    assert first.usd > 0
    assert second.usd == pytest.approx(2 * first.usd)
    assert (second.requests, second.total_tokens, second.output_audio_tokens) == (2, 300, 80)


async def test_usage_has_the_transcriptions_and_no_cost_if_a_price_is_unknown() -> None:
    transcribed = {
        "type": "conversation.item.input_audio_transcription.completed",
        "event_id": "event_t",
        "item_id": "item_u",
        "content_index": 0,
        "transcript": "Hi.",
        "usage": {"type": "tokens", "total_tokens": 12, "input_tokens": 9, "output_tokens": 3},
    }
    script = [*READY, expect("input_audio_buffer.commit"), send(committed(), transcribed), *answering(*spoken())]
    async with ScriptedServer([*script, hold()]) as server:
        async with talking(server.base_url, ADA) as (session, reader):
            session.send_audio(pcm(4800), commit=True)
            await reader.until(InputText)
            await reader.until(TurnEnd)
            usage = session.usage
    assert (usage.requests, usage.total_tokens, usage.usd) == (1, 12, None)


async def test_usage_of_the_offline_brain_costs_nothing() -> None:
    async with talking("offline", ADA) as (session, reader):
        session.send_message("Hi!")
        await reader.until(TurnEnd)
        assert (session.usage.requests, session.usage.usd) == (1, 0.0)


# --- guardrails of the session ----------------------------------------------------------------------------------------


async def test_output_guardrail_of_the_session_checks_every_agent_once() -> None:
    checked: list[tuple[str, str]] = []

    @output_guardrail
    def no_hello(context: RunContext[Any], agent: RealtimeAgent, text: str) -> bool:
        checked.append((agent.name, text))
        return "Hello" in text

    bob = RealtimeAgent(name="Bob", instructions="Be Bob.", output_guardrails=[no_hello])
    ada = RealtimeAgent(name="Ada", handoffs=[bob])
    script = [
        *READY,
        *answering(*spoken("Fine.")),
        *answering(*calling("transfer_to_bob", response_id="resp_2")),
        expect("session.update"),
        reply(updated),
        *answering(*spoken("Hello.", "item_b", "resp_3")),
        hold(),
    ]
    async with ScriptedServer(script) as server:
        async with talking(server.base_url, ada, output_guardrails=[no_hello]) as (session, reader):
            session.send_message("Hi!")
            await reader.until(TurnEnd)
            session.send_message("Bob, please!")
            await reader.until(HandoffDone)
            assert (await reader.until(Guardrail)).guardrail == "no_hello"
    assert checked[:2] == [("Ada", "Fine."), ("Bob", "Hello.")]


# --- events -----------------------------------------------------------------------------------------------------------


async def test_events_of_an_answer_name_its_item_and_response() -> None:
    script = [*READY, *answering(*spoken()), *answering(*spoken("And?", "item_b", "resp_2")), hold()]
    async with ScriptedServer(script) as server:
        async with talking(server.base_url, ADA) as (session, reader):
            for text in ("Hi!", "Yes?"):
                session.send_message(text)
                await reader.until(TurnEnd)
    places = [("item_a", "resp_1"), ("item_b", "resp_2")]
    for kind in (Audio, AudioEnd):
        assert [(one.item_id, one.response_id) for one in reader.of(kind)] == places
    assert [(one.item_id, one.response_id) for one in reader.of(AnswerText) if one.is_final] == places


async def test_audio_that_was_held_for_its_check_names_its_response() -> None:
    @output_guardrail
    async def slow(context: RunContext[Any], agent: RealtimeAgent, text: str) -> bool:
        return False

    policy = Policy(pre_roll_ms=0, hold_audio=True)
    async with ScriptedServer([*READY, *answering(*spoken()), hold()]) as server:
        async with talking(server.base_url, ADA, policy=policy, output_guardrails=[slow]) as (session, reader):
            session.send_message("Hi!")
            await reader.until(TurnEnd)
    assert [one.response_id for one in reader.of(Audio)] == ["resp_1"]
    assert [one.response_id for one in reader.of(AudioEnd)] == ["resp_1"]
