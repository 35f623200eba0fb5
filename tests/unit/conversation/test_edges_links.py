"""Edge cases of links and session updates that otherwise only the random environment reaches.

Continued turns, spares, unreadable frames, session updates, MCP calls; one behaviour per test.
"""

from __future__ import annotations

from typing import Any

import pytest

from appliance.agents.spec import AgentSpec, HandoffCard
from appliance.conversation.commands import Announce, Command, Connect, Disconnect, PrepareAgent
from appliance.conversation.events import (
    AgentPrepared,
    ApprovalAnswered,
    BeginAsked,
    CommitAsked,
    FrameGiven,
    FrameRefused,
    HandoffKey,
    LinkDown,
    LinkFailure,
    LinkUp,
    TurnKey,
)
from appliance.conversation.notices import Connected, Error, HandoffDone, ToolEnd, ToolStart, TurnStart
from tests.support.stage import SESSION, Stage
from tests.support.stages.links import MAIN, SPARE, LinkStage

BAD_KEY: tuple[LinkFailure, int, str] = ("bad_key", 3000, "no such key")
BOB = AgentSpec(agent="bob", session=SESSION | {"instructions": "I am Bob."})
ANN = AgentSpec(
    agent="ann", session=SESSION | {"instructions": "I am Ann."}, handoffs=(HandoffCard(name="to_bob", agent="bob"),)
)


def updated(stage: Stage, instructions: str) -> list[Command]:
    return stage.session_updated(SESSION | {"instructions": instructions})


# --- a turn that waits for a link --------------------------------------------------------------------------------


def unlinked() -> Stage:
    """Speak a button turn while the link is down and its retry far off."""
    stage = Stage(backoff_initial_s=20.0, backoff_max_s=40.0).ready()
    stage.advance(20.0)
    stage.press()
    stage.hear(400)
    stage.lose()
    stage.release()
    stage.hear(260)
    assert (stage.state, stage.connects()) == ("committing", [])
    stage.commands.clear()
    return stage


def test_a_press_that_continues_an_unlinked_turn_connects() -> None:
    stage = unlinked()
    stage.press()
    assert stage.connects() == [Connect(2, 0)]
    assert stage.state == "listening"
    assert stage.earcons() == ["start"]


def test_a_press_that_continues_a_turn_starts_no_other() -> None:
    stage = unlinked()
    stage.press()
    assert (stage.conversation.turn_id, stage.notices(TurnStart), stage.outcomes()) == ("turn_1", [], [])
    assert stage.flushes() == []


def test_continuing_an_unlinked_turn_by_the_program_connects() -> None:
    stage = Stage(backoff_initial_s=20.0, backoff_max_s=40.0).ready()
    stage.advance(20.0)
    stage.do(BeginAsked())
    stage.hear(400)
    stage.lose()
    stage.do(CommitAsked())
    stage.commands.clear()
    stage.do(BeginAsked())
    assert stage.connects() == [Connect(2, 0)]
    assert (stage.state, stage.earcons()) == ("listening", [])
    assert (stage.conversation.turn_id, stage.notices(TurnStart), stage.outcomes()) == ("turn_1", [], [])


def test_a_press_that_continues_a_turn_while_connecting_starts_no_second_link() -> None:
    stage = unlinked()
    stage.press()
    stage.hear(400)
    stage.release()
    stage.hear(260)
    stage.press()
    assert stage.connects() == [Connect(2, 0)]


def test_a_continued_turn_is_sent_completely() -> None:
    stage = unlinked()
    stage.press()
    stage.hear(400)
    stage.release()
    stage.hear(260)
    stage.commands.clear()
    stage.link_ready()
    # 2 x 400 ms, 2 x 240 ms of post-roll, and the audio kept in between
    assert len(stage.sent_audio()) >= 48 * 1280
    assert stage.sent_types().count("input_audio_buffer.commit") == 1


# --- the spare ---------------------------------------------------------------------------------------------------


def test_an_error_on_the_spare_does_not_disturb_the_conversation() -> None:
    scene = LinkStage(endpoints=2).with_spare()
    before = scene.conversation.deadline
    assert scene.spare_error("invalid_api_key") == []
    assert (scene.state, scene.conversation.deadline) == ("ready", before)


