"""Systemd integration: readiness, status and watchdog by sd_notify(3), credentials by systemd.exec(5).

A notification is one datagram of ``NAME=value`` lines to the Unix socket named in ``$NOTIFY_SOCKET``. Without that
variable every call does nothing. No call raises, even if the service manager is gone.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = ["Notifier", "credentials_directory", "runtime_directory"]

logger = logging.getLogger(__name__)

_SEND_TIMEOUT_S: Final = 0.2  # at most ten periods: the event loop waits while the manager's queue is full


def credentials_directory(environ: Mapping[str, str]) -> Path | None:
    """Return the folder of the unit's credentials; None if the unit has none."""
    folder = environ.get("CREDENTIALS_DIRECTORY", "")
    return Path(folder) if folder else None


def runtime_directory(environ: Mapping[str, str]) -> Path | None:
    """Return the unit's first ``RuntimeDirectory=``, which ends with the service; None if the unit has none."""
    folder = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return Path(folder) if folder else None


class Notifier:
    """Sends the daemon's state to the service manager. Called on the event loop; each call blocks for at most 0.2 s.

    Args:
        environ: Read once, in the constructor: ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID``.
        pid: The process id to compare with ``WATCHDOG_PID``; None is this process.
    """

    def __init__(self, environ: Mapping[str, str], *, pid: int | None = None) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._is_failing = False
        self.watchdog_interval_s = _watchdog_interval_s(environ, os.getpid() if pid is None else pid)
        """Half of the unit's ``WatchdogSec=``, as sd_watchdog_enabled(3) advises; None without a watchdog."""

    def ready(self, status: str) -> None:
        """Report that start-up is complete (``READY=1``).

        Args:
            status: One line for ``systemctl status``; never user speech.
        """
        self._send(f"READY=1\n{_status(status)}")

    def status(self, status: str) -> None:
        """Replace the line of ``systemctl status`` (``STATUS=``).

        Args:
            status: See `ready`.
        """
        self._send(_status(status))

    def stopping(self, status: str) -> None:
        """Report that shutdown has started (``STOPPING=1``).

        Args:
            status: See `ready`.
        """
        self._send(f"STOPPING=1\n{_status(status)}")

    def watchdog(self) -> None:
        """Feed the watchdog (``WATCHDOG=1``). Call it only while the device is healthy."""
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
                logger.warning("cannot notify the service manager: %s", error)
            self._is_failing = True
        else:
            self._is_failing = False


def _status(text: str) -> str:
    return f"STATUS={' '.join(text.split())}"  # a line break would start another variable


def _address(name: str) -> str | None:
    """Return the address for `socket.sendto`: an absolute path or an abstract name (``@…``); None for anything else."""
    if name.startswith("@") and len(name) > 1:
        return "\0" + name[1:]
    if name.startswith("/"):
        return name
    if name:
        logger.warning("NOTIFY_SOCKET=%s is neither a path nor an abstract name; notifications are off", name)
    return None


def _watchdog_interval_s(environ: Mapping[str, str], pid: int) -> float | None:
    period_us = environ.get("WATCHDOG_USEC", "")
    if (environ.get("WATCHDOG_PID") or str(pid)) != str(pid) or not period_us.isdecimal():
        return None
    return int(period_us) / 2_000_000 or None
