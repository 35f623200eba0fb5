"""`AgentRuntime`: all agents of a session, and everything that calls application code for them.

It owns the tool runner, the agent preparer, the hooks, the out-of-band questions and the connections to MCP servers.
Both the daemon and `RealtimeSession` use it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, TypeAlias

from appliance.agents.agent import RealtimeAgent, agents_of
from appliance.agents.context import ASK_TIMEOUT_S, RunContext
from appliance.agents.guardrails import OutputGuardrail
from appliance.agents.hooks import RealtimeAgentHooks, RealtimeRunHooks
from appliance.agents.mcp_servers import HostedMcp, McpServer
from appliance.agents.spec import AgentSpec
from appliance.agents.tools import Tool
from appliance.conversation.commands import Command, Emit
from appliance.conversation.events import AgentReplaced, Event, OutOfBandAsked
from appliance.conversation.notices import (
    AgentEnd,
    AgentStart,
    AgentUpdateEnded,
    HandoffDone,
    OutOfBandEnded,
    ToolEnd,
    ToolStart,
)
from appliance.errors import LinkError, SettingsError, ToolError, did_you_mean, first_error
from appliance.realtime.items import HistoryItem
from appliance.realtime.payload import RealtimeSessionSettings
from appliance.runtime.agent_preparer import AgentPreparer, Compose
from appliance.runtime.agent_tool import ask_agent
from appliance.runtime.tool_runner import ToolRunner
from appliance.wording import Wording

__all__ = ["AgentRuntime", "Asker", "check_agent", "check_json"]

log = logging.getLogger(__name__)

HookedNotice: TypeAlias = AgentStart | AgentEnd | HandoffDone | ToolStart | ToolEnd

_START_S = 10.0  # how long the start waits for optional MCP servers; from a slow card, the import takes seconds
_RETRY_S = 2.0
_LONGEST_RETRY_S = 60.0

_USES: dict[int, int] = {}
"""Number of sessions that use an MCP server, by its ``id``: the last session closes it."""


def check_json(value: Mapping[str, Any], where: str) -> None:
    """Refuse an object that cannot be sent.

    Raises:
        SettingsError: JSON cannot express `value`.
    """
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as exc:
        raise SettingsError(f"{where}: cannot be written as JSON: {exc}") from None


def check_agent(agent: RealtimeAgent, settings: RealtimeSessionSettings) -> None:
    """Refuse an agent that cannot work with these settings.

    Raises:
        SettingsError: Its input guardrails need a transcription, and a server that does not answer by itself; or
            `tool_choice` names a tool that it does not have.
    """
    _check_guardrails(agent, settings)
    choice = settings.tool_choice
    if not isinstance(choice, Mapping):
        return
    if choice["type"] == "mcp":
        wanted, what = choice["server_label"], "hosted MCP server"
        known = [one.server_label for one in agent.mcp_servers if isinstance(one, HostedMcp)]
    elif any(not isinstance(one, HostedMcp) for one in agent.mcp_servers):
        return  # its tools are known after it is connected
    else:
        wanted, what = choice["name"], "tool"
        known = [*(one.name for one in agent.tools), *(one.tool_name for one in agent.transfers())]
    if wanted not in known:
        meant = did_you_mean(wanted, known) or f"; there are: {', '.join(known) or 'none'}"
        raise SettingsError(
            f"tool_choice: the agent {agent.name!r} has no {what} {wanted!r}{meant}; "
            "set tool_choice in the settings of the agents that have it"
        )


def _check_guardrails(agent: RealtimeAgent, settings: RealtimeSessionSettings) -> None:
    if not agent.input_guardrails:
        return
    if settings.transcription is None:
        raise SettingsError(
            f"agent {agent.name!r} has input guardrails, but the user's speech is not transcribed: "
            "set transcription in the session's settings (on the device: assistant.transcription_model)"
        )
    detection = settings.turn_detection
    if (
        detection.get("create_response", True)
        if isinstance(detection, Mapping)
        else getattr(detection, "create_response", False)
    ):
        raise SettingsError(
            f"agent {agent.name!r} has input guardrails, but the server answers by itself: "
            "set create_response=False in turn_detection"
        )


class Asker:
    """Asks the model outside the conversation; an `AskAside` for tools, programs and `as_tool`."""

    def __init__(self, post: Callable[[Event], None]) -> None:
        self._post = post
        self._numbers = itertools.count(1)
        self._waiting: dict[str, asyncio.Future[OutOfBandEnded]] = {}

    async def __call__(
        self,
        text: str,
        *,
        instructions: str = "",
        tools: Sequence[Mapping[str, Any]] = (),
        items: Sequence[Mapping[str, Any]] = (),
        sees_history: bool = False,
        timeout_s: float = ASK_TIMEOUT_S,
    ) -> Sequence[HistoryItem]:
        """Return the items of the answer.

        Args:
            text: The question; may be empty if there are `items`.
            instructions: Replace the session's; "" keeps those.
            tools: Replace the session's.
            items: Wire items that replace `text` as the model's whole input.
            sees_history: Let the model see the conversation; `text` then goes into its instructions.
            timeout_s: Longest wait.

        Raises:
            LinkError: There is no connection, or the model did not answer in time.
            SessionNotOpen: The session is not open, or this is another thread.
        """
        response: dict[str, Any] = {"output_modalities": ["text"], "tools": [dict(one) for one in tools]}
        if sees_history:
            response["instructions"] = "\n\n".join(one for one in (instructions, text) if one)
        else:
            question = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
            response["input"] = [dict(one) for one in items] or [question]
            if instructions:
                response["instructions"] = instructions
        return await self.ask(response, timeout_s=timeout_s)

    async def ask(self, response: Mapping[str, Any], *, timeout_s: float = ASK_TIMEOUT_S) -> Sequence[HistoryItem]:
        """Ask with a ``response`` object of the Realtime API, sent unchanged.

        Raises:
            LinkError: There is no connection, or the model did not answer in time.
            SessionNotOpen: The session is not open, or this is another thread.
        """
        check_json(response, "ask")
        key = f"ask_{next(self._numbers)}"
        waiting = self._waiting[key] = asyncio.get_running_loop().create_future()
        try:
            self._post(OutOfBandAsked(key, response, timeout_s))
            ended: OutOfBandEnded = await waiting
        finally:
            del self._waiting[key]
        if ended.problem:
            raise LinkError(f"the out-of-band question was not answered: {ended.problem}")
        return ended.items

    def end(self, problem: str) -> None:
        """Fail every open question with `problem`."""
        for key in list(self._waiting):
            self.take(OutOfBandEnded(key, (), problem))

    def take(self, ended: OutOfBandEnded) -> None:
        waiting = self._waiting.get(ended.key)
        if waiting is not None and not waiting.done():
            waiting.set_result(ended)


class AgentRuntime:
    """The agents that can be reached from the first one, and the tasks that run for them.

    Args:
        start: The first agent.
        compose: See `AgentPreparer`.
        post: Takes the events; called on the loop's thread.
        context: The application's object, passed to every function.
        hooks: Hooks of the whole session.
        output_guardrails: See `AgentPreparer`.
        wording: Words the failures of calls; None for English.
        history: Returns the conversation at the time of the call.
        are_guardrails_parallel: See `AgentPreparer`.
        guardrail_s: How long the conversation waits for a check.
        are_servers_needed: Whether an MCP server that cannot be reached is an error. If not, the agents start without
            its tools; it is retried, and its tools are offered from the next turn on.

    Raises:
        ToolError: Two agents, or two tools of one agent, have the same name.
    """

    def __init__(
        self,
        start: RealtimeAgent,
        *,
        compose: Compose,
        post: Callable[[Event], None],
        context: Any = None,
        hooks: RealtimeRunHooks | None = None,
        output_guardrails: Sequence[OutputGuardrail] = (),
        wording: Wording | None = None,
        history: Callable[[], Sequence[HistoryItem]] = tuple,
        are_guardrails_parallel: bool = True,
        guardrail_s: float,
        are_servers_needed: bool = True,
    ) -> None:
        self.agents = agents_of(start)
        self._context = context
        self._history = history
        self._hooks = hooks or RealtimeRunHooks()
        self._are_servers_needed = are_servers_needed
        self._mcp_tools: dict[int, list[Tool]] = {}
        self._absent: dict[int, McpServer] = {}
        self._open = AsyncExitStack()
        self._post = post
        self._updating = asyncio.Lock()
        self._update_numbers = itertools.count(1)
        self._updates: dict[str, tuple[Mapping[str, RealtimeAgent], asyncio.Future[AgentUpdateEnded]]] = {}
        """The agents and the answer of the updates that the server has not answered, by key."""
        self._calls: asyncio.Queue[HookedNotice] = asyncio.Queue()
        self.ask = Asker(post)
        self.tools = ToolRunner(
            self.agents,
            post=post,
            context=context,
            history=history,
            ask=self.ask,
            ask_agent=ask_agent,
            extra_tools=lambda name: self._extra(self.agents[name]),
            wording=wording,
        )
        self.preparer = AgentPreparer(
            self.agents,
            compose=compose,
            post=post,
            context=context,
            history=history,
            extra_tools=self._extra,
            is_incomplete=self._is_incomplete,
            output_guardrails=output_guardrails,
            is_parallel=are_guardrails_parallel,
            timeout_s=max(15.0, guardrail_s),
            wording=wording,
        )

    async def __aenter__(self) -> AgentRuntime:
        """Connect the MCP servers.

        Raises:
            LinkError: A server that is needed cannot be reached.
            ToolError: The `mcp` extra is missing, or a server's tool has the same name as another tool of the agent.
        """
        servers = _called_servers(self.agents)
        async with AsyncExitStack() as stack:
            for one in servers:
                self._use(one, stack)
                if self._are_servers_needed:
                    await self._join(one, self.agents)
            if not self._are_servers_needed:
                with first_error():
                    async with asyncio.TaskGroup() as group:
                        for one in servers:
                            group.create_task(self._join_or_wait(one), name=f"MCP server {one.name}")
            self._open = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.aclose()

    async def update_agent(self, agents: Mapping[str, RealtimeAgent]) -> None:
        """Make another agent the active one, once the server has accepted it; one caller after another.

        Args:
            agents: The agents that can be reached from the new one, by name, the new one first. Once it is active,
                they replace known agents with the same names; the others stay known, for their open calls.

        Raises:
            LinkError: One of their MCP servers cannot be reached, or the server refuses the agent.
            ToolError: An MCP server's tool has the same name as another tool of the agent.
            SessionNotOpen: The session is not open.
            Exception: Anything that the agent's instructions raise.
        """
        async with self._updating:
            async with AsyncExitStack() as stack:
                for one in _called_servers(agents):
                    if id(one) in self._mcp_tools:
                        self._check_names(one, self._mcp_tools[id(one)], agents)
                    else:
                        self._use(one, stack)
                        await self._join(one, agents)
                spec = await self.preparer.spec(next(iter(agents.values())))
                key = str(next(self._update_numbers))
                self._post(AgentReplaced(key, spec))
                self._open.push_async_callback(stack.pop_all().aclose)
            waiting = asyncio.get_running_loop().create_future()
            self._updates[key] = (agents, waiting)
            ended: AgentUpdateEnded = await waiting
            if ended.problem:
                raise LinkError(f"the agent {spec.agent!r} was not made the active one: {ended.problem}")

    def end(self, problem: str) -> None:
        """Fail every open question, and the updates that wait."""
        self.ask.end(problem)
        for key in list(self._updates):
            self._end_update(AgentUpdateEnded(key, problem))

    def _end_update(self, ended: AgentUpdateEnded) -> None:
        if ended.key not in self._updates:
            return
        agents, waiting = self._updates.pop(ended.key)
        if not ended.problem:
            self.agents.update(agents)
        if not waiting.done():  # else its caller was cancelled
            waiting.set_result(ended)

    def _use(self, server: McpServer, stack: AsyncExitStack) -> None:
        _USES[id(server)] = _USES.get(id(server), 0) + 1
        stack.push_async_callback(self._leave, server)

    async def _leave(self, server: McpServer) -> None:
        self._mcp_tools.pop(id(server), None)
        _USES[id(server)] -= 1
        if _USES[id(server)] == 0:
            del _USES[id(server)]
            await server.close()

    async def _join(self, server: McpServer, agents: Mapping[str, RealtimeAgent]) -> None:
        """Connect a server, and add its tools to the `agents` that list it.

        Raises:
            LinkError: It cannot be reached.
            ToolError: See `__aenter__`.
        """
        await server.connect()
        tools = list(await server.list_tools())
        self._check_names(server, tools, agents)
        self._mcp_tools[id(server)] = tools

    def _check_names(self, server: McpServer, tools: Sequence[Tool], agents: Mapping[str, RealtimeAgent]) -> None:
        for agent in agents.values():
            if any(one is server for one in agent.mcp_servers):
                others = [one for one in self._extra(agent) if one not in tools]
                names = [one.name for one in (*agent.tools, *others, *tools)]
                names += [one.tool_name for one in agent.transfers()]
                if twice := next((one for one in names if names.count(one) > 1), ""):
                    raise ToolError(
                        f"agent {agent.name!r}: the MCP server {server.name!r} has a tool {twice!r}, and so has "
                        "another: leave it out by allowed_tools"
                    )

    async def _join_or_wait(self, server: McpServer) -> None:
        try:
            async with asyncio.timeout(_START_S):
                await self._join(server, self.agents)
        except OSError as exc:  # a LinkError, or the error of a server of the user's own
            why = str(exc) or f"MCP server {server.name!r} has not answered in {_START_S:g} s"
            log.warning("%s; starting without its tools, and trying again", why)
            self._absent[id(server)] = server

    async def _join_later(self, server: McpServer) -> None:
        """Retry with backoff until the server connects, or its configuration turns out to be wrong."""
        pause_s = _RETRY_S
        while id(server) in self._absent:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_RETRY_S)
            try:
                await self._join(server, self.agents)
                del self._absent[id(server)]
                log.info("MCP server %s: connected; its tools are offered from the next turn on", server.name)
            except OSError as exc:
                log.debug("%s; trying again in %g s", exc, pause_s)
            except ToolError as exc:
                del self._absent[id(server)]
                log.error("%s; its tools are not offered", exc)

    def _is_incomplete(self, agent: RealtimeAgent) -> bool:
        """Whether tools of an agent are still to come."""
        return any(id(one) in self._absent for one in agent.mcp_servers)

    def _extra(self, agent: RealtimeAgent) -> Sequence[Tool]:
        return [tool for one in agent.mcp_servers for tool in self._mcp_tools.get(id(one), ())]

    async def specs(self) -> list[AgentSpec]:
        """Return the specs that the conversation starts with: the first agent's.

        Raises:
            ToolError: Its instructions are not a string, or took longer than the preparer's limit.
        """
        return [await self.preparer.spec(next(iter(self.agents.values())))]

    def tool(self, agent: str, name: str) -> Tool | None:
        """Return a tool of an agent; None for handoffs, unknown tools and tools of hosted MCP servers."""
        found = self.agents.get(agent)
        tools = (*found.tools, *self._extra(found)) if found is not None else ()
        return next((one for one in tools if one.name == name), None)

    # --- hooks and answers --------------------------------------------------------------------------------------

    def observe(self, now: float, event: Event, commands: Sequence[Command], view: object) -> None:
        """Resolve answered questions and queue the hooks; an `Observer` of the driver."""
        for command in commands:
            if not isinstance(command, Emit):
                continue
            if isinstance(command.notice, OutOfBandEnded):
                self.ask.take(command.notice)
            elif isinstance(command.notice, AgentUpdateEnded):
                self._end_update(command.notice)
            elif isinstance(command.notice, (AgentStart, AgentEnd, HandoffDone, ToolStart, ToolEnd)):
                self._calls.put_nowait(command.notice)

    async def run(self) -> None:
        """Own the tools, the questions and the hooks until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.tools.run(), name="tools")
            group.create_task(self.preparer.run(), name="preparer")
            group.create_task(self._run_hooks(), name="hooks")
            for server in self._absent.values():
                group.create_task(self._join_later(server), name=f"MCP server {server.name}")

    async def hooks_are_done(self) -> None:
        """Wait until the hooks of all events so far have returned."""
        await self._calls.join()

    async def _run_hooks(self) -> None:
        own = asyncio.current_task()
        assert own is not None
        while not own.cancelling():  # also if a hook swallowed our cancellation
            notice = await self._calls.get()
            try:
                await self._call_hooks(notice)
            except asyncio.CancelledError:
                if own.cancelling():
                    raise
                log.warning("a hook was cancelled from within at %s", type(notice).__name__)
            except Exception:  # application code: log its failure and continue
                log.exception("a hook failed at %s", type(notice).__name__)
            finally:
                self._calls.task_done()

    async def _call_hooks(self, notice: HookedNotice) -> None:
        name = notice.to_agent if isinstance(notice, HandoffDone) else notice.agent
        agent = self.agents[name]
        context = RunContext(context=self._context, agent=agent, history=self._history())
        own = agent.hooks or RealtimeAgentHooks()
        match notice:
            case AgentStart():
                await self._hooks.on_agent_start(context, agent)
                await own.on_start(context, agent)
            case AgentEnd(output=output):
                await self._hooks.on_agent_end(context, agent, output)
                await own.on_end(context, agent, output)
            case HandoffDone():
                source = self.agents[notice.from_agent]
                await self._hooks.on_handoff(context, source, agent)
                await own.on_handoff(context, agent, source)
            case ToolStart() if (tool := self.tool(name, notice.name)) is not None:
                await self._hooks.on_tool_start(context, agent, tool)
                await own.on_tool_start(context, agent, tool)
            case ToolEnd(output=output) if (tool := self.tool(name, notice.name)) is not None:
                await self._hooks.on_tool_end(context, agent, tool, output)
                await own.on_tool_end(context, agent, tool, output)


def _called_servers(agents: Mapping[str, RealtimeAgent]) -> list[McpServer]:
    """Return the MCP servers of some agents that the appliance calls itself, each once."""
    used = (one for agent in agents.values() for one in agent.mcp_servers)
    return list({id(one): one for one in used if not isinstance(one, HostedMcp)}.values())
