"""Tests of the store: the conversation and the spend survive a restart."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from appliance.conversation.commands import Emit, SilenceAlarm
from appliance.conversation.events import DeadlinePassed
from appliance.conversation.notices import (
    HistoryChanged,
    HistoryGrew,
    TurnStart,
    Usage,
)
from appliance.conversation.support.feedback import View
from appliance.errors import StorageError
from appliance.realtime.items import HistoryItem
from appliance.service.store import ConversationStore
from tests.support.stored import DAY_S, NOON, Clock, add, bytes_beside, ids, said, step

pytestmark = pytest.mark.usefixtures("utc")

Opened = Callable[..., ConversationStore]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "history.db"


@pytest.fixture
def opened(path: Path) -> Iterator[Opened]:
    """Return a function that opens stores on the same file; all are closed at the end."""
    stores: list[ConversationStore] = []

    def open_one(**options: Any) -> ConversationStore:
        clock = options.pop("clock", None) or Clock()
        stores.append(ConversationStore(path, clock=clock, monotonic=clock.monotonic, **options))
        stores[-1].open()
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


# --- Order ------------------------------------------------------------------------------------------------------------


def test_items_come_back_in_the_order_of_the_conversation(opened: Opened) -> None:
    store = opened()
    add(store, "a", "b", "c")
    assert store.load() == (said("a"), said("b"), said("c"))


def test_an_item_is_inserted_after_the_named_one_or_at_the_beginning(opened: Opened) -> None:
    store = opened()
    add(store, "a", "b")
    step(store, HistoryGrew(said("between"), "a"), HistoryGrew(said("first"), ""))
    assert ids(store) == ["first", "a", "between", "b"]


def test_an_item_after_one_that_is_not_stored_is_appended(opened: Opened) -> None:
    store = opened()
    add(store, "a", "b")
    add(store, "c", after="never heard of")
    assert ids(store) == ["a", "b", "c"]


def test_a_hundred_insertions_at_the_same_position_keep_their_order(opened: Opened) -> None:
    store = opened()
    add(store, "a", "z")
    for number in range(100):  # each directly after "a"
        add(store, f"n{number}", after="a")
    assert ids(store) == ["a", *(f"n{number}" for number in reversed(range(100))), "z"]


def test_a_file_with_gaps_between_positions_keeps_its_order(opened: Opened, path: Path) -> None:
    path.parent.mkdir()
    old = sqlite3.connect(path)
    with old:
        for statement in (
            "CREATE TABLE items "
            "(id TEXT PRIMARY KEY, position INTEGER NOT NULL, added_at REAL NOT NULL, item TEXT NOT NULL)",
            "CREATE INDEX items_by_position ON items (position)",
            "CREATE TABLE spend (day TEXT PRIMARY KEY, usd REAL NOT NULL, seconds REAL NOT NULL)",
            "INSERT INTO spend VALUES ('2026-11-24', 0.5, 30.0)",
            "PRAGMA user_version = 1",
        ):
            old.execute(statement)
        for item_id, position in (("c", 524_289), ("a", -(1 << 20)), ("d", 1 << 40), ("b", 524_288)):
            item = f'{{"id":"{item_id}","role":"user","text":"text of {item_id}"}}'
            old.execute("INSERT INTO items VALUES (?, ?, ?, ?)", (item_id, position, NOON, item))
    old.close()
    store = opened()
    assert store.load() == (said("a"), said("b"), said("c"), said("d"))
    add(store, "first")
    add(store, "b2", "b3", after="b")
    add(store, "last", after="d")
    assert ids(store) == ["first", "a", "b", "b2", "b3", "c", "d", "last"]
    assert store.spent("2026-11-24") == (0.5, 30.0)


def test_appending_an_item_writes_one_row(opened: Opened) -> None:
    store = opened()
    add(store, *(f"i{number}" for number in range(50)))
    assert store._connection is not None
    before = store._connection.total_changes
    add(store, "last", after="i49")
    assert store._connection.total_changes - before == 1


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(-1, 12), st.booleans()), max_size=40))
def test_any_sequence_of_additions_and_removals_keeps_the_order_of_a_list(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, bool]]
) -> None:
    store = ConversationStore(tmp_path_factory.mktemp("order") / "history.db", clock=Clock())
    store.open()
    model: list[str] = []
    for number, behind, is_removal in steps:
        item_id, previous = f"item_{number}", f"item_{behind}" if behind >= 0 else ""
        if item_id in model:
            model.remove(item_id)
        if is_removal:
            step(store, HistoryChanged(item_id))
        else:
            place = 0 if not previous else model.index(previous) + 1 if previous in model else len(model)
            model.insert(place, item_id)
            step(store, HistoryGrew(said(item_id), previous))
    found = ids(store)
    store.close()
    assert found == model


# --- Content ----------------------------------------------------------------------------------------------------------


def test_an_update_replaces_the_item_at_its_position(opened: Opened) -> None:
    store = opened()
    add(store, "a", "b")
    step(store, HistoryChanged("a", said("a", "what was said after all", is_spoken=True, heard_ms=1200)))
    assert store.load() == (said("a", "what was said after all", is_spoken=True, heard_ms=1200), said("b"))


def test_an_update_does_not_bring_back_a_removed_item(opened: Opened) -> None:
    store = opened()
    add(store, "a", "b")
    step(store, HistoryChanged("a"))
    step(store, HistoryChanged("a", said("a")))
    assert ids(store) == ["b"]


def test_every_field_except_the_images_survives_a_restart(opened: Opened) -> None:
    call = HistoryItem(
        id="call",
        type="mcp_call",
        status="incomplete",
        is_transcribed=False,
        name="weather",
        call_id="call_1",
        arguments='{"place": "Köln"}',
        output="☂\ud83d\0",  # a lone surrogate and a NUL, which a model may write
        server_label="sky",
    )
    step(opened(), HistoryGrew(call, ""))
    assert opened().load() == (call,)


def test_images_are_not_stored_and_leave_a_note(opened: Opened, path: Path) -> None:
    store = opened()
    shown = said("a", "look", images=("data:image/png;base64,AAAA", "data:image/png;base64,BBBB"))
    bare = HistoryItem(id="b", role="user", images=("data:image/png;base64,CCCC",))
    step(store, HistoryGrew(shown, ""), HistoryGrew(bare, "a"))
    step(store, HistoryChanged("a", shown))
    assert [(item.text, item.images) for item in store.load()] == [
        ("look (an image was shown)", ()),
        ("(an image was shown)", ()),
    ]
    assert b"base64" not in bytes_beside(path)


def test_an_item_in_progress_comes_back_incomplete(opened: Opened) -> None:
    step(opened(), HistoryGrew(said("a", status="in_progress"), ""))
    assert opened().load() == (said("a", status="incomplete"),)


def test_an_id_that_sqlite_cannot_hold_is_kept(opened: Opened) -> None:
    store = opened()
    add(store, "a\ud800", "b")
    step(store, HistoryChanged("a\ud800", said("a\ud800", "changed")))
    assert store.load() == (said("a\ud800", "changed"), said("b"))


def test_an_unreadable_item_is_skipped(opened: Opened, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = opened()
    add(store, "a", "b", "c")
    other = sqlite3.connect(path)
    with other:
        other.execute("UPDATE items SET item = '[1]' WHERE id = 'b'")
    other.close()
    assert ids(store) == ["a", "c"]
    assert "skipped item b, which cannot be read" in caplog.text


def test_each_event_with_changes_is_one_transaction(opened: Opened) -> None:
    store = opened()
    step(store)  # the first event also writes the clock
    statements: list[str] = []
    assert store._connection is not None
    store._connection.set_trace_callback(statements.append)
    store(1.0, DeadlinePassed(), [SilenceAlarm("x"), Emit(TurnStart("turn_1"))], View())
    assert statements == []
    step(store, HistoryGrew(said("a"), ""), HistoryGrew(said("b"), "a"), Usage({}, 0.1, 2.0))
    assert [one for one in statements if one in ("BEGIN IMMEDIATE", "COMMIT")] == ["BEGIN IMMEDIATE", "COMMIT"]


# --- Retention --------------------------------------------------------------------------------------------------------


def test_only_the_newest_items_are_kept_at_run_time_and_after_a_restart(opened: Opened) -> None:
    store = opened(max_items=3)
    add(store, "a", "b", "c", "d")
    assert ids(store) == ["b", "c", "d"]
    assert ids(opened(max_items=2)) == ["c", "d"]
    assert ids(opened(max_items=200)) == ["c", "d"]  # the excess is deleted, not hidden


def test_items_that_are_too_old_are_deleted(opened: Opened) -> None:
    clock = Clock()
    store = opened(max_age_days=30.0, clock=clock)
    add(store, "old")
    clock.run(20 * DAY_S)
    add(store, "young", after="old")
    clock.run(9.9 * DAY_S)
    assert ids(store) == ["old", "young"]
    clock.run(0.2 * DAY_S)
    assert ids(store) == ["young"]
    clock.now = NOON
    assert ids(store) == ["young"]


def test_an_item_added_again_after_a_restart_keeps_its_age(opened: Opened) -> None:
    clock = Clock()
    first = opened(clock=clock)
    add(first, "a")
    clock.run(29 * DAY_S)
    first.close()
    store = opened(clock=clock)
    add(store, *ids(store))
    clock.run(2 * DAY_S)
    assert ids(store) == []


def test_with_max_items_zero_only_the_spend_is_stored(opened: Opened, path: Path) -> None:
    store = opened(max_items=0)
    long = "my secret plan " * 300_000  # more than SQLite buffers within a transaction
    step(store, HistoryGrew(said("a", long), ""), Usage({}, 0.5, 3.0))
    assert store.load() == ()
    assert store.spent("2026-11-24") == (0.5, 3.0)
    assert b"secret" not in bytes_beside(path)


def test_an_infinite_age_limit_is_accepted(opened: Opened) -> None:
    store = opened(max_age_days=float("inf"))
    add(store, "a")
    assert ids(store) == ["a"]


# --- Forgetting -------------------------------------------------------------------------------------------------------


def test_forgetting_leaves_no_text_on_the_disk(opened: Opened, path: Path) -> None:
    store = opened()
    step(store, *(HistoryGrew(said(f"i{number}", f"secret plan {number} " * 300), "") for number in range(20)))
    path.with_name("history.db.broken").write_bytes(b"an older secret plan")
    assert b"secret plan" in bytes_beside(path)
    store.forget()
    assert store.load() == ()
    assert b"secret plan" not in bytes_beside(path)


def test_an_update_does_not_restore_a_forgotten_item(opened: Opened) -> None:
    store = opened()
    add(store, "a")
    store.forget()
    step(store, HistoryChanged("a", said("a")), HistoryGrew(said("b"), "a"))
    assert ids(store) == ["b"]


def test_forgetting_keeps_the_spend(opened: Opened) -> None:
    store = opened()
    step(store, Usage({}, 0.9, 60.0))
    store.forget()
    assert store.spent("2026-11-24") == (0.9, 60.0)


def test_forgetting_also_clears_free_pages_that_another_program_left(opened: Opened, path: Path) -> None:
    opened().close()
    other = sqlite3.connect(path)
    other.execute("PRAGMA secure_delete = OFF")
    with other:
        other.executemany(
            "INSERT INTO items VALUES (?, ?, 0, ?)", [(f"i{n}", n, "secret plan " * 900) for n in range(20)]
        )
        other.execute("DELETE FROM items")
    other.close()
    assert b"secret plan" in bytes_beside(path)
    opened().forget()
    assert b"secret plan" not in bytes_beside(path)


def test_forgetting_leaves_nothing_of_any_earlier_version_of_an_item(opened: Opened, path: Path) -> None:
    store = opened(max_items=20)
    for number in range(
        150
    ):  # grow, change and displace items of many sizes, so that pages split, merge and move cells
        key = f"i{number}"
        step(store, HistoryGrew(said(key, "secret plan " * (number * 37 % 500 + 1)), f"i{number - 1 - number % 3}"))
        step(
            store, HistoryChanged(f"i{number // 2}", said(f"i{number // 2}", "secret plan " * (number * 53 % 700 + 1)))
        )
    assert b"secret plan" in bytes_beside(path)
    store.forget()
    assert b"secret plan" not in bytes_beside(path)


def test_forgetting_fails_while_another_program_keeps_the_write_ahead_log(opened: Opened, path: Path) -> None:
    store = opened()
    add(store, "a")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT * FROM items").fetchall()
    with pytest.raises(StorageError, match=r"another program has the file open, so history\.db-wal still contains"):
        store.forget()
    other.close()
    store.forget()
    assert store.load() == ()


# --- Spend ------------------------------------------------------------------------------------------------------------


def test_the_usage_of_a_day_adds_up_and_survives_a_restart(opened: Opened) -> None:
    clock = Clock()
    store = opened(clock=clock)
    step(store, Usage({}, 0.25, 10.0), Usage({}, None, 5.5))
    clock.run(DAY_S)
    step(store, Usage({}, 1.0, 1.0))
    again = opened(clock=clock)
    assert [again.spent(day) for day in ("2026-11-24", "2026-11-25", "2026-11-26")] == [
        (0.25, 15.5),
        (1.0, 1.0),
        (0.0, 0.0),
    ]


def test_the_spend_of_the_newest_days_is_kept(opened: Opened) -> None:
    clock = Clock()
    store = opened(clock=clock, max_age_days=8.0)
    for _ in range(9):
        step(store, Usage({}, 1.0, 1.0))
        clock.run(DAY_S)
    days = [f"2026-{day}" for day in ("11-24", "11-25", "12-02")]
    assert [store.spent(day) for day in days] == [(0.0, 0.0), (1.0, 1.0), (1.0, 1.0)]


# --- File -------------------------------------------------------------------------------------------------------------


def test_only_the_owner_may_read_the_file_and_its_companions(opened: Opened, path: Path) -> None:
    before = os.umask(0)
    try:
        add(opened(), "a")
    finally:
        os.umask(before)
    modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()}
    assert modes == {"history.db": 0o600, "history.db-wal": 0o600, "history.db-shm": 0o600}


def test_a_file_readable_by_others_is_restricted_to_the_owner(opened: Opened, path: Path) -> None:
    opened().close()
    path.chmod(0o644)
    opened()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_crash_without_close_loses_nothing(opened: Opened, path: Path, tmp_path: Path) -> None:
    store = opened()
    add(store, "a", "b")
    step(store, HistoryGrew(said("c", status="in_progress"), "b"), Usage({}, 0.5, 4.0))
    crashed = tmp_path / "crashed.db"
    shutil.copy(path, crashed)
    shutil.copy(path.with_name("history.db-wal"), tmp_path / "crashed.db-wal")
    survivor = ConversationStore(crashed, clock=Clock())
    survivor.open()
    assert survivor.load() == (said("a"), said("b"), said("c", status="incomplete"))
    assert survivor.spent("2026-11-24") == (0.5, 4.0)
    survivor.close()


def test_a_truncated_write_ahead_log_loses_only_the_last_writes(opened: Opened, path: Path, tmp_path: Path) -> None:
    store = opened()
    add(store, "a")
    crashed, log_of_it = tmp_path / "crashed.db", tmp_path / "crashed.db-wal"
    whole = path.with_name("history.db-wal").stat().st_size
    add(store, "b", after="a")
    shutil.copy(path, crashed)
    shutil.copy(path.with_name("history.db-wal"), log_of_it)
    os.truncate(log_of_it, whole + 100)
    survivor = ConversationStore(crashed, clock=Clock())
    survivor.open()
    assert ids(survivor) == ["a"]
    survivor.close()


@pytest.mark.parametrize("rubbish", [b"this is no database at all. " * 200, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_not_a_database_is_moved_aside(
    opened: Opened, path: Path, rubbish: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir()
    path.write_bytes(rubbish)
    store = opened()
    assert store.load() == ()
    add(store, "a")
    assert ids(store) == ["a"]
    broken = path.with_name("history.db.broken")
    assert broken.read_bytes() == rubbish
    assert stat.S_IMODE(broken.stat().st_mode) == 0o600
    (warning,) = caplog.records
    assert warning.levelname == "WARNING"
    assert f"moved it to {broken} and started an empty history" in warning.getMessage()


def test_a_corrupt_database_is_moved_aside_and_an_older_broken_log_is_removed(opened: Opened, path: Path) -> None:
    store = opened()
    step(store, *(HistoryGrew(said(f"i{number}", "x" * 3000), "") for number in range(30)))
    store.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * 3 * 4096)
    torn = path.read_bytes()
    path.with_name("history.db.broken-wal").write_bytes(b"the log of an older one")
    store = opened()
    assert store.load() == ()
    assert path.with_name("history.db.broken").read_bytes() == torn
    assert not path.with_name("history.db.broken-wal").exists()
    add(store, "a")
    store.close()
    assert ids(opened()) == ["a"]


def test_a_database_without_our_tables_is_moved_aside(opened: Opened, path: Path) -> None:
    opened().close()
    other = sqlite3.connect(path)
    other.execute("DROP TABLE items")
    other.close()
    assert opened().load() == ()
    assert path.with_name("history.db.broken").exists()


def test_a_database_of_a_newer_version_is_refused_and_left_unchanged(path: Path) -> None:
    path.parent.mkdir()
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 7")
    other.close()
    before = path.read_bytes()
    with pytest.raises(StorageError, match=r"history\.db: schema version 7, this program supports up to 1; install"):
        ConversationStore(path).open()
    assert path.read_bytes() == before


def test_a_database_of_another_program_is_refused_and_left_unchanged(path: Path) -> None:
    path.parent.mkdir()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE bookmarks (address TEXT)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(StorageError, match=r"history\.db: the database belongs to another program; set another file"):
        ConversationStore(path).open()
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("place", "reason"), [("a_file/history.db", r"(File exists|Not a directory)"), ("a_folder", "Is a directory")]
)
def test_a_path_that_cannot_be_written_is_named_with_the_reason(tmp_path: Path, place: str, reason: str) -> None:
    (tmp_path / "a_file").write_text("")
    (tmp_path / "a_folder").mkdir()
    with pytest.raises(StorageError, match=rf"{place}: the history cannot be stored here: {reason}"):
        ConversationStore(tmp_path / place).open()


# --- Open and closed --------------------------------------------------------------------------------------------------


def test_a_store_that_is_not_open_stores_nothing_and_refuses_queries(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = ConversationStore(path, clock=Clock())
    step(store, HistoryGrew(said("a"), ""), Usage({}, 1.0, 1.0))
    assert store.spent("2026-11-24") == (0.0, 0.0)
    for ask in (store.load, store.forget):
        with pytest.raises(StorageError, match=r"history\.db: the history is not open; call open\(\) first"):
            ask()
    assert not path.parent.exists()
    assert caplog.records == []


def test_open_and_close_may_be_called_twice(opened: Opened) -> None:
    store = opened()
    store.open()
    add(store, "a")
    assert repr(store).endswith("history.db open>")
    store.close()
    store.close()
    assert repr(store).endswith("history.db closed>")
    store.open()
    assert ids(store) == ["a"]


def test_loaded_items_can_be_added_again_unchanged(opened: Opened) -> None:
    store = opened()
    step(store, HistoryGrew(said("a", "look", images=("data:image/png;base64,AAAA",)), ""))
    before = store.load()
    previous = ""
    for item in before:
        step(store, HistoryGrew(replace(item), previous))
        previous = item.id
    assert store.load() == before
