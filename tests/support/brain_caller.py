"""A client of the offline brain on a loopback socket, frame by frame."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from appliance.brain.server import BrainServer
from tests.support.oracle import check_server_frame
from tests.support.patience import patient

__all__ = ["Caller", "calling"]


class Caller:
    """A client that sends literal events and checks the frames that it reads."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def send(self, name: str, **keys: Any) -> None:
        await self.socket.send(json.dumps({"type": name, **keys}))

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(patient(10)):
            frame: dict[str, Any] = json.loads(await self.socket.recv())
        check_server_frame(frame)
        return frame

    async def until(self, name: str) -> list[dict[str, Any]]:
        """Read up to the first frame of this type."""
        frames = [await self.next()]
        while frames[-1]["type"] != name:
            frames.append(await self.next())
        return frames

    async def ask(self, text: str, **response: Any) -> None:
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
        await self.send("conversation.item.create", item=item)
        await self.send("response.create", response=response)

    async def closed(self) -> tuple[int, str]:
        """Read to the end; return the server's close code and reason."""
        with pytest.raises(ConnectionClosed):
            while True:
                await self.next()
        assert self.socket.close_code is not None
        return self.socket.close_code, self.socket.close_reason or ""


@contextlib.asynccontextmanager
async def calling(server: BrainServer, query: str = "?model=gpt-realtime-2.1", **how: Any) -> AsyncIterator[Caller]:
    async with connect(server.url + query, compression=None, **how) as socket:
        yield Caller(socket)
