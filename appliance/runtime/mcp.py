"""MCP servers that the appliance calls itself: a local program, or a server over HTTP. See `agents.mcp_servers`.

Theory of operation: the `mcp` package keeps its connection in context managers that one task must enter and exit. So
each server has an owner, an asyncio task that enters them, answers `connect`, waits, and exits them when `close` is
called or the server is lost. Tool calls use the owner's client from the caller's task: requests may overlap, and
cancelling a caller cancels its request at the server.

States: *not connected* → ``connect()`` → *connected* → ``close()`` → *not connected*; a connection that breaks
leaves the server *lost*. The next call reconnects a lost HTTP server; only ``connect()`` restarts a program that died.

`mcp` is imported when the first server connects.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import math
import re
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qsl, unquote

from appliance.agents.mcp_servers import check_names, public_address, split_address
from appliance.agents.tools import TOOL_NAME, Tool
from appliance.errors import LinkError, ToolError
from appliance.plugins import version
from appliance.runtime.line_pipe import line_pipe
from appliance.safe_text import Secrets, mapped, redact

if TYPE_CHECKING:
    import anyio
    import httpx2
    from mcp import Client
    from mcp.client import Transport
    from mcp_types import CallToolResult, ContentBlock
    from mcp_types import Tool as ListedTool

__all__ = ["McpServerHttp", "McpServerStdio", "mcp_server"]

log = logging.getLogger(__name__)

_LONGEST_NAME = 64  # characters; Realtime API, a function's name
_SSE_READ_S = 300.0  # as in the mcp package: a server may be silent on an open stream for this long
_LONGEST_LEAVE_S = 10.0  # more than a hanging program takes: 0.5 s to close its input, 2 s to exit, 2 s to be killed
_GONE = "the server closed the connection"
_FORGOTTEN = "the server no longer knows the session"
# Messages of the mcp package; its codes are ambiguous, servers use -32000 for anything.
_CLOSED = "Connection closed"
_REFUSED = "Server returned an error response"

NeedsApproval = bool | Sequence[str]


class _Server(ABC):
    """Base class of both servers: everything but the transport."""

    _is_connected_again: ClassVar[bool]
    """Whether the next call after a loss tries once to reconnect."""

    def __init__(
        self,
        name: str,
        *,
        place: str,
        secrets: Secrets,
        allowed_tools: Sequence[str],
        needs_approval: NeedsApproval,
        timeout_s: float,
    ) -> None:
        if not name.strip():
            raise ToolError("an MCP server has no name: give it one, its errors mention it")
        if not timeout_s > 0:
            raise ToolError(f"MCP server {name!r}: timeout_s is {timeout_s}; it must be more than 0 seconds")
        check_names(f"MCP server {name!r}", "allowed_tools", allowed_tools)
        if not isinstance(needs_approval, bool):
            check_names(f"MCP server {name!r}", "needs_approval", needs_approval)
        self.name = name
        self.timeout_s = timeout_s
        self._place = place
        self._secrets = secrets
        self._allowed = tuple(allowed_tools)
        self._all_need_approval = needs_approval is True
        self._needing_approval = () if isinstance(needs_approval, bool) else tuple(needs_approval)
        self._one_at_a_time = asyncio.Lock()
        self._owner: asyncio.Task[None] | None = None
        self._scope: anyio.CancelScope | None = None
        self._leave: asyncio.Future[str] | None = None
        self._client: Client | None = None
        self._loss = ""
        self._status = ""
        """Status of the last HTTP error response."""
        self._is_session_over = False

    def __repr__(self) -> str:
        state = "connected" if self._client is not None else "lost" if self._loss else "not connected"
        return f"<{type(self).__name__} {self.name!r}: {self._place}, {state}>"

    @abstractmethod
    async def _transport(self, stack: AsyncExitStack) -> Transport:
        """Create the transport; push anything to close afterwards on the stack."""

    # --- the connection -----------------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Connect to the server and do the handshake; a no-op if connected.

        A program that hangs gets 4 s beyond `timeout_s` to exit before it is killed.

        Raises:
            LinkError: Connecting failed, or took longer than `timeout_s`.
            ToolError: The `mcp` package is not installed.
        """
        async with self._one_at_a_time:
            if self._client is None:
                await self._open()

    async def close(self) -> None:
        """Disconnect, and end the server if it is a program; idempotent, from any task of the loop."""
        self._loss = ""
        await self._end_owner()

    async def _open(self) -> None:
        await asyncio.to_thread(self.check_package)
        await self._end_owner()
        import anyio

        loop = asyncio.get_running_loop()
        reached: asyncio.Future[str] = loop.create_future()
        leave: asyncio.Future[str] = loop.create_future()
        scope = anyio.CancelScope(deadline=anyio.current_time() + self.timeout_s)
        self._leave, self._scope = leave, scope
        self._owner = asyncio.create_task(self._own(scope, reached, leave), name=f"MCP server {self.name}")
        try:
            problem = await reached
        except asyncio.CancelledError:
            await self._end_owner()
            raise
        if problem:
            raise LinkError(f"MCP server {self.name!r} ({self._place}) cannot be connected: {problem}")

    def check_package(self) -> None:
        """Import the package that connects to servers, which is large.

        Raises:
            ToolError: It is missing or too old.
        """
        try:
            importlib.import_module("mcp").Client  # noqa: B018 - absent in version 1
        except (ImportError, AttributeError):
            raise ToolError(
                f"MCP server {self.name!r} needs the package mcp 2: pip install 'voice-appliance[mcp]'"
            ) from None

    async def _end_owner(self) -> None:
        owner, self._owner = self._owner, None
        leave, self._leave = self._leave, None
        scope, self._scope = self._scope, None
        if owner is None or leave is None or scope is None:
            return
        is_connecting = self._client is None and not leave.done()
        self._client = None
        _settle(leave, "")
        if is_connecting:
            scope.cancel()
        await asyncio.wait([owner])

    async def _own(self, scope: anyio.CancelScope, reached: asyncio.Future[str], leave: asyncio.Future[str]) -> None:
        """Own the connection from start to end; all context managers are entered and exited here.

        Args:
            scope: Encloses everything; its deadline limits the handshake. An asyncio timeout would also interrupt the
                shutdown of a program, which mcp shields from anyio's cancellation only.
            reached: Set to "" when the server is connected, or to the reason why it is not.
            leave: Set to "" to end the connection, or to the reason of a loss.
        """
        from mcp import Client, Implementation

        information = Implementation(name="voice-appliance", version=version())
        problem, loss, is_connected = "", "", False
        try:
            with scope:
                async with AsyncExitStack() as stack:
                    transport = await self._transport(stack)
                    client = await stack.enter_async_context(Client(transport, client_info=information, cache=None))
                    scope.deadline = math.inf
                    is_connected, self._client, self._loss, self._is_session_over = True, client, "", False
                    _settle(reached, "")
                    await asyncio.wait([leave])
                    loss = leave.result()
                    scope.deadline = asyncio.get_running_loop().time() + _LONGEST_LEAVE_S
        except Exception as exc:  # noqa: BLE001 - any error of a transport affects this server only
            problem = self._reason(exc)
            if is_connected and (loss or not leave.done() or leave.result()):
                loss = problem
        finally:
            if loss:
                log.warning("MCP server %s was lost: %s", self.name, loss)
            if self._owner is asyncio.current_task():  # otherwise it was closed or reconnected
                self._client = None
                self._loss = loss or self._loss  # after a failed reconnect the server is still lost
            silence = "it was closed meanwhile" if leave.done() else f"no answer in {self.timeout_s:g} s"
            _settle(reached, problem or silence)

    async def _reached(self) -> Client:
        """Return the client.

        Raises:
            LinkError: There is no connection.
        """
        if self._loss and self._is_connected_again:
            async with self._one_at_a_time:
                if self._loss and self._client is None:
                    await self._open()
        if self._client is None:
            why = f"it was lost: {self._loss}" if self._loss else "connect() comes first"
            raise LinkError(f"MCP server {self.name!r} ({self._place}) is not connected: {why}")
        return self._client

    # --- its tools ----------------------------------------------------------------------------------------------

    async def list_tools(self) -> list[Tool]:
        """Request and return the server's tools; only those in `allowed_tools`, if it is not empty.

        A name that is not legal for a model is changed: characters other than a-z, A-Z, 0-9, "_" and "-" become "_".

        Raises:
            LinkError: The server is not connected, was lost, or did not answer within `timeout_s`.
            ToolError: `needs_approval` names a tool that the server does not have.
        """
        client = await self._reached()
        limit = asyncio.timeout(self.timeout_s)
        problem = ""
        try:
            async with limit:
                listed = await _all_pages(client)
        except Exception as exc:  # noqa: BLE001 - any error means that there is no list
            problem = f"no answer in {self.timeout_s:g} s" if limit.expired() else self._heard(client, exc)
        if problem:
            raise LinkError(f"MCP server {self.name!r} ({self._place}) did not list its tools: {problem}")
        self._check_listed([one.name for one in listed])
        wanted = [one for one in listed if not self._allowed or one.name in self._allowed]
        names = _legal_names([one.name for one in wanted])
        return [self._tool(name, one) for name, one in zip(names, wanted, strict=True)]

    def _check_listed(self, names: Sequence[str]) -> None:
        if absent := sorted(set(self._allowed) - set(names)):
            log.warning("MCP server %s: allowed_tools names unknown tools: %s", self.name, ", ".join(absent))
        # Raise, do not warn: because of a typo here a tool would run without approval.
        if unknown := sorted(set(self._needing_approval) - set(names)):
            raise ToolError(
                f"MCP server {self.name!r}: needs_approval names {', '.join(unknown)}; "
                f"it has the tools {', '.join(names) or 'none'}"
            )

    def _tool(self, name: str, listed: ListedTool) -> Tool:
        async def call(**arguments: Any) -> str:
            return await self._call(listed.name, arguments)

        return Tool(
            name=name,
            description=redact(listed.description or listed.title or "", shapes=False),
            parameters=mapped(listed.input_schema, redact),
            function=call,
            needs_approval=self._all_need_approval or listed.name in self._needing_approval,
            timeout_s=self.timeout_s,
        )

    async def _call(self, name: str, arguments: dict[str, Any]) -> str:
        """Call one tool; `Tool.timeout_s` limits the call.

        Raises:
            ToolError: The call failed; the message is for the model.
        """
        try:
            client = await self._reached()
        except LinkError as exc:
            raise ToolError(f"{name} cannot be called now: {exc}") from None
        problem = ""
        try:
            result = await client.call_tool(name, arguments)
        except Exception as exc:  # noqa: BLE001 - no error of a server may end the session
            problem = self._heard(client, exc)
        if problem:  # outside of `except`, so that no context holds the server's text
            raise ToolError(f"{name} of the MCP server {self.name!r} failed: {problem}")
        text = _text(result)
        if result.is_error:
            raise ToolError(self._secrets.redact(text) or f"{name} of the MCP server {self.name!r} failed")
        return redact(text, shapes=False) or "(no output)"

    def _heard(self, client: Client, exc: Exception) -> str:
        """Return why a request failed; if the connection is gone, make the owner exit, which logs the cause."""
        if client is self._client and (_is_closed(exc) or self._is_session_over):
            self._client, self._loss = None, _FORGOTTEN if self._is_session_over else _GONE
            if self._leave is not None:
                _settle(self._leave, self._loss)
        return self._reason(exc)

    # --- messages -----------------------------------------------------------------------------------------------

    def _reason(self, exc: BaseException) -> str:
        """Return an error as one line without secrets; for a group, the first that is not a closed connection."""
        from mcp import MCPError

        leaves = list(_leaves(exc))
        cause = next((one for one in leaves if not _is_closed(one)), leaves[0])
        if _is_closed(cause):
            return _GONE
        text = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
        line = " ".join(text.split()) or "no reason given"
        if line == _REFUSED and self._status:
            line = self._status
        is_for_people = isinstance(cause, (MCPError, LinkError))  # the server's message, or ours
        return self._secrets.redact(line if is_for_people else f"{type(cause).__name__}: {line}")


