"""The volume by the card's control: recorded replies of amixer, and a fake one on the PATH."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.audio import mixer
from appliance.audio.backends.portaudio import PortAudioBackend
from appliance.audio.cards import CardTree
from appliance.audio.devices import describe
from appliance.audio.mixer import CardMixer, controls
from appliance.audio.pcm import volume_gain
from appliance.errors import AudioError
from tests.support.card_tree import HEADPHONES, USB, plant
from tests.support.fake_amixer import FakeAmixer, headphones, usb, wm8960
from tests.support.hand_card import PERIOD, Hand, HandCard, hand, pcm_of

JACK = """\
Simple mixer control 'PCM',0
  Capabilities: pvolume pvolume-joined pswitch pswitch-joined
  Playback channels: Mono
  Limits: Playback -10239 - 400
  Mono: Playback -1728 [80%] [-17.28dB] [on]
"""
USB_HEADSET = """\
Simple mixer control 'Speaker',0
  Capabilities: pvolume pswitch pswitch-joined penum
  Playback channels: Front Left - Front Right
  Limits: Playback 0 - 151
  Mono:
  Front Left: Playback 0 [0%] [-28.37dB] [on]
  Front Right: Playback 0 [0%] [-28.37dB] [on]
Simple mixer control 'Mic',0
  Capabilities: pvolume pvolume-joined cvolume cvolume-joined pswitch pswitch-joined cswitch cswitch-joined penum
  Playback channels: Mono
  Capture channels: Mono
  Limits: Playback 0 - 32 Capture 0 - 16
  Mono: Playback 23 [72%] [34.36dB] [off] Capture 16 [100%] [23.81dB] [on]
Simple mixer control 'Auto Gain Control',0
  Capabilities: pswitch pswitch-joined penum
  Playback channels: Mono
  Mono: Playback [on]
"""
HAT = """\
Simple mixer control 'Headphone',0
  Capabilities: pvolume
  Playback channels: Front Left - Front Right
  Limits: Playback 0 - 127
  Mono:
  Front Left: Playback 0 [0%] [-99999.99dB]
  Front Right: Playback 0 [0%] [-99999.99dB]
Simple mixer control 'Speaker AC',0
  Capabilities: volume volume-joined
  Playback channels: Mono
  Capture channels: Mono
  Limits: 0 - 5
  Mono: 5 [100%]
Simple mixer control 'PCM Playback -6dB',0
  Capabilities: pswitch pswitch-joined
  Playback channels: Mono
  Mono: Playback [off]
Simple mixer control 'Playback',0
  Capabilities: pvolume
  Playback channels: Front Left - Front Right
  Limits: Playback 0 - 255
  Mono:
  Front Left: Playback 255 [100%] [0.00dB]
  Front Right: Playback 255 [100%] [0.00dB]
"""
NO_DECIBELS = """\
Simple mixer control 'Master',0
  Capabilities: pvolume pvolume-joined pswitch pswitch-joined
  Playback channels: Mono
  Limits: Playback 0 - 65536
  Mono: Playback 65536 [100%] [on]
Simple mixer control 'Capture',0
  Capabilities: cvolume cvolume-joined cswitch cswitch-joined
  Capture channels: Mono
  Limits: Capture 0 - 65536
  Mono: Capture 65536 [100%] [on]
