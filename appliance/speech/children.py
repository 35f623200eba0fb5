"""The environment of child processes: what a program needs to run, and none of the secrets of ours."""

from __future__ import annotations

import os
from typing import Final

__all__ = ["child_environment"]

_PASSED: Final = frozenset(
    {
        *("HOME", "LANG", "LANGUAGE", "PATH", "TMPDIR", "TZ"),
        *("ESPEAK_DATA_PATH", "LD_LIBRARY_PATH", "MALLOC_ARENA_MAX", "OPENBLAS_NUM_THREADS"),
        *("PYTHONDONTWRITEBYTECODE", "PYTHONFAULTHANDLER", "PYTHONHOME", "PYTHONPATH", "PYTHONUNBUFFERED"),
    }
)


def child_environment() -> dict[str, str]:
    """Return the variables that a recogniser or a speech program gets: a fixed list, and the locale (``LC_…``)."""
    return {name: value for name, value in os.environ.items() if name in _PASSED or name.startswith("LC_")}
