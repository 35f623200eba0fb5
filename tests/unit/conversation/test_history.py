"""Tests of the conversation core: the history that it keeps, replays and lets a program replace."""

from __future__ import annotations

from typing import Any

from appliance.conversation.commands import Emit
from appliance.conversation.events import HistoryReplaced, LinkUp, MessageGiven, ToolFinished
from appliance.conversation.notices import HistoryChanged, HistoryGrew, Notice
from appliance.realtime.items import HistoryItem
from tests.support.history_frames import (
    ABCD,
    PIXEL,
    THREE,
    added,
    answer,
    call,
    heard,
    of_answer,
    output,
    output_item,
    said,
    spoken_answer,
)
from tests.support.stage import Stage

# --- the core: notices, cuts, outputs ---------------------------------------------------------------------------------


def told(stage: Stage) -> list[Notice]:
    """Return the history notices, in order."""
    notices = [one.notice for one in stage.commands if isinstance(one, Emit)]
    return [one for one in notices if isinstance(one, (HistoryGrew, HistoryChanged))]


def updated(stage: Stage) -> list[HistoryItem]:
    """Return the changed items, in order."""
    return [one.item for one in stage.notices(HistoryChanged) if one.item is not None]


def removed(stage: Stage) -> list[str]:
    """Return the ids of the removed items, in order."""
    return [one.item_id for one in stage.notices(HistoryChanged) if one.item is None]


def known(stage: Stage) -> list[str]:
    return [one.id for one in stage.conversation.history]


def created_items(stage: Stage) -> list[dict[str, Any]]:
    return [one for one in stage.sent() if one["type"] == "conversation.item.create"]


def next_link(stage: Stage) -> None:
    """Lose the link, clear the commands, and connect the next."""
    stage.lose()
    stage.advance(5)
    stage.commands.clear()
    stage.link_ready()


def test_the_history_of_a_turn_is_emitted_as_it_grows() -> None:
    stage = Stage().ready()
    stage.say()
    stage.committed("item_u")
    assert stage.notices(HistoryGrew)[0].item.id == "item_u"
    answer(stage)
    stage.server(heard("item_u", "What time is it?"))
    stage.server(output_item(spoken_answer("It is noon."), done=True))
    stage.done(output=[spoken_answer("It is noon.")])
    assert [(one.item.id, one.previous_item_id) for one in stage.notices(HistoryGrew)] == [
        ("item_u", ""),
        ("item_a", "item_u"),
    ]
    assert updated(stage)[-1].status == "completed"
    assert [one.text for one in stage.conversation.history] == ["What time is it?", "It is noon."]


def test_the_history_can_be_rebuilt_from_its_notices() -> None:
    stage = Stage().ready()
    stage.say()
    stage.committed("item_u")
    stage.server(heard("item_u", "What time is it?"))
    answer(stage)
    stage.server({"type": "conversation.item.deleted", "item_id": "item_u"})
    rebuilt: dict[str, HistoryItem] = {}
    for one in told(stage):
        match one:
            case HistoryGrew(item=item):
                rebuilt[item.id] = item
            case HistoryChanged(item_id=item_id, item=None):
                del rebuilt[item_id]
            case HistoryChanged(item_id=item_id, item=item):
                rebuilt[item_id] = item
    assert tuple(rebuilt.values()) == stage.conversation.history


def test_a_press_during_the_answer_cuts_it_to_the_heard_part() -> None:
    stage = Stage().ready()
    stage.say()
    stage.committed("item_u")
    answer(stage, "one two three four five sixes", ms=4000)
    stage.play(24_000)
    stage.press()
    item = stage.conversation.history[-1]
    assert (item.heard_ms, item.text, item.status) == (1000, "one two", "incomplete")
    assert updated(stage)[-1] == item


def test_text_arriving_after_the_press_is_not_in_the_history() -> None:
    stage = Stage().ready()
    stage.say()
    stage.committed("item_u")
    answer(stage, "one two three four five sixes", ms=4000)
    stage.play(24_000)
    stage.press()
    before = stage.conversation.history
    stage.server(of_answer("output_audio_transcript.delta", delta=" and much more"))
    stage.server(output_item(spoken_answer("one two three four five sixes and much more", "incomplete"), done=True))
    stage.done(status="cancelled", output=[spoken_answer("one two three four five sixes and much more", "incomplete")])
    assert stage.conversation.history == before


def test_a_fully_heard_answer_is_not_cut() -> None:
    stage = Stage().ready()
    stage.say()
    stage.committed("item_u")
    answer(stage, ms=1000)
    stage.server(output_item(spoken_answer("It is noon."), done=True))
    stage.done(output=[spoken_answer("It is noon.")])
    stage.play(24_000, drained=True)
    stage.press()
    assert stage.conversation.history[-1] == said("item_a", "It is noon.", "assistant", is_spoken=True)


