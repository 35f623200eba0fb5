"""Tests of the `history` region: the items of the conversation and the frames that keep the server in step."""

from __future__ import annotations

from typing import Any

from appliance.conversation.commands import Emit, Send
from appliance.conversation.notices import HistoryChanged, HistoryGrew
from appliance.conversation.policy import Policy
from appliance.conversation.regions.history import History
from appliance.conversation.support.outbox import ItemOf, Outbox
from appliance.realtime import protocol as wire
from appliance.realtime.items import HistoryItem
from tests.unit.conversation.regions.outcome import frames, linked, notices


def said(item_id: str, text: str = "hello", role: str = "user", **more: Any) -> HistoryItem:
    return HistoryItem(id=item_id, role=role, text=text, **more)


def answer(item_id: str, text: str = "one two three four five", **more: Any) -> HistoryItem:
    return said(item_id, text, "assistant", is_spoken=True, **more)


def history(out: Outbox, *items: HistoryItem, **policy: Any) -> History:
    return History(Policy(**policy), out, items)


def ids(region: History) -> list[str]:
    return [one.id for one in region.items]


def created(item_id: str, text: str, role: str = "user", previous: str | None = None) -> dict[str, Any]:
    """Return the frame that creates a message on the server."""
    kind = "output_text" if role == "assistant" else "input_text"
    item = {"id": item_id, "type": "message", "role": role, "content": [{"type": kind, "text": text}]}
    frame = {"type": "conversation.item.create", "event_id": f"item_{item_id}", "item": item}
    return frame | ({"previous_item_id": previous} if previous else {})


def test_deleting_a_known_item_emits_the_notice_then_the_frame() -> None:
    out = linked()
    region = history(out, said("a"))
    region.delete("a")
    delete = wire.ConversationItemDelete(event_id="item_a", item_id="a")
    assert out.take() == [Emit(HistoryChanged("a")), Send(1, delete)]
    region.delete("a")
    assert out.take() == []


def test_late_events_for_a_deleted_item_do_not_bring_it_back() -> None:
    out = linked()
    region = history(out, said("a"), said("b"))
    late = wire.Item(type="message", id="a", role="user", status="completed")
    region.delete("a")
    region.apply(wire.ConversationItemDone(item=late))
    assert ids(region) == ["b"]
    region.end_open()  # on another link the item may come back
    region.apply(wire.ConversationItemDone(item=late))
    assert ids(region) == ["b", "a"]


def test_adding_a_message_emits_the_notice_then_the_frame_with_an_event_id() -> None:
    out = linked()
    region = history(out, said("a"))
    item = created("b", "look")["item"]
    item["content"].append({"type": "input_image", "image_url": "data:x"})
    region.add_message(item, "look")
    grew, send = out.take()
    assert grew == Emit(HistoryGrew(said("b", "look", images=("data:x",)), "a"))
    assert frames([send]) == [{"type": "conversation.item.create", "event_id": "item_b", "item": item}]
    assert out.cause("item_b") == ItemOf("b")


def test_without_a_link_only_the_notice_is_emitted() -> None:
    out = Outbox()
    history(out).add_system_message("be kind")
    commands = out.take()
    assert [type(one) for one in notices(commands)] == [HistoryGrew]
    assert len(commands) == 1


def test_removing_an_item_the_server_does_not_have_sends_no_frame() -> None:
    out = linked()
    region = history(out, said("a"))
    region.remove("a")
    assert (out.take(), ids(region)) == ([Emit(HistoryChanged("a"))], [])


def test_cutting_an_answer_of_this_link_marks_it_once_and_sends_nothing() -> None:
    out = linked()
    region = history(out, answer("a"))
    region.cut("a", 500, 1000, is_elsewhere=False)
    cut = answer("a", "one two", status="incomplete", heard_ms=500)
    assert out.take() == [Emit(HistoryChanged("a", cut))]
    region.cut("a", 100, 1000, is_elsewhere=True)
    assert (out.take(), region.get("a")) == ([], cut)


