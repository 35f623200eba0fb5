"""Tests of the prices of responses and transcriptions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.conversation.support.prices import PRICES, PRICES_OF
from appliance.errors import SettingsError

# Recorded from the live service: input 132 = text 59 + audio 73 (64 of it cached), output 188 = text 41 + audio 147.
RECORDED = {
    "total_tokens": 320,
    "input_tokens": 132,
    "output_tokens": 188,
    "input_token_details": {
        "text_tokens": 59,
        "audio_tokens": 73,
        "image_tokens": 0,
        "cached_tokens": 64,
        "cached_tokens_details": {"text_tokens": 0, "audio_tokens": 64, "image_tokens": 0},
    },
    "output_token_details": {"text_tokens": 41, "audio_tokens": 147},
}


def usage(
    text: int = 0,
    audio: int = 0,
    image: int = 0,
    *,
    cached: Mapping[str, int] | None = None,
    out_text: int = 0,
    out_audio: int = 0,
) -> dict[str, Any]:
    cached = cached or {}
    return {
        "total_tokens": text + audio + image + out_text + out_audio,
        "input_tokens": text + audio + image,
        "output_tokens": out_text + out_audio,
        "input_token_details": {
            "text_tokens": text,
            "audio_tokens": audio,
            "image_tokens": image,
            "cached_tokens": sum(cached.values()),
            "cached_tokens_details": {f"{modality}_tokens": count for modality, count in cached.items()},
        },
        "output_token_details": {"text_tokens": out_text, "audio_tokens": out_audio},
    }


def test_the_recorded_example_matches_the_manual_calculation() -> None:
    # gpt-realtime-2.1, in millionths of a dollar:
    #   input text    59      *  4.00 =   236.0
    #   input audio  (73-64)  * 32.00 =   288.0
    #   cached audio  64      *  0.40 =    25.6
    #   output text   41      * 24.00 =   984.0
    #   output audio 147      * 64.00 = 9,408.0
    #                                  10,941.6
    assert PRICES.response_usd("gpt-realtime-2.1", RECORDED) == pytest.approx(0.0109416, abs=1e-12)


def test_the_recorded_example_matches_on_the_mini_and_the_older_model() -> None:
    # mini: 59*0.60 + 9*10 + 64*0.30 + 41*2.40 + 147*20 = 35.4 + 90 + 19.2 + 98.4 + 2,940 = 3,183.0
    assert PRICES.response_usd("gpt-realtime-2.1-mini", RECORDED) == pytest.approx(0.0031830, abs=1e-12)
    # gpt-realtime differs in the output text only: 41*16 = 656 instead of 984: 10,941.6 - 328 = 10,613.6
    assert PRICES.response_usd("gpt-realtime", RECORDED) == pytest.approx(0.0106136, abs=1e-12)


@pytest.mark.parametrize(
    ("model", "text", "audio", "image"),
    [
        ("gpt-realtime-2.1", (4, 0.40, 24), (32, 0.40, 64), (5, 0.50)),
        ("gpt-realtime-2", (4, 0.40, 24), (32, 0.40, 64), (5, 0.50)),
        ("gpt-realtime-2.1-mini", (0.60, 0.06, 2.40), (10, 0.30, 20), (0.80, 0.08)),
        ("gpt-realtime-mini", (0.60, 0.06, 2.40), (10, 0.30, 20), (0.80, 0.08)),
        ("gpt-realtime", (4, 0.40, 16), (32, 0.40, 64), (5, 0.50)),
        ("gpt-realtime-1.5", (4, 0.40, 16), (32, 0.40, 64), (5, 0.50)),
    ],
)
def test_a_million_tokens_of_each_kind_cost_their_list_price(
    model: str, text: tuple[float, ...], audio: tuple[float, ...], image: tuple[float, ...]
) -> None:
    million = 1_000_000
    assert [
        PRICES.response_usd(model, one)
        for one in (
            usage(text=million),
            usage(text=million, cached={"text": million}),
            usage(out_text=million),
            usage(audio=million),
            usage(audio=million, cached={"audio": million}),
            usage(out_audio=million),
            usage(image=million),
            usage(image=million, cached={"image": million}),
        )
    ] == pytest.approx([*text, *audio, *image])


def test_cached_tokens_reduce_the_tokens_of_their_own_modality() -> None:
    whole = PRICES.response_usd("gpt-realtime-2.1", usage(1000, 1000))
    of_text = PRICES.response_usd("gpt-realtime-2.1", usage(1000, 1000, cached={"text": 500}))
    of_audio = PRICES.response_usd("gpt-realtime-2.1", usage(1000, 1000, cached={"audio": 500}))
    assert whole is not None
    assert of_text is not None
    assert of_audio is not None
    assert whole - of_text == pytest.approx(500 * (4 - 0.40) / 1e6)
    assert whole - of_audio == pytest.approx(500 * (32 - 0.40) / 1e6)


def test_more_cached_tokens_than_input_tokens_give_no_credit() -> None:
    assert PRICES.response_usd("gpt-realtime-2.1", usage(100, cached={"text": 900, "audio": 900})) == pytest.approx(
        40e-6
    )


def test_cached_tokens_without_a_modality_belong_to_the_only_modality_present() -> None:
    one = usage(1000)
    one["input_token_details"].update(cached_tokens=400, cached_tokens_details=None)
    assert PRICES.response_usd("gpt-realtime-2.1", one) == pytest.approx((600 * 4 + 400 * 0.40) / 1e6)


def test_cached_tokens_without_a_modality_cost_the_full_price_if_there_are_two_modalities() -> None:
    one = usage(1000, 1000)
    one["input_token_details"].update(cached_tokens=400, cached_tokens_details=None)
    assert PRICES.response_usd("gpt-realtime-2.1", one) == PRICES.response_usd("gpt-realtime-2.1", usage(1000, 1000))


def test_tokens_without_a_modality_cost_the_highest_price() -> None:
    assert PRICES.response_usd("gpt-realtime-2.1", {"input_tokens": 10, "output_tokens": 5}) == pytest.approx(
        (10 * 32 + 5 * 64) / 1e6
    )
    all_cached = {"input_tokens": 10, "output_tokens": 0, "input_token_details": {"cached_tokens": 10}}
    assert PRICES.response_usd("gpt-realtime-2.1", all_cached) == pytest.approx(320e-6)
    # 100 in total, 60 of them text: 40 have no modality.
    one = usage(60) | {"input_tokens": 100}
    assert PRICES.response_usd("gpt-realtime-2.1", one) == pytest.approx((60 * 4 + 40 * 32) / 1e6)


def test_the_details_are_used_if_the_totals_are_missing() -> None:
    one = {key: value for key, value in RECORDED.items() if key.endswith("details")}
    assert PRICES.response_usd("gpt-realtime-2.1", one) == PRICES.response_usd("gpt-realtime-2.1", RECORDED)


@pytest.mark.parametrize("model", ["gpt-realtime-2.1-2026-10-01", "gpt-realtime-2.1"])
def test_a_dated_snapshot_has_the_price_of_its_model(model: str) -> None:
    assert PRICES.response_usd(model, RECORDED) == pytest.approx(0.0109416)


@pytest.mark.parametrize(
    "model",
    [
        "",
        "gpt-realtime-3",
        "gpt-realtime-2.1-preview",
        "gpt-realtime-2.1-2026",
        "gpt-realtime-2.1-2026-10-01-x",
        "my-gpt-realtime-2.1",
        "GPT-realtime-2.1",
        "gpt-transcribe",
        "gpt-live-1",
    ],
)
def test_a_model_that_is_not_in_the_table_has_no_price(model: str) -> None:
    assert PRICES.response_usd(model, RECORDED) is None
    assert PRICES.response_usd(model, None) is None


def test_a_response_without_usage_costs_nothing() -> None:
    assert PRICES.response_usd("gpt-realtime-2.1", None) == 0.0
    assert PRICES.response_usd("gpt-realtime-2.1", usage()) == 0.0
    assert PRICES.transcription_usd("gpt-transcribe", None) == 0.0


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"total_tokens": 320},
        {"input_tokens": 132},
        {"input_tokens": None, "output_tokens": None},
        {"input_tokens": "132", "output_tokens": "188"},
        {"input_tokens": -1, "output_tokens": 5},
        {"input_tokens": True, "output_tokens": 5},
        {"input_tokens": float("nan"), "output_tokens": 5},
        {"input_tokens": 10**400, "output_tokens": 5},
        {"input_token_details": "many", "output_token_details": [1, 2]},
        {"type": "duration", "seconds": 3.2},
        "320 tokens",
        [320],
    ],
)
def test_a_usage_object_without_valid_input_and_output_counts_has_no_price(odd: Any) -> None:
    assert PRICES.response_usd("gpt-realtime-2.1", odd) is None


def test_null_details_are_treated_as_missing() -> None:
    nulls = {"text_tokens": None, "audio_tokens": None, "cached_tokens": None, "cached_tokens_details": None}
    one = {"input_tokens": 10, "output_tokens": 0, "input_token_details": nulls, "output_token_details": None}
    assert PRICES.response_usd("gpt-realtime-2.1", one) == pytest.approx(320e-6)


def test_output_of_a_modality_without_a_price_has_no_price() -> None:
    one = usage(10)
    one["output_token_details"]["image_tokens"] = 7
    assert PRICES.response_usd("gpt-realtime-2.1", one) is None


anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*RECORDED, *RECORDED["input_token_details"], "seconds", "type", "x"]),  # type: ignore[misc]
            inner,
        )
    ),
)


@given(anything)
def test_no_usage_object_raises_or_has_a_negative_price(odd: Any) -> None:
    for cost in (
        PRICES.response_usd("gpt-realtime-2.1", odd),
        PRICES.transcription_usd("gpt-transcribe", odd),
        PRICES.transcription_usd("gpt-4o-transcribe", odd),
    ):
        assert cost is None or cost >= 0.0


# Transcriptions


@pytest.mark.parametrize(
    ("model", "usd"),
    [("gpt-live-transcribe", 0.017), ("gpt-realtime-whisper", 0.017), ("gpt-transcribe", 0.0045)],
)
def test_a_minute_of_transcription_costs_its_list_price(model: str, usd: float) -> None:
    assert PRICES.transcription_usd(model, {"type": "duration", "seconds": 60.0}) == pytest.approx(usd)
    assert PRICES.transcription_usd(f"{model}-2026-10-01", {"type": "duration", "seconds": 30}) == pytest.approx(
        usd / 2
    )


@pytest.mark.parametrize(("model", "usd"), [("gpt-4o-transcribe", 12.5), ("gpt-4o-mini-transcribe", 6.25)])
def test_a_million_input_and_output_tokens_of_transcription_cost_their_list_price(model: str, usd: float) -> None:
    one = {"type": "tokens", "input_tokens": 1_000_000, "output_tokens": 1_000_000, "total_tokens": 2_000_000}
    assert PRICES.transcription_usd(model, one) == pytest.approx(usd)


@pytest.mark.parametrize(
    ("model", "odd"),
    [
        ("gpt-transcribe", {"type": "tokens", "input_tokens": 5, "output_tokens": 5, "total_tokens": 10}),
        ("gpt-transcribe", {"type": "duration", "seconds": "3.2"}),
        ("gpt-transcribe", {}),
        ("gpt-4o-transcribe", {"type": "duration", "seconds": 3.2}),
        ("gpt-4o-transcribe", {"type": "tokens", "input_tokens": 5, "output_tokens": None}),
        ("gpt-4o-transcribe", []),
        ("whisper-1", {"type": "duration", "seconds": 3.2}),
        ("gpt-realtime-2.1", {"type": "duration", "seconds": 3.2}),
    ],
)
def test_a_transcription_counted_in_another_unit_than_its_price_has_no_price(model: str, odd: Any) -> None:
    assert PRICES.transcription_usd(model, odd) is None


# The table


def test_the_table_names_its_date() -> None:
    assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", PRICES_OF)
    assert PRICES.of == PRICES_OF
    assert repr(PRICES) == f"PriceTable(of='{PRICES_OF}')"


def test_custom_prices_replace_and_add_rows_without_changing_the_table() -> None:
    own = PRICES.with_prices(
        {
            "gpt-realtime-2.1": {"text": {"input": 1, "output": 2}, "audio": {"input": 3, "cached": 0.5, "output": 4}},
            "ours": {"text": {"input": 8, "output": 9}},
            "gpt-transcribe": {"per_minute": 0.6},
            "our-writer": {"input": 1, "output": 3},
        }
    )
    # text 59*1 + audio 9*3 + 64*0.5 + out 41*2 + 147*4 = 59 + 27 + 32 + 82 + 588 = 788
    assert own.response_usd("gpt-realtime-2.1-2026-10-01", RECORDED) == pytest.approx(788e-6)
    assert own.response_usd("ours", usage(100, cached={"text": 50}, out_text=10)) == pytest.approx(890e-6)
    assert own.response_usd("ours", usage(100, 1)) is None  # the row has no price for audio
    assert own.response_usd("gpt-realtime-2", RECORDED) == pytest.approx(0.0109416)
    assert own.transcription_usd("gpt-transcribe", {"seconds": 30}) == pytest.approx(0.3)
    assert own.transcription_usd("our-writer", {"input_tokens": 2, "output_tokens": 2}) == pytest.approx(8e-6)
    assert PRICES.response_usd("gpt-realtime-2.1", RECORDED) == pytest.approx(0.0109416)


def test_a_row_for_a_snapshot_takes_precedence_over_that_of_its_model() -> None:
    own = PRICES.with_prices({"gpt-realtime-2.1-2026-10-01": {"text": {"input": 0, "output": 0}}})
    assert own.response_usd("gpt-realtime-2.1-2026-10-01", usage(100, out_text=100)) == 0.0
    assert own.response_usd("gpt-realtime-2.1-2026-11-01", usage(100, out_text=100)) == pytest.approx(0.0028)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (5, "price of 'm': 5 is no table; give text and audio, per_minute, or input and output"),
        ({}, "price of 'm': {} is no table"),
        ({"text": 5}, "price of 'm', text: 5 has no input price"),
        ({"text": {"output": 5}}, "price of 'm', text: {'output': 5} has no input price"),
        ({"text": {"input": "4 dollars"}}, "price of 'm', text, input: '4 dollars' is no price; give US dollars"),
        ({"text": {"input": -4}}, "price of 'm', text, input: -4 is no price"),
        ({"text": {"input": True}}, "price of 'm', text, input: True is no price"),
        (
            {"text": {"input": 4, "cache": 1}},
            "price of 'm', text: unknown key cache; allowed are input, cached, output",
        ),
        ({"text": {"input": 4}, "video": {"input": 4}}, "has no input price"),
        ({"per_minute": 1, "input": 2}, "price of 'm': unknown key input; allowed are per_minute"),
        ({"per_hour": 1}, "price of 'm': {'per_hour': 1} has no input price"),
    ],
)
def test_an_invalid_row_is_refused_by_name(row: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(said)):
        PRICES.with_prices({"m": row})
