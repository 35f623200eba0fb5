"""Real cards through PyAudio, PortAudio and ALSA, in callback mode at the card's own rate.

Facts that shape this file (established by experiment): PortAudio lists the PCMs once, at ``PyAudio()``, and opens each
of them to do so; it lists them again only after all instances are terminated. It opens a card by its number, which may
change when the card is plugged in again. A PCM that names the card's id is resolved at each opening: so one per
direction is added to the ALSA configuration before the listing, and a card that returns is opened without a new
listing. An exception in a callback is raised in the thread that opened the stream, and a short buffer ends the stream
silently: so the callbacks are total functions.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import product
from typing import Any

import numpy as np
import pyaudio
from numpy.typing import NDArray

from appliance.audio import pcm
from appliance.audio.alsa import possible_parameters, quiet_libraries
from appliance.audio.backends import Consume, Fill, Presence
from appliance.audio.backends.portaudio_library import ask_for_buffer, last_host_error
from appliance.audio.cards import CardTree, Choice, choose
from appliance.audio.mixer import CardMixer
from appliance.conversation.events import Direction
from appliance.errors import AudioError, CardBusy, CardMissing, RateUnsupported

__all__ = ["PortAudioBackend"]

log = logging.getLogger(__name__)

_RATES = (48_000, 44_100, 32_000, 16_000, 24_000)
_UNDERFLOW_OR_OVERFLOW = pyaudio.paInputOverflow | pyaudio.paOutputUnderflow
_HOST_ERROR, _INVALID_CHANNELS, _INVALID_RATE = -9999, -9998, -9997
_INVALID_DEVICE, _ILLEGAL_COMBINATION, _UNAVAILABLE = -9996, -9993, -9985
_CHANNELS: Mapping[Direction, str] = {"capture": "maxInputChannels", "playback": "maxOutputChannels"}
_DIRECTIONS: tuple[Direction, ...] = ("capture", "playback")
_OWN = "appliance_"  # begins the names of the PCMs that are added
_SYSTEM_CONFIGURATION = "/usr/share/alsa/alsa.conf"
_CALLBACK = Callable[[bytes | None, int, Mapping[str, float], int], tuple[bytes | None, int]]


class _PortAudioStream:
    """One PyAudio stream in callback mode."""

    def __init__(self, rate: int, period: int) -> None:
        self.rate = rate
        self.period = period
        self.latency = 2 * period
        self.last_callback_at = time.monotonic()
        self.xruns = 0
        self.late_callbacks = 0
        self._called_at = math.inf
        """PortAudio's time of the last callback; before the first, none that could have taken long."""
        self.ended_at = 0.0
        """Monotonic seconds at the end of the last callback."""
        self.failure: BaseException | None = None
        """The last exception caught in a callback; our bug, logged by `close`."""
        self._stream: Any = None

    def attach(self, stream: Any, latency_s: float) -> None:
        self._stream = stream
        self.latency = max(round(latency_s * self.rate), self.period)

    def begin(self, times: Mapping[str, float], status: int) -> None:
        """Record the begin of a callback, and the fault of an xrun: this program's if the callback before took long.

        That one began at PortAudio's time, before the wait for the interpreter, and ended at `ended_at`. Only intervals
        of PortAudio's clock and ours are compared: the two clocks differ, and PortAudio's may be set.
        """
        now, called_at = time.monotonic(), times["current_time"]
        if status & _UNDERFLOW_OR_OVERFLOW:
            took_s = (called_at - self._called_at) - (now - self.ended_at)
            if took_s * self.rate > self.period:
                self.late_callbacks += 1
            else:
                self.xruns += 1
        self.last_callback_at, self._called_at = now, called_at

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
    """PortAudio's cards, found by `cards.choose`.

    Args:
        capture_card: "default", an ALSA card id ("seeed2micvoicec"), a USB path, a name or part of it, or a PCM.
        playback_card: As `capture_card`.
        rate: Tried first; then the card's own default and the usual rates.
        period_ms: Milliseconds per callback.
        buffer_ms: Milliseconds of audio that the card holds: how late a callback may come without an xrun.
        mixer_control: The control of the loudspeaker's card that sets the volume; "auto" for a usual one, or "none".
        tree: Lists the kernel's cards.
    """

    def __init__(
        self,
        *,
        capture_card: str = "default",
        playback_card: str = "default",
        rate: int = 48_000,
        period_ms: int = 20,
        buffer_ms: int = 60,
        mixer_control: str = "none",
        tree: CardTree | None = None,
    ) -> None:
        self._wanted: dict[Direction, str] = {"capture": capture_card, "playback": playback_card}
        self._rate = rate
        self._period_ms = period_ms
        self._buffer_s = buffer_ms / 1000
        self._mixer_control = mixer_control
        self._tree = tree or CardTree()
        self._audio: pyaudio.PyAudio | None = None
        self._resources = ExitStack()
        self._ids: dict[Direction, tuple[str, int]] = {}
        """Card id and device of the PCM that was added for each direction."""

    def open_capture(self, consume: Consume) -> _PortAudioStream:
        def make(stream: _PortAudioStream, channels: int) -> _CALLBACK:
            def callback(data: bytes | None, frames: int, times: Mapping[str, float], status: int) -> tuple[None, int]:
                try:
                    stream.begin(times, status)
                    if data is not None:
                        consume(pcm.to_mono(np.frombuffer(data, np.int16), channels))
                    stream.ended_at = time.monotonic()
                except BaseException as exc:  # noqa: BLE001 - an exception in a callback ends all audio
                    stream.failure = exc
                return None, pyaudio.paContinue

            return callback

        return self._open("capture", make)

    def open_playback(self, fill: Fill) -> _PortAudioStream:
        def make(stream: _PortAudioStream, channels: int) -> _CALLBACK:
            block: NDArray[np.int16] = np.zeros(8 * stream.period, np.int16)
            silence = bytes(2 * channels * stream.period)

            def callback(data: bytes | None, frames: int, times: Mapping[str, float], status: int) -> tuple[bytes, int]:
                try:
                    stream.begin(times, status)
                    out = block[:frames]
                    has_sound = fill(out)
                    is_silent = not has_sound and frames == stream.period
                    played = silence if is_silent else pcm.spread(out, channels).tobytes()
                    stream.ended_at = time.monotonic()
                    return played, pyaudio.paContinue
                except BaseException as exc:  # noqa: BLE001 - as above
                    stream.failure = exc
                    return bytes(2 * channels * frames), pyaudio.paContinue

            return callback

        return self._open("playback", make)

    def open_mixer(self) -> CardMixer | None:
        try:
            choice = choose(self._tree.cards(), self._wanted["playback"], "playback")
        except AudioError:  # missing, or a PCM of the ALSA configuration, which need not be one card
            return None
        if choice.card is None or self._mixer_control == "none":
            return None
        mixer = CardMixer(choice.card.id, self._mixer_control)
        log.info("the volume is set by %s of card %s", mixer.control, choice.card.id)
        return mixer

    def look(self, direction: Direction) -> Presence:
        if self._audio is None:
            return "unlisted"
        try:
            choice, _ = self._find(self._audio, direction)
        except CardBusy:
            return "unlisted"
        except CardMissing:
            # The kernel's list says nothing about PCMs of other kinds, such as those of a sound server.
            return "unlisted" if possible_parameters(self._wanted[direction], direction) else "absent"
        except AudioError:
            return "listed"  # opening it reports why it cannot be opened
        if choice.card is None or (choice.card.id, choice.device) == self._ids.get(direction):
            return "listed"
        return "unlisted"

    def reset(self) -> None:
        """Drop the list of cards; the next opening lists them again."""
        audio, self._audio = self._audio, None
        if audio is not None:
            audio.terminate()
        self._resources.close()
        self._ids = {}

    close = reset

    # --- opening ------------------------------------------------------------------------------------------------

    def _list(self) -> pyaudio.PyAudio:
        """Return the list of cards, made at the first call after `reset`."""
        if self._audio is None:
            cards = self._tree.cards()
            for direction in _DIRECTIONS:
                try:
                    choice = choose(cards, self._wanted[direction], direction)
                except AudioError:
                    continue  # a PCM of the ALSA configuration, or missing: reported when it is opened
                if choice.card is not None:
                    self._ids[direction] = choice.card.id, choice.device
            self._resources.enter_context(quiet_libraries())
            self._resources.enter_context(_configured(self._ids))
            try:
                self._audio = pyaudio.PyAudio()
            except OSError as exc:
                self.reset()
                raise AudioError(f"PortAudio does not start: {exc.strerror or exc}; install libportaudio2") from None
        return self._audio

    def _open(self, direction: Direction, make: Callable[[_PortAudioStream, int], _CALLBACK]) -> _PortAudioStream:
        audio = self._list()
        choice, card = self._find(audio, direction)
        rates = list(dict.fromkeys([self._rate, int(card["defaultSampleRate"]), *_RATES]))
        channels = (1, 2) if int(card[_CHANNELS[direction]]) >= 2 else (1,)
        problem: OSError | None = None
        for rate, count in product(rates, channels):
            try:
                stream = self._start(audio, direction, card, rate, count, make)
            except OSError as exc:
                problem = exc
                if exc.errno not in (_INVALID_RATE, _INVALID_CHANNELS):
                    break
            else:
                log.info("%s: %s; %d Hz, %d channel(s), %d frames", direction, choice, rate, count, stream.period)
                return stream
        assert problem is not None
        raise _explained(choice, card, problem, f"{', '.join(map(str, rates))} Hz with {channels[-1]} channel(s)")

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
        ask_for_buffer(card["index"], self._buffer_s)
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
        return stream

    def _find(self, audio: pyaudio.PyAudio, direction: Direction) -> tuple[Choice, Mapping[str, Any]]:
        """Return the card of a direction and PortAudio's entry for it."""
        entries = {str(entry["name"]): entry for entry in _entries(audio, direction)}
        cards = self._tree.cards()
        pcms = [name for name in entries if not (name.startswith(_OWN) or (cards and "(hw:" in name))]
        choice = choose(cards, self._wanted[direction], direction, pcms)
        if choice.card is None:
            return choice, entries[choice.pcm] if choice.pcm else _default_entry(audio, direction, pcms)
        if (choice.card.id, choice.device) == self._ids.get(direction) and _OWN + direction in entries:
            return choice, entries[_OWN + direction]
        number = f"(hw:{choice.card.number},{choice.device})"
        for name, entry in entries.items():
            if number in name:
                return choice, entry
        raise CardBusy(
            f"{direction}: {choice.card} was not available when the cards were listed{_held(choice)}; "
            f"stop the program that uses it, or set audio.{direction}_card to another card"
        )


