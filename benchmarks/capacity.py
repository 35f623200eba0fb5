"""Capacity of ``appliance brain``: memory and latency with 1, 8, 50 and 200 open sessions.

::

    .venv/bin/python -m benchmarks.capacity [--sessions 1 8 50 200]

The brain is a separate process, with one recogniser for each core. All clients are in this one; each has an open
session. In the first measurement one client speaks ("turn on the lamp") while the others are silent. In the second all
ask in writing at once; in the third all speak at once, the worst case. A turn takes from the request to the first item
of the answer.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from appliance.simulator.simulated_device import speak

SESSIONS = (1, 8, 50, 200)
LAMP = {
    "type": "function",
    "name": "set_lamp",
    "description": "Switch the lamp.",
    "parameters": {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]},
}
SESSION = {
    "type": "realtime",
    "tools": [LAMP],
    "audio": {"input": {"turn_detection": None, "transcription": {"model": "any"}}},
}
ROWS = {
    "rss_mb": "RSS of the server, MB",
    "recognisers_mb": "RSS of its recognisers, MB",
    "one_speaks_ms": "one speaks: turn, ms",
    "all_write_ms": "all write at once: turn, median ms",
    "all_write_slowest_ms": "all write at once: slowest, ms",
    "all_speak_ms": "all speak at once: turn, median ms",
    "all_speak_slowest_ms": "all speak at once: slowest, ms",
    "busy": "all speak at once: refused as busy",
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, nargs="+", default=SESSIONS, metavar="N")
    print_rows(run(parser.parse_args(argv).sessions))
    return 0


def run(counts: Sequence[int] = SESSIONS) -> dict[int, dict[str, float]]:
    """Measure each number of sessions with a server of its own."""
    return {count: asyncio.run(measure(count)) for count in counts}


def print_rows(figures: dict[int, dict[str, float]]) -> None:
    print("| open sessions | " + " | ".join(map(str, figures)) + " |")
    print("|---|" + "---:|" * len(figures))
    for key, title in ROWS.items():
        print(f"| {title} | " + " | ".join(f"{one[key]:.0f}" for one in figures.values()) + " |")


@contextmanager
def brain(sessions: int) -> Iterator[tuple[str, int]]:
    """Run ``appliance brain``; yield its URL and its process id."""
    command = [sys.executable, "-m", "appliance.cli", "brain", "--max-sessions", str(sessions)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout is not None
    try:
        yield server.stdout.readline().strip(), server.pid
    finally:
        server.terminate()
        server.wait(timeout=30)
        server.stdout.close()


async def measure(count: int) -> dict[str, float]:
    """Return the figures of `ROWS` for a number of open sessions."""
    speech = base64.b64encode(await speak("turn on the lamp", voice="slt")).decode()
    with brain(count) as (url, pid):
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(connect(f"{url}?model=x", compression=None)) for _ in range(count)
            ]
            for one in clients:
                await send(one, "session.update", session=SESSION)
                await until(one, "session.updated")
            await spoken(clients[0], speech)  # the models are loaded
            alone = statistics.median([(await spoken(clients[0], speech))[0] for _ in range(5)])
            written = [seconds for seconds, _ in await asyncio.gather(*(asked(one) for one in clients))]
            all_spoken = await asyncio.gather(*(spoken(one, speech) for one in clients))
            heard = [seconds for seconds, is_busy in all_spoken if not is_busy]
            return {
                "rss_mb": rss_mb(pid),
                "recognisers_mb": sum(map(rss_mb, children(pid))),
                "one_speaks_ms": 1000 * alone,
                "all_write_ms": 1000 * statistics.median(written),
                "all_write_slowest_ms": 1000 * max(written),
                "all_speak_ms": 1000 * statistics.median(heard),
                "all_speak_slowest_ms": 1000 * max(heard),
                "busy": sum(is_busy for _, is_busy in all_spoken),
            }


async def asked(client: ClientConnection) -> tuple[float, bool]:
    """Ask in writing; see `answered`."""
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]}
    await send(client, "conversation.item.create", item=item)
    return await answered(client)


async def spoken(client: ClientConnection, speech: str) -> tuple[float, bool]:
    """Speak; see `answered`."""
    await send(client, "input_audio_buffer.append", audio=speech)
    await send(client, "input_audio_buffer.commit")
    return await answered(client)


async def answered(client: ClientConnection) -> tuple[float, bool]:
    """Return the seconds to the first item of the answer, and whether the recogniser was busy."""
    started = time.monotonic()
    await send(client, "response.create")
    frames = await until(client, "response.output_item.added")
    seconds = time.monotonic() - started
    await until(client, "response.done")
    return seconds, any(one["type"].endswith("transcription.failed") for one in frames)


async def send(client: ClientConnection, name: str, **keys: Any) -> None:
    await client.send(json.dumps({"type": name, **keys}))


async def until(client: ClientConnection, name: str) -> list[dict[str, Any]]:
    frames = [json.loads(await client.recv())]
    while frames[-1]["type"] != name:
        frames.append(json.loads(await client.recv()))
    return frames


def rss_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024 / 1e6


def children(pid: int) -> list[int]:
    """Return the processes of the recognisers."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(one) for task in tasks for one in (task / "children").read_text(encoding="ascii").split()]


if __name__ == "__main__":
    sys.exit(main())
