"""The pins of libgpiod over a fake chip: what a Raspberry Pi runs, except for the kernel."""

from __future__ import annotations

import asyncio
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gpiozero import LED, PWMLED
from gpiozero.exc import PinSetInput

from appliance.conversation.events import ButtonEdge, DeadlinePassed
from appliance.errors import BadPin, PinFactoryUnavailable, PinLibraryMissing
from appliance.hardware import pins
from appliance.hardware.button import Button
from appliance.hardware.pins import open_pin_factory
from tests.support.fake_gpiod import Bias, Direction, Edge, FakeBoard, installed
from tests.support.posted import Posted


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBoard]:
    with installed(FakeBoard(), monkeypatch) as one:
        yield one


@pytest.fixture
def factory(board: FakeBoard) -> Iterator[Any]:
    one = open_pin_factory("gpiod")
    yield one
    one.close()


def _button(factory: Any, posted: Posted, **options: Any) -> Button:
    return Button(17, factory=factory, post=posted.events.append, loop=asyncio.get_running_loop(), **options)


async def test_edges_are_read_on_the_loop_with_the_kernel_s_times_and_without_a_thread(
    board: FakeBoard, factory: Any
) -> None:
    threads = threading.active_count()
    posted = Posted()
    button = _button(factory, posted)
    for level, board.at_s in ((0, 100.25), (1, 100.5)):
        board.drive(17, level)
    assert await posted.until(2) == [ButtonEdge(True, at=100.25), ButtonEdge(False, at=100.5)]
    assert board.read_on == {"MainThread"}
    assert threading.active_count() == threads
    button.close()
    assert board.line(17).settings is None, "the line is released"


async def test_an_edge_is_posted_before_a_deadline_that_passed_while_the_loop_was_blocked(
    board: FakeBoard, factory: Any
) -> None:
    posted = Posted()
    button = _button(factory, posted)
    board.drive(17, 0)
    await posted.until(1)
    board.drive(17, 1)  # a spike ends, and the loop learns of it when its press would count
    asyncio.get_running_loop().call_later(0, posted.events.append, DeadlinePassed())
    await posted.until(3)
    assert isinstance(posted.events[2], DeadlinePassed)
    assert posted.levels == [True, False]
    button.close()


async def test_a_press_before_the_button_runs_is_posted_with_its_time_before_the_level(
    board: FakeBoard, factory: Any
) -> None:
    posted = Posted()
    button = _button(factory, posted)
    board.at_s = 100.25
    board.drive(17, 0)
    running = asyncio.create_task(button.run())
    assert (await posted.until(2))[:2] == [ButtonEdge(True, at=100.25), ButtonEdge(True)]
    running.cancel()
    button.close()


async def test_none_of_500_edges_is_lost_while_the_loop_is_blocked(board: FakeBoard, factory: Any) -> None:
    posted = Posted()
    button = _button(factory, posted)
    board.drive(17, *([0, 1] * 250))
    await posted.until(500)
    assert posted.levels == [True, False] * 250
    button.close()


async def test_level_is_read_again_when_the_kernel_dropped_edges(board: FakeBoard, factory: Any) -> None:
    posted = Posted()
    button = _button(factory, posted)
    board.drive(17, *([0, 1] * 600), 0)
    board.lose_newest_edge(17)
    await posted.until(1023)
    assert posted.levels[-1] is True
    assert button.is_pressed
    button.close()


async def test_pull_resistor_edges_and_consumer_of_the_request(board: FakeBoard, factory: Any) -> None:
    button = _button(factory, Posted())
    settings = board.line(17).settings
    assert settings is not None
    assert (settings.bias, settings.direction) == (Bias.PULL_UP, Direction.INPUT)
    assert settings.edge_detection is Edge.BOTH
    assert not settings.debounce_period, "the kernel's debounce delays a press"
    assert factory.consumer(17) == "voice-appliance"
    button.close()


