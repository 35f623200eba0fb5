"""The program's side of a `RealtimeSession`, instead of a button and a sound card: its turn, audio and events."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from appliance.agents.agent import RealtimeAgent
from appliance.conversation.commands import Announce, Command, Earcon, Emit, FinishPlay, FlushPlayback, Play, Sentence
from appliance.conversation.events import (
    AbortAsked,
    AudioCaptured,
    BeginAsked,
    CommitAsked,
    Event,
    PlayoutProgress,
    ServerEventReceived,
)
from appliance.conversation.notices import (
    AgentStart,
    AgentUpdateEnded,
    Announcement,
    AnswerText,
    Audio,
    AudioEnd,
    AudioInterrupted,
    BudgetWarning,
    Connected,
    Error,
    Notice,
    OutOfBandEnded,
    Raw,
    ToolApproval,
    ToolEnd,
    ToolStart,
    TurnEnd,
    TurnStart,
)
from appliance.conversation.support.feedback import State
from appliance.errors import SettingsError
from appliance.realtime import protocol as wire
from appliance.realtime.protocol import SAMPLE_RATE
from appliance.runtime.event_readers import EventReaders
from appliance.wording import Wording

if TYPE_CHECKING:
    from appliance.audio.g711 import Law, NarrowbandDecoder, NarrowbandEncoder

__all__ = ["NoDevice", "PacedPlayback", "ProgramAudio", "RealtimeTurn", "SessionEvents", "new_item_id"]

_PERIOD_BYTES = 2 * SAMPLE_RATE // 50  # send_audio is split into periods of 20 ms, like a microphone's
_TICK_S = 0.02
_MOST_EVENTS = 10_000  # of a reader, about a minute of answers; then the oldest are dropped, and this is logged
_REMEMBERED = 64  # items of answers: audio of an item may be held back and released later
_OUTPUT = (  # events with audio or text of an answer
    wire.OutputAudioDelta,
    wire.OutputAudioTranscriptDelta,
    wire.OutputAudioTranscriptDone,
    wire.OutputTextDelta,
    wire.OutputTextDone,
)
_LAWS: dict[str, Law] = {"g711_ulaw": "audio/pcmu", "g711_alaw": "audio/pcma"}


_ITEM_NUMBERS = itertools.count(1)


def new_item_id() -> str:
    """Return a new id for an item of the program."""
    return f"msg_{time.monotonic_ns():x}_{next(_ITEM_NUMBERS)}"


class RealtimeTurn:
    """The turn of a session whose program signals when the user speaks (push to talk).

    Args:
        post: Posts an event to the conversation, which ignores what has no effect; raises `SessionNotOpen`.
        has_turn_detection: Whether the server detects the turns now: then none is begun here.
    """

    def __init__(self, post: Callable[[Event], None], *, has_turn_detection: Callable[[], bool]) -> None:
        self._post = post
        self._has_turn_detection = has_turn_detection
        self._id = ""
        self.is_open = False

    def begin(self) -> None:
        """Start the user's turn; an answer in progress is interrupted. A no-op in an open turn."""
        self._post(BeginAsked())
        if not self.is_open and not self._has_turn_detection():
            self.is_open, self._id = True, ""

    def hear(self) -> None:
        """Start the turn for audio, unless one is open or the server detects the turns."""
        if not self.is_open and not self._has_turn_detection():
            self.begin()

    def take(self, notice: TurnStart | TurnEnd) -> None:
        """Track the conversation's turn: it may end the turn itself, for its length or for silence."""
        if isinstance(notice, TurnStart):
            if notice.kind == "program":
                self._id = notice.turn
        elif notice.turn == self._id:
            self.is_open = False

    def commit(self) -> None:
        """End the user's turn and ask for an answer. A no-op without an open turn."""
        self._post(CommitAsked())
        self.is_open = False

    def abort(self) -> None:
        """Discard the user's turn: it is not answered. A no-op without an open turn."""
        self._post(AbortAsked())
        self.is_open = False


