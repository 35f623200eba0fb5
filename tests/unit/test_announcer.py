"""Tests of the local announcer: sentences play in order, are cached, and fall back to an earcon."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from appliance.conversation.commands import Announce, Sentence
from appliance.errors import SettingsError, SpeechError
from appliance.service.announcer import LocalAnnouncer
from appliance.wording import Wording


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
    announcer = LocalAnnouncer(speaker, voice, Wording())
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
        announcer = LocalAnnouncer(speaker, voice, Wording())
        running = asyncio.create_task(announcer.run())
        count = len(speaker.sounds)
        announcer.announce(Announce(7, text, "offline"))
        await speaker.until(count + 1)
        running.cancel()
    assert speaker.sounds == [(7, "offline"), (7, "offline")]


async def test_the_announcer_continues_after_a_failure() -> None:
    speaker = Speaker()
    announcer = LocalAnnouncer(speaker, Voice(), Wording())
    running = asyncio.create_task(announcer.run())
    announcer.announce(Announce(1, "can you?"))
    announcer.announce(Announce(1, "yes"))
    await speaker.until(2)
    assert speaker.sounds == [(1, "error"), (1, b"yes")]
    running.cancel()


@pytest.mark.parametrize("error", [SettingsError("no text to speech is called 'nonsense'"), OSError("no route")])
async def test_an_engine_that_raises_another_error_is_an_earcon_and_does_not_end_the_announcer(
    error: Exception,
) -> None:
    class Failing(Voice):
        async def synthesize(self, text: str) -> bytes:
            raise error

    speaker = Speaker()
    announcer = LocalAnnouncer(speaker, Failing(), Wording())
    running = asyncio.create_task(announcer.run())
    announcer.announce(Announce(1, "hello", "offline"))
    await speaker.until(1)
    assert (speaker.sounds, running.done()) == ([(1, "offline")], False)
    running.cancel()


async def test_a_sentence_is_worded_in_the_language_of_the_voice() -> None:
    speaker, voice = Speaker(), Voice()
    announcer = LocalAnnouncer(speaker, voice, Wording("de"))
    running = asyncio.create_task(announcer.run())
    announcer.announce(Announce(1, Sentence("alarm.time_up_for", {"labels": "Tee"}), "alarm"))
    await speaker.until(1)
    running.cancel()
    assert voice.spoken == ["Die Zeit ist um: Tee."]


async def test_a_sentence_that_the_language_lacks_is_an_earcon_and_never_spoken_in_english(tmp_path: Path) -> None:
    (tmp_path / "it.toml").write_text('[alarm]\ntime_up = "Tempo scaduto."\n')
    speaker, voice = Speaker(), Voice()
    announcer = LocalAnnouncer(speaker, voice, Wording("it", tmp_path))
    running = asyncio.create_task(announcer.run())
    announcer.announce(Announce(1, Sentence("trouble.no_link"), "offline"))
    announcer.announce(Announce(1, Sentence("alarm.time_up"), "alarm"))
    await speaker.until(2)
    running.cancel()
    assert speaker.sounds == [(1, "offline"), (1, b"Tempo scaduto.")]
