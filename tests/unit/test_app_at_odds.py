"""Edge cases of the daemon and its store: midnight, a history that cannot be read."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from appliance.conversation.commands import Emit
from appliance.conversation.events import Started, TimersChanged
from appliance.conversation.notices import Usage
from appliance.errors import StorageError
from appliance.service.app import Appliance
from appliance.service.days import Days
from appliance.service.store import ConversationStore
from appliance.settings import Settings


def _appliance(state_dir: Path | None, **more: Any) -> tuple[Appliance, list[Any]]:
    settings = Settings.model_validate({"budget": {"daily_usd": 1.0}})
    appliance = Appliance(settings, environ={}, state_dir=state_dir)
    posted: list[Any] = []
    appliance.post = posted.append  # type: ignore
    return appliance, posted


@pytest.mark.parametrize("where", ["nowhere", "a file"])
async def test_new_day_is_posted_without_a_store(tmp_path: Path, where: str) -> None:
    """docs/budget.md: the budget resets with the next day; without a store, something else must post it."""
    place = tmp_path / "state"
    place.write_text("no folder")
    appliance, posted = _appliance(None if where == "nowhere" else place)
    observers: list[Any] = []
    async with AsyncExitStack() as stack:
        appliance._open_store(stack, observers)
        for observer in observers:
            observer(0.0, Started(), [], None)
    assert [type(one).__name__ for one in posted] == ["DayBegan"]


async def test_unreadable_history_does_not_prevent_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`_open_store` continues without the history; `load` can raise StorageError too."""

    def unreadable(self: Any) -> Any:
        raise StorageError("disk I/O error")

    monkeypatch.setattr("appliance.service.store.ConversationStore.load", unreadable)
    appliance, _ = _appliance(tmp_path)
    async with AsyncExitStack() as stack:
        assert tuple(appliance._open_store(stack, [])) == ()


def test_usage_queued_before_the_new_day_is_counted(tmp_path: Path) -> None:
    """Usage that waits in the inbox before ``DayBegan`` is stored under the new day; its total must be posted."""
    now = [time.mktime((2026, 11, 20, 23, 59, 59, 0, 0, -1))]
    inbox: list[Any] = []
    store = ConversationStore(tmp_path / "db", clock=lambda: now[0])
    store.open()
    days = Days(inbox.append, store.spent, clock=lambda: now[0])
    days(0.0, Started(), [], None)  # type: ignore[arg-type]
    inbox.clear()
    now[0] += 2
    days(1.0, TimersChanged(0), [], None)  # type: ignore[arg-type]  # the first event of the new day: DayBegan is posted
    used = Emit(Usage({}, 0.4, 1.0))
    for observer in (store, days):  # this one was in the inbox before it
        observer(1.1, TimersChanged(0), [used], None)  # type: ignore[arg-type]
    totals = [(one.spent_usd, one.spent_s) for one in inbox]
    assert totals[-1] == store.spent("2026-11-21")
    store.close()