class ProgramAudio:
    """Converts between the program's audio formats and pcm16, the format on the wire.

    Imports numpy only when there is audio to convert.

    Args:
        input_format: `input_audio_format` of `RealtimeSessionSettings`.
        output_format: `output_audio_format` of `RealtimeSessionSettings`.
    """

    def __init__(self, input_format: str, output_format: str) -> None:
        self._decoder: NarrowbandDecoder | None = None
        self._encoder: NarrowbandEncoder | None = None
        if {input_format, output_format} & _LAWS.keys():
            from appliance.audio.g711 import NarrowbandDecoder, NarrowbandEncoder

            self._decoder = NarrowbandDecoder(_LAWS[input_format]) if input_format in _LAWS else None
            self._encoder = NarrowbandEncoder(_LAWS[output_format]) if output_format in _LAWS else None

    def captured(self, audio: bytes) -> list[AudioCaptured]:
        """Split the program's audio into periods of 20 ms, like a microphone's.

        Raises:
            SettingsError: The audio ends in half a sample.
        """
        from appliance.audio import pcm

        if self._decoder is not None:
            audio = self._decoder.decode(audio)
        if len(audio) % 2:
            raise SettingsError(f"send_audio: {len(audio)} bytes are not whole 16-bit samples")
        pieces = [audio[start : start + _PERIOD_BYTES] for start in range(0, len(audio), _PERIOD_BYTES)]
        blocks = [pcm.from_bytes(piece) for piece in pieces]
        return [
            AudioCaptured(piece, pcm.peak(block), pcm.level_db(block))
            for piece, block in zip(pieces, blocks, strict=True)
        ]

    def encode(self, pcm: bytes) -> bytes:
        """Convert audio from the wire's format to the program's."""
        return self._encoder.encode(pcm) if self._encoder is not None else pcm

    def finish(self) -> bytes:
        """End the audio of an item; returns what the encoder still held of it."""
        return self._encoder.flush() if self._encoder is not None else b""


class PacedPlayback:
    """A playback sink without a loudspeaker: it posts how much of the answer has been heard.

    Args:
        post: Takes ``PlayoutProgress``.
        is_paced: Assume that audio is heard in real time on arrival; otherwise the program reports it.
    """

    def __init__(self, post: Callable[[Event], None], *, is_paced: bool) -> None:
        self._post = post
        self._is_paced = is_paced
        self._epoch = 0
        self._items: dict[str, int] = {}
        """Frames queued in this epoch, of each item in order."""
        self._queued = 0
        self._played = 0.0
        self._reported = 0
        self._at = 0.0
        self._filled = asyncio.Event()

    def play(self, epoch: int, item_id: str, pcm: bytes) -> None:
        if epoch == self._epoch:
            if self._played >= self._queued:
                self._at = asyncio.get_running_loop().time()
            self._items[item_id] = self._items.get(item_id, 0) + len(pcm) // 2
            self._queued += len(pcm) // 2
            self._filled.set()

    def finish(self, epoch: int) -> None: ...

    def flush(self, epoch: int) -> None:
        self._epoch = epoch
        self._items.clear()
        self._queued = self._reported = 0
        self._played = 0.0

    def earcon(self, epoch: int, name: Earcon) -> None: ...
    def open_capture(self) -> None: ...
    def close_capture(self) -> None: ...
    def listen(self, since: float | None) -> None: ...

    def report(self, item_id: str, frames: int) -> None:
        """Set how many frames of an item the program has played; an item of an older epoch is ignored."""
        if item_id not in self._items:
            return
        ids = list(self._items)
        before = sum(self._items[one] for one in ids[: ids.index(item_id)])
        self._played = max(self._played, float(before + min(max(0, frames), self._items[item_id])))
        self._tell()

    async def run(self) -> None:
        """Advance the playout in real time, until cancelled."""
        while True:
            if not self._is_paced or self._played >= self._queued:
                self._filled.clear()
                await self._filled.wait()
                continue
            await asyncio.sleep(_TICK_S)
            now = asyncio.get_running_loop().time()
            self._played = min(float(self._queued), self._played + (now - self._at) * SAMPLE_RATE)
            self._at = now
            self._tell()

    def _tell(self) -> None:
        played = int(self._played)
        if played != self._reported:
            self._reported = played
            self._post(PlayoutProgress(self._epoch, played, played >= self._queued))


