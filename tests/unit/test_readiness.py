"""When the service reports READY=1, and what it has loaded by then."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from gpiozero.pins.mock import MockFactory, MockPWMPin

from appliance.audio.backends.simulated import SimulatedBackend
from appliance.errors import CardMissing
from appliance.service.app import Appliance
from appliance.settings import load_settings

LATER = (
    "websockets",
    "http",
    "urllib.request",
    "hassil",
    "yaml",
    "sqlite3",
    "appliance.brain.server",
    "appliance.speech",
)
"""What only a link or the offline brain needs: together a quarter of the start."""


class Card(SimulatedBackend):
    """A sound card whose opening takes until `opens` is set; without `is_there` it then fails."""

    def __init__(self, *, is_there: bool = True) -> None:
        super().__init__()
        self.is_there = is_there
        self.is_asked = threading.Event()
        self.opens = threading.Event()

    def open_playback(self, fill: Any) -> Any:
        self.is_asked.set()
        assert self.opens.wait(30)
        if not self.is_there:
            raise CardMissing("no such card")
        return super().open_playback(fill)


@asynccontextmanager
async def starting(card: Card, folder: Path) -> AsyncIterator[socket.socket]:
    """Run an appliance with this card; yield the service manager's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(folder / "notify"))
        manager.setblocking(False)
        environ = {"NOTIFY_SOCKET": str(folder / "notify"), "RUNTIME_DIRECTORY": str(folder)}
        factory = MockFactory(pin_class=MockPWMPin)
        appliance = Appliance(load_settings(None, {}), environ=environ, backend=card, pin_factory=factory)
        running = asyncio.create_task(appliance.run())
        try:
            yield manager
        finally:
            card.opens.set()
            appliance.stop("test")
            await running
            factory.reset()


async def ready(manager: socket.socket) -> str:
    """Return the status line that comes with READY=1."""
    loop = asyncio.get_running_loop()
    while True:
        lines = (await loop.sock_recv(manager, 4096)).decode().splitlines()
        if lines[0] == "READY=1":
            return lines[1]


async def test_service_is_not_ready_before_the_cards_were_opened(tmp_path: Path) -> None:
    card = Card()
    async with starting(card, tmp_path) as manager:
        await asyncio.to_thread(card.is_asked.wait, 30)
        waiting = asyncio.create_task(ready(manager))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        card.opens.set()
        assert "sound card ready" in await waiting


async def test_service_without_a_card_is_ready_and_its_status_says_so(tmp_path: Path) -> None:
    card = Card(is_there=False)
    async with starting(card, tmp_path) as manager:
        card.opens.set()
        assert "no loudspeaker" in await ready(manager)


_PRINT_MODULES = """
import json, os, sys
from appliance.service.systemd import Notifier

def ready(self, status):
    print(json.dumps(sorted(sys.modules)), flush=True)
    os._exit(0)

Notifier.ready = ready
from appliance.cli import main

main(["run", "--set", "audio.backend=simulated", "--set", "pins.factory=mock"])
"""


@pytest.mark.parametrize("key", ["", "sk-test"])
def test_start_loads_neither_the_link_nor_the_brain_before_it_is_ready(tmp_path: Path, key: str) -> None:
    environ = {one: value for one, value in os.environ.items() if not one.startswith(("APPLIANCE_", "OPENAI_"))}
    environ |= {"OPENAI_API_KEY": key, "PYDANTIC_DISABLE_PLUGINS": "__all__", "STATE_DIRECTORY": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", _PRINT_MODULES], capture_output=True, text=True, env=environ, timeout=60, check=False
    )
    loaded = json.loads(done.stdout)
    assert [one for one in loaded if any(one == late or one.startswith(f"{late}.") for late in LATER)] == []
