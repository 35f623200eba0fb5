"""Uevents of the kernel, over a socket pair; and the kernel's own socket where it may be opened."""

from __future__ import annotations

import asyncio
import logging
import socket

import pytest

from appliance.audio.card_events import CardEvents, is_about_sound

REMOVED = b"remove@/devices/platform/usb/sound/card1/controlC1\0ACTION=remove\0SUBSYSTEM=sound\0SEQNUM=7\0"
BLOCK = b"add@/devices/virtual/block/loop0\0ACTION=add\0SUBSYSTEM=block\0SEQNUM=8\0"


@pytest.mark.parametrize(
    ("message", "expected"),
    [(REMOVED, True), (BLOCK, False), (b"", False), (b"add@/x\0NAME=SUBSYSTEM=sound2\0", False), (b"\xff\xfe", False)],
)
def test_only_events_of_sound_devices_count(message: bytes, expected: bool) -> None:
    assert is_about_sound(message) is expected


async def test_events_of_sound_devices_are_reported() -> None:
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    count = 0

    def changed() -> None:
        nonlocal count
        count += 1

    events = CardEvents(lambda: ours)
    events.open(changed)
    for message in (BLOCK, REMOVED, BLOCK, REMOVED):
        kernel.send(message)
    async with asyncio.timeout(10):
        while count < 2:
            await asyncio.sleep(0)
    events.close()
    events.close()
    kernel.close()
    assert count == 2


async def test_refused_socket_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    def refuse() -> socket.socket:
        raise PermissionError(1, "Operation not permitted")

    events = CardEvents(refuse)
    with caplog.at_level(logging.INFO):
        events.open(lambda: None)
    events.close()
    assert [one.levelname for one in caplog.records] == ["INFO"]
    assert "Operation not permitted" in caplog.text


async def test_socket_of_the_kernel_opens_or_is_refused() -> None:
    events = CardEvents()
    events.open(lambda: None)
    events.close()
