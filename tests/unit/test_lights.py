"""Kinds of light beyond plain LEDs, several at once, quiet hours, and lights that cannot be dimmed at rest."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from datetime import time
from typing import Any

import pytest
from gpiozero.pins.mock import MockFactory, MockPWMPin

from appliance.errors import SettingsError
from appliance.hardware.lights import KINDS, Light, Quiet, openers, without_dimming
from appliance.hardware.lights.spi import apa102_frame, ws2812_frame
from appliance.hardware.patterns import PATTERNS
from appliance.hardware.pins import open_pin_factory
from appliance.settings import load_settings
from tests.support.fake_gpiod import FakeBoard, installed
from tests.support.fake_spidev import FakeSpi


@pytest.fixture
def spi(monkeypatch: pytest.MonkeyPatch) -> FakeSpi:
    one = FakeSpi()
    monkeypatch.setitem(sys.modules, "spidev", one.module())
    return one


@pytest.fixture
def factory() -> Iterator[Any]:
    one = MockFactory(pin_class=MockPWMPin)
    yield one
    one.close()


def test_apa102_frame_is_that_of_the_data_sheet() -> None:
    led = "ff" + "030201"  # full global brightness; blue, green, red
    assert apa102_frame((1, 2, 3), 3).hex() == "00000000" + led * 3 + "00000000" + "00"
    assert len(apa102_frame((1, 2, 3), 33)) == 4 + 33 * 4 + 4 + 3, "half a clock for each LED"


def test_ws2812_frame_is_that_of_the_data_sheet() -> None:
    frame = ws2812_frame((0xFF, 0x00, 0x80), 2)
    reset = bytes(90)
    zero, one = "100", "110"
    bits = zero * 8 + one * 8 + one + zero * 7  # green, red, blue
    assert frame == reset + int(bits, 2).to_bytes(9, "big") * 2 + reset


def test_strips_are_written_and_darkened_at_the_end(spi: FakeSpi) -> None:
    light = Light("apa102", {}, factory=None, count=2)
    light.show("listening")
    assert (spi.opened, spi.hertz) == ([(0, 0)], 4_000_000)
    assert spi.written == [apa102_frame((0, 255, 0), 2)]
    light.close()
    assert spi.written[-1] == apa102_frame((0, 0, 0), 2)
    assert spi.opened == []


def test_several_lights_show_the_same_and_one_that_fails_is_left_out(
    spi: FakeSpi, factory: Any, caplog: pytest.LogCaptureFixture
) -> None:
    both = Light("led+ws2812", {"led": [25]}, factory=factory, count=1)
    both.show("listening")
    assert factory.pin(25).state == 1.0
    assert spi.written == [ws2812_frame((0, 255, 0), 1)]
    both.close()
    spi.problem = FileNotFoundError(2, "No such file or directory")
    one = Light("ws2812+led", {"led": [25]}, factory=factory)
    one.show("listening")
    assert factory.pin(25).state == 1.0
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("light: /dev/spidev0.0: No such file or directory; add dtparam=spi=on")
    one.close()


def test_missing_spidev_leaves_the_light_out(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "spidev", None)
    Light("apa102", {}, factory=None).show("ready")
    assert 'pip install "voice-appliance[spi]"' in caplog.records[0].getMessage()


def test_unknown_kind_is_an_error_that_lists_the_kinds() -> None:
    with pytest.raises(SettingsError, match=r"no light is called 'apa104'.*did you mean 'apa102'"):
        openers("led+apa104")


def test_strip_on_a_pin_of_another_part_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"light.kind: found 10, which button.pin already uses"):
        load_settings(None, {}, overrides={"light.kind": "apa102", "button.pin": 10})


@pytest.mark.parametrize(
    ("hours", "at", "share"),
    [
        ("22:00-07:00", "23:30", 0.1),
        ("22:00-07:00", "06:59", 0.1),
        ("22:00-07:00", "07:00", 1.0),
        ("13:00-15:00", "14:00", 0.1),
        ("13:00-15:00", "15:00", 1.0),
        ("always", "12:00", 0.1),
        ("", "12:00", 1.0),
    ],
)
def test_quiet_hours(hours: str, at: str, share: float) -> None:
    assert Quiet(hours, 0.1).share(time.fromisoformat(at)) == share
    assert load_settings(None, {}, overrides={"light.quiet_hours": hours}).light.quiet_hours == hours


@pytest.mark.parametrize("hours", ["25:00-07:00", "22-7", "night"])
def test_hours_that_are_none_are_refused(hours: str) -> None:
    with pytest.raises(SettingsError, match=r"light\.quiet_hours"):
        load_settings(None, {}, overrides={"light.quiet_hours": hours})


def test_silent_mode_dims_all_but_problems_and_alarms(factory: Any) -> None:
    light = Light("led", {"led": [25]}, factory=factory, quiet=Quiet("always", 0.0))
    seen = {}
    for state in PATTERNS:
        light.show(state)
        seen[state] = factory.pin(25).state > 0
    assert {state for state, is_lit in seen.items() if is_lit} == {
        *("failed", "no_card", "no_link", "button_stuck", "error", "ringing")
    }
    light.close()


def test_light_without_pwm_hardware_never_rests_between_dark_and_full() -> None:
    looks = {name: without_dimming(one) for name, one in PATTERNS.items()}
    assert [name for name, one in looks.items() if one.effect == "solid" and 0.0 < one.level < 1.0] == []
    assert len({(one.effect, one.period_s, one.duty, one.level) for one in looks.values()}) == len(PATTERNS)
    assert looks["listening"] is PATTERNS["listening"]


async def test_ready_led_on_a_plain_line_starts_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    with installed(FakeBoard(), monkeypatch) as board:
        factory = open_pin_factory("gpiod")
        light = Light("led", {"led": [25]}, factory=factory)
        running = asyncio.create_task(light.run())
        light.show("ready")
        await asyncio.sleep(0)
        assert board.line(25).level == 1
        async with asyncio.timeout(20):
            while board.line(25).level:
                await asyncio.sleep(0.005)
        assert not factory.software_pwm.is_running
        running.cancel()
        light.close()
        factory.close()


def test_package_adds_a_kind_by_an_entry_point(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "neon-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: neon\nVersion: 1.0\n", encoding="utf-8")
    (folder / "entry_points.txt").write_text(f"[voice_appliance.lights]\nneon = {__name__}:neon\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "neon" not in KINDS
    assert openers("neon") == {"neon": neon}


def neon(pins: list[int], **_: Any) -> None:
    """Stands for the opener of a package."""
