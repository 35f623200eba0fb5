"""Simulates everything around a conversation, with `brain.model` as the server; steps may be late, links may break.

Each connection has two channels of frames (up: client to server, down: server to client); a frame waits there until the
test delivers it. The server generates, and the user's functions (tools, predicates, instructions, guardrails) return,
only when the test calls for it. The loudspeaker plays only when time passes. There may be two connections at once: the
main one and a standby.

The server may be slow: it then takes requests for responses, and creates them later. It may speak another `Dialect`. On
the same session somebody else may request responses, too: *foreign* ones. *Stray* frames are of responses that do not
exist.

Each response speaks 40 ms of audio per character of its text, the fastest speech that the guard assumes. The samples of
such a block alternate between the number of the answered turn and the number of the block, so that no two are equal.
"""

from __future__ import annotations

import base64
import json
from array import array
from collections import Counter, deque
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from appliance.agents.spec import AgentSpec, HandoffCard, ToolCard
from appliance.brain import model as server_side
from appliance.conversation.commands import (
    Announce,
    CancelTool,
    CheckApproval,
    CheckText,
    Command,
    Connect,
    Disconnect,
    Emit,
    FlushPlayback,
    Play,
    PrepareAgent,
    RunTool,
    Send,
    Sentence,
    Stop,
)
from appliance.conversation.events import (
    AgentPrepared,
    ApprovalAnswered,
    ApprovalChecked,
    AudioCaptured,
    ButtonEdge,
    DeadlinePassed,
    Event,
    FrameRefused,
    GuardrailsChecked,
    InterruptAsked,
    LinkDown,
    LinkUp,
    MessageGiven,
    PlayoutProgress,
    ServerEventReceived,
    ShutdownRequested,
    Started,
    ToolFinished,
)
from appliance.conversation.machine import Conversation
from appliance.conversation.notices import Connected, Guardrail, Notice, ToolApproval, ToolEnd, TurnEnd, TurnStart
from appliance.conversation.policy import Policy
from appliance.conversation.support.feedback import State, light_state
from appliance.errors import RemoteProtocolError
from appliance.realtime import protocol as wire
from tests.support.dialect import Dialect, Rewriter, stray_frames
from tests.support.oracle import check_client_frame
from tests.support.stage import RESTING

PERIOD = 480
PERIOD_S = 0.02
BLOCK = 960
"""Frames per character: the guard assumes at most 25 characters per second."""
TAP_S = 0.3

LIGHT_OF_STATE = {
    State.BOOTING: {"booting"},
    State.CONNECTING: {"connecting", "no_link", "error"},
    State.READY: {"ready", "error"},
    State.LISTENING: {"listening", "no_link"},
    State.COMMITTING: {"thinking", "no_link"},
    State.THINKING: {"thinking", "no_link"},
    State.SPEAKING: {"speaking", "no_link"},
    State.AWAITING_APPROVAL: {"approval"},
    State.OFFLINE: {"no_link", "connecting", "error"},
    State.FAILED: {"failed"},
}
"""Light states allowed in each state of these runs; written by hand, independently of the code under test."""

BENIGN_ERRORS = {"response_cancel_not_active", "conversation_already_has_active_response"}
COMPARED = ("message", "function_call", "function_call_output")
CALL_AND_OUTPUT = ("function_call", "function_call_output")
MOST_RUNNING = 4
"""Fewer than the server allows: the responses of others must not use up our own."""
ASK = '"type":"response.create"'
FILLER = "so it goes on and on "


def samples(value: int, frames: int = PERIOD) -> bytes:
    return value.to_bytes(2, "little", signed=True) * frames


def received(link: int, raw: str) -> Event:
    """Return the event that a transport posts for a frame."""
    try:
        return ServerEventReceived(link, wire.decode(raw))
    except RemoteProtocolError as problem:
        return FrameRefused(link, str(problem))


# --- the agents --------------------------------------------------------------------------------------------------

APPROVALS = {
    "ann": {"note": "never", "unlock": "always", "pay": "asked", "search": "never"},
    "bob": {"note": "always", "unlock": "always", "pay": "asked", "search": "never"},
}
"""Approval rule of each agent's tools, also used by the checks. "note" has a different rule in each agent."""
OTHER = {"ann": "bob", "bob": "ann"}
GUARDED = {"ann"}


