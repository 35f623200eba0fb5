"""A network between a device and a server on loopback: it can be cut, stall, and refuse connections."""

from __future__ import annotations

import asyncio
from contextlib import suppress

__all__ = ["Network"]

_CHUNK = 65_536


class Network:
    """A TCP proxy in front of a port; an async context manager."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self.is_down = False
        """Every new connection is reset."""

    async def __aenter__(self) -> Network:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        if self._links:
            await asyncio.wait(self._links)

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    def cut(self) -> None:
        """Reset all connections."""
        for link in self._links:
            link.cancel()

    def stall(self) -> None:
        """Carry nothing until `flow`; connections stay open."""
        self._flows.clear()

    def flow(self) -> None:
        self._flows.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        try:
            if not self.is_down:
                await self._carry(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # the connection is lost, which is what this is for
        finally:
            self._links.discard(task)
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
        flows = {
            asyncio.ensure_future(self._flow(reader, to_server)),
            asyncio.ensure_future(self._flow(from_server, writer)),
        }
        try:
            await asyncio.wait(flows, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in flows:
                one.cancel()
            to_server.transport.abort()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*flows, return_exceptions=True)

    async def _flow(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(_CHUNK):
            await self._flows.wait()
            target.write(data)
            await target.drain()
        target.write_eof()
