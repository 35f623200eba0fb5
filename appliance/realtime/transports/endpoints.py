"""Addresses of models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, quote, urlsplit

from appliance.errors import SettingsError
from appliance.safe_text import bare_address

__all__ = ["UNIX", "Endpoint", "endpoint_url"]

UNIX: Final = "ws+unix"
"""The scheme of a WebSocket on a Unix socket."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of a model, and the headers that authenticate the client."""

    url: str
    """``ws://`` or ``wss://``, with its query; or ``ws+unix:SOCKET:PATH`` for a Unix socket."""
    headers: Callable[[], Mapping[str, str]] = field(repr=False)
    """Called at each connect, to pick up a renewed key; MAY raise `ApplianceError`."""
    name: str = ""
    """For logs and the panel."""

    def __repr__(self) -> str:
        return f"Endpoint({bare_address(self.url)!r}, name={self.name!r})"


def endpoint_url(base_url: str, model: str) -> str:
    """Return the WebSocket address of a model.

    Args:
        base_url: ``https://…/v1``, with or without ``/realtime``; ``http``, ``ws``, ``wss`` and ``ws+unix`` (see
            `Endpoint`) are accepted too. Its query is kept, and a ``model`` (or ``call_id``, ``intent``,
            ``deployment``) in it wins over `model`.
        model: Any string; "" adds none.

    Raises:
        SettingsError: `base_url` is not such an address.
    """
    try:
        parts = urlsplit(base_url.strip())
        _ = parts.port  # raises if the port is invalid
    except ValueError as exc:
        raise SettingsError(f"base URL {bare_address(base_url)!r}: {exc}") from None
    scheme = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss", UNIX: UNIX}.get(parts.scheme)
    if scheme is None or not (parts.path if scheme == UNIX else parts.hostname):
        raise SettingsError(
            f"base URL {bare_address(base_url)!r}: expected http(s):// or ws(s):// and a host, "
            "as in https://api.openai.com/v1"
        )
    path = parts.path.rstrip("/")
    if not path.endswith("/realtime"):
        path += "/realtime"
    query = parts.query
    names = {key for key, _ in parse_qsl(query, keep_blank_values=True)}
    if model and not names & {"model", "call_id", "intent", "deployment"}:
        query += ("&" if query else "") + "model=" + quote(model, safe="")
    place = f"{scheme}:{path}" if scheme == UNIX else f"{scheme}://{parts.netloc}{path}"
    return place + (f"?{query}" if query else "")