class McpServerStdio(_Server):
    """A program that speaks MCP over its standard input and output; started by `connect`, ended by `close`.

    It inherits only HOME, LOGNAME, PATH, SHELL, TERM and USER. The lines of its standard error are logged as INFO.

    Args:
        name: For errors and logs.
        command: The program.
        args: Its arguments; never shown.
        env: More environment variables; never shown.
        cwd: Its working directory; None keeps ours.
        allowed_tools: The server's tool names; empty allows all.
        needs_approval: Whether the user must approve all calls; or the server's names of the tools to approve.
        timeout_s: Longest wait for the start and handshake, for the tool list, and for each call.

    Raises:
        ToolError: A value is invalid.
    """

    _is_connected_again = False

    def __init__(
        self,
        name: str,
        command: str,
        args: Sequence[str] = (),
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        allowed_tools: Sequence[str] = (),
        needs_approval: NeedsApproval = False,
        timeout_s: float = 15.0,
    ) -> None:
        if not command.strip():
            raise ToolError(f"MCP server {name!r} has no command: name the program to start")
        check_names(f"MCP server {name!r}", "args", args)
        secrets = Secrets()
        secrets.add_named((env or {}).items())
        super().__init__(
            name,
            place=command,
            secrets=secrets,
            allowed_tools=allowed_tools,
            needs_approval=needs_approval,
            timeout_s=timeout_s,
        )
        self._command = command
        self._args = list(args)
        self._env = dict(env or {})
        self._cwd = cwd

    async def _transport(self, stack: AsyncExitStack) -> Transport:
        from mcp.client.stdio import StdioServerParameters, stdio_client

        program = StdioServerParameters(command=self._command, args=self._args, env=self._env, cwd=self._cwd)
        return stdio_client(program, errlog=stack.enter_context(line_pipe(self._log_line)))

    def _log_line(self, line: str) -> None:
        log.info("MCP server %s: %s", self.name, self._secrets.redact(line))


