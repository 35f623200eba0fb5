"""Literal frames for the micro measurements."""

from __future__ import annotations

import base64
import json


def delta_frame(response_id: str = "resp_1") -> str:
    """Return 100 ms of answer audio, as the live service sends it (with its padding key)."""
    return json.dumps(
        {
            "type": "response.output_audio.delta",
            "event_id": "event_0123456789abcdefghijk",
            "response_id": response_id,
            "item_id": "item_0123456789abcdefghijk",
            "output_index": 0,
            "content_index": 0,
            "delta": base64.b64encode(bytes(range(240)) * 20).decode("ascii"),
            "obfuscation": "x1Yz93k",
        }
    )
