"""``appliance ask``: run one press-to-talk turn through the whole stack in real time, and report it."""

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
from appliance.conversation.events import Event
from appliance.conversation.support.feedback import State, View
from appliance.errors import ApplianceError, first_error
from appliance.safe_text import mapped, printable, redact
from appliance.settings import Settings
from appliance.simulator.report import TurnReport
from appliance.simulator.simulated_device import SimulatedDevice, read_speech
from appliance.wording import Wording

__all__ = ["AskResult", "ask", "describe", "partner"]

_READY_WAIT_S = 60.0  # then press anyway: the audio is kept until the link is up
_TURN_WAIT_S = 180.0
_SETTLE_S = 0.3  # the transcript may arrive after the answer
_ASKED = "asked"  # reason of the stop after the last turn


@dataclass(frozen=True, slots=True)
class AskResult:
    """The result of one turn."""

    report: TurnReport
    xruns: int
    has_sounded: bool

    @property
    def was_answered(self) -> bool:
        """True if the turn ended with an answer and the loudspeaker played sound."""
        return self.report.outcome == "answered" and self.has_sounded

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON values, without secrets."""
        report = self.report
        values = {
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
        return mapped(values, partial(redact, shapes=False))


def _parsed(text: str | None) -> Any:
    try:
        return json.loads(text or "")
    except ValueError:
        return text


class _Milestones:
    """An observer that sets events when the device is ready, and when the turn of `report` has ended."""

    def __init__(self, wording: Wording) -> None:
        self._wording = wording
        self.report = TurnReport(wording)
        self.ready = asyncio.Event()
        self.ended = asyncio.Event()
        self.heard = asyncio.Event()

    def begin(self) -> TurnReport:
        """Start a report of the next turn; its lights start with the current one."""
        self.report = TurnReport(self._wording, lights=self.report.lights[-1:])
        self.ended.clear()
        self.heard.clear()
        return self.report

    def __call__(self, now: float, event: Event, commands: Sequence[Command], view: View) -> None:
        self.report(now, event, commands, view)
        if view.state in (State.READY, State.FAILED):
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
    """Say one utterance to a simulated device and wait for its answer.

    Args:
        what: A sentence, or the name of a WAV file.
        settings: With the simulated backend and the mock pin factory.
        environ: The appliance's environment.
        voice: The flite voice of the user.
        save: WAV file for what the loudspeaker played.
    """
    speech = await read_speech(what, voice=voice)
    async with partner(settings=settings, environ=environ, save=save) as talk:
        return await talk(speech)


@asynccontextmanager
async def partner(
    *, settings: Settings, environ: Mapping[str, str], save: Path | None = None
) -> AsyncIterator[Callable[[bytes], Awaitable[AskResult]]]:
    """Run one simulated device for several turns.

    Args:
        settings: As for `ask`.
        environ: As for `ask`.
        save: WAV file for what the loudspeaker played, written at the end.

    Yields:
        A function that takes speech (PCM16 mono at 24 kHz), runs one turn with it and returns the result.

    Raises:
        ApplianceError: A signal stopped the device.
    """
    device = SimulatedDevice(settings, environ=environ, save=save)
    milestones = _Milestones(device.wording)
    device.observe(milestones)
    with first_error():
        async with asyncio.TaskGroup() as group:
            running = group.create_task(_run(device))
            try:
                await _wait(milestones.ready, _READY_WAIT_S)
                if device.appliance.audio is not None:
                    await device.appliance.audio.opened()
                yield partial(_hold_turn, device, milestones)
            finally:
                device.stop(_ASKED)
                await running


async def _run(device: SimulatedDevice) -> None:
    """Run the device; a signal that stops it ends the turn too, whose speech nobody would hear."""
    if (reason := await device.run()) != _ASKED:
        raise ApplianceError(f"stopped by {reason}")


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
    """Return the result as the lines that `ask` prints; they are printable."""
    report = answer.report
    lines = [f"heard     {report.heard or '(nothing understood)'}"]
    for tool in report.tools:
        lines += [f"tool      {tool['name']} {tool['arguments']}", f"  result  {tool['output']}"]
    lines.append(f"answered  {report.reply or '(nothing)'}")
    lines += [f"trouble   {kind}: {message}" for kind, message in report.troubles]
    timeline = ", ".join(f"{name.replace('_', ' ')} {ms}" for name, ms in report.timeline_ms.items())
    lines.append(f"timeline  {timeline} (ms)")
    lines.append(f"light     {' → '.join(report.lights)}")
    lines.append(f"xruns     {answer.xruns}")
    return "\n".join(printable(line, shapes=False) for line in lines)
