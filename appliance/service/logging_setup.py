"""Log output for the journal or a terminal, with secrets redacted and control characters escaped.

Under systemd each line starts with ``<N>``, its syslog priority (sd-daemon(3)); elsewhere with time and level. The
redaction is the last line of defence: no module logs a key on purpose. Only a traceback has several lines.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Final, TextIO

from appliance.safe_text import printable

__all__ = ["is_journal", "print_error", "set_up_logging"]

_PRIORITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG_PRIORITY: Final = 7

# At DEBUG the client libraries log headers and whole frames: keys, audio and speech.
_TOO_TALKATIVE: Final = ("websockets", "openai", "httpx", "httpx2", "httpcore2", "mcp")


class _Formatter(logging.Formatter):
    """One line for the message, and one for each line of a traceback; all of them printable."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(self.lines(record))

    def lines(self, record: logging.LogRecord) -> list[str]:
        record.message = record.getMessage().rstrip("\n")  # a warning of Python ends with a line feed
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        parts = [self.formatMessage(record)]
        if record.exc_info:
            parts += self.formatException(record.exc_info).split("\n")
        if record.stack_info:
            parts += self.formatStack(record.stack_info).split("\n")
        return [printable(part) for part in parts]


class _JournalFormatter(_Formatter):
    def lines(self, record: logging.LogRecord) -> list[str]:
        return _with_priority(record.levelno, super().lines(record))


def _with_priority(level: int, lines: Iterable[str]) -> list[str]:
    """Prefix each line: the journal stores each as an entry; without a prefix it gets the unit's default priority."""
    priority = next((number for least, number in _PRIORITIES if level >= least), _DEBUG_PRIORITY)
    return [f"<{priority}>{line}" for line in lines]


def print_error(text: str, environ: Mapping[str, str], *, stream: TextIO | None = None) -> None:
    """Print the error that ends the process, redacted and escaped; in the journal at priority ``err``.

    Args:
        text: One or several lines.
        environ: Environment, for ``JOURNAL_STREAM``.
        stream: Destination; None is standard error.
    """
    stream = stream or sys.stderr
    lines = printable(text, keeps_lines=True).split("\n")
    print("\n".join(_with_priority(logging.ERROR, lines) if is_journal(environ, stream) else lines), file=stream)


def set_up_logging(level: str, environ: Mapping[str, str], *, stream: TextIO | None = None) -> None:
    """Log to one stream, replacing all other handlers; the error that ends the process is logged there, too.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
        environ: Environment, for ``JOURNAL_STREAM``.
        stream: Destination; None is standard error.
    """
    handler = logging.StreamHandler(stream)
    if is_journal(environ, handler.stream):
        handler.setFormatter(_JournalFormatter("%(name)s: %(message)s"))
    else:
        handler.setFormatter(_Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", datefmt="%H:%M:%S"))
    threshold = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(level=threshold, handlers=[handler], force=True)
    for name in _TOO_TALKATIVE:
        logging.getLogger(name).setLevel(max(threshold, logging.WARNING))
    logging.captureWarnings(True)
    sys.excepthook = _log_crash


def _log_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Log an unexpected error, so that its traceback is redacted and escaped; see `sys.excepthook`."""
    logging.getLogger(__name__).critical("unexpected error", exc_info=(kind, error, trace))


def is_journal(environ: Mapping[str, str], stream: TextIO) -> bool:
    """Return whether `stream` is the journal: ``$JOURNAL_STREAM`` holds its device and inode (systemd.exec(5)).

    The variable alone is not enough: a child process inherits it even if its output is redirected.
    """
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))
