"""Button, light and pins, on mock pins driven by another thread: no root, no hardware."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

import pytest
from gpiozero.pins.mock import MockFactory, MockPWMPin

from appliance.conversation.events import ButtonEdge, Event
from appliance.conversation.support.feedback import State, View, light_state
from appliance.conversation.support.gestures import Gestures
from appliance.errors import BadPin, PinFactoryUnavailable, PinLibraryMissing
from appliance.hardware import pins
from appliance.hardware.button import Button
from appliance.hardware.lights import KINDS, Light, brightness
from appliance.hardware.patterns import PATTERNS, LightPattern
from appliance.hardware.pins import open_pin_factory
from appliance.simulator.finger import Finger
from appliance.simulator.lamp import SimulatedLamp
from tests.support.virtual_time import in_virtual_time


@pytest.fixture
def factory() -> Any:
    return MockFactory(pin_class=MockPWMPin)


class Posted:
    """Records events and the threads they were posted on."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.threads: set[str] = set()
        self._grew = asyncio.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self.threads.add(threading.current_thread().name)
        self._grew.set()

    async def until(self, *events: Event) -> None:
        async with asyncio.timeout(10):
            while self.events != list(events):
                self._grew.clear()
                await self._grew.wait()


def _button(factory: Any, posted: Posted, **options: Any) -> Button:
    return Button(17, factory=factory, post=posted, loop=asyncio.get_running_loop(), **options)


async def test_edges_on_the_finger_thread_are_posted_on_the_loop_thread(factory: Any) -> None:
    posted = Posted()
    button = _button(factory, posted)
    seen: list[str] = []
    take = button._device.when_activated

    def spy() -> None:
        seen.append(threading.current_thread().name)
        take()

    button._device.when_activated = spy
    finger = Finger(factory, 17)
    finger.press()
    finger.release()
    await posted.until(ButtonEdge(True), ButtonEdge(False))
    assert seen == ["finger"]
    assert posted.threads == {"MainThread"}
    finger.close()
    button.close()


async def test_button_does_not_debounce(factory: Any) -> None:
    posted = Posted()
    button = _button(factory, posted)
    finger = Finger(factory, 17)
    for _ in range(3):
        finger.hold(0.001)
    finger.press()
    await posted.until(*[ButtonEdge(True), ButtonEdge(False)] * 3, ButtonEdge(True))
    finger.close()
    button.close()


@pytest.mark.parametrize(
    ("pull", "active_low", "pressed_high"),
    [("up", True, False), ("up", False, True), ("down", False, True), ("down", True, False), ("none", True, False)],
)
async def test_active_level_follows_the_settings(factory: Any, pull: Any, active_low: bool, pressed_high: bool) -> None:
    posted = Posted()
    pin = factory.pin(17)
    if pull == "none":
        pin.drive_high()
    button = _button(factory, posted, pull=pull, active_low=active_low)
    (pin.drive_low if pressed_high else pin.drive_high)()
    assert not button.is_pressed
    (pin.drive_high if pressed_high else pin.drive_low)()
    assert button.is_pressed
    button.close()


async def test_level_is_posted_at_the_start_and_repeatedly_while_held(factory: Any) -> None:
    posted = Posted()
    button = _button(factory, posted, reread_s=0.01)
    running = asyncio.create_task(button.run())
    await posted.until(ButtonEdge(False))
    factory.pin(17).drive_low()
    async with asyncio.timeout(10):
        while posted.events.count(ButtonEdge(True)) < 4:
            await asyncio.sleep(0.005)
    factory.pin(17).drive_high()
    async with asyncio.timeout(10):
        while posted.events[-1] != ButtonEdge(False):
            await asyncio.sleep(0.005)
    count = len(posted.events)
    await asyncio.sleep(0.05)
    assert len(posted.events) <= count + 1, "a released button is not polled"
    running.cancel()
    button.close()


async def test_dropped_release_edge_is_healed_by_reading_the_level_again(factory: Any) -> None:
    posted = Posted()
    button = _button(factory, posted, reread_s=0.01)
    button._device.when_deactivated = None  # the edge is dropped
    factory.pin(17).drive_low()
    running = asyncio.create_task(button.run())
    async with asyncio.timeout(10):
        while len(posted.events) < 4:
            await asyncio.sleep(0.005)
        factory.pin(17).drive_high()
        while posted.events[-1] != ButtonEdge(False):
            await asyncio.sleep(0.005)
    running.cancel()
    button.close()
    gestures = Gestures()
    made = [one for event in posted.events for one in gestures.feed(event.pressed, 1.0)] + gestures.advance(1.1)
    assert [one.kind for one in made] == ["press", "release", "tap"]


