"""The WebSocket transport against a scripted server on loopback: which events a link posts, in order, how often."""

from __future__ import annotations

import asyncio
import base64
import importlib.metadata
import json
import logging
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.conversation.events import Event, FrameRefused, LinkDown, LinkUp, ServerEventReceived
from appliance.errors import SettingsError
from appliance.realtime import protocol as wire
from appliance.realtime.transports import websocket
from appliance.realtime.transports.websocket import USER_AGENT, Endpoint, WebSocketTransport, endpoint_url
from tests.support.link_inbox import KEY, LinkInbox, append, end_of, running
from tests.support.scripted_server import (
    SESSION_CREATED,
    ScriptedServer,
    abort,
    close,
    expect,
    hold,
    refuse,
    resume_reading,
    send,
    send_raw,
    sleep,
    stall_handshake,
    stop_reading,
)

# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("https://api.openai.com/v1", "wss://api.openai.com/v1/realtime?model=gpt-realtime-2.1"),
        ("https://api.openai.com/v1/", "wss://api.openai.com/v1/realtime?model=gpt-realtime-2.1"),
        ("https://api.openai.com/v1/realtime", "wss://api.openai.com/v1/realtime?model=gpt-realtime-2.1"),
        ("http://127.0.0.1:8080/v1", "ws://127.0.0.1:8080/v1/realtime?model=gpt-realtime-2.1"),
        ("ws://box.local:1/v1/realtime", "ws://box.local:1/v1/realtime?model=gpt-realtime-2.1"),
        ("wss://h/v1?a=b&c=", "wss://h/v1/realtime?a=b&c=&model=gpt-realtime-2.1"),
        ("wss://h/v1/realtime?model=mine", "wss://h/v1/realtime?model=mine"),
        ("wss://h/v1/realtime?call_id=rtc_1", "wss://h/v1/realtime?call_id=rtc_1"),
        ("https://h", "wss://h/realtime?model=gpt-realtime-2.1"),
        (" https://[::1]:9/v1 ", "wss://[::1]:9/v1/realtime?model=gpt-realtime-2.1"),
    ],
)
def test_base_url_becomes_the_websocket_url(base_url: str, url: str) -> None:
    assert endpoint_url(base_url, "gpt-realtime-2.1") == url


def test_model_may_be_any_string() -> None:
    assert endpoint_url("http://h/v1", "a b/c&d") == "ws://h/v1/realtime?model=a%20b%2Fc%26d"
    assert endpoint_url("http://h/v1", "") == "ws://h/v1/realtime"


@pytest.mark.parametrize(
    "bad", ["", "api.openai.com/v1", "ftp://h/v1", "http://", "http://h:port/v1", "http://h:99999"]
)
def test_invalid_base_url_is_refused_with_an_example(bad: str) -> None:
    with pytest.raises(SettingsError, match="base URL"):
        endpoint_url(bad, "m")


def test_key_in_a_url_is_never_printed() -> None:
    endpoint = Endpoint(url=f"ws://user:{KEY}@h/v1/realtime?key={KEY}", headers=dict, name="x")

    assert KEY not in repr(endpoint)
    assert KEY not in repr(WebSocketTransport(endpoint, post=print))
    with pytest.raises(SettingsError) as caught:
        endpoint_url(f"http://user:{KEY}@h:port/v1?key={KEY}", "m")
    assert KEY not in str(caught.value)


# --- a good link ------------------------------------------------------------------------------------------------------


async def test_link_comes_up_carries_frames_both_ways_and_goes_down_once() -> None:
    script = [send(SESSION_CREATED), expect("input_audio_buffer.commit"), send({"type": "x.new"}), close(1000, "bye")]
    inbox = LinkInbox()
    async with ScriptedServer(script) as server, running(server.url, inbox) as transport:
        transport.connect(7)
        await inbox.up(7)
        transport.send(7, wire.InputAudioBufferCommit())
        await inbox.down(7)
        server.assert_complete()

    up, created, unknown, down = inbox.events
    assert up == LinkUp(7)
    assert isinstance(created, ServerEventReceived)
    assert isinstance(created.event, wire.SessionCreated)
    assert isinstance(unknown, ServerEventReceived)
    assert isinstance(unknown.event, wire.UnknownEvent)
    assert down == LinkDown(7, "closed", 1000, "bye")


