"""Tests of the local announcer: sentences play in order, are cached, and fall back to an earcon."""

from __future__ import annotations

import asyncio

from appliance.conversation.commands import Announce
from appliance.errors import SpeechError
from appliance.service.announcer import LocalAnnouncer


class Speaker:
    def __init__(self) -> None:
        self.sounds: list[tuple[int, object]] = []
        self.grew = asyncio.Event()

    def say(self, epoch: int, pcm: bytes) -> None:
        self.sounds.append((epoch, pcm))
        self.grew.set()

    def earcon(self, epoch: int, name: str) -> None:
        self.sounds.append((epoch, name))
        self.grew.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.sounds) < count:
                self.grew.clear()
                await self.grew.wait()


class Voice:
    def __init__(self) -> None:
        self.spoken: list[str] = []

    async def synthesize(self, text: str) -> bytes:
        self.spoken.append(text)
        if "?" in text:
            raise SpeechError("flite is not installed: apt-get install flite")
        return text.encode()


async def test_sentences_are_spoken_in_order_and_each_is_synthesised_once() -> None:
    speaker, voice = Speaker(), Voice()
    announcer = LocalAnnouncer(speaker, voice)
    running = asyncio.create_task(announcer.run())
    for epoch, text in enumerate(["one", "two", "one"]):
        announcer.announce(Announce(epoch, text))
    await speaker.until(3)
    assert speaker.sounds == [(0, b"one"), (1, b"two"), (2, b"one")]
    assert voice.spoken == ["one", "two"]
    running.cancel()


async def test_without_a_voice_the_fallback_earcon_plays() -> None:
    speaker = Speaker()
    for voice, text in ((None, "hello"), (Voice(), "can you?")):
        announcer = LocalAnnouncer(speaker, voice)
        running = asyncio.create_task(announcer.run())
        count = len(speaker.sounds)
        announcer.announce(Announce(7, text, "offline"))
        await speaker.until(count + 1)
        running.cancel()
    assert speaker.sounds == [(7, "offline"), (7, "offline")]


async def test_the_announcer_continues_after_a_failure() -> None:
    speaker = Speaker()
    announcer = LocalAnnouncer(speaker, Voice())
    running = asyncio.create_task(announcer.run())
    announcer.announce(Announce(1, "can you?"))
    announcer.announce(Announce(1, "yes"))
    await speaker.until(2)
    assert speaker.sounds == [(1, "error"), (1, b"yes")]
    running.cancel()
