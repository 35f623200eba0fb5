"""A whole simulated appliance in a test's hand, talking to a scripted server."""

from __future__ import annotations

import asyncio
import base64
import math
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from appliance.conversation.commands import Announce, Command, Emit, TroubleReported, TurnEnded
from appliance.conversation.events import AudioCaptured, Event
from appliance.conversation.feedback import View, light_state
from appliance.settings import load_settings
from appliance.simulator.stand import DEFAULT_PINS, SIMULATED, Stand
from tests.support.scripted_server import SESSION_CREATED, Connection, Frame, Step, expect, reply, send

__all__ = ["ANSWERED_TURN", "GOOD", "Rig", "answer", "audio_delta", "tone", "turn_of"]


def tone(ms: int, *, hertz: float = 300.0, peak: int = 6000) -> bytes:
    """PCM16 mono at 24 kHz."""
    return array("h", [round(peak * math.sin(math.tau * hertz * i / 24_000)) for i in range(24 * ms)]).tobytes()


def turn_of(connection: Connection) -> str:
    turn: str = connection.last("response.create")["response"]["metadata"]["turn"]
    return turn


def _response(connection: Connection, status: str) -> Frame:
    return {
        "id": f"resp_{turn_of(connection)}",
        "object": "realtime.response",
        "status": status,
        "status_details": None,
        "output": [],
        "metadata": {"turn": turn_of(connection)},
        "usage": None,
    }


def created(connection: Connection) -> Frame:
    return {"type": "response.created", "event_id": "e_created", "response": _response(connection, "in_progress")}


def audio_delta(connection: Connection, ms: int = 300) -> Frame:
    return {
        "type": "response.output_audio.delta",
        "event_id": "e_delta",
        "response_id": f"resp_{turn_of(connection)}",
        "item_id": f"item_{turn_of(connection)}",
        "output_index": 0,
        "content_index": 0,
        "delta": base64.b64encode(tone(ms, hertz=700.0)).decode("ascii"),
    }


def done(connection: Connection, status: str = "completed") -> Frame:
    return {"type": "response.done", "event_id": "e_done", "response": _response(connection, status)}


def answer(connection: Connection) -> Sequence[Frame]:
    """A short spoken answer to the last ``response.create``."""
    return [created(connection), audio_delta(connection), done(connection)]


COMMITTED: Frame = {
    "type": "input_audio_buffer.committed",
    "event_id": "e_committed",
    "item_id": "item_user",
    "previous_item_id": None,
}
ANSWERED_TURN: list[Step] = [
    expect("input_audio_buffer.commit"),
    send(COMMITTED),
    expect("response.create"),
    reply(answer),
]
GOOD: list[Step] = [send(SESSION_CREATED), expect("session.update"), *ANSWERED_TURN, *ANSWERED_TURN]
"""A connection that answers two turns."""


class Rig:
    """One simulated appliance, what it told, and what its light showed."""

    def __init__(self, base_url: str, *, environ: dict[str, str] | None = None, **changes: Any) -> None:
        overrides: dict[str, Any] = {
            **SIMULATED,
            **DEFAULT_PINS,
            "link.base_url": base_url,
            "link.backoff_initial_s": 0.1,
            "link.backoff_max_s": 0.5,
            "button.mode": "hold",
            "audio.announcements": False,
            "deadlines.connect_s": 1.0,
            "deadlines.commit_s": 0.5,
            "deadlines.answer_s": 2.0,
            "deadlines.link_wait_s": 10.0,
        }
        trace: Path | None = changes.pop("trace", None)
        environ = environ or {}
        overrides |= {key.replace("__", "."): value for key, value in changes.items()}
        self.stand = Stand(load_settings(None, environ, None, overrides=overrides), environ=environ, trace=trace)
        self.stand.observe(self._see)
        self.troubles: list[str] = []
        self.messages: list[str] = []
        self.outcomes: list[str] = []
        self.announced: list[str] = []
        self.lights: list[str] = []
        self.has_captured = False
        self._grew = asyncio.Event()

    def _see(self, now: float, event: Event, commands: Sequence[Command], view: View) -> None:
        self.has_captured = self.has_captured or isinstance(event, AudioCaptured)
        light = light_state(view)
        if self.lights[-1:] != [light]:
            self.lights.append(light)
        for command in commands:
            match command:
                case Emit(notice=TroubleReported(kind=kind, message=message)):
                    self.troubles.append(kind)
                    self.messages.append(message)
                case Emit(notice=TurnEnded(outcome=outcome)):
                    self.outcomes.append(outcome)
                case Announce(text=text):
                    self.announced.append(text)
                case _:
                    pass
        self._grew.set()

    @property
    def light(self) -> str:
        return self.lights[-1] if self.lights else ""

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds; looked at after each step of the driver."""
        while not holds():
            self._grew.clear()
            await self._grew.wait()

    async def at_rest(self, *lights: str) -> None:
        await self.until(lambda: self.has_captured and self.light in (lights or ("ready",)))

    async def talk(self, ms: int = 500) -> None:
        """Press, speak a tone, let go."""
        await self.stand.talk_pcm(tone(ms))

    async def turn(self) -> str:
        """Hold one turn and return how it ended."""
        count = len(self.outcomes)
        await self.talk()
        await self.until(lambda: len(self.outcomes) > count)
        return self.outcomes[-1]

    @property
    def sounded(self) -> int:
        """Periods of the loudspeaker that were not silence."""
        assert self.stand.loudspeaker is not None
        return sum(1 for _, block in self.stand.loudspeaker.periods if block.any())


@asynccontextmanager
async def running(rig: Rig, *, limit_s: float = 60.0) -> AsyncIterator[Rig]:
    """Run the appliance for as long as the block lasts; the limit is a safety net only."""
    async with asyncio.timeout(limit_s), asyncio.TaskGroup() as group:
        task = group.create_task(rig.stand.run())
        try:
            yield rig
        finally:
            rig.stand.stop("tested")
            await task
