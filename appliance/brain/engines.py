"""Stages by name: look one up in its table, or say which there are."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TypeVar

from appliance.errors import SettingsError

__all__ = ["named"]

T = TypeVar("T")


def named(table: Mapping[str, T], name: str, *, stage: str) -> T:
    """Return the entry of a name.

    Raises:
        SettingsError: There is none; the text names the nearest and all that there are.
    """
    if name in table:
        return table[name]
    near = get_close_matches(name.lower(), table, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise SettingsError(f"no {stage} is called {name!r}: {hint}there are {', '.join(sorted(table))}")
