"""The base class of frozen data that is read from JSON, written as JSON, or created many times per second. Pure."""

from __future__ import annotations

from typing import ClassVar

import msgspec

__all__ = ["Record"]


class Record(msgspec.Struct, frozen=True):
    """Frozen fields, compared by value.

    A Struct rather than a dataclass: defining a class takes about 10 µs instead of 400, creating an object 70 ns
    instead of 280. ``dataclasses.fields`` and ``replace`` do not work on it; `msgspec.structs` has both.
    """

    unprinted: ClassVar[tuple[str, ...]] = ()
    """Fields that the repr omits: audio, credentials, long texts (a Struct has no ``repr=False``)."""

    def __repr__(self) -> str:
        names = (name for name in self.__struct_fields__ if name not in self.unprinted)
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"
