"""The reference SDK on a scripted server, and the literal frames of its known failures."""

from __future__ import annotations

import asyncio
import base64
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, TypeVar

import pytest

from appliance.agents.agent import RealtimeAgent
from appliance.agents.spec import AgentSpec, ToolCard
from appliance.conversation.events import MessageGiven
from appliance.conversation.notices import SessionEvent
from appliance.conversation.policy import Policy
from appliance.runtime.session import RealtimeSession
from tests.support.patience import patient
from tests.support.scripted_server import (
    SESSION_CREATED,
    Frame,
    ScriptedServer,
    Step,
    expect,
    send,
)
from tests.support.stage import SESSION, Stage

__all__ = [
    "MARK",
    "QUICK",
    "READY",
    "REFERENCE",
    "E",
    "Reader",
    "Reference",
    "answering",
    "asks",
    "audio",
    "call",
    "created",
    "done",
    "message",
    "pcm",
    "played",
    "reference",
    "referring",
    "talking",
    "with_tools",
]


REFERENCE = "0.24.0"

reference = pytest.mark.skipif(
    version("openai-agents") != REFERENCE, reason=f"holds for openai-agents {REFERENCE} only; check its sources again"
)

E = TypeVar("E", bound=SessionEvent)

QUICK = Policy(pre_roll_ms=0, backoff_initial_s=0.01, backoff_max_s=0.01)

MARK: Frame = {"type": "rate_limits.updated", "event_id": "event_mark", "rate_limits": []}
"""A frame without effect; a client that has handled it has handled all frames sent before."""


def created(response_id: str = "resp_1") -> Frame:
    response = {"id": response_id, "object": "realtime.response", "status": "in_progress", "output": []}
    return {"type": "response.created", "event_id": "event_c", "response": response}


def done(response_id: str = "resp_1", status: str = "completed") -> Frame:
    response = {"id": response_id, "object": "realtime.response", "status": status, "output": []}
    return {"type": "response.done", "event_id": "event_d", "response": response}


def audio(ms: int = 20, sample: int = 4000, response_id: str = "resp_1", item_id: str = "item_a") -> Frame:
    return {
        "type": "response.output_audio.delta",
        "event_id": "event_a",
        "response_id": response_id,
        "item_id": item_id,
        "output_index": 0,
        "content_index": 0,
        "delta": base64.b64encode(pcm(ms, sample)).decode(),
    }


def call(name: str, call_id: str, response_id: str = "resp_1") -> Frame:
    item = {
        "id": f"item_{call_id}",
        "type": "function_call",
        "status": "completed",
        "name": name,
        "call_id": call_id,
        "arguments": "{}",
    }
    place = {"response_id": response_id, "output_index": 0}
    return {"type": "response.output_item.done", "event_id": "event_f", **place, "item": item}


def pcm(ms: int, sample: int = 4000) -> bytes:
    return array("h", [sample] * 24 * ms).tobytes()


def message(text: str = "Hi!", item_id: str = "note_1") -> MessageGiven:
    content = [{"type": "input_text", "text": text}]
    return MessageGiven({"id": item_id, "type": "message", "role": "user", "content": content}, text)


def asks(stage: Stage) -> list[str]:
    """Return the turns whose responses were requested."""
    return [one["response"]["metadata"]["turn"] for one in stage.sent() if one["type"] == "response.create"]


def with_tools(*names: str, **more: Any) -> AgentSpec:
    return AgentSpec(agent="ada", session=SESSION, tools=tuple(ToolCard(name=one) for one in names), **more)


class Reader:
    """Collects a session's events and waits for one of a given kind."""

    def __init__(self, session: RealtimeSession) -> None:
        self.events: list[SessionEvent] = []
        self._iterator = aiter(session)

    async def until(self, kind: type[E]) -> E:
        async with asyncio.timeout(patient(20)):
            async for event in self._iterator:
                self.events.append(event)
                if isinstance(event, kind):
                    return event
        raise AssertionError(f"the session is over; it yielded {[one.type for one in self.events]}")


@asynccontextmanager
async def talking(server: ScriptedServer, *tools: Any) -> AsyncIterator[tuple[RealtimeSession, Reader]]:
    agent = RealtimeAgent(name="Ada", instructions="Be brief.", tools=list(tools))
    async with RealtimeSession(agent, url=server.base_url, api_key="sk-test", policy=QUICK, raw_events=False) as one:
        yield one, Reader(one)


def answering(response_id: str = "resp_1") -> list[Step]:
    """Return the steps that wait for a request and answer it with 20 ms of audio."""
    item_id = f"item_{response_id}"
    frames = [created(response_id), audio(response_id=response_id, item_id=item_id), done(response_id)]
    return [expect("response.create"), send(*frames)]


async def played(server: ScriptedServer) -> None:
    """Wait until the last script has ended; fail if there were more connections than scripts."""
    async with asyncio.timeout(patient(20)):
        await server.connections[-1].done.wait()
    server.assert_complete()


READY: list[Step] = [send(SESSION_CREATED), expect("session.update")]


class Reference:
    """A session of the reference against the scripted server."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.events: list[Any] = []
        self._iterator = aiter(session)

    async def until(self, is_it: Callable[[Any], bool]) -> Any:
        async with asyncio.timeout(patient(20)):
            async for event in self._iterator:
                self.events.append(event)
                if is_it(event):
                    return event
        raise AssertionError(f"the session is over; it yielded {self.types}")

    async def until_mark(self) -> None:
        """Wait until everything before `MARK` has been handled."""
        await self.until(lambda one: one.type == "raw_model_event" and getattr(one.data, "data", None) == MARK)

    async def signal(self) -> None:
        """Let the script continue at ``expect("conversation.item.retrieve")``."""
        from agents.realtime.model_inputs import RealtimeModelSendRawMessage

        raw: Any = {"type": "conversation.item.retrieve", "other_data": {"item_id": "item_signal"}}
        await self.session.model.send_event(RealtimeModelSendRawMessage(message=raw))

    def of(self, kind: str) -> list[Any]:
        return [one for one in self.events if one.type == kind]

    @property
    def types(self) -> list[str]:
        return [one.type for one in self.events if one.type != "raw_model_event"]


@asynccontextmanager
async def referring(server: ScriptedServer, **agent: Any) -> AsyncIterator[Reference]:
    import agents.realtime

    runner = agents.realtime.RealtimeRunner(agents.realtime.RealtimeAgent(name="Ada", **agent))
    config: Any = {"url": server.url, "api_key": "sk-test"}
    async with await runner.run(model_config=config) as session:
        yield Reference(session)
