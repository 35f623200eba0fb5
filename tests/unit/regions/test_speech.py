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
from tests.unit.regions.outcome import QUIET_DB, frames, linked, period

CLEAR, APPEND, COMMIT = "input_audio_buffer.clear", "input_audio_buffer.append", "input_audio_buffer.commit"


def begun(out: Outbox | None = None, kind: Kind = "button", **policy: Any) -> Speech:
    """Begin a turn at 100.0."""
    made = Speech(Policy(**policy), out or linked())
    made.begin("turn_1", kind, (), 100.0)
    return made


def hear(made: Speech, ms: int, sample: int = 4000, **more: float) -> list[str | None]:
    """Capture `ms` of sound; return the result of each period, up to the end of the capture."""
    found: list[str | None] = []
    for _ in range(ms // 20):
        found.append(made.add(period(sample, **more)))
        if found[-1] is not None:
            break
    return found


def captured(out: Outbox | None = None, ms: int = 500, **policy: Any) -> Speech:
    """Capture a whole turn without sending it."""
    made = begun(out, **policy)
    hear(made, ms)
    assert made.close(101.0) is None
    return made


def types(commands: Sequence[Command]) -> list[str]:
    return [frame["type"] for frame in frames(commands)]


def release(made: Speech, held_s: float) -> str | None:
    """Release the button that started the turn."""
    return made.release(Gesture("release", 100.0 + held_s, held_s))


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
    assert release(begun(button_mode=mode), held_s) == means


def test_a_release_is_ignored_by_a_turn_the_button_does_not_end() -> None:
    assert release(begun(kind="program", button_mode="hold"), 1.0) is None
    assert release(captured(button_mode="hold"), 1.0) is None
    latched = begun(button_mode="auto")
    release(latched, 0.1)
    assert release(latched, 1.0) is None
    going_on = begun(button_mode="hold")
    assert going_on.release(Gesture("release", 105.0, 0.05)) == "ended"  # short, but not the first press


def test_only_a_tapped_turn_ends_with_silence_after_the_user_has_spoken() -> None:
    held, tapped = begun(silence_ms=1000), begun(silence_ms=1000)
    release(tapped, 0.1)
    for made in (held, tapped):
        hear(made, 100, 30, level_db=QUIET_DB)
        hear(made, 500)
    assert hear(held, 5000, 30, level_db=QUIET_DB) == [None] * 250
    assert hear(tapped, 5000, 30, level_db=QUIET_DB) == [None] * 49 + ["captured"]


@pytest.mark.parametrize(("sample", "ended"), [(30, "silence"), (2, "captured")])
def test_a_tapped_turn_without_speech_ends_as_silence_or_as_a_dead_microphone(sample: int, ended: str) -> None:
    made = begun(no_speech_s=1.0, silence_peak=2)
    release(made, 0.1)
    assert hear(made, 2000, sample, level_db=QUIET_DB) == [None] * 49 + [ended]


@pytest.mark.parametrize(("newest", "periods"), [(101.0, 13), (100.5, 38), (99.0, 63)])
def test_the_post_roll_is_counted_from_the_newest_captured_audio(newest: float, periods: int) -> None:
    made = begun(post_roll_ms=250)
    assert made.keep_post_roll(101.0, newest, 101.02) is None
    assert made.is_in_post_roll
    assert hear(made, 5000) == [None] * (periods - 1) + ["captured"]
    made.close(102.0)
    assert not made.is_in_post_roll


def test_a_turn_ends_at_once_if_its_post_roll_is_captured_or_it_is_too_short() -> None:
    assert begun(post_roll_ms=250).keep_post_roll(101.0, 101.25, 101.3) == "captured"
    assert begun(min_turn_ms=125).keep_post_roll(100.12, 100.12, 100.2) == "too_short"
    assert begun(min_turn_ms=125).keep_post_roll(100.125, 100.125, 100.2) is None


def test_a_press_in_the_post_roll_continues_the_turn() -> None:
    made = begun(post_roll_ms=250)
    made.keep_post_roll(101.0, 101.0, 101.0)
    made.go_on(101.1)
    assert not made.is_in_post_roll
    assert hear(made, 1000) == [None] * 50


def test_a_continued_tapped_turn_ends_with_the_next_release() -> None:
    for go_on in (lambda made: made.go_on(101.1), lambda made: made.resume([], 101.1)):
        made = begun(button_mode="auto")
        hear(made, 500)
        release(made, 0.1)
        go_on(made)
        assert made.release(Gesture("release", 102.0, 0.5)) == "ended"


def test_every_phase_has_a_deadline() -> None:
    made = begun(max_turn_s=60.0, post_roll_ms=250, link_wait_s=30.0, commit_s=5.0)
    assert made.deadline == 160.0
    made.keep_post_roll(101.0, 101.0, 102.0)
    assert made.deadline == 132.25
    made.go_on(102.0)
    assert made.deadline == 162.0
    hear(made, 500)
    made.close(103.0)
    assert made.deadline == 133.0
    made.resume([], 104.0)
    assert made.deadline == 163.5
    made.close(105.0)
    made.send(105.0)
    assert made.deadline == 110.5  # as long to upload as it took to say


def test_a_turn_is_too_long_at_its_limit_unless_the_server_ends_turns() -> None:
    assert hear(begun(max_turn_s=1.0), 2000) == [None] * 49 + ["too_long"]
    assert hear(begun(kind="vad", max_turn_s=1.0), 2000) == [None] * 100


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
    made = begun(out, kind, min_turn_ms=100, silence_peak=2)
    hear(made, ms, sample)
    assert made.close(101.0) == wrong
    assert made.is_committing is (wrong is None)
    assert out.take() == [PlayEarcon(0, "end")] * (kind == "button" and wrong is None)


def test_an_ended_turn_has_no_post_roll() -> None:
    made = begun(post_roll_ms=250)
    made.keep_post_roll(101.0, 101.0, 101.0)
    made.end()
    assert not made.is_in_post_roll


# --- delivery -------------------------------------------------------------------------------------------------------


def test_each_period_is_sent_once_and_the_turn_committed_once() -> None:
    out = linked()
    made = begun(out)
    hear(made, 40, 1)
    assert not made.send(100.0)
    assert types(out.take()) == [CLEAR, APPEND, APPEND]
    hear(made, 20, 2000)
    made.send(100.0)
    assert [frame["audio"] for frame in frames(out.take())] == [frame_of(2000)]
    hear(made, 40)
    made.close(101.0)
    out.take()
    assert made.send(101.0)
    commands = out.take()
    assert types(commands) == [APPEND, APPEND, COMMIT]
    assert frames(commands)[-1]["event_id"] == "commit_turn_1_0"
    assert out.cause("commit_turn_1_0") == CommitOf("turn_1", 0)
    assert (made.send(102.0), out.take(), made.is_sent) == (False, [], True)


def test_the_pre_roll_is_sent_first() -> None:
    out = linked()
    made = Speech(Policy(), out)
    made.begin("turn_1", "button", [period(1)], 100.0)
    made.add(period(2))
    made.send(100.0)
    assert [frame.get("audio") for frame in frames(out.take())] == [None, frame_of(1), frame_of(2)]


def frame_of(sample: int) -> str:
    """Return 20 ms of one sample value, as encoded on the wire."""
    return str(InputAudioBufferAppend(audio=period(sample).pcm).to_wire()["audio"])


def test_a_new_link_gets_the_whole_speech_again_up_to_max_replays() -> None:
    out = linked()
    made = captured(out, 100, max_replays=1)
    made.send(101.0)
    made.take()
    out.take()
    for number, may_go_on in ((1, True), (2, False)):
        made.forget_link()
        assert made.replay(was_sent=True, now=110.0) is may_go_on
        assert (made.replays, made.is_committing, made.waits) == (number, True, True)
        assert made.send(110.0)
        commands = out.take()
        assert types(commands) == [CLEAR, *[APPEND] * 5, COMMIT]
        assert frames(commands)[-1]["event_id"] == f"commit_turn_1_{number}"


def test_unsent_speech_keeps_its_deadline_and_does_not_count_as_a_replay() -> None:
    made = captured(link_wait_s=30.0)
    made.forget_link()
    assert made.replay(was_sent=False, now=110.0)
    assert (made.replays, made.deadline) == (0, 131.0)
    assert made.replay(was_sent=True, now=110.0)
    assert (made.replays, made.deadline) == (1, 140.0)


def test_audio_whose_answer_has_started_is_never_sent_again() -> None:
    out = linked()
    made = captured(out)
    made.send(101.0)
    made.forget_audio()
    made.forget_link()
    out.take()
    made.send(110.0)
    assert types(out.take()) == [CLEAR, COMMIT]


def test_a_press_before_speech_was_sent_continues_it() -> None:
    out = linked()
    made = captured(out, 100)
    assert (made.waits, made.is_open) == (True, False)
    made.resume([period()], 105.0)
    assert (made.waits, made.is_open) == (False, True)
    hear(made, 20)
    made.close(106.0)
    made.send(106.0)
    assert types(out.take()).count(APPEND) == 7
    assert not made.waits


def test_the_server_buffer_is_cleared_only_between_the_first_append_and_the_commit() -> None:
    out = linked()
    made = begun(out)
    made.clear_server_buffer()
    assert out.take() == []
    hear(made, 500)
    made.send(100.0)
    out.take()
    made.clear_server_buffer()
    assert types(out.take()) == [CLEAR]
    made.close(101.0)
    made.send(101.0)
    out.take()
    made.clear_server_buffer()
    assert out.take() == []


def test_commits_are_confirmed_in_order_and_refused_ones_are_skipped() -> None:
    made = Speech(Policy(), linked())
    for turn in ("turn_1", "turn_2", "turn_3"):
        made.begin(turn, "button", (), 100.0)
        hear(made, 500)
        made.close(101.0)
        made.send(101.0)
        if turn == "turn_2":
            made.refuse_commit()
    assert [made.next_commit() for _ in range(3)] == ["turn_1", "turn_3", None]


def test_commits_of_a_lost_link_are_never_confirmed() -> None:
    made = captured()
    made.send(101.0)
    made.forget_commits()
    assert made.next_commit() is None


def test_a_replayed_turn_reopens_only_if_the_server_ends_turns() -> None:
    committed = begun(kind="vad")
    committed.commit_at_server()
    for made, is_open in ((begun(kind="vad"), True), (committed, True), (captured(), False)):
        assert made.replay(was_sent=False, now=110.0)
        assert (made.is_open, made.is_committing) == (is_open, not is_open)


def test_a_turn_without_input_is_taken_and_sends_nothing() -> None:
    out = linked()
    made = begun(out, "message")
    made.skip()
    assert (made.is_taken, made.is_sent, made.unsent_message, out.take()) == (True, True, None, [])


def test_speech_counts_for_the_budget_only_once_it_is_committed() -> None:
    assert captured(ms=500).end() == 0
    made = captured(ms=500)
    made.send(101.0)
    assert made.end() == 12_000


def test_audio_already_heard_by_server_turn_detection_is_not_sent_again() -> None:
    out = linked()
    made = Speech(Policy(), out)
    made.begin("turn_1", "vad", [period(), period()], 100.0)
    made.begin_at_server()
    made.send(100.0)
    assert out.take() == []
    made.add(period())
    made.send(100.0)
    assert types(out.take()) == [APPEND]
    made.commit_at_server()
    made.send(100.0)
    assert (out.take(), made.is_committing, made.is_sent) == ([], True, True)


# --- transcripts and items ------------------------------------------------------------------------------------------


def test_another_link_transcribes_speech_again_but_keeps_a_message() -> None:
    spoken, written = captured(), begun(kind="message", link_wait_s=30.0)
    spoken.heard = "hello"
    written.write({"id": "m", "type": "message"}, "hi", 100.0)
    assert written.deadline == 130.0
    for made in (spoken, written):
        made.forget_link()
    assert (spoken.heard, written.heard, written.item_id) == (None, "hi", "m")


def test_a_message_waits_for_a_link_and_is_not_speech_to_continue() -> None:
    made = begun(kind="message")
    message = {"id": "m", "type": "message"}
    made.write(message, "hi", 100.0)
    assert (made.unsent_message, made.waits) == (message, False)
    assert made.take_message() == (message, "hi")
    assert made.unsent_message is None


def test_a_message_given_during_speech_joins_the_turn_and_is_checked_with_its_transcript() -> None:
    made = begun()
    made.add_message("m", "look at this")
    made.item_id = "i"
    assert (made.items, made.checked_text("what is it?")) == (("i", "m"), "look at this\nwhat is it?")


def test_only_the_newest_64_items_are_remembered() -> None:
    made = begun()
    for number in range(65):
        made.note_item(f"i{number}", f"turn_{number}")
    assert [made.turn_of(one) for one in ("i0", "i1", "i64")] == [None, "turn_1", "turn_64"]


def test_only_captured_speech_can_be_taken() -> None:
    made = begun()
    made.take()
    assert (made.is_open, made.is_taken) == (True, False)
    hear(made, 500)
    made.close(101.0)
    made.take()
    assert (made.is_committing, made.is_taken) == (False, True)
    made.end()
    assert not (made.is_open or made.is_committing or made.is_taken)