class McpServerHttp(_Server):
    """A server that speaks MCP over streamable HTTP. The next call after a loss reconnects.

    Args:
        name: For errors and logs.
        url: The endpoint, often ending in ``/mcp``; user, password and query are sent, but never shown.
        headers: Sent with each request; never shown.
        allowed_tools: The server's tool names; empty allows all.
        needs_approval: Whether the user must approve all calls; or the server's names of the tools to approve.
        timeout_s: Longest wait for the connection and handshake, for the tool list, and for each call.

    Raises:
        ToolError: A value is invalid.
    """

    _is_connected_again = True

    def __init__(
        self,
        name: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        allowed_tools: Sequence[str] = (),
        needs_approval: NeedsApproval = False,
        timeout_s: float = 15.0,
    ) -> None:
        parts = split_address(url)
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            raise ToolError(
                f"MCP server {name!r}: url is {public_address(url)!r}; it must start with http:// or https://"
            )
        for key, value in (headers or {}).items():
            if not (key + value).isascii() or not (key + value).isprintable():
                raise ToolError(f"MCP server {name!r}: header {key!r} has a character that HTTP does not allow")
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        basic = b64encode(f"{user}:{password}".encode()).decode()
        encoded = [(name, value) for name, _, value in (part.partition("=") for part in parts.query.split("&"))]
        of_url = [("user", user), ("password", password), ("authorization", basic), ("query", parts.query)]
        secrets = Secrets()
        secrets.add_named([*(headers or {}).items(), *of_url, *encoded, *parse_qsl(parts.query)])
        super().__init__(
            name,
            place=public_address(url),
            secrets=secrets,
            allowed_tools=allowed_tools,
            needs_approval=needs_approval,
            timeout_s=timeout_s,
        )
        self._headers = dict(headers or {})
        self._user = (user, password) if user or password else None
        self._query = parts.query

    async def _transport(self, stack: AsyncExitStack) -> Transport:
        import httpx2
        from mcp.client.streamable_http import streamable_http_client

        # The libraries log the URL of each request, so user and query are added below their logging.
        client = httpx2.AsyncClient(
            headers=self._headers,
            auth=self._user,
            transport=_querying(self._query) if self._query else None,
            timeout=httpx2.Timeout(self.timeout_s, read=max(_SSE_READ_S, self.timeout_s)),
            event_hooks={"response": [self._note_status]},
        )
        return streamable_http_client(self._place, http_client=await stack.enter_async_context(client))

    async def _note_status(self, response: httpx2.Response) -> None:
        """Record the status, which the mcp package leaves out of its errors."""
        if response.is_error:
            self._status = f"HTTP status {response.status_code} {response.reason_phrase}".strip()
        # MCP, streamable HTTP, session management: the server asks for a new session.
        request = response.request
        if response.status_code == 404 and request.method == "POST" and "mcp-session-id" in request.headers:
            self._is_session_over = True


