"""Messages that a program writes, as items of the Realtime API: texts, images, and messages of SDKs. Pure.

Source: Realtime API, conversation.item.create.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from appliance.errors import SettingsError
from appliance.realtime.payload import image_part, message_item
from appliance.realtime.protocol import JsonObject

__all__ = ["image_of", "structured_item", "text_of"]

_VALUE_OF = {"input_text": "text", "input_image": "image_url"}
_REMOTE = ("https://", "data:image/")


def image_of(image: bytes | str | Path, *, detail: Literal["auto", "low", "high"] | None = None) -> JsonObject:
    """Return an image as a content part; an ``https`` or ``data`` address is passed on, not fetched.

    Raises:
        SettingsError: The file is neither PNG nor JPEG, or too large.
        OSError: The file cannot be read.
    """
    if isinstance(image, str) and image.startswith(_REMOTE):
        return {"type": "input_image", "image_url": image} | ({"detail": detail} if detail else {})
    return image_part(image if isinstance(image, bytes) else Path(image).read_bytes(), detail=detail)


def structured_item(item_id: str, message: str | Mapping[str, Any], role: Literal["user", "system"]) -> JsonObject:
    """Return a text, or a structured message of an SDK, as an item.

    Args:
        item_id: Of the new item.
        message: A text of `role`; or ``{"type": "message", "role": …, "content": [{"type": "input_text", "text": …},
            {"type": "input_image", "image_url": …}]}``, which has a role of its own.
        role: The author of a text.

    Raises:
        SettingsError: The message is neither; names the wrong part.
    """
    if isinstance(message, str):
        return message_item(item_id, role, message)
    if not isinstance(message, Mapping):
        raise SettingsError(f"send_message: expected a text or a message item, not {type(message).__name__}")
    kind, author, content = (message.get(key) for key in ("type", "role", "content"))
    if kind != "message":
        raise SettingsError(f"send_message: type is {kind!r}, expected 'message'")
    if author not in ("user", "system"):
        raise SettingsError(f"send_message: role is {author!r}, expected 'user' or 'system'")
    if not isinstance(content, Sequence) or isinstance(content, str) or not content:
        raise SettingsError("send_message: content must be a list with at least one part")
    for number, part in enumerate(content):
        _check_part(part, f"send_message: content[{number}]", author)
    return {"id": item_id, "type": "message", "role": author, "content": [dict(part) for part in content]}


def _check_part(part: Any, where: str, role: str) -> None:
    kind = part.get("type") if isinstance(part, Mapping) else None
    known = ("input_text", "input_image") if role == "user" else ("input_text",)
    if not isinstance(kind, str) or kind not in known:
        raise SettingsError(f"{where}: type is {kind!r}, expected {' or '.join(map(repr, known))} in a {role} message")
    value = part.get(_VALUE_OF[kind])
    if not isinstance(value, str):
        raise SettingsError(f"{where}: {_VALUE_OF[kind]} must be a string")
    if kind == "input_image" and not value.startswith(_REMOTE):
        raise SettingsError(f"{where}: image_url must begin with {' or '.join(_REMOTE)}")


def text_of(item: Mapping[str, Any]) -> str:
    """Return the text of a message item, for the history and the guardrails."""
    return "\n".join(part["text"] for part in item["content"] if part["type"] == "input_text")
