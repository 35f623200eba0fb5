"""Text and an image as input: the model gets a picture and answers in writing.

python examples/text_and_image.py [picture.png]

With OPENAI_API_KEY the model describes the picture. The offline brain accepts the picture but answers only the text.
"""

from __future__ import annotations

import asyncio
import struct
import sys
import zlib
from pathlib import Path

from appliance import RealtimeAgent, RealtimeSession, RealtimeSessionSettings

agent = RealtimeAgent(name="Eye", instructions="Say in one sentence what you see.")
settings = RealtimeSessionSettings(output_modalities=("text",))


def red_square(side: int = 64) -> bytes:
    """Return a PNG of a red square, so that the example needs no file."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = (b"\0" + b"\xff\0\0" * side) * side
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


async def main(url: str | None = None, *, picture: bytes | Path | None = None, question: str = "who are you") -> str:
    """Send a picture with a question; return the answer."""
    answer = ""
    async with RealtimeSession(agent, settings, url=url) as session:
        session.send_message("The user cannot hear now: write.", role="system", respond=False)
        session.send_image(picture or red_square(), text=question, detail="low")
        async for event in session:
            match event.type:
                case "answer_text" if event.is_final:
                    answer = event.text
                    print(f"{agent.name}: {answer}")
                case "error":
                    print(f"error: {event.message}")
                case "turn_end":
                    break
    return answer


if __name__ == "__main__":
    asyncio.run(main(picture=Path(sys.argv[1]) if sys.argv[1:] else None))
