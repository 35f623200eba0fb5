"""The program's side of a `RealtimeSession`, in place of a button and a sound card: its turn, audio and events."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from appliance.agents.agent import RealtimeAgent
from appliance.conversation.commands import Announce, Command, Earcon, Emit, Play, Sentence
from appliance.conversation.events import AbortAsked, AudioCaptured, BeginAsked, CommitAsked, Event, PlayoutProgress
from appliance.conversation.notices import (
    Announcement,
    Audio,
    BudgetWarning,
    Connected,
    Error,
    Notice,
    OutOfBandEnded,
    Raw,
    SessionEvent,
    ToolApproval,
    ToolEnd,
    ToolStart,
    TurnEnd,
    TurnStart,
)
from appliance.conversation.support.feedback import State
from appliance.errors import SettingsError
from appliance.realtime.protocol import SAMPLE_RATE
from appliance.wording import Wording

if TYPE_CHECKING:
    from appliance.audio.g711 import Law, NarrowbandDecoder, NarrowbandEncoder

__all__ = ["NoDevice", "PacedPlayback", "ProgramAudio", "RealtimeTurn", "SessionEvents"]

log = logging.getLogger(__name__)

_PERIOD_BYTES = 2 * SAMPLE_RATE // 50  # send_audio is cut into periods of 20 ms, as a microphone's are
_TICK_S = 0.02
_MOST_EVENTS = 10_000  # nobody reads: a minute of answers, then the oldest are dropped, and that is logged
_LAWS: dict[str, Law] = {"g711_ulaw": "audio/pcmu", "g711_alaw": "audio/pcma"}


class RealtimeTurn:
    """The turn of a session whose program says when the user speaks (push to talk)."""

    def __init__(self, post: Callable[[Event], None]) -> None:
        self._post = post
        self._id = ""
        self.is_open = False

    def begin(self) -> None:
        """The user begins to speak: an answer that is under way is interrupted. Harmless in an open turn."""
        if not self.is_open:
            self.is_open = True
            self._id = ""
            self._post(BeginAsked())

    def take(self, notice: TurnStart | TurnEnd) -> None:
        """Follow what the conversation makes of it: it may end the turn, at its longest or for silence."""
        if isinstance(notice, TurnStart):
            if notice.kind == "program":
                self._id = notice.turn
        elif notice.turn == self._id:
            self.is_open = False

    def commit(self) -> None:
        """The user is done, and waits for an answer. Harmless without a turn."""
        self._close(CommitAsked())

    def abort(self) -> None:
        """Take it back: nothing of it is answered. Harmless without a turn."""
        self._close(AbortAsked())

    def _close(self, event: Event) -> None:
        if self.is_open:
            self.is_open = False
            self._post(event)


class ProgramAudio:
    """Audio as the program sends and takes it; on the wire it is pcm16.

    Imports numpy when there is audio to convert, not before.

    Args:
        input_format: Of `RealtimeSessionSettings`, as is `output_format`.
    """

    def __init__(self, input_format: str, output_format: str) -> None:
        self._decoder: NarrowbandDecoder | None = None
        self._encoder: NarrowbandEncoder | None = None
        if {input_format, output_format} & _LAWS.keys():
            from appliance.audio.g711 import NarrowbandDecoder, NarrowbandEncoder

            self._decoder = NarrowbandDecoder(_LAWS[input_format]) if input_format in _LAWS else None
            self._encoder = NarrowbandEncoder(_LAWS[output_format]) if output_format in _LAWS else None

    def captured(self, audio: bytes) -> list[AudioCaptured]:
        """Cut what the program sends into periods, as a microphone's are.

        Raises:
            SettingsError: Half a sample.
        """
        from appliance.audio import pcm

        if self._decoder is not None:
            audio = self._decoder.decode(audio)
        if len(audio) % 2:
            raise SettingsError(f"send_audio: {len(audio)} bytes are no whole 16-bit samples")
        pieces = [audio[start : start + _PERIOD_BYTES] for start in range(0, len(audio), _PERIOD_BYTES)]
        blocks = [pcm.from_bytes(piece) for piece in pieces]
        return [
            AudioCaptured(piece, pcm.peak(block), pcm.level_db(block))
            for piece, block in zip(pieces, blocks, strict=True)
        ]

    def encode(self, pcm: bytes) -> bytes:
        """Make the program's audio of the wire's."""
        return self._encoder.encode(pcm) if self._encoder is not None else pcm


class PacedPlayback:
    """A playback sink without a loudspeaker: it reports how much of the answer has been heard by now.

    Args:
        post: Takes ``PlayoutProgress``.
        is_paced: Suppose that audio is heard in real time as it comes; else the program reports it.
    """

    def __init__(self, post: Callable[[Event], None], *, is_paced: bool) -> None:
        self._post = post
        self._is_paced = is_paced
        self._epoch = 0
        self._queued = 0
        self._played = 0.0
        self._reported = 0
        self._at = 0.0
        self._filled = asyncio.Event()

    def play(self, epoch: int, item_id: str, pcm: bytes) -> None:
        if epoch == self._epoch:
            if self._played >= self._queued:
                self._at = asyncio.get_running_loop().time()
            self._queued += len(pcm) // 2
            self._filled.set()

    def finish(self, epoch: int) -> None: ...

    def flush(self, epoch: int) -> None:
        self._epoch = epoch
        self._queued = self._reported = 0
        self._played = 0.0

    def earcon(self, epoch: int, name: Earcon) -> None: ...
    def open_capture(self) -> None: ...
    def close_capture(self) -> None: ...

    def report(self, frames: int) -> None:
        """The program has played so many frames of this epoch."""
        self._played = float(min(max(0, frames), self._queued))
        self._tell()

    async def run(self) -> None:
        """Let the audio be heard in real time, until cancelled."""
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
    """The event queue of one session, filled as an observer of its driver; for one reader.

    Args:
        agents: By name; a tool's event of a handoff is yielded as the handoff only.
        encode: Makes the program's audio of the wire's.
        speaker: Name of the agent that talks.
        take_turn: Is given each begin and end of a turn.
    """

    def __init__(
        self,
        agents: Mapping[str, RealtimeAgent],
        *,
        encode: Callable[[bytes], bytes],
        speaker: Callable[[], str],
        take_turn: Callable[[TurnStart | TurnEnd], None],
        wording: Wording,
    ) -> None:
        self._agents = agents
        self._wording = wording
        self._encode = encode
        self._speaker = speaker
        self._take_turn = take_turn
        self._queue: asyncio.Queue[SessionEvent | None] = asyncio.Queue()
        self._has_dropped = False
        self.settled = asyncio.Event()
        """Set once a connection stands, or none will."""
        self.trouble = ""
        """The last error's words."""

    async def __aiter__(self) -> AsyncIterator[SessionEvent]:
        while (event := await self._queue.get()) is not None:
            yield event
        self._queue.put_nowait(None)  # for another reader, or the same again

    def end(self) -> None:
        """Let the reader come to its end, after what is queued."""
        self._queue.put_nowait(None)
        self.settled.set()

    def observe(self, now: float, event: Event, commands: Sequence[Command], view: Any) -> None:
        """Queue the session events of one step; an `Observer` of the driver."""
        for command in commands:
            match command:
                case Play():
                    self._put(Audio(self._encode(command.pcm), command.item_id, self._speaker()))
                case Announce():
                    self._put(Announcement(self._words(command.sentence)))
                case Emit():
                    self._take(command.notice)
        if view.state is State.FAILED:
            self.settled.set()

    def put_raw(self, link: int, frame: str) -> None:
        """Queue a frame as it came; a tap of the transport."""
        try:
            data = json.loads(frame)
        except (ValueError, RecursionError):
            return  # the transport's reader reports it as an error
        if isinstance(data, dict):
            self._put(Raw(data))

    def _words(self, sentence: Sentence | str) -> str:
        return sentence if isinstance(sentence, str) else self._wording.say(sentence.key, **sentence.values)

    def _take(self, notice: Notice) -> None:
        match notice:
            case OutOfBandEnded():
                return  # returned by `ask`
            case ToolStart() | ToolEnd() | ToolApproval():
                if any(one.tool_name == notice.name for one in self._agents[notice.agent].transfers()):
                    return
            case Connected():
                self.settled.set()
            case TurnStart() | TurnEnd():
                self._take_turn(notice)
            case Error():
                notice = replace(notice, message=self._wording.trouble(notice.kind, notice.detail))
                self.trouble = notice.message
            case BudgetWarning():
                message = self._wording.budget(notice.unit, notice.percent, notice.spent, notice.limit)
                notice = replace(notice, message=message)
        self._put(notice)

    def _put(self, event: SessionEvent) -> None:
        if self._queue.qsize() >= _MOST_EVENTS:
            self._queue.get_nowait()
            if not self._has_dropped:
                log.warning("nobody reads the events of this session: the oldest of %d are dropped", _MOST_EVENTS)
            self._has_dropped = True
        self._queue.put_nowait(event)


class NoDevice:
    """Light, voice and alarms of a session: its program has its own."""

    def show(self, state: str) -> None: ...
    def announce(self, command: Announce) -> None: ...
    def silence(self, alarm_id: str) -> None: ...
