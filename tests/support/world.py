"""The world around a conversation, with `brain.model` as the server: everything late, nothing lost, or lost for real.

Frames wait in two channels (up: client to server, down: server to client) until somebody delivers them; the server
generates only when told to; the loudspeaker plays only when time passes. Each response speaks samples whose value is
the number of the turn it answers, so whatever is played says where it came from.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter, deque
from dataclasses import dataclass, field

from appliance.brain import model as server_side
from appliance.conversation.commands import (
    Command,
    Connect,
    Disconnect,
    Emit,
    FlushPlayback,
    Play,
    RunTool,
    Send,
    TurnEnded,
)
from appliance.conversation.events import (
    AudioCaptured,
    ButtonEdge,
    DeadlinePassed,
    Event,
    LinkDown,
    LinkUp,
    PlayoutProgress,
    ServerEventReceived,
    Started,
    ToolFinished,
)
from appliance.conversation.feedback import State, light_state
from appliance.conversation.machine import Conversation
from appliance.conversation.roster import Brief
from appliance.conversation.turn import Policy
from appliance.realtime import protocol as wire
from tests.support.oracle import check_client_frame

SESSION = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
PERIOD = 480
PERIOD_S = 0.02

LIGHT_OF_STATE = {
    State.BOOTING: {"booting"},
    State.CONNECTING: {"connecting", "no_link", "error"},
    State.READY: {"ready", "error"},
    State.LISTENING: {"listening", "no_link"},
    State.COMMITTING: {"thinking", "no_link"},
    State.THINKING: {"thinking", "no_link"},
    State.SPEAKING: {"speaking", "no_link"},
    State.OFFLINE: {"no_link", "connecting", "error"},
    State.FAILED: {"failed"},
}
"""Written down a second time, by hand: what the light may show in each state of these runs."""

BENIGN_ERRORS = {"response_cancel_not_active", "conversation_already_has_active_response"}


def samples(value: int, frames: int = PERIOD) -> bytes:
    return array("h", [value] * frames).tobytes()


@dataclass
class Server:
    """One connection's far end."""

    link: int
    model: server_side.ServerModel
    up: deque[str] = field(default_factory=deque)
    down: deque[str] = field(default_factory=deque)
    generating: dict[str, int] = field(default_factory=dict)
    """response id → number of the turn it answers."""
    unheard: list[str] = field(default_factory=list)
    created: Counter[str] = field(default_factory=Counter)
    is_greeted: bool = False


