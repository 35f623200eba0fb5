"""The region `history`: the conversation so far, and what each connection is sent of it."""

from __future__ import annotations

from typing import Any

from appliance.conversation.commands import Emit, Send
from appliance.conversation.notices import HistoryChanged, HistoryGrew
from appliance.conversation.policy import Policy
from appliance.conversation.regions.history import History
from appliance.conversation.support.outbox import ItemOf, Outbox
from appliance.realtime import protocol as wire
from appliance.realtime.items import HistoryItem
from tests.unit.regions.outcome import frames, linked, notices


def said(item_id: str, text: str = "hello", role: str = "user", **more: Any) -> HistoryItem:
    return HistoryItem(id=item_id, role=role, text=text, **more)


def answer(item_id: str, text: str = "one two three four five", **more: Any) -> HistoryItem:
    return said(item_id, text, "assistant", is_spoken=True, **more)


def history(out: Outbox, *items: HistoryItem, **policy: Any) -> History:
    return History(Policy(**policy), out, items)


def ids(made: History) -> list[str]:
    return [one.id for one in made.items]


def created(item_id: str, text: str, role: str = "user", previous: str | None = None) -> dict[str, Any]:
    """The frame that creates a message on the server."""
    kind = "output_text" if role == "assistant" else "input_text"
    item = {"id": item_id, "type": "message", "role": role, "content": [{"type": kind, "text": text}]}
    frame = {"type": "conversation.item.create", "event_id": f"item_{item_id}", "item": item}
    return frame | ({"previous_item_id": previous} if previous else {})


def test_deleting_emits_the_notice_then_the_frame_and_only_for_what_is_known() -> None:
    out = linked()
    made = history(out, said("a"))
    made.delete("a")
    delete = wire.ConversationItemDelete(event_id="item_a", item_id="a")
    assert out.take() == [Emit(HistoryChanged("a")), Send(1, delete)]
    made.delete("a")
    assert out.take() == []


def test_what_the_server_still_says_of_a_deleted_item_does_not_bring_it_back() -> None:
    out = linked()
    made = history(out, said("a"), said("b"))
    late = wire.Item(type="message", id="a", role="user", status="completed")
    made.delete("a")
    made.apply(wire.ConversationItemDone(item=late))
    assert ids(made) == ["b"]
    made.end_open()  # on another connection, it may
    made.apply(wire.ConversationItemDone(item=late))
    assert ids(made) == ["b", "a"]


def test_adding_a_message_emits_the_notice_then_the_frame_and_an_error_can_name_it() -> None:
    out = linked()
    made = history(out, said("a"))
    item = created("b", "look")["item"]
    item["content"].append({"type": "input_image", "image_url": "data:x"})
    made.add_message(item, "look")
    grew, send = out.take()
    assert grew == Emit(HistoryGrew(said("b", "look", images=("data:x",)), "a"))
    assert frames([send]) == [{"type": "conversation.item.create", "event_id": "item_b", "item": item}]
    assert out.cause("item_b") == ItemOf("b")


def test_without_a_connection_only_the_notice_is_emitted() -> None:
    out = Outbox()
    history(out).add_system_message("be kind")
    commands = out.take()
    assert [type(one) for one in notices(commands)] == [HistoryGrew]
    assert len(commands) == 1


def test_removing_what_the_server_does_not_have_sends_no_frame() -> None:
    out = linked()
    made = history(out, said("a"))
    made.remove("a")
    assert (out.take(), ids(made)) == ([Emit(HistoryChanged("a"))], [])


def test_cutting_an_answer_of_this_connection_marks_it_once_and_sends_nothing() -> None:
    out = linked()
    made = history(out, answer("a"))
    made.cut("a", 500, 1000, is_elsewhere=False)
    cut = answer("a", "one two", status="incomplete", heard_ms=500)
    assert out.take() == [Emit(HistoryChanged("a", cut))]
    made.cut("a", 100, 1000, is_elsewhere=True)
    assert (out.take(), made.get("a")) == ([], cut)


