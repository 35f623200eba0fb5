#!/usr/bin/env python3
"""Draw docs/gestures.svg: the level of the button over time, one line for each gesture of docs/gestures.md.

Run this after a change: ``.venv/bin/python scripts/gestures_card.py``. A test compares the picture with the page.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CARD = ROOT / "docs" / "gestures.svg"

# Name, widths of down and up in turn (in the picture's units, not to scale), and the meaning.
GESTURES: tuple[tuple[str, tuple[int, ...], str], ...] = (
    ("spike", (3,), "shorter than 15 ms: ignored"),
    ("press", (110,), "talk while pressed (hold, auto)"),
    ("short press", (12,), "too short (hold)"),
    ("tap", (24,), "talk until the next tap or silence (auto, tap)"),
    ("press during an alarm", (30,), "silence the alarm"),
    ("tap, while asked", (24,), "yes"),
    ("hold 1 s, while asked", (70,), "no"),
    ("double tap", (24, 30, 24), "mute, new conversation or next agent (double_tap)"),
    ("hold 4 s, muted", (150,), "unmute"),
    ("hold 4 s", (150,), "mute (tap)"),
    ("hold 10 s", (210,), "announced power-off, at the release (tap, second button)"),
    ("press of the second button", (30,), "mute or unmute"),
    ("mute switch", (230,), "muted while closed"),
    ("hold until stuck", (230,), "the button is stuck"),
)
_ROW, _NAMES, _LEVELS, _WIDTH = 34, 210, 250, 860


def drawn() -> str:
    """Return the picture."""
    height = _ROW * len(GESTURES) + 20
    rows = [_row(10 + _ROW * number, *gesture) for number, gesture in enumerate(GESTURES)]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        'font-family="sans-serif" font-size="14">\n<title>Gestures of the button</title>\n'
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>\n'
    )
    return head + "".join(rows) + "</svg>\n"


def _row(top: int, name: str, widths: tuple[int, ...], meaning: str) -> str:
    low, high = top + 24, top + 8
    path, is_down = f"M{_NAMES} {low}h10", False
    for width in widths:
        is_down = not is_down
        path += f"V{high if is_down else low}h{width}"
    path += f"V{low}H{_NAMES + _LEVELS}"
    return (
        f'<text x="10" y="{top + 21}">{escape(name)}</text>\n'
        f'<path d="{path}" fill="none" stroke="#06c" stroke-width="2"/>\n'
        f'<text x="{_NAMES + _LEVELS + 15}" y="{top + 21}" fill="#444">{escape(meaning)}</text>\n'
    )


if __name__ == "__main__":
    CARD.write_text(drawn(), encoding="utf-8")
