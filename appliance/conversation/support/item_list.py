"""The items of a conversation by id, in the server's order, with how much of each was heard. Pure.

Theory of operation. The list is ours: the server's events add to it, and a new connection, whose conversation is empty
on the server, is sent the newest items (`replay`). Rules that the events alone do not give:

* An item may be reported several times (``committed``, ``item.added``, ``output_item.added``, ``item.done``,
  ``response.done``, ``retrieved``). A field that a later event lacks is kept: a transcript is never lost.
* ``committed`` adds a placeholder at once; the transcript follows at any time.
* A cut answer is marked with the milliseconds that were heard, and its text is cut to about that; later text of it is
  ignored.

A client cannot create assistant audio, so it is replayed as ``output_text`` (Realtime API, conversation.item.create).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from typing import TypeAlias

from msgspec.structs import replace

from appliance.conversation.notices import HistoryChanged, HistoryGrew
from appliance.realtime import protocol as wire
from appliance.realtime.items import HistoryItem

__all__ = ["Change", "ItemList", "told_item", "wire_item"]

Change: TypeAlias = HistoryGrew | HistoryChanged

NOT_WRITTEN_DOWN = "(The user said something that was not written down.)"
_CHARACTERS_PER_S = 20  # speech is rarely faster: an upper bound on the text that was heard of a cut answer
_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")  # ids that a server accepts from a client (beta reference: 32 characters)
_OWN_ID = re.compile(r"local_(\d{1,9})")
_REPLAYED = frozenset({"message", "function_call", "function_call_output"})


class ItemList:
    """The items of one conversation, across connections."""

    def __init__(self, items: Iterable[HistoryItem] = (), *, max_items: int = 500) -> None:
        """Create a list.

        Args:
            items: The items of an earlier conversation.
            max_items: The oldest items beyond this are removed here, and not sent to a new connection.
        """
        self._items: dict[str, HistoryItem] = {one.id: one for one in list(items)[-max_items:]}
        self._order: list[str] = list(self._items)
        self._parts: dict[str, dict[int, str]] = {}
        self._deleted: dict[str, str] = {}
        """Ids that we have deleted on this connection, each with its predecessor (``root``: none).

        Events for them may still be in flight and may still use them as previous_item_id.
        """
        numbers = (int(found[1]) for one in self._order if (found := _OWN_ID.fullmatch(one)))
        self._last_number = max(numbers, default=0)
        """Of our ids, which are not used again: the server may still hold an item that is removed here."""
        self._max_items = max_items

    def __repr__(self) -> str:
        return f"<ItemList of {len(self._order)} items>"

    @property
    def items(self) -> tuple[HistoryItem, ...]:
        return tuple(self._items[one] for one in self._order)

    def get(self, item_id: str) -> HistoryItem | None:
        return self._items.get(item_id)

    def before(self, item_id: str) -> str:
        """Return the id of an item's predecessor; "" for the first item."""
        at = self._order.index(item_id)
        return self._order[at - 1] if at > 0 else ""

    def new_id(self) -> str:
        """Return an unused id for one of our items."""
        while True:
            self._last_number += 1
            item_id = f"local_{self._last_number}"
            if item_id not in self._items:
                return item_id

    # --- server events ------------------------------------------------------------------------------------------

    def apply(self, event: wire.ServerEvent) -> list[Change]:
        """Apply a server event; the caller passes none of out-of-band responses."""
        match event:
            case wire.InputAudioBufferCommitted():
                return self._commit(event)
            case wire.ConversationItemAdded() | wire.ConversationItemDone():
                is_done = isinstance(event, wire.ConversationItemDone)
                return self.take(event.item, event.previous_item_id, is_done=is_done)
            case wire.OutputItemAdded() | wire.OutputItemDone():
                return self.take(event.item, None, is_done=isinstance(event, wire.OutputItemDone))
            case wire.ConversationItemRetrieved():
                return self.take(event.item, None, is_done=True) if event.item.id in self._items else []
            case wire.ConversationItemDeleted():
                return self.remove(event.item_id)
            case wire.ConversationItemTruncated():
                return self.cut(event.item_id, event.audio_end_ms)
            case wire.InputTranscriptionCompleted():
                return self._set_transcript(event.item_id, event.transcript.strip())
            case wire.InputTranscriptionFailed():
                return self._set_transcript(event.item_id, None)
            case wire.InputTranscriptionDelta() | wire.OutputAudioTranscriptDelta() | wire.OutputTextDelta():
                self._append(event.item_id, event.content_index, event.delta)
                return []
            case wire.OutputAudioTranscriptDone():
                return self._set_text(event.item_id, event.content_index, event.transcript)
            case wire.OutputTextDone():
                return self._set_text(event.item_id, event.content_index, event.text)
            case wire.ResponseDone():
                return [change for item in event.response.output for change in self.take(item, None, is_done=True)]
            case _:
                return []

    def take(self, item: wire.Item, previous_item_id: str | None, *, is_done: bool) -> list[Change]:
        """Add an item, or merge it into the known one."""
        if not item.id or item.id in self._deleted:
            return []
        received = told_item(item, is_done=is_done)
        known = self._items.get(item.id)
        if known is None:
            return self.insert(received, previous_item_id)
        merged = _merged(known, received)
        moved = self._move(item.id, previous_item_id)
        return moved if merged == known else [*moved, *self._update(merged)]

    # --- our own changes ----------------------------------------------------------------------------------------

    def insert(self, item: HistoryItem, previous_item_id: str | None) -> list[Change]:
        """Insert an item after another: first for ``root``, last if the other is None or unknown."""
        previous_item_id = self._known_before(previous_item_id)
        if previous_item_id == "root":
            at = 0
        elif previous_item_id in self._items:
            at = self._order.index(previous_item_id) + 1
        else:
            at = len(self._order)
        self._order.insert(at, item.id)
        self._items[item.id] = item
        self._deleted.pop(item.id, None)
        changes: list[Change] = [HistoryGrew(item, self._order[at - 1] if at > 0 else "")]
        while len(self._order) > self._max_items:
            changes += self.remove(self._order[0])
        return changes

    def delete(self, item_id: str) -> list[Change]:
        """Remove an item that we also delete on the server: late events do not bring it back."""
        self._deleted[item_id] = (self.before(item_id) or "root") if item_id in self._items else "root"
        return self.remove(item_id)

    def remove(self, item_id: str) -> list[Change]:
        if self._items.pop(item_id, None) is None:
            return []
        self._order.remove(item_id)
        self._parts.pop(item_id, None)
        return [HistoryChanged(item_id)]

    def cut(self, item_id: str, heard_ms: int, received_ms: int | None = None) -> list[Change]:
        """Mark how much of an answer was heard, and cut its text to that.

        Args:
            item_id: An assistant item; any other, and one that is already cut, is ignored.
            heard_ms: Milliseconds that were heard.
            received_ms: Milliseconds that were received; None if unknown.
        """
        item = self._items.get(item_id)
        if item is None or item.role != "assistant" or item.heard_ms is not None:
            return []
        text = _heard_text(item.text, heard_ms, received_ms)
        return self._update(replace(item, heard_ms=heard_ms, text=text, status="incomplete", is_spoken=True))

    def end_open(self) -> list[Change]:
        """Mark items in progress as incomplete: their connection is lost."""
        self._deleted.clear()
        return [
            change
            for item in self.items
            if item.status == "in_progress"
            for change in self._update(replace(item, status="incomplete"))
        ]

    def replay(self, *, limit: int) -> tuple[list[wire.JsonObject], list[Change]]:
        """Return the items for a new connection as wire items with their ids, oldest first, and the changes made here.

        Items that are not sent (older than `limit`, a call without its output, an unheard answer, items of MCP
        servers) are removed here too, so that both sides have the same items.

        Args:
            limit: How many of the newest items to send.
        """
        frames: list[wire.JsonObject] = []
        changes: list[Change] = []
        first = max(0, len(self._items) - limit)
        pairs = _paired(self.items[first:])
        for index, item in enumerate(self.items):
            is_sendable = item.id in pairs or not item.type.startswith("function_call")
            frame = wire_item(item) if index >= first and is_sendable else None
            if frame is None:
                changes += self.remove(item.id)
                continue
            if not _ID.fullmatch(item.id):
                changes += self._rename(item, frame)
            frames.append(frame)
        return frames, changes

    def diff(self, target: Sequence[HistoryItem]) -> tuple[list[str], list[tuple[HistoryItem, str]]]:
        """Return the deletions and creations that turn the conversation into `target`.

        Returns:
            The ids to delete, and the items to create in order, each with the id of its predecessor (``root``: none).
            An item that differs from the known one with its id is created under a new id.
        """
        wanted = [one if self._may_keep_id(one) else replace(one, id=self.new_id()) for one in target]
        matcher = SequenceMatcher(None, self._order, [one.id for one in wanted], autojunk=False)
        kept = {self._order[a + k] for a, _, size in matcher.get_matching_blocks() for k in range(size)}
        creates = []
        previous = "root"
        for item in wanted:
            if item.id not in kept:
                item = replace(item, id=self.new_id()) if item.id in self._items else item
                creates.append((item, previous))
            previous = item.id
        return [one for one in self._order if one not in kept], creates

    # --- internals ----------------------------------------------------------------------------------------------

    def _may_keep_id(self, item: HistoryItem) -> bool:
        known = self._items.get(item.id)
        if known is not None and known.status == "in_progress":
            return True  # still streaming, so it cannot have been edited
        return known == item if known is not None else _ID.fullmatch(item.id) is not None

    def _move(self, item_id: str, previous_item_id: str | None) -> list[Change]:
        """Move the item to where the server says it belongs."""
        previous = self._known_before(previous_item_id)
        at = "" if previous == "root" else previous
        if at is None or (at and at not in self._items) or self.before(item_id) == at:
            return []
        item = self._items[item_id]
        self._order.remove(item_id)
        self._order.insert(self._order.index(at) + 1 if at else 0, item_id)
        return [HistoryChanged(item_id), HistoryGrew(item, at)]

    def _known_before(self, item_id: str | None) -> str | None:
        """Return the id itself, or for a deleted item its nearest predecessor that is not deleted."""
        seen: set[str] = set()
        while item_id in self._deleted and item_id not in self._items and item_id not in seen:
            seen.add(item_id)
            item_id = self._deleted[item_id]
        return item_id

    def _update(self, item: HistoryItem) -> list[Change]:
        self._items[item.id] = item
        return [HistoryChanged(item.id, item)]

    def _rename(self, item: HistoryItem, frame: wire.JsonObject) -> list[Change]:
        renamed = replace(item, id=self.new_id())
        frame["id"] = renamed.id
        at = self._order.index(item.id)
        previous = self._order[at - 1] if at > 0 else "root"
        return self.remove(item.id) + self.insert(renamed, previous)

    def _commit(self, event: wire.InputAudioBufferCommitted) -> list[Change]:
        if event.item_id in self._items:
            return []
        item = HistoryItem(id=event.item_id, role="user", status="in_progress", is_spoken=True, is_transcribed=False)
        return self.insert(item, event.previous_item_id)

    def _set_transcript(self, item_id: str, text: str | None) -> list[Change]:
        item = self._items.get(item_id)
        if item is None:
            return []
        if text is None:
            return self._update(replace(item, status="completed", text="", is_transcribed=False))
        return self._update(replace(item, status="completed", text=text, is_transcribed=True))

    def _append(self, item_id: str, content_index: int, delta: str) -> None:
        """Append a delta to a text, without a `Change`: deltas arrive ten times a second."""
        item = self._items.get(item_id)
        if item is None or item.heard_ms is not None:
            return
        parts = self._parts.setdefault(item_id, {})
        parts[content_index] = parts.get(content_index, "") + delta
        self._items[item_id] = replace(item, text=_joined(parts))

    def _set_text(self, item_id: str, content_index: int, text: str) -> list[Change]:
        item = self._items.get(item_id)
        if item is None or item.heard_ms is not None or not text:
            return []
        parts = self._parts.setdefault(item_id, {})
        parts[content_index] = text
        return self._update(replace(item, text=_joined(parts)))


