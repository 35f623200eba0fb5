"""Tests of the device tools with real parts: mock pins, files in a folder, settable clocks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from gpiozero.pins.mock import MockFactory, MockPWMPin

from appliance.agents.tools import Tool
from appliance.conversation.commands import RunTool
from appliance.conversation.events import AlarmRang, Event, TimersChanged, ToolFinished
from appliance.errors import ToolError
from appliance.hardware.outputs import Outputs, open_outputs
from appliance.runtime.tool_runner import ToolRunner
from appliance.speech.phrases import PhraseBook
from appliance.toolbox import DeviceParts, device_tools
from appliance.toolbox.status import StatusReader
from appliance.toolbox.timers import MOST_TIMERS, Timers
from tests.support.sentences import IN_BOOK

BOOK = PhraseBook.load(Path(__file__).parents[2] / "config" / "phrases", "en")
NOON = datetime(2026, 11, 20, 14, 5)


@dataclass
class Clocks:
    """Settable monotonic and wall time."""

    monotonic: float = 100.0
    wall: float = 1_800_000_000.0

    def advance(self, seconds: float) -> None:
        self.monotonic += seconds
        self.wall += seconds


@dataclass
class Speaker:
    volume: int = 40


@dataclass
class Microphone:
    """Counts how often it was muted."""

    unmute_hold_s: float = 4.0
    muted: int = 0

    def mute(self) -> None:
        self.muted += 1


@dataclass
class Device:
    """The timers and the events they posted."""

    clocks: Clocks = field(default_factory=Clocks)
    posted: list[Event] = field(default_factory=list)
    path: Path | None = None

    def __post_init__(self) -> None:
        self.timers = self.new_timers()

    def new_timers(self) -> Timers:
        """Create timers on the same file, as after a restart."""
        return Timers(
            post=self.posted.append,
            path=self.path,
            clock=lambda: self.clocks.monotonic,
            wall=lambda: self.clocks.wall,
        )

    def taken(self) -> list[Event]:
        posted = self.posted.copy()
        self.posted.clear()
        return posted


@contextlib.contextmanager
def opened(lamp_pin: int | None = 5, dimmer_pin: int | None = 6, *, active_high: bool = True) -> Any:
    factory = MockFactory(pin_class=MockPWMPin)
    try:
        with open_outputs(
            lamp_pin=lamp_pin, dimmer_pin=dimmer_pin, active_high=active_high, factory=factory
        ) as outputs:
            yield outputs, factory
    finally:
        factory.close()


async def call(tools: Sequence[Tool], name: str, **arguments: Any) -> Any:
    """Call a tool as the appliance does: through the runner, with JSON in and out."""
    answers: asyncio.Queue[Event] = asyncio.Queue()
    runner = ToolRunner(tools, post=answers.put_nowait)
    runner.run_tool(RunTool("call_1", name, json.dumps(arguments)))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(runner.run())
        finished = await answers.get()
        task.cancel()
    assert isinstance(finished, ToolFinished)
    if finished.is_error:
        raise ToolError(finished.output)
    try:
        return json.loads(finished.output)
    except ValueError:
        return finished.output


# --- available tools --------------------------------------------------------------------------------------------


def names(parts: DeviceParts) -> list[str]:
    return [tool.name for tool in device_tools(parts)]


def test_a_missing_part_has_no_tools() -> None:
    assert names(DeviceParts()) == ["get_time"]
    assert names(DeviceParts(volume=Speaker())) == ["set_volume", "get_volume", "get_time"]
    assert names(DeviceParts(microphone=Microphone())) == ["mute_microphone", "get_time"]
    assert names(DeviceParts(timers=Device().timers)) == ["get_time", "start_timer", "list_timers", "cancel_timer"]
    assert names(DeviceParts(status=StatusReader())) == ["get_time", "device_status"]
    with opened(dimmer_pin=None) as (outputs, _):
        assert names(DeviceParts(lamp=outputs.lamp, light=outputs.dimmer)) == ["set_lamp", "get_time"]
    with opened(lamp_pin=None) as (outputs, _):
        assert names(DeviceParts(lamp=outputs.lamp, light=outputs.dimmer)) == ["set_light", "get_time"]


def whole_device(outputs: Outputs) -> list[Tool]:
    return device_tools(
        DeviceParts(
            lamp=outputs.lamp,
            light=outputs.dimmer,
            volume=Speaker(),
            microphone=Microphone(),
            timers=Device().timers,
            status=StatusReader(),
            now=lambda: NOON,
        )
    )


def test_the_parameters_match_the_phrase_book() -> None:
    with opened() as (outputs, _):
        shapes = {tool.name: list(tool.parameters["properties"]) for tool in whole_device(outputs)}
    assert shapes == {
        "set_lamp": ["on"],
        "set_light": ["on", "brightness", "color"],
        "set_volume": ["percent"],
        "get_volume": [],
        "mute_microphone": [],
        "get_time": [],
        "start_timer": ["seconds", "label"],
        "list_timers": [],
        "cancel_timer": ["label"],
        "device_status": [],
    }


def test_every_tool_that_the_phrase_book_calls_exists_and_takes_its_fixed_arguments() -> None:
    calls = [one for phrase in BOOK.phrases for one in (phrase.call, phrase.then) if one is not None]
    with opened() as (outputs, _):
        tools = {tool.name: tool for tool in whole_device(outputs)}
    assert {one.tool for one in calls} == set(tools)
    for one in calls:
        assert {*one.fixed, *one.sums} <= set(tools[one.tool].parameters["properties"])


def test_every_tool_and_parameter_has_a_description() -> None:
    with opened() as (outputs, _):
        for tool in whole_device(outputs):
            assert tool.description.endswith("."), tool.name
            for name, schema in tool.parameters["properties"].items():
                assert schema["description"].endswith("."), f"{tool.name}.{name}"
            assert not tool.needs_approval


@pytest.mark.parametrize(("sentence", "name", "arguments"), IN_BOOK, ids=[one[0] for one in IN_BOOK])
def test_arguments_from_the_phrase_book_are_valid_for_their_tool(
    sentence: str, name: str, arguments: dict[str, Any]
) -> None:
    with opened() as (outputs, _):
        tools = {tool.name: tool for tool in whole_device(outputs)}
        assert tools[name].validate(json.dumps(arguments)).items() >= arguments.items()


@pytest.mark.parametrize(
    ("sentence", "spoken"),
    [
        ("turn on the lamp", "The lamp is on."),
        ("turn off the lamp", "The lamp is off."),
        ("turn on the light", "The light is on, at 100 percent."),
        ("turn off the light", "The light is off."),
        ("dim the light to twenty percent", "The light is on, at 20 percent."),
        ("make the light blue", "The light is on, at 100 percent, but this light has only one color."),
        ("set the volume to fifty percent", "The volume is 50 percent."),
        ("mute", "The sound is off."),
        ("what is the volume", "The volume is 40 percent."),
        ("what time is it", "It is 14:05 on Friday, November 20, 2026."),
        ("set a pasta timer for ten minutes", "The pasta timer is set for 10 minutes."),
        ("how long is left", "No timer is running."),
        ("cancel the tea timer", "There is no tea timer."),
    ],
)
async def test_a_sentence_is_carried_out_and_answered_by_the_offline_brain(sentence: str, spoken: str) -> None:
    with opened() as (outputs, _):
        tools = whole_device(outputs)
        match = BOOK.live([tool.definition() for tool in tools]).match(sentence)
        assert match is not None
        assert match.phrase.call is not None
        name = match.phrase.call.tool
        output = await call(tools, name, **match.arguments)
        text = output if isinstance(output, str) else json.dumps(output)
        assert BOOK.reply(name, match.arguments, text) == spoken


# --- lamp and light ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("active_high", [True, False])
async def test_set_lamp_drives_its_pin(active_high: bool) -> None:
    with opened(active_high=active_high) as (outputs, factory):
        tools = device_tools(DeviceParts(lamp=outputs.lamp))
        pin = factory.pin(5)
        assert bool(pin.state) is not active_high
        assert await call(tools, "set_lamp", on=True) == {"on": True}
        assert outputs.lamp.value
        assert bool(pin.state) is active_high
        assert await call(tools, "set_lamp", on=False) == {"on": False}
        assert not outputs.lamp.value
        assert bool(pin.state) is not active_high


async def test_the_light_is_dimmed_and_keeps_its_brightness_when_switched_on_again() -> None:
    with opened() as (outputs, factory):
        tools = device_tools(DeviceParts(light=outputs.dimmer))
        pin = factory.pin(6)
        assert await call(tools, "set_light", on=True) == {"on": True, "brightness": 100}
        assert await call(tools, "set_light", on=True, brightness=30) == {"on": True, "brightness": 30}
        assert pin.state == pytest.approx(0.3)
        assert await call(tools, "set_light", on=False) == {"on": False}
        assert pin.state == 0
        assert await call(tools, "set_light", on=True) == {"on": True, "brightness": 30}
        assert pin.state == pytest.approx(0.3)
        assert await call(tools, "set_light", on=True, brightness=0) == {"on": False}
        assert pin.state == 0


async def test_a_single_colour_light_reports_that_it_has_one_colour() -> None:
    with opened() as (outputs, _):
        tools = device_tools(DeviceParts(light=outputs.dimmer))
        told = await call(tools, "set_light", on=True, brightness=50, color="green")
        assert told == {"on": True, "brightness": 50, "note": "this light has only one color"}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("set_lamp", {}),
        ("set_lamp", {"on": True, "brightness": 1}),
        ("set_light", {"on": True, "brightness": 101}),
        ("set_light", {"on": True, "color": "beige"}),
        ("set_volume", {"percent": -1}),
        ("start_timer", {"seconds": 0}),
        ("start_timer", {"seconds": 86_401}),
        ("start_timer", {"seconds": 60, "label": "x" * 41}),
        ("get_time", {"zone": "UTC"}),
    ],
)
async def test_invalid_arguments_change_nothing(name: str, arguments: dict[str, Any]) -> None:
    with opened() as (outputs, factory):
        with pytest.raises(ToolError, match=name):
            await call(whole_device(outputs), name, **arguments)
        assert not factory.pin(5).state
        assert not factory.pin(6).state


def test_a_bad_dimmer_pin_is_left_out_and_the_lamp_works(caplog: pytest.LogCaptureFixture) -> None:
    factory = MockFactory(pin_class=MockPWMPin)
    for dimmer_pin in (5, 99):
        with open_outputs(lamp_pin=5, dimmer_pin=dimmer_pin, active_high=True, factory=factory) as outputs:
            outputs.lamp.on()
            assert (factory.pin(5).state, outputs.dimmer) == (1, None)
    assert [f"GPIO {pin}" in record.getMessage() for pin, record in zip((5, 99), caplog.records, strict=True)] == [
        True
    ] * 2


# --- volume and time --------------------------------------------------------------------------------------------


async def test_the_volume_is_set_and_reported() -> None:
    speaker = Speaker()
    tools = device_tools(DeviceParts(volume=speaker))
    assert await call(tools, "get_volume") == {"percent": 40}
    assert await call(tools, "set_volume", percent=75) == {"percent": 75}
    assert speaker.volume == 75


async def test_muting_the_microphone_leaves_the_volume_and_says_how_to_undo_it() -> None:
    speaker, microphone = Speaker(), Microphone()
    tools = device_tools(DeviceParts(volume=speaker, microphone=microphone))
    told = await call(tools, "mute_microphone")
    assert told == "The microphone is off. Hold the button for 4 seconds to switch it on again."
    assert (speaker.volume, microphone.muted) == (40, 1)


async def test_the_time_is_reported_with_the_date() -> None:
    tools = device_tools(DeviceParts(now=lambda: NOON))
    assert await call(tools, "get_time") == "It is 14:05 on Friday, November 20, 2026."


# --- timers -----------------------------------------------------------------------------------------------------


async def test_timers_are_started_listed_and_cancelled() -> None:
    device = Device()
    tools = device_tools(DeviceParts(timers=device.timers))
    assert await call(tools, "list_timers") == "No timer is running."
    assert await call(tools, "cancel_timer") == "No timer is running."
    assert await call(tools, "start_timer", seconds=5400, label="pasta") == (
        "The pasta timer is set for 1 hour and 30 minutes."
    )
    assert await call(tools, "start_timer", seconds=61) == "The timer is set for 1 minute and 1 second."
    device.clocks.advance(1)
    assert await call(tools, "list_timers") == (
        "The timer has 1 minute left. The pasta timer has 1 hour and 29 minutes and 59 seconds left."
    )
    assert await call(tools, "cancel_timer", label="tea") == "There is no tea timer."
    assert await call(tools, "cancel_timer", label="Pasta") == "The pasta timer is cancelled."
    assert device.taken() == [TimersChanged(1), TimersChanged(2), TimersChanged(1)]
    await call(tools, "start_timer", seconds=1)
    assert await call(tools, "cancel_timer") == "2 timers are cancelled."
    assert device.taken()[-1] == TimersChanged(0)


async def test_one_timer_above_the_limit_is_refused() -> None:
    device = Device()
    tools = device_tools(DeviceParts(timers=device.timers))
    for _ in range(MOST_TIMERS):
        await call(tools, "start_timer", seconds=60)
    with pytest.raises(ToolError, match=r"already 20 timers, which is the limit\. Cancel one first"):
        await call(tools, "start_timer", seconds=60)
    assert len(device.timers.running()) == MOST_TIMERS


def test_a_timer_rings_exactly_when_it_is_due() -> None:
    device = Device()
    tea = device.timers.start(180, "tea")
    egg = device.timers.start(300, "egg")
    device.taken()
    device.clocks.advance(179.9)
    device.timers.ring_due()
    assert device.taken() == []
    device.clocks.advance(0.1)
    device.timers.ring_due()
    assert device.taken() == [AlarmRang(tea.id, "tea"), TimersChanged(1)]
    device.timers.silence(tea.id)
    device.timers.ring_due()
    assert device.taken() == []
    device.clocks.advance(1000)
    device.timers.ring_due()
    assert device.taken() == [AlarmRang(egg.id, "egg"), TimersChanged(0)]


@pytest.mark.parametrize("jump", [86_400.0 * 365, -86_400.0])
def test_setting_the_wall_clock_neither_rings_nor_delays_a_timer(jump: float) -> None:
    device = Device()
    timer = device.timers.start(300, "tea")
    device.taken()
    device.clocks.wall += jump
    device.timers.ring_due()
    assert device.taken() == []
    assert device.timers.running() == [(timer, 300)]
    device.clocks.advance(300)
    device.timers.ring_due()
    assert device.taken() == [AlarmRang(timer.id, "tea"), TimersChanged(0)]


@contextlib.asynccontextmanager
async def running(timers: Timers) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(timers.run())
        for _ in range(5):
            await asyncio.sleep(0)
        yield
        task.cancel()


async def test_the_loop_rings_due_timers_and_wakes_for_a_new_one() -> None:
    device = Device()
    rang: asyncio.Queue[Event] = asyncio.Queue()
    timers = Timers(post=rang.put_nowait, clock=lambda: device.clocks.monotonic, wall=lambda: device.clocks.wall)
    async with running(timers), asyncio.timeout(20):
        long = timers.start(86_400, "long")
        assert await rang.get() == TimersChanged(1)
        short = timers.start(10, "short")
        assert await rang.get() == TimersChanged(2)
        device.clocks.advance(10)
        timers.cancel("nothing of that name")
        timers.start(20)  # wakes the loop
        assert await rang.get() == TimersChanged(3)
        assert await rang.get() == AlarmRang(short.id, "short")
        assert await rang.get() == TimersChanged(2)
        assert [timer.id for timer, _ in timers.running()] == ["timer_3", long.id]


def kept(path: Path) -> list[Any]:
    content: list[Any] = json.loads(path.read_text())
    return content


async def test_timers_survive_a_restart_and_ring_if_they_are_overdue(tmp_path: Path) -> None:
    device = Device(path=tmp_path / "state" / "timers.json")
    pasta = device.timers.start(60, "pasta")
    device.timers.start(3600, "Brot für später")
    device.taken()
    device.clocks.monotonic = 3.0  # a new boot
    device.clocks.wall += 600
    timers = device.new_timers()
    async with running(timers):
        assert device.taken() == [TimersChanged(2), AlarmRang(pasta.id, "pasta"), TimersChanged(1)]
        assert [(timer.label, left) for timer, left in timers.running()] == [("Brot für später", 3000)]
        assert timers.start(5).id == "timer_3"
    assert len(kept(tmp_path / "state" / "timers.json")) == 2


def test_a_start_before_run_keeps_the_saved_timers(tmp_path: Path) -> None:
    device = Device(path=tmp_path / "timers.json")
    device.timers.start(60, "old")
    timers = device.new_timers()
    timers.start(30, "new")
    assert [timer.label for timer, _ in timers.running()] == ["new", "old"]
    assert {one["label"] for one in kept(tmp_path / "timers.json")} == {"new", "old"}


def test_a_wall_clock_set_back_does_not_lengthen_a_saved_timer(tmp_path: Path) -> None:
    device = Device(path=tmp_path / "timers.json")
    device.timers.start(60)
    device.clocks.wall -= 86_400
    assert [left for _, left in device.new_timers().running()] == [60]


async def test_saved_end_times_follow_a_change_of_the_wall_clock(tmp_path: Path) -> None:
    device = Device(path=tmp_path / "timers.json")
    device.timers.start(60)
    device.clocks.wall += 1_000_000
    async with running(device.timers):
        assert kept(tmp_path / "timers.json")[0]["ends_at"] == pytest.approx(device.clocks.wall + 60)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        '[{"id":1}]',
        '[{"id":"timer_x","label":"","seconds":1,"ends_at":1}]',
        '[{"id":"timer_1","label":"","seconds":1,"ends_at":"soon"}]',
        "\x00\xff",
    ],
)
def test_an_unreadable_file_is_logged_and_does_not_stop_the_timers(
    content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "timers.json"
    path.write_text(content, encoding="latin-1")
    device = Device(path=path)
    with caplog.at_level(logging.WARNING):
        assert device.timers.running() == []
    assert "cannot be read" in caplog.text
    device.timers.start(60, "tea")
    assert [one["label"] for one in kept(path)] == ["tea"]


async def test_an_unsaved_timer_is_reported_logged_and_still_rings(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    in_the_way = tmp_path / "state"
    in_the_way.write_text("a file where the folder should be")
    device = Device(path=in_the_way / "timers.json")
    tools = device_tools(DeviceParts(timers=device.timers))
    with caplog.at_level(logging.WARNING):
        told = await call(tools, "start_timer", seconds=60, label="tea")
    assert told == "The tea timer is set for 1 minute. It will not survive a power cut, because it could not be saved."
    assert "will not survive a restart" in caplog.text
    device.clocks.advance(60)
    device.timers.ring_due()
    assert AlarmRang("timer_1", "tea") in device.taken()
    await call(tools, "start_timer", seconds=60, label="egg")
    assert await call(tools, "cancel_timer") == (
        "The egg timer is cancelled. A power cut will undo this, because it could not be saved."
    )
    in_the_way.unlink()
    assert await call(tools, "start_timer", seconds=60) == "The timer is set for 1 minute."
    assert device.timers.save_problem == ""


# --- status -----------------------------------------------------------------------------------------------------


def machine(root: Path, files: dict[str, str]) -> StatusReader:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return StatusReader(root)


RASPBERRY = {
    "sys/class/thermal/thermal_zone0/temp": "48312\n",
    "proc/uptime": "7325.17 28000.00\n",
    "proc/loadavg": "0.42 0.30 0.20 1/234 5678\n",
    "proc/meminfo": "MemTotal:  948304 kB\nMemFree:  100000 kB\nMemAvailable:  523264 kB\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
}


async def test_the_status_of_a_raspberry_pi_is_reported(tmp_path: Path) -> None:
    reader = machine(tmp_path, RASPBERRY)
    status = reader.read()
    assert (status.temperature_c, status.uptime_s, status.load_1m) == (48.3, 7325, 0.42)
    assert (status.memory_available_mb, status.is_undervolted) == (511, True)
    assert status.disk_free_percent is not None
    assert 0 <= status.disk_free_percent <= 100
    told = await call(device_tools(DeviceParts(status=reader)), "device_status")
    for part in (
        "48.3 degrees",
        "2 hours and 2 minutes",
        "511 megabytes",
        "the load is 0.4",
        "power supply is too weak",
    ):
        assert part in told
    assert "Unknown" not in told


async def test_missing_status_values_are_reported_as_unknown(tmp_path: Path) -> None:
    status = StatusReader(tmp_path).read()
    assert (status.temperature_c, status.uptime_s, status.load_1m, status.memory_available_mb) == (None,) * 4
    assert status.is_undervolted is None
    told = await call(device_tools(DeviceParts(status=StatusReader(tmp_path))), "device_status")
    assert told.endswith("I could not read: temperature, running time, memory, load.")
    assert "degrees" not in told


def test_invalid_content_of_kernel_files_is_unknown(tmp_path: Path) -> None:
    status = machine(tmp_path, dict.fromkeys(RASPBERRY, "MemAvailable: plenty\n")).read()
    assert (status.temperature_c, status.uptime_s, status.load_1m) == (None,) * 3
    assert (status.memory_available_mb, status.is_undervolted) == (None, None)


def test_an_unreadable_thermal_zone_is_skipped(tmp_path: Path) -> None:
    files = {"sys/class/thermal/thermal_zone0/temp": "", "sys/class/thermal/thermal_zone1/temp": "51000"}
    assert machine(tmp_path, files).read().temperature_c == 51.0


def test_the_uptime_of_this_machine_is_positive() -> None:
    status = StatusReader().read()
    assert status.uptime_s is not None
    assert status.uptime_s > 0
