"""What of the microphone is posted, over a card whose callbacks the test calls: raw at rest, the pre-roll at the press.

The old path, which the property test compares with, resampled and posted every period, and the conversation kept the
newest of them as the pre-roll.
"""

from __future__ import annotations

import asyncio
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.audio.resample import Resampler
from appliance.audio.ring import Int16
from appliance.conversation.events import AudioCaptured, CaptureOverrun
from tests.support.hand_card import PERIOD, Hand, hand

PRE_ROLL = 15 * PERIOD  # of 300 ms
PERIOD_S = 0.02


class Scene:
    """A capture pump without tasks, at rest; `turn` is one period of time."""

    def __init__(self, *, rate: int = 24_000, pre_roll_s: float = 0.3, max_turn_s: float = 60.0) -> None:
        self.hand = Hand(rate=rate, pre_roll_s=pre_roll_s, max_turn_s=max_turn_s)
        self.hand.audio.listen(None)
        self.pump = self.hand.audio._capture
        self.pump.open(self.hand.card)
        self.noise = np.random.default_rng(7)
        self.said = np.zeros(0, np.int16)
        """All that the microphone heard, at its rate."""

    @property
    def now(self) -> float:
        return self.hand.card.now

    def turn(self, periods: int, *, pumps: bool = True, loudest: int = 8000) -> None:
        stream = self.hand.card.capture
        assert stream is not None
        for _ in range(periods):
            block = self.noise.integers(-loudest, loudest + 1, stream.period).astype(np.int16)
            self.said = np.concatenate([self.said, block])
            self.hand.card.now += PERIOD_S
            stream.turn(block)
            if pumps:
                self.pump.pump()

    def take(self) -> Int16:
        """Return the posted samples, and forget them."""
        events = self.hand.posted(AudioCaptured)
        self.hand.events.clear()
        return np.concatenate([np.frombuffer(event.pcm, "<i2") for event in events] or [np.zeros(0, "<i2")])


def test_nothing_is_posted_and_nothing_is_lost_while_nobody_listens() -> None:
    """Catches a pump that posts periods at rest, and one that lets the ring run full."""
    scene = Scene()
    scene.turn(1000)
    assert scene.hand.events == []
    assert scene.pump.overruns == scene.pump.ring.overruns == 0
    assert scene.pump.ring.capacity <= 4 * 24_000, "two seconds and the pre-roll, not the longest turn"


def test_press_posts_the_pre_roll_as_one_event_with_the_samples_of_the_ring_and_then_periods() -> None:
    """Catches a pre-roll of another length, another place in the ring, or several events."""
    scene = Scene()
    scene.turn(200)
    scene.pump.listen(scene.now)
    (pre_roll,) = scene.hand.events
    assert isinstance(pre_roll, AudioCaptured)
    assert pre_roll.pcm == scene.said[-PRE_ROLL:].tobytes(), "at once, without a wait for the next period"
    assert pre_roll.pre_roll == PRE_ROLL
    assert pre_roll.peak == np.abs(scene.said[-PRE_ROLL:].astype(int)).max()
    scene.turn(1)
    assert scene.hand.posted(AudioCaptured)[1].pcm == scene.said[-PERIOD:].tobytes()
    assert scene.hand.posted(AudioCaptured)[1].pre_roll == 0


@pytest.mark.parametrize("stood_still", [1, 10, 90])
def test_press_that_is_handled_late_loses_no_sound_from_before_it_and_tells_what_came_after_it(
    stood_still: int,
) -> None:
    """Catches a pre-roll that is counted back from the moment of handling instead of the edge."""
    scene = Scene()
    scene.turn(200)
    edge = scene.now
    scene.turn(stood_still, pumps=False)
    scene.pump.listen(edge)
    (event,) = scene.hand.posted(AudioCaptured)
    assert event.pre_roll == PRE_ROLL
    assert event.pcm == scene.said[-PRE_ROLL - stood_still * PERIOD :].tobytes()


