"""`HistoryItem`: one item of the conversation, as kept in the history and shown to programs. Pure."""

from __future__ import annotations

from appliance.records import Record

__all__ = ["HistoryItem"]


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
