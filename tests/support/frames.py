"""Literal parts of frames."""

from __future__ import annotations

from typing import Any, get_args

__all__ = ["PCM", "types_of"]


PCM = bytes(range(8))


def types_of(union: Any) -> set[str]:
    """Return the wire names in a union of the SDK."""
    return {name for model in get_args(get_args(union)[0]) for name in get_args(model.model_fields["type"].annotation)}
