"""Private PulseAudio daemons as virtual cables: real ALSA and PortAudio, no sound card.

Each device has its own daemon, so that the microphone can be unplugged while the loudspeaker keeps playing. Each daemon
has its own runtime folder and is stopped by its pid. ``norewinds=1`` keeps an idle null sink from bursting.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.patience import patient

RATE = 48_000

_DAEMON = """\
.fail
load-module module-native-protocol-unix auth-anonymous=1 socket={socket}
load-module module-null-sink sink_name=cable rate={rate} format=s16le channels=1 norewinds=1
set-default-sink cable
"""


def require_pulseaudio() -> None:
    """Skip the test if PulseAudio is not installed; fail on CI, where scripts/setup installs it."""
    if shutil.which("pulseaudio") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("pulseaudio is not installed: scripts/setup test installs it")
        pytest.skip("pulseaudio is not installed: apt-get install pulseaudio pulseaudio-utils libasound2-plugins")


class Cable:
    """One virtual device: audio played into the sink "cable" is captured from "cable.monitor"."""

    def __init__(self, folder: Path, *, rate: int = RATE) -> None:
        """Prepare the device; `folder` MUST be short, because a socket's path is limited to 107 bytes."""
        self._folder = folder
        self._rate = rate
        self._process: subprocess.Popen[bytes] | None = None
        self.socket = folder / "s"

    @property
    def server(self) -> str:
        return f"unix:{self.socket}"

    def plug(self) -> None:
        """Start the daemon and wait until it listens."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.socket.unlink(missing_ok=True)
        script = self._folder / "pulse.pa"
        script.write_text(_DAEMON.format(socket=self.socket, rate=self._rate), encoding="ascii")
        self._process = subprocess.Popen(
            [
                "pulseaudio",
                "-n",
                "-F",
                str(script),
                "--daemonize=no",
                "--use-pid-file=no",
                "--exit-idle-time=-1",
                "--realtime=no",
                "--high-priority=no",
            ],
            env=os.environ | {"XDG_RUNTIME_DIR": str(self._folder), "HOME": str(self._folder)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(400):
            if self.socket.exists() and self._pactl("info"):
                return
            time.sleep(0.025)
        self.unplug()
        raise AssertionError("pulseaudio did not start within 10 s")

    def unplug(self) -> None:
        """Kill the daemon, so that the card is gone."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def close(self) -> None:
        """Terminate the daemon, so that it removes its files."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout=patient(5))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def unload(self) -> None:
        """Remove the device; the daemon keeps running."""
        assert self._pactl("unload-module", "module-null-sink")

    def load(self) -> None:
        """Add the device again."""
        options = f"sink_name=cable rate={self._rate} format=s16le channels=1 norewinds=1"
        assert self._pactl("load-module", "module-null-sink", *options.split())

    def suspend(self) -> None:
        """Stall the device: it stays open, but no audio moves."""
        assert self._pactl("suspend-sink", "cable", "1")

    def resume(self) -> None:
        assert self._pactl("suspend-sink", "cable", "0")

    def play(self, pcm: bytes, *, rate: int = 24_000) -> subprocess.Popen[bytes]:
        """Play PCM16 mono into the cable in real time, from a separate process."""
        process = subprocess.Popen(
            ["pacat", "--playback", "--device=cable", f"--rate={rate}", "--channels=1", "--format=s16le"],
            env=os.environ | {"PULSE_SERVER": self.server},
            stdin=subprocess.PIPE,
        )
        assert process.stdin is not None
        process.stdin.write(pcm)
        process.stdin.close()
        return process

    def record(self, path: Path) -> subprocess.Popen[bytes]:
        """Record the cable as raw PCM16 mono at 48 kHz until the returned process is ended."""
        return subprocess.Popen(
            [
                "parec",
                "--device=cable.monitor",
                f"--rate={RATE}",
                "--channels=1",
                "--format=s16le",
                "--latency-msec=20",
                str(path),
            ],
            env=os.environ | {"PULSE_SERVER": self.server},
        )

    def _pactl(self, *arguments: str) -> bool:
        done = subprocess.run(
            ["pactl", *arguments],
            env=os.environ | {"PULSE_SERVER": self.server},
            capture_output=True,
            check=False,
        )
        return done.returncode == 0


def asound_conf(microphone: Cable, speaker: Cable) -> str:
    """Return a whole ALSA configuration that has only these cards."""
    return f"""\
pcm.mic     {{ type pulse server "{microphone.server}" device "cable.monitor" }}
pcm.spk     {{ type pulse server "{speaker.server}" device "cable" }}
pcm.spkmon  {{ type pulse server "{speaker.server}" device "cable.monitor" }}
pcm.!default {{ type asym playback.pcm "spk" capture.pcm "mic" }}
"""
