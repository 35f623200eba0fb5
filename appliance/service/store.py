"""Stores the conversation's items and the spend of each day across restarts, in one SQLite file.

An observer of the driver writes each change at once, in one small transaction per event. A position column keeps the
order: inserting an item between two others moves all later items up by one, in the same transaction.

A failed write (full disk, read-only card) must not stop the conversation: it is logged once, and nothing more is
written until the next start. Everything here runs on the thread that called `ConversationStore.open`, the event loop's.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from msgspec.structs import asdict, replace

from appliance.conversation.commands import Command, Emit
from appliance.conversation.events import Event
from appliance.conversation.notices import HistoryChanged, HistoryGrew, Notice, Usage
from appliance.conversation.support.feedback import View
from appliance.errors import StorageError, reason_of
from appliance.realtime.items import HistoryItem
from appliance.service.database import delete_broken, open_database, transaction
from appliance.service.days import iso_date

__all__ = ["ConversationStore"]

log = logging.getLogger(__name__)

IMAGE_SHOWN = "(an image was shown)"

_DAY_S = 86_400.0
_KEPT_FIELDS = tuple(name for name in HistoryItem.__struct_fields__ if name != "images")


class ConversationStore:
    """An observer of the driver that stores the conversation and the spend of each day.

    Args:
        path: The file, mode 0600; its folder is created if missing.
        max_items: How many of the newest items to keep; 0 stores the spend only.
        max_age_days: Items and spend older than this are deleted.
        clock: Unix seconds.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_items: int = 200,
        max_age_days: float = 30.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._max_items = max_items
        self._max_age_s = max_age_days * _DAY_S
        self._clock = clock
        self._connection: sqlite3.Connection | None = None
        self._has_failed = False

    def __repr__(self) -> str:
        state = "closed" if self._connection is None else "failed" if self._has_failed else "open"
        return f"<ConversationStore {self._path} {state}>"

    def open(self) -> None:
        """Open the file, or create it; idempotent.

        A file that is not a database, or is damaged, is moved to ``<name>.broken``, with a warning.

        Raises:
            StorageError: The file cannot be read or written, was written by a newer version, or belongs to another
                program.
        """
        if self._connection is None:
            self._connection = open_database(self._path)
            self._has_failed = False

    def close(self) -> None:
        """Close the file; idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error as exc:
                log.warning("%s: could not close the file, the last changes may be lost: %s", self._path, exc)

    def __call__(self, now: float, event: Event, commands: Sequence[Command], view: View) -> None:
        """Write the changes of one step; called on the event loop's thread, never raises."""
        notices = [one.notice for one in commands if isinstance(one, Emit)]
        changes = [one for one in notices if isinstance(one, (HistoryGrew, HistoryChanged, Usage))]
        if changes and self._connection is not None and not self._has_failed:
            self._try_to(partial(self._write, changes), self._connection)

    def load(self) -> tuple[HistoryItem, ...]:
        """Return the stored items in order, and delete those beyond the limits of age and number.

        An item that was in progress when the process ended comes back as ``incomplete``.

        Raises:
            StorageError: The store is not open, or the file cannot be read.
        """
        connection = self._opened()
        if not self._has_failed:
            self._try_to(self._prune, connection)
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
        """Delete the whole conversation and the file that was moved aside; keep the spend.

        SQLite overwrites the text (``secure_delete``), although the card's wear levelling may keep old blocks. A later
        change of a deleted item does not bring it back.

        Raises:
            StorageError: The store is not open, or something could not be deleted.
        """
        connection = self._opened()
        try:
            with transaction(connection):
                connection.execute("DELETE FROM items")
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

    def spent(self, day: str) -> tuple[float, float]:
        """Return US dollars and seconds of audio of a day; zeros if nothing is stored.

        Args:
            day: Local ISO date.
        """
        row = None
        if self._connection is not None:
            try:
                row = self._connection.execute("SELECT usd, seconds FROM spend WHERE day = ?", (day,)).fetchone()
            except sqlite3.Error as exc:
                self._fail(exc)
        return (float(row[0]), float(row[1])) if row else (0.0, 0.0)

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StorageError(f"{self._path}: the history is not open; call open() first")
        return self._connection

    def _try_to(self, write: Callable[[sqlite3.Connection], None], connection: sqlite3.Connection) -> None:
        """Write in one transaction; a failure is not raised, but stops all further writes."""
        try:
            with transaction(connection):
                write(connection)
        except sqlite3.Error as exc:
            self._fail(exc)

    def _fail(self, exc: sqlite3.Error) -> None:
        if not self._has_failed:
            log.warning(
                "%s: %s; the history is no longer stored. Free disk space or make the file writable, then restart",
                self._path,
                exc,
            )
        self._has_failed = True

    def _write(self, changes: Sequence[Notice], connection: sqlite3.Connection) -> None:
        for change in changes:
            self._write_one(connection, change)
        if any(isinstance(one, HistoryGrew) for one in changes):
            self._prune(connection)

    def _write_one(self, connection: sqlite3.Connection, change: Notice) -> None:
        match change:
            case HistoryGrew(item=item, previous_item_id=previous) if self._max_items:
                key = _key(item.id)
                connection.execute(
                    "INSERT INTO items (id, position, added_at, item) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE "
                    "SET position = excluded.position, item = excluded.item",  # keep added_at: a restart adds it again
                    (key, self._place(connection, key, previous), self._clock(), _encoded(item)),
                )
            case HistoryChanged(item_id=item_id, item=None):
                connection.execute("DELETE FROM items WHERE id = ?", (_key(item_id),))
            case HistoryChanged(item_id=item_id, item=HistoryItem() as item):  # no-op if it is not stored
                connection.execute("UPDATE items SET item = ? WHERE id = ?", (_encoded(item), _key(item_id)))
            case Usage(usd=usd, audio_s=seconds):
                connection.execute(
                    "INSERT INTO spend (day, usd, seconds) VALUES (?, ?, ?) ON CONFLICT (day) DO UPDATE "
                    "SET usd = usd + excluded.usd, seconds = seconds + excluded.seconds",
                    (iso_date(self._clock()), usd or 0.0, seconds),
                )

    def _place(self, connection: sqlite3.Connection, key: str, previous: str) -> int:
        """Free the position after the item `previous`, or after the last item if `previous` is not stored."""
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
        connection.execute("DELETE FROM spend WHERE day < ?", (iso_date(self._oldest()),))

    def _oldest(self) -> float:
        return max(0.0, self._clock() - self._max_age_s)

    def _decoded(self, key: str, text: str) -> HistoryItem | None:
        try:
            values = json.loads(text)
            item = HistoryItem(**{name: values[name] for name in _KEPT_FIELDS if name in values})
        except (TypeError, ValueError) as exc:
            log.warning("%s: skipped item %s, which cannot be read: %s", self._path, key, type(exc).__name__)
            return None
        return replace(item, status="incomplete") if item.status == "in_progress" else item


def _key(item_id: str) -> str:
    """Return the id in a form that SQLite can store: a server may send a lone surrogate, which is not valid UTF-8."""
    return item_id.encode("utf-8", "backslashreplace").decode("utf-8")


def _encoded(item: HistoryItem) -> str:
    """Return the item as JSON (ASCII, for the same reason), with a remark instead of its images."""
    values = asdict(item)
    if values.pop("images"):
        values["text"] = " ".join(filter(None, (item.text, IMAGE_SHOWN)))
    return json.dumps(values, separators=(",", ":"))
