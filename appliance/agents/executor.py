"""Runs the model's tool calls: async tools on the loop, sync ones in a thread, each answered exactly once.

Whatever a tool does — raises, hangs, returns what JSON cannot hold — the model is told, and the session goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python

from appliance.agents.agent import RealtimeAgent
from appliance.agents.context import AskAside, HistoryItem, RunContext, ToolContext
from appliance.agents.tools import Background, Tool
from appliance.conversation.commands import CheckApproval, RunTool
from appliance.conversation.events import ApprovalChecked, Event, ToolFinished
from appliance.errors import ApplianceError, ToolError

__all__ = ["ToolExecutor", "called"]

log = logging.getLogger(__name__)

_LONGEST_OUTPUT = 100_000  # characters; more would crowd the conversation out of the model's context


class ToolExecutor:
    """Runs tools by agent and name.

    Args:
        agents: Whose tools can be called, by the agents' names; or just tools, for one agent.
        post: Takes ``ToolFinished`` and ``ApprovalChecked``; called on the loop's thread.
        context: The maker's object.
        history: The conversation at the instant of a call.
        ask: Asks the model beside the conversation.
        extra_tools: Tools of an agent that are not in its list (those of its MCP servers), by its name.
    """

    def __init__(
        self,
        agents: Mapping[str, RealtimeAgent] | Sequence[Tool],
        *,
        post: Callable[[Event], None],
        context: Any = None,
        history: Callable[[], Sequence[HistoryItem]] = tuple,
        ask: AskAside | None = None,
        extra_tools: Callable[[str], Sequence[Tool]] | None = None,
    ) -> None:
        if not isinstance(agents, Mapping):
            agents = {"tools": RealtimeAgent(name="tools", tools=agents)}
        self._agents = agents
        self._post = post
        self._context = context
        self._history = history
        self._ask = ask
        self._extra_tools = extra_tools
        self._early: list[RunTool | CheckApproval] = []
        self._group: asyncio.TaskGroup | None = None
        self._running: dict[str, asyncio.Task[ToolFinished]] = {}

    def __repr__(self) -> str:
        names = sorted({tool.name for name in self._agents for tool in self._tools(name)})
        return f"<ToolExecutor {names}, running {sorted(self._running)}>"

    def run_tool(self, command: RunTool) -> None:
        """Run a tool; answered by one ``ToolFinished``, whatever happens. Before `run` has begun, it waits for it."""
        if self._group is None:
            self._early.append(command)
        else:
            self._begin(self._group, command)

    def check_approval(self, command: CheckApproval) -> None:
        """Ask a tool's predicate; answered by one ``ApprovalChecked``. Whatever is unclear needs approval."""
        if self._group is None:
            self._early.append(command)
        else:
            self._begin(self._group, command)

    def cancel(self, call_id: str) -> None:
        """Give a call up; it is answered, with an error. Nothing for a call that is over."""
        task = self._running.get(call_id)
        if task is not None:
            task.cancel()
        for command in [one for one in self._early if one.call_id == call_id]:
            self._early.remove(command)
            if isinstance(command, RunTool):
                self._post(_cancelled(command))

    async def run(self) -> None:
        """Own the running tools until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                early, self._early = self._early, []
                for command in early:
                    self._begin(group, command)
                try:
                    await asyncio.Event().wait()
                finally:
                    self._group = None  # what is asked for now is never run: the session is over
        finally:
            self._early.clear()

    def _begin(self, group: asyncio.TaskGroup, command: RunTool | CheckApproval) -> None:
        if isinstance(command, CheckApproval):
            group.create_task(self._check(command), name=f"approval of {command.name}")
            return
        task = group.create_task(self._answered(command), name=f"tool {command.name}")
        self._running[command.call_id] = task
        task.add_done_callback(functools.partial(self._tell, command))

    def _tell(self, command: RunTool, task: asyncio.Task[ToolFinished]) -> None:
        """Post the answer; here, for a task that is cancelled before its first step never runs a line of its own."""
        if self._running.get(command.call_id) is task:
            del self._running[command.call_id]
        self._post(_cancelled(command) if task.cancelled() else task.result())

    # --- one call -----------------------------------------------------------------------------------------------

    async def _answered(self, command: RunTool) -> ToolFinished:
        try:
            tool = self._find(command)
            context = self._context_of(command)
            if not await self._is_enabled(tool, context):
                raise ToolError(f"The tool {tool.name} is not available now.")
        except ToolError as exc:
            return ToolFinished(command.call_id, _sendable(str(exc)), is_error=True)
        output, is_error, is_background = await called(tool, context)
        return ToolFinished(command.call_id, output, is_error=is_error, is_background=is_background)

    def _tools(self, agent: str) -> list[Tool]:
        extra = self._extra_tools(agent) if self._extra_tools is not None else ()
        return [*self._agents[agent].tools, *extra]

    def _agent(self, command: RunTool | CheckApproval) -> RealtimeAgent:
        """Who called; a command without a name means the only agent, or the first.

        Raises:
            ToolError: There is no such agent.
        """
        name = command.agent or next(iter(self._agents))
        if name not in self._agents:
            raise ToolError(f"There is no agent {name!r}; there are: {', '.join(sorted(self._agents))}.")
        return self._agents[name]

    def _find(self, command: RunTool | CheckApproval) -> Tool:
        tools = self._tools(self._agent(command).name)
        found = next((one for one in tools if one.name == command.name), None)
        if found is None:
            known = ", ".join(sorted(one.name for one in tools)) or "none"
            raise ToolError(f"There is no tool {command.name!r}; there are: {known}.")
        return found

    def _context_of(self, command: RunTool | CheckApproval) -> ToolContext[Any]:
        return ToolContext(
            context=self._context,
            agent=self._agent(command),
            history=self._history(),
            tool_name=command.name,
            call_id=command.call_id,
            arguments=command.arguments,
            ask=self._ask,
        )

    async def _is_enabled(self, tool: Tool, context: RunContext[Any]) -> bool:
        if not callable(tool.enabled):
            return tool.enabled
        try:
            async with asyncio.timeout(tool.timeout_s):
                return bool(await _awaited(tool.enabled(context, context.agent)))
        except Exception:
            log.exception("whether the tool %s is enabled could not be asked", tool.name)
            return False

    async def _check(self, command: CheckApproval) -> None:
        needed, problem = True, ""
        try:
            tool = self._find(command)
            arguments = tool.validate(command.arguments)
            predicate = tool.needs_approval
            async with asyncio.timeout(tool.timeout_s):
                needed = bool(
                    await _awaited(predicate(self._context_of(command), arguments, command.call_id))
                    if callable(predicate)
                    else predicate
                )
        except ToolError as exc:
            problem = str(exc)
        except Exception:  # fails closed: the user decides
            log.exception("whether %s needs approval could not be asked", command.name)
        self._post(ApprovalChecked(command.call_id, needed, _sendable(problem)))


async def called(tool: Tool, context: ToolContext[Any]) -> tuple[str, bool, bool]:
    """Call one tool, whatever it does.

    Returns:
        What the model is told, whether that is an error, and whether it is not to be spoken about.
    """
    error: Exception
    try:
        result = await _called(tool, context)
        is_background = isinstance(result, Background)
        return (
            _sendable(_text(tool.name, result.result if isinstance(result, Background) else result)),
            False,
            is_background,
        )
    except ToolError as exc:
        error, text = exc, str(exc)
    except ApplianceError as exc:
        error, text = exc, f"The tool {tool.name} failed: {exc}"
    except (asyncio.CancelledError, KeyboardInterrupt):
        raise
    except BaseException as exc:  # a tool's bug, even `sys.exit`, is not the session's end
        log.exception("the tool %s failed", tool.name)
        error = exc if isinstance(exc, Exception) else RuntimeError(_said(exc))
        text = f"The tool {tool.name} failed: {_said(exc)}"
    return _sendable(await _excuse(tool, context, error, text)), True, False


async def _called(tool: Tool, context: ToolContext[Any]) -> Any:
    arguments = tool.validate(context.arguments)
    if tool.context_parameter:
        arguments[tool.context_parameter] = context
    limit = asyncio.timeout(tool.timeout_s)
    try:
        async with limit:
            # A sync wrapper around an async function gives something to await, too.
            return await _awaited(
                await (tool.function(**arguments) if tool.is_async else _in_thread(tool.function, arguments))
            )
    except TimeoutError:
        if not limit.expired():
            raise  # the tool's own
        raise ToolError(f"The tool {tool.name} took longer than {tool.timeout_s:g} s and was given up.") from None


async def _excuse(tool: Tool, context: ToolContext[Any], error: Exception, text: str) -> str:
    """Let the maker put an error into words; ours are used where theirs fail."""
    if tool.error_function is None:
        return text
    try:
        async with asyncio.timeout(tool.timeout_s):
            return str(await _awaited(tool.error_function(context, error)))
    except Exception:
        log.exception("the error function of the tool %s failed", tool.name)
        return text


async def _awaited(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _cancelled(command: RunTool) -> ToolFinished:
    return ToolFinished(command.call_id, _sendable(f"The call of {command.name} was cancelled."), is_error=True)


def _said(error: BaseException) -> str:
    """Put an error into words, even one whose own words are a bug."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - it belongs to the tool
        return type(error).__name__


