"""What all tests share: no time limit on a Hypothesis example (a loaded machine is no bug), and a clean environment."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

settings.register_profile("appliance", deadline=None)
settings.load_profile("appliance")


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key or a setting of whoever runs the tests must not decide what they do."""
    for name in list(os.environ):
        if name.startswith(("APPLIANCE_", "OPENAI_")) or name in {"NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY"}:
            monkeypatch.delenv(name)
