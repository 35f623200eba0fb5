"""The whole state of an object as plain values, to compare two of them."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping
from enum import Enum
from typing import Any

__all__ = ["state_of"]


def state_of(one: Any, seen: tuple[int, ...] = ()) -> Any:
    """Return the values of all attributes, of theirs, and so on; not of functions and random numbers."""
    if id(one) in seen or callable(one) or isinstance(one, random.Random):
        return None
    within = (*seen, id(one))
    if one is None or isinstance(one, (str, bytes, int, float, Enum)):
        return one
    if isinstance(one, Mapping):
        return {str(key): state_of(value, within) for key, value in one.items()}
    if isinstance(one, (list, tuple, deque, set, frozenset)):
        return [state_of(value, within) for value in one]
    names = [*getattr(one, "__dict__", ())]
    names += [name for cls in type(one).__mro__ for name in getattr(cls, "__slots__", ()) if hasattr(one, name)]
    return type(one).__name__, {name: state_of(getattr(one, name), within) for name in names}