def wire_item(item: HistoryItem) -> wire.JsonObject | None:
    """Return an item in the form that a client may create; None if it may not, or if the item is empty."""
    if item.type not in _REPLAYED:
        return None
    frame: wire.JsonObject = {"id": item.id, "type": item.type}
    if item.type == "function_call":
        return frame | {"name": item.name, "arguments": item.arguments, "call_id": item.call_id}
    if item.type == "function_call_output":
        return frame | {"call_id": item.call_id, "output": item.output}
    text = item.text
    if item.role == "assistant":
        content = [{"type": "output_text", "text": text}] if text else []
    else:
        if item.is_spoken and not text:
            text = NOT_WRITTEN_DOWN
        content = [{"type": "input_text", "text": text}] if text else []
        content += [{"type": "input_image", "image_url": url} for url in item.images]
    return frame | {"role": item.role, "content": content} if content else None


def told_item(item: wire.Item, *, is_done: bool = True) -> HistoryItem:
    """Return the history item for a wire item of the server."""
    spoken = [part for part in item.content if part.type in ("input_audio", "output_audio", "audio")]
    texts = [part.transcript if part.transcript is not None else part.text for part in item.content]
    is_user_audio = bool(spoken) and item.role == "user"
    has_transcript = any(part.transcript is not None for part in spoken)
    status = item.status or ("completed" if is_done else "in_progress")
    return HistoryItem(
        id=item.id,
        type=item.type,
        role=item.role or "",
        text=" ".join(text for text in texts if text),
        status="in_progress" if is_user_audio and not has_transcript and status == "completed" else status,
        is_spoken=bool(spoken),
        is_transcribed=not is_user_audio or has_transcript,
        name=item.name,
        call_id=item.call_id,
        arguments=item.arguments,
        output=item.output or "",
        server_label=item.server_label,
    )


