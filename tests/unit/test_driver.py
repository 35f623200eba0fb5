"""The driver: one FIFO of events, commands dispatched in order, the light set from the state."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, get_args

import pytest

from appliance.agents.spec import AgentSpec
from appliance.conversation.commands import (
    Announce,
    CancelTool,
    CheckApproval,
    CheckText,
    CloseCapture,
    Command,
    Connect,
    Disconnect,
    Emit,
    FinishPlay,
    FlushPlayback,
    OpenCapture,
    Play,
    PlayEarcon,
    PowerOff,
    PrepareAgent,
    RunTool,
    Send,
    SilenceAlarm,
    Stop,
)
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
from appliance.conversation.policy import Policy
from appliance.realtime import protocol as wire
from appliance.runtime.driver import Driver


class Recorder:
    """Replaces every adapter: records all calls in order."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.asked.append((name, *arguments))

    def names(self) -> list[str]:
        return [one[0] for one in self.asked if one[0] != "show"]

    def shown(self) -> list[str]:
        return [one[1] for one in self.asked if one[0] == "show"]


def _driver(**policy: Any) -> tuple[Driver, Recorder, list[tuple[Event, Any]]]:
    recorder: Any = Recorder()
    seen: list[tuple[Event, Any]] = []
    driver = Driver(
        Conversation(
            policy=Policy(button_mode="hold", **policy),
            specs=[AgentSpec(agent="assistant", session={"type": "realtime"})],
        ),
        transport=recorder,
        audio=recorder,
        tools=recorder,
        agents=recorder,
        light=recorder,
        announcer=recorder,
        alarms=recorder,
        observers=[lambda now, event, commands, view: seen.append((event, list(commands)))],
    )
    return driver, recorder, seen


async def test_commands_are_dispatched_in_order_and_stop_ends_run() -> None:
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
    assert isinstance(seen[2][1][1], Send)
    assert seen[3][1][-1] == Stop("enough")


async def test_light_is_set_only_when_the_state_changes() -> None:
    driver, recorder, _ = _driver()
    for event in (Started(), LinkUp(1), LinkUp(1), ServerEventReceived(1, wire.SessionCreated(session={}))):
        driver.post(event)
    driver.post(ShutdownRequested("enough"))
    await driver.run()
    assert recorder.shown() == ["connecting", "ready"]


async def test_passed_deadline_is_posted_as_an_event() -> None:
    driver, _, seen = _driver(connect_s=0.02)
    driver.post(Started())

    def stop(now: float, event: Event, commands: Any, view: Any) -> None:
        if isinstance(event, DeadlinePassed):
            driver.post(ShutdownRequested("the deadline came"))

    driver.observe(stop)
    async with asyncio.timeout(10):
        assert await driver.run() == "the deadline came"
    assert any(isinstance(event, DeadlinePassed) for event, _ in seen)


