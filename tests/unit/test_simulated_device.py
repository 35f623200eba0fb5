"""The simulated device: speech from a file, its lamps in words, and a sentence said to it."""

from __future__ import annotations

import asyncio
import wave
from array import array
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import SettingsError, SpeechError
from appliance.settings import load_settings
from appliance.simulator import simulated_device
from appliance.simulator.lamp import SimulatedLamp
from appliance.simulator.simulated_device import SIMULATED, SimulatedDevice, read_speech


def device(save: Path | None = None, **overrides: Any) -> SimulatedDevice:
    more = {key.replace("__", "."): value for key, value in overrides.items()}
    return SimulatedDevice(load_settings(None, {}, overrides=SIMULATED | more), environ={}, save=save)


def wav(path: Path, frames: bytes, *, rate: int = 24_000, channels: int = 1, width: int = 2) -> Path:
    with wave.open(str(path), "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(width)
        out.setframerate(rate)
        out.writeframes(frames)
    return path


async def test_recording_is_read_as_mono_at_the_rate_of_the_wire(tmp_path: Path) -> None:
    same = array("h", range(2400)).tobytes()
    assert await read_speech(str(wav(tmp_path / "a.wav", same)), voice="rms") == same
    stereo = array("h", [1000] * 9600).tobytes()
    heard = await read_speech(str(wav(tmp_path / "B.WAV", stereo, rate=48_000, channels=2)), voice="rms")
    assert len(heard) == 2 * 2400
    assert max(array("h", heard[2000:3000])) == pytest.approx(1000, abs=2)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: wav(path, b"\0" * 100, width=1), "8-bit samples, expected 16-bit PCM"),
        (lambda path: wav(path, b"\0" * 100, rate=2000), "2000 Hz; allowed: 4000 to 384000 Hz"),
        (lambda path: wav(path, b""), "no sound; allowed: a recording of up to 600 s"),
        (lambda path: wav(path, bytes(2 * 4000 * 601), rate=4000), "more than 600 s"),
        (lambda path: path.write_bytes(b"RIFF"), "ends within its WAV header"),
        (
            lambda path: path.write_bytes(b"no recording at all, not even a header of one"),
            "cannot be read as a WAV file",
        ),
        (lambda path: None, "cannot be read as a WAV file"),
    ],
)
async def test_file_that_is_no_recording_is_one_line(make: Any, words: str, tmp_path: Path) -> None:
    make(tmp_path / "said.wav")
    with pytest.raises(SettingsError) as caught:
        await read_speech(str(tmp_path / "said.wav"), voice="rms")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


class Voice:
    """flite without flite: keeps who said what."""

    def __init__(self, pcm: bytes) -> None:
        self.pcm = pcm
        self.said: list[tuple[str, str]] = []

    async def synthesize(self, text: str, *, voice: str) -> bytes:
        self.said.append((text, voice))
        return self.pcm


async def test_text_is_spoken_in_the_wanted_voice(monkeypatch: pytest.MonkeyPatch) -> None:
    voice = Voice(b"\1\0")
    monkeypatch.setattr("appliance.speech.tts.open_tts", lambda name: voice)
    assert await read_speech("turn it on", voice="slt") == b"\1\0"
    assert voice.said == [("turn it on", "slt")]
    voice.pcm = b""
    with pytest.raises(SpeechError, match="no audio for 'turn it on'"):
        await read_speech("turn it on", voice="slt")
    with pytest.raises(SettingsError, match="nothing to say"):
        await read_speech("  ", voice="slt")


async def test_sentence_is_said_while_the_button_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.speech.tts.open_tts", lambda name: Voice(b"\1\0" * 480))
    for name in ("_LEAD_IN_S", "_LEAD_OUT_S"):
        monkeypatch.setattr(simulated_device, name, 0.0)
    one = device()
    done: list[str] = []
    assert one.backend is not None
    microphone = one.backend.microphone
    monkeypatch.setattr(one.finger, "press", lambda: done.append("press"))
    monkeypatch.setattr(one.finger, "release", lambda: done.append("release"))
    talking = asyncio.create_task(one.talk("hello"))
    while microphone.is_quiet:
        await asyncio.sleep(0.005)
    assert done == ["press"]
    microphone.hear(4800)
    await talking
    assert done == ["press", "release"]
    one.finger.close()


async def test_real_microphone_is_not_spoken_into() -> None:
    one = device(audio__backend="portaudio")
    assert one.loudspeaker is None
    with pytest.raises(SettingsError, match="is a real microphone"):
        await one.talk_pcm(b"\1\0")
    one.finger.close()


@pytest.mark.parametrize("active_high", [True, False])
def test_lamps_are_told_in_words_whatever_level_lights_them(active_high: bool) -> None:
    one = device(outputs__lamp_pin=26, outputs__dimmer_pin=6, outputs__active_high=active_high)
    lamp = one.factory.pin(26)
    lamp.function = "output"
    lamp.state = active_high
    dimmer = one.factory.pin(6)
    dimmer.function = "output"
    dimmer.state = not active_high
    assert one.lamp_line() == "lamp on, light 0 %"
    lamp.state = not active_high
    dimmer.state = active_high
    assert one.lamp_line() == "lamp off, light 100 %"
    assert SimulatedLamp(one.factory, [26, 6], active_high=active_high).color == (0.0, 1.0)
    one.finger.close()


def test_device_without_lamps_says_nothing_of_them() -> None:
    one = device(outputs__lamp_pin="none", outputs__dimmer_pin="none")
    assert one.lamp_line() == ""
    one.finger.close()


async def test_what_was_played_is_saved_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = device(save=tmp_path / "played.wav")
    assert one.loudspeaker is not None
    one.loudspeaker.take(1.0, simulated_device.np.full(960, 7, simulated_device.np.int16))

    async def runs() -> str:
        return "tested"

    monkeypatch.setattr(one.appliance, "run", runs)
    assert await one.run() == "tested"
    with wave.open(str(tmp_path / "played.wav")) as saved:
        assert (saved.getframerate(), saved.getnframes()) == (48_000, 960)
