"""A stage whose agent has tools: one of each kind, and the calls that run."""

from __future__ import annotations

from typing import Any, Self

from appliance.agents.spec import AgentSpec, ToolCard
from appliance.conversation.commands import CancelTool
from appliance.conversation.notices import ToolEnd
from tests.support.stage import SESSION, Stage

__all__ = ["ToolStage"]


class ToolStage(Stage):
    """A stage whose agent has the tools ``unlock`` and ``search``, which is cancellable, and ``pay`` on approval."""

    def __init__(self, **policy: Any) -> None:
        tools = (
            ToolCard(name="unlock"),
            ToolCard(name="search", is_cancellable=True),
            ToolCard(name="pay", approval="always"),
        )
        super().__init__(specs=[AgentSpec(agent="assistant", session=SESSION, tools=tools)], **policy)

    def running(self, *names: str) -> Self:
        """Speak a turn that is answered by calls of these tools, ``call_1`` and so on; their response is done."""
        self.ready()
        self.say()
        self.committed()
        self.created()
        for number, name in enumerate(names, 1):
            self.called(name, f"call_{number}")
        self.done()
        self.commands.clear()
        return self

    def reconnect(self) -> None:
        """Let the next connection be configured; then drop the commands so far."""
        self.advance(1.0)
        self.commands.clear()
        self.link_ready()

    def cancelled(self) -> list[str]:
        return [one.call_id for one in self.of(CancelTool)]

    def kept(self) -> list[tuple[str, str]]:
        """Return type and call id of the calls and outputs in the history."""
        return [(one.type, one.call_id) for one in self.conversation.history if one.call_id]

    def results(self) -> list[tuple[str, str, bool]]:
        """Return the ended calls, each with its output and whether it failed."""
        return [(one.call_id, one.output, one.is_error) for one in self.notices(ToolEnd)]

    def told(self) -> list[tuple[str, str]]:
        """Return type and call id of each item created on the server; for a message, its role."""
        return [(one["type"], one.get("call_id") or one["role"]) for one in self.created_items()]
