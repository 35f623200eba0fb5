"""Real PyAudio, PortAudio and ALSA over files and virtual cables: the audio stack of a Pi, without its card."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.audio.pcm import from_bytes
from appliance.audio.resample import Resampler
from appliance.simulator.simulated_device import speak
from tests.alsa.signal import likeness, ramp
from tests.support.patience import patient
from tests.support.pulse import RATE, Cable, asound_conf, require_pulseaudio

pytestmark = [pytest.mark.alsa, pytest.mark.timeout(150)]

_FILES = """\
pcm.nullcard {{ type null }}
pcm.filespk {{ type file slave.pcm "nullcard" file "{folder}/spk.raw" format raw }}
pcm.filemic {{ type file slave.pcm "nullcard" file "/dev/null" infile "{folder}/mic.raw" format raw }}
pcm.both {{ type asym playback.pcm "filespk" capture.pcm "filemic" }}
pcm.!default {{ type plug slave.pcm "both" }}
"""


@contextmanager
def probing(name: str, folder: Path, configuration: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run one probe with this ALSA configuration; libasound and JACK MUST print nothing."""
    path = folder / "asound.conf"
    path.write_text(configuration, encoding="ascii")
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("APPLIANCE_", "OPENAI_"))}
    printed = folder / "stderr"
    with printed.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.alsa.probe", name, *arguments],
            env=environ | {"ALSA_CONFIG_PATH": str(path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    try:
        yield process
    finally:
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()
        try:
            process.wait(timeout=patient(10))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        chatter = printed.read_text(encoding="utf-8", errors="replace")
        sys.stderr.write(chatter)  # pytest shows it if the test fails
    assert not re.search("ALSA lib|[Jj]ack|Expression '|Cannot connect", chatter)


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


@contextmanager
def _plugged(*, rate: int = RATE) -> Iterator[tuple[Cable, Cable]]:
    """Yield a microphone and a loudspeaker, each with its own daemon."""
    require_pulseaudio()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pa-")))
        cables = Cable(folder / "m", rate=rate), Cable(folder / "s", rate=rate)
        for cable in cables:
            stack.callback(cable.close)
            cable.plug()
        yield cables


@pytest.fixture
def cables() -> Iterator[tuple[Cable, Cable]]:
    with _plugged() as pair:
        yield pair


def test_played_signal_reaches_alsa_bit_exact(tmp_path: Path) -> None:
    (tmp_path / "mic.raw").write_bytes(bytes(4800))
    with probing("unpaced_playback", tmp_path, _FILES.format(folder=tmp_path), "60") as probe:
        assert _next(probe)["rate"] == 24_000
    assert ramp().astype("<i2").tobytes() in (tmp_path / "spk.raw").read_bytes()


def test_card_gets_the_buffer_that_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "mic.raw").write_bytes(bytes(4800))
    latencies = []
    for buffer_ms in ("60", "200"):
        with probing("unpaced_playback", tmp_path, _FILES.format(folder=tmp_path), buffer_ms) as probe:
            latencies.append(_next(probe)["latency"] * 1000 / 24_000)
    assert 60 <= latencies[0] <= 80, "with the default of PortAudio it is two periods"
    assert 180 <= latencies[1] <= 220, "PortAudio reports the buffer less one period"


def test_captured_signal_comes_from_alsa_bit_exact(tmp_path: Path) -> None:
    (tmp_path / "mic.raw").write_bytes(ramp().astype("<i2").tobytes() * 40)
    with probing("unpaced_capture", tmp_path, _FILES.format(folder=tmp_path)) as probe:
        assert _next(probe) == {"rate": 24_000, "is_exact": True}


@pytest.mark.parametrize(("name", "rate"), [("duplex", 48_000), ("duplex_exact", 24_000)])
def test_full_duplex_over_a_virtual_cable(tmp_path: Path, name: str, rate: int) -> None:
    """The card is paced, so a busy machine may lose a period: if one was counted as an xrun, repeat the run once."""
    row = _loop_back(tmp_path, name, rate)
    if row["xruns"]:
        row = _loop_back(tmp_path, name, rate)
    assert row["drained"] == [row["sent"]], "drained is posted once, with every frame of the answer"
    assert row["played"] == row["sent"]
    assert row["grows"]
    assert row["lost"] == []
    assert row["gaps"] == 0
    if rate == 24_000:
        assert row["is_exact"], ("a frame was lost, repeated or changed", row)
    else:
        assert row["likeness"] > 0.99, row


def _loop_back(folder: Path, name: str, rate: int) -> dict[str, Any]:
    with _plugged(rate=rate) as cables, probing(name, folder, asound_conf(*cables)) as probe:
        return _next(probe)


async def test_whole_turn_over_a_virtual_card(tmp_path: Path, cables: tuple[Cable, Cable]) -> None:
    microphone, speaker = cables
    speech = await speak("turn on the lamp", voice="slt")
    recording = tmp_path / "spk.raw"
    with probing("turn", tmp_path, asound_conf(*cables)) as probe:
        assert _next(probe) == {"state": "ready"}
        recorder = speaker.record(recording)
        _tell(probe, "press")
        assert _next(probe) == {"done": "press"}
        assert microphone.play(bytes(9600) + speech + bytes(19_200)).wait(timeout=patient(60)) == 0
        _tell(probe, "release")
        assert _next(probe) == {"done": "release"}
        row = _next(probe)
        recorder.terminate()
        recorder.wait()
    assert row["outcome"] == "answered", row
    assert row["tools"] == [["set_lamp", '{"on": true}', '{"on":true}']], row
    assert row["reply"] == "The lamp is on."
    recorded = np.frombuffer(recording.read_bytes()[: recording.stat().st_size // 2 * 2], "<i2").astype(np.int16)
    reply = await speak(row["reply"], voice="slt")
    resampler = Resampler(24_000, RATE)
    spoken = np.concatenate([resampler.process(from_bytes(reply)), resampler.finish()])
    # A cue scores below 0.3, the same words in another voice below 0.2; with a late period the answer scores 0.67.
    assert likeness(recorded, spoken) > 0.5, "the loudspeaker played the answer, not only a cue"


def test_missing_card_is_reported_with_the_cards_found(tmp_path: Path, cables: tuple[Cable, Cable]) -> None:
    with probing("missing", tmp_path, asound_conf(*cables), "no-such-card") as probe:
        row = _next(probe)
    assert row["kind"] == "CardMissing"
    assert "'no-such-card'" in row["text"]
    assert "'mic'" in row["text"]
    assert "audio.capture_card" in row["text"]


def test_error_says_that_no_card_was_found(tmp_path: Path, cables: tuple[Cable, Cable]) -> None:
    for cable in cables:
        cable.unplug()
    with probing("missing", tmp_path, asound_conf(*cables), "default") as probe:
        row = _next(probe)
    assert row["kind"] == "CardMissing"
    assert "found: none" in row["text"]
    assert "Plug it in" in row["text"]


@pytest.mark.parametrize("loss", [(Cable.unplug, Cable.plug), (Cable.unload, Cable.load)], ids=["killed", "unloaded"])
@pytest.mark.parametrize(("index", "direction"), [(0, "capture"), (1, "playback")])
def test_unplugged_card_is_reported_and_found_again(
    tmp_path: Path,
    cables: tuple[Cable, Cable],
    index: int,
    direction: str,
    loss: tuple[Callable[[Cable], None], Callable[[Cable], None]],
) -> None:
    go, come = loss
    with probing("losses", tmp_path, asound_conf(*cables)) as probe:
        assert _next(probe)["state"] == "open"
        go(cables[index])
        row = _next(probe)
        assert row["lost"] == direction
        # PortAudio ends the stream, or its thread hangs in the dead sound server: the machine's load decides.
        assert "unplugged" in row["reason"] or "no audio for" in row["reason"]
        come(cables[index])
        row = _next(probe)
    assert row["found"] == direction, "the other direction was not lost meanwhile"
    assert row["listings"] == 1, "the cards were not listed again"
    assert row["is_other_kept"]


def test_stalled_card_is_reported_although_it_claims_to_run(tmp_path: Path, cables: tuple[Cable, Cable]) -> None:
    speaker = cables[1]
    with probing("losses", tmp_path, asound_conf(*cables)) as probe:
        assert _next(probe)["state"] == "open"
        speaker.suspend()
        row = _next(probe)
        assert row["lost"] == "playback"
        assert "no audio for" in row["reason"]
        speaker.resume()
        while _next(probe).get("found") != "playback":
            pass
