"""Tests of the conversation core: tools that run while their connection is lost."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.agents.spec import AgentSpec, ToolCard
from appliance.conversation.commands import CancelTool
from appliance.conversation.events import InterruptAsked, LinkDown, ShutdownRequested
from appliance.conversation.notices import ToolEnd
from tests.support.stage import SESSION, Stage

CALL = "function_call"
OUTPUT = "function_call_output"


class Scene(Stage):
    """A stage whose agent has the tools ``unlock`` and ``search``, which is cancellable, and ``pay`` on approval."""

    def __init__(self, **policy: Any) -> None:
        tools = (
            ToolCard(name="unlock"),
            ToolCard(name="search", is_cancellable=True),
            ToolCard(name="pay", approval="always"),
        )
        super().__init__(specs=[AgentSpec(agent="assistant", session=SESSION, tools=tools)], **policy)

    def running(self, *names: str) -> Scene:
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

    def speak(self, response_id: str = "resp_2") -> None:
        """Receive an answer and play it to its end."""
        self.created(response_id)
        self.audio(response_id, f"item_{response_id}")
        self.done(response_id)
        self.play(4800, drained=True)

    def cancelled(self) -> list[str]:
        return [one.call_id for one in self._of(CancelTool)]

    def ended(self) -> list[tuple[str, str, bool]]:
        return [(one.call_id, one.output, one.is_error) for one in self.notices(ToolEnd)]

    def created_items(self) -> list[tuple[str, str]]:
        """Return type and call id of each item created on the server; for a message, its role."""
        items = [frame["item"] for frame in self.sent() if frame["type"] == "conversation.item.create"]
        return [(item["type"], item.get("call_id") or item["role"]) for item in items]

    def kept(self) -> list[tuple[str, str]]:
        """Return type and call id of the calls and outputs in the history."""
        return [(one.type, one.call_id) for one in self.conversation.history if one.call_id]

    def requests(self) -> int:
        return self.sent_types().count("response.create")


# --- a tool outlives its connection ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["unlock", "search"])
def test_a_running_tool_is_not_cancelled_by_a_lost_link(name: str) -> None:
    scene = Scene().running(name)
    scene.lose()
    assert (scene.cancelled(), scene.ended()) == ([], [])
    scene.tool_finished("call_1", "done")
    assert scene.ended() == [("call_1", "done", False)]
    assert scene.kept() == [(CALL, "call_1"), (OUTPUT, "call_1")]


def test_a_tool_that_ends_before_the_next_link_is_replayed_with_its_output() -> None:
    scene = Scene().running("unlock")
    scene.lose()
    scene.tool_finished("call_1", "unlocked")
    scene.reconnect()
    assert scene.created_items() == [("message", "user"), (CALL, "call_1"), (OUTPUT, "call_1")]


def test_a_tool_that_ends_on_the_next_link_is_told_with_its_call() -> None:
    scene = Scene().running("unlock")
    scene.lose()
    scene.reconnect()
    assert scene.created_items() == [("message", "user")], "a call without an output confuses the model"
    scene.tool_finished("call_1", "unlocked")
    assert scene.created_items() == [("message", "user"), (CALL, "call_1"), (OUTPUT, "call_1")]
    assert scene.kept() == [(CALL, "call_1"), (OUTPUT, "call_1")]


def test_a_tool_of_an_earlier_turn_outlives_its_link() -> None:
    scene = Scene().running("unlock")
    scene.do(InterruptAsked())
    scene.lose()
    scene.reconnect()
    scene.tool_finished("call_1", "unlocked")
    assert scene.cancelled() == []
    assert scene.created_items()[-2:] == [(CALL, "call_1"), (OUTPUT, "call_1")]
    assert scene.requests() == 0


def test_a_tool_outlives_a_turn_that_ends_with_its_link() -> None:
    scene = Scene().running("search", "pay")
    scene.lose()
    assert scene.outcomes() == ["failed"]
    assert scene.cancelled() == ["call_2"], "a question of approval ends with its connection"
    scene.reconnect()
    scene.tool_finished("call_1", "found")
    assert scene.ended() == [("call_1", "found", False)]
    assert scene.kept() == [(CALL, "call_1"), (OUTPUT, "call_1")]


def test_a_tool_outlives_a_turn_that_fails_with_the_last_endpoint() -> None:
    scene = Scene().running("search")
    scene.do(LinkDown(scene.link, "bad_key", 3000, ""))
    assert (scene.outcomes(), scene.cancelled()) == (["failed"], [])
    scene.tool_finished("call_1", "found")
    assert scene.kept() == [(CALL, "call_1"), (OUTPUT, "call_1")]


def test_a_tool_whose_link_was_lost_is_cancelled_at_the_end_of_the_program() -> None:
    scene = Scene().running("unlock")
    scene.lose()
    scene.do(ShutdownRequested("stop"))
    assert scene.cancelled() == ["call_1"]
    assert [(call_id, is_error) for call_id, _, is_error in scene.ended()] == [("call_1", True)]