def test_an_answer_cut_by_a_lost_link_and_then_by_a_press_keeps_the_heard_part() -> None:
    stage = Stage().ready()
    stage.say()
    stage.committed("item_u")
    stage.server(heard("item_u", "Count."))
    answer(stage, "one two three four five sixes", ms=4000)
    stage.play(24_000)
    stage.lose()
    stage.press()
    item = stage.conversation.history[-1]
    assert (item.heard_ms, item.text) == (1000, "one two")


def test_an_answer_replayed_on_a_new_link_and_then_cut_is_replaced_by_its_heard_part() -> None:
    """It keeps playing while the new link gets all of it as text, and text items cannot be truncated."""
    stage = Stage().ready()
    stage.say()
    stage.committed("item_u")
    stage.server(heard("item_u", "Count."))
    answer(stage, "one two three four five sixes", ms=4000)
    stage.server(output_item(spoken_answer("one two three four five sixes"), done=True))
    stage.done(output=[spoken_answer("one two three four five sixes")])
    stage.play(24_000)
    next_link(stage)
    assert created_items(stage)[-1]["item"]["content"][0]["text"] == "one two three four five sixes"
    stage.press()
    assert stage.conversation.history[-1].text == "one two"
    deleted = [one["item_id"] for one in stage.sent() if one["type"] == "conversation.item.delete"]
    on_server = [one["item"] for one in created_items(stage) if one["item"]["id"] not in deleted]
    assert [one["content"][0]["text"] for one in on_server] == ["Count.", "one two"]


def test_a_tool_output_is_added_on_both_sides() -> None:
    stage = Stage().ready()
    stage.say()
    stage.committed("item_u")
    stage.created()
    stage.called("get_time", "call_1")
    stage.done()
    stage.commands.clear()
    stage.do(ToolFinished("call_1", "noon"))
    [frame] = created_items(stage)
    item_id = frame["item"]["id"]
    assert frame["item"] == {"id": item_id, "type": "function_call_output", "call_id": "call_1", "output": "noon"}
    assert known(stage) == ["item_u", "item_call_1", item_id]
    assert stage.conversation.history[-1].output == "noon"
    assert stage.notices(HistoryGrew)[0].previous_item_id == "item_call_1"


def test_an_output_confirmed_by_the_server_is_not_duplicated() -> None:
    stage = Stage().ready()
    stage.say()
    stage.committed("item_u")
    stage.created()
    stage.called("get_time", "call_1")
    stage.done()
    stage.do(ToolFinished("call_1", "noon"))
    item = created_items(stage)[-1]["item"] | {"status": "completed"}
    before = stage.conversation.history
    stage.server(added(item, "item_call_1"))
    stage.server(added(item, "item_call_1", done=True))
    assert stage.conversation.history == before


def test_a_message_of_the_program_is_added_on_both_sides() -> None:
    stage = Stage().ready()
    content = [{"type": "input_text", "text": "What is this?"}, {"type": "input_image", "image_url": PIXEL}]
    item = {"id": "note_1", "type": "message", "role": "user", "content": content}
    stage.do(MessageGiven(item, "What is this?", wants_answer=False))
    assert created_items(stage) == [{"type": "conversation.item.create", "event_id": "item_note_1", "item": item}]
    assert stage.conversation.history == (said("note_1", "What is this?", images=(PIXEL,)),)


def test_an_out_of_band_answer_is_not_in_the_history() -> None:
    stage = Stage().ready()
    response = {"id": "resp_x", "metadata": {"aside": "key_1"}, "conversation_id": None}
    stage.server({"type": "response.created", "response": response | {"status": "in_progress", "output": []}})
    stage.server(output_item(spoken_answer("Between us.")) | {"response_id": "resp_x"})
    stage.server(
        {"type": "response.done", "response": response | {"status": "completed", "output": [spoken_answer("Well.")]}}
    )
    assert stage.conversation.history == ()


def test_the_oldest_item_is_removed_beyond_max_history() -> None:
    stage = Stage(max_history=2).ready()
    for frame in THREE:
        stage.server(frame)
    assert known(stage) == ["item_2", "item_3"]
    assert removed(stage) == ["item_1"]


# --- the core: replay on a new link -----------------------------------------------------------------------------------


