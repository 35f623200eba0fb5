"""Calls the maker's functions under a time limit: tools, predicates, instructions, guardrails, error functions.

Theory of operation. Each call runs in a task of its own. At the limit the task is cancelled and, if it does not end
within a grace period, left behind: a function that ignores its cancellation costs a task, not the answer. Sync
functions run on the loop (they are expected to be quick), except tools, which `in_thread` runs beside it.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future
from typing import Any

from appliance.agents.agent import RealtimeAgent
from appliance.agents.context import RunContext
from appliance.agents.handoffs import Handoff
from appliance.agents.tools import Tool
from appliance.errors import ToolError

__all__ = ["ToolTimeout", "asked", "described", "in_thread", "instructions_of", "is_enabled", "within", "words"]

log = logging.getLogger(__name__)

_GRACE_S = 0.5  # for a cancelled function to clean up before it is left behind

_tasks: set[asyncio.Task[Any]] = set()  # the loop itself holds tasks only weakly


class ToolTimeout(ToolError, TimeoutError):
    """A function took longer than its limit; what the error function of a late tool is given."""


async def is_enabled(one: Tool | Handoff, context: RunContext[Any], limit_s: float) -> bool:
    """Ask whether a tool or handoff is offered now; a predicate that raises or takes too long says no."""
    if not callable(one.enabled):
        return bool(one.enabled)
    try:
        return bool(await asked(limit_s, one.enabled, context, context.agent))
    except Exception:
        name = one.definition()["name"]
        log.exception("agent %s: whether %s is enabled could not be asked", context.agent.name, name)
        return False


async def instructions_of(agent: RealtimeAgent, context: RunContext[Any], limit_s: float) -> str:
    """Return an agent's instructions, from its function if it has one.

    Raises:
        ToolError: They are no text, or took longer than `limit_s`.
        Exception: Whatever the function raises.
    """
    if isinstance(agent.instructions, str):
        return agent.instructions
    text = await asked(limit_s, agent.instructions, context, agent)
    if not isinstance(text, str):
        raise ToolError(f"agent {agent.name!r}: its instructions are {type(text).__name__}, expected a text")
    return text


async def asked(limit_s: float, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function that the runtime needs an answer of.

    Raises:
        ToolTimeout: It took longer than `limit_s`.
        Exception: Whatever it raises; a RuntimeError if it cancelled itself.
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
    """Call something sync or async in a task of its own.

    Raises:
        ToolTimeout: It took longer than `limit_s`; what it still does is ignored.
        asyncio.CancelledError: It cancelled itself, or the caller was cancelled.
        Exception: Whatever it raises.
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
        raise RuntimeError(described(exc)) from exc


def in_thread(function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """Make an async function of a sync one: each call runs on a daemon thread of its own.

    Not in the loop's executor: a tool that hangs would keep a worker for good, and the process from ending.
    """

    def call(**arguments: Any) -> Awaitable[Any]:
        done: Future[Any] = Future()
        done.set_running_or_notify_cancel()  # so that it takes a result that nobody waits for any more

        def work() -> None:
            try:
                done.set_result(function(**arguments))
            except BaseException as exc:  # noqa: BLE001 - it belongs to the call; SystemExit ends nothing but the tool
                # A tool's own cancelled future is its failure, and not the cancellation of the call.
                can_be_raised = isinstance(exc, Exception) and not isinstance(exc, (StopIteration, CancelledError))
                done.set_exception(exc if can_be_raised else RuntimeError(described(exc)))

        threading.Thread(target=work, name=f"tool {_name(function)}", daemon=True).start()
        return asyncio.wrap_future(done)

    return call


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def described(error: BaseException) -> str:
    """Return the type and the words of an error."""
    return f"{type(error).__name__}: {words(error)}"


def words(error: BaseException) -> str:
    """Return an error's own words, even if those are a bug."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - it belongs to the maker's class
        return f"an unspeakable {type(error).__name__}"
