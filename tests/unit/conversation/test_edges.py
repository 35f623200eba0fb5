"""Edge cases that otherwise only the random environment reaches: the user, the turn, the answer, the history.

One behaviour per test. Edge cases of links are in `test_edges_links`.
"""

from __future__ import annotations

from typing import Any

import pytest

from appliance.agents.spec import AgentSpec
from appliance.conversation.commands import Announce, CloseCapture, Command, Connect, Disconnect, Emit, Send, Stop
from appliance.conversation.events import (
    AlarmRang,
    BeginAsked,
    ButtonEdge,
    CaptureOverrun,
    CommitAsked,
    DayBegan,
    DeadlinePassed,
    FrameGiven,
    HistoryReplaced,
    MuteSwitched,
    ShutdownRequested,
    TracingFailed,
)
from appliance.conversation.notices import Error, InputText, TurnEnd, TurnStart
from appliance.realtime.items import HistoryItem
from tests.support.stage import Stage

ASIDE = {"type": "response.create", "response": {"conversation": "none", "metadata": {"mine": "yes"}}}
VAD = {"type": "realtime", "audio": {"input": {"turn_detection": {"type": "server_vad"}}}}


def begun(stage: Stage, response_id: str, metadata: dict[str, str] | None) -> list[Command]:
    """Receive ``response.created`` with this metadata."""
    response = {"id": response_id, "status": "in_progress", "output": [], "metadata": metadata}
    return stage.server({"type": "response.created", "response": response})


def answer_item(item_id: str) -> dict[str, Any]:
    return {"id": item_id, "type": "message", "role": "assistant", "status": "in_progress", "content": []}


def tap(stage: Stage, ms: int = 40) -> list[Command]:
    """Press, capture `ms` of audio, and release."""
    return stage.press() + stage.hear(ms) + stage.release()


def cancels(stage: Stage, commands: list[Command]) -> list[str]:
    return [one["response_id"] for one in stage.sent(commands) if one["type"] == "response.cancel"]


# --- out-of-band responses ---------------------------------------------------------------------------------------


def test_an_out_of_band_response_of_a_raw_frame_is_not_played() -> None:
    stage = Stage().ready().answering()
    assert stage.sent_types(stage.do(FrameGiven(ASIDE))) == ["response.create"]
    begun(stage, "resp_x", {"mine": "yes"})
    assert stage.audio("resp_x", "item_x") == []


def test_an_item_of_an_out_of_band_response_is_not_in_the_history() -> None:
    stage = Stage().ready().answering()
    stage.do(FrameGiven(ASIDE))
    begun(stage, "resp_x", {"mine": "yes"})
    before = stage.known()
    for kind in ("added", "done"):
        stage.output_item(answer_item("item_x"), kind, "resp_x")
    stage.done("resp_x", None, metadata={"mine": "yes"}, output=[answer_item("item_x")])
    assert stage.known() == before


def test_the_running_answer_continues_during_an_out_of_band_response() -> None:
    stage = Stage().ready().answering()
    stage.do(FrameGiven(ASIDE))
    assert cancels(stage, begun(stage, "resp_x", {"mine": "yes"})) == []
    stage.done("resp_x", None, metadata={"mine": "yes"})
    assert [one.item_id for one in stage.plays(stage.audio())] == ["item_a"]
    stage.done()
    stage.play(52_800, drained=True)
    assert stage.outcomes() == ["answered"]


def test_an_unknown_out_of_band_response_is_neither_cancelled_nor_played() -> None:
    stage = Stage().ready().answering()
    assert begun(stage, "resp_x", {"whose": "unknown"}) == []
    assert stage.plays(stage.audio("resp_x", "item_x")) == []
    assert len(stage.plays(stage.audio())) == 1