def test_chip_of_the_pin_header_is_found_by_its_label(board: FakeBoard) -> None:
    factory = open_pin_factory("gpiod")
    assert board.opened == ["/dev/gpiochip1"], "chips without a matching label are closed again"
    factory.close()
    assert board.opened == []


def test_missing_header_names_the_chips_that_were_found(board: FakeBoard) -> None:
    board.labels = ("gpio-brcmstb",)
    with pytest.raises(PinFactoryUnavailable, match="chips: gpio-brcmstb"):
        open_pin_factory("gpiod")
    assert board.opened == []
    board.problem = PermissionError(13, "Permission denied")
    with pytest.raises(PinFactoryUnavailable, match=r"gpiochip0: Permission denied.*group 'gpio'"):
        open_pin_factory("gpiod")


def test_first_version_of_the_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gpiod", types.ModuleType("gpiod"))
    with pytest.raises(PinLibraryMissing, match="version 1"):
        pins.check_pin_library("gpiod")
    monkeypatch.setitem(sys.modules, "gpiod", None)
    with pytest.raises(PinLibraryMissing, match="gpiod is not installed"):
        pins.check_pin_library("gpiod")


async def test_busy_line_names_its_consumer(board: FakeBoard, factory: Any) -> None:
    board.line(17).held_by = "relayd"
    with pytest.raises(BadPin, match=r"button: GPIO 17 is used by 'relayd'; stop that program"):
        _button(factory, Posted())


def test_output_is_a_level_of_the_line_and_is_released(board: FakeBoard, factory: Any) -> None:
    lamp = LED(5, active_high=False, pin_factory=factory)
    assert board.line(5).level == 1
    lamp.on()
    assert (board.line(5).level, lamp.value) == (0, 1)
    lamp.close()
    assert board.line(5).settings is None
    with pytest.raises(PinSetInput):
        factory.pin(5).state = 1


def test_full_and_dark_are_plain_levels_and_what_lies_between_needs_a_thread_meanwhile(
    board: FakeBoard, factory: Any
) -> None:
    led = PWMLED(25, pin_factory=factory)
    threads = threading.active_count()
    led.value = 1.0
    led.value = 0.0
    assert board.line(25).written[-2:] == [1, 0]
    assert threading.active_count() == threads
    led.value = 0.4
    while len(board.line(25).written) < 12:
        pass
    assert factory.software_pwm.is_running
    led.value = 1.0
    count = len(board.line(25).written)
    while factory.software_pwm.is_running:
        pass
    assert (board.line(25).level, len(board.line(25).written)) == (1, count), "nothing is written at rest"
    led.close()


@pytest.fixture
def pwm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    chip = tmp_path / "pwmchip2"
    (chip / "pwm0").mkdir(parents=True)
    (tmp_path / "1f00098000.pwm").mkdir()
    (chip / "device").symlink_to(tmp_path / "1f00098000.pwm")
    other = tmp_path / "pwmchip0"
    other.mkdir()
    (other / "device").symlink_to(tmp_path)
    monkeypatch.setattr("appliance.hardware.pwm._PWM", tmp_path)
    return chip / "pwm0"


def test_pwm_hardware_holds_a_brightness_without_a_thread_or_a_line(board: FakeBoard, factory: Any, pwm: Path) -> None:
    threads = threading.active_count()
    led = PWMLED(12, pin_factory=factory)
    led.value = 0.1
    assert factory.holds_pwm(12)
    assert not factory.holds_pwm(25)
    assert [(pwm / name).read_text() for name in ("period", "duty_cycle", "enable")] == ["1000000", "100000", "1"]
    assert board.line(12).request is None, "a request would take the pin away from the PWM"
    assert threading.active_count() == threads
    led.close()
    assert (pwm / "duty_cycle").read_text() == "0"


def test_pwm_hardware_that_may_not_be_written_is_not_used(factory: Any, pwm: Path) -> None:
    (pwm / "period").mkdir()
    assert not factory.holds_pwm(12)
