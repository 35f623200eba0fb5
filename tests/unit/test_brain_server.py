"""The offline brain on a real loopback socket."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from appliance.brain import admission
from appliance.brain import model as brain_model
from appliance.brain import server as brain_server
from appliance.brain.offline import serving
from appliance.brain.server import BrainServer
from appliance.errors import ApplianceError, SettingsError, SpeechBusy, SpeechError
from appliance.speech.pipeline import ChainedPipeline
from appliance.speech.stages import Part, ResponseRequest, SpokenPart, Transcript
from tests.support.oracle import check_server_frame
from tests.support.scripted import ScriptedPipeline, sine

PUSH_TO_TALK = {"type": "realtime", "audio": {"input": {"turn_detection": None, "transcription": {"model": "m"}}}}


class Caller:
    """A client that sends literal events and checks the frames that it reads."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def send(self, name: str, **keys: Any) -> None:
        await self.socket.send(json.dumps({"type": name, **keys}))

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(10):
            frame: dict[str, Any] = json.loads(await self.socket.recv())
        check_server_frame(frame)
        return frame

    async def until(self, name: str) -> list[dict[str, Any]]:
        """Read up to the first frame of this type."""
        frames = [await self.next()]
        while frames[-1]["type"] != name:
            frames.append(await self.next())
        return frames

    async def ask(self, text: str, **response: Any) -> None:
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
        await self.send("conversation.item.create", item=item)
        await self.send("response.create", response=response)

    async def closed(self) -> tuple[int, str]:
        """Read to the end; return the server's close code and reason."""
        with pytest.raises(ConnectionClosed):
            while True:
                await self.next()
        assert self.socket.close_code is not None
        return self.socket.close_code, self.socket.close_reason or ""


@contextlib.asynccontextmanager
async def calling(server: BrainServer, query: str = "?model=gpt-realtime-2.1", **how: Any) -> AsyncIterator[Caller]:
    async with connect(server.url + query, compression=None, **how) as socket:
        yield Caller(socket)


async def eventually(holds: Callable[[], bool]) -> None:
    for _ in range(1000):
        if holds():
            return
        await asyncio.sleep(0.005)
    pytest.fail("the condition did not become true within 5 s")


class Loading:
    """A recogniser that counts how often it is loaded."""

    loads = 0

    async def warm_up(self) -> None:
        self.loads += 1

    async def transcribe(self, pcm: bytes, *, tools: Sequence[Mapping[str, Any]]) -> Transcript:
        return Transcript("")


async def test_models_are_loaded_at_the_first_connection() -> None:
    recogniser, unused = Loading(), ScriptedPipeline()
    pipeline: Any = ChainedPipeline(stt=recogniser, workflow=unused, tts=unused)  # type: ignore[arg-type]
    server = BrainServer(pipeline)
    async with serving(pipeline, server):
        await asyncio.sleep(0.05)
        assert recogniser.loads == 0, "a device whose server answers keeps its memory"
        for _ in range(2):
            async with calling(server) as caller:
                await caller.next()
                await eventually(lambda: recogniser.loads > 0)
    assert recogniser.loads == 1


async def test_push_to_talk_turn_over_a_socket() -> None:
    pipeline = ScriptedPipeline(hears="good morning")
    async with BrainServer(pipeline) as server, calling(server) as caller:
        assert (await caller.next())["type"] == "session.created"
        await caller.send("session.update", session=PUSH_TO_TALK)
        await caller.send("input_audio_buffer.append", audio=base64.b64encode(sine(300)).decode())
        await caller.send("input_audio_buffer.commit")
        await caller.send("response.create", response={"metadata": {"turn": "1"}})
        frames = await caller.until("response.done")
    assert pipeline.utterances == [sine(300)]
    heard = [one["transcript"] for one in frames if one["type"].endswith("transcription.completed")]
    assert heard == ["good morning"]
    audio = b"".join(base64.b64decode(one["delta"]) for one in frames if one["type"] == "response.output_audio.delta")
    assert audio == sine(1000)
    done = frames[-1]["response"]
    assert (done["status"], done["metadata"]) == ("completed", {"turn": "1"})
    assert done["output"][0]["content"][0]["transcript"] == "You said good morning."


