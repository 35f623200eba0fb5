"""Tests of the conversation core: calls that the server makes at MCP servers."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.agents.spec import ToolCard
from appliance.conversation.commands import (
    Command,
)
from appliance.conversation.events import (
    ApprovalAnswered,
    InterruptAsked,
)
from appliance.conversation.notices import (
    ToolApproval,
    ToolEnd,
)
from tests.support.stages.agents import GREETER, AgentStage, greeter


def _mcp_asked(scene: AgentStage, item_id: str = "mcpr_1") -> list[Command]:
    """Receive an approval request for an MCP tool."""
    item = {
        "id": item_id,
        "type": "mcp_approval_request",
        "server_label": "files",
        "name": "delete",
        "arguments": '{"path":"/a"}',
    }
    return scene.server({"type": "response.output_item.done", "response_id": "resp_1", "output_index": 0, "item": item})


def _mcp_item(**more: Any) -> dict[str, Any]:
    return {"id": "mcp_1", "type": "mcp_call", "server_label": "files", "name": "list", "arguments": "{}"} | more


def _mcp_called(scene: AgentStage) -> list[Command]:
    """Let the server start an MCP call."""
    return scene.server(
        {
            "type": "response.output_item.added",
            "response_id": "resp_1",
            "output_index": 0,
            "item": _mcp_item(arguments=""),
        }
    )


def _mcp_ended(scene: AgentStage, *, failed: bool = False, **result: Any) -> None:
    """End the MCP call with the two frames in the order of the API reference."""
    kind = "failed" if failed else "completed"
    scene.server({"type": f"response.mcp_call.{kind}", "item_id": "mcp_1", "output_index": 0})
    scene.server(
        {
            "type": "response.output_item.done",
            "response_id": "resp_1",
            "output_index": 0,
            "item": _mcp_item(**result),
        }
    )


def _verdicts(scene: AgentStage) -> list[dict[str, Any]]:
    items = [frame.get("item", {}) for frame in scene.sent()]
    return [{**item, "id": "…"} for item in items if item.get("type") == "mcp_approval_response"]


def test_an_mcp_approval_request_asks_the_user_like_any_other_call() -> None:
    scene = AgentStage(specs=[GREETER]).ready().asked()
    _mcp_asked(scene)
    scene.done()
    assert scene.state == "awaiting_approval"
    assert scene.announced()[-1] == "May I use files.delete? Press briefly for yes, hold for no."
    assert scene.notices(ToolApproval) == [ToolApproval("turn_1", "mcpr_1", "files.delete", '{"path":"/a"}', "greeter")]
    assert _verdicts(scene) == []
    assert len(scene.asks()) == 1


def test_a_tap_approves_an_mcp_call_and_requests_a_response() -> None:
    scene = AgentStage(specs=[GREETER]).ready().asked()
    _mcp_asked(scene)
    scene.done()
    scene.tap()
    assert _verdicts(scene) == [
        {"id": "…", "type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True}
    ]
    assert scene.tool_runs() == [], "the server runs it"
    assert scene.outputs() == {}
    assert len(scene.asks()) == 2


def test_an_mcp_call_is_rejected_with_the_reason() -> None:
    scene = AgentStage(specs=[GREETER]).ready().asked()
    _mcp_asked(scene)
    scene.done()
    scene.do(ApprovalAnswered("mcpr_1", approved=False, message="Delete nothing."))
    (verdict,) = _verdicts(scene)
    assert (verdict["approve"], verdict["reason"]) == (False, "Delete nothing.")
    assert len(scene.asks()) == 2


def test_an_mcp_call_without_approval_is_rejected_at_the_deadline() -> None:
    scene = AgentStage(approval_s=30.0, specs=[GREETER]).ready().asked()
    _mcp_asked(scene)
    scene.done()
    scene.advance(29.9)
    assert _verdicts(scene) == []
    scene.advance(0.2)
    assert [one["approve"] for one in _verdicts(scene)] == [False]


def test_an_interruption_rejects_an_mcp_call() -> None:
    scene = AgentStage(specs=[GREETER]).ready().asked()
    _mcp_asked(scene)
    scene.done()
    scene.do(InterruptAsked())
    assert [one["approve"] for one in _verdicts(scene)] == [False]
    assert len(scene.asks()) == 1


@pytest.mark.parametrize("approved", [True, False])
def test_a_permanent_decision_answers_the_next_call_of_that_mcp_tool(approved: bool) -> None:
    scene = AgentStage(specs=[GREETER]).ready().asked()
    _mcp_asked(scene)
    scene.do(ApprovalAnswered("mcpr_1", approved=approved, always=True))
    _mcp_asked(scene, "mcpr_2")
    assert [(one["approval_request_id"], one["approve"]) for one in _verdicts(scene)] == [
        ("mcpr_1", approved),
        ("mcpr_2", approved),
    ]
    assert len(scene.notices(ToolApproval)) == 1


def test_an_approval_request_received_twice_asks_once() -> None:
    scene = AgentStage(specs=[GREETER]).ready().asked()
    _mcp_asked(scene)
    item = {
        "id": "mcpr_1",
        "type": "mcp_approval_request",
        "server_label": "files",
        "name": "delete",
        "arguments": '{"path":"/a"}',
    }
    scene.done(output=[item])
    assert len(scene.notices(ToolApproval)) == 1


def test_the_turn_waits_for_an_mcp_call_and_then_requests_one_response() -> None:
    scene = AgentStage(specs=[GREETER]).ready().asked()
    _mcp_called(scene)
    scene.done()
    assert len(scene.asks()) == 1
    assert scene.state == "thinking"
    _mcp_ended(scene, output="a.txt")
    assert len(scene.asks()) == 2
    assert scene.outputs() == {}, "the server has the output already"


def test_a_model_that_spoke_after_its_mcp_call_gets_no_second_request() -> None:
    scene = AgentStage(specs=[GREETER]).ready().asked()
    _mcp_called(scene)
    _mcp_ended(scene, output="a.txt")
    scene.audio()
    message = {
        "id": "item_a",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_audio", "transcript": "There is one file."}],
    }
    scene.done(output=[_mcp_item(output="a.txt"), message])
    scene.play(4800, drained=True)
    assert len(scene.asks()) == 1
    assert scene.outcomes() == ["answered"]


def test_the_end_of_an_mcp_call_is_emitted_with_its_output() -> None:
    scene = AgentStage(specs=[GREETER]).ready().asked()
    _mcp_called(scene)
    _mcp_ended(scene, output="a.txt")
    assert scene.notices(ToolEnd) == [ToolEnd("turn_1", "mcp_1", "files.list", "a.txt", False, "greeter", "{}")]


def test_a_failed_mcp_call_is_emitted_as_an_error() -> None:
    scene = AgentStage(specs=[GREETER]).ready().asked()
    _mcp_called(scene)
    _mcp_ended(scene, failed=True, error={"type": "tool_execution_error", "message": "no such folder"})
    assert scene.ended() == [("mcp_1", True)]


def test_an_mcp_call_that_never_ends_times_out_and_a_response_is_requested() -> None:
    scene = AgentStage(tool_s=20.0, specs=[GREETER]).ready().asked()
    _mcp_called(scene)
    scene.done()
    scene.advance(20.1)
    assert scene.troubles() == ["tool_late"]
    assert len(scene.asks()) == 2


def test_an_mcp_call_and_a_local_call_lead_to_one_request() -> None:
    scene = AgentStage(specs=[greeter(ToolCard(name="a"))]).ready().asked()
    _mcp_called(scene)
    scene.called("a", "call_1")
    scene.done()
    scene.tool_finished("call_1")
    assert len(scene.asks()) == 1
    _mcp_ended(scene, output="a.txt")
    assert len(scene.asks()) == 2


def test_a_failed_list_of_mcp_tools_is_reported_and_ends_nothing() -> None:
    scene = AgentStage(specs=[GREETER]).ready()
    scene.server({"type": "mcp_list_tools.failed", "item_id": "mcpl_1"})
    assert scene.troubles() == ["server_error"]
    assert scene.state == "ready"
