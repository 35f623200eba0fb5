"""Settings that are read again while the device runs."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance.conversation.events import DeadlinePassed, Event, SettingsRefused, ShutdownRequested
from appliance.conversation.support.feedback import State, View
from appliance.service import reload
from appliance.service.app import Appliance
from appliance.service.reload import RELOADED, FileMark, is_reloaded, needs_store
from appliance.service.systemd import Notifier
from appliance.settings import Settings, load_settings
from appliance.simulator.simulated_device import SIMULATED
from tests.support.state import state_of

BASE: dict[str, Any] = {
    **SIMULATED,
    "link.base_url": "ws://127.0.0.1:9/v1",
    "link.fallbacks": "",
    "audio.announcements": False,
    "history.persist": True,
}
KEYS = [f"{section}.{key}" for section, values in Settings() for key, _ in values]
RELOADS = [key for key in KEYS if is_reloaded(key)]
OTHERS: dict[str, Any] = {
    "link.api_key_header": "api-key",
    "link.safety_identifier": "user-1",
    "assistant.name": "Robin",
    "assistant.instructions": "Answer in rhymes.",
    "assistant.voice": "cedar",
    "assistant.transcription_model": "other-transcriber",
    "assistant.noise_reduction": "far_field",
    "assistant.max_output_tokens": 99,
    "assistant.reasoning_effort": "low",
    "audio.earcon_volume": 60,
    "audio.night_hours": "always",
    "audio.night_alarms": True,
    "button.mode": "tap",
    "button.double_tap": "mute",
    "button.power_off_command": "true",
    "budget.daily_usd": 3.0,
    "budget.daily_minutes": 9.0,
    "budget.prices": [{"model": "mine", "per_minute": 1.0}],
    "light.quiet_hours": "always",
    "service.log_level": "error",
}


NEEDED = {
    "audio.night_volume": {"audio.night_hours": "always"},
    "button.power_off_hold_s": {"button.power_off_command": "true"},
}
"""Settings without which another one has no effect."""


def other(key: str, folder: Path) -> Any:
    """Return a valid value of a setting that differs from its default."""
    if key in OTHERS:
        return OTHERS[key]
    if key == "assistant.instructions_file":
        (folder / "words.txt").write_text("Answer like a pirate.")
        return str(folder / "words.txt")
    if key == "assistant.agents_file":
        (folder / "agents.toml").write_text('name = "Robin"\ninstructions = "Answer in rhymes."\n')
        return str(folder / "agents.toml")
    if key == "assistant.wording_dir":
        (folder / "en.toml").write_text('[status]\nwaiting = "ready for you"\n')
        return str(folder)
    section, _, name = key.partition(".")
    value = getattr(getattr(Settings(), section), name)
    return value + 1 if isinstance(value, int) else value + 0.25


def test_every_setting_is_marked_and_no_mark_is_for_none() -> None:
    assert [f"{section}.{key}" for section, keys in RELOADED.items() for key in keys.split()] == RELOADS


class Device:
    """The parts of a whole device, assembled and not started; the driver runs."""

    def __init__(self, folder: Path, changes: Mapping[str, Any]) -> None:
        self._folder = folder
        self.changes = dict(BASE | changes)
        self.posted: list[Event] = []
        environ = {"OPENAI_API_KEY": "sk-test-abcdefghijklmnop"}
        self.appliance = Appliance(self.read(), environ=environ, read_settings=self.read)
        self.appliance.observe(lambda now, event, commands, view: self.posted.append(event))

    def read(self) -> Settings:
        return load_settings(None, {}, overrides=self.changes)

    @asynccontextmanager
    async def assembled(self) -> AsyncIterator[Device]:
        async with AsyncExitStack() as stack:
            driver, _, _ = await self.appliance._assemble(stack, Notifier({}))
            self.appliance._driver = driver
            self.reloading = self.appliance._reload
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one.run()) for one in (driver, self.appliance._reload)]
                yield self
                for one in tasks:
                    one.cancel()

    async def reload(self, **changes: Any) -> None:
        """Change settings, ask, and wait until nothing happens any more."""
        self.changes |= changes
        self.reloading.ask("test")
        count = -1
        while count != len(self.posted) or not self.posted:
            count = len(self.posted)
            for _ in range(50):
                await asyncio.sleep(0)

    async def seen(self) -> Any:
        """Return what the parts have of the settings."""
        running, audio = self.reloading.running, self.appliance.audio
        assert audio is not None
        sound = (audio.volume, audio.earcon_volume, audio.are_alarms_capped)
        others = (running.light.quiet, running.power.command, running.microphone, running.wording.say("status.waiting"))
        return state_of(self.appliance._conversation), sound, state_of(others), self.appliance._headers()


@pytest.mark.parametrize("key", [one for one in RELOADS if one != "service.log_level"])
async def test_device_that_reloads_a_setting_is_as_one_that_was_started_with_it(key: str, tmp_path: Path) -> None:
    changes = {key: other(key, tmp_path)}
    changes |= NEEDED.get(key, {})
    async with Device(tmp_path, changes).assembled() as started, Device(tmp_path, {}).assembled() as reloaded:
        for one in (started, reloaded):
            await one.reload()  # the first event begins the day
        before, wanted = await reloaded.seen(), await started.seen()
        assert before != wanted
        await reloaded.reload(**changes)
        assert await reloaded.seen() == wanted


async def test_log_level_is_in_force_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    levels: list[str] = []
    monkeypatch.setattr(reload, "set_up_logging", lambda level, environ: levels.append(level))
    async with Device(tmp_path, {}).assembled() as device:
        await device.reload(**{"service.log_level": "debug"})
        await device.reload(**{"audio.volume": 11})
    assert levels == ["debug"]


async def test_volume_that_the_user_has_set_stays_if_the_setting_stays(tmp_path: Path) -> None:
    async with Device(tmp_path, {}).assembled() as device:
        assert device.appliance.audio is not None
        device.appliance.audio.volume = 33
        await device.reload(**{"audio.earcon_volume": 50})
        assert (device.appliance.audio.volume, device.appliance.audio.earcon_volume) == (33, 50)


async def test_instructions_in_a_file_are_read_again(tmp_path: Path) -> None:
    changes = {"assistant.instructions_file": other("assistant.instructions_file", tmp_path)}
    async with Device(tmp_path, changes).assembled() as device:
        (tmp_path / "words.txt").write_text("Whisper.")
        await device.reload()
        assert device.appliance._conversation is not None
        assert "Whisper." in str(await device.seen())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"audio.rate": 44100, "audio.volume": 5}, "audio.rate"),
        ({"button.pin": 5, "link.model": "other"}, "link.model, button.pin"),
        ({"budget.daily_usd": 1.0, "history.persist": False}, "history.persist"),
    ],
)
async def test_other_changes_name_what_needs_the_restart(
    changes: dict[str, Any], named: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Device(tmp_path, {}).assembled() as device:
        device.appliance._restart(0.0, DeadlinePassed(), (), View(state=State.READY))
        await device.reload(**changes)
        assert device.posted == [ShutdownRequested("reload")]
        assert device.appliance._status.text.endswith(f"; a restart is needed for {named}")
    assert [one.getMessage() for one in caplog.records if "restart" in one.msg] == [
        f"reload: the restart at the next rest is for {named}"
    ]


async def test_first_budget_needs_a_restart_for_its_store(tmp_path: Path) -> None:
    async with Device(tmp_path, {"history.persist": False}).assembled() as device:
        device.appliance._restart(0.0, DeadlinePassed(), (), View(state=State.READY))
        await device.reload(**{"budget.daily_usd": 2.0})
        assert device.appliance._status.text.endswith("a restart is needed for budget.daily_usd")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"audio.volume": 500}, "override: audio.volume: found 500; allowed: a whole number from 0 to 100"),
        ({"assistant.agents_file": "{folder}/bad.toml"}, "{folder}/bad.toml"),
        ({"assistant.wording_dir": "{folder}/words"}, "{folder}/words/en.toml: trouble.no_key: found 5"),
    ],
)
async def test_wrong_settings_leave_the_old_ones_in_force_and_say_so(
    changes: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    (tmp_path / "bad.toml").write_text("name = 5")
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "en.toml").write_text("[trouble]\nno_key = 5\n")
    given = {key: one.format(folder=tmp_path) if isinstance(one, str) else one for key, one in changes.items()}
    async with Device(tmp_path, {}).assembled() as device:
        before = (await device.seen())[1:]
        await device.reload(**given, **{"light.quiet_level": 60})
        (refused,) = [one for one in device.posted if isinstance(one, SettingsRefused)]
        assert refused.problem.startswith(problem.format(folder=tmp_path))
        assert (await device.seen())[1:] == before
        assert "the changed settings are wrong" in device.appliance._status.text
        for key in given:
            del device.changes[key]
        await device.reload()
        assert "wrong" not in device.appliance._status.text
        assert (await device.seen())[1:] != before


def test_mark_of_a_file_changes_with_its_content_and_its_presence(tmp_path: Path) -> None:
    path = tmp_path / "key"
    absent = FileMark(str(path))
    assert not absent.has_changed
    path.write_text("one")
    assert absent.has_changed
    present = FileMark(str(path))
    assert not present.has_changed
    path.unlink()
    assert present.has_changed
    assert not FileMark("").has_changed


def test_first_budget_and_history_need_the_store() -> None:
    assert not needs_store(Settings())
    assert needs_store(load_settings(None, {}, overrides={"history.persist": True}))
    assert needs_store(load_settings(None, {}, overrides={"budget.daily_minutes": 5.0}))


async def test_sighup_during_the_start_is_kept_and_restarts_at_rest() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # as `appliance run` does
    try:
        signal.raise_signal(signal.SIGHUP)
        settings = load_settings(None, {}, overrides=BASE)
        assert await Appliance(settings, environ={}).run() == "SIGHUP during the start"
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
