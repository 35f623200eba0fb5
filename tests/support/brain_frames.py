"""Requests to a `ServerModel`, and a tool that it offers."""

from __future__ import annotations

from typing import Any

from appliance.brain.model import GenerationRequest
from tests.support.served import Served

__all__ = ["LAMP", "request_of"]


LAMP: dict[str, Any] = {
    "type": "function",
    "name": "set_lamp",
    "description": "Switch the lamp.",
    "parameters": {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]},
}


def request_of(served: Served, response_id: str) -> GenerationRequest:
    return served.generating[response_id].request
