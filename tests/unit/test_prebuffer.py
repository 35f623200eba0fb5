"""The pre-buffer grows with pauses of the network within answers, and shrinks after answers without one."""

from __future__ import annotations

import pytest

from appliance.audio.prebuffer import Prebuffer
from appliance.conversation.events import PlayoutProgress
from tests.support.hand_card import PERIOD, Hand, hand, pcm_of


def answer(prebuffer: Prebuffer, pauses: int = 0) -> int:
    for _ in range(pauses):
        prebuffer.answer_paused()
    prebuffer.answer_ended()
    return prebuffer.ms


def test_each_pause_doubles_it_up_to_the_most() -> None:
    prebuffer = Prebuffer(60, 600)
    assert [answer(prebuffer, 1) for _ in range(5)] == [150, 300, 600, 600, 600]


def test_three_quiet_answers_in_a_row_halve_it_down_to_the_least() -> None:
    prebuffer = Prebuffer(60, 600)
    answer(prebuffer, 3)
    assert [answer(prebuffer) for _ in range(12)] == [600, 600, 300, 300, 300, 150, 150, 150, 60, 60, 60, 60]


def test_a_pause_restarts_the_count_of_quiet_answers() -> None:
    prebuffer = Prebuffer(60, 300)
    assert [answer(prebuffer, pauses) for pauses in (2, 0, 0, 1, 0, 0)] == [300] * 6
    assert answer(prebuffer) == 150


@pytest.mark.parametrize(("least", "most"), [(60, 0), (200, 200), (1000, 600)])
def test_without_room_to_grow_it_stays(least: int, most: int) -> None:
    prebuffer = Prebuffer(least, most)
    assert {answer(prebuffer, pauses) for pauses in (0, 3, 0, 0, 0, 0)} == {least}


async def waits(one: Hand, epoch: int) -> int:
    """Play an answer that arrives in chunks of 20 ms, faster than it plays; return the chunks until its first sound."""
    one.audio.flush(epoch)
    await one.play_periods(1)  # the callback that fades out
    chunks = 0
    for chunk in range(1, 41):
        one.audio.play(epoch, "a", pcm_of(5, PERIOD))
        if not chunks and one.audio._playback.ring.available:
            chunks = chunk
    one.audio.finish(epoch)
    await one.play_periods(45)
    return chunks


async def paused_answer(one: Hand, epoch: int) -> None:
    one.audio.flush(epoch)
    one.audio.play(epoch, "a", pcm_of(5, 10 * PERIOD))
    await one.play_periods(14)
    one.audio.play(epoch, "a", pcm_of(5, 10 * PERIOD))
    one.audio.finish(epoch)
    await one.play_periods(14)
    assert one.posted(PlayoutProgress)[-1] == PlayoutProgress(epoch, 20 * PERIOD, True)


async def test_answer_that_paused_makes_the_next_ones_wait_longer_and_quiet_answers_make_them_start_sooner() -> None:
    async with hand(prebuffer_ms=60, max_prebuffer_ms=300) as one:
        assert await waits(one, 1) == 3
        await paused_answer(one, 2)
        assert [await waits(one, epoch) for epoch in (3, 4, 5, 6)] == [8, 8, 8, 3]
        assert one.audio.xruns.causes == {"network": 1, "program": 0, "card": 0}


async def test_audio_that_arrives_at_the_pace_of_the_card_is_not_held_back_again_after_the_prebuffer() -> None:
    async with hand(prebuffer_ms=60) as one:
        played: list[int] = []
        for _ in range(30):
            one.audio.play(0, "a", pcm_of(5, PERIOD))
            played += await one.play_periods(1)
        assert [one for one in played if one] == played[2 * PERIOD :], "silence only before the first sound"
        assert one.audio.xruns.answer_gaps == 0


async def test_answer_whose_end_is_reported_late_has_no_gap() -> None:
    async with hand(max_prebuffer_ms=600) as one:
        one.audio.play(0, "a", pcm_of(5, PERIOD))
        await one.play_periods(5)
        one.audio.finish(0)
        await one.play_periods(1)
        assert one.audio.xruns.answer_gaps == 0


async def test_pause_is_followed_by_the_longer_prebuffer_and_not_by_single_chunks() -> None:
    async with hand(prebuffer_ms=20, max_prebuffer_ms=600) as one:
        one.audio.play(0, "a", pcm_of(5, PERIOD))
        await one.play_periods(4)
        played: list[int] = []
        for _ in range(20):
            one.audio.play(0, "a", pcm_of(6, PERIOD))
            played += await one.play_periods(1)
        assert played.index(6) == 7 * PERIOD, "150 ms are eight chunks"
        assert set(played[7 * PERIOD :]) == {6}
        assert one.audio.xruns.answer_gaps == 1