def _merged(known: HistoryItem, received: HistoryItem) -> HistoryItem:
    """Return a known item with the fields that an event has; fields that the event lacks are kept."""
    is_transcribed = known.is_transcribed or (received.is_transcribed and bool(received.text))
    if known.role == "user" and known.is_spoken and known.status == "completed":
        status = known.status  # transcribed: a late event cannot reopen it
    elif known.heard_ms is not None:
        status = "incomplete"
    else:
        status = received.status if known.status == "in_progress" else known.status
    return replace(
        known,
        type=received.type,
        role=received.role or known.role,
        text=known.text if known.heard_ms is not None else received.text or known.text,
        status=status,
        is_spoken=known.is_spoken or received.is_spoken,
        is_transcribed=is_transcribed,
        name=received.name or known.name,
        call_id=received.call_id or known.call_id,
        arguments=received.arguments or known.arguments,
        output=received.output or known.output,
        server_label=received.server_label or known.server_label,
    )


def _paired(items: Sequence[HistoryItem]) -> set[str]:
    """Return the ids of calls with a later output, and of those outputs."""
    calls: dict[str, str] = {}
    pairs: set[str] = set()
    for item in items:
        if item.type == "function_call":
            calls[item.call_id] = item.id
        elif item.type == "function_call_output" and item.call_id in calls:
            pairs |= {calls.pop(item.call_id), item.id}
    return pairs


def _joined(parts: dict[int, str]) -> str:
    return " ".join(parts[index].strip() for index in sorted(parts) if parts[index].strip())


def _heard_text(text: str, heard_ms: int, received_ms: int | None) -> str:
    """Cut a text to about the part that was heard, at the end of a word."""
    most = heard_ms * _CHARACTERS_PER_S // 1000
    if received_ms:
        most = min(most, round(len(text) * min(1.0, heard_ms / received_ms)))
    if most >= len(text):
        return text
    return text[: most + 1].rpartition(" ")[0].rstrip()
