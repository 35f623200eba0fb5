"""The simulator on a pseudo-terminal: what keys do, what a person reads, and a script on standard input."""

from __future__ import annotations

import asyncio
import os
import pty
import termios
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

import pytest

from appliance.conversation.commands import Emit
from appliance.conversation.events import DeadlinePassed, MuteSwitched
from appliance.conversation.notices import (
    AnswerText,
    BudgetWarning,
    Error,
    Guardrail,
    HandoffDone,
    InputText,
    ToolApproval,
    ToolEnd,
    ToolStart,
    TurnEnd,
)
from appliance.conversation.support.feedback import State, View
from appliance.errors import SpeechError
from appliance.simulator import terminal
from appliance.simulator.keyboard import DISABLE, ENABLE, QUERY
from appliance.simulator.terminal import HELP, HELP_HOLD, Screen, meter
from appliance.wording import english

READY = View(state=State.READY)


class Device:
    """The simulated device as the terminal sees it; keeps what it was asked."""

    def __init__(self) -> None:
        self.wording = english()
        self.done: list[Any] = []
        self.stops = asyncio.Event()
        self.reason = ""
        self.cannot_speak = False
        self.started = asyncio.Event()
        names = ("press", "release")
        self.finger = SimpleNamespace(**{name: lambda name=name: self.done.append(name) for name in names})
        self.finger.hold = lambda seconds: self.done.append("tap")
        self.appliance = SimpleNamespace(post=self.done.append, audio=SimpleNamespace(microphone_db=-30.0))

    def observe(self, observer: Any) -> None:
        self.observer = observer

    def step(self, *notices: Any, view: View = READY) -> None:
        self.observer(0.0, DeadlinePassed(), [Emit(one) for one in notices], view)

    async def run(self) -> str:
        self.started.set()
        await self.stops.wait()
        return self.reason

    def stop(self, reason: str) -> None:
        self.reason = reason
        self.stops.set()

    def lamp_line(self) -> str:
        return "lamp off"

    async def talk(self, text: str) -> None:
        if self.cannot_speak:
            raise SpeechError("no voice")
        self.done.append(text)


class Person:
    """Types on a pseudo-terminal and reads its screen."""

    def __init__(self) -> None:
        self.end, self.slave = pty.openpty()
        os.set_blocking(self.end, False)
        termios.tcsetwinsize(self.end, (24, 120))
        self.before = termios.tcgetattr(self.slave)
        self.keyboard: TextIO = os.fdopen(os.dup(self.slave), "r")
        self.out: TextIO = os.fdopen(os.dup(self.slave), "w")
        self.screen = ""

    def type(self, keys: str) -> None:
        os.write(self.end, keys.encode())

    async def reads(self, text: str) -> None:
        while text not in self.screen:
            try:
                self.screen += os.read(self.end, 65_536).decode()
            except BlockingIOError:
                await asyncio.sleep(0.01)

    def close(self) -> None:
        self.keyboard.close()
        self.out.close()
        os.close(self.end)
        os.close(self.slave)


@pytest.fixture
def person() -> Iterator[Person]:
    one = Person()
    yield one
    one.close()


@asynccontextmanager
async def simulating(person: Person) -> AsyncIterator[Device]:
    device = Device()
    task = asyncio.create_task(terminal._Terminal(device, person.keyboard, person.out).run())  # type: ignore[arg-type]
    try:
        await person.reads(QUERY)
        yield device
    finally:
        device.stop("the test is over")
        await task


async def until(device: Device, count: int) -> list[Any]:
    while len(device.done) < count:
        await asyncio.sleep(0.01)
    return device.done


async def test_space_taps_until_the_terminal_says_that_keys_can_be_held(person: Person) -> None:
    async with simulating(person) as device:
        await person.reads(HELP)
        person.type(" ")
        assert await until(device, 1) == ["tap"]
        person.type("\x1b[?0u\x1b[?62;c")
        await person.reads(HELP_HOLD)
        assert ENABLE in person.screen
        person.type("\x1b[32;1:1u\x1b[32;1:3u")
        assert await until(device, 3) == ["tap", "press", "release"]


async def test_typed_line_is_shown_edited_and_spoken_with_its_spaces(person: Person) -> None:
    async with simulating(person) as device:
        person.type("turn it onn")
        await person.reads("> turn it onn")
        person.type("\x7f\r\r")
        assert await until(device, 1) == ["turn it on"]
        person.type("hum\r")
        assert await until(device, 2) == ["turn it on", "hum"], (
            "an empty line is not spoken, an m in a word mutes nothing"
        )


async def test_m_mutes_and_unmutes(person: Person) -> None:
    async with simulating(person) as device:
        person.type("m")
        await until(device, 1)
        device.step(view=View(state=State.READY, is_muted=True))
        person.type("m")
        assert await until(device, 2) == [MuteSwitched(True), MuteSwitched(False)]


