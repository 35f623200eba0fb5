"""Helpers for the region tests: build an outbox and read its commands by kind."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

from appliance.agents.spec import AgentSpec
from appliance.conversation.commands import Command, Emit, Send
from appliance.conversation.events import AudioCaptured
from appliance.conversation.notices import Notice
from appliance.conversation.support.outbox import Outbox

PERIOD_FRAMES = 480
LOUD_DB, QUIET_DB = -18.0, -70.0


def linked() -> Outbox:
    """Return an outbox whose frames go to link 1."""
    out = Outbox()
    out.link = 1
    return out


def frames(commands: Sequence[Command]) -> list[dict[str, Any]]:
    """Return the frames sent, as wire objects."""
    return [one.event.to_wire() for one in commands if isinstance(one, Send)]


def notices(commands: Sequence[Command]) -> list[Notice]:
    return [one.notice for one in commands if isinstance(one, Emit)]


def period(sample: int = 4000, level_db: float = LOUD_DB) -> AudioCaptured:
    """Return 20 ms of microphone audio with every sample set to `sample`."""
    return AudioCaptured(array("h", [sample] * PERIOD_FRAMES).tobytes(), abs(sample), level_db)


def spec(agent: str = "ann", **more: Any) -> AgentSpec:
    return AgentSpec(**({"agent": agent, "session": {"type": "realtime", "instructions": f"You are {agent}."}} | more))
