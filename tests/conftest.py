"""Shared test setup: no Hypothesis deadline (a loaded machine is not a bug) and a clean environment."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

settings.register_profile("appliance", deadline=None)
settings.load_profile("appliance")


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove this machine's keys and settings from the environment of the tests."""
    for name in list(os.environ):
        if name.startswith(("APPLIANCE_", "OPENAI_")) or name in {"NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY"}:
            monkeypatch.delenv(name)
