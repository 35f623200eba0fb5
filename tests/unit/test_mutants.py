"""The runner of mutants: which changes it makes, and which tests it runs for them."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from tests.mutants.operators import mutants_of
from tests.mutants.reached import ReachedBy

HERE = Path("appliance/example.py")
SOURCES = sorted(Path(__file__).parents[2].joinpath("appliance/audio").glob("*.py"))


def changes(source: str) -> list[str]:
    return [one.applied_to(source).strip() for one in mutants_of(HERE, source)]


@pytest.mark.parametrize(
    ("source", "changed"),
    [
        ("a = b < c", ["a = b <= c"]),
        ("a = b is not None", ["a = b is None"]),
        ("a = not b", ["a = b"]),
        ("a = b and c", ["a = ((b) or (c))"]),
        ("a = b + c", ["a = ((b) - (c))"]),
        ("a = 3", ["a = 4"]),
        ("a = True", ["a = False"]),
        ("a.b = c", ["pass"]),
        ("a += b", ["pass"]),
        ("a(b)", ["pass"]),
        ("a(b, c=d)", ["pass", "a(b)"]),
        ("raise A", ["pass"]),
        ("if a:\n    b = c", ["if not (a):\n    b = c"]),
        ("def a():\n    return b", ["def a():\n    return None"]),
        ("a = 'é' in b", ["a = 'é' not in b"]),
    ],
)
def test_each_change_is_made(source: str, changed: list[str]) -> None:
    assert changes(source) == changed


@pytest.mark.parametrize(
    "source",
    [
        '"""A docstring with 3 words."""',
        "__all__ = ['a']",
        "log.info('%d', 3)",
        "assert a == 3",
        "a: Literal[3]",
        "a = f'{b + 3}'",
        "a = 'b' + c",
        "def __repr__(self):\n    return 3",
        "if TYPE_CHECKING:\n    a = 3",
        "while True:\n    break",
    ],
)
def test_what_no_test_can_notice_is_left_alone(source: str) -> None:
    assert changes(source) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_mutant_is_a_different_program(path: Path) -> None:
    source = path.read_text()
    program = ast.dump(ast.parse(source))
    for one in mutants_of(path, source):
        assert source[one.start : one.end] == one.before
        assert source.count("\n", 0, one.start) < one.line <= source.count("\n", 0, one.end) + 1
        assert ast.dump(ast.parse(one.applied_to(source))) != program, str(one)


def test_the_fastest_tests_that_reach_the_line_run_first(tmp_path: Path) -> None:
    reached = {str(HERE): {"7": [0, 1, 2], "9": [3]}}
    found = {
        "tests": ["slow", "fast", "red", "elsewhere"],
        "seconds": {"slow": 2.0, "fast": 0.1, "red": 0.0, "elsewhere": 0.5},
        "failed": ["red"],
        "reached": reached,
    }
    (tmp_path / "shard-0.json").write_text(json.dumps(found))
    tests = ReachedBy(tmp_path)
    assert tests.tests_of(HERE, 7) == ["fast", "slow"]
    assert tests.tests_of(HERE, 1) == ["fast", "elsewhere", "slow"], "a line of the import: all tests of the file"
    assert tests.tests_of(Path("appliance/other.py"), 1) == []
