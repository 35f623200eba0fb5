"""A program: run a device that finds no server and speaks, and print what its loop imported late."""

from __future__ import annotations

import asyncio
import json
import sys

from appliance.conversation.events import MuteSwitched
from appliance.hardware.pins import open_pin_factory
from appliance.service.app import Appliance
from appliance.settings import load_settings
from appliance.simulator.simulated_device import SIMULATED
from benchmarks.locks import LateImports
from tests.support.patience import patient


async def main() -> None:
    changes = {"link.base_url": "wss://localhost:9/v1", "link.fallbacks": ""}
    settings = load_settings(None, {}, overrides={**SIMULATED, **changes})
    pins = open_pin_factory("mock")
    appliance = Appliance(settings, environ={}, pin_factory=pins)
    late = LateImports()
    spoken = asyncio.Event()
    refused = asyncio.Event()

    def watch(now: float, event: object, commands: object, view: object) -> None:
        if late not in sys.meta_path:
            late.start()  # at the first event
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
    await asyncio.wait_for(spoken.wait(), patient(20))
    appliance.stop("done")
    await running
    sys.stdout.write(json.dumps(late.names) + "\n")


asyncio.run(main())
