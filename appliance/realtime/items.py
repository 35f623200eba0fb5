"""`HistoryItem`: one item of the conversation, as kept in the history and shown to programs. Pure.

Source of the types of items and content parts: Realtime API, conversation items.
"""

from __future__ import annotations

from typing import Literal

from appliance.records import Record

__all__ = ["HistoryItem", "ItemContent"]


class ItemContent(Record, frozen=True, kw_only=True):
    """One part of a message's content; the field that goes with its `type` is set."""

    unprinted = ("image_url",)

    type: Literal["input_text", "input_audio", "input_image", "output_text", "output_audio"]
    text: str | None = None
    transcript: str | None = None
    """Of audio; None if there is none, or none yet."""
    image_url: str | None = None
    """A ``data:`` or ``https:`` address."""


class HistoryItem(Record, frozen=True, kw_only=True):
    """One item of the conversation, as far as it is known; compared by value, keyed by `id`.

    Make a changed copy with ``msgspec.structs.replace``.
    """

    unprinted = ("images",)

    id: str
    type: str = "message"
    """As in the Realtime API: message, function_call, function_call_output, mcp_call, mcp_approval_request, …"""
    role: str = ""
    """user, assistant or system; "" for items other than messages."""
    text: str = ""
    """The written text, or the transcript of the audio; for an interrupted answer, roughly the part that was heard."""
    status: str = "completed"
    """in_progress, completed or incomplete."""
    is_spoken: bool = False
    """Whether the item is audio; `text` is its transcript."""
    is_transcribed: bool = True
    """False if the user's speech has no transcript, or none yet."""
    heard_ms: int | None = None
    """Milliseconds heard before an interruption cut the answer; None if it was not cut."""
    images: tuple[str, ...] = ()
    """``data:`` addresses; not in the repr."""
    name: str = ""
    call_id: str = ""
    arguments: str = ""
    output: str = ""
    server_label: str = ""
    """The MCP server of an MCP item."""

    @property
    def content(self) -> tuple[ItemContent, ...]:
        """The parts of a message, made from the fields above: its text or audio, then its images.

        Texts that the server or the program gave in several parts are one part. Empty for items other than messages.
        """
        if self.type != "message":
            return ()
        is_answer = self.role == "assistant"
        parts = [ItemContent(type="input_image", image_url=one) for one in self.images]
        if self.is_spoken:
            transcript = self.text if self.is_transcribed else None
            parts.insert(0, ItemContent(type="output_audio" if is_answer else "input_audio", transcript=transcript))
        elif self.text:
            parts.insert(0, ItemContent(type="output_text" if is_answer else "input_text", text=self.text))
        return tuple(parts)
