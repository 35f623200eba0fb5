"""``appliance simulate``: the whole appliance in a terminal, with a finger, a lamp, a microphone and a loudspeaker.

The space bar is the button, a typed line is spoken into the microphone, and the last line of the screen shows the
light, the state and a level meter, live. If standard input is not a terminal, each of its lines is spoken in turn, as a
script for the device.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from appliance.conversation.commands import Command, Emit
from appliance.conversation.events import Event, MuteSwitched
from appliance.conversation.notices import (
    AnswerText,
    BudgetWarning,
    Error,
    Guardrail,
    HandoffDone,
    InputText,
    ToolApproval,
    ToolEnd,
    ToolStart,
    TurnEnd,
)
from appliance.conversation.support.feedback import View, light_state
from appliance.errors import ApplianceError, first_error
from appliance.hardware.patterns import PATTERNS, LightPattern
from appliance.safe_text import escape, printable
from appliance.settings import Settings
from appliance.simulator.keyboard import ENABLE, Key, KeyParser, raw_terminal
from appliance.simulator.simulated_device import SimulatedDevice

__all__ = ["simulate"]

_ERASE = "\r\x1b[2K"
_REDRAWS_PER_S = 15
_METER_WIDTH = 24
_METER_FLOOR_DB = -60.0
_METER_FALL_DB = 10.0  # per redraw
_TAP_S = 0.12  # a finger's tap: longer than any bounce, shorter than a hold

HELP = "Space: press to talk (again to stop). Type a line and Enter: it is spoken for you. m: mute. Ctrl-C: quit."
HELP_HOLD = "Space: hold to talk. Type a line and Enter: it is spoken for you. m: mute. Ctrl-C: quit."


def simulate(settings: Settings, *, environ: Mapping[str, str], save: Path | None = None) -> None:
    """Run until Ctrl-C, or, if standard input is not a terminal, until it ends."""
    device = SimulatedDevice(settings, environ=environ, save=save)
    asyncio.run(_Terminal(device, sys.stdin, sys.stdout).run())


class Screen:
    """Scrolling lines above one status line."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._is_live = out.isatty()
        self._status = ""

    def say(self, line: str) -> None:
        """Print a line above the status line; what controls a terminal is escaped, and secrets are redacted."""
        line = printable(line, shapes=False)
        text = f"{_ERASE}{line}\n{self._status}" if self._is_live else f"{line}\n"
        print(text, end="", file=self._out, flush=True)

    def draw(self, status: str) -> None:
        """Replace the status line; no-op if the output is not a terminal."""
        if not self._is_live or status == self._status:
            return
        self._status = status
        width = max(os.get_terminal_size(self._out.fileno()).columns - 1, 20)
        print(f"{_ERASE}{_clip(status, width)}", end="", file=self._out, flush=True)

    def close(self) -> None:
        """Erase the status line."""
        self._status = ""
        if self._is_live:
            print(_ERASE, end="", file=self._out, flush=True)


def _clip(text: str, width: int) -> str:
    """Cut a line after `width` visible characters; escape sequences count as none."""
    seen, index = 0, 0
    while index < len(text) and seen < width:
        if text[index] == "\x1b":
            index = text.index("m", index)
        else:
            seen += 1
        index += 1
    return text[:index] + "\x1b[0m"


def meter(level_db: float) -> str:
    """Return a bar for the microphone's level, -60 to 0 dBFS."""
    share = min(max(1.0 - level_db / _METER_FLOOR_DB, 0.0), 1.0)
    filled = round(share * _METER_WIDTH)
    return "█" * filled + "░" * (_METER_WIDTH - filled)


def dot(shown: LightPattern) -> str:
    """Return the light as one coloured character."""
    red, green, blue = (int(part * max(shown.level, 0.35) * 255) for part in shown.color)
    symbol = {"off": "○", "solid": "●", "blink": "◉", "pulse": "◍"}[shown.effect]
    return f"\x1b[38;2;{red};{green};{blue}m{symbol}\x1b[0m"


