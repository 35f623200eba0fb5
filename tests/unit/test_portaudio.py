"""The PortAudio backend over a fake PyAudio and recorded cards of the kernel."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from appliance.audio.backends import portaudio
from appliance.audio.backends.portaudio import PortAudioBackend
from appliance.audio.cards import CardTree
from appliance.audio.ring import Int16
from appliance.conversation.events import Direction
from appliance.errors import AudioError, CardBusy, CardMissing, RateUnsupported
from tests.support.card_tree import HEADPHONES, SECOND_USB, USB, WEBCAM, Recorded, plant


class FakeStream:
    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.is_closed = False

    def start_stream(self) -> None: ...

    def is_active(self) -> bool:
        return True

    def get_input_latency(self) -> float:
        return 0.06

    get_output_latency = get_input_latency

    def close(self) -> None:
        self.is_closed = True


class FakePyAudio:
    """Lists, as PortAudio does, the kernel's cards and the PCMs of the configuration that can be opened right now."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.is_terminated = False
        machine.instances.append(self)
        cards = CardTree(machine.root).cards()
        self.entries: list[tuple[str, int, int]] = [
            (f"{card.name}: - (hw:{card.number},0)", *self._directions(card.pcms)) for card in cards
        ]
        path = os.environ.get("ALSA_CONFIG_PATH", "").split(":")[-1]
        self.configuration = Path(path).read_text(encoding="ascii") if path else ""
        by_id = {card.id: card for card in cards}
        for name, card_id in re.findall(r'pcm\.(\w+) \{.*card "(\w+)"', self.configuration):
            if card_id in by_id:
                self.entries.append((name, *self._directions(by_id[card_id].pcms)))
        self.entries += [(name, 2, 2) for name in machine.pcms]

    @staticmethod
    def _directions(pcms: Any) -> tuple[int, int]:
        directions = [pcm.direction for pcm in pcms]
        return directions.count("capture"), 2 * directions.count("playback")

    def get_device_count(self) -> int:
        return len(self.entries)

    def get_device_info_by_index(self, index: int) -> dict[str, Any]:
        name, inputs, outputs = self.entries[index]
        return {
            "index": index,
            "name": name,
            "maxInputChannels": inputs,
            "maxOutputChannels": outputs,
            "defaultSampleRate": 44_100.0,
        }

    def get_default_input_device_info(self) -> dict[str, Any]:
        return self.get_device_info_by_index(0)

    def open(self, **options: Any) -> FakeStream:
        self._machine.opened.append(options)
        if self._machine.refuses is not None:
            raise self._machine.refuses
        return FakeStream(options)

    def terminate(self) -> None:
        self.is_terminated = True


