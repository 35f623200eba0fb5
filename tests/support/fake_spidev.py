"""A fake `spidev`: records what is written to each device."""

from __future__ import annotations

import types
from typing import Any

__all__ = ["FakeSpi"]


class FakeSpi:
    """The SPI bus, and the module that opens it."""

    def __init__(self) -> None:
        self.opened: list[tuple[int, int]] = []
        self.written: list[bytes] = []
        self.hertz = 0
        self.problem: OSError | None = None

    def module(self) -> types.ModuleType:
        board = self

        class SpiDev:
            mode = 3

            def __setattr__(self, name: str, value: Any) -> None:
                if name == "max_speed_hz":
                    board.hertz = value
                object.__setattr__(self, name, value)

            def open(self, bus: int, device: int) -> None:
                if board.problem is not None:
                    raise board.problem
                board.opened.append((bus, device))

            def writebytes2(self, data: bytes) -> None:
                board.written.append(bytes(data))

            def close(self) -> None:
                board.opened.pop()

        made: Any = types.ModuleType("spidev")
        made.SpiDev = SpiDev
        return made  # type: ignore[no-any-return]
