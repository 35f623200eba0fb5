"""Stores the conversation's items and the spend of each day across restarts, in one SQLite file.

An observer of the driver writes each change at once, in one small transaction per event. A position column keeps the
order: inserting an item between two others moves all later items up by one, in the same transaction.

A failed write (full disk, locked file) must not stop the conversation: storing is paused, and changes are kept in
memory (`Unwritten`) until a retry succeeds. Retries are rare, because a locked file blocks the event loop for 0.1 s.

The wall clock dates the spend only; items age on a scale of their own (`AgeClock`).

Everything here runs on the thread that called `ConversationStore.open`, the event loop's.
"""

from __future__ import annotations

import json
import logging
import math
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec.structs import asdict, replace

from appliance.conversation.commands import Command, Emit
from appliance.conversation.events import Event
from appliance.conversation.notices import HistoryChanged, HistoryGrew, Usage
from appliance.conversation.support.feedback import View
from appliance.errors import StorageError, reason_of
from appliance.realtime.items import HistoryItem
from appliance.service.aging import AgeClock
from appliance.service.database import delete_broken, is_broken, open_database, transaction
from appliance.service.days import is_dated, iso_date
from appliance.service.unwritten import Change, Unwritten

__all__ = ["ConversationStore"]

log = logging.getLogger(__name__)

_DAY_S = 86_400.0
_FEWEST_DAYS = 7  # days of spend that are kept, however short the age limit
_FIRST_RETRY_S, _LONGEST_RETRY_S = 1.0, 60.0
_KEPT_FIELDS = tuple(name for name in HistoryItem.__struct_fields__ if name != "images")


