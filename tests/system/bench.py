"""What the tests use in the virtual machine: a finger, a speaker in front of the microphone, an ear, the service.

Runs in the machine, with the Python of the appliance, as root. Time is the machine's.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["ANSWER", "BUTTON", "LIGHT", "QUESTION", "RATE", "SENTENCES", "Bench", "Recording", "cases", "connected"]

BUTTON = 17
LIGHT = 25
RATE = 48_000
SENTENCES = ("tell me a joke about elephants", "everything is fine today", "lamp on", "lamp off")
"""Made before the machine is saved, because that takes seconds; others are made when they are needed."""
QUESTION, ANSWER = SENTENCES[:2]
"""What the far side hears and says; the recogniser gets every word of both."""
PERIOD = 960
_UNIT = "voice-appliance.service"
_PINS = Path("/run/pins")
_SOUNDS = Path("/var/tmp/bench")
_ENVIRONMENT = Path("/etc/voice-appliance/voice-appliance.env")
_POLL_S = 0.2  # a query of systemd takes 20 ms of the only core
_MICROPHONE, _LOUDSPEAKER = "hw:Mic,1", "hw:Spk,1"
"""The other ends of the two cables."""


def connected(function: Any) -> Any:
    """Run a test in a machine whose appliance is connected to the far side, not to its offline brain."""
    function.snapshot = "connected"
    return function


def cases(*names: str) -> Callable[[Any], Any]:
    """Run a test once for each name, each in a machine of its own; it is passed as `case`."""

    def mark(function: Any) -> Any:
        function.cases = names
        return function

    return mark


class Recording:
    """The sound of the loudspeaker from its other end, with the time of each frame."""

    def __init__(self) -> None:
        record = f"arecord -q -D {_LOUDSPEAKER} -t raw -f S16_LE -r {RATE} -c 1 --period-size {PERIOD}"
        self._process = subprocess.Popen([*record.split(), f"--buffer-size={64 * PERIOD}"], stdout=subprocess.PIPE)
        self._blocks: list[tuple[float, bytes]] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        while len(block := self._process.stdout.read(2 * PERIOD)) == 2 * PERIOD:
            self._blocks.append((time.monotonic(), block))

    def stop(self) -> None:
        self._process.terminate()
        self._thread.join()
        self._process.wait()

    def sounds(self, *, after: float = 0.0, pause_s: float = 0.3) -> list[tuple[float, float]]:
        """Return the begin and the end of each sound, which a pause ends."""
        found: list[tuple[float, float]] = []
        for at, block in self._blocks:
            begin = at - PERIOD / RATE
            if begin < after or _peak(block) < 300:
                continue
            if found and begin - found[-1][1] < pause_s:
                found[-1] = found[-1][0], at
            else:
                found.append((begin, at))
        return found

    def speech(self, *, after: float = 0.0) -> list[tuple[float, float]]:
        """Return the sounds that last longer than a cue."""
        return [(begin, end) for begin, end in self.sounds(after=after) if end - begin > 0.5]

    def pcm(self, begin: float, end: float) -> bytes:
        return b"".join(block for at, block in self._blocks if begin - 0.2 <= at <= end + 0.2)


def _peak(block: bytes) -> int:
    import numpy as np

    return int(np.abs(np.frombuffer(block, "<i2").astype(np.int32)).max())


class Bench:
    """The appliance and everything around it."""

    def __init__(self) -> None:
        self.measures: list[dict[str, Any]] = []
        self.speech: list[dict[str, Any]] = []
        self.journal: list[str] = []
        """The lines of the service since the boot of the machine; grows by itself."""
        follow = f"journalctl --boot --unit {_UNIT} --output cat --no-pager --quiet --follow --lines all"
        self._follower = subprocess.Popen(follow.split(), stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        assert self._follower.stdout is not None
        for line in self._follower.stdout:
            self.journal.append(line.rstrip())

    def close(self) -> None:
        self._follower.kill()
        self._follower.wait()

    def measured(self, name: str, value: float, *, goal: float, unit: str, limit: float | None = None) -> None:
        """Add a line to the table of budgets.

        Args:
            goal: What is wanted.
            limit: The test fails above it; None: the value is only shown.
        """
        self.measures.append({"name": name, "value": value, "goal": goal, "unit": unit, "limit": limit})

    # --- waiting ------------------------------------------------------------------------------------------------

    def wait(self, holds: Callable[[], Any], what: str, *, within_s: float = 30.0, step_s: float = 0.02) -> float:
        """Wait until `holds` returns something true; return the seconds that it took."""
        began = time.monotonic()
        while not holds():
            if time.monotonic() - began > within_s:
                raise AssertionError(f"not within {within_s} s: {what}; the service says: {self.status!r}")
            time.sleep(step_s)
        return time.monotonic() - began

    # --- pins ---------------------------------------------------------------------------------------------------

    def press(self, pin: int = BUTTON) -> None:
        self.pull(pin, "pull-down")

    def release(self, pin: int = BUTTON) -> None:
        self.pull(pin, "pull-up")

    def pull(self, pin: int, way: str) -> None:
        (_PINS / f"sim_gpio{pin}" / "pull").write_text(way)

    def level(self, pin: int = LIGHT) -> bool:
        return (_PINS / f"sim_gpio{pin}" / "value").read_text().strip() == "1"

    def levels(self, seconds: float, pin: int = LIGHT, step_s: float = 0.01) -> list[bool]:
        """Return the level of a pin every `step_s` seconds."""
        found, until = [], time.monotonic() + seconds
        while time.monotonic() < until:
            found.append(self.level(pin))
            time.sleep(step_s)
        return found

    # --- sound --------------------------------------------------------------------------------------------------

    @staticmethod
    def sentence(text: str) -> Path:
        """Return a WAV file of a sentence, at the rate of the cards."""
        path = _SOUNDS / (text.replace(" ", "_") + ".wav")
        if not path.exists():
            import numpy as np
            import soxr

            _SOUNDS.mkdir(exist_ok=True)
            made = path.with_suffix(".made")
            subprocess.run(["flite", "-voice", "slt", "-t", text, "-o", str(made)], check=True)
            with wave.open(str(made)) as file:
                rate, samples = file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), "<i2")
            wide = soxr.resample(samples, rate, RATE)
            with wave.open(str(path), "wb") as file:
                file.setparams((1, 2, RATE, 0, "NONE", ""))
                file.writeframes(wide.astype("<i2").tobytes())
        return path

    def say(self, text: str) -> None:
        """Say a sentence into the microphone; returns at its end."""
        subprocess.run(["aplay", "-q", "-D", _MICROPHONE, str(self.sentence(text))], check=True)

    def ask(self, text: str) -> float:
        """Press, say a sentence, release; return the time of the release."""
        self.press()
        time.sleep(0.2)
        self.say(text)
        time.sleep(0.1)
        released = time.monotonic()
        self.release()
        return released

    @contextmanager
    def recording(self) -> Iterator[Recording]:
        """Record the loudspeaker."""
        one = Recording()
        try:
            yield one
        finally:
            one.stop()

    def expect_speech(self, text: str, pcm: bytes, rate: int = RATE) -> None:
        """Have the host recognise a sound after the test, which takes too long here; it MUST be this sentence."""
        self.speech.append({"text": text, "rate": rate, "pcm": base64.b64encode(pcm).decode()})

    # --- the far side -------------------------------------------------------------------------------------------

    def answers(self, *, repeats: int = 1, thinking_s: float = 0.0, tool: str = "") -> None:
        """Set how the far side answers; see `far_side`."""
        way = {"repeats": repeats, "thinking_s": thinking_s, "tool": tool}
        Path("/run/bench/far.json").write_text(json.dumps(way))

    def connect(self) -> None:
        """Start a server behind a cable, and restart the service to use it; a test is `connected` instead."""
        here = Path.cwd()
        self.answers()
        self.sh(
            "modprobe veth; ip netns add far; ip link add near type veth peer name cable netns far; "
            "ip address add 10.77.0.1/24 dev near; ip link set near up; ip -n far link set lo up; "
            "ip -n far address add 10.77.0.2/24 dev cable; ip -n far link set cable up; "
            f"systemd-run --quiet --unit far-side --working-directory {here} --setenv PYTHONPATH={here} "
            f"ip netns exec far {sys.executable} -m tests.system.far_side {self.sentence(ANSWER)}"
        )
        self.wait(lambda: self.far_log, "the far side listens", step_s=_POLL_S)
        self.restart(APPLIANCE_LINK__BASE_URL="ws://10.77.0.2:8790/v1")
        self.until_status("connected to")
        time.sleep(5)

    @property
    def far_log(self) -> list[str]:
        """What happened on the far side, in order."""
        path = Path("/run/bench/far.log")
        return [line.partition(" ")[2] for line in path.read_text().splitlines()] if path.exists() else []

    def cable(self, way: str) -> None:
        """Pull ("down") or plug in ("up") the cable to the far side."""
        self.sh(f"ip -n far link set cable {way}")

    # --- the service --------------------------------------------------------------------------------------------

    def sh(self, command: str, *, timeout_s: float = 120.0) -> str:
        """Run a command of the shell; return what it printed."""
        done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=timeout_s, check=False)
        if done.returncode:
            raise AssertionError(f"{command!r}: status {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def show(self, name: str) -> str:
        """Return a property of the unit."""
        return self.sh(f"systemctl show --property {name} --value {_UNIT}")

    @property
    def status(self) -> str:
        return self.show("StatusText")

    @property
    def pid(self) -> int:
        """The process of the service; never 0."""
        found = int(self.show("MainPID"))
        assert found, "the service does not run"
        return found

    @property
    def is_active(self) -> bool:
        return self.show("ActiveState") == "active"

    @property
    def is_restarted(self) -> bool:
        """Whether systemd started it again and it was ready; asks the journal, because a query of systemd delays it."""
        at = next((at for at, line in enumerate(self.journal) if "restart counter is at 1" in line), len(self.journal))
        return any(line.startswith(f"Started {_UNIT}") for line in self.journal[at:])

    def until_status(self, *words: str, within_s: float = 30.0) -> float:
        """Wait until the status contains one of some words; return the seconds that it took."""
        holds = lambda: any(word in self.status for word in words)  # noqa: E731
        return self.wait(holds, f"status {words}", within_s=within_s, step_s=_POLL_S)

    def at_rest(self, *, within_s: float = 60.0) -> None:
        self.wait(lambda: self.is_active, "the service is active", within_s=within_s, step_s=_POLL_S)
        self.until_status("waiting for a press", within_s=within_s)

    def restart(self, **environment: str) -> None:
        """Restart the service with more settings in its environment, and wait until it is at rest."""
        if environment:
            lines = [
                line for line in _ENVIRONMENT.read_text().splitlines() if line.partition("=")[0] not in environment
            ]
            lines += [f"{name}={value}" for name, value in environment.items()]
            _ENVIRONMENT.write_text("\n".join(lines) + "\n")
        self.sh(f"systemctl restart {_UNIT}")
        self.at_rest()

    def turns(self) -> list[str]:
        """Return the lines of the journal about ended turns."""
        return [line for line in self.journal if ": spoke " in line]

    @property
    def is_capturing(self) -> bool:
        """Whether the kernel has the microphone open for a program."""
        return "closed" not in Path("/proc/asound/Mic/pcm0c/sub0/status").read_text()

    def turn(self, text: str, *, within_s: float = 60.0) -> str:
        """Ask, and wait until the turn ended and the device rests; return the line of the journal."""
        before = len(self.turns())
        self.ask(text)
        self.wait(lambda: len(self.turns()) > before, "the turn ended", within_s=within_s, step_s=0.1)
        self.at_rest()
        return self.turns()[-1]


def _run(module: str, name: str, keywords: Mapping[str, str]) -> None:
    """Run one test and print what it measured and heard as the last line."""
    import importlib

    bench = Bench()
    try:
        getattr(importlib.import_module(module), name)(bench, **keywords)
    finally:
        sys.stdout.flush()
        bench.close()
        sys.stdout.write("\n" + json.dumps({"measures": bench.measures, "speech": bench.speech}))


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    if sys.argv[1:] == ["connect"]:
        Bench().connect()
    elif sys.argv[1:]:
        _run(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
    else:
        for text in SENTENCES:
            Bench.sentence(text)
