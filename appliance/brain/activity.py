"""When the clients of a brain use it."""

from __future__ import annotations

import asyncio
from contextlib import suppress

__all__ = ["Activity"]


class Activity:
    """The clients of one server, and when one of them last sent something. On the event loop's thread only."""

    def __init__(self) -> None:
        self._clients = 0
        self._last_at = 0.0
        self._is_used = asyncio.Event()
        self._has_left = asyncio.Event()

    def joined(self) -> None:
        """Count a client that connects; this is a use."""
        self._clients += 1
        self.used()

    def used(self) -> None:
        """Note that a client sent something."""
        self._last_at = asyncio.get_running_loop().time()
        self._is_used.set()

    def left(self) -> None:
        """Count a client that has gone."""
        self._clients -= 1
        self._last_at = asyncio.get_running_loop().time()
        self._has_left.set()

    async def begins(self) -> None:
        """Wait for a use that comes after the end that `ends` reported last."""
        await self._is_used.wait()

    async def ends(self, *, idle_s: float, left_s: float) -> None:
        """Wait until the clients have sent nothing for `idle_s`, or until none has been there for `left_s`."""
        now = asyncio.get_running_loop().time
        while True:
            self._has_left.clear()
            until = self._last_at + (idle_s if self._clients else left_s)
            if until <= now():
                self._is_used.clear()
                return
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._has_left.wait()
