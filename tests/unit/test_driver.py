"""The driver: one FIFO in, commands out in order, the light from the state."""

from __future__ import annotations

import asyncio
from typing import Any

from appliance.conversation.commands import Connect, LightPattern, Send, Stop
from appliance.conversation.events import (
    ButtonEdge,
    DeadlinePassed,
    Event,
    LinkUp,
    ServerEventReceived,
    ShutdownRequested,
    Started,
)
from appliance.conversation.machine import Conversation
from appliance.conversation.turn import Policy
from appliance.realtime import protocol as wire
from appliance.service.driver import Driver


class Recorder:
    """Every adapter at once: writes down what it is asked, in order."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.asked.append((name, *arguments))

    def names(self) -> list[str]:
        return [one[0] for one in self.asked if one[0] != "show"]

    def shown(self) -> list[str]:
        return [one[1].name for one in self.asked if one[0] == "show" and isinstance(one[1], LightPattern)]


def _driver(**policy: Any) -> tuple[Driver, Recorder, list[tuple[Event, Any]]]:
    recorder: Any = Recorder()
    seen: list[tuple[Event, Any]] = []
    driver = Driver(
        Conversation(policy=Policy(button_mode="hold", **policy), session={"type": "realtime"}),
        transport=recorder,
        audio=recorder,
        tools=recorder,
        light=recorder,
        announcer=recorder,
        alarms=recorder,
        observers=[lambda now, event, commands, view: seen.append((event, list(commands)))],
    )
    return driver, recorder, seen


async def test_commands_are_dispatched_in_order_and_stop_ends_the_run() -> None:
    driver, recorder, seen = _driver()
    for event in (
        Started(),
        LinkUp(1),
        ServerEventReceived(1, wire.SessionCreated(session={})),
        ShutdownRequested("enough"),
        ButtonEdge(True),
    ):
        driver.post(event)
    assert await driver.run() == "enough"
    assert recorder.names() == ["connect", "send", "flush", "disconnect"]
    assert [type(event).__name__ for event, _ in seen] == [
        "Started",
        "LinkUp",
        "ServerEventReceived",
        "ShutdownRequested",
    ], "nothing is handled after the stop"
    assert seen[0][1] == [Connect(1)]
    assert isinstance(seen[2][1][0], Send)
    assert seen[3][1][-1] == Stop("enough")


async def test_the_light_is_shown_when_the_state_changes_and_only_then() -> None:
    driver, recorder, _ = _driver()
    for event in (Started(), LinkUp(1), LinkUp(1), ServerEventReceived(1, wire.SessionCreated(session={}))):
        driver.post(event)
    driver.post(ShutdownRequested("enough"))
    await driver.run()
    assert recorder.shown() == ["connecting", "ready"]


async def test_a_deadline_comes_back_as_an_event() -> None:
    driver, _, seen = _driver(connect_s=0.02)
    driver.post(Started())

    def stop(now: float, event: Event, commands: Any, view: Any) -> None:
        if isinstance(event, DeadlinePassed):
            driver.post(ShutdownRequested("the deadline came"))

    driver.observe(stop)
    async with asyncio.timeout(10):
        assert await driver.run() == "the deadline came"
    assert any(isinstance(event, DeadlinePassed) for event, _ in seen)


async def test_the_lag_is_the_age_of_the_oldest_event() -> None:
    now = 100.0
    recorder: Any = Recorder()
    driver = Driver(
        Conversation(policy=Policy(), session={"type": "realtime"}),
        transport=recorder,
        audio=recorder,
        tools=recorder,
        light=recorder,
        announcer=recorder,
        alarms=recorder,
        clock=lambda: now,
    )
    assert driver.lag_s == 0.0
    driver.post(Started())
    now = 103.0
    driver.post(Started())
    assert driver.lag_s == 3.0