async def test_closed_button_posts_nothing_and_can_be_closed_again(factory: Any) -> None:
    posted = Posted()
    button = _button(factory, posted)
    button.close()
    button.close()
    factory.pin(17).drive_low()
    await asyncio.sleep(0)
    assert posted.events == []
    assert not button.is_pressed


def test_edge_after_the_loop_has_closed_is_ignored(factory: Any) -> None:
    loop = asyncio.new_event_loop()
    posted: list[Event] = []
    button = Button(17, factory=factory, post=posted.append, loop=loop)
    loop.close()
    factory.pin(17).drive_low()
    button.close()
    assert posted == []


async def test_error_names_the_pin_that_is_in_use(factory: Any) -> None:
    posted = Posted()
    button = _button(factory, posted)
    with pytest.raises(BadPin, match="GPIO 17 is used twice"):
        _button(factory, posted)
    button.close()


# --- the light ---------------------------------------------------------------------------------------------------


def _pattern(effect: Any, **more: Any) -> LightPattern:
    return LightPattern("test", (1.0, 0.5, 0.0), effect, **({"period_s": 1.0} | more))


def test_brightness_follows_effect_period_duty_and_level() -> None:
    assert brightness(_pattern("off"), 0.3) == 0.0
    assert brightness(_pattern("solid", level=0.4), 9.9) == 0.4
    assert [brightness(_pattern("blink", duty=0.25), at) for at in (0.0, 0.24, 0.26, 0.99, 1.1)] == [1, 1, 0, 0, 1]
    pulse = [brightness(_pattern("pulse", level=0.8), at / 100) for at in range(101)]
    assert max(pulse) == pulse[50] == pytest.approx(0.8)
    assert min(pulse) == pulse[0] > 0.0, "a pulse never goes out"


def test_no_two_patterns_look_alike_on_a_single_colour_light() -> None:
    looks = {
        (one.effect, one.level) if one.effect == "solid" else (one.effect, one.period_s, one.duty, one.level)
        for one in PATTERNS.values()
    }
    assert len(looks) == len(PATTERNS)


def test_every_light_state_has_a_pattern() -> None:
    flags: list[dict[str, Any]] = [{"cards_lost": ("capture",)}, {"timers_running": 1}]
    flags += [{name: True} for name in ("is_link_lost", "is_button_stuck", "is_ringing", "has_error", "is_muted")]
    views = [View(state=one) for one in State] + [View(state=State.READY, **one) for one in flags]
    assert {light_state(one) for one in views} == set(PATTERNS)


@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_every_pattern_is_visible(name: str) -> None:
    levels = [brightness(PATTERNS[name], at / 50) for at in range(500)]
    assert 0.0 < max(levels) <= 1.0


async def test_single_led_shows_the_level_and_rgb_led_the_colour(factory: Any) -> None:
    half = {"half": _pattern("solid", level=0.5)}
    led = Light("led", {"led": [25]}, factory=factory, patterns=half)
    rgb = Light("rgb", {"rgb": [5, 6, 12]}, factory=factory, patterns=half)
    for light in (led, rgb):
        light.show("half")
    assert SimulatedLamp(factory, [25]).color == (0.5,)
    assert SimulatedLamp(factory, [5, 6, 12]).color == (0.5, 0.25, 0.0)
    led.close()
    rgb.close()
    assert SimulatedLamp(factory, [25]).level == 0.0


async def test_active_low_light_is_inverted(factory: Any) -> None:
    light = Light("led", {"led": [25]}, factory=factory, active_high=False)
    light.show("listening")
    assert SimulatedLamp(factory, [25], active_high=False).level == 1.0
    assert factory.pin(25).state == 0.0
    light.close()


def test_blinking_alternates_and_showing_the_same_pattern_does_not_restart_it(factory: Any) -> None:
    """Shown again 10 times in each half of the period, the light changes as often as if it were shown once."""

    async def blinks(shown: int) -> int:
        light = Light("led", {"led": [25]}, factory=factory, patterns={"slow": _pattern("blink", period_s=2.0)})
        running = asyncio.create_task(light.run())
        light.show("slow")
        factory.pin(25).clear_states()
        for _ in range(shown):
            light.show("slow")
            await asyncio.sleep(10.5 / shown)
        changes = len(factory.pin(25).states) - 1
        running.cancel()
        light.close()
        return changes

    assert in_virtual_time(blinks(1)) == 10
    assert in_virtual_time(blinks(105)) == 10


async def test_steady_light_is_written_once(factory: Any) -> None:
    light = Light("led", {"led": [25]}, factory=factory)
    running = asyncio.create_task(light.run())
    light.show("ready")
    await asyncio.sleep(0.02)
    pin = factory.pin(25)
    pin.clear_states()
    await asyncio.sleep(0.1)
    assert len(pin.states) == 1, "the current state, and no change"
    running.cancel()
    light.close()


