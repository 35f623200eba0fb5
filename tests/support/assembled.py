"""A device assembled from settings, with what its composition root handed to each part."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.audio.backends.simulated import SimulatedBackend
from appliance.hardware.pins import open_pin_factory
from appliance.service import app
from appliance.service.app import Appliance
from appliance.service.systemd import Notifier
from appliance.settings import load_settings

__all__ = ["Parts", "assembled"]

_CALLED = (
    "AgentRuntime AudioStreams Conversation DeviceParts Driver InputReports Light LocalAnnouncer "
    "MutedMicrophone NamedInput NamedOutput PowerSwitch StatusLine Timers TraceRecorder Watchdog open_buttons "
    "open_contacts open_outputs open_switches open_wording"
)
"""Parts that are built for real."""


class Parts:
    """Name of each part → the arguments that built it, by name and with its defaults; the last one of each name."""

    def __init__(self) -> None:
        self._calls: dict[str, dict[str, Any]] = {}
        self.built: dict[str, Any] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._calls

    def __getitem__(self, name: str) -> dict[str, Any]:
        return self._calls[name]

    def record(self, name: str, make: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that builds the part as `make` does, and keeps the arguments."""
        signature = inspect.signature(make)

        def call(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            self._calls[name] = bound.arguments | bound.arguments.get("options", {}) | bound.arguments.get("wiring", {})
            self.built[name] = make(*args, **kwargs)
            return self.built[name]

        return call


def _transport(name: str, endpoints: Any, *, post: Any, **options: Any) -> Any:
    return SimpleNamespace(has_room=True)


def _backend(name: str, **options: Any) -> SimulatedBackend:
    return SimulatedBackend(rate=48_000, period_ms=20)


def _pins(name: str, **options: Any) -> Any:
    return open_pin_factory("mock")


async def assembled(folder: Path, overrides: Mapping[str, object], environ: Mapping[str, str]) -> Parts:
    """Assemble a device whose settings file is in `folder`; its card, pins and transport are simulated."""
    parts = Parts()
    file = folder / "appliance.toml"
    file.touch()
    environ = {**environ, "CREDENTIALS_DIRECTORY": str(folder / "credentials")}
    with pytest.MonkeyPatch.context() as patch:
        for name in _CALLED.split():
            patch.setattr(app, name, parts.record(name, getattr(app, name)))
        for name, fake in (("open_transport", _transport), ("open_backend", _backend), ("open_pin_factory", _pins)):
            patch.setattr(app, name, parts.record(name, fake))
        from appliance.service import store

        patch.setattr(store, "ConversationStore", parts.record("ConversationStore", store.ConversationStore))
        settings = load_settings(file, environ, folder / "credentials", overrides=overrides)
        state = Path(settings.service.state_dir or folder / "state")
        device = Appliance(settings, environ=environ, state_dir=state)
        async with AsyncExitStack() as stack:
            await device._assemble(stack, Notifier({}))
    return parts
