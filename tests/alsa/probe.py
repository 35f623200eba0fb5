"""Processes that use real PyAudio; ALSA reads its configuration once per process, so each test starts its own.

``python -m tests.alsa.probe NAME`` prints one JSON object per line.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from appliance.audio.backends import portaudio
from appliance.audio.backends.portaudio import PortAudioBackend
from appliance.audio.streams import AudioStreams
from appliance.conversation.events import AudioCaptured, CardFound, CardLost, Event, PlayoutProgress
from appliance.errors import AudioError
from appliance.simulator.report import TurnReport
from tests.alsa.signal import PERIOD, Int16, chirp, likeness, ramp
from tests.support.patience import patient


def say(**row: Any) -> None:
    print(json.dumps(row), flush=True)


def unpaced_playback() -> None:
    """Play the ramp into a file, as fast as ALSA's null card takes it."""
    backend = PortAudioBackend(playback_card="filespk", rate=24_000, buffer_ms=int(sys.argv[2]))
    signal, at = ramp(), 0

    def fill(block: Int16) -> bool:
        nonlocal at
        part = signal[at : at + len(block)]
        block[:] = 0
        block[: len(part)] = part
        at += len(block)
        return len(part) > 0

    stream = backend.open_playback(fill)
    while at < len(signal) + 50 * PERIOD:
        time.sleep(0.01)
    stream.close()
    backend.close()
    say(rate=stream.rate, callbacks=at // PERIOD, latency=stream.latency)


def unpaced_capture() -> None:
    """Capture the ramp from a file."""
    backend = PortAudioBackend(capture_card="filemic", rate=24_000)
    blocks: list[Int16] = []
    wanted = 2 * len(ramp()) // PERIOD

    def consume(block: Int16) -> None:
        if len(blocks) < wanted:
            blocks.append(block.copy())

    stream = backend.open_capture(consume)
    while len(blocks) < wanted:
        time.sleep(0.01)
    stream.close()
    backend.close()
    heard = np.concatenate(blocks).astype("<i2").tobytes()
    say(rate=stream.rate, is_exact=ramp().astype("<i2").tobytes() in heard)


class CardStreams:
    """`AudioStreams` over real PyAudio, with its posted events."""

    def __init__(self, backend: PortAudioBackend) -> None:
        self.events: list[Event] = []
        self.audio = AudioStreams(
            backend,
            post=self.events.append,
            pre_roll_s=0.3,
            max_turn_s=60.0,
            playback_ring_ms=300,
            prebuffer_ms=60,
            stall_s=1.0,
        )
        self.audio.listen(inf)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(patient(30)):
            while not holds():
                await asyncio.sleep(0.02)

    def posted(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


async def duplex() -> None:
    """Play and capture at once at 48 kHz, resampled both ways; print how similar the captured audio is to the chirp."""
    signal = chirp()
    heard, row = await _loop_back(signal, rate=48_000)
    say(likeness=likeness(heard, signal), **row)


async def duplex_exact() -> None:
    """Play and capture at once at 24 kHz, without resampling; print whether the ramp came back unchanged."""
    signal = ramp()
    heard, row = await _loop_back(signal, rate=24_000)
    say(is_exact=signal.astype("<i2").tobytes() in heard.astype("<i2").tobytes(), **row)


async def _loop_back(signal: Int16, *, rate: int) -> tuple[Int16, dict[str, Any]]:
    """Play an answer and capture it from the loudspeaker's monitor."""
    streams = CardStreams(PortAudioBackend(capture_card="spkmon", playback_card="spk", rate=rate))
    running = asyncio.create_task(streams.audio.run())
    await streams.audio.opened()
    await streams.until(lambda: len(streams.posted(AudioCaptured)) > 25)
    streams.events.clear()
    before = streams.audio.xruns
    streams.audio.flush(1)
    for start in range(0, len(signal), 2400):
        streams.audio.play(1, "item", signal[start : start + 2400].astype("<i2").tobytes())
    streams.audio.finish(1)
    await streams.until(lambda: any(one.drained for one in streams.posted(PlayoutProgress)))
    await asyncio.sleep(0.5)
    heard = np.frombuffer(b"".join(one.pcm for one in streams.posted(AudioCaptured)), "<i2").astype(np.int16)
    reports = streams.posted(PlayoutProgress)
    row: dict[str, Any] = {
        "sent": len(signal),
        "played": reports[-1].played_frames,
        "drained": [one.played_frames for one in reports if one.drained],
        "grows": all(a.played_frames <= b.played_frames for a, b in itertools.pairwise(reports)),
        "lost": [one.reason for one in streams.posted(CardLost)],
        "xruns": streams.audio.xruns.total - before.total,
        "gaps": streams.audio.xruns.answer_gaps - before.answer_gaps,
    }
    running.cancel()
    return heard, row


async def losses() -> None:
    """Print every lost and every found card until standard input ends."""
    listings = 0

    class CountingPyAudio(portaudio.pyaudio.PyAudio):  # type: ignore[misc]
        def __init__(self) -> None:
            nonlocal listings
            listings += 1
            super().__init__()

    portaudio.pyaudio.PyAudio = CountingPyAudio
    backend = PortAudioBackend(capture_card="mic", playback_card="spk", rate=48_000)
    opened: list[str] = []
    open_capture, open_playback = backend.open_capture, backend.open_playback
    backend.open_capture = lambda consume: (opened.append("capture"), open_capture(consume))[1]  # type: ignore[method-assign]
    backend.open_playback = lambda fill: (opened.append("playback"), open_playback(fill))[1]  # type: ignore[method-assign]
    streams = CardStreams(backend)
    seen = 0
    running = asyncio.create_task(streams.audio.run())
    await streams.audio.opened()
    say(lost=[], state="open")
    loop = asyncio.get_running_loop()
    ended = loop.run_in_executor(None, sys.stdin.read)
    while not ended.done():
        fresh = streams.events[seen:]
        seen += len(fresh)
        for event in fresh:
            if isinstance(event, CardLost):
                say(lost=event.direction, reason=event.reason)
            elif isinstance(event, CardFound):
                other = "playback" if event.direction == "capture" else "capture"
                say(found=event.direction, listings=listings, is_other_kept=opened.count(other) == 1)
        await asyncio.sleep(0.05)
    running.cancel()


def missing() -> None:
    """Open the microphone named on the command line; print the error."""
    try:
        PortAudioBackend(capture_card=sys.argv[2], rate=48_000).open_capture(lambda block: None)
    except AudioError as exc:
        say(kind=type(exc).__name__, text=str(exc))


async def turn() -> None:
    """Run a whole appliance on the virtual card; standard input says when to press and release."""
    from appliance.settings import load_settings
    from appliance.simulator.simulated_device import DEFAULT_PINS, SimulatedDevice

    overrides = {
        "audio.backend": "portaudio",
        "audio.capture_card": "mic",
        "audio.playback_card": "spk",
        "pins.factory": "mock",
        **DEFAULT_PINS,
    }
    device = SimulatedDevice(load_settings(None, {}, None, overrides=overrides), environ={})
    report = TurnReport(device.wording)
    device.observe(report)
    running = asyncio.create_task(device.run())
    loop = asyncio.get_running_loop()
    while "ready" not in report.lights:
        await asyncio.sleep(0.05)
    await asyncio.sleep(2.0)  # meanwhile the recogniser loads in its own process
    say(state="ready")
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        if line.strip() == "press":
            device.finger.press()
        elif line.strip() == "release":
            device.finger.release()
        say(done=line.strip())
        if line.strip() == "release":
            break
    async with asyncio.timeout(patient(40)):
        while not report.outcome:
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)
    assert device.appliance.audio is not None
    say(
        outcome=report.outcome,
        heard=report.heard,
        tools=[[tool["name"], tool["arguments"], tool["output"]] for tool in report.tools],
        reply=report.reply,
        troubles=report.troubles,
        xruns=device.appliance.audio.xruns.total,
    )
    device.stop("asked")
    await running


if __name__ == "__main__":
    assert Path(os.environ["ALSA_CONFIG_PATH"]).exists()
    probe = globals()[sys.argv[1]]
    if asyncio.iscoroutinefunction(probe):
        asyncio.run(probe())
    else:
        probe()
