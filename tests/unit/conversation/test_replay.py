"""Tests of `ItemList`: what of the history is replayed on a new link."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.conversation.notices import HistoryChanged, HistoryGrew
from appliance.conversation.support.item_list import NOT_WRITTEN_DOWN, ItemList, wire_item
from appliance.realtime.items import HistoryItem
from tests.support.history_frames import (
    PIXEL,
    added,
    call,
    output,
    said,
)
from tests.support.item_lists import committed, ids, tell, user_audio
from tests.support.oracle import check_client_frame


def test_replay_writes_each_kind_in_the_form_a_client_may_send() -> None:
    history = ItemList(
        [
            said("item_s", "Be brief.", "system"),
            said("item_u", "What time is it?", is_spoken=True),
            call(),
            output(),
            said("item_a", "It is noon.", "assistant", is_spoken=True),
            said("item_p", "And what is this?", images=(PIXEL,)),
        ]
    )
    frames, changes = history.replay(limit=100)
    assert frames == [
        {
            "id": "item_s",
            "type": "message",
            "role": "system",
            "content": [{"type": "input_text", "text": "Be brief."}],
        },
        {
            "id": "item_u",
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "What time is it?"}],
        },
        {
            "id": "item_call_1",
            "type": "function_call",
            "name": "get_time",
            "arguments": "{}",
            "call_id": "call_1",
        },
        {"id": "out_call_1", "type": "function_call_output", "call_id": "call_1", "output": "noon"},
        {
            "id": "item_a",
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "It is noon."}],
        },
        {
            "id": "item_p",
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "And what is this?"},
                {"type": "input_image", "image_url": PIXEL},
            ],
        },
    ]
    assert changes == []


def test_untranscribed_speech_is_replayed_as_a_placeholder() -> None:
    history = ItemList()
    tell(history, committed("item_u"), added(user_audio(), done=True))
    frames, changes = history.replay(limit=100)
    assert frames[0]["content"] == [{"type": "input_text", "text": NOT_WRITTEN_DOWN}]
    assert changes == []
    assert history.items[0].text == "", "the placeholder is for the model, not for the history"


def test_an_image_without_text_is_replayed() -> None:
    frames, _ = ItemList([said("item_p", "", images=(PIXEL,))]).replay(limit=100)
    assert frames[0]["content"] == [{"type": "input_image", "image_url": PIXEL}]


def test_a_cut_answer_is_replayed_with_its_heard_text() -> None:
    history = ItemList([said("item_a", "one two three four five sixes", "assistant", is_spoken=True)])
    history.cut("item_a", 1000, 4000)
    frames, _ = history.replay(limit=100)
    assert frames[0]["content"] == [{"type": "output_text", "text": "one two"}]


@pytest.mark.parametrize(
    "item",
    [
        said("item_x", "", "assistant", is_spoken=True, heard_ms=0, status="incomplete"),
        said("item_x", ""),
        call(),
        output(),
        HistoryItem(id="item_x", type="mcp_call", name="search", server_label="docs", output="found"),
        HistoryItem(id="item_x", type="mcp_approval_response"),
    ],
    ids=["unheard", "empty", "call_alone", "output_alone", "mcp_call", "mcp_approval_response"],
)
def test_an_item_that_cannot_be_replayed_is_removed_locally_too(item: HistoryItem) -> None:
    history = ItemList([said("item_1", "one"), item])
    frames, changes = history.replay(limit=100)
    assert [one["id"] for one in frames] == ["item_1"]
    assert changes == [HistoryChanged(item.id)]
    assert ids(history) == ["item_1"]


@pytest.mark.parametrize("limit", [0, 1, 3, 9, 10, 11])
def test_only_the_newest_items_are_replayed_and_the_others_removed(limit: int) -> None:
    history = ItemList([said(f"item_{index}", "x") for index in range(10)])
    frames, changes = history.replay(limit=limit)
    newest = [f"item_{index}" for index in range(10)][max(0, 10 - limit) :]
    assert [one["id"] for one in frames] == newest
    assert ids(history) == newest
    assert changes == [HistoryChanged(f"item_{index}") for index in range(max(0, 10 - limit))]


def test_a_call_and_output_separated_by_the_limit_are_not_replayed() -> None:
    history = ItemList([call(), output(), said("item_a", "It is noon.", "assistant")])
    frames, _ = history.replay(limit=2)
    assert [one["id"] for one in frames] == ["item_a"], "the server would refuse the output of a missing call"
    assert ids(history) == ["item_a"]


def test_an_output_before_its_call_is_not_replayed() -> None:
    history = ItemList([output(), call(), said("item_a", "It is noon.", "assistant")])
    frames, _ = history.replay(limit=100)
    assert [one["id"] for one in frames] == ["item_a"]


@pytest.mark.parametrize("odd", ["x" * 33, "item:1", "naïve", "with space"])
def test_an_invalid_id_is_replaced_on_both_sides(odd: str) -> None:
    history = ItemList([said("item_1", "one"), said(odd, "two"), said("item_3", "three")])
    frames, changes = history.replay(limit=100)
    new_id = frames[1]["id"]
    assert changes == [HistoryChanged(odd), HistoryGrew(said(new_id, "two"), "item_1")]
    assert ids(history) == ["item_1", new_id, "item_3"]
    assert len(new_id) <= 32


def test_the_first_item_keeps_its_position_under_its_new_id() -> None:
    history = ItemList([said("odd id", "one"), said("item_2", "two")])
    frames, _ = history.replay(limit=100)
    assert [one["content"][0]["text"] for one in frames] == ["one", "two"]
    assert ids(history) == [one["id"] for one in frames]


_ANY_ITEM = st.one_of(
    st.builds(
        HistoryItem,
        id=st.text(max_size=40).filter(bool),
        role=st.sampled_from(["user", "assistant", "system"]),
        text=st.sampled_from(["", "Hello."]),
        status=st.sampled_from(["in_progress", "completed", "incomplete"]),
        is_spoken=st.booleans(),
        heard_ms=st.sampled_from([None, 0, 100]),
    ),
    st.builds(call, st.sampled_from(["call_1", "call_2"])),
    st.builds(output, st.sampled_from(["call_1", "call_2"])),
    st.builds(HistoryItem, id=st.just("item_m"), type=st.sampled_from(["mcp_call", "mcp_list_tools"])),
)


@given(st.lists(_ANY_ITEM, max_size=8, unique_by=lambda one: one.id), st.integers(0, 9))
def test_replayed_items_are_valid_paired_and_equal_to_the_local_ones(items: list[HistoryItem], limit: int) -> None:
    history = ItemList(items)
    frames, _ = history.replay(limit=limit)
    for frame in frames:
        check_client_frame({"type": "conversation.item.create", "event_id": "ev", "item": frame})
    assert [one["id"] for one in frames] == ids(history)
    assert len(frames) <= limit
    called = [one["call_id"] for one in frames if one["type"] == "function_call"]
    answered = [one["call_id"] for one in frames if one["type"] == "function_call_output"]
    assert sorted(called) == sorted(answered)


def test_replay_is_idempotent() -> None:
    history = ItemList([said("odd id", "one"), call(), said("item_3", "three")])
    first, _ = history.replay(limit=100)
    second, changes = history.replay(limit=100)
    assert first == second
    assert changes == []


def test_an_item_left_open_by_a_lost_link_becomes_incomplete() -> None:
    history = ItemList([said("item_1", "one"), said("item_a", "It", "assistant", status="in_progress")])
    assert history.end_open() == [HistoryChanged("item_a", said("item_a", "It", "assistant", status="incomplete"))]


def test_an_item_a_client_may_not_create_has_no_frame() -> None:
    assert wire_item(HistoryItem(id="item_m", type="mcp_list_tools")) is None
