"""Tests of the store while it cannot write, and of clocks that jump: nothing that was confirmed is lost."""

from __future__ import annotations

import resource
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.conversation.events import DayBegan, DeadlinePassed, Event
from appliance.conversation.notices import HistoryChanged, HistoryGrew, Usage
from appliance.conversation.support.feedback import View
from appliance.errors import StorageError
from appliance.realtime.items import HistoryItem
from appliance.service.days import Days
from appliance.service.store import ConversationStore
from appliance.service.unwritten import Unwritten
from tests.support.stored import DAY_S, NOON, Clock, add, bytes_beside, ids, said, step

pytestmark = pytest.mark.usefixtures("utc")

TODAY = "2026-11-24"
YEAR_S = 365 * DAY_S

Opened = Callable[..., ConversationStore]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened(path: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> Iterator[Opened]:
    """Return a function that opens stores on the same file and clock; all are closed at the end."""
    caplog.set_level("INFO", "appliance.service")
    stores: list[ConversationStore] = []

    def open_one(**options: Any) -> ConversationStore:
        stores.append(ConversationStore(path, clock=clock, monotonic=clock.monotonic, **options))
        stores[-1].open(is_needed=False)
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the write lock of the file from a second connection, as a backup does."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        other.close()


@contextmanager
def full_disk(largest: int = 0) -> Iterator[None]:
    """Let no file of this process grow beyond `largest` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def used(usd: float = 1.0) -> Usage:
    return Usage({}, usd, 1.0)


# Pausing and resuming


def test_a_lock_pauses_storing_and_what_happened_is_written_after_it(
    opened: Opened, path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    store = opened()
    add(store, "a", "b")
    with locked(path):
        step(store, HistoryGrew(said("c"), "a"), used(0.5))
        step(store, HistoryChanged("b"), HistoryChanged("a", said("a", "changed")))
        step(store, used(0.25))
        assert store.spent(TODAY) == (0.75, 2.0)  # the budget counts what is not written
        assert "paused" in repr(store)
    clock.run(1.0)
    step(store)  # any event
    assert opened().load() == (said("a", "changed"), said("c"))
    assert opened().spent(TODAY) == (0.75, 2.0)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "database is locked; storing is paused" in caplog.text
    assert "storing works again; everything kept in memory is written" in caplog.text


def test_a_locked_file_is_tried_again_rarely(opened: Opened, path: Path, clock: Clock) -> None:
    store = opened()
    add(store, "a")
    tries: list[str] = []
    assert store._connection is not None
    store._connection.set_trace_callback(lambda sql: tries.append(sql) if sql == "BEGIN IMMEDIATE" else None)
    store._connection.execute("PRAGMA busy_timeout = 0")  # for the speed of this test
    with locked(path):
        for _ in range(600):  # a minute of ten events a second
            step(store, used(0.001))
            clock.run(0.1)
    assert 3 <= len(tries) <= 8


@pytest.mark.parametrize("is_full", [True, False])
def test_a_full_disk_pauses_storing_and_nothing_is_lost_when_there_is_space(
    opened: Opened, path: Path, clock: Clock, caplog: pytest.LogCaptureFixture, is_full: bool
) -> None:
    store = opened()
    add(store, "a")
    assert store._connection is not None
    if is_full:  # SQLite reports the disk as full; else the system refuses to write (EFBIG, as an I/O error)
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages}")
        step(store, HistoryGrew(said("b", "x" * 50_000), "a"), used())
        step(store, used())
        store._connection.execute("PRAGMA max_page_count = 1000000")
    else:
        with full_disk(path.with_name("history.db-wal").stat().st_size):
            step(store, HistoryGrew(said("b", "x" * 50_000), "a"), used())
            step(store, used())
    assert store.spent(TODAY) == (2.0, 2.0)
    assert "xxx" not in caplog.text
    clock.run(1.0)
    add(store, "c", after="b")
    assert ids(opened()) == ["a", "b", "c"]
    assert opened().spent(TODAY) == (2.0, 2.0)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_start_on_a_full_disk_stores_once_there_is_space(
    opened: Opened, path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    before = opened()
    add(before, "a", "b")
    step(before, used(0.5))
    before.close()
    posted: list[Event] = []
    with full_disk():
        store = opened()
        days = Days(posted.append, store.spent, clock=clock)
        assert store.load() == ()  # SQLite cannot even read without its -shm file
        for _ in range(3):
            add(store, "c", "d")
            step(store, HistoryGrew(said("first of this run"), ""), used(0.25))
            days(1.0, DeadlinePassed(), [], View())
    assert posted == [DayBegan(TODAY)]
    clock.run(60.0)
    step(store)
    days(1.0, DeadlinePassed(), [], View())
    assert posted == [DayBegan(TODAY), DayBegan(TODAY, 1.25, 4.0)]  # the budget is true again
    assert ids(store) == ["a", "b", "first of this run", "c", "d"]  # older than this run
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_file_that_is_damaged_at_run_time_is_moved_aside_and_storing_goes_on(
    opened: Opened, path: Path, clock: Clock
) -> None:
    store = opened()
    add(store, "a")
    other = sqlite3.connect(path)
    other.execute("DROP TABLE items")
    other.close()
    add(store, "b", after="a")
    clock.run(1.0)
    add(store, "c", after="b")
    assert ids(store) == ["b", "c"]
    assert path.with_name("history.db.broken").exists()


def test_what_is_left_is_written_at_the_end_or_reported_as_lost(
    opened: Opened, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = opened()
    with locked(path):
        step(store, used(0.5))
    store.close()  # at once, although the next try is not due
    store = opened()
    assert store.spent(TODAY) == (0.5, 1.0)
    with locked(path):
        step(store, used(0.5))
        caplog.clear()
        store.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "what happened since storing was paused is lost" in caplog.text


def test_a_price_that_is_no_number_does_not_pause_storing(opened: Opened) -> None:
    store = opened()
    step(store, used(float("nan")), used(-1.0), used(0.5))
    assert store.spent(TODAY) == (0.5, 3.0)
    assert "open" in repr(store)


def test_forgetting_while_paused_drops_the_history_in_memory_and_keeps_the_spend(
    opened: Opened, path: Path, clock: Clock
) -> None:
    store = opened()
    add(store, "a")
    with locked(path):
        step(store, HistoryGrew(said("b", "secret plan"), "a"), used(0.5))
        with pytest.raises(StorageError, match="could not be deleted completely: database is locked"):
            store.forget()
    store.forget()
    clock.run(1.0)
    step(store)
    assert ids(store) == []
    assert b"secret plan" not in bytes_beside(path)
    assert opened().spent(TODAY) == (0.5, 1.0)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(-1, 9), st.integers(0, 2)), max_size=30), st.integers(0, 30))
def test_a_pause_changes_nothing_of_what_is_stored_in_the_end(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, int]], paused_from: int
) -> None:
    folder, clock = tmp_path_factory.mktemp("pause"), Clock()
    found = []
    for name in ("paused.db", "calm.db"):
        store = ConversationStore(folder / name, clock=clock, monotonic=clock.monotonic)
        store.open()
        for number, (item, behind, kind) in enumerate(steps):
            if number == paused_from and name == "paused.db":
                store._connection.execute("PRAGMA query_only = ON")  # type: ignore[union-attr]
            key, previous = f"i{item}", f"i{behind}" if behind >= 0 else ""
            changed = said(key, f"change {number}")
            step(
                store,
                used(0.5),
                (HistoryGrew(changed, previous), HistoryChanged(key), HistoryChanged(key, changed))[kind],
            )
        store._connection.execute("PRAGMA query_only = OFF")  # type: ignore[union-attr]
        clock.run(60.0)
        step(store)
        found.append((store.load(), store.spent(TODAY)))
        store.close()
    assert found[0] == found[1]


def test_what_is_kept_in_memory_is_bounded_and_has_the_items_that_would_be_stored() -> None:
    unwritten = Unwritten(most_items=5)
    for number in range(5000):
        item = HistoryItem(id=f"i{number}", text="first", images=("data:image/png;base64,AAAA",))
        unwritten.add([HistoryGrew(item, f"i{number - 1}"), Usage({}, 1.0, 1.0)], float(number), TODAY)
        unwritten.add([HistoryChanged(f"i{number}", said(f"i{number}", "last"))], float(number), TODAY)
    assert len(unwritten.changes) <= 1020
    kept = [one.item for _, one in unwritten.changes if isinstance(one, HistoryGrew) and one.item is not None]
    assert [item.id for item in kept][-5:] == [f"i{number}" for number in range(4995, 5000)]
    assert not any(item.images for item in kept)
    assert unwritten.spend == {TODAY: (5000.0, 5000.0)}


def test_a_long_pause_keeps_the_last_state_of_each_item(opened: Opened, path: Path, clock: Clock) -> None:
    store = opened(max_items=2)
    add(store, "a", "b")
    with locked(path):
        for number in range(3000):
            step(store, HistoryChanged("b", said("b", f"version {number}")))
        step(store, HistoryChanged("a"))
    clock.run(60.0)
    step(store)
    assert store.load() == (said("b", "version 2999"),)


# Jumping clocks


@pytest.mark.parametrize("jump", [-NOON, -10 * YEAR_S, -3600.0, 3600.0, 40 * DAY_S, 70 * YEAR_S])
def test_a_jump_of_the_clock_neither_deletes_nor_ages_the_history(opened: Opened, clock: Clock, jump: float) -> None:
    store = opened(max_age_days=30.0)
    add(store, "a")
    clock.run(29 * DAY_S)
    clock.jump(jump)
    add(store, "b", after="a")
    clock.jump(-jump)
    add(store, "c", after="b")
    assert ids(store) == ["a", "b", "c"]
    clock.jump(jump)
    clock.run(2 * DAY_S)
    assert ids(store) == ["b", "c"]
    clock.run(30 * DAY_S)
    assert ids(store) == []


def test_items_of_a_start_in_1970_do_not_expire_when_the_clock_is_set(opened: Opened, clock: Clock) -> None:
    clock.jump(-NOON)
    store = opened()
    add(store, "a")
    clock.jump(NOON)
    add(store, "b", after="a")
    store.close()
    clock.jump(-NOON)  # the next start
    store = opened()
    assert ids(store) == ["a", "b"]
    clock.jump(NOON)
    add(store, "c", after="b")
    assert ids(store) == ["a", "b", "c"]


def test_time_switched_off_counts_by_the_wall_clock_up_to_a_tenth_of_the_limit(opened: Opened, clock: Clock) -> None:
    store = opened(max_age_days=30.0)
    add(store, "a")
    for off_s in (2 * DAY_S, 70 * YEAR_S, -70 * YEAR_S):  # 2 days, then 3 of 70 years, then none
        store.close()
        clock.jump(off_s)
        store = opened(max_age_days=30.0)
    clock.run(24.9 * DAY_S)
    assert ids(store) == ["a"]
    clock.run(0.2 * DAY_S)
    assert ids(store) == []


def test_a_file_of_an_older_version_keeps_items_with_impossible_times(opened: Opened, path: Path, clock: Clock) -> None:
    store = opened()
    add(store, "from 1970", "recent", "from 2099", "expired")
    store.close()
    other = sqlite3.connect(path)
    with other:
        other.execute("DROP TABLE clock")
        for key, at in (("from 1970", 60.0), ("from 2099", NOON + 70 * YEAR_S), ("expired", NOON - 31 * DAY_S)):
            other.execute("UPDATE items SET added_at = ? WHERE id = ?", (at, key))
    other.close()
    assert ids(opened()) == ["from 1970", "recent", "from 2099"]


def test_the_spend_of_a_day_survives_a_jump_to_another_year_and_back(opened: Opened, clock: Clock) -> None:
    store = opened(max_age_days=1.0)
    step(store, used(0.75))
    clock.jump(10 * YEAR_S)
    step(store, used(0.5))
    clock.jump(-10 * YEAR_S)
    step(store, used(0.25))
    assert store.spent(TODAY) == (1.0, 2.0)
    assert store.spent("2036-11-21") == (0.5, 1.0)


def test_the_spend_before_the_clock_is_set_moves_to_the_first_true_day_once(opened: Opened, clock: Clock) -> None:
    clock.jump(-NOON)
    store = opened()
    step(store, used(0.75))
    assert store.spent("1970-01-01") == (0.75, 1.0)
    clock.jump(NOON)
    assert [store.spent(TODAY), store.spent(TODAY)] == [(0.75, 1.0), (0.75, 1.0)]
    step(store, used(0.25))
    clock.run(DAY_S)
    assert [opened().spent(day) for day in ("2026-11-25", TODAY, "1970-01-01")] == [(0.0, 0.0), (1.0, 2.0), (0.0, 0.0)]


def test_the_spend_before_the_clock_is_set_moves_once_while_storing_is_paused(
    opened: Opened, path: Path, clock: Clock
) -> None:
    clock.jump(-NOON)
    store = opened()
    step(store, used(0.5))
    with locked(path):
        step(store, used(0.25))
        clock.jump(NOON)
        assert store.spent(TODAY) is None  # not known until it can be moved
    clock.run(1.0)
    step(store)
    assert store.spent(TODAY) == (0.75, 2.0)
    clock.run(DAY_S)
    assert store.spent("2026-11-25") == (0.0, 0.0)


def test_spend_that_is_written_on_another_day_stays_on_its_own(opened: Opened, path: Path, clock: Clock) -> None:
    store = opened()
    with locked(path):
        step(store, used(0.5))
        clock.run(DAY_S)
    step(store, used(0.25))
    assert (store.spent(TODAY), store.spent("2026-11-25")) == ((0.5, 1.0), (0.25, 1.0))


# Reading only


def test_a_file_that_became_read_only_is_still_readable(
    opened: Opened, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    store = opened()
    add(store, "old")
    clock.run(29 * DAY_S)
    step(store, HistoryGrew(said("new"), "old"), Usage({}, 0.5, 1.0))
    assert store._connection is not None
    store._connection.execute("PRAGMA query_only = ON")
    clock.run(2 * DAY_S)
    assert ids(store) == ["new"]  # expired items are hidden even if they cannot be deleted
    assert store.spent("2026-12-23") == (0.5, 1.0)
    with pytest.raises(StorageError, match=r"could not be deleted completely: .*; stop the appliance and delete"):
        store.forget()
    assert len(caplog.records) == 1


def test_an_unreadable_spend_is_unknown_and_is_logged_once(
    opened: Opened, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = opened()
    step(store, used())
    other = sqlite3.connect(path)
    other.execute("DROP TABLE spend")
    other.close()
    assert [store.spent(TODAY), store.spent(TODAY)] == [None, None]
    assert len(caplog.records) == 1