def _sendable(text: str) -> str:
    """Cut to what the model's context can bear, without the lone surrogates that UTF-8 cannot carry."""
    return text[:_LONGEST_OUTPUT].encode("utf-8", "replace").decode("utf-8")


async def _in_thread(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Run a sync tool on a daemon thread of its own.

    Not in the loop's executor: a tool that hangs would keep a worker for good, and the process from ending.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if done.done():
            return  # the tool came too late
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)

    def work() -> None:
        result: Any = None
        error: BaseException | None = None
        try:
            result = function(**arguments)
        except Exception as exc:  # noqa: BLE001 - it belongs to the call
            error = RuntimeError(f"StopIteration: {exc}") if isinstance(exc, StopIteration) else exc
        except BaseException as exc:  # noqa: BLE001 - on a thread, SystemExit and its like end nothing but the tool
            error = RuntimeError(_said(exc))
        with contextlib.suppress(RuntimeError):  # the loop has closed
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=work, name=f"tool {getattr(function, '__name__', '')}", daemon=True).start()
    return await done


def _text(name: str, result: Any) -> str:
    """What the model is given: a text as it is, anything else as JSON."""
    if isinstance(result, str):
        return result
    try:
        if isinstance(result, BaseModel):
            return result.model_dump_json()
        return json.dumps(to_jsonable_python(result), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (PydanticSerializationError, ValueError, TypeError, RecursionError) as exc:
        raise ToolError(f"The tool {name} ran, but its result cannot be told: {exc}") from None
