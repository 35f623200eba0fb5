"""Tasks that answer commands, each with exactly one event."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from appliance.conversation.events import Event

__all__ = ["CommandTasks"]

log = logging.getLogger(__name__)


class CommandTasks:
    """Runs each command in a separate task and owns these tasks.

    A command started before `run` waits for it; a command started after `run` has ended is dropped.

    Args:
        post: Takes the answers; called on the loop's thread.
    """

    def __init__(self, post: Callable[[Event], None]) -> None:
        self._post = post
        self._tasks: dict[asyncio.Task[Event], str] = {}
        self._is_running = asyncio.Event()
        self._is_over = False

    def start(
        self, answer: Callable[[], Coroutine[Any, Any, Event]], *, otherwise: Event, name: str, key: str = ""
    ) -> None:
        """Start a task that posts the event that `answer` returns.

        Args:
            answer: Returns the answer.
            otherwise: Posted instead if the task is cancelled or raises; an exception is logged.
            name: The task's name, for the log.
            key: Key for `cancel`.
        """
        if not self._is_over:
            task = asyncio.get_running_loop().create_task(self._answered(answer), name=name)
            self._tasks[task] = key
            task.add_done_callback(functools.partial(self._post_answer, otherwise))

    def cancel(self, key: str) -> None:
        """Cancel the commands with this key; a no-op if there are none."""
        for task, own in self._tasks.items():
            if own == key:
                task.cancel()

    async def run(self) -> None:
        """Let the tasks run until cancelled; then cancel them and wait for their end."""
        self._is_running.set()
        try:
            await asyncio.Event().wait()
        finally:
            self._is_over = True
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)

    async def _answered(self, answer: Callable[[], Coroutine[Any, Any, Event]]) -> Event:
        await self._is_running.wait()
        return await answer()

    def _post_answer(self, otherwise: Event, task: asyncio.Task[Event]) -> None:
        """Post the answer; a done callback, as a task cancelled before its first step never runs its own code."""
        del self._tasks[task]
        if task.cancelled():
            self._post(otherwise)
        elif (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)
            self._post(otherwise)
        else:
            self._post(task.result())
