"""The commands as processes: the daemon under systemd's protocol, the brain, the settings, a simulator script."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from tests.support.patience import patient

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

SIMULATED = ["--set", "audio.backend=simulated", "--set", "pins.factory=mock"]


def _environ(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("APPLIANCE_", "OPENAI_"))}
    return kept | more


def _appliance(*arguments: str, said: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "appliance.cli", *arguments],
        input=said,
        capture_output=True,
        text=True,
        env=_environ(**more),
        timeout=patient(90),
        check=False,
    )


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """systemd's end of the notification socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.bind(str(tmp_path / "notify"))
        one.settimeout(patient(30))
        yield one


def _until(manager: socket.socket, begin: str) -> list[str]:
    """Read up to a line that begins so; on a busy machine, a status may end with what is late."""
    lines: list[str] = []
    while not any(line.startswith(begin) for line in lines):
        lines += manager.recv(4096).decode().splitlines()
    return lines


def test_daemon_reports_ready_feeds_the_watchdog_and_ends_on_sigterm(tmp_path: Path, manager: socket.socket) -> None:
    daemon = subprocess.Popen(
        [sys.executable, "-m", "appliance.cli", "run", *SIMULATED],
        env=_environ(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="1000000", STATE_DIRECTORY=str(tmp_path)),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _until(manager, "READY=1")
        _until(manager, "STATUS=waiting for a press; offline, without a server; sound card ready; microphone on")
        _until(manager, "WATCHDOG=1")
        daemon.send_signal(signal.SIGTERM)
        _until(manager, "STOPPING=1")
        _, log = daemon.communicate(timeout=patient(30))
    finally:
        daemon.kill()
        daemon.wait()
    assert daemon.returncode == 0, log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("audio.volume=500", "allowed: a whole number from 0 to 100"),
        ("audio.vlume=5", "did you mean 'volume'?"),
        ("button.mode=shout", "button.mode"),
        ("nonsense", "expected KEY=VALUE"),
    ],
)
def test_wrong_setting_prints_one_line_and_exits_with_status_2(override: str, expected: str) -> None:
    done = _appliance("run", "--set", override)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert expected in done.stderr


def test_missing_pin_library_is_an_error_in_the_journal_that_no_restart_repairs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "appliance.cli", "run", "--set", "audio.backend=simulated"]
    with (tmp_path / "journal").open("w+", encoding="utf-8") as journal:
        status = os.fstat(journal.fileno())
        environ = _environ(JOURNAL_STREAM=f"{status.st_dev}:{status.st_ino}")
        done = subprocess.run(
            [*command, "--set", "pins.factory=rpigpio"], stderr=journal, env=environ, timeout=patient(90), check=False
        )
        journal.seek(0)
        errors = [line for line in journal if not line.startswith(("<6>", "<4>"))]
    assert done.returncode == 2
    assert len(errors) == 1
    assert errors[0].startswith("<3>RPi.GPIO cannot be used here")
    assert 'pins.factory = "gpiod"' in errors[0]


def test_config_show_prints_origins_and_hides_the_key() -> None:
    done = _appliance("config", "show", OPENAI_API_KEY="sk-test-abcdefghijklmnop", APPLIANCE_AUDIO__VOLUME="33")
    shown = json.loads(done.stdout)
    assert shown["audio"]["volume"] == {"value": 33, "origin": "APPLIANCE_AUDIO__VOLUME"}
    assert "abcdefghijklmnop" not in done.stdout
    assert _appliance("config", "check").stdout.endswith("The settings are valid.\n")


