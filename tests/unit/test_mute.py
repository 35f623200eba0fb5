"""Mute and power-off on a whole simulated device: signal, switch, second button, tool, and over a restart."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gpiozero.pins.mock import MockFactory, MockPWMPin

from appliance.conversation.commands import CloseCapture, PowerOff
from appliance.conversation.events import DeadlinePassed, Event, MuteSwitched
from appliance.conversation.support.feedback import View
from appliance.errors import BadPin
from appliance.hardware.button import Button, MuteSwitch, open_buttons
from appliance.service.mute import MutedMicrophone, MuteFile
from appliance.service.power import PowerSwitch
from appliance.simulator.finger import Finger
from tests.support.rig import GOOD, Rig, running
from tests.support.scripted_server import ScriptedServer

LOOP_S = 20


@pytest.fixture
def factory() -> Any:
    return MockFactory(pin_class=MockPWMPin)


def see(mute: MuteFile, *, is_kept: bool) -> None:
    mute(0.0, DeadlinePassed(), (), View(is_muted=True, is_mute_kept=is_kept))


# --- over a restart ---------------------------------------------------------------------------------------------------


def test_mute_is_kept_and_forgotten_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "muted"
    see(MuteFile(path), is_kept=True)
    assert MuteFile(path).is_muted
    see(MuteFile(path), is_kept=False)
    assert not MuteFile(path).is_muted


def test_position_of_the_switch_is_not_kept(tmp_path: Path) -> None:
    see(MuteFile(tmp_path / "muted"), is_kept=False)
    assert list(tmp_path.iterdir()) == []


def test_mute_that_cannot_be_kept_is_a_line_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    see(MuteFile(tmp_path / "file" / "muted"), is_kept=True)
    assert [one.levelno for one in caplog.records] == [logging.WARNING]
    assert "will not survive a restart" in caplog.text


async def test_whole_device_is_muted_by_a_signal_and_still_after_a_restart(tmp_path: Path) -> None:
    async with ScriptedServer(GOOD, GOOD) as server:
        async with running(Rig(server.base_url, service__state_dir=str(tmp_path))) as rig:
            await rig.at_rest()
            os.kill(os.getpid(), signal.SIGUSR1)
            await rig.until(lambda: rig.light == "muted")
        again = Rig(server.base_url, service__state_dir=str(tmp_path))
        async with running(again):
            await again.until(lambda: again.light == "muted")
            await again.device.appliance.audio.opened()  # type: ignore[union-attr]
            assert not again.has_captured, "the capture stream must never open"
            os.kill(os.getpid(), signal.SIGUSR1)
            await again.at_rest()
            assert await again.turn() == "answered"
        assert not MuteFile(tmp_path / "muted").is_muted


# --- hardware ---------------------------------------------------------------------------------------------------------


async def test_switch_posts_its_position_at_rest_and_an_open_one_nothing_at_the_start(factory: Any) -> None:
    posted: list[Event] = []
    arrived = asyncio.Event()

    def post(event: Event) -> None:
        posted.append(event)
        arrived.set()

    switch = MuteSwitch(22, factory=factory, post=post, loop=asyncio.get_running_loop())
    finger = Finger(factory, 22)
    async with asyncio.timeout(LOOP_S), asyncio.TaskGroup() as group:
        task = group.create_task(switch.run())
        for _ in range(3):  # contacts that bounce
            finger.hold(0.002)
        finger.press()
        await arrived.wait()
        arrived.clear()
        finger.release()
        await arrived.wait()
        task.cancel()
    finger.close()
    switch.close()
    assert posted == [MuteSwitched(True, is_by_switch=True), MuteSwitched(False, is_by_switch=True)]


async def test_settings_open_the_buttons_that_have_a_pin(factory: Any) -> None:
    wiring: dict[str, Any] = {"factory": factory, "post": lambda event: None, "loop": asyncio.get_running_loop()}
    with open_buttons(17, second_pin=None, mute_pin=None, **wiring) as opened:
        assert [type(one) for one in opened] == [Button]
    with open_buttons(17, second_pin=27, mute_pin=22, **wiring) as opened:
        assert [type(one) for one in opened] == [Button, Button, MuteSwitch]
    with pytest.raises(BadPin, match="mute switch: GPIO 17"), open_buttons(17, second_pin=None, mute_pin=17, **wiring):
        pass
    with open_buttons(17, second_pin=None, mute_pin=None, **wiring):
        pass  # the pins were given back


async def test_whole_device_is_muted_by_its_second_button_and_its_switch() -> None:
    async with ScriptedServer(GOOD) as server:
        rig = Rig(server.base_url, button__second_pin=27, button__mute_pin=22)
        second, slide = Finger(rig.device.factory, 27), Finger(rig.device.factory, 22)
        async with running(rig):
            await rig.at_rest()
            second.hold(0.1)
            await rig.until(lambda: rig.light == "muted")
            second.hold(0.1)
            await rig.at_rest()
            slide.press()
            await rig.until(lambda: rig.light == "muted")
            second.hold(0.1)
            await rig.until(lambda: rig.announced == ["The switch on the device keeps the microphone off."])
            assert rig.light == "muted"
            slide.release()
            await rig.at_rest()
        second.close()
        slide.close()


def test_tool_mutes() -> None:
    posted: list[Event] = []
    MutedMicrophone(posted.append, 4.0).mute()
    assert posted == [MuteSwitched(True)]


# --- power-off --------------------------------------------------------------------------------------------------------


async def powered_off(command: str, until: Callable[[], bool], caplog: pytest.LogCaptureFixture) -> None:
    """Ask for the power-off, and wait for its effect."""
    switch = PowerSwitch(command)
    async with asyncio.timeout(LOOP_S), asyncio.TaskGroup() as group:
        task = group.create_task(switch.run())
        switch(0.0, DeadlinePassed(), [CloseCapture()], View())
        await asyncio.sleep(0)
        assert caplog.records == []
        switch(0.0, DeadlinePassed(), [PowerOff()], View())
        while not until():
            await asyncio.sleep(0.01)
        task.cancel()


async def test_power_off_runs_the_command_of_the_settings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "off with spaces"
    await powered_off(f"touch '{file}'", file.exists, caplog)


async def test_power_off_that_fails_says_why(caplog: pytest.LogCaptureFixture) -> None:
    def failed() -> bool:
        return any(one.levelno == logging.ERROR for one in caplog.records)

    await powered_off(f"{sys.executable} -c 'import sys; sys.exit(\"not allowed\")'", failed, caplog)
    assert "button.power_off_command failed with status 1: not allowed" in caplog.text
    caplog.clear()
    await powered_off("/nowhere/poweroff", failed, caplog)
    assert "button.power_off_command cannot be run" in caplog.text
