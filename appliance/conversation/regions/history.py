"""The items of the conversation, and the frames that keep each connection in step. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from appliance.conversation.events import MessageGiven
from appliance.conversation.policy import Policy
from appliance.conversation.support.call import Call
from appliance.conversation.support.item_list import ItemList, wire_item
from appliance.conversation.support.outbox import ItemOf, Outbox
from appliance.realtime import protocol as wire
from appliance.realtime.items import HistoryItem

__all__ = ["History"]


class History:
    """Keeps the items of the conversation across connections.

    Owns the items and their order. Emits a notice for every change; a change of our own is then sent to the server.
    """

    def __init__(self, policy: Policy, out: Outbox, items: Sequence[HistoryItem]) -> None:
        self.policy = policy
        self._out = out
        self._list = ItemList(items, max_items=policy.max_history)
        self.waiting: deque[MessageGiven] = deque()
        """Messages that are sent after the running turn, in order."""

    @property
    def items(self) -> tuple[HistoryItem, ...]:
        return self._list.items

    def get(self, item_id: str) -> HistoryItem | None:
        return self._list.get(item_id)

    def apply(self, event: wire.ServerEvent) -> None:
        """Apply a server event; those of out-of-band responses are not passed here."""
        self._out.emit(*self._list.apply(event))

    def end_open(self) -> None:
        """Mark items in progress as incomplete: their connection is lost."""
        self._out.emit(*self._list.end_open())

    def remove(self, item_id: str) -> None:
        """Remove an item that the server does not have."""
        self._out.emit(*self._list.remove(item_id))

    def delete(self, item_id: str) -> None:
        """Delete an item, here and on the server."""
        if self._list.get(item_id) is not None:
            self._out.emit(*self._list.delete(item_id))
            self._out.send(
                wire.ConversationItemDelete(event_id=f"item_{item_id}", item_id=item_id), about=ItemOf(item_id)
            )

    def cut(self, item_id: str, heard_ms: int, received_ms: int, *, is_elsewhere: bool) -> None:
        """Mark how much of an answer was heard, and cut its text to that.

        Args:
            item_id: An assistant item; any other is ignored.
            heard_ms: Milliseconds that were heard.
            received_ms: Milliseconds that were received.
            is_elsewhere: Whether the audio came from an earlier connection. The item is then deleted and created
                again with the heard text, because a server truncates only its own audio.
        """
        changes = self._list.cut(item_id, heard_ms, received_ms)
        self._out.emit(*changes)
        if not changes or changes[0].item is None or not is_elsewhere or self._out.link is None:
            return
        item = changes[0].item
        previous = self._list.before(item_id) or "root"
        self.delete(item_id)
        if wire_item(item) is not None:
            self._insert(replace(item, id=self._list.new_id()), previous)

    def remove_unplayed(self, played: Sequence[str]) -> None:
        """Remove incomplete answers of the lost connection that were not heard at all."""
        for item in self._list.items:
            is_cut = item.role == "assistant" and item.status == "incomplete" and item.heard_ms is None
            if is_cut and item.id not in played:
                self.remove(item.id)

    def replace(self, items: Sequence[HistoryItem]) -> None:
        """Replace the conversation: delete the items that are missing in `items`, create the new ones."""
        deletes, creates = self._list.diff(items)
        for item_id in deletes:
            self.delete(item_id)
        substitutes: dict[str, str] = {}
        for item, before in creates:
            previous = substitutes.get(before, before)
            if wire_item(item) is None:
                substitutes[item.id] = previous  # cannot be created: the next item goes behind its predecessor
            else:
                self._insert(item, previous)

    def replay(self) -> None:
        """Send the newest items to a new connection."""
        frames, changes = self._list.replay(limit=self.policy.replay_items)
        self._out.emit(*changes)
        for frame in frames:
            self._create(frame)

    # --- our own items ------------------------------------------------------------------------------------------

    def add_message(self, item: Mapping[str, Any], text: str) -> None:
        """Add a message item of the Realtime API, with our own `id`."""
        images = tuple(str(part["image_url"]) for part in item.get("content", ()) if "image_url" in part)
        added = HistoryItem(id=str(item["id"]), role=str(item["role"]), text=text, images=images)
        self._add(added, dict(item))

    def add_system_message(self, text: str) -> None:
        content = [{"type": "input_text", "text": text}]
        self.add_message({"id": self._list.new_id(), "type": "message", "role": "system", "content": content}, text)

    def add_call(self, call: Call) -> None:
        """Add a function call that a lost connection made, unless it is here: its output is about to follow."""
        if not any(one.type == "function_call" and one.call_id == call.call_id for one in self._list.items):
            item_id = self._list.new_id()
            added = HistoryItem(
                id=item_id, type="function_call", call_id=call.call_id, name=call.name, arguments=call.arguments
            )
            self._add(added, wire_item(added) or {})

    def add_output(self, call_id: str, output: str) -> None:
        """Add the output of a function call."""
        added = HistoryItem(id=self._list.new_id(), type="function_call_output", call_id=call_id, output=output)
        self._add(added, {"id": added.id, "type": added.type, "call_id": call_id, "output": output})

    def add_verdict(self, request_id: str, *, approves: bool, reason: str) -> None:
        """Answer the approval request of an MCP server."""
        added = HistoryItem(id=self._list.new_id(), type="mcp_approval_response")
        frame = {"id": added.id, "type": added.type, "approval_request_id": request_id, "approve": approves}
        self._add(added, frame | ({"reason": reason} if reason and not approves else {}))

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
