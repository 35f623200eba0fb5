"""How a server may differ from `brain.model`: the frames it leaves out, and the pieces and order of audio. Pure."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ["STRAYS", "Dialect", "Rewriter", "stray_frames"]


@dataclass(frozen=True)
class Dialect:
    """The differences; the default has none."""

    echoes_metadata: bool = True
    """Responses carry the metadata of their request."""
    announces: bool = True
    """The server sends ``response.created``; without it, a client cannot always know the agent of a response."""
    cuts_samples: bool = False
    """Pieces of audio end within a sample."""
    audio_is_late: bool = False
    """The audio of a response that makes no calls follows its ``response.done``."""

    @property
    def tells_owner(self) -> bool:
        """A client can tell its own responses from those of others."""
        return self.echoes_metadata and self.announces


@dataclass
class Rewriter:
    """Turns the frames of a `ServerModel` into those of a dialect."""

    dialect: Dialect
    late: dict[str, list[dict[str, Any]]] = field(default_factory=dict, repr=False)
    """Response id → its audio frames that follow later."""

    def rewrite(self, frame: dict[str, Any]) -> Iterator[dict[str, Any]]:
        match frame["type"]:
            case "response.created" | "response.done":
                if not self.dialect.echoes_metadata:
                    frame = {**frame, "response": {**frame["response"], "metadata": None}}
                late = self.late.pop(frame["response"]["id"], [])
                if frame["type"] == "response.done" or self.dialect.announces:
                    has_calls = any(item["type"] == "function_call" for item in frame["response"]["output"])
                    yield from [*late, frame] if has_calls else [frame, *late]
            case "response.output_audio.delta" | "response.output_audio.done":
                pieces = self._cut(frame)
                if self.dialect.audio_is_late:
                    self.late.setdefault(frame["response_id"], []).extend(pieces)
                else:
                    yield from pieces
            case "response.output_item.added":
                yield from self.late.pop(frame["response_id"], [])
                yield frame
            case _:
                yield frame

    def _cut(self, frame: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield a frame in pieces: one byte, a piece that starts and ends within a sample, and the rest."""
        if not self.dialect.cuts_samples or "delta" not in frame:
            yield frame
            return
        pcm = base64.b64decode(frame["delta"])
        middle = len(pcm) // 4 * 2 + 1
        for piece in (pcm[:1], pcm[1:middle], pcm[middle:]):
            yield {**frame, "delta": base64.b64encode(piece).decode()}


STRAYS = ("created", "nameless created", "done", "nameless done", "audio")
"""Frames of responses that the client has never heard of."""


def stray_frames(kind: str, number: int) -> list[dict[str, Any]]:
    """Return the frames of a response that nobody requested; a nameless one has no id at all."""
    response_id, item_id = f"resp_stray_{number}", f"item_stray_{number}"
    name, is_nameless = kind.split()[-1], kind.startswith("nameless")
    response = {"object": "realtime.response", "status": "completed", "output": [], "conversation_id": "conv_stray"}
    if name != "audio":
        return [{"type": f"response.{name}", "response": response if is_nameless else {"id": response_id, **response}}]
    place = {"response_id": response_id, "item_id": item_id, "output_index": 0, "content_index": 0}
    return [
        {"type": "response.output_audio_transcript.delta", **place, "delta": "Nobody asked."},
        {"type": "response.output_audio.delta", **place, "delta": base64.b64encode(b"\1\2" * 480).decode()},
    ]
