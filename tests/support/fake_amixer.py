"""An ``amixer`` for the PATH: cards whose controls keep their level in a file, in the format of alsa-utils 1.2.8."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

_SCRIPT = """\
#!{python} -ISE
import json, sys, time
path = {path!r}
arguments = sys.argv[1:]
state = json.load(open(path))
if state["sleeps_s"]:
    time.sleep(state["sleeps_s"])
assert arguments[0] == "-c"
card = state["cards"].get(arguments[1])
if card is None:
    sys.exit("Invalid card number %r." % arguments[1])
def show(name):
    if isinstance(card[name], str):
        return card[name]
    low, high, db, step, level, on = (card[name][key] for key in ("low", "high", "db", "step", "level", "on"))
    reached = db + step * (level - low)
    switch = "" if on is None else " [on]" if on else " [off]"
    percent = round(100 * (level - low) / (high - low))
    can = "pvolume" if on is None else "pvolume pswitch pswitch-joined"
    text = "Simple mixer control %s\\n  Capabilities: %s\\n" % (name, can)
    text += "  Playback channels: Front Left - Front Right\\n  Limits: Playback %d - %d\\n  Mono:\\n" % (low, high)
    for side in ("Left", "Right"):
        text += "  Front %s: Playback %d [%d%%] [%.2fdB]%s\\n" % (side, level, percent, reached, switch)
    return text
if arguments[2] == "scontents":
    sys.stdout.write("".join(map(show, card)))
    sys.exit()
assert arguments[2:4] == ["--", "sset"] and arguments[5] == "playback", arguments
name, words = arguments[4], arguments[6:]
one = card[name]
for word in words:
    if word in ("mute", "unmute"):
        assert one["on"] is not None
        one["on"] = word == "unmute"
    elif word.endswith("dB"):
        steps = (float(word[:-2]) - one["db"]) / one["step"]
        one["level"] = min(max(int(steps + 1e-6) + one["low"], one["low"]), one["high"])
    else:
        one["level"] = int(word)
json.dump(state, open(path, "w"))
sys.stdout.write(show(name))
"""


class FakeAmixer:
    """The cards and their controls."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._path = folder / "amixer.json"
        self._save({"cards": {}, "sleeps_s": 0})
        programs = folder / "bin"
        programs.mkdir()
        script = programs / "amixer"
        script.write_text(_SCRIPT.format(python=sys.executable, path=str(self._path)))
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(programs))

    def _load(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self._path.read_text())
        return loaded

    def _save(self, state: dict[str, Any]) -> None:
        self._path.write_text(json.dumps(state))

    def has(self, card: str, **controls: dict[str, Any] | str) -> None:
        """Add a card, or replace it; the text of a control is printed as it is."""
        state = self._load()
        state["cards"][card] = {f"'{name}',0": control for name, control in controls.items()}
        self._save(state)

    def sleeps(self, seconds: float) -> None:
        """Make each call wait before it does anything."""
        self._save(self._load() | {"sleeps_s": seconds})

    def control(self, card: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self._load()["cards"][card][f"'{name}',0"]
        return found


def headphones(level: int = -2000) -> dict[str, Any]:
    """The jack of a Raspberry Pi: steps of 0.01 dB."""
    return {"low": -10239, "high": 400, "db": -102.39, "step": 0.01, "level": level, "on": True}


def usb(level: int = 151) -> dict[str, Any]:
    """A C-Media USB card: 28 dB only."""
    return {"low": 0, "high": 151, "db": -28.37, "step": 0.1875, "level": level, "on": True}


def wm8960(level: int = 255) -> dict[str, Any]:
    """The converter of a WM8960 HAT: steps of half a dB, no switch."""
    return {"low": 0, "high": 255, "db": -127.5, "step": 0.5, "level": level, "on": None}
