"""A Realtime server behind a cable that can be pulled; keeps what it heard. Runs in the machine, in its own network.

    python -m tests.system.far_side ANSWER.wav

Each answer is the WAV file, several times, sent twice as fast as it sounds; its transcript is the name of the file.
Before it the server thinks. With a tool, the next response calls it. `/run/bench/far.json` says so: `repeats`,
`thinking_s`, `tool`. `/run/bench/heard.raw` is the sound of the last turn, `/run/bench/far.log` what happened.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
import wave
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from websockets.asyncio.server import ServerConnection, serve

ADDRESS = "10.77.0.2"
PORT = 8790
_RATE = 24_000
_DELTA_S = 0.2
_FOLDER = Path("/run/bench")


class FarSide:
    """The server's one session at a time; a new connection knows nothing of the one before."""

    def __init__(self, answer: Path) -> None:
        with wave.open(str(answer)) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
            narrow = soxr.resample(samples, file.getframerate(), _RATE)
        self._answer = narrow.astype("<i2").tobytes()
        self._text = answer.stem.replace("_", " ")
        self._count = 0
        self._last: str | None = None
        """The conversation's last item."""
        self._heard = b""

    async def serve(self, connection: ServerConnection) -> None:
        session = {"type": "realtime", "object": "realtime.session", "id": "sess_1", "model": "far"}
        await self._send(connection, type="session.created", session=session)
        self._note("connected")
        tasks = set()
        try:
            async for text in connection:
                frame = json.loads(text)
                if frame["type"] == "input_audio_buffer.append":
                    if not self._heard:
                        self._note("heard")
                    self._heard += base64.b64decode(frame["audio"])
                    continue
                self._note(frame["type"])
                match frame["type"]:
                    case "input_audio_buffer.commit":
                        (_FOLDER / "heard.raw").write_bytes(self._heard)
                        await self._commit(connection)
                    case "response.create":
                        tasks.add(asyncio.create_task(self._respond(connection, frame)))
                    case "response.cancel":
                        for task in tasks:
                            task.cancel()
        finally:
            for task in tasks:
                task.cancel()

    async def _commit(self, connection: ServerConnection) -> None:
        """Make the sound an item of the conversation; its transcript is its length, because nobody listens here."""
        text, self._heard = f"{len(self._heard) / 2 / _RATE:.1f} seconds", b""
        previous = self._last
        item = self._message("user", {"type": "input_audio", "transcript": None}, status="completed")
        await self._send(connection, type="input_audio_buffer.committed", item_id=item["id"], previous_item_id=previous)
        await self._send(connection, type="conversation.item.done", item=item, previous_item_id=previous)
        kind = "conversation.item.input_audio_transcription.completed"
        usage = {"type": "duration", "seconds": 1}
        await self._send(connection, type=kind, item_id=item["id"], content_index=0, transcript=text, usage=usage)

    def _message(self, role: str, *content: dict[str, Any], status: str) -> dict[str, Any]:
        self._last = self._id("item")
        return {"id": self._last, "type": "message", "role": role, "status": status, "content": list(content)}

    async def _respond(self, connection: ServerConnection, asked: dict[str, Any]) -> None:
        way = json.loads((_FOLDER / "far.json").read_text())
        await asyncio.sleep(way["thinking_s"])
        response = {"id": self._id("resp"), "object": "realtime.response", "status": "in_progress", "output": []}
        response |= {"metadata": asked.get("response", {}).get("metadata"), "status_details": None, "usage": None}
        item = {"response_id": response["id"], "output_index": 0}
        await self._send(connection, type="response.created", response=response)
        if way["tool"]:
            (_FOLDER / "far.json").write_text(json.dumps(way | {"tool": ""}))
            done = {"id": self._id("item"), "type": "function_call", "status": "completed", "name": way["tool"]}
            done |= {"call_id": self._id("call"), "arguments": "{}"}
        else:
            message = self._message("assistant", status="in_progress")
            await self._send(connection, type="response.output_item.added", item=message, **item)
            await self._speak(connection, way["repeats"], item | {"item_id": message["id"], "content_index": 0})
            content = [{"type": "output_audio", "transcript": self._text}]
            done = message | {"status": "completed", "content": content}
        await self._send(connection, type="response.output_item.done", item=done, **item)
        await self._send(
            connection, type="response.done", response=response | {"status": "completed", "output": [done]}
        )
        self._note("answered")

    async def _speak(self, connection: ServerConnection, repeats: int, part: dict[str, Any]) -> None:
        step = 2 * int(_RATE * _DELTA_S)
        sound = self._answer * repeats
        for start in range(0, len(sound), step):
            delta = base64.b64encode(sound[start : start + step]).decode()
            await self._send(connection, type="response.output_audio.delta", delta=delta, **part)
            await asyncio.sleep(_DELTA_S / 2)
        await self._send(connection, type="response.output_audio.done", **part)
        await self._send(connection, type="response.output_audio_transcript.done", transcript=self._text, **part)

    async def _send(self, connection: ServerConnection, **frame: Any) -> None:
        await connection.send(json.dumps({"event_id": self._id("event"), **frame}))

    def _id(self, kind: str) -> str:
        self._count += 1
        return f"{kind}_{self._count}"

    def _note(self, what: str) -> None:
        with (_FOLDER / "far.log").open("a") as file:
            file.write(f"{time.monotonic():.3f} {what}\n")


async def _main(answer: str) -> None:
    one = FarSide(Path(answer))
    async with serve(one.serve, ADDRESS, PORT) as server:
        one._note("listening")
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
