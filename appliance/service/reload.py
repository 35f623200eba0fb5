"""The settings again, on SIGHUP.

Settings of `RELOADED` are taken over by the parts that run. A change of any other one, or of the API key, is named in
the log and in the status line, and the device restarts at its next rest. Wrong settings change nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.agents.agent import RealtimeAgent, agents_of
from appliance.audio.streams import AudioStreams
from appliance.conversation.events import Event, PolicyReplaced, SettingsRefused
from appliance.conversation.policy import Policy
from appliance.errors import ApplianceError, one_line
from appliance.hardware.lights import Light, Quiet
from appliance.runtime.agent_preparer import Compose
from appliance.runtime.agent_runtime import AgentRuntime
from appliance.service.logging_setup import set_up_logging
from appliance.service.mute import MutedMicrophone
from appliance.service.power import PowerSwitch
from appliance.service.restart import RestartAtRest
from appliance.service.status_line import StatusLine
from appliance.settings import Settings
from appliance.wording import Wording

__all__ = ["RELOADED", "FileMark", "Reload", "Running", "is_reloaded", "needs_store", "quiet_light"]

log = logging.getLogger(__name__)

RELOADED: Final[Mapping[str, str]] = {
    "link": "api_key_header safety_identifier backoff_initial_s backoff_max_s failback_s rotate_after_minutes",
    "assistant": "name instructions instructions_file agents_file voice speed wording_dir transcription_model "
    "noise_reduction max_output_tokens reasoning_effort",
    "audio": "post_roll_ms volume earcon_volume night_hours night_volume night_alarms",
    "button": "mode min_press_ms tap_max_ms min_turn_ms release_debounce_ms silence_ms no_speech_s double_tap "
    "double_tap_ms hold_ms mute_hold_s power_off_command power_off_hold_s",
    "light": "quiet_hours quiet_level",
    "deadlines": "connect_s commit_s answer_s playout_stall_s tool_s approval_s link_wait_s cancel_s",
    "history": "replay_items",
    "budget": "daily_usd daily_minutes prices",
    "service": "log_level",
}
"""Section → keys of the settings that need no restart. `Running.take` passes them on."""


def is_reloaded(key: str) -> bool:
    """Return whether a change of a dotted key needs no restart."""
    section, _, name = key.partition(".")
    return name in RELOADED.get(section, "").split()


def needs_store(settings: Settings) -> bool:
    """Return whether the conversation or the spend is kept in a file, which is opened at the start."""
    budget = settings.budget
    return settings.history.persist or bool(budget.daily_usd or budget.daily_minutes)


def quiet_light(settings: Settings) -> Quiet:
    """Return when the light is dimmed."""
    return Quiet(settings.light.quiet_hours, settings.light.quiet_level / 100)


class FileMark:
    """Tells whether a file changed, without reading it: the key's file belongs to root.

    Args:
        name: The file; "" for none.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._mark = self._look()

    @property
    def has_changed(self) -> bool:
        """Whether the file was written, replaced, created or removed since this object was made."""
        return self._look() != self._mark

    def _look(self) -> tuple[int, ...]:
        with suppress(OSError):
            if self._name:
                status = Path(self._name).stat()
                return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
        return ()


@dataclass(frozen=True, slots=True)
class Running:
    """The parts that take new settings while they run."""

    environ: Mapping[str, str]
    post: Callable[[Event], None]
    audio: AudioStreams
    light: Light
    wording: Wording
    microphone: MutedMicrophone
    power: PowerSwitch
    runtime: AgentRuntime
    active: Callable[[], str]
    """Returns the name of the agent in force."""
    policy: Callable[[Settings, Sequence[str]], Policy]
    """(settings, names of the agents) → the conversation's figures."""
    assistant: Callable[[Settings], RealtimeAgent]
    compose: Callable[[Settings, RealtimeAgent], Compose]
    use: Callable[[Settings], None]
    """Gets the settings that are in force from now on."""

    def take(self, before: Settings, now: Settings) -> None:
        """Pass on everything but the agent."""
        audio, button = now.audio, now.button
        self.use(now)
        if audio.volume != before.audio.volume:  # else it stays as the user has set it
            self.audio.volume = audio.volume
        self.audio.earcon_volume = audio.earcon_volume
        self.audio.are_alarms_capped = not audio.night_alarms
        self.light.quiet = quiet_light(now)
        self.microphone.unmute_hold_s = button.mute_hold_s
        self.power.command = button.power_off_command
        if now.service.log_level != before.service.log_level:
            set_up_logging(now.service.log_level, self.environ)
        self.post(PolicyReplaced(self.policy(now, list(self.runtime.agents))))

    async def take_agent(self, settings: Settings, agent: RealtimeAgent) -> None:
        """Make new agents the active ones: that with the name of the one in force, else the first.

        Raises:
            Exception: See `AgentRuntime.update_agent`.
        """
        agents = agents_of(agent)
        active = agents.get(self.active(), agent)
        self.runtime.preparer.compose = self.compose(settings, agent)
        await self.runtime.update_agent({active.name: active, **agents})
        self.post(PolicyReplaced(self.policy(settings, list(agents))))


