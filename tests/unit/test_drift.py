"""Two clocks: an answer at the pace of speech, played by a card that runs a little faster or slower. Virtual time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.audio.drift import Drift, stretched
from appliance.audio.loudness import Loudness
from appliance.audio.playback import PlaybackPump
from appliance.audio.prebuffer import Prebuffer
from appliance.audio.ring import Int16
from appliance.conversation.events import Event, PlayoutProgress
from tests.support.hand_card import PERIOD, HandCard

RATE = 24_000
HZ, LOUD = 440, 10_000
BEND = LOUD * (2 * np.pi * HZ / RATE) ** 2
"""The largest second difference of the tone."""


def tone(start: int, frames: int) -> Int16:
    at = np.arange(start, start + frames, dtype=np.float64)
    return np.rint(LOUD * np.sin(2 * np.pi * HZ / RATE * at)).astype(np.int16)


STEP, TURN = 8, 8 * 32_000


def steps(start: int, frames: int) -> Int16:
    """Return a staircase whose samples tell their position, to `STEP` frames and a multiple of `TURN`."""
    return (np.arange(start, start + frames) // STEP % 32_000).astype(np.int16)


@dataclass
class Line:
    """A server that sends sound at its own pace, the pump, and a card; one step is one period of the card."""

    prebuffer_ms: int = 60
    rate: int = RATE
    make: Callable[[int, int], Int16] = tone
    events: list[Event] = field(default_factory=list)
    sent: int = 0
    bend: float = 0.0
    """The largest second difference that was played since the tone began."""
    depths: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.card = HandCard(rate=self.rate)
        loudness = Loudness(ThreadPoolExecutor(1), lambda: 100)
        self.pump = PlaybackPump(300, Prebuffer(self.prebuffer_ms, 600), loudness, self.events.append)
        self.pump.open(self.card)
        self._last = np.zeros(2, np.int16)
        self._has_begun = False

    def send(self, frames: int) -> None:
        self.pump.queue(0, self.make(self.sent, frames), is_answer=True)
        self.sent += frames

    def step(self) -> Int16:
        """Play one period."""
        assert self.card.playback is not None
        block = self.card.playback.turn(np.zeros(self.card.playback.period, np.int16))
        if self._has_begun:
            joined = np.concatenate([self._last, block]).astype(np.int32)
            self.bend = max(self.bend, float(np.abs(np.diff(joined, 2)).max()))
        self._has_begun |= bool(block.any())
        self._last = block[-2:].copy()
        self.pump.pump()
        self.depths.append(self.sent - self.heard)
        return block

    @property
    def heard(self) -> int:
        reports = [one for one in self.events[-1:] if isinstance(one, PlayoutProgress)]
        return reports[-1].played_frames if reports else 0


def paced(line: Line, ppm: float, seconds: float, *, jitter: bool = False) -> Iterator[Int16]:
    """Send at the pace of the card plus `ppm`, in chunks of 20 ms, and yield what is played."""
    random = np.random.default_rng(1)
    begun, late = line.sent, 0
    for period in range(1, int(seconds * 50) + 1):
        if jitter and late == 0 and random.random() < 0.02:
            late = int(random.integers(1, 3))
        owed = begun + int(period * PERIOD * (1 + ppm / 1e6))
        if late:
            late -= 1
        else:
            while line.sent + PERIOD <= owed:
                line.send(PERIOD)
        yield line.step()
        del line.events[:-1]


def run(line: Line, ppm: float, seconds: float, *, jitter: bool = False) -> None:
    for _ in paced(line, ppm, seconds, jitter=jitter):
        pass


@pytest.mark.parametrize("ppm", [100, -100])
def test_an_hour_at_100_ppm_has_no_xrun_and_no_click_and_keeps_its_delay(ppm: int) -> None:
    line = Line()
    run(line, ppm, 3600)
    assert (line.pump.underruns, line.pump.gaps) == (0, 0)
    assert line.bend < 1.1 * BEND
    settled = line.depths[50:]
    assert max(settled) - min(settled) < RATE // 20, "50 ms: without a correction it is 360"
    assert -line.pump._drift.inserted == pytest.approx(3600 * RATE * ppm / 1e6, rel=0.15)


@pytest.mark.parametrize("ppm", [500, -500])
def test_heard_frames_are_those_of_the_server_to_within_a_period(ppm: int) -> None:
    line = Line(make=steps)
    begun = 0  # a period is heard after the latency of one more
    for block in paced(line, ppm, 120):
        away = (line.heard - begun) % TURN
        assert min(away, TURN - away) <= STEP + 2
        begun = int(block[-1]) * STEP
    assert line.pump._drift.inserted * ppm < 0
    assert abs(line.pump._drift.inserted) > PERIOD
    line.pump.finish(0)
    for _ in range(50):
        line.step()
    last = line.events[-1]
    assert last == PlayoutProgress(0, line.sent, True), "all frames of the server, neither more nor fewer"


@pytest.mark.parametrize("rate", [44_100, 48_000])
@pytest.mark.parametrize("ppm", [300, -300])
def test_drift_is_corrected_at_the_rate_of_the_card(rate: int, ppm: int) -> None:
    line = Line(rate=rate)
    run(line, ppm, 300)
    assert line.pump.gaps == 0
    settled = line.depths[60 * 50 :]  # the resampler holds 20 ms: the depth is raised first
    assert max(settled) - min(settled) < RATE // 15, "67 ms"


@pytest.mark.parametrize("times", [1.05, 1.5, 4.0])
def test_server_that_is_faster_than_speech_is_played_bit_for_bit(times: float) -> None:
    line = Line()
    played = []
    for period in range(1, 30 * 50):
        while line.sent + PERIOD <= period * PERIOD * times:
            line.send(PERIOD)
        played.append(line.step())
    line.pump.finish(0)
    while line.pump.has_work.is_set():
        played.append(line.step())
    assert np.array_equal(np.trim_zeros(np.concatenate(played)), np.trim_zeros(tone(0, line.sent)))


def test_server_that_stays_ahead_at_the_pace_of_speech_keeps_its_lead() -> None:
    line = Line()
    line.send(20 * RATE)
    run(line, 0, 60)
    before = line.depths[-1]
    line.send(5 * RATE)
    run(line, 0, 60)
    assert line.depths[-1] == before + 5 * RATE
    assert line.pump._drift.inserted == 0


@pytest.mark.parametrize("jitter", [False, True])
def test_equal_clocks_need_no_correction(jitter: bool) -> None:
    line = Line(prebuffer_ms=160)
    run(line, 0, 300, jitter=jitter)
    assert (line.pump.gaps, line.pump._drift.inserted) == (0, 0)


def test_drift_is_corrected_while_packets_come_late() -> None:
    line = Line(prebuffer_ms=120)
    run(line, -200, 900, jitter=True)
    assert line.pump.gaps == 0
    assert line.pump._drift.inserted > 2000, "4,320 frames is all of it"


def test_correction_ends_with_the_answer() -> None:
    line = Line()
    run(line, -300, 120)
    assert line.pump._drift.inserted > 0
    line.pump.flush(1)
    line.step()
    before = line.pump._drift.inserted
    block = tone(0, 30 * RATE)
    line.pump.queue(1, block, is_answer=True)
    line.pump.finish(1)
    played = [line.step() for _ in range(31 * 50)]
    assert line.pump._drift.inserted == before
    assert np.array_equal(np.trim_zeros(np.concatenate(played)), np.trim_zeros(block))


@given(st.lists(st.integers(-32_768, 32_767), min_size=3, max_size=480), st.sampled_from([-1, 0, 1]))
def test_stretched_block_keeps_its_ends_and_its_range(values: list[int], step: int) -> None:
    block = np.array(values, np.int16)
    out = stretched(block, len(block) + step)
    assert (len(out), out.dtype) == (len(block) + step, np.int16)
    assert (out[0], out[-1]) == (block[0], block[-1])
    assert block.min() <= out.min()
    assert out.max() <= block.max()


def test_correction_is_at_most_a_thousandth() -> None:
    drift, frames = Drift(), 0
    for depth in (5000, *range(5000, 2600, -400), 2650):
        for _ in range(500):
            drift.look(depth, PERIOD)
    for _ in range(1000):
        frames += len(drift.steer(tone(0, PERIOD)))
    assert 0 < frames - 1000 * PERIOD <= PERIOD
