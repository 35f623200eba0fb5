"""Safe reading of values from a server or a program. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["mapping"]


def mapping(value: Any) -> Mapping[str, Any]:
    """Return the value if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}
