"""The light and the button before the imports that take long."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.conversation.support.feedback import State, View
from appliance.errors import SettingsError
from appliance.service.app import Appliance
from appliance.service.first_light import FirstLight, read_wiring
from appliance.settings import load_settings
from tests.support.fake_gpiod import FakeBoard, installed

ROOT = Path(__file__).resolve().parents[2]
SIMULATED = ["audio.backend=simulated", "audio.announcements=false", "link.base_url=ws://127.0.0.1:9/v1"]
QUIET = {"audio.backend": "simulated", "audio.announcements": False, "link.base_url": "ws://127.0.0.1:9/v1"}


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBoard]:
    with installed(FakeBoard(), monkeypatch) as one:
        one.line(17).level = 1
        yield one


def test_light_shows_the_start_before_anything_heavy_is_loaded() -> None:
    """Runs the command; the first write of the light's line prints what is loaded by then."""
    code = """
import json, os, sys
from pathlib import Path
from tests.support.fake_gpiod import FakeBoard
board = FakeBoard(labels=("pinctrl-rp1",))
sys.modules.update(board.module())
Path.glob = lambda folder, pattern: [folder / "gpiochip0"] if folder == Path("/dev") else []
before = set(sys.modules)
def on_write(number, level):
    if number == 25:
        print(json.dumps(sorted(set(sys.modules) - before)), flush=True)
        os._exit(0)
board.on_write = on_write
from appliance.cli import main
main(["run"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=90, check=False
    )
    loaded = json.loads(done.stdout)
    heavy = {"numpy", "pydantic", "msgspec", "asyncio", "gpiozero", "websockets", "soxr", "appliance.settings"}
    assert sorted(heavy & set(loaded)) == []
    assert len(loaded) <= 90, loaded


@pytest.mark.parametrize("name", ["respeaker-2mic", "aiy-voice-hat", "whisplay", None])
def test_wiring_is_that_of_the_settings(name: str | None) -> None:
    path = ROOT / "config" / "hats" / f"{name}.toml" if name else None
    environ = {"APPLIANCE_LIGHT__ACTIVE_HIGH": "no", "APPLIANCE_LIGHT__BLUE_PIN": "22"} if not name else {}
    overrides = ["button.pin=5", "pins.factory=gpiod"] if not name else []
    settings = load_settings(path, environ, overrides=dict(one.split("=") for one in overrides))
    dumped = settings.model_dump()
    wiring = read_wiring(path, environ, overrides)
    assert wiring == {key: dumped[key.split(".")[0]][key.split(".")[1]] for key in wiring}


def test_light_blinks_until_it_is_handed_over(board: FakeBoard) -> None:
    first = FirstLight.shown(None, {})
    assert first is not None
    assert board.line(25).written[0] == 1
    chip, requests = first.hand_over()
    count = len(board.line(25).written)
    assert sorted(requests) == [17, 25]
    assert chip.get_line_info(17).consumer == "voice-appliance"
    time.sleep(0)
    assert len(board.line(25).written) == count


@pytest.mark.parametrize("wrong", ["light.pin=abc", "light.kind=none", "button.pull=sideways", "pins.factory=mock"])
def test_what_is_wrong_is_left_to_the_settings(board: FakeBoard, wrong: str) -> None:
    first = FirstLight.shown(None, {}, [wrong])
    if first is not None:
        first.hand_over()
    assert FirstLight.shown(Path("/nowhere/appliance.toml"), {}) is None


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 20_000, "[light]\nkind = 5\n", "[button]\npin = -1\n", "[light]\nkind = 5\npin = -1\n"]
)
def test_malformed_file_is_left_to_the_settings(board: FakeBoard, tmp_path: Path, text: str) -> None:
    path = tmp_path / "appliance.toml"
    path.write_text(text, encoding="utf-8")
    first = FirstLight.shown(path, {})
    if first is not None:
        first.hand_over()
    with pytest.raises(SettingsError):
        load_settings(path, {})


@pytest.mark.parametrize("is_released", [True, False])
async def test_press_during_the_start_begins_a_turn(board: FakeBoard, is_released: bool) -> None:
    first = FirstLight.shown(None, {}, SIMULATED)
    assert first is not None
    board.at_s = time.monotonic() - 1.0
    board.drive(17, 0)
    board.at_s += 0.2
    if is_released:
        board.drive(17, 1)
    board.at_s = None
    appliance = Appliance(load_settings(None, {}, overrides=QUIET), environ={}, first_light=first)
    states: list[State] = []

    def observe(now: float, event: object, commands: object, view: View) -> None:
        states.append(view.state)
        if view.state is State.LISTENING:
            appliance.stop("test")

    appliance.observe(observe)
    async with asyncio.timeout(60):
        await appliance.run()
    assert State.LISTENING in states
    assert board.line(17).settings is None
