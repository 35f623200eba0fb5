"""Calls application functions under a time limit: tools, predicates, instructions, guardrails, error functions.

Theory of operation. Each call runs in a separate task. At the limit the task is cancelled and, if it does not end
within a grace period, abandoned: a function that ignores its cancellation leaks a task, but the caller continues. Sync
functions run on the loop (they are expected to be quick), except tools, which `in_thread` runs in a thread.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import signal
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future
from typing import Any

from appliance.agents.agent import RealtimeAgent
from appliance.agents.context import RunContext
from appliance.agents.handoffs import Handoff
from appliance.agents.tools import Tool
from appliance.errors import ToolError

__all__ = [
    "ToolTimeout",
    "asked",
    "described",
    "in_thread",
    "instructions_of",
    "is_enabled",
    "kind_of",
    "within",
    "words",
]

log = logging.getLogger(__name__)

_GRACE_S = 0.5  # time for a cancelled function to clean up before it is abandoned

_tasks: set[asyncio.Task[Any]] = set()  # the loop keeps only weak references to tasks


class ToolTimeout(ToolError, TimeoutError):
    """A function took longer than its limit; also passed to the tool's error function."""


class Replaced(RuntimeError):
    """Stands for an error that must not leave the function, such as SystemExit, which would end the loop."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(described(error))
        self.kind = type(error).__name__


async def is_enabled(one: Tool | Handoff, context: RunContext[Any], limit_s: float) -> bool:
    """Return whether a tool or handoff is offered now; False if its predicate raises or takes too long."""
    if not callable(one.enabled):
        return bool(one.enabled)
    try:
        return bool(await asked(limit_s, one.enabled, context, context.agent))
    except Exception:
        name = one.definition()["name"]
        log.exception("agent %s: the predicate that enables %s failed", context.agent.name, name)
        return False


async def instructions_of(agent: RealtimeAgent, context: RunContext[Any], limit_s: float) -> str:
    """Return an agent's instructions; call its function if they are one.

    Raises:
        ToolError: They are not a string, or took longer than `limit_s`.
        Exception: Anything that the function raises.
    """
    if isinstance(agent.instructions, str):
        return agent.instructions
    text = await asked(limit_s, agent.instructions, context, agent)
    if not isinstance(text, str):
        raise ToolError(f"agent {agent.name!r}: its instructions are {type(text).__name__}, expected a string")
    return text


async def asked(limit_s: float, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function and return its result.

    Raises:
        ToolTimeout: It took longer than `limit_s`.
        Exception: Anything that it raises; a RuntimeError if it cancelled itself.
    """
    name = _name(function)
    try:
        return await within(limit_s, name, functools.partial(function, *arguments))
    except asyncio.CancelledError:
        own = asyncio.current_task()
        if own is not None and own.cancelling():
            raise
        raise RuntimeError(f"{name} was cancelled from within") from None


async def within(limit_s: float, what: str, call: Callable[[], Any]) -> Any:
    """Run a sync or async call in a separate task.

    Raises:
        ToolTimeout: It took longer than `limit_s`; its later result is ignored.
        asyncio.CancelledError: It cancelled itself, or the caller was cancelled.
        Exception: Anything that it raises.
    """
    task = asyncio.create_task(_guarded(call))
    _tasks.add(task)
    task.add_done_callback(_forget)
    try:
        await asyncio.wait({task}, timeout=limit_s)
        if not task.done():
            raise ToolTimeout(f"{what} took longer than {limit_s:g} s and was given up.")
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=_GRACE_S)


def _forget(task: asyncio.Task[Any]) -> None:
    _tasks.discard(task)
    if not task.cancelled():
        task.exception()  # retrieve it, so that asyncio does not log it


async def _guarded(call: Callable[[], Any]) -> Any:
    try:
        result = call()
        while inspect.isawaitable(result):  # a sync wrapper of an async function returns an awaitable too
            result = await result
        return result
    except (Exception, asyncio.CancelledError):
        raise
    except BaseException as exc:  # SystemExit and KeyboardInterrupt would end the loop from any task
        if isinstance(exc, KeyboardInterrupt) and _is_raised_by_ctrl_c():
            raise
        raise Replaced(exc) from exc


def _is_raised_by_ctrl_c() -> bool:
    """Return whether Ctrl-C raises KeyboardInterrupt in the running function, so that the program must end by it.

    `asyncio.run` and the appliance have a handler of their own: theirs cancels the main task or stops the appliance
    before anything is raised.
    """
    is_main = threading.current_thread() is threading.main_thread()
    return is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def in_thread(function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """Wrap a sync function as async: each call runs on a new daemon thread.

    Not in the loop's executor: a tool that hangs would block a worker forever, and keep the process from exiting.
    """

    def call(**arguments: Any) -> Awaitable[Any]:
        done: Future[Any] = Future()
        done.set_running_or_notify_cancel()  # so that set_result works even if the caller was cancelled

        def work() -> None:
            try:
                done.set_result(function(**arguments))
            except BaseException as exc:  # noqa: BLE001 - passed to the caller; SystemExit ends only the tool
                # A CancelledError of a future inside the tool is a failure, not the cancellation of this call.
                can_be_raised = isinstance(exc, Exception) and not isinstance(exc, (StopIteration, CancelledError))
                done.set_exception(exc if can_be_raised else Replaced(exc))

        threading.Thread(target=work, name=f"tool {_name(function)}", daemon=True).start()
        return asyncio.wrap_future(done)

    return call


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def described(error: BaseException) -> str:
    """Return the type and message of an error."""
    return f"{type(error).__name__}: {words(error)}"


def kind_of(error: BaseException) -> str:
    """Return the type of an error, without its message."""
    return error.kind if isinstance(error, Replaced) else type(error).__name__


def words(error: BaseException) -> str:
    """Return an error's message, or a replacement if its ``__str__`` raises."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a bug in the application's exception class
        return f"an unprintable {type(error).__name__}"
