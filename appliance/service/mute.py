"""The mute of the microphone: kept over a restart, and switched off by the assistant."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.conversation.commands import Command
from appliance.conversation.events import Event, MuteSwitched
from appliance.conversation.support.feedback import View

__all__ = ["MuteFile", "MutedMicrophone"]

log = logging.getLogger(__name__)


class MuteFile:
    """An observer of the driver that keeps the mute over a restart: an empty file exists while it is on.

    The position of a mute switch is not kept: it is read again at the start.

    Args:
        path: The file; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.is_muted = path is not None and path.exists()
        """Whether the device was muted when it was last switched off, and each change since."""

    def __call__(self, now: float, event: Event, commands: Sequence[Command], view: View) -> None:
        """Observe one step; called on the event loop's thread."""
        if self._path is None or view.is_mute_kept == self.is_muted:
            return
        self.is_muted = view.is_mute_kept
        try:
            self._save(self._path)
        except OSError as exc:
            log.warning("the mute will not survive a restart: %s: %s", self._path, exc.strerror or exc)

    def _save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.is_muted:
            path.touch(mode=0o600)
        else:
            path.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@dataclass(slots=True)
class MutedMicrophone:
    """The microphone as the assistant's tool sees it: it can be switched off, and by a person on again."""

    post: Callable[[Event], None]
    unmute_hold_s: float

    def mute(self) -> None:
        self.post(MuteSwitched(True))
