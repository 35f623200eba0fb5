"""Third-party clients of a Realtime server: the `openai` SDK and `openai-agents`, and a brain of its own process."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from agents import function_tool, set_tracing_disabled
from agents.realtime import RealtimeAgent, RealtimeRunner, RealtimeSession, RealtimeSessionEvent
from openai import AsyncOpenAI
from openai.resources.realtime.realtime import AsyncRealtimeConnection

from appliance.brain.server import BrainServer
from tests.support.oracle import check_server_frame
from tests.support.patience import patient

__all__ = [
    "LAMP",
    "Agents",
    "Sdk",
    "agents_of",
    "answered",
    "appliance_brain",
    "of_type",
    "refuse_error",
    "says",
    "sdk_of",
    "set_lamp",
]


LAMP: dict[str, Any] = {
    "type": "function",
    "name": "set_lamp",
    "description": "Switch the lamp.",
    "parameters": {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]},
}


class Sdk:
    """The openai SDK on one connection; the oracle checks every frame too, and none may be an error."""

    def __init__(self, connection: AsyncRealtimeConnection) -> None:
        self.connection = connection

    async def until(self, name: str) -> list[Any]:
        """Read up to the first event of this type; return all events read."""
        events: list[Any] = []
        while not events or events[-1].type != name:
            async with asyncio.timeout(patient(20)):
                raw = await self.connection.recv_bytes()
            check_server_frame(json.loads(raw))
            event = self.connection.parse_event(raw)
            assert event.type != "error", raw
            events.append(event)
        return events


@asynccontextmanager
async def sdk_of(server: BrainServer, *, api_key: str = "sk-local") -> AsyncIterator[Sdk]:
    base_url = server.url.replace("ws://", "http://").removesuffix("/realtime")
    async with (
        AsyncOpenAI(api_key=api_key, base_url=base_url) as client,
        client.realtime.connect(model="gpt-realtime-2.1") as connection,
    ):
        yield Sdk(connection)


class Agents:
    """An openai-agents session whose events are collected by a task; none may be an error."""

    def __init__(self, session: RealtimeSession) -> None:
        self.session = session
        self.events: list[RealtimeSessionEvent] = []
        self._grew = asyncio.Event()

    async def collect(self) -> None:
        async for event in self.session:
            self.events.append(event)
            self._grew.set()

    async def until(self, holds: Callable[[RealtimeSessionEvent], bool]) -> RealtimeSessionEvent:
        """Return the next event for which `holds` is true; drop the events before it."""
        async with asyncio.timeout(patient(20)):
            while True:
                while self.events:
                    event = self.events.pop(0)
                    refuse_error(event)
                    if holds(event):
                        return event
                self._grew.clear()
                await self._grew.wait()


def refuse_error(event: RealtimeSessionEvent) -> None:
    assert event.type != "error", event
    assert not (event.type == "raw_model_event" and event.data.type in ("exception", "error")), event


def of_type(name: str) -> Callable[[RealtimeSessionEvent], bool]:
    return lambda event: event.type == name


def answered(event: RealtimeSessionEvent) -> bool:
    return event.type == "raw_model_event" and event.data.type == "turn_ended"


def says(text: str) -> Callable[[RealtimeSessionEvent], bool]:
    """Return a predicate for a history event that contains this text, from either side."""
    return lambda event: event.type in ("history_added", "history_updated") and text in str(event)


@asynccontextmanager
async def agents_of(server: BrainServer, agent: RealtimeAgent[Any]) -> AsyncIterator[Agents]:
    set_tracing_disabled(True)
    runner = RealtimeRunner(agent, config={"tracing_disabled": True})
    session = await runner.run(model_config={"url": f"{server.url}?model=local", "api_key": "sk-local"})
    async with asyncio.TaskGroup() as tasks, session:
        agents = Agents(session)
        collecting = tasks.create_task(agents.collect())
        yield agents
        for event in agents.events:
            refuse_error(event)
        collecting.cancel()


@function_tool
def set_lamp(on: bool) -> str:
    """Switch the lamp."""
    return f"The lamp is {'on' if on else 'off'}."


@asynccontextmanager
async def appliance_brain() -> AsyncIterator[Any]:
    """Run ``appliance brain``; yield an object with the printed address as `url`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "appliance.cli",
        "brain",
        stdout=asyncio.subprocess.PIPE,
        env={key: value for key, value in os.environ.items() if not key.startswith(("APPLIANCE_", "OPENAI_"))},
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(patient(30)):
            url = (await process.stdout.readline()).decode().strip()
        assert url.startswith("ws://127.0.0.1:")
        yield SimpleNamespace(url=url)
    finally:
        process.terminate()
        await process.communicate()
