"""What survives a restart: the items of the conversation and what was spent on each day, in one SQLite file.

An observer of the driver writes each change at once, in one small transaction per event. The order is kept by a
position: an item that is put between two others moves all behind it up by one, in the same transaction.

Storing is never worth the conversation: when a write fails (full disk, read-only card), that is logged once and
nothing more is written until the next start. Everything here runs on the thread that called `ConversationStore.open`:
the loop's.
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
from appliance.errors import StorageError
from appliance.realtime.items import HistoryItem
from appliance.service.database import delete_broken, open_database, reason_of, transaction
from appliance.service.days import iso_date

__all__ = ["ConversationStore"]

log = logging.getLogger(__name__)

IMAGE_SHOWN = "(an image was shown)"

_DAY_S = 86_400.0
_KEPT_FIELDS = tuple(name for name in HistoryItem.__struct_fields__ if name != "images")


class ConversationStore:
    """An observer of the driver that keeps the conversation and the spend of each day.

    Args:
        path: The file; its folder is made if need be. Mode 0600.
        max_items: The newest that are kept; 0 keeps the spend only.
        max_age_days: Older items are deleted.
        clock: Seconds since 1970, UTC.
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
        """Open the file, or begin it; harmless when it is open already.

        A file that is no whole database is moved aside to ``<name>.broken``, which is logged.

        Raises:
            StorageError: It cannot be read and written here, was written by a newer version, or belongs to another
                program.
        """
        if self._connection is None:
            self._connection = open_database(self._path)
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
        notices = [one.notice for one in commands if isinstance(one, Emit)]
        changes = [one for one in notices if isinstance(one, (HistoryGrew, HistoryChanged, Usage))]
        if changes and self._connection is not None and not self._has_failed:
            self._try_to(partial(self._write, changes), self._connection)

    def load(self) -> tuple[HistoryItem, ...]:
        """Return what is kept of the conversation, in its order; what is too old or too much is deleted.

        An item that was in progress when the process ended is ``incomplete``.

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
        """Delete the whole conversation, also from a file that was moved aside; what was spent stays.

        The text is overwritten, not just unlinked from the tables (as far as the card's own wear levelling lets that
        be). An item that is changed afterwards does not come back.

        Raises:
            StorageError: The store is not open, or something could not be deleted.
        """
        connection = self._opened()
        try:
            with transaction(connection):
                connection.execute("DELETE FROM items")
            # Else the log still holds what was said.
            is_held = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            delete_broken(self._path)
        except (OSError, sqlite3.Error) as exc:
            raise StorageError(
                f"{self._path}: not everything could be forgotten: {reason_of(exc)}; "
                "stop the appliance and delete the file"
            ) from None
        if is_held:
            raise StorageError(
                f"{self._path}: forgotten, but another program reads the file, so that {self._path.name}-wal "
                "still holds what was said; end that program and forget again"
            )

    def spent(self, day: str) -> tuple[float, float]:
        """Return US dollars and seconds of audio of a day; nothing where nothing is known of it.

        Args:
            day: ISO date, local time.
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
        """Write in one transaction; a failure ends the storing and is not raised."""
        try:
            with transaction(connection):
                write(connection)
        except sqlite3.Error as exc:
            self._fail(exc)

    def _fail(self, exc: sqlite3.Error) -> None:
        if not self._has_failed:
            log.warning(
                "%s: %s; the history is not stored any more. Make room or make it writable, and restart",
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
                    "SET position = excluded.position, item = excluded.item",  # its age stays: a restart adds it anew
                    (key, self._place(connection, key, previous), self._clock(), _encoded(item)),
                )
            case HistoryChanged(item_id=item_id, item=None):
                connection.execute("DELETE FROM items WHERE id = ?", (_key(item_id),))
            case HistoryChanged(item_id=item_id, item=HistoryItem() as item):  # one that is not stored stays so
                connection.execute("UPDATE items SET item = ? WHERE id = ?", (_encoded(item), _key(item_id)))
            case Usage(usd=usd, audio_s=seconds):
                connection.execute(
                    "INSERT INTO spend (day, usd, seconds) VALUES (?, ?, ?) ON CONFLICT (day) DO UPDATE "
                    "SET usd = usd + excluded.usd, seconds = seconds + excluded.seconds",
                    (iso_date(self._clock()), usd or 0.0, seconds),
                )
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
        connection.execute("DELETE FROM spend WHERE day < ?", (iso_date(self._oldest()),))

    def _oldest(self) -> float:
        return max(0.0, self._clock() - self._max_age_s)

    def _decoded(self, key: str, text: str) -> HistoryItem | None:
        try:
            values = json.loads(text)
            item = HistoryItem(**{name: values[name] for name in _KEPT_FIELDS if name in values})
        except (TypeError, ValueError) as exc:
            log.warning("%s: item %s cannot be read and is left out: %s", self._path, key, type(exc).__name__)
            return None
        return replace(item, status="incomplete") if item.status == "in_progress" else item


def _key(item_id: str) -> str:
    """The id as SQLite can hold it: a server may send what UTF-8 cannot (half a surrogate)."""
    return item_id.encode("utf-8", "backslashreplace").decode("utf-8")


def _encoded(item: HistoryItem) -> str:
    """The item as JSON (ASCII, for the same reason), with a remark in place of its images."""
    values = asdict(item)
    if values.pop("images"):
        values["text"] = " ".join(filter(None, (item.text, IMAGE_SHOWN)))
    return json.dumps(values, separators=(",", ":"))