"""


@pytest.fixture
def amixer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeAmixer:
    monkeypatch.setattr(mixer, "AMIXER_TIMEOUT_S", 30.0)  # a busy machine needs long to start a program
    return FakeAmixer(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (JACK, [("'PCM',0", True, -10239, 400, -1728, -17.28)]),
        (USB_HEADSET, [("'Speaker',0", True, 0, 151, 0, -28.37), ("'Mic',0", True, 0, 32, 23, 34.36)]),
        (HAT, [("'Headphone',0", False, 0, 127, 0, -99999.99), ("'Playback',0", False, 0, 255, 255, 0.0)]),
        (NO_DECIBELS, []),
        ("", []),
    ],
    ids=["jack", "usb", "hat", "no decibels", "no control"],
)
def test_controls_are_those_with_a_playback_volume_in_decibels(text: str, found: list[tuple[Any, ...]]) -> None:
    listed = [(str(one), one.has_switch, one.least, one.most, one.level, one.db) for one in controls(text)]
    assert listed == found


@pytest.mark.parametrize(
    ("text", "wanted", "chosen"),
    [
        (JACK, "auto", "'PCM',0"),
        (USB_HEADSET, "auto", "'Speaker',0"),
        (HAT, "auto", "'Playback',0"),
        (HAT, "Headphone", "'Headphone',0"),
        (USB_HEADSET, "Mic,0", "'Mic',0"),
    ],
)
def test_control_is_a_usual_one_or_the_one_of_the_setting(
    amixer: FakeAmixer, text: str, wanted: str, chosen: str
) -> None:
    amixer.has("Card", recorded=text)
    assert str(CardMixer("Card", wanted).control) == chosen


@pytest.mark.parametrize(
    ("text", "wanted", "words"),
    [
        (NO_DECIBELS, "auto", "card Card has no volume control in dB (found: none)"),
        (HAT, "Digital", "in dB 'Digital'; set audio.mixer_control to another (found: 'Headphone',0, 'Playback',0)"),
    ],
)
def test_card_without_a_fitting_control_says_what_it_has(
    amixer: FakeAmixer, text: str, wanted: str, words: str
) -> None:
    amixer.has("Card", recorded=text)
    with pytest.raises(AudioError) as caught:
        CardMixer("Card", wanted)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("control", "least_db", "most_db"), [(headphones(), -102.39, 4.0), (usb(), -28.37, -0.06), (wm8960(), -127.5, 0.0)]
)
def test_level_is_the_lowest_step_that_is_not_below_the_volume(
    amixer: FakeAmixer, control: dict[str, Any], least_db: float, most_db: float
) -> None:
    amixer.has("Card", PCM=control)
    one = CardMixer("Card")
    for db in (-45.0, -33.33, -28.0, -10.1, -0.3, 0.0):
        reached = one.set_db(db)
        assert -0.005 <= reached - min(max(db, least_db), most_db) < control["step"]
        assert amixer.control("Card", "PCM")["level"] == one.control.level


def test_silence_is_a_mute_or_the_lowest_step_and_the_next_level_ends_it(amixer: FakeAmixer) -> None:
    amixer.has("Jack", PCM=headphones())
    amixer.has("Hat", Playback=wm8960())
    jack, hat = CardMixer("Jack"), CardMixer("Hat")
    jack.set_db(-math.inf)
    hat.set_db(-math.inf)
    assert amixer.control("Jack", "PCM")["on"] is False
    assert amixer.control("Hat", "Playback")["level"] == 0
    jack.set_db(-10)
    assert amixer.control("Jack", "PCM")["on"] is True


def test_program_that_is_missing_slow_or_fails_is_reported_in_one_line(
    amixer: FakeAmixer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AudioError, match=r"^card Gone: amixer ended with 1: Invalid card number 'Gone'\.$"):
        CardMixer("Gone")
    amixer.has("Card", PCM=headphones())
    amixer.sleeps(30)
    monkeypatch.setattr(mixer, "AMIXER_TIMEOUT_S", 0.05)
    with pytest.raises(AudioError, match=r"^card Card: amixer took longer than 0\.05 s$"):
        CardMixer("Card")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(AudioError, match="install alsa-utils"):
        CardMixer("Card")


def test_names_that_are_not_utf_8_are_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "amixer"
    script.write_bytes(b"#!/bin/sh\ncat <<'END'\nSimple mixer control '\xff',0\n" + JACK.encode() + b"END\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert str(CardMixer("Card").control) == "'PCM',0"


# --- the volume of the appliance ----------------------------------------------------------------------------------


class FakeMixer:
    """A control with steps of 3 dB from -30 dB."""

    def __init__(self) -> None:
        self.card: HandCard | None = None
        self.asked: list[float] = []
        self.was_open: list[bool] = []
        """Whether the card's stream ran at each call."""
        self.fails = ""

    def set_db(self, db: float) -> float:
        self.asked.append(round(db, 1))
        stream = self.card.playback if self.card is not None else None
        self.was_open.append(stream is not None and not stream.is_closed)
        if self.fails:
            raise AudioError(self.fails)
        return 0.0 if db == -math.inf else max(-30.0, 3.0 * math.ceil(db / 3.0))


async def _until(holds: Callable[[], object]) -> None:
    while not holds():
        await asyncio.sleep(0.001)


async def _set(one: Hand, percent: int) -> None:
    """Set the volume, and wait until the card has it."""
    one.audio.volume = percent
    await asyncio.sleep(0)
    for _ in range(2):
        await one.audio._blocking(lambda: None)  # the thread does one after another


async def _peak(one: Hand) -> int:
    """Play a period; return its loudest sample as it leaves the program, where 20,000 is the loudest."""
    one.audio.play(0, "a", pcm_of(20_000, PERIOD))
    return max(await one.play_periods(2))


