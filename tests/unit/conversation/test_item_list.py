"""Tests of `ItemList`, the history of a conversation, alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.conversation.notices import HistoryChanged, HistoryGrew
from appliance.conversation.support.item_list import ItemList
from appliance.realtime import protocol as wire
from appliance.realtime.items import HistoryItem
from tests.support.history_frames import (
    ABCD,
    THREE,
    added,
    heard,
    message,
    of_answer,
    output_item,
    said,
    spoken_answer,
    written,
)
from tests.support.item_lists import committed, ids, tell, user_audio


def growing(item_id: str, delta: str) -> dict[str, Any]:
    """Return a delta of the user's transcript."""
    kind = "conversation.item.input_audio_transcription.delta"
    return {"type": kind, "item_id": item_id, "content_index": 0, "delta": delta}


# --- the position of an item ------------------------------------------------------------------------------------------


def test_items_are_ordered_by_predecessor_not_by_arrival() -> None:
    history = ItemList()
    tell(history, written("item_1", "one"), written("item_3", "three", "item_1"), written("item_2", "two", "item_1"))
    assert ids(history) == ["item_1", "item_2", "item_3"]


def test_an_item_after_root_comes_first() -> None:
    history = ItemList()
    tell(history, *THREE, written("item_0", "zero", "root"))
    assert ids(history) == ["item_0", "item_1", "item_2", "item_3"]


@pytest.mark.parametrize("previous", [None, "item_never_heard_of"])
def test_an_item_after_an_unknown_one_goes_to_the_end(previous: str | None) -> None:
    history = ItemList()
    tell(history, *THREE, written("item_4", "four", previous))
    assert ids(history) == ["item_1", "item_2", "item_3", "item_4"]


def test_an_item_received_twice_is_kept_once() -> None:
    history = ItemList()
    answer = spoken_answer(None, "in_progress")
    tell(history, output_item(answer), added(answer), added(spoken_answer("Noon."), done=True))
    assert ids(history) == ["item_a"]


def test_an_answer_the_server_added_first_precedes_a_local_item() -> None:
    """The client creates an item while the server adds one; ``output_item.added`` does not carry a position."""
    history = ItemList([said("item_1", "one")])
    history.insert(said("local_1", "by the way"), None)
    tell(
        history,
        output_item(spoken_answer(None, "in_progress")),
        added(spoken_answer(None, "in_progress"), "item_1"),
        written("local_1", "by the way", "item_a"),
    )
    assert ids(history) == ["item_1", "item_a", "local_1"]


def test_a_local_item_is_moved_to_its_position_on_the_server() -> None:
    history = ItemList([said("item_1", "one"), said("local_1", "by the way"), said("item_2", "two")])
    tell(history, written("local_1", "by the way", "item_2"))
    assert ids(history) == ["item_1", "item_2", "local_1"]


def test_an_item_without_an_id_is_ignored() -> None:
    history = ItemList()
    assert history.take(wire.Item(type="message", role="user"), None, is_done=True) == []
    assert history.items == ()


# --- transcripts of the user ------------------------------------------------------------------------------------------


def test_committed_adds_a_placeholder_at_once() -> None:
    history = ItemList()
    tell(history, *THREE)
    changes = tell(history, committed("item_u", "item_3"))
    placeholder = HistoryItem(id="item_u", role="user", status="in_progress", is_spoken=True, is_transcribed=False)
    assert changes == [HistoryGrew(placeholder, "item_3")]


def test_the_transcript_fills_the_placeholder() -> None:
    history = ItemList()
    tell(history, committed("item_u"), added(user_audio()), added(user_audio(), done=True))
    [before] = history.items
    assert (before.status, before.text, before.is_transcribed) == ("in_progress", "", False)
    [change] = tell(history, heard("item_u", " What time is it?\n"))
    assert isinstance(change, HistoryChanged)
    assert change.item is not None
    item = change.item
    assert (item.status, item.text, item.is_transcribed) == ("completed", "What time is it?", True)


def test_transcript_deltas_are_readable_before_the_transcript_is_complete() -> None:
    history = ItemList()
    changes = tell(history, committed("item_u"), growing("item_u", "What "), growing("item_u", "time"))
    assert len(changes) == 1, "deltas emit no changes: ten arrive each second"
    assert history.items[0].text == "What time"


def test_a_failed_transcription_leaves_the_item_without_text() -> None:
    history = ItemList()
    failed = {
        "type": "conversation.item.input_audio_transcription.failed",
        "item_id": "item_u",
        "content_index": 0,
        "error": {"type": "transcription_error", "code": "audio_unintelligible", "message": "?", "param": None},
    }
    tell(history, committed("item_u"), growing("item_u", "Wh"), failed)
    [item] = history.items
    assert (item.text, item.status, item.is_spoken, item.is_transcribed) == ("", "completed", True, False)


