"""The driver: one inbox → `Conversation.handle` → dispatch. It makes no decisions.

Every adapter posts events into one FIFO on the loop's thread; the driver passes them to the conversation one by one
and dispatches the commands synchronously, in order. No dispatch awaits: slow work runs in a task of its adapter, which
posts the result as an event. The light and the observers see the state after each event.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol, assert_never

from appliance.conversation.commands import (
    Announce,
    CancelTool,
    CheckApproval,
    CheckText,
    CloseCapture,
    Command,
    Connect,
    Disconnect,
    Earcon,
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
from appliance.conversation.events import AudioCaptured, DeadlinePassed, Event, PlayoutProgress
from appliance.conversation.machine import Conversation
from appliance.conversation.support.feedback import View, light_state
from appliance.realtime.transports import RunningTransport

__all__ = ["Agents", "AlarmSink", "Announcer", "AudioDevice", "Driver", "LightOutput", "Observer", "Tools"]

log = logging.getLogger(__name__)

_YIELD_EVERY = 8  # events; so a burst does not starve the sockets and the pumps
_SHORTEST_WAIT_S = 0.005  # so a deadline that stays in the past does not spin the loop

Observer = Callable[[float, Event, Sequence[Command], View], None]
"""Called on the loop after each event with (now, event, commands, view). MUST be quick and MUST NOT raise."""


class AudioDevice(Protocol):
    """The sound card. Commands of a stale epoch MUST be dropped.

    ``listen`` is called when `Conversation.listens_since` becomes a time: a microphone MUST then post what it heard
    since that time, after its pre-roll. It is called again when that becomes None: a microphone SHOULD post nothing.
    """

    def play(self, epoch: int, item_id: str, pcm: bytes) -> None: ...
    def finish(self, epoch: int) -> None: ...
    def flush(self, epoch: int) -> None: ...
    def earcon(self, epoch: int, name: Earcon) -> None: ...
    def open_capture(self) -> None: ...
    def close_capture(self) -> None: ...
    def listen(self, since: float | None) -> None: ...


class Tools(Protocol):
    """Runs tools.

    Each ``run_tool`` MUST be answered by exactly one ``ToolFinished``, each ``check_approval`` by one
    ``ApprovalChecked``.
    """

    def run_tool(self, command: RunTool) -> None: ...
    def check_approval(self, command: CheckApproval) -> None: ...
    def cancel(self, call_id: str) -> None: ...


class Agents(Protocol):
    """Calls application functions; each request MUST be answered by exactly one event with its key."""

    def prepare_agent(self, command: PrepareAgent) -> None: ...
    def check_text(self, command: CheckText) -> None: ...


class LightOutput(Protocol):
    """Shows a light state (`conversation.support.feedback.light_state`), given by name, in any way it likes."""

    def show(self, state: str) -> None: ...


class Announcer(Protocol):
    """Speaks for the device itself."""

    def announce(self, command: Announce) -> None: ...


class AlarmSink(Protocol):
    def silence(self, alarm_id: str) -> None: ...


class Driver:
    """Owns the inbox and the deadline timer of one conversation; lives on one event loop."""

    def __init__(
        self,
        conversation: Conversation,
        *,
        transport: RunningTransport,
        audio: AudioDevice,
        tools: Tools,
        agents: Agents,
        light: LightOutput,
        announcer: Announcer,
        alarms: AlarmSink,
        observers: Sequence[Observer] = (),
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._conversation = conversation
        self._transport = transport
        self._audio = audio
        self._tools = tools
        self._agents = agents
        self._light = light
        self._announcer = announcer
        self._alarms = alarms
        self._observers = list(observers)
        self._clock = clock
        self._inbox: deque[tuple[float, Event]] = deque()
        self._arrived = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None
        self._view: View | None = None
        self._shown = ""
        self._is_listening = False
        self._stop_reason: str | None = None
        self.handled = 0
        """Events handled so far; the watchdog checks that it changes."""

    def __repr__(self) -> str:
        return f"<Driver {len(self._inbox)} waiting, {self.handled} handled, {self._conversation!r}>"

    def post(self, event: Event) -> None:
        """Append an event to the inbox; on the loop's thread only."""
        self._inbox.append((self._now(), event))
        self._arrived.set()

    def observe(self, observer: Observer) -> None:
        """Add an observer, starting with the next event."""
        self._observers.append(observer)

    @property
    def is_busy(self) -> bool:
        """Whether events wait in the inbox."""
        return bool(self._inbox)

    @property
    def lag_s(self) -> float:
        """Age of the oldest event in the inbox; 0 when it is empty."""
        return self._now() - self._inbox[0][0] if self._inbox else 0.0

    async def run(self) -> str:
        """Handle events until the conversation returns ``Stop``.

        Returns:
            The reason given by ``Stop``.
        """
        try:
            while self._stop_reason is None:
                if not self._inbox:
                    self._arrived.clear()
                    await self._arrived.wait()
                self._handle(self._inbox.popleft()[1])
                self.handled += 1
                if self.handled % _YIELD_EVERY == 0:
                    await asyncio.sleep(0)
        finally:
            if self._timer is not None:
                self._timer.cancel()
        return self._stop_reason

    def _now(self) -> float:
        return self._clock() if self._clock is not None else asyncio.get_running_loop().time()

    def _handle(self, event: Event) -> None:
        now = self._now()
        commands = self._conversation.handle(event, now)
        if log.isEnabledFor(logging.DEBUG) and (commands or not isinstance(event, (AudioCaptured, PlayoutProgress))):
            log.debug("%r -> %r", event, commands)
        for command in commands:
            self._dispatch(command)
        self._listen()
        self._show(now, event, commands)
        self._set_timer(now)

    def _listen(self) -> None:
        since = self._conversation.listens_since
        if self._is_listening != (since is not None):
            self._is_listening = since is not None
            self._audio.listen(since)

    def _show(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        view = self._conversation.view
        if view != self._view:
            self._view = view
            if (light := light_state(view)) != self._shown:
                self._shown = light
                self._light.show(light)
        for observer in self._observers:
            observer(now, event, commands, view)

    def _set_timer(self, now: float) -> None:
        at = self._conversation.deadline
        if at == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        if at is not None:
            self._timer = asyncio.get_running_loop().call_later(max(at - now, _SHORTEST_WAIT_S), self._on_timer)

    def _on_timer(self) -> None:
        self._timer_at = None
        self.post(DeadlinePassed())

    def _dispatch(self, command: Command) -> None:
        match command:
            case Send():
                self._transport.send(command.link, command.event)
            case Play():
                self._audio.play(command.epoch, command.item_id, command.pcm)
            case FinishPlay():
                self._audio.finish(command.epoch)
            case FlushPlayback():
                self._audio.flush(command.epoch)
            case PlayEarcon():
                self._audio.earcon(command.epoch, command.name)
            case Announce():
                self._announcer.announce(command)
            case RunTool():
                self._tools.run_tool(command)
            case CheckApproval():
                self._tools.check_approval(command)
            case PrepareAgent():
                self._agents.prepare_agent(command)
            case CheckText():
                self._agents.check_text(command)
            case CancelTool():
                self._tools.cancel(command.call_id)
            case Connect():
                self._transport.connect(command.link, command.endpoint)
            case Disconnect():
                self._transport.disconnect(command.link)
            case OpenCapture():
                self._audio.open_capture()
            case CloseCapture():
                self._audio.close_capture()
            case SilenceAlarm():
                self._alarms.silence(command.alarm_id)
            case Emit() | PowerOff():
                pass  # for the observers
            case Stop():
                self._stop_reason = command.reason
            case _:
                assert_never(command)
