"""The simulated card on its real threads; tests compare counts and contents, not times."""

from __future__ import annotations

import threading
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from appliance.audio.backends import open_backend
from appliance.audio.backends.simulated import Loudspeaker, Microphone, SimulatedBackend
from appliance.audio.ring import Int16
from appliance.errors import CardMissing, SettingsError, StorageError

RATE = 24_000
PERIOD = 48  # 2 ms: many periods in a short time


@pytest.fixture
def card() -> SimulatedBackend:
    return SimulatedBackend(rate=RATE, period_ms=2)


class Ear:
    """Records periods; `wait` returns once there are enough."""

    def __init__(self, periods: int) -> None:
        self.blocks: list[Int16] = []
        self.threads: set[str] = set()
        self._wanted = periods
        self._has_enough = threading.Event()

    def __call__(self, block: Int16) -> None:
        self.blocks.append(block.copy())
        self.threads.add(threading.current_thread().name)
        if len(self.blocks) >= self._wanted:
            self._has_enough.set()

    def wait(self) -> Int16:
        assert self._has_enough.wait(20)
        return np.concatenate(self.blocks)


@contextmanager
def heard(card: SimulatedBackend, periods: int) -> Iterator[Ear]:
    ear = Ear(periods)
    stream = card.open_capture(ear)
    try:
        yield ear
    finally:
        stream.close()


