"""Sound cards by name: a table, not a plug-in system. A backend is imported when it is opened.

A backend opens streams at the card's own rate; what is above it (`audio.streams`) resamples. Its callbacks run on a
thread of the card's and MUST be total: no lock, log or exception, always exactly the frames that were asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from appliance.audio.ring import Int16
from appliance.errors import SettingsError

__all__ = ["Backend", "Consume", "Fill", "Stream", "open_backend"]

Consume: TypeAlias = Callable[[Int16], None]
"""Takes one captured period, mono, at the stream's rate; the array is valid during the call only."""
Fill: TypeAlias = Callable[[Int16], None]
"""Overwrites one period to be played, mono, at the stream's rate."""


class Stream(Protocol):
    """One running direction of a card."""

    rate: int
    """Frames a second, as the card really runs."""
    period: int
    """Frames of a usual callback."""
    latency: int
    """Frames between a callback and the air, as the card says."""

    @property
    def is_active(self) -> bool:
        """False once the card ended the stream; True does not prove that callbacks come."""

    @property
    def last_callback_at(self) -> float:
        """Monotonic seconds of the last callback; of the opening, before the first."""

    @property
    def xruns(self) -> int:
        """Periods that came late or were lost, as far as the card tells."""

    def close(self) -> None:
        """Stop; harmless when it has stopped."""


class Backend(Protocol):
    """A way to reach sound cards; its methods block and are called off the loop."""

    def open_capture(self, consume: Consume) -> Stream:
        """Start the microphone.

        Raises:
            AudioError: `CardMissing`, `CardBusy`, `RateUnsupported`, or another cause in words.
        """

    def open_playback(self, fill: Fill) -> Stream:
        """Start the loudspeaker; raises as `open_capture`."""

    def reset(self) -> None:
        """Look for cards anew; all streams MUST be closed."""

    def close(self) -> None:
        """Give up all cards."""


def open_backend(name: str, **options: Any) -> Backend:
    """Make the backend of that name; no card is opened yet.

    Args:
        name: "portaudio" or "simulated".
        options: ``capture_card``, ``playback_card``, ``rate``, ``period_ms``.
    """
    if name == "portaudio":
        from appliance.audio.backends.portaudio import PortAudioBackend

        return PortAudioBackend(**options)
    if name == "simulated":
        from appliance.audio.backends.simulated import SimulatedBackend

        return SimulatedBackend(rate=options["rate"], period_ms=options["period_ms"])
    raise SettingsError(f"audio.backend: {name!r} is not a backend; allowed: portaudio, simulated")
