"""Token counts of a ``usage`` object, and their sum over a session. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from appliance.records import Record

__all__ = ["SessionUsage", "token_counts"]


class SessionUsage(Record, frozen=True, kw_only=True):
    """The tokens and the cost of a session: its responses and transcriptions."""

    requests: int = 0
    """Responses of the model, those to questions outside the conversation too."""
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    input_text_tokens: int = 0
    input_audio_tokens: int = 0
    input_image_tokens: int = 0
    input_cached_tokens: int = 0
    """Part of the input tokens."""
    output_text_tokens: int = 0
    output_audio_tokens: int = 0
    usd: float | None = 0.0
    """US dollars; None if the price of a part is unknown."""

    def plus(self, usage: Mapping[str, Any], usd: float | None, *, requests: int) -> SessionUsage:
        """Return the sum with one ``usage`` object.

        Args:
            usage: Of a response or a transcription.
            usd: US dollars; None for an unknown price.
            requests: How many responses it is of.
        """
        counts = token_counts(usage)
        tokens = {
            name: getattr(self, name) + counts[name] for name in self.__struct_fields__ if name.endswith("tokens")
        }
        total_usd = None if self.usd is None or usd is None else self.usd + usd
        return SessionUsage(requests=self.requests + requests, usd=total_usd, **tokens)


def token_counts(usage: Mapping[str, Any], prefix: str = "") -> Counter[str]:
    """Flatten a ``usage`` object: ``input_token_details.audio_tokens`` becomes "input_audio_tokens"."""
    counts: Counter[str] = Counter()
    for key, value in usage.items():
        if isinstance(value, Mapping):
            counts.update(
                token_counts(value, prefix + key.removesuffix("token_details").removesuffix("tokens_details"))
            )
        elif isinstance(value, int) and not isinstance(value, bool):
            counts[f"{prefix}{key}"] += value
    return counts
