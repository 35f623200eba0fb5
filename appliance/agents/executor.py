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
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python

from appliance.agents.tools import Tool
from appliance.conversation.commands import RunTool
from appliance.conversation.events import Event, ToolFinished
from appliance.errors import ApplianceError, ToolError

__all__ = ["ToolExecutor"]

log = logging.getLogger(__name__)

_LONGEST_OUTPUT = 100_000  # characters; more would crowd the conversation out of the model's context


class ToolExecutor:
    """Runs tools by name.

    Args:
        tools: What can be called.
        post: Takes ``ToolFinished``; called on the loop's thread.
    """

    def __init__(self, tools: Sequence[Tool], *, post: Callable[[Event], None]) -> None:
        self._tools = {one.name: one for one in tools}
        self._post = post
        self._early: list[RunTool] = []
        self._group: asyncio.TaskGroup | None = None
        self._running: dict[str, asyncio.Task[ToolFinished]] = {}

    def __repr__(self) -> str:
        return f"<ToolExecutor {sorted(self._tools)}, running {sorted(self._running)}>"

    def run_tool(self, command: RunTool) -> None:
        """Run a tool; answered by one ``ToolFinished``, whatever happens. Before `run` has begun, it waits for it."""
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

    def _begin(self, group: asyncio.TaskGroup, command: RunTool) -> None:
        task = group.create_task(self._answered(command), name=f"tool {command.name}")
        self._running[command.call_id] = task
        task.add_done_callback(functools.partial(self._tell, command))

    def _tell(self, command: RunTool, task: asyncio.Task[ToolFinished]) -> None:
        """Post the answer; here, for a task that is cancelled before its first step never runs a line of its own."""
        if self._running.get(command.call_id) is task:
            del self._running[command.call_id]
        self._post(_cancelled(command) if task.cancelled() else task.result())

    async def _answered(self, command: RunTool) -> ToolFinished:
        try:
            output = await self._call(command)
        except ToolError as exc:
            return _failed(command, str(exc))
        except ApplianceError as exc:
            return _failed(command, f"The tool {command.name} failed: {exc}")
        except (asyncio.CancelledError, KeyboardInterrupt):
            raise
        except BaseException as exc:  # a tool's bug, even `sys.exit`, is not the session's end
            log.exception("the tool %s failed", command.name)
            return _failed(command, f"The tool {command.name} failed: {_said(exc)}")
        return ToolFinished(command.call_id, _sendable(output))

    async def _call(self, command: RunTool) -> str:
        tool = self._tools.get(command.name)
        if tool is None:
            known = ", ".join(sorted(self._tools)) or "none"
            raise ToolError(f"There is no tool {command.name!r}; there are: {known}.")
        arguments = tool.validate(command.arguments)
        limit = asyncio.timeout(tool.timeout_s)
        try:
            async with limit:
                result = await (tool.function(**arguments) if tool.is_async else _in_thread(tool.function, arguments))
                if inspect.isawaitable(result):  # a sync wrapper around an async function
                    result = await result
        except TimeoutError:
            if not limit.expired():
                raise  # the tool's own
            raise ToolError(f"The tool {tool.name} took longer than {tool.timeout_s:g} s and was given up.") from None
        return _text(tool.name, result)


def _cancelled(command: RunTool) -> ToolFinished:
    return _failed(command, f"The call of {command.name} was cancelled.")


def _failed(command: RunTool, text: str) -> ToolFinished:
    return ToolFinished(command.call_id, _sendable(text), is_error=True)


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
