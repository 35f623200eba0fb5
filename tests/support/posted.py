"""The events of a button, as a test of a pin library takes them."""

from __future__ import annotations

import asyncio

from appliance.conversation.events import ButtonEdge, Event
from tests.support.patience import patient


class Posted:
    """Takes events on the loop."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    async def until(self, count: int) -> list[Event]:
        async with asyncio.timeout(patient(20)):
            while len(self.events) < count:
                await asyncio.sleep(0.002)
        return self.events

    @property
    def levels(self) -> list[bool]:
        return [event.pressed for event in self.events if isinstance(event, ButtonEdge)]