class _Terminal:
    """One run of the simulator: keys in, lines out."""

    def __init__(self, device: SimulatedDevice, keyboard: TextIO, out: TextIO) -> None:
        self._device = device
        self._wording = device.wording
        self._keyboard = keyboard
        self._screen = Screen(out)
        self._out = out
        self._parser = KeyParser()
        self._typed = ""
        self._view = View()
        self._level_db = -96.0
        self._speaking: asyncio.Queue[str] = asyncio.Queue()
        self._rested = asyncio.Event()
        device.observe(self._on_step)

    async def run(self) -> None:
        self._screen.say("Starting the appliance. " + (HELP if self._keyboard.isatty() else ""))
        with first_error():
            async with asyncio.TaskGroup() as group:
                extra = [group.create_task(self._redraw()), group.create_task(self._speak())]
                extra.append(group.create_task(self._read_keys() if self._keyboard.isatty() else self._read_lines()))
                try:
                    await self._device.run()
                finally:
                    for task in extra:
                        task.cancel()
                    self._screen.close()
        self._screen.say("Goodbye.")

    # --- events, as lines ---------------------------------------------------------------------------------------

    def _on_step(self, now: float, event: Event, commands: Sequence[Command], view: View) -> None:
        if not self._out.isatty() and light_state(view) != light_state(self._view):
            self._screen.say(f"[{light_state(view)}]")
        self._view = view
        if light_state(view) in ("ready", "error", "timer", "failed", "no_card", "muted", "no_link"):
            self._rested.set()
        else:
            self._rested.clear()
        for command in commands:
            if isinstance(command, Emit):
                self._tell(command.notice)

    def _tell(self, notice: object) -> None:
        match notice:
            case InputText(is_final=True):
                self._screen.say(f"  you said   {notice.text or '(nothing understood)'}")
            case AnswerText(is_final=True):
                self._screen.say(f"  it answers {notice.text}")
            case ToolStart():
                self._screen.say(f"  tool       {notice.name} {notice.arguments}")
            case ToolEnd():
                self._screen.say(f"  result     {notice.output}")
            case ToolApproval():
                self._screen.say(f"  approval   {notice.name} {notice.arguments}: tap for yes, hold a second for no")
            case HandoffDone():
                self._screen.say(f"  handoff    {notice.from_agent} to {notice.to_agent}")
            case Guardrail():
                self._screen.say(f"  guardrail  {notice.guardrail}: {notice.reason or 'tripped'}")
            case BudgetWarning():
                spent = self._wording.budget(notice.unit, notice.percent, notice.spent, notice.limit)
                self._screen.say(f"  budget     {spent}")
            case Error():
                self._screen.say(f"  trouble    {notice.kind}: {self._wording.trouble(notice.kind, notice.detail)}")
            case TurnEnd(outcome=outcome) if outcome != "answered":
                self._screen.say(f"  turn       {outcome}")

    async def _redraw(self) -> None:
        while True:
            audio = self._device.appliance.audio
            self._level_db = max(audio.microphone_db if audio is not None else -96.0, self._level_db - _METER_FALL_DB)
            shown = PATTERNS[light_state(self._view)]
            lamp = self._device.lamp_line()
            typed = f" > {escape(self._typed)}" if self._typed else ""
            self._screen.draw(f"{dot(shown)} {shown.name:<12} {meter(self._level_db)} {lamp}{typed}")
            await asyncio.sleep(1 / _REDRAWS_PER_S)

    # --- the keyboard -------------------------------------------------------------------------------------------

    async def _read_keys(self) -> None:
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[str] = asyncio.Queue()
        descriptor = self._keyboard.fileno()
        loop.add_reader(descriptor, lambda: arrived.put_nowait(os.read(descriptor, 1024).decode(errors="ignore")))
        try:
            with raw_terminal(self._keyboard, self._out):
                while True:
                    for key in self._parser.feed(await arrived.get()):
                        self._on_key(key)
        finally:
            loop.remove_reader(descriptor)

    def _on_key(self, key: Key) -> None:
        finger = self._device.finger
        match key.kind:
            case "holds":
                self._out.write(ENABLE)
                self._screen.say(HELP_HOLD)
            case "quit":
                self._device.stop("Ctrl-C")
            case "enter":
                if self._typed.strip():
                    self._speaking.put_nowait(self._typed.strip())
                self._typed = ""
            case "erase":
                self._typed = self._typed[:-1]
            case "space_tap" | "space_down" if self._typed:
                self._typed += " "
            case "space_down":
                finger.press()
            case "space_up":
                finger.release()
            case "space_tap":
                finger.hold(_TAP_S)
            case "text" if key.text == "m" and not self._typed:
                self._device.appliance.post(MuteSwitched(not self._view.is_muted))
            case "text":
                self._typed += key.text

    async def _read_lines(self) -> None:
        """Speak each line of standard input once the device is at rest, then stop."""
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, self._keyboard.readline):
            if line.strip():
                await self._rested.wait()
                self._screen.say(f"> {line.strip()}")
                await self._device.talk(line.strip())
        await self._rested.wait()
        self._device.stop("end of input")

    async def _speak(self) -> None:
        while True:
            text = await self._speaking.get()
            self._screen.say(f"> {text}")
            try:
                await self._device.talk(text)
            except ApplianceError as exc:
                self._screen.say(f"  trouble    {exc}")