async def test_workflow_gets_the_transcript_even_if_transcription_is_off() -> None:
    pipeline = ScriptedPipeline(hears="quietly")
    session = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
    async with BrainServer(pipeline) as server, calling(server) as caller:
        await caller.send("session.update", session=session)
        await caller.send("input_audio_buffer.append", audio=base64.b64encode(sine(200)).decode())
        await caller.send("input_audio_buffer.commit")
        await caller.send("response.create")
        frames = await caller.until("response.done")
    assert not [one for one in frames if "input_audio_transcription" in one["type"]]
    assert frames[-1]["response"]["output"][0]["content"][0]["transcript"] == "You said quietly."


async def test_session_has_the_model_of_the_query() -> None:
    async with BrainServer(ScriptedPipeline()) as server, calling(server, "?model=whatever") as caller:
        assert (await caller.next())["session"]["model"] == "whatever"


# --- admission ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}])
async def test_wrong_key_is_refused_as_on_the_live_service(headers: dict[str, str]) -> None:
    async with (
        BrainServer(ScriptedPipeline(), token="secret") as server,
        calling(server, additional_headers=headers) as caller,
    ):
        frame = await caller.next()
        assert (frame["type"], frame["error"]["code"]) == ("error", "invalid_api_key")
        assert "secret" not in json.dumps(frame)
        assert await caller.closed() == (3000, "invalid_request_error.invalid_api_key")


async def test_right_key_is_accepted_from_a_header_or_a_subprotocol() -> None:
    async with BrainServer(ScriptedPipeline(), token="secret") as server:
        async with calling(server, additional_headers={"Authorization": "Bearer secret"}) as caller:
            assert (await caller.next())["type"] == "session.created"
            assert caller.socket.subprotocol is None
        offered = [Subprotocol("realtime"), Subprotocol("openai-insecure-api-key.secret")]
        async with calling(server, subprotocols=offered) as caller:
            assert (await caller.next())["type"] == "session.created"
            assert caller.socket.subprotocol == "realtime"


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", "missing_model"),
        ("?model=", "missing_model"),
        ("?intent=transcription", "unsupported_intent"),
        ("?call_id=rtc_1", "unsupported_call_id"),
    ],
)
async def test_unsupported_session_is_refused_with_its_error_code(query: str, code: str) -> None:
    async with BrainServer(ScriptedPipeline()) as server, calling(server, query) as caller:
        assert (await caller.next())["error"]["code"] == code
        assert await caller.closed() == (4000, f"invalid_request_error.{code}")


async def test_beta_header_is_refused() -> None:
    headers = {"OpenAI-Beta": "realtime=v1"}
    async with BrainServer(ScriptedPipeline()) as server, calling(server, additional_headers=headers) as caller:
        assert (await caller.next())["error"]["code"] == "beta_api_shape_disabled"
        assert await caller.closed() == (4000, "invalid_request_error.beta_api_shape_disabled")


async def test_other_path_is_not_found_and_foreign_origin_is_forbidden() -> None:
    async with BrainServer(ScriptedPipeline()) as server:
        with pytest.raises(InvalidStatus) as lost:
            async with connect(server.url.replace("/v1/realtime", "/v1/live/sessions")):
                pass
        assert lost.value.response.status_code == 404
        with pytest.raises(InvalidStatus) as foreign:
            async with connect(server.url + "?model=x", additional_headers={"Origin": "https://example.com"}):
                pass
        assert foreign.value.response.status_code == 403
        async with calling(server, additional_headers={"Origin": "http://localhost:8080"}) as caller:
            assert (await caller.next())["type"] == "session.created"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com", ""])
def test_network_address_needs_a_token(host: str) -> None:
    with pytest.raises(ApplianceError, match="token"):
        BrainServer(ScriptedPipeline(), host=host)
    BrainServer(ScriptedPipeline(), host=host, token="secret")


