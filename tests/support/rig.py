"""A whole simulated appliance, driven by a test, against a scripted server."""

from __future__ import annotations

import asyncio
import base64
import json
import math
from array import array
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from appliance.conversation.commands import Announce, Command, Emit
from appliance.conversation.events import Event
from appliance.conversation.notices import Error, TurnEnd
from appliance.conversation.support.feedback import View, light_state
from appliance.settings import load_settings
from appliance.simulator.simulated_device import DEFAULT_PINS, SIMULATED, SimulatedDevice
from tests.support.patience import patient
from tests.support.scripted_server import SESSION_CREATED, Connection, Frame, Step, expect, reply, send
from tests.support.stage import worded

__all__ = [
    "ANSWERED_TURN",
    "ASKED",
    "COMMITTED",
    "GOOD",
    "OPENED",
    "SPOKEN_MS",
    "Rig",
    "answer",
    "audio_delta",
    "called",
    "calling",
    "created",
    "done",
    "offered",
    "outputs",
    "running",
    "saying",
    "spoken_ms",
    "together",
    "tone",
    "turn_of",
    "updated",
]

SPOKEN_MS = 300
_ANSWER_HZ = 2500.0  # far from the notes of the device's cues


def tone(ms: int, *, hertz: float = 300.0, peak: int = 6000) -> bytes:
    """Return a sine as PCM16 mono at 24 kHz."""
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
        "delta": base64.b64encode(tone(ms, hertz=_ANSWER_HZ)).decode("ascii"),
    }


def done(connection: Connection, status: str = "completed") -> Frame:
    return {"type": "response.done", "event_id": "e_done", "response": _response(connection, status)}


def answer(connection: Connection) -> Sequence[Frame]:
    """Return a short spoken answer to the last ``response.create``."""
    return [created(connection), audio_delta(connection), done(connection)]


def calling(name: str, **arguments: Any) -> Callable[[Connection], Sequence[Frame]]:
    """An answer to the last ``response.create`` that calls one tool and says nothing."""

    def call(connection: Connection) -> Sequence[Frame]:
        number = connection.types.count("response.create")
        item = {"id": f"item_{number}", "type": "function_call", "status": "completed", "call_id": f"call_{number}"}
        item |= {"name": name, "arguments": json.dumps(arguments)}
        return _another(connection, {"type": "response.output_item.done", "event_id": "e_item", "item": item})

    return call


def saying(text: str) -> Callable[[Connection], Sequence[Frame]]:
    """The transcript of an answer to the last ``response.create``; it sounds for 300 ms."""

    def say(connection: Connection) -> Sequence[Frame]:
        words = {"type": "response.output_audio_transcript.delta", "delta": text}
        return _another(connection, audio_delta(connection) | words, audio_delta(connection))

    return say


def _another(connection: Connection, *frames: Frame) -> Sequence[Frame]:
    """A whole response with ids of its own: a turn may have several."""
    number = connection.types.count("response.create")
    own = {"response_id": f"resp_{number}", "output_index": 0} | {"item_id": f"item_{number}"}
    begun, ended = created(connection), done(connection)
    begun["response"]["id"] = ended["response"]["id"] = own["response_id"]
    return [begun, *(one | own for one in frames), ended]


def updated(connection: Connection) -> Frame:
    """The server takes the last ``session.update``."""
    session = {"object": "realtime.session", "id": "sess_1", **connection.last("session.update")["session"]}
    return {"type": "session.updated", "event_id": "e_updated", "session": session}


def outputs(connection: Connection) -> list[str]:
    """What tools have answered, in order."""
    items = [frame["item"] for frame in connection.of_type("conversation.item.create")]
    return [one["output"] for one in items if one["type"] == "function_call_output"]


def offered(connection: Connection) -> list[str]:
    """The names of the tools of the last ``session.update``."""
    tools = connection.last("session.update")["session"].get("tools", ())
    return [one.get("name", one.get("server_label")) for one in tools]


