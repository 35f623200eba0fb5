"""Runs the model's tool calls: async tools on the loop, sync ones in a thread, each answered exactly once.

Whatever a tool does — raises, hangs, returns what JSON cannot hold — the model is told, and the session goes on.

Theory of operation. Each command runs in a task of its own, and its answer is posted when that task is done, however
it came to be done. Within it, every function of the maker's (tool, predicate, error function) runs in one more task
under a limit of time: at the limit that task is cancelled and, if it does not end then, left behind. So a function
that ignores its cancellation costs a task, not the answer. Predicates and error functions run on the loop, also the
sync ones: they are expected to be quick.
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
from typing import Any, NamedTuple

from msgspec import to_builtins
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python

from appliance.agents.agent import RealtimeAgent
from appliance.agents.context import AskAgent, AskAside, RunContext, ToolContext
from appliance.agents.tools import Background, Tool
from appliance.conversation.commands import CheckApproval, RunTool
from appliance.conversation.events import ApprovalChecked, Event, ToolFinished
from appliance.errors import ApplianceError, ToolError
from appliance.realtime.items import HistoryItem

__all__ = ["Outcome", "ToolRunner", "ToolTimeout", "called", "find_tool", "is_enabled"]

log = logging.getLogger(__name__)

_LONGEST_OUTPUT = 100_000  # characters; more would crowd the conversation out of the model's context
# The conversation gives a call up 2 s after the tool's own limit; both of these together stay below that.
_GRACE_S = 0.5  # for a cancelled function to clean up before it is left behind
_EXCUSE_S = 1.0  # longest run of an error function

_left_behind: set[asyncio.Task[Any]] = set()  # the loop itself holds tasks only weakly


class ToolTimeout(ToolError, TimeoutError):
    """A tool took longer than its `timeout_s`; this is what its error function is given."""


class Outcome(NamedTuple):
    """What came of one call."""

    text: str
    """What the model is told; UTF-8 can carry it."""
    is_error: bool = False
    is_background: bool = False
    """The model is not asked to speak about it."""


class ToolRunner:
    """Runs tools by agent and name.

    Args:
        agents: Whose tools can be called, by the agents' names; or just tools, for one agent. A command that names no
            agent means the first.
        post: Takes ``ToolFinished`` and ``ApprovalChecked``; called on the loop's thread.
        context: The maker's object.
        history: The conversation at the instant of a call.
        ask: Asks the model beside the conversation.
        ask_agent: Answers the tools that `RealtimeAgent.as_tool` makes.
        extra_tools: Tools of an agent that are not in its list (those of its MCP servers), by its name; asked at each
            call.

    Raises:
        ToolError: Two of the tools have the same name.
    """

    def __init__(
        self,
        agents: Mapping[str, RealtimeAgent] | Sequence[Tool],
        *,
        post: Callable[[Event], None],
        context: Any = None,
        history: Callable[[], Sequence[HistoryItem]] = tuple,
        ask: AskAside | None = None,
        ask_agent: AskAgent | None = None,
        extra_tools: Callable[[str], Sequence[Tool]] | None = None,
    ) -> None:
        if not isinstance(agents, Mapping):
            agents = {"tools": RealtimeAgent(name="tools", tools=agents)}
        self._agents = agents
        self._post = post
        self._context = context
        self._history = history
        self._ask = ask
        self._ask_agent = ask_agent
        self._extra_tools = extra_tools
        self._early: list[RunTool | CheckApproval] = []
        self._group: asyncio.TaskGroup | None = None
        self._running: dict[str, asyncio.Task[Event]] = {}

    def __repr__(self) -> str:
        names = sorted({tool.name for agent in self._agents.values() for tool in agent.tools})
        return f"<ToolRunner {names}, running {sorted(self._running)}>"

    def run_tool(self, command: RunTool) -> None:
        """Run a tool; answered by one ``ToolFinished``, whatever happens. Before `run` has begun, it waits for it."""
        self._take(command)

    def check_approval(self, command: CheckApproval) -> None:
        """Ask whether a call needs approval; answered by one ``ApprovalChecked``. Whatever is unclear needs it.

        A call that cannot be made (no such tool, not available now, arguments that do not fit) needs approval too, and
        has a `problem` to tell the model instead.
        """
        self._take(command)

    def cancel(self, call_id: str) -> None:
        """Give a call up; it is answered, with an error. Nothing for a call that is over or not yet approved."""
        task = self._running.get(call_id)
        if task is not None:
            task.cancel()
        for command in [one for one in self._early if isinstance(one, RunTool) and one.call_id == call_id]:
            self._early.remove(command)
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

    def _take(self, command: RunTool | CheckApproval) -> None:
        if self._group is None:
            self._early.append(command)
        else:
            self._begin(self._group, command)

    def _begin(self, group: asyncio.TaskGroup, command: RunTool | CheckApproval) -> None:
        task: asyncio.Task[Event]
        if isinstance(command, CheckApproval):
            task = group.create_task(self._checked(command), name=f"approval of {command.name}")
        else:
            task = self._running[command.call_id] = group.create_task(
                self._finished(command), name=f"tool {command.name}"
            )
        task.add_done_callback(functools.partial(self._tell, command))

    def _tell(self, command: RunTool | CheckApproval, task: asyncio.Task[Event]) -> None:
        """Post the answer; here, for a task that is cancelled before its first step never runs a line of its own."""
        if self._running.get(command.call_id) is task:
            del self._running[command.call_id]
        self._post(_cancelled(command) if task.cancelled() or task.exception() is not None else task.result())

    # --- one command --------------------------------------------------------------------------------------------

    async def _finished(self, command: RunTool) -> ToolFinished:
        try:
            tool, context = self._call_of(command)
            outcome = await called(tool, context)
        except ToolError as exc:
            outcome = Outcome(_sendable(_words(exc)), is_error=True)
        except Exception as exc:  # of `history` or `extra_tools`
            log.exception("the tool %s could not be called", command.name)
            outcome = Outcome(_sendable(f"The tool {command.name} could not be called: {_said(exc)}"), is_error=True)
        return ToolFinished(
            command.call_id, outcome.text, is_error=outcome.is_error, is_background=outcome.is_background
        )

    async def _checked(self, command: CheckApproval) -> ApprovalChecked:
        try:
            tool, context = self._call_of(command)
            if not await is_enabled(tool, context):
                raise ToolError(_unavailable(tool))
            arguments = tool.validate(command.arguments)
        except ToolError as exc:
            return ApprovalChecked(command.call_id, needed=True, problem=_sendable(_words(exc)))
        except Exception:  # of `history` or `extra_tools`
            log.exception("whether %s needs approval could not be asked", command.name)
            return ApprovalChecked(command.call_id, needed=True)
        return ApprovalChecked(command.call_id, await self._is_approval_needed(tool, context, arguments))

    async def _is_approval_needed(self, tool: Tool, context: ToolContext[Any], arguments: dict[str, Any]) -> bool:
        if not callable(tool.needs_approval):
            return bool(tool.needs_approval)
        try:
            return bool(await _asked(tool.timeout_s, tool.needs_approval, context, arguments, context.call_id))
        except Exception:  # fails closed: the user decides
            log.exception("whether %s needs approval could not be asked", tool.name)
            return True

    def _call_of(self, command: RunTool | CheckApproval) -> tuple[Tool, ToolContext[Any]]:
        """Find the tool, and make up what it may ask for.

        Raises:
            ToolError: There is no such agent or tool.
        """
        name = command.agent or next(iter(self._agents), "")
        agent = self._agents.get(name)
        if agent is None:
            raise ToolError(f"There is no agent {name!r}; there are: {', '.join(sorted(self._agents)) or 'none'}.")
        extra = self._extra_tools(name) if self._extra_tools is not None else ()
        context = ToolContext(
            context=self._context,
            agent=agent,
            history=self._history(),
            tool_name=command.name,
            call_id=command.call_id,
            arguments=command.arguments,
            ask=self._ask,
            ask_agent=self._ask_agent,
        )
        return find_tool(command.name, [*agent.tools, *extra]), context


# --- one call: also for who runs tools beside the conversation ------------------------------------------------------


def find_tool(name: str, tools: Sequence[Tool]) -> Tool:
    """Find a tool by its name.

    Raises:
        ToolError: There is none; the text tells the model which there are.
    """
    found = next((one for one in tools if one.name == name), None)
    if found is None:
        known = ", ".join(sorted(one.name for one in tools)) or "none"
        raise ToolError(f"There is no tool {name!r}; there are: {known}.")
    return found


async def is_enabled(tool: Tool, context: RunContext[Any]) -> bool:
    """Ask whether a tool may be called now; a predicate that raises or takes too long says no."""
    if not callable(tool.enabled):
        return bool(tool.enabled)
    try:
        return bool(await _asked(tool.timeout_s, tool.enabled, context, context.agent))
    except Exception:
        log.exception("whether the tool %s is enabled could not be asked", tool.name)
        return False


async def called(tool: Tool, context: ToolContext[Any]) -> Outcome:
    """Call one tool with ``context.arguments``, if it is enabled; whatever it does, there is something to tell.

    Raises:
        asyncio.CancelledError: The caller, or the tool itself, was cancelled.
    """
    if not await is_enabled(tool, context):
        return Outcome(_unavailable(tool), is_error=True)
    try:
        arguments = tool.validate(context.arguments)
    except ToolError as exc:
        return Outcome(_sendable(_words(exc)), is_error=True)  # for the model to mend: the tool has not failed
    try:
        result = await _called(tool, context, arguments)
        is_background = isinstance(result, Background)
        text = _text(tool.name, result.result if isinstance(result, Background) else result)
        return Outcome(_sendable(text), is_background=is_background)
    except (asyncio.CancelledError, KeyboardInterrupt):
        raise
    except BaseException as exc:  # noqa: BLE001 - a tool's bug, even `sys.exit`, is not the session's end
        return Outcome(_sendable(await _excuse(tool, context, exc)), is_error=True)


async def _called(tool: Tool, context: ToolContext[Any], arguments: dict[str, Any]) -> Any:
    if tool.context_parameter:
        arguments[tool.context_parameter] = context
    if tool.is_async:
        call: Callable[[], Any] = functools.partial(tool.function, **arguments)
    else:
        call = functools.partial(_in_thread, tool.function, arguments)
    try:
        return await _within(tool.timeout_s, call)
    except _Late:
        raise ToolTimeout(f"The tool {tool.name} took longer than {tool.timeout_s:g} s and was given up.") from None


async def _excuse(tool: Tool, context: ToolContext[Any], error: BaseException) -> str:
    """Put a failure into words: the maker's, or ours where there are none or they fail."""
    if isinstance(error, ToolError):
        text = _words(error)
    elif isinstance(error, ApplianceError):
        text = f"The tool {tool.name} failed: {_words(error)}"
    else:
        log.error("the tool %s failed", tool.name, exc_info=error)
        text = f"The tool {tool.name} failed: {_said(error)}"
    if tool.error_function is None:
        return text
    shown = error if isinstance(error, Exception) else RuntimeError(_said(error))
    try:
        return str(await _asked(min(tool.timeout_s, _EXCUSE_S), tool.error_function, context, shown))
    except Exception:
        log.exception("the error function of the tool %s failed", tool.name)
        return text