class Reload:
    """Reads the settings again when it is asked to.

    Args:
        settings: Those of the start.
        read: Reads them again; raises `ApplianceError`.
        running: What takes them over.
        key: The file of the API key.
        restart: Restarts the device at rest.
        status: Names what needs a restart, and wrong settings.
    """

    def __init__(
        self,
        settings: Settings,
        read: Callable[[], Settings],
        running: Running,
        key: FileMark,
        restart: RestartAtRest,
        status: StatusLine,
    ) -> None:
        self.settings = settings
        """Those in force."""
        self._read = read
        self.running = running
        """What takes them over."""
        self._key = key
        self._restart = restart
        self._status = status
        self._asked = asyncio.Event()

    def ask(self, reason: str) -> None:
        """Read the settings again; called on the event loop's thread."""
        log.info("%s: reading the settings again", reason)
        self._asked.set()

    async def run(self) -> None:
        """Reload each time it is asked for, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            try:
                await self._reload()
            except ApplianceError as exc:
                self._refuse(str(exc))

    async def _reload(self) -> None:
        before, now = self.settings, self._read()
        keys = list(_changed(before, now))
        if fixed := self._fixed(before, now, keys):
            log.warning("reload: the restart at the next rest is for %s", ", ".join(fixed))
            self._status.remark("settings", "status.restart", keys=", ".join(fixed))
            self._restart.ask("reload")
            return
        agent = self.running.assistant(now) if _has_new_agent(now, keys) else None
        self.running.wording.read(_folder(now.assistant.wording_dir))
        self.settings = now
        self.running.take(before, now)
        log.info("reload: %s", ", ".join(keys) or "no setting has changed")
        self._status.remark("settings", "")
        if agent is not None:
            await self._replace(now, agent)

    async def _replace(self, settings: Settings, agent: RealtimeAgent) -> None:
        try:
            await self.running.take_agent(settings, agent)
        except Exception as exc:  # noqa: BLE001 - a function of the agent may raise anything
            self._refuse(f"the agent stays as it was: {exc}")

    def _fixed(self, before: Settings, now: Settings, keys: Sequence[str]) -> list[str]:
        """Return what has changed and needs a restart."""
        fixed = [key for key in keys if not is_reloaded(key)]
        if needs_store(now) and not needs_store(before):
            fixed += [key for key in keys if key.startswith("budget.")]
        if self._key.has_changed or (not fixed and now.endpoint() != before.endpoint()):
            fixed.append("the API key")
        return fixed

    def _refuse(self, problem: str) -> None:
        self._status.remark("settings", "status.bad_settings")
        self.running.post(SettingsRefused(one_line("; ".join(problem.splitlines()), 500)))


def _changed(before: Settings, now: Settings) -> Iterator[str]:
    """Yield the dotted keys whose values differ, in the order of the file."""
    for (section, old), (_, new) in zip(before, now, strict=True):
        yield from (f"{section}.{key}" for key, value in old if getattr(new, key) != value)


def _has_new_agent(settings: Settings, keys: Sequence[str]) -> bool:
    """Return whether the assistant has changed, or is in files, which may have."""
    own = settings.assistant
    return bool(own.instructions_file or own.agents_file) or any(
        key.startswith("assistant.") and key != "assistant.wording_dir" for key in keys
    )


def _folder(name: str) -> Path | None:
    return Path(name) if name else None
