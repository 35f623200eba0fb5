"""How regions report trouble. Pure."""

from __future__ import annotations

from typing import Protocol

from appliance.conversation.commands import Sentence
from appliance.conversation.notices import TroubleKind

__all__ = ["Report", "sentence"]


class Report(Protocol):
    """A function that reports a trouble; see `regions.device.Device.report`."""

    def __call__(self, kind: TroubleKind, now: float, *, detail: str = "", flash: bool = True) -> None: ...


def sentence(kind: TroubleKind) -> Sentence:
    """Return the sentence for a kind of trouble."""
    return Sentence(f"trouble.{kind}")