def _rest(percent: int, card_db: float) -> int:
    """Return the sample that is left if the card makes so much of the volume."""
    return round(20_000 * volume_gain(percent) / 10 ** (card_db / 20))


async def test_card_makes_whole_steps_of_the_volume_and_software_the_rest() -> None:
    fake = FakeMixer()
    async with hand(mixer=fake) as one:
        assert fake.asked == [0.0]
        assert await _peak(one) == 20_000, "unchanged, bit for bit"
        for percent, card_db in ((75, -9.0), (60, -18.0), (10, -30.0)):
            await _set(one, percent)
            assert await _peak(one) == _rest(percent, card_db)


async def test_louder_is_not_heard_before_the_card_is_set_and_silence_at_once() -> None:
    fake = FakeMixer()
    async with hand(mixer=fake) as one:
        await _set(one, 40)
        quiet = await _peak(one)
        one.audio.volume = 80
        assert await _peak(one) <= quiet
        one.audio.volume = 0
        assert await _peak(one) == 0
        await _until(lambda: fake.asked[-1] == -math.inf)


async def test_card_that_comes_back_is_set_before_it_is_opened() -> None:
    fake = FakeMixer()
    async with hand(mixer=fake) as one:
        fake.card = one.card
        await _set(one, 60)
        assert one.card.playback is not None
        one.card.playback.is_active = False
        await one.found("playback")
        assert fake.asked == [0.0, -18.0, -18.0]
        assert fake.was_open == [False, True, False]
        assert await _peak(one) == _rest(60, -18.0)


async def test_cap_of_the_night_is_software_so_that_alarms_may_be_exempt() -> None:
    fake = FakeMixer()
    async with hand(mixer=fake, loudest=lambda: 40, are_alarms_capped=False) as one:
        assert await _peak(one) == _rest(40, 0.0)
        assert (fake.asked, one.audio.volume) == ([0.0], 40)
        one.audio.flush(1)
        await one.play_periods(2)
        one.audio.earcon(1, "alarm")
        alarm = max(await one.play_periods(10))
    async with hand() as one:
        one.audio.earcon(0, "alarm")
        assert max(await one.play_periods(10)) == alarm


async def test_control_that_fails_leaves_the_volume_to_software_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake = FakeMixer()
    fake.fails = "card Card: amixer took longer than 2.0 s"
    with caplog.at_level(logging.INFO):
        async with hand(mixer=fake) as one:
            one.audio.volume = 60
            assert await _peak(one) == _rest(60, 0.0)
            assert one.card.playback is not None
            one.card.playback.is_active = False
            await one.found("playback")
            assert await _peak(one) == _rest(60, 0.0)
    assert [one for one in caplog.messages if "volume" in one] == [f"the volume is set in software: {fake.fails}"]


async def test_control_that_fails_later_keeps_what_the_card_was_set_to() -> None:
    fake = FakeMixer()
    async with hand(mixer=fake) as one:
        await _set(one, 60)
        fake.fails = "gone"
        await _set(one, 20)
        assert await _peak(one) == _rest(20, -18.0)
        one.audio.volume = 90
        assert await _peak(one) == 20_000, "software does not amplify"


def test_control_is_looked_for_on_the_loudspeaker_s_card(amixer: FakeAmixer, tmp_path: Path) -> None:
    tree = CardTree(plant(tmp_path, [HEADPHONES, USB]))
    amixer.has("Device", Speaker=usb())
    found = PortAudioBackend(playback_card="Device", mixer_control="auto", tree=tree).open_mixer()
    assert found is not None
    assert str(found.control) == "'Speaker',0"
    for card, wanted in (("Device", "none"), ("missing", "auto"), ("pulse", "auto")):
        assert PortAudioBackend(playback_card=card, mixer_control=wanted, tree=tree).open_mixer() is None


def test_devices_names_the_control_or_why_there_is_none(amixer: FakeAmixer, tmp_path: Path) -> None:
    tree = CardTree(plant(tmp_path, [USB]))
    amixer.has("Device", Speaker=usb(level=151))
    lines = [
        describe(capture_card="default", playback_card="default", mixer_control=wanted, tree=tree).splitlines()[-1]
        for wanted in ("auto", "Master", "none")
    ]
    assert lines == [
        "volume: by 'Speaker',0 of card Device, now -0.06 dB; audio.mixer_control names another",
        "volume: in software: card Device has no volume control in dB 'Master'; set audio.mixer_control to another "
        "(found: 'Speaker',0)",
        "volume: in software",
    ]