def test_an_error_on_the_spare_does_not_end_the_turn_on_the_main_link() -> None:
    scene = LinkStage(endpoints=2).with_spare()
    scene.say()
    scene.on_spare({"type": "session.created", "session": {"type": "realtime"}})
    assert scene.spare_error("invalid_api_key") == []
    scene.committed()
    assert (scene.state, scene.troubles()) == ("thinking", [])


@pytest.mark.parametrize(("code", "kind"), [("invalid_api_key", "invalid_request_error"), (None, "permission_error")])
def test_the_last_error_on_the_spare_classifies_its_end(code: str | None, kind: str) -> None:
    scene = LinkStage(endpoints=2, fatal_retry_s=300.0, failback_s=60.0).with_spare()
    scene.spare_error(code, kind)
    scene.do(LinkDown(SPARE, "lost", 1006, ""))
    assert scene.until_connecting() >= 300.0  # blocked as for a bad key


def test_a_spare_that_goes_down_without_an_error_is_retried_soon() -> None:
    scene = LinkStage(endpoints=2, fatal_retry_s=300.0, failback_s=60.0).with_spare()
    scene.do(LinkDown(SPARE, "lost", 1006, ""))
    assert 59.0 <= scene.until_connecting() <= 61.0


def test_an_error_on_the_main_link_does_not_classify_the_end_of_the_spare() -> None:
    scene = LinkStage(endpoints=2, fatal_retry_s=300.0, failback_s=60.0).with_spare()
    scene.error("invalid_api_key")
    scene.do(LinkDown(SPARE, "lost", 1006, ""))
    assert 59.0 <= scene.until_connecting() <= 61.0


def test_an_unreadable_frame_on_the_spare_is_ignored() -> None:
    scene = LinkStage(endpoints=2, max_bad_frames=2).with_spare()
    for _ in range(5):
        assert scene.do(FrameRefused(SPARE, "no JSON")) == []
    scene.on_spare({"type": "session.created", "session": {"type": "realtime"}})
    assert scene.notices(Connected) == [Connected(SPARE, 0)]


def test_unreadable_frames_of_a_spare_do_not_count_once_it_is_the_main_link() -> None:
    scene = LinkStage(endpoints=2, max_bad_frames=2).with_spare()
    for _ in range(2):
        scene.do(FrameRefused(SPARE, "no JSON"))
    scene.on_spare({"type": "session.created", "session": {"type": "realtime"}})
    scene.commands.clear()
    scene.do(FrameRefused(SPARE, "no JSON"))
    assert scene.troubles() == ["bad_frame"]


def test_an_unreadable_frame_of_a_closed_link_is_ignored() -> None:
    scene = LinkStage(endpoints=2).with_spare()
    assert scene.do(FrameRefused(1, "no JSON")) == []


def test_max_bad_frames_unreadable_frames_do_not_end_the_main_link() -> None:
    stage = Stage(max_bad_frames=3).ready()
    for _ in range(3):
        stage.do(FrameRefused(1, "no JSON"))
    assert stage.troubles() == ["bad_frame"] * 3
    assert stage.state == "ready"


def test_one_unreadable_frame_above_the_limit_ends_the_main_link() -> None:
    stage = Stage(max_bad_frames=3).ready()
    for _ in range(3):
        stage.do(FrameRefused(1, "no JSON"))
    commands = stage.do(FrameRefused(1, "no JSON"))
    assert Disconnect(1) in commands
    assert stage.troubles() == ["bad_frame"] * 4 + ["bad_frames"]
    assert stage.state == "offline"


# --- session updates ---------------------------------------------------------------------------------------------


def prepared(instructions: str) -> Stage:
    """Speak a turn whose agent has new instructions, and send them to the server."""
    old = AgentSpec(agent="ann", session=SESSION | {"instructions": "old"}, is_asked_at_turn=True)
    new = AgentSpec(agent="ann", session=SESSION | {"instructions": instructions}, is_asked_at_turn=True)
    stage = Stage(specs=[old]).ready()
    stage.say()
    assert [one.key for one in stage.commands if isinstance(one, PrepareAgent)] == [TurnKey("turn_1", 0)]
    commands = stage.do(AgentPrepared(TurnKey("turn_1", 0), new))
    sent = [(one["event_id"], one["session"]["instructions"]) for one in stage.sent(commands)[:1]]
    assert sent == [("turn_turn_1", instructions)]
    return stage