@pytest.mark.parametrize(
    "later",
    [
        added(user_audio(), done=True),
        added(user_audio()),
        committed("item_u"),
        {"type": "conversation.item.retrieved", "item": user_audio()},
    ],
    ids=["done", "added", "committed", "retrieved"],
)
def test_a_transcript_is_kept_when_a_later_event_lacks_it(later: dict[str, Any]) -> None:
    history = ItemList()
    tell(history, committed("item_u"), heard("item_u", "What time is it?"))
    before = history.items
    assert tell(history, later) == [], "nothing has changed, so no change is returned"
    assert history.items == before


def test_a_transcript_does_not_bring_back_a_deleted_item() -> None:
    history = ItemList()
    tell(history, committed("item_u"), {"type": "conversation.item.deleted", "item_id": "item_u"})
    assert tell(history, growing("item_u", "What"), heard("item_u", "What time is it?")) == []
    assert history.items == ()


# --- answers of the assistant -----------------------------------------------------------------------------------------


def test_an_answer_text_grows_and_emits_a_change_when_it_is_complete() -> None:
    history = ItemList()
    changes = tell(
        history,
        output_item(message("item_a", "assistant", status="in_progress")),
        of_answer("output_audio_transcript.delta", delta="It is "),
        of_answer("output_audio_transcript.delta", delta="noon."),
    )
    assert [type(one) for one in changes] == [HistoryGrew]
    assert history.items[0].text == "It is noon."
    [change] = tell(history, of_answer("output_audio_transcript.done", transcript="It is noon."))
    assert isinstance(change, HistoryChanged)
    assert change.item is not None
    assert change.item.text == "It is noon."


def test_the_text_of_several_parts_follows_the_order_of_the_parts() -> None:
    history = ItemList()
    tell(
        history,
        output_item(message("item_a", "assistant", status="in_progress")),
        of_answer("output_text.done", content_index=1, text="Anything else?"),
        of_answer("output_audio_transcript.done", content_index=0, transcript="It is noon."),
    )
    assert history.items[0].text == "It is noon. Anything else?"


@pytest.mark.parametrize(
    "later",
    [
        output_item(spoken_answer(None), done=True),
        added(spoken_answer(None), done=True),
        {"type": "conversation.item.retrieved", "item": spoken_answer(None)},
        {
            "type": "response.done",
            "response": {"id": "resp_1", "status": "completed", "output": [spoken_answer(None)], "metadata": None},
        },
    ],
    ids=["output_item.done", "item.done", "retrieved", "response.done"],
)
def test_the_text_of_an_answer_is_kept_when_a_later_event_lacks_it(later: dict[str, Any]) -> None:
    history = ItemList()
    tell(
        history,
        output_item(spoken_answer(None, "in_progress")),
        of_answer("output_audio_transcript.done", transcript="It is noon."),
        later,
    )
    [item] = history.items
    assert (item.text, item.status, item.is_spoken) == ("It is noon.", "completed", True)


def test_an_item_that_appears_only_in_response_done_is_kept() -> None:
    history = ItemList()
    response = {"id": "resp_1", "status": "completed", "output": [spoken_answer("Noon.")], "metadata": None}
    tell(history, {"type": "response.done", "response": response})
    assert history.items == (said("item_a", "Noon.", "assistant", is_spoken=True),)


def test_a_call_is_completed_by_later_events() -> None:
    history = ItemList()
    begun = {"id": "item_c", "type": "function_call", "status": "in_progress", "name": "get_time", "call_id": "call_1"}
    ended = begun | {"status": "completed", "arguments": '{"zone":"utc"}'}
    tell(history, output_item(begun | {"arguments": ""}), output_item(ended, done=True))
    [item] = history.items
    assert (item.type, item.name, item.call_id) == ("function_call", "get_time", "call_1")
    assert (item.arguments, item.status) == ('{"zone":"utc"}', "completed")


_USER = [
    added(user_audio()),
    added(user_audio(), done=True),
    growing("item_u", "What time "),
    growing("item_u", "is it?"),
    heard("item_u", "What time is it?"),
]

