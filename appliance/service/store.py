"""What survives a restart: the items of the conversation and what was spent on each day, in one SQLite file.

An observer of the driver writes each change at once, in one small transaction per event. In WAL mode with
``synchronous=NORMAL`` a commit is not fsynced: a crash of the process loses nothing, a power cut at most the last
writes, and neither breaks the file. The order is kept by a position: an item that is put between two others moves all
behind it up by one, in the same transaction.

Storing is never worth the conversation: when a write fails (full disk, read-only card), that is logged once and
nothing more is written until the next start. Everything here runs on the thread that called `ConversationStore.open`:
the loop's.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from msgspec.structs import asdict, replace

from appliance.conversation.commands import Command, Emit
from appliance.conversation.events import DayBegan, Event
from appliance.conversation.notices import HistoryChanged, HistoryGrew, Notice, Usage
from appliance.conversation.support.feedback import View
from appliance.errors import StorageError
from appliance.realtime.items import HistoryItem

__all__ = ["ConversationStore"]

log = logging.getLogger(__name__)

SCHEMA = 1
IMAGE_SHOWN = "(an image was shown)"

_TABLES = (
    "CREATE TABLE items (id TEXT PRIMARY KEY, position INTEGER NOT NULL, added_at REAL NOT NULL, item TEXT NOT NULL)",
    "CREATE INDEX items_by_position ON items (position)",
    "CREATE TABLE spend (day TEXT PRIMARY KEY, usd REAL NOT NULL, seconds REAL NOT NULL)",
)
_PROBES = ("SELECT id, position, added_at, item FROM items LIMIT 0", "SELECT day, usd, seconds FROM spend LIMIT 0")
_DAY_S = 86_400.0
_BUSY_S = 0.1  # another process (a backup) may hold the file; the loop must not wait longer
_BROKEN = ".broken"
_COMPANIONS = ("-wal", "-shm")
_KEPT_FIELDS = tuple(name for name in HistoryItem.__struct_fields__ if name != "images")


class _Broken(Exception):
    """The file is no database, or not a whole one."""


class ConversationStore:
    """An observer of the driver that keeps the conversation and the spend of each day.

    Args:
        path: The file; its folder is made if need be. Mode 0600.
        max_items: The newest that are kept; 0 keeps the spend only.
        max_age_days: Older items are deleted.
        clock: Seconds since 1970, UTC.
        post: Takes ``DayBegan`` when a new day has begun, or the first one was not told by anybody; None: no one is
            told.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_items: int = 200,
        max_age_days: float = 30.0,
        clock: Callable[[], float] = time.time,
        post: Callable[[Event], None] | None = None,
    ) -> None:
        self._path = path
        self._max_items = max(0, max_items)
        self._max_age_s = max_age_days * _DAY_S
        self._clock = clock
        self._post = post
        self._connection: sqlite3.Connection | None = None
        self._has_failed = False
        self._day = ""
        self._is_day_on_its_way = False

    def __repr__(self) -> str:
        state = "closed" if self._connection is None else "failed" if self._has_failed else "open"
        return f"<ConversationStore {self._path} {state}>"

    def open(self) -> None:
        """Open the file, or begin it; harmless when it is open already.

        A file that is no whole database is moved aside to ``<name>.broken``, which is logged.

        Raises:
            StorageError: It cannot be read and written here, was written by a newer version, or belongs to another
                program.
        """
        if self._connection is not None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._connection = self._connected()
            except _Broken as exc:
                aside = self._move_aside()
                log.warning("%s: %s; it is now %s, and the history begins anew", self._path, exc, aside)
                self._connection = self._connected()
        except StorageError:
            raise
        except (OSError, sqlite3.Error, _Broken) as exc:
            raise StorageError(f"{self._path}: the history cannot be stored here: {_reason(exc)}") from None
        self._has_failed = False

    def close(self) -> None:
        """End storing; harmless when it is closed already."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error as exc:
                log.warning("%s: the end of the history is lost: %s", self._path, exc)

    def __call__(self, now: float, event: Event, commands: Sequence[Command], view: View) -> None:
        """Write what one step has changed; on the loop's thread, raises nothing."""
        if self._connection is not None and not self._has_failed:
            self._store(commands)
        if self._post is not None:
            self._tell_day(event, commands, self._post)

    def load(self) -> tuple[HistoryItem, ...]:
        """Return what is kept of the conversation, in its order; what is too old or too much is deleted.

        An item that was in progress when the process ended is ``incomplete``.

        Raises:
            StorageError: The store is not open, or the file cannot be read.
        """
        connection = self._opened()
        if not self._has_failed:
            try:
                with self._writing():
                    self._prune(connection)
            except sqlite3.Error as exc:
                self._fail(exc)
        try:
            rows = connection.execute(
                "SELECT id, item FROM (SELECT * FROM items ORDER BY position DESC LIMIT ?) WHERE added_at >= ? "
                "ORDER BY position",
                (self._max_items, self._oldest()),
            ).fetchall()
        except sqlite3.Error as exc:
            raise StorageError(f"{self._path}: the history cannot be read: {exc}") from None
        return tuple(item for key, text in rows if (item := self._decoded(key, text)) is not None)

    def forget(self) -> None:
        """Delete the whole conversation, also from a file that was moved aside; what was spent stays.

        The text is overwritten, not just unlinked from the tables (as far as the card's own wear levelling lets that
        be). An item that is changed afterwards does not come back.

        Raises:
            StorageError: The store is not open, or something could not be deleted.
        """
        connection = self._opened()
        try:
            with self._writing():
                connection.execute("DELETE FROM items")
            # Else the log still holds what was said.
            is_held = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            for ending in ("", *_COMPANIONS):
                self._beside(_BROKEN + ending).unlink(missing_ok=True)
        except (OSError, sqlite3.Error) as exc:
            raise StorageError(
                f"{self._path}: not everything could be forgotten: {_reason(exc)}; "
                "stop the appliance and delete the file"
            ) from None
        if is_held:
            raise StorageError(
                f"{self._path}: forgotten, but another program reads the file, so that {self._path.name}-wal "
                "still holds what was said; end that program and forget again"
            )

    def today(self) -> str:
        """Return the ISO date of now, local time."""
        return time.strftime("%Y-%m-%d", time.localtime(self._clock()))

    def add_spent(self, day: str, usd: float, seconds: float) -> None:
        """Add to what was spent on a day; raises nothing, and keeps nothing once storing has ended.

        Args:
            day: ISO date, local time.
            usd: US dollars.
            seconds: Of audio, both ways.
        """
        if self._connection is None or self._has_failed:
            return
        try:
            with self._writing() as connection:
                self._add_spent(connection, day, usd, seconds)
        except sqlite3.Error as exc:
            self._fail(exc)

    def spent(self, day: str) -> tuple[float, float]:
        """Return US dollars and seconds of audio of a day; nothing where nothing is known of it.

        Args:
            day: ISO date, local time.
        """
        if self._connection is None:
            return 0.0, 0.0
        try:
            row = self._connection.execute("SELECT usd, seconds FROM spend WHERE day = ?", (day,)).fetchone()
        except sqlite3.Error as exc:
            self._fail(exc)
            return 0.0, 0.0
        return (float(row[0]), float(row[1])) if row else (0.0, 0.0)

    # --- the file ---------------------------------------------------------------------------------------------

    def _beside(self, ending: str) -> Path:
        return self._path.with_name(self._path.name + ending)

    def _connected(self) -> sqlite3.Connection:
        """Open and check the file.

        Raises:
            _Broken: It is no whole database.
            StorageError: It was written by a newer version or by another program.
        """
        # SQLite would make it by the umask; its companions take the mode of the file.
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
        connection = sqlite3.connect(self._path.absolute(), timeout=_BUSY_S, isolation_level=None)
        try:
            self._prepare(connection)
        except BaseException as exc:
            connection.close()
            if isinstance(exc, sqlite3.Error) and _is_broken(exc):
                raise _Broken(str(exc)) from None
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA:
            raise StorageError(
                f"{self._path}: schema version {version}, this program knows up to {SCHEMA}; "
                "install the newer version again, or move the file away"
            )
        if version == 0 and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise StorageError(f"{self._path}: a database of another program; name another file")
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "secure_delete = ON"):
            connection.execute(f"PRAGMA {pragma}")
        if version == 0:
            with _transaction(connection):
                for statement in (*_TABLES, f"PRAGMA user_version = {SCHEMA}"):
                    connection.execute(statement)
        check = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if check != "ok":
            raise _Broken(check)
        for probe in _PROBES:
            connection.execute(probe)

    def _move_aside(self) -> Path:
        aside = self._beside(_BROKEN)
        for ending in _COMPANIONS:  # of an older broken file; and the new file must not find the log of this one
            self._beside(_BROKEN + ending).unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                self._beside(ending).replace(self._beside(_BROKEN + ending))
        self._path.replace(aside)
        return aside

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StorageError(f"{self._path}: the history is not open; call open() first")
        return self._connection

    def _writing(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        return _transaction(self._opened())

    def _fail(self, exc: sqlite3.Error) -> None:
        if not self._has_failed:
            log.warning(
                "%s: %s; the history is not stored any more. Make room or make it writable, and restart",
                self._path,
                exc,
            )
        self._has_failed = True

    # --- its rows ---------------------------------------------------------------------------------------------

    def _store(self, commands: Sequence[Command]) -> None:
        notices = [one.notice for one in commands if isinstance(one, Emit)]
        changes = [one for one in notices if isinstance(one, (HistoryGrew, HistoryChanged, Usage))]
        if changes:
            try:
                with self._writing() as connection:
                    for change in changes:
                        self._write(connection, change)
                    if any(isinstance(one, HistoryGrew) for one in changes):
                        self._prune(connection)
            except sqlite3.Error as exc:
                self._fail(exc)

    def _write(self, connection: sqlite3.Connection, change: Notice) -> None:
        match change:
            case HistoryGrew(item=item, previous_item_id=previous) if self._max_items:
                key = _key(item.id)
                connection.execute(
                    "INSERT INTO items (id, position, added_at, item) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE "
                    "SET position = excluded.position, item = excluded.item",  # its age stays: a restart adds it anew
                    (key, self._place(connection, key, previous), self._clock(), _encoded(item)),
                )
            case HistoryChanged(item_id=item_id, item=None):
                connection.execute("DELETE FROM items WHERE id = ?", (_key(item_id),))
            case HistoryChanged(item_id=item_id, item=HistoryItem() as item):  # one that is not stored stays so
                connection.execute("UPDATE items SET item = ? WHERE id = ?", (_encoded(item), _key(item_id)))
            case Usage(usd=usd, audio_s=seconds):
                self._add_spent(connection, self.today(), usd or 0.0, seconds)
            case _:
                pass

    def _place(self, connection: sqlite3.Connection, key: str, previous: str) -> int:
        """Free the position right behind the item `previous`; one that is not stored counts as the last."""
        first, behind = connection.execute(
            "SELECT ifnull(min(position), 0), ifnull(max(iif(id = ?, position, NULL)), ifnull(max(position), 0)) + 1 "
            "FROM items WHERE id <> ?",
            (_key(previous), key),
        ).fetchone()
        place = int(behind if previous else first)
        connection.execute("UPDATE items SET position = position + 1 WHERE position >= ?", (place,))
        return place

    def _prune(self, connection: sqlite3.Connection) -> None:
        connection.execute(
            "DELETE FROM items WHERE added_at < ? OR id IN "
            "(SELECT id FROM items ORDER BY position DESC LIMIT -1 OFFSET ?)",
            (self._oldest(), self._max_items),
        )
        before = time.strftime("%Y-%m-%d", time.localtime(self._oldest()))
        connection.execute("DELETE FROM spend WHERE day < ?", (before,))

    def _oldest(self) -> float:
        return max(0.0, self._clock() - self._max_age_s)

    def _add_spent(self, connection: sqlite3.Connection, day: str, usd: float, seconds: float) -> None:
        connection.execute(
            "INSERT INTO spend (day, usd, seconds) VALUES (?, ?, ?) ON CONFLICT (day) DO UPDATE "
            "SET usd = usd + excluded.usd, seconds = seconds + excluded.seconds",
            (day, usd, seconds),
        )

    def _decoded(self, key: str, text: str) -> HistoryItem | None:
        try:
            values = json.loads(text)
            item = HistoryItem(**{name: values[name] for name in _KEPT_FIELDS if name in values})
        except (TypeError, ValueError) as exc:
            log.warning("%s: item %s cannot be read and is left out: %s", self._path, key, type(exc).__name__)
            return None
        return replace(item, status="incomplete") if item.status == "in_progress" else item

    # --- the day ----------------------------------------------------------------------------------------------

    def _tell_day(self, event: Event, commands: Sequence[Command], post: Callable[[Event], None]) -> None:
        if isinstance(event, DayBegan):
            self._day = event.day
            self._is_day_on_its_way = False
        today = self.today()
        counts = any(isinstance(one, Emit) and isinstance(one.notice, Usage) for one in commands)
        if today != self._day or (self._is_day_on_its_way and counts):  # counted by the old day, spent on the new
            self._day = today
            self._is_day_on_its_way = True
            post(DayBegan(today, *self.spent(today)))


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # after some errors SQLite has rolled back by itself
            connection.execute("ROLLBACK")
        raise


def _is_broken(exc: sqlite3.Error) -> bool:
    code = getattr(exc, "sqlite_errorcode", 0) & 0xFF  # without the extension
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


def _reason(exc: Exception) -> str:
    return getattr(exc, "strerror", None) or str(exc)


def _key(item_id: str) -> str:
    """The id as SQLite can hold it: a server may send what UTF-8 cannot (half a surrogate)."""
    return item_id.encode("utf-8", "backslashreplace").decode("utf-8")


def _encoded(item: HistoryItem) -> str:
    """The item as JSON (ASCII, for the same reason), with a remark in place of its images."""
    values = asdict(item)
    if values.pop("images"):
        values["text"] = " ".join(filter(None, (item.text, IMAGE_SHOWN)))
    return json.dumps(values, separators=(",", ":"))
