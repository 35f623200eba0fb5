"""Look up plug-ins by name: built-in entries first, then the entry points of installed packages. Pure.

A package adds an entry with an entry point in the group, in its ``pyproject.toml``::

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
    """Return the entry with this name.

    Args:
        table: Built-in entries: objects, or their places as ``"package.module:attribute"``. They take precedence.
        kind: What the name refers to, for error messages ("engine").
        group: The entry point group of packages that add entries.

    Raises:
        SettingsError: There is no such entry, or its package cannot be loaded.
    """
    if name in table:
        return resolve_name(table[name]) if isinstance(table[name], str) else table[name]
    from importlib import metadata  # takes 15 ms, which built-in entries do not need

    others = {one.name: one for one in metadata.entry_points(group=group)}
    if name not in others:
        known = sorted({*table, *others})
        raise SettingsError(f"no {kind} is called {name!r}; available: {', '.join(known)}{did_you_mean(name, known)}")
    try:
        return others[name].load()
    except Exception as exc:
        raise SettingsError(
            f"{kind} {name!r}: {others[name].value} cannot be loaded ({type(exc).__name__}: {exc}); "
            "reinstall its package"
        ) from exc


def version() -> str:
    """Return the version of the installed appliance; "unknown" in a source tree that is not installed."""
    from importlib import metadata

    try:
        return metadata.version("voice-appliance")
    except metadata.PackageNotFoundError:
        return "unknown"
