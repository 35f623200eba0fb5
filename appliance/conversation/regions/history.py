"""The conversation so far, and what each connection is sent of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from appliance.conversation.policy import Policy
from appliance.conversation.support.item_list import ItemList, wire_item
from appliance.conversation.support.outbox import ItemOf, Outbox
from appliance.realtime import protocol as wire
from appliance.realtime.items import HistoryItem

__all__ = ["History"]


class History:
    """Keeps the items of the conversation over all its connections.

    Owns the items and their order. Writes every change as a notice, then as a frame to the server where it is ours.
    """

    def __init__(self, policy: Policy, out: Outbox, items: Sequence[HistoryItem]) -> None:
        self._policy = policy
        self._out = out
        self._list = ItemList(items, max_items=policy.max_history)

    @property
    def items(self) -> tuple[HistoryItem, ...]:
        return self._list.items

    def get(self, item_id: str) -> HistoryItem | None:
        return self._list.get(item_id)

    def apply(self, event: wire.ServerEvent) -> None:
        """Take an event of the conversation; the machine passes none of out-of-band responses."""
        self._out.emit(*self._list.apply(event))

    def end_open(self) -> None:
        """The connection is gone: nothing more comes for what is in progress."""
        self._out.emit(*self._list.end_open())

    def remove(self, item_id: str) -> None:
        """Forget an item that the server does not have."""
        self._out.emit(*self._list.remove(item_id))

    def delete(self, item_id: str) -> None:
        """Delete an item, here and on the server."""
        if self._list.get(item_id) is not None:
            self._out.emit(*self._list.delete(item_id))
            self._out.send(
                wire.ConversationItemDelete(event_id=f"item_{item_id}", item_id=item_id), about=ItemOf(item_id)
            )

    def cut(self, item_id: str, heard_ms: int, received_ms: int, *, is_elsewhere: bool) -> None:
        """Mark an answer as heard up to a point.

        Args:
            item_id: An item of the assistant; others are left alone.
            heard_ms: Milliseconds of it that were heard.
            received_ms: How long what was received of it is.
            is_elsewhere: It was played from a connection before this one, which was sent all of it: it is created
                again as it was heard, because a server truncates only its own audio.
        """
        changes = self._list.cut(item_id, heard_ms, received_ms)
        self._out.emit(*changes)
        if not changes or changes[0].item is None or not is_elsewhere or self._out.link is None:
            return
        item = changes[0].item  # as it was heard
        previous = self._list.before(item_id) or "root"
        self.delete(item_id)
        if wire_item(item) is not None:
            self._insert(replace(item, id=self._list.new_id()), previous)

    def remove_unplayed(self, played: Sequence[str]) -> None:
        """Forget answers that the lost connection cut off before any of them was heard."""
        for item in self._list.items:
            is_cut = item.role == "assistant" and item.status == "incomplete" and item.heard_ms is None
            if is_cut and item.id not in played:
                self.remove(item.id)

    def replace(self, items: Sequence[HistoryItem]) -> None:
        """Make the conversation into another one: delete what is missing, create what is new."""
        deletes, creates = self._list.diff(items)
        for item_id in deletes:
            self.delete(item_id)
        instead: dict[str, str] = {}
        for item, before in creates:
            previous = instead.get(before, before)
            if wire_item(item) is None:
                instead[item.id] = previous  # no server takes it: what follows it follows the one before it
            else:
                self._insert(item, previous)

    def replay(self) -> None:
        """Send the newest items to a new connection."""
        frames, changes = self._list.replay(limit=self._policy.replay_items)
        self._out.emit(*changes)
        for frame in frames:
            self._create(frame)

    # --- items of ours ------------------------------------------------------------------------------------------

    def add_message(self, item: Mapping[str, Any], text: str) -> None:
        """Add a message item of the Realtime API; its `id` is ours."""
        images = tuple(str(part["image_url"]) for part in item.get("content", ()) if "image_url" in part)
        known = HistoryItem(id=str(item["id"]), role=str(item["role"]), text=text, images=images)
        self._add(known, dict(item))

    def add_system_message(self, text: str) -> None:
        content = [{"type": "input_text", "text": text}]
        self.add_message({"id": self._list.new_id(), "type": "message", "role": "system", "content": content}, text)

    def add_output(self, call_id: str, output: str) -> None:
        """Add the output of a function call."""
        known = HistoryItem(id=self._list.new_id(), type="function_call_output", call_id=call_id, output=output)
        self._add(known, {"id": known.id, "type": known.type, "call_id": call_id, "output": output})

    def add_verdict(self, request_id: str, *, approves: bool, reason: str) -> None:
        """Answer the approval request of an MCP server."""
        known = HistoryItem(id=self._list.new_id(), type="mcp_approval_response")
        frame = {"id": known.id, "type": known.type, "approval_request_id": request_id, "approve": approves}
        self._add(known, frame | ({"reason": reason} if reason and not approves else {}))

    def _add(self, item: HistoryItem, frame: wire.JsonObject) -> None:
        self._out.emit(*self._list.insert(item, None))
        self._create(frame)

    def _insert(self, item: HistoryItem, previous: str) -> None:
        """Add an item behind another (``root``: first)."""
        self._out.emit(*self._list.insert(item, previous))
        if (frame := wire_item(item)) is not None:
            self._create(frame, previous)

    def _create(self, frame: wire.JsonObject, previous: str | None = None) -> None:
        item_id = str(frame["id"])
        create = wire.ConversationItemCreate(event_id=f"item_{item_id}", item=frame, previous_item_id=previous)
        self._out.send(create, about=ItemOf(item_id))
