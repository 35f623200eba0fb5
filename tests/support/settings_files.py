"""Settings files, as a test writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.errors import SettingsError
from appliance.settings import (
    load_settings,
)

__all__ = ["ROOT", "problems", "write"]


ROOT = Path(__file__).resolve().parents[2]


def write(folder: Path, text: str) -> Path:
    path = folder / "appliance.toml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(path: Path | None = None, **environ: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_settings(path, environ)
    return str(caught.value).splitlines()