async def test_ctrl_c_stops_the_device_and_the_terminal_is_as_before(person: Person) -> None:
    async with simulating(person) as device:
        person.type("\x03")
        await device.stops.wait()
        assert device.reason == "Ctrl-C"
    await person.reads("Goodbye.")
    assert DISABLE + "\x1b[?25h" in person.screen
    assert termios.tcgetattr(person.slave) == person.before


async def test_sentence_that_cannot_be_spoken_is_a_line_and_the_next_one_is_tried(person: Person) -> None:
    async with simulating(person) as device:
        device.cannot_speak = True
        person.type("one\r")
        await person.reads("trouble    no voice")
        device.cannot_speak = False
        person.type("two\r")
        assert await until(device, 1) == ["two"]


async def test_status_line_shows_the_state_the_level_and_the_lamp(person: Person) -> None:
    async with simulating(person) as device:
        device.step(view=View(state=State.LISTENING))
        await person.reads(f"listening    {meter(-30.0)} lamp off")


@pytest.mark.parametrize(
    ("notice", "line"),
    [
        (InputText("turn it on", True), "  you said   turn it on"),
        (InputText("", True), "  you said   (nothing understood)"),
        (AnswerText("t", "Done.", True), "  it answers Done."),
        (ToolStart("t", "c", "set_lamp", '{"on":true}'), '  tool       set_lamp {"on":true}'),
        (ToolEnd("t", "c", "set_lamp", "on", False), "  result     on"),
        (ToolApproval("t", "c", "open", "{}"), "  approval   open {}: tap for yes, hold a second for no"),
        (HandoffDone("A", "B"), "  handoff    A to B"),
        (Guardrail("t", "output", "i", "prices", ""), "  guardrail  prices: tripped"),
        (Error("no_link", ""), f"  trouble    no_link: {english().trouble('no_link', '')}"),
        (TurnEnd("turn_1", "too_short"), "  turn       too_short"),
        (BudgetWarning(80, "usd", 0.8, 1.0), f"  budget     {english().budget('usd', 80, 0.8, 1.0)}"),
    ],
    ids=lambda one: type(one).__name__,
)
async def test_what_happens_is_a_line(notice: Any, line: str, person: Person) -> None:
    async with simulating(person) as device:
        device.step(notice)
        await person.reads(line + "\r\n")


async def test_script_on_standard_input_is_spoken_line_by_line_at_rest(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("turn on the lamp\n\nturn it off\n")
    device, printed = Device(), tmp_path / "out"
    with script.open() as keyboard, printed.open("w") as out:
        task = asyncio.create_task(terminal._Terminal(device, keyboard, out).run())  # type: ignore[arg-type]
        await device.started.wait()
        device.step(view=View(state=State.LISTENING))
        await asyncio.sleep(0.05)
        assert device.done == [], "the device is busy"
        device.step(view=READY)
        await task
    assert device.done == ["turn on the lamp", "turn it off"]
    assert device.reason == "end of input"
    lines = printed.read_text().splitlines()
    assert [one for one in lines if one[0] in "[>"] == ["[listening]", "[ready]", "> turn on the lamp", "> turn it off"]
    assert "\x1b" not in printed.read_text(), "no status line without a terminal"


def test_long_status_line_is_cut_at_the_width_and_colours_do_not_count(person: Person) -> None:
    termios.tcsetwinsize(person.end, (24, 30))
    screen = Screen(person.out)
    screen.draw("\x1b[31m" + "x" * 50)
    screen.draw("\x1b[31m" + "x" * 50)  # as before: not drawn again
    assert os.read(person.end, 4096).decode() == "\r\x1b[2K\x1b[31m" + "x" * 29 + "\x1b[0m"
    screen.close()
    assert os.read(person.end, 4096).decode() == "\r\x1b[2K"


@pytest.mark.parametrize(("level_db", "filled"), [(-96.0, 0), (-60.0, 0), (-30.0, 12), (0.0, 24), (6.0, 24)])
def test_meter_is_full_at_0_dbfs_and_empty_at_60_below(level_db: float, filled: int) -> None:
    assert meter(level_db) == "█" * filled + "░" * (24 - filled)


def test_simulate_runs_the_device_of_its_settings_until_standard_input_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    made: list[Any] = []

    class Made(Device):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__()
            made.append((arguments, options))

        async def run(self) -> str:
            self.step(view=READY)
            return await super().run()

    settings: Any = object()
    (tmp_path / "empty").touch()
    with (tmp_path / "empty").open() as nothing:
        monkeypatch.setattr(terminal, "SimulatedDevice", Made)
        monkeypatch.setattr(terminal.sys, "stdin", nothing)
        terminal.simulate(settings, environ={}, save=tmp_path / "saved.wav")
    assert made == [((settings,), {"environ": {}, "save": tmp_path / "saved.wav"})]
    assert capsys.readouterr().out == "Starting the appliance. \n[ready]\nGoodbye.\n"