def test_brain_prints_its_address_serves_clients_and_ends_on_sigterm() -> None:
    brain = subprocess.Popen(
        [sys.executable, "-m", "appliance.cli", "brain"],
        env=_environ(APPLIANCE_BRAIN_TOKEN="brain-token-0123456789"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert brain.stdout is not None
        url = brain.stdout.readline().strip()
        assert url.startswith("ws://127.0.0.1:")
        with connect(url) as stranger, pytest.raises(ConnectionClosedError) as refusal:
            while json.loads(stranger.recv(timeout=patient(30)))["type"] != "response.done":
                pass
        assert refusal.value.rcvd is not None
        assert refusal.value.rcvd.reason == "invalid_request_error.invalid_api_key"
        with connect(
            f"{url}?model=offline", additional_headers={"Authorization": "Bearer brain-token-0123456789"}
        ) as client:
            assert json.loads(client.recv(timeout=patient(30)))["type"] == "session.created"
        brain.send_signal(signal.SIGTERM)
        _, log = brain.communicate(timeout=patient(30))
    finally:
        brain.kill()
        brain.communicate()
    assert brain.returncode == 0, log
    assert "Traceback" not in log
    assert "brain-token" not in log


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--max-sessions", "0"], "at least 1"),
        (["--recognisers", "many"], "--recognisers"),
        (["--tls-key", "key.pem"], "--tls-key: give --tls-cert too"),
        (["--tls-cert", "missing.pem"], "missing.pem"),
    ],
)
def test_wrong_option_of_the_brain_exits_with_status_2(options: list[str], expected: str) -> None:
    done = _appliance("brain", *options)
    assert done.returncode == 2
    assert expected in done.stderr.splitlines()[-1]


def test_brain_has_the_given_number_of_sessions_and_recognisers() -> None:
    brain = subprocess.Popen(
        [sys.executable, "-m", "appliance.cli", "brain", "--max-sessions", "1", "--recognisers", "3"],
        env=_environ(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert brain.stdout is not None
        url = brain.stdout.readline().strip()
        with connect(f"{url}?model=x"), connect(f"{url}?model=x") as second:
            assert json.loads(second.recv(timeout=patient(30)))["error"]["code"] == "too_many_sessions"
        tasks = list(Path(f"/proc/{brain.pid}/task").iterdir())
        while len([one for task in tasks for one in (task / "children").read_text().split()]) < 3:
            time.sleep(0.1)
            tasks = [one for one in Path(f"/proc/{brain.pid}/task").iterdir() if (one / "children").exists()]
    finally:
        brain.terminate()
        brain.communicate(timeout=patient(30))


def test_simulator_speaks_a_script_line_by_line() -> None:
    done = _appliance("simulate", said="turn on the lamp\n")
    assert done.returncode == 0, done.stderr
    assert '  tool       set_lamp {"on": true}' in done.stdout
    assert "  it answers The lamp is on." in done.stdout
    assert done.stdout.endswith("Goodbye.\n")
    assert done.stderr == ""


def test_ask_reports_the_turn_saves_the_reply_and_writes_a_trace_that_replays(tmp_path: Path) -> None:
    reply, trace = tmp_path / "reply.wav", tmp_path / "trace.jsonl"
    done = _appliance("ask", "turn on the lamp", "--json", "--save", str(reply), "--trace", str(trace))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["heard"] == "turn on the lamp"
    assert report["tools"] == [{"name": "set_lamp", "arguments": {"on": True}, "output": {"on": True}}]
    assert report["reply"] == "The lamp is on."
    assert report["light"][-4:] == ["listening", "thinking", "speaking", "ready"]
    steps = ["press", "first_audio_on_wire", "commit", "first_audio_back", "first_frame_played", "end"]
    assert [report["timeline_ms"][step] for step in steps] == sorted(report["timeline_ms"][step] for step in steps)
    assert report["usage"]["total_tokens"] > 0
    assert isinstance(report["xruns"], int)
    replayed = _appliance("replay", str(trace))
    assert replayed.returncode == 0
    assert "0 of them with different commands" in replayed.stdout
    slow = ("--set", "deadlines.answer_s=120")  # of a busy machine
    again = _appliance("ask", str(reply), "--json", *slow)  # ask the device its own reply
    assert json.loads(again.stdout)["tools"] == []
    assert again.returncode == 0, "speech that is not understood is answered aloud too"


def test_ask_reports_unreadable_input_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFFnothing")
    for what in (str(tmp_path / "broken.wav"), str(tmp_path / "missing.wav"), "  "):
        done = _appliance("ask", what)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
