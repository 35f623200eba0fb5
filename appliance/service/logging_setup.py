"""Log output for the journal or a terminal, with secrets masked.

Under systemd each line starts with ``<N>``, its syslog priority (sd-daemon(3)); elsewhere with time and level. The
mask is the last line of defence: no module logs a key on purpose.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping
from typing import Final, TextIO

from appliance.errors import KEY_SHAPE

__all__ = ["is_journal", "mask_secrets", "print_error", "set_up_logging"]

_PRIORITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG_PRIORITY: Final = 7

# At DEBUG the client libraries log headers and whole frames: keys, audio and speech.
_TOO_TALKATIVE: Final = ("websockets", "openai", "httpx", "httpx2", "httpcore2", "mcp")

_SECRETS: Final = (
    re.compile(rf"(?P<keep>){KEY_SHAPE.pattern}"),
    re.compile(r"(?P<keep>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE),
    re.compile(
        r"(?P<keep>\b(?:authorization|(?:x-)?api[-_]?key|client[-_]secret|access[-_]token|token)[\"']?\s*[:=]\s*[\"']?)"
        r"(?!(?:bearer|basic)\s)[^\s\"',;&]{6,}",
        re.IGNORECASE,
    ),
)


def mask_secrets(text: str) -> str:
    """Replace everything that looks like a key, a token or the value of a secret header by ``***``."""
    for pattern in _SECRETS:
        text = pattern.sub(r"\g<keep>***", text)
    return text


class _Formatter(logging.Formatter):
    """Masks the whole text, including tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        return mask_secrets(super().format(record))


class _JournalFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return _with_priority(record.levelno, super().format(record))


def _with_priority(level: int, text: str) -> str:
    """Prefix each line: the journal stores each as an entry; without a prefix it gets the unit's default priority."""
    priority = next((number for least, number in _PRIORITIES if level >= least), _DEBUG_PRIORITY)
    return "\n".join(f"<{priority}>{line}" for line in text.split("\n"))


def print_error(text: str, environ: Mapping[str, str], *, stream: TextIO | None = None) -> None:
    """Print the error that ends the process, with secrets masked; in the journal at priority ``err``.

    Args:
        text: One or several lines.
        environ: Environment, for ``JOURNAL_STREAM``.
        stream: Destination; None is standard error.
    """
    stream = stream or sys.stderr
    masked = mask_secrets(text)
    print(_with_priority(logging.ERROR, masked) if is_journal(environ, stream) else masked, file=stream)


def set_up_logging(level: str, environ: Mapping[str, str], *, stream: TextIO | None = None) -> None:
    """Log to one stream, replacing all other handlers.

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
