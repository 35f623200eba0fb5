"""The longest hold of the interpreter lock while a whole appliance answers, and what is loaded or collected late.

::

    .venv/bin/python -m benchmarks.locks [--turns 3] [--least-ms 2]

A thread that wakes up every half millisecond cannot run while another one keeps the lock; a gap in which the process
used the CPU counts as a hold. On a busy machine it also counts the time until the system runs that thread again. The
device answers by itself, keeps its history, writes a trace and calls tools. Prints one JSON object: the longest hold,
the holds with what the main thread did at their end, the modules that the event loop's thread imported after the
start, and the number of full garbage collections.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

from appliance.conversation.commands import Command, Emit
from appliance.conversation.events import Event
from appliance.conversation.notices import TurnEnd
from appliance.conversation.support.feedback import View
from appliance.settings import load_settings
from appliance.simulator.simulated_device import SIMULATED, SimulatedDevice, speak

WORDS = ("turn on the lamp", "what time is it", "turn off the lamp")
_REST_S = 0.5  # after a turn


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3, metavar="N")
    parser.add_argument("--least-ms", type=float, default=2.0, metavar="MS", help="shorter holds are not listed")
    arguments = parser.parse_args(argv)
    print(json.dumps(asyncio.run(measure(arguments.turns, arguments.least_ms))))
    return 0


class Ticker(threading.Thread):
    """Notes each gap between its wake-ups, and what the main thread did then."""

    def __init__(self, least_s: float) -> None:
        super().__init__(name="ticker", daemon=True)
        self._least_s = least_s
        self._is_stopped = threading.Event()
        self.holds: list[tuple[float, str]] = []
        """Milliseconds of CPU within a gap, and the place of the main thread."""

    def run(self) -> None:
        woke, used = time.monotonic(), time.process_time()
        while not self._is_stopped.is_set():
            time.sleep(0.0005)
            now, cpu = time.monotonic(), time.process_time()
            held_s = min(now - woke, cpu - used)  # a gap without CPU is the system's, not ours
            if held_s >= self._least_s:
                self.holds.append((round(1000 * held_s, 1), _place()))
            woke, used = time.monotonic(), time.process_time()

    def stop(self) -> None:
        self._is_stopped.set()
        self.join()


class LateImports(MetaPathFinder):
    """Notes each module that the main thread looks for. Other threads share the lock with it while they import."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        """Find nothing: the next finder does."""
        if threading.current_thread() is threading.main_thread():
            self.names.append(fullname)

    def start(self) -> None:
        """Note what is imported from now on."""
        sys.meta_path.insert(0, self)

    def stop(self) -> None:
        """Note nothing more."""
        sys.meta_path.remove(self)


def _place() -> str:
    """Return the innermost line of ours that the main thread runs."""
    main = threading.main_thread().ident
    stack = traceback.extract_stack(sys._current_frames()[main]) if main is not None else []
    own = [one for one in stack if "/appliance/" in one.filename]
    return f"{Path(own[-1].filename).name}:{own[-1].lineno} {own[-1].name}" if own else "the loop"


async def measure(turns: int, least_ms: float) -> dict[str, Any]:
    """Run turns on a device; return the figures."""
    recordings = [await speak(words) for words in WORDS]
    ended: asyncio.Queue[str] = asyncio.Queue()
    is_ready = asyncio.Event()
    full = 0

    def watch(now: float, event: Event, commands: Sequence[Command], view: View) -> None:
        is_ready.set()  # the first event follows READY=1
        for one in commands:
            if isinstance(one, Emit) and isinstance(one.notice, TurnEnd):
                ended.put_nowait(one.notice.outcome)

    def count(phase: str, info: dict[str, int]) -> None:
        nonlocal full
        full += phase == "start" and info["generation"] == 2

    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(
            None,
            {},
            overrides={
                **SIMULATED,
                "history.persist": True,
                "service.state_dir": folder,
                "service.trace": str(Path(folder) / "trace"),
                "deadlines.answer_s": 60.0,
            },
        )
        device = SimulatedDevice(settings, environ={})
        device.observe(watch)
        running = asyncio.create_task(device.run())
        await is_ready.wait()
        late, ticker = LateImports(), Ticker(least_ms / 1000)
        outcomes = []
        gc.callbacks.append(count)
        late.start()
        ticker.start()
        for turn in range(turns):
            await device.talk_pcm(recordings[turn % len(recordings)])
            outcomes.append(await ended.get())
            await asyncio.sleep(_REST_S)
        ticker.stop()
        gc.callbacks.remove(count)
        late.stop()
        device.stop("measured")
        await running
    holds = sorted(ticker.holds, reverse=True)
    return {
        "outcomes": outcomes,
        "longest_hold_ms": holds[0][0] if holds else 0.0,
        "holds": holds[:20],
        "late_imports": late.names,
        "full_collections": full,
    }


if __name__ == "__main__":
    sys.exit(main())
