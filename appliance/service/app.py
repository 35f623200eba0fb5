"""The composition root: builds a running appliance from the settings. The only module that imports every part.

One `asyncio.TaskGroup` runs all parts. When the driver ends, the other tasks are cancelled and close what they own. An
unexpected exception ends the process with a non-zero status, and systemd restarts it (crash-only).
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import fields
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from appliance import plugins
from appliance.agents.agent import RealtimeAgent, agents_of
from appliance.agents.hooks import RealtimeRunHooks
from appliance.agents.spec import AgentSpec
from appliance.agents.tools import Tool
from appliance.audio.backends import Backend, open_backend
from appliance.audio.card_events import CardEvents
from appliance.audio.streams import AudioStreams
from appliance.brain.on_demand import OnDemandBrain
from appliance.brain.private_socket import private_socket
from appliance.conversation.events import Event, MuteSwitched, ShutdownRequested, Started, TracingFailed
from appliance.conversation.machine import Conversation
from appliance.conversation.policy import Policy
from appliance.conversation.support.prices import PRICES
from appliance.errors import (
    ApplianceError,
    PinLibraryMissing,
    SettingsError,
    SpeechError,
    StorageError,
    first_error,
    one_line,
)
from appliance.hardware.button import open_buttons
from appliance.hardware.inputs import open_contacts
from appliance.hardware.lights import Light, Quiet, openers
from appliance.hardware.outputs import open_outputs, open_switches
from appliance.hardware.pins import check_pin_library, open_pin_factory
from appliance.realtime.items import HistoryItem
from appliance.realtime.payload import RealtimeSessionSettings, Transcription, session_object
from appliance.realtime.transports import RunningTransport, open_transport
from appliance.realtime.transports.endpoints import Endpoint, endpoint_url
from appliance.runtime.agent_preparer import Compose
from appliance.runtime.agent_runtime import AgentRuntime, check_agent
from appliance.runtime.driver import Driver, Observer
from appliance.safe_text import bare_address
from appliance.service.announcer import LocalAnnouncer
from appliance.service.days import Days
from appliance.service.extensions import agent_named, all_tools, hooks_named
from appliance.service.first_light import FirstLight
from appliance.service.mute import MutedMicrophone, MuteFile
from appliance.service.power import PowerSwitch
from appliance.service.reload import FileMark, Reload, Running, needs_store, quiet_light
from appliance.service.restart import RestartAtRest
from appliance.service.status_line import StatusLine
from appliance.service.systemd import Notifier, credentials_directory, runtime_directory
from appliance.service.trace import TraceRecorder
from appliance.service.turnlog import TurnLog
from appliance.service.watchdog import Watchdog
from appliance.settings import AudioSettings, Settings, key_place, read_api_key, read_instructions
from appliance.toolbox import DeviceParts, device_tools
from appliance.toolbox.gpio import InputReports, NamedInput, NamedOutput, input_tool, output_tool
from appliance.toolbox.status import StatusReader
from appliance.toolbox.timers import Timers
from appliance.wording import Wording, english

if TYPE_CHECKING:
    from appliance.speech.pipeline import ChainedPipeline
    from appliance.speech.stages import TextToSpeech

__all__ = ["Appliance", "check_assistant", "open_assistant", "open_pipeline"]

log = logging.getLogger(__name__)

OFFLINE = "offline brain"
"""Name of the endpoint that is built in."""

_STALL_S = {"portaudio": 0.3, "simulated": 2.0}  # a simulated card is a thread, which a busy machine delays
_SWITCH_INTERVAL_S = 0.001  # a busy thread delays a periodic one by 1.2 ms at the median, with Python's default by 5 ms


class _Runs(Protocol):
    async def run(self) -> None: ...


class Appliance:
    """The whole device. `run` returns after `stop`.

    Args:
        settings: Checked settings.
        environ: The environment, for keys and systemd's variables.
        backend: Audio backend that replaces the one of the settings (used by the simulator).
        pin_factory: gpiozero factory that replaces the one of the settings.
        state_dir: Folder for files that survive a restart; None stores nothing.
        first_light: The light and the button that were opened before the imports; taken over.
        read_settings: Reads the settings again on SIGHUP; None: they stay as they are.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        environ: Mapping[str, str],
        backend: Backend | None = None,
        pin_factory: Any = None,
        state_dir: Path | None = None,
        first_light: FirstLight | None = None,
        read_settings: Callable[[], Settings] | None = None,
    ) -> None:
        self._settings = settings
        self._environ = environ
        self._backend = backend
        self._pin_factory = pin_factory
        self._state_dir = state_dir
        self._first_light = first_light
        self._read_settings = read_settings or (lambda: settings)
        self._waiting: list[Event] | None = None
        """What happened while the parts were opened; the conversation hears of it after `Started`."""
        self.wording = open_wording(settings)
        """The sentences that the device says and shows."""
        self.wording.key_file, self.wording.key_variable = key_place(settings, credentials_directory(environ))
        self._key = FileMark(self.wording.key_file)
        self._observers: list[Observer] = []
        self._brain: OnDemandBrain | None = None
        self._driver: Driver | None = None
        self._conversation: Conversation | None = None
        self._trace_problem = ""
        self._status: StatusLine
        self._restart = RestartAtRest(self.post)
        self._mute = MuteFile(state_dir / "muted" if state_dir else None)
        self.audio: AudioStreams | None = None
        """The audio streams, after `run` has started; for level meters."""

    def post(self, event: Event) -> None:
        """Post an event; called on the event loop's thread. Kept while `run` starts, dropped while it is not active."""
        if self._driver is not None:
            self._driver.post(event)
        elif self._waiting is not None:
            self._waiting.append(event)

    def observe(self, observer: Observer) -> None:
        """Add an observer; call it before `run`."""
        self._observers.append(observer)

    def stop(self, reason: str) -> None:
        """Request a clean shutdown; called on the event loop's thread."""
        self.post(ShutdownRequested(reason))

    def toggle_mute(self, reason: str) -> None:
        """Mute or unmute the microphone; called on the event loop's thread."""
        if self._conversation is not None:
            log.info("%s switches the mute", reason)
            self.post(MuteSwitched(not self._conversation.view.is_muted))

    async def run(self) -> str:
        """Run until stopped.

        Returns:
            The reason of the stop.

        Raises:
            ApplianceError: The settings do not work on this machine.
        """
        self._waiting = []
        async with AsyncExitStack() as stack:
            notifier = Notifier(self._environ)
            driver, transport, parts = await self._assemble(stack, notifier)
            loop = asyncio.get_running_loop()
            handlers = {signal.SIGTERM: self.stop, signal.SIGINT: self.stop, signal.SIGHUP: self._reload.ask}
            handlers[signal.SIGUSR1] = self.toggle_mute
            for number, handler in handlers.items():
                loop.add_signal_handler(number, handler, number.name)
                stack.callback(loop.remove_signal_handler, number)
            if signal.SIGHUP in signal.sigpending():  # blocked by `cli` during the start, which may have read old files
                self._restart.ask("SIGHUP during the start")
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
            try:
                with first_error():
                    async with asyncio.TaskGroup() as group:
                        tasks = [group.create_task(part.run(), name=type(part).__name__) for part in parts]
                        tasks.append(group.create_task(self._begin(notifier, transport), name="link"))
                        driver.post(Started())
                        for event in self._waiting:
                            driver.post(event)
                        self._driver, self._waiting = driver, None
                        if self._trace_problem:
                            driver.post(TracingFailed(self._trace_problem))
                        reason = await driver.run()
                        notifier.stopping(self.wording.say("status.stopping"))
                        await transport.said_goodbye()
                        for task in tasks:
                            task.cancel()
            finally:
                self._driver = self._waiting = None
                gc.unfreeze()
        return reason

    # --- assembly -----------------------------------------------------------------------------------------------

    async def _assemble(
        self, stack: AsyncExitStack, notifier: Notifier
    ) -> tuple[Driver, RunningTransport, list[_Runs]]:
        settings = self._settings
        endpoints, self._brain = open_endpoints(stack, settings, self._environ, self._headers, self._open_pipeline)
        transport = open_transport(
            settings.link.transport,
            endpoints,
            post=self.post,
            connect_timeout_s=settings.link.connect_timeout_s,
            ping_interval_s=settings.link.ping_interval_s,
            ping_timeout_s=settings.link.ping_timeout_s,
        )
        self.audio = audio = self._open_audio(transport)
        factory = self._pin_factory or stack.enter_context(closing(_open_pins(settings, self._first_light)))
        timers = Timers(post=self.post, path=self._state_dir / "timers.json" if self._state_dir else None)
        outputs = stack.enter_context(open_outputs(**settings.outputs.model_dump(), factory=factory))
        microphone = MutedMicrophone(self.post, settings.button.mute_hold_s)
        device = DeviceParts(
            lamp=outputs.lamp,
            light=outputs.dimmer,
            volume=audio,
            microphone=microphone,
            timers=timers,
            status=StatusReader(),
            wording=self.wording,
        )
        tools = [*device_tools(device), *_open_gpio(stack, settings, self.wording, factory, self.post)]
        agent, hooks = open_assistant(settings, tools, self._environ)
        runtime = _agent_runtime(
            settings,
            agent,
            post=self.post,
            hooks=hooks,
            wording=self.wording,
            history=lambda: self._conversation.history if self._conversation is not None else (),
        )
        with settings.about(_agent_key(settings)):
            await stack.enter_async_context(runtime)
        loop = asyncio.get_running_loop()
        buttons = stack.enter_context(
            open_buttons(**settings.button.wiring, factory=factory, post=self.post, loop=loop)
        )
        light = stack.enter_context(closing(_open_light(settings, factory)))
        light.show("booting")
        announcer = LocalAnnouncer(audio, _LazyVoice(settings) if settings.audio.announcements else None, self.wording)
        if remark := settings.price_remark():
            log.warning("%s", remark)
        offline = next((at for at, one in enumerate(endpoints) if one.name == OFFLINE), None)
        figures = partial(policy_from, wording=self.wording, endpoints=len(endpoints), offline_endpoint=offline)
        policy = figures(settings, list(runtime.agents))
        conversation, observers = self._open_conversation(stack, policy, await _first_specs(settings, runtime))
        servers = ["" if one.name == OFFLINE else bare_address(one.url) for one in endpoints]
        self._status = StatusLine(notifier, self.wording, servers, lambda: audio.xruns.causes)
        power = PowerSwitch(settings.button.power_off_command)
        running = Running(
            environ=self._environ,
            post=self.post,
            audio=audio,
            light=light,
            wording=self.wording,
            microphone=microphone,
            power=power,
            runtime=runtime,
            active=lambda: conversation.agent,
            policy=figures,
            assistant=lambda new: open_assistant(new, tools, self._environ)[0],
            compose=_composer,
            use=partial(setattr, self, "_settings"),
        )
        self._reload = Reload(settings, self._read_settings, running, self._key, self._restart, self._status)
        observers += [runtime.observe, TurnLog(lambda: audio.xruns.causes, self.wording), self._status, self._restart]
        observers += [self._mute, power]
        driver = Driver(
            conversation,
            transport=transport,
            audio=audio,
            tools=runtime.tools,
            agents=runtime.preparer,
            light=light,
            announcer=announcer,
            alarms=timers,
            observers=observers,
        )
        parts: list[_Runs] = [audio, runtime, *buttons, light, announcer, timers, power, self._reload]
        if settings.service.watchdog:
            parts.append(_watchdog(notifier, self._status, driver, conversation, audio))
        return driver, transport, parts

    def _headers(self) -> dict[str, str]:
        return _headers(self._settings, self._environ)  # those in force now

    def _open_pipeline(self) -> ChainedPipeline:
        """Open the pipeline of the offline brain; called on a thread. Raises as `open_pipeline`."""
        pipeline = open_pipeline(self._settings, self._environ, self.wording)
        gc.freeze()  # as in `_tune`: its modules and phrases stay
        return pipeline

    def _open_audio(self, transport: RunningTransport) -> AudioStreams:
        settings = self._settings.audio
        audio = AudioStreams(
            self._backend or _audio_backend(settings),
            post=self.post,
            has_room=lambda: transport.has_room,
            pre_roll_s=settings.pre_roll_ms / 1000,
            max_turn_s=settings.max_turn_s,
            playback_ring_ms=settings.playback_ring_ms,
            prebuffer_ms=settings.prebuffer_ms,
            max_prebuffer_ms=settings.max_prebuffer_ms,
            idle_after_s=settings.idle_after_s,
            loudest=lambda: _loudest(self._settings.audio),
            are_alarms_capped=not settings.night_alarms,
            stall_s=_STALL_S[settings.backend],
            card_events=CardEvents() if settings.backend == "portaudio" else None,
        )
        audio.volume = settings.volume
        audio.earcon_volume = settings.earcon_volume
        if self._mute.is_muted:
            audio.close_capture()
        return audio

    def _open_conversation(
        self, stack: AsyncExitStack, policy: Policy, specs: Sequence[AgentSpec]
    ) -> tuple[Conversation, list[Observer]]:
        observers = list(self._observers)
        history = self._open_store(stack, observers)
        is_muted = self._mute.is_muted
        seed = time.monotonic_ns() & 0xFFFF_FFFF  # for the reconnection jitter
        if self._settings.service.trace:
            recorder = TraceRecorder(Path(self._settings.service.trace), post=self.post)
            try:
                recorder.open(policy=policy, specs=specs, history=history, seed=seed, is_muted=is_muted)
            except StorageError as exc:  # run without a trace rather than not at all
                self._trace_problem = str(exc)
            stack.callback(recorder.close)
            observers.append(recorder)
        self._conversation = conversation = Conversation(
            policy=policy, specs=specs, history=history, seed=seed, is_muted=is_muted
        )
        return conversation, observers

    def _open_store(self, stack: AsyncExitStack, observers: list[Observer]) -> Sequence[HistoryItem]:
        """Open the store of the conversation and the spend, and return the stored history."""
        history = self._settings.history
        if self._state_dir is None or not needs_store(self._settings):
            observers.append(Days(self.post, lambda day: (0.0, 0.0)))
            return ()
        from appliance.service.store import ConversationStore  # loads SQLite only if it is used

        store = ConversationStore(
            self._state_dir / "conversation.db",
            max_items=history.max_items if history.persist else 0,
            max_age_days=history.max_age_days,
        )
        stack.callback(store.close)
        observers += [store, Days(self.post, store.spent)]
        store.open(is_needed=False)
        try:
            return store.load()
        except StorageError as exc:  # run without history rather than not at all
            log.warning("%s; continuing without it", exc)
            return ()

    async def _begin(self, notifier: Notifier, transport: RunningTransport) -> None:
        """Report READY=1 once the cards were tried; then connect. Until then the cards have the processor alone."""
        assert self.audio is not None
        await self.audio.opened()
        _tune()
        notifier.ready(self._status.text)
        async with asyncio.TaskGroup() as group:
            group.create_task(transport.run(), name=type(transport).__name__)
            if self._brain is not None:
                group.create_task(self._brain.run(), name="offline brain")
            for remark in await asyncio.to_thread(plugins.duplicates):  # reads a file for each installed package
                log.warning("%s", remark)