def spoken_ms(connection: Connection) -> int:
    """Return the milliseconds of speech, without silence, that a connection received."""
    frames = connection.of_type("input_audio_buffer.append")
    sound = np.frombuffer(b"".join(base64.b64decode(frame["audio"]) for frame in frames), "<i2")
    periods = sound[: len(sound) // 480 * 480].reshape(-1, 480)
    return 20 * int((np.abs(periods.astype(np.int32)).max(axis=1) > 1000).sum())


async def together(**cases: Coroutine[Any, Any, None]) -> None:
    """Run cases in parallel, because each mostly waits; a failure names its case."""

    async def one(name: str, case: Coroutine[Any, Any, None]) -> None:
        try:
            await case
        except Exception as exc:
            exc.add_note(f"in the case {name!r}")
            raise

    async with asyncio.TaskGroup() as group:
        for name, case in cases.items():
            group.create_task(one(name, case))


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


OPENED: list[Step] = [send(SESSION_CREATED), expect("session.update")]
ASKED: list[Step] = [expect("input_audio_buffer.commit"), send(COMMITTED), expect("response.create")]


def called(name: str, **arguments: Any) -> list[Step]:
    """A turn in which the model calls one tool, and then answers."""
    return [*ASKED, reply(calling(name, **arguments)), expect("response.create"), reply(answer)]


class Rig:
    """One simulated appliance, with its reported troubles, outcomes, announcements and lights."""

    def __init__(
        self, base_url: str, *, environ: dict[str, str] | None = None, config: Path | None = None, **changes: Any
    ) -> None:
        overrides: dict[str, Any] = {
            **SIMULATED,
            **DEFAULT_PINS,
            "link.base_url": base_url,
            "link.fallbacks": "",
            "link.backoff_initial_s": 0.1,
            "link.backoff_max_s": 0.5,
            "button.mode": "hold",
            "audio.announcements": False,
            "deadlines.connect_s": 1.0,
            "deadlines.commit_s": 0.5,
            "deadlines.answer_s": 2.0,
            "deadlines.link_wait_s": 10.0,
        }
        if "trace" in changes:
            overrides["service.trace"] = str(changes.pop("trace"))
        environ = environ or {}
        overrides |= {key.replace("__", "."): value for key, value in changes.items()}
        overrides |= {key: patient(value) for key, value in overrides.items() if key.startswith("deadlines.")}
        self.device = SimulatedDevice(load_settings(config, environ, None, overrides=overrides), environ=environ)
        self.device.observe(self._see)
        self.troubles: list[str] = []
        self.messages: list[str] = []
        self.outcomes: list[str] = []
        self.announced: list[str] = []
        self.lights: list[str] = []
        self._has_captured = False
        self._grew = asyncio.Event()

    def _see(self, now: float, event: Event, commands: Sequence[Command], view: View) -> None:
        light = light_state(view)
        if self.lights[-1:] != [light]:
            self.lights.append(light)
        for command in commands:
            match command:
                case Emit(notice=Error(kind=kind, detail=detail)):
                    self.troubles.append(kind)
                    self.messages.append(self.device.wording.trouble(kind, detail))
                case Emit(notice=TurnEnd(outcome=outcome)):
                    self.outcomes.append(outcome)
                case Announce():
                    self.announced.append(worded(command, self.device.wording))
                case _:
                    pass
        self._grew.set()

    @property
    def light(self) -> str:
        return self.lights[-1] if self.lights else ""

    @property
    def has_captured(self) -> bool:
        """The microphone was open and delivered sound at one of the looks at it."""
        audio = self.device.appliance.audio
        self._has_captured = self._has_captured or (audio is not None and audio.is_hearing)
        return self._has_captured

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until `holds` is true; checked after each step of the driver, and from time to time."""
        while not holds():
            self._grew.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._grew.wait(), 0.05)

    async def until_true(self, holds: Callable[[], bool]) -> None:
        """As `until`, but polled: for the loudspeaker, which changes without a step of the driver."""
        while not holds():
            await asyncio.sleep(0.02)

    async def at_rest(self, *lights: str) -> None:
        await self.until(lambda: self.has_captured and self.light in (lights or ("ready",)))

    async def talk(self, ms: int = SPOKEN_MS) -> None:
        """Press, speak a tone, release."""
        await self.device.talk_pcm(tone(ms))

    async def turn(self) -> str:
        """Run one turn and return its outcome; an answered turn MUST have played at least 200 ms."""
        count, heard_ms = len(self.outcomes), self.answer_ms
        await self.talk()
        await self.until(lambda: len(self.outcomes) > count)
        if self.outcomes[-1] == "answered":
            assert self.answer_ms - heard_ms >= 200, "the answer was not played"
        return self.outcomes[-1]

    @property
    def answer_ms(self) -> int:
        """Milliseconds of the server's answers that the loudspeaker played; cues do not count."""
        assert self.device.loudspeaker is not None
        rate = self.device.loudspeaker.rate
        return 20 * sum(1 for _, block in self.device.loudspeaker.periods if _is_answer(block, rate))

    @property
    def has_sounded(self) -> bool:
        """True if the loudspeaker played any sound."""
        assert self.device.loudspeaker is not None
        return self.device.loudspeaker.has_sounded


def _is_answer(block: np.ndarray[Any, np.dtype[np.int16]], rate: int) -> bool:
    """Tell whether most of a period's energy is at the frequency of the scripted answers."""
    samples = block.astype(np.float64)
    energy = float(samples @ samples)
    if energy == 0:
        return False
    wave = np.exp(-2j * np.pi * _ANSWER_HZ / rate * np.arange(len(samples)))
    return bool(2 * abs(samples @ wave) ** 2 / len(samples) > 0.5 * energy)


@asynccontextmanager
async def running(rig: Rig, *, limit_s: float = 60.0) -> AsyncIterator[Rig]:
    """Run the appliance until the context is left; `limit_s` is only a safety net."""
    async with asyncio.timeout(patient(limit_s)), asyncio.TaskGroup() as group:
        task = group.create_task(rig.device.run())
        try:
            yield rig
        finally:
            rig.device.stop("tested")
            await task
