"""What the workflow of a voice pipeline gets: words, calls and their outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from appliance.speech.phrases import PhraseBook

__all__ = ["BOOK", "TOOLS", "call", "output", "said", "user"]


BOOK = PhraseBook.load(Path(__file__).parents[2] / "config" / "phrases", "en")

TOOLS = [{"type": "function", "name": name} for name in ("set_lamp", "set_volume", "get_volume", "get_time")]


def user(text: str, kind: str = "input_text") -> dict[str, Any]:
    key = "transcript" if kind == "input_audio" else "text"
    return {"type": "message", "role": "user", "content": [{"type": kind, key: text}]}


def said(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_audio", "transcript": text}]}


def call(name: str, call_id: str = "c1", **arguments: Any) -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": json.dumps(arguments)}


def output(text: Any, call_id: str = "c1") -> dict[str, Any]:
    told = text if isinstance(text, str) else json.dumps(text)
    return {"type": "function_call_output", "call_id": call_id, "output": told}
