"""Tests of the `device` region: button, sound cards, mute, alarms, pre-roll and error light."""

from __future__ import annotations

import pytest

from appliance.conversation.commands import (
    Announce,
    CloseCapture,
    Emit,
    OpenCapture,
    PlayEarcon,
    Sentence,
    SilenceAlarm,
)
from appliance.conversation.events import AlarmRang, ButtonEdge
from appliance.conversation.notices import Error
from appliance.conversation.policy import Policy
from appliance.conversation.regions.device import Device
from appliance.conversation.support.outbox import Outbox
from tests.unit.regions.outcome import notices, period


def device(out: Outbox | None = None, *, is_muted: bool = False, **policy: float) -> Device:
    return Device(Policy(**policy), out or Outbox(), is_muted=is_muted)


def kinds(made: Device, pressed: bool, now: float) -> list[str]:
    return [one.kind for one in made.edge(ButtonEdge(pressed), now)]


# --- the button -----------------------------------------------------------------------------------------------------


def test_a_button_held_down_at_the_start_is_not_a_press_but_becomes_stuck() -> None:
    made = device(start_guard_s=1.0, stuck_s=30.0)
    made.start(100.0)
    assert kinds(made, True, 100.9) == []
    assert min(at for at in made.deadlines() if at is not None) == pytest.approx(130.9)
    assert [one.kind for one in made.late_gestures(130.9)] == ["stuck"]
    assert made.is_stuck


def test_presses_count_after_the_first_release_or_the_start_guard() -> None:
    released, waited = device(start_guard_s=1.0), device(start_guard_s=1.0)
    for made in (released, waited):
        made.start(100.0)
    kinds(released, False, 100.1)
    assert kinds(released, True, 100.2) == ["press"]
    assert kinds(waited, True, 101.0) == ["press"]


def test_a_press_longer_than_the_longest_turn_is_stuck() -> None:
    made = device(max_turn_s=60.0, stuck_s=30.0)
    made.start(100.0)
    kinds(made, True, 110.0)
    assert [one.kind for one in made.late_gestures(199.9)] == ["hold"]
    assert [one.kind for one in made.late_gestures(200.0)] == ["stuck"]


def test_no_press_counts_before_the_start() -> None:
    made = device()
    kinds(made, False, 99.0)
    assert (kinds(made, True, 99.1), made.is_started) == ([], False)


# --- microphone, sound cards and mute -------------------------------------------------------------------------------


def test_a_device_that_starts_muted_closes_its_microphone() -> None:
    out = Outbox()
    device(out).start(0.0)
    assert out.take() == []
    device(out, is_muted=True).start(0.0)
    assert out.take() == [CloseCapture()]


def test_muting_drops_the_pre_roll_and_an_unchanged_switch_does_nothing() -> None:
    made = device()
    made.keep(period())
    assert not made.switch_mute(False)
    assert made.take_pre_roll() == [period()]
    made.keep(period())
    assert made.switch_mute(True)
    assert (made.is_muted, made.take_pre_roll()) == (True, [])


def test_the_microphone_follows_the_mute_switch_and_the_cue_plays_after_it() -> None:
    out = Outbox()
    made = device(out)
    made.switch_mute(True)
    made.follow_mute()
    made.switch_mute(False)
    made.follow_mute()
    cue = PlayEarcon(0, "muted")
    assert out.take() == [CloseCapture(), cue, OpenCapture(), cue]


def test_the_pre_roll_keeps_the_newest_audio_and_is_taken_once() -> None:
    made = device(pre_roll_ms=100)
    for sample in range(10):
        made.keep(period(sample))
    assert made.take_pre_roll() == [period(sample) for sample in range(5, 10)]
    assert made.take_pre_roll() == []


def test_a_turn_is_refused_when_muted_or_without_a_microphone() -> None:
    made = device()
    assert made.refusal is None
    made.lose_card("playback", "unplugged", 0.0)
    assert made.refusal is None
    made.lose_card("capture", "unplugged", 0.0)
    assert made.refusal == "no_microphone"
    made.switch_mute(True)
    assert made.refusal == "muted"


def test_losing_the_microphone_drops_the_pre_roll_and_losing_the_loudspeaker_does_not() -> None:
    out = Outbox()
    made = device(out)
    made.keep(period())
    made.lose_card("playback", "unplugged", 0.0)
    assert made.take_pre_roll() == [period()]
    made.keep(period())
    made.lose_card("capture", "unplugged", 0.0)
    assert made.take_pre_roll() == []
    assert notices(out.take())[-1] == Error("no_microphone", "unplugged")


def test_a_lost_card_stays_lost_until_it_is_found() -> None:
    made = device()
    made.lose_card("playback", "unplugged", 0.0)
    made.lose_card("capture", "unplugged", 0.0)
    assert (made.cards_lost, made.has_speaker) == (("capture", "playback"), False)
    made.find_card("playback")
    made.find_card("playback")
    assert (made.cards_lost, made.has_speaker) == (("capture",), True)


# --- alarms ---------------------------------------------------------------------------------------------------------


def test_an_alarm_rings_at_its_interval_until_its_time_limit() -> None:
    made = device(alarm_s=10.0, alarm_every_s=3.0)
    made.begin_alarm(AlarmRang("tea", "tea"), 100.0)
    assert (made.plan_ring(100.0), made.is_alarm_due(102.9), made.is_alarm_due(103.0)) == (True, False, True)
    assert 103.0 in made.deadlines()
    assert (made.plan_ring(109.9), made.plan_ring(110.0)) == (True, False)


def test_the_announcement_names_every_ringing_alarm() -> None:
    out = Outbox()
    made = device(out)
    made.begin_alarm(AlarmRang("a", "tea"), 100.0)
    made.begin_alarm(AlarmRang("b", "eggs"), 101.0)
    made.ring()
    cue, said = out.take()
    assert cue == PlayEarcon(0, "alarm")
    assert said == Announce(0, Sentence("alarm.time_up_for", {"labels": "tea, eggs"}), "alarm")


def test_silencing_acknowledges_every_alarm_once() -> None:
    out = Outbox()
    made = device(out)
    for alarm_id in ("a", "b"):
        made.begin_alarm(AlarmRang(alarm_id, ""), 100.0)
    made.plan_ring(100.0)
    assert made.silence_alarms()
    assert out.take() == [SilenceAlarm("a"), SilenceAlarm("b")]
    assert (made.silence_alarms(), out.take()) == (False, [])
    assert (made.alarms.ringing, made.is_alarm_due(1000.0)) == ({}, False)


# --- the error light ------------------------------------------------------------------------------------------------


def test_an_error_lights_the_error_light_for_a_moment_unless_flash_is_false() -> None:
    out = Outbox()
    made = device(out, error_light_s=3.0)
    made.report("lost", 100.0, detail="no cable", flash=False)
    assert (made.has_error, made.trouble) == (False, "lost")
    made.report("overrun", 100.0)
    made.end_error_light(102.9)
    assert (made.has_error, list(made.deadlines())[-1]) == (True, 103.0)
    made.end_error_light(103.0)
    assert (made.has_error, made.trouble) == (False, "overrun")
    first, second = out.take()
    assert first == Emit(Error("lost", "no cable"))
    assert second == Emit(Error("overrun"))
    made.forget_trouble()
    assert made.trouble == ""
