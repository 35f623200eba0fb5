"""Real cards through PyAudio, PortAudio and ALSA, in callback mode at the card's own rate.

Facts that shape this file (established by experiment): PortAudio lists the PCMs once, at ``PyAudio()``, and opens each
of them to do so; it lists them again only after all instances are terminated. An exception in a callback is raised in
the thread that opened the stream, and a short buffer ends the stream silently: so the callbacks are total functions.
What ALSA and JACK write to standard error is dropped: every listing prints a page of it.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyaudio
from numpy.typing import NDArray

from appliance.audio import pcm
from appliance.audio.backends import Consume, Fill
from appliance.conversation.events import Direction
from appliance.errors import AudioError, CardBusy, CardMissing, RateUnsupported

__all__ = ["PortAudioBackend"]

log = logging.getLogger(__name__)

_RATES = (48_000, 44_100, 32_000, 16_000, 24_000)
_UNDERFLOW_OR_OVERFLOW = pyaudio.paInputOverflow | pyaudio.paOutputUnderflow
_INVALID_RATE, _UNAVAILABLE, _ILLEGAL_COMBINATION, _INVALID_CHANNELS = -9997, -9985, -9993, -9998
_CHANNELS: Mapping[Direction, str] = {"capture": "maxInputChannels", "playback": "maxOutputChannels"}
_CALLBACK = Callable[[bytes | None, int, Mapping[str, float], int], tuple[bytes | None, int]]


class _PortAudioStream:
    """One PyAudio stream in callback mode."""

    def __init__(self, rate: int, period: int) -> None:
        self.rate = rate
        self.period = period
        self.latency = 2 * period
        self.last_callback_at = time.monotonic()
        self.xruns = 0
        self.failure: BaseException | None = None
        """The last exception caught in a callback; our bug, logged by `close`."""
        self._stream: Any = None

    def attach(self, stream: Any, latency_s: float) -> None:
        self._stream = stream
        self.latency = max(round(latency_s * self.rate), self.period)

    @property
    def is_active(self) -> bool:
        try:
            return self._stream is not None and bool(self._stream.is_active())
        except OSError:
            return False

    def close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is None:
            return
        if self.failure is not None:
            log.error("a sound callback failed", exc_info=self.failure)
        try:
            stream.close()
        except OSError as exc:
            log.info("the card disappeared before its stream was closed: %s", exc)


class PortAudioBackend:
    """PortAudio's cards, found by name.

    Args:
        capture_card: "default", an ALSA card id ("seeed2micvoicec"), a PCM's name, or a part of PortAudio's name.
        playback_card: As `capture_card`.
        rate: Tried first; then the card's own default and the usual rates.
        period_ms: Milliseconds per callback.
    """

    def __init__(
        self,
        *,
        capture_card: str = "default",
        playback_card: str = "default",
        rate: int = 48_000,
        period_ms: int = 20,
    ) -> None:
        self._cards: dict[Direction, str] = {"capture": capture_card, "playback": playback_card}
        self._rate = rate
        self._period_ms = period_ms
        self._audio: pyaudio.PyAudio | None = None

    def open_capture(self, consume: Consume) -> _PortAudioStream:
        def make(stream: _PortAudioStream, channels: int) -> _CALLBACK:
            def callback(data: bytes | None, frames: int, times: Mapping[str, float], status: int) -> tuple[None, int]:
                try:
                    stream.last_callback_at = time.monotonic()
                    if status & _UNDERFLOW_OR_OVERFLOW:
                        stream.xruns += 1
                    if data is not None:
                        consume(pcm.to_mono(np.frombuffer(data, np.int16), channels))
                except BaseException as exc:  # noqa: BLE001 - an exception in a callback ends all audio
                    stream.failure = exc
                return None, pyaudio.paContinue

            return callback

        return self._open("capture", make)

    def open_playback(self, fill: Fill) -> _PortAudioStream:
        def make(stream: _PortAudioStream, channels: int) -> _CALLBACK:
            block: NDArray[np.int16] = np.zeros(8 * stream.period, np.int16)

            def callback(data: bytes | None, frames: int, times: Mapping[str, float], status: int) -> tuple[bytes, int]:
                try:
                    stream.last_callback_at = time.monotonic()
                    if status & _UNDERFLOW_OR_OVERFLOW:
                        stream.xruns += 1
                    out = block[:frames]
                    fill(out)
                    return pcm.spread(out, channels).tobytes(), pyaudio.paContinue
                except BaseException as exc:  # noqa: BLE001 - as above
                    stream.failure = exc
                    return bytes(2 * channels * frames), pyaudio.paContinue

            return callback

        return self._open("playback", make)

    def reset(self) -> None:
        """Drop the list of cards; the next opening lists them again."""
        audio, self._audio = self._audio, None
        if audio is not None:
            audio.terminate()

    close = reset

    # --- opening ------------------------------------------------------------------------------------------------

    def _open(self, direction: Direction, make: Callable[[_PortAudioStream, int], _CALLBACK]) -> _PortAudioStream:
        if self._audio is None:
            with _quiet():
                self._audio = pyaudio.PyAudio()
        audio = self._audio
        card = self._find(audio, direction)
        rates = list(dict.fromkeys([self._rate, int(card["defaultSampleRate"]), *_RATES]))
        channels = (1, 2) if int(card[_CHANNELS[direction]]) >= 2 else (1,)
        problem: OSError | None = None
        for rate, count in product(rates, channels):
            try:
                return self._start(audio, direction, card, rate, count, make)
            except OSError as exc:
                problem = exc
                if exc.errno == _UNAVAILABLE:
                    break
        assert problem is not None
        raise _explained(direction, card, problem, rates)

    def _start(
        self,
        audio: pyaudio.PyAudio,
        direction: Direction,
        card: Mapping[str, Any],
        rate: int,
        channels: int,
        make: Callable[[_PortAudioStream, int], _CALLBACK],
    ) -> _PortAudioStream:
        period = rate * self._period_ms // 1000
        stream = _PortAudioStream(rate, period)
        is_capture = direction == "capture"
        with _quiet():
            opened = audio.open(
                rate=rate,
                channels=channels,
                format=pyaudio.paInt16,
                input=is_capture,
                output=not is_capture,
                input_device_index=card["index"] if is_capture else None,
                output_device_index=None if is_capture else card["index"],
                frames_per_buffer=period,
                stream_callback=make(stream, channels),
                start=False,
            )
        stream.attach(opened, opened.get_input_latency() if is_capture else opened.get_output_latency())
        stream.last_callback_at = time.monotonic()
        try:
            opened.start_stream()
        except BaseException:
            opened.close()  # else the card stays busy, even for this process
            raise
        log.info("%s: %s at %d Hz, %d channel(s), %d frames", direction, card["name"], rate, channels, period)
        return stream

    def _find(self, audio: pyaudio.PyAudio, direction: Direction) -> Mapping[str, Any]:
        wanted = self._cards[direction]
        cards = list(_cards(audio, direction))
        if wanted == "default":
            try:
                get = audio.get_default_input_device_info
                found: Mapping[str, Any] = get() if direction == "capture" else audio.get_default_output_device_info()
                return found
            except OSError:
                raise CardMissing(_none_of(direction, wanted, cards)) from None
        numbers = _alsa_numbers(wanted)
        for card in cards:
            name = str(card["name"])
            if name == wanted or wanted in name or any(f"(hw:{number}," in name for number in numbers):
                return card
        raise CardMissing(_none_of(direction, wanted, cards))


def _cards(audio: pyaudio.PyAudio, direction: Direction) -> Iterator[Mapping[str, Any]]:
    for index in range(audio.get_device_count()):
        card = audio.get_device_info_by_index(index)
        if int(card[_CHANNELS[direction]]) > 0:
            yield card


def _alsa_numbers(card_id: str) -> list[str]:
    """Return ALSA's current numbers of the card with this id; not cached, because they change."""
    try:
        text = Path("/proc/asound/cards").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [number for number, name in re.findall(r"^\s*(\d+) \[(\S+)\s*\]", text, re.MULTILINE) if name == card_id]