async def test_port_in_use_raises_with_address_and_remedy() -> None:
    async with BrainServer(ScriptedPipeline()) as server:
        with pytest.raises(ApplianceError, match=rf"cannot listen on 127.0.0.1:{server.port} .*another port"):
            async with BrainServer(ScriptedPipeline(), port=server.port):
                pass


async def test_number_of_sessions_is_limited() -> None:
    async with BrainServer(ScriptedPipeline(), max_sessions=1) as server, calling(server) as first:
        assert (await first.next())["type"] == "session.created"
        async with calling(server) as second:
            assert (await second.next())["error"]["code"] == "too_many_sessions"
            assert await second.closed() == (1013, "server_error.too_many_sessions")
        await first.ask("still there")
        await first.until("response.done")


# --- generating --------------------------------------------------------------------------------------------------


class Endless(ScriptedPipeline):
    """Speaks one sentence, then waits until it is cancelled."""

    async def respond(self, request: ResponseRequest, *, spoken: bool, voice: str, speed: float) -> AsyncIterator[Part]:
        try:
            yield SpokenPart("Once upon a time", sine(200))
            await asyncio.Event().wait()
        finally:
            self.closed += 1


async def test_cancel_closes_the_generator_at_once() -> None:
    pipeline = Endless()
    async with BrainServer(pipeline) as server, calling(server) as caller:
        await caller.ask("a story")
        await caller.until("response.output_audio.delta")
        await caller.send("response.cancel")
        done = (await caller.until("response.done"))[-1]["response"]
        assert (done["status"], pipeline.closed) == ("cancelled", 1)
        await caller.send("response.create")
        await caller.until("response.output_audio.delta")


async def test_out_of_band_response_runs_in_parallel_with_the_default_one() -> None:
    pipeline = ScriptedPipeline(sentences=2)
    async with BrainServer(pipeline) as server, calling(server) as caller:
        await caller.ask("hi")
        await caller.send("response.create", response={"conversation": "none", "output_modalities": ["text"]})
        done = [(await caller.until("response.done"))[-1]["response"] for _ in range(2)]
    assert {one["conversation_id"] is None for one in done} == {True, False}
    assert {one["status"] for one in done} == {"completed"}


async def test_client_that_does_not_read_pauses_the_generator() -> None:
    pipeline = ScriptedPipeline(sentences=400)
    async with BrainServer(pipeline) as server, calling(server, max_queue=4) as caller:
        await caller.ask("a long story")
        produced = -1
        while produced != pipeline.produced or not produced:
            produced = pipeline.produced
            await asyncio.sleep(0.1)
        assert produced < 400, "the server must not buffer all 26 MB of audio"
        await caller.until("response.done")
        assert pipeline.produced == 400


class Broken(ScriptedPipeline):
    """A pipeline whose engines are missing."""

    async def transcribe(self, pcm: bytes, *, tools: Sequence[Mapping[str, Any]]) -> Transcript:
        raise SpeechError("no recogniser: install the extra 'offline'")

    async def respond(self, request: ResponseRequest, *, spoken: bool, voice: str, speed: float) -> AsyncIterator[Part]:
        if request.metadata.get("bug"):
            raise RuntimeError("a bug in a stage")
        yield SpokenPart("One.", sine(100))
        raise SpeechError("no voice: install the Debian package flite")


async def test_failing_engine_fails_the_response_and_not_the_session() -> None:
    async with BrainServer(Broken()) as server, calling(server) as caller:
        await caller.send("session.update", session=PUSH_TO_TALK)
        await caller.send("input_audio_buffer.append", audio=base64.b64encode(sine(200)).decode())
        await caller.send("input_audio_buffer.commit")
        failed = (await caller.until("conversation.item.input_audio_transcription.failed"))[-1]
        assert failed["error"]["message"] == "no recogniser: install the extra 'offline'"
        for _ in range(2):
            await caller.send("response.create")
            done = (await caller.until("response.done"))[-1]["response"]
            assert done["status"] == "failed"
            assert done["status_details"]["error"]["message"] == "no voice: install the Debian package flite"


