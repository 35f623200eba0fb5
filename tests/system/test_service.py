"""The service under systemd: killed, without power, with a clock that jumps."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tests.system.bench import ANSWER, Bench, cases, connected

_DATABASE = "/var/lib/voice-appliance/conversation.db"


@connected
def test_killed_service_is_started_again(bench: Bench) -> None:
    before, began = bench.pid, time.monotonic()
    os.kill(before, signal.SIGKILL)
    bench.wait(lambda: bench.is_restarted, "the service runs again")
    bench.measured("SIGKILL to READY", time.monotonic() - began, goal=10.0, unit="s", limit=6.0)
    bench.at_rest()
    assert bench.show("NRestarts") == "1"
    assert " answered: " in bench.turn("lamp on")


@connected
@cases("forwards", "backwards")
def test_clock_that_jumps_changes_no_turn(bench: Bench, case: str) -> None:
    bench.answers(repeats=3, thinking_s=2.0)
    way = "+" if case == "forwards" else "-"
    now = int(time.time())
    for state in ("listening", "thinking", "speaking"):
        if state == "listening":
            bench.press()
        elif state == "thinking":
            bench.say("lamp on")
            bench.release()
        bench.until_status(state)
        now += 86_400 if way == "+" else -86_400
        bench.sh(f"date --set @{now}")
    bench.wait(lambda: bench.turns(), "the turn ended", step_s=0.1)
    assert " answered: " in bench.turns()[0]
    bench.at_rest()
    assert " answered: " in bench.turn("lamp on")
    assert bench.show("NRestarts") == "0"


def until_a_turn_is_written(bench: Bench) -> None:
    """Have two turns; return while the second one is written to the disk. `test_power` then cuts the power."""
    bench.restart(APPLIANCE_HISTORY__PERSIST="true")
    bench.until_status("connected to")
    bench.turn("lamp on")
    time.sleep(1)
    os.sync()
    before = _written()
    bench.ask("lamp on")
    bench.wait(lambda: _written() != before, "the turn is written", step_s=0.002)


def _written() -> list[tuple[str, int]]:
    return [(path.name, path.stat().st_mtime_ns) for path in sorted(Path(_DATABASE).parent.glob("conversation.db*"))]


def look_after_the_power_cut(bench: Bench) -> None:
    import sqlite3

    bench.wait(lambda: bench.is_active, "the service is active", within_s=60, step_s=0.5)
    assert not bench.sh("systemctl --failed --no-legend --plain")
    with sqlite3.connect(_DATABASE) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        items = database.execute("SELECT item FROM items ORDER BY position").fetchall()
    assert len(items) >= 2, "the turn before the power cut is kept"
    assert "seconds" in items[0][0]
    assert ANSWER in items[1][0]
    assert not [line for line in bench.journal if "without it" in line]
