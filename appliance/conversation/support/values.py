"""Values that a server or a program gave, made safe to read. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["mapping"]


def mapping(value: Any) -> Mapping[str, Any]:
    """Return an object where one belongs; anything else counts as an empty one."""
    return value if isinstance(value, Mapping) else {}
