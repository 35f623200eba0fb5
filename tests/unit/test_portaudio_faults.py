"""The PortAudio backend over a fake PyAudio with the faults of real cards, as they were measured."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from appliance.audio.backends import portaudio, portaudio_library
from appliance.audio.backends.portaudio import PortAudioBackend
from appliance.audio.cards import CardTree
from appliance.errors import AudioError, CardBusy, CardMissing
from tests.support.card_tree import USB, plant

TIMES = {"current_time": 1.0}


class Stream:
    """A stream of PyAudio whose callbacks the test calls."""

    def __init__(self, options: dict[str, Any], card: Card) -> None:
        self.callback = options["stream_callback"]
        self.channels = options["channels"]
        self._card = card
        self.is_closed = False
        self.activity: bool | OSError = True

    def start_stream(self) -> None:
        if self._card.does_not_start:
            raise OSError(-9999, "Unanticipated host error")

    def is_active(self) -> bool:
        if isinstance(self.activity, OSError):
            raise self.activity
        return self.activity

    def get_input_latency(self) -> float:
        return 0.06

    get_output_latency = get_input_latency

    def close(self) -> None:
        self.is_closed = True
        if self._card.is_gone:
            raise OSError(-9988, "Stream closed")


class Card:
    """PyAudio with two PCMs of a sound server; its list is made once per instance."""

    def __init__(self) -> None:
        self.pcms = ["mic"]
        self.streams: list[Stream] = []
        self.problem: OSError | None = None
        self.does_not_start = self.is_gone = False
        self.listings = 0

    def __call__(self) -> Card:
        if self.problem is not None:
            raise self.problem
        self.listings += 1
        self._listed = list(self.pcms)
        return self

    def get_device_count(self) -> int:
        return len(self._listed)

    def get_device_info_by_index(self, index: int) -> dict[str, Any]:
        found = {"index": index, "name": self._listed[index], "defaultSampleRate": 44_100.0}
        return found | {"maxInputChannels": 1, "maxOutputChannels": 2}

    def get_default_input_device_info(self) -> dict[str, Any]:
        raise OSError("No Default Input Device Available")

    get_default_output_device_info = get_default_input_device_info

    def open(self, **options: Any) -> Stream:
        self.streams.append(Stream(options, self))
        return self.streams[-1]

    def terminate(self) -> None: ...


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    one = Card()
    monkeypatch.setattr(portaudio.pyaudio, "PyAudio", one)
    return one


@pytest.fixture
def backend(tmp_path: Path, card: Card) -> Iterator[PortAudioBackend]:
    plant(tmp_path, ())
    one = PortAudioBackend(capture_card="mic", playback_card="mic", tree=CardTree(tmp_path))
    yield one
    one.close()


def failing(block: Any) -> Any:
    raise ValueError("a bug")


def test_exception_in_a_callback_does_not_end_the_sound_and_is_logged_at_the_close(
    card: Card, backend: PortAudioBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """PyAudio raises it in the thread that opened the stream, and makes no more callbacks."""
    capture, playback = backend.open_capture(failing), backend.open_playback(failing)
    heard, played = card.streams
    frames = capture.period
    assert heard.callback(bytes(2 * frames), frames, TIMES, 0) == (None, portaudio.pyaudio.paContinue)
    assert played.callback(None, frames, TIMES, 0) == (
        bytes(2 * frames * played.channels),
        portaudio.pyaudio.paContinue,
    )
    assert caplog.records == [], "a callback does not log"
    capture.close()
    playback.close()
    assert [one.getMessage() for one in caplog.records] == ["a sound callback failed"] * 2


@pytest.mark.parametrize("frames", [1, 480, 960, 1500])
def test_playback_returns_as_many_frames_as_were_asked_for(frames: int, card: Card, backend: PortAudioBackend) -> None:
    """A short buffer ends the stream without a word."""
    for has_sound in (False, True):
        backend.open_playback(lambda block, has_sound=has_sound: has_sound)
        stream = card.streams[-1]
        played, _ = stream.callback(None, frames, TIMES, 0)
        assert len(played) == 2 * frames * stream.channels


def test_capture_without_data_hears_nothing_and_goes_on(card: Card, backend: PortAudioBackend) -> None:
    heard: list[Any] = []
    backend.open_capture(heard.append)
    (stream,) = card.streams
    stream.callback(None, 960, TIMES, 0)
    stream.callback(np.ones(960 * stream.channels, np.int16).tobytes(), 960, TIMES, 0)
    assert [len(one) for one in heard] == [960]


def test_stream_is_active_until_its_card_is_gone(card: Card, backend: PortAudioBackend) -> None:
    """A hanging server leaves it active: only the age of the last callback shows that."""
    stream = backend.open_capture(lambda block: None)
    assert stream.is_active
    card.streams[0].activity = False
    assert not stream.is_active
    card.streams[0].activity = OSError(-9988, "Stream closed")
    assert not stream.is_active
    stream.close()
    assert not stream.is_active


def test_close_of_a_card_that_is_gone_is_no_error(
    card: Card, backend: PortAudioBackend, caplog: pytest.LogCaptureFixture
) -> None:
    stream = backend.open_capture(lambda block: None)
    card.is_gone = True
    with caplog.at_level(logging.INFO):
        stream.close()
        stream.close()
    assert [one.getMessage().partition(":")[0] for one in caplog.records] == [
        "the card disappeared before its stream was closed"
    ]


def test_stream_that_does_not_start_is_closed_so_that_the_card_is_free(card: Card, backend: PortAudioBackend) -> None:
    card.does_not_start = True
    with pytest.raises(AudioError, match="Unanticipated host error"):
        backend.open_capture(lambda block: None)
    assert [one.is_closed for one in card.streams] == [True]


def test_list_is_frozen_until_a_reset(card: Card, backend: PortAudioBackend) -> None:
    card.pcms = ["other"]
    for _ in range(2):
        with pytest.raises(AudioError):
            backend.open_capture(lambda block: None)
    card.pcms = ["mic"]
    with pytest.raises(AudioError):
        backend.open_capture(lambda block: None)
    assert card.listings == 1
    backend.reset()
    assert backend.look("capture") == "unlisted"
    backend.open_capture(lambda block: None)
    assert (card.listings, backend.look("capture")) == (2, "listed")


def test_portaudio_that_does_not_start_names_the_package(card: Card, backend: PortAudioBackend) -> None:
    card.problem = OSError("no library")
    with pytest.raises(AudioError, match="PortAudio does not start: no library; install libportaudio2"):
        backend.open_capture(lambda block: None)
    card.problem = None
    backend.open_capture(lambda block: None)


@pytest.mark.parametrize(("pcms", "found"), [(["mic", "spk"], "'mic', 'spk'"), ([], "none")])
def test_machine_without_a_default_card_names_those_that_it_has(
    pcms: list[str], found: str, card: Card, tmp_path: Path
) -> None:
    plant(tmp_path, ())
    card.pcms = pcms
    backend = PortAudioBackend(tree=CardTree(tmp_path))
    with pytest.raises(CardMissing, match=f"found: {found}"):
        backend.open_playback(lambda block: False)
    backend.close()


def test_card_that_the_kernel_has_and_portaudio_does_not_list_is_busy(card: Card, tmp_path: Path) -> None:
    """PortAudio opens each card to list it: one that is in use is left out."""
    plant(tmp_path, (USB,))
    backend = PortAudioBackend(tree=CardTree(tmp_path))
    with pytest.raises(CardBusy, match="was not available when the cards were listed"):
        backend.open_capture(lambda block: None)
    assert backend.look("capture") == "unlisted"
    backend.close()


@pytest.mark.parametrize("wanted", ["mic", "missing"])
def test_volume_of_a_pcm_is_set_in_software(wanted: str, card: Card, tmp_path: Path) -> None:
    plant(tmp_path, (USB,))
    assert PortAudioBackend(playback_card=wanted, mixer_control="auto", tree=CardTree(tmp_path)).open_mixer() is None
    assert PortAudioBackend(mixer_control="none", tree=CardTree(tmp_path)).open_mixer() is None


def test_own_portaudio_of_pyaudio_has_no_host_error_and_keeps_its_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portaudio_library, "_library", lambda: None)
    portaudio_library.ask_for_buffer(0, 0.06)
    assert portaudio_library.last_host_error() == ""


def test_buffer_and_host_error_are_read_from_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    device = portaudio_library._DeviceInfo()
    error = portaudio_library._HostErrorInfo(1, -28, b"No space left on device")
    library = SimpleNamespace(Pa_GetDeviceInfo=lambda index: [device], Pa_GetLastHostErrorInfo=lambda: [error])
    monkeypatch.setattr(portaudio_library, "_library", lambda: library)
    portaudio_library.ask_for_buffer(0, 0.06)
    assert device.defaultLowInputLatency == device.defaultLowOutputLatency == 0.06
    assert portaudio_library.last_host_error() == "No space left on device"
