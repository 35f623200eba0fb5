"""The daemon's side of systemd: readiness, status and watchdog by sd_notify(3), credentials by systemd.exec(5).

A notification is one datagram of ``NAME=value`` lines to the Unix socket named in ``$NOTIFY_SOCKET``. Outside of
systemd the variable is missing and every call does nothing. A supervisor that went away is not the daemon's trouble:
no call raises.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = ["Notifier", "credentials_directory"]

logger = logging.getLogger(__name__)

_SEND_TIMEOUT_S: Final = 0.2  # the manager's queue is full: the loop must not wait for it longer than ten periods


def credentials_directory(environ: Mapping[str, str]) -> Path | None:
    """The folder where systemd put the unit's credentials; None if the unit has none."""
    folder = environ.get("CREDENTIALS_DIRECTORY", "")
    return Path(folder) if folder else None


class Notifier:
    """Tells the service manager how we are. Called on the loop; each call is one short system call.

    Args:
        environ: Read once, here: ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID``.
        pid: The process that the watchdog's variables must be meant for; this one if not named.
    """

    def __init__(self, environ: Mapping[str, str], *, pid: int | None = None) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._is_failing = False
        self.watchdog_interval_s = _watchdog_interval_s(environ, os.getpid() if pid is None else pid)
        """Half of the unit's ``WatchdogSec=``, as sd_watchdog_enabled(3) advises; None if nobody watches us."""

    def ready(self, status: str) -> None:
        """Start-up is complete (``READY=1``).

        Args:
            status: One line for ``systemctl status``; never what was said.
        """
        self._send(f"READY=1\nSTATUS={' '.join(status.split())}")  # a line break would begin a variable of its own

    def stopping(self) -> None:
        """The end has begun (``STOPPING=1``)."""
        self._send("STOPPING=1")

    def watchdog(self) -> None:
        """The device works (``WATCHDOG=1``). Call it only while that is true."""
        self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.settimeout(_SEND_TIMEOUT_S)
                channel.sendto(text.encode(), self._address)
        except OSError as error:
            if not self._is_failing:
                logger.warning("the service manager does not hear us: %s", error)
            self._is_failing = True
        else:
            self._is_failing = False


def _address(name: str) -> str | None:
    """Address for `socket.sendto`, or None: an absolute path, or an abstract name that begins with ``@``."""
    if name.startswith("@") and len(name) > 1:
        return "\0" + name[1:]
    if name.startswith("/"):
        return name
    if name:
        logger.warning("NOTIFY_SOCKET=%s is neither a path nor an abstract name; the service manager is not told", name)
    return None


def _watchdog_interval_s(environ: Mapping[str, str], pid: int) -> float | None:
    period_us = environ.get("WATCHDOG_USEC", "")
    if (environ.get("WATCHDOG_PID") or str(pid)) != str(pid) or not period_us.isdecimal():
        return None
    return int(period_us) / 2_000_000 or None