_ANSWER = [
    output_item(spoken_answer(None, "in_progress")),
    added(spoken_answer(None, "in_progress"), "item_u"),
    of_answer("output_audio_transcript.delta", delta="It is "),
    of_answer("output_audio_transcript.delta", delta="noon."),
    of_answer("output_audio_transcript.done", transcript="It is noon."),
    output_item(spoken_answer("It is noon."), done=True),
    added(spoken_answer("It is noon."), "item_u", done=True),
    {
        "type": "response.done",
        "response": {"id": "resp_1", "status": "completed", "output": [spoken_answer("It is noon.")], "metadata": None},
    },
]


@given(st.permutations([True] * len(_USER) + [False] * len(_ANSWER)))
def test_the_transcript_may_arrive_anywhere_among_the_events_of_the_answer(order: list[bool]) -> None:
    history = ItemList()
    tell(history, committed("item_u"))
    user, answer = iter(_USER), iter(_ANSWER)
    for is_of_user in order:
        tell(history, next(user if is_of_user else answer))
    assert history.items == (
        said("item_u", "What time is it?", is_spoken=True),
        said("item_a", "It is noon.", "assistant", is_spoken=True),
    )


# --- cut answers ------------------------------------------------------------------------------------------------------


def test_a_truncated_item_keeps_the_heard_milliseconds_and_text() -> None:
    history = ItemList([said("item_a", "It is noon.", "assistant", is_spoken=True)])
    truncated = {
        "type": "conversation.item.truncated",
        "item_id": "item_a",
        "content_index": 0,
        "audio_end_ms": 400,
    }
    [change] = tell(history, truncated)
    assert isinstance(change, HistoryChanged)
    assert change.item is not None
    assert (change.item.heard_ms, change.item.status, change.item.text) == (400, "incomplete", "It is")


@pytest.mark.parametrize(
    ("heard_ms", "received_ms", "text"),
    [
        (0, 4000, ""),
        (1000, 4000, "one two"),  # a quarter of 29 characters is in the middle of "three"
        (2000, 4000, "one two three"),
        (4000, 4000, "one two three four five sixes"),
        (9999, 4000, "one two three four five sixes"),
        (100, None, ""),  # at most 20 characters are spoken per second
        (500, None, "one two"),
    ],
)
def test_the_text_of_a_cut_answer_ends_with_a_heard_word(heard_ms: int, received_ms: int | None, text: str) -> None:
    history = ItemList([said("item_a", "one two three four five sixes", "assistant")])
    history.cut("item_a", heard_ms, received_ms)
    assert history.items[0].text == text


@given(st.text(st.sampled_from("ab "), max_size=40), st.integers(0, 3000), st.integers(1, 3000))
def test_a_cut_text_is_a_prefix_of_whole_words(text: str, heard_ms: int, received_ms: int) -> None:
    history = ItemList([said("item_a", text, "assistant")])
    history.cut("item_a", heard_ms, received_ms)
    cut = history.items[0].text
    assert text.startswith(cut)
    assert cut.split() == text.split()[: len(cut.split())]


def test_late_text_of_a_cut_answer_is_ignored() -> None:
    history = ItemList()
    tell(
        history,
        output_item(spoken_answer(None, "in_progress")),
        of_answer("output_audio_transcript.delta", delta="one two three four five sixes"),
    )
    history.cut("item_a", 1000, 4000)
    before = history.items
    changes = tell(
        history,
        of_answer("output_audio_transcript.delta", delta=" and more"),
        of_answer("output_audio_transcript.done", transcript="one two three four five sixes and more"),
        output_item(spoken_answer("one two three four five sixes and more", "incomplete"), done=True),
        added(spoken_answer("one two three four five sixes and more", "incomplete"), done=True),
    )
    assert changes == []
    assert history.items == before


def test_an_item_is_cut_once() -> None:
    history = ItemList([said("item_a", "one two three four", "assistant")])
    history.cut("item_a", 500)
    truncated = {"type": "conversation.item.truncated", "item_id": "item_a", "content_index": 0, "audio_end_ms": 450}
    assert tell(history, truncated) == []
    assert history.items[0].heard_ms == 500


def test_only_answers_can_be_cut() -> None:
    history = ItemList([said("item_u", "What time is it?", is_spoken=True)])
    assert history.cut("item_u", 10) == []
    assert history.cut("item_never_heard_of", 10) == []


# --- deletion, retrieval, limits --------------------------------------------------------------------------------------


def test_a_deleted_item_is_removed_and_reported_once() -> None:
    history = ItemList()
    tell(history, *THREE)
    deleted = {"type": "conversation.item.deleted", "item_id": "item_2"}
    assert tell(history, deleted, deleted) == [HistoryChanged("item_2")]
    assert ids(history) == ["item_1", "item_3"]


