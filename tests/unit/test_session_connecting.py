"""`RealtimeSession` against a scripted server on loopback: connections, formats, usage, and the offline brain."""

from __future__ import annotations

import asyncio
import base64
import struct
from typing import Any

import pytest

from appliance.agents.agent import RealtimeAgent
from appliance.conversation.events import Event, LinkUp, ServerEventReceived
from appliance.conversation.notices import (
    AnswerText,
    Audio,
    AudioEnd,
    BudgetWarning,
    Connected,
    Error,
    TurnEnd,
    Usage,
)
from appliance.conversation.policy import Policy
from appliance.errors import LinkError, SettingsError
from appliance.realtime import protocol as wire
from appliance.realtime.payload import RealtimeSessionSettings
from appliance.realtime.transports.websocket import Endpoint, WebSocketTransport
from appliance.runtime.session import RealtimeSession
from tests.support.scripted_server import (
    SESSION_CREATED,
    ScriptedServer,
    Step,
    close,
    expect,
    hold,
    refuse,
    send,
    stall_handshake,
)
from tests.support.sessions import (
    READY,
    TOKENS,
    Lamp,
    answering,
    audio,
    created,
    done,
    pcm,
    spoken,
    talking,
    words,
)

# --- connecting -------------------------------------------------------------------------------------------------------


WRITTEN = RealtimeSessionSettings(output_modalities=("text",))

QUICK = Policy(pre_roll_ms=0, backoff_initial_s=0.01, backoff_max_s=0.02, stable_s=0.0)


async def _refusal(*urls: str, **options: Any) -> str:
    """Return the error message of a failed ``async with``; check that no task is left running."""
    with pytest.raises(LinkError) as caught:
        async with RealtimeSession(RealtimeAgent(name="Ada"), url=urls, **options):
            raise AssertionError("it is connected")
    assert "realtime session" not in {task.get_name() for task in asyncio.all_tasks()}
    return str(caught.value)


async def test_refused_key_fails_at_once_and_the_error_names_the_endpoint() -> None:
    async with ScriptedServer(every_other=[refuse(401, {"error": {"message": "bad key"}})]) as server:
        text = await _refusal(server.base_url, api_key="sk-test-1234567890")
        assert len(server.connections) == 1
        assert text.startswith(f"{server.base_url}: ")
    assert "API key" in text
    assert "sk-test" not in text


async def test_unreachable_server_fails_at_the_time_limit_with_the_cause() -> None:
    async with ScriptedServer() as server:
        url = server.base_url
    text = await _refusal(url, connect_timeout_s=0.1)
    assert text.startswith(f"{url}: ")
    assert "no connection within" not in text, "the reason is known"


async def test_server_that_does_not_answer_times_out() -> None:
    async with ScriptedServer([stall_handshake()]) as server:
        text = await _refusal(server.base_url, connect_timeout_s=0.05)
        assert text == f"{server.base_url}: no connection within 0.05 s"


async def test_invalid_url_is_refused_and_named() -> None:
    with pytest.raises(SettingsError, match="ftp://house/v1"):
        async with RealtimeSession(RealtimeAgent(name="Ada"), url="ftp://house/v1"):
            pass


async def test_key_and_headers_are_sent_and_the_model_is_in_the_url() -> None:
    settings = RealtimeSessionSettings(model="house-1")
    async with ScriptedServer([*READY, hold()]) as server:
        options = {"api_key": "sk-test", "headers": {"OpenAI-Safety-Identifier": "u1"}}
        async with talking(server.base_url, settings=settings, **options) as (session, _):
            assert "sk-test" not in repr(session)
        connection = server.connections[0]
    assert connection.path == "/v1/realtime?model=house-1"
    assert connection.headers["Authorization"] == "Bearer sk-test"
    assert connection.headers["OpenAI-Safety-Identifier"] == "u1"


async def test_key_is_fetched_for_each_connection() -> None:
    keys = iter(["first", "second"])
    async with ScriptedServer([*READY, close(1001)], [*READY, hold()]) as server:
        async with talking(server.base_url, api_key=lambda: next(keys), policy=QUICK) as (_, reader):
            await reader.until(Connected)
            await reader.until(Connected)
        sent = [one.headers["Authorization"] for one in server.connections]
    assert sent == ["Bearer first", "Bearer second"]


async def test_key_defaults_to_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-house")
    async with ScriptedServer([*READY, hold()]) as server:
        async with talking(server.base_url):
            pass
        assert server.connections[0].headers["Authorization"] == "Bearer sk-of-the-house"


