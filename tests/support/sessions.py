"""Sessions against a `ScriptedServer`: the frames of its answers, a session, and the program that reads its events."""

from __future__ import annotations

import asyncio
import base64
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from appliance.agents.agent import RealtimeAgent
from appliance.agents.tools import Tool, tool
from appliance.conversation.notices import (
    SessionEvent,
)
from appliance.runtime.session import RealtimeSession
from tests.support.patience import patient
from tests.support.scripted_server import (
    SESSION_CREATED,
    Connection,
    Frame,
    ScriptedServer,
    Step,
    expect,
    send,
)

__all__ = [
    "JPEG",
    "PNG",
    "READY",
    "TOKENS",
    "E",
    "Lamp",
    "Reader",
    "all_words",
    "answering",
    "arrived",
    "audio",
    "calling",
    "committed",
    "created",
    "done",
    "output_of",
    "pcm",
    "spoken",
    "talking",
    "updated",
    "words",
]


E = TypeVar("E", bound=SessionEvent)

PNG = b"\x89PNG\r\n\x1a\n" + bytes(16)

JPEG = b"\xff\xd8\xff" + bytes(16)

READY = [send(SESSION_CREATED), expect("session.update")]


def pcm(frames: int = 480, sample: int = 4000) -> bytes:
    return array("h", [sample] * frames).tobytes()


def created(response_id: str = "resp_1") -> Frame:
    response = {"id": response_id, "object": "realtime.response", "status": "in_progress", "output": []}
    return {"type": "response.created", "event_id": "event_c", "response": response}


def done(response_id: str = "resp_1", status: str = "completed", **more: Any) -> Frame:
    response = {"id": response_id, "object": "realtime.response", "status": status, "output": [], **more}
    return {"type": "response.done", "event_id": "event_d", "response": response}


def audio(sound: bytes, item_id: str = "item_a", response_id: str = "resp_1") -> Frame:
    return {
        "type": "response.output_audio.delta",
        "event_id": "event_a",
        "response_id": response_id,
        "item_id": item_id,
        "output_index": 0,
        "content_index": 0,
        "delta": base64.b64encode(sound).decode(),
    }


def words(text: str, item_id: str = "item_a", response_id: str = "resp_1") -> Frame:
    return {
        "type": "response.output_audio_transcript.delta",
        "event_id": "event_w",
        "response_id": response_id,
        "item_id": item_id,
        "output_index": 0,
        "content_index": 0,
        "delta": text,
    }


def all_words(text: str, item_id: str = "item_a", response_id: str = "resp_1") -> Frame:
    frame = words(text, item_id, response_id) | {
        "type": "response.output_audio_transcript.done",
        "transcript": text,
    }
    del frame["delta"]
    return frame


def spoken(text: str = "Hello.", item_id: str = "item_a", response_id: str = "resp_1") -> list[Frame]:
    """A complete answer: one item with 20 ms of audio, and its transcript."""
    item = {"id": item_id, "type": "message", "role": "assistant"}
    place = {"response_id": response_id, "output_index": 0}
    return [
        created(response_id),
        {
            "type": "response.output_item.added",
            "event_id": "event_2",
            **place,
            "item": {**item, "status": "in_progress", "content": []},
        },
        words(text, item_id, response_id),
        audio(pcm(), item_id, response_id),
        all_words(text, item_id, response_id),
        {
            "type": "response.output_item.done",
            "event_id": "event_3",
            **place,
            "item": {
                **item,
                "status": "completed",
                "content": [{"type": "output_audio", "transcript": text}],
            },
        },
        done(response_id),
    ]


def calling(name: str, arguments: str = "{}", call_id: str = "call_1", response_id: str = "resp_1") -> list[Frame]:
    """A complete answer that calls one tool."""
    item = {
        "id": f"item_{call_id}",
        "type": "function_call",
        "status": "completed",
        "name": name,
        "call_id": call_id,
        "arguments": arguments,
    }
    return [
        created(response_id),
        {
            "type": "response.output_item.done",
            "event_id": "event_t",
            "response_id": response_id,
            "output_index": 0,
            "item": item,
        },
        done(response_id),
    ]