def test_an_out_of_band_response_does_not_take_the_slot_of_the_requested_response() -> None:
    stage = Stage().ready()
    stage.say()
    stage.committed()
    begun(stage, "resp_x", {"whose": "unknown"})
    assert cancels(stage, stage.created("resp_1")) == []
    assert len(stage.plays(stage.audio("resp_1"))) == 1


def test_an_out_of_band_response_is_not_played_as_the_requested_answer() -> None:
    stage = Stage().ready()
    stage.say()
    stage.committed()
    stage.do(FrameGiven(ASIDE))
    begun(stage, "resp_x", {"mine": "yes"})
    assert stage.audio("resp_x", "item_x") == []
    stage.created("resp_1")
    assert [one.item_id for one in stage.plays(stage.audio())] == ["item_a"]


def test_an_out_of_band_response_without_metadata_is_not_cancelled() -> None:
    stage = Stage().ready().answering()
    stage.do(FrameGiven({"type": "response.create", "response": {"conversation": "none"}}))
    assert begun(stage, "resp_x", None) == []


# --- late responses ----------------------------------------------------------------------------------------------


def test_an_abandoned_response_is_cancelled_when_it_is_created_again() -> None:
    stage = Stage(cancel_s=3.0).ready().asked()
    stage.commands.clear()
    assert cancels(stage, stage.press()) == ["resp_1"]
    stage.hear(3200)
    stage.release()
    stage.hear(260)
    assert stage.sent_types()[-1] == "response.create"  # the slot is free again
    assert cancels(stage, stage.created("resp_1", None)) == ["resp_1"]


def test_a_late_response_created_for_a_finished_response_is_cancelled() -> None:
    stage = Stage().ready()
    stage.say()
    stage.committed()
    stage.audio("resp_1", ms=100)
    stage.done("resp_1", None)
    stage.play(2400, drained=True)
    stage.say()
    stage.committed("item_user_2")
    assert cancels(stage, stage.created("resp_1", None)) == ["resp_1"]


def test_the_requested_response_is_accepted_after_a_late_one_was_cancelled() -> None:
    stage = Stage().ready()
    stage.say()
    stage.committed()
    stage.audio("resp_1", ms=100)
    stage.done("resp_1", None)
    stage.play(2400, drained=True)
    stage.say()
    stage.committed("item_user_2")
    stage.created("resp_1", None)
    assert cancels(stage, stage.created("resp_2", None)) == []
    assert [one.item_id for one in stage.plays(stage.audio("resp_2", "item_b"))] == ["item_b"]


def test_a_response_of_another_turn_is_cancelled_and_not_played() -> None:
    stage = Stage().ready()
    stage.say()
    stage.committed()
    assert cancels(stage, stage.created("resp_9", "turn_9")) == ["resp_9"]
    assert stage.plays(stage.audio("resp_9", "item_z")) == []


# --- the button --------------------------------------------------------------------------------------------------


def test_a_stuck_button_cancels_the_turn_being_spoken() -> None:
    stage = Stage(stuck_s=10.0)
    stage.do(ButtonEdge(True))  # before the start, so not a press
    stage.ready()
    stage.do(BeginAsked())
    stage.hear(7000)
    assert stage.troubles() == []
    stage.hear(2000)
    assert stage.troubles() == ["button_stuck"]
    assert stage.outcomes() == ["cancelled"]
    assert stage.sent_types()[-1] == "input_audio_buffer.clear"


def test_a_stuck_button_cancels_the_turn_before_its_time_limit_commits_it() -> None:
    stage = Stage(max_turn_s=5.0, stuck_s=10.0).ready()
    stage.press()
    stage.hear(400)
    stage.now += 20.0
    stage.do(DeadlinePassed())
    assert stage.troubles() == ["button_stuck"]
    assert stage.outcomes() == ["cancelled"]
    assert stage.earcons() == ["start", "cancel"]


