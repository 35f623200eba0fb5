"""Tests of the conversation core: tools that run while their connection is lost."""

from __future__ import annotations

import pytest

from appliance.conversation.events import InterruptAsked, LinkDown, ShutdownRequested
from tests.support.stage import SESSION
from tests.support.stages.tools import ToolStage

CALL = "function_call"
OUTPUT = "function_call_output"


# --- a tool outlives its connection ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["unlock", "search"])
def test_a_running_tool_is_not_cancelled_by_a_lost_link(name: str) -> None:
    scene = ToolStage().running(name)
    scene.lose()
    assert (scene.cancelled(), scene.results()) == ([], [])
    scene.tool_finished("call_1", "done")
    assert scene.results() == [("call_1", "done", False)]
    assert scene.kept() == [(CALL, "call_1"), (OUTPUT, "call_1")]


def test_a_tool_that_ends_before_the_next_link_is_replayed_with_its_output() -> None:
    scene = ToolStage().running("unlock")
    scene.lose()
    scene.tool_finished("call_1", "unlocked")
    scene.reconnect()
    assert scene.told() == [("message", "user"), (CALL, "call_1"), (OUTPUT, "call_1")]


def test_a_tool_that_ends_on_the_next_link_is_told_with_its_call() -> None:
    scene = ToolStage().running("unlock")
    scene.lose()
    scene.reconnect()
    assert scene.told() == [("message", "user")], "a call without an output confuses the model"
    scene.tool_finished("call_1", "unlocked")
    assert scene.told() == [("message", "user"), (CALL, "call_1"), (OUTPUT, "call_1")]
    assert scene.kept() == [(CALL, "call_1"), (OUTPUT, "call_1")]


def test_a_tool_of_an_earlier_turn_outlives_its_link() -> None:
    scene = ToolStage().running("unlock")
    scene.do(InterruptAsked())
    scene.lose()
    scene.reconnect()
    scene.tool_finished("call_1", "unlocked")
    assert scene.cancelled() == []
    assert scene.told()[-2:] == [(CALL, "call_1"), (OUTPUT, "call_1")]
    assert len(scene.requests()) == 0


def test_a_tool_outlives_a_turn_that_ends_with_its_link() -> None:
    scene = ToolStage().running("search", "pay")
    scene.lose()
    assert scene.outcomes() == ["failed"]
    assert scene.cancelled() == ["call_2"], "a question of approval ends with its connection"
    scene.reconnect()
    scene.tool_finished("call_1", "found")
    assert scene.results() == [("call_1", "found", False)]
    assert scene.kept() == [(CALL, "call_1"), (OUTPUT, "call_1")]


def test_a_tool_outlives_a_turn_that_fails_with_the_last_endpoint() -> None:
    scene = ToolStage().running("search")
    scene.do(LinkDown(scene.link, "bad_key", 3000, ""))
    assert (scene.outcomes(), scene.cancelled()) == (["failed"], [])
    scene.tool_finished("call_1", "found")
    assert scene.kept() == [(CALL, "call_1"), (OUTPUT, "call_1")]


def test_a_tool_whose_link_was_lost_is_cancelled_at_the_end_of_the_program() -> None:
    scene = ToolStage().running("unlock")
    scene.lose()
    scene.do(ShutdownRequested("stop"))
    assert scene.cancelled() == ["call_1"]
    assert [(call_id, is_error) for call_id, _, is_error in scene.results()] == [("call_1", True)]


# --- the turn goes on with the next connection ------------------------------------------------------------------------


def test_a_link_lost_while_the_tool_runs_waits_for_both() -> None:
    scene = ToolStage().running("unlock")
    scene.lose()
    scene.reconnect()
    assert (scene.state, len(scene.requests()), scene.outcomes()) == ("thinking", 0, [])
    scene.tool_finished("call_1", "unlocked")
    assert scene.sent_types()[-3:] == ["conversation.item.create", "conversation.item.create", "response.create"]
    scene.answered("resp_2", item_id="item_b")
    assert (scene.outcomes(), len(scene.requests()), scene.troubles()) == (["answered"], 1, [])
    assert "input_audio_buffer.append" not in scene.sent_types(), "the next connection is told the words, not the sound"


def test_a_tool_that_ends_before_the_next_link_is_spoken_about_there() -> None:
    scene = ToolStage().running("unlock")
    scene.lose()
    scene.tool_finished("call_1", "unlocked")
    scene.reconnect()
    assert scene.told() == [("message", "user"), (CALL, "call_1"), (OUTPUT, "call_1")]
    assert scene.sent_types()[-1] == "response.create"
    scene.answered("resp_2", item_id="item_b")
    assert (scene.outcomes(), len(scene.requests()), scene.tool_runs()) == (["answered"], 1, [])


@pytest.mark.parametrize("is_created", [False, True])
def test_a_link_lost_between_the_output_and_the_first_audio_is_asked_again(is_created: bool) -> None:
    scene = ToolStage().running("unlock")
    scene.tool_finished("call_1", "unlocked")
    if is_created:
        scene.created("resp_2")
    scene.lose()
    scene.reconnect()
    assert scene.told() == [("message", "user"), (CALL, "call_1"), (OUTPUT, "call_1")]
    assert len(scene.requests()) == 1
    scene.answered("resp_3", item_id="item_c")
    assert (scene.outcomes(), scene.tool_runs(), scene.troubles()) == (["answered"], [], [])