class SessionEvents:
    """Makes the events of one session, as an observer of its driver, for the readers.

    Args:
        agents: By name; the tool events of a handoff are not queued, only the handoff itself.
        audio: Converts the answers from the wire's format to the program's.
        take_turn: Called at each start and end of a turn.
    """

    def __init__(
        self,
        agents: Mapping[str, RealtimeAgent],
        *,
        audio: ProgramAudio,
        take_turn: Callable[[TurnStart | TurnEnd], None],
        wording: Wording,
    ) -> None:
        self._agents = agents
        self._wording = wording
        self._audio = audio
        self._item_id = ""
        """The item of the last audio."""
        self._response_of: dict[str, str] = {}
        """The responses of the newest items of answers, by the items' ids."""
        self._agent = ""
        """The agent that speaks."""
        self._take_turn = take_turn
        self.readers = EventReaders(_MOST_EVENTS)
        self.settled = asyncio.Event()
        """Set once the session is connected, or connecting has failed for good."""
        self.trouble = ""
        """Message of the last error."""

    def end(self) -> None:
        """End the readers after their unread events."""
        self.readers.end()
        self.settled.set()

    def observe(self, now: float, event: Event, commands: Sequence[Command], view: Any) -> None:
        """Queue the session events of one step; an `Observer` of the driver."""
        output = event.event if isinstance(event, ServerEventReceived) and isinstance(event.event, _OUTPUT) else None
        if output is not None:
            self._note_response(output.item_id, output.response_id)
        for command in commands:
            match command:
                case Play():
                    if command.item_id != self._item_id:
                        self._finish_audio()
                    self._item_id = command.item_id
                    self._put_audio(self._audio.encode(command.pcm))
                case FinishPlay():
                    self._finish_audio()
                case FlushPlayback():
                    self._audio.finish()  # dropped
                case Announce():
                    self.readers.put(Announcement(self._words(command.sentence)))
                case Emit(notice=AnswerText() as text) if output is not None:
                    self.readers.put(replace(text, item_id=output.item_id, response_id=output.response_id))
                case Emit():
                    self._take(command.notice)
        if view.state is State.FAILED:
            self.settled.set()

    def put_raw(self, link: int, frame: str) -> None:
        """Queue a raw frame; a tap of the transport."""
        try:
            data = json.loads(frame)
        except (ValueError, RecursionError):
            return  # the transport's reader reports it as an error
        if isinstance(data, dict):
            self.readers.put(Raw(data))

    def _finish_audio(self) -> None:
        if rest := self._audio.finish():
            self._put_audio(rest)

    def _put_audio(self, audio: bytes) -> None:
        self.readers.put(Audio(audio, self._item_id, self._agent, self._response_of.get(self._item_id, "")))

    def _note_response(self, item_id: str, response_id: str) -> None:
        self._response_of[item_id] = response_id
        if len(self._response_of) > _REMEMBERED:
            del self._response_of[next(iter(self._response_of))]

    def _words(self, sentence: Sentence | str) -> str:
        return sentence if isinstance(sentence, str) else self._wording.say(sentence.key, **sentence.values)

    def _take(self, notice: Notice) -> None:
        match notice:
            case OutOfBandEnded() | AgentUpdateEnded():
                return  # for the callers of `ask` and `update_agent`
            case ToolStart() | ToolEnd() | ToolApproval():
                if any(one.tool_name == notice.name for one in self._agents[notice.agent].transfers()):
                    return
            case Connected():
                self.settled.set()
            case AudioEnd() | AudioInterrupted():
                notice = replace(notice, response_id=self._response_of.get(notice.item_id, ""))
            case AgentStart():
                self._agent = notice.agent
            case TurnStart() | TurnEnd():
                self._take_turn(notice)
            case Error():
                notice = replace(notice, message=self._wording.trouble(notice.kind, notice.detail))
                self.trouble = notice.message
            case BudgetWarning():
                message = self._wording.budget(notice.unit, notice.percent, notice.spent, notice.limit)
                notice = replace(notice, message=message)
        self.readers.put(notice)


class NoDevice:
    """No-op light, voice and alarms: the session's program provides its own."""

    def show(self, state: str) -> None: ...
    def announce(self, command: Announce) -> None: ...
    def silence(self, alarm_id: str) -> None: ...