async def test_bug_in_a_stage_ends_only_its_own_session(caplog: pytest.LogCaptureFixture) -> None:
    async with BrainServer(Broken()) as server, calling(server) as other, calling(server) as caller:
        await caller.send("response.create", response={"metadata": {"bug": "1"}})
        assert (await caller.closed())[0] == 1011
        assert "a bug in a stage" in caplog.text
        await other.ask("still there")
        assert (await other.until("response.done"))[-1]["response"]["status"] == "failed"


# --- invalid input and shutdown ----------------------------------------------------------------------------------


async def test_malformed_and_binary_frames_get_an_error_and_the_session_continues() -> None:
    async with BrainServer(ScriptedPipeline()) as server, calling(server) as caller:
        await caller.next()
        await caller.socket.send("{")
        assert (await caller.next())["error"]["code"] == "invalid_json"
        await caller.socket.send(b"\x00\x01")
        assert (await caller.next())["error"]["code"] == "invalid_event"
        await caller.ask("still there")
        assert (await caller.until("response.done"))[-1]["response"]["status"] == "completed"


async def test_frame_over_16_mib_ends_the_connection_and_not_the_server() -> None:
    async with BrainServer(ScriptedPipeline()) as server:
        socket = await connect(server.url + "?model=x", compression=None)
        with contextlib.suppress(ConnectionClosed):
            await socket.send("x" * (16 * 2**20 + 1))
        await socket.wait_closed()
        assert socket.close_code == 1009
        async with calling(server) as caller:
            assert (await caller.next())["type"] == "session.created"


async def test_session_expires_with_an_error_and_code_1001(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brain_model, "MAX_SESSION_S", 0.05)
    async with BrainServer(ScriptedPipeline()) as server, calling(server) as caller:
        assert (await caller.until("error"))[-1]["error"]["code"] == "session_expired"
        assert await caller.closed() == (1001, "Your session hit the maximum duration of 60 minutes.")


async def test_sequential_sessions_leave_no_tasks() -> None:
    async with BrainServer(ScriptedPipeline()) as server:
        async with calling(server) as caller:
            await caller.next()
        await eventually(lambda: not server.sessions)
        before = len(asyncio.all_tasks())
        for _ in range(25):
            async with calling(server) as caller:
                await caller.ask("hi")
                await caller.until("response.output_audio.delta")
        await eventually(lambda: not server.sessions)
        await eventually(lambda: len(asyncio.all_tasks()) <= before)


async def test_closing_the_server_ends_sessions_in_the_middle_of_an_answer() -> None:
    pipeline = Endless()
    server = BrainServer(pipeline)
    async with server, calling(server) as caller:
        await caller.ask("a story")
        await caller.until("response.output_audio.delta")
        await asyncio.gather(server.close(), caller.closed())
        assert (caller.socket.close_code, pipeline.closed, server.sessions) == (1001, 1, 0)
        await server.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


# --- limits ------------------------------------------------------------------------------------------------------

OUT_OF_BAND = {"conversation": "none", "input": []}


async def test_responses_beyond_the_maximum_of_the_server_get_an_error() -> None:
    async with (
        BrainServer(Endless(), max_responses=3) as server,
        calling(server) as first,
        calling(server) as second,
    ):
        for _ in range(2):
            await first.send("response.create", response=OUT_OF_BAND)
            await first.until("response.output_audio.delta")
        await second.send("response.create", response=OUT_OF_BAND)
        await second.until("response.output_audio.delta")
        assert server.responses == 3
        await second.send("response.create", event_id="mine", response=OUT_OF_BAND)
        error = (await second.until("error"))[-1]["error"]
        assert (error["code"], error["event_id"]) == ("rate_limit_exceeded", "mine")
        assert "busy" in error["message"]
        await first.send("response.cancel", response_id=None)
    await eventually(lambda: server.responses == 0)


