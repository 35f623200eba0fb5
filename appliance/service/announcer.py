"""The device's own announcements, spoken locally ("I can't hear anything from the microphone").

The voice works without a network, and the announcer caches the synthesised audio. Without a voice, or if a sentence
has no wording in the voice's language, the announcer plays the fallback earcon of the command.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from appliance.audio.streams import AudioStreams
from appliance.conversation.commands import Announce, Sentence
from appliance.errors import SpeechError
from appliance.wording import Wording

__all__ = ["LocalAnnouncer", "Voice"]

log = logging.getLogger(__name__)

_KEPT = 64  # sentences; about twenty are fixed, the others contain timer labels


class Voice(Protocol):
    """Local text to speech."""

    async def synthesize(self, text: str) -> bytes:
        """Return PCM16 mono at 24 kHz, or raise SpeechError."""


class LocalAnnouncer:
    """Plays ``Announce`` commands, one sentence at a time, in order.

    Args:
        speaker: Plays the audio.
        voice: Speaks the language of `wording`; None plays earcons only.
        wording: Source of the sentences.
    """

    def __init__(self, speaker: AudioStreams, voice: Voice | None, wording: Wording) -> None:
        self._speaker = speaker
        self._voice = voice
        self._wording = wording
        self._queue: asyncio.Queue[Announce] = asyncio.Queue()
        self._kept: dict[str, bytes] = {}

    def announce(self, command: Announce) -> None:
        """Queue a sentence; called on the event loop's thread."""
        self._queue.put_nowait(command)

    async def run(self) -> None:
        """Speak until cancelled."""
        while True:
            command = await self._queue.get()
            try:
                self._speaker.say(command.epoch, await self._spoken(command.sentence))
            except Exception as exc:  # noqa: BLE001 - the engine may be the user's own
                said = command.sentence if isinstance(command.sentence, str) else command.sentence.key
                log.info("earcon %r instead of %r: %r", command.fallback, said, exc)
                self._speaker.earcon(command.epoch, command.fallback)

    async def _spoken(self, sentence: Sentence | str) -> bytes:
        if self._voice is None:
            raise SpeechError("no local voice is configured")
        if isinstance(sentence, str):
            text = sentence
        elif self._wording.has(sentence.key):
            text = self._wording.say(sentence.key, **sentence.values)
        else:
            raise SpeechError(f"no wording for it in {self._wording.language!r}, and the voice does not speak English")
        if text in self._kept:
            return self._kept[text]
        pcm = await self._voice.synthesize(text)
        if len(self._kept) >= _KEPT:
            self._kept.pop(next(iter(self._kept)))
        self._kept[text] = pcm
        return pcm