def test_cutting_an_answer_of_another_link_recreates_it_with_the_heard_text() -> None:
    out = linked()
    region = history(out, said("q"), answer("a"), said("z"))
    region.cut("a", 500, 1000, is_elsewhere=True)
    delete, create = frames(out.take())
    new_id = ids(region)[1]
    assert delete == {"type": "conversation.item.delete", "event_id": "item_a", "item_id": "a"}
    assert create == created(new_id, "one two", "assistant", previous="q")
    assert (ids(region), new_id == "a") == (["q", new_id, "z"], False)


def test_cutting_an_unheard_answer_of_another_link_deletes_it() -> None:
    out = linked()
    region = history(out, answer("a"))
    region.cut("a", 0, 1000, is_elsewhere=True)
    assert [one["type"] for one in frames(out.take())] == ["conversation.item.delete"]
    assert ids(region) == []


def test_unheard_incomplete_answers_are_removed() -> None:
    out = linked()
    cut = {"status": "incomplete"}
    region = history(
        out,
        said("question", **cut),
        answer("whole"),
        answer("played", **cut),
        answer("heard", heard_ms=10, **cut),
        answer("taken", **cut),
    )
    region.remove_unplayed(("played",))
    assert ids(region) == ["question", "whole", "played", "heard"]
    assert frames(out.take()) == []


def test_replacing_deletes_missing_items_and_creates_new_ones_after_their_predecessor() -> None:
    out = linked()
    region = history(out, said("a"), said("b"), said("c"))
    region.replace([said("n", "new"), said("a"), said("m", "more"), said("c")])
    assert frames(out.take()) == [
        {"type": "conversation.item.delete", "event_id": "item_b", "item_id": "b"},
        created("n", "new", previous="root"),
        created("m", "more", previous="a"),
    ]
    assert ids(region) == ["n", "a", "m", "c"]


def test_an_item_after_one_that_cannot_be_created_follows_the_item_before_that() -> None:
    out = linked()
    region = history(out, said("a"))
    region.replace([said("a"), HistoryItem(id="list", type="mcp_list_tools"), said("b", "bye")])
    assert frames(out.take()) == [created("b", "bye", previous="a")]
    assert ids(region) == ["a", "b"]


def test_a_new_link_gets_the_newest_items_and_the_rest_are_forgotten() -> None:
    out = linked()
    region = history(out, said("a", "1"), said("b", "2"), answer("c", "3"), replay_items=2)
    region.replay()
    assert out.take() == [
        Emit(HistoryChanged("a")),
        Send(1, wire.ConversationItemCreate(event_id="item_b", item=created("b", "2")["item"])),
        Send(1, wire.ConversationItemCreate(event_id="item_c", item=created("c", "3", "assistant")["item"])),
    ]


def test_a_tool_output_is_created_at_the_end_with_the_id_of_its_call() -> None:
    out = linked()
    region = history(out, said("a"))
    region.add_output("call_1", "on")
    added = region.items[-1]
    assert (added.type, added.call_id, added.output) == ("function_call_output", "call_1", "on")
    item = {"id": added.id, "type": "function_call_output", "call_id": "call_1", "output": "on"}
    assert [one["item"] for one in frames(out.take())] == [item]


def test_only_a_rejection_carries_a_reason() -> None:
    out = linked()
    region = history(out)
    region.add_verdict("request_1", approves=True, reason="fine")
    region.add_verdict("request_2", approves=False, reason="no")
    region.add_verdict("request_3", approves=False, reason="")
    sent = [one["item"] for one in frames(out.take())]
    assert [(one["approval_request_id"], one["approve"], one.get("reason")) for one in sent] == [
        ("request_1", True, None),
        ("request_2", False, "no"),
        ("request_3", False, None),
    ]


def test_items_in_progress_become_incomplete_when_the_link_is_lost() -> None:
    out = linked()
    region = history(out, answer("a", status="in_progress"), answer("b"))
    region.end_open()
    assert notices(out.take()) == [HistoryChanged("a", answer("a", status="incomplete"))]