async def test_flood_of_out_of_band_responses_is_refused_one_by_one_and_does_not_delay_another_client() -> None:
    pipeline = Endless()
    refused: list[str] = []
    created: list[str] = []
    overtaken: list[int] = []

    async def read(hostile: Caller) -> None:
        async for text in hostile.socket:
            frame = json.loads(text)
            if frame["type"] == "response.created":
                created.append(frame["response"]["metadata"]["number"])
            elif frame["type"] == "error":
                assert frame["error"]["code"] == "rate_limit_exceeded"
                refused.append(frame["error"]["event_id"])

    async with (
        BrainServer(pipeline) as server,
        calling(server, ping_interval=None) as hostile,
        calling(server) as other,
    ):
        reading = asyncio.create_task(read(hostile))
        for number in map(str, range(6000)):
            asked = OUT_OF_BAND | {"metadata": {"number": number}}
            await hostile.send("response.create", event_id=number, response=asked)
            if number == "1000":
                await other.ask("hello")
                answered = asyncio.create_task(other.until("response.output_audio.delta"))
                answered.add_done_callback(lambda _: overtaken.append(len(refused)))
        await eventually(lambda: len(refused) == 6000 - brain_model.MAX_RESPONSES)
        await answered
        assert server.responses == brain_model.MAX_RESPONSES + 1
    await reading
    numbers = list(map(str, range(6000)))
    assert created == numbers[: brain_model.MAX_RESPONSES]
    assert refused == numbers[brain_model.MAX_RESPONSES :]
    assert overtaken[0] < len(refused), "the other client did not wait for the end of the flood"


def message(pcm: bytes) -> dict[str, Any]:
    part = {"type": "input_audio", "audio": base64.b64encode(pcm).decode(), "transcript": "known"}
    return {"id": "long", "type": "message", "role": "user", "content": [part]}


async def test_short_item_is_retrieved_with_its_audio_in_one_frame() -> None:
    async with BrainServer(ScriptedPipeline()) as server, calling(server) as caller:
        await caller.send("conversation.item.create", item=message(sine(300)))
        await caller.send("conversation.item.retrieve", item_id="long")
        item = (await caller.until("conversation.item.retrieved"))[-1]["item"]
        assert base64.b64decode(item["content"][0]["audio"]) == sine(300)


async def test_many_long_items_are_sent_in_slices_while_another_client_is_answered() -> None:
    pcm = bytes(range(256)) * 24_000  # 6 MB
    longest = 0

    async def watch() -> None:
        nonlocal longest
        while True:
            longest = max(longest, server.unsent_bytes)
            await asyncio.sleep(0)

    async with BrainServer(ScriptedPipeline()) as server, calling(server, max_size=None) as greedy:
        await greedy.send("conversation.item.create", item=message(pcm))
        await greedy.until("conversation.item.done")
        for _ in range(10):
            await greedy.send("conversation.item.retrieve", item_id="long")
        watching = asyncio.create_task(watch())
        parts = [part async for part in greedy.socket.recv_streaming()]
        assert len(parts) > len(pcm) // 96_000, "one fragment for each slice"
        assert base64.b64decode(json.loads("".join(map(str, parts)))["item"]["content"][0]["audio"]) == pcm
        async with calling(server) as other:
            await other.ask("hello")
            await other.until("response.done")
        assert server.unsent_bytes, "the other client did not wait for the end of the long items"
        for _ in range(9):
            assert (await greedy.next())["type"] == "conversation.item.retrieved"
        watching.cancel()
    assert longest <= brain_server.OUTBOX_BYTES + len(pcm) + 10_000


async def test_slow_reader_is_closed_with_1008_and_a_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(brain_server, "SLOW_READER_S", 0.05)
    async with (
        BrainServer(ScriptedPipeline()) as server,
        calling(server, max_queue=1, max_size=None, ping_interval=None) as caller,
    ):
        await caller.send("conversation.item.create", item=message(bytes(6_000_000)))
        await caller.until("conversation.item.done")
        for _ in range(40):
            await caller.send("conversation.item.retrieve", item_id="long")
        await eventually(lambda: "the client read nothing" in caplog.text)
        code, reason = await caller.closed()
        assert (code, reason) == (1008, "invalid_request_error.slow_reader")
        await eventually(lambda: not server.sessions)