def spec(agent: str, version: int = 1) -> AgentSpec:
    """Return one of the two agents: bob has dynamic instructions, ann has an output guardrail."""
    names = [*APPROVALS[agent], f"transfer_to_{OTHER[agent]}"]
    tools = [{"type": "function", "name": name, "parameters": {"type": "object"}} for name in names]
    session = {
        "type": "realtime",
        "instructions": f"You are {agent}. Version {version}.",
        "tools": tools,
        "audio": {
            "input": {"turn_detection": None, "transcription": {"model": "whisper-1"}},
            "output": {"voice": {"ann": "marin", "bob": "cedar"}[agent]},
        },
    }
    cards = (
        ToolCard(name=name, approval=approval, is_cancellable=name == "search")  # type: ignore[arg-type]
        for name, approval in APPROVALS[agent].items()
    )
    first = "Bob here." if agent == "ann" else ""
    return AgentSpec(
        agent=agent,
        session=session,
        tools=tuple(cards),
        handoffs=(HandoffCard(name=names[-1], agent=OTHER[agent], first_sentence=first),),
        has_output_guardrails=agent in GUARDED,
        is_asked_at_connect=agent == "bob",
        is_asked_at_turn=agent == "bob",
    )


def agent_of(instructions: str) -> str:
    return instructions.removeprefix("You are ").partition(".")[0]


# --- the server side ---------------------------------------------------------------------------------------------


@dataclass
class Speech:
    """One message of a response: its text, and how many characters were sent as text and as audio."""

    response: Response
    plan: str
    texted: int = 0
    voiced: int = 0
    audio: bytearray = field(default_factory=bytearray, repr=False)
    """All audio so far."""
    delivered: int = 0
    """Bytes of it that the client has received."""
    played: int = 0
    """Bytes of it that the client has played."""

    @property
    def bad_at(self) -> int:
        """Index of the first character that must not be heard."""
        found = self.plan.find("BAD")
        return found if found >= 0 else len(self.plan)


@dataclass
class Response:
    """Test state of one response; a foreign one has turn 0."""

    id: str
    turn: int
    event_id: str
    """The request that it answers."""
    agent: str
    tools: list[str]
    open_speech: Speech | None = None
    calls: list[str] = field(default_factory=list)
    is_tripped: bool = False
    is_cancelled: bool = False
    """The client has cancelled it."""
    is_in_band: bool = True
    status: str = ""

    @property
    def is_foreign(self) -> bool:
        return self.turn == 0


@dataclass
class Call:
    """A function call that the server has sent to the client."""

    name: str
    agent: str
    response: Response


@dataclass
class Server:
    """The server's end of one connection."""

    link: int
    model: server_side.ServerModel
    rewriter: Rewriter
    up: deque[str] = field(default_factory=deque, repr=False)
    down: deque[str] = field(default_factory=deque, repr=False)
    is_slow: bool = False
    asked: deque[str] = field(default_factory=deque, repr=False)
    """Requests for responses that the slow server has not handled yet."""
    event_id: str = ""
    """The request for a response that is being handled."""
    is_in_band: bool = True
    """The response that is being created is one of the conversation."""
    responses: dict[str, Response] = field(default_factory=dict)
    generating: dict[str, Response] = field(default_factory=dict)
    unheard: list[str] = field(default_factory=list)
    calls: dict[str, Call] = field(default_factory=dict)
    outputs: Counter[str] = field(default_factory=Counter)
    open_updates: list[str] = field(default_factory=list)
    """Event ids of the session updates that are not answered yet."""
    agent: str = ""
    """The agent of the last ``session.updated`` that the client received."""

    @property
    def has_answered(self) -> bool:
        """The client gets, or has got, one of its own responses from here."""
        return any(not one.is_foreign for one in self.responses.values())

    def has_begun(self, event_id: str | None) -> bool:
        """Return whether the response that this event requested has been created."""
        return any(one.event_id == event_id for one in self.responses.values())


