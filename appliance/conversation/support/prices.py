"""What a response and a transcription cost in US dollars: a dated table and two formulas. Pure.

The prices are those of the Realtime API's price list of `PRICES_OF`; they change, and a price that is not in the table
gives no estimate (None), never a guess. ``usage.input_tokens`` includes the cached ones, so the cost of a response is,
over the modalities m (text, audio, image)::

    Σ (tokens_m - cached_m) * input_m + cached_m * cached_price_m + output_tokens_m * output_m

Where a server counts tokens without saying of which modality, they are counted at the dearest price that they can
have: an estimate may then be too high, never too low, for the day's budget hangs on it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeAlias, TypeGuard, TypeVar

from appliance.errors import SettingsError

T = TypeVar("T")

__all__ = [
    "PRICES",
    "PRICES_OF",
    "MinutePrice",
    "ModelPrices",
    "PriceTable",
    "TokenPrice",
]

PRICES_OF = "2026-11-20"
"""The day of the price list that the table was copied from, ISO."""

_MILLION = 1_000_000
_MODALITIES = ("text", "audio", "image")
_MOST = 10**12  # tokens or seconds in one usage object: more is no count, and must not overflow a float
_SNAPSHOT = re.compile(r"(?P<model>.+)-\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """US dollars for a million tokens."""

    input: float
    cached: float
    """For a token of the input that the server still had in its cache."""
    output: float | None
    """None: there is no such output, so no price either."""


@dataclass(frozen=True, slots=True)
class MinutePrice:
    """US dollars for a minute of audio."""

    per_minute: float


ModelPrices: TypeAlias = Mapping[str, TokenPrice]
"""By modality: text, audio, image."""

_GPT_REALTIME_2: ModelPrices = {
    "text": TokenPrice(4.00, 0.40, 24.00),
    "audio": TokenPrice(32.00, 0.40, 64.00),
    "image": TokenPrice(5.00, 0.50, None),
}
_GPT_REALTIME_MINI: ModelPrices = {
    "text": TokenPrice(0.60, 0.06, 2.40),
    "audio": TokenPrice(10.00, 0.30, 20.00),
    "image": TokenPrice(0.80, 0.08, None),
}
_GPT_REALTIME: ModelPrices = {
    "text": TokenPrice(4.00, 0.40, 16.00),
    "audio": TokenPrice(32.00, 0.40, 64.00),
    "image": TokenPrice(5.00, 0.50, None),
}

_RESPONSES: Mapping[str, ModelPrices] = {
    "gpt-realtime-2.1": _GPT_REALTIME_2,
    "gpt-realtime-2": _GPT_REALTIME_2,
    "gpt-realtime-2.1-mini": _GPT_REALTIME_MINI,
    "gpt-realtime-mini": _GPT_REALTIME_MINI,
    "gpt-realtime-1.5": _GPT_REALTIME,
    "gpt-realtime": _GPT_REALTIME,
}
_TRANSCRIPTIONS: Mapping[str, MinutePrice | TokenPrice] = {
    "gpt-live-transcribe": MinutePrice(0.017),
    "gpt-realtime-whisper": MinutePrice(0.017),
    "gpt-transcribe": MinutePrice(0.0045),
    "gpt-4o-transcribe": TokenPrice(2.50, 2.50, 10.00),  # nothing is cached: one price for all input
    "gpt-4o-mini-transcribe": TokenPrice(1.25, 1.25, 5.00),
}


@dataclass(frozen=True, slots=True)
class PriceTable:
    """Prices by model; `PRICES` is the one that comes with the appliance.

    A model is found by its exact id, else as a dated snapshot of one: ``gpt-realtime-2.1-2026-10-01`` costs what
    ``gpt-realtime-2.1`` does unless it has a row of its own.
    """

    of: str = PRICES_OF
    """The day of the price list, ISO."""
    responses: Mapping[str, ModelPrices] = field(default_factory=lambda: MappingProxyType(_RESPONSES), repr=False)
    transcriptions: Mapping[str, MinutePrice | TokenPrice] = field(
        default_factory=lambda: MappingProxyType(_TRANSCRIPTIONS), repr=False
    )

    def response_usd(self, model: str, usage: Mapping[str, Any] | None) -> float | None:
        """Return the price of one response in US dollars.

        Args:
            model: Id of the model that answered.
            usage: The ``usage`` object of ``response.done``; None (nothing was generated) costs nothing.

        Returns:
            None where the price is not known: the model is not in the table, the tokens are of a modality without a
            price, or the object does not count both the input and the output.
        """
        prices = _find(self.responses, model)
        if prices is None:
            return None
        if usage is None:
            return 0.0
        input_usd, output_usd = _input_usd(prices, usage), _output_usd(prices, usage)
        return None if input_usd is None or output_usd is None else input_usd + output_usd

    def transcription_usd(self, model: str, usage: Mapping[str, Any] | None) -> float | None:
        """Return the price of one transcription of what the user said, in US dollars.

        Args:
            model: Id of the model that wrote it down.
            usage: The ``usage`` object of ``conversation.item.input_audio_transcription.completed``, of type
                ``tokens`` or ``duration``; None costs nothing.

        Returns:
            None where the price is not known: the model is not in the table, or is not priced by what was counted.
        """
        price = _find(self.transcriptions, model)
        if price is None:
            return None
        if usage is None:
            return 0.0
        if isinstance(price, MinutePrice):
            seconds = _count(usage, "seconds")
            return None if seconds is None else seconds / 60 * price.per_minute
        tokens_in, tokens_out = _count(usage, "input_tokens"), _count(usage, "output_tokens")
        if tokens_in is None or tokens_out is None or price.output is None:
            return None
        return (tokens_in * price.input + tokens_out * price.output) / _MILLION

    def with_prices(self, prices: Mapping[str, Any]) -> PriceTable:
        """Return a table in which the rows of `prices` replace those of the same model, or are added.

        Args:
            prices: By model, one of three forms, in US dollars: ``{"text": {"input": 4, "cached": 0.4, "output": 24},
                "audio": {…}}`` for a million tokens of a response, by modality; ``{"per_minute": 0.0045}`` or
                ``{"input": 2.5, "output": 10}`` for a transcription. Without ``cached``, cached tokens cost what
                others do; without ``output``, there is no price for it.

        Raises:
            SettingsError: A row has none of these forms, or a price is no number from 0.
        """
        responses, transcriptions = dict(self.responses), dict(self.transcriptions)
        for model, row in prices.items():
            place = f"price of {model!r}"
            if not isinstance(row, Mapping) or not row:
                raise SettingsError(
                    f"{place}: {row!r} is no table; give text and audio, per_minute, or input and output"
                )
            if set(row) <= set(_MODALITIES):
                responses[model] = MappingProxyType({key: _token_price(f"{place}, {key}", row[key]) for key in row})
            elif "per_minute" in row:
                _refuse_unknown(place, row, ("per_minute",))
                transcriptions[model] = MinutePrice(_price(f"{place}, per_minute", row["per_minute"]))
            else:
                transcriptions[model] = _token_price(place, row)
        return replace(self, responses=MappingProxyType(responses), transcriptions=MappingProxyType(transcriptions))


PRICES = PriceTable()
"""The table that comes with the appliance."""


def _find(rows: Mapping[str, T], model: str) -> T | None:
    row = rows.get(model)
    dated = _SNAPSHOT.fullmatch(model) if row is None else None
    return rows.get(dated["model"]) if dated else row


def _input_usd(prices: ModelPrices, usage: Mapping[str, Any]) -> float | None:
    details = _object(usage, "input_token_details")
    tokens = _by_modality(details, _count(usage, "input_tokens"))
    if tokens is None:
        return None
    cached = _by_modality(_object(details, "cached_tokens_details")) or {}
    if not cached and len(tokens) == 1 and "" not in tokens:  # it can only be these that were cached
        cached = dict.fromkeys(tokens, _count(details, "cached_tokens") or 0)
    dearest = max(prices.values(), key=lambda price: price.input, default=None)
    usd = 0.0
    for modality, count in tokens.items():
        price = prices.get(modality) if modality else dearest
        if price is None:
            return None
        from_cache = min(cached.get(modality, 0), count)
        usd += ((count - from_cache) * price.input + from_cache * price.cached) / _MILLION
    return usd


def _output_usd(prices: ModelPrices, usage: Mapping[str, Any]) -> float | None:
    tokens = _by_modality(_object(usage, "output_token_details"), _count(usage, "output_tokens"))
    if tokens is None:
        return None
    known = {modality: price.output for modality, price in prices.items() if price.output is not None}
    if known:
        known[""] = max(known.values())
    if not set(tokens) <= set(known):
        return None
    return sum(count * known[modality] for modality, count in tokens.items()) / _MILLION


def _by_modality(details: Mapping[str, Any], total: float | None = None) -> dict[str, float] | None:
    """The tokens of each modality that has some; under "" what of the total is of no named one. None: no counts."""
    counts = {modality: _count(details, f"{modality}_tokens") for modality in _MODALITIES}
    named = {modality: count for modality, count in counts.items() if count is not None}
    if total is None and not named:
        return None
    named[""] = max(0, (total or 0) - sum(named.values()))
    return {modality: count for modality, count in named.items() if count}


def _object(node: Any, key: str) -> Mapping[str, Any]:
    value = node.get(key) if isinstance(node, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def _count(node: Any, key: str) -> float | None:
    """A count of a usage object; None where there is none, or something that is no count."""
    value = node.get(key) if isinstance(node, Mapping) else None
    return value if _is_number(value) else None


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= _MOST


def _token_price(place: str, row: Any) -> TokenPrice:
    if not isinstance(row, Mapping) or "input" not in row:
        raise SettingsError(f"{place}: {row!r} has no input price; give input, cached and output per million tokens")
    _refuse_unknown(place, row, ("input", "cached", "output"))
    full = _price(f"{place}, input", row["input"])
    return TokenPrice(
        full,
        _price(f"{place}, cached", row.get("cached", full)),
        _price(f"{place}, output", row["output"]) if row.get("output") is not None else None,
    )


def _price(place: str, value: Any) -> float:
    if _is_number(value):
        return float(value)
    raise SettingsError(f"{place}: {value!r} is no price; give US dollars as a number from 0")


def _refuse_unknown(place: str, row: Mapping[str, Any], known: tuple[str, ...]) -> None:
    unknown = sorted(str(key) for key in row if key not in known)
    if unknown:
        raise SettingsError(f"{place}: unknown key {', '.join(unknown)}; allowed are {', '.join(known)}")
