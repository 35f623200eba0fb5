"""A `Conversation` driven with virtual time, button and microphone events, and literal server frames.

Every frame that the conversation sends is checked strictly against the types of the `openai` package.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from typing import Any, Self

from appliance.agents.spec import AgentSpec
from appliance.conversation.commands import (
    Announce,
    Command,
    Connect,
    Emit,
    FlushPlayback,
    Play,
    PlayEarcon,
    RunTool,
    Send,
)
from appliance.conversation.events import (
    AudioCaptured,
    ButtonEdge,
    DeadlinePassed,
    Event,
    LinkDown,
    LinkFailure,
    LinkUp,
    PlayoutProgress,
    ServerEventReceived,
    Started,
    ToolFinished,
)
from appliance.conversation.machine import Conversation
from appliance.conversation.notices import Error, Notice, ToolEnd, TurnEnd
from appliance.conversation.policy import Policy
from appliance.conversation.support.feedback import State
from appliance.realtime import protocol as wire
from appliance.realtime.items import HistoryItem
from appliance.wording import Wording
from tests.support.oracle import check_client_frame

PERIOD_MS = 20
RESTING = (State.READY, State.OFFLINE, State.MUTED, State.FAILED)
"""States without a deadline; every other state has one."""
SESSION = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}


def period(sample: int = 4000, frames: int = 480) -> bytes:
    """Return one period of audio in which every sample is `sample`, so that a test can identify it."""
    return array("h", [sample] * frames).tobytes()


WORDING = Wording()


def worded(command: Announce, wording: Wording = WORDING) -> str:
    """Return the sentence of an announcement."""
    sentence = command.sentence
    return sentence if isinstance(sentence, str) else wording.say(sentence.key, **sentence.values)


class Stage:
    """Drives a real `Conversation` as the driver would, and keeps every command.

    Methods in the past participle (`committed`, `created`, `wrote`, `answered`) receive what a server sends. `sent`,
    `plays`, `outcomes` and the other plurals return what the conversation did.
    """

    speaks_on = 0
    """The link on which the server speaks; 0 for the newest."""

    def __init__(
        self,
        *,
        approvals: tuple[str, ...] = (),
        specs: Sequence[AgentSpec] = (),
        history: Sequence[HistoryItem] = (),
        is_muted: bool = False,
        **policy: Any,
    ) -> None:
        self.conversation = Conversation(
            policy=Policy(**({"button_mode": "hold", "outputs": WORDING.table("output")} | policy)),
            specs=specs or [AgentSpec(agent="assistant", session=SESSION, approvals=approvals)],
            history=history,
            is_muted=is_muted,
        )
        self.now = 100.0
        self.commands: list[Command] = []
        self.played_frames = 0
        self._event_ids = 0

    # --- input ----------------------------------------------------------------------------------------------

    def do(self, event: Event) -> list[Command]:
        commands = self.conversation.handle(event, self.now)
        for command in commands:
            if isinstance(command, Send):
                check_client_frame(command.event.to_wire())
        self.commands.extend(commands)
        return commands

    def start(self) -> Self:
        self.do(Started())
        return self

    def ready(self) -> Self:
        """Start, connect and create the session; then drop the commands so far."""
        self.start()
        self.link_ready()
        self.session_updated(SESSION)
        self.advance(2.0)
        self.commands.clear()
        return self

    def link_ready(self) -> None:
        self.do(LinkUp(self.link))
        self.server({"type": "session.created", "session": {"type": "realtime"}})

    @property
    def link(self) -> int:
        """The link on which the server speaks."""
        return self.speaks_on or self.conversation.link_id

    def relink(self) -> list[Command]:
        """Lose the link and connect the next; return the commands of the new link."""
        self.lose()
        self.advance(5)
        before = len(self.commands)
        self.link_ready()
        return self.commands[before:]

    def lose(self, kind: LinkFailure = "lost", code: int | None = 1006) -> list[Command]:
        return self.do(LinkDown(self.link, kind, code, "gone"))

    def advance(self, seconds: float) -> list[Command]:
        """Advance virtual time, and handle every deadline at its instant."""
        end = self.now + seconds
        commands: list[Command] = []
        for _ in range(10_000):
            at = self.conversation.deadline
            if at is None or at > end:
                self.now = end
                return commands
            self.now = max(self.now, at)
            commands += self.do(DeadlinePassed())
        raise AssertionError(f"a deadline never moves: {self.conversation!r}")

    def press(self) -> list[Command]:
        return self.do(ButtonEdge(True))

    def release(self) -> list[Command]:
        """Release and wait for the debouncer."""
        commands = self.do(ButtonEdge(False))
        return commands + self.advance(0.021)

    def hear(self, ms: int, sample: int = 4000, level_db: float = -18.0) -> list[Command]:
        """Capture `ms` of sound."""
        commands: list[Command] = []
        for _ in range(ms // PERIOD_MS):
            commands += self.advance(PERIOD_MS / 1000)
            commands += self.do(AudioCaptured(period(sample), abs(sample), level_db))
        return commands

    def say(self, ms: int = 500, sample: int = 4000) -> list[Command]:
        """Press, speak and release, followed by the post-roll."""
        commands = self.press()
        commands += self.hear(ms, sample)
        commands += self.release()
        return commands + self.hear(260, 30, -60.0)

    def play(self, frames: int, *, drained: bool = False) -> list[Command]:
        """Report that the loudspeaker played `frames` more frames of the answers."""
        self.played_frames += frames
        return self.do(PlayoutProgress(self.conversation.epoch, self.played_frames, drained))

    def server(self, frame: dict[str, Any]) -> list[Command]:
        """Receive this literal frame on the current link."""
        self._event_ids += 1
        raw = json.dumps({"event_id": f"event_{self._event_ids}"} | frame)
        return self.do(ServerEventReceived(self.link, wire.decode(raw)))

    def tool_finished(self, call_id: str, output: str = "{}", **more: Any) -> list[Command]:
        return self.do(ToolFinished(call_id, output, **more))

    # --- common server frames of an answer ------------------------------------------------------------------------

    def committed(self, item_id: str = "item_user") -> list[Command]:
        return self.server({"type": "input_audio_buffer.committed", "item_id": item_id, "previous_item_id": None})

    def created(self, response_id: str = "resp_1", turn: str | None = "turn_1") -> list[Command]:
        metadata = {"turn": turn} if turn else None
        response = {"id": response_id, "status": "in_progress", "output": [], "metadata": metadata}
        return self.server({"type": "response.created", "response": response})

    def audio(self, response_id: str = "resp_1", item_id: str = "item_a", ms: int = 200) -> list[Command]:
        delta = wire.InputAudioBufferAppend(audio=period(frames=24 * ms)).to_wire()["audio"]
        return self.server(
            {
                "type": "response.output_audio.delta",
                "response_id": response_id,
                "item_id": item_id,
                "output_index": 0,
                "content_index": 0,
                "delta": delta,
            }
        )

    def called(self, name: str, call_id: str, arguments: str = "{}", response_id: str = "resp_1") -> list[Command]:
        item = {
            "id": f"item_{call_id}",
            "type": "function_call",
            "status": "completed",
            "name": name,
            "call_id": call_id,
            "arguments": arguments,
        }
        return self.output_item(item, response_id=response_id)

    def output_item(self, item: dict[str, Any], kind: str = "done", response_id: str = "resp_1") -> list[Command]:
        """Receive an item of an answer: `kind` is ``added`` or ``done``."""
        place = {"type": f"response.output_item.{kind}", "response_id": response_id, "output_index": 0}
        return self.server(place | {"item": item})

    def item_added(
        self, item_id: str = "item_a", response_id: str = "resp_1", status: str = "in_progress"
    ) -> list[Command]:
        """Receive the beginning of a message of an answer."""
        item = {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": []}
        return self.output_item(item, "added", response_id)

    def wrote(
        self, text: str, *, is_final: bool = False, response_id: str = "resp_1", item_id: str = "item_a", part: int = 0
    ) -> list[Command]:
        """Receive a delta of an answer's transcript, or its final text."""
        kind, key = ("done", "transcript") if is_final else ("delta", "delta")
        place = {"response_id": response_id, "item_id": item_id, "output_index": 0, "content_index": part}
        return self.server({"type": f"response.output_audio_transcript.{kind}", **place, key: text})

    def wrote_text(
        self, text: str, *, is_final: bool = False, response_id: str = "resp_1", item_id: str = "item_a"
    ) -> list[Command]:
        """Receive a delta of a text answer, or its final text."""
        kind, key = ("done", "text") if is_final else ("delta", "delta")
        place = {"response_id": response_id, "item_id": item_id, "output_index": 0, "content_index": 0}
        return self.server({"type": f"response.output_text.{kind}", **place, key: text})

    def heard(self, text: str, item_id: str = "item_user", *, usage: dict[str, Any] | None = None) -> list[Command]:
        """Receive the transcript of the user's speech."""
        kind = "conversation.item.input_audio_transcription.completed"
        frame = {"type": kind, "item_id": item_id, "content_index": 0, "transcript": text}
        return self.server(frame | ({"usage": usage} if usage else {}))

    def session_updated(self, session: dict[str, Any] | None = None) -> list[Command]:
        return self.server({"type": "session.updated", "session": session or {"type": "realtime"}})

    def done(
        self, response_id: str = "resp_1", turn: str | None = "turn_1", status: str = "completed", **more: Any
    ) -> list[Command]:
        metadata = {"turn": turn} if turn else None
        response = {"id": response_id, "status": status, "output": [], "metadata": metadata} | more
        return self.server({"type": "response.done", "response": response})

    def error(self, code: str | None, *, event_id: str | None = None, message: str = "") -> list[Command]:
        error = {"type": "invalid_request_error", "code": code, "message": message, "param": None, "event_id": event_id}
        return self.server({"type": "error", "error": error})

    # --- whole steps of a turn ------------------------------------------------------------------------------------

    def asked(self, item_id: str = "item_user", response_id: str = "resp_1") -> Self:
        """Speak a turn and let its response be created."""
        self.say()
        self.committed(item_id)
        self.created(response_id, self.conversation.turn_id)
        return self

    def answered(self, response_id: str = "resp_1", turn: str | None = "turn_1", item_id: str = "item_a") -> None:
        """Receive a whole answer of 100 ms and play it to its end."""
        self.created(response_id, turn)
        self.audio(response_id, item_id, ms=100)
        self.done(response_id, turn)
        self.play(2400, drained=True)

    def answering(self, ms: int = 2000) -> Self:
        """Run a turn up to the middle of its answer: `ms` of audio received, 100 ms heard."""
        self.say()
        self.committed()
        self.created()
        self.audio(ms=ms)
        self.play(2400)
        self.commands.clear()
        return self

    # --- results ------------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        return self.conversation.state.value

    def sent(self, commands: list[Command] | None = None) -> list[dict[str, Any]]:
        """Return every frame sent, as wire objects."""
        return [one.event.to_wire() for one in self.of(Send, commands)]

    def sent_types(self, commands: list[Command] | None = None) -> list[str]:
        """Return the types of the frames sent; a run of appends counts as one."""
        types = [frame["type"] for frame in self.sent(commands)]
        return [
            name
            for index, name in enumerate(types)
            if name != "input_audio_buffer.append" or types[index - 1 : index] != [name]
        ]

    def sent_audio(self, commands: list[Command] | None = None) -> bytes:
        return b"".join(
            one.event.audio for one in self.of(Send, commands) if isinstance(one.event, wire.InputAudioBufferAppend)
        )

    def requests(self, commands: list[Command] | None = None) -> list[dict[str, Any]]:
        """Return the ``response.create`` frames."""
        return [one for one in self.sent(commands) if one["type"] == "response.create"]

    def asks(self) -> list[dict[str, Any]]:
        """Return the response object of each request."""
        return [one["response"] for one in self.requests()]

    def updates(self) -> list[dict[str, Any]]:
        """Return the ``session.update`` frames."""
        return [one for one in self.sent() if one["type"] == "session.update"]

    def created_items(self, commands: list[Command] | None = None) -> list[dict[str, Any]]:
        """Return the items that were created on the server."""
        return [one["item"] for one in self.sent(commands) if one["type"] == "conversation.item.create"]

    def outputs(self) -> dict[str, list[str]]:
        """Return the outputs sent to the model, by call."""
        found: dict[str, list[str]] = {}
        for item in self.created_items():
            if item["type"] == "function_call_output":
                found.setdefault(item["call_id"], []).append(item["output"])
        return found

    def known(self) -> list[str]:
        """Return the ids of the items in the history."""
        return [one.id for one in self.conversation.history]

    def ended(self) -> list[tuple[str, bool]]:
        """Return the ended calls, each with whether it failed."""
        return [(one.call_id, one.is_error) for one in self.notices(ToolEnd)]

    def notices(self, kind: type[Notice]) -> list[Any]:
        return [one.notice for one in self.of(Emit) if isinstance(one.notice, kind)]

    def outcomes(self) -> list[str]:
        return [notice.outcome for notice in self.notices(TurnEnd)]

    def troubles(self) -> list[str]:
        return [notice.kind for notice in self.notices(Error)]

    def announced(self) -> list[str]:
        """Return every announced sentence, in English."""
        return [worded(one) for one in self.of(Announce)]

    def earcons(self) -> list[str]:
        return [one.name for one in self.of(PlayEarcon)]

    def plays(self, commands: list[Command] | None = None) -> list[Play]:
        return self.of(Play, commands)

    def tool_runs(self) -> list[RunTool]:
        return self.of(RunTool)

    def connects(self) -> list[Connect]:
        return self.of(Connect)

    def flushes(self) -> list[FlushPlayback]:
        return self.of(FlushPlayback)

    def of(self, kind: type, commands: list[Command] | None = None) -> list[Any]:
        """Return the commands of this kind."""
        return [one for one in (self.commands if commands is None else commands) if isinstance(one, kind)]
