"""The private SQLite file: create it, check it, and move it aside if it is damaged.

In WAL mode with ``synchronous=NORMAL`` a commit is not fsynced: a crash of the process loses nothing, a power cut
loses at most the last writes, and neither corrupts the file.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from appliance.errors import StorageError, reason_of

__all__ = ["delete_broken", "is_broken", "open_database", "transaction"]

log = logging.getLogger(__name__)

SCHEMA = 1

_TABLES = (
    "CREATE TABLE items (id TEXT PRIMARY KEY, position INTEGER NOT NULL, added_at REAL NOT NULL, item TEXT NOT NULL)",
    "CREATE INDEX items_by_position ON items (position)",
    "CREATE TABLE spend (day TEXT PRIMARY KEY, usd REAL NOT NULL, seconds REAL NOT NULL)",
)
_CLOCK = "CREATE TABLE clock (seconds REAL NOT NULL, wall REAL NOT NULL)"  # came later; older versions do not mind it
_PROBES = ("SELECT id, position, added_at, item FROM items LIMIT 0", "SELECT day, usd, seconds FROM spend LIMIT 0")
_BUSY_S = 0.1  # another process (a backup) may hold the file; the loop must not wait longer
_BROKEN = ".broken"
_COMPANIONS = ("-wal", "-shm")
_CODES_OF_BROKEN_FILES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


class _Broken(Exception):
    """The file is not a database, or is damaged."""


def open_database(path: Path) -> sqlite3.Connection:
    """Open the file, or create it with mode 0600.

    A file that is not a database, or is damaged, is moved to ``<name>.broken``, with a warning.

    Raises:
        StorageError: The file cannot be read or written, was written by a newer version, or belongs to another
            program.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return _connected(path)
        except _Broken as exc:
            log.warning("%s: %s; moved it to %s and started an empty history", path, exc, _moved_aside(path))
            return _connected(path)
    except StorageError:
        raise
    except (OSError, sqlite3.Error, _Broken) as exc:
        raise StorageError(f"{path}: the history cannot be stored here: {reason_of(exc)}") from None


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit the writes of the block, or roll all of them back."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite rolls back by itself after some errors
            connection.execute("ROLLBACK")
        raise


def is_broken(error: Exception) -> bool:
    """Return whether an error says that the file is no database or damaged, so that opening it moves it aside."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _CODES_OF_BROKEN_FILES  # & 0xFF: the primary result code


def delete_broken(path: Path) -> None:
    """Delete the file that was moved aside, with its ``-wal`` and ``-shm`` files."""
    for ending in ("", *_COMPANIONS):
        _beside(path, _BROKEN + ending).unlink(missing_ok=True)


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _connected(path: Path) -> sqlite3.Connection:
    # SQLite would use the umask; it copies the mode of the file to its -wal and -shm files.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
    connection = sqlite3.connect(path.absolute(), timeout=_BUSY_S, isolation_level=None)
    try:
        _prepare(connection, path)
    except BaseException as exc:
        connection.close()
        if isinstance(exc, sqlite3.Error) and is_broken(exc):
            raise _Broken(str(exc)) from None
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA:
        raise StorageError(
            f"{path}: schema version {version}, this program supports up to {SCHEMA}; "
            "install the newer version again, or move the file away"
        )
    if version == 0 and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise StorageError(f"{path}: the database belongs to another program; set another file")
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "secure_delete = ON"):
        connection.execute(f"PRAGMA {pragma}")
    if version == 0:
        with transaction(connection):
            for statement in (*_TABLES, f"PRAGMA user_version = {SCHEMA}"):
                connection.execute(statement)
    if not connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'clock'").fetchone()[0]:
        connection.execute(_CLOCK)
    check = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if check != "ok":
        raise _Broken(check)
    for probe in _PROBES:
        connection.execute(probe)


def _moved_aside(path: Path) -> Path:
    aside = _beside(path, _BROKEN)
    for ending in _COMPANIONS:  # remove those of an older broken file; the new file must not find this one's log
        _beside(aside, ending).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            _beside(path, ending).replace(_beside(aside, ending))
    return path.replace(aside)
