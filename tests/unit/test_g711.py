"""G.711: the tables compared with the formulas of the standard, and streams cut into chunks of any size."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.audio.g711 import Law, NarrowbandDecoder, NarrowbandEncoder

LAWS = get_args(Law)
SIZES = st.lists(st.integers(0, 400), max_size=30)


def expanded(law: str, code: int) -> int:
    """Return the level of a code, by ITU-T G.711, tables 1a to 2b; 13 (A-law) or 14 bits (µ-law) shifted to 16."""
    if law == "audio/pcmu":
        code = ~code & 0xFF
        magnitude = (((2 * (code & 0x0F) + 33) << (code >> 4 & 7)) - 33) << 2
        return -magnitude if code & 0x80 else magnitude
    code ^= 0x55
    segment, step = code >> 4 & 7, 2 * (code & 0x0F) + 1
    magnitude = (step if segment == 0 else (step + 32) << (segment - 1)) << 3
    return magnitude if code & 0x80 else -magnitude


def samples(pcm: bytes) -> list[int]:
    return np.frombuffer(pcm, "<i2").tolist()


def noise(frames: int) -> bytes:
    return np.random.default_rng(7).integers(-32768, 32768, frames).astype("<i2").tobytes()


def pieces(whole: bytes, sizes: list[int], unit: int) -> list[bytes]:
    found, at = [], 0
    for size in sizes:
        found.append(whole[at : at + size * unit])
        at += size * unit
    return [*found, whole[at:]]


# The tables


@pytest.mark.parametrize("law", LAWS)
def test_all_256_codes_decode_to_the_level_of_the_standard(law: Law) -> None:
    decoder = NarrowbandDecoder(law)
    pcm = samples(decoder.decode(bytes(range(256))))
    assert pcm[2::3] == [expanded(law, code) for code in range(256)]


@pytest.mark.parametrize(
    ("law", "levels"),
    [
        ("audio/pcmu", {0xFF: 0, 0x7F: 0, 0x80: 32124, 0x00: -32124, 0xF0: 120, 0x9F: 8316, 0xA0: 7932}),
        ("audio/pcma", {0xD5: 8, 0x55: -8, 0xAA: 32256, 0x2A: -32256, 0xC5: 264}),
    ],
)
def test_known_codes_decode_to_known_levels(law: Law, levels: dict[int, int]) -> None:
    assert {code: samples(NarrowbandDecoder(law).decode(bytes([code])))[-1] for code in levels} == levels


@pytest.mark.parametrize("law", LAWS)
def test_all_65536_samples_encode_to_the_nearest_level(law: Law, monkeypatch: pytest.MonkeyPatch) -> None:
    """The low-pass is replaced by the identity, so each code depends on one sample."""
    monkeypatch.setattr("appliance.audio.g711._low_pass", lambda: np.eye(25)[12])
    every = np.arange(-32768, 32768)
    codes = NarrowbandEncoder(law).encode(np.repeat(every, 3).astype("<i2").tobytes() + bytes(24))
    levels = np.array([expanded(law, code) for code in range(256)])
    distance = np.abs(levels[np.frombuffer(codes, np.uint8)] - every)
    ordered = np.unique(levels)
    right = np.searchsorted(ordered, every).clip(1, len(ordered) - 1)
    assert len(codes) == 65536
    assert (distance == np.minimum(np.abs(ordered[right] - every), np.abs(every - ordered[right - 1]))).all()
    assert codes[32768] == (0xFF if law == "audio/pcmu" else 0xD5)  # zero is positive
    assert codes[32767] == (0xFF if law == "audio/pcmu" else 0x55)


@pytest.mark.parametrize("law", LAWS)
def test_every_steady_level_survives_a_round_trip(law: Law) -> None:
    for code in range(256):
        pcm = NarrowbandDecoder(law).decode(bytes([code]) * 60)
        back = NarrowbandEncoder(law).encode(pcm)[-1]
        assert expanded(law, back) == expanded(law, code)


# The streams


@given(st.sampled_from(LAWS), SIZES)
def test_decoding_does_not_depend_on_the_chunk_sizes(law: Law, sizes: list[int]) -> None:
    whole = noise(1500)
    decoder = NarrowbandDecoder(law)
    assert b"".join(map(decoder.decode, pieces(whole, sizes, 1))) == NarrowbandDecoder(law).decode(whole)


@given(st.sampled_from(LAWS), SIZES)
def test_encoding_does_not_depend_on_the_chunk_sizes(law: Law, sizes: list[int]) -> None:
    whole = noise(5000)
    cut, once = NarrowbandEncoder(law), NarrowbandEncoder(law)
    joined = b"".join(map(cut.encode, pieces(whole, sizes, 2)))
    assert joined + cut.flush() == once.encode(whole) + once.flush()


def test_decoder_adds_no_delay_and_ramps_from_the_last_sample() -> None:
    decoder = NarrowbandDecoder("audio/pcma")
    assert samples(decoder.decode(b"\xaa")) == [10752, 21504, 32256]
    assert decoder.decode(b"") == b""
    assert samples(decoder.decode(b"\x2a")) == [10752, -10752, -32256]


@pytest.mark.parametrize("frames", [0, 1, 2, 3, 4, 100, 480, 24_000])
def test_encoder_returns_one_code_per_started_step_after_flush(frames: int) -> None:
    encoder = NarrowbandEncoder("audio/pcmu")
    early = encoder.encode(noise(frames))
    assert len(early) == max(0, -(-(frames - 12) // 3))  # delayed by half the filter, 0.5 ms
    assert len(early + encoder.flush()) == -(-frames // 3)


@pytest.mark.parametrize("law", LAWS)
def test_flushed_encoder_starts_anew(law: Law) -> None:
    used, fresh = NarrowbandEncoder(law), NarrowbandEncoder(law)
    used.encode(noise(100))
    used.flush()
    assert used.flush() == b""
    assert used.encode(noise(480)) + used.flush() == fresh.encode(noise(480)) + fresh.flush()


def test_tone_survives_a_round_trip_in_time_and_an_aliasing_tone_is_removed() -> None:
    def through(hertz: float) -> np.ndarray[Any, Any]:
        wave = np.rint(12_000 * np.sin(2 * np.pi * hertz * np.arange(24_000) / 24_000)).astype("<i2")
        encoder = NarrowbandEncoder("audio/pcmu")
        back = NarrowbandDecoder("audio/pcmu").decode(encoder.encode(wave.tobytes()) + encoder.flush())
        return np.stack([wave, np.frombuffer(back, "<i2")]).astype(float)

    wave, back = through(440)
    delay = int(np.argmax([np.dot(back[at : at + 20_000], wave[:20_000]) for at in range(27)]))
    assert delay == 2  # the decoder's ramp ends two frames after the encoder took the sample
    assert np.std(back[2:] - wave[:-2]) < 0.02 * np.std(wave)
    _, alias = through(5_500)
    assert np.std(alias) < 0.03 * 12_000
