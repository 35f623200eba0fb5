"""MCP servers of an agent: `HostedMcp`, which the model's server calls, and the interface of all others. Pure.

`McpServerStdio` and `McpServerHttp`, which the appliance calls itself, are in `runtime.mcp`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol
from urllib.parse import SplitResult, urlsplit, urlunsplit

from appliance.agents.tools import Tool
from appliance.errors import ToolError
from appliance.safe_text import Secrets

__all__ = ["HostedMcp", "McpServer", "RequireApproval", "check_names", "public_address", "split_address"]

RequireApproval = Literal["always", "never"] | Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class HostedMcp:
    """An MCP server that the model's server calls; the appliance never connects to it. Pure.

    Raises:
        ToolError: Not exactly one of `server_url`, `connector_id` and `tunnel_id` is given, or a value is invalid.
    """

    server_label: str
    """Its name in the tool calls."""
    server_url: str = ""
    connector_id: str = ""
    """Realtime API: ``connector_gmail`` and so on; deprecated for models after 2026-09-01."""
    tunnel_id: str = ""
    server_description: str = ""
    authorization: str = field(default="", repr=False)
    """OAuth access token, without ``Bearer``."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    allowed_tools: Sequence[str] = ()
    """Tool names; empty allows all."""
    require_approval: RequireApproval = "always"
    """Or ``{"always": {"tool_names": […], "read_only": bool}, "never": {…}}``."""
    defer_loading: bool | None = None
    """Whether the model finds the tools only by searching."""
    _secrets: Secrets = field(default_factory=Secrets, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.server_label.strip():
            raise ToolError("a hosted MCP server has no server_label: give it one, its calls are labelled with it")
        given = [name for name in ("server_url", "connector_id", "tunnel_id") if getattr(self, name)]
        if len(given) != 1:
            raise ToolError(
                f"hosted MCP server {self.server_label!r}: {' and '.join(given) or 'no address'} given; "
                "it needs exactly one of server_url, connector_id and tunnel_id"
            )
        check_names(f"hosted MCP server {self.server_label!r}", "allowed_tools", self.allowed_tools)
        wanted = self.require_approval
        if any(one not in ("always", "never") for one in (wanted if isinstance(wanted, Mapping) else [wanted])):
            raise ToolError(
                f"hosted MCP server {self.server_label!r}: require_approval is {wanted!r}; "
                'it is "always", "never", or filters under the keys "always" and "never"'
            )
        self._secrets.add(self.authorization)
        self._secrets.add_named(self.headers.items())

    def __repr__(self) -> str:
        place = public_address(self.server_url) or self.connector_id or self.tunnel_id
        return f"<HostedMcp {self.server_label!r} at {place}>"

    def definition(self) -> dict[str, Any]:
        """Return the server's entry in ``session.tools`` (Realtime API, MCP tool), secrets included."""
        approval = self.require_approval
        optional: dict[str, Any] = {
            "server_url": self.server_url,
            "connector_id": self.connector_id,
            "tunnel_id": self.tunnel_id,
            "server_description": self.server_description,
            "authorization": self.authorization,
            "headers": dict(self.headers),
            "allowed_tools": list(self.allowed_tools),
            "require_approval": dict(approval) if isinstance(approval, Mapping) else approval,
        }
        definition = {"type": "mcp", "server_label": self.server_label} | {k: v for k, v in optional.items() if v}
        if self.defer_loading is not None:
            definition["defer_loading"] = self.defer_loading
        return definition


class McpServer(Protocol):
    """An MCP server that the appliance calls; its tools work like all others. Used on one event loop."""

    name: str

    async def connect(self) -> None:
        """Connect; a no-op if connected.

        Raises:
            LinkError: The server cannot be reached.
            ToolError: A package that it needs is not installed.
        """
        ...

    async def close(self) -> None:
        """Disconnect; MUST be idempotent, MAY be called from another task than `connect`."""
        ...

    async def list_tools(self) -> Sequence[Tool]:
        """Return the server's tools.

        Raises:
            LinkError: The server is not connected, or the connection was lost.
        """
        ...


def check_names(whose: str, field_name: str, names: Sequence[str]) -> None:
    """Refuse a string where a list of strings belongs.

    Raises:
        ToolError: `names` is a string.
    """
    if isinstance(names, str):
        raise ToolError(f"{whose}: {field_name} is the string {names!r}; give a list of strings")


def split_address(url: str) -> SplitResult | None:
    """Split a URL; return None if it is invalid."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises if the port is invalid
    except ValueError:
        return None
    return parts


def public_address(url: str) -> str:
    """Return a URL without user, password, query and fragment; "" if it is invalid."""
    parts = split_address(url)
    if parts is None:
        return ""
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
