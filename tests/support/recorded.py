"""A short conversation whose trace is recorded in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from appliance.agents.spec import AgentSpec
from appliance.conversation.events import (
    Event,
)
from appliance.conversation.policy import Policy
from appliance.service.trace import TraceRecorder
from tests.support.stage import SESSION, Stage

__all__ = ["Recorded", "recorded_conversation"]


class Recorded(Stage):
    """A stage whose every step is traced."""

    def __init__(self, path: Path, spec: AgentSpec | None = None) -> None:
        specs = [spec or AgentSpec(agent="assistant", session=SESSION)]
        super().__init__(specs=specs, outputs={}, guardrail_debounce=10)
        self.posted: list[Event] = []
        self.recorder = TraceRecorder(path, post=self.posted.append)
        policy = Policy(button_mode="hold", outputs={}, guardrail_debounce=10)
        self.recorder.open(policy=policy, specs=specs, seed=0)

    def do(self, event: Event) -> Any:
        commands = super().do(event)
        self.recorder(self.now, event, commands, self.conversation.view)
        return commands


def recorded_conversation(path: Path) -> Recorded:
    stage = Recorded(path)
    stage.start()
    stage.lose("refused", None)
    stage.advance(5)
    stage.link_ready()
    stage.hear(300)
    stage.say()
    stage.committed()
    stage.created()
    stage.called("set_lamp", "call_1", '{"on":true}')
    stage.done(usage={"total_tokens": 3})
    stage.tool_finished("call_1", "{}")
    stage.created("resp_2")
    stage.audio("resp_2")
    stage.press()
    stage.error(None, message="Incorrect API key provided: sk-proj-0123456789abcdef")
    return stage