def told_next(stage: Stage) -> list[str]:
    """Reconnect and return the instructions sent on the next link."""
    stage.commands.clear()
    stage.lose()
    stage.advance(1.0)
    stage.link_ready()
    return [one["session"]["instructions"] for one in stage.sent() if one["type"] == "session.update"]


def test_a_refused_update_for_a_turn_restores_the_previous_instructions() -> None:
    stage = prepared("new")
    stage.error("invalid_value", event_id="turn_turn_1", message="no such thing")
    assert stage.notices(Error) == [Error("server_error", "no such thing")]
    assert told_next(stage) == ["old"]


def test_a_refused_update_for_a_turn_does_not_end_the_turn() -> None:
    stage = prepared("new")
    stage.error("invalid_value", event_id="turn_turn_1")
    stage.committed()
    stage.created()
    assert (stage.state, stage.outcomes()) == ("thinking", [])


def test_an_accepted_update_for_a_turn_is_kept_on_the_next_link() -> None:
    stage = prepared("new")
    updated(stage, "new")
    assert told_next(stage) == ["new"]


def raw_update(stage: Stage, instructions: str) -> list[Command]:
    return stage.do(
        FrameGiven({"type": "session.update", "session": {"type": "realtime", "instructions": instructions}})
    )


def test_accepting_a_later_update_settles_the_earlier_ones() -> None:
    stage = Stage(commit_s=5.0).ready()
    began = stage.now
    for instructions in ("one", "two", "three"):
        raw_update(stage, instructions)
        stage.advance(1.0)
    assert stage.conversation.deadline == began + 5.0  # deadline of the first update
    updated(stage, "two")
    assert stage.conversation.deadline == began + 7.0  # deadline of the third update


def handing_over() -> Stage:
    """Send a handoff that the server has not answered."""
    stage = Stage(specs=[ANN]).ready().asked()
    stage.commands.clear()
    stage.called("to_bob", "call_1")
    stage.done()
    stage.do(AgentPrepared(HandoffKey("call_1"), BOB))
    return stage


def test_a_handoff_accepted_before_an_earlier_update_is_completed() -> None:
    stage = Stage(specs=[ANN]).ready().asked()
    stage.commands.clear()
    stage.called("to_bob", "call_1")
    stage.done()
    raw_update(stage, "Speak slowly.")
    stage.do(AgentPrepared(HandoffKey("call_1"), BOB))
    updated(stage, "I am Bob.")
    assert stage.notices(HandoffDone) == [HandoffDone("ann", "bob")]
    assert stage.conversation.agent == "bob"


def test_a_handoff_superseded_by_a_later_update_is_not_completed() -> None:
    stage = handing_over()
    raw_update(stage, "Speak slowly.")
    updated(stage, "Speak slowly.")
    updated(stage, "I am Bob.")
    assert stage.notices(HandoffDone) == []
    assert stage.conversation.agent == "ann"


# --- MCP calls ---------------------------------------------------------------------------------------------------


def mcp_call(**more: Any) -> dict[str, Any]:
    return {"id": "mcp_1", "type": "mcp_call", "server_label": "files", "name": "list", "arguments": ""} | more


def mcp_arguments(stage: Stage, arguments: str) -> list[Command]:
    kind = "response.mcp_call_arguments.done"
    return stage.server(
        {"type": kind, "response_id": "resp_1", "item_id": "mcp_1", "output_index": 0, "arguments": arguments}
    )


def test_tool_start_of_an_mcp_call_is_emitted_when_its_arguments_arrive() -> None:
    stage = Stage().ready().asked()
    stage.commands.clear()
    stage.output_item(mcp_call(), "added")
    assert stage.notices(ToolStart) == []
    mcp_arguments(stage, '{"path":"/a"}')
    assert stage.notices(ToolStart) == [ToolStart("turn_1", "mcp_1", "files.list", '{"path":"/a"}', "assistant")]


def test_tool_start_of_an_mcp_call_with_late_arguments_is_emitted_once() -> None:
    stage = Stage().ready().asked()
    stage.commands.clear()
    stage.output_item(mcp_call(), "added")
    stage.done(output=[mcp_call(status="in_progress")])
    assert stage.notices(ToolStart) == []
    mcp_arguments(stage, '{"path":"/a"}')
    mcp_arguments(stage, '{"path":"/b"}')
    stage.output_item(mcp_call(arguments='{"path":"/a"}', output="a.txt"))
    assert stage.notices(ToolStart) == [ToolStart("turn_1", "mcp_1", "files.list", '{"path":"/a"}', "assistant")]
    expected = ToolEnd("turn_1", "mcp_1", "files.list", "a.txt", False, "assistant", '{"path":"/a"}')
    assert stage.notices(ToolEnd) == [expected]


