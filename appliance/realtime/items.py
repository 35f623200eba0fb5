"""One item of the conversation as the history keeps it and as programs see it. Pure."""

from __future__ import annotations

from appliance.records import Record

__all__ = ["HistoryItem"]


class HistoryItem(Record, frozen=True, kw_only=True):
    """One item of the conversation, as far as it is known; compare by value, keyed by `id`.

    Change a copy with ``msgspec.structs.replace``.
    """

    unprinted = ("images",)

    id: str
    type: str = "message"
    """As in the Realtime API: message, function_call, function_call_output, mcp_call, mcp_approval_request, …"""
    role: str = ""
    """user, assistant or system; "" for what is no message."""
    text: str = ""
    """What was written, or the transcript of what was said; of a cut answer, about what was heard of it."""
    status: str = "completed"
    """in_progress, completed or incomplete."""
    is_spoken: bool = False
    """Audio, of which `text` is the transcript."""
    is_transcribed: bool = True
    """False while, or because, nobody wrote down what the user said."""
    heard_ms: int | None = None
    """Milliseconds that were heard, where an interruption cut the answer; None: all of it."""
    images: tuple[str, ...] = ()
    """``data:`` addresses; not in the repr."""
    name: str = ""
    call_id: str = ""
    arguments: str = ""
    output: str = ""
    server_label: str = ""
    """Of an item of an MCP server."""
