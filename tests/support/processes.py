"""The processes that a test has started, as Linux shows them."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["children"]


def children(parent: int | None = None) -> dict[str, str]:
    """Return the command line of each child, as words, with its environment, as lines.

    Args:
        parent: Its number; None is this process.
    """
    found = {}
    for listed in Path(f"/proc/{parent or os.getpid()}/task").glob("*/children"):
        for pid in listed.read_text().split():
            place = Path("/proc", pid)
            found[_words(place / "cmdline", " ")] = _words(place / "environ", "\n")
    return found


def _words(path: Path, between: str) -> str:
    return path.read_bytes().replace(b"\0", between.encode()).decode(errors="replace")
