"""Runs the model's tool calls: async tools on the loop, sync ones in a thread, each answered exactly once.

Whatever a tool does — raises, hangs, returns what JSON cannot hold — the model is told, and the session goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
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
        self._waiting: asyncio.Queue[RunTool] = asyncio.Queue()
        self._running: dict[str, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        return f"<ToolExecutor {sorted(self._tools)}, running {sorted(self._running)}>"

    def run_tool(self, command: RunTool) -> None:
        """Run a tool; answered by one ``ToolFinished``, whatever happens."""
        self._waiting.put_nowait(command)

    def cancel(self, call_id: str) -> None:
        """Give a call up; it is answered, with an error. Nothing for a call that is over."""
        task = self._running.get(call_id)
        if task is not None:
            task.cancel()

    async def run(self) -> None:
        """Own the running tools until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                command = await self._waiting.get()
                task = group.create_task(self._answer(command), name=f"tool {command.name}")
                self._running[command.call_id] = task
                task.add_done_callback(functools.partial(self._forget, command.call_id))

    def _forget(self, call_id: str, task: asyncio.Task[None]) -> None:
        self._running.pop(call_id, None)

    async def _answer(self, command: RunTool) -> None:
        is_error = True
        output = f"The call of {command.name} was cancelled."
        try:
            output = await self._call(command)
            is_error = False
        except ToolError as exc:
            output = str(exc)
        except TimeoutError:
            limit_s = self._tools[command.name].timeout_s
            output = f"The tool {command.name} took longer than {limit_s:g} s and was given up."
        except ApplianceError as exc:
            output = f"The tool {command.name} failed: {exc}"
        except Exception as exc:  # a tool's bug is not the session's end
            log.exception("the tool %s failed", command.name)
            output = f"The tool {command.name} failed: {type(exc).__name__}: {exc}"
        finally:
            self._post(ToolFinished(command.call_id, output[:_LONGEST_OUTPUT], is_error))

    async def _call(self, command: RunTool) -> str:
        tool = self._tools.get(command.name)
        if tool is None:
            known = ", ".join(sorted(self._tools)) or "none"
            raise ToolError(f"There is no tool {command.name!r}; there are: {known}.")
        arguments = tool.validate(command.arguments)
        async with asyncio.timeout(tool.timeout_s):
            result = await (tool.function(**arguments) if tool.is_async else _in_thread(tool.function, arguments))
        return _text(tool.name, result)


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
        except StopIteration as exc:  # a future cannot hold one
            error = RuntimeError(f"StopIteration: {exc}")
        except BaseException as exc:  # noqa: BLE001 - it belongs to the call, wherever it was raised
            error = exc
        with contextlib.suppress(RuntimeError):  # the loop has closed
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=work, name=f"tool {getattr(function, '__name__', '')}", daemon=True).start()
    return await done


def _text(name: str, result: Any) -> str:
    """What the model is given: a text as it is, anything else as JSON."""
    if isinstance(result, str):
        return result
    if isinstance(result, BaseModel):
        return result.model_dump_json()
    try:
        return json.dumps(to_jsonable_python(result), ensure_ascii=False, allow_nan=False)
    except (PydanticSerializationError, ValueError, TypeError, RecursionError) as exc:
        raise ToolError(f"The tool {name} ran, but its result cannot be told: {exc}") from None