async def test_lag_is_the_age_of_the_oldest_event() -> None:
    now = 100.0
    recorder: Any = Recorder()
    driver = Driver(
        Conversation(policy=Policy(), specs=[AgentSpec(agent="assistant", session={"type": "realtime"})]),
        transport=recorder,
        audio=recorder,
        tools=recorder,
        agents=recorder,
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


# --- a scripted conversation: its commands, and the order in which they are dispatched ---------------------------


class Scripted(Conversation):
    """Answers each event with the next commands of a list; the test sets its deadline."""

    def __init__(self, *steps: list[Command]) -> None:
        super().__init__(policy=Policy(), specs=[AgentSpec(agent="assistant", session={"type": "realtime"})])
        self.steps = list(steps)
        self.events: list[Event] = []
        self.at: float | None = None
        self.since: list[float | None] = []

    def handle(self, event: Event, now: float) -> list[Command]:
        self.events.append(event)
        return self.steps.pop(0) if self.steps else []

    @property
    def deadline(self) -> float | None:
        return self.at

    @property
    def listens_since(self) -> float | None:
        return self.since.pop(0) if self.since else None


def _scripted(*steps: list[Command], **more: Any) -> tuple[Driver, Scripted, Recorder]:
    recorder: Any = Recorder()
    conversation = Scripted(*steps)
    parts = dict.fromkeys(("transport", "audio", "tools", "agents", "light", "announcer", "alarms"), recorder)
    return Driver(conversation, **parts, **more), conversation, recorder


SEND = wire.InputAudioBufferClear()
EVERY_COMMAND: list[tuple[Command, list[tuple[Any, ...]]]] = [
    (Send(3, SEND), [("send", 3, SEND)]),
    (Play(2, "item", b"\0\0"), [("play", 2, "item", b"\0\0")]),
    (FinishPlay(2), [("finish", 2)]),
    (FlushPlayback(4), [("flush", 4)]),
    (PlayEarcon(2, "start"), [("earcon", 2, "start")]),
    (Announce(1, "offline"), [("announce", Announce(1, "offline"))]),
    (RunTool("call_1", "set_lamp", "{}"), [("run_tool", RunTool("call_1", "set_lamp", "{}"))]),
    (CheckApproval("call_1", "set_lamp", "{}"), [("check_approval", CheckApproval("call_1", "set_lamp", "{}"))]),
    (PrepareAgent("key", "House", "connect"), [("prepare_agent", PrepareAgent("key", "House", "connect"))]),
    (CheckText("key", "House", "output", "hm"), [("check_text", CheckText("key", "House", "output", "hm"))]),
    (CancelTool("call_1"), [("cancel", "call_1")]),
    (Connect(5), [("connect", 5, 0)]),
    (Connect(6, 2), [("connect", 6, 2)]),
    (Disconnect(5), [("disconnect", 5)]),
    (OpenCapture(), [("open_capture",)]),
    (CloseCapture(), [("close_capture",)]),
    (SilenceAlarm("timer_1"), [("silence", "timer_1")]),
    (Stop("enough"), []),
]


@pytest.mark.parametrize(("command", "asked"), EVERY_COMMAND, ids=lambda one: type(one).__name__)
async def test_each_command_is_one_call_of_one_adapter(command: Command, asked: list[tuple[Any, ...]]) -> None:
    driver, _, recorder = _scripted([command], [Stop("the end")])
    driver.post(Started())
    driver.post(Started())
    await driver.run()
    assert [one for one in recorder.asked if one[0] != "show"] == asked


def test_every_command_is_covered() -> None:
    assert {type(command) for command, _ in EVERY_COMMAND} | {Emit, PowerOff} == set(get_args(Command))


async def test_audio_is_told_once_when_the_conversation_begins_and_ends_to_listen() -> None:
    """Catches a microphone that is told after every event, and one that is never told to rest."""
    driver, conversation, recorder = _scripted([], [], [], [], [], [Stop("enough")])
    conversation.since = [None, 7.0, 7.5, None, None, None]
    for _ in range(6):
        driver.post(Started())
    await driver.run()
    assert [one for one in recorder.asked if one[0] == "listen"] == [("listen", 7.0), ("listen", None)]


async def test_commands_of_one_event_are_dispatched_in_order_before_the_next_event() -> None:
    commands = [command for command, _ in EVERY_COMMAND]
    driver, _, recorder = _scripted(commands[:6], commands[6:])
    driver.post(Started())
    driver.post(Started())
    assert await driver.run() == "enough"
    assert [one for one in recorder.asked if one[0] != "show"] == [call for _, calls in EVERY_COMMAND for call in calls]


async def test_event_posted_during_dispatch_is_handled_after_the_queued_events() -> None:
    driver, conversation, recorder = _scripted([Connect(1)], [], [Stop("enough")])
    recorder.connect = lambda link, endpoint: driver.post(LinkUp(link))  # type: ignore[attr-defined]
    driver.post(Started())
    driver.post(ButtonEdge(True))
    await driver.run()
    assert conversation.events == [Started(), ButtonEdge(True), LinkUp(1)]


async def test_observer_gets_time_event_commands_and_view_after_dispatch() -> None:
    seen: list[Any] = []
    driver, conversation, recorder = _scripted([Connect(1), Stop("enough")], clock=lambda: 42.0)

    def observe(now: float, event: Event, commands: Any, view: Any) -> None:
        seen.append((now, event, list(commands), view, recorder.names()))

    driver.observe(observe)
    driver.post(Started())
    await driver.run()
    assert seen == [(42.0, Started(), [Connect(1), Stop("enough")], conversation.view, ["connect"])]


async def test_burst_of_events_does_not_block_the_loop() -> None:
    driver, conversation, _ = _scripted(*[[] for _ in range(99)], [Stop("enough")])
    for _ in range(100):
        driver.post(Started())
    handled_at: list[int] = []

    async def other_work() -> None:
        while len(conversation.events) < 100:
            handled_at.append(len(conversation.events))
            await asyncio.sleep(0)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(driver.run())
        group.create_task(other_work())
    assert len(handled_at) >= 10
    assert max(b - a for a, b in itertools.pairwise(handled_at)) <= 8
    assert driver.handled == 100


async def test_moved_deadline_fires_once_at_its_new_time() -> None:
    driver, conversation, _ = _scripted()
    now = asyncio.get_running_loop().time
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        running = group.create_task(driver.run())
        conversation.at = now() + 0.01
        driver.post(Started())
        await asyncio.sleep(0)
        conversation.at = later = now() + 0.05
        driver.post(Started())
        while DeadlinePassed() not in conversation.events:
            await asyncio.sleep(0.001)
        assert now() >= later
        conversation.at = None
        driver.post(Started())
        await asyncio.sleep(0.02)
        assert conversation.events.count(DeadlinePassed()) == 1
        running.cancel()


async def test_cleared_deadline_does_not_fire() -> None:
    driver, conversation, _ = _scripted()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        running = group.create_task(driver.run())
        conversation.at = asyncio.get_running_loop().time() + 0.02
        driver.post(Started())
        await asyncio.sleep(0)
        conversation.at = None
        driver.post(Started())
        await asyncio.sleep(0.05)
        assert conversation.events == [Started(), Started()]
        running.cancel()


async def test_deadline_that_stays_in_the_past_does_not_spin_the_loop() -> None:
    driver, conversation, _ = _scripted()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        running = group.create_task(driver.run())
        conversation.at = 0.0
        driver.post(Started())
        turns = 0
        while conversation.events.count(DeadlinePassed()) < 3:
            await asyncio.sleep(0.001)
            turns += 1
        assert turns >= 3, "other tasks run in between"
        running.cancel()


async def test_exception_in_the_conversation_ends_run_and_the_timer() -> None:
    class Broken(Scripted):
        def handle(self, event: Event, now: float) -> list[Command]:
            if self.events:
                raise RuntimeError("a bug")
            return super().handle(event, now)

    recorder: Any = Recorder()
    conversation = Broken()
    conversation.at = asyncio.get_running_loop().time() + 0.02
    parts = dict.fromkeys(("transport", "audio", "tools", "agents", "light", "announcer", "alarms"), recorder)
    driver = Driver(conversation, **parts)
    driver.post(Started())
    driver.post(Started())
    with pytest.raises(RuntimeError, match="a bug"):
        await driver.run()
    before = repr(driver)
    await asyncio.sleep(0.05)
    assert repr(driver) == before, "no deadline is posted after the end"
