"""`RealtimeSession`: a conversation for programs that bring their own audio — a phone bridge, a test, a notebook.

::

    async with RealtimeSession(agent) as session:
        session.turn.begin()
        session.send_audio(pcm)
        session.turn.commit()
        async for event in session:
            if event.type == "audio":
                play(event.audio)

It is an asyncio interface to the `Conversation` and driver that also run the appliance; all decisions are made there.
This module turns calls into events of the conversation, and yields its notices (`conversation.notices`).

Everything here runs on the event loop's thread. A call on another thread, before ``async with`` or after the end of the
session raises `SessionNotOpen`; reading is always allowed.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from appliance.agents.agent import RealtimeAgent
from appliance.agents.hooks import RealtimeRunHooks
from appliance.conversation.events import (
    ApprovalAnswered,
    FrameGiven,
    HistoryReplaced,
    InterruptAsked,
)
from appliance.conversation.machine import Conversation
from appliance.conversation.notices import SessionEvent, ToolApproval
from appliance.conversation.policy import Policy
from appliance.errors import SettingsError
from appliance.realtime.items import HistoryItem
from appliance.realtime.messages import image_of, structured_item
from appliance.realtime.payload import RealtimeSessionSettings, message_item, session_object
from appliance.realtime.transports import open_transport
from appliance.runtime.agent_runtime import AgentRuntime, Asker, check_guardrails, check_json
from appliance.runtime.driver import Observer
from appliance.runtime.live_session import LiveSession, ProgramInput
from appliance.runtime.session_body import PacedPlayback, ProgramAudio, RealtimeTurn, SessionEvents, new_item_id
from appliance.runtime.session_servers import SessionServers
from appliance.wording import Wording

__all__ = ["RealtimeSession"]


class RealtimeSession:
    """A conversation with a speech-to-speech model.

    Args:
        agent: The first agent.
        settings: The session's settings; an agent's own win (see `realtime.payload`).
        url: A Realtime server up to ``/v1``, "offline" for the offline brain in this process, or a list in order of
            preference. None: OpenAI with a key, else the offline brain. Only the first gets the key and the headers.
        api_key: The key, or a function that fetches it for each connection; None takes ``OPENAI_API_KEY``.
        headers: More headers for the opening handshake with the first server.
        context: Any object; passed to every tool, guardrail, predicate and hook.
        hooks: Hooks of the whole session.
        history: Earlier items; sent to the model at connect.
        policy: Times and limits of the conversation, guardrails and budget; the defaults suit a streaming program.
        playback: ``paced`` assumes that audio is played on arrival, without pauses; ``reported`` relies on `played`.
        are_guardrails_parallel: Run an agent's guardrails concurrently; otherwise one after another.
        observers: See `runtime.driver`.
        connect_timeout_s: How long ``async with`` waits for a connection.
        raw_events: Whether to yield every frame too, as a `Raw` event.
        language: Of the messages in events, and of the outputs of calls that no tool answers.
        transport: Name of the transport; see `realtime.transports`.

    Raises:
        ToolError: Two agents or tools have the same name.
        SettingsError: A setting is invalid.
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
        observers: Sequence[Observer] = (),
        connect_timeout_s: float = 30.0,
        raw_events: bool = True,
        language: str = "en",
        transport: str = "websocket",
    ) -> None:
        self.settings = settings or RealtimeSessionSettings()
        self._input = ProgramInput()
        self.turn = RealtimeTurn(self._input.give, has_turn_detection=self._input.has_turn_detection)
        self.context = context
        self._servers = SessionServers(url, api_key=api_key, headers=headers)
        self._start_history = tuple(history)
        wording = Wording(language)
        own = policy or Policy(pre_roll_ms=0, silence_peak=-1)  # use a program's audio as it is
        self._policy = replace(own, outputs=own.outputs or wording.table("output"))
        self._observers = observers
        self._connect_timeout_s = connect_timeout_s
        self._runtime = AgentRuntime(
            agent,
            compose=self._compose,
            post=self._input.post,
            context=context,
            hooks=hooks,
            wording=wording,
            history=lambda: self.history,
            are_guardrails_parallel=are_guardrails_parallel,
            guardrail_s=self._policy.guardrail_s,
        )
        for one in self._runtime.agents.values():
            check_guardrails(one, self._settings_of(one))
        self._audio = ProgramAudio(self.settings.input_audio_format, self.settings.output_audio_format)
        self._playback = PacedPlayback(self._input.post, is_paced=playback == "paced")
        self._events = SessionEvents(
            self.agents,
            audio=self._audio,
            speaker=lambda: self.agent.name,
            take_turn=self.turn.take,
            wording=wording,
        )
        self._open_transport = partial(
            open_transport, transport, post=self._input.post, tap=self._events.put_raw if raw_events else None
        )
        self._stack: AsyncExitStack | None = None

    def __repr__(self) -> str:
        live = self._input.live
        return f"<RealtimeSession of {list(self.agents)}: {live.conversation if live else 'not started'}>"

    # --- life ---------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> RealtimeSession:
        """Connect.

        Raises:
            LinkError: No endpoint accepted the connection in time; the message says why.
        """
        if self._input.live is not None:
            raise SettingsError("a session can be used only once: create another RealtimeSession")
        async with AsyncExitStack() as stack:
            endpoints = await self._servers.open(stack, self.settings.model)
            await stack.enter_async_context(self._runtime)
            conversation = Conversation(
                policy=replace(self._policy, endpoints=len(endpoints), offline_endpoint=self._servers.offline),
                specs=await self._runtime.specs(),
                history=self._start_history,
                seed=time.monotonic_ns() & 0xFFFF_FFFF,
            )
            self._input.live = live = LiveSession(
                conversation,
                self._open_transport(endpoints),
                playback=self._playback,
                runtime=self._runtime,
                events=self._events,
                observers=self._observers,
            )
            stack.push_async_callback(live.stop)
            await live.until_connected(self._connect_timeout_s, self.endpoints)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the session: report to the server what was heard, and close the connection. Idempotent."""
        stack, self._stack = self._stack, None
        if stack is not None:
            await stack.aclose()
        elif self._input.live is not None:  # while it connects: `async with` raises then
            self._input.live.close()

    # --- input of the program -----------------------------------------------------------------------------------

    def send_audio(self, audio: bytes, *, commit: bool = False) -> None:
        """Send audio of the user.

        Outside a turn it begins one, as `turn.begin` does, unless the server detects the turns.

        Args:
            audio: In the session's `input_audio_format`; any number of whole samples.
            commit: Commit the turn after this audio.

        Raises:
            SettingsError: The audio ends in half a sample.
        """
        self._input.opened()
        periods = self._audio.captured(audio)
        if periods:
            self.turn.hear()
        for period in periods:
            self._input.give(period)
        if commit:
            self.turn.commit()

    def send_message(
        self,
        message: str | Mapping[str, Any],
        *,
        role: Literal["user", "system"] = "user",
        respond: bool = True,
        on_busy: Literal["interrupt", "wait"] = "interrupt",
    ) -> str:
        """Send a message; returns the id of its item.

        Args:
            message: A text, or a structured message; see `realtime.messages.structured_item`.
            role: The author of a text.
            respond: Ask for an answer.
            on_busy: Interrupt a running answer, as a press does, or send the message once that has ended.

        Raises:
            SettingsError: A structured message or `on_busy` is invalid.
        """
        return self._input.write(structured_item(new_item_id(), message, role), respond, on_busy)

    def send_image(
        self,
        image: bytes | str | Path,
        *,
        text: str = "",
        detail: Literal["auto", "low", "high"] | None = None,
        respond: bool = True,
    ) -> str:
        """Send an image; returns the id of its item.

        Args:
            image: The bytes of a PNG or JPEG file, its path, or its ``https`` address, which the server fetches.
            text: A text to send with it.
            detail: How much detail the model sees; None uses the server's default.
            respond: Ask for an answer.

        Raises:
            SettingsError: The image is neither PNG nor JPEG, or larger than `realtime.payload.MAX_IMAGE_BYTES`.
            OSError: The file cannot be read.
        """
        return self._input.write(message_item(new_item_id(), "user", text, [image_of(image, detail=detail)]), respond)

    def interrupt(self) -> None:
        """Stop the answer; an open turn of the user continues."""
        self._input.give(InterruptAsked())

    def approve(self, call: ToolApproval | str, *, always: bool = False) -> None:
        """Approve a tool call that waits for approval.

        Args:
            call: The event, or its call id; ignored if that call does not wait.
            always: Also approve every later call of this tool in this session.
        """
        self._input.give(ApprovalAnswered(_call_id(call), True, always))

    def reject(self, call: ToolApproval | str, *, always: bool = False, message: str = "") -> None:
        """Reject a tool call that waits for approval.

        Args:
            call: The event, or its call id; ignored if that call does not wait.
            always: Also reject every later call of this tool in this session.
            message: The output of the rejected call, for the model.
        """
        self._input.give(ApprovalAnswered(_call_id(call), False, always, message))

    def send_event(self, frame: Mapping[str, Any]) -> None:
        """Send a frame unchanged; without a connection it is dropped, and an `error` event is yielded.

        In an open turn ``input_audio_buffer.commit`` is `turn.commit`, and ``input_audio_buffer.clear`` discards the
        audio of the turn so far. A ``response.create`` behind the commit requests no second answer; its options apply
        to the one that the commit requests.

        Raises:
            SettingsError: The frame has no ``type``, or JSON cannot express it.
        """
        if not isinstance(frame.get("type"), str):
            raise SettingsError(f"send_event: a frame needs a 'type'; this one has the keys {sorted(frame)}")
        check_json(frame, "send_event")
        if frame["type"] == "input_audio_buffer.commit" and self.turn.is_open:
            self.turn.commit()
        else:
            self._input.give(FrameGiven(frame))

    @property
    def ask(self) -> Asker:
        """Asks the model outside the conversation; see `runtime.agent_runtime.Asker`."""
        return self._runtime.ask

    @property
    def history(self) -> tuple[HistoryItem, ...]:
        """The conversation so far."""
        return self._input.live.conversation.history if self._input.live else self._start_history

    def update_history(
        self,
        history: Sequence[HistoryItem] | Callable[[Sequence[HistoryItem]], Sequence[HistoryItem]],
    ) -> None:
        """Replace the history: missing items are deleted on the server, new items are created.

        Args:
            history: The items in order, or a function from the current items to them. Items with an empty id are new.
        """
        if not callable(history):
            self._input.give(HistoryReplaced(tuple(history)))
        else:  # earlier input may still be in the inbox: wait until it is in the history
            self._input.opened().post_after_inbox(lambda: HistoryReplaced(tuple(history(self.history))))

    @property
    def agents(self) -> Mapping[str, RealtimeAgent]:
        """Every agent by its name, as used in events."""
        return self._runtime.agents

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The names of the servers, in order; a `Connected` event gives the index."""
        return self._servers.names

    @property
    def agent(self) -> RealtimeAgent:
        """The active agent."""
        live = self._input.live
        return self.agents[live.conversation.agent] if live else next(iter(self.agents.values()))

    def played(self, item_id: str, frames: int | None = None) -> None:
        """Report how many frames of an item were heard so far, at 24 kHz, with ``playback="reported"``.

        `frames` is required. The items before it count as heard; an item of an older answer is ignored.
        """
        self._playback.report(item_id, frames)
        self._input.opened()

    def __aiter__(self) -> AsyncIterator[SessionEvent]:
        """Yield events until the session ends; for a single reader."""
        return aiter(self._events)

    # --- inside -------------------------------------------------------------------------------------------------

    def _compose(self, agent: RealtimeAgent, instructions: str, tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        session = session_object(self._settings_of(agent), instructions=instructions, tools=tools)
        check_json(session, f"the session of the agent {agent.name!r}")
        return session

    def _settings_of(self, agent: RealtimeAgent) -> RealtimeSessionSettings:
        return self.settings.of_agent(agent.settings, voice=agent.voice)


def _call_id(call: ToolApproval | str) -> str:
    return call if isinstance(call, str) else call.call_id
