"""The kernel's reports that a sound card came or went, 4 ms after it did, read in the event loop without a thread."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

__all__ = ["CardEvents", "is_about_sound"]

log = logging.getLogger(__name__)

_KERNEL_UEVENTS = 15  # linux/netlink.h, NETLINK_KOBJECT_UEVENT
_KERNEL_GROUP = 1  # group 2 repeats them after udev's rules, in a format of its own
_LONGEST = 8192


def is_about_sound(message: bytes) -> bool:
    """Tell whether a uevent (``ACTION@PATH``, then ``KEY=VALUE``, separated by zeros) is about a sound device."""
    return b"SUBSYSTEM=sound" in message.split(b"\0")


class CardEvents:
    """Calls a function when the kernel adds or removes a sound device."""

    def __init__(self, listen: Callable[[], socket.socket] | None = None) -> None:
        """Prepare; nothing is opened.

        Args:
            listen: Returns a datagram socket with uevents; None for the kernel's.
        """
        self._listen = listen or _listen
        self._socket: socket.socket | None = None
        self._changed: Callable[[], None] = lambda: None

    def open(self, changed: Callable[[], None]) -> None:
        """Call `changed` on the running loop after each event. A kernel that refuses the socket is logged."""
        try:
            self._socket = self._listen()
        except OSError as exc:
            log.info("no events of sound cards from the kernel: %s; a loss is found 0.3 s later", exc.strerror or exc)
            return
        self._changed = changed
        self._socket.setblocking(False)
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def close(self) -> None:
        """Stop listening; idempotent."""
        one, self._socket = self._socket, None
        if one is not None:
            asyncio.get_running_loop().remove_reader(one)
            one.close()

    def _read(self) -> None:
        assert self._socket is not None
        try:
            message = self._socket.recv(_LONGEST)
        except BlockingIOError:
            return
        except OSError:  # ENOBUFS: events were lost, one of them may have been about a card
            self._changed()
            return
        if is_about_sound(message):
            self._changed()


def _listen() -> socket.socket:
    one = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _KERNEL_UEVENTS)
    try:
        one.bind((0, _KERNEL_GROUP))
    except OSError:
        one.close()
        raise
    return one