def test_second_press_within_100_ms_does_not_post_the_pre_roll_twice() -> None:
    """Catches a ring whose posted part is read again, and a gap between the two."""
    scene = Scene()
    scene.turn(200)
    scene.pump.listen(scene.now)
    scene.turn(10)
    scene.pump.listen(None)
    scene.turn(4)
    scene.pump.listen(scene.now)
    (first, *periods, second) = scene.hand.posted(AudioCaptured)
    assert len(periods) == 10
    assert len(second.pcm) == 2 * 4 * PERIOD
    assert second.pre_roll == 4 * PERIOD
    posted = b"".join(event.pcm for event in (first, *periods, second))
    assert posted == scene.said[-len(posted) // 2 :].tobytes()


def test_without_a_pre_roll_only_the_sound_since_the_press_is_posted() -> None:
    """Catches a rest that is posted although no pre-roll is wanted."""
    scene = Scene(pre_roll_s=0.0)
    scene.turn(50)
    edge = scene.now
    scene.turn(2, pumps=False)
    scene.pump.listen(edge)
    (event,) = scene.hand.posted(AudioCaptured)
    assert (len(event.pcm) // 2, event.pre_roll) == (2 * PERIOD, 0)


def test_listener_without_a_press_gets_no_earlier_sound() -> None:
    """Catches a pre-roll on the wire when a server begins to detect the turns."""
    scene = Scene()
    scene.turn(200)
    scene.pump.listen(inf)
    assert scene.hand.events == []
    scene.turn(2)
    assert scene.take().tolist() == scene.said[-2 * PERIOD :].tolist()


def test_stalled_network_lets_the_longest_turn_wait_and_its_overrun_is_reported_with_the_lost_frames() -> None:
    """Catches a deque without a bound, one that drops the oldest periods, and a wrong count."""
    scene = Scene(max_turn_s=5.0)
    scene.pump.listen(inf)
    scene.hand.has_room = False
    scene.turn(250)
    assert scene.hand.events == []
    scene.turn(3)
    assert [one.frames for one in scene.hand.posted(CaptureOverrun)] == [PERIOD] * 3
    assert scene.hand.audio.xruns.capture_overruns == 3 * PERIOD
    scene.hand.has_room = True
    scene.turn(1)
    posted = scene.take()
    assert posted[: 250 * PERIOD].tolist() == scene.said[: 250 * PERIOD].tolist()
    assert posted[250 * PERIOD :].tolist() == scene.said[-PERIOD:].tolist()


def test_loop_that_stood_still_longer_than_the_ring_holds_is_reported_with_the_lost_frames() -> None:
    """Catches an overrun of the ring that nobody tells."""
    scene = Scene()
    scene.pump.listen(inf)
    room = scene.pump.ring.capacity // PERIOD
    scene.turn(room + 4, pumps=False)
    scene.pump.pump()
    assert [one.frames for one in scene.hand.posted(CaptureOverrun)] == [4 * PERIOD]
    assert scene.take().tolist() == scene.said[: room * PERIOD].tolist()


def test_sound_that_waited_for_the_network_is_not_posted_to_the_next_listener() -> None:
    """Catches sound of a discarded turn at the start of the next one."""
    scene = Scene()
    scene.pump.listen(inf)
    scene.hand.has_room = False
    scene.turn(100)
    scene.pump.listen(None)
    scene.hand.has_room = True
    scene.turn(50)
    scene.pump.listen(scene.now)
    scene.turn(1)
    assert scene.take().tolist() == scene.said[-PRE_ROLL - PERIOD :].tolist()


def test_resampler_gives_nothing_from_before_a_mute() -> None:
    """Catches a resampler that is not reset: it holds some milliseconds back."""
    scene = Scene(rate=48_000)
    scene.pump.listen(inf)
    scene.turn(20)
    scene.pump.skip()
    scene.take()
    scene.turn(5, loudest=0)
    assert np.abs(scene.take()).max() <= 2, "soxr dithers"


async def test_microphone_that_was_muted_starts_with_an_empty_ring() -> None:
    """Catches a pre-roll from before or during the mute."""
    async with hand() as one:
        one.audio.listen(None)
        await one.hear(*[5] * 20)
        muted = one.card.capture
        assert muted is not None
        one.audio.close_capture()
        muted.turn(np.full(PERIOD, 6, np.int16))
        while not muted.is_closed:
            await asyncio.sleep(0)
        one.audio.open_capture()
        while one.card.capture is muted:
            await asyncio.sleep(0)
        while one.audio._capture.stream is not one.card.capture:
            await asyncio.sleep(0)
        one.audio.listen(one.card.now)
        assert one.posted(AudioCaptured) == []
        await one.hear(7)
        assert [event.peak for event in one.posted(AudioCaptured)] == [7]


async def test_press_wakes_the_pump_and_its_end_lets_it_rest() -> None:
    """Catches a pump that sleeps through the press, and one that turns at rest for every period."""
    async with hand() as one:
        turns = []
        pump = one.audio._capture.pump
        one.audio._capture.pump = lambda: (turns.append(one.card.now), pump())[1]  # type: ignore[method-assign]
        one.audio.listen(None)
        await asyncio.sleep(0.1)
        turns.clear()
        await asyncio.sleep(0)
        assert turns == []
        one.audio.listen(one.card.now)
        for _ in range(5):
            await asyncio.sleep(0)
        assert turns != []


def test_level_of_the_microphone_is_read_from_the_ring() -> None:
    """Catches a meter that needs posted events."""
    scene = Scene()
    assert (scene.hand.audio.microphone_db, scene.hand.audio.is_hearing) == (-96.0, False)
    scene.turn(3)
    assert -20.0 < scene.hand.audio.microphone_db < -10.0
    assert scene.hand.audio.is_hearing
    assert scene.hand.events == []


class OldPath:
    """The path before: always resampled, posted in periods, and kept as the pre-roll by the conversation."""

    def __init__(self, rate: int) -> None:
        self._resampler = Resampler(rate, 24_000)
        self.frames = 0
        self.taken = 0
        """All before this was posted to a listener, or is."""

    def hear(self, block: Int16) -> None:
        self.frames += len(self._resampler.process(block))

    @property
    def posted(self) -> int:
        return self.frames // PERIOD * PERIOD

    def begin(self) -> int:
        """Return where the sound of a listener begins."""
        return max(self.taken, self.posted - PRE_ROLL)


def _place(samples: Int16, whole: Int16, about: int) -> int:
    """Return where `samples` begins in `whole`, at most two periods from `about`."""
    places = [at for at in range(max(0, about - 2 * PERIOD), about + 2 * PERIOD + 1) if at + len(samples) <= len(whole)]
    errors = [np.abs(samples[:PERIOD].astype(int) - whole[at : at + PERIOD]).max(initial=0) for at in places]
    return places[int(np.argmin(errors))]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([16_000, 24_000, 44_100, 48_000]),
    st.lists(st.tuples(st.integers(0, 60), st.floats(0.0, 0.019), st.integers(1, 40)), min_size=1, max_size=6),
)
def test_listeners_get_the_samples_of_the_old_path(rate: int, presses: list[tuple[int, float, int]]) -> None:
    """For each press: `rest` periods of rest, a press within a period, and `held` periods until the end.

    Catches every wrong sample, gap and repetition, and a pre-roll of another length. soxr dithers its 16-bit output, by
    2 at most; the start of a new resampler differs by more, but lies before the pre-roll and is dropped. soxr gives its
    output in batches, which depend on where it started: so the ends may differ by a batch and by a period.
    """
    scene, old = Scene(rate=rate), OldPath(rate)
    listened = []
    for rest, within, held in presses:
        before = len(scene.said)
        scene.turn(rest)
        old.hear(scene.said[before:])
        begin = old.begin()
        scene.pump.listen(scene.now + within)
        scene.turn(held)
        old.hear(scene.said[before + rest * rate // 50 :])
        scene.pump.listen(None)
        old.taken = old.posted
        listened.append((begin, old.posted, scene.take()))
    scene.turn(5)  # so that soxr gives out the end of the last one
    whole = Resampler(rate, 24_000).process(scene.said)
    tolerance, slack = (0, PERIOD) if rate == 24_000 else (2, 2 * PERIOD)
    end = 0
    for begin, old_end, samples in listened:
        if len(samples) < PERIOD:
            assert old_end - begin <= slack
            continue
        at = _place(samples, whole, begin)
        assert np.abs(samples.astype(int) - whole[at : at + len(samples)]).max() <= tolerance
        assert at >= end, "no sample twice"
        assert abs(at - begin) <= slack
        end = at + len(samples)
        assert abs(end - old_end) <= slack
