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
from typing import Any, Literal

from appliance.agents.agent import RealtimeAgent, agents_of
from appliance.agents.guardrails import OutputGuardrail
from appliance.agents.hooks import RealtimeRunHooks
from appliance.conversation.events import HistoryReplaced
from appliance.conversation.machine import Conversation
from appliance.conversation.notices import SessionEvent
from appliance.conversation.policy import Policy
from appliance.conversation.support.usage import SessionUsage
from appliance.errors import SettingsError
from appliance.realtime.items import HistoryItem
from appliance.realtime.payload import RealtimeSessionSettings, session_object
from appliance.realtime.transports import open_transport
from appliance.runtime.agent_runtime import AgentRuntime, Asker, check_agent, check_json
from appliance.runtime.driver import Observer
from appliance.runtime.event_readers import Callback
from appliance.runtime.live_session import LiveSession
from appliance.runtime.session_body import SessionEvents
from appliance.runtime.session_input import SessionInput
from appliance.runtime.session_servers import SessionServers
from appliance.sdk_names import explained_class
from appliance.wording import Wording

__all__ = ["RealtimeSession"]


@explained_class
class RealtimeSession(SessionInput):
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
        output_guardrails: Check the answers of every agent, before the agent's own guardrails.
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
        output_guardrails: Sequence[OutputGuardrail] = (),
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
        super().__init__(self.settings, is_paced=playback == "paced")
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
            output_guardrails=output_guardrails,
            wording=wording,
            history=lambda: self.history,
            are_guardrails_parallel=are_guardrails_parallel,
            guardrail_s=self._policy.guardrail_s,
        )
        self._check(self.agents)
        self._events = SessionEvents(
            self.agents,
            audio=self._audio,
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

    # --- the conversation ---------------------------------------------------------------------------------------

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
    def usage(self) -> SessionUsage:
        """The tokens and the cost of the session so far."""
        return self._input.live.conversation.usage if self._input.live else SessionUsage()

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The names of the servers, in order; a `Connected` event gives the index."""
        return self._servers.names

    @property
    def agent(self) -> RealtimeAgent:
        """The active agent."""
        live = self._input.live
        return self.agents[live.conversation.agent] if live else next(iter(self.agents.values()))

    async def update_agent(self, agent: RealtimeAgent) -> None:
        """Make another agent the active one; returns once the server has accepted it, or at once without a connection.

        Its tools, handoffs, guardrails and hooks apply from its first response on, which a `handoff` event precedes; a
        response under way stays that of the previous agent. The history is kept. An agent with the name of a known
        one replaces it.

        Raises:
            ToolError: Two of the agents that it can reach, or two tools of one of them, have the same name.
            SettingsError: A setting of one of them is invalid.
            LinkError: One of their MCP servers cannot be reached, or the server refuses the agent.
            SessionNotOpen: The session is not open, or this is another thread.
            Exception: Anything that its instructions raise.
        """
        self._input.opened()
        agents = agents_of(agent)
        self._check(agents)
        await self._runtime.update_agent(agents)

    # --- events -------------------------------------------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[SessionEvent]:
        """Start a reader: it yields every event from now on, until the session ends.

        There may be several. The first one also yields the events before it. One that starts when the others have
        stopped continues after the last event that the latest of them yielded.
        """
        return aiter(self._events.readers)

    def on(self, event_type: str, callback: Callback) -> None:
        """Call a function at every event of a type, from now on; allowed before ``async with`` too.

        Callbacks run in the session's own task, one after another, in the order of the events and of their
        registration. One that fails is logged, and the session continues.

        Args:
            event_type: As in ``event.type``; ``*`` for every event.
            callback: Takes the event; sync or async. The next callback waits until an async one has returned.

        Raises:
            SettingsError: There is no such type of event.
        """
        self._events.readers.on(event_type, callback)

    def once(self, event_type: str, callback: Callback) -> None:
        """Call a function at the next event of a type only; see `on`."""
        self._events.readers.on(event_type, callback, is_once=True)

    def off(self, event_type: str, callback: Callback) -> None:
        """Remove a callback, for the same type that it was registered for; a no-op if it is not registered.

        Raises:
            SettingsError: There is no such type of event.
        """
        self._events.readers.off(event_type, callback)

    # --- inside -------------------------------------------------------------------------------------------------

    def _check(self, agents: Mapping[str, RealtimeAgent]) -> None:
        for one in agents.values():
            check_agent(one, self._settings_of(one))

    def _compose(self, agent: RealtimeAgent, instructions: str, tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        session = session_object(self._settings_of(agent), instructions=instructions, tools=tools)
        check_json(session, f"the session of the agent {agent.name!r}")
        return session

    def _settings_of(self, agent: RealtimeAgent) -> RealtimeSessionSettings:
        shared = self.settings.shared_by(one.settings for one in self.agents.values())
        return shared.of_agent(agent.settings, voice=agent.voice)
