"""The reference: `RealtimeSession` of the openai-agents package, as its documentation uses it."""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.clients import measure


def _load() -> None:
    import agents.realtime  # noqa: F401


def run(mode: str, url: str, seconds: float) -> dict[str, float]:
    figures = measure.timed_import(_load)
    if mode == "duplex":
        import asyncio

        figures |= asyncio.run(_duplex(url, seconds))
    elif mode == "micro":
        import asyncio

        figures |= asyncio.run(_micro())
    return figures


async def _duplex(url: str, seconds: float) -> dict[str, float]:
    import asyncio

    from agents.realtime import RealtimeAgent, RealtimeRunner

    runner = RealtimeRunner(RealtimeAgent(name="bench", instructions="x"), config={"tracing_disabled": True})
    session = await runner.run(model_config={"url": url, "api_key": "sk-local"})
    received = 0
    async with session:
        load = measure.Load()

        async def receive() -> None:
            nonlocal received
            async for event in session:
                if event.type == "audio":
                    received += len(event.audio.data)

        reader = asyncio.create_task(receive())
        loop = asyncio.get_running_loop()
        start, block = loop.time(), bytes(960)
        for index in range(int(seconds * 50)):
            await asyncio.sleep(max(0.0, start + index * 0.02 - loop.time()))
            await session.send_audio(block)
        figures = load.figures()
        reader.cancel()
    return figures | {"received_s": received / 48_000}


class _Sink:
    """Replaces the socket, so that only the SDK's own work is timed."""

    async def send(self, frame: str) -> None:
        pass


async def _micro() -> dict[str, float]:
    import json

    from agents.realtime.model_inputs import RealtimeModelSendAudio
    from agents.realtime.openai_realtime import OpenAIRealtimeWebSocketModel

    from benchmarks.clients.frames import delta_frame

    model: Any = OpenAIRealtimeWebSocketModel()
    model._websocket = _Sink()
    frame, block = delta_frame(), bytes(960)

    def drive(coroutine: Any) -> None:
        try:
            coroutine.send(None)
        except StopIteration:
            return
        raise AssertionError("the call waited for something")

    return {
        "receive_us": measure.per_call_us(lambda: drive(model._handle_ws_event(json.loads(frame))), 2000),
        "send_us": measure.per_call_us(
            lambda: drive(model.send_event(RealtimeModelSendAudio(audio=block, commit=False))), 5000
        ),
    }


if __name__ == "__main__":
    measure.report(run(sys.argv[1], sys.argv[2], float(sys.argv[3])))