def test_a_stuck_button_does_not_disturb_an_answer() -> None:
    stage = Stage(stuck_s=10.0)
    stage.do(ButtonEdge(True))
    stage.ready()
    stage.do(BeginAsked())
    stage.hear(400)
    stage.do(CommitAsked())
    stage.committed()
    stage.created()
    stage.advance(10.0)
    assert stage.troubles() == ["button_stuck"]
    assert (stage.state, stage.outcomes()) == ("thinking", [])


@pytest.mark.parametrize("mode", ["hold", "auto", "tap"])
def test_a_release_does_not_end_a_turn_of_the_program(mode: str) -> None:
    stage = Stage(button_mode=mode, alarm_s=1.0).ready()
    stage.do(AlarmRang("egg", "the egg"))
    stage.press()  # silences the alarm and starts no turn
    stage.do(BeginAsked())
    stage.hear(200)
    stage.release()
    stage.hear(2000, 30, -60.0)  # neither a post-roll nor latched silence ends it
    assert (stage.state, stage.outcomes()) == ("listening", [])
    assert "input_audio_buffer.commit" not in stage.sent_types()
    stage.do(CommitAsked())
    assert "input_audio_buffer.commit" in stage.sent_types()


@pytest.mark.parametrize("mode", ["auto", "tap"])
def test_a_latched_turn_ended_before_the_minimum_is_too_short(mode: str) -> None:
    stage = Stage(button_mode=mode, min_turn_ms=500).ready()
    tap(stage)
    assert (stage.state, stage.outcomes()) == ("listening", [])
    stage.hear(100)
    stage.press()
    assert stage.outcomes() == ["too_short"]
    assert stage.earcons() == ["start", "cancel"]
    assert stage.sent_types()[-1] == "input_audio_buffer.clear"
    assert stage.troubles() == []


def test_a_latched_turn_of_the_minimum_length_is_sent() -> None:
    stage = Stage(button_mode="auto", min_turn_ms=500).ready()
    tap(stage)
    stage.hear(460)
    stage.press()
    stage.hear(260)
    assert stage.outcomes() == []
    assert stage.sent_types()[-2:] == ["input_audio_buffer.commit", "response.create"]


def test_a_latched_turn_with_too_little_audio_is_too_short() -> None:
    stage = Stage(button_mode="tap").ready()
    tap(stage, 80)
    stage.do(CaptureOverrun(480))
    assert stage.outcomes() == ["too_short"]
    assert stage.troubles() == ["overrun"]


def test_a_latched_turn_with_just_enough_audio_is_sent() -> None:
    stage = Stage(button_mode="tap").ready()
    tap(stage, 100)
    stage.do(CaptureOverrun(480))
    assert stage.outcomes() == []
    assert stage.sent_types()[-2:] == ["input_audio_buffer.commit", "response.create"]


def test_a_short_press_in_the_post_roll_is_not_too_short() -> None:
    stage = Stage().ready()
    stage.press()
    stage.hear(400)
    stage.release()
    tap(stage)
    assert (stage.state, stage.outcomes()) == ("listening", [])
    stage.hear(260)
    assert stage.sent_types()[-2:] == ["input_audio_buffer.commit", "response.create"]


@pytest.mark.parametrize("mode", ["auto", "tap"])
def test_a_latched_turn_with_a_dead_microphone_is_reported(mode: str) -> None:
    stage = Stage(button_mode=mode).ready()
    stage.press()
    stage.release()
    stage.hear(5900, 0, -90.0)
    assert stage.outcomes() == []
    stage.hear(200, 0, -90.0)
    assert stage.outcomes() == ["silence"]
    assert stage.troubles() == ["silent_microphone"]
    assert len(stage.announced()) == 1
    assert "input_audio_buffer.commit" not in stage.sent_types()


def test_a_latched_turn_in_a_quiet_room_ends_without_an_error() -> None:
    stage = Stage(button_mode="tap").ready()
    stage.press()
    stage.release()
    stage.hear(6100, 30, -60.0)
    assert stage.outcomes() == ["silence"]
    assert (stage.troubles(), stage.announced()) == ([], [])
    assert stage.earcons() == ["start", "cancel"]