async def test_closing_the_server_does_not_wait_for_a_client_that_does_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(brain_server, "CLOSE_TIMEOUT_S", 0.05)
    server = BrainServer(ScriptedPipeline())
    async with server, calling(server, max_queue=1, max_size=None, ping_interval=None, close_timeout=0.1) as caller:
        await caller.send("conversation.item.create", item=message(bytes(6_000_000)))
        await caller.until("conversation.item.done")
        await caller.send("conversation.item.retrieve", item_id="long")
        await eventually(lambda: server.unsent_bytes > 6_000_000)
        await server.close()
        assert server.sessions == 0


# --- HTTP --------------------------------------------------------------------------------------------------------


async def http(server: BrainServer, request: str, *lines: str, tls: ssl.SSLContext | None = None) -> tuple[int, Any]:
    """Send one request and read to the end; return the status and the JSON body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=tls)
    head = "\r\n".join([request, "Host: localhost", *lines, "", ""])
    writer.write(head.encode("latin-1"))
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    top, _, body = answer.partition(b"\r\n\r\n")
    assert b"Content-Type: application/json" in top
    return int(top.split()[1]), json.loads(body)["error"]


UPGRADE = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {'A' * 22}==")
REALTIME = "GET /v1/realtime?model=x HTTP/1.1"


@pytest.mark.parametrize(
    ("request_line", "lines", "status", "code"),
    [
        ("GET /v1/models?key=sk-secret-1 HTTP/1.1", (), 404, "not_found"),
        ("GET //[ HTTP/1.1", UPGRADE, 404, "not_found"),
        ("POST /v1/realtime?key=sk-secret-1 HTTP/1.1", ("Content-Length: 2",), 405, "method_not_allowed"),
        ("DELETE /v1/realtime/calls HTTP/1.1", (), 405, "method_not_allowed"),
        (REALTIME, (), 426, "upgrade_required"),
        (REALTIME, (*UPGRADE, "Origin: http://[::1"), 403, "forbidden_origin"),
        (REALTIME, (*UPGRADE, "Origin: http://localhost", "Origin: http://evil.example"), 403, "forbidden_origin"),
        (REALTIME, (*UPGRADE, "Origin: null"), 403, "forbidden_origin"),
    ],
)
async def test_request_that_is_no_session_gets_a_json_error_and_a_log_line(
    request_line: str, lines: tuple[str, ...], status: int, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with BrainServer(ScriptedPipeline()) as server:
        got, error = await http(server, request_line, *lines)
        assert (got, error["code"], error["type"]) == (status, code, "invalid_request_error")
        assert [one for one in caplog.messages if one.startswith(f"refused with {status} {code}: ")]
        assert "sk-secret" not in caplog.text
        async with calling(server) as caller:
            assert (await caller.next())["type"] == "session.created"


async def test_request_line_in_pieces_is_read_whole() -> None:
    async with BrainServer(ScriptedPipeline()) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for part in ("PO", "ST /v1/realtime HT", "TP/1.1\r", "\nHost: x\r\n\r\n"):
            writer.write(part.encode())
            await writer.drain()
            await asyncio.sleep(0.01)
        assert (await reader.readline()).startswith(b"HTTP/1.1 405 ")
        writer.close()


@pytest.mark.parametrize("key", ["Bearer s\xe9cret", "Bearer \xff\xfe"])
async def test_key_that_is_not_ascii_is_unauthorized(key: str) -> None:
    async with BrainServer(ScriptedPipeline(), token="secret") as server:
        status, error = await http(server, REALTIME, *UPGRADE, f"Authorization: {key}")
        assert (status, error["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("token", ["s\xe9cret", "two words", "line\n"])
def test_token_that_no_header_can_carry_is_refused_at_the_start(token: str) -> None:
    with pytest.raises(ApplianceError, match="not ASCII") as refused:
        BrainServer(ScriptedPipeline(), token=token)
    assert token not in str(refused.value)


async def test_model_name_with_raw_bytes_is_readable_json() -> None:
    async with BrainServer(ScriptedPipeline()) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        request = "\r\n".join(["GET /v1/realtime?model=\xff HTTP/1.1", "Host: x", *UPGRADE, "", ""])
        writer.write(request.encode("latin-1"))
        await reader.readuntil(b"\r\n\r\n")
        assert b'"model":"\\ufffd"' in await reader.readuntil(b"expires_at")
        writer.close()


async def test_attempts_after_wrong_keys_wait_ever_longer_one_behind_the_other() -> None:
    waits: list[float] = []
    running = 0

    async def sleep(seconds: float) -> None:
        nonlocal running
        running += 1
        assert running == 1, "one attempt at a time"
        await asyncio.sleep(0)
        waits.append(seconds)
        running -= 1

    guesses = admission.Guesses(sleep)
    assert not await guesses.check("a", is_right=False)
    assert waits == [], "one mistake costs no time"
    assert not any(await asyncio.gather(*(guesses.check("a", is_right=False) for _ in range(6))))
    assert waits == [0.25, 0.5, 1.0, 2.0, 4.0, 4.0]
    assert await guesses.check("b", is_right=True)
    assert len(waits) == 6, "another host does not wait"
    assert await guesses.check("a", is_right=True)
    assert await guesses.check("a", is_right=True)
    assert len(waits) == 7, "a right key ends the waits"


async def test_host_with_many_waiting_attempts_is_refused_and_closing_ends_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission, "FIRST_DELAY_S", 1000.0)
    monkeypatch.setattr(admission, "LONGEST_DELAY_S", 1000.0)
    wrong = {"Authorization": "Bearer wrong"}
    server = BrainServer(ScriptedPipeline(), token="secret")
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(server)
        waiting = [
            await stack.enter_async_context(calling(server, additional_headers=wrong))
            for _ in range(1 + admission.MAX_WAITING)
        ]
        with pytest.raises(InvalidStatus) as refused:
            await connect(server.url + "?model=x", additional_headers=wrong)
        assert refused.value.response.status_code == 429
        assert refused.value.response.headers["Retry-After"]
        await server.close()
        for one in waiting:
            await one.socket.wait_closed()


def test_tls_files_that_cannot_be_used_are_reported(tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("no certificate", encoding="utf-8")
    for name in ("missing.pem", "bad.pem"):
        with pytest.raises(SettingsError, match=rf"--tls-cert.*{name}"):
            admission.server_tls(tmp_path / name)


async def test_wss_with_a_certificate(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    await asyncio.to_thread(subprocess.run, [*command, *names], check=True, capture_output=True)
    async with BrainServer(ScriptedPipeline(), tls=admission.server_tls(cert, key)) as server:
        trust = ssl.create_default_context(cafile=cert)
        assert server.url.startswith("wss://")
        async with calling(server, ssl=trust) as caller:
            assert (await caller.next())["type"] == "session.created"
        status, _ = await http(server, "POST / HTTP/1.1", tls=trust)
        assert status == 405


class Busy(ScriptedPipeline):
    async def transcribe(self, pcm: bytes, *, tools: Sequence[Mapping[str, Any]]) -> Transcript:
        raise SpeechBusy("the speech recogniser is busy")


@pytest.mark.parametrize("transcription", [{"model": "m"}, None])
async def test_busy_recogniser_is_an_error_with_or_without_transcripts(transcription: Any) -> None:
    session = {"type": "realtime", "audio": {"input": {"turn_detection": None, "transcription": transcription}}}
    async with BrainServer(Busy()) as server, calling(server) as caller:
        await caller.send("session.update", session=session)
        await caller.send("input_audio_buffer.append", audio=base64.b64encode(sine(200)).decode())
        await caller.send("input_audio_buffer.commit")
        name = "conversation.item.input_audio_transcription.failed" if transcription else "error"
        error = (await caller.until(name))[-1]["error"]
        assert (error["code"], error["message"]) == ("rate_limit_exceeded", "the speech recogniser is busy")
