"""The tasks that answer commands, each with exactly one event."""

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
    """Answers each command in a task of its own; the one owner of such tasks.

    A command that is started before `run` waits for it; one that is started after its end is dropped.

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
        """Post what `answer` returns.

        Args:
            answer: Makes the answer.
            otherwise: Is posted instead if the task is cancelled, or raises: that is logged.
            name: What is done, for the log.
            key: By which it can be cancelled.
        """
        if not self._is_over:
            task = asyncio.get_running_loop().create_task(self._answered(answer), name=name)
            self._tasks[task] = key
            task.add_done_callback(functools.partial(self._tell, otherwise))

    def cancel(self, key: str) -> None:
        """Cancel the command of a key; harmless without one."""
        for task, own in self._tasks.items():
            if own == key:
                task.cancel()

    async def run(self) -> None:
        """Let the tasks run until cancelled; they end with it."""
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

    def _tell(self, otherwise: Event, task: asyncio.Task[Event]) -> None:
        """Post the answer: a task that is cancelled before its first step would run no line that does."""
        del self._tasks[task]
        if task.cancelled():
            self._post(otherwise)
        elif (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)
            self._post(otherwise)
        else:
            self._post(task.result())
