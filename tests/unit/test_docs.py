"""The pages: every Python block runs, every link leads somewhere, every page can be reached from the README."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(path for path in (ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
OF_FILES = {"agents-in-toml.md"}
"""Its blocks read the shipped files; `test_agent_files` runs them."""


@pytest.mark.parametrize("page", [one for one in PAGES if one.name not in OF_FILES], ids=lambda page: page.name)
def test_the_python_of_a_page_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType(f"docs_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # pydantic and dataclasses look there for names
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"environ\W+(\w+)", text):
        monkeypatch.setenv(name, "of the test")
    for block in BLOCK.findall(text):
        exec(compile(block, str(page), "exec", dont_inherit=True), module.__dict__)


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_the_links_of_a_page_lead_to_files(page: Path) -> None:
    links = [one for one in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in one]
    missing = [one for one in links if not (page.parent / one).exists()]
    assert missing == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        waiting += [(page.parent / one).resolve() for one in LINK.findall(page.read_text(encoding="utf-8"))]
    assert [one.name for one in PAGES if one not in seen] == []
