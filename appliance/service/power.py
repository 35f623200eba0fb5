"""The power-off of the whole device, with the command of the settings."""

from __future__ import annotations

import asyncio
import logging
import shlex
from collections.abc import Sequence

from appliance.conversation.commands import Command, PowerOff
from appliance.conversation.events import Event
from appliance.conversation.support.feedback import View
from appliance.errors import one_line

__all__ = ["PowerSwitch"]

log = logging.getLogger(__name__)


class PowerSwitch:
    """An observer of the driver that runs a command for each ``PowerOff``.

    Args:
        command: Program and arguments, as in a shell without variables; "" runs nothing.
    """

    def __init__(self, command: str) -> None:
        self.command = command
        self._asked = asyncio.Event()

    def __call__(self, now: float, event: Event, commands: Sequence[Command], view: View) -> None:
        """Observe one step."""
        if any(isinstance(one, PowerOff) for one in commands):
            self._asked.set()

    async def run(self) -> None:
        """Run the command each time it is asked for, until cancelled; the system then stops this process."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            if command := shlex.split(self.command):
                await self._switch_off(command)

    async def _switch_off(self, command: Sequence[str]) -> None:
        log.warning("power-off by the button: %s", shlex.join(command))
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=asyncio.subprocess.STDOUT)
        except OSError as exc:
            log.error("button.power_off_command cannot be run: %s", exc)
            return
        said, _ = await process.communicate()
        if process.returncode:
            text = one_line(said.decode(errors="replace").strip(), 200)
            log.error("button.power_off_command failed with status %d: %s", process.returncode, text)
