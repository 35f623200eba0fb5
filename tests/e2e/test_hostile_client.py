"""Someone else on the machine attacks the offline brain of a running appliance."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from websockets.asyncio.client import unix_connect
from websockets.exceptions import ConnectionClosed

from appliance.brain import server as brain_server
from appliance.brain.server import BrainServer
from tests.support.rig import Rig, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

FLOOD = 6000


class Manager:
    """systemd's end of the notification socket; counts the pings of the watchdog."""

    def __init__(self, path: Path) -> None:
        self.environ = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "400000"}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)

    async def fed(self) -> None:
        """Wait for a ping that is sent from now on."""
        while True:
            try:
                self._socket.recv(4096)
            except BlockingIOError:
                break
        loop = asyncio.get_running_loop()
        while "WATCHDOG=1" not in (await loop.sock_recv(self._socket, 4096)).decode():
            pass

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def brains(monkeypatch: pytest.MonkeyPatch) -> list[BrainServer]:
    """The servers that the appliance starts."""
    started: list[BrainServer] = []

    class Known(BrainServer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            started.append(self)

    monkeypatch.setattr(brain_server, "BrainServer", Known)
    return started


def connects(path: str, user: int) -> bool:
    code = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    command = [sys.executable, "-I", "-c", code, path]
    return subprocess.run(command, user=user, cwd="/", capture_output=True, check=False).returncode == 0


def mode_of(path: str) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


def folder_is_empty(folder: Path) -> bool:
    return not list(folder.iterdir())


async def flood(path: str, brain: BrainServer) -> tuple[set[str], set[str]]:
    """Ask for many responses at once; return the numbers of the answered and of the refused ones."""
    done: set[str] = set()
    refused: set[str] = set()

    async def read() -> None:
        while len(done) + len(refused) < FLOOD:
            frame = json.loads(await client.recv())
            if frame["type"] == "response.done":
                done.add(frame["response"]["metadata"]["number"])
            elif frame["type"] == "error":
                assert frame["error"]["code"] == "rate_limit_exceeded"
                refused.add(frame["error"]["event_id"])

    uri = "ws://localhost/v1/realtime?model=x"
    async with unix_connect(
        path, uri, additional_headers=brain.headers(), compression=None, ping_interval=None
    ) as client:
        reading = asyncio.create_task(read())
        for number in map(str, range(FLOOD)):
            response = {"conversation": "none", "input": [], "metadata": {"number": number}}
            await client.send(json.dumps({"type": "response.create", "event_id": number, "response": response}))
        await reading
    return done, refused


async def test_stranger_cannot_connect_and_a_flood_of_responses_leaves_the_appliance_alive(
    tmp_path: Path, brains: list[BrainServer], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    manager = Manager(tmp_path / "notify")
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    environ = manager.environ | {"RUNTIME_DIRECTORY": str(runtime)}
    rig = Rig("", environ=environ, deadlines__answer_s=30.0)
    async with running(rig, limit_s=150):
        await rig.at_rest()
        (brain,) = brains
        path = unquote(brain.url.removeprefix("ws+unix:").rpartition(":")[0])

        assert path.startswith(str(runtime))
        assert mode_of(path) == 0o600
        if os.geteuid() == 0:  # only root can act as a second user
            assert not await asyncio.to_thread(connects, path, 65534)
        async with unix_connect(path, "ws://localhost/v1/realtime?model=x", compression=None) as stranger:
            assert json.loads(await stranger.recv())["error"]["code"] == "invalid_api_key"
            with pytest.raises(ConnectionClosed):
                await stranger.recv()

        flooding = asyncio.create_task(flood(path, brain))
        await manager.fed()
        done, refused = await flooding
        assert done
        assert refused
        assert done | refused == set(map(str, range(FLOOD)))
        await manager.fed()
        assert "inbox: late" not in caplog.text

        await rig.talk()
        await rig.until(lambda: bool(rig.outcomes))
        assert rig.outcomes == ["answered"]
        assert rig.troubles == []
    manager.close()
    token = brain.headers()["Authorization"].removeprefix("Bearer ")
    assert token not in caplog.text
    assert folder_is_empty(runtime)
