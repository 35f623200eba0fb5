"""Terminal keys as a button and a line of text. The parser is pure; `raw_terminal` sets up the terminal.

A terminal sends characters but no key-up. The kitty keyboard protocol (kitty, foot, WezTerm, Ghostty, …) reports
presses and releases; if the terminal answers that it supports the protocol, the space bar can be held. Otherwise the
space bar is a tap: once to start, once to stop. (Source: "Comprehensive keyboard handling in terminals", progressive
flags 1 and 2.)
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

QUERY = "\x1b[?u\x1b[c"  # ask for the keyboard flags, then for the attributes, which every terminal answers
ENABLE = "\x1b[>3u"
DISABLE = "\x1b[<u"

Kind: TypeAlias = Literal["text", "enter", "erase", "quit", "space_down", "space_up", "space_tap", "holds"]


@dataclass(frozen=True, slots=True)
class Key:
    """One key action, or the terminal's answer that keys can be held ("holds")."""

    kind: Kind
    text: str = ""


_TOKEN = re.compile(
    r"""
    \x1b\[(?P<mark>[?>]?)(?P<numbers>[0-9;:]*)(?P<final>[A-Za-z~])  # a control sequence
    | \x1bO.?                                                       # F1 to F4 of old terminals
    | (?P<rest>\x1b(\[.{,21})?\Z)                                   # an incomplete sequence
    | (?P<char>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_PLAIN = {
    " ": Key("space_tap", " "),
    "\r": Key("enter"),
    "\n": Key("enter"),
    "\x7f": Key("erase"),
    "\b": Key("erase"),
    "\x03": Key("quit"),
    "\x04": Key("quit"),
}
_ENTER, _SPACE, _C, _D = 13, 32, 99, 100
_FUNCTIONAL = 0xE000  # the protocol's codes of keys without a character start here
_CONTROL = 4  # the modifier bit; the protocol sends 1 + bits
_PRESS, _RELEASE = 1, 3  # 2 is a repeat


class KeyParser:
    """Converts a terminal's characters to keys; keeps an incomplete escape sequence for the next call."""

    def __init__(self) -> None:
        self._rest = ""

    def feed(self, text: str) -> list[Key]:
        """Take characters and return the keys that they complete."""
        found = list(_TOKEN.finditer(self._rest + text))
        self._rest = (found[-1]["rest"] or "") if found else ""
        return [key for key in map(_key_of, found) if key is not None]


def _key_of(token: re.Match[str]) -> Key | None:
    if token["final"] == "u":
        return _sequence(token["mark"], token["numbers"])
    return _plain(token["char"]) if token["char"] else None


def _plain(char: str) -> Key | None:
    if char in _PLAIN:
        return _PLAIN[char]
    return Key("text", char) if char.isprintable() else None


def _sequence(mark: str, numbers: str) -> Key | None:
    if mark == "?":
        return Key("holds")
    fields = [[int(part or 0) for part in field.split(":")] for field in numbers.split(";")]
    code = fields[0][0]
    modifiers, kind = (fields[1] + [1])[:2] if len(fields) > 1 else (1, _PRESS)
    if code == _SPACE:
        return {_PRESS: Key("space_down", " "), _RELEASE: Key("space_up", " ")}.get(kind)
    if kind == _RELEASE:
        return None
    if max(modifiers - 1, 0) & _CONTROL:
        return Key("quit") if code in (_C, _D) else None
    return _plain(chr(code)) if code == _ENTER or _SPACE < code < _FUNCTIONAL else None


@contextmanager
def raw_terminal(keyboard: TextIO, screen: TextIO) -> Iterator[None]:
    """Put the terminal into key-by-key mode until the context is left; always restore it."""
    before = termios.tcgetattr(keyboard)
    try:
        tty.setcbreak(keyboard)
        mode = termios.tcgetattr(keyboard)
        mode[3] &= ~termios.ISIG  # Ctrl-C arrives as a key, so that the simulator can stop cleanly
        termios.tcsetattr(keyboard, termios.TCSANOW, mode)
        screen.write(QUERY)
        screen.flush()
        yield
    finally:
        screen.write(DISABLE + "\x1b[?25h")
        screen.flush()
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
