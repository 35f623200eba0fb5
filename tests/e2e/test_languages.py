"""The whole appliance in other languages: its sentences match its voice, and a missing language does not stop it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from appliance.conversation.events import MuteSwitched
from appliance.speech.tts import programs
from tests.support.rig import COMMITTED, Rig, answer, created, running
from tests.support.scripted_server import (
    SESSION_CREATED,
    Connection,
    Frame,
    ScriptedServer,
    Step,
    expect,
    hold,
    reply,
    send,
)

pytestmark = pytest.mark.timeout(120)  # not timing-sensitive: runs beside the unit tests

AGENT = """
name = "Haus"
instructions = "Antworte kurz."
tools = ["start_timer"]
needs_approval = ["start_timer"]
"""


@pytest.fixture
def spoken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """Record (program, voice, text) of every synthesised sentence."""
    sentences: list[tuple[str, str, str]] = []
    speak = programs._speak

    def recorded(program: programs.SpeechProgram, text: str, voice: str, speed: float) -> bytes:
        pcm = speak(program, text, voice, speed)
        assert len(pcm) > 24_000, "less than half a second of audio"
        sentences.append((program.name, voice, text))
        return pcm

    monkeypatch.setattr(programs, "_speak", recorded)
    return sentences


def start_timer(connection: Connection) -> list[Frame]:
    item = {
        "id": "item_call",
        "object": "realtime.item",
        "type": "function_call",
        "status": "completed",
        "name": "start_timer",
        "call_id": "call_1",
        "arguments": '{"seconds": 1, "label": "Tee"}',
    }
    response: dict[str, Any] = created(connection)["response"] | {"id": "resp_call"}
    ended = response | {"status": "completed", "output": [item]}
    return [
        {"type": "response.created", "event_id": "e_1", "response": response},
        {"type": "response.done", "event_id": "e_2", "response": ended},
    ]


TIMER_TURN: list[Step] = [
    send(SESSION_CREATED),
    expect("session.update"),
    expect("input_audio_buffer.commit"),
    send(COMMITTED),
    expect("response.create"),
    reply(start_timer),
    expect("conversation.item.create"),
    expect("response.create"),
    reply(answer),
    hold(),
]


async def test_german_appliance_speaks_an_approval_a_timer_and_a_trouble(
    spoken: list[tuple[str, str, str]], tmp_path: Path
) -> None:
    agent = tmp_path / "haus.toml"
    agent.write_text(AGENT, encoding="utf-8")
    changes = {"assistant__language": "de", "assistant__agents_file": str(agent), "audio__announcements": True}
    async with ScriptedServer(TIMER_TURN) as server, running(Rig(server.base_url, **changes)) as rig:
        await rig.at_rest()
        await rig.talk()
        await rig.until(lambda: rig.light == "approval")
        await rig.until_true(lambda: len(spoken) == 1)
        rig.device.finger.press()
        rig.device.finger.release()
        await rig.until(lambda: rig.outcomes == ["answered"])
        await rig.until_true(lambda: len(spoken) == 2)
        await rig.talk(20)  # acknowledges the alarm
        rig.device.appliance.post(MuteSwitched(True))
        await rig.until(lambda: rig.light == "muted")
        await asyncio.sleep(0.1)  # the release is debounced
        rig.device.finger.press()
        await rig.until_true(lambda: len(spoken) == 3)
        rig.device.finger.release()
        [output] = [
            frame["item"]["output"]
            for frame in server.connections[0].of_type("conversation.item.create")
            if frame["item"]["type"] == "function_call_output"
        ]

    assert output == "Der Timer Tee ist auf 1 Sekunde gestellt."
    assert spoken == [
        ("espeak-ng", "de", "Darf ich start timer benutzen? Kurz drücken heißt ja, lange drücken heißt nein."),
        ("espeak-ng", "de", "Die Zeit ist um: Tee."),
        ("espeak-ng", "de", "Das Mikrofon ist stummgeschaltet."),
    ]


async def test_offline_brain_without_german_phrases_answers_in_german_that_it_knows_no_commands(
    spoken: list[tuple[str, str, str]],
) -> None:
    async with running(Rig("", assistant__language="de")) as rig:
        await rig.at_rest()
        await rig.talk()
        await rig.until(lambda: rig.outcomes != [])

    assert rig.outcomes == ["answered"]
    assert [(program, voice) for program, voice, _ in spoken] == [("espeak-ng", "de")]
    assert spoken[0][2] == "Ich bin offline und kenne keine Befehle auf Deutsch."


async def test_language_without_wording_and_voice_gives_earcons_and_no_english_speech(
    spoken: list[tuple[str, str, str]],
) -> None:
    async with running(Rig("", assistant__language="xx", audio__announcements=True)) as rig:
        await rig.at_rest()
        await rig.talk()
        await rig.until(lambda: rig.outcomes != [])
        await rig.until_true(lambda: rig.has_sounded)
        await rig.at_rest()

    assert (rig.outcomes, rig.troubles) == (["failed"], ["answer_failed"])
    assert spoken == []
