"""docs/gestures.md: every gesture on the card has a test and a line in the picture, and no gesture is missing."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from appliance.conversation.support.gestures import GestureKind
from appliance.settings import ButtonSettings

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "gestures.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| ")][
    1:
]
ON_THE_CARD = {
    "press": "press",
    "release": "press",
    "tap": "tap",
    "double_tap": "double tap",
    "hold": "hold 1 s, while asked",
    "mute_hold": "hold 4 s",
    "power_off_hold": "hold 10 s",
    "stuck": "hold until stuck",
    "freed": "hold until stuck",
}
"""Kind of gesture → its row."""


def card() -> Any:
    spec = importlib.util.spec_from_file_location("gestures_card", ROOT / "scripts" / "gestures_card.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def kinds() -> set[str]:
    found: set[str] = set()
    for one in get_args(GestureKind):
        found |= set(get_args(one)) or {one}
    return found


def test_every_kind_of_gesture_is_on_the_card() -> None:
    assert kinds() == set(ON_THE_CARD)
    names = {name.partition(", shorter")[0] for name, *_ in ROWS}
    assert set(ON_THE_CARD.values()) <= names


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_gesture_of_the_card_has_a_test(row: list[str]) -> None:
    name = row[3].strip("`")
    tests = [path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "unit").rglob("test_*.py")]
    assert sum(f"def {name}(" in text for text in tests) == 1


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_settings_of_a_gesture_exist(row: list[str]) -> None:
    keys = re.findall(r"`(\w+)", row[1])
    assert set(keys) <= set(ButtonSettings.model_fields)


def test_picture_has_a_line_for_each_gesture_of_the_page_and_is_drawn_anew() -> None:
    drawn = card()
    names = dict.fromkeys(name.partition(", shorter")[0] for name, *_ in ROWS)
    assert list(names) == [name for name, _, _ in drawn.GESTURES]
    assert drawn.CARD.read_text(encoding="utf-8") == drawn.drawn(), "run scripts/gestures_card.py"


def test_times_on_the_card_are_the_defaults() -> None:
    fields = ButtonSettings()
    assert (fields.min_press_ms, fields.double_tap_ms, fields.hold_ms) == (15, 400, 1000)
    assert (fields.mute_hold_s, fields.power_off_hold_s) == (4.0, 10.0)
