"""The output that is closed after a time without sound: no frame is lost, neither before nor after that time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from appliance.conversation.events import CardFound, CardLost, PlayoutProgress
from tests.support.hand_card import PERIOD, Hand, HandStream, hand, pcm_of

IDLE = {"idle_after_s": 0.01}
RAMP = np.arange(1, 10 * PERIOD + 1, dtype="<i2")


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.001)


async def closed(one: Hand) -> HandStream | None:
    """Wait until the output is closed; return its stream, None if it was idle before the card was opened."""
    await _until(lambda: one.audio._is_output_idle and one.audio._playback.stream is None)
    return one.card.playback


async def heard_after(one: Hand, stream: HandStream | None) -> list[int]:
    """Wait until the output is opened again and filled; return what it plays, without the silence before and after."""
    await _until(lambda: one.card.playback is not stream and one.audio._playback.ring.available > 0)
    return [value for value in await one.play_periods(20) if value]


async def test_output_is_not_closed_before_the_card_has_played_the_last_frame() -> None:
    async with hand(latency=4 * PERIOD, **IDLE) as one:
        before = await closed(one)
        one.audio.play(0, "a", pcm_of(5, PERIOD))
        one.audio.finish(0)
        await _until(lambda: one.card.playback is not before and one.audio._playback.ring.available > 0)
        stream = one.card.playback
        assert stream is not None
        await one.play_periods(4)
        assert not one.audio._playback.ring.available
        await asyncio.sleep(0.05)
        assert not stream.is_closed, "the last period is still inside the card"
        await one.play_periods(1)
        assert one.posted(PlayoutProgress)[-1].drained
        await closed(one)


async def test_output_stays_open_by_default() -> None:
    async with hand() as one:
        stream = one.card.playback
        await asyncio.sleep(0.05)
        assert one.card.playback is stream is not None and not stream.is_closed


async def test_sound_that_ends_before_the_loop_runs_again_does_not_close_an_output_that_stays_open() -> None:
    async with hand() as one:
        stream = one.card.playback
        one.audio.play(0, "a", pcm_of(5, PERIOD))
        await one.play_periods(3)
        await asyncio.sleep(0.05)
        assert one.card.playback is stream is not None and not stream.is_closed


@pytest.mark.parametrize("sound", ["play", "say", "earcon"])
async def test_sound_after_an_idle_time_is_played_from_its_first_frame(sound: str) -> None:
    async with hand(**IDLE) as one:
        stream = await closed(one)
        match sound:
            case "play":
                one.audio.flush(1)
                one.audio.play(1, "a", RAMP.tobytes())
                one.audio.finish(1)
                expected = RAMP.tolist()
            case "say":
                one.audio.say(0, RAMP.tobytes())
                expected = RAMP.tolist()
            case _:
                one.audio.earcon(0, "start")
                expected = [value for *_, block in one.audio._playback._queue for value in block.tolist() if value]
        assert await heard_after(one, stream) == expected
        assert one.posted(CardLost) == [] and one.posted(CardFound) == []
        if sound == "play":
            assert one.posted(PlayoutProgress)[-1] == PlayoutProgress(1, len(RAMP), True)
        await closed(one)


async def test_sound_that_comes_while_the_output_is_closing_is_played_whole() -> None:
    async with hand(idle_after_s=0.3) as one:
        stream, loop = one.card.playback, asyncio.get_running_loop()
        assert stream is not None

        async def play() -> None:
            one.audio.play(0, "a", RAMP.tobytes())
            one.audio.finish(0)

        def close() -> None:  # on the thread of the cards
            if not stream.is_closed:
                stream.is_closed = True
                asyncio.run_coroutine_threadsafe(play(), loop).result()

        hooked: Any = stream
        hooked.close = close
        assert await heard_after(one, stream) == RAMP.tolist()


async def test_card_that_left_during_an_idle_time_is_reported_at_the_next_sound_and_waited_for() -> None:
    async with hand(**IDLE) as one:
        stream = await closed(one)
        one.card.missing.add("playback")
        one.audio.play(0, "a", RAMP.tobytes())
        one.audio.finish(0)
        await _until(lambda: one.posted(CardLost) != [])
        one.audio.flush(1)
        await asyncio.sleep(0.05)
        one.card.missing.clear()
        await one.found("playback")
        assert one.posted(CardFound) == [CardFound("playback")]
        assert one.card.playback is not stream
