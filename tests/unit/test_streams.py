"""The streams over a fake card whose callbacks the test calls, period by period: no card thread, a fake clock."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.audio import streams
from appliance.audio.backends import Presence
from appliance.audio.card_events import CardEvents
from appliance.audio.pcm import volume_gain
from appliance.audio.resample import Resampler
from appliance.conversation.events import (
    AudioCaptured,
    CaptureOverrun,
    CardFound,
    CardLost,
    Direction,
    PlayoutProgress,
)
from appliance.errors import CardBusy
from tests.support.hand_card import PERIOD, Hand, hand, pcm_of


async def test_loudness_of_the_cues_is_set_apart_from_the_volume_and_alarms_ignore_it() -> None:
    peaks = {}
    for percent in (100, 50, 0):
        for name in ("start", "alarm"):
            async with hand() as one:
                one.audio.earcon_volume = percent
                one.audio.earcon(0, name)
                peaks[name, percent] = max(await one.play_periods(10))
    assert peaks["start", 100] > 5 * peaks["start", 50] > 0 == peaks["start", 0]
    assert peaks["alarm", 100] == peaks["alarm", 50] == peaks["alarm", 0]


async def test_answer_is_played_and_reported_to_the_frame() -> None:
    async with hand() as one:
        one.audio.flush(1)
        one.audio.play(1, "a", pcm_of(5, 1000))
        one.audio.play(1, "a", pcm_of(6, 700))
        one.audio.finish(1)
        samples = await one.play_periods(8)
        assert [value for value in samples if value] == [5] * 1000 + [6] * 700
        reports = one.posted(PlayoutProgress)
        assert [report.drained for report in reports].count(True) == 1
        assert reports[-1] == PlayoutProgress(1, 1700, True)
        assert [r.played_frames for r in reports] == sorted(r.played_frames for r in reports)


async def test_frames_inside_the_card_are_not_reported_as_heard() -> None:
    async with hand() as one:
        one.audio.play(0, "a", pcm_of(5, 4 * PERIOD))
        await one.play_periods(3)
        assert one.posted(PlayoutProgress)[-1].played_frames == 2 * PERIOD, "one period of latency"


@pytest.mark.parametrize(("latency", "callbacks"), [(1, 1), (PERIOD, 1), (PERIOD + 1, 2), (3 * PERIOD, 3)])
@pytest.mark.parametrize("rate", [24_000, 48_000])
async def test_last_frames_of_an_answer_count_as_played_only_when_the_card_has_played_them(
    rate: int, latency: int, callbacks: int
) -> None:
    async with hand(rate=rate, latency=latency * rate // 24_000) as one:
        one.audio.play(0, "a", pcm_of(900, 2 * PERIOD + 100))
        one.audio.finish(0)
        taken = reported = 0  # callbacks until the card has taken all frames, and until all count as played
        for callback in range(1, 12):
            if one.audio._playback.ring.available:
                taken = callback
            await one.play_periods(1)
            if not reported and one.posted(PlayoutProgress)[-1].drained:
                reported = callback
        assert taken >= 3
        assert reported == taken + callbacks
        reports = one.posted(PlayoutProgress)
        assert [report.drained for report in reports[:-1]] == [False] * (len(reports) - 1)
        assert reports[-1] == PlayoutProgress(0, 2 * PERIOD + 100, True)


async def test_flush_drops_the_old_epoch_and_its_late_audio() -> None:
    async with hand() as one:
        one.audio.play(0, "a", pcm_of(5, 10 * PERIOD))
        await one.play_periods(2)
        one.audio.flush(1)
        one.audio.play(0, "a", pcm_of(5, PERIOD))
        one.audio.play(1, "b", pcm_of(7, PERIOD))
        one.audio.finish(1)
        fade, *rest = np.array(await one.play_periods(4)).reshape(-1, PERIOD).tolist()
        assert fade[0] == 5
        assert fade[-1] == 0
        assert {value for period in rest for value in period} == {7, 0}
        assert one.posted(PlayoutProgress)[-1] == PlayoutProgress(1, PERIOD, True)


async def test_cues_and_announcements_are_played_but_not_counted_as_answer() -> None:
    async with hand() as one:
        one.audio.say(0, pcm_of(9, 2 * PERIOD))
        one.audio.earcon(0, "end")
        one.audio.play(0, "a", pcm_of(5, PERIOD))
        one.audio.finish(0)
        samples = await one.play_periods(12)
        assert samples.count(9) >= 2 * PERIOD
        assert one.posted(PlayoutProgress)[-1] == PlayoutProgress(0, PERIOD, True)


async def test_answer_waits_for_the_prebuffer() -> None:
    async with hand(prebuffer_ms=60) as one:
        one.audio.play(0, "a", pcm_of(5, PERIOD))
        assert not any(await one.play_periods(2))
        one.audio.play(0, "a", pcm_of(5, 2 * PERIOD))
        assert any(await one.play_periods(1))


async def test_short_answer_is_played_once_it_is_finished() -> None:
    async with hand(prebuffer_ms=60) as one:
        one.audio.play(0, "a", pcm_of(5, 100))
        one.audio.finish(0)
        assert (await one.play_periods(1)).count(5) == 100


async def test_network_pause_counts_as_a_gap_and_not_as_an_underrun() -> None:
    async with hand() as one:
        one.audio.play(0, "a", pcm_of(5, PERIOD))
        await one.play_periods(4)
        one.audio.play(0, "a", pcm_of(5, PERIOD))
        one.audio.finish(0)
        await one.play_periods(3)
        assert one.audio.xruns.answer_gaps == 1
        assert one.audio.xruns.causes == {"network": 1, "program": 0, "card": 0}
        assert one.audio.xruns.playback_underruns == 0
        assert one.posted(PlayoutProgress)[-1] == PlayoutProgress(0, 2 * PERIOD, True)


async def test_late_callbacks_are_the_program_s_and_count_on_when_the_card_is_opened_again() -> None:
    async with hand() as one:
        assert one.card.playback is not None
        one.card.playback.late_callbacks, one.card.playback.xruns = 2, 1
        one.card.playback.is_active = False
        await one.found("playback")
        one.card.playback.late_callbacks, one.card.playback.xruns = 3, 4
        assert one.audio.xruns.causes == {"network": 0, "program": 5, "card": 5}
        assert one.audio.xruns.total == 10


async def test_reasons_why_a_card_is_not_opened_again_are_one_line_each(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    attempts = 0
    monkeypatch.setattr(streams, "_RETRY_S", (0.001,))
    async with hand() as one:
        look = one.card.look

        def counted(direction: Direction) -> Presence:
            nonlocal attempts
            attempts += 1
            return look(direction)

        monkeypatch.setattr(one.card, "look", counted)
        for refusal in ("playback: held by pipewire (pid 400); stop it", "playback: the USB bus has no bandwidth left"):
            one.card.refusal, before = CardBusy(refusal), attempts
            assert one.card.playback is not None
            one.card.playback.is_active = False
            await _until(lambda before=before: attempts > before + 5)
        one.card.refusal = None
        await one.found("playback")
    assert [row.getMessage() for row in caplog.records if row.levelname == "WARNING"] == [
        "playback: the card stopped: was it unplugged?",
        "playback: held by pipewire (pid 400); stop it",
        "playback: the USB bus has no bandwidth left",
    ]
    assert len(one.posted(CardLost)) == 1


async def test_volume_is_applied_and_zero_is_silence() -> None:
    async with hand() as one:
        one.audio.volume = 0
        one.audio.play(0, "a", pcm_of(9000, PERIOD))
        assert not any(await one.play_periods(2))
        one.audio.volume = 100
        one.audio.play(0, "a", pcm_of(9000, PERIOD))
        assert max(await one.play_periods(2)) == 9000


async def test_cap_of_the_volume_holds_in_the_middle_of_an_answer_and_ends_with_its_hours() -> None:
    caps = [100]
    async with hand(loudest=lambda: caps[-1]) as one:
        heard = []
        for cap in (100, 40, 100):
            caps.append(cap)
            one.audio.play(0, "a", pcm_of(9000, PERIOD))
            heard.append((max(await one.play_periods(2)), one.audio.volume))
        assert heard == [(9000, 100), (round(9000 * volume_gain(40)), 40), (9000, 100)]
        caps.append(40)
        one.audio.volume = 20
        one.audio.say(0, pcm_of(9000, PERIOD))
        assert max(await one.play_periods(2)) == round(9000 * volume_gain(20)), "the cap makes nothing louder"
        assert one.audio.volume == 20


@pytest.mark.parametrize("are_alarms_capped", [True, False])
async def test_alarms_are_capped_unless_they_are_exempt(are_alarms_capped: bool) -> None:
    peaks = {}
    for cap in (100, 40):
        for name in ("alarm", "start"):
            async with hand(loudest=lambda cap=cap: cap, are_alarms_capped=are_alarms_capped) as one:
                one.audio.earcon(0, name)
                peaks[name, cap] = max(await one.play_periods(10))
    assert peaks["start", 100] > 5 * peaks["start", 40] > 0
    assert (peaks["alarm", 100] > 5 * peaks["alarm", 40]) == are_alarms_capped
    assert are_alarms_capped or peaks["alarm", 100] == peaks["alarm", 40]


async def test_captured_audio_is_posted_in_periods_with_levels() -> None:
    async with hand() as one:
        await one.hear(100, -200)
        first, second = one.posted(AudioCaptured)
        assert (len(first.pcm), first.peak, second.peak) == (2 * PERIOD, 100, 200)
        assert first.pcm == pcm_of(100, PERIOD)
        assert round(second.level_db) == -44


async def test_ring_keeps_captured_audio_while_the_network_is_stalled() -> None:
    async with hand() as one:
        one.has_room = False
        await one.hear(*range(1, 101))
        assert one.posted(AudioCaptured) == []
        one.has_room = True
        await one.hear(101)
        assert [event.peak for event in one.posted(AudioCaptured)] == list(range(1, 102))


async def test_full_ring_is_reported_with_the_lost_frames() -> None:
    async with hand(max_turn_s=0.1) as one:
        one.has_room = False
        assert one.card.capture is not None
        for _ in range(20):
            one.card.capture.turn(np.full(PERIOD, 1, np.int16))
        one.audio._capture.pump()
        (overrun,) = one.posted(CaptureOverrun)
        assert overrun.frames % PERIOD == 0
        assert one.audio.xruns.capture_overruns == overrun.frames > 0


async def _until(holds: Any) -> None:
    while not holds():
        await asyncio.sleep(0.01)


async def test_muted_microphone_is_closed_and_posts_nothing() -> None:
    async with hand() as one:
        stream = one.card.capture
        assert stream is not None
        one.audio.close_capture()
        await _until(lambda: stream.is_closed)
        assert one.posted(AudioCaptured) == []
        one.audio.open_capture()
        await _until(lambda: one.audio._capture.stream is not None)  # opened, not only asked for
        await one.hear(5)
        await _until(lambda: one.posted(AudioCaptured))
        assert len(one.posted(AudioCaptured)) == 1
        assert one.posted(CardLost) == []


async def test_stopped_card_is_reported_once_and_found_again() -> None:
    async with hand() as one:
        assert one.card.capture is not None
        one.card.missing.add("capture")
        one.card.capture.is_active = False
        await _until(lambda: one.posted(CardLost))
        await asyncio.sleep(0.7)
        assert [event.direction for event in one.posted(CardLost)] == ["capture"]
        one.card.missing.clear()
        await one.found("capture")
        assert one.posted(CardFound) == [CardFound("capture")]


async def _pass_time(one: Hand, seconds: float, *running: str) -> None:
    """Let the fake clock advance in steps of 20 ms; the streams named in `running` have their callbacks."""
    for _ in range(round(seconds / 0.02)):
        one.card.now += 0.02
        for name in running:
            stream = getattr(one.card, name)
            stream.turn(np.zeros(PERIOD, np.int16))
        one.audio._suspect_stalls()
        for _ in range(20):
            await asyncio.sleep(0)
        await asyncio.sleep(0.001)


async def test_stalled_card_is_lost_although_it_reports_active() -> None:
    async with hand(stall_s=2.0) as one:
        await _pass_time(one, 1.9, "capture")
        assert round(max(one.audio.callback_ages_s.values()), 3) == 1.9
        assert one.posted(CardLost) == []
        stalled = one.card.playback
        await _pass_time(one, 0.3, "capture")
        await _until(lambda: one.posted(CardLost))
        assert [event.direction for event in one.posted(CardLost)] == ["playback"]
        assert stalled is not None and stalled.is_closed


async def test_card_that_hangs_again_after_each_opening_is_reported_once_and_found_at_its_first_callback() -> None:
    async with hand() as one:
        for _ in range(3):
            hanging = one.card.playback
            await _pass_time(one, 0.5, "capture")
            await _until(lambda: one.card.playback is not hanging)  # noqa: B023 - awaited here
        assert [event.direction for event in one.posted(CardLost)] == ["playback"]
        assert one.posted(CardFound) == []
        await _pass_time(one, 0.04, "capture", "playback")
        await _until(lambda: one.posted(CardFound))
        await _pass_time(one, 1.0, "capture", "playback")
        assert one.posted(CardFound) == [CardFound("playback")]
        assert len(one.posted(CardLost)) == 1


async def test_card_that_the_kernel_no_longer_lists_is_lost_after_100_ms_without_its_event() -> None:
    async with hand() as one:
        one.card.missing.add("capture")
        await _pass_time(one, 0.1, "playback")
        assert one.posted(CardLost) == []
        await _pass_time(one, 0.06, "playback")
        await _until(lambda: one.posted(CardLost))
        assert one.posted(CardLost) == [CardLost("capture", "the card was unplugged")]
        assert one.card.now < 1000.2, "in the time of the card"


async def test_loop_that_stood_still_does_not_take_the_cards_for_lost() -> None:
    async with hand() as one:
        one.card.now += 60.0
        await _pass_time(one, 0.1)
        await _pass_time(one, 0.4, "capture", "playback")
        assert one.posted(CardLost) == []


async def test_late_callback_long_ago_is_no_loss_later() -> None:
    async with hand() as one:
        await _pass_time(one, 0.24, "playback")
        await _pass_time(one, 0.5, "playback", "capture")
        await _pass_time(one, 0.24, "playback")
        assert one.posted(CardLost) == []


async def test_event_of_the_kernel_finds_a_loss_at_once_and_the_other_direction_keeps_its_stream() -> None:
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with kernel:
        async with hand(card_events=CardEvents(lambda: ours)) as one:
            microphone, speaker = one.card.capture, one.card.playback
            assert microphone is not None
            resets = one.card.resets
            await one.hear(1)
            one.card.missing.add("playback")
            kernel.send(b"remove@/devices/usb/sound/card1\0ACTION=remove\0SUBSYSTEM=sound\0")
            await _until(lambda: one.posted(CardLost))
            assert one.posted(CardLost) == [CardLost("playback", "the card was unplugged")]
            assert one.card.now == 1000.0, "no time passed in the card's clock"
            one.card.missing.clear()
            kernel.send(b"add@/devices/usb/sound/card2\0ACTION=add\0SUBSYSTEM=sound\0")
            await one.found("playback")
            await one.hear(2)
            assert one.card.capture is microphone and not microphone.is_closed
            assert one.card.playback is not speaker
            assert one.card.resets == resets
            assert [event.peak for event in one.posted(AudioCaptured)] == [1, 2], "no period of the microphone is lost"


async def test_card_absent_at_the_start_is_listed_again_only_while_nothing_plays() -> None:
    one = Hand()
    one.card.missing.add("capture")
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        running = group.create_task(one.audio.run())
        await one.audio.opened()
        resets, speaker = one.card.resets, one.card.playback
        one.audio.play(0, "a", pcm_of(5, 24_000))
        one.card.missing.clear()
        one.audio._take_news()
        await asyncio.sleep(0.1)
        assert one.card.playback is speaker, "the answer is not interrupted"
        one.audio.flush(1)
        await one.play_periods(3)
        one.audio._take_news()
        await one.found("capture")
        assert one.posted(CardFound) == [CardFound("capture")]
        assert one.card.resets == resets + 1
        running.cancel()


async def test_missing_cards_are_reported_and_opened_when_they_appear() -> None:
    one = Hand()
    one.card.missing |= {"capture", "playback"}
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        running = group.create_task(one.audio.run())
        await one.audio.opened()
        assert {event.direction for event in one.posted(CardLost)} == {"capture", "playback"}
        assert one.audio.callback_ages_s == {}
        one.card.missing.clear()
        await one.found("capture", "playback")
        running.cancel()


@pytest.mark.parametrize("rate", [48_000, 44_100, 16_000])
@pytest.mark.parametrize("frames", [1, 10, 100, 480, 1000, 2400])
async def test_late_finish_plays_the_whole_answer_and_leaves_no_tail_for_the_next(rate: int, frames: int) -> None:
    async with hand(rate=rate) as one:
        one.audio.flush(1)
        one.audio.play(1, "a", pcm_of(1000, frames))
        played = await one.play_periods(8)
        one.audio.finish(1)
        played += await one.play_periods(4)
        expected = frames * rate / 24_000
        assert abs(np.sum(np.abs(played)) / 1000 - expected) < 0.25 * expected + 2
        assert one.posted(PlayoutProgress)[-1] == PlayoutProgress(1, frames, True)
        one.audio.play(1, "b", pcm_of(0, 2400))
        one.audio.finish(1)
        assert np.abs(await one.play_periods(8)).max() <= 1, "soxr dithers"


@pytest.mark.parametrize("rate", [48_000, 44_100, 16_000])
async def test_answer_has_its_exact_length_at_the_rate_of_the_card(rate: int) -> None:
    async with hand(rate=rate) as one:
        for _ in range(7):
            one.audio.play(0, "a", pcm_of(1000, 353))
        one.audio.finish(0)
        played = await one.play_periods(12)
        assert abs(np.count_nonzero(np.abs(played) > 500) - 7 * 353 * rate / 24_000) <= 2
        assert one.posted(PlayoutProgress)[-1] == PlayoutProgress(0, 7 * 353, True)


@pytest.mark.parametrize("rate", [48_000, 44_100, 16_000])
async def test_captured_audio_of_any_rate_is_posted_in_periods_of_480_frames(rate: int) -> None:
    async with hand(rate=rate) as one:
        await one.hear(*[1000] * 50)
        blocks = [np.frombuffer(event.pcm, "<i2") for event in one.posted(AudioCaptured)]
        assert {len(block) for block in blocks} == {480}
        assert 49 <= len(blocks) <= 50
        assert np.abs(np.concatenate(blocks[1:]).astype(int) - 1000).max() < 60


async def test_answer_longer_than_the_ring_is_played_whole_and_in_order() -> None:
    async with hand() as one:
        answer = np.arange(1, 24_001, dtype="<i2")
        one.audio.play(0, "a", answer.tobytes())
        one.audio.finish(0)
        played = await one.play_periods(60)
        assert [value for value in played if value] == answer.tolist()
        assert one.audio.xruns.playback_underruns == 0


async def test_flush_of_a_full_ring_stops_progress_of_the_old_epoch() -> None:
    async with hand() as one:
        one.audio.play(0, "a", pcm_of(5, 24_000))
        await one.play_periods(5)
        one.audio.flush(1)
        del one.events[:]
        assert not any((await one.play_periods(6))[PERIOD:])
        assert one.posted(PlayoutProgress) == []


async def test_late_loop_counts_as_an_underrun() -> None:
    async with hand(playback_ring_ms=100) as one:
        one.audio.play(0, "a", pcm_of(5, 24_000))
        stream = one.card.playback
        assert stream is not None
        for _ in range(20):
            stream.turn(np.zeros(PERIOD, np.int16))
        assert one.audio.xruns.playback_underruns > 0
        assert one.audio.xruns.answer_gaps == 0


async def test_audio_captured_while_muted_is_not_posted_even_if_the_card_was_still_closing() -> None:
    async with hand() as one:
        await one.hear(1)
        one.audio.close_capture()
        assert one.card.capture is not None
        one.card.capture.turn(np.full(PERIOD, 2, np.int16))
        one.audio.open_capture()
        await one.hear(3)
        assert [event.peak for event in one.posted(AudioCaptured)] == [1, 3]


async def test_lost_loudspeaker_drops_its_audio_and_the_answer_still_ends() -> None:
    async with hand() as one:
        one.audio.play(0, "a", pcm_of(5, 24_000))
        await one.play_periods(3)
        lost = one.card.playback
        assert lost is not None
        lost.is_active = False
        await one.found("playback")
        assert lost.is_closed
        one.audio.finish(0)
        await one.play_periods(60)
        assert one.posted(PlayoutProgress)[-1] == PlayoutProgress(0, 24_000, True)
        assert [event.direction for event in one.posted(CardLost)] == ["playback"]


async def test_volume_is_clamped_to_0_and_100() -> None:
    one = Hand()
    for asked, got in ((-5, 0), (0, 0), (55, 55), (100, 100), (250, 100)):
        one.audio.volume = asked
        assert one.audio.volume == got


async def test_cancelled_run_closes_the_streams_and_the_backend() -> None:
    async with hand() as one:
        streams = (one.card.capture, one.card.playback)
    assert [stream.is_closed for stream in streams if stream is not None] == [True, True]
    assert one.card.is_closed


@settings(max_examples=60)
@given(
    st.sampled_from([24_000, 48_000, 44_100, 16_000]),
    st.integers(0, 80),
    st.lists(
        st.one_of(
            st.tuples(st.just("play"), st.integers(1, 3000)),
            st.tuples(st.just("crank"), st.integers(1, 6)),
            st.sampled_from([("finish", 0), ("flush", 0), ("earcon", 0), ("say", 700), ("loss", 0)]),
        ),
        max_size=25,
    ),
)
def test_heard_frames_add_up_for_any_sequence_of_steps(
    rate: int, prebuffer_ms: int, steps: list[tuple[str, int]]
) -> None:
    one = Hand(rate=rate, prebuffer_ms=prebuffer_ms)
    playback = one.audio._playback
    playback.open(one.card)
    epoch = queued = 0

    def crank(periods: int) -> None:
        for _ in range(periods):
            stream = one.card.playback
            assert stream is not None
            stream.turn(np.zeros(stream.period, np.int16))
            if playback.has_work.is_set():  # else the pump sleeps
                playback.pump()

    for action, amount in [*steps, ("finish", 0), ("crank", 200)]:
        match action:
            case "play":
                one.audio.play(epoch, "a", pcm_of(900, amount))
                queued += amount
            case "crank":
                crank(amount)
            case "finish":
                one.audio.finish(epoch)
            case "flush":
                epoch, queued = epoch + 1, 0
                one.audio.flush(epoch)
                del one.events[:]
            case "earcon":
                one.audio.earcon(epoch, "start")
            case "say":
                one.audio.say(epoch, pcm_of(-900, amount))
            case "loss":
                playback.stream = None
                playback.open(one.card)
        reports = one.posted(PlayoutProgress)
        heard = [report.played_frames for report in reports]
        assert heard == sorted(heard)
        assert all(report.epoch == epoch and report.played_frames <= queued for report in reports)
    if queued:
        assert one.posted(PlayoutProgress)[-1] == PlayoutProgress(epoch, queued, True)
    assert not playback.has_work.is_set(), "no work is left"


@given(st.sampled_from([24_000, 48_000, 16_000]), st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=20))
def test_captured_audio_is_neither_lost_nor_repeated_for_any_stalls(
    rate: int, stretches: list[tuple[bool, int]]
) -> None:
    one = Hand(rate=rate)
    capture = one.audio._capture
    capture.open(one.card)
    stream = one.card.capture
    assert stream is not None
    said = np.zeros(0, np.int16)
    for has_room, periods in [*stretches, (True, 1)]:
        one.has_room = has_room
        for _ in range(periods):
            block = ((np.arange(len(said), len(said) + stream.period) * 3) % 20_011).astype(np.int16)
            stream.turn(block)
            said = np.concatenate([said, block])
            capture.pump()
    heard = np.concatenate([np.frombuffer(event.pcm, "<i2") for event in one.posted(AudioCaptured)] or [said[:0]])
    at_once = Resampler(rate, 24_000).process(said)
    assert len(at_once) - len(heard) < PERIOD
    assert np.abs(heard.astype(int) - at_once[: len(heard)]).max(initial=0) <= 2, "soxr dithers"
    assert one.posted(CaptureOverrun) == []