def mcp_server(name: str, *, command: str = "", url: str = "", **options: Any) -> McpServerStdio | McpServerHttp:
    """Make a server by what is given of it: a program of `command`, else one over HTTP at `url`.

    Raises:
        ToolError: A value is impossible.
    """
    return McpServerStdio(name, command, **options) if command else McpServerHttp(name, url, **options)


def _querying(query: str) -> httpx2.AsyncBaseTransport:
    """Return a transport that adds a query to each request, below the layer that logs requests."""
    import httpx2

    class Querying(httpx2.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            own = request.url.query.decode("ascii")
            url = request.url.copy_with(query="&".join(filter(None, (query, own))).encode("ascii"))
            return await super().handle_async_request(
                httpx2.Request(
                    request.method, url, headers=request.headers, stream=request.stream, extensions=request.extensions
                )
            )

    return Querying()


async def _all_pages(client: Client) -> list[ListedTool]:
    """Return the tools of all pages of the list.

    Raises:
        LinkError: The server repeats a page, so the list would never end.
    """
    page = await client.list_tools()
    tools, seen = list(page.tools), set[str]()
    while page.next_cursor:
        if page.next_cursor in seen:
            raise LinkError("the list never ends: the server repeats a page")
        seen.add(page.next_cursor)
        page = await client.list_tools(cursor=page.next_cursor)
        tools += page.tools
    return tools


def _legal_names(names: Sequence[str]) -> list[str]:
    """Return the names with illegal ones replaced by unique legal ones; legal names are unchanged."""
    taken = {name for name in names if TOOL_NAME.fullmatch(name)}
    return [name if name in taken else _legal(name, taken) for name in names]


def _legal(name: str, taken: set[str]) -> str:
    stem = re.sub(r"[^a-zA-Z0-9_-]", "_", name) or "tool"
    legal, number = stem[:_LONGEST_NAME], 1
    while legal in taken:
        number += 1
        legal = f"{stem[: _LONGEST_NAME - len(str(number)) - 1]}_{number}"
    taken.add(legal)
    return legal


def _text(result: CallToolResult) -> str:
    has_text = any(one.type == "text" for one in result.content)
    lines = [_line(one) for one in result.content]
    if not has_text and result.structured_content is not None:
        lines.insert(0, json.dumps(result.structured_content, ensure_ascii=False, separators=(",", ":")))
    return "\n".join(lines)


def _line(part: ContentBlock) -> str:
    from mcp_types import TextResourceContents

    if part.type == "text":
        return part.text
    if part.type == "resource":
        inner = part.resource
        note = f"[resource {inner.uri}, {inner.mime_type or 'type unknown'}]"
        return f"{note}\n{inner.text}" if isinstance(inner, TextResourceContents) else note
    if part.type == "resource_link":
        return f"[resource {part.uri}, {part.mime_type or 'type unknown'}]"
    return f"[{part.type}, {part.mime_type}]"


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        for one in exc.exceptions:
            yield from _leaves(one)
    else:
        yield exc


def _is_closed(exc: BaseException) -> bool:
    from mcp import MCPError
    from mcp_types import CONNECTION_CLOSED

    return isinstance(exc, MCPError) and exc.code == CONNECTION_CLOSED and exc.message == _CLOSED


def _settle(future: asyncio.Future[str], value: str) -> None:
    if not future.done():
        future.set_result(value)
