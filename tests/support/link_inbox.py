"""A running `WebSocketTransport`, and the conversation that takes its events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from appliance.conversation.events import Event, LinkDown, LinkUp
from appliance.realtime import protocol as wire
from appliance.realtime.transports.websocket import Endpoint, WebSocketTransport
from tests.support.patience import patient

__all__ = ["CHUNK", "KEY", "LinkInbox", "append", "end_of", "running"]


KEY = "sk-test-do-not-print-1234567890"

CHUNK = bytes(960)  # 20 ms


class LinkInbox:
    """Collects events, and waits for the one that a test needs."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._arrived = asyncio.Event()

    def post(self, event: Event) -> None:
        self.events.append(event)
        self._arrived.set()

    async def wait(self, is_it: Callable[[Event], bool], timeout_s: float = 10.0) -> Event:
        seen = 0
        async with asyncio.timeout(patient(timeout_s)):
            while True:
                for event in self.events[seen:]:
                    if is_it(event):
                        return event
                seen = len(self.events)
                self._arrived.clear()
                await self._arrived.wait()

    async def down(self, link: int = 1) -> LinkDown:
        event = await self.wait(lambda e: isinstance(e, LinkDown) and e.link == link)
        assert isinstance(event, LinkDown)
        return event

    async def up(self, link: int = 1) -> None:
        await self.wait(lambda e: e == LinkUp(link))

    def of(self, link: int) -> list[Event]:
        return [event for event in self.events if getattr(event, "link", None) == link]


@asynccontextmanager
async def running(
    url: str, inbox: LinkInbox, *, headers: Callable[[], Mapping[str, str]] = dict, **options: Any
) -> AsyncIterator[WebSocketTransport]:
    transport = WebSocketTransport(Endpoint(url=url, headers=headers, name="test"), post=inbox.post, **options)
    task = asyncio.create_task(transport.run())
    await asyncio.sleep(0)
    try:
        yield transport
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def end_of(url: str, **options: Any) -> tuple[LinkDown, list[Event]]:
    """Connect once and wait for ``LinkDown``."""
    inbox = LinkInbox()
    async with running(url, inbox, **options) as transport:
        transport.connect(1)
        down = await inbox.down()
    return down, inbox.of(1)


def append(pcm: bytes = CHUNK) -> wire.InputAudioBufferAppend:
    return wire.InputAudioBufferAppend(audio=pcm)
