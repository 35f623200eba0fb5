"""`RealtimeAgent`: required fields and name checks."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from appliance.agents.agent import RealtimeAgent
from appliance.agents.tools import tool
from appliance.errors import ToolError


@tool
def ping() -> str:
    return "pong"


def test_agent_needs_only_a_name() -> None:
    agent = RealtimeAgent(name="Shelf")
    assert (agent.instructions, tuple(agent.tools), agent.voice) == ("", (), "")


def test_duplicate_tool_name_is_refused() -> None:
    other = tool(name="ping")(lambda: None)
    with pytest.raises(ToolError, match="ping"):
        RealtimeAgent(name="Shelf", tools=[ping, other])
    assert len(RealtimeAgent(name="Shelf", tools=[ping, tool(name="pong")(lambda: None)]).tools) == 2


def test_agent_is_frozen() -> None:
    agent = RealtimeAgent(name="Shelf")
    with pytest.raises(FrozenInstanceError):
        agent.name = "Other"  # type: ignore[misc]
