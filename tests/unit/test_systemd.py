"""sd_notify over a real datagram socket."""

from __future__ import annotations

import logging
import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.service.systemd import Notifier, credentials_directory


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The service manager's end of the notification socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.settimeout(5)
        yield end


def notifier_for(end: socket.socket, **environ: str) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": end.getsockname(), **environ})


def test_ready_and_status_are_sent_in_one_datagram(manager: socket.socket) -> None:
    notifier_for(manager).ready("waiting for a press")
    assert manager.recv(4096) == b"READY=1\nSTATUS=waiting for a press"


def test_watchdog_and_stopping_follow_sd_notify(manager: socket.socket) -> None:
    notifier = notifier_for(manager)
    notifier.watchdog()
    notifier.stopping("stopping")
    assert [manager.recv(4096) for _ in range(2)] == [b"WATCHDOG=1", b"STOPPING=1\nSTATUS=stopping"]


def test_status_is_sent_alone_after_the_start(manager: socket.socket) -> None:
    notifier_for(manager).status("listening\nWATCHDOG=1")
    assert manager.recv(4096) == b"STATUS=listening WATCHDOG=1"


def test_status_cannot_inject_a_variable(manager: socket.socket) -> None:
    notifier_for(manager).ready("fine\nMAINPID=1\r\nWATCHDOG=trigger")
    assert manager.recv(4096) == b"READY=1\nSTATUS=fine MAINPID=1 WATCHDOG=trigger"


def test_at_sign_names_an_abstract_socket() -> None:
    name = f"voice-appliance-test-{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind("\0" + name)
        end.settimeout(5)
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).watchdog()
        assert end.recv(64) == b"WATCHDOG=1"


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "@"}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_every_call_is_a_no_op_without_a_usable_socket(environ: dict[str, str]) -> None:
    notifier = Notifier(environ)
    notifier.ready("x")
    notifier.watchdog()
    notifier.stopping("stopping")


def test_vanished_socket_is_logged_once_and_never_raises(
    manager: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = notifier_for(manager)
    path = Path(manager.getsockname())
    path.unlink()
    with caplog.at_level(logging.WARNING):
        notifier.watchdog()
        notifier.watchdog()
    assert len(caplog.records) == 1
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as again:
        again.bind(str(path))
        again.settimeout(5)
        notifier.watchdog()
        assert again.recv(64) == b"WATCHDOG=1"


def test_full_queue_neither_blocks_nor_raises(manager: socket.socket) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
        filler.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                filler.sendto(b"x", manager.getsockname())
    notifier_for(manager).watchdog()
    assert manager.recv(16) == b"x"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "10000000"}, 5.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "42"}, 5.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "43"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_watchdog_interval_is_half_the_period_and_only_for_the_named_process(
    environ: dict[str, str], expected: float | None
) -> None:
    assert Notifier(environ, pid=42).watchdog_interval_s == expected


def test_watchdog_of_this_process_is_used() -> None:
    environ = {"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}
    assert Notifier(environ).watchdog_interval_s == 1.0


def test_credentials_directory_comes_from_the_environment() -> None:
    assert credentials_directory({"CREDENTIALS_DIRECTORY": "/run/credentials/x.service"}) == Path(
        "/run/credentials/x.service"
    )
    assert credentials_directory({}) is None
