"""What the appliance costs at rest, and how long it takes."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

from tests.system.bench import Bench, connected

_TICKS = os.sysconf("SC_CLK_TCK")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _rss_mb(pid: int) -> float:
    return int(_status(Path(f"/proc/{pid}/status"))["VmRSS"].split()[0]) / 1024


def _status(path: Path) -> dict[str, str]:
    pairs = (line.partition(":") for line in path.read_text().splitlines())
    return {key: value.strip() for key, _, value in pairs}


def _switches(pid: int) -> int:
    files = [_status(path) for path in Path(f"/proc/{pid}/task").glob("*/status")]
    return sum(int(one["voluntary_ctxt_switches"]) + int(one["nonvoluntary_ctxt_switches"]) for one in files)


def _children(pid: int) -> list[int]:
    return [int(one) for path in Path(f"/proc/{pid}/task").glob("*/children") for one in path.read_text().split()]


@connected
def test_warm_start_and_rest(bench: Bench) -> None:
    bench.sh("systemctl stop voice-appliance")
    began = time.monotonic()
    bench.sh("systemctl start voice-appliance")
    bench.measured("warm start of the unit to READY", time.monotonic() - began, goal=3.0, unit="s", limit=4.5)
    time.sleep(90)
    pid = bench.pid
    cpu_s, switches, began = _cpu_s(pid), _switches(pid), time.monotonic()
    time.sleep(60)
    took_s = time.monotonic() - began
    bench.measured("CPU of the daemon at rest", 100 * (_cpu_s(pid) - cpu_s) / took_s, goal=2.0, unit="%", limit=2.5)
    bench.measured(
        "wake-ups of the daemon at rest", (_switches(pid) - switches) / took_s, goal=120, unit="/s", limit=120
    )
    bench.measured("RSS of the daemon 150 s after the start", _rss_mb(pid), goal=55, unit="MB", limit=70)
    idle_mb = sum(map(_rss_mb, _children(pid)))
    bench.measured("RSS of the recogniser 150 s after the start, unused", idle_mb, goal=0, unit="MB", limit=0)


def test_stopped_process_is_replaced(bench: Bench) -> None:
    pid, began = bench.pid, time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    bench.wait(lambda: bench.is_restarted, "the service runs again")
    bench.measured("SIGSTOP to READY", time.monotonic() - began, goal=10.0, unit="s", limit=12.0)
    assert bench.show("NRestarts") == "1"


def _turns(bench: Bench, count: int) -> list[float]:
    """Have turns; return the seconds from each release to the first sound of the answer. The limit is no xrun."""
    waits = []
    with bench.recording() as heard:
        for turn in range(count):
            released = bench.ask("lamp off" if turn % 2 else "lamp on")
            bench.wait(lambda turn=turn: len(bench.turns()) > turn, "the turn ended", within_s=60, step_s=0.1)
            time.sleep(0.5)
            waits.append(heard.speech(after=released)[0][0] - released)
    lines = bench.turns()
    assert all(" answered: " in line for line in lines), lines
    xruns = sum(int(re.search(r"(\d+) xruns", line)[1]) for line in lines)
    bench.measured(f"xruns in {count} turns", xruns, goal=0, unit="", limit=0)
    return waits


@connected
def test_twelve_turns_have_no_xrun(bench: Bench) -> None:
    waits = _turns(bench, 12)
    bench.measured("release to first sound, without the server's time", max(waits), goal=1.0, unit="s", limit=0.6)


def test_offline_turns_have_no_xrun(bench: Bench) -> None:
    waits = _turns(bench, 3)
    bench.measured("release to first sound of an offline answer, first turn", waits[0], goal=2.5, unit="s", limit=6)
    bench.measured(
        "release to first sound of an offline answer, later turns", max(waits[1:]), goal=2.5, unit="s", limit=4.5
    )
    bench.measured("RSS of the daemon with the offline brain", _rss_mb(bench.pid), goal=55, unit="MB", limit=76)
    recogniser_mb = max(map(_rss_mb, _children(bench.pid)))
    bench.measured("RSS of the recogniser", recogniser_mb, goal=150, unit="MB", limit=160)
