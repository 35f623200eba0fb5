"""A program: run a device, let it reach for a server that is not there and speak, and print what it imported late."""

from __future__ import annotations

import asyncio
import json
import sys

from appliance.conversation.events import MuteSwitched
from appliance.hardware.pins import open_pin_factory
from appliance.service.app import Appliance
from appliance.settings import load_settings
from appliance.simulator.simulated_device import SIMULATED


async def main() -> None:
    changes = {"link.base_url": "wss://localhost:9/v1", "link.fallbacks": ""}
    settings = load_settings(None, {}, overrides={**SIMULATED, **changes})
    pins = open_pin_factory("mock")
    appliance = Appliance(settings, environ={}, pin_factory=pins)
    loaded: set[str] = set()
    spoken = asyncio.Event()
    refused = asyncio.Event()

    def watch(now: float, event: object, commands: object, view: object) -> None:
        if not loaded:
            loaded.update(sys.modules)  # at the first event, right after READY=1
        if type(event).__name__ == "LinkDown":
            refused.set()

    appliance.observe(watch)
    running = asyncio.create_task(appliance.run())
    await refused.wait()
    assert appliance.audio is not None
    appliance.audio.say = lambda epoch, pcm16: spoken.set()  # type: ignore[method-assign]
    appliance.post(MuteSwitched(True))
    await asyncio.sleep(0.1)
    pins.pin(settings.button.pin).drive_low()
    await asyncio.wait_for(spoken.wait(), 20)
    appliance.stop("done")
    await running
    sys.stdout.write(json.dumps(sorted(set(sys.modules) - loaded)) + "\n")


asyncio.run(main())
