"""Arithmetic on samples, resampling, cues."""

from __future__ import annotations

import itertools
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.audio import pcm
from appliance.audio.earcons import earcon
from appliance.audio.resample import Resampler
from appliance.audio.ring import Int16
from appliance.conversation.commands import Earcon


def _sine(hertz: float, rate: int, seconds: float, peak: float = 16_000) -> Int16:
    return np.round(peak * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.int16)


def test_levels_are_in_dbfs() -> None:
    assert pcm.level_db(np.full(480, 32_767, np.int16)) == pytest.approx(0.0, abs=0.01)
    assert pcm.level_db(np.full(480, 3277, np.int16)) == pytest.approx(-20.0, abs=0.01)
    assert pcm.level_db(np.zeros(480, np.int16)) == -96.0
    assert pcm.level_db(np.zeros(0, np.int16)) == -96.0


def test_peak_of_the_lowest_sample_is_positive() -> None:
    assert pcm.peak(np.array([-32_768, 5], np.int16)) == 32_768


def test_gain_clips_instead_of_wrapping() -> None:
    assert pcm.gain(np.array([20_000, -20_000, 100], np.int16), 2.0).tolist() == [32_767, -32_768, 200]


def test_volume_steps_are_even_in_decibels_and_zero_is_silence() -> None:
    gains = [pcm.volume_gain(percent) for percent in range(0, 101, 10)]
    assert gains[0] == 0.0
    assert gains[-1] == 1.0
    steps = [20 * np.log10(b / a) for a, b in itertools.pairwise(gains[1:])]
    assert np.allclose(steps, steps[0])


def test_channels_are_mixed_to_mono_and_mono_is_copied_to_channels() -> None:
    assert pcm.to_mono(np.array([100, 300, -5, 5], np.int16), 2).tolist() == [200, 0]
    assert pcm.spread(np.array([1, 2], np.int16), 2).tolist() == [1, 1, 2, 2]


