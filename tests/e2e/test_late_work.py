"""What a running device must not do: import modules, or collect all garbage. Both stop every thread for long."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support.patience import patient

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


def figures_of(*module: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", *module], capture_output=True, text=True, timeout=patient(110), check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_turns_with_a_tool_a_history_and_a_trace_import_nothing_and_collect_nothing_old() -> None:
    figures = figures_of("benchmarks.locks", "--turns", "2")
    assert figures["outcomes"] == ["answered", "answered"]
    assert figures["late_imports"] == []
    assert figures["full_collections"] == 0


def test_connection_that_fails_and_an_announcement_import_nothing() -> None:
    assert figures_of("tests.support.late_imports") == []
