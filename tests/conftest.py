"""Shared test setup: Hypothesis without deadlines (a loaded machine is not a bug) and with the same examples in each
run (a change is judged by what it changes), time limits for this machine, a clean environment, and a folder for modules
that the appliance imports.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.patience import patient

settings.register_profile("appliance", deadline=None, derandomize=True)
settings.load_profile("appliance")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--hours", type=float, default=24.0, help="length of the soak, in hours of virtual time")
    parser.addoption("--seed", type=int, default=1, help="seed of the soak")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Lengthen the time limit of each test on a slow machine, unless the command line has one."""
    for item in items if config.getoption("timeout") is None else ():
        own = item.get_closest_marker("timeout")
        seconds = float(own.args[0] if own is not None else config.getini("timeout"))
        item.add_marker(pytest.mark.timeout(patient(seconds)), append=False)


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove this machine's keys and settings from the environment of the tests."""
    for name in list(os.environ):
        if name.startswith(("APPLIANCE_", "OPENAI_")) or name in {"NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY"}:
            monkeypatch.delenv(name)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Yield the folder of a settings file; afterwards, remove modules imported from it."""
    before, path = set(sys.modules), list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run in the time zone UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()