def _watchdog(
    notifier: Notifier, status: StatusLine, driver: Driver, conversation: Conversation, audio: AudioStreams
) -> Watchdog:
    def silence() -> dict[str, float]:
        lost = conversation.view.cards_lost
        return {one: age_s for one, age_s in audio.callback_ages_s.items() if one not in lost}

    return Watchdog(notifier, status, lag=lambda: driver.lag_s, silence=silence, clock=time.monotonic)


def _loudest(settings: AudioSettings) -> int:
    """Return the highest volume now, in percent."""
    night = Quiet(settings.night_hours, settings.night_volume / 100)
    return round(100 * night.share(datetime.now().time()))


def open_endpoints(
    stack: AsyncExitStack,
    settings: Settings,
    environ: Mapping[str, str],
    headers: Callable[[], Mapping[str, str]],
    open_pipeline: Callable[[], ChainedPipeline],
) -> tuple[list[Endpoint], OnDemandBrain | None]:
    """Return the endpoints in order of preference, and the built-in offline brain if it is one of them.

    Only the first endpoint gets the API key: a fallback may belong to someone else.

    Args:
        stack: Owns the socket of the brain.
        headers: Returns the headers of a connection to the first endpoint, with the key.
        open_pipeline: See `OnDemandBrain`.

    Raises:
        SettingsError: An address is wrong.
        ApplianceError: The brain is the first endpoint and has no place for its socket.
    """
    chosen = settings.endpoint()
    urls = dict.fromkeys([chosen.url or "offline", *settings.link.fallbacks.split()])  # each once
    made: list[Endpoint] = []
    brain = None
    for place, url in enumerate(urls):
        if url == "offline":
            try:
                private = stack.enter_context(private_socket(runtime_directory(environ)))
            except ApplianceError as exc:
                if place == 0:
                    raise
                log.warning("no offline fallback: %s", exc)
                continue
            brain = OnDemandBrain(private, open_pipeline, is_needed=place == 0)
            endpoint = Endpoint(endpoint_url(private.url, "offline"), private.headers, OFFLINE)
        elif place == 0:
            endpoint = Endpoint(endpoint_url(url, settings.link.model), headers, chosen.kind)
        else:
            endpoint = Endpoint(endpoint_url(url, settings.link.model), dict, f"fallback {place}")
        made.append(endpoint)
    return made, brain


