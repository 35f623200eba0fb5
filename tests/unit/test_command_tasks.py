"""`CommandTasks`: every command is answered by exactly one event, even if its task fails."""

from __future__ import annotations

import asyncio

import pytest

from appliance.conversation.events import ApprovalChecked, Event
from appliance.runtime.command_tasks import CommandTasks

YES, NO = ApprovalChecked("call_1", needed=True), ApprovalChecked("call_1", needed=False)


async def says_no() -> Event:
    return NO


async def breaks() -> Event:
    raise ZeroDivisionError("odd")


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_command_whose_task_raises_is_answered_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    posted: list[Event] = []
    tasks = CommandTasks(posted.append)
    running = asyncio.create_task(tasks.run())
    tasks.start(breaks, otherwise=YES, name="asking")
    tasks.start(says_no, otherwise=YES, name="asking")
    await settle()
    assert posted == [YES, NO]
    assert "asking failed" in caplog.text
    assert "ZeroDivisionError: odd" in caplog.text
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_command_waits_for_run_and_is_dropped_after_run_ends() -> None:
    posted: list[Event] = []
    tasks = CommandTasks(posted.append)
    tasks.start(says_no, otherwise=YES, name="asking")
    await settle()
    assert posted == []
    running = asyncio.create_task(tasks.run())
    await settle()
    assert posted == [NO]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    tasks.start(says_no, otherwise=YES, name="asking")
    await settle()
    assert posted == [NO]