class ConversationStore:
    """An observer of the driver that stores the conversation and the spend of each day.

    Args:
        path: The file, mode 0600; its folder is created if missing.
        max_items: How many of the newest items to keep; 0 stores the spend only.
        max_age_days: Items older than this are deleted; the spend is kept for as many days with spend.
        clock: Unix seconds.
        monotonic: Seconds of a clock that nobody sets.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_items: int = 200,
        max_age_days: float = 30.0,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._max_items = max_items
        self._most_days = max(_FEWEST_DAYS, math.ceil(max_age_days)) if math.isfinite(max_age_days) else -1
        self._clock = clock
        self._monotonic = monotonic
        self._is_open = False
        self._connection: sqlite3.Connection | None = None
        self._unwritten = Unwritten(max_items)
        self._is_paused = False
        self._retry_at = 0.0
        self._retry_s = _FIRST_RETRY_S
        self._age = AgeClock(max_age_days * _DAY_S, wall=clock, monotonic=monotonic)
        self._floor: int | None = None  # position of the first item of this run, if it did not load those before

    def __repr__(self) -> str:
        state = "closed" if not self._is_open else "paused" if self._is_paused else "open"
        return f"<ConversationStore {self._path} {state}>"

    def open(self, *, is_needed: bool = True) -> None:
        """Open the file, or create it; idempotent.

        A file that is not a database, or is damaged, is moved to ``<name>.broken``, with a warning.

        Args:
            is_needed: False: a file that cannot be used is a warning; it is tried again later.

        Raises:
            StorageError: The file cannot be read or written, was written by a newer version, or belongs to another
                program.
        """
        if self._is_open:
            return
        try:
            self._connect()
        except StorageError as exc:
            if is_needed:
                raise
            self._pause(exc)
        self._is_open = True

    def close(self) -> None:
        """Write what is not written yet, with the time, and close the file; idempotent."""
        if self._is_open:
            self._is_open = False
            self._retry_at = -math.inf
            self._flush()
            if self._unwritten:
                log.warning("%s: still cannot be written; what happened since storing was paused is lost", self._path)
            self._unwritten.clear()
            self._is_paused = False
        self._disconnect()

    def __call__(self, now: float, event: Event, commands: Sequence[Command], view: View) -> None:
        """Write the changes of one step; called on the event loop's thread, never raises."""
        if not self._is_open:
            return
        notices = [one.notice for one in commands if isinstance(one, Emit)]
        changes = [one for one in notices if isinstance(one, (HistoryGrew, HistoryChanged, Usage))]
        if changes:
            self._unwritten.add(changes, self._monotonic(), iso_date(self._clock()))
        if self._unwritten or self._is_paused or self._age.is_due:
            self._flush()

    def load(self) -> tuple[HistoryItem, ...]:
        """Return the stored items in order, and delete those beyond the limits of age and number.

        An item that was in progress when the process ended comes back as ``incomplete``.

        Returns:
            The items; none while the file cannot be used, after ``open(is_needed=False)``.

        Raises:
            StorageError: The store is not open, or the file cannot be read.
        """
        if self._is_open and self._connection is None:
            return ()
        connection = self._opened()
        self._flush()
        try:
            rows = connection.execute(
                "SELECT id, item FROM (SELECT * FROM items ORDER BY position DESC LIMIT ?) WHERE added_at >= ? "
                "ORDER BY position",
                (self._max_items, self._age.oldest()),
            ).fetchall()
            self._floor = None
        except sqlite3.Error as exc:
            raise StorageError(f"{self._path}: the history cannot be read: {exc}") from None
        return tuple(item for key, text in rows if (item := self._decoded(key, text)) is not None)

    def forget(self) -> None:
        """Delete the whole conversation and the file that was moved aside; keep the spend.

        Afterwards the text is in none of the store's files, although the card may keep old blocks. A later change of a
        deleted item does not bring it back.

        Raises:
            StorageError: The store is not open, or something could not be deleted.
        """
        connection = self._opened()
        self._unwritten.forget()
        try:
            with transaction(connection):
                connection.execute("DELETE FROM items")
            connection.execute("VACUUM")  # free pages too: a program without secure_delete may have written the file
            # Without this, the write-ahead log would still contain the text.
            is_held = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            delete_broken(self._path)
        except (OSError, sqlite3.Error) as exc:
            raise StorageError(
                f"{self._path}: the conversation could not be deleted completely: {reason_of(exc)}; "
                "stop the appliance and delete the file"
            ) from None
        if is_held:
            raise StorageError(
                f"{self._path}: deleted, but another program has the file open, so {self._path.name}-wal "
                "still contains the conversation; stop that program and delete again"
            )

    def spent(self, day: str) -> tuple[float, float] | None:
        """Return US dollars and seconds of audio of a day, with those that are not written yet.

        Spend from before the clock was set counts for the first day for which this is called afterwards.

        Args:
            day: Local ISO date.

        Returns:
            Zeros if nothing is stored; None if the file cannot be read.
        """
        self._unwritten.date_spend(day)
        stored = self._stored_spend(day)
        waiting = self._unwritten.spend.get(day, (0.0, 0.0))
        return (stored[0] + waiting[0], stored[1] + waiting[1]) if stored is not None else None

    # --- pausing --------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Write what is not written yet; a failure pauses storing until a later call succeeds. Never raises."""
        if self._is_paused and self._monotonic() < self._retry_at:
            return
        try:
            connection = self._connection or self._connect()
            with transaction(connection):
                self._write(connection)
        except (StorageError, sqlite3.Error) as exc:
            self._pause(exc)
            return
        self._unwritten.clear()
        if self._is_paused:
            log.info("%s: storing works again; everything kept in memory is written", self._path)
        self._is_paused = False

    def _pause(self, exc: Exception) -> None:
        if not self._is_paused:
            self._retry_s = _FIRST_RETRY_S
            text = str(exc) if isinstance(exc, StorageError) else f"{self._path}: {exc}"
            log.warning("%s; storing is paused and resumes when the file can be written; free disk space if full", text)
        self._is_paused = True
        self._retry_at = self._monotonic() + self._retry_s
        self._retry_s = min(_LONGEST_RETRY_S, 2 * self._retry_s)
        if is_broken(exc):
            self._disconnect()  # opening it again moves it aside

    def _connect(self) -> sqlite3.Connection:
        """Open the file and continue its scale of ages.

        Raises:
            StorageError: See `open`.
        """
        connection = open_database(self._path)
        try:
            self._age.start(connection)
            self._floor = connection.execute("SELECT ifnull(max(position), 0) + 1 FROM items").fetchone()[0]
        except sqlite3.Error as exc:
            connection.close()
            raise StorageError(f"{self._path}: the history cannot be read: {exc}") from None
        self._connection = connection
        return connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error as exc:
                log.warning("%s: could not close the file, the last changes may be lost: %s", self._path, exc)

    def _opened(self) -> sqlite3.Connection:
        if not self._is_open:
            raise StorageError(f"{self._path}: the history is not open; call open() first")
        if self._connection is None:
            raise StorageError(f"{self._path}: the history cannot be used now; storing is paused, try again later")
        return self._connection

    # --- writing, in a transaction --------------------------------------------------------------------------------

    def _write(self, connection: sqlite3.Connection) -> None:
        for at, change in self._unwritten.changes:
            self._write_one(connection, change, self._age.at(at))
        for day, amounts in self._unwritten.spend.items():
            self._add_spend(connection, day, *amounts)
        self._prune(connection)
        if self._age.is_due or not self._is_open:
            self._age.save(connection)

    def _write_one(self, connection: sqlite3.Connection, change: Change, added_at: float) -> None:
        match change:
            case HistoryGrew(item=item, previous_item_id=previous):
                key = _key(item.id)
                connection.execute(
                    "INSERT INTO items (id, position, added_at, item) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE "
                    "SET position = excluded.position, item = excluded.item",  # keep added_at: a restart adds it again
                    (key, self._place(connection, key, previous), added_at, _encoded(item)),
                )
            case HistoryChanged(item_id=item_id, item=None):
                connection.execute("DELETE FROM items WHERE id = ?", (_key(item_id),))
            case HistoryChanged(item_id=item_id, item=HistoryItem() as item):  # no-op if it is not stored
                connection.execute("UPDATE items SET item = ? WHERE id = ?", (_encoded(item), _key(item_id)))

    def _place(self, connection: sqlite3.Connection, key: str, previous: str) -> int:
        """Free the position after the item `previous`, or after the last item if `previous` is not stored."""
        first, behind = connection.execute(
            "SELECT ifnull(min(position), 0), ifnull(max(iif(id = ?, position, NULL)), ifnull(max(position), 0)) + 1 "
            "FROM items WHERE id <> ?",
            (_key(previous), key),
        ).fetchone()
        start = first if self._floor is None else self._floor
        place = int(behind if previous else start)
        connection.execute("UPDATE items SET position = position + 1 WHERE position >= ?", (place,))
        return place

    def _prune(self, connection: sqlite3.Connection) -> None:
        connection.execute(
            "DELETE FROM items WHERE added_at < ? OR id IN "
            "(SELECT id FROM items ORDER BY position DESC LIMIT -1 OFFSET ?)",
            (self._age.oldest(), self._max_items),
        )
        if self._most_days >= 0:  # by their order, not by date: the clock may have been wrong
            connection.execute(
                "DELETE FROM spend WHERE rowid IN (SELECT rowid FROM spend ORDER BY rowid DESC LIMIT -1 OFFSET ?)",
                (self._most_days,),
            )

    def _add_spend(self, connection: sqlite3.Connection, day: str, usd: float, seconds: float) -> None:
        connection.execute(
            "INSERT INTO spend (day, usd, seconds) VALUES (?, ?, ?) ON CONFLICT (day) DO UPDATE "
            "SET usd = usd + excluded.usd, seconds = seconds + excluded.seconds",
            (day, usd, seconds),
        )

    def _stored_spend(self, day: str) -> tuple[float, float] | None:
        if self._connection is None:
            return None if self._is_open else (0.0, 0.0)
        try:
            rows = self._connection.execute("SELECT day, usd, seconds FROM spend").fetchall()
            undated = [row for row in rows if is_dated(day) and not is_dated(row[0])]
            if undated and self._is_paused:
                return None  # not without moving them: they would count for the next day too
            if undated:
                with transaction(self._connection):
                    for before, usd, seconds in undated:
                        self._add_spend(self._connection, day, usd, seconds)
                        self._connection.execute("DELETE FROM spend WHERE day = ?", (before,))
        except sqlite3.Error as exc:
            self._pause(exc)
            self._disconnect()  # nothing is read until a retry opens it
            return None
        amounts = [row[1:] for row in rows if row[0] == day or row in undated]
        return sum(one[0] for one in amounts), sum(one[1] for one in amounts)

    def _decoded(self, key: str, text: str) -> HistoryItem | None:
        try:
            values = json.loads(text)
            item = HistoryItem(**{name: values[name] for name in _KEPT_FIELDS if name in values})
        except (TypeError, ValueError, RecursionError) as exc:
            log.warning("%s: skipped item %s, which cannot be read: %s", self._path, key, type(exc).__name__)
            return None
        return replace(item, status="incomplete") if item.status == "in_progress" else item


def _key(item_id: str) -> str:
    """Return the id in a form that SQLite can store: a server may send a lone surrogate, which is not valid UTF-8."""
    return item_id.encode("utf-8", "backslashreplace").decode("utf-8")


def _encoded(item: HistoryItem) -> str:
    """Return the item as JSON (ASCII, for the same reason), without its images."""
    values = asdict(item)
    del values["images"]
    return json.dumps(values, separators=(",", ":"))