def updated(connection: Connection) -> Frame:
    """Return the server's ``session.updated`` for the latest ``session.update``."""
    session = {"object": "realtime.session", "id": "sess_1", **connection.last("session.update")["session"]}
    return {"type": "session.updated", "event_id": "event_u", "session": session}


def committed(item_id: str = "item_u") -> Frame:
    return {
        "type": "input_audio_buffer.committed",
        "event_id": "event_b",
        "item_id": item_id,
        "previous_item_id": None,
    }


class Reader:
    """Reads a session's events in a task, and waits for the one that a test needs."""

    def __init__(self, session: RealtimeSession) -> None:
        self.session = session
        self.events: list[SessionEvent] = []
        self._seen = 0
        self._arrived = asyncio.Event()
        self.is_over = False

    async def run(self) -> None:
        async for event in self.session:
            self.events.append(event)
            self._arrived.set()
        self.is_over = True
        self._arrived.set()

    async def until(self, kind: type[E], is_it: Callable[[E], bool] = lambda event: True) -> E:
        """Return the next event of a kind, after the last one returned."""
        async with asyncio.timeout(patient(20)):
            while True:
                while self._seen < len(self.events):
                    event = self.events[self._seen]
                    self._seen += 1
                    if isinstance(event, kind) and is_it(event):
                        return event
                assert not self.is_over, f"the session is over; it yielded {self.types}"
                self._arrived.clear()
                await self._arrived.wait()

    async def end(self) -> None:
        async with asyncio.timeout(patient(20)):
            while not self.is_over:
                self._arrived.clear()
                await self._arrived.wait()

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.events if event.type != "raw"]


@asynccontextmanager
async def talking(
    url: str | Sequence[str], agent: RealtimeAgent | None = None, settings: Any = None, **options: Any
) -> AsyncIterator[tuple[RealtimeSession, Reader]]:
    agent = agent or RealtimeAgent(name="Ada", instructions="Be brief.")
    async with RealtimeSession(agent, settings, url=url, **options) as session:
        reader = Reader(session)
        task = asyncio.create_task(reader.run())
        try:
            yield session, reader
            await session.close()
            await reader.end()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def answering(*frames: Frame) -> list[Step]:
    """Wait for ``response.create``, then answer."""
    return [expect("response.create"), send(*frames)]


async def arrived(server: ScriptedServer, kind: str, count: int = 1) -> None:
    """Wait until the server has received `count` frames of a kind."""
    async with asyncio.timeout(patient(10)):
        while server.connections[0].types.count(kind) < count:
            await asyncio.sleep(0.001)


class Lamp:
    """A lamp that records how it was switched."""

    def __init__(self) -> None:
        self.switched: list[bool] = []

    def tool(self, **options: Any) -> Tool:
        def set_lamp(on: bool) -> str:
            """Switch the lamp."""
            self.switched.append(on)
            return "done"

        return tool(**options)(set_lamp) if options else tool(set_lamp)

    def agent(self, **options: Any) -> RealtimeAgent:
        return RealtimeAgent(name="Ada", tools=[self.tool(**options)])


def output_of(connection: Connection, call_id: str = "call_1") -> str:
    items = [one["item"] for one in connection.of_type("conversation.item.create")]
    outputs = [one["output"] for one in items if one.get("call_id") == call_id]
    assert len(outputs) == 1, outputs
    return str(outputs[0])


TOKENS = {
    "total_tokens": 300,
    "input_tokens": 100,
    "output_tokens": 200,
    "input_token_details": {"text_tokens": 60, "audio_tokens": 40, "cached_tokens": 0},
    "output_token_details": {"text_tokens": 50, "audio_tokens": 150},
}
