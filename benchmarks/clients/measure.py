"""Measurements of a client's process, from the kernel's counters."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def rss_mb() -> float:
    """Return the current resident memory in MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e6


def peak_rss_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def cpu_s() -> float:
    """Return the CPU time of all threads, user and system, in seconds."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def timed_import(load: Callable[[], Any]) -> dict[str, float]:
    """Run an import; return its time and memory."""
    wall, cpu = time.perf_counter(), cpu_s()
    load()
    return {
        "import_ms": (time.perf_counter() - wall) * 1000,
        "import_cpu_ms": (cpu_s() - cpu) * 1000,
        "import_peak_rss_mb": peak_rss_mb(),
    }


class Load:
    """CPU and memory since the object was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.monotonic(), cpu_s()

    def figures(self) -> dict[str, float]:
        wall = time.monotonic() - self._wall
        return {
            "duplex_rss_mb": rss_mb(),
            "duplex_peak_rss_mb": peak_rss_mb(),
            "duplex_cpu_percent": 100 * (cpu_s() - self._cpu) / wall,
        }


def per_call_us(call: Callable[[], Any], count: int) -> float:
    """Return the CPU time of one call in µs: the best of five rounds, because the machine is shared."""
    rounds = []
    for _ in range(5):
        start = time.process_time()
        for _ in range(count):
            call()
        rounds.append((time.process_time() - start) / count * 1e6)
    return min(rounds)


def report(figures: dict[str, Any]) -> None:
    print(json.dumps(figures), flush=True)
