"""MCP servers as a test starts and calls them."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from appliance.agents.tools import Tool
from appliance.runtime.mcp import McpServerHttp, McpServerStdio
from tests.support.mcp_server import PROGRAM

__all__ = ["TOKEN", "call", "program", "running"]


TOKEN = "hush-hush-42"


def program(**options: Any) -> McpServerStdio:
    return McpServerStdio("house", sys.executable, [str(PROGRAM)], **options)


@asynccontextmanager
async def running(server: McpServerStdio | McpServerHttp) -> AsyncIterator[dict[str, Tool]]:
    await server.connect()
    try:
        yield {one.name: one for one in await server.list_tools()}
    finally:
        await server.close()


async def call(tool: Tool, arguments: str = "{}") -> str:
    said = await tool.function(**tool.validate(arguments))
    assert isinstance(said, str)
    return said