async def test_next_url_is_used_if_the_first_refuses() -> None:
    async with ScriptedServer(every_other=[refuse(503)]) as first, ScriptedServer([*READY, hold()]) as second:
        async with talking([first.base_url, second.base_url], policy=QUICK) as (session, reader):
            connected = await reader.until(Connected)
        assert session.endpoints == (first.base_url, second.base_url)
        assert session.endpoints[connected.endpoint] == second.base_url


async def test_key_is_sent_to_the_first_server_only() -> None:
    async with ScriptedServer(every_other=[refuse(503)]) as first, ScriptedServer([*READY, hold()]) as second:
        async with talking([first.base_url, second.base_url], policy=QUICK, api_key="sk-cloud"):
            pass
        shown = [one.connections[0].headers.get("Authorization") for one in (first, second)]
    assert shown == ["Bearer sk-cloud", None]


async def test_offline_brain_answers_if_no_server_accepts() -> None:
    async with ScriptedServer(every_other=[refuse(503)]) as server:
        async with talking([server.base_url, "offline"], policy=QUICK, settings=WRITTEN) as (session, reader):
            assert session.endpoints[(await reader.until(Connected)).endpoint] == "offline brain"
            session.send_message("who are you")
            answer = await reader.until(AnswerText, lambda one: one.is_final)
    assert answer.text.startswith("I am the voice of this box.")


async def test_turn_cut_off_by_a_clean_close_is_reported_and_answered_on_the_next_connection() -> None:
    scripts = [
        [*READY, expect("input_audio_buffer.commit"), close(1000)],
        [*READY, expect("input_audio_buffer.commit"), *answering(*spoken()), hold()],
    ]
    async with ScriptedServer(*scripts) as server:
        async with talking(server.base_url, policy=QUICK) as (session, reader):
            session.send_audio(pcm(4800, 1234), commit=True)
            await reader.until(Error)
            ended = await reader.until(TurnEnd)
        server.assert_complete()
        heard = [
            b"".join(base64.b64decode(one["audio"]) for one in connection.of_type("input_audio_buffer.append"))
            for connection in server.connections
        ]
    assert ended.outcome == "answered"
    assert heard == [pcm(4800, 1234)] * 2
    assert len(reader.of(Connected)) == 2


# --- formats ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "code", "sample"),
    # ITU-T G.711, tables 1a and 2a: the codes of the largest positive value, in 16 bits
    [("g711_ulaw", 0x80, 32124), ("g711_alaw", 0xAA, 32256)],
)
async def test_g711_is_converted_to_and_from_pcm_on_the_wire(name: Any, code: int, sample: int) -> None:
    settings = RealtimeSessionSettings(input_audio_format=name, output_audio_format=name)
    answer = [*spoken()[:2], audio(pcm(2400, sample)), *spoken()[4:]]
    async with ScriptedServer([*READY, *answering(*answer), hold()]) as server:
        async with talking(server.base_url, settings=settings) as (session, reader):
            session.send_audio(bytes([code]) * 1600, commit=True)
            given = await reader.until(Audio)
            await reader.until(TurnEnd)
        connection = server.connections[0]
    heard = b"".join(base64.b64decode(one["audio"]) for one in connection.of_type("input_audio_buffer.append"))
    assert len(heard) == 2 * 3 * 1600
    assert struct.unpack("<h", heard[-2:]) == (sample,)
    assert connection.last("session.update")["session"]["audio"]["input"]["format"] == {
        "type": "audio/pcm",
        "rate": 24000,
    }
    assert len(b"".join(one.audio for one in reader.of(Audio))) == 800
    assert given.audio[400] == code


@pytest.mark.parametrize("name", ["g711_ulaw", "g711_alaw"])
async def test_each_answer_in_g711_is_yielded_to_its_last_sample(name: Any) -> None:
    """The program reports the audio that it got: what the encoder kept back would never be heard."""
    settings = RealtimeSessionSettings(output_audio_format=name)
    cut, long, short = (spoken("Hello.", f"item_{key}", f"resp_{key}") for key in "abc")
    cut[3:] = [audio(pcm(2400), "item_a", "resp_a")]
    long[3], short[3] = audio(pcm(96_000), "item_b", "resp_b"), audio(pcm(2400, -4000), "item_c", "resp_c")
    script = [*READY, *answering(*cut), expect("response.cancel"), send(done("resp_a", "cancelled"))]
    script += [*answering(*long), *answering(*short), hold()]
    async with ScriptedServer(script) as server:
        async with talking(server.base_url, settings=settings, playback="reported") as (session, reader):

            async def answer(item_id: str) -> bytes:
                session.send_message("Hi!")
                await reader.until(AudioEnd, lambda one: one.item_id == item_id)
                heard = b"".join(one.audio for one in reader.of(Audio) if one.item_id == item_id)
                session.played(item_id, 3 * len(heard))
                assert (await reader.until(TurnEnd)).outcome == "answered"
                return heard

            session.send_message("Hi!")
            await reader.until(Audio)
            session.interrupt()
            await reader.until(TurnEnd)
            assert len(await answer("item_b")) == 96_000 // 3
            last = await answer("item_c")
    assert len(last) == 2400 // 3
    assert len({code & 0x80 for code in last}) == 1, "nothing of an earlier answer is in it"