class World:
    """Drives a real `Conversation` against real `ServerModel`s and checks the invariants after every event."""

    def __init__(self, dialect: Dialect | None = None, **policy: Any) -> None:
        self.dialect = dialect or Dialect()
        waits = {"link_wait_s": 600.0, "commit_s": 60.0, "answer_s": 600.0, "connect_s": 60.0, "replay_items": 500}
        self.policy = Policy(**{"button_mode": "hold"} | waits | policy)
        self.conversation = Conversation(policy=self.policy, specs=[spec("ann"), spec("bob")])
        self.now = 50.0
        self._numbers = count(1)
        self.servers: dict[int, Server] = {}
        self.asked_links: deque[int] = deque()
        self.main_link: int | None = None
        self.leaving: deque[tuple[int, deque[str]]] = deque()
        """Connections that the client has closed, with the frames still in flight."""
        self.is_pressed = False
        self.pressed_at = 0.0
        self.taps: list[tuple[float, float]] = []
        """Start and end of each short press that has not approved a call yet."""
        self.epoch = 0
        self.queue: deque[tuple[int, Response]] = deque()
        """Frames not played yet, per block of this epoch, with their response."""
        self.played = 0
        self.capture_count = 0
        self.may_be_sent: set[int] = set()
        """Numbers of the periods captured while listening, or just before a press."""
        self.recent: deque[int] = deque(maxlen=16)
        self.block_count = 0
        self.speeches: list[Speech] = []
        self.speech_of_item: dict[str, Speech] = {}
        self.response_of_item: dict[str, Response] = {}
        self.calls: dict[str, Call] = {}
        self.started_tools: set[str] = set()
        self.running_tools: list[str] = []
        self.finished_tools: set[str] = set()
        """Tools that ended by themselves: the model must be told of them on every connection."""
        self.is_losing = False
        """A connection is reported as lost."""
        self.approval_checks: list[str] = []
        self.requested: dict[str, float] = {}
        """Call id → time at which the user was asked."""
        self.approved: set[str] = set()
        self.always: set[tuple[str, str]] = set()
        self.text_checks: list[CheckText] = []
        self.preparations: list[PrepareAgent] = []
        self.trips: Counter[str] = Counter()
        self.turn = ""
        """The turn that has started and not ended."""
        self.outcomes: list[str] = []
        self.cancelled: list[Response] = []
        """Responses that the client cancels by handling the current event."""
        self.refused: dict[str, str] = {}
        """Turns whose request for a response the server has refused with an error, by the event id of that."""
        self.ended_turns: set[str] = set()
        """Turns of which a response has ended."""
        self.cut_turns: set[str] = set()
        """Turns during which a connection was lost."""
        self.do(Started())
        self.advance(2.0)

    # --- the client side -----------------------------------------------------------------------------------------

    def do(self, event: Event) -> None:
        before = self.conversation.state
        commands = self.conversation.handle(event, self.now)
        if before is not State.LISTENING and self.conversation.state is State.LISTENING:
            self.may_be_sent.update(self.recent)
        if commands:
            self._check_announcements(commands)
        for command in commands:
            self._take(command)
        while self.cancelled:
            turn = f"turn_{self.cancelled.pop().turn}"
            assert turn != self.turn or self.trips[turn], f"a response is cancelled although it answers {turn}"
        self.check()

    def _take(self, command: Command) -> None:
        match command:
            case Connect():
                self.asked_links.append(command.link)
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
                self._run(command)
            case CancelTool():
                is_lost = self.is_losing and command.call_id in self.running_tools
                assert not is_lost, f"{command.call_id} is cancelled with its connection"
            case CheckApproval():
                self.approval_checks.append(command.call_id)
            case CheckText():
                self.text_checks.append(command)
            case PrepareAgent():
                self.preparations.append(command)
            case Emit():
                self._note(command.notice)
            case _:
                pass

    def _note(self, notice: Notice) -> None:
        match notice:
            case TurnStart():
                assert not self.turn, f"{notice.turn} starts before {self.turn} has ended"
                self.turn = notice.turn
            case TurnEnd():
                assert notice.turn == self.turn, f"{notice.turn} ends, but {self.turn or 'no turn'} runs"
                if notice.outcome == "answered":
                    self._check_answered(notice.turn)
                self.turn = ""
                self.outcomes.append(notice.outcome)
            case Connected():
                self.main_link = notice.link
            case ToolEnd(is_error=False) if notice.call_id in self.started_tools:
                self.finished_tools.add(notice.call_id)
            case ToolApproval():
                self.requested[notice.call_id] = self.now
            case Guardrail():
                self.response_of_item[notice.item_id].is_tripped = True
                self.trips[notice.turn] += 1
            case _:
                pass

    def _send(self, command: Send) -> None:
        assert command.link == self.main_link and command.link in self.servers, "sent on a link that is not up"
        server = self.servers[command.link]
        if isinstance(command.event, wire.InputAudioBufferAppend):
            number = int.from_bytes(command.event.audio[:2], "little")
            assert number in self.may_be_sent, f"period {number} was sent although it was not captured in a turn"
        else:
            check_client_frame(command.event.to_wire())
        match command.event:
            case wire.SessionUpdate():
                server.open_updates.append(command.event.event_id or "")
            case wire.ConversationItemCreate(item={"type": "function_call_output", "call_id": call_id}):
                server.outputs[call_id] += 1
                assert server.outputs[call_id] == 1, f"{call_id} has two outputs"
            case wire.ResponseCancel(response_id=response_id) if response_id in server.responses:
                response = server.responses[response_id]
                assert response.is_in_band, "an out-of-band response of somebody else is cancelled"
                response.is_cancelled = True
                self.cancelled.append(response)
            case _:
                pass
        server.up.append(command.event.encode())

    def _play(self, command: Play) -> None:
        if command.epoch != self.epoch:
            return
        speech = self.speech_of_item.get(command.item_id)
        assert speech is not None, f"audio of {command.item_id} is played, which no response has"
        response, turn = speech.response, f"turn_{speech.response.turn}"
        assert not response.is_foreign, f"{response.id} is played, which somebody else requested"
        assert turn == self.conversation.turn_id, f"audio of {turn} is played in {self.conversation.turn_id}"
        assert not response.is_cancelled, f"{response.id} is played after it was cancelled"
        self._check_heard(response)
        end = speech.played + len(command.pcm)
        assert command.pcm == speech.audio[speech.played : end], "the samples played are not the next of the answer"
        speech.played = end
        if self.policy.hold_audio and response.agent in GUARDED and self.dialect.announces:
            index = (end - 1) // (2 * BLOCK)
            assert index < speech.bad_at, f"{speech.plan[index:]!r} is played before the guardrail passed it"
        self.queue.append((len(command.pcm) // 2, response))

    def _check_heard(self, response: Response) -> None:
        assert not response.is_tripped, f"{response.id} is still played after a guardrail has tripped"

    def _run(self, command: RunTool) -> None:
        call_id, call = command.call_id, self.calls[command.call_id]
        assert call_id not in self.started_tools, f"{call_id} is run twice"
        assert not call.response.is_foreign, f"{call_id} is run, which a response of somebody else made"
        is_by = command.agent == call.agent or not self.dialect.announces
        assert is_by, f"{call.agent} called {call.name}, but it is run for {command.agent}"
        rule = APPROVALS[call.agent][call.name]
        if rule != "never":
            assert self._is_approved(call_id, call), f"{call.name} is run without approval"
        self.started_tools.add(call_id)
        self.running_tools.append(call_id)

    def _is_approved(self, call_id: str, call: Call) -> bool:
        if call_id in self.approved or (call.agent, call.name) in self.always:
            return True
        asked_at = self.requested.get(call_id, float("inf"))
        tap = next((one for one in self.taps if one[0] >= asked_at and one[1] > self.now - 0.05), None)
        if tap is not None:
            self.taps.remove(tap)
        return tap is not None

    def _drop(self, link: int) -> None:
        server = self.servers.pop(link, None)
        if link in self.asked_links:
            self.asked_links.remove(link)
        if link == self.main_link:
            self._lose_main()
        self.leaving.append((link, server.down if server else deque()))

    def _lose_main(self) -> None:
        self.main_link = None
        self.cut_turns.add(self.turn)

    # --- invariants ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        state = self.conversation.state
        if state not in RESTING:
            assert self.conversation.deadline is not None, f"{state} has no deadline"
        light = light_state(self.conversation.view)
        is_stuck = self.now >= self.pressed_at + self.policy.max_turn_s + self.policy.stuck_s
        assert light in LIGHT_OF_STATE[state] or (is_stuck and light == "button_stuck"), (
            f"the light shows {light} in state {state}"
        )
        main = self.main
        if main is not None and main.agent and not main.open_updates:
            named = self.conversation.agent
            assert named == main.agent, f"the conversation has agent {named}, the server has {main.agent}"

    def _check_announcements(self, commands: list[Command]) -> None:
        """Each turn that fails is announced, once, with a reason that is true."""
        notices = [one.notice for one in commands if isinstance(one, Emit)]
        failed = [one for one in notices if isinstance(one, TurnEnd) and one.outcome in ("failed", "refused")]
        said = [one.sentence for one in commands if isinstance(one, Announce)]
        reasons = [one.key for one in said if isinstance(one, Sentence) and one.key.startswith("trouble.")]
        assert len(reasons) == len(failed), f"{len(failed)} turns have failed, and {reasons} are announced"
        for turn, reason in zip((one.turn for one in failed), reasons, strict=True):
            match reason:
                case "trouble.answer_failed":
                    assert turn in self.refused.values(), f"{turn} failed by an error that no server sent"
                case "trouble.answer_cut":
                    assert turn in self.cut_turns, f"{turn} failed by a lost connection, and none was lost"
                case "trouble.empty_answer":
                    was_sent = any(one.audio for one in self._valid(turn))
                    assert not was_sent, f"{turn} failed for want of audio, which was sent"
                    assert turn in self.ended_turns, f"{turn} failed for want of audio, and no answer has ended"

    def _check_answered(self, turn: str) -> None:
        """All audio of the answer that the client has received was played."""
        for speech in self._valid(turn):
            assert speech.played == speech.delivered, f"{speech} is not played to its end"

    def _valid(self, turn: str) -> list[Speech]:
        """Return what the answer of a turn says, without responses that were stopped."""
        of_turn = [one for one in self.speeches if f"turn_{one.response.turn}" == turn]
        return [one for one in of_turn if not (one.response.is_tripped or one.response.is_cancelled)]

    def check_at_rest(self) -> None:
        """Check what must hold once everything is delivered and answered."""
        server = self.main
        assert server is not None
        for call_id, call in server.calls.items():
            if call.response.status == "completed" and call.response.is_in_band:
                assert server.outputs[call_id] == 1, f"{call_id} ({call.name}) was never answered"
        agent = agent_of(server.model._session["instructions"])
        assert self.conversation.agent == agent, f"agent {self.conversation.agent} here, {agent} on the server"
        theirs = [item["id"] for item in server.model.items if item["type"] in COMPARED]
        ours = [item.id for item in self.conversation.history if item.type in COMPARED]
        assert ours == theirs, f"the history is {ours}, but the server has {theirs}"
        told = Counter(item.call_id for item in self.conversation.history if item.type in CALL_AND_OUTPUT)
        for call_id in self.finished_tools:
            assert told[call_id] == 2, f"{call_id} has ended, and the model does not know its call and output"

    @property
    def main(self) -> Server | None:
        """The connection that the conversation uses."""
        return None if self.main_link is None else self.servers.get(self.main_link)

    # --- time, button, microphone, loudspeaker --------------------------------------------------------------------

    def press(self) -> None:
        self.is_pressed, self.pressed_at = True, self.now
        self.do(ButtonEdge(True))

    def release(self) -> None:
        self.is_pressed = False
        if self.now - self.pressed_at <= TAP_S + 1e-6:
            self.taps.append((self.pressed_at, self.now))
        self.do(ButtonEdge(False))

    def press_for(self, seconds: float) -> None:
        if self.is_pressed:
            self.release()
            self.hear(5)
        self.press()
        self.hear(round(seconds / PERIOD_S))
        self.release()
        self.hear(3)

    def wait(self, seconds: float) -> None:
        """Let time pass with a single captured period, at its end."""
        self.advance(seconds - PERIOD_S)
        self.hear(1)

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
        """Let time pass: handle deadlines at their instants, and play queued audio."""
        end = self.now + seconds
        for _ in range(100_000):
            self._play_some(min(seconds, PERIOD_S))
            at = self.conversation.deadline
            step = min(end, self.now + PERIOD_S) if self.queue else end
            if at is not None and at <= step:
                self.now = max(self.now, at)
                self.do(DeadlinePassed())
            elif self.now >= end:
                return
            else:
                self.now = step
                if step == end and not self.queue:
                    return
        raise AssertionError("time does not advance")

    def _play_some(self, seconds: float) -> None:
        budget = int(seconds * wire.SAMPLE_RATE)
        played = self.played
        while budget and self.queue:
            frames, response = self.queue.popleft()
            self._check_heard(response)
            part = min(budget, frames)
            budget -= part
            self.played += part
            if part < frames:
                self.queue.appendleft((frames - part, response))
        if self.played != played:
            self.do(PlayoutProgress(self.epoch, self.played, not self.queue))

    # --- the connections -----------------------------------------------------------------------------------------

    def accept(self) -> None:
        """Accept the connection that was requested first."""
        if not self.asked_links:
            return
        link = self.asked_links.popleft()
        model = server_side.ServerModel(
            session_id=f"sess_{link}", model="any", now=self.now, ids=self._new_id, wait_for_transcripts=False
        )
        self.servers[link] = server = Server(link, model, Rewriter(self.dialect))
        self.do(LinkUp(link))
        if link in self.servers:
            self._effects(server, model.connect(self.now))

    def _new_id(self, prefix: str) -> str:
        return f"{prefix}_{next(self._numbers):06d}"

    def refuse(self) -> None:
        if self.asked_links:
            self.do(LinkDown(self.asked_links.popleft(), "refused", None, "connection refused"))

    def lose(self, newest: bool = False) -> None:
        """Break the oldest connection, or the newest (the standby); its frames in flight are lost."""
        if self.servers:
            link = list(self.servers)[-1 if newest else 0]
            del self.servers[link]
            if link == self.main_link:
                self._lose_main()
            self.is_losing = True
            self.do(LinkDown(link, "lost", 1006, ""))
            self.is_losing = False

    def leave(self) -> None:
        """Deliver the remaining frames of a connection that the client has closed, then its end."""
        if self.leaving:
            link, frames = self.leaving.popleft()
            for frame in frames:
                self.do(received(link, frame))
            self.do(LinkDown(link, "closed", 1000, ""))

    def deliver_up(self, count: int) -> None:
        for server in list(self.servers.values()):
            for _ in range(min(count, len(server.up))):
                self._receive(server, server.up.popleft())

    def _receive(self, server: Server, raw: str) -> None:
        if ASK not in raw:
            self._effects(server, server.model.receive(raw, self.now))
        elif server.is_slow:
            server.asked.append(raw)
        else:
            server.event_id = json.loads(raw)["event_id"]
            self._effects(server, server.model.receive(raw, self.now))

    def deliver_down(self, count: int) -> None:
        for server in list(self.servers.values()):
            for _ in range(count):
                if not server.down or server.link not in self.servers:
                    break
                self._deliver(server, server.down.popleft())

    def _deliver(self, server: Server, raw: str) -> None:
        frame = json.loads(raw)
        if frame["type"] == "session.updated":
            server.open_updates.pop(0)
            server.agent = agent_of(frame["session"]["instructions"])
        elif frame["type"] == "error" and frame["error"]["event_id"] in server.open_updates:
            server.open_updates.remove(frame["error"]["event_id"])
        elif frame["type"] == "response.output_audio.delta" and frame["item_id"] in self.speech_of_item:
            self.speech_of_item[frame["item_id"]].delivered += len(base64.b64decode(frame["delta"]))
        error_about = frame["error"]["event_id"] if frame["type"] == "error" else None
        before = self.turn, self.epoch
        self.do(received(server.link, raw))
        if server.has_begun(error_about):
            assert before == (self.turn, self.epoch), "an error stops an answer that has begun"
        if error_about in self.refused:
            assert self.turn != self.refused[error_about], f"{self.turn} goes on, but its request was refused"

    def _effects(self, server: Server, effects: list[server_side.Effect]) -> None:
        for effect in effects:
            match effect:
                case server_side.EmitFrame():
                    if self._emitted(server, effect.frame):
                        server.down.extend(json.dumps(one) for one in server.rewriter.rewrite(effect.frame))
                case server_side.Generate():
                    self._begin(server, effect.response_id, effect.request)
                case server_side.StopGenerating():
                    server.generating.pop(effect.response_id, None)
                case server_side.Transcribe():
                    server.unheard.append(effect.item_id)
                case server_side.Close():
                    raise AssertionError(f"the server closes: {effect}")

    def _emitted(self, server: Server, frame: dict[str, Any]) -> bool:
        """Check a frame of the server; returns whether it is for this client."""
        match frame:
            case {"type": "error", "error": {"event_id": "foreign"}}:
                return False
            case {"type": "error", "error": error}:
                is_late_voice = error["code"] == "cannot_update_voice" and error["event_id"].startswith("handoff_")
                is_benign = error["code"] in BENIGN_ERRORS or is_late_voice
                assert is_benign, f"the client broke the protocol: {error}"
            case {"type": "response.created", "response": response}:
                server.is_in_band = response["conversation_id"] is not None
            case {"type": "response.output_item.added", "response_id": response_id, "item": item}:
                self.response_of_item[item["id"]] = response = server.responses[response_id]
                if response.open_speech is not None:
                    self.speech_of_item[item["id"]] = response.open_speech
            case {
                "type": "response.output_item.done",
                "response_id": response_id,
                "item": {"call_id": call_id} as item,
            }:
                response = server.responses[response_id]
                response.calls.append(call_id)
                server.calls[call_id] = self.calls[call_id] = Call(item["name"], response.agent, response)
            case {"type": "response.done", "response": response} if response["id"] in server.responses:
                ended = server.responses[response["id"]]
                ended.status = response["status"]
                self.ended_turns.add(f"turn_{ended.turn}")
            case _:
                pass
        return True

    # --- the model: speech and calls -------------------------------------------------------------------------------

    def _begin(self, server: Server, response_id: str, request: server_side.GenerationRequest) -> None:
        tools = [] if request.tool_choice == "none" else [tool["name"] for tool in request.tools]
        turn = request.metadata.get("turn", "turn_0")
        number = int(turn.removeprefix("turn_"))
        before = [one for one in server.responses.values() if one.turn == number]
        reasons = sum(bool(one.calls) for one in before) + self.trips[turn]
        assert not number or len(before) <= reasons, f"too many responses are created for {turn} on one connection"
        response = Response(response_id, number, server.event_id, agent_of(request.instructions), tools)
        response.is_in_band = server.is_in_band
        server.responses[response_id] = server.generating[response_id] = response

    @property
    def is_generating(self) -> bool:
        return self._speaking() is not None

    def _speaking(self) -> tuple[Server, Response] | None:
        """Return the oldest response that is being generated, with its server."""
        return next(((one, item) for one in self.servers.values() for item in one.generating.values()), None)

    def speak(self, characters: int, *, order: str = "both", is_bad: bool = False) -> None:
        """Extend the speech of the oldest response.

        Args:
            characters: How many to add.
            order: Parts to send: ``text``, ``audio`` or ``both``; the missing part follows with the next call.
            is_bad: Start with a word that trips the guardrail.
        """
        if (found := self._speaking()) is None:
            return
        server, response = found
        if response.open_speech is None:
            response.open_speech = Speech(response, f"no {next(self._numbers)}: ")
            self.speeches.append(response.open_speech)
        speech = response.open_speech
        speech.plan += "BAD " * is_bad + "".join(FILLER[i % len(FILLER)] for i in range(characters))
        self._say(server, speech, text=order != "audio", audio=order != "text")

    def _say(self, server: Server, speech: Speech, *, text: bool = True, audio: bool = True) -> None:
        words, pcm = "", b""
        if text:
            words, speech.texted = speech.plan[speech.texted :], len(speech.plan)
        if audio:
            pcm = self._voice(speech)
        self._effects(server, server.model.response_audio(speech.response.id, words, pcm))

    def _voice(self, speech: Speech) -> bytes:
        pcm = b""
        for _ in range(speech.voiced, len(speech.plan)):
            self.block_count += 1
            pcm += array("h", [speech.response.turn, self.block_count] * (BLOCK // 2)).tobytes()
        speech.voiced = len(speech.plan)
        speech.audio += pcm
        return pcm

    def _end_speech(self, server: Server, response: Response) -> None:
        if response.open_speech is not None:
            self._say(server, response.open_speech)
            response.open_speech = None

    def call(self, name: str) -> None:
        """Let the oldest response call a tool; ``handoff`` means the agent's only handoff."""
        if (found := self._speaking()) is None:
            return
        server, response = found
        name = f"transfer_to_{OTHER[response.agent]}" if name == "handoff" else name
        if response.tools:
            self._end_speech(server, response)
            self._effects(server, server.model.response_call(response.id, name, "{}"))

    def finish_generation(self) -> None:
        if (found := self._speaking()) is not None:
            server, response = found
            self._end_speech(server, response)
            del server.generating[response.id]
            self._effects(server, server.model.finish_response(response.id, now=self.now))

    # --- the model: late, foreign, stray and refused responses ------------------------------------------------------

    def slow_down(self) -> None:
        """Let the servers take requests for responses without creating these, until `create`."""
        for server in self.servers.values():
            server.is_slow = True

    def create(self) -> None:
        """Let the slow servers create the responses that were requested."""
        for server in self.servers.values():
            server.is_slow = False
            while server.asked:
                self._receive(server, server.asked.popleft())

    def ask_as_another(self, *, in_band: bool, metadata: dict[str, str] | None) -> None:
        """Request a response as somebody else; the client can tell it by its metadata, or their absence."""
        server = self.main
        is_told_apart = metadata is not None or (server is not None and server.has_answered)
        is_possible = self.dialect.tells_owner and is_told_apart
        if server is not None and server.agent and is_possible and len(server.model.running) < MOST_RUNNING:
            response = {"conversation": "auto" if in_band else "none"} | ({"metadata": metadata} if metadata else {})
            frame = {"type": "response.create", "event_id": "foreign", "response": response}
            server.event_id = "foreign"
            self._effects(server, server.model.receive(json.dumps(frame), self.now))

    @property
    def may_go_astray(self) -> bool:
        """The client knows that the server announces its responses."""
        return self.main is not None and self.dialect.announces and self.main.has_answered

    def go_astray(self, kind: str) -> None:
        """Send frames of a response that does not exist."""
        server = self.main
        is_ambiguous = kind == "created" and not self.dialect.tells_owner
        if server is not None and self.may_go_astray and not is_ambiguous:
            server.down.extend(json.dumps(one) for one in stray_frames(kind, next(self._numbers)))

    @property
    def is_asked(self) -> bool:
        """A request for a response is on its way, or waits at a slow server."""
        return any(ASK in one for server in self.servers.values() for one in (*server.asked, *server.up))

    def refuse_response(self) -> None:
        """Refuse the oldest request for a response that is not handled yet."""
        for server in self.servers.values():
            for queue in (server.asked, server.up):
                if (raw := next((one for one in queue if ASK in one), None)) is not None:
                    queue.remove(raw)
                    frame = json.loads(raw)
                    self.refused[frame["event_id"]] = frame["response"]["metadata"]["turn"]
                    self._object(server, frame["event_id"])
                    return

    def object_to_response(self) -> None:
        """Send an error that names the request of a response which is being generated."""
        if self.dialect.announces and (found := self._speaking()) is not None and not found[1].is_foreign:
            self._object(found[0], found[1].event_id)

    def _object(self, server: Server, event_id: str) -> None:
        error = {"type": "server_error", "code": None, "message": "overloaded", "param": None, "event_id": event_id}
        server.down.append(json.dumps({"type": "error", "event_id": self._new_id("event"), "error": error}))

    def transcribe(self) -> None:
        for server in self.servers.values():
            if server.unheard:
                self._effects(server, server.model.transcribed(server.unheard.pop(0), "some words"))
                return

    # --- the program: tools, predicates, instructions, guardrails, requests -----------------------------------------

    def finish_tool(self, which: int = 0) -> None:
        if self.running_tools:
            self.do(ToolFinished(self.running_tools.pop(which % len(self.running_tools)), "{}"))

    def answer_predicate(self, verdict: str, which: int = 0) -> None:
        """Answer an approval predicate with ``needed``, ``free`` or ``problem``."""
        if self.approval_checks:
            call_id = self.approval_checks.pop(which % len(self.approval_checks))
            if verdict == "free":
                self.approved.add(call_id)
            problem = "no such amount" if verdict == "problem" else ""
            self.do(ApprovalChecked(call_id, verdict == "needed", problem))

    def answer_approval(self, *, approved: bool, always: bool = False, which: int = 0) -> None:
        """Approve or reject a call from the program while the user is asked; this may be too late."""
        if self.requested:
            call_id = list(self.requested)[-1 - which % len(self.requested)]
            call = self.calls[call_id]
            is_open = self.conversation.state is State.AWAITING_APPROVAL
            if approved and is_open:
                self.approved.add(call_id)
                if always:
                    self.always.add((call.agent, call.name))
            self.do(ApprovalAnswered(call_id, approved, always))

    def answer_check(self, which: int = 0) -> None:
        """Return the verdict of a guardrail on a text."""
        if self.text_checks:
            check = self.text_checks.pop(which % len(self.text_checks))
            is_bad = "BAD" in check.text
            if is_bad:
                self._response_that_said(check.text).is_tripped = True
            self.do(GuardrailsChecked(check.key, "politeness" if is_bad else ""))

    def answer_all_checks(self) -> None:
        while self.text_checks:
            self.answer_check()

    def _response_that_said(self, text: str) -> Response:
        found = next((one.response for one in self.speeches if one.plan.startswith(text)), None)
        assert found is not None, f"no response said {text!r}, which is checked"
        return found

    def prepare(self, *, fails: bool = False) -> None:
        """Finish preparing an agent: with a new spec, or with a failure."""
        if self.preparations:
            asked = self.preparations.pop(0)
            if fails:
                self.do(AgentPrepared(asked.key, None, "the library is down"))
            else:
                self.do(AgentPrepared(asked.key, spec(asked.agent, next(self._numbers))))

    def interrupt(self) -> None:
        self.do(InterruptAsked())

    def give_message(self, *, wants_answer: bool) -> None:
        content = [{"type": "input_text", "text": "hello"}]
        item = {"id": self._new_id("msg"), "type": "message", "role": "user", "content": content}
        self.do(MessageGiven(item, "hello", wants_answer))

    # --- the end -------------------------------------------------------------------------------------------------

    def quiesce(self) -> None:
        """Deliver and answer everything and let time pass; the appliance must become ready and idle."""
        if self.is_pressed:
            self.release()
        for _ in range(400):
            self._answer_all()
            self.hear(5)
            if self.conversation.state is State.READY and self._is_idle():
                self.check_at_rest()
                return
        raise AssertionError(f"never became ready and idle: {self.conversation!r}, servers {self.servers}")

    def shut_down(self) -> None:
        """Close the session; nothing that arrives later has an effect."""
        links = set(self.servers) | set(self.asked_links)
        commands = self.conversation.handle(ShutdownRequested("the end"), self.now)
        assert isinstance(commands[-1], Stop), "the conversation does not stop"
        closed = {one.link for one in commands if isinstance(one, Disconnect)}
        assert closed == links, f"connections {links} are open, and {closed} are closed"
        late: list[Event] = [received(link, raw) for link, one in self.servers.items() for raw in one.down]
        late += [ToolFinished(call_id, "{}") for call_id in self.running_tools]
        late += [GuardrailsChecked(one.key, "politeness") for one in self.text_checks]
        late += [ButtonEdge(True), AudioCaptured(samples(1), 4000, -20.0), DeadlinePassed()]
        for event in late:
            assert not self.conversation.handle(event, self.now + 100.0), f"{event} has an effect after the end"

    def _answer_all(self) -> None:
        self.accept()
        self.leave()
        self.deliver_up(10_000)
        self.create()
        self.transcribe()
        self.prepare()
        self.speak(2)
        self.finish_generation()
        self.deliver_down(10_000)
        self.finish_tool()
        self.answer_predicate("needed")
        self.answer_check()

    def _is_idle(self) -> bool:
        server = self.main
        is_alone = len(self.servers) == 1 and not (self.asked_links or self.leaving)
        is_answered = not (self.running_tools or self.approval_checks or self.text_checks or self.preparations)
        is_quiet = server is not None and not (server.up or server.down or server.generating or server.unheard)
        return is_alone and is_answered and is_quiet and light_state(self.conversation.view) == "ready"
