"""A day of an appliance in virtual time: turns at random times, random faults, nights, restarts.

Everything is real except the sound card and the speech engines: the driver, the conversation, the audio pumps and
rings, the tools, the store, WebSockets over TCP to a server beside the device, and the offline brain of the device. A
day takes a minute or two.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import random
import resource
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from appliance.brain.server import BrainServer
from appliance.conversation.commands import Announce, Command, Emit, Play, PlayEarcon
from appliance.conversation.events import Direction, Event
from appliance.conversation.notices import Error, TurnEnd, TurnStart
from appliance.conversation.support.feedback import State, View, light_state
from appliance.hardware.pins import open_pin_factory
from appliance.service import app
from appliance.service.app import Appliance
from appliance.settings import load_settings
from appliance.simulator.simulated_device import DEFAULT_PINS, SIMULATED
from tests.soak.mind import Mind
from tests.support.network import Network
from tests.support.rig import tone
from tests.support.virtual_card import VirtualCard
from tests.support.virtual_time import ThreadlessLoop, Wall

__all__ = ["Day", "Sample"]

_HOUR_S = 3600.0
_REST_LIMIT_S = 600.0
_TURN_LIMIT_S = 1200.0
_VISIT_LIMIT_S = 3 * _HOUR_S
_ITEMS = 60  # of the history: full after some 20 turns, so that a short soak shows what grows
_RESTING = {State.READY, State.OFFLINE, State.MUTED}
_SPEECH = {ms: tone(ms) for ms in (400, 1000, 2500)}
_UNANSWERED = {"failed", "refused"}


# --- what is measured ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """The process at rest."""

    at_h: float
    turns: int
    rss_mb: float
    blocks: int
    """Memory blocks of Python's allocator."""
    tasks: int
    fds: int
    objects: Counter[str] = field(repr=False)
    """Objects of the appliance's classes, by class."""

    @classmethod
    def take(cls, at_h: float, turns: int) -> Sample:
        gc.unfreeze()
        gc.collect()
        kinds = Counter(
            f"{type(one).__module__}.{type(one).__qualname__}"
            for one in gc.get_objects()
            if str(type(one).__module__).startswith("appliance.")
        )
        rss = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
        fds = len(list(Path("/proc/self/fd").iterdir()))
        return cls(at_h, turns, rss, sys.getallocatedblocks(), len(asyncio.all_tasks()), fds, kinds)


