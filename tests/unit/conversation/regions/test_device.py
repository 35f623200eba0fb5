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
from tests.unit.conversation.regions.outcome import notices, period


def device(out: Outbox | None = None, *, is_muted: bool = False, **policy: float) -> Device:
    return Device(Policy(**policy), out or Outbox(), is_muted=is_muted)


def kinds(region: Device, pressed: bool, now: float) -> list[str]:
    return [one.kind for one in region.edge(ButtonEdge(pressed), now)]


# --- the button -----------------------------------------------------------------------------------------------------


def test_a_button_held_down_at_the_start_is_not_a_press_but_becomes_stuck() -> None:
    region = device(start_guard_s=1.0, stuck_s=30.0)
    region.start(100.0)
    assert kinds(region, True, 100.9) == []
    assert min(at for at in region.deadlines() if at is not None) == pytest.approx(130.9)
    assert [one.kind for one in region.late_gestures(130.9)] == ["stuck"]
    assert region.is_stuck


def test_edges_seen_by_the_kernel_have_its_times_and_are_presses_also_during_the_start_guard() -> None:
    region = device(start_guard_s=1.0)
    region.start(10.0)
    (press,) = region.edge(ButtonEdge(True, at=9.0), 10.1)
    assert (press.kind, press.at) == ("press", 9.0)
    assert region.edge(ButtonEdge(False, at=9.2), 10.1) == []
    assert [(one.kind, round(one.held_s, 3)) for one in region.late_gestures(10.1)] == [("release", 0.2), ("tap", 0.2)]


def test_presses_count_after_the_first_release_or_the_start_guard() -> None:
    released, waited = device(start_guard_s=1.0), device(start_guard_s=1.0)
    for region in (released, waited):
        region.start(100.0)
    kinds(released, False, 100.1)
    assert kinds(released, True, 100.2) == ["press"]
    assert kinds(waited, True, 101.0) == ["press"]


def test_a_press_longer_than_the_longest_turn_is_stuck() -> None:
    region = device(max_turn_s=60.0, stuck_s=30.0)
    region.start(100.0)
    kinds(region, True, 110.0)
    assert [one.kind for one in region.late_gestures(199.9)] == ["hold"]
    assert [one.kind for one in region.late_gestures(200.0)] == ["stuck"]


def test_no_press_counts_before_the_start() -> None:
    region = device()
    kinds(region, False, 99.0)
    assert (kinds(region, True, 99.1), region.is_started) == ([], False)


# --- microphone, sound cards and mute -------------------------------------------------------------------------------


def test_a_device_that_starts_muted_closes_its_microphone() -> None:
    out = Outbox()
    device(out).start(0.0)
    assert out.take() == []
    device(out, is_muted=True).start(0.0)
    assert out.take() == [CloseCapture()]


def test_muting_drops_the_pre_roll_and_an_unchanged_switch_does_nothing() -> None:
    region = device()
    region.keep(period())
    assert not region.switch_mute(False)
    assert region.take_pre_roll(0.0) == [period()]
    region.keep(period())
    assert region.switch_mute(True)
    assert (region.is_muted, region.take_pre_roll(0.0)) == (True, [])


def test_the_microphone_follows_the_mute_switch_and_the_cue_plays_after_it() -> None:
    out = Outbox()
    region = device(out)
    region.switch_mute(True)
    region.follow_mute()
    region.switch_mute(False)
    region.follow_mute()
    assert out.take() == [CloseCapture(), PlayEarcon(0, "muted"), OpenCapture(), PlayEarcon(0, "unmuted")]


def test_the_pre_roll_keeps_the_newest_audio_and_is_taken_once() -> None:
    region = device(pre_roll_ms=100)
    for sample in range(10):
        region.keep(period(sample))
    assert region.take_pre_roll(0.0) == [period(sample) for sample in range(5, 10)]
    assert region.take_pre_roll(0.0) == []


def test_a_turn_is_refused_when_muted_or_without_a_microphone() -> None:
    region = device()
    assert region.refusal is None
    region.lose_card("playback", "unplugged", 0.0)
    assert region.refusal is None
    region.lose_card("capture", "unplugged", 0.0)
    assert region.refusal == "no_microphone"
    region.switch_mute(True)
    assert region.refusal == "muted"


def test_losing_the_microphone_drops_the_pre_roll_and_losing_the_loudspeaker_does_not() -> None:
    out = Outbox()
    region = device(out)
    region.keep(period())
    region.lose_card("playback", "unplugged", 0.0)
    assert region.take_pre_roll(0.0) == [period()]
    region.keep(period())
    region.lose_card("capture", "unplugged", 0.0)
    assert region.take_pre_roll(0.0) == []
    assert notices(out.take())[-1] == Error("no_microphone", "unplugged")


def test_a_lost_card_stays_lost_until_it_is_found() -> None:
    region = device()
    region.lose_card("playback", "unplugged", 0.0)
    region.lose_card("capture", "unplugged", 0.0)
    assert (region.cards_lost, region.has_speaker) == (("capture", "playback"), False)
    region.find_card("playback")
    region.find_card("playback")
    assert (region.cards_lost, region.has_speaker) == (("capture",), True)


# --- alarms ---------------------------------------------------------------------------------------------------------


def test_an_alarm_rings_at_its_interval_until_its_time_limit() -> None:
    region = device(alarm_s=10.0, alarm_every_s=3.0)
    region.begin_alarm(AlarmRang("tea", "tea"), 100.0)
    assert (region.plan_ring(100.0), region.is_alarm_due(102.9), region.is_alarm_due(103.0)) == (True, False, True)
    assert 103.0 in region.deadlines()
    assert (region.plan_ring(109.9), region.plan_ring(110.0)) == (True, False)


def test_the_announcement_names_every_ringing_alarm() -> None:
    out = Outbox()
    region = device(out)
    region.begin_alarm(AlarmRang("a", "tea"), 100.0)
    region.begin_alarm(AlarmRang("b", "eggs"), 101.0)
    region.ring()
    cue, said = out.take()
    assert cue == PlayEarcon(0, "alarm")
    assert said == Announce(0, Sentence("alarm.time_up_for", {"labels": "tea, eggs"}), "alarm")


def test_silencing_acknowledges_every_alarm_once() -> None:
    out = Outbox()
    region = device(out)
    for alarm_id in ("a", "b"):
        region.begin_alarm(AlarmRang(alarm_id, ""), 100.0)
    region.plan_ring(100.0)
    assert region.silence_alarms()
    assert out.take() == [SilenceAlarm("a"), SilenceAlarm("b")]
    assert (region.silence_alarms(), out.take()) == (False, [])
    assert (region.alarms.ringing, region.is_alarm_due(1000.0)) == ({}, False)


# --- the error light ------------------------------------------------------------------------------------------------


def test_an_error_lights_the_error_light_for_a_moment_unless_flash_is_false() -> None:
    out = Outbox()
    region = device(out, error_light_s=3.0)
    region.report("lost", 100.0, detail="no cable", flash=False)
    assert (region.has_error, region.trouble) == (False, "lost")
    region.report("overrun", 100.0)
    region.end_error_light(102.9)
    assert (region.has_error, list(region.deadlines())[-1]) == (True, 103.0)
    region.end_error_light(103.0)
    assert (region.has_error, region.trouble) == (False, "overrun")
    first, second = out.take()
    assert first == Emit(Error("lost", "no cable"))
    assert second == Emit(Error("overrun"))
    region.forget_trouble()
    assert region.trouble == ""
