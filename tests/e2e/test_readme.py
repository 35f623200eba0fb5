"""The README, followed to the letter: its wiring answers its first sentence, and its commands work as typed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from appliance.conversation.commands import Command, Emit
from appliance.conversation.events import Event
from appliance.conversation.notices import AnswerText, TurnEnd
from appliance.conversation.support.feedback import State, View
from appliance.settings import Settings, load_settings
from appliance.simulator.lamp import SimulatedLamp
from appliance.simulator.simulated_device import SIMULATED, SimulatedDevice
from tests.support.patience import patient

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def wiring() -> dict[str, int]:
    """Part → GPIO, from the table of "On a real Pi"."""
    rows = re.findall(r"^ +\| ([\w ]+)[^|]*\| GPIO (\d+) \(\d+\)", README, re.MULTILINE)
    return {part.strip(): int(pin) for part, pin in rows}


def first_sentence() -> str:
    found = re.search(r"Type\s+`([^`]+)` and Enter", README)
    assert found is not None
    return found[1]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The settings file as `scripts/install-service` installs it."""
    script = ROOT / "scripts" / "install-service"
    subprocess.run([str(script), "--root", str(tmp_path)], check=True, capture_output=True, timeout=patient(60))
    return tmp_path / "etc/voice-appliance/appliance.toml"


class Watch:
    """An observer that keeps the answers and knows when the device is ready and when a turn has ended."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.ended = asyncio.Event()
        self.answers: list[str] = []

    def __call__(self, now: float, event: Event, commands: Sequence[Command], view: View) -> None:
        if view.state is State.READY:
            self.ready.set()
        for command in commands:
            match command:
                case Emit(notice=AnswerText(text=text, is_final=True)):
                    self.answers.append(text)
                case Emit(notice=TurnEnd()):
                    self.ended.set()
                case _:
                    pass


async def say(settings: Settings, *sentences: str) -> tuple[list[float], list[str]]:
    """Say sentences to a simulated device; returns the level of the README's lamp after each, and the answers."""
    device = SimulatedDevice(settings, environ={})
    watch = Watch()
    device.observe(watch)
    levels = []
    async with asyncio.TaskGroup() as group:
        running = group.create_task(device.run())
        await watch.ready.wait()
        assert device.appliance.audio is not None
        await device.appliance.audio.opened()
        for sentence in sentences:
            watch.ended.clear()
            await device.talk(sentence)
            await watch.ended.wait()
            levels.append(SimulatedLamp(device.factory, [wiring()["Lamp"]]).level)
        device.stop("the test is over")
        await running
    return levels, watch.answers


async def test_a_device_wired_as_the_readme_says_obeys_its_first_sentence(installed: Path) -> None:
    settings = load_settings(installed, {}, overrides=SIMULATED)
    assert settings.button.pin == wiring()["Push button"]
    light = settings.light
    assert (light.kind, light.pin, light.active_high) == ("led", wiring()["Status light"], True)
    assert first_sentence() == "turn on the lamp"
    levels, answers = await say(settings, first_sentence(), "turn off the lamp")
    assert levels == [1.0, 0.0]
    assert answers == ["The lamp is on.", "The lamp is off."]
    assert f'"{first_sentence()}"' in README
    assert f'answers "{answers[0]}"' in README


def run(arguments: list[str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "appliance.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
        timeout=patient(90),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_commands_of_the_readme_work_as_typed(tmp_path: Path) -> None:
    asked = [shlex.split(line)[1:] for line in re.findall(r"^\./scripts/run ask .*$", README, re.MULTILINE)]
    assert len(asked) == 2
    assert "The lamp is on." in run(asked[0], tmp_path)
    assert json.loads(run(asked[1], tmp_path))["reply"] == "The timer is set for 5 minutes."
    assert (tmp_path / "reply.wav").stat().st_size > 10_000
    assert "The settings are valid." in run(["config", "check"], tmp_path)


def test_the_program_for_makers_prints_what_its_comment_says(tmp_path: Path) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    environ = {key: value for key, value in os.environ.items() if key != "OPENAI_API_KEY"}
    command = [sys.executable, str(tmp_path / "program.py")]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=environ | {"PYTHONPATH": str(ROOT)},
        check=False,
        timeout=patient(90),
    )
    assert (done.returncode, done.stdout) == (0, "The lamp is on.\n"), done.stderr