def _entries(audio: pyaudio.PyAudio, direction: Direction) -> Iterator[Mapping[str, Any]]:
    for index in range(audio.get_device_count()):
        entry = audio.get_device_info_by_index(index)
        if int(entry[_CHANNELS[direction]]) > 0:
            yield entry


def _default_entry(audio: pyaudio.PyAudio, direction: Direction, pcms: list[str]) -> Mapping[str, Any]:
    try:
        get = audio.get_default_input_device_info if direction == "capture" else audio.get_default_output_device_info
        found: Mapping[str, Any] = get()
        return found
    except OSError:
        names = ", ".join(map(repr, pcms)) or "none"
        raise CardMissing(
            f"{direction}: no default card; found: {names}. Plug it in, or set audio.{direction}_card to one of these"
        ) from None


@contextmanager
def _configured(ids: Mapping[Direction, tuple[str, int]]) -> Iterator[None]:
    """Add one PCM for each direction to the ALSA configuration of this process.

    The environment variable and the file are read by libasound at each opening, so both stay as long as PortAudio runs.
    The file is in the runtime folder of the service: Debian 13 removes files of ten days from /tmp.
    """
    if not ids:
        yield
        return
    kind = "plug" if os.environ.get("PA_ALSA_PLUGHW", "0") != "0" else "hw"
    before = os.environ.get("ALSA_CONFIG_PATH")
    folder = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0] or None
    with tempfile.NamedTemporaryFile("w", prefix="appliance-", suffix=".conf", dir=folder) as file:
        for direction, (card_id, device) in ids.items():
            card = f'type hw card "{card_id}" device {device}'
            file.write(f"pcm.{_OWN}{direction} {{ {card if kind == 'hw' else f'type plug slave.pcm {{ {card} }}'} }}\n")
        file.flush()
        os.environ["ALSA_CONFIG_PATH"] = f"{before or _SYSTEM_CONFIGURATION}:{file.name}"
        try:
            yield
        finally:
            if before is None:
                del os.environ["ALSA_CONFIG_PATH"]
            else:
                os.environ["ALSA_CONFIG_PATH"] = before


