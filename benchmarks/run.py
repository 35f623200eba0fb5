"""Print every figure that the project claims, next to those of its peers, measured on this machine in one run.

::

    .venv/bin/python -m benchmarks.run [--seconds 60] [--json FILE]

Three clients run in separate processes against one scripted server: this project's, ``openai-agents``' RealtimeSession,
and a bare loop of websockets and json. The machine may be busy, so compare columns of one run, not different runs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import capacity, idle, slow_board

CLIENTS = {"appliance": "ours", "openai-agents": "agents_sdk", "bare": "bare"}
IMPORTS = 5
TURNS = 3

ROWS = {
    "import_ms": "import, wall ms (best of {n})",
    "import_cpu_ms": "import, CPU ms (best of {n})",
    "import_peak_rss_mb": "peak RSS after import, MB",
    "duplex_rss_mb": "RSS after {s:g} s of duplex audio, MB",
    "duplex_peak_rss_mb": "peak RSS in duplex, MB",
    "duplex_cpu_percent": "CPU in duplex, % of a core",
    "received_s": "answer audio received in that time, s",
    "receive_us": "a received 100 ms delta, µs of CPU (best of {n})",
    "send_us": "a sent 20 ms chunk, µs of CPU (best of {n})",
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the duplex audio (default: %(default)g)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    arguments = parser.parse_args(argv)
    with server() as port:
        figures = {name: _client(module, port, arguments.seconds) for name, module in CLIENTS.items()}
        daemon = _least([_run("benchmarks.clients.ours", "daemon", "", "0") for _ in range(IMPORTS)])
        latency = _latency(port) | _locks()
        print("measuring the daemon at rest …", file=sys.stderr, flush=True)
        at_rest = idle.run(port)
    print("measuring the capacity of the offline brain …", file=sys.stderr, flush=True)
    sessions = capacity.run()
    print("measuring the start and an offline answer …", file=sys.stderr, flush=True)
    waits = slow_board.run()
    _print(figures, daemon, latency, arguments.seconds)
    print()
    idle.print_rows(at_rest)
    print()
    slow_board.print_rows(waits)
    print("\nThe offline brain, with one recogniser for each core:\n")
    capacity.print_rows(sessions)
    if arguments.json is not None:
        everything = {
            "clients": figures,
            "daemon": daemon,
            "latency": latency,
            "idle": at_rest,
            "slow_board": waits,
            "capacity": sessions,
        }
        arguments.json.write_text(json.dumps(everything, indent=2), encoding="utf-8")
    return 0


@contextmanager
def server() -> Iterator[int]:
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    assert server.stdin is not None
    try:
        yield int(server.stdout.readline())
    finally:
        server.stdin.close()
        server.stdout.close()
        server.wait(timeout=10)


def _run(module: str, *arguments: str) -> dict[str, Any]:
    # As in the daemon's unit, for all clients: numpy's OpenBLAS starts no threads. Compiled files are kept.
    environ = os.environ | {"OPENAI_AGENTS_DISABLE_TRACING": "1", "OPENBLAS_NUM_THREADS": "1"}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, env=environ, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{module} {arguments}: exit status {done.returncode}\n{done.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _client(module: str, port: int, seconds: float) -> dict[str, float]:
    name = f"benchmarks.clients.{module}"
    print(f"measuring {module} …", file=sys.stderr, flush=True)
    url = f"ws://127.0.0.1:{port}/v1/realtime?model=bench&seconds={seconds + 5}&pace=1&duplex=1"
    figures = _run(name, "duplex", url, str(seconds))
    figures |= _least([_run(name, "micro", url, "0") for _ in range(IMPORTS)])
    return figures | _least([_run(name, "import", url, "0") for _ in range(IMPORTS)])


def _least(runs: list[dict[str, float]]) -> dict[str, float]:
    return {key: min(run[key] for run in runs) for key in runs[0]}


def _latency(port: int) -> dict[str, str]:
    print("measuring latencies of the whole appliance …", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "arrivals"
        log.touch()
        url = f"ws://127.0.0.1:{port}/v1/realtime?model=bench&seconds=2&pace=0&delay=0.3&log={log}"
        return _run("benchmarks.latency", url, str(log))


def _locks() -> dict[str, str]:
    print("measuring holds of the interpreter lock …", file=sys.stderr, flush=True)
    figures = _run("benchmarks.locks", "--turns", str(TURNS))
    return {f"longest hold of the interpreter lock in {TURNS} turns, ms": f"{figures['longest_hold_ms']:.1f}"}


def _print(
    figures: dict[str, dict[str, float]], daemon: dict[str, float], latency: dict[str, str], seconds: float
) -> None:
    print(f"\n{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| | " + " | ".join(figures) + " |")
    print("|---|" + "---:|" * len(figures))
    for key, title in ROWS.items():
        cells = [f"{one[key]:.1f}" if key in one else "–" for one in figures.values()]
        print(f"| {title.format(n=IMPORTS, s=seconds)} | " + " | ".join(cells) + " |")
    ours = figures["appliance"]
    print(f"\nof which decoding a delta {ours['decode_us']:.1f} µs and encoding a chunk {ours['encode_us']:.1f} µs;")
    print("the column also counts the conversation, which the others lack; duplex also counts the card and resampling.")
    print(
        f"the whole daemon (tools, settings, pins): import {daemon['import_ms']:.0f} ms wall, "
        f"{daemon['import_cpu_ms']:.0f} ms CPU, {daemon['import_peak_rss_mb']:.1f} MB\n"
    )
    print("| the whole appliance, finger to wire and back | median |\n|---|---:|")
    for title, cell in latency.items():
        print(f"| {title} | {cell} |")
    print("\nThe peers have neither a button nor a loudspeaker, so these rows have no column for them.")


if __name__ == "__main__":
    sys.exit(main())
