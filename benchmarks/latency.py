"""Latency from the finger to the wire and from the wire to the loudspeaker: the whole appliance, simulated hardware.

A separate thread drives the pin, and records the time just before. The scripted server, another process, records the
arrival of each frame; the simulated loudspeaker records the time of each period. All three use the machine's monotonic
clock. Cues are disabled, so that every sound belongs to the answer.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from appliance.audio import streams
from appliance.conversation.events import Event
from appliance.conversation.support.feedback import State, View
from appliance.settings import load_settings
from appliance.simulator.simulated_device import DEFAULT_PINS, SIMULATED, SimulatedDevice

TURNS = 12
PERIOD_MS = 20


class Bench:
    """One appliance, with the times of its presses, frames and periods."""

    def __init__(self, url: str, log: Path) -> None:
        overrides = {
            **SIMULATED,
            **DEFAULT_PINS,
            "link.base_url": url,
            "button.mode": "hold",
            "audio.post_roll_ms": 0,
            "audio.volume": 100,
        }
        settings = load_settings(None, {}, None, overrides=overrides)
        self.debounce_ms = settings.button.release_debounce_ms
        self.device = SimulatedDevice(settings, environ={})
        self.device.observe(self._see)
        self._pin = self.device.factory.pin(settings.button.pin)
        self._log = log
        self._state = State.BOOTING
        self._changed = asyncio.Event()

    def _see(self, now: float, event: Event, commands: Any, view: View) -> None:
        _ = now, event, commands
        if view.state is not self._state:
            self._state = view.state
            self._changed.set()

    async def until(self, *states: State) -> None:
        async with asyncio.timeout(20):
            while self._state not in states:
                self._changed.clear()
                await self._changed.wait()

    async def drive(self, *, down: bool) -> float:
        """Drive the pin from another thread; return the monotonic seconds just before."""

        def move() -> float:
            at = time.monotonic()
            (self._pin.drive_low if down else self._pin.drive_high)()
            return at

        return await asyncio.to_thread(move)

    def arrivals(self, name: str, since: float) -> Iterator[float]:
        for line in self._log.read_text(encoding="utf-8").splitlines():
            what, at = json.loads(line)
            if what == name and at >= since:
                yield at

    def sounding(self, since: float) -> list[float]:
        assert self.device.loudspeaker is not None
        return [at for at, block in self.device.loudspeaker.periods if at >= since and block.any()]


async def measure(url: str, log: Path) -> dict[str, list[float]]:
    """Run `TURNS` turns; interrupt every second one in the middle of its answer."""
    streams.earcon = lambda name: b""  # type: ignore[attr-defined, assignment]
    bench = Bench(url, log)
    rows: dict[str, list[float]] = {"press": [], "release": [], "delta": [], "barge": []}
    async with asyncio.TaskGroup() as group:
        running = group.create_task(bench.device.run())
        await bench.until(State.READY)
        await asyncio.sleep(1.5)  # until the pre-roll is full
        for turn in range(TURNS):
            await _one_turn(bench, rows, is_interrupted=turn % 2 == 0)
        bench.device.stop("measured")
        await running
    return rows


async def _one_turn(bench: Bench, rows: dict[str, list[float]], *, is_interrupted: bool) -> None:
    pressed = await bench.drive(down=True)
    await asyncio.sleep(0.4 + 0.0037 * len(rows["press"]))  # so that presses are not in step with the card's periods
    released = await bench.drive(down=False)
    await bench.until(State.SPEAKING)
    await asyncio.sleep(0.5)
    rows["press"].append((next(bench.arrivals("input_audio_buffer.append", pressed)) - pressed) * 1000)
    rows["release"].append((next(bench.arrivals("input_audio_buffer.commit", released)) - released) * 1000)
    sent = next(bench.arrivals("sent delta", released))
    rows["delta"].append((bench.sounding(sent)[0] - sent) * 1000)
    if is_interrupted:
        interrupted = await bench.drive(down=True)
        await asyncio.sleep(0.3)
        rows["barge"].append((max(bench.sounding(interrupted), default=interrupted) - interrupted) * 1000)
        await bench.drive(down=False)
        await bench.until(State.SPEAKING)
    await bench.until(State.READY)
    await asyncio.sleep(0.4)


def figures(rows: dict[str, list[float]], debounce_ms: int) -> dict[str, str]:
    def line(values: list[float]) -> str:
        return f"{statistics.median(values):.1f} (max {max(values):.1f}, n={len(values)})"

    beyond = [value - debounce_ms for value in rows["release"]]
    return {
        "press → first append on the wire, ms": line(rows["press"]),
        f"release → commit on the wire, beyond the {debounce_ms} ms debounce (post-roll 0), ms": line(beyond),
        "delta sent by the server → first frame at the card, ms": line(rows["delta"]),
        "barge-in → last period of old audio handed to the card, ms": line(rows["barge"]),
    }


def run(url: str, log: str) -> dict[str, str]:
    return figures(asyncio.run(measure(url, Path(log))), 20)


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], sys.argv[2])), flush=True)