# --- the program -------------------------------------------------------------------------------------------------


def test_the_program_starts_no_turn_with_server_turn_detection() -> None:
    stage = Stage(specs=[AgentSpec(agent="ada", session=VAD)]).ready()
    assert stage.do(BeginAsked()) == []
    assert stage.state == "ready"


def test_the_program_starts_no_turn_with_a_spent_budget() -> None:
    stage = Stage(budget_s=1.0).ready()
    stage.do(DayBegan("2027-01-01", 0.0, 2.0))
    stage.do(BeginAsked())
    assert stage.troubles() == ["budget_spent"]
    assert [one.fallback for one in stage.commands if isinstance(one, Announce)] == ["error"]
    assert stage.notices(TurnStart) == []
    assert stage.state == "ready"


def test_the_program_starts_a_turn_with_a_spent_budget_if_there_is_an_offline_brain() -> None:
    stage = Stage(budget_s=1.0, endpoints=2, offline_endpoint=1).ready()
    stage.do(DayBegan("2027-01-01", 0.0, 2.0))
    stage.do(BeginAsked())
    assert stage.troubles() == []
    assert stage.notices(TurnStart) == [TurnStart("turn_1", "program")]


# --- start, trace, shutdown --------------------------------------------------------------------------------------


def test_a_start_while_muted_closes_the_capture_before_it_connects() -> None:
    stage = Stage(is_muted=True)
    assert stage.start().commands == [CloseCapture(), Connect(1, 0)]
    assert stage.state == "muted"


def test_a_start_with_the_microphone_on_leaves_the_capture_alone() -> None:
    assert Stage().start().commands == [Connect(1, 0)]


def test_a_trace_that_cannot_be_written_is_reported() -> None:
    stage = Stage().ready()
    assert stage.do(TracingFailed("the disk is full")) == [Emit(Error("trace_failed", "the disk is full"))]
    assert stage.state == "ready"


def test_a_shutdown_while_listening_clears_the_buffer_ends_the_turn_and_disconnects() -> None:
    stage = Stage().ready()
    stage.press()
    stage.hear(400)
    commands = stage.do(ShutdownRequested("SIGTERM"))
    assert stage.sent_types(commands) == ["input_audio_buffer.clear"]
    assert stage.outcomes() == ["cancelled"]
    assert [type(one) for one in commands if isinstance(one, Send | Disconnect | Stop)] == [Send, Disconnect, Stop]
    assert commands[-2:] == [Disconnect(1), Stop("SIGTERM")]
    assert stage.conversation.deadline is None


def test_a_shutdown_before_anything_was_sent_clears_nothing() -> None:
    stage = Stage().ready()
    stage.press()
    assert stage.sent_types(stage.do(ShutdownRequested("SIGTERM"))) == []
    assert stage.outcomes() == ["cancelled"]


def test_events_after_a_shutdown_are_ignored() -> None:
    stage = Stage().ready()
    stage.do(ShutdownRequested("SIGTERM"))
    assert stage.press() + stage.hear(100) + stage.do(BeginAsked()) == []


# --- refused commits ---------------------------------------------------------------------------------------------


def test_a_refused_commit_fails_the_turn() -> None:
    stage = Stage().ready()
    stage.say()
    stage.error("input_audio_buffer_commit_empty", event_id="commit_turn_1_0", message="buffer too small")
    assert stage.outcomes() == ["failed"]
    assert stage.notices(Error) == [Error("server_error", "buffer too small")]
    assert len(stage.announced()) == 1


def test_a_refused_commit_of_another_turn_is_reported_and_ends_nothing() -> None:
    stage = Stage().ready()
    stage.say()
    stage.error("input_audio_buffer_commit_empty", event_id="commit_turn_9_0", message="buffer too small")
    assert stage.outcomes() == []
    assert stage.troubles() == ["server_error"]


