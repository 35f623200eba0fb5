"""Text to speech with a system program, flite or espeak-ng: one process per sentence.

The program reads the text from standard input, so the text never appears in a shell, an option or the process list. It
writes the WAV to a file in memory (memfd), because flite seeks back to the header after the last sample. Nothing is
written to disk. A sentence takes 7 to 20 ms with flite, 10 ms with espeak-ng (x86-64); recent sentences are cached.

Source: flite(1), espeak-ng(1), memfd_create(2).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import soxr
from numpy.typing import NDArray

from appliance.audio.pcm import WIRE_RATE
from appliance.errors import LanguageError, SpeechError, one_line
from appliance.speech.children import child_environment

__all__ = ["ProgramSpeech", "SpeechProgram", "espeak", "flite", "read_wav"]

MAX_TEXT_CHARS = 2_000  # two minutes of speech: far more than a sentence
_TIMEOUT_S = 20.0  # a sentence takes milliseconds; a Pi Zero is thirty times slower
_PROCESSES = 2  # at once; on threads of their own, because the loop's other work waits for its shared ones
_KEPT_BYTES = 4_000_000  # about 80 s of speech
_MIN_SPEED, _MAX_SPEED = 0.25, 4.0
_ESPEAK_WORDS_PER_MINUTE = 175  # espeak-ng(1), -s
_FLITE_VOICES = frozenset({"awb", "kal", "kal16", "rms", "slt"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechProgram:
    """How to call one program."""

    name: str
    package: str
    """Its Debian package."""
    arguments: Callable[[str, float, str], Sequence[str]]
    """(voice, speed, path of the WAV to write) → command-line arguments."""
    default_voice: str
    has_voice: Callable[[str], bool]


class ProgramSpeech:
    """A `stages.TextToSpeech` that runs a `SpeechProgram`; safe for several sessions at once."""

    def __init__(self, program: SpeechProgram, *, voice: str = "") -> None:
        self._program = program
        self._voice = voice if voice and program.has_voice(voice) else program.default_voice
        self._threads = ThreadPoolExecutor(_PROCESSES, thread_name_prefix=program.name)
        self._recent: OrderedDict[tuple[str, str, float], bytes] = OrderedDict()
        self._recent_bytes = 0

    async def synthesize(self, text: str, *, voice: str = "", speed: float = 1.0) -> bytes:
        """Speak one sentence; a voice that the program does not have ("marin") falls back to the default voice.

        Args:
            text: The sentence, at most 2,000 characters; control characters count as spaces.
            speed: 0.25 to 4; other values are clamped.

        Returns:
            PCM16 mono at 24 kHz; empty if the text has no letters or digits.

        Raises:
            SpeechError: The program is missing or failed, or the text is too long.
        """
        words = " ".join("".join(char if char.isprintable() else " " for char in text).split())
        if not any(char.isalnum() for char in words):
            return b""
        if len(words) > MAX_TEXT_CHARS:
            raise SpeechError(
                f"the text to speak has {len(words)} characters; the limit is {MAX_TEXT_CHARS}: split it into sentences"
            )
        chosen = voice if voice and self._program.has_voice(voice) else self._voice
        key = (words, chosen, min(_MAX_SPEED, max(_MIN_SPEED, speed)))
        if key in self._recent:
            self._recent.move_to_end(key)
            return self._recent[key]
        pcm = await asyncio.get_running_loop().run_in_executor(self._threads, _speak, self._program, *key)
        self._keep(key, pcm)
        return pcm

    def _keep(self, key: tuple[str, str, float], pcm: bytes) -> None:
        if key in self._recent or len(pcm) > _KEPT_BYTES // 4:
            return
        self._recent[key] = pcm
        self._recent_bytes += len(pcm)
        while self._recent_bytes > _KEPT_BYTES:
            self._recent_bytes -= len(self._recent.popitem(last=False)[1])


def flite(language: str, voice: str) -> ProgramSpeech:
    """Return flite, which speaks English only.

    Raises:
        LanguageError: The language is not English.
    """
    if not language.lower().startswith("en"):
        raise LanguageError(f"flite speaks English only, not {language!r}; choose tts = 'espeak-ng' for it")
    return ProgramSpeech(
        SpeechProgram(
            name="flite",
            package="flite",
            arguments=_flite_arguments,
            default_voice="slt",
            has_voice=_FLITE_VOICES.__contains__,  # a fixed set, because flite also accepts a path or URL as a voice
        ),
        voice=voice,
    )


def espeak(language: str, voice: str) -> ProgramSpeech:
    """Return espeak-ng; a voice is a language code with an optional variant: ``de``, ``en-us+f3``."""
    return ProgramSpeech(
        SpeechProgram(
            name="espeak-ng",
            package="espeak-ng",
            arguments=_espeak_arguments,
            default_voice=language,
            has_voice=lambda name: name.partition("+")[0].partition("-")[0] == language.partition("-")[0],
        ),
        voice=voice,
    )


def _flite_arguments(voice: str, speed: float, path: str) -> Sequence[str]:
    return ("-voice", voice, "--setf", f"duration_stretch={1 / speed:.3f}", "-f", "/dev/stdin", "-o", path)


def _espeak_arguments(voice: str, speed: float, path: str) -> Sequence[str]:
    return ("-v", voice, "-s", str(round(_ESPEAK_WORDS_PER_MINUTE * speed)), "-b", "1", "--stdin", "-w", path)


def _speak(program: SpeechProgram, text: str, voice: str, speed: float) -> bytes:
    """Run the program; called on a worker thread."""
    path = shutil.which(program.name)
    if path is None:
        raise SpeechError(
            f"the program {program.name!r} is not installed; install it: sudo apt install {program.package}"
        )
    wav = os.memfd_create(program.name)
    try:
        _run([path, *program.arguments(voice, speed, f"/proc/self/fd/{wav}")], text, wav, program)
        written = os.pread(wav, os.fstat(wav).st_size, 0)
    finally:
        os.close(wav)
    samples, rate = read_wav(written, program.name)
    return _at_24_khz(samples, rate)


def _run(command: Sequence[str], text: str, wav: int, program: SpeechProgram) -> None:
    try:
        done = subprocess.run(
            command,
            input=f"{text}\n".encode(),
            capture_output=True,
            env=child_environment(),
            pass_fds=(wav,),
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SpeechError(f"{program.name} did not finish a sentence in {_TIMEOUT_S:.0f} s") from None
    except OSError as exc:
        raise SpeechError(
            f"{program.name} cannot be started: {exc.strerror}; "
            f"reinstall it: sudo apt install --reinstall {program.package}"
        ) from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        why = one_line(said[0], 200) if said else "no error message"
        raise SpeechError(f"{program.name} exited with status {done.returncode}: {why}")


def read_wav(written: bytes, name: str) -> tuple[NDArray[np.int16], int]:
    """Return the samples and the rate of a mono 16-bit WAV; tolerates a data length beyond the end of the file.

    Raises:
        SpeechError: It is not such a WAV.
    """
    at, rate = 12, 0
    if written[:4] != b"RIFF" or written[8:12] != b"WAVE":
        raise SpeechError(f"{name} wrote {len(written)} bytes that are not a WAV file")
    while at + 8 <= len(written):
        kind, size = written[at : at + 4], int.from_bytes(written[at + 4 : at + 8], "little")
        chunk = written[at + 8 : at + 8 + size]
        if kind == b"fmt ":
            channels, rate = int.from_bytes(chunk[2:4], "little"), int.from_bytes(chunk[4:8], "little")
            if channels != 1 or chunk[14:16] != b"\x10\x00" or not rate:
                raise SpeechError(f"{name} wrote a WAV that is not mono 16-bit")
        elif kind == b"data" and rate:
            return np.frombuffer(chunk[: len(chunk) // 2 * 2], "<i2").astype(np.int16), rate
        at += 8 + size + size % 2
    raise SpeechError(f"{name} wrote a WAV without samples")


def _at_24_khz(samples: NDArray[np.int16], rate: int) -> bytes:
    if rate != WIRE_RATE and samples.size:
        samples = soxr.resample(samples, rate, WIRE_RATE, quality="HQ")
    return samples.astype("<i2").tobytes()
