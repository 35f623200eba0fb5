"""The loudness control of a sound card, set by ``amixer`` of alsa-utils.

A program instead of a binding: libasound's mixer may wait for a driver without a limit, and a program can be stopped.
``amixer(1)``, sset: a level in dB is rounded down to a step of the control; the reply names the step that was reached.
"""

from __future__ import annotations

import math
import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

from appliance.errors import AudioError

__all__ = ["AMIXER_TIMEOUT_S", "CardMixer", "Control", "Mixer", "controls"]

AMIXER_TIMEOUT_S = 2.0  # it takes some milliseconds of work, on a board that may be busy
_KILL_TIMEOUT_S = 0.2
_USUAL = ("Master", "PCM", "Digital", "Playback", "Speaker", "Headphone", "Headset", "HDMI", "Line Out")
_HEAD = re.compile(r"^Simple mixer control '(.*)',(\d+)$", re.MULTILINE)
_LIMITS = re.compile(r"Limits:.*?\bPlayback (-?\d+) - (-?\d+)")
_LEVEL = re.compile(r": Playback (-?\d+) \[\d+%\] \[(-?\d+\.\d+)dB\]")


class Mixer(Protocol):
    """The loudness control of one card; its methods block, at most some seconds."""

    def set_db(self, db: float) -> float:
        """Set the level, and end a mute.

        Args:
            db: At most 0; ``-inf`` mutes.

        Returns:
            The level that was reached, in dB: the lowest step that is not below `db`; 0 after a mute.

        Raises:
            AudioError: It is as it was, as far as one can tell.
        """


@dataclass(frozen=True, slots=True)
class Control:
    """One control with a playback volume in dB."""

    name: str
    index: int
    has_switch: bool
    """It can be muted."""
    least: int
    most: int
    """Range of `level`."""
    level: int
    """In the card's own unit."""
    db: float

    def __str__(self) -> str:
        return f"'{self.name}',{self.index}"


def controls(text: str) -> Iterator[Control]:
    """Yield the controls with a playback volume in dB from the output of ``amixer scontents`` or ``sset``."""
    for one in re.split(r"^(?=Simple mixer control )", text, flags=re.MULTILINE):
        head, limits, level = _HEAD.search(one), _LIMITS.search(one), _LEVEL.search(one)
        if head and limits and level:
            capabilities = one.partition("Capabilities:")[2].partition("\n")[0].split()
            has_switch = any(word.startswith("pswitch") for word in capabilities)
            yield Control(
                head[1], int(head[2]), has_switch, int(limits[1]), int(limits[2]), int(level[1]), float(level[2])
            )


class CardMixer:
    """The loudness control of one card."""

    def __init__(self, card_id: str, wanted: str = "auto") -> None:
        """Find the control. Blocks.

        Args:
            card_id: The card's id, not its number.
            wanted: Name of a control, such as "Speaker" or "Speaker,1"; "auto" for the first usual one.

        Raises:
            AudioError: There is none, or ``amixer`` is missing, failed or took too long.
        """
        self._card_id = card_id
        found = list(controls(self._run("scontents")))
        names = [wanted] if wanted != "auto" else _USUAL
        fitting = [one for name in names for one in found if name in (one.name, f"{one.name},{one.index}")]
        if not fitting:
            listed = ", ".join(map(str, found)) or "none"
            asked = "" if wanted == "auto" else f" {wanted!r}; set audio.mixer_control to another"
            raise AudioError(f"card {card_id} has no volume control in dB{asked} (found: {listed})")
        self.control = fitting[0]
        """As it was at the last reply."""

    def set_db(self, db: float) -> float:
        if db == -math.inf:
            self._set("mute" if self.control.has_switch else str(self.control.least))
            return 0.0
        self._set(f"{db:.2f}dB")
        if self.control.db < db - 0.005 and self.control.level < self.control.most:
            self._set(str(self.control.level + 1))
        return self.control.db

    def _set(self, value: str) -> None:
        unmute = ["unmute"] if self.control.has_switch and value != "mute" else []
        reply = self._run("--", "sset", str(self.control), "playback", value, *unmute)
        reached = next(controls(reply), None)
        if reached is None:
            raise AudioError(f"card {self._card_id}: amixer does not say which level {self.control} has")
        self.control = replace(self.control, level=reached.level, db=reached.db)

    def _run(self, *arguments: str) -> str:
        """Run ``amixer`` on the card and return what it prints."""
        command = ["amixer", "-c", self._card_id, *arguments]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as exc:
            raise AudioError(f"amixer cannot be started ({exc.strerror}): install alsa-utils") from None
        try:
            printed, complaint = process.communicate(timeout=AMIXER_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            with suppress(subprocess.TimeoutExpired):  # a process that waits for a driver cannot be killed
                process.communicate(timeout=_KILL_TIMEOUT_S)
            raise AudioError(f"card {self._card_id}: amixer took longer than {AMIXER_TIMEOUT_S} s") from None
        if process.returncode:
            words = " ".join(complaint.split())
            raise AudioError(f"card {self._card_id}: amixer ended with {process.returncode}: {words}")
        return printed
