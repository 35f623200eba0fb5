"""Tests of the `speech` region: user speech is captured, sent, committed, and replayed on another link."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from appliance.conversation.commands import Command, PlayEarcon
from appliance.conversation.policy import Policy
from appliance.conversation.regions.speech import Kind, Speech
from appliance.conversation.support.gestures import Gesture
from appliance.conversation.support.outbox import CommitOf, Outbox
from appliance.realtime.protocol import InputAudioBufferAppend
from tests.unit.conversation.regions.outcome import QUIET_DB, frames, linked, period

CLEAR, APPEND, COMMIT = "input_audio_buffer.clear", "input_audio_buffer.append", "input_audio_buffer.commit"


def started(out: Outbox | None = None, kind: Kind = "button", **policy: Any) -> Speech:
    """Start a turn at 100.0."""
    region = Speech(Policy(**policy), out or linked())
    region.begin("turn_1", kind, (), 100.0)
    return region


def hear(region: Speech, ms: int, sample: int = 4000, **more: float) -> list[str | None]:
    """Capture `ms` of sound; return the result of each period, up to the end of the capture."""
    found: list[str | None] = []
    for _ in range(ms // 20):
        found.append(region.add(period(sample, **more)))
        if found[-1] is not None:
            break
    return found


def captured(out: Outbox | None = None, ms: int = 500, **policy: Any) -> Speech:
    """Capture a whole turn without sending it."""
    region = started(out, **policy)
    hear(region, ms)
    assert region.close(101.0) is None
    return region


def types(commands: Sequence[Command]) -> list[str]:
    return [frame["type"] for frame in frames(commands)]


def release(region: Speech, held_s: float) -> str | None:
    """Release the button that started the turn."""
    return region.release(Gesture("release", 100.0 + held_s, held_s))


# --- capture --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "held_s", "means"),
    [
        ("hold", 0.05, "too_short"),
        ("hold", 0.2, "ended"),
        ("auto", 0.3, None),
        ("auto", 0.31, "ended"),
        ("tap", 0.05, None),
        ("tap", 5.0, None),
    ],
)
def test_the_effect_of_a_release_depends_on_the_mode_and_the_hold_time(
    mode: str, held_s: float, means: str | None
) -> None:
    assert release(started(button_mode=mode), held_s) == means


def test_a_release_is_ignored_by_a_turn_the_button_does_not_end() -> None:
    assert release(started(kind="program", button_mode="hold"), 1.0) is None
    assert release(captured(button_mode="hold"), 1.0) is None
    latched = started(button_mode="auto")
    release(latched, 0.1)
    assert release(latched, 1.0) is None
    going_on = started(button_mode="hold")
    assert going_on.release(Gesture("release", 105.0, 0.05)) == "ended"  # short, but not the first press


def test_only_a_tapped_turn_ends_with_silence_after_the_user_has_spoken() -> None:
    held, tapped = started(silence_ms=1000), started(silence_ms=1000)
    release(tapped, 0.1)
    for region in (held, tapped):
        hear(region, 100, 30, level_db=QUIET_DB)
        hear(region, 500)
    assert hear(held, 5000, 30, level_db=QUIET_DB) == [None] * 250
    assert hear(tapped, 5000, 30, level_db=QUIET_DB) == [None] * 49 + ["captured"]


@pytest.mark.parametrize(("sample", "ended"), [(30, "silence"), (2, "captured")])
def test_a_tapped_turn_without_speech_ends_as_silence_or_as_a_dead_microphone(sample: int, ended: str) -> None:
    region = started(no_speech_s=1.0, silence_peak=2)
    release(region, 0.1)
    assert hear(region, 2000, sample, level_db=QUIET_DB) == [None] * 49 + [ended]


@pytest.mark.parametrize(("newest", "periods"), [(101.0, 13), (100.5, 38), (99.0, 63)])
def test_the_post_roll_is_counted_from_the_newest_captured_audio(newest: float, periods: int) -> None:
    region = started(post_roll_ms=250)
    assert region.keep_post_roll(101.0, newest, 101.02) is None
    assert region.is_in_post_roll
    assert hear(region, 5000) == [None] * (periods - 1) + ["captured"]
    region.close(102.0)
    assert not region.is_in_post_roll


def test_a_turn_ends_at_once_if_its_post_roll_is_captured_or_it_is_too_short() -> None:
    assert started(post_roll_ms=250).keep_post_roll(101.0, 101.25, 101.3) == "captured"
    assert started(min_turn_ms=125).keep_post_roll(100.12, 100.12, 100.2) == "too_short"
    assert started(min_turn_ms=125).keep_post_roll(100.125, 100.125, 100.2) is None


def test_a_press_in_the_post_roll_continues_the_turn() -> None:
    region = started(post_roll_ms=250)
    region.keep_post_roll(101.0, 101.0, 101.0)
    region.go_on(101.1)
    assert not region.is_in_post_roll
    assert hear(region, 1000) == [None] * 50


def test_a_continued_tapped_turn_ends_with_the_next_release() -> None:
    for go_on in (lambda region: region.go_on(101.1), lambda region: region.resume([], 101.1)):
        region = started(button_mode="auto")
        hear(region, 500)
        release(region, 0.1)
        go_on(region)
        assert region.release(Gesture("release", 102.0, 0.5)) == "ended"


def test_every_phase_has_a_deadline() -> None:
    region = started(max_turn_s=60.0, post_roll_ms=250, link_wait_s=30.0, commit_s=5.0)
    assert region.deadline == 160.0
    region.keep_post_roll(101.0, 101.0, 102.0)
    assert region.deadline == 132.25
    region.go_on(102.0)
    assert region.deadline == 162.0
    hear(region, 500)
    region.close(103.0)
    assert region.deadline == 133.0
    region.resume([], 104.0)
    assert region.deadline == 163.5
    region.close(105.0)
    region.send(105.0)
    assert region.deadline == 110.5  # as long to upload as it took to say


def test_a_turn_is_too_long_at_its_limit_unless_the_server_ends_turns() -> None:
    assert hear(started(max_turn_s=1.0), 2000) == [None] * 49 + ["too_long"]
    assert hear(started(kind="vad", max_turn_s=1.0), 2000) == [None] * 100


@pytest.mark.parametrize(
    ("kind", "ms", "sample", "wrong"),
    [
        ("button", 500, 2, "silent_microphone"),
        ("button", 80, 3, "too_short"),
        ("button", 100, 3, None),
        ("program", 500, 4000, None),
        ("vad", 500, 4000, "no_answer"),
    ],
)
def test_only_a_turn_with_speech_is_closed_and_a_button_turn_plays_the_end_cue(
    kind: Kind, ms: int, sample: int, wrong: str | None
) -> None:
    out = linked()
    region = started(out, kind, min_turn_ms=100, silence_peak=2)
    hear(region, ms, sample)
    assert region.close(101.0) == wrong
    assert region.is_committing is (wrong is None)
    assert out.take() == [PlayEarcon(0, "end")] * (kind == "button" and wrong is None)


def test_an_ended_turn_has_no_post_roll() -> None:
    region = started(post_roll_ms=250)
    region.keep_post_roll(101.0, 101.0, 101.0)
    region.end()
    assert not region.is_in_post_roll


# --- delivery -------------------------------------------------------------------------------------------------------


def test_each_period_is_sent_once_and_the_turn_committed_once() -> None:
    out = linked()
    region = started(out)
    hear(region, 40, 1)
    assert not region.send(100.0)
    assert types(out.take()) == [CLEAR, APPEND, APPEND]
    hear(region, 20, 2000)
    region.send(100.0)
    assert [frame["audio"] for frame in frames(out.take())] == [frame_of(2000)]
    hear(region, 40)
    region.close(101.0)
    out.take()
    assert region.send(101.0)
    commands = out.take()
    assert types(commands) == [APPEND, APPEND, COMMIT]
    assert frames(commands)[-1]["event_id"] == "commit_turn_1_0"
    assert out.cause("commit_turn_1_0") == CommitOf("turn_1", 0)
    assert (region.send(102.0), out.take(), region.is_sent) == (False, [], True)


def test_the_pre_roll_is_sent_first() -> None:
    out = linked()
    region = Speech(Policy(), out)
    region.begin("turn_1", "button", [period(1)], 100.0)
    region.add(period(2))
    region.send(100.0)
    assert [frame.get("audio") for frame in frames(out.take())] == [None, frame_of(1), frame_of(2)]


def frame_of(sample: int) -> str:
    """Return 20 ms of one sample value, as encoded on the wire."""
    return str(InputAudioBufferAppend(audio=period(sample).pcm).to_wire()["audio"])


def test_a_new_link_gets_the_whole_speech_again_up_to_max_replays() -> None:
    out = linked()
    region = captured(out, 100, max_replays=1)
    region.send(101.0)
    region.take()
    out.take()
    for number, may_go_on in ((1, True), (2, False)):
        region.forget_link()
        assert region.replay(was_sent=True, now=110.0) is may_go_on
        assert (region.replays, region.is_committing, region.waits) == (number, True, True)
        assert region.send(110.0)
        commands = out.take()
        assert types(commands) == [CLEAR, *[APPEND] * 5, COMMIT]
        assert frames(commands)[-1]["event_id"] == f"commit_turn_1_{number}"


def test_unsent_speech_keeps_its_deadline_and_does_not_count_as_a_replay() -> None:
    region = captured(link_wait_s=30.0)
    region.forget_link()
    assert region.replay(was_sent=False, now=110.0)
    assert (region.replays, region.deadline) == (0, 131.0)
    assert region.replay(was_sent=True, now=110.0)
    assert (region.replays, region.deadline) == (1, 140.0)


def test_audio_whose_answer_has_started_is_never_sent_again() -> None:
    out = linked()
    region = captured(out)
    region.send(101.0)
    region.forget_audio()
    region.forget_link()
    out.take()
    region.send(110.0)
    assert types(out.take()) == [CLEAR, COMMIT]


def test_a_press_before_speech_was_sent_continues_it() -> None:
    out = linked()
    region = captured(out, 100)
    assert (region.waits, region.is_open) == (True, False)
    region.resume([period()], 105.0)
    assert (region.waits, region.is_open) == (False, True)
    hear(region, 20)
    region.close(106.0)
    region.send(106.0)
    assert types(out.take()).count(APPEND) == 7
    assert not region.waits


def test_the_server_buffer_is_cleared_only_between_the_first_append_and_the_commit() -> None:
    out = linked()
    region = started(out)
    region.clear_server_buffer()
    assert out.take() == []
    hear(region, 500)
    region.send(100.0)
    out.take()
    region.clear_server_buffer()
    assert types(out.take()) == [CLEAR]
    region.close(101.0)
    region.send(101.0)
    out.take()
    region.clear_server_buffer()
    assert out.take() == []


def test_commits_are_confirmed_in_order_and_refused_ones_are_skipped() -> None:
    region = Speech(Policy(), linked())
    for turn in ("turn_1", "turn_2", "turn_3"):
        region.begin(turn, "button", (), 100.0)
        hear(region, 500)
        region.close(101.0)
        region.send(101.0)
        if turn == "turn_2":
            region.refuse_commit()
    assert [region.next_commit() for _ in range(3)] == ["turn_1", "turn_3", None]


def test_commits_of_a_lost_link_are_never_confirmed() -> None:
    region = captured()
    region.send(101.0)
    region.forget_commits()
    assert region.next_commit() is None


def test_a_replayed_turn_reopens_only_if_the_server_ends_turns() -> None:
    committed = started(kind="vad")
    committed.commit_at_server()
    for region, is_open in ((started(kind="vad"), True), (committed, True), (captured(), False)):
        assert region.replay(was_sent=False, now=110.0)
        assert (region.is_open, region.is_committing) == (is_open, not is_open)


def test_a_turn_without_input_is_taken_and_sends_nothing() -> None:
    out = linked()
    region = started(out, "message")
    region.skip()
    assert (region.is_taken, region.is_sent, region.unsent_message, out.take()) == (True, True, None, [])


def test_speech_counts_for_the_budget_only_once_it_is_committed() -> None:
    assert captured(ms=500).end() == 0
    region = captured(ms=500)
    region.send(101.0)
    assert region.end() == 12_000


def test_audio_already_heard_by_server_turn_detection_is_not_sent_again() -> None:
    out = linked()
    region = Speech(Policy(), out)
    region.begin("turn_1", "vad", [period(), period()], 100.0)
    region.begin_at_server()
    region.send(100.0)
    assert out.take() == []
    region.add(period())
    region.send(100.0)
    assert types(out.take()) == [APPEND]
    region.commit_at_server()
    region.send(100.0)
    assert (out.take(), region.is_committing, region.is_sent) == ([], True, True)


# --- transcripts and items ------------------------------------------------------------------------------------------


def test_another_link_transcribes_speech_again_but_keeps_a_message() -> None:
    spoken, written = captured(), started(kind="message", link_wait_s=30.0)
    spoken.heard = "hello"
    written.write({"id": "m", "type": "message"}, "hi", 100.0)
    assert written.deadline == 130.0
    for region in (spoken, written):
        region.forget_link()
    assert (spoken.heard, written.heard, written.item_id) == (None, "hi", "m")


def test_a_message_waits_for_a_link_and_is_not_speech_to_continue() -> None:
    region = started(kind="message")
    message = {"id": "m", "type": "message"}
    region.write(message, "hi", 100.0)
    assert (region.unsent_message, region.waits) == (message, False)
    assert region.take_message() == (message, "hi")
    assert region.unsent_message is None


def test_a_message_given_during_speech_joins_the_turn_and_is_checked_with_its_transcript() -> None:
    region = started()
    region.add_message("m", "look at this")
    region.item_id = "i"
    assert (region.items, region.checked_text("what is it?")) == (("i", "m"), "look at this\nwhat is it?")


def test_only_the_newest_64_items_are_remembered() -> None:
    region = started()
    for number in range(65):
        region.note_item(f"i{number}", f"turn_{number}")
    assert [region.turn_of(one) for one in ("i0", "i1", "i64")] == [None, "turn_1", "turn_64"]


def test_only_captured_speech_can_be_taken() -> None:
    region = started()
    region.take()
    assert (region.is_open, region.is_taken) == (True, False)
    hear(region, 500)
    region.close(101.0)
    region.take()
    assert (region.is_committing, region.is_taken) == (False, True)
    region.end()
    assert not (region.is_open or region.is_committing or region.is_taken)
