"""A store in a test: its clock, the events that it gets, and what its file holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from appliance.conversation.commands import Emit
from appliance.conversation.events import DeadlinePassed
from appliance.conversation.notices import (
    HistoryGrew,
    Notice,
)
from appliance.conversation.support.feedback import View
from appliance.realtime.items import HistoryItem
from appliance.service.store import ConversationStore

__all__ = ["DAY_S", "NOON", "Clock", "add", "bytes_beside", "ids", "said", "step"]


DAY_S = 86_400.0

NOON = 1_795_521_600.0  # 2026-11-24 12:00 UTC


class Clock:
    """Wall time and monotonic time as variables."""

    def __init__(self, now: float = NOON) -> None:
        self.now = now
        self.monotonic_now = 1000.0

    def __call__(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.monotonic_now

    def run(self, seconds: float) -> None:
        """Let time pass while the appliance runs; setting `now` alone is a jump."""
        self.now += seconds
        self.monotonic_now += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock, or switch the appliance off for a while."""
        self.now += seconds


def said(item_id: str, text: str = "", **others: Any) -> HistoryItem:
    return HistoryItem(id=item_id, role="user", text=text or f"text of {item_id}", **others)


def step(store: ConversationStore, *notices: Notice) -> None:
    """Pass one event with these notices to the store, as the driver does."""
    store(1.0, DeadlinePassed(), [Emit(one) for one in notices], View())


def add(store: ConversationStore, *item_ids: str, after: str = "") -> None:
    """Add items one after the other, each in a separate event."""
    for item_id in item_ids:
        step(store, HistoryGrew(said(item_id), after))
        after = item_id


def ids(store: ConversationStore) -> list[str]:
    return [item.id for item in store.load()]


def bytes_beside(path: Path) -> bytes:
    return b"".join(one.read_bytes() for one in sorted(path.parent.iterdir()))
