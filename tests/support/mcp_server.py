"""A small MCP server: as a program over standard input and output, in the test over streamable HTTP on loopback.

::

    McpServerStdio("house", sys.executable, [str(mcp_server.PROGRAM)])

    async with over_http(House()) as port:
        McpServerHttp("house", f"http://127.0.0.1:{port}/mcp")

It lists its tools in pages of three.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import mcp_types as types
import uvicorn
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError

__all__ = ["PROGRAM", "TOOLS", "House", "over_http"]

PROGRAM = Path(__file__)

_PAGE = 3
_NUMBERS = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer", "description": "Added to a."}},
    "required": ["a", "b"],
}
_NOTHING: dict[str, Any] = {"type": "object", "properties": {}}
_PIXEL = "iVBORw0KGgo="

TOOLS = {
    "add": "Add two numbers.",
    "say_lines": "Say two lines.",
    "house/lamp": "Of the house.",
    "house lamp": "Of the house, too.",
    "house_lamp": "A legal name.",
    "measure": "Structured content only.",
    "show": "An image, a link, a resource and a sound.",
    "nothing": "No content.",
    "refuse": "Fails, as tools do.",
    "break": "Fails, as servers do.",
    "betray": "Fails and quotes the secret that came with the call.",
    "get_pid": "Number of the process.",
    "die": "Ends the program.",
    "hang": "Never answers.",
}


class House:
    """The server; records when ``hang`` is called and cancelled, and the query and headers of each HTTP call.

    Args:
        is_endless: After its last page the tool list continues with the first page, for ever.
        is_old: ``server/discover`` is unknown: clients use a handshake and a session, as before 2026.
        token: The required ``Authorization`` header of HTTP requests.
    """

    def __init__(self, *, is_endless: bool = False, is_old: bool = False, token: str = "") -> None:
        self.hanging = asyncio.Event()
        self.given_up = asyncio.Event()
        self.queries: list[str] = []
        self.authorizations: list[str] = []
        self.token = token
        self._is_endless = is_endless
        self.server = Server("house", on_list_tools=self._list, on_call_tool=self._call)
        if is_old:
            self.server.add_request_handler("server/discover", types.RequestParams, _not_found)

    async def _list(self, context: Any, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        first = int(params.cursor) if params is not None and params.cursor else 0
        names = list(TOOLS)[first : first + _PAGE]
        following = (first + _PAGE) % len(TOOLS) if self._is_endless else first + _PAGE
        return types.ListToolsResult(
            tools=[
                types.Tool(name=one, description=TOOLS[one], input_schema=_NUMBERS if one == "add" else _NOTHING)
                for one in names
            ],
            next_cursor=str(following) if following < len(TOOLS) or self._is_endless else None,
        )

    async def _call(self, context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        arguments = params.arguments or {}
        if context.request is not None:
            self.queries.append(context.request.url.query)
            self.authorizations.append(context.request.headers.get("authorization", ""))
        match params.name:
            case "add":
                return _said(str(arguments["a"] + arguments["b"]))
            case "say_lines":
                return _said("one", "two")
            case "measure":
                return types.CallToolResult(content=[], structured_content={"celsius": 21.5, "room": "Küche"})
            case "show":
                return _shown()
            case "nothing":
                return types.CallToolResult(content=[])
            case "refuse":
                return types.CallToolResult(content=_said("The lamp is broken.").content, is_error=True)
            case "break":
                raise MCPError(code=-32000, message="out of order")
            case "betray":
                return types.CallToolResult(content=_said(f"Wrong token: {_secret(context)}").content, is_error=True)
            case "get_pid":
                return _said(str(os.getpid()))
            case "die":
                os._exit(3)
            case "hang":
                return await self._hang()
            case _:
                return _said(f"called {params.name}")

    async def _hang(self) -> types.CallToolResult:
        self.hanging.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.given_up.set()
        raise AssertionError("the event is never set")


async def _not_found(context: Any, params: Any) -> types.EmptyResult:
    raise MCPError(code=types.METHOD_NOT_FOUND, message="Method not found")


def _said(*lines: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=line) for line in lines])


def _shown() -> types.CallToolResult:
    return types.CallToolResult(
        content=[
            types.ImageContent(data=_PIXEL, mime_type="image/png"),
            types.ResourceLink(name="plan", uri="house://plan"),
            types.EmbeddedResource(
                resource=types.TextResourceContents(uri="house://note", mime_type="text/plain", text="Buy bread.")
            ),
            types.EmbeddedResource(resource=types.BlobResourceContents(uri="house://photo", blob=_PIXEL)),
            types.AudioContent(data="UklGRg==", mime_type="audio/wav"),
        ]
    )


def _secret(context: Any) -> str:
    """Return the secret that must not be shown anywhere: the header, or the environment variable."""
    if context.request is not None:
        return str(context.request.headers.get("authorization", ""))
    return os.environ.get("HOUSE_TOKEN", "")


def _guarded(app: Any, token: str) -> Any:
    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and token and dict(scope["headers"]).get(b"authorization") != token.encode():
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b"no"})
        else:
            await app(scope, receive, send)

    return guarded


@asynccontextmanager
async def over_http(house: House, *, port: int = 0) -> AsyncIterator[int]:
    """Serve on loopback at ``/mcp``; calls still open on exit are cut off.

    Yields:
        The port.
    """
    app = _guarded(house.server.streamable_http_app(), house.token)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        config = uvicorn.Config(app, log_config=None, access_log=False, ws="none", timeout_graceful_shutdown=0)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await serving


async def _serve_stdio() -> None:
    house = House()
    async with stdio_server() as (read, write):
        await house.server.run(read, write, house.server.create_initialization_options())


if __name__ == "__main__":
    asyncio.run(_serve_stdio())
