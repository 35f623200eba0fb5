"""The offline brain on a real loopback socket: who is admitted, and plain HTTP."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import ssl
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from appliance.brain import admission
from appliance.brain.server import BrainServer
from appliance.errors import ApplianceError, SettingsError, SpeechBusy
from appliance.speech.stages import Transcript
from tests.support.brain_caller import calling
from tests.support.scripted import ScriptedPipeline, sine

# --- admission --------------------------------------------------------------------------------------------------------


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


# --- HTTP -------------------------------------------------------------------------------------------------------------


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
