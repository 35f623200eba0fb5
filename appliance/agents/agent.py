"""What the assistant is: its name, what it is told, what it can do. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from appliance.agents.tools import Tool
from appliance.errors import ToolError

__all__ = ["RealtimeAgent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RealtimeAgent:
    """An assistant for a speech-to-speech model.

    Raises:
        ToolError: Two tools have the same name.
    """

    name: str
    instructions: str = ""
    tools: Sequence[Tool] = ()
    voice: str = ""
    """"" takes the session's voice."""

    def __post_init__(self) -> None:
        twice = sorted(name for name, count in Counter(one.name for one in self.tools).items() if count > 1)
        if twice:
            raise ToolError(f"agent {self.name!r}: two tools are named {', '.join(twice)}; give each its own name")