def test_cutting_an_answer_of_another_connection_creates_it_anew_as_it_was_heard() -> None:
    out = linked()
    made = history(out, said("q"), answer("a"), said("z"))
    made.cut("a", 500, 1000, is_elsewhere=True)
    delete, create = frames(out.take())
    anew = ids(made)[1]
    assert delete == {"type": "conversation.item.delete", "event_id": "item_a", "item_id": "a"}
    assert create == created(anew, "one two", "assistant", previous="q")
    assert (ids(made), anew == "a") == (["q", anew, "z"], False)


def test_cutting_an_answer_of_another_connection_of_which_nothing_was_heard_deletes_it() -> None:
    out = linked()
    made = history(out, answer("a"))
    made.cut("a", 0, 1000, is_elsewhere=True)
    assert [one["type"] for one in frames(out.take())] == ["conversation.item.delete"]
    assert ids(made) == []


def test_answers_that_the_connection_took_before_a_word_was_heard_are_forgotten() -> None:
    out = linked()
    cut = {"status": "incomplete"}
    made = history(
        out,
        said("question", **cut),
        answer("whole"),
        answer("played", **cut),
        answer("heard", heard_ms=10, **cut),
        answer("taken", **cut),
    )
    made.remove_unplayed(("played",))
    assert ids(made) == ["question", "whole", "played", "heard"]
    assert frames(out.take()) == []


def test_replacing_deletes_what_is_missing_and_creates_what_is_new_behind_the_item_before_it() -> None:
    out = linked()
    made = history(out, said("a"), said("b"), said("c"))
    made.replace([said("n", "new"), said("a"), said("m", "more"), said("c")])
    assert frames(out.take()) == [
        {"type": "conversation.item.delete", "event_id": "item_b", "item_id": "b"},
        created("n", "new", previous="root"),
        created("m", "more", previous="a"),
    ]
    assert ids(made) == ["n", "a", "m", "c"]


def test_what_follows_an_item_that_no_server_takes_follows_the_one_before_it() -> None:
    out = linked()
    made = history(out, said("a"))
    made.replace([said("a"), HistoryItem(id="list", type="mcp_list_tools"), said("b", "bye")])
    assert frames(out.take()) == [created("b", "bye", previous="a")]
    assert ids(made) == ["a", "b"]


def test_a_new_connection_is_told_the_newest_items_and_the_rest_is_forgotten() -> None:
    out = linked()
    made = history(out, said("a", "1"), said("b", "2"), answer("c", "3"), replay_items=2)
    made.replay()
    assert out.take() == [
        Emit(HistoryChanged("a")),
        Send(1, wire.ConversationItemCreate(event_id="item_b", item=created("b", "2")["item"])),
        Send(1, wire.ConversationItemCreate(event_id="item_c", item=created("c", "3", "assistant")["item"])),
    ]


def test_an_output_is_created_behind_everything_with_the_id_of_its_call() -> None:
    out = linked()
    made = history(out, said("a"))
    made.add_output("call_1", "on")
    added = made.items[-1]
    assert (added.type, added.call_id, added.output) == ("function_call_output", "call_1", "on")
    item = {"id": added.id, "type": "function_call_output", "call_id": "call_1", "output": "on"}
    assert [one["item"] for one in frames(out.take())] == [item]


def test_a_verdict_has_a_reason_only_when_it_rejects() -> None:
    out = linked()
    made = history(out)
    made.add_verdict("request_1", approves=True, reason="fine")
    made.add_verdict("request_2", approves=False, reason="no")
    made.add_verdict("request_3", approves=False, reason="")
    sent = [one["item"] for one in frames(out.take())]
    assert [(one["approval_request_id"], one["approve"], one.get("reason")) for one in sent] == [
        ("request_1", True, None),
        ("request_2", False, "no"),
        ("request_3", False, None),
    ]


def test_what_is_in_progress_is_incomplete_once_the_connection_is_gone() -> None:
    out = linked()
    made = history(out, answer("a", status="in_progress"), answer("b"))
    made.end_open()
    assert notices(out.take()) == [HistoryChanged("a", answer("a", status="incomplete"))]
