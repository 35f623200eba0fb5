"""Tests of the conversation core: cards, mute, alarms and shutdown."""

from __future__ import annotations

from appliance.conversation.commands import CloseCapture, OpenCapture, SilenceAlarm, Stop
from appliance.conversation.events import (
    AlarmRang,
    AudioCaptured,
    CardFound,
    CardLost,
    FrameRefused,
    MuteSwitched,
    ShutdownRequested,
    TimersChanged,
)
from appliance.conversation.support.feedback import light_state
from tests.support.stage import Stage, period


def test_a_missing_microphone_is_shown_and_announced_on_a_press() -> None:
    stage = Stage().ready()
    stage.do(CardLost("capture", "no card 'usb'"))
    assert light_state(stage.conversation.view) == "no_card"
    stage.press()
    assert stage.state == "ready"
    assert "microphone" in stage.announced()[0]
    stage.do(CardFound("capture"))
    stage.advance(5)
    assert light_state(stage.conversation.view) == "ready"


def test_a_microphone_unplugged_in_a_turn_commits_the_captured_audio() -> None:
    stage = Stage().ready()
    stage.press()
    stage.hear(500)
    stage.do(CardLost("capture", "unplugged"))
    assert "input_audio_buffer.commit" in stage.sent_types()
    assert stage.troubles() == ["no_microphone"]


def test_a_loudspeaker_lost_while_speaking_ends_the_turn() -> None:
    stage = Stage().ready()
    stage.answering()
    stage.do(CardLost("playback", "unplugged"))
    assert stage.outcomes() == ["failed"]
    assert stage.sent_types()[:2] == ["conversation.item.truncate", "response.cancel"]


def test_a_loudspeaker_that_stalls_ends_the_turn() -> None:
    stage = Stage(playout_stall_s=5.0, answer_s=6.0).ready()
    stage.answering()
    stage.done()
    stage.advance(7)
    assert stage.outcomes() == ["failed"]
    assert "playout_stalled" in stage.troubles()


def test_mute_closes_the_microphone_and_is_announced_on_a_press() -> None:
    stage = Stage().ready()
    assert CloseCapture() in stage.do(MuteSwitched(True))
    assert stage.state == "muted"
    assert light_state(stage.conversation.view) == "muted"
    stage.press()
    assert stage.state == "muted"
    assert stage.announced() == ["The microphone is muted."]
    stage.release()
    assert OpenCapture() in stage.do(MuteSwitched(False))
    stage.advance(5)
    assert stage.state == "ready"


def test_mute_while_listening_sends_nothing_more_and_clears() -> None:
    stage = Stage().ready()
    stage.press()
    stage.hear(300)
    stage.do(MuteSwitched(True))
    assert stage.sent_types()[-1] == "input_audio_buffer.clear"
    assert stage.outcomes() == ["cancelled"]


def test_audio_from_before_the_mute_is_not_in_the_pre_roll_after_it() -> None:
    stage = Stage().ready()
    stage.hear(400, 999)
    stage.do(MuteSwitched(True))
    stage.do(MuteSwitched(False))
    assert stage.sent_audio(stage.press()) == b""


def test_a_press_silences_a_ringing_alarm_and_starts_no_turn() -> None:
    stage = Stage().ready()
    stage.do(TimersChanged(1))
    assert light_state(stage.conversation.view) == "timer"
    stage.do(TimersChanged(0))
    stage.do(AlarmRang("timer_1", "pasta"))
    assert light_state(stage.conversation.view) == "ringing"
    assert "pasta" in stage.announced()[0]
    commands = stage.press()
    assert SilenceAlarm("timer_1") in commands
    assert stage.state == "ready"
    stage.release()
    stage.press()
    assert stage.state == "listening"


def test_an_alarm_rings_again_and_stops_by_itself() -> None:
    stage = Stage(alarm_s=10.0, alarm_every_s=3.0).ready()
    stage.do(AlarmRang("timer_1", ""))
    stage.advance(20)
    assert 3 <= stage.earcons().count("alarm") <= 4
    assert SilenceAlarm("timer_1") in stage.commands
    assert light_state(stage.conversation.view) == "ready"


def test_an_alarm_does_not_ring_during_a_turn() -> None:
    stage = Stage().ready()
    stage.press()
    stage.do(AlarmRang("timer_1", "tea"))
    assert "alarm" not in stage.earcons()
    assert stage.state == "listening"


def test_a_shutdown_during_an_answer_truncates_it_and_stops() -> None:
    stage = Stage().ready()
    stage.answering()
    commands = stage.do(ShutdownRequested("SIGTERM"))
    assert stage.sent_types(commands) == ["conversation.item.truncate", "response.cancel"]
    assert commands[-1] == Stop("SIGTERM")
    assert stage.conversation.deadline is None
    assert stage.do(AudioCaptured(period(), 4000, -18.0)) == []


def test_unreadable_frames_are_reported_and_too_many_end_the_link() -> None:
    stage = Stage(max_bad_frames=3).ready()
    stage.do(FrameRefused(stage.link, "not JSON"))
    assert stage.state == "ready"
    assert stage.troubles() == ["bad_frame"]
    assert light_state(stage.conversation.view) == "error"
    for _ in range(3):
        stage.do(FrameRefused(stage.link, "not JSON"))
    assert stage.state == "offline"