def test_the_confirmation_after_a_refused_commit_belongs_to_the_next_turn() -> None:
    stage = Stage().ready()
    stage.say()
    stage.error("input_audio_buffer_commit_empty", event_id="commit_turn_1_0")
    stage.say()
    stage.committed("item_2")
    assert stage.state == "thinking"
    stage.heard("Hello.", "item_2")
    assert stage.notices(InputText) == [InputText("Hello.", is_final=True, turn="turn_2")]


# --- the history -------------------------------------------------------------------------------------------------


def talk(*names: str) -> list[HistoryItem]:
    return [HistoryItem(id=one, role="user", text=one) for one in names]


def keep(stage: Stage, *names: str) -> list[str]:
    """Let the program keep only these items; return the ids deleted on the server."""
    kept = tuple(one for one in stage.conversation.history if one.id in names)
    return [one["item_id"] for one in stage.sent(stage.do(HistoryReplaced(kept)))]


def added(stage: Stage, item_id: str, previous: str) -> list[Command]:
    item = {
        "id": item_id,
        "type": "message",
        "role": "system",
        "status": "completed",
        "content": [{"type": "input_text", "text": "x"}],
    }
    return stage.server({"type": "conversation.item.added", "previous_item_id": previous, "item": item})


def test_an_item_after_a_chain_of_deleted_items_follows_their_predecessor() -> None:
    stage = Stage(history=talk("a", "b", "c", "d")).ready()
    assert keep(stage, "a", "b", "d") == ["c"]
    assert keep(stage, "a", "d") == ["b"]
    added(stage, "x", "c")
    assert stage.known() == ["a", "x", "d"]


def test_an_item_after_a_chain_of_deleted_first_items_comes_first() -> None:
    stage = Stage(history=talk("a", "b", "c")).ready()
    assert keep(stage, "a", "c") == ["b"]
    assert keep(stage, "c") == ["a"]
    added(stage, "x", "b")
    assert stage.known() == ["x", "c"]


def test_a_deleted_item_is_not_brought_back_by_a_late_event() -> None:
    stage = Stage(history=talk("a", "b")).ready()
    keep(stage, "a")
    assert added(stage, "b", "a") == []
    assert stage.known() == ["a"]


def test_transcripts_are_attributed_to_their_turn_for_the_newest_64_items_only() -> None:
    stage = Stage().ready()
    for number in range(1, 66):
        stage.say(200)
        stage.committed(f"item_{number}")
    stage.commands.clear()
    stage.heard("too old", "item_1")
    assert stage.notices(InputText) == []
    stage.heard("old enough", "item_2")
    stage.heard("new", "item_65")
    assert stage.notices(InputText) == [
        InputText("old enough", is_final=True, turn="turn_2"),
        InputText("new", is_final=True, turn="turn_65"),
    ]


def test_the_transcript_of_an_older_item_still_enters_the_history() -> None:
    stage = Stage().ready()
    for number in range(1, 66):
        stage.say(200)
        stage.committed(f"item_{number}")
    stage.heard("too old", "item_1")
    assert next(one.text for one in stage.conversation.history if one.id == "item_1") == "too old"


def test_a_shutdown_emits_turn_end_before_it_disconnects() -> None:
    stage = Stage().ready()
    stage.press()
    stage.hear(200)
    commands = stage.do(ShutdownRequested("SIGTERM"))
    ended = [at for at, one in enumerate(commands) if isinstance(one, Emit) and isinstance(one.notice, TurnEnd)]
    assert ended == [commands.index(Disconnect(1)) - 1]


def test_a_press_after_a_turn_cancelled_in_its_post_roll_starts_a_turn() -> None:
    stage = Stage().ready()
    stage.press()
    stage.hear(500)
    stage.release()
    stage.do(MuteSwitched(True))
    stage.do(MuteSwitched(False))
    stage.press()
    assert stage.state == "listening"
    assert stage.outcomes() == ["cancelled"]