def test_a_restored_history_is_sent_after_the_session_update() -> None:
    stage = Stage(history=[said("item_1", "I am Ada."), said("item_2", "Hello Ada.", "assistant", is_spoken=True)])
    stage.start()
    stage.link_ready()
    assert stage.sent_types() == ["session.update", "conversation.item.create", "conversation.item.create"]
    assert created_items(stage) == [
        {
            "type": "conversation.item.create",
            "event_id": "item_item_1",
            "item": {
                "id": "item_1",
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": "I am Ada."}],
            },
        },
        {
            "type": "conversation.item.create",
            "event_id": "item_item_2",
            "item": {
                "id": "item_2",
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "Hello Ada."}],
            },
        },
    ]


def test_nothing_is_sent_before_the_session_is_created() -> None:
    stage = Stage(history=ABCD).start()
    stage.do(LinkUp(stage.link))
    assert stage.sent() == []


def test_the_echo_of_a_replay_changes_nothing() -> None:
    stage = Stage(history=[call(), output(), *ABCD]).start()
    stage.link_ready()
    before = stage.conversation.history
    previous = None
    for frame in created_items(stage):
        stage.server(added(frame["item"] | {"status": "completed"}, previous))
        stage.server(added(frame["item"] | {"status": "completed"}, previous, done=True))
        previous = frame["item"]["id"]
    assert stage.conversation.history == before
    assert told(stage) == []


def test_a_new_link_gets_the_newest_items_and_the_others_are_removed_locally_too() -> None:
    stage = Stage(history=[said(f"item_{index}", "x") for index in range(10)], replay_items=3).start()
    stage.link_ready()
    assert [one["item"]["id"] for one in created_items(stage)] == ["item_7", "item_8", "item_9"]
    assert known(stage) == ["item_7", "item_8", "item_9"]


def test_a_refused_item_is_removed_from_the_history() -> None:
    stage = Stage(history=ABCD).start()
    stage.link_ready()
    stage.error("invalid_value", event_id="item_item_b", message="Invalid 'item.content'.")
    assert known(stage) == ["item_a", "item_c", "item_d"]
    assert removed(stage) == ["item_b"]
    assert stage.troubles() == ["item_refused"]
    assert stage.state == "ready"


def test_a_replayed_turn_is_not_duplicated() -> None:
    stage = Stage(history=ABCD[:1]).ready()
    stage.say()
    stage.committed("item_u")
    next_link(stage)
    assert [one["item"]["id"] for one in created_items(stage)] == ["item_a"], "the audio is sent again instead"
    assert stage.sent_types()[-3:] == ["input_audio_buffer.append", "input_audio_buffer.commit", "response.create"]
    stage.committed("item_again")
    assert known(stage) == ["item_a", "item_again"]


def test_a_replayed_message_is_not_duplicated() -> None:
    stage = Stage().ready()
    content = [{"type": "input_text", "text": "What time is it?"}]
    stage.do(MessageGiven({"id": "note_1", "type": "message", "role": "user", "content": content}, "What time is it?"))
    next_link(stage)
    assert [one["item"]["id"] for one in created_items(stage)] == ["note_1"]
    assert known(stage) == ["note_1"]
    assert stage.sent_types()[-1] == "response.create"


def test_a_call_of_a_lost_link_is_told_with_its_output_once_that_is_known() -> None:
    stage = Stage().ready()
    stage.say()
    stage.committed("item_u")
    stage.server(heard("item_u", "What time is it?"))
    stage.created()
    stage.called("get_time", "call_1")
    next_link(stage)
    assert known(stage) == ["item_u"]
    stage.do(ToolFinished("call_1", "noon"))
    assert [one["item"]["id"] for one in created_items(stage)] == ["item_u", "local_1", "local_2"]
    assert known(stage) == ["item_u", "local_1", "local_2"]


def test_an_answered_call_is_replayed_with_its_output() -> None:
    stage = Stage().ready()
    stage.say()
    stage.committed("item_u")
    stage.server(heard("item_u", "What time is it?"))
    stage.created()
    stage.called("get_time", "call_1")
    stage.done()
    stage.do(ToolFinished("call_1", "noon"))
    stage.created("resp_2")
    stage.audio("resp_2", "item_b")
    stage.done("resp_2")
    stage.play(4800, drained=True)
    next_link(stage)
    assert [one["item"]["type"] for one in created_items(stage)] == ["message", "function_call", "function_call_output"]


def test_an_answer_cut_by_a_lost_link_is_replayed_as_far_as_it_was_received() -> None:
    stage = Stage().ready()
    stage.say()
    stage.committed("item_u")
    stage.server(heard("item_u", "Count."))
    stage.created()
    stage.server(output_item(spoken_answer(None, "in_progress")))
    stage.audio(ms=1000)
    stage.server(of_answer("output_audio_transcript.delta", delta="one two three"))
    stage.lose()
    stage.play(24_000, drained=True)
    stage.advance(5)
    stage.commands.clear()
    stage.link_ready()
    assert created_items(stage)[-1]["item"] == {
        "id": "item_a",
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "one two three"}],
    }
    assert stage.conversation.history[-1].heard_ms == 1000


