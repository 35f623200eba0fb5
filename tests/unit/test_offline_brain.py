"""The offline brain inside a process: nobody else can use it, and a flood of requests cannot stall it."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from appliance.brain.offline import offline_brain
from appliance.conversation.events import LinkUp, ServerEventReceived
from appliance.errors import ApplianceError, SpeechError
from appliance.realtime.transports.websocket import Endpoint, endpoint_url
from appliance.speech.pipeline import ChainedPipeline
from appliance.speech.stages import ResponseRequest, TextPart, Transcript
from appliance.speech.tts.programs import ProgramSpeech, SpeechProgram
from tests.support.link_inbox import LinkInbox, running


class Quiet:
    """All three stages, without an engine."""

    async def transcribe(self, pcm: bytes, *, tools: Any) -> Transcript:
        return Transcript("")

    async def respond(self, request: ResponseRequest) -> AsyncIterator[TextPart]:
        yield TextPart("Yes.")

    async def synthesize(self, text: str, *, voice: str = "", speed: float = 1.0) -> bytes:
        return bytes(4800)


def quiet() -> ChainedPipeline:
    return ChainedPipeline(stt=Quiet(), workflow=Quiet(), tts=Quiet())


def socket_of(url: str) -> Path:
    return Path(unquote(url.removeprefix("ws+unix:").rpartition(":")[0]))


def mode_of(path: Path) -> int:
    return path.stat().st_mode


def is_empty(folder: Path) -> bool:
    return not list(folder.iterdir())


async def test_private_brain_lets_its_own_process_in(tmp_path: Path) -> None:
    inbox = LinkInbox()
    async with offline_brain(quiet(), folder=tmp_path) as brain:
        url = endpoint_url(brain.url, "offline")
        async with running(url, inbox, headers=brain.headers) as transport:
            transport.connect(1)
            await inbox.up()
            await inbox.wait(lambda event: isinstance(event, ServerEventReceived))
            assert brain.sessions == 1
    assert is_empty(tmp_path), "the folder of the socket is removed"


async def test_socket_and_its_folder_belong_to_the_user_alone(tmp_path: Path) -> None:
    async with offline_brain(quiet(), folder=tmp_path) as brain:
        path = socket_of(brain.url)
        assert path.parent.parent == tmp_path
        assert stat.filemode(mode_of(path)) == "srw-------"
        assert stat.filemode(mode_of(path.parent)) == "drwx------"


_CONNECT = """
import socket, sys
with socket.socket(socket.AF_UNIX) as one:
    try:
        one.connect(sys.argv[1])
    except OSError as exc:
        sys.exit(type(exc).__name__)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as a second user")
async def test_second_user_cannot_open_the_socket() -> None:
    async with offline_brain(quiet()) as brain:
        path = str(socket_of(brain.url))

        def connect(user: int) -> str:
            command = [sys.executable, "-I", "-c", _CONNECT, path]
            done = subprocess.run(command, user=user, capture_output=True, text=True, check=False, cwd="/")
            return done.stderr.strip()

        assert await asyncio.to_thread(connect, 65534) == "PermissionError"
        assert await asyncio.to_thread(connect, os.geteuid()) == ""


async def test_client_without_the_token_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with offline_brain(quiet()) as brain:
        inbox = LinkInbox()
        async with running(endpoint_url(brain.url, "offline"), inbox) as transport:
            transport.connect(1)
            down = await inbox.down()
        token = brain.headers()["Authorization"].removeprefix("Bearer ")
        assert (down.code, down.detail) == (3000, "invalid_request_error.invalid_api_key")
        assert brain.sessions == 0
        assert len(token) >= 32
        assert token not in brain.url + repr(brain) + repr(Endpoint(brain.url, brain.headers)) + caplog.text


async def test_two_brains_have_different_tokens_and_sockets() -> None:
    async with offline_brain(quiet()) as one, offline_brain(quiet()) as other:
        assert one.url != other.url
        assert one.headers() != other.headers()


async def test_missing_folder_is_reported_with_a_remedy() -> None:
    with pytest.raises(ApplianceError, match=r"choose another .*TMPDIR"):
        async with offline_brain(quiet(), folder=Path("/proc/missing")):
            pass


@pytest.mark.parametrize("is_default", [True, False])
async def test_folder_whose_path_is_too_long_for_a_socket_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_default: bool
) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    async with offline_brain(quiet(), folder=None if is_default else long) as brain:
        path = socket_of(brain.url)
        assert path.is_socket()
        assert stat.filemode(mode_of(path.parent)) == "drwx------"
    assert not path.parent.exists()


async def test_link_to_a_socket_that_is_gone_goes_down() -> None:
    async with offline_brain(quiet()) as brain:
        url = endpoint_url(brain.url, "offline")
    inbox = LinkInbox()
    async with running(url, inbox) as transport:
        transport.connect(1)
        await inbox.down()
    assert LinkUp(1) not in inbox.events


async def test_waiting_sentences_occupy_neither_the_loop_nor_its_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    program = tmp_path / "mute"
    program.write_text(f"#!/bin/sh\nwhile [ ! -e {gate} ]; do sleep 0.02; done\nexit 3\n", encoding="utf-8")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    voice = ProgramSpeech(
        SpeechProgram(
            name="mute", package="mute", arguments=lambda *_: (), default_voice="", has_voice=lambda name: False
        )
    )
    sentences = [asyncio.ensure_future(voice.synthesize(f"sentence {number}")) for number in range(40)]
    await asyncio.sleep(0)
    await asyncio.to_thread(gate.touch)  # would wait for all sentences on the shared threads
    for sentence in sentences:
        with pytest.raises(SpeechError, match="status 3"):
            await sentence
