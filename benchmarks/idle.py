"""What the whole daemon takes while nobody speaks to it: CPU, wake-ups and memory, with a simulated card.

::

    .venv/bin/python -m benchmarks.idle [--settle 90] [--seconds 30]

Each row is measured in a process of its own, connected to the scripted server; with the offline brain as the fallback,
as it is installed, and without. Wake-ups are the voluntary context switches of all threads.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.clients import measure

SETTLE_S = 90.0  # a ring that is written all the time is resident only once it was full
SECONDS = 30.0
ROWS = {
    "idle_cpu_percent": ("CPU at rest, % of a core", "1.5"),
    "idle_wakeups": ("wake-ups per second at rest", "110"),
    "idle_rss_mb": ("RSS after {settle:g} s, MB", "55"),
}
FALLBACKS = {"without the offline brain": "", "with the offline brain": "offline"}
_ENVIRON = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}  # as in the unit


def run(port: int, *, settle_s: float = SETTLE_S, seconds: float = SECONDS) -> dict[str, dict[str, float]]:
    """Measure one daemon after the other; returns the figures of each by its title."""
    url = f"ws://127.0.0.1:{port}/v1/realtime?model=bench"
    command = [sys.executable, "-m", "benchmarks.idle", "--url", url, "--settle", str(settle_s)]
    command += ["--seconds", str(seconds), "--fallbacks"]
    environ = os.environ | _ENVIRON
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    figures = {}
    for title, fallbacks in FALLBACKS.items():
        done = subprocess.run([*command, fallbacks], stdout=subprocess.PIPE, text=True, env=environ, check=True)
        figures[title] = json.loads(done.stdout.splitlines()[-1])
    return figures


def print_rows(figures: dict[str, dict[str, float]], *, settle_s: float = SETTLE_S) -> None:
    print("| the daemon at rest, simulated card | " + " | ".join(figures) + " | goal |")
    print("|---|" + "---:|" * (len(figures) + 1))
    for key, (title, goal) in ROWS.items():
        cells = " | ".join(f"{one[key]:.1f}" for one in figures.values())
        print(f"| {title.format(settle=settle_s)} | {cells} | ≤ {goal} |")


async def _rest(url: str, fallbacks: str, settle_s: float, seconds: float) -> dict[str, float]:
    from appliance.settings import load_settings
    from appliance.simulator.simulated_device import DEFAULT_PINS, SIMULATED, SimulatedDevice

    chosen: dict[str, Any] = {"link.base_url": url, "link.fallbacks": fallbacks, **SIMULATED, **DEFAULT_PINS}
    device = SimulatedDevice(load_settings(None, {}, None, overrides=chosen), environ={})
    async with asyncio.TaskGroup() as group:
        running = group.create_task(device.run())
        await asyncio.sleep(settle_s)
        wall, cpu, switches = time.monotonic(), measure.cpu_s(), _voluntary_switches()
        await asyncio.sleep(seconds)
        wall = time.monotonic() - wall
        figures = {
            "idle_cpu_percent": 100 * (measure.cpu_s() - cpu) / wall,
            "idle_wakeups": (_voluntary_switches() - switches) / wall,
            "idle_rss_mb": measure.rss_mb(),
        }
        device.stop("measured")
        await running
    return figures


def _voluntary_switches() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settle", type=float, default=SETTLE_S, help="seconds before (default: %(default)g)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="seconds measured (default: %(default)g)")
    parser.add_argument("--url", default="", help=argparse.SUPPRESS)
    parser.add_argument("--fallbacks", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.url:
        measure.report(asyncio.run(_rest(arguments.url, arguments.fallbacks, arguments.settle, arguments.seconds)))
        return 0
    from benchmarks.run import server

    with server() as port:
        figures = run(port, settle_s=arguments.settle, seconds=arguments.seconds)
    print_rows(figures, settle_s=arguments.settle)
    return 0


if __name__ == "__main__":
    sys.exit(main())
