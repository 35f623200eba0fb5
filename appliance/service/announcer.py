"""The device's own voice: sentences that are not the model's ("I hear nothing from the microphone").

It must work when nothing else does, so the voice is local and its sentences are kept: each is synthesised once.
Without a voice the earcon that the command names sounds instead. Nobody is left in silence.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from appliance.conversation.commands import Announce, Earcon
from appliance.errors import SpeechError

__all__ = ["LocalAnnouncer", "Voice"]

log = logging.getLogger(__name__)

_KEPT = 64  # sentences; there are some twenty, plus the labels of timers


class Voice(Protocol):
    """Text to speech, local."""

    async def synthesize(self, text: str) -> bytes:
        """Return PCM16 mono at 24 kHz, or raise SpeechError."""


class _Speaker(Protocol):
    def say(self, epoch: int, pcm: bytes) -> None: ...
    def earcon(self, epoch: int, name: Earcon) -> None: ...


class LocalAnnouncer:
    """Turns ``Announce`` into sound, one sentence at a time, in order."""

    def __init__(self, speaker: _Speaker, voice: Voice | None) -> None:
        self._speaker = speaker
        self._voice = voice
        self._queue: asyncio.Queue[Announce] = asyncio.Queue()
        self._kept: dict[str, bytes] = {}

    def announce(self, command: Announce) -> None:
        """Queue a sentence; on the loop's thread."""
        self._queue.put_nowait(command)

    async def run(self) -> None:
        """Speak until cancelled."""
        while True:
            command = await self._queue.get()
            try:
                self._speaker.say(command.epoch, await self._spoken(command.text))
            except SpeechError as exc:
                log.info("no local voice (%s): the earcon %r stands for: %s", exc, command.fallback, command.text)
                self._speaker.earcon(command.epoch, command.fallback)

    async def _spoken(self, text: str) -> bytes:
        if text in self._kept:
            return self._kept[text]
        if self._voice is None:
            raise SpeechError("no local voice is configured")
        pcm = await self._voice.synthesize(text)
        if len(self._kept) >= _KEPT:
            self._kept.pop(next(iter(self._kept)))
        self._kept[text] = pcm
        return pcm
