"""Keys of a terminal as a button and a line of text. The parser is pure; `raw_terminal` sets the terminal up.

A terminal sends characters, no key-up. The kitty keyboard protocol (kitty, foot, WezTerm, Ghostty, …) reports
presses and releases; where the terminal answers that it knows it, the space bar can be held. Elsewhere the space bar
is a tap: once to start, once to stop. (Source: "Comprehensive keyboard handling in terminals", progressive flags
1 and 2.)
"""

from __future__ import annotations

import re
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TextIO, TypeAlias

__all__ = ["Key", "KeyParser", "raw_terminal"]

QUERY = "\x1b[?u\x1b[c"  # "which keyboard flags?", then a question that every terminal answers
ENABLE = "\x1b[>3u"
DISABLE = "\x1b[<u"

Kind: TypeAlias = Literal["text", "enter", "erase", "quit", "space_down", "space_up", "space_tap", "holds"]


@dataclass(frozen=True, slots=True)
class Key:
    """One thing that the user did at the keyboard."""

    kind: Kind
    text: str = ""


_CSI = re.compile(r"\x1b\[([?>]?)([0-9;:]*)([A-Za-z~])")
_PLAIN = {
    " ": Key("space_tap", " "),
    "\r": Key("enter"),
    "\n": Key("enter"),
    "\x7f": Key("erase"),
    "\b": Key("erase"),
    "\x03": Key("quit"),
    "\x04": Key("quit"),
}
_SPACE, _C, _D = 32, 99, 100
_FUNCTIONAL = 0xE000  # the protocol's codes of keys without a character begin here
_CONTROL = 4  # the modifier bit; the protocol sends 1 + bits


class KeyParser:
    """Turns what a terminal sends into keys; keeps an escape sequence that has not come whole."""

    def __init__(self) -> None:
        self._rest = ""

    def feed(self, text: str) -> list[Key]:
        """Take characters as they come."""
        buffer = self._rest + text
        self._rest = ""
        keys: list[Key] = []
        while buffer:
            if buffer[0] != "\x1b":
                keys.extend(self._plain(buffer[0]))
                buffer = buffer[1:]
                continue
            match = _CSI.match(buffer)
            if match is not None:
                keys.extend(self._sequence(*match.groups()))
                buffer = buffer[match.end() :]
            elif buffer.startswith("\x1bO"):
                buffer = buffer[3:]  # F1 to F4 of old terminals
            elif len(buffer) < 24 and (len(buffer) == 1 or buffer[1] == "["):
                self._rest = buffer
                return keys
            else:
                buffer = buffer[1:]
        return keys

    def _plain(self, char: str) -> list[Key]:
        if char in _PLAIN:
            return [_PLAIN[char]]
        return [Key("text", char)] if char.isprintable() else []

    def _sequence(self, mark: str, numbers: str, final: str) -> list[Key]:
        if final != "u":
            return []
        if mark == "?":
            return [Key("holds")]
        fields = [[int(part or 0) for part in field.split(":")] for field in (numbers or "0").split(";")]
        code = fields[0][0]
        modifiers, kind = (fields[1] + [1])[:2] if len(fields) > 1 else (1, 1)
        return self._kitty(code, max(modifiers - 1, 0), kind)

    def _kitty(self, code: int, modifiers: int, kind: int) -> list[Key]:
        """`kind` is 1 for a press, 2 for a repeat, 3 for a release."""
        if code == _SPACE:
            return {1: [Key("space_down", " ")], 3: [Key("space_up", " ")]}.get(kind, [])
        if kind == 3:
            return []
        if modifiers & _CONTROL:
            return [Key("quit")] if code in (_C, _D) else []
        return self._plain(chr(code)) if code < _FUNCTIONAL else []


@contextmanager
def raw_terminal(keyboard: TextIO, screen: TextIO) -> Iterator[None]:
    """Read key by key for as long as the context lasts; the terminal is restored whatever happens."""
    before = termios.tcgetattr(keyboard)
    try:
        tty.setcbreak(keyboard)
        mode = termios.tcgetattr(keyboard)
        mode[3] &= ~termios.ISIG  # Ctrl-C is a key here: it ends the turn and the session cleanly
        termios.tcsetattr(keyboard, termios.TCSANOW, mode)
        screen.write(QUERY)
        screen.flush()
        yield
    finally:
        screen.write(DISABLE + "\x1b[?25h")
        screen.flush()
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
