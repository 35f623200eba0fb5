"""`RealtimeSession`: a conversation for programs that bring their own audio — a phone bridge, a test, a notebook.

::

    async with RealtimeSession(agent) as session:
        session.turn.begin()
        session.send_audio(pcm)
        session.turn.commit()
        async for event in session:
            if event.type == "audio":
                play(event.audio)

It is the asyncio face of the same `Conversation` that runs the appliance, with the same driver: whatever is decided
is decided there. This module turns calls into events of the conversation, and yields its notices
(`conversation.notices`). Everything here runs on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from appliance.agents.agent import RealtimeAgent
from appliance.agents.hooks import RealtimeRunHooks
from appliance.conversation.commands import Announce, Command, Earcon, Emit, Play
from appliance.conversation.events import (
    AbortAsked,
    ApprovalAnswered,
    AudioCaptured,
    BeginAsked,
    CommitAsked,
    Event,
    FrameGiven,
    HistoryReplaced,
    InterruptAsked,
    MessageGiven,
    OutOfBandAsked,
    PlayoutProgress,
    ShutdownRequested,
    Started,
)
from appliance.conversation.machine import Conversation
from appliance.conversation.notices import (
    Announcement,
    Audio,
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
from appliance.conversation.policy import Policy
from appliance.conversation.support.feedback import State
from appliance.errors import LinkError, SettingsError, bare_address
from appliance.realtime.items import HistoryItem
from appliance.realtime.payload import RealtimeSessionSettings, image_part, message_item, session_object
from appliance.realtime.protocol import SAMPLE_RATE
from appliance.realtime.transports.websocket import Endpoint, WebSocketTransport, endpoint_url
from appliance.runtime.agent_runtime import AgentRuntime, check_json
from appliance.runtime.driver import Driver

__all__ = ["RealtimeSession"]

log = logging.getLogger(__name__)

_OPENAI_URL = "wss://api.openai.com/v1"
_PERIOD_BYTES = 2 * SAMPLE_RATE // 50  # send_audio is cut into periods of 20 ms, as a microphone's are
_MOST_EVENTS = 10_000  # nobody reads: a minute of answers, then the oldest are dropped, and that is logged
_TICK_S = 0.02
_HOOKS_S = 2.0  # that hooks may still take when the session ends


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
        if self.is_open:
            self.is_open = False
            self._post(CommitAsked())

    def abort(self) -> None:
        """Take it back: nothing of it is answered. Harmless without a turn."""
        if self.is_open:
            self.is_open = False
            self._post(AbortAsked())


class RealtimeSession:
    """A conversation with a speech-to-speech model.

    Args:
        agent: Who begins.
        settings: Of the session; an agent's own win (see `realtime.payload`).
        url: A Realtime server up to ``/v1``; "offline" is the offline brain, inside this process. A list is tried in
            order, and gone back to. None: OpenAI if there is a key, else the offline brain. Only the first server is
            given the key and the headers.
        api_key: The key for the first server, or a function that fetches it for each connection; None takes
            ``OPENAI_API_KEY``.
        headers: More headers for the opening handshake with the first server.
        context: Any object; handed to every tool, guardrail, predicate and hook.
        hooks: Called at what happens.
        history: What was said before; the model is told.
        policy: Times and limits of the conversation, guardrails and budget; the defaults suit a program that streams.
        playback: How much was heard, for truncation: ``paced`` supposes that audio is played as it comes, at once and
            without a pause; ``reported`` waits for `played`.
        are_guardrails_parallel: Run several guardrails side by side, or one after the other.
        observers: See `runtime.driver`; a `service.store.ConversationStore` is one.
        connect_timeout_s: How long ``async with`` waits for the model.
        raw_events: Whether every frame is yielded too, as a `Raw` event.

    Raises:
        ToolError: Two agents or tools have the same name.
        SettingsError: A setting is impossible.
    """

    def __init__(
        self,
        agent: RealtimeAgent,
        settings: RealtimeSessionSettings | None = None,
        *,
        url: str | Sequence[str] | None = None,
        api_key: str | Callable[[], str] | None = None,
        headers: Mapping[str, str] | None = None,
        context: Any = None,
        hooks: RealtimeRunHooks | None = None,
        history: Sequence[HistoryItem] = (),
        policy: Policy | None = None,
        playback: Literal["paced", "reported"] = "paced",
        are_guardrails_parallel: bool = True,
        observers: Sequence[Callable[..., None]] = (),
        connect_timeout_s: float = 30.0,
        raw_events: bool = True,
    ) -> None:
        self.settings = settings or RealtimeSessionSettings()
        self.turn = RealtimeTurn(self._post)
        self.context = context
        self._api_key = api_key
        self._headers = dict(headers or {})
        self._urls = [url] if isinstance(url, str) else list(url) if url is not None else [self._usual_url()]
        self._start_history = tuple(history)
        self._policy = policy or Policy(pre_roll_ms=0, silence_peak=-1)  # what a program sends is its own business
        self._observers = observers
        self._connect_timeout_s = connect_timeout_s
        self._raw_events = raw_events
        self._runtime = AgentRuntime(
            agent,
            compose=self._compose,
            post=self._post,
            context=context,
            hooks=hooks,
            history=lambda: self.history,
            are_guardrails_parallel=are_guardrails_parallel,
            guardrail_s=self._policy.guardrail_s,
        )
        for one in self._runtime.agents.values():
            self._check(one)
        self._events: deque[SessionEvent] = deque()
        self._arrived = asyncio.Event()
        self._dropped = 0
        self._is_over = False
        self._is_paced = playback == "paced"
        self._stack: AsyncExitStack | None = None
        self._running: asyncio.Task[None] | None = None
        self._conversation: Conversation | None = None
        self._driver: Driver | None = None
        self._sink: _Sink | None = None
        self._decoder, self._encoder = self._codecs()
        self._items = 0
        self._connected = asyncio.Event()
        self._endpoints: list[Endpoint] = []
        self._trouble = ""

    def __repr__(self) -> str:
        return f"<RealtimeSession of {list(self._runtime.agents)}: {self._conversation!r}>"

    # --- life ---------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> RealtimeSession:
        """Connect.

        Raises:
            LinkError: No endpoint let us in within the time; the text says why.
        """
        if self._running is not None:
            raise SettingsError("a session is used once: make another RealtimeSession")
        async with AsyncExitStack() as stack:
            first = next((one for one in self._urls if one != "offline"), None)
            self._endpoints = [await self._endpoint(stack, one, has_key=one is first) for one in self._urls]
            await stack.enter_async_context(self._runtime)
            specs = await self._runtime.specs()
            self._running = asyncio.get_running_loop().create_task(self._run(specs), name="realtime session")
            stack.push_async_callback(self._stop)
            await self._until_connected()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the session: tell the server what was heard, close the connection. Harmless when it is closed."""
        stack, self._stack = self._stack, None
        if stack is not None:
            await stack.aclose()
        elif self._running is not None and not self._running.done():
            self._post(ShutdownRequested("closed"))  # while it connects: `async with` raises then

    async def _stop(self) -> None:
        self._post(ShutdownRequested("closed"))
        assert self._running is not None
        # Not awaited itself: a tool may close the session, and its cancellation would end what it waits for.
        await asyncio.wait({self._running})
        self._end_events()
        if not self._running.cancelled() and (error := self._running.exception()) is not None:
            raise error

    async def _until_connected(self) -> None:
        assert self._running is not None
        waiting = asyncio.ensure_future(self._connected.wait())
        try:
            await asyncio.wait({waiting, self._running}, timeout=self._connect_timeout_s, return_when="FIRST_COMPLETED")
        finally:
            waiting.cancel()
        if self._running.done():
            await self._running
            raise LinkError("the session was closed while it connected")
        conversation = self._conversation
        if conversation is None or conversation.state in (State.FAILED, State.OFFLINE, State.CONNECTING):
            why = self._trouble or f"no connection within {self._connect_timeout_s:g} s"
            raise LinkError(f"{', '.join(one.name for one in self._endpoints)}: {why}")

    async def _run(self, specs: Sequence[Any]) -> None:
        transport = WebSocketTransport(
            self._endpoints,
            post=self._post,
            tap=self._on_raw if self._raw_events else None,
        )
        self._conversation = conversation = Conversation(
            policy=self._policy_for(len(self._endpoints)),
            specs=specs,
            history=self._start_history,
            seed=time.monotonic_ns() & 0xFFFF_FFFF,
        )
        self._sink = sink = _Sink(self._post, is_paced=self._is_paced)
        self._driver = driver = Driver(
            conversation,
            transport=transport,
            audio=sink,
            tools=self._runtime.tools,
            agents=self._runtime.preparer,
            light=_Nothing(),
            announcer=_Nothing(),
            alarms=_Nothing(),
            observers=[self._observe, self._runtime.observe, *self._observers],
        )
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one.run()) for one in (transport, sink, self._runtime)]
                driver.post(Started())
                await driver.run()
                await transport.said_goodbye()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_HOOKS_S):
                        await self._runtime.hooks_are_done()
                for task in tasks:
                    task.cancel()
        finally:
            self._driver = None
            self._runtime.ask.end("the session has ended")
            self._end_events()

    def _policy_for(self, endpoints: int) -> Policy:
        from dataclasses import replace

        offline = next((at for at, one in enumerate(self._urls) if one == "offline"), None)
        return replace(self._policy, endpoints=endpoints, offline_endpoint=offline)

    # --- what the program says ----------------------------------------------------------------------------------

    def send_audio(self, audio: bytes, *, commit: bool = False) -> None:
        """The user speaks.

        Without server-side turn detection it belongs to the turn that `turn` has begun; outside of one it is dropped.

        Args:
            audio: In the session's `input_audio_format`, any length of whole samples.
            commit: End the turn with it, and begin one before if there is none.

        Raises:
            SettingsError: Half a sample.
        """
        from appliance.audio import pcm as samples  # numpy, which a program that sends no audio does not need

        if self._decoder is not None:
            audio = self._decoder.decode(audio)
        if len(audio) % 2:
            raise SettingsError(f"send_audio: {len(audio)} bytes are no whole 16-bit samples")
        if commit:
            self.turn.begin()
        for start in range(0, len(audio), _PERIOD_BYTES):
            piece = audio[start : start + _PERIOD_BYTES]
            block = samples.from_bytes(piece)
            self._post(AudioCaptured(piece, samples.peak(block), samples.level_db(block)))
        if commit:
            self.turn.commit()

    def send_message(self, text: str, *, role: Literal["user", "system"] = "user", respond: bool = True) -> str:
        """Say something in writing.

        Args:
            text: What.
            role: The user's words, or a word of the system in between.
            respond: Ask for an answer; one that is under way is interrupted, as by a press.

        Returns:
            The id of the new item.
        """
        return self._give(role, text, [], respond)

    def send_image(
        self,
        image: bytes | str | Path,
        *,
        text: str = "",
        detail: Literal["auto", "low", "high"] | None = None,
        respond: bool = True,
    ) -> str:
        """Show an image.

        Args:
            image: The bytes of a PNG or JPEG file, or its path.
            text: What to say with it.
            detail: How closely the model is to look.
            respond: Ask for an answer.

        Returns:
            The id of the new item.

        Raises:
            SettingsError: It is neither PNG nor JPEG, or larger than `realtime.payload.MAX_IMAGE_BYTES`.
            OSError: The file cannot be read.
        """
        content = image if isinstance(image, bytes) else Path(image).read_bytes()
        return self._give("user", text, [image_part(content, detail=detail)], respond)

    def interrupt(self) -> None:
        """Stop the answer; what the user is saying goes on."""
        self._post(InterruptAsked())

    def approve(self, call: ToolApproval | str, *, always: bool = False) -> None:
        """Let a call be made that waits for approval.

        Args:
            call: The event, or its call id; one that does not wait is ignored.
            always: And every later call of this tool in this session.
        """
        self._post(ApprovalAnswered(_call_id(call), True, always))

    def reject(self, call: ToolApproval | str, *, always: bool = False, message: str = "") -> None:
        """Refuse a call that waits for approval.

        Args:
            call: The event, or its call id; one that does not wait is ignored.
            always: And every later call of this tool in this session.
            message: What the model is told instead of a result.
        """
        self._post(ApprovalAnswered(_call_id(call), False, always, message))

    def send_event(self, frame: Mapping[str, Any]) -> None:
        """Send any frame as it is; without a connection it is dropped, with an `error` event.

        Raises:
            SettingsError: It has no type.
        """
        if not isinstance(frame.get("type"), str):
            raise SettingsError(f"send_event: a frame needs a 'type'; this one has the keys {sorted(frame)}")
        check_json(frame, "send_event")
        self._post(FrameGiven(frame))

    @property
    def ask(self) -> Any:
        """Ask the model beside the conversation; see `runtime.agent_runtime.Asker`."""
        return self._runtime.ask

    @property
    def history(self) -> tuple[HistoryItem, ...]:
        """The conversation so far."""
        return self._conversation.history if self._conversation is not None else self._start_history

    def update_history(
        self,
        history: Sequence[HistoryItem] | Callable[[Sequence[HistoryItem]], Sequence[HistoryItem]],
    ) -> None:
        """Make the conversation into another one: what is missing is deleted, what is new created.

        Args:
            history: The items in order, or a function from the present ones to them. Items with an empty id are new.
        """
        if not callable(history):
            self._post(HistoryReplaced(tuple(history)))
        elif self._driver is None or not self._driver.is_busy:
            self._post(HistoryReplaced(tuple(history(self.history))))
        else:  # what was given before is not in the history yet
            asyncio.get_running_loop().call_soon(self.update_history, history)

    @property
    def agents(self) -> Mapping[str, RealtimeAgent]:
        """Every agent by its name, as events name them."""
        return self._runtime.agents

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The servers by name, in order, once the session has begun; a `Connected` event counts them from 0."""
        return tuple(one.name for one in self._endpoints)

    @property
    def agent(self) -> RealtimeAgent:
        """Who talks."""
        agents = self._runtime.agents
        return agents[self._conversation.agent] if self._conversation is not None else next(iter(agents.values()))

    def played(self, frames: int) -> None:
        """Tell how much has been heard since the last interruption, with ``playback="reported"``.

        Args:
            frames: All samples at 24 kHz so far, not those since the last report.
        """
        if self._sink is not None:
            self._sink.report(frames)

    # --- what the program hears ---------------------------------------------------------------------------------

    async def __aiter__(self) -> AsyncIterator[SessionEvent]:
        """Yield events until the session ends; for one reader."""
        while True:
            while self._events:
                yield self._events.popleft()
            if self._is_over:
                return
            self._arrived.clear()
            await self._arrived.wait()

    def _yield(self, event: SessionEvent) -> None:
        if len(self._events) >= _MOST_EVENTS:
            self._events.popleft()
            self._dropped += 1
            if self._dropped == 1:
                log.warning("nobody reads the events of this session: the oldest of %d are dropped", _MOST_EVENTS)
        self._events.append(event)
        self._arrived.set()

    def _end_events(self) -> None:
        self._is_over = True
        self._arrived.set()

    def _on_raw(self, link: int, frame: str) -> None:
        try:
            data = json.loads(frame)
        except (ValueError, RecursionError):
            return  # reported as an error by whoever reads it
        if isinstance(data, dict):
            self._yield(Raw(data))

    def _observe(self, now: float, event: Event, commands: Sequence[Command], view: Any) -> None:
        for command in commands:
            match command:
                case Play():
                    audio = self._encoder.encode(command.pcm) if self._encoder is not None else command.pcm
                    self._yield(Audio(audio, command.item_id, self.agent.name))
                case Announce():
                    self._yield(Announcement(command.text))
                case Emit():
                    self._on_notice(command.notice)
        if view.state is State.FAILED:
            self._connected.set()

    def _on_notice(self, notice: Notice) -> None:
        if not self._is_told_otherwise(notice):
            self._yield(notice)
        match notice:
            case Connected():
                self._connected.set()
            case TurnStart() | TurnEnd():
                self.turn.take(notice)
            case Error():
                self._trouble = notice.message

    def _is_told_otherwise(self, notice: Notice) -> bool:
        """The call of a handoff is yielded as the handoff, and the answer to `ask` is returned by it."""
        if isinstance(notice, (ToolStart, ToolEnd, ToolApproval)):
            return any(one.tool_name == notice.name for one in self._runtime.agents[notice.agent].transfers())
        return isinstance(notice, OutOfBandEnded)

    # --- inside -------------------------------------------------------------------------------------------------

    def _post(self, event: Event) -> None:
        if self._driver is not None:
            self._driver.post(event)
        elif isinstance(event, OutOfBandAsked):
            self._runtime.ask.take(OutOfBandEnded(event.key, (), "the session is not running"))

    def _give(self, role: Literal["user", "system"], text: str, images: list[dict[str, Any]], respond: bool) -> str:
        self._items += 1
        item_id = f"msg_{time.monotonic_ns():x}_{self._items}"
        self._post(MessageGiven(message_item(item_id, role, text, images), text, respond))
        return item_id

    def _compose(self, agent: RealtimeAgent, instructions: str, tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        own = self.settings.of_agent(agent.settings, voice=agent.voice)
        session = session_object(own, instructions=instructions, tools=tools)
        check_json(session, f"the session of the agent {agent.name!r}")
        return session

    def _check(self, agent: RealtimeAgent) -> None:
        """Refuse what cannot work together.

        Raises:
            SettingsError: Input guardrails need the user's words, and to be asked before the answer.
        """
        own = self.settings.of_agent(agent.settings, voice=agent.voice)
        if not agent.input_guardrails:
            return
        if own.transcription is None:
            raise SettingsError(
                f"agent {agent.name!r} has input guardrails, but nothing writes down what the user says: "
                "set transcription in the session's settings"
            )
        ear = own.turn_detection
        creates = (
            ear.get("create_response", True) if isinstance(ear, Mapping) else getattr(ear, "create_response", False)
        )
        if ear is not None and creates:
            raise SettingsError(
                f"agent {agent.name!r} has input guardrails, but the server answers by itself: "
                "set create_response=False in turn_detection"
            )

    def _usual_url(self) -> str:
        return _OPENAI_URL if self._api_key is not None or os.environ.get("OPENAI_API_KEY") else "offline"

    async def _endpoint(self, stack: AsyncExitStack, url: str, *, has_key: bool) -> Endpoint:
        if url != "offline":
            headers = self._handshake if has_key else dict
            return Endpoint(endpoint_url(url, self.settings.model), headers, bare_address(url))
        from appliance.brain.offline import offline_brain

        server = await stack.enter_async_context(offline_brain())
        return Endpoint(endpoint_url(server.url, "offline"), dict, "offline brain")

    def _handshake(self) -> dict[str, str]:
        try:
            key = self._api_key() if callable(self._api_key) else self._api_key or os.environ.get("OPENAI_API_KEY")
        except Exception as exc:  # noqa: BLE001 - the maker's; not its words, which may quote a secret
            raise LinkError(f"the key could not be fetched: {type(exc).__name__}") from None
        if key is not None and not isinstance(key, str):
            raise SettingsError(f"api_key gave a {type(key).__name__}, expected a text")
        return {**({"Authorization": f"Bearer {key}"} if key else {}), **self._headers}

    def _codecs(self) -> tuple[Any, Any]:
        if self.settings.input_audio_format == self.settings.output_audio_format == "pcm16":
            return None, None
        from appliance.audio.g711 import Law, NarrowbandDecoder, NarrowbandEncoder

        laws: dict[str, Law] = {"g711_ulaw": "audio/pcmu", "g711_alaw": "audio/pcma"}
        decodes, encodes = laws.get(self.settings.input_audio_format), laws.get(self.settings.output_audio_format)
        return NarrowbandDecoder(decodes) if decodes else None, NarrowbandEncoder(encodes) if encodes else None


def _call_id(call: ToolApproval | str) -> str:
    return call if isinstance(call, str) else call.call_id


class _Sink:
    """The loudspeaker of a session: it has none, so it says how much of the answer has been heard by now."""

    def __init__(self, post: Callable[[Event], None], *, is_paced: bool) -> None:
        self._post = post
        self._is_paced = is_paced
        self._epoch = 0
        self._queued = 0
        self._played = 0.0
        self._is_told = 0
        self._at = 0.0
        self._filled = asyncio.Event()

    def play(self, epoch: int, item_id: str, pcm: bytes) -> None:
        if epoch != self._epoch:
            return
        if self._played >= self._queued:
            self._at = asyncio.get_running_loop().time()
        self._queued += len(pcm) // 2
        self._filled.set()

    def finish(self, epoch: int) -> None: ...

    def flush(self, epoch: int) -> None:
        self._epoch = epoch
        self._queued = self._is_told = 0
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
        if played != self._is_told:
            self._is_told = played
            self._post(PlayoutProgress(self._epoch, played, played >= self._queued))


class _Nothing:
    """Light, voice and alarms of a session: its program has its own."""

    def show(self, state: str) -> None: ...
    def announce(self, command: Announce) -> None: ...
    def silence(self, alarm_id: str) -> None: ...