def test_tool_start_of_an_mcp_call_without_an_arguments_event_uses_those_of_its_item() -> None:
    stage = Stage().ready().asked()
    stage.commands.clear()
    stage.output_item(mcp_call(), "added")
    stage.output_item(mcp_call(arguments='{"path":"/c"}', output="c.txt"))
    assert [one.arguments for one in stage.notices(ToolStart)] == ['{"path":"/c"}']


def test_arguments_of_an_ended_mcp_call_are_ignored() -> None:
    stage = Stage().ready().asked()
    stage.commands.clear()
    stage.output_item(mcp_call(), "added")
    stage.output_item(mcp_call(arguments="{}", output="c.txt"))
    assert mcp_arguments(stage, "{}") == []


# --- verdicts on MCP approval requests ---------------------------------------------------------------------------


def approving(stage: Stage) -> Stage:
    """Receive an approval request for an MCP tool."""
    stage.say()
    stage.committed()
    stage.created()
    item = {
        "id": "mcpr_1",
        "type": "mcp_approval_request",
        "server_label": "files",
        "name": "delete",
        "arguments": "{}",
    }
    stage.server({"type": "response.output_item.done", "response_id": "resp_1", "output_index": 0, "item": item})
    stage.done()
    assert stage.state == "awaiting_approval"
    stage.advance(1.0)
    stage.commands.clear()
    return stage


def verdicts(stage: Stage) -> list[bool]:
    items = [one.get("item", {}) for one in stage.sent()]
    return [one["approve"] for one in items if one.get("type") == "mcp_approval_response"]


def kinds(stage: Stage) -> list[str]:
    return [one.type for one in stage.conversation.history]


def relinked(stage: Stage) -> None:
    """Lose the link and connect the next."""
    stage.lose()
    stage.advance(5.0)
    stage.do(LinkUp(stage.link))
    stage.server({"type": "session.created", "session": {"type": "realtime"}})
    assert stage.link == 2


def test_a_tap_on_the_link_of_the_request_approves_it() -> None:
    stage = approving(Stage().ready())
    stage.press()
    stage.release()
    assert verdicts(stage) == [True]


def test_a_tap_after_a_reconnect_sends_no_verdict() -> None:
    stage = approving(Stage().ready())
    relinked(stage)
    stage.press()
    stage.release()
    assert verdicts(stage) == []
    assert "mcp_approval_response" not in kinds(stage)


def test_an_approval_by_the_program_after_a_reconnect_sends_no_verdict() -> None:
    stage = approving(Stage().ready())
    relinked(stage)
    count = len(stage.sent())
    stage.do(ApprovalAnswered("mcpr_1", approved=True))
    assert stage.sent()[count:] == []
    assert stage.troubles()[-1] == "approval_void"


def test_a_request_whose_link_is_lost_during_the_press_gets_no_verdict() -> None:
    stage = approving(Stage().ready())
    stage.press()
    relinked(stage)
    stage.release()
    assert verdicts(stage) == []
    assert (stage.state, stage.outcomes()) == ("ready", ["failed"])


def test_a_request_whose_link_stays_down_leaves_no_verdict_in_the_history() -> None:
    stage = approving(Stage().ready())
    stage.do(LinkDown(1, *BAD_KEY))
    assert stage.state == "failed"
    assert (stage.outcomes(), stage.troubles()) == (["failed"], ["bad_key"])
    assert [one.fallback for one in stage.commands if isinstance(one, Announce)] == ["error"]
    assert "mcp_approval_response" not in kinds(stage)


def test_a_request_gets_no_verdict_after_a_spare_takes_over() -> None:
    scene = LinkStage(endpoints=2).with_spare()
    approving(scene)
    scene.on_spare({"type": "session.created", "session": {"type": "realtime"}})
    scene.do(LinkDown(MAIN, "lost", 1006, "gone"))
    assert scene.notices(Connected) == [Connected(SPARE, 0)]
    scene.do(ApprovalAnswered("mcpr_1", approved=True))
    assert verdicts(scene) == []