async def test_failing_light_is_logged_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        holds_level = True

        def write(self, color: tuple[float, float, float], level: float) -> None:
            raise OSError("no such line")

        def close(self) -> None:
            pass

    monkeypatch.setitem(KINDS, "broken", lambda pins, **_: Broken())
    light = Light("broken", {"broken": [25]}, factory=None)
    light.show("listening")
    light.show("muted")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


async def test_new_kind_of_light_is_one_entry_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[object] = []

    class Strip:
        holds_level = True

        def write(self, color: tuple[float, float, float], level: float) -> None:
            written.append((color, level))

        def close(self) -> None:
            written.append("closed")

    def strip(pins: list[int], *, factory: Any, active_high: bool, count: int) -> Strip:
        written.append((pins, active_high, count))
        return Strip()

    monkeypatch.setitem(KINDS, "strip", strip)
    light = Light("strip", {"strip": [10, 11]}, factory=None, count=3)
    light.show("listening")
    light.close()
    light.close()
    assert written == [([10, 11], True, 3), (PATTERNS["listening"].color, 1.0), "closed"]


async def test_light_is_off_in_a_state_without_a_pattern(factory: Any) -> None:
    light = Light("led", {"led": [25]}, factory=factory)
    light.show("listening")
    light.show("something new")
    assert factory.pin(25).state == 0.0
    light.close()


async def test_light_of_kind_none_accepts_every_call(factory: Any) -> None:
    light = Light("none", {}, factory=factory)
    light.show("thinking")
    light.close()
    assert factory.pins == {}


# --- pin factories ------------------------------------------------------------------------------------------------


def test_pin_factory_is_found_by_name_and_unknown_names_are_refused() -> None:
    assert isinstance(open_pin_factory("mock"), MockFactory)
    with pytest.raises(PinFactoryUnavailable, match="gpiod, lgpio, rpigpio, mock"):
        open_pin_factory("native")


@pytest.mark.parametrize("function", [open_pin_factory, pins.check_pin_library])
def test_missing_or_empty_lgpio_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, function: Callable[[str], Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "lgpio", None)
    with pytest.raises(PinLibraryMissing, match="apt-get install python3-lgpio"):
        function("lgpio")
    monkeypatch.setitem(sys.modules, "lgpio", types.ModuleType("lgpio"))
    with pytest.raises(PinLibraryMissing, match="package is empty"):
        function("lgpio")


def test_check_of_the_library_opens_no_pin(monkeypatch: pytest.MonkeyPatch) -> None:
    library = types.ModuleType("lgpio")
    library.gpiochip_open = lambda number: pytest.fail("opened a chip")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lgpio", library)
    pins.check_pin_library("lgpio")
    pins.check_pin_library("mock")


def test_lgpio_needs_a_writable_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins.os, "access", lambda *_: False)
    with pytest.raises(PinFactoryUnavailable, match="WorkingDirectory"):
        open_pin_factory("lgpio")


@pytest.mark.parametrize(("release", "is_refused"), [("6.6.31+rpt", True), ("6.12.1", True), ("6.1.21-v8+", False)])
def test_rpigpio_is_refused_where_it_misses_presses(
    monkeypatch: pytest.MonkeyPatch, release: str, is_refused: bool
) -> None:
    gpio = types.ModuleType("RPi.GPIO")
    package = types.ModuleType("RPi")
    package.GPIO = gpio  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "RPi", package)
    monkeypatch.setitem(sys.modules, "RPi.GPIO", gpio)
    monkeypatch.setattr(pins.os, "uname", lambda: types.SimpleNamespace(release=release))
    made = types.ModuleType("gpiozero.pins.rpigpio")
    made.RPiGPIOFactory = lambda: "the factory"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gpiozero.pins.rpigpio", made)
    if is_refused:
        with pytest.raises(PinFactoryUnavailable, match="misses button presses"):
            open_pin_factory("rpigpio")
    else:
        assert open_pin_factory("rpigpio") == "the factory"


def test_rpi_lgpio_shim_is_accepted_as_rpigpio(monkeypatch: pytest.MonkeyPatch) -> None:
    gpio = types.ModuleType("RPi.GPIO")
    gpio.lgpio = object()  # type: ignore[attr-defined]
    package = types.ModuleType("RPi")
    package.GPIO = gpio  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "RPi", package)
    monkeypatch.setitem(sys.modules, "RPi.GPIO", gpio)
    monkeypatch.setattr(pins.os, "uname", lambda: types.SimpleNamespace(release="6.12.1"))
    made = types.ModuleType("gpiozero.pins.rpigpio")
    made.RPiGPIOFactory = lambda: "the factory"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gpiozero.pins.rpigpio", made)
    assert open_pin_factory("rpigpio") == "the factory"