# --- the core: the program replaces the history -----------------------------------------------------------------------


def listed(*items: HistoryItem) -> Stage:
    """Return a stage with a ready link and these items as history."""
    stage = Stage(history=items).ready()
    assert known(stage) == [one.id for one in items]
    return stage


def replaced(stage: Stage, *items: HistoryItem) -> list[tuple[str, ...]]:
    """Replace the history; return the frames sent for it, in short form."""
    stage.commands.clear()
    stage.do(HistoryReplaced(items))
    short = {"conversation.item.delete": ("item_id",), "conversation.item.create": ("previous_item_id",)}
    return [(one["type"].rpartition(".")[2], *(one[key] for key in short[one["type"]])) for one in stage.sent()]


def test_a_missing_item_is_deleted_on_the_server() -> None:
    stage = listed(*ABCD)
    assert replaced(stage, ABCD[0], ABCD[3]) == [("delete", "item_b"), ("delete", "item_c")]
    assert known(stage) == ["item_a", "item_d"]
    assert told(stage) == [HistoryChanged("item_b"), HistoryChanged("item_c")]


def test_a_new_item_is_created_at_its_position() -> None:
    stage = listed(*ABCD)
    assert replaced(stage, *ABCD[:2], said("n", "new"), *ABCD[2:]) == [("create", "item_b")]
    assert [one.text for one in stage.conversation.history] == ["a", "b", "new", "c", "d"]
    [notice] = told(stage)
    assert isinstance(notice, HistoryGrew)
    assert notice.previous_item_id == "item_b"


def test_a_new_first_item_is_created_at_the_root() -> None:
    stage = listed(*ABCD)
    assert replaced(stage, said("n", "new"), *ABCD) == [("create", "root")]
    assert [one.text for one in stage.conversation.history] == ["new", "a", "b", "c", "d"]


def test_changed_text_is_sent_as_a_delete_and_a_create() -> None:
    stage = listed(*ABCD)
    assert replaced(stage, ABCD[0], said("item_b", "B"), *ABCD[2:]) == [("delete", "item_b"), ("create", "item_a")]
    assert [one.text for one in stage.conversation.history] == ["a", "B", "c", "d"]


def test_the_same_history_sends_nothing() -> None:
    stage = listed(*ABCD)
    assert replaced(stage, *ABCD) == []
    assert told(stage) == []


def test_an_empty_history_deletes_every_item() -> None:
    stage = listed(*ABCD)
    assert [kind for kind, _ in replaced(stage)] == ["delete"] * 4
    assert stage.conversation.history == ()


def test_a_spoken_item_is_created_as_text() -> None:
    stage = listed(*ABCD)
    replaced(stage, said("n", "Noon.", "assistant", is_spoken=True), *ABCD)
    assert created_items(stage)[0]["item"]["content"] == [{"type": "output_text", "text": "Noon."}]


def test_an_item_that_cannot_be_created_does_not_misplace_the_following_ones() -> None:
    stage = listed(*ABCD)
    unwritable = HistoryItem(id="item_m", type="mcp_call", name="search")
    assert replaced(stage, ABCD[0], unwritable, said("n", "new"), *ABCD[1:]) == [("create", "item_a")]
    assert [one.text for one in stage.conversation.history] == ["a", "new", "b", "c", "d"]


def test_a_new_item_refused_by_the_server_is_removed() -> None:
    stage = listed(*ABCD)
    replaced(stage, *ABCD, said("n", "new"))
    [frame] = created_items(stage)
    stage.error("invalid_value", event_id=frame["event_id"], message="Invalid 'item'.")
    assert stage.conversation.history == tuple(ABCD)
    assert stage.troubles() == ["item_refused"]


def test_a_history_replaced_without_a_link_is_sent_on_the_next() -> None:
    stage = listed(*ABCD)
    stage.lose()
    assert replaced(stage, ABCD[0], said("n", "new")) == []
    stage.advance(5)
    stage.link_ready()
    assert [one["item"]["content"][0]["text"] for one in created_items(stage)] == ["a", "new"]


def test_the_confirmation_of_a_delete_is_not_reported_again() -> None:
    stage = listed(*ABCD)
    replaced(stage, *ABCD[1:])
    stage.server({"type": "conversation.item.deleted", "item_id": "item_a"})
    assert told(stage) == [HistoryChanged("item_a")]
