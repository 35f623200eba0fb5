"""The composition root while the device runs: signals, the stop, what keeps the watchdog quiet, what is stored."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gpiozero.pins.mock import MockFactory, MockPWMPin

from appliance.audio.backends.simulated import SimulatedBackend
from appliance.conversation.events import MuteSwitched, Started, TracingFailed
from appliance.service import app
from appliance.service.app import Appliance
from appliance.service.systemd import Notifier
from appliance.settings import load_settings


class Transport:
    """A transport without a server; keeps what it was asked, in order."""

    has_room = True

    def __init__(self, done: list[str]) -> None:
        self._done = done
        self.is_waiting = asyncio.Event()
        self.may_end = asyncio.Event()

    def connect(self, link: int, endpoint: int = 0) -> None:
        self._done.append(f"connect {link}")

    def disconnect(self, link: int) -> None:
        self._done.append(f"disconnect {link}")

    def send(self, link: int, event: Any) -> None:
        pass

    async def run(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self._done.append("ended")

    async def said_goodbye(self) -> None:
        self.is_waiting.set()
        await self.may_end.wait()
        self._done.append("said goodbye")


class Device:
    """A running appliance whose transport and service manager are the test's."""

    def __init__(self, manager: socket.socket, folder: Path, **overrides: Any) -> None:
        self.done: list[str] = []
        self.transport = Transport(self.done)
        self.manager = manager
        self.events: list[object] = []
        self.started = asyncio.Event()
        environ = {"NOTIFY_SOCKET": manager.getsockname(), "RUNTIME_DIRECTORY": str(folder)}
        settings = load_settings(None, {}, overrides={"audio.announcements": False, **overrides})
        self.factory = MockFactory(pin_class=MockPWMPin)
        self.appliance = Appliance(settings, environ=environ, backend=SimulatedBackend(), pin_factory=self.factory)
        self.appliance.observe(self._see)

    def _see(self, now: float, event: Any, commands: Any, view: Any) -> None:
        self.events.append(event)
        self.started.set()

    def said(self) -> list[str]:
        """What the service manager was told so far, without the status lines of the work between."""
        found = []
        while True:
            try:
                found.append(self.manager.recv(4096).decode())
            except BlockingIOError:
                return [line for one in found for line in one.splitlines() if not line.startswith("STATUS=")]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.setblocking(False)
        yield end


@asynccontextmanager
async def running(device: Device, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[asyncio.Task[str]]:
    monkeypatch.setattr(app, "open_transport", lambda name, endpoints, **options: device.transport)
    task = asyncio.create_task(device.appliance.run())
    try:
        await device.started.wait()
        yield task
    finally:
        device.transport.may_end.set()
        device.appliance.stop("the test is over")
        await task
        device.factory.reset()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_says_goodbye_before_the_parts_are_stopped(
    number: signal.Signals, manager: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(manager, tmp_path)
    async with running(device, monkeypatch) as task:
        while "READY=1" not in device.said():
            await asyncio.sleep(0.01)
        os.kill(os.getpid(), number)
        await device.transport.is_waiting.wait()
        assert device.done == ["connect 1", "disconnect 1"]
        assert device.said() == ["STOPPING=1"], "systemd knows of the stop while the server is told of it"
        assert not task.done()
        device.transport.may_end.set()
        assert await task == number.name
    assert device.done == ["connect 1", "disconnect 1", "said goodbye", "ended"]


async def test_what_happens_while_the_parts_are_opened_is_handled_after_the_start(
    manager: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(manager, tmp_path)
    mark = MuteSwitched(True)
    opened = app.open_outputs

    def opens(**options: Any) -> Any:
        device.appliance.post(mark)
        return opened(**options)

    monkeypatch.setattr(app, "open_outputs", opens)
    device.appliance.post(mark)  # before `run`: nobody hears of it
    async with running(device, monkeypatch):
        while mark not in device.events:
            await asyncio.sleep(0.01)
    assert [one for one in device.events if isinstance(one, Started) or one == mark] == [Started(), mark]


async def test_a_trace_that_cannot_be_written_is_a_trouble_and_not_the_end(
    manager: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(manager, tmp_path, **{"service.trace": str(tmp_path / "missing" / "trace.jsonl")})
    async with running(device, monkeypatch):
        while not any(isinstance(one, TracingFailed) for one in device.events):
            await asyncio.sleep(0.01)


async def test_the_mute_switch_of_the_system_mutes_and_unmutes(
    manager: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(manager, tmp_path)
    async with running(device, monkeypatch):
        for is_muted in (True, False):
            os.kill(os.getpid(), signal.SIGUSR1)
            while MuteSwitched(is_muted) not in device.events:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("lost", [(), ("capture",)])
async def test_the_watchdog_sees_the_lag_and_the_silence_of_the_cards_that_are_there(lost: tuple[str, ...]) -> None:
    """It is not fed while the loop lags or a card is silent; a card that was reported lost may be silent."""
    driver: Any = SimpleNamespace(lag_s=3.5)
    conversation: Any = SimpleNamespace(view=SimpleNamespace(cards_lost=lost))
    audio: Any = SimpleNamespace(callback_ages_s={"capture": 7.0, "playback": 0.1})
    watchdog = app._watchdog(Notifier({}), None, driver, conversation, audio)  # type: ignore[arg-type]
    assert watchdog._lag() == 3.5
    assert watchdog._silence() == {"playback": 0.1} | ({} if lost else {"capture": 7.0})


@pytest.mark.parametrize(("more", "is_kept"), [({}, False), ({"history.persist": True}, True)])
async def test_a_conversation_is_in_a_file_only_if_it_is_to_be_kept(
    more: dict[str, Any], is_kept: bool, tmp_path: Path
) -> None:
    appliance = Appliance(load_settings(None, {}, overrides=more), environ={}, state_dir=tmp_path)
    async with AsyncExitStack() as stack:
        appliance._open_store(stack, [])
    assert (tmp_path / "conversation.db").exists() is is_kept
