"""A running `ToolRunner`, and the conversation that takes its events."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from appliance.agents.agent import RealtimeAgent
from appliance.agents.tools import Tool
from appliance.conversation.events import ApprovalChecked, Event, ToolFinished
from appliance.runtime.agent_tool import ask_agent
from appliance.runtime.tool_runner import ToolRunner
from tests.support.patience import patient

__all__ = ["ToolInbox", "running", "serving"]


@dataclass
class ToolInbox:
    """Collects posted events; `next` and `next_check` wait for one."""

    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    thread: int = field(default_factory=threading.get_ident)

    def post(self, event: Event) -> None:
        assert threading.get_ident() == self.thread
        self.events.put_nowait(event)

    async def next(self) -> ToolFinished:
        async with asyncio.timeout(patient(20)):
            event = await self.events.get()
        assert isinstance(event, ToolFinished)
        return event

    async def next_check(self) -> ApprovalChecked:
        async with asyncio.timeout(patient(20)):
            event = await self.events.get()
        assert isinstance(event, ApprovalChecked)
        return event

    async def nothing_more(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        assert self.events.empty()


@contextlib.asynccontextmanager
async def serving(
    agents: Mapping[str, RealtimeAgent] | Sequence[Tool], **options: Any
) -> AsyncIterator[tuple[ToolRunner, ToolInbox]]:
    inbox = ToolInbox()
    runner = ToolRunner(agents, post=inbox.post, ask_agent=ask_agent, **options)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(runner.run())
        await asyncio.sleep(0)
        yield runner, inbox
        assert not task.done()
        task.cancel()


def running(*tools: Tool) -> contextlib.AbstractAsyncContextManager[tuple[ToolRunner, ToolInbox]]:
    return serving(tools)
