"""Do two recognisers mean the same? A command of the grammar beside what the open language model heard.

Pure. A grammar forces every utterance onto one of its sentences, so its result alone is worth nothing: "tell me a
joke" becomes a command too. The open model has no such bias, but it writes "turn on the land" for "turn on the lamp".
What they share is the sound, so they are compared phone by phone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Comparison", "Pronouncer", "agree", "compare"]

MAX_DISTANCE = 0.34


class Pronouncer:
    """Words to phones, by a dictionary."""

    def __init__(self, look_up: Callable[[str], str | None]) -> None:
        self._look_up = look_up

    def knows(self, word: str) -> bool:
        """Tell whether the dictionary has a word."""
        return bool(self._look_up(word))

    def phones(self, word: str) -> tuple[str, ...]:
        """Return the phones of a word; one that is not in the dictionary is a phone of its own."""
        return tuple((self._look_up(word) or word).split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How far two hypotheses are apart, in phones."""

    distance: float
    """Edits over the phones of the longer one: 0 for the same sound, 1 for nothing in common."""
    worst_word: float
    """The same for the word of the command that fits worst."""
    longest_extra: int
    """The longest row of phones that only the open model heard."""


def agree(command: str, heard: str, pronounce: Pronouncer) -> bool:
    """Tell whether the open hypothesis supports the command."""
    if not command or not heard:
        return False
    if command == heard:
        return True
    found = compare(command, heard, pronounce)
    return found.distance <= MAX_DISTANCE


def compare(command: str, heard: str, pronounce: Pronouncer) -> Comparison:
    """Align two hypotheses by phones."""
    words = [pronounce.phones(word) for word in command.split()]
    said = [phone for word in words for phone in word]
    other = [phone for word in heard.split() for phone in pronounce.phones(word)]
    return _measured([len(word) for word in words], _align(said, other), max(len(said), len(other), 1))


def _align(left: Sequence[str], right: Sequence[str]) -> list[tuple[bool, bool, bool]]:
    """Return the steps of a cheapest alignment: (uses left, uses right, is an edit)."""
    rows = [list(range(len(right) + 1))]
    for i, a in enumerate(left, 1):
        row = [i]
        for j, b in enumerate(right, 1):
            row.append(min(rows[-1][j - 1] + (a != b), rows[-1][j] + 1, row[-1] + 1))
        rows.append(row)
    steps, i, j = [], len(left), len(right)
    while i or j:
        if i and j and rows[i][j] == rows[i - 1][j - 1] + (left[i - 1] != right[j - 1]):
            steps.append((True, True, left[i - 1] != right[j - 1]))
            i, j = i - 1, j - 1
        elif i and rows[i][j] == rows[i - 1][j] + 1:
            steps.append((True, False, True))
            i -= 1
        else:
            steps.append((False, True, True))
            j -= 1
    return steps[::-1]


def _measured(lengths: Sequence[int], steps: Sequence[tuple[bool, bool, bool]], longest: int) -> Comparison:
    owners = [word for word, length in enumerate(lengths) for _ in range(length)]
    edits = [0] * len(lengths)
    at = run = longest_run = total = 0
    for uses_left, _, is_edit in steps:
        total += is_edit
        run = 0 if uses_left else run + 1
        longest_run = max(longest_run, run)
        if uses_left:
            edits[owners[at]] += is_edit
            at += 1
    worst = max((edits[i] / length for i, length in enumerate(lengths)), default=0.0)
    return Comparison(distance=total / longest, worst_word=worst, longest_extra=longest_run)
