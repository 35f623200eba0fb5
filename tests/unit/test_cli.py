"""The ``appliance`` command: what each command starts, prints and returns; the parts behind it are replaced."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance import cli
from appliance.errors import ApplianceError, SettingsError
from appliance.service.trace import Divergence
from appliance.simulator.ask import AskResult
from appliance.simulator.report import TurnReport
from appliance.wording import english

SIMULATED = ["--set", "audio.backend=simulated", "--set", "pins.factory=mock"]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Restore what a command changes in the process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    cli.gc.enable()


class Appliances:
    """Stands for the class `Appliance`; keeps what it was made of."""

    def __init__(self) -> None:
        self.made: list[tuple[Any, dict[str, Any]]] = []
        self.error: BaseException | None = None

    def __call__(self, settings: Any, **options: Any) -> Any:
        self.made.append((settings, options))
        return SimpleNamespace(run=self.run)

    async def run(self) -> str:
        if self.error is not None:
            raise self.error
        return "tested"


@pytest.fixture
def appliances(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Appliances:
    made = Appliances()
    monkeypatch.setattr("appliance.service.app.Appliance", made)
    monkeypatch.setattr("faulthandler.enable", lambda: None)  # pytest has its own
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    return made


def test_run_starts_the_device_of_the_settings_file_and_its_log(
    appliances: Appliances, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "own.toml"
    file.write_text('[service]\nlog_level = "debug"\n[audio]\nvolume = 12\n')
    assert cli.main(["run", "--config", str(file), *SIMULATED, "--trace", "/tmp/trace.jsonl"]) == 0
    ((settings, options),) = appliances.made
    assert (settings.audio.volume, settings.service.trace) == (12, "/tmp/trace.jsonl")
    assert options["state_dir"] == tmp_path
    assert logging.getLogger().level == logging.DEBUG
    file.write_text("[audio]\nvolume = 13\n")
    assert options["read_settings"]().audio.volume == 13, "SIGHUP reads the file again"


def test_interrupt_and_expected_errors_are_a_status_and_one_line(
    appliances: Appliances, capsys: pytest.CaptureFixture[str]
) -> None:
    appliances.error = KeyboardInterrupt()
    assert cli.main(["run", *SIMULATED]) == 130
    appliances.error = ApplianceError("no room")
    assert cli.main(["run", *SIMULATED]) == ApplianceError.exit_status
    assert capsys.readouterr().err == "appliance: no room\n"
    appliances.error = SettingsError("audio.volume: wrong")
    assert cli.main(["run", *SIMULATED]) == 2
    assert capsys.readouterr().err == "audio.volume: wrong\n"


def test_setting_without_a_value_is_refused_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "check", "--set", "audio.volume"]) == 2
    assert capsys.readouterr().err == ("--set audio.volume: expected KEY=VALUE, for example --set audio.volume=50\n")


@pytest.mark.parametrize(
    "arguments", [[], ["dance"], ["ask"], ["brain", "--max-sessions", "0"], ["run", "--conf", "x"]]
)
def test_wrong_command_line_has_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "usage: appliance" in capsys.readouterr().err


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("appliance ")


@pytest.mark.parametrize(
    ("more", "dimmer"), [([], 6), (["--set", "outputs.dimmer_pin=12"], 12), (["--set", "outputs.lamp_pin=6"], None)]
)
def test_simulate_has_simulated_hardware_and_a_dimmer_on_a_free_pin(
    more: list[str], dimmer: int | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[Any] = []
    monkeypatch.setattr("appliance.simulator.terminal.simulate", lambda *one, **options: made.append((*one, options)))
    assert cli.main(["simulate", "--save", str(tmp_path / "x.wav"), *more]) == 0
    assert cli.main(["simulate", "--audio", "portaudio"]) == 0
    (settings, options), (real, _) = made
    assert (settings.audio.backend, settings.pins.factory, settings.outputs.dimmer_pin) == ("simulated", "mock", dimmer)
    assert options["save"] == tmp_path / "x.wav"
    assert (real.audio.backend, real.pins.factory) == ("portaudio", "mock")


@pytest.mark.parametrize(("outcome", "status"), [("answered", 0), ("failed", 1)])
def test_ask_prints_the_turn_and_its_status_is_whether_it_was_answered(
    outcome: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    async def ask(what: str, **options: Any) -> AskResult:
        asked.append((what, options["voice"]))
        return AskResult(TurnReport(english(), heard="hello", outcome=outcome), xruns=0, has_sounded=True)

    monkeypatch.setattr("appliance.simulator.ask.ask", ask)
    assert cli.main(["ask", "hello", "--voice", "slt"]) == status
    assert asked == [("hello", "slt")]
    assert capsys.readouterr().out.startswith("heard     hello\nanswered  (nothing)\n")


class Brain:
    """Stands for the server of the offline brain, and stops the process that serves it."""

    def __init__(self) -> None:
        self.made: list[dict[str, Any]] = []
        self.url = "ws://127.0.0.1:1/v1"

    def __call__(self, pipeline: Any, **options: Any) -> Brain:
        self.made.append(options)
        return self

    @asynccontextmanager
    async def serving(self, pipeline: Any, server: Any) -> Any:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
        yield


@pytest.fixture
def brain(monkeypatch: pytest.MonkeyPatch) -> Brain:
    one = Brain()
    monkeypatch.setattr("appliance.brain.server.BrainServer", one)
    monkeypatch.setattr("appliance.brain.offline.serving", one.serving)
    monkeypatch.setattr(
        "appliance.service.app.open_pipeline", lambda *_, recognisers, **__: one.made.append({"n": recognisers})
    )
    return one


def test_brain_prints_its_address_and_serves_until_sigterm(
    brain: Brain, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_TOKEN", "t0ken")
    more = [
        "--host",
        "0.0.0.0",
        "--port",
        "8790",
        "--token-env",
        "MY_TOKEN",
        "--max-sessions",
        "3",
        "--recognisers",
        "2",
    ]
    assert cli.main(["brain", *more]) == 0
    assert capsys.readouterr().out == "ws://127.0.0.1:1/v1\n"
    assert brain.made == [
        {"n": 2},
        {"host": "0.0.0.0", "port": 8790, "token": "t0ken", "tls": None, "max_sessions": 3},
    ]


def test_brain_with_a_key_and_no_certificate_is_refused(brain: Brain, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["brain", "--tls-key", "key.pem"]) == 2
    assert capsys.readouterr().err == "--tls-key: give --tls-cert too\n"
    assert brain.made == []


def test_devices_are_described_as_the_settings_choose_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("appliance.audio.devices.describe", lambda **options: json.dumps(options))
    assert cli.main(["devices", "--set", "audio.capture_card=seeed", "--set", "audio.mixer_control=Speaker"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "capture_card": "seeed",
        "playback_card": "default",
        "mixer_control": "Speaker",
    }


def test_config_check_prints_remarks_and_that_the_settings_are_valid(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("appliance.plugins.duplicates", list)
    more = ["--set", "audio.announcements=false", "--set", "link.provider=openai", "--set", "link.fallbacks="]
    assert cli.main(["config", "check", *SIMULATED, *more]) == 0
    note, last = capsys.readouterr().out.splitlines()
    assert note.startswith("note: link.provider is openai, and no key was found")
    assert last == "The settings are valid."


@pytest.mark.parametrize("count", [0, 12])
def test_replay_prints_the_first_ten_differences_and_fails_if_there_are_any(
    count: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = [Divergence(number, "Started", "a\x1b[2J", "b") for number in range(count)]
    monkeypatch.setattr("appliance.service.trace.replay", lambda path: (30, found))
    assert cli.main(["replay", str(tmp_path / "trace")]) == bool(count)
    *differences, last = capsys.readouterr().out.splitlines()
    assert last == f"30 events, {count} of them with different commands."
    assert len(differences) == 3 * min(count, 10)
    assert differences[:3] == (["line 0: Started", "  recorded a\\u001b[2J", "  replayed b"] if count else [])