def until(holds: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(4000):
        if holds():
            return
        pause.wait(0.005)
    raise AssertionError("the condition never became true")


def ramp(frames: int) -> Int16:
    return (np.arange(frames) % 20_000 + 1000).astype(np.int16)


def test_speech_is_heard_bit_for_bit_followed_by_the_quiet_room(card: SimulatedBackend) -> None:
    speech = ramp(10 * PERIOD + 7)
    card.microphone.say(speech.tobytes())
    with heard(card, 14) as ear:
        sound = ear.wait()
    assert sound[: len(speech)].tolist() == speech.tolist()
    assert 0 < np.abs(sound[len(speech) :]).max() < 10
    assert card.microphone.is_quiet
    assert ear.threads == {"simulated microphone"}
    assert {len(block) for block in ear.blocks} == {PERIOD}


def test_two_utterances_follow_each_other_without_a_gap() -> None:
    microphone = Microphone(RATE)
    microphone.say(np.full(30, 500, np.int16).tobytes())
    microphone.say(np.full(30, 700, np.int16).tobytes())
    assert not microphone.is_quiet
    assert microphone.hear(PERIOD).tolist() == [500] * 30 + [700] * 18
    assert microphone.hear(PERIOD).tolist()[:12] == [700] * 12


def test_speech_keeps_its_length_at_another_rate() -> None:
    microphone = Microphone(48_000)
    microphone.say(np.full(480, 5000, np.int16).tobytes())
    assert np.count_nonzero(microphone.hear(2000) > 2500) == pytest.approx(960, abs=2)


def test_quiet_room_is_not_digital_silence_but_a_dead_microphone_is(card: SimulatedBackend) -> None:
    with heard(card, 3) as ear:
        assert ear.wait().any()
        assert np.abs(ear.wait()).max() < 10
    card.microphone.is_dead = True
    card.microphone.say(ramp(PERIOD).tobytes())
    with heard(card, 3) as ear:
        assert not ear.wait().any()


def test_quiet_room_lasts_longer_than_its_noise_buffer() -> None:
    microphone = Microphone(RATE)
    assert all(microphone.hear(PERIOD).any() for _ in range(3 * RATE // PERIOD))


def test_played_audio_is_recorded_bit_for_bit_from_its_first_sound(card: SimulatedBackend) -> None:
    answer = ramp(12 * PERIOD)
    turns = iter(np.split(answer, 12))
    filled: list[int] = []

    def fill(block: Int16) -> bool:
        filled.append(len(block))
        block[:] = 0 if len(filled) <= 3 else next(turns, np.zeros(PERIOD, np.int16))
        return True

    stream = card.open_playback(fill)
    until(lambda: len(filled) >= 18)
    stream.close()
    assert set(filled) == {PERIOD}
    assert card.loudspeaker.recorded().tolist() == answer.tolist()
    assert card.loudspeaker.has_sounded
    assert card.loudspeaker.frames == (len(filled) - 3) * PERIOD
    times = [at for at, _ in card.loudspeaker.periods]
    assert times == sorted(times)
    card.loudspeaker.clear()
    assert not card.loudspeaker.has_sounded
    assert len(card.loudspeaker.recorded()) == 0


def test_closed_stream_makes_no_more_callbacks_and_can_be_closed_again(card: SimulatedBackend) -> None:
    ear = Ear(1)
    stream = card.open_capture(ear)
    ear.wait()
    assert stream.is_active
    stream.close()
    stream.close()
    assert not stream.is_active
    count = len(ear.blocks)
    threading.Event().wait(0.01)
    assert len(ear.blocks) == count


def test_unplugged_card_ends_its_stream_and_is_missing_until_it_returns(card: SimulatedBackend) -> None:
    capture, playback = card.open_capture(Ear(1)), card.open_playback(lambda block: False)
    card.microphone.is_plugged = card.loudspeaker.is_plugged = False
    until(lambda: not capture.is_active and not playback.is_active)
    capture.close()
    playback.close()
    with pytest.raises(CardMissing, match="capture"):
        card.open_capture(Ear(1))
    with pytest.raises(CardMissing, match="playback"):
        card.open_playback(lambda block: False)
    card.microphone.is_plugged = True
    card.reset()
    with heard(card, 2) as ear:
        ear.wait()


def test_stalled_card_stays_active_but_makes_no_callbacks(card: SimulatedBackend) -> None:
    ear = Ear(2)
    stream = card.open_capture(ear)
    ear.wait()
    card.microphone.is_stalled = True
    threading.Event().wait(0.01)  # a callback that is already running may still end
    before, count = stream.last_callback_at, len(ear.blocks)
    threading.Event().wait(0.02)
    assert (stream.last_callback_at, len(ear.blocks)) == (before, count)
    assert stream.is_active
    stream.close()


def test_late_callback_is_counted_as_an_xrun(card: SimulatedBackend) -> None:
    is_first = True
    ear = Ear(5)

    def slow(block: Int16) -> None:
        nonlocal is_first
        if is_first:
            is_first = False
            threading.Event().wait(0.02)
        ear(block)

    stream = card.open_capture(slow)
    ear.wait()
    stream.close()
    assert stream.late_callbacks >= 1


def test_only_the_last_minutes_are_kept() -> None:
    loudspeaker = Loudspeaker(100)
    for value in range(1, 301):
        loudspeaker.take(float(value), np.full(100, value, np.int16))
    assert loudspeaker.frames == 180 * 100
    assert loudspeaker.recorded()[0] == 121
    assert loudspeaker.recorded()[-1] == 300


def test_silence_after_the_first_sound_is_kept_once() -> None:
    """Catches 17 MB of zeros in a simulated device that once played a cue; and the card's buffer being kept."""
    loudspeaker, block = Loudspeaker(100), np.full(100, 7, np.int16)
    loudspeaker.take(0.0, block)
    block[:] = 0
    for at in range(1, 4):
        loudspeaker.take(float(at), block)
    block[:] = 8
    periods = [samples for _, samples in loudspeaker.periods]
    assert [samples.tolist() for samples in periods] == [[7] * 100, *[[0] * 100] * 3]
    assert len({id(samples) for samples in periods[1:]}) == 1


def test_quiet_room_is_noise_of_both_signs_and_not_digital_silence() -> None:
    """Catches a microphone that is taken for a dead one, and a constant."""
    block = Microphone(RATE).hear(RATE // 2)
    assert (block.min(), block.max()) == (-6, 6)
    assert abs(block.mean()) < 0.5


def test_recording_is_saved_as_a_wav_file(tmp_path: Path) -> None:
    loudspeaker = Loudspeaker(RATE)
    loudspeaker.take(1.0, ramp(PERIOD))
    loudspeaker.save(tmp_path / "said.wav")
    with wave.open(str(tmp_path / "said.wav"), "rb") as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
        assert file.readframes(1000) == ramp(PERIOD).astype("<i2").tobytes()


def test_error_names_the_recording_that_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"said\.wav"):
        Loudspeaker(RATE).save(tmp_path / "no folder" / "said.wav")


def test_backend_is_found_by_name_and_unknown_names_are_refused() -> None:
    assert isinstance(open_backend("simulated", rate=RATE, period_ms=20), SimulatedBackend)
    with pytest.raises(SettingsError, match="portaudio, simulated"):
        open_backend("alsa", rate=RATE, period_ms=20)
