"""What the store could not write yet: bounded changes of the history in order, and the spend of each day."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from msgspec.structs import replace

from appliance.conversation.notices import HistoryChanged, HistoryGrew, Usage
from appliance.service.days import is_dated

__all__ = ["Change", "Unwritten"]

Change: TypeAlias = HistoryGrew | HistoryChanged

IMAGE_SHOWN = "(an image was shown)"

_SPARE_CHANGES = 1000  # deletions and updates beside the items that are kept


class Unwritten:
    """A queue of changes; empty while storing works.

    Args:
        most_items: How many items the store keeps; 0 keeps the spend only.
    """

    def __init__(self, most_items: int) -> None:
        self._most_items = most_items
        self._most_changes = 4 * most_items + _SPARE_CHANGES
        self.changes: list[tuple[float, Change]] = []
        """(monotonic seconds, change with a remark instead of images), the oldest first."""
        self.spend: dict[str, tuple[float, float]] = {}
        """ISO date → US dollars and seconds of audio."""

    def __bool__(self) -> bool:
        return bool(self.changes or self.spend)

    def add(self, changes: Sequence[Change | Usage], at: float, day: str) -> None:
        """Add the changes of one event.

        Args:
            changes: In their order.
            at: Monotonic seconds of the event.
            day: Local ISO date of the event; the spend stays on it, however late it is written.
        """
        for one in changes:
            if isinstance(one, Usage):
                self._spend(day, max(0.0, one.usd or 0.0), max(0.0, one.audio_s))  # max() drops NaN
            elif self._most_items:
                self.changes.append((at, _without_images(one)))
        if len(self.changes) > self._most_changes:
            self._compact()

    def date_spend(self, today: str) -> None:
        """Move the spend of days before the clock was set to `today`."""
        for day in [one for one in self.spend if is_dated(today) and not is_dated(one)]:
            self._spend(today, *self.spend.pop(day))

    def forget(self) -> None:
        """Drop the changes of the history; keep the spend."""
        self.changes.clear()

    def clear(self) -> None:
        self.changes.clear()
        self.spend.clear()

    def _spend(self, day: str, usd: float, seconds: float) -> None:
        before = self.spend.get(day, (0.0, 0.0))
        self.spend[day] = before[0] + usd, before[1] + seconds

    def _compact(self) -> None:
        """Drop what a later change replaces, then the oldest: items that `most_items` newer ones have displaced."""
        kept: list[tuple[float, Change]] = []
        done: set[tuple[str, bool]] = set()
        for at, one in reversed(self.changes):
            key = _item_id(one)
            is_update = isinstance(one, HistoryChanged) and one.item is not None
            if (key, False) in done or (key, is_update) in done:
                continue  # a later placing, deletion or update has the whole item
            done.add((key, is_update))
            kept.append((at, one))
        self.changes = kept[: self._most_changes // 2][::-1]


def _without_images(change: Change) -> Change:
    item = change.item
    if item is None or not item.images:
        return change
    return replace(change, item=replace(item, images=(), text=" ".join(filter(None, (item.text, IMAGE_SHOWN)))))


def _item_id(change: Change) -> str:
    return change.item.id if isinstance(change, HistoryGrew) else change.item_id