def _held(choice: Choice) -> str:
    """Return ": held by PROGRAM (pid N)" if the kernel names another process."""
    pcm = choice.card.pcm(choice.direction) if choice.card is not None else None
    holders = [str(holder) for holder in pcm.holders if holder.pid != os.getpid()] if pcm is not None else []
    return f": held by {', '.join(holders)}" if holders else ""


def _possible(choice: Choice, name: str) -> str:
    """Return the parameters that the card offers, for a message."""
    if choice.card is None:
        return possible_parameters(name, choice.direction) or "not known"
    pcm = choice.card.pcm(choice.direction)
    listed = pcm.possible if pcm is not None else ""
    probed = f"hw:CARD={choice.card.id},DEV={choice.device}"
    return listed or possible_parameters(probed, choice.direction) or "not known"


def _explained(choice: Choice, card: Mapping[str, Any], exc: OSError, rates: str) -> AudioError:
    """Return the error of one line: the card, what was asked, what is possible, the remedy."""
    direction, host = choice.direction, last_host_error() if exc.errno == _HOST_ERROR else ""
    name = choice.card or repr(str(card["name"]))
    asked = f"{direction}: {name}: asked for {rates} and 16 bits"
    possible = f"possible: {_possible(choice, str(card['name']))}"
    setting = f"audio.{direction}_card"
    if exc.errno == errno.ENOSPC or "No space left on device" in f"{exc} {host}":
        return AudioError(
            f"{asked}; {possible}; the USB bus has no bandwidth left: use another port, without a hub, "
            "or a lower audio.rate"
        )
    match exc.errno:
        case code if code == _UNAVAILABLE:
            return CardBusy(
                f"{asked}; {possible}; in use by another program{_held(choice)}; stop it (often PulseAudio or "
                f"PipeWire), or set {setting} to a shared card"
            )
        case code if code == _INVALID_RATE:
            return RateUnsupported(f"{asked}; {possible}; set audio.rate to a rate that the card has")
        case code if code == _INVALID_CHANNELS:
            return AudioError(
                f"{asked}; {possible}; the card has neither one nor two channels of 16 bits: set PA_ALSA_PLUGHW=1 "
                f"in the environment, or {setting} to a plug PCM"
            )
        case code if code in (_ILLEGAL_COMBINATION, _INVALID_DEVICE):
            return CardMissing(
                f"{asked}; {possible}; it was unplugged, or this user has no permission: plug it in, and add the "
                "user to the group 'audio'"
            )
        case _:
            return AudioError(
                f"{asked}; {possible}; {host or exc.strerror or exc}: plug the card in again, and see the kernel's log"
            )