def _none_of(direction: Direction, wanted: str, cards: list[Mapping[str, Any]]) -> str:
    names = ", ".join(repr(str(card["name"])) for card in cards) or "none"
    return f"{direction}: no card {wanted!r}; found: {names}. Plug it in, or set audio.{direction}_card to one of these"


def _explained(direction: Direction, card: Mapping[str, Any], exc: OSError, rates: list[int]) -> AudioError:
    name = card["name"]
    match exc.errno:
        case _ if exc.errno == _UNAVAILABLE:
            return CardBusy(
                f"{direction}: {name!r} is in use by another program; stop it (often PulseAudio or PipeWire), "
                f"or set audio.{direction}_card to a shared card"
            )
        case _ if exc.errno == _INVALID_RATE:
            return RateUnsupported(
                f"{direction}: {name!r} supports none of {', '.join(map(str, rates))} Hz; set audio.rate to another"
            )
        case _ if exc.errno == _ILLEGAL_COMBINATION:
            return CardMissing(
                f"{direction}: {name!r} cannot be opened: it was unplugged, or this user has no permission "
                "(is the user in the group 'audio'?)"
            )
        case _ if exc.errno == _INVALID_CHANNELS:
            return AudioError(f"{direction}: {name!r} has neither one nor two 16-bit channels; use a plug PCM")
        case _:
            return AudioError(f"{direction}: {name!r}: {exc.strerror or exc}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop what C libraries write to standard error."""
    saved = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