class World:
    """Drives a real `Conversation` against real `ServerModel`s and checks what must always hold."""

    def __init__(self, conversation: Conversation | None = None) -> None:
        policy = Policy(button_mode="hold", link_wait_s=600.0, commit_s=60.0, answer_s=600.0, connect_s=60.0)
        self.conversation = conversation or Conversation(
            policy=policy, briefs=[Brief(agent="assistant", session=SESSION)]
        )
        self.now = 50.0
        self.server: Server | None = None
        self.asked_link: int | None = None
        self.is_pressed = False
        self.epoch = 0
        self.queue: deque[int] = deque()
        """Frames of each Play of this epoch that are not played yet."""
        self.played = 0
        self.capture_count = 0
        self.may_be_sent: set[int] = set()
        """Numbers of the captured periods that were heard while listening, or just before a press."""
        self.recent: deque[int] = deque(maxlen=16)
        self.running_tools: list[str] = []
        self.outcomes: list[str] = []
        self.played_turns: list[str] = []
        self.do(Started())
        self.advance(2.0)

    # --- the client side -----------------------------------------------------------------------------------------

    def do(self, event: Event) -> None:
        before = self.conversation.state
        commands = self.conversation.handle(event, self.now)
        if before is not State.LISTENING and self.conversation.state is State.LISTENING:
            self.may_be_sent.update(self.recent)
        for command in commands:
            self._take(command)
        self.check()

    def _take(self, command: Command) -> None:
        match command:
            case Connect():
                self.asked_link = command.link
            case Disconnect():
                self._drop(command.link)
            case Send():
                self._send(command)
            case Play():
                self._play(command)
            case FlushPlayback():
                self.epoch = command.epoch
                self.queue.clear()
                self.played = 0
            case RunTool():
                self.running_tools.append(command.call_id)
            case Emit(notice=TurnEnded(outcome=outcome)):
                self.outcomes.append(outcome)
            case _:
                pass

    def _send(self, command: Send) -> None:
        server = self.server
        assert server is not None and command.link == server.link, "sent on a link that is not there"
        if isinstance(command.event, wire.InputAudioBufferAppend):
            number = int.from_bytes(command.event.audio[:2], "little")
            assert number in self.may_be_sent, f"period {number} was sent though nobody was talking"
        else:
            check_client_frame(command.event.to_wire())
        server.up.append(command.event.encode())

    def _play(self, command: Play) -> None:
        if command.epoch != self.epoch:
            return
        turn = f"turn_{int.from_bytes(command.pcm[:2], 'little')}"
        assert turn == self.conversation.turn_id, f"audio of {turn} is played in {self.conversation.turn_id}"
        self.played_turns.append(turn)
        self.queue.append(len(command.pcm) // 2)

    def _drop(self, link: int) -> None:
        if self.server is not None and self.server.link == link:
            self.server = None
        if self.asked_link == link:
            self.asked_link = None

    # --- invariants ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        state = self.conversation.state
        if not state.is_resting:
            assert self.conversation.deadline is not None, f"{state} has no deadline"
        light = light_state(self.conversation.view)
        assert light in LIGHT_OF_STATE[state], f"the light shows {light} in state {state}"
        if self.server is not None:
            for turn, count in self.server.created.items():
                assert count == 1, f"{count} responses were begun for {turn} on one connection"

    # --- actions -------------------------------------------------------------------------------------------------

    def press(self) -> None:
        self.is_pressed = True
        self.do(ButtonEdge(True))

    def release(self) -> None:
        self.is_pressed = False
        self.do(ButtonEdge(False))

    def hear(self, periods: int) -> None:
        for _ in range(periods):
            self.advance(PERIOD_S)
            self.capture_count += 1
            number = self.capture_count % 30_000 + 10
            if self.conversation.state is State.LISTENING:
                self.may_be_sent.add(number)
            self.recent.append(number)
            self.do(AudioCaptured(samples(number), 4000, -20.0))

    def advance(self, seconds: float) -> None:
        """Let time pass: deadlines fire at their instants, the loudspeaker plays."""
        end = self.now + seconds
        for _ in range(100_000):
            self._play_some(min(seconds, PERIOD_S))
            at = self.conversation.deadline
            step = min(end, self.now + PERIOD_S)
            if at is not None and at <= step:
                self.now = max(self.now, at)
                self.do(DeadlinePassed())
            elif self.now >= end:
                return
            else:
                self.now = step
        raise AssertionError("time does not pass")

    def _play_some(self, seconds: float) -> None:
        budget = int(seconds * wire.SAMPLE_RATE)
        played = self.played
        while budget and self.queue:
            part = min(budget, self.queue[0])
            self.queue[0] -= part
            budget -= part
            self.played += part
            if not self.queue[0]:
                self.queue.popleft()
        if self.played != played:
            self.do(PlayoutProgress(self.epoch, self.played, not self.queue))

    def accept(self) -> None:
        """The server accepts the connection that was asked for."""
        if self.asked_link is None:
            return
        model = server_side.ServerModel(session_id="sess_1", model="any", now=self.now, wait_for_transcripts=False)
        self.server = Server(self.asked_link, model)
        self.asked_link = None
        self.do(LinkUp(self.server.link))
        if self.server is not None:
            self._effects(self.server, model.connect(self.now))

    def refuse(self) -> None:
        if self.asked_link is not None:
            link, self.asked_link = self.asked_link, None
            self.do(LinkDown(link, None, "connection refused"))

    def lose(self) -> None:
        if self.server is not None:
            link, self.server = self.server.link, None
            self.do(LinkDown(link, 1006, ""))

    def deliver_up(self, count: int) -> None:
        for _ in range(count):
            server = self.server
            if server is None or not server.up:
                return
            self._effects(server, server.model.receive(server.up.popleft(), self.now))

    def deliver_down(self, count: int) -> None:
        for _ in range(count):
            server = self.server
            if server is None or not server.down:
                return
            self.do(ServerEventReceived(server.link, wire.decode(server.down.popleft())))

    def _effects(self, server: Server, effects: list[server_side.Effect]) -> None:
        for effect in effects:
            match effect:
                case server_side.Emit():
                    self._emitted(server, effect.frame)
                case server_side.Generate():
                    turn = effect.request.metadata["turn"]
                    server.generating[effect.response_id] = int(turn.removeprefix("turn_"))
                case server_side.StopGenerating():
                    server.generating.pop(effect.response_id, None)
                case server_side.Transcribe():
                    server.unheard.append(effect.item_id)
                case server_side.Close():
                    raise AssertionError(f"the server closes: {effect}")

    def _emitted(self, server: Server, frame: dict[str, object]) -> None:
        if frame["type"] == "response.created":
            response = frame["response"]
            assert isinstance(response, dict)
            server.created[response["metadata"]["turn"]] += 1
        if frame["type"] == "error":
            error = frame["error"]
            assert isinstance(error, dict)
            assert error["code"] in BENIGN_ERRORS, f"the client broke the protocol: {error}"
        server.down.append(json.dumps(frame))

    def generate(self, periods: int) -> None:
        """The oldest response speaks so many periods more."""
        server = self.server
        if server is not None and server.generating:
            response_id, turn = next(iter(server.generating.items()))
            self._effects(server, server.model.response_audio(response_id, "word ", samples(turn, PERIOD * periods)))

    def finish_generation(self) -> None:
        server = self.server
        if server is not None and server.generating:
            response_id = next(iter(server.generating))
            server.generating.pop(response_id)
            self._effects(server, server.model.finish_response(response_id, now=self.now))

    def transcribe(self) -> None:
        server = self.server
        if server is not None and server.unheard:
            self._effects(server, server.model.transcribed(server.unheard.pop(0), "some words"))

    def finish_tool(self) -> None:
        if self.running_tools:
            self.do(ToolFinished(self.running_tools.pop(0), "{}"))

    # --- the end -------------------------------------------------------------------------------------------------

    def quiesce(self) -> None:
        """Deliver everything and let time pass: the appliance must come to rest, ready."""
        if self.is_pressed:
            self.release()
        for _ in range(400):
            self.accept()
            self.deliver_up(10_000)
            self.transcribe()
            self.generate(3)
            self.finish_generation()
            self.deliver_down(10_000)
            self.hear(5)
            if self.conversation.state is State.READY and self._is_idle():
                return
        raise AssertionError(f"not ready in the end: {self.conversation!r}, server {self.server}")

    def _is_idle(self) -> bool:
        server = self.server
        is_quiet = server is not None and not (server.up or server.down or server.generating)
        return is_quiet and light_state(self.conversation.view) == "ready"
