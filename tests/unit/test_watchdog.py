"""What feeds systemd's watchdog, and what is said before it acts; the time is virtual."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from appliance.service.status_line import StatusLine
from appliance.service.systemd import Notifier
from appliance.service.watchdog import HEALTHY_LAG_S, HEALTHY_SILENCE_S, Watchdog
from appliance.wording import Wording


class Device:
    """A watchdog of 10 s that looks once a second."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self.now = 100.0
        self.lag_s = 0.0
        self.silence_s = {"capture": 0.0, "playback": 0.0}
        notifier = Notifier({"NOTIFY_SOCKET": end.getsockname(), "WATCHDOG_USEC": "10000000"})
        self.status = StatusLine(notifier, Wording("en"), [""], dict)
        self.watchdog = Watchdog(
            notifier, self.status, lag=lambda: self.lag_s, silence=lambda: self.silence_s, clock=lambda: self.now
        )

    def watch(self, seconds: int = 1, *, each_s: float = 1.0) -> int:
        """Let so many looks pass; return the number of pings."""
        pings = 0
        for _ in range(seconds):
            self.now += each_s
            self.watchdog.look()
            with suppress(BlockingIOError):
                while True:
                    pings += self._end.recv(4096) == b"WATCHDOG=1"
        return pings


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.setblocking(False)
        yield Device(end)


def test_healthy_device_pings_at_each_look_and_says_nothing(device: Device, caplog: pytest.LogCaptureFixture) -> None:
    assert device.watch(21) == 21
    assert caplog.records == []


@pytest.mark.parametrize(
    ("lag_s", "silence_s", "pings"),
    [(HEALTHY_LAG_S - 0.1, 0.0, 10), (HEALTHY_LAG_S, 0.0, 0), (0.0, HEALTHY_SILENCE_S, 0)],
)
def test_nothing_is_fed_while_an_age_is_above_its_limit(
    device: Device, lag_s: float, silence_s: float, pings: int
) -> None:
    device.watch()
    device.lag_s, device.silence_s["playback"] = lag_s, silence_s
    assert device.watch(10) == pings


def test_age_is_logged_once_at_half_of_its_limit_and_is_in_the_status(
    device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    before = device.status.text
    for silence_s in (4.9, 5.0, 6.0, 9.0):
        device.silence_s["capture"] = silence_s
        device.watch()
    assert [one.getMessage() for one in caplog.records] == [
        "capture: late by 5.0 s, and the watchdog ends the process at 10.0 s"
    ]
    assert device.status.text == f"{before}; late: capture 5.0 s"
    device.silence_s["capture"] = 0.0
    device.watch()
    assert device.status.text == before


def test_age_that_goes_up_and_down_is_logged_once_a_minute(device: Device, caplog: pytest.LogCaptureFixture) -> None:
    for second in range(61):
        device.lag_s = 3.0 * (second % 2 == 0)
        device.watch()
    assert len(caplog.records) == 2
    assert {one.levelno for one in caplog.records} == {logging.WARNING}


def test_loop_that_stood_still_is_logged_and_fed_again(device: Device, caplog: pytest.LogCaptureFixture) -> None:
    device.watch()
    assert device.watch(1, each_s=7.0) == 1
    assert [one.getMessage() for one in caplog.records] == [
        "event loop: late by 6.0 s, and the watchdog ends the process at 10.0 s"
    ]


async def test_without_a_watchdog_nothing_is_watched(device: Device) -> None:
    def never() -> float:
        raise AssertionError

    await Watchdog(Notifier({}), device.status, lag=never, silence=dict, clock=lambda: 0.0).run()