async def test_handshake_has_no_compression_no_beta_header_and_our_user_agent() -> None:
    inbox = LinkInbox()
    async with (
        ScriptedServer([hold()]) as server,
        running(
            endpoint_url(server.base_url, "m 1"), inbox, headers=lambda: {"Authorization": f"Bearer {KEY}"}
        ) as transport,
    ):
        transport.connect(1)
        connection = await server.connection()

    headers = {name.lower(): value for name, value in connection.headers.items()}
    assert connection.path == "/v1/realtime?model=m%201"
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["user-agent"] == USER_AGENT
    assert not {"openai-beta", "sec-websocket-extensions", "sec-websocket-protocol"} & set(headers)


def test_user_agent_has_the_package_version() -> None:
    assert importlib.metadata.version("voice-appliance") == USER_AGENT.partition("/")[2]


async def test_headers_are_read_at_each_connect() -> None:
    keys = iter(["first", "second"])
    inbox = LinkInbox()
    async with (
        ScriptedServer([hold()], [hold()]) as server,
        running(server.url, inbox, headers=lambda: {"Authorization": f"Bearer {next(keys)}"}) as transport,
    ):
        for link in (1, 2):
            transport.connect(link)
            await inbox.up(link)

    assert [c.headers["Authorization"] for c in server.connections] == ["Bearer first", "Bearer second"]


async def test_events_sent_before_the_link_is_up_keep_their_order() -> None:
    inbox = LinkInbox()
    async with ScriptedServer([expect("response.create")]) as server, running(server.url, inbox) as transport:
        transport.connect(1)
        for number in range(100):
            transport.send(1, append(number.to_bytes(2, "little")))
        transport.send(1, wire.InputAudioBufferCommit())
        transport.send(1, wire.ResponseCreate(event_id="r"))
        connection = await server.connection()
        await asyncio.wait_for(connection.done.wait(), 10)

    assert connection.types == ["input_audio_buffer.append"] * 100 + ["input_audio_buffer.commit", "response.create"]
    heard = [base64.b64decode(frame["audio"]) for frame in connection.of_type("input_audio_buffer.append")]
    assert heard == [number.to_bytes(2, "little") for number in range(100)]


async def test_disconnect_drains_the_outbox_and_closes_with_1000() -> None:
    inbox = LinkInbox()
    async with (
        ScriptedServer([expect("response.cancel")]) as server,
        running(server.url, inbox, close_timeout_s=60) as transport,
    ):
        transport.connect(1)
        await inbox.up()
        transport.send(1, wire.ResponseCancel())
        transport.disconnect(1)
        assert inbox.of(1)[-1] == LinkDown(1, "closed", 1000, "closed by us")
        connection = await server.connection()
        await asyncio.wait_for(connection.ended.wait(), 10)

    assert connection.types == ["response.cancel"]
    assert connection.close_code == 1000
    server.assert_complete()


async def test_reader_yields_to_the_loop_between_frames() -> None:
    delta = {"type": "response.output_text.delta", "delta": "x"}
    inbox = LinkInbox()
    turns = 0
    async with ScriptedServer([send(*[delta] * 200), close()]) as server, running(server.url, inbox) as transport:
        counts: list[int] = []
        transport._post = lambda event: (counts.append(turns), inbox.post(event))  # type: ignore[assignment,func-returns-value]
        transport.connect(1)
        while not any(isinstance(event, LinkDown) for event in inbox.events):
            turns += 1
            await asyncio.sleep(0)

    gaps = [later - earlier for earlier, later in pairwise(counts[1:201])]
    assert len(gaps) == 199
    assert min(gaps) >= 1


# --- half-open links and back-pressure --------------------------------------------------------------------------------


async def test_lost_network_is_detected_by_a_ping() -> None:
    async with ScriptedServer([send(SESSION_CREATED), stop_reading(), hold()]) as server:
        down, _ = await end_of(server.url, ping_interval_s=0.05, ping_timeout_s=0.05)

    assert down.code is None
    assert down.kind == "timeout"
    assert down.detail == "no answer to a ping within 0.05 s"


