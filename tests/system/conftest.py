"""Runs each test of this folder with an argument `bench` in a virtual machine of its own, from a snapshot.

The test's module is copied into the machine, so it may import only `bench` and what the appliance installs.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import time
from collections.abc import Generator, Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr

from appliance.audio.pcm import WIRE_RATE
from appliance.speech.phrases import PhraseBook
from appliance.speech.stt.sphinx import SphinxSpeechToText
from tests.system.guest import BOOTED, PYTHON, Guest

_HERE = Path(__file__).parent


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", metafunc.function.cases)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker("system")
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def machine() -> Path:
    """The folder of the built machine."""
    if not (named := os.environ.get("SYSTEM_TEST_MACHINE")):
        pytest.skip("needs a virtual machine: run ./scripts/test-system")
    return Path(named)


@pytest.fixture
def artefacts(machine: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder of this test for logs; removed if it passes."""
    folder = machine / "failed" / request.node.name.replace("/", "_")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    yield folder
    if not getattr(request.node, "has_failed", False):
        shutil.rmtree(folder)


@pytest.fixture
def disk(machine: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the booted machine's disk."""
    path = tmp_path / BOOTED
    shutil.copyfile(machine / BOOTED, path)
    yield path
    path.unlink()


@pytest.fixture
def guest(machine: Path, disk: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Guest]:
    """A machine that was booted and whose service rests."""
    snapshot = getattr(request.function, "snapshot", "booted")
    with Guest(machine, disk, tmp_path, snapshot=snapshot) as one:
        yield one


@pytest.fixture
def bench(guest: Guest, artefacts: Path) -> tuple[Guest, Path]:
    """The place of the test; the test itself gets a `bench.Bench`, in the machine."""
    return guest, artefacts


def run_in(guest: Guest, test: Path, name: str, keywords: dict[str, str]) -> tuple[int, str, dict[str, Any]]:
    """Run a function of a test module in the machine; return its status, its output, and what `bench` collected."""
    paths = (_HERE / "bench.py", _HERE / "far_side.py", test)
    guest.copy({"tests/__init__.py": "", **{f"tests/system/{path.name}": path.read_text() for path in paths}})
    command = f"{PYTHON} -m tests.system.bench tests.system.{test.stem} {name} '{json.dumps(keywords)}'"
    status, output = guest.run("/bin/sh", "-c", f"cd /run/bench && exec {command}", timeout_s=1200)
    printed, _, collected = output.rstrip().rpartition("\n{")
    if not collected:
        return status, output, {"measures": [], "speech": []}
    collected, _, traceback = collected.partition("\n")
    return status, printed + traceback, json.loads("{" + collected)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.has_failed = getattr(item, "has_failed", False) or report.failed  # type: ignore[attr-defined]
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if "bench" not in signature(pyfuncitem.function).parameters:
        return None
    guest, folder = pyfuncitem.funcargs["bench"]
    keywords = {"case": pyfuncitem.funcargs["case"]} if "case" in pyfuncitem.fixturenames else {}
    began = time.monotonic()
    status, output, collected = run_in(guest, pyfuncitem.path, pyfuncitem.originalname, keywords)
    pyfuncitem.user_properties.append(("measures", json.dumps(collected["measures"])))
    missed = [
        f"{one['name']}: {one['value']:.2f}, limit {one['limit']}" for one in filter(_is_missed, collected["measures"])
    ]
    for number, one in enumerate(collected["speech"]):
        if problem := _misheard(**one):
            missed.append(problem)
            (folder / f"misheard_{number}_{one['rate']}.raw").write_bytes(base64.b64decode(one["pcm"]))
    if status or missed:
        journal = guest.run("/bin/sh", "-c", "journalctl --boot --no-pager")[1]
        (folder / "journal.txt").write_text(journal)
        shutil.copy(guest.console, folder)
        last = "\n".join(journal.splitlines()[-40:])
        pytest.fail(
            f"{output}\n{chr(10).join(missed)}\nthe journal ends:\n{last}\n"
            f"the journal and the console's log: {folder} ({time.monotonic() - began:.0f} s)",
            pytrace=False,
        )
    return True


def _is_missed(measure: dict[str, Any]) -> bool:
    return measure["limit"] is not None and measure["value"] > measure["limit"]


def _misheard(text: str, rate: int, pcm: str) -> str:
    """Return what is wrong with a sound that must be a sentence; "" if nothing is."""
    recorded = np.frombuffer(base64.b64decode(pcm), "<i2")
    loud = np.flatnonzero(np.abs(recorded.astype(np.int32)) > 100)
    around = recorded[max(loud[0] - rate // 5, 0) : loud[-1] + rate // 5]  # digital silence confuses the recogniser
    samples = soxr.resample(around, rate, WIRE_RATE).astype("<i2")
    book = PhraseBook.load(Path(__file__).parents[2] / "config" / "phrases", "en")
    heard = SphinxSpeechToText(book).understand(samples.tobytes(), []).text
    return "" if heard == text else f"{text!r} sounds like {heard!r}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows = []
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        rows += [one for key, text in report.user_properties if key == "measures" for one in json.loads(text)]
    if rows and report.when:
        terminalreporter.section("budgets, in the time of a core of 500 million instructions a second")
        for one in rows:
            limit = "-" if one["limit"] is None else f"{one['limit']:g}"
            terminalreporter.line(
                f"{one['name']:<58} {one['value']:9.2f} {one['unit']:<4} goal {one['goal']:g}, limit {limit}"
            )
