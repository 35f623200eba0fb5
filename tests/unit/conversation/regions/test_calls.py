"""Tests of the `calls` region: tools, handoffs and MCP calls, each answered exactly once."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from appliance.agents.spec import HandoffCard, ToolCard
from appliance.conversation.commands import (
    Announce,
    CancelTool,
    CheckApproval,
    PlayEarcon,
    PrepareAgent,
    RunTool,
    Sentence,
)
from appliance.conversation.events import ApprovalChecked, HandoffKey, ToolFinished
from appliance.conversation.notices import Error, ToolApproval, ToolEnd, ToolStart
from appliance.conversation.policy import Policy
from appliance.conversation.regions.calls import Calls
from appliance.conversation.regions.device import Device
from appliance.conversation.support.call import Call, Closed, Made
from appliance.conversation.support.outbox import Outbox
from appliance.realtime import protocol as wire
from tests.support.stage import WORDING
from tests.unit.conversation.regions.outcome import linked, notices, spec

BY = Made("turn_1", 1, "ann")
ANN = spec(
    "ann",
    tools=(
        ToolCard(name="light"),
        ToolCard(name="door", approval="always"),
        ToolCard(name="oven", approval="asked"),
        ToolCard(name="search", is_cancellable=True, timeout_s=5.0, working_after_s=2.0, filler="One moment."),
        ToolCard(name="slow", working_after_s=2.0),
        ToolCard(name="gone"),
    ),
    handoffs=(HandoffCard(name="to_bob", agent="bob"),),
    disabled=("gone",),
)


def calls(out: Outbox, **policy: Any) -> Calls:
    limits = Policy(outputs=WORDING.table("output"), **policy)
    return Calls(limits, out, Device(limits, out, is_muted=False).report)


def function_call(call_id: str, name: str) -> wire.Item:
    return wire.Item(type="function_call", id=f"item_{call_id}", status="completed", call_id=call_id, name=name)


def begin(region: Calls, name: str, call_id: str = "c", now: float = 100.0, by: Made = BY) -> Closed | None:
    """Let the model make a call while ann is in force."""
    call = region.take(function_call(call_id, name), by, now)
    assert call is not None
    return region.begin(call, ANN, "ann", now)


def mcp(kind: Literal["mcp_call", "mcp_approval_request"], item_id: str = "m", **more: Any) -> wire.Item:
    return wire.Item(type=kind, id=item_id, server_label="home", name="cook", **more)


def the_call(region: Calls, call_id: str = "c") -> Call:
    call = region.open.get(call_id)
    assert call is not None
    return call


def edges(out: Outbox) -> list[tuple[type, str]]:
    """Return the ToolStart and ToolEnd notices, in order."""
    return [(type(one), one.call_id) for one in notices(out.take()) if isinstance(one, ToolStart | ToolEnd)]


# --- from the call to its answer ------------------------------------------------------------------------------------


def test_a_tool_runs_at_once_and_its_call_is_answered_once() -> None:
    out = linked()
    region = calls(out)
    assert begin(region, "light") is None
    commands = out.take()
    assert notices(commands) == [ToolStart("turn_1", "c", "light", "", "ann")]
    assert commands[-1] == RunTool("c", "light", "", "ann")
    call = the_call(region)
    assert region.finish(ToolFinished("c", "on"), "turn_1", 105.0) == Closed(call, "on", "output")
    assert notices(out.take()) == [ToolEnd("turn_1", "c", "light", "on", False, "ann")]
    assert (region.finish(ToolFinished("c", "on"), "turn_1", 105.0), out.take(), bool(region.open)) == (None, [], False)


def test_a_truncated_output_is_reported() -> None:
    out = linked()
    region = calls(out)
    begin(region, "light")
    out.take()
    assert region.finish(ToolFinished("c", "on", is_truncated=True), "turn_1", 105.0) is not None
    assert [type(one) for one in notices(out.take())] == [Error, ToolEnd]
    begin(region, "light", "d")
    out.take()
    region.finish(ToolFinished("d", "on"), "turn_1", 105.0)
    assert [type(one) for one in notices(out.take())] == [ToolEnd]


def test_a_call_is_taken_once_and_only_when_complete() -> None:
    region = calls(linked())
    for status in ("incomplete", "in_progress"):
        item = wire.Item(type="function_call", id="i", status=status, call_id="c", name="light")
        assert region.take(item, BY, 100.0) is None
    begin(region, "light")
    assert region.take(function_call("c", "light"), BY, 100.0) is None
    region.finish(ToolFinished("c", "on"), "turn_1", 105.0)
    assert region.take(function_call("c", "light"), BY, 100.0) is None  # response.done lists it again


@pytest.mark.parametrize(
    ("name", "rounds", "why"),
    [("nothing", 0, "door, light, oven, search, slow, to_bob"), ("gone", 0, "not available"), ("light", 2, "too many")],
)
def test_an_impossible_call_is_answered_with_the_reason_and_never_starts(name: str, rounds: int, why: str) -> None:
    out = linked()
    region = calls(out, max_tool_rounds=2)
    for _ in range(rounds):
        region.open.round.end()
    closed = begin(region, name)
    assert closed is not None
    assert (why in closed.output, closed.reply, bool(region.open)) == (True, "output", False)
    assert edges(out) == []


# --- approval -------------------------------------------------------------------------------------------------------


def test_a_call_that_needs_approval_runs_once_approved() -> None:
    out = linked()
    region = calls(out, approval_s=30.0, tool_s=20.0)
    begin(region, "door")
    commands = out.take()
    assert commands[-1] == Announce(0, Sentence("approval.ask", {"tool": "door"}), "approval")
    assert notices(commands) == [ToolApproval("turn_1", "c", "door", "", "ann")]
    assert (region.open.awaiting_approval, the_call(region).deadline) == (the_call(region), 130.0)
    assert region.finish(ToolFinished("c", "open"), "turn_1", 105.0) is None
    region.approve(the_call(region), 115.0)
    assert out.take()[-1] == RunTool("c", "door", "", "ann")
    assert (region.open.awaiting_approval, the_call(region).deadline) == (None, 135.0)


def test_an_approval_predicate_decides_once() -> None:
    out = linked()
    region = calls(out)
    for call_id in ("runs", "waits", "fails"):
        begin(region, "oven", call_id)
    assert out.take() == [CheckApproval(one, "oven", "", "ann") for one in ("runs", "waits", "fails")]
    assert region.checked(ApprovalChecked("runs", needed=False), 101.0) is None
    assert region.checked(ApprovalChecked("waits", needed=True), 101.0) is None
    closed = region.checked(ApprovalChecked("fails", needed=True, problem="no such oven"), 101.0)
    assert closed is not None
    assert closed.output == "no such oven"
    commands = out.take()
    assert [one.call_id for one in commands if isinstance(one, RunTool)] == ["runs"]
    assert [one.call_id for one in notices(commands) if isinstance(one, ToolApproval)] == ["waits"]
    assert (region.pressed_for(100.9), region.pressed_for(101.0)) == (None, the_call(region, "waits"))
    for call_id in ("runs", "waits", "fails"):
        region.checked(ApprovalChecked(call_id, needed=False), 102.0)
    assert out.take() == []


def test_a_press_decides_only_a_question_asked_before_it() -> None:
    region = calls(linked())
    assert region.pressed_for(99.0) is None
    begin(region, "door", now=100.0)
    assert region.pressed_for(99.9) is None
    assert region.pressed_for(100.0) is the_call(region)


def test_a_permanent_decision_covers_waiting_and_later_calls_of_the_same_agent() -> None:
    out = linked()
    region = calls(out)
    begin(region, "door", "a")
    begin(region, "door", "b")
    begin(region, "door", "of_bob", by=Made("turn_1", 1, "bob"))
    decided = region.decide_always(the_call(region, "a"), approves=True, message="")
    assert [one.call_id for one in decided] == ["a", "b"]
    out.take()
    begin(region, "door", "later")
    begin(region, "door", "later_of_bob", by=Made("turn_1", 1, "bob"))
    assert [one.call_id for one in out.take() if isinstance(one, RunTool)] == ["later"]
    region.decide_always(the_call(region, "a"), approves=False, message="never again")
    closed = begin(region, "door", "last")
    assert closed is not None
    assert closed.output == "never again"


# --- handoffs -------------------------------------------------------------------------------------------------------


def test_a_second_handoff_and_one_by_an_agent_not_in_force_are_refused() -> None:
    out = linked()
    region = calls(out)
    assert begin(region, "to_bob", "first") is None
    started, prepare = out.take()
    assert notices([started]) == [ToolStart("turn_1", "first", "to_bob", "", "ann")]
    assert prepare == PrepareAgent(HandoffKey("first"), "bob", "handoff", "ann", "to_bob", "")
    refused = begin(region, "to_bob", "second")
    assert refused is not None
    assert (refused.call.call_id, refused.reply) == ("second", "output")
    assert region.open.handoff is the_call(region, "first")
    region.close(the_call(region, "first"), "done", is_error=False)
    assert begin(region, "to_bob", "late", by=Made("turn_1", 1, "carl")) is not None


# --- MCP calls ------------------------------------------------------------------------------------------------------


def test_an_mcp_approval_request_gets_a_verdict_and_starts_no_tool() -> None:
    out = linked()
    region = calls(out)
    for item_id in ("yes", "no"):
        assert region.take_mcp_request(mcp("mcp_approval_request", item_id), BY, 100.0) is None
    approved = region.approve(the_call(region, "yes"), 101.0)
    rejected = region.reject(the_call(region, "no"), "not now")
    assert approved is not None
    assert (approved.reply, rejected.reply, rejected.output) == ("approve", "reject", "not now")
    assert (edges(out), bool(region.open)) == ([], False)


def test_a_permanent_decision_on_an_mcp_tool_covers_one_agent_and_one_server() -> None:
    region = calls(linked())
    by_bob = Made("turn_1", 1, "bob")
    region.take_mcp_request(mcp("mcp_approval_request", "a"), BY, 100.0)
    region.take_mcp_request(mcp("mcp_approval_request", "of_bob"), by_bob, 100.0)
    decided = region.decide_always(the_call(region, "a"), approves=True, message="")
    assert [one.call_id for one in decided] == ["a"]
    later = region.take_mcp_request(mcp("mcp_approval_request", "later"), BY, 101.0)
    assert later is not None
    assert later.reply == "approve"
    assert region.take_mcp_request(mcp("mcp_approval_request", "later_of_bob"), by_bob, 101.0) is None
    other = wire.Item(type="mcp_approval_request", id="elsewhere", server_label="office", name="cook")
    assert region.take_mcp_request(other, BY, 101.0) is None
    assert [one.call_id for one in region.open if one.awaits_approval] == ["a", "of_bob", "later_of_bob", "elsewhere"]


def test_an_mcp_call_starts_once_and_ends_with_its_item() -> None:
    out = linked()
    region = calls(out)
    region.take_mcp(mcp("mcp_call"), BY, 100.0)
    assert out.take() == []
    for _ in range(2):
        region.mcp_arguments(wire.McpCallArgumentsDone(item_id="m", arguments="{}"))
    assert region.close_mcp(mcp("mcp_call", status="in_progress")) is None
    region.mcp_over("m", 105.0, is_error=False)
    assert the_call(region, "m").deadline == 106.0
    closed = region.close_mcp(mcp("mcp_call", status="completed", output="soup"))
    assert closed is not None
    assert (closed.output, closed.reply) == ("soup", "none")
    assert (edges(out), region.close_mcp(mcp("mcp_call", output="soup"))) == ([(ToolStart, "m"), (ToolEnd, "m")], None)


def test_an_mcp_call_without_an_arguments_event_starts_at_its_end_with_the_arguments_of_its_item() -> None:
    out = linked()
    region = calls(out)
    region.mcp_arguments(wire.McpCallArgumentsDone(item_id="unknown", arguments="{}"))
    region.take_mcp(mcp("mcp_call"), BY, 100.0)
    region.close_mcp(mcp("mcp_call", status="in_progress", arguments="{}", output="soup"))
    assert notices(out.take()) == [
        ToolStart("turn_1", "m", "home.cook", "{}", "ann"),
        ToolEnd("turn_1", "m", "home.cook", "soup", False, "ann", "{}"),
    ]


@pytest.mark.parametrize(
    ("is_failed", "error", "output"), [(True, None, ""), (False, {"type": "x", "message": "no gas"}, "no gas")]
)
def test_an_mcp_call_failed_if_an_event_or_its_item_reports_an_error(is_failed: bool, error: Any, output: str) -> None:
    out = linked()
    region = calls(out)
    region.take_mcp(mcp("mcp_call"), BY, 100.0)
    region.mcp_over("m", 101.0, is_error=is_failed)
    region.close_mcp(mcp("mcp_call", error=error))
    assert notices(out.take())[-1] == ToolEnd("turn_1", "m", "home.cook", output, True, "ann")


# --- deadlines ------------------------------------------------------------------------------------------------------


def test_a_late_tool_is_cancelled_and_reported_and_its_own_timeout_has_a_grace_period() -> None:
    out = linked()
    region = calls(out, tool_s=20.0)
    begin(region, "search", "own")
    begin(region, "light", "of_policy")
    assert region.open.late(106.9) == []
    assert [one.call_id for one in region.open.late(107.0)] == ["own"]
    assert [one.call_id for one in region.open.late(120.0)] == ["own", "of_policy"]
    out.take()
    closed = region.give_up(the_call(region, "own"), 107.0)
    assert closed is not None
    commands = out.take()
    assert commands[0] == CancelTool("own")
    error, end = notices(commands)
    assert isinstance(error, Error)
    assert isinstance(end, ToolEnd)
    assert (error.kind, end.is_error) == ("tool_late", True)


def test_a_late_approval_rejects_the_call_and_a_late_predicate_asks_the_user() -> None:
    out = linked()
    region = calls(out, tool_s=20.0, approval_s=30.0)
    begin(region, "oven")
    assert (region.open.late(119.9), region.open.late(120.0)) == ([], [the_call(region)])
    assert region.give_up(the_call(region), 120.0) is None
    assert (the_call(region).awaits_approval, the_call(region).deadline) == (True, 150.0)
    closed = region.give_up(the_call(region), 150.0)
    assert closed is not None
    assert "did not answer" in closed.output
    assert edges(out) == []


def test_the_working_sound_plays_once_and_only_while_nothing_else_plays() -> None:
    out = linked()
    region = calls(out)
    begin(region, "search", now=100.0)
    out.take()
    region.work(101.9, "turn_1", is_playing=False)
    region.work(102.0, "turn_1", is_playing=True)
    region.work(102.4, "turn_1", is_playing=False)
    assert out.take() == []
    region.work(102.5, "turn_1", is_playing=False)
    assert out.take() == [PlayEarcon(0, "working"), Announce(0, "One moment.", "working")]
    region.work(200.0, "turn_1", is_playing=False)
    begin(region, "search", "other", now=200.0)
    out.take()
    region.work(300.0, "turn_2", is_playing=False)
    assert out.take() == []
    begin(region, "slow", "speechless", now=300.0)
    out.take()
    region.work(400.0, "turn_1", is_playing=False)
    assert out.take() == [PlayEarcon(0, "working")]


# --- abandoned calls ------------------------------------------------------------------------------------------------


def test_release_rejects_calls_not_yet_running_and_cancels_cancellable_ones() -> None:
    out = linked()
    region = calls(out)
    for call_id, name in (("waits", "door"), ("checked", "oven"), ("cancelled", "search"), ("runs_on", "light")):
        begin(region, name, call_id)
    out.take()
    closed = {one.call_id: region.release(one, "The user interrupted.") for one in region.open}
    assert {key: one and one.output for key, one in closed.items()} == {
        "waits": "The user did not approve this call.",
        "checked": "The user did not approve this call.",
        "cancelled": "The user interrupted.",
        "runs_on": None,
    }
    commands = out.take()
    assert [one for one in commands if isinstance(one, CancelTool)] == [CancelTool("cancelled")]
    assert [one.call_id for one in notices(commands) if isinstance(one, ToolStart)] == []
    assert [one.call_id for one in notices(commands) if isinstance(one, ToolEnd)] == ["cancelled"]
    assert [one.call_id for one in region.open] == ["runs_on"]


def test_started_calls_of_a_lost_link_end_in_the_order_of_their_ids() -> None:
    out = linked()
    region = calls(out)
    for call_id, name in (("c", "light"), ("a", "search"), ("b", "door")):
        begin(region, name, call_id)
    region.take_mcp(mcp("mcp_call", "d"), BY, 100.0)
    out.take()
    region.drop("lost")
    commands = out.take()
    assert [one.call_id for one in commands if isinstance(one, CancelTool)] == ["a", "b", "c", "d"]
    assert [(one.call_id, one.is_error) for one in notices(commands) if isinstance(one, ToolEnd)] == [
        ("a", True),
        ("c", True),
    ]
    assert not region.open


def test_a_lost_link_ends_the_calls_of_other_turns_but_not_of_the_running_one() -> None:
    out = linked()
    region = calls(out)
    begin(region, "door", "old", by=Made("turn_0", 1, "ann"))
    begin(region, "light", "running", by=Made("turn_0", 1, "ann"))
    begin(region, "door", "new")
    out.take()
    region.drop_others("turn_1", "lost")
    assert out.take() == [CancelTool("old")]
    assert [one.call_id for one in region.open] == ["running", "new"], "a tool that runs outlives its link"


def test_the_end_of_the_program_drops_every_call() -> None:
    out = linked()
    region = calls(out)
    begin(region, "light", "old", by=Made("turn_0", 1, "ann"))
    begin(region, "light", "new")
    out.take()
    region.drop_all("over")
    assert (edges(out), list(region.open)) == ([(ToolEnd, "old"), (ToolEnd, "new")], [])


def test_a_detached_tool_is_no_longer_of_its_turn() -> None:
    region = calls(linked())
    begin(region, "search", "running")
    begin(region, "door", "waits")
    region.open.detach()
    assert [one.call_id for one in region.open.of("turn_1")] == ["waits"]
    assert region.open.round.open == {"waits"}
    assert [one.call_id for one in region.open] == ["running", "waits"]


def test_a_complete_call_of_an_interrupted_response_is_dismissed_once() -> None:
    region = calls(linked())
    part = wire.Item(type="function_call", id="i", status="incomplete", call_id="c", name="light")
    message = wire.Item(type="message", id="i", status="completed", call_id="c")
    assert not region.dismiss(part)
    assert not region.dismiss(message)
    assert [region.dismiss(function_call("c", "light")) for _ in range(2)] == [True, False]
    begin(region, "light", "taken")
    assert not region.dismiss(function_call("taken", "light"))


# --- rounds ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("background", "speaks"), [(("a",), True), (("a", "b"), False), ((), True)])
def test_the_model_speaks_after_a_round_unless_all_its_tools_were_background_tools(
    background: tuple[str, ...], speaks: bool
) -> None:
    region = calls(linked())
    for call_id in ("a", "b"):
        begin(region, "light", call_id)
        region.finish(ToolFinished(call_id, "", is_background=call_id in background), "turn_1", 105.0)
    round_ = region.open.round
    assert (round_.end(), round_.number, round_.is_background) == (speaks, 1, not speaks)
    assert (round_.seen, round_.background, round_.mcp) == (set(), set(), set())


def test_a_stopped_answer_or_one_that_spoke_after_its_mcp_calls_needs_no_follow_up() -> None:
    region = calls(linked())
    begin(region, "light")
    region.take_mcp(mcp("mcp_call"), BY, 100.0)
    region.speak_of_mcp()
    assert region.open.round.seen == {"c"}
    region.forget_round()
    assert (region.open.round.seen, region.open.round.open) == (set(), set())


def test_a_background_tool_of_an_ended_turn_does_not_count_in_the_next() -> None:
    region = calls(linked())
    begin(region, "light")
    assert region.open.end_turn("turn_1") == [the_call(region)]
    closed = region.finish(ToolFinished("c", "", is_background=True), "turn_2", 105.0)
    assert closed is not None
    assert region.open.round.background == set()
