"""What a name stands for: a seam's own entries first, then those of installed packages. Pure.

A package adds an entry to a seam by an entry point of its group, as in its ``pyproject.toml``::

    [project.entry-points."voice_appliance.tts"]
    parrot = "parrot.engine:open_parrot"
"""

from __future__ import annotations

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any

from appliance.errors import SettingsError, did_you_mean

__all__ = ["named", "version"]


def named(table: Mapping[str, Any], name: str, *, kind: str, group: str) -> Any:
    """Return the entry of a name.

    Args:
        table: The seam's own entries: objects, or where they are, as ``"package.module:attribute"``. They go first.
        kind: What is looked for, in words.
        group: The group of entry points by which packages add to the table.

    Raises:
        SettingsError: There is none, or the package that has it cannot be loaded.
    """
    if name in table:
        return resolve_name(table[name]) if isinstance(table[name], str) else table[name]
    from importlib import metadata  # 15 ms, which no built-in entry needs

    others = {one.name: one for one in metadata.entry_points(group=group)}
    if name not in others:
        known = sorted({*table, *others})
        raise SettingsError(f"no {kind} is called {name!r}: there are {', '.join(known)}{did_you_mean(name, known)}")
    try:
        return others[name].load()
    except Exception as exc:
        raise SettingsError(
            f"{kind} {name!r}: {others[name].value} cannot be loaded ({type(exc).__name__}: {exc}); "
            "install that package again"
        ) from exc


def version() -> str:
    """Return the version of the installed appliance; "unknown" in a source tree that is not installed."""
    from importlib import metadata

    try:
        return metadata.version("voice-appliance")
    except metadata.PackageNotFoundError:
        return "unknown"
