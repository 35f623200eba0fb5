"""A process that says many sentences to one simulated device: JSON in, JSON lines out (see test_ask_accuracy)."""

from __future__ import annotations

import asyncio
import json
import sys

from appliance.settings import load_settings
from appliance.simulator.ask import partner
from appliance.simulator.simulated_device import DEFAULT_PINS, SIMULATED, speak


async def main() -> None:
    settings = load_settings(
        None, {}, None, overrides={**SIMULATED, **DEFAULT_PINS, "audio.announcements": False, "deadlines.answer_s": 120}
    )
    async with partner(settings=settings, environ={}) as talk:
        for text, voice in json.loads(sys.stdin.read()):
            answer = await talk(await speak(text, voice=voice))
            row = answer.as_json() | {"said": text, "voice": voice, "was_answered": answer.was_answered}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
