"""Real PyAudio, PortAudio and ALSA, over files and virtual cables: the audio that runs on a Pi, without its card."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.simulator.stand import speak
from tests.alsa.signal import ramp
from tests.support.pulse import Cable, asound_conf, require_pulseaudio

pytestmark = [pytest.mark.alsa, pytest.mark.timeout(150)]

_FILES = """\
pcm.nullcard {{ type null }}
pcm.filespk {{ type file slave.pcm "nullcard" file "{folder}/spk.raw" format raw }}
pcm.filemic {{ type file slave.pcm "nullcard" file "/dev/null" infile "{folder}/mic.raw" format raw }}
pcm.both {{ type asym playback.pcm "filespk" capture.pcm "filemic" }}
pcm.!default {{ type plug slave.pcm "both" }}
"""


@contextmanager
def probing(name: str, folder: Path, configuration: str) -> Iterator[subprocess.Popen[str]]:
    """Run one probe with this ALSA configuration; whatever it says on standard error is shown if it fails."""
    path = folder / "asound.conf"
    path.write_text(configuration, encoding="ascii")
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("APPLIANCE_", "OPENAI_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.alsa.probe", name],
        env=environ | {"ALSA_CONFIG_PATH": str(path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _next(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the probe ended"
    row: dict[str, Any] = json.loads(line)
    return row


def _tell(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdin is not None
    process.stdin.write(word + "\n")
    process.stdin.flush()


@pytest.fixture
def cables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cable, Cable]]:
    require_pulseaudio()
    folder = tmp_path_factory.mktemp("pa")
    microphone, speaker = Cable(folder / "m"), Cable(folder / "s")
    microphone.plug()
    speaker.plug()
    yield microphone, speaker
    microphone.unplug()
    speaker.unplug()


def test_a_known_signal_reaches_alsa_bit_exact(tmp_path: Path) -> None:
    (tmp_path / "mic.raw").write_bytes(bytes(4800))
    with probing("unpaced_playback", tmp_path, _FILES.format(folder=tmp_path)) as probe:
        assert _next(probe)["rate"] == 24_000
    assert ramp().astype("<i2").tobytes() in (tmp_path / "spk.raw").read_bytes()


def test_a_known_signal_comes_from_alsa_bit_exact(tmp_path: Path) -> None:
    (tmp_path / "mic.raw").write_bytes(ramp().astype("<i2").tobytes() * 40)
    with probing("unpaced_capture", tmp_path, _FILES.format(folder=tmp_path)) as probe:
        assert _next(probe) == {"rate": 24_000, "is_exact": True}


def test_full_duplex_over_a_virtual_cable(tmp_path: Path, cables: tuple[Cable, Cable]) -> None:
    with probing("duplex", tmp_path, asound_conf(*cables)) as probe:
        row = _next(probe)
    assert row["played"] == row["sent"], "every frame of the answer is accounted for"
    assert row["grows"]
    assert row["lost"] == []
    assert row["likeness"] > (0.99 if row["xruns"] == 0 else 0.5), row  # a busy machine may lose a period


async def test_a_whole_turn_over_a_virtual_card(tmp_path: Path, cables: tuple[Cable, Cable]) -> None:
    microphone, speaker = cables
    speech = await speak("turn on the lamp", voice="slt")
    recording = tmp_path / "spk.raw"
    with probing("turn", tmp_path, asound_conf(*cables)) as probe:
        assert _next(probe) == {"state": "ready"}
        recorder = speaker.record(recording)
        _tell(probe, "press")
        assert _next(probe) == {"done": "press"}
        assert microphone.play(bytes(9600) + speech + bytes(19_200)).wait(timeout=60) == 0
        _tell(probe, "release")
        assert _next(probe) == {"done": "release"}
        row = _next(probe)
        recorder.terminate()
        recorder.wait()
    assert row["outcome"] == "answered", row
    assert row["tools"] == [["set_lamp", '{"on": true}', '{"on":true}']], row
    assert row["reply"] == "The lamp is on."
    heard = np.frombuffer(recording.read_bytes()[: recording.stat().st_size // 2 * 2], "<i2")
    assert np.abs(heard.astype(int)).max() > 1000, "the answer came out of the loudspeaker"


def test_a_card_that_is_not_there_is_named_with_what_there_is(tmp_path: Path, cables: tuple[Cable, Cable]) -> None:
    with probing("missing", tmp_path, asound_conf(*cables)) as probe:
        row = _next(probe)
    assert row["kind"] == "CardMissing"
    assert "'no-such-card'" in row["text"]
    assert "'mic'" in row["text"]
    assert "audio.capture_card" in row["text"]


@pytest.mark.parametrize(("index", "direction"), [(0, "capture"), (1, "playback")])
def test_an_unplugged_card_is_told_and_found_again(
    tmp_path: Path, cables: tuple[Cable, Cable], index: int, direction: str
) -> None:
    with probing("losses", tmp_path, asound_conf(*cables)) as probe:
        assert _next(probe)["state"] == "open"
        cables[index].unplug()
        assert _next(probe)["lost"] == direction
        cables[index].plug()
        while "found" not in (row := _next(probe)):
            assert "lost" in row, row  # the other one may be told too while PortAudio starts anew
        assert row["found"] == direction