def test_a_link_lost_before_the_response_of_the_calls_is_done_goes_on() -> None:
    scene = ToolStage().ready()
    scene.say()
    scene.committed()
    scene.created()
    scene.called("unlock", "call_1")
    scene.tool_finished("call_1", "unlocked")
    scene.lose()
    scene.reconnect()
    assert len(scene.requests()) == 1
    scene.answered("resp_2", item_id="item_b")
    assert scene.outcomes() == ["answered"]


def test_a_link_lost_twice_is_asked_once_on_each() -> None:
    scene = ToolStage().running("unlock")
    scene.lose()
    scene.tool_finished("call_1", "unlocked")
    scene.reconnect()
    assert len(scene.requests()) == 1
    scene.lose()
    scene.advance(1.0)
    scene.lose("refused", None)  # a connect that fails does not count
    scene.advance(3.0)
    scene.commands.clear()
    scene.link_ready()
    assert len(scene.requests()) == 1
    scene.answered("resp_3", item_id="item_c")
    assert (scene.outcomes(), scene.tool_runs()) == (["answered"], [])


def test_a_turn_that_loses_every_link_is_cut() -> None:
    scene = ToolStage(max_replays=2).running("unlock")
    scene.tool_finished("call_1", "unlocked")
    for _ in range(3):
        assert scene.outcomes() == []
        scene.lose()
        scene.advance(5.0)
        scene.link_ready()
    assert scene.outcomes() == ["failed"]
    assert scene.troubles()[-1] == "answer_cut"


def test_without_a_link_the_turn_fails_after_its_wait_and_the_tool_runs_on() -> None:
    scene = ToolStage(link_wait_s=8.0, tool_s=60.0).running("search")
    scene.lose()
    for _ in range(8):
        assert scene.outcomes() == []
        scene.advance(0.9)
        scene.lose("refused", None)
    scene.advance(1.0)
    assert (scene.outcomes(), scene.troubles()[-1], scene.cancelled()) == (["failed"], "no_link", [])
    scene.tool_finished("call_1", "found")
    assert scene.kept() == [(CALL, "call_1"), (OUTPUT, "call_1")]


def test_a_press_while_the_turn_waits_for_a_link_interrupts_it() -> None:
    scene = ToolStage().running("unlock", "search")
    scene.lose()
    scene.say()
    assert scene.outcomes() == ["interrupted"]
    assert scene.cancelled() == ["call_2"], "a press cancels what is cancellable"
    scene.tool_finished("call_1", "unlocked")
    scene.reconnect()
    assert len(scene.requests()) == 1
    assert {frame["response"]["metadata"]["turn"] for frame in scene.sent() if "response" in frame} == {"turn_2"}
    assert (OUTPUT, "call_1") in scene.told()


def test_a_ready_spare_goes_on_at_once() -> None:
    scene = ToolStage(endpoints=2, failback_s=60.0)
    scene.start()
    scene.lose("refused", None)
    scene.link_ready()
    scene.server({"type": "session.updated", "session": SESSION})
    scene.advance(60.0)
    assert scene.link == 3, "the spare is connecting"
    scene.speaks_on = 2
    scene.say()
    scene.committed()
    scene.created()
    scene.called("unlock", "call_1")
    scene.done()
    scene.tool_finished("call_1", "unlocked")
    scene.speaks_on = 3
    scene.link_ready()
    scene.commands.clear()
    scene.do(LinkDown(2, "lost", 1006, "gone"))
    assert scene.told() == [("message", "user"), (CALL, "call_1"), (OUTPUT, "call_1")]
    assert len(scene.requests()) == 1
    scene.answered("resp_2", item_id="item_b")
    assert (scene.outcomes(), scene.tool_runs()) == (["answered"], [])


def test_words_before_the_calls_play_to_their_end_before_the_next_link_is_asked() -> None:
    scene = ToolStage().ready()
    scene.say()
    scene.committed()
    scene.created()
    scene.audio(ms=2000)
    scene.called("unlock", "call_1")
    scene.done()
    scene.tool_finished("call_1", "unlocked")
    scene.lose()
    scene.reconnect()
    assert (scene.state, len(scene.requests())) == ("speaking", 0)
    scene.play(48_000, drained=True)
    assert len(scene.requests()) == 1
    scene.answered("resp_2", item_id="item_b")
    assert scene.outcomes() == ["answered"]


def test_an_answer_to_the_outputs_that_has_begun_is_cut() -> None:
    scene = ToolStage().running("unlock")
    scene.tool_finished("call_1", "unlocked")
    scene.created("resp_2")
    scene.audio("resp_2", ms=200)
    scene.lose()
    scene.play(4800, drained=True)
    assert (scene.outcomes(), scene.troubles()[-1]) == (["failed"], "answer_cut")
