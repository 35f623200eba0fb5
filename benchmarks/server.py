"""The scripted server of the benchmarks, a separate process: the same frames for every client, at the same pace.

``python -m benchmarks.server`` prints its port, then serves until its standard input closes. The query of the URL
selects the answer: ``seconds`` of audio in deltas of 100 ms, in real time (``pace=1``) or as fast as the socket takes
them (``pace=0``), starting ``delay`` seconds after the request. With ``duplex=1`` the answer starts at the first
append and cannot be cancelled. With ``log=FILE`` the server logs the arrival of each frame in monotonic seconds, a
clock that all processes share.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
import time
from array import array
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from appliance.brain.model import Effect, EmitFrame, Generate, ServerModel

DELTA = array("h", [round(8000 * math.sin(math.tau * 500 * i / 24_000)) for i in range(2400)]).tobytes()  # 100 ms
DELTA_S = 0.1


class Script:
    """One connection: a real `ServerModel` with a generator of fixed pace."""

    def __init__(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        query = parse_qs(urlsplit(connection.request.path).query)
        self._connection = connection
        self._seconds = float(query.get("seconds", ["1"])[0])
        self._is_paced = query.get("pace", ["1"])[0] == "1"
        self._is_duplex = query.get("duplex", ["0"])[0] == "1"
        self._delay_s = float(query.get("delay", ["0"])[0])
        log = query.get("log", [""])[0]
        self._log = Path(log).open("a", encoding="utf-8") if log else None  # noqa: SIM115 - closed in serve()
        self._model = ServerModel(
            session_id="sess_bench", model="bench", now=time.monotonic(), wall_s=0, wait_for_transcripts=False
        )
        self._speaking: list[asyncio.Task[None]] = []
        self._has_begun = False

    async def serve(self) -> None:
        try:
            await self._carry_out(self._model.connect(time.monotonic()))
            async for frame in self._connection:
                now = time.monotonic()
                assert isinstance(frame, str)
                if frame.startswith('{"type":"input_audio_buffer.append"') or '"input_audio_buffer.append"' in frame:
                    await self._on_audio(now)
                    if self._is_duplex:
                        continue  # a minute of audio would only fill the model's buffer
                else:
                    name = json.loads(frame)["type"]
                    self._write(name, now)
                    if self._is_duplex and name == "response.cancel":
                        continue
                await self._carry_out(self._model.receive(frame, now))
        except ConnectionClosed:
            pass
        finally:
            for task in self._speaking:
                task.cancel()
            if self._log is not None:
                self._log.close()

    async def _on_audio(self, now: float) -> None:
        self._write("input_audio_buffer.append", now)
        if self._is_duplex and not self._has_begun:
            self._has_begun = True
            await self._carry_out(self._model.receive('{"type":"response.create"}', now))

    def _write(self, name: str, now: float) -> None:
        if self._log is not None:
            self._log.write(json.dumps([name, now]) + "\n")
            self._log.flush()

    async def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, EmitFrame):
                if effect.frame["type"] == "response.output_audio.delta":
                    self._write("sent delta", time.monotonic())
                await self._connection.send(json.dumps(effect.frame, default=str))
            elif isinstance(effect, Generate):
                self._speaking.append(asyncio.create_task(self._speak(effect.response_id)))

    async def _speak(self, response_id: str) -> None:
        await asyncio.sleep(self._delay_s)
        start = time.monotonic()
        for index in range(int(self._seconds / DELTA_S)):
            if self._is_paced:
                await asyncio.sleep(max(0.0, start + index * DELTA_S - time.monotonic()))
            await self._carry_out(self._model.response_audio(response_id, "word ", DELTA))
        await self._carry_out(self._model.finish_response(response_id, now=time.monotonic()))


async def _main() -> None:
    async def handle(connection: ServerConnection) -> None:
        await Script(connection).serve()

    async with serve(handle, "127.0.0.1", 0, compression=None, max_size=None) as server:
        print(next(iter(server.sockets)).getsockname()[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_main())
