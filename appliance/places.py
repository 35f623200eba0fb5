"""Where the settings file is. Pure, and quick to import."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = ["SYSTEM_FILE", "find_settings_file"]

SYSTEM_FILE: Final = Path("/etc/voice-appliance/appliance.toml")


def find_settings_file(environ: Mapping[str, str]) -> Path | None:
    """Return the default settings file: ``$APPLIANCE_CONFIG``, else the one in /etc if it exists."""
    if named := environ.get("APPLIANCE_CONFIG", ""):
        return Path(named)
    return SYSTEM_FILE if SYSTEM_FILE.is_file() else None
