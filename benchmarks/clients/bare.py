"""The lower bound: websockets and json, without any client logic."""

from __future__ import annotations

import sys

from benchmarks.clients import measure


def _load() -> None:
    import asyncio
    import base64
    import json

    import websockets.asyncio.client  # noqa: F401

    _ = asyncio, base64, json


def run(mode: str, url: str, seconds: float) -> dict[str, float]:
    figures = measure.timed_import(_load)
    if mode == "duplex":
        import asyncio

        figures |= asyncio.run(_duplex(url, seconds))
    elif mode == "micro":
        figures |= _micro()
    return figures


async def _duplex(url: str, seconds: float) -> dict[str, float]:
    import asyncio
    import base64
    import json

    from websockets.asyncio.client import connect

    received = 0
    async with connect(url, compression=None, max_size=None) as socket:
        load = measure.Load()

        async def send() -> None:
            loop = asyncio.get_running_loop()
            start, block = loop.time(), bytes(960)
            for index in range(int(seconds * 50)):
                await asyncio.sleep(max(0.0, start + index * 0.02 - loop.time()))
                frame = {"type": "input_audio_buffer.append", "audio": base64.b64encode(block).decode()}
                await socket.send(json.dumps(frame))

        async def receive() -> None:
            nonlocal received
            async for message in socket:
                frame = json.loads(message)
                if frame["type"] == "response.output_audio.delta":
                    received += len(base64.b64decode(frame["delta"]))

        reader = asyncio.create_task(receive())
        await send()
        figures = load.figures()
        reader.cancel()
    return figures | {"received_s": received / 48_000}


def _micro() -> dict[str, float]:
    import base64
    import json

    from benchmarks.clients.frames import delta_frame

    frame, block = delta_frame(), bytes(960)
    return {
        "receive_us": measure.per_call_us(lambda: base64.b64decode(json.loads(frame)["delta"]), 3000),
        "send_us": measure.per_call_us(
            lambda: json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(block).decode()}), 10_000
        ),
    }


if __name__ == "__main__":
    measure.report(run(sys.argv[1], sys.argv[2], float(sys.argv[3])))