def _unavailable(tool: Tool) -> str:
    return f"The tool {tool.name} is not available now."


def _cancelled(command: RunTool | CheckApproval) -> Event:
    if isinstance(command, CheckApproval):
        return ApprovalChecked(command.call_id, needed=True)
    return ToolFinished(command.call_id, _sendable(f"The call of {command.name} was cancelled."), is_error=True)


# --- functions of the maker's -------------------------------------------------------------------------------------


class _Late(Exception):
    """A function did not end within its limit."""


async def _asked(limit_s: float, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a predicate or an error function.

    Raises:
        ToolTimeout: It took longer than `limit_s`.
        Exception: Whatever it raises.
    """
    try:
        return await _within(limit_s, functools.partial(function, *arguments))
    except _Late:
        raise ToolTimeout(f"{_name(function)} took longer than {limit_s:g} s") from None
    except asyncio.CancelledError:
        own = asyncio.current_task()
        if own is not None and own.cancelling():
            raise
        raise RuntimeError(f"{_name(function)} was cancelled from within") from None


async def _within(limit_s: float, call: Callable[[], Any]) -> Any:
    """Call something sync or async in a task of its own.

    Raises:
        _Late: It took longer than `limit_s`; what it still does is ignored.
        asyncio.CancelledError: It cancelled itself, or the caller was cancelled.
        Exception: Whatever it raises.
    """
    task = asyncio.create_task(_guarded(call))
    try:
        await asyncio.wait({task}, timeout=limit_s)
        if task.done():
            return task.result()
        raise _Late
    finally:
        if task.done():
            _forget(task)
        else:
            await _give_up(task)


async def _give_up(task: asyncio.Task[Any]) -> None:
    _left_behind.add(task)
    task.add_done_callback(_forget)
    task.cancel()
    await asyncio.wait({task}, timeout=_GRACE_S)


def _forget(task: asyncio.Task[Any]) -> None:
    _left_behind.discard(task)
    if not task.cancelled():
        task.exception()  # looked at, so asyncio does not complain of it


async def _guarded(call: Callable[[], Any]) -> Any:
    try:
        result = call()
        while inspect.isawaitable(result):  # a sync wrapper around an async function gives something to await, too
            result = await result
        return result
    except (Exception, asyncio.CancelledError, KeyboardInterrupt):
        raise
    except BaseException as exc:  # SystemExit would end the loop from any task
        raise RuntimeError(_said(exc)) from exc


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

    threading.Thread(target=work, name=f"tool {_name(function)}", daemon=True).start()
    return await done


# --- words --------------------------------------------------------------------------------------------------------


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {_words(error)}"


def _words(error: BaseException) -> str:
    """Return an error's own words, even if those are a bug."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - it belongs to the tool
        return f"an unspeakable {type(error).__name__}"


def _sendable(text: str) -> str:
    """Cut to what the model's context can bear, without the lone surrogates that UTF-8 cannot carry."""
    return text[:_LONGEST_OUTPUT].encode("utf-8", "replace").decode("utf-8")


def _text(name: str, result: Any) -> str:
    """What the model is given: a text as it is, anything else as JSON."""
    if isinstance(result, str):
        return result
    try:
        if isinstance(result, BaseModel):
            return result.model_dump_json()
        plain = to_jsonable_python(result, fallback=to_builtins)  # msgspec's: a `HistoryItem` is a Struct
        return json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (PydanticSerializationError, ValueError, TypeError, RecursionError) as exc:
        raise ToolError(f"The tool {name} ran, but its result cannot be told: {exc}") from None
