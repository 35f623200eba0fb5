"""`appliance ask`: a signal ends it."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from appliance.errors import ApplianceError
from appliance.settings import load_settings
from appliance.simulator.ask import partner
from appliance.simulator.simulated_device import SIMULATED

UNREACHABLE = {"link.base_url": "ws://127.0.0.1:9/v1", "link.fallbacks": "", "audio.announcements": False}


async def test_signal_ends_a_turn_that_cannot_be_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.simulator.ask._READY_WAIT_S", 0.5)
    settings = load_settings(None, {}, overrides=SIMULATED | UNREACHABLE)
    with pytest.raises(ApplianceError, match="stopped by SIGINT"):
        async with asyncio.timeout(20), partner(settings=settings, environ={}) as talk:
            asyncio.get_running_loop().call_later(0.5, os.kill, os.getpid(), signal.SIGINT)
            await talk(bytes(48_000))
