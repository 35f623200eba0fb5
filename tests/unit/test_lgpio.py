"""gpiozero's real lgpio pins over a fake chip: what a Raspberry Pi runs, except for the kernel."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.conversation.events import ButtonEdge
from appliance.errors import BadPin, PinFactoryUnavailable
from appliance.hardware.button import Button
from appliance.hardware.lights import Light
from appliance.hardware.outputs import open_outputs
from appliance.hardware.patterns import LightPattern
from appliance.hardware.pins import open_pin_factory
from tests.support.fake_lgpio import FakeChip, installed
from tests.support.posted import Posted


@pytest.fixture
def chip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeChip]:
    monkeypatch.chdir(tmp_path)
    with installed(FakeChip()) as one:
        yield one


@pytest.fixture
def factory(chip: FakeChip) -> Iterator[Any]:
    one = open_pin_factory("lgpio")
    yield one
    chip.is_gone = False
    chip.held.clear()
    one.close()


async def test_every_edge_of_a_bouncing_press_is_posted_from_the_thread_of_the_library(
    chip: FakeChip, factory: Any
) -> None:
    posted = Posted()
    button = Button(17, factory=factory, post=posted.events.append, loop=asyncio.get_running_loop())
    assert not button.is_pressed
    for level in (0, 1, 0, 1, 0):
        chip.drive(17, level)
    events = await posted.until(5)
    assert chip.edge_threads == {"lgpio-alerts"}
    assert events[-1] == ButtonEdge(True)
    assert button.is_pressed
    chip.drive(17, 1)
    assert (await posted.until(6))[-1] == ButtonEdge(False)
    assert not button.is_pressed
    button.close()
    chip.drive(17, 0)
    chip.close()
    await asyncio.sleep(0)
    assert len(posted.events) == 6, "a closed button posts nothing"


@pytest.mark.parametrize(("active_low", "at_rest"), [(True, 1), (False, 0)])
async def test_pull_resistor_is_set_and_the_level_at_rest_means_released(
    chip: FakeChip, factory: Any, active_low: bool, at_rest: int
) -> None:
    button = Button(
        17,
        factory=factory,
        pull="up" if active_low else "down",
        active_low=active_low,
        post=lambda event: None,
        loop=asyncio.get_running_loop(),
    )
    assert chip.line(17).level == at_rest
    assert not button.is_pressed
    chip.drive(17, 1 - at_rest)
    assert button.is_pressed
    button.close()


def test_light_is_dimmed_by_pwm_of_the_chip(chip: FakeChip, factory: Any) -> None:
    patterns = {"test": LightPattern("test", (1.0, 0.5, 0.0), "solid", level=0.8)}
    light = Light("rgb", {"rgb": [5, 6, 12]}, factory=factory, patterns=patterns)
    light.show("test")
    assert [chip.line(pin).duty for pin in (5, 6, 12)] == [80, 40, 0]
    assert chip.line(5).frequency >= 100, "no flicker"
    light.close()
    assert [bool(chip.line(pin).duty) for pin in (5, 6, 12)] == [False] * 3
    light.close()


def test_light_logs_once_when_the_chip_is_gone_and_can_be_closed(
    chip: FakeChip, factory: Any, caplog: pytest.LogCaptureFixture
) -> None:
    white = LightPattern("one", (1.0, 1.0, 1.0), "solid")
    patterns = {"one": white, "two": replace(white, level=0.5)}
    light = Light("rgb", {"rgb": [5, 6, 12]}, factory=factory, patterns=patterns)
    chip.is_gone = True
    light.show("one")
    light.show("two")
    assert [record.getMessage() for record in caplog.records] == [
        'cannot set the light: invalid state "1.0" for pin GPIO5'
    ]
    leds = light._emitters  # kept until the chip is back: gpiozero closes a device again when it is deleted
    light.close()
    assert [record.getMessage() for record in caplog.records[1:]] == ["cannot release a pin: bad handle"] * 3
    chip.is_gone = False
    del leds


async def test_button_can_be_closed_when_the_chip_is_gone(
    chip: FakeChip, factory: Any, caplog: pytest.LogCaptureFixture
) -> None:
    button = Button(17, factory=factory, post=lambda event: None, loop=asyncio.get_running_loop())
    chip.is_gone = True
    button.close()
    button.close()
    assert [record.getMessage() for record in caplog.records] == ["cannot release a pin: bad handle"]
    assert not button.is_pressed
    chip.is_gone = False


def test_lamp_and_dimmer_set_lines_of_the_chip(chip: FakeChip, factory: Any) -> None:
    with open_outputs(lamp_pin=5, dimmer_pin=6, active_high=True, factory=factory) as outputs:
        outputs.lamp.value = True
        outputs.dimmer.value = 0.3
        assert chip.line(5).level == 1
        assert chip.line(6).duty == 30


def test_outputs_can_be_closed_when_the_chip_is_gone(
    chip: FakeChip, factory: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with open_outputs(lamp_pin=5, dimmer_pin=6, active_high=True, factory=factory) as outputs:
        chip.is_gone = True
    assert [record.getMessage() for record in caplog.records] == ["cannot release a pin: bad handle"] * 2
    chip.is_gone = False
    del outputs


async def test_busy_line_names_its_program_and_only_the_button_cannot_do_without(
    chip: FakeChip, factory: Any, caplog: pytest.LogCaptureFixture
) -> None:
    chip.held = {5, 6, 17}
    light = Light("rgb", {"rgb": [12, 13, 5]}, factory=factory)
    light.show("listening")
    assert [chip.line(pin).duty for pin in (12, 13)] == [0, 0], "pins that were open are given back"
    with open_outputs(lamp_pin=6, dimmer_pin=16, active_high=True, factory=factory) as outputs:
        assert outputs.lamp is None
        assert outputs.dimmer is not None
    assert [record.getMessage() for record in caplog.records] == [
        "light: GPIO 5 is used by 'relayd'; stop that program or use another pin; going on without this light",
        "output: GPIO 6 is used by 'relayd'; stop that program or use another pin; going on without this output",
    ]
    with pytest.raises(BadPin, match="button: GPIO 17 is used by 'relayd'") as failure:
        Button(17, factory=factory, post=lambda event: None, loop=asyncio.get_running_loop())
    assert failure.value.exit_status == 2
    light.close()


def test_error_of_a_chip_that_cannot_be_opened_says_what_to_do(chip: FakeChip) -> None:
    chip.problem = "can not open gpiochip"
    with pytest.raises(PinFactoryUnavailable, match="can not open gpiochip") as failure:
        open_pin_factory("lgpio")
    assert "group 'gpio'" in str(failure.value)


def test_chip_of_the_pin_header_is_found_by_its_label(chip: FakeChip, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = {0: "gpio-brcmstb", 4: "pinctrl-rp1", 10: "gpio-brcmstb"}
    monkeypatch.setattr(
        "appliance.hardware.pins.Path.glob", lambda self, pattern: [self / f"gpiochip{number}" for number in labels]
    )
    monkeypatch.setattr(
        "lgpio.gpio_get_chip_info", lambda handle: (0, 54, f"gpiochip{handle}", labels[handle]), raising=True
    )
    factory = open_pin_factory("lgpio")
    assert factory.chip == 4
    assert chip.opened == [4], "chips without a matching label are closed again"
    factory.close()
    assert chip.opened == []
