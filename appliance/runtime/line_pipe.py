"""A pipe for the standard error of a child process: its lines are taken one by one, on the event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

__all__ = ["line_pipe"]

_BLOCK_BYTES = 65_536
_LONGEST_LINE = 4_096  # bytes; a longer one is taken in pieces


@contextmanager
def line_pipe(take: Callable[[str], None]) -> Iterator[TextIO]:
    """Yield a file for a child process to write to.

    Args:
        take: Called with each line that is not empty, without its line feed, on the event loop's thread.
    """
    loop = asyncio.get_running_loop()
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    rest = b""

    def pump() -> None:
        nonlocal rest
        with suppress(BlockingIOError):
            rest += os.read(reading, _BLOCK_BYTES)
        *lines, rest = rest.split(b"\n")
        if len(rest) > _LONGEST_LINE:
            lines, rest = [*lines, rest], b""
        for line in filter(None, lines):
            for start in range(0, len(line), _LONGEST_LINE):
                take(line[start : start + _LONGEST_LINE].decode(errors="replace").rstrip("\r"))

    loop.add_reader(reading, pump)
    try:
        with os.fdopen(writing, "w") as file:
            yield file
    finally:
        loop.remove_reader(reading)
        pump()  # what the child wrote last
        if rest:
            take(rest.decode(errors="replace"))
        os.close(reading)
