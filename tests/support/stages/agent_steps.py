"""Steps that several tests of agents share."""

from __future__ import annotations

from typing import Any

from appliance.agents.spec import AgentSpec, ToolCard
from appliance.conversation.commands import (
    Command,
)
from appliance.conversation.events import (
    AgentPrepared,
    HandoffKey,
)
from tests.support.stages.agents import AUDIO_SESSION, BILLING, AgentStage, greeter

__all__ = ["accepted", "guarded", "prepared", "running"]


def running(**card: Any) -> AgentStage:
    """Start a tool whose response is done."""
    scene = AgentStage(specs=[greeter(ToolCard(name="slow", **card))]).ready().asked()
    scene.called("slow", "call_1")
    scene.done()
    scene.commands.clear()
    return scene


def prepared(scene: AgentStage, spec: AgentSpec | None = BILLING, problem: str = "") -> list[Command]:
    return scene.do(AgentPrepared(HandoffKey("call_1"), spec, problem))


def accepted(scene: AgentStage) -> list[Command]:
    return scene.session_updated({"type": "realtime", "instructions": "Bill."})


def guarded(**more: Any) -> AgentSpec:
    return AgentSpec(agent="greeter", session=AUDIO_SESSION, tools=(), has_output_guardrails=True, **more)
