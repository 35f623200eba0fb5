"""A simulated device: a whole `Appliance` with a simulated finger, lamp, microphone and loudspeaker.

The finger drives a mock pin from its own thread; the microphone and the loudspeaker are paced like a card. Everything
between them is real: the driver, the conversation, the rings, a socket, the brain.
"""

from __future__ import annotations

import asyncio
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from appliance.audio.backends.simulated import Loudspeaker, SimulatedBackend
from appliance.audio.pcm import WIRE_RATE, to_mono
from appliance.audio.resample import Resampler
from appliance.errors import SettingsError, SpeechError
from appliance.hardware.pins import open_pin_factory
from appliance.runtime.driver import Observer
from appliance.service.app import Appliance
from appliance.settings import Settings
from appliance.simulator.finger import Finger
from appliance.simulator.lamp import SimulatedLamp

__all__ = ["DEFAULT_PINS", "SIMULATED", "SimulatedDevice", "read_speech"]

SIMULATED = {"audio.backend": "simulated", "pins.factory": "mock"}
"""The settings that a simulation overrides; everything else is real."""
DEFAULT_PINS = {"outputs.dimmer_pin": 6}
"""Pin of the simulated dimmer, if the settings name none."""

_LEAD_IN_S = 0.25  # a person presses, then speaks
_LEAD_OUT_S = 0.15  # and releases after the last word
_POLL_S = 0.01
_LONGEST_WAV_S = 600  # the highest audio.max_turn_s
_WAV_RATES = range(4000, 384_001)  # a rate of 1 Hz would be resampled to gigabytes


class SimulatedDevice:
    """One simulated device.

    Args:
        settings: With the mock pin factory, and the simulated backend unless a real card is wanted.
        environ: The appliance's environment.
        save: WAV file for what the loudspeaker played, written at the end.
    """

    def __init__(self, settings: Settings, *, environ: Mapping[str, str], save: Path | None = None) -> None:
        self._save = save
        self.factory: Any = open_pin_factory(settings.pins.factory)
        self.backend: SimulatedBackend | None = None
        if settings.audio.backend == "simulated":
            self.backend = SimulatedBackend(rate=settings.audio.rate, period_ms=settings.audio.period_ms)
        state_dir = settings.service.state_dir  # only if configured: a simulation leaves no files by default
        self.appliance = Appliance(
            settings,
            environ=environ,
            backend=self.backend,
            pin_factory=self.factory,
            state_dir=Path(state_dir) if state_dir else None,
        )
        self.wording = self.appliance.wording
        self.finger = Finger(self.factory, settings.button.pin, active_low=settings.button.active_low)
        self._outputs = settings.outputs

    @property
    def loudspeaker(self) -> Loudspeaker | None:
        """The simulated loudspeaker; None with a real card."""
        return self.backend.loudspeaker if self.backend is not None else None

    def observe(self, observer: Observer) -> None:
        """Add an observer of the driver; call it before `run`."""
        self.appliance.observe(observer)

    async def run(self) -> str:
        """Run the device until it is stopped; return the reason."""
        try:
            return await self.appliance.run()
        finally:
            self.finger.close()
            if self._save is not None and self.loudspeaker is not None:
                self.loudspeaker.save(self._save)

    def stop(self, reason: str) -> None:
        self.appliance.stop(reason)

    def lamp_line(self) -> str:
        """Return the lamp and the light in words, for a status line."""
        words = []
        if self._outputs.lamp_pin is not None:
            words.append("lamp on" if self._level(self._outputs.lamp_pin) else "lamp off")
        if self._outputs.dimmer_pin is not None:
            words.append(f"light {round(self._level(self._outputs.dimmer_pin) * 100)} %")
        return ", ".join(words)

    def _level(self, pin: int) -> float:
        return SimulatedLamp(self.factory, [pin], active_high=self._outputs.active_high).level

    async def talk(self, text: str) -> None:
        """Press, say a sentence, release."""
        await self.talk_pcm(await speak(text))

    async def talk_pcm(self, pcm: bytes) -> None:
        """Press, play audio into the microphone, and release once it has been captured.

        Args:
            pcm: PCM16 mono at 24 kHz.

        Raises:
            SettingsError: The card is real, so it has no simulated microphone.
        """
        if self.backend is None:
            raise SettingsError("audio.backend: 'portaudio' is a real microphone; speak, or use the simulated one")
        microphone = self.backend.microphone
        self.finger.press()
        await asyncio.sleep(_LEAD_IN_S)
        microphone.say(pcm)
        while not microphone.is_quiet and microphone.is_plugged:  # noqa: ASYNC110 - the other side is a thread
            await asyncio.sleep(_POLL_S)
        await asyncio.sleep(_LEAD_OUT_S)
        self.finger.release()


async def speak(text: str, *, voice: str = "rms") -> bytes:
    """Return a text in the simulated user's voice: PCM16 mono at 24 kHz.

    Raises:
        SpeechError: flite returned no audio.
    """
    from appliance.speech.tts import open_tts

    pcm = await open_tts("flite").synthesize(text, voice=voice)
    if not pcm:
        raise SpeechError(f"flite returned no audio for {text!r}")
    return pcm


async def read_speech(what: str, *, voice: str) -> bytes:
    """Return speech for the device, synthesised from a text or read from a WAV file.

    Args:
        what: A text, or a file name that ends in ``.wav``.
        voice: The flite voice of a text.

    Returns:
        PCM16 mono at 24 kHz.

    Raises:
        SettingsError: The file cannot be read, or is not 16-bit PCM.
    """
    if not what.lower().endswith(".wav"):
        if not what.strip():
            raise SettingsError("nothing to say: give a sentence, or the name of a WAV file")
        return await speak(what, voice=voice)
    return read_wav(Path(what))


def read_wav(path: Path) -> bytes:
    """Read 16-bit PCM of any usual rate and channel count, as much as is there, whatever the header says of its length.

    Returns:
        PCM16 mono at 24 kHz.

    Raises:
        SettingsError: The file cannot be read, is not 16-bit PCM, is empty or too long.
    """
    try:
        with wave.open(str(path), "rb") as source:
            width, channels, rate = source.getsampwidth(), source.getnchannels(), source.getframerate()
            frames = source.readframes(_LONGEST_WAV_S * rate + 1)
    except EOFError:
        raise SettingsError(f"{path}: ends within its WAV header; give a complete recording") from None
    except (OSError, ValueError, wave.Error) as exc:
        raise SettingsError(f"{path}: cannot be read as a WAV file: {exc}") from None
    if width != 2:
        raise SettingsError(f"{path}: {8 * width}-bit samples, expected 16-bit PCM (sox IN.wav -b 16 OUT.wav)")
    if rate not in _WAV_RATES:
        low, high = _WAV_RATES[0], _WAV_RATES[-1]
        raise SettingsError(f"{path}: {rate} Hz; allowed: {low} to {high} Hz (sox IN.wav -r 24000 OUT.wav)")
    count = len(frames) // (2 * channels)
    if not 0 < count <= _LONGEST_WAV_S * rate:
        length = f"more than {_LONGEST_WAV_S} s" if count else "no sound"
        raise SettingsError(f"{path}: {length}; allowed: a recording of up to {_LONGEST_WAV_S} s")
    resampler = Resampler(rate, WIRE_RATE)
    mono = to_mono(np.frombuffer(frames[: 2 * channels * count], "<i2").astype(np.int16), channels)
    return np.concatenate([resampler.process(mono), resampler.finish()]).astype("<i2").tobytes()
