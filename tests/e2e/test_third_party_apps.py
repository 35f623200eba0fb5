"""LiveKit's agents and `@openai/agents` for Node, each a program of its own, converse with the `appliance brain`.

``scripts/setup clients`` installs both; without them the tests are skipped. See tests/clients.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from appliance.simulator.simulated_device import speak
from tests.support.patience import patient
from tests.support.third_party import appliance_brain

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = ROOT / "tests" / "clients"
PYTHON = ROOT / ".venv-clients" / "bin" / "python"
NODE = shutil.which("node")

needs_livekit = pytest.mark.skipif(
    not PYTHON.exists(), reason="LiveKit is not installed: run scripts/setup clients (makes .venv-clients)"
)
needs_node = pytest.mark.skipif(
    NODE is None or not (CLIENTS / "node_modules" / "@openai" / "agents").is_dir(),
    reason="@openai/agents is not installed: install Node.js 20 or later with npm, and run scripts/setup clients",
)


async def conversation(*program: str | Path, folder: Path) -> list[dict[str, Any]]:
    """Run a client, which writes "turn on the lamp" and speaks "turn off the lamp"; return its events."""
    speech = folder / "speech.pcm"
    speech.write_bytes(await speak("turn off the lamp", voice="slt"))
    async with appliance_brain() as brain:
        process = await asyncio.create_subprocess_exec(
            *program, brain.url, speech, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        try:
            async with asyncio.timeout(patient(90)):
                told, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == 0, errors.decode()
    return [json.loads(line) for line in told.decode().splitlines()]


def texts(events: list[dict[str, Any]], role: str) -> list[str]:
    return [one["text"] for one in events if one["event"] == role]


def check(events: list[dict[str, Any]], *, answers: int) -> None:
    assert [one for one in events if one["event"] == "error"] == []
    assert texts(events, "user") == ["turn on the lamp", "turn off the lamp"]
    assert [one["on"] for one in events if one["event"] == "tool"] == [True, False]
    assert texts(events, "assistant")[:2] == ["The lamp is on.", "The lamp is off."]
    heard = [one["ms"] for one in events if one["event"] == "audio"]
    assert len(heard) == len(texts(events, "assistant")) == answers
    assert min(heard) > 500, "an answer without audio"
    assert events[-1] == {"event": "end"}


@needs_livekit
async def test_livekit_agent_writes_speaks_calls_a_tool_and_asks_for_a_reply(tmp_path: Path) -> None:
    events = await conversation(PYTHON, CLIENTS / "livekit_client.py", folder=tmp_path)
    check(events, answers=3)  # the third: a reply with instructions and without words of the user


@needs_node
async def test_openai_agents_for_node_write_speak_and_call_a_tool(tmp_path: Path) -> None:
    assert NODE is not None
    check(await conversation(NODE, CLIENTS / "agents_client.mjs", folder=tmp_path), answers=2)
