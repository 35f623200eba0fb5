"""Audio backends by name: a table, not a plug-in system. A backend is imported when it is opened.

A backend opens streams at the card's own rate; `audio.streams` resamples. Callbacks run on the card's thread and MUST
be total: no lock, no log, no exception, always exactly the requested frames.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeAlias

from appliance.audio.mixer import Mixer
from appliance.audio.ring import Int16
from appliance.conversation.events import Direction
from appliance.errors import SettingsError

__all__ = ["Backend", "Consume", "Fill", "Presence", "Stream", "open_backend"]

Consume: TypeAlias = Callable[[Int16], None]
"""Takes one captured period, mono, at the stream's rate; the array is valid during the call only."""
Fill: TypeAlias = Callable[[Int16], bool]
"""Overwrites the array with the next period to play, mono, at the stream's rate; returns False for silence."""

Presence: TypeAlias = Literal["listed", "unlisted", "absent"]
"""State of a card: it can be opened; it can be opened after `Backend.reset`; it is not there."""


class Stream(Protocol):
    """One running direction of a card."""

    rate: int
    """Frames per second at which the card really runs."""
    period: int
    """Frames of a usual callback."""
    latency: int
    """Frames between a callback and the air, as the card reports."""

    @property
    def is_active(self) -> bool:
        """False once the card ended the stream; True does not prove that callbacks still run."""

    @property
    def last_callback_at(self) -> float:
        """Monotonic seconds of the last callback; before the first, of the opening."""

    @property
    def xruns(self) -> int:
        """Periods that came late or were lost by the card's own fault, as far as it reports them."""

    @property
    def late_callbacks(self) -> int:
        """Periods that the card reports as lost because this program ran the callback too late."""

    def close(self) -> None:
        """Stop the stream; idempotent."""


class Backend(Protocol):
    """Access to sound cards; its methods block and are called in a thread, never on the loop."""

    def open_capture(self, consume: Consume) -> Stream:
        """Start the microphone.

        Raises:
            AudioError: `CardMissing`, `CardBusy`, `RateUnsupported`, or a plain `AudioError` with the cause.
        """

    def open_playback(self, fill: Fill) -> Stream:
        """Start the loudspeaker; raises as `open_capture`."""

    def open_mixer(self) -> Mixer | None:
        """Return the loudness control of the loudspeaker's card; None if there is nothing to look for.

        Raises:
            AudioError: The card has none that can be used; the text says why.
        """

    def look(self, direction: Direction) -> Presence:
        """Return the state of the card of a direction, without opening it."""

    def reset(self) -> None:
        """Drop the list of cards, so that the next opening lists them again; all streams MUST be closed."""

    def close(self) -> None:
        """Release all cards."""


def open_backend(name: str, **options: Any) -> Backend:
    """Return the backend with this name; no card is opened yet.

    Args:
        name: "portaudio" or "simulated".
        options: ``capture_card``, ``playback_card``, ``rate``, ``period_ms``, ``buffer_ms``, ``mixer_control``.

    Raises:
        SettingsError: No backend has this name.
    """
    if name == "portaudio":
        from appliance.audio.backends.portaudio import PortAudioBackend

        return PortAudioBackend(**options)
    if name == "simulated":
        from appliance.audio.backends.simulated import SimulatedBackend

        return SimulatedBackend(rate=options["rate"], period_ms=options["period_ms"])
    raise SettingsError(f"audio.backend: {name!r} is not a backend; allowed: portaudio, simulated")