def _audio_backend(settings: AudioSettings) -> Backend:
    return open_backend(
        settings.backend,
        capture_card=settings.capture_card,
        playback_card=settings.playback_card,
        rate=settings.rate,
        period_ms=settings.period_ms,
        buffer_ms=settings.buffer_ms,
        mixer_control=settings.mixer_control,
    )


def _headers(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of a connection; reads the key each time, so that a new key in a file needs no restart."""
    headers: dict[str, str] = {}
    key = read_api_key(settings, environ, credentials_directory(environ))
    if key:
        as_bearer = settings.link.api_key_header == "authorization"
        headers |= {"Authorization": f"Bearer {key}"} if as_bearer else {"api-key": key}
    if settings.link.safety_identifier:
        headers["OpenAI-Safety-Identifier"] = settings.link.safety_identifier
    return headers


def _open_pins(settings: Settings, first_light: FirstLight | None) -> Any:
    name = settings.pins.factory
    if first_light is None or name != "gpiod":
        return open_pin_factory(name)
    chip, requests = first_light.hand_over()
    return open_pin_factory(name, chip=chip, requests=requests)


def _open_light(settings: Settings, factory: Any) -> Light:
    with settings.about("light.kind"):
        return Light(**settings.light.wiring, quiet=quiet_light(settings), factory=factory)


class _LazyVoice:
    """The voice for announcements: the offline brain's text to speech, loaded on a thread at the first sentence."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def _engine(self) -> TextToSpeech:
        from appliance.speech.tts import open_tts

        brain = self._settings.brain
        return open_tts(brain.tts, language=self._settings.assistant.language, voice=brain.voice)

    async def synthesize(self, text: str) -> bytes:
        engine = await asyncio.to_thread(lambda: self._engine)
        pcm = await engine.synthesize(text)
        if not pcm:
            raise SpeechError(f"{self._settings.brain.tts} returned no audio")
        return pcm


def open_assistant(
    settings: Settings, built_in: Sequence[Tool], environ: Mapping[str, str]
) -> tuple[RealtimeAgent, RealtimeRunHooks | None]:
    """Return the first agent and the hooks of the session, as the settings describe them.

    Args:
        settings: Modules that they name are imported, which runs them.
        built_in: The tools of the device's parts.
        environ: Where agents' files look up secrets.

    Raises:
        SettingsError: A named object is missing, raises, or does not fit.
    """
    assistant = settings.assistant
    resolve = partial(plugins.resolve, folder=settings.folder)
    with settings.about("assistant.tools"):
        tools = all_tools(built_in, assistant.tools.split(), resolve)
    if assistant.agent:
        with settings.about("assistant.agent"):
            agent = agent_named(assistant.agent, tools, resolve)
    elif assistant.agents_file:
        from appliance.runtime.agent_loader import load_agents

        agent = load_agents(Path(assistant.agents_file), tools=tools, folder=settings.folder, environ=environ)
    else:
        instructions, every = read_instructions(settings), list(tools.values())
        agent = RealtimeAgent(name=assistant.name, instructions=instructions, tools=every, voice=assistant.voice)
    own = session_settings(settings)
    for one in agents_of(agent).values():  # a wrong setting raises at the start, not at the handoff
        check_agent(one, own.of_agent(one.settings, voice=one.voice))
    with settings.about("assistant.hooks"):
        return agent, hooks_named(assistant.hooks, resolve) if assistant.hooks else None


def _agent_runtime(
    settings: Settings,
    agent: RealtimeAgent,
    *,
    post: Callable[[Event], None],
    hooks: RealtimeRunHooks | None,
    wording: Wording,
    history: Callable[[], Sequence[HistoryItem]] = tuple,
) -> AgentRuntime:
    return AgentRuntime(
        agent,
        compose=_composer(settings, agent),
        post=post,
        hooks=hooks,
        wording=wording,
        history=history,
        are_guardrails_parallel=settings.guardrails.parallel,
        guardrail_s=settings.guardrails.timeout_s,
        are_servers_needed=False,
    )


def _composer(settings: Settings, start: RealtimeAgent) -> Compose:
    own = session_settings(settings).shared_by(one.settings for one in agents_of(start).values())
    return lambda agent, instructions, tools: session_object(
        own.of_agent(agent.settings, voice=agent.voice), instructions=instructions, tools=tools
    )


async def _first_specs(settings: Settings, runtime: AgentRuntime) -> Sequence[AgentSpec]:
    """Return what the conversation starts with; calls the first agent's functions.

    Raises:
        SettingsError: One of them raises, or returns what cannot be sent.
    """
    with settings.about(_agent_key(settings)):
        try:
            return await runtime.specs()
        except ApplianceError:
            raise
        except Exception as exc:
            said = one_line(f"{type(exc).__name__}: {exc}", 200)
            raise SettingsError(f"the first agent cannot be prepared: a function of it raises {said}") from exc


async def check_assistant(settings: Settings, environ: Mapping[str, str]) -> None:
    """Report before a start what `open_assistant` and `open_transport` would refuse; opens no pin, card or connection.

    Raises:
        SettingsError: See `open_assistant` and `open_transport`; or the first agent's functions raise, or an MCP
            server needs a package that is missing.
    """
    from appliance.runtime.mcp import McpServerHttp, McpServerStdio

    open_transport(settings.link.transport, [], post=lambda event: None)
    with settings.about("light.kind"):
        openers(settings.light.kind)
    outputs = settings.outputs
    parts = DeviceParts(
        lamp=_NoPart() if outputs.lamp_pin is not None else None,
        light=_NoPart() if outputs.dimmer_pin is not None else None,
        volume=_NoPart(),
        microphone=MutedMicrophone(lambda event: None, settings.button.mute_hold_s),
        timers=Timers(post=lambda event: None, path=None),
        status=StatusReader(),
    )
    gpio = settings.gpio
    pins = dict.fromkeys([*(one.name for one in gpio.outputs), *(one.name for one in gpio.inputs)], _NoPart())
    tools = [*device_tools(parts), *_gpio_tools(settings, english(), pins, pins)]
    agent, hooks = open_assistant(settings, tools, environ)
    runtime = _agent_runtime(settings, agent, post=lambda event: None, hooks=hooks, wording=english())
    await _first_specs(settings, runtime)
    with settings.about(_agent_key(settings)):
        for server in [server for one in agents_of(agent).values() for server in one.mcp_servers]:
            if isinstance(server, McpServerStdio | McpServerHttp):
                server.check_package()


def _agent_key(settings: Settings) -> str:
    """Return the key of the setting that names the agent."""
    return f"assistant.{'agent' if settings.assistant.agent else 'agents_file'}"


def _open_gpio(
    stack: AsyncExitStack, settings: Settings, wording: Wording, factory: Any, post: Callable[[Event], None]
) -> Iterator[Tool]:
    """Open the outputs and inputs of ``[gpio]`` until the stack is left, and yield their tools.

    Raises:
        SettingsError: A phrase is invalid.
    """
    loop, own = asyncio.get_running_loop(), settings.gpio
    switches = open_switches({one.name: (one.pin, one.active_low) for one in own.outputs}, factory=factory, loop=loop)
    reports = {
        one.name: InputReports(
            one.name, one.description, tells=one.tells, asks=one.asks, post=post, wording=wording, loop=loop
        ).on_change
        for one in own.inputs
    }
    wiring = {one.name: one.model_dump(include={"pin", "pull", "active_low"}) for one in own.inputs}
    contacts = open_contacts(wiring, on_change=reports, factory=factory, loop=loop)
    yield from _gpio_tools(settings, wording, stack.enter_context(switches), stack.enter_context(contacts))


def _gpio_tools(
    settings: Settings, wording: Wording, switches: Mapping[str, Any], contacts: Mapping[str, Any]
) -> Iterator[Tool]:
    """Yield the tools of the outputs and inputs that are open."""
    with settings.about("gpio.outputs"):
        for output in settings.gpio.outputs:
            if output.name in switches:
                named = output.model_dump(exclude={"pin", "active_low"})
                yield output_tool(NamedOutput(**named, switch=switches[output.name]), wording)
    with settings.about("gpio.inputs"):
        for one in settings.gpio.inputs:
            if one.name in contacts:
                what = one.model_dump(include={"name", "description", "phrases"})
                yield input_tool(NamedInput(**what, contact=contacts[one.name]), wording)


class _NoPart:
    """Stands in for a part while its tools are listed and never called."""

    value = 0.0
    volume = 0


def open_wording(settings: Settings) -> Wording:
    """Return the sentences of the device's language."""
    folder = settings.assistant.wording_dir
    wording = Wording(settings.assistant.language, Path(folder) if folder else None)
    for line in wording.unknown():
        log.warning("%s", line)
    return wording


def open_pipeline(
    settings: Settings,
    environ: Mapping[str, str],
    wording: Wording,
    *,
    recognisers: int = 1,
    remark: Callable[[str], None] = log.warning,
) -> ChainedPipeline:
    """Build the offline brain's pipeline from the settings.

    Args:
        recognisers: See `build_pipeline`; a Raspberry Pi with 512 MB has room for one.
        remark: See `build_pipeline`.

    Raises:
        SettingsError: See `build_pipeline`.
        SpeechError: See `build_pipeline`.
    """
    from appliance.speech.pipeline import build_pipeline  # needs the extra "offline"

    brain = settings.brain
    return build_pipeline(
        stt=brain.stt,
        workflow=brain.workflow,
        tts=brain.tts,
        language=settings.assistant.language,
        phrases_dir=Path(brain.phrases_dir) if brain.phrases_dir else None,
        chat_url=brain.chat_url,
        chat_model=brain.chat_model,
        chat_key=environ.get(brain.chat_key_env, "") if brain.chat_key_env else "",
        voice=brain.voice,
        recognisers=recognisers,
        wording=wording,
        remark=remark,
    )


def pin_remarks(settings: Settings) -> list[str]:
    """Return why the service will not start for lack of a pin library, for ``config check``; opens no pin.

    Raises:
        PinFactoryUnavailable: The library is there and does not work with this kernel.
    """
    try:
        check_pin_library(settings.pins.factory)
    except PinLibraryMissing as exc:
        return [f"the service cannot start on this machine: pins.factory: {exc}"]
    return []


async def language_remarks(settings: Settings, environ: Mapping[str, str]) -> list[str]:
    """Return what the device lacks in its language, one line each, for ``config check``. Loads no model.

    Raises:
        ApplianceError: The offline brain is the only endpoint and cannot start.
    """
    wording = open_wording(settings)
    remarks = [*wording.unknown(), *plugins.duplicates()]
    if not wording.is_available:
        remarks.append(f"no wording for language {wording.language!r}; texts are in English and not spoken")
    is_only = settings.endpoint().kind == "offline"
    if is_only or "offline" in settings.link.fallbacks.split():
        try:
            open_pipeline(settings, environ, wording, remark=remarks.append)
        except SpeechError as exc:
            if is_only:
                raise
            remarks.append(f"no offline fallback: {exc}")
    if settings.audio.announcements:
        try:
            await _LazyVoice(settings).synthesize(wording.say("alarm.time_up"))
        except SpeechError as exc:
            remarks.append(f"earcons instead of announcements: {exc}")
    return remarks


def policy_from(
    settings: Settings,
    agents: Sequence[str],
    *,
    wording: Wording,
    endpoints: int = 1,
    offline_endpoint: int | None = None,
) -> Policy:
    """Gather the conversation's figures: settings with the name of a figure by that name, the others one by one."""
    figures = {figure.name for figure in fields(Policy)}
    by_name = {key: value for _, section in settings for key, value in section if key in figures}
    others = {
        "button_mode": settings.button.mode,
        "power_off_hold_s": settings.button.power_off_hold_s if settings.button.power_off_command else 0.0,
        "next_agents": dict(zip(agents, [*agents[1:], *agents[:1]], strict=True)),
        "guardrail_debounce": settings.guardrails.debounce_characters,
        "guardrail_s": settings.guardrails.timeout_s,
        "endpoints": endpoints,
        "offline_endpoint": offline_endpoint,
        "rotate_after_s": 60.0 * settings.link.rotate_after_minutes,
        "budget_usd": settings.budget.daily_usd or None,
        "budget_s": 60.0 * settings.budget.daily_minutes or None,
        "prices": PRICES.with_prices(settings.price_rows()),
        "outputs": wording.table("output"),
    }
    return Policy(**by_name | others)


def session_settings(settings: Settings) -> RealtimeSessionSettings:
    """Return the session settings that all agents start from."""
    assistant = settings.assistant
    model = assistant.transcription_model
    return RealtimeSessionSettings(
        voice=assistant.voice,
        speed=assistant.speed,
        transcription=Transcription(model=model, language=assistant.language.partition("-")[0]) if model else None,
        noise_reduction=assistant.noise_reduction or None,
        max_output_tokens=assistant.max_output_tokens,
        reasoning_effort=assistant.reasoning_effort or None,
    )


def _tune() -> None:
    """Reduce the delay of the audio callback while the event loop is busy."""
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    gc.freeze()  # permanent objects: a full collection would stop all threads for milliseconds
    gc.enable()