class _Log(logging.Handler):
    """Formats every line, and keeps those that report a bug."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.counts: Counter[str] = Counter()
        self.bugs: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        self.counts[record.levelname] += 1
        if (record.exc_info and "RuntimeError: the relay" not in text) or record.name == "asyncio":
            self.bugs.append(text)


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


# --- the day ---------------------------------------------------------------------------------------------------------


class Day:
    """One device, its owner, and what goes wrong.

    Args:
        loop: Runs it.
        wall: The clock that faults set.
        folder: For the device's files.
        seed: Of everything that is random.
        hours: Its length.
        turns_per_hour: On average while people are awake; at night there are few.
    """

    def __init__(
        self,
        loop: ThreadlessLoop,
        wall: Wall,
        folder: Path,
        *,
        seed: int,
        hours: float,
        turns_per_hour: float = 30.0,
    ) -> None:
        self._loop = loop
        self._wall = wall
        self._folder = folder
        self._random = random.Random(seed)
        self._ends_at = loop.time() + hours * _HOUR_S
        self._starts_at = loop.time()
        self._hours = hours
        self._gap_s = _HOUR_S / turns_per_hour
        self._card = VirtualCard(loop)
        self._factory: Any = open_pin_factory("mock")
        self._pin = self._factory.pin(17)
        self._cloud, self._offline = Mind(), Mind()
        self._network: Network
        self._appliance: Appliance | None = None
        self._view = View()
        self._changed = asyncio.Event()
        self._over = False
        self._fault = ""
        self._turn = ""
        self._signs = 0
        """Earcons, announcements and turns that began: what a press leads to."""
        self.log = _Log()
        self.presses = 0
        self.outcomes: Counter[str] = Counter()
        self.troubles: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.restarts = 0
        self.samples: list[Sample] = []
        self._recent: deque[str] = deque(maxlen=60)

    # --- running ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Live the day; raises AssertionError for a turn without an outcome or a state without an end."""
        logger = logging.getLogger("appliance")
        level, logger.propagate = logger.level, False
        logger.setLevel(logging.INFO)
        for name in ("appliance", "asyncio"):
            logging.getLogger(name).addHandler(self.log)
        try:
            async with AsyncExitStack() as stack:
                patch = stack.enter_context(pytest.MonkeyPatch.context())
                patch.setattr(app, "open_pipeline", lambda *_, **__: self._offline)
                policy_from = app.policy_from
                patch.setattr(
                    app,
                    "policy_from",
                    lambda *given, **named: replace(policy_from(*given, **named), max_history=_ITEMS),
                )
                server = await stack.enter_async_context(BrainServer(self._cloud))
                self._network = await stack.enter_async_context(Network(server.port))
                await self._device_and_owner()
        except AssertionError as exc:
            exc.add_note(f"at {self._hour:.3f} h, fault {self._fault or 'none'}, view {self._view}")
            exc.add_note("\n".join(self._recent))
            raise
        finally:
            for name in ("appliance", "asyncio"):
                logging.getLogger(name).removeHandler(self.log)
            logger.setLevel(level)
            logger.propagate = True

    async def _device_and_owner(self) -> None:
        device = asyncio.create_task(self._device(), name="the device")
        owner = asyncio.create_task(self._live(), name="the owner")
        try:
            await asyncio.wait({device, owner}, return_when=asyncio.FIRST_COMPLETED)
            await (device if device.done() else owner)
            assert owner.done(), "the device has stopped"
            self._over = True
            assert self._appliance is not None
            self._appliance.stop("the day is over")
            async with asyncio.timeout(60.0):
                await device
        finally:
            for one in (device, owner):
                one.cancel()
            await asyncio.gather(device, owner, return_exceptions=True)

    async def _device(self) -> None:
        while not self._over:
            settings = load_settings(
                None,
                {},
                None,
                overrides={
                    **SIMULATED,
                    **DEFAULT_PINS,
                    "link.base_url": f"ws://127.0.0.1:{self._network.port}/v1",
                    "button.mode": "hold",
                    "audio.announcements": False,
                    "assistant.tools": "tests.soak.mind:TOOLS",
                    "history.persist": True,
                    "history.max_items": _ITEMS,
                    "light.quiet_hours": "22:00-07:00",
                    "audio.night_hours": "22:00-07:00",
                    "budget.daily_minutes": 1440.0,
                },
            )
            device = Appliance(
                settings, environ={}, backend=self._card, pin_factory=self._factory, state_dir=self._folder
            )
            device.observe(self._see)
            self._appliance = device
            await device.run()
            self._view = View()
            self.restarts += not self._over

    def _see(self, now: float, event: Event, commands: Sequence[Command], view: View) -> None:
        if view != self._view:
            self._recent.append(f"{self._hour:.4f} h {light_state(view)} {view.state}")
        self._view = view
        for command in commands:
            match command:
                case Emit(notice=TurnStart(turn=turn)):
                    self._turn = turn
                    self._signs += 1
                case Emit(notice=TurnEnd() as ended):
                    self._end_turn(ended, commands)
                case Emit(notice=Error(kind=kind, detail=detail)):
                    self._recent.append(f"{self._hour:.4f} h trouble {kind}: {detail}")
                    self.troubles[kind] += 1
                case PlayEarcon() | Announce():
                    self._signs += 1
                case _:
                    pass
        if commands and any(isinstance(one, (PlayEarcon, Announce, Play)) for one in commands):
            self._card.wake(4.0)
        self._changed.set()

    def _end_turn(self, ended: TurnEnd, commands: Sequence[Command]) -> None:
        self._recent.append(f"{self._hour:.4f} h {ended.turn} {ended.outcome}")
        assert ended.turn == self._turn, f"{ended.turn} ends, but {self._turn or 'no turn'} runs"
        self._turn = ""
        self.outcomes[ended.outcome] += 1
        if ended.outcome in _UNANSWERED:
            said = [one for one in commands if isinstance(one, (PlayEarcon, Announce))]
            assert said, f"{ended.turn} {ended.outcome}, and the user is not told"

    def report(self) -> str:
        """Return what happened as a table."""
        lines = [
            f"{self._hours:g} h, {self.presses} spoken presses, {sum(self.outcomes.values())} turns, "
            f"{self.restarts} restarts",
            f"outcomes  {_counts(self.outcomes)}",
            f"faults    {_counts(self.faults)}",
            f"troubles  {_counts(self.troubles)}",
            f"log       {_counts(self.log.counts)}",
            f"{'hour':>6} {'turns':>6} {'RSS MB':>7} {'blocks':>8} {'objects':>8} {'tasks':>6} {'fds':>4}",
        ]
        lines += [
            f"{one.at_h:6.1f} {one.turns:6} {one.rss_mb:7.1f} {one.blocks:8} {one.objects.total():8} {one.tasks:6} "
            f"{one.fds:4}"
            for one in self.samples
        ]
        return "\n".join(lines)

    # --- the owner --------------------------------------------------------------------------------------------------

    @property
    def _hour(self) -> float:
        return (self._loop.time() - self._starts_at) / _HOUR_S

    async def _live(self) -> None:
        await self._until_rest()
        quarter = 0
        while self._loop.time() < self._ends_at:
            is_night = self._hour % 24 >= 16
            gap_s = self._random.expovariate(1 / (self._gap_s * (12 if is_night else 0.8)))
            for pin in self._factory.pins.values():
                pin.clear_states()  # a mock pin keeps each change
            await asyncio.sleep(min(gap_s + 3.0, self._ends_at - self._loop.time() + 1.0))
            await self._visit()
            await self._until_rest()
            if self._hour >= quarter * self._hours / 4:
                quarter = int(4 * self._hour / self._hours) + 1
                await asyncio.sleep(120.0)
                await self._until(lambda: self._is_at_rest() and self._view.endpoint == 0, _REST_LIMIT_S, "rest")
                self.samples.append(Sample.take(self._hour, sum(self.outcomes.values())))

    async def _visit(self) -> None:
        """Do something with the device, perhaps while something goes wrong."""
        self._card.wake(3.0)
        await asyncio.sleep(2.0)
        is_fine = self._random.random() < 0.5
        name = "" if is_fine else self._random.choice(list(_FAULTS))
        self._fault = name
        if is_fine:
            await self._speak("speak")
            assert self._view.state in _RESTING, f"a turn without a fault did not end: {self._view}"
        else:
            self.faults[name] += 1
            async with asyncio.timeout(_VISIT_LIMIT_S):
                await _FAULTS[name](self)
        self._fault = ""

    async def _speak(self, plan: str = "speak", *, ms: int = 0) -> str:
        """Hold the button, speak, and wait for the end of the turn; return its outcome."""
        self._cloud.plan = self._offline.plan = plan
        before, signs = self.outcomes.copy(), self._signs
        sounding = self._card.sounding
        self.presses += 1
        self._card.wake(8.0)
        self._pin.drive_low()
        await asyncio.sleep(0.3)
        self._card.microphone.say(_SPEECH[ms or self._random.choice(list(_SPEECH))])
        while not self._card.microphone.is_quiet and "capture" not in self._card.unplugged | self._card.hanging:
            self._card.wake(2.0)
            await asyncio.sleep(0.05)
        self._card.silence()
        await asyncio.sleep(0.2)
        self._pin.drive_high()
        self._card.wake(4.0)
        await asyncio.sleep(1.0)
        assert self._signs > signs, "a press had no effect"
        await self._until(lambda: not self._turn, _TURN_LIMIT_S, "the end of the turn")
        ended = self.outcomes - before
        outcome = next(iter(ended), "none")
        if not self._fault:
            assert outcome == "answered", f"a turn without a fault was {outcome}"
        if outcome == "answered" and "playback" not in self._card.unplugged | self._card.hanging:
            assert self._card.sounding - sounding > 20, "an answer was not heard"
        return outcome

    async def _until_rest(self) -> None:
        await self._until(self._is_at_rest, _REST_LIMIT_S, "rest")

    def _is_at_rest(self) -> bool:
        is_quiet = light_state(self._view) in {"ready", "muted", "timer"} and not self._turn
        return self._view.state in _RESTING and is_quiet and self._view.endpoint is not None

    async def _until(self, holds: Callable[[], bool], limit_s: float, what: str) -> None:
        try:
            async with asyncio.timeout(limit_s):
                while not holds():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"no {what} within {limit_s:.0f} s: {self._view}") from None

    # --- what goes wrong ----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _meanwhile(self, fault: Callable[[], Any]) -> AsyncIterator[None]:
        """Let a fault begin within ten seconds of the block's start, and wait for its end."""

        async def strike() -> None:
            await asyncio.sleep(self._random.uniform(0.0, 10.0))
            self._card.wake(4.0)
            await fault()

        task = asyncio.create_task(strike(), name="fault")
        try:
            yield
        finally:
            await task

    async def link_cut(self) -> None:
        async def cut() -> None:
            self._network.cut()

        async with self._meanwhile(cut):
            await self._speak()

    async def link_down(self) -> None:
        async def away() -> None:
            self._network.is_down = True
            self._network.cut()
            await asyncio.sleep(self._random.choice((1.0, 20.0, 300.0)))
            self._network.is_down = False

        async with self._meanwhile(away):
            await self._speak()
            await self._speak()

    async def link_stalled(self) -> None:
        async def stall() -> None:
            self._network.stall()
            await asyncio.sleep(self._random.choice((2.0, 8.0, 45.0)))
            self._network.flow()

        async with self._meanwhile(stall):
            await self._speak()

    async def _card_fault(self, faulty: set[Direction]) -> None:
        directions: list[set[Direction]] = [{"capture"}, {"playback"}, {"capture", "playback"}]
        chosen = self._random.choice(directions)

        async def fail() -> None:
            faulty.update(chosen)
            for _ in range(self._random.choice((1, 5, 20))):
                self._card.wake(4.0)
                await asyncio.sleep(1.0)
            faulty.clear()
            self._card.wake(10.0)

        async with self._meanwhile(fail):
            await self._speak()

    async def card_unplugged(self) -> None:
        await self._card_fault(self._card.unplugged)

    async def card_hangs(self) -> None:
        await self._card_fault(self._card.hanging)

    async def answer_slow(self) -> None:
        await self._speak("slow")

    async def answer_late(self) -> None:
        await self._speak("late")

    async def answer_fails(self) -> None:
        await self._speak("fail")

    async def answer_empty(self) -> None:
        await self._speak("empty")

    async def tool_slow(self) -> None:
        assert await self._speak("slow") == "answered"

    async def tool_fails(self) -> None:
        assert await self._speak("broken") == "answered"

    async def timer_rings(self) -> None:
        await self._speak("set_timer")
        await asyncio.sleep(150.0)

    async def _approval(self, held_s: float) -> None:
        async def decide() -> None:
            await self._until(lambda: self._view.state is State.AWAITING_APPROVAL, 60.0, "question")
            if held_s:
                await asyncio.sleep(1.0)
                await self._touch(held_s)

        answer = asyncio.create_task(decide())
        await self._speak("unlock")
        await answer

    async def call_approved(self) -> None:
        await self._approval(0.15)

    async def call_rejected(self) -> None:
        await self._approval(1.5)

    async def call_ignored(self) -> None:
        await self._approval(0.0)

    async def interrupted(self) -> None:
        async def press() -> None:
            await self._touch(0.9)

        async with self._meanwhile(press):
            await self._speak()
        await self._until(lambda: not self._turn, _TURN_LIMIT_S, "the end of the second turn")

    async def spikes(self) -> None:
        for _ in range(5):
            await self._touch(self._random.choice((0.002, 0.008, 0.02)))
            await asyncio.sleep(0.3)
        await self._until(lambda: not self._turn, 60.0, "the end of a spike")

    async def nothing_said(self) -> None:
        await self._touch(3.0)
        await self._until(lambda: not self._turn, 60.0, "the end of a silent turn")

    async def muted(self) -> None:
        device = self._appliance
        assert device is not None
        device.toggle_mute("the owner")
        await self._until(lambda: self._view.is_muted, 5.0, "mute")
        await self._touch(1.0)
        await asyncio.sleep(self._random.choice((5.0, 900.0)))
        device.toggle_mute("the owner")
        await self._until(lambda: not self._view.is_muted, 5.0, "end of the mute")
        await asyncio.sleep(1.0)
        await self._speak()

    async def disk_full(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        try:
            await self._speak()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    async def clock_set(self) -> None:
        ahead_s = self._random.choice((-7200.0, -30.0, 30.0, 7200.0, 86_400.0))
        self._wall.set_forward(ahead_s)
        await self._speak()
        self._wall.set_forward(-ahead_s)
        await self._speak()

    async def suspended(self) -> None:
        """The process is stopped for a time, in the middle of a turn."""

        async def stop() -> None:
            self._loop.now += self._random.choice((1.0, 10.0, 120.0))

        async with self._meanwhile(stop):
            await self._speak()

    async def long_silence(self) -> None:
        await asyncio.sleep(self._random.uniform(1800.0, 5400.0))
        self._card.wake(5.0)
        await asyncio.sleep(3.0)
        await self._until_rest()
        await self._speak()

    async def restarted(self) -> None:
        before = self.restarts
        assert self._appliance is not None, "the device does not run"
        self._appliance._restart.ask("a setting changed")
        await self._until(lambda: self.restarts > before, 60.0, "restart")
        await self._until_rest()
        self._card.wake(5.0)
        await asyncio.sleep(3.0)
        await self._speak()

    async def _touch(self, seconds: float) -> None:
        self._card.wake(seconds + 4.0)
        self._pin.drive_low()
        await asyncio.sleep(seconds)
        self._pin.drive_high()
        await asyncio.sleep(0.1)


_FAULTS: Mapping[str, Callable[[Day], Any]] = {
    name: method
    for name, method in vars(Day).items()
    if inspect.iscoroutinefunction(method) and not name.startswith("_") and name != "run"
}
"""What goes wrong, by name."""