@pytest.mark.parametrize(("source", "target"), [(24_000, 48_000), (48_000, 24_000), (24_000, 44_100), (16_000, 24_000)])
def test_resampled_chunks_have_no_clicks_and_the_exact_length(source: int, target: int) -> None:
    signal = _sine(440, source, 1.0)
    resampler = Resampler(source, target)
    period = source // 50
    chunks = [resampler.process(signal[start : start + period]) for start in range(0, len(signal), period)]
    out = np.concatenate([*chunks, resampler.finish()])
    assert len(out) == target
    middle = slice(target // 10, -target // 10)
    ideal = _sine(440, target, 1.0).astype(float)[middle]
    # The filter may shift by a fraction of a frame: fit a sine of any phase, and measure the residue.
    at = np.arange(target)[middle]
    basis = np.stack([np.sin(2 * np.pi * 440 * at / target), np.cos(2 * np.pi * 440 * at / target)])
    fit = np.linalg.lstsq(basis.T, out.astype(float)[middle], rcond=None)[0] @ basis
    rest = out.astype(float)[middle] - fit
    snr_db = 10 * np.log10((fit @ fit) / (rest @ rest))
    assert snr_db > 60, f"{snr_db:.0f} dB"
    assert (ideal @ ideal) == pytest.approx(fit @ fit, rel=0.02)


def test_equal_rates_are_not_resampled() -> None:
    signal = _sine(440, 24_000, 0.1)
    resampler = Resampler(24_000, 24_000)
    assert resampler.process(signal) is signal
    assert len(resampler.finish()) == 0


def test_reset_drops_the_signal() -> None:
    resampler = Resampler(24_000, 48_000)
    resampler.process(np.full(480, 20_000, np.int16))
    resampler.reset()
    silence = np.concatenate([resampler.process(np.zeros(480, np.int16)), resampler.finish()])
    assert np.abs(silence).max() <= 1, "soxr dithers"
    assert len(silence) == 960


@pytest.mark.parametrize(("source", "target"), [(24_000, 48_000), (48_000, 24_000), (24_000, 44_100), (44_100, 24_000)])
def test_chunks_of_any_size_give_the_same_signal_as_one_block(source: int, target: int) -> None:
    signal = _sine(440, source, 0.5)
    resampler = Resampler(source, target)
    whole = np.concatenate([resampler.process(signal), resampler.finish()]).astype(int)
    borders = np.cumsum(np.random.default_rng(7).integers(1, 1200, 60))
    chunks = np.split(signal, [border for border in borders if border < len(signal)])
    pieces = np.concatenate([*(resampler.process(chunk) for chunk in chunks), resampler.finish()]).astype(int)
    assert len(pieces) == len(whole)
    assert np.abs(pieces - whole).max() <= 2, "soxr dithers"


@given(st.sampled_from([16_000, 44_100, 48_000]), st.lists(st.integers(0, 700), max_size=12))
def test_length_is_exact_after_finish_and_the_next_signal_starts_fresh(target: int, sizes: list[int]) -> None:
    resampler = Resampler(24_000, target)
    for _ in range(2):
        given_out = sum(len(resampler.process(np.full(size, 900, np.int16))) for size in sizes)
        assert resampler.is_holding == bool(sum(sizes))
        assert given_out + len(resampler.finish()) == round(sum(sizes) * target / 24_000)
        assert not resampler.is_holding


def test_resampler_delays_by_at_most_a_few_milliseconds() -> None:
    resampler = Resampler(24_000, 48_000)
    given_out = sum(len(resampler.process(np.zeros(480, np.int16))) for _ in range(50))
    assert 48_000 - 48_000 * 0.01 <= given_out <= 48_000


def test_loudest_tone_does_not_wrap_when_resampled() -> None:
    signal = _sine(1000, 24_000, 0.2, peak=32_767)
    resampler = Resampler(24_000, 48_000)
    out = np.concatenate([resampler.process(signal), resampler.finish()]).astype(int)
    assert np.abs(np.diff(out)).max() < 6000, "a sample that wraps would jump by 65536"


def test_gain_of_one_returns_the_same_block_and_gain_of_zero_returns_silence() -> None:
    block = _sine(440, 24_000, 0.02)
    assert pcm.gain(block, 1.0) is block
    assert not pcm.gain(block, 0.0).any()


def test_volume_is_clamped_to_its_range() -> None:
    assert pcm.volume_gain(-3) == 0.0
    assert pcm.volume_gain(130) == 1.0
    assert 0.0 < pcm.volume_gain(1) < 0.01


def test_single_channel_is_returned_unchanged() -> None:
    block = np.array([3, 4], np.int16)
    assert pcm.to_mono(block, 1) is block
    assert pcm.spread(block, 1) is block


def test_two_loud_channels_do_not_wrap_when_mixed() -> None:
    assert pcm.to_mono(np.array([32_767, 32_767, -32_768, -32_768], np.int16), 2).tolist() == [32_767, -32_768]


def test_bytes_are_little_endian() -> None:
    assert pcm.from_bytes(b"\x01\x00\xff\xff\x00\x80").tolist() == [1, -1, -32_768]


@pytest.mark.parametrize("name", get_args(Earcon))
def test_cue_has_no_click_and_is_synthesised_once(name: Earcon) -> None:
    samples = np.frombuffer(earcon(name), "<i2").astype(int)
    assert np.abs(np.diff(samples)).max() < 6553 * 2 * np.pi * 1400 / 24_000, "no jump beyond the highest note's slope"
    assert earcon(name) is earcon(name)


@pytest.mark.parametrize("name", get_args(Earcon))
def test_cue_is_short_soft_edged_and_not_loud(name: Earcon) -> None:
    samples = np.frombuffer(earcon(name), "<i2")
    assert 0 < len(samples) <= 0.6 * 24_000
    assert abs(int(samples[0])) < 300
    assert abs(int(samples[-1])) < 300
    assert 3000 < np.abs(samples.astype(int)).max() < 12_000


def test_cues_are_all_different_and_the_start_cue_is_short() -> None:
    names = get_args(Earcon)
    assert len({earcon(name) for name in names}) == len(names)
    assert len(earcon("start")) <= 0.09 * 48_000
