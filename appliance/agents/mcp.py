"""MCP servers: those that the model's side calls, and (with the `mcp` extra) those that we call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from appliance.agents.tools import Tool
from appliance.errors import ToolError

__all__ = ["HostedMcp", "McpServer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostedMcp:
    """A server that the model's side calls; its calls are approved by the same path as those of tools.

    Raises:
        ToolError: Not exactly one of `server_url`, `connector_id` and `tunnel_id` is given.
    """

    server_label: str
    server_url: str = ""
    connector_id: str = ""
    tunnel_id: str = ""
    server_description: str = ""
    authorization: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    allowed_tools: Sequence[str] = ()
    require_approval: Literal["always", "never"] | Mapping[str, Any] = "always"
    defer_loading: bool | None = None

    def __post_init__(self) -> None:
        if sum(bool(one) for one in (self.server_url, self.connector_id, self.tunnel_id)) != 1:
            raise ToolError(
                f"MCP server {self.server_label!r}: give exactly one of server_url, connector_id and tunnel_id"
            )

    def definition(self) -> dict[str, Any]:
        """The server as ``session.tools`` lists it (Realtime API, MCP tool)."""
        keys: dict[str, Any] = {
            "server_url": self.server_url,
            "connector_id": self.connector_id,
            "tunnel_id": self.tunnel_id,
            "server_description": self.server_description,
            "authorization": self.authorization,
            "headers": dict(self.headers),
            "allowed_tools": list(self.allowed_tools),
        }
        set_keys = {key: value for key, value in keys.items() if value}
        if self.defer_loading is not None:
            set_keys["defer_loading"] = self.defer_loading
        approval = self.require_approval if isinstance(self.require_approval, str) else dict(self.require_approval)
        return {"type": "mcp", "server_label": self.server_label, **set_keys, "require_approval": approval}


class McpServer(Protocol):
    """A server that we call."""

    name: str

    async def connect(self) -> None: ...
    async def close(self) -> None: ...
    async def list_tools(self) -> Sequence[Tool]: ...