def test_a_retrieved_item_completes_the_known_one() -> None:
    history = ItemList()
    tell(history, committed("item_u"), added(user_audio(), done=True))
    tell(history, {"type": "conversation.item.retrieved", "item": user_audio("What time is it?")})
    assert history.items[0].text == "What time is it?"


def test_a_retrieved_item_that_is_unknown_is_not_added() -> None:
    history = ItemList()
    assert tell(history, {"type": "conversation.item.retrieved", "item": user_audio("Hello?")}) == []
    assert history.items == ()


def test_events_unrelated_to_items_change_nothing() -> None:
    history = ItemList([said("item_1", "one")])
    assert tell(history, {"type": "input_audio_buffer.cleared"}, {"type": "session.updated", "session": {}}) == []


def test_the_first_item_has_no_predecessor() -> None:
    history = ItemList()
    changes = tell(history, *THREE)
    assert [one.previous_item_id for one in changes if isinstance(one, HistoryGrew)] == ["", "item_1", "item_2"]


def test_the_oldest_item_is_removed_beyond_the_limit() -> None:
    history = ItemList(max_items=2)
    changes = tell(history, *THREE)
    assert [one for one in changes if not isinstance(one, HistoryGrew)] == [HistoryChanged("item_1")]
    assert ids(history) == ["item_2", "item_3"]


def test_the_limit_applies_to_a_restored_history_too() -> None:
    history = ItemList([said(f"item_{index}", "x") for index in range(5)], max_items=2)
    assert ids(history) == ["item_3", "item_4"]


def test_a_new_local_id_is_never_a_known_one() -> None:
    history = ItemList([said("local_1", "of an earlier life")])
    assert history.new_id() not in ("local_1", history.new_id())


def test_id_of_a_removed_item_of_an_earlier_run_is_not_used_again_because_the_server_may_hold_it() -> None:
    history = ItemList([HistoryItem(id="local_1"), HistoryItem(id="local_7")], max_items=2)
    tell(history, added(message("item_1", "user")), added(message("item_2", "user"), "item_1"))
    assert ids(history) == ["item_1", "item_2"]
    assert history.new_id() == "local_8"


# --- the difference from another history ------------------------------------------------------------------------------


def test_the_same_history_has_no_difference() -> None:
    assert ItemList(ABCD).diff(ABCD) == ([], [])


def test_a_missing_item_is_deleted_and_nothing_else_changes() -> None:
    assert ItemList(ABCD).diff([ABCD[0], ABCD[2], ABCD[3]]) == (["item_b"], [])


def test_a_new_item_is_created_after_its_predecessor() -> None:
    deletes, creates = ItemList(ABCD).diff([*ABCD[:2], said("item_n", "new"), *ABCD[2:]])
    assert deletes == []
    assert [(item.text, previous) for item, previous in creates] == [("new", "item_b")]


def test_a_new_first_item_is_created_after_root() -> None:
    _, [(item, previous)] = ItemList(ABCD).diff([said("item_n", "new"), *ABCD])
    assert (item.text, previous) == ("new", "root")


def test_two_new_items_follow_each_other() -> None:
    _, [(first, _), (second, previous)] = ItemList(ABCD).diff([*ABCD, said("n1", "new"), said("n2", "newer")])
    assert (first.text, second.text) == ("new", "newer")
    assert previous == first.id


def test_changed_text_replaces_the_item() -> None:
    """An item cannot be changed on the server, so it is deleted and created under an unused id."""
    deletes, [(item, previous)] = ItemList(ABCD).diff([ABCD[0], said("item_b", "B"), *ABCD[2:]])
    assert deletes == ["item_b"]
    assert (item.text, previous) == ("B", "item_a")
    assert item.id not in [one.id for one in ABCD]


def test_a_moved_item_is_deleted_and_created_once() -> None:
    deletes, creates = ItemList(ABCD).diff([ABCD[1], ABCD[2], ABCD[3], ABCD[0]])
    assert deletes == ["item_a"]
    assert [(item.text, previous) for item, previous in creates] == [("a", "item_d")]
    assert creates[0][0].id != "item_a", "the server may still be deleting the old one"


@given(st.lists(st.sampled_from("abcdxyz"), max_size=6, unique=True))
def test_applying_the_difference_gives_the_wanted_history(letters: list[str]) -> None:
    history = ItemList(ABCD)
    deletes, creates = history.diff([said(f"item_{letter}", letter) for letter in letters])
    for item_id in deletes:
        assert history.remove(item_id)
    for item, previous in creates:
        assert previous == "root" or history.get(previous) is not None
        history.insert(item, previous)
    assert [one.text for one in history.items] == letters