async def test_input_and_output_formats_are_independent() -> None:
    settings = RealtimeSessionSettings(input_audio_format="g711_ulaw")
    async with ScriptedServer([*READY, *answering(*spoken()), hold()]) as server:
        async with talking(server.base_url, settings=settings) as (session, reader):
            session.send_audio(b"\xff" * 1600, commit=True)
            given = await reader.until(Audio)
            await reader.until(TurnEnd)
        connection = server.connections[0]
    heard = b"".join(base64.b64decode(one["audio"]) for one in connection.of_type("input_audio_buffer.append"))
    assert heard == bytes(2 * 3 * 1600), "0xFF is silence in µ-law"
    assert given.audio == pcm()


# --- usage and budget -------------------------------------------------------------------------------------------------


def of_model(model: str) -> list[Step]:
    """Return the first steps of a connection to a server with this model."""
    session = {"type": "realtime", "object": "realtime.session", "id": "sess_1", "model": model}
    return [send({"type": "session.created", "event_id": "event_1", "session": session}), expect("session.update")]


async def test_usage_lists_tokens_by_kind_and_no_cost_for_an_unknown_model() -> None:
    answer = [*spoken()[:-1], done(usage=TOKENS)]
    async with ScriptedServer([*of_model("house-1"), *answering(*answer), hold()]) as server:
        async with talking(server.base_url, settings=RealtimeSessionSettings(model="house-1")) as (session, reader):
            session.send_message("Hi!")
            used = await reader.until(Usage, lambda one: bool(one.tokens))
            ended = await reader.until(TurnEnd)
    assert {key: used.tokens[key] for key in ("input_tokens", "input_audio_tokens", "output_audio_tokens")} == {
        "input_tokens": 100,
        "input_audio_tokens": 40,
        "output_audio_tokens": 150,
    }
    assert used.usd is None
    assert ended.usage["total_tokens"] == 300


async def test_budget_warns_at_80_percent() -> None:
    answer = [*spoken()[:2], words("Hello."), audio(pcm(2160)), *spoken()[4:]]
    policy = Policy(pre_roll_ms=0, budget_s=0.1)
    async with ScriptedServer([*READY, *answering(*answer), hold()]) as server:
        async with talking(server.base_url, policy=policy) as (session, reader):
            session.send_message("Hi!")
            warned = await reader.until(BudgetWarning)
    assert warned.percent == 80


# --- the offline brain ------------------------------------------------------------------------------------------------


async def test_offline_brain_takes_a_message_calls_the_tool_and_answers() -> None:
    lamp = Lamp()
    async with talking("offline", lamp.agent(), raw_events=False) as (session, reader):
        assert session.endpoints[(await reader.until(Connected)).endpoint] == "offline brain"
        session.send_message("turn on the lamp")
        answer = await reader.until(AnswerText, lambda one: one.is_final)
        heard = await reader.until(AudioEnd)
        texts = [one.text for one in session.history if one.role == "assistant"]
        session.interrupt()
    assert lamp.switched == [True]
    assert answer.text.strip()
    assert texts == [answer.text]
    assert {one.item_id for one in reader.of(Audio)} == {heard.item_id}


async def test_offline_brain_is_the_default_without_key_and_url() -> None:
    async with RealtimeSession(RealtimeAgent(name="Ada"), raw_events=False) as session:
        event = await anext(aiter(session))
    assert event == Connected(1, 0)
    assert session.endpoints == ("offline brain",)


# --- the transport alone ----------------------------------------------------------------------------------------------


async def test_transport_can_be_used_without_agents() -> None:
    arrived: asyncio.Queue[Event] = asyncio.Queue()
    async with ScriptedServer([send(SESSION_CREATED), expect("response.create"), send(created()), hold()]) as server:
        transport = WebSocketTransport(Endpoint(server.url, dict), post=arrived.put_nowait)
        running = asyncio.create_task(transport.run())
        transport.connect(1)
        events = [await arrived.get(), await arrived.get()]
        transport.send(1, wire.RawClientEvent(frame={"type": "response.create", "response": {"instructions": "Sing."}}))
        events.append(await arrived.get())
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert server.connections[0].types == ["response.create"]
    assert events[0] == LinkUp(1)
    assert [one.event.type for one in events[1:] if isinstance(one, ServerEventReceived)] == [
        "session.created",
        "response.created",
    ]
