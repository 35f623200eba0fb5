"""The volume: in whole steps by the card's own control where it has one, the rest in software.

Theory of operation. The volume is a level of at most 0 dB. The card's control is set to the lowest step that is not
below it, and samples are scaled by the difference, so software never amplifies. The highest volume of the night is
applied in software only, because alarms may be exempt from it. A card that comes back has a level of its own: its
control is set before the stream starts. A card whose control is missing, fails or takes too long is used as it is, and
all of the volume is software.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from appliance.audio import pcm
from appliance.audio.mixer import Mixer
from appliance.errors import AudioError

__all__ = ["Loudness"]

log = logging.getLogger(__name__)

T = TypeVar("T")


class Loudness:
    """The volume, 0 to 100, and the gain of the samples that makes it; on the loop's thread."""

    def __init__(self, thread: Executor, loudest: Callable[[], int]) -> None:
        """Begin at 100 and without a card's control.

        Args:
            thread: Runs what blocks.
            loudest: Returns the highest volume of capped sound now, 0 to 100.
        """
        self._thread = thread
        self._loudest = loudest
        self._percent = 100
        self._gain = 1.0
        """Linear gain of the volume."""
        self._card_gain = 1.0
        """What the card's control does of it."""
        self._mixer: Mixer | None = None
        self._changed = asyncio.Event()
        self._reason = ""
        """Why the card's control is not used, as it was logged last."""

    @property
    def percent(self) -> int:
        """The volume; never above what `loudest` returns now."""
        return min(self._percent, self._loudest())

    @percent.setter
    def percent(self, percent: int) -> None:
        self._percent = min(max(int(percent), 0), 100)
        if self._mixer is None or self._percent == 0:
            self._gain = pcm.volume_gain(self._percent)
        self._changed.set()

    def factor(self, *, is_capped: bool) -> float:
        """Return the linear gain for samples that are written now, 0 to 1."""
        gain = min(self._gain, pcm.volume_gain(self._loudest())) if is_capped else self._gain
        return min(gain / self._card_gain, 1.0)

    async def begin(self, open_mixer: Callable[[], Mixer | None]) -> None:
        """Find and set the control of a card that is about to be opened.

        Args:
            open_mixer: Returns the control; may block, and raise `AudioError`.
        """
        self._mixer, self._card_gain = None, 1.0
        try:
            self._mixer = await self._blocking(open_mixer)
        except AudioError as exc:
            self._go_without(exc)
        await self._set()
        if self._mixer is not None:
            self._reason = ""

    def end(self) -> None:
        """Leave the control of a card that was closed."""
        self._mixer = None
        self._gain = pcm.volume_gain(self._percent)

    async def run(self) -> None:
        """Set the card's control after each change of the volume, until cancelled."""
        while True:
            await self._changed.wait()
            await self._set()

    async def _set(self) -> None:
        """Set the card's control to the volume, then the gain: what was written before is not heard too loud."""
        self._changed.clear()
        mixer, percent = self._mixer, self._percent
        gain = pcm.volume_gain(percent)
        if mixer is None:
            self._gain = gain
            return
        db = 20 * math.log10(gain) if gain else -math.inf
        try:
            card_db = await self._blocking(lambda: mixer.set_db(db))
        except AudioError as exc:
            if self._mixer is mixer:
                self._go_without(exc)
            return
        if self._mixer is mixer and percent == self._percent:
            self._gain, self._card_gain = gain, 10 ** (card_db / 20)

    def _go_without(self, problem: AudioError) -> None:
        """Use the card as it is, until it is opened again."""
        self.end()
        if str(problem) != self._reason:
            self._reason = str(problem)
            log.info("the volume is set in software: %s", problem)

    async def _blocking(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
