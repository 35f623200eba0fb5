"""Tests of the conversation history, one behaviour per test: first `ItemList` alone, then the core that keeps it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.conversation.commands import Emit
from appliance.conversation.events import HistoryReplaced, LinkUp, MessageGiven, ToolFinished
from appliance.conversation.notices import HistoryChanged, HistoryGrew, Notice
from appliance.conversation.support.item_list import NOT_WRITTEN_DOWN, Change, ItemList, wire_item
from appliance.realtime import protocol as wire
from appliance.realtime.items import HistoryItem
from tests.support.oracle import check_client_frame
from tests.support.stage import Stage

PIXEL = "data:image/png;base64,iVBORw0KGgo="


def tell(history: ItemList, *frames: dict[str, Any]) -> list[Change]:
    """Apply these literal frames of the server; return every change."""
    changes: list[Change] = []
    for index, frame in enumerate(frames):
        changes += history.apply(wire.decode(json.dumps({"event_id": f"event_{index}"} | frame)))
    return changes


def ids(history: ItemList) -> list[str]:
    return [one.id for one in history.items]


def message(item_id: str, role: str, *content: dict[str, Any], status: str = "completed") -> dict[str, Any]:
    return {"id": item_id, "type": "message", "status": status, "role": role, "content": list(content)}


def added(item: dict[str, Any], previous: str | None = None, *, done: bool = False) -> dict[str, Any]:
    kind = "conversation.item.done" if done else "conversation.item.added"
    return {"type": kind, "previous_item_id": previous, "item": item}


def written(item_id: str, text: str, previous: str | None = None, role: str = "user") -> dict[str, Any]:
    part = "output_text" if role == "assistant" else "input_text"
    return added(message(item_id, role, {"type": part, "text": text}), previous, done=True)


def committed(item_id: str, previous: str | None = None) -> dict[str, Any]:
    return {"type": "input_audio_buffer.committed", "item_id": item_id, "previous_item_id": previous}


def heard(item_id: str, transcript: str) -> dict[str, Any]:
    return {
        "type": "conversation.item.input_audio_transcription.completed",
        "item_id": item_id,
        "content_index": 0,
        "transcript": transcript,
        "usage": {"type": "duration", "seconds": 1},
    }


def growing(item_id: str, delta: str) -> dict[str, Any]:
    """Return a delta of the user's transcript."""
    kind = "conversation.item.input_audio_transcription.delta"
    return {"type": kind, "item_id": item_id, "content_index": 0, "delta": delta}


def of_answer(kind: str, item_id: str = "item_a", **more: Any) -> dict[str, Any]:
    place = {"response_id": "resp_1", "item_id": item_id, "output_index": 0, "content_index": 0}
    return {"type": f"response.{kind}"} | place | more


def output_item(item: dict[str, Any], *, done: bool = False) -> dict[str, Any]:
    kind = "response.output_item.done" if done else "response.output_item.added"
    return {"type": kind, "response_id": "resp_1", "output_index": 0, "item": item}


def spoken_answer(transcript: str | None, status: str = "completed") -> dict[str, Any]:
    return message("item_a", "assistant", {"type": "output_audio", "transcript": transcript}, status=status)


def user_audio(transcript: str | None = None) -> dict[str, Any]:
    return message("item_u", "user", {"type": "input_audio", "transcript": transcript})


def call(call_id: str = "call_1", name: str = "get_time") -> HistoryItem:
    return HistoryItem(id=f"item_{call_id}", type="function_call", name=name, call_id=call_id, arguments="{}")


def output(call_id: str = "call_1", text: str = "noon") -> HistoryItem:
    return HistoryItem(id=f"out_{call_id}", type="function_call_output", call_id=call_id, output=text)


def said(item_id: str, text: str, role: str = "user", **more: Any) -> HistoryItem:
    return HistoryItem(id=item_id, role=role, text=text, **more)


THREE = [written("item_1", "one"), written("item_2", "two", "item_1"), written("item_3", "three", "item_2")]

# --- the position of an item -------------------------------------------------------------------------------------


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


# --- transcripts of the user -------------------------------------------------------------------------------------


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


# --- answers of the assistant ------------------------------------------------------------------------------------


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


# --- cut answers -------------------------------------------------------------------------------------------------


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


# --- deletion, retrieval, limits ---------------------------------------------------------------------------------


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


# --- replay on a new link ----------------------------------------------------------------------------------------


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


# --- the difference from another history -------------------------------------------------------------------------

ABCD = [said(f"item_{letter}", letter) for letter in "abcd"]


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


# --- the core: notices, cuts, outputs ----------------------------------------------------------------------------


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


def answer(stage: Stage, text: str = "It is noon.", ms: int = 1000) -> None:
    """Receive a spoken answer of which nothing is played yet."""
    stage.created()
    stage.server(output_item(spoken_answer(None, "in_progress")))
    stage.audio(ms=ms)
    stage.server(of_answer("output_audio_transcript.done", transcript=text))


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


# --- the core: replay on a new link ------------------------------------------------------------------------------


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


# --- the core: the program replaces the history ------------------------------------------------------------------


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
