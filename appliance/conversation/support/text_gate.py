"""The output gate: when to check the text of an answer, and how much of its audio may be played. Pure.

Theory of operation. The transcript of an answer arrives in pieces, mostly ahead of the audio, and nothing in the
protocol aligns the two. Checks run outside and take time. So:

* a text is checked whenever it has grown by `debounce` characters (only at its end, if that is -1), and always once
  more when it is final, so that short replies and tails are checked too;
* with `hold`, audio waits here and is released only as far as the checked text certainly reaches: nobody speaks faster
  than `FASTEST_CHARACTERS_PER_S`, so `n` checked characters cover at least ``n / 25`` seconds of audio, in whatever
  order the server sends the two. The rest follows once the final text has passed.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from appliance.realtime.protocol import SAMPLE_RATE

__all__ = ["Check", "HeldAudio", "TextGate"]

FASTEST_CHARACTERS_PER_S = 25
_BYTES_PER_CHARACTER = 2 * SAMPLE_RATE // FASTEST_CHARACTERS_PER_S


@dataclass(frozen=True, slots=True)
class Check:
    """A pending check of a text."""

    number: int
    item_id: str
    content_index: int
    text: str = field(repr=False)
    is_final: bool
    deadline: float


@dataclass(frozen=True, slots=True)
class HeldAudio:
    """A piece of audio that was held back."""

    item_id: str
    content_index: int
    pcm: bytes = field(repr=False)


@dataclass(slots=True)
class _Text:
    """The state of one text; lengths are in characters."""

    text: str = ""
    requested: int = 0
    """Length of the text in the newest check."""
    passed: int = 0
    """Length of the longest text that has passed."""
    is_final_requested: bool = False
    is_final_passed: bool = False
    released_bytes: int = 0


class TextGate:
    """Gates the answer to one turn; `reset` prepares for the next."""

    def __init__(self, *, debounce: int, hold: bool, check_s: float) -> None:
        """Create an empty gate.

        Args:
            debounce: Characters of new text between two checks; -1 for the final text only.
            hold: Keep audio back until its text has passed.
            check_s: How long one check may take.
        """
        self._debounce = debounce
        self._hold = hold
        self._check_s = check_s
        self._texts: dict[tuple[str, int], _Text] = {}
        """By item and content index: each part is a separate text."""
        self._held: deque[HeldAudio] = deque()
        self._pending: dict[int, Check] = {}
        self._last_number = 0
        self.is_empty = True
        """No text or audio has arrived since the last `reset`."""

    def __repr__(self) -> str:
        return f"<TextGate {len(self._pending)} checks pending, {len(self._held)} pieces held>"

    @property
    def is_busy(self) -> bool:
        """A check is pending or audio is held, so the answer is not over."""
        return bool(self._pending or self._held)

    @property
    def deadline(self) -> float | None:
        return min((one.deadline for one in self._pending.values()), default=None)

    @property
    def is_holding(self) -> bool:
        return bool(self._held)

    @property
    def held_frames(self) -> Counter[str]:
        """Held frames by item."""
        frames: Counter[str] = Counter()
        for one in self._held:
            frames[one.item_id] += len(one.pcm) // 2
        return frames

    def drop_held(self) -> None:
        """Drop the held audio; the text of released audio is still checked."""
        self._held.clear()

    def reset(self) -> None:
        """Forget everything: held audio is never played, and late results of checks are ignored."""
        self._texts.clear()
        self._held.clear()
        self._pending.clear()
        self.is_empty = True

    # --- text ---------------------------------------------------------------------------------------------------

    def grew(self, item_id: str, content_index: int, delta: str, now: float) -> Check | None:
        """Append a piece of text; returns the check that is due, if any."""
        self.is_empty = False
        text = self._texts.setdefault((item_id, content_index), _Text())
        if text.is_final_requested:
            return None
        text.text += delta
        if self._debounce < 0 or len(text.text) - text.requested < max(1, self._debounce):
            return None
        return self._check((item_id, content_index), text, now, is_final=False)

    def ended(self, item_id: str, content_index: int, whole: str, now: float) -> Check | None:
        """End a text; returns its final check, or None if that was requested before."""
        self.is_empty = False
        text = self._texts.setdefault((item_id, content_index), _Text())
        if text.is_final_requested:
            return None
        text.text = whole or text.text
        return self._check((item_id, content_index), text, now, is_final=True)

    def all_ended(self, now: float) -> list[Check]:
        """End every text, also one without its own ``done`` event; returns their final checks."""
        for piece in self._held:
            self._texts.setdefault((piece.item_id, piece.content_index), _Text())
        open_texts = [part for part, one in self._texts.items() if not one.is_final_requested]
        return [check for part in open_texts if (check := self.ended(*part, "", now)) is not None]

    def passed(self, number: int) -> None:
        """Handle a check that found nothing."""
        check = self._pending.pop(number, None)
        if check is not None:
            text = self._texts[check.item_id, check.content_index]
            text.passed = max(text.passed, len(check.text))
            text.is_final_passed = text.is_final_passed or check.is_final

    def pending(self, number: int) -> Check | None:
        return self._pending.get(number)

    def late(self, now: float) -> Check | None:
        """Return a check that is past its deadline, if any."""
        return next((one for one in self._pending.values() if now >= one.deadline), None)

    def _check(self, part: tuple[str, int], text: _Text, now: float, *, is_final: bool) -> Check:
        self._last_number += 1
        text.requested = len(text.text)
        text.is_final_requested = is_final
        check = Check(self._last_number, *part, text.text, is_final, now + self._check_s)
        self._pending[check.number] = check
        return check

    # --- audio --------------------------------------------------------------------------------------------------

    def hold(self, item_id: str, content_index: int, pcm: bytes) -> None:
        """Hold a piece of audio until `release` yields it."""
        self.is_empty = False
        self._held.append(HeldAudio(item_id, content_index, pcm))

    def release(self) -> Iterator[HeldAudio]:
        """Yield the audio that may be played now, in order."""
        while self._held:
            piece = self._held[0]
            part = (piece.item_id, piece.content_index)
            free = self._free_bytes(part)
            if free is None or free >= len(piece.pcm):
                self._held.popleft()
            elif free > 0:
                self._held[0] = HeldAudio(piece.item_id, piece.content_index, piece.pcm[free:])
                piece = HeldAudio(piece.item_id, piece.content_index, piece.pcm[:free])
            else:
                return
            self._texts.setdefault(part, _Text()).released_bytes += len(piece.pcm)
            yield piece

    def _free_bytes(self, part: tuple[str, int]) -> int | None:
        """Return how much more audio of a part may be played; None for all."""
        text = self._texts.get(part, _Text())
        if not self._hold or text.is_final_passed:
            return None
        return text.passed * _BYTES_PER_CHARACTER - text.released_bytes