@pytest.mark.parametrize("kernel_helps", [True, False])
async def test_server_that_accepts_no_data_ends_the_link_even_if_pings_hang(
    kernel_helps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kernel_helps:  # without TCP_USER_TIMEOUT the limit on one send ends the link
        monkeypatch.setattr(websocket, "_tune", lambda *_, **__: None)
    inbox = LinkInbox()
    async with (
        ScriptedServer([stop_reading(), hold()]) as server,
        running(server.url, inbox, ping_interval_s=0.3, ping_timeout_s=0.2) as transport,
    ):
        transport.connect(1)
        await inbox.up()
        for _ in range(200):  # 200 s of audio: more than all buffers on the way hold
            transport.send(1, append(bytes(48_000)))
        down = await inbox.down()

    assert down.code is None
    assert kernel_helps or "accepted no data" in down.detail
    assert down.kind == "timeout"


async def test_has_room_limits_the_outbox_by_seconds_of_audio_and_it_drains_in_order() -> None:
    inbox = LinkInbox()
    async with (
        ScriptedServer([stop_reading(), sleep(0.2), resume_reading(), expect("input_audio_buffer.commit")]) as server,
        running(server.url, inbox, outbox_limit_s=5.0) as transport,
    ):
        transport.connect(1)
        await inbox.up()
        sent_s = 0
        while transport.has_room:
            transport.send(1, append(sent_s.to_bytes(2, "little") * 24_000))
            sent_s += 1
            await asyncio.sleep(0)
            assert sent_s < 120, "the buffers on the way take everything"
        assert 5.0 < transport.outbox_audio_s <= 6.0
        transport.send(1, wire.InputAudioBufferCommit())
        connection = await server.connection()
        await asyncio.wait_for(connection.done.wait(), 10)
        assert transport.outbox_audio_s == 0.0
        assert transport.has_room

    heard = [base64.b64decode(frame["audio"])[:2] for frame in connection.of_type("input_audio_buffer.append")]
    assert heard == [number.to_bytes(2, "little") for number in range(sent_s)]
    assert connection.types[-1] == "input_audio_buffer.commit"


async def test_outbox_of_a_lost_link_is_dropped() -> None:
    inbox = LinkInbox()
    async with running("ws://127.0.0.1:1/", inbox) as transport:
        transport.connect(1)
        transport.send(1, append(bytes(480_000)))
        assert transport.outbox_audio_s == 10.0
        assert not transport.has_room
        await inbox.down()
        await asyncio.sleep(0)
        assert transport.outbox_audio_s == 0.0
        assert transport.has_room


async def test_socket_has_user_timeout_nodelay_and_notsent_lowat() -> None:
    inbox = LinkInbox()
    async with (
        ScriptedServer([hold()]) as server,
        running(server.url, inbox, ping_timeout_s=7.0) as transport,
    ):
        opened = await websocket._open_socket("127.0.0.1", server.port, unacknowledged_s=7.0)
        try:
            assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000
            assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 64 * 1024
        finally:
            opened.close()
        transport.disconnect(1)


# --- exactly one LinkDown ---------------------------------------------------------------------------------------------


async def test_commands_for_an_unknown_link_are_no_ops() -> None:
    inbox = LinkInbox()
    async with ScriptedServer([hold()]) as server, running(server.url, inbox) as transport:
        transport.send(3, append())
        transport.disconnect(3)
        transport.connect(1)
        await inbox.up()
        transport.disconnect(1)
        transport.disconnect(1)
        transport.send(1, append())
        connection = await server.connection()
        await asyncio.wait_for(connection.ended.wait(), 10)

    assert inbox.events == [LinkUp(1), LinkDown(1, "closed", 1000, "closed by us")]
    assert connection.arrivals == []


async def test_disconnect_while_connecting_cancels_the_attempt() -> None:
    inbox = LinkInbox()
    async with ScriptedServer([stall_handshake()]) as server, running(server.url, inbox) as transport:
        transport.connect(1)
        await server.connection()
        transport.disconnect(1)
        assert inbox.events == [LinkDown(1, "closed", 1000, "closed by us")]
        await asyncio.sleep(0.02)
        assert "link 1" not in {task.get_name() for task in asyncio.all_tasks()}

    assert len(inbox.events) == 1


async def test_connect_during_shutdown_is_answered() -> None:
    inbox = LinkInbox()
    transport = WebSocketTransport(Endpoint(url="ws://127.0.0.1:1/", headers=dict), post=inbox.post)
    task = asyncio.create_task(transport.run())
    await asyncio.sleep(0)
    task.cancel()
    transport.connect(1)
    with suppress(asyncio.CancelledError):
        await task

    assert inbox.events == [LinkDown(1, "closed", 1000, "closed by us")]


async def test_two_links_are_open_at_once_and_each_gets_its_own_frames() -> None:
    inbox = LinkInbox()
    async with ScriptedServer([hold()], [hold()]) as server, running(server.url, inbox) as transport:
        transport.connect(1)
        await inbox.up(1)
        transport.connect(2)
        await inbox.up(2)
        transport.send(1, wire.InputAudioBufferClear())
        transport.send(2, wire.InputAudioBufferCommit())
        transport.disconnect(1)
        await asyncio.wait_for(server.connections[0].ended.wait(), 10)
        assert inbox.events == [LinkUp(1), LinkUp(2), LinkDown(1, "closed", 1000, "closed by us")]
        transport.disconnect(2)
        await asyncio.wait_for(server.connections[1].ended.wait(), 10)

    assert [one.types for one in server.connections] == [["input_audio_buffer.clear"], ["input_audio_buffer.commit"]]


async def test_connect_selects_the_endpoint_by_index() -> None:
    inbox = LinkInbox()
    async with ScriptedServer([hold()]) as first, ScriptedServer([hold()]) as second:
        endpoints = [Endpoint(one.url, dict, f"server {place}") for place, one in enumerate((first, second))]
        transport = WebSocketTransport(endpoints, post=inbox.post)
        task = asyncio.ensure_future(transport.run())
        transport.connect(1, 1)
        await inbox.up(1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert (len(first.connections), len(second.connections)) == (0, 1)


async def test_tap_gets_every_raw_frame_also_invalid_ones() -> None:
    inbox, seen = LinkInbox(), []
    frames = [{"type": "session.created", "session": {}, "of_the_future": 1}, {"no": "type"}]
    async with ScriptedServer([send(*frames), hold()]) as server:
        transport = WebSocketTransport(
            Endpoint(server.url, dict), post=inbox.post, tap=lambda link, frame: seen.append((link, json.loads(frame)))
        )
        task = asyncio.ensure_future(transport.run())
        transport.connect(7)
        await inbox.wait(lambda event: isinstance(event, FrameRefused))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert seen == [(7, frames[0]), (7, frames[1])]


async def test_no_event_of_a_link_follows_its_link_down() -> None:
    chatter = send(*[{"type": "response.output_text.delta", "delta": "x"}] * 300)
    inbox = LinkInbox()
    async with ScriptedServer([chatter, hold()]) as server, running(server.url, inbox) as transport:
        transport.connect(1)
        await inbox.wait(lambda event: isinstance(event, ServerEventReceived))
        transport.disconnect(1)
        count = len(inbox.events)
        connection = await server.connection()
        await asyncio.wait_for(connection.ended.wait(), 10)

    assert inbox.events[count:] == []
    assert isinstance(inbox.events[-1], LinkDown)


async def test_connect_before_run_waits_for_it() -> None:
    inbox = LinkInbox()
    async with ScriptedServer([close(1000, "hello")]) as server:
        transport = WebSocketTransport(Endpoint(url=server.url, headers=dict), post=inbox.post)
        transport.connect(1)
        await asyncio.sleep(0.01)
        assert inbox.events == []
        task = asyncio.create_task(transport.run())
        await inbox.down()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    assert inbox.events == [LinkUp(1), LinkDown(1, "closed", 1000, "hello")]


async def test_end_of_run_closes_with_1000_and_posts_link_down() -> None:
    inbox = LinkInbox()
    async with ScriptedServer([hold()]) as server:
        async with running(server.url, inbox) as transport:
            transport.connect(1)
            await inbox.up()
        connection = await server.connection()
        await asyncio.wait_for(connection.ended.wait(), 10)

    assert connection.close_code == 1000
    assert inbox.events == [LinkUp(1), LinkDown(1, "closed", 1000, "closed by us")]


async def test_end_of_run_does_not_wait_for_a_server_that_stopped_reading() -> None:
    inbox = LinkInbox()
    async with (
        ScriptedServer([stop_reading(), hold()]) as server,
        asyncio.timeout(5),
        running(server.url, inbox, close_timeout_s=0.05) as transport,
    ):
        transport.connect(1)
        await inbox.up()
        transport.send(1, append(bytes(4_800_000)))

    assert inbox.events[-1] == LinkDown(1, "closed", 1000, "closed by us")


STEPS = st.lists(
    st.sampled_from(["connect", "disconnect", "disconnect old", "send", "wait", "up", "tick"]), min_size=1, max_size=12
)

SCRIPTS = {
    "good": [send(SESSION_CREATED), hold()],
    "closes": [send(SESSION_CREATED), close(1011)],
    "resets": [send(SESSION_CREATED), abort()],
    "refuses": [refuse(503)],
    "stalls": [stall_handshake()],
    "garbage": [send_raw("{", b"\x00"), hold()],
}


@given(steps=STEPS, kind=st.sampled_from(sorted(SCRIPTS)))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_connect_gets_exactly_one_link_down_as_its_last_event(steps: Sequence[str], kind: str) -> None:
    events = asyncio.run(_play(steps, kind))

    links = 0
    for link in range(1, steps.count("connect") + 1):
        of_link = [event for event in events if getattr(event, "link", None) == link]
        assert sum(isinstance(event, LinkDown) for event in of_link) == 1, of_link
        assert isinstance(of_link[-1], LinkDown)
        assert sum(isinstance(event, LinkUp) for event in of_link) <= 1
        assert not any(isinstance(event, LinkUp) for event in of_link[1:])
        links += 1
    assert {event.link for event in events if isinstance(event, LinkDown)} == set(range(1, links + 1))


def _is_of(link: int, event: Event) -> bool:
    return getattr(event, "link", None) == link


async def _play(steps: Iterable[str], kind: str) -> list[Event]:
    inbox = LinkInbox()
    link = 0
    async with (
        ScriptedServer(every_other=SCRIPTS[kind]) as server,
        running(server.url, inbox, connect_timeout_s=0.05, close_timeout_s=0.05) as transport,
    ):
        for step in steps:
            match step:
                case "connect":
                    link += 1
                    transport.connect(link)
                case "disconnect":
                    transport.disconnect(link)
                case "disconnect old":
                    transport.disconnect(link - 1)
                case "send":
                    transport.send(link, append())
                case "wait":
                    await asyncio.sleep(0.01)
                case "tick":
                    await asyncio.sleep(0)
                case "up" if link:
                    await inbox.wait(partial(_is_of, link))
    return inbox.events


# --- secrets ----------------------------------------------------------------------------------------------------------


async def test_key_appears_in_no_log_and_no_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    scripts = [
        [send(SESSION_CREATED), expect("response.cancel"), close(3000, f"no such key {KEY}")],
        [refuse(401, {"error": {"type": f"for {KEY}", "code": KEY}})],
        [send_raw(f'{{"type":"error","error":5,"{KEY}":1}}'), close(4000, "sk-live-another-key-1234")],
    ]
    inbox = LinkInbox()
    async with (
        ScriptedServer(*scripts) as server,
        running(server.url, inbox, headers=lambda: {"Authorization": f"Bearer {KEY}"}) as transport,
    ):
        for link in (1, 2, 3):
            transport.connect(link)
            transport.send(link, wire.ResponseCancel())
            await inbox.down(link)
        server.assert_complete()

    client_side = [record for record in caplog.records if not record.name.startswith("websockets.server")]
    assert any(record.name == websocket.__name__ for record in client_side)
    said = "\n".join(record.getMessage() for record in client_side) + repr(inbox.events) + repr(transport)
    assert KEY not in said
    assert "sk-live-another" not in said


async def test_key_of_any_shape_is_redacted_because_it_was_sent() -> None:
    async with ScriptedServer([close(4999, "who is Zm9v-bar?")]) as server:
        down, _ = await end_of(server.url, headers=lambda: {"api-key": "Zm9v-bar"})

    assert down.detail == "who is ***?"


async def test_reason_is_one_printable_line_of_limited_length() -> None:
    async with ScriptedServer(
        [close(4999, "a\nb\x1b[31m" + "c" * 100)], [refuse(418, {"error": {"type": "d" * 999}})]
    ) as server:
        first, _ = await end_of(server.url)
        second, _ = await end_of(server.url)

    assert first.detail.startswith("a b\\u001b[31mc")
    assert first.detail.isprintable()
    assert len(second.detail) == 200