class Machine:
    """A machine with recorded cards."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.pcms: list[str] = []
        self.instances: list[FakePyAudio] = []
        self.opened: list[dict[str, Any]] = []
        self.refuses: OSError | None = None

    def has(self, *cards: Recorded | None, **options: Any) -> None:
        plant(self.root, cards, **options)

    def backend(self, **options: Any) -> PortAudioBackend:
        return PortAudioBackend(tree=CardTree(self.root), **options)

    def name_of(self, options: dict[str, Any]) -> str:
        index = options["input_device_index"]
        return self.instances[-1].entries[options["output_device_index"] if index is None else index][0]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    one = Machine(tmp_path)
    monkeypatch.delenv("ALSA_CONFIG_PATH", raising=False)
    monkeypatch.delenv("PA_ALSA_PLUGHW", raising=False)
    monkeypatch.setattr(portaudio.pyaudio, "PyAudio", lambda: FakePyAudio(one))
    yield one
    assert "ALSA_CONFIG_PATH" not in os.environ, "close the backend"


def open_it(backend: PortAudioBackend, direction: Direction = "capture") -> Any:
    opening: Callable[..., Any] = backend.open_capture if direction == "capture" else backend.open_playback
    return opening(lambda block: None)


def test_card_is_opened_by_a_pcm_that_names_its_id(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.has(SECOND_USB, USB)
    backend = machine.backend(capture_card="Device")
    with caplog.at_level(logging.INFO):
        open_it(backend)
    assert machine.name_of(machine.opened[-1]) == "appliance_capture"
    assert 'pcm.appliance_capture { type hw card "Device" device 0 }' in machine.instances[0].configuration
    assert "id Device path platform-usb-0:1.2:1.0" in caplog.text
    assert "its id is 'Device'" in caplog.text
    backend.close()


def test_named_pcms_are_in_the_runtime_folder_which_is_not_cleaned_by_age(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{folder}:/run/other")
    machine.has(USB)
    backend = machine.backend(capture_card="Device")
    open_it(backend)
    assert [str(one) for one in folder.iterdir()] == [os.environ["ALSA_CONFIG_PATH"].split(":")[-1]]
    backend.close()
    assert list(folder.iterdir()) == []


def test_card_that_returns_under_another_number_is_opened_on_the_same_instance(machine: Machine) -> None:
    machine.has(HEADPHONES, USB)
    backend = machine.backend(capture_card="Device", playback_card="Headphones")
    open_it(backend)
    machine.has(HEADPHONES)
    assert backend.look("capture") == "absent"
    machine.has(HEADPHONES, None, USB)
    assert backend.look("capture") == "listed"
    open_it(backend)
    assert len(machine.instances) == 1
    assert not machine.instances[0].is_terminated
    assert machine.name_of(machine.opened[-1]) == "appliance_capture"
    backend.close()


def test_card_that_was_absent_at_the_listing_needs_a_reset(machine: Machine) -> None:
    machine.has(HEADPHONES)
    backend = machine.backend(capture_card="Device", playback_card="Headphones")
    open_it(backend, "playback")
    assert backend.look("capture") == "absent"
    machine.has(HEADPHONES, USB)
    assert backend.look("capture") == "unlisted"
    backend.reset()
    open_it(backend)
    assert [one.is_terminated for one in machine.instances] == [True, False]
    backend.close()


def test_card_of_a_sound_server_is_found_by_its_pcm(machine: Machine) -> None:
    machine.pcms = ["mic", "mic2"]
    machine.has()
    backend = machine.backend(capture_card="mic")
    assert backend.look("capture") == "unlisted"
    open_it(backend)
    assert machine.name_of(machine.opened[-1]) == "mic"
    assert backend.look("capture") == "listed"
    backend.close()


def test_plug_conversion_is_kept_for_the_named_pcm(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PA_ALSA_PLUGHW", "1")
    machine.has(USB)
    backend = machine.backend()
    open_it(backend)
    assert 'type plug slave.pcm { type hw card "Device" device 0 }' in machine.instances[0].configuration
    backend.close()


@pytest.mark.parametrize("direction", ["capture", "playback"])
def test_card_is_asked_for_a_buffer_of_60_ms_before_it_is_opened(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, direction: Direction
) -> None:
    asked: list[tuple[str, float, int]] = []
    monkeypatch.setattr(
        portaudio,
        "ask_for_buffer",
        lambda index, s: asked.append((machine.instances[-1].entries[index][0], s, len(machine.opened))),
    )
    machine.has(USB)
    backend = machine.backend()
    open_it(backend, direction)
    assert asked == [(f"appliance_{direction}", 0.06, 0)]
    backend.close()


@pytest.mark.parametrize(
    ("problem", "kind", "words"),
    [
        (OSError(-9999, "Unanticipated host error"), AudioError, "Unanticipated host error: plug the card in again"),
        (OSError(-9996, "Invalid device"), CardMissing, "plug it in"),
        (OSError(-9985, "Device unavailable"), CardBusy, "held by pipewire (pid 400); stop it"),
        (OSError(-9993, "Illegal combination of I/O devices"), CardMissing, "the group 'audio'"),
        (OSError(-9997, "Invalid sample rate"), RateUnsupported, "set audio.rate to a rate that the card has"),
        (OSError(-9998, "Invalid number of channels"), AudioError, "PA_ALSA_PLUGHW=1"),
        (OSError(28, "No space left on device"), AudioError, "the USB bus has no bandwidth left"),
    ],
)
@pytest.mark.parametrize("is_again", [False, True], ids=["first", "again"])
def test_refusal_is_one_line_with_card_asked_possible_and_remedy(
    machine: Machine, problem: OSError, kind: type[AudioError], words: str, is_again: bool
) -> None:
    held = Recorded(USB.id, USB.name, stream=USB.stream, held_by=412)
    machine.has(held, programs={412: (400, "pipewire")})
    backend = machine.backend()
    if is_again:
        open_it(backend).close()
    machine.refuses = problem
    with pytest.raises(AudioError) as caught:
        open_it(backend)
    backend.close()
    text = str(caught.value)
    assert type(caught.value) is kind
    assert text.startswith("capture: 'USB Audio Device' (id Device): asked for 48000")
    assert "possible: S16_LE, 1 channels, 16000, 48000 Hz" in text
    assert words in text
    assert "\n" not in text


def test_host_error_is_explained_by_alsa_s_own_text(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.has(USB)
    machine.refuses = OSError(-9999, "Unanticipated host error")
    monkeypatch.setattr(portaudio, "last_host_error", lambda: "No space left on device")
    backend = machine.backend()
    with pytest.raises(AudioError, match="no bandwidth left"):
        open_it(backend)
    backend.close()


def test_only_a_refused_rate_is_tried_with_another(machine: Machine) -> None:
    machine.has(WEBCAM)
    backend = machine.backend()
    for problem, attempts in ((OSError(-9985, "Device unavailable"), 1), (OSError(-9997, "Invalid sample rate"), 5)):
        machine.opened.clear()
        machine.refuses = problem
        with pytest.raises(AudioError):
            open_it(backend)
        assert len(machine.opened) == attempts
    backend.close()


@pytest.mark.parametrize("direction", ["capture", "playback"])
@pytest.mark.parametrize(
    ("held_ms", "stalled_ms", "steps_s", "late", "lost"),
    [
        (0, 0, 0, 0, 1),  # the card lost a period by itself
        (0, 100, 0, 0, 1),  # the card did not ask for 100 ms
        (70, 0, 0, 1, 0),  # the interpreter was held for 70 ms
        (0, 0, 5, 1, 0),  # PortAudio's clock was set between these two callbacks: wrong, and only once
    ],
)
def test_xrun_is_this_program_s_if_the_callback_before_took_long(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    direction: Direction,
    held_ms: int,
    stalled_ms: int,
    steps_s: int,
    late: int,
    lost: int,
) -> None:
    machine.has(USB)
    backend = machine.backend()
    now_ms, clock_ms = 1_000_000, 0
    monkeypatch.setattr(portaudio, "time", SimpleNamespace(monotonic=lambda: now_ms / 1000))
    stream = open_it(backend, direction)
    call = machine.opened[-1]["stream_callback"]
    period = bytes(2 * stream.period * machine.opened[-1]["channels"])

    def run(status: int, *, held_ms: int = 0) -> None:
        """Run one callback, `held_ms` after PortAudio took its time."""
        nonlocal now_ms
        times = {"current_time": (now_ms + clock_ms) / 1000}
        now_ms += held_ms
        played, _ = call(period, stream.period, times, status)
        assert direction == "capture" or len(played) == len(period)
        now_ms += 20

    flag = 2 if direction == "capture" else 4  # paInputOverflow, paOutputUnderflow
    for _ in range(3):
        run(0)
    run(0, held_ms=held_ms)
    now_ms += stalled_ms
    clock_ms += 1000 * steps_s
    run(flag)
    assert (stream.late_callbacks, stream.xruns) == (late, lost)
    run(0)
    run(flag)
    assert (stream.late_callbacks, stream.xruns) == (late, lost + 1), "one late callback explains one xrun"
    backend.close()


def test_silence_is_not_copied_and_its_callbacks_count_as_any_other(machine: Machine) -> None:
    """Catches silence of another length, sound that is not played, and a callback age that stands still at rest."""
    machine.has(USB)
    has_sound = [False, False, True, False]

    def fill(block: Int16) -> bool:
        block[:] = 9 if has_sound[0] else 0
        return has_sound.pop(0)

    stream = machine.backend().open_playback(fill)
    call, channels = machine.opened[-1]["stream_callback"], machine.opened[-1]["channels"]
    played: list[bytes] = []
    before = stream.last_callback_at
    for frames in (stream.period, stream.period, stream.period, 7):
        out, _ = call(None, frames, {"current_time": 12_345.0}, 0)
        played.append(out)
    assert played[0] == bytes(2 * channels * stream.period)
    assert played[0] is played[1]
    assert set(np.frombuffer(played[2], "<i2")) == {9}
    assert [len(one) for one in played] == [2 * channels * frames for frames in (*[stream.period] * 3, 7)]
    assert stream.last_callback_at > before


def test_xrun_before_the_first_callback_is_the_card_s(machine: Machine) -> None:
    machine.has(USB)
    backend = machine.backend()
    stream = open_it(backend, "playback")
    machine.opened[-1]["stream_callback"](None, stream.period, {"current_time": 12_345.0}, 4)
    assert (stream.late_callbacks, stream.xruns) == (0, 1)
    backend.close()
