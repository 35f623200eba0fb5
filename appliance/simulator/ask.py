"""``appliance ask``: one press-to-talk turn through the whole stack, in real time, and what came of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from appliance.conversation.commands import Command
from appliance.conversation.events import AudioCaptured, Event
from appliance.conversation.support.feedback import State, View
from appliance.errors import first_error
from appliance.settings import Settings
from appliance.simulator.report import TurnReport
from appliance.simulator.simulated_device import SimulatedDevice, read_speech
from appliance.wording import Wording

__all__ = ["AskResult", "ask", "describe", "partner"]

_READY_WAIT_S = 60.0  # then it is pressed all the same: what is said is kept until the link is up
_TURN_WAIT_S = 180.0
_SETTLE_S = 0.3  # the transcript may come after the answer


@dataclass(frozen=True, slots=True)
class AskResult:
    """What `ask` has to tell."""

    report: TurnReport
    xruns: int
    has_sounded: bool

    @property
    def was_answered(self) -> bool:
        """The turn ended with an answer, and the loudspeaker really played something."""
        return self.report.outcome == "answered" and self.has_sounded

    def as_json(self) -> dict[str, Any]:
        report = self.report
        return {
            "heard": report.heard,
            "tools": [
                {"name": tool["name"], "arguments": _parsed(tool["arguments"]), "output": _parsed(tool["output"])}
                for tool in report.tools
            ],
            "reply": report.reply,
            "timeline_ms": report.timeline_ms,
            "light": report.lights,
            "xruns": self.xruns,
            "usage": report.usage,
            "outcome": report.outcome,
            "troubles": [kind for kind, _ in report.troubles],
        }


def _parsed(text: str | None) -> Any:
    """JSON as a value; anything else as it is."""
    try:
        return json.loads(text or "")
    except ValueError:
        return text


class _Milestones:
    """An observer that says when the device is at rest, and when the turn of `report` is over."""

    def __init__(self, wording: Wording) -> None:
        self._wording = wording
        self.report = TurnReport(wording)
        self.ready = asyncio.Event()
        self.ended = asyncio.Event()
        self.heard = asyncio.Event()
        self._is_listening = False

    def begin(self) -> TurnReport:
        """Follow the next turn with a new report; its light goes on from what is shown now."""
        self.report = TurnReport(self._wording, lights=self.report.lights[-1:])
        self.ended.clear()
        self.heard.clear()
        return self.report

    def __call__(self, now: float, event: Event, commands: Sequence[Command], view: View) -> None:
        self.report(now, event, commands, view)
        self._is_listening = self._is_listening or isinstance(event, AudioCaptured) or bool(view.cards_lost)
        if self._is_listening and view.state in (State.READY, State.FAILED):
            self.ready.set()
        if self.report.outcome:
            self.ended.set()
        if self.report.heard:
            self.heard.set()


async def ask(
    what: str,
    *,
    settings: Settings,
    environ: Mapping[str, str],
    voice: str = "rms",
    save: Path | None = None,
) -> AskResult:
    """Say one thing to a simulated device and wait until it has answered.

    Args:
        what: A sentence, or the name of a WAV file.
        settings: With simulated sound and pins.
        environ: Of the appliance.
        voice: The flite voice of the user.
        save: Write what the loudspeaker played here.
    """
    speech = await read_speech(what, voice=voice)
    async with partner(settings=settings, environ=environ, save=save) as talk:
        return await talk(speech)


@asynccontextmanager
async def partner(
    *, settings: Settings, environ: Mapping[str, str], save: Path | None = None
) -> AsyncIterator[Callable[[bytes], Awaitable[AskResult]]]:
    """Run one simulated device to talk with; each call of what it yields is a turn.

    Args:
        settings: As for `ask`.
        environ: As for `ask`.
        save: Write all that the loudspeaker played here, at the end.

    Yields:
        A function that says something (PCM16 mono at 24 kHz) and returns what came of it.
    """
    device = SimulatedDevice(settings, environ=environ, save=save)
    milestones = _Milestones(device.wording)
    device.observe(milestones)
    with first_error():
        async with asyncio.TaskGroup() as group:
            running = group.create_task(device.run())
            try:
                await _wait(milestones.ready, _READY_WAIT_S)
                yield partial(_hold_turn, device, milestones)
            finally:
                device.stop("asked")
                await running


async def _hold_turn(device: SimulatedDevice, milestones: _Milestones, speech: bytes) -> AskResult:
    report = milestones.begin() if milestones.report.turn else milestones.report
    loudspeaker, audio = device.loudspeaker, device.appliance.audio
    sounded_before = loudspeaker.frames if loudspeaker is not None else 0
    await device.talk_pcm(speech)
    await _wait(milestones.ended, _TURN_WAIT_S)
    await _wait(milestones.heard, _SETTLE_S)
    has_sounded = loudspeaker is not None and loudspeaker.frames > sounded_before and loudspeaker.has_sounded
    return AskResult(
        report,
        audio.xruns.total if audio is not None else 0,
        has_sounded=has_sounded and "first_frame_played" in report.marks,
    )


async def _wait(milestone: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(milestone.wait(), seconds)


def describe(answer: AskResult) -> str:
    """What `ask` prints for people."""
    report = answer.report
    lines = [f"heard     {report.heard or '(nothing that was understood)'}"]
    for tool in report.tools:
        lines += [f"tool      {tool['name']} {tool['arguments']}", f"  result  {tool['output']}"]
    lines.append(f"answered  {report.reply or '(nothing)'}")
    lines += [f"trouble   {kind}: {message}" for kind, message in report.troubles]
    timeline = ", ".join(f"{name.replace('_', ' ')} {ms}" for name, ms in report.timeline_ms.items())
    lines.append(f"timeline  {timeline} (ms)")
    lines.append(f"light     {' → '.join(report.lights)}")
    lines.append(f"xruns     {answer.xruns}")
    return "\n".join(lines)
