"""Transports by name: the table, its use by a session, and an unknown name."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest

from appliance import RealtimeAgent, RealtimeSession
from appliance.conversation.events import Event, FrameRefused, LinkDown, ServerEventReceived
from appliance.errors import LinkError, SettingsError
from appliance.realtime.transports import TRANSPORTS, open_transport
from appliance.realtime.transports.websocket import Endpoint, WebSocketTransport
from appliance.runtime.session_servers import SessionServers
from appliance.service.trace import encode
from tests.support.scripted_server import SESSION_CREATED, ScriptedServer, Step, close, refuse, send, send_raw

KEY = "Zq8vN4xW7kR2tY"
ECHO = "it is " + KEY


class Recording(WebSocketTransport):
    """Records the links it connects."""

    links: list[int]

    def connect(self, link: int, endpoint: int = 0) -> None:
        self.__class__.links.append(link)
        super().connect(link, endpoint)


async def test_session_uses_the_named_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    Recording.links = []
    monkeypatch.setitem(TRANSPORTS, "recording", f"{__name__}:Recording")
    async with RealtimeSession(RealtimeAgent(name="Ada"), url="offline", transport="recording"):
        pass
    assert Recording.links == [1]


def test_unknown_transport_is_refused_with_the_available_names() -> None:
    with pytest.raises(SettingsError, match="no transport is called 'websockt'; available: websocket; did you mean"):
        open_transport("websockt", [], post=print)


# --- secrets ------------------------------------------------------------------------------------------------------


async def events_of(*steps: Step) -> list[Event]:
    """Return what a transport posts for a server that got `KEY` and quotes it."""
    events: list[Event] = []
    async with ScriptedServer([*steps, close(4000, ECHO)]) as server:
        endpoint = Endpoint(server.url, lambda: {"Authorization": f"Bearer {KEY}"})
        transport = open_transport("websocket", [endpoint], post=events.append)
        running = asyncio.create_task(transport.run())
        transport.connect(1)
        while not any(isinstance(one, LinkDown) for one in events):
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.wait([running])
    return events


def error(**detail: Any) -> dict[str, Any]:
    return {"type": "error", "event_id": KEY, "error": {"type": "invalid_request_error", "message": ECHO, **detail}}


ITEM = {"id": "item_1", "type": "message", "role": "assistant", "content": [{"type": "output_text", "text": ECHO}]}
CALL = {"id": "item_2", "type": "function_call", "call_id": KEY, "name": KEY, "arguments": json.dumps({KEY: [KEY]})}


@pytest.mark.parametrize(
    "frame",
    [
        error(code=KEY, param=KEY),
        SESSION_CREATED | {"session": {"type": "realtime", "instructions": ECHO, KEY: {"deep": [KEY]}}},
        {"type": "conversation.item.added", "item": ITEM},
        {"type": "response.output_item.done", "response_id": "resp_1", "item": CALL},
        {"type": "response.output_audio_transcript.delta", "response_id": "r", "item_id": KEY, "delta": ECHO},
        {"type": f"of.{KEY}", "raw": KEY},
        {"type": "response.done", "response": {"id": "resp_1", "status_details": ECHO, "metadata": {KEY: KEY}}},
    ],
)
async def test_key_that_the_server_quotes_in_an_event_is_redacted(frame: dict[str, Any]) -> None:
    escaped = json.dumps(frame).replace(KEY, "".join(f"\\u{ord(one):04x}" for one in KEY))
    events = await events_of(send(frame), send_raw(escaped))
    received = [one for one in events if isinstance(one, ServerEventReceived)]
    assert len(received) == 2
    assert received[0] == received[1]
    assert "***" in json.dumps(encode(received))
    assert KEY not in json.dumps(encode(events)) + repr(events)


@pytest.mark.parametrize("step", [send_raw(f'{{"{KEY}"'), send({"type": "error", "error": 5, KEY: 1})])
async def test_key_in_a_frame_that_cannot_be_read_is_redacted(step: Step) -> None:
    events = await events_of(step)
    assert any(isinstance(one, FrameRefused) for one in events)
    assert KEY not in repr(events)


async def test_key_in_a_refusal_is_redacted() -> None:
    body = {"error": {"type": KEY, "code": f"no_{KEY}", "message": ECHO}}
    assert KEY not in repr(await events_of(refuse(401, body, headers={"X-Odd": KEY})))


async def test_event_without_a_secret_is_posted_as_it_came() -> None:
    said = "كلمة السر: שלום 👩‍👩‍👧 sk-learning-is-fun, the password: banana1 \u202e\x00"
    item = ITEM | {"content": [{"type": "output_text", "text": said}]}
    events = await events_of(send({"type": "conversation.item.added", "item": item}))
    [added] = [one for one in events if isinstance(one, ServerEventReceived)]
    assert encode(added)["event"]["item"]["content"][0]["text"] == said


async def test_event_that_nests_too_deeply_to_be_redacted_is_refused() -> None:
    depth = 900 if sys.version_info < (3, 12) else 2000  # msgspec's own limit is no longer Python's
    deep = '{"type":"odd","raw":' + "[" * depth + "]" * depth + "}"
    events = await events_of(send_raw(deep))
    assert FrameRefused(1, "a frame nests too deeply") in events


def test_error_of_a_key_function_has_no_context_that_quotes_the_key() -> None:
    def fetch() -> str:
        raise OSError(f"vault refused {KEY}")

    with pytest.raises(LinkError, match=r"^the key could not be fetched: OSError$") as caught:
        SessionServers("ws://127.0.0.1/v1", api_key=fetch, headers=None).handshake()
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None
