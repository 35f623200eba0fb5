"""A stage with agents: the test answers the checks of their guardrails and reads what was played and checked."""

from __future__ import annotations

from typing import Any

from appliance.agents.spec import AgentSpec, HandoffCard, ToolCard
from appliance.conversation.commands import (
    CheckText,
    Command,
    Connect,
    Disconnect,
)
from appliance.conversation.events import (
    AgentPrepared,
    DeadlinePassed,
    Event,
    GuardrailsChecked,
    HandoffKey,
    LinkDown,
)
from tests.support.stage import Stage

__all__ = [
    "AUDIO_SESSION",
    "BILLING",
    "GREETER",
    "AgentStage",
    "WatchedStage",
    "accepted",
    "greeter",
    "guarded",
    "prepared",
    "running",
]

AUDIO_SESSION = {
    "type": "realtime",
    "instructions": "Greet.",
    "audio": {"input": {"turn_detection": None}, "output": {"voice": "marin"}},
}
GREETER = AgentSpec(
    agent="greeter",
    session=AUDIO_SESSION,
    tools=(),
    handoffs=(HandoffCard(name="transfer_to_billing", agent="billing", first_sentence="Billing here."),),
)
BILLING = AgentSpec(
    agent="billing",
    session={
        "type": "realtime",
        "instructions": "Bill.",
        "audio": {"input": {"turn_detection": None}, "output": {"voice": "cedar"}},
    },
    tools=(ToolCard(name="refund"),),
)


def greeter(*cards: ToolCard, **more: Any) -> AgentSpec:
    """Return an agent with these tools."""
    return AgentSpec(agent="greeter", session=AUDIO_SESSION, tools=cards, **more)


class AgentStage(Stage):
    """A stage with agents; the test answers the commands addressed to them."""

    def tap(self) -> list[Command]:
        return self.press() + self.advance(0.1) + self.release()

    def checks(self, commands: list[Command] | None = None) -> list[CheckText]:
        return self.of(CheckText, commands)

    def passed(self, check: CheckText) -> list[Command]:
        return self.do(GuardrailsChecked(check.key))

    def tripped(self, check: CheckText, name: str = "no_numbers", reason: str = "a number") -> list[Command]:
        return self.do(GuardrailsChecked(check.key, name, reason))

    def played_frames_of(self, item_id: str) -> int:
        """Return the number of audio frames of an item sent to the playback."""
        return sum(len(one.pcm) // 2 for one in self.plays() if one.item_id == item_id)


class WatchedStage(AgentStage):
    """Assert after every ``DeadlinePassed`` that the next deadline is in the future; else the driver would spin."""

    has_connection = False
    """Whether the newest requested link is not down."""

    def do(self, event: Event) -> list[Command]:
        commands = super().do(event)
        if isinstance(event, LinkDown) and event.link == self.link:
            self.has_connection = False
        for command in commands:
            if isinstance(command, Connect):
                self.has_connection = True
            elif isinstance(command, Disconnect) and command.link == self.link:
                self.has_connection = False
        at = self.conversation.deadline
        if isinstance(event, DeadlinePassed):
            assert at is None or at > self.now, f"deadline {at} at {self.now}: the driver spins; {self.conversation!r}"
        if self.conversation.turn_id is not None:
            assert at is not None, f"a turn without a deadline: {self.conversation!r}"
        return commands


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
