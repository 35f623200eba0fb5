"""Processor time that a person waits for on a slow board: the warm start, and an answer of the offline brain.

::

    .venv/bin/python -m benchmarks.slow_board

*Start*: CPU of ``appliance run`` with simulated hardware and no key, from exec to ``READY=1``. *Answer*: CPU of
``appliance brain`` and its child processes, from the commit of a spoken sentence to the first audio of the answer. On
one core both are the time that a person waits, if nothing else runs; so they are comparable on a busy machine.
"""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from websockets.asyncio.client import ClientConnection, connect

from appliance.simulator.simulated_device import speak
from benchmarks.capacity import SESSION, brain, children, send, until

STARTS = 5
TURNS = 8
ROWS = {"start_s": "exec → READY (best of {})", "answer_s": "release → first audio of the answer (median of {})"}
_TICKS = os.sysconf("SC_CLK_TCK")
_RUN = [sys.executable, "-m", "appliance.cli", "run", "--set", "audio.backend=simulated", "--set", "pins.factory=mock"]


def main() -> int:
    print_rows(run())
    return 0


def run() -> dict[str, float]:
    """Return CPU seconds by the keys of `ROWS`."""
    return {"start_s": min(start() for _ in range(STARTS)), "answer_s": asyncio.run(answer())}


def print_rows(figures: dict[str, float]) -> None:
    print("| CPU seconds | |\n|---|---:|")
    for (key, title), count in zip(ROWS.items(), (STARTS, TURNS), strict=True):
        print(f"| {title.format(count)} | {figures[key]:.2f} |")


def start() -> float:
    """Start the daemon as its unit does; return its CPU seconds at ``READY=1``."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"{folder}/notify")
        manager.settimeout(60)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("APPLIANCE_", "OPENAI_"))}
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        of_the_unit = {"MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1", "PYDANTIC_DISABLE_PLUGINS": "__all__"}
        places = {"NOTIFY_SOCKET": f"{folder}/notify", "STATE_DIRECTORY": folder, "RUNTIME_DIRECTORY": folder}
        daemon = subprocess.Popen(_RUN, env=kept | of_the_unit | places, stderr=subprocess.DEVNULL)
        try:
            while b"READY=1" not in manager.recv(4096):
                pass
            return cpu_s(daemon.pid)
        finally:
            daemon.terminate()
            daemon.wait(timeout=30)


async def answer() -> float:
    """Return the CPU seconds of one spoken turn after its commit."""
    speech = base64.b64encode(await speak("turn on the lamp", voice="slt")).decode()
    with brain(1) as (url, pid):
        async with asyncio.timeout(120), connect(f"{url}?model=x", compression=None) as client:
            return statistics.median([await _spoken(client, pid, speech, 1.0 + turn / 100) for turn in range(TURNS)])


async def _spoken(client: ClientConnection, pid: int, speech: str, speed: float) -> float:
    await send(client, "session.update", session=SESSION)
    faster = {"audio": {"output": {"speed": speed}}}  # a new speed is a new sentence: no cache holds it
    await send(client, "session.update", session={"type": "realtime", **faster})
    await send(client, "input_audio_buffer.append", audio=speech)
    await asyncio.sleep(1.0)  # what a brain does while a person speaks is done before the release
    before = cpu_s(pid)
    await send(client, "input_audio_buffer.commit")
    await send(client, "response.create")
    done = (await until(client, "response.done"))[-1]
    (call,) = done["response"]["output"]
    item = {"type": "function_call_output", "call_id": call["call_id"], "output": "{}"}
    await send(client, "conversation.item.create", item=item)
    await send(client, "response.create")
    await until(client, "response.output_audio.delta")
    spent = cpu_s(pid) - before
    await until(client, "response.done")
    return spent


def cpu_s(pid: int) -> float:
    """Return the user and system time of a process, with its living and its reaped children."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    reaped = (int(fields[13]) + int(fields[14])) / _TICKS
    own = sum(int(one.read_text(encoding="ascii").split()[0]) for one in Path(f"/proc/{pid}/task").glob("*/schedstat"))
    return own / 1e9 + reaped + sum(map(cpu_s, children(pid)))


if __name__ == "__main__":
    sys.exit(main())
