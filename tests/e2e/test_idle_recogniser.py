"""The recogniser's process ends after an idle time, and the next sentence starts another, with real engines."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest

from appliance.brain import offline
from appliance.brain.offline import serving
from appliance.brain.server import BrainServer
from appliance.speech.pipeline import build_pipeline
from appliance.speech.tts import open_tts
from tests.support.brain_caller import Caller, calling

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

PUSH_TO_TALK = {"type": "realtime", "audio": {"input": {"turn_detection": None, "transcription": {"model": "m"}}}}


def recognisers() -> set[str]:
    """Return the process ids of the recognisers that this process started."""
    children = Path("/proc/self/task").glob("*/children")
    found = {pid for one in children for pid in one.read_text(encoding="ascii").split()}
    return {pid for pid in found if b"appliance.speech.stt.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()}


async def hear(caller: Caller, speech: bytes) -> str:
    await caller.send("input_audio_buffer.append", audio=base64.b64encode(speech).decode())
    await caller.send("input_audio_buffer.commit")
    frames = await caller.until("conversation.item.input_audio_transcription.completed")
    return str(frames[-1]["transcript"])


async def test_idle_recogniser_ends_and_the_next_sentence_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "_IDLE_S", 8.0)  # longer than a sentence is decoded on a busy machine
    speech = await open_tts("flite").synthesize("what time is it")
    pipeline = build_pipeline()
    server = BrainServer(pipeline)
    async with serving(pipeline, server), calling(server) as caller:
        await caller.send("session.update", session=PUSH_TO_TALK)
        first = await hear(caller, speech)
        before = recognisers()
        while recognisers():
            await asyncio.sleep(0.05)
        assert first == await hear(caller, speech)
        assert len(before) == 1
