"""The unit as systemd reads it, and the installer that puts it in place."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "systemd" / "voice-appliance.service"
PROGRAM = "/opt/voice-appliance/.venv/bin/appliance"

needs_systemd_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (Debian package: systemd)"
)


def directives() -> dict[str, list[str]]:
    """Name → values in order, of the whole unit."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text(encoding="utf-8").splitlines():
        name, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def runnable_copy(folder: Path, text: str | None = None) -> Path:
    """The unit with a program that exists here: `verify` looks for it."""
    copy = folder / UNIT.name
    copy.write_text((text or UNIT.read_text(encoding="utf-8")).replace(PROGRAM, sys.executable), encoding="utf-8")
    return copy


def analyze(*arguments: str) -> tuple[int, str]:
    """Exit status and all that was printed."""
    done = subprocess.run(
        ["systemd-analyze", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout


@needs_systemd_analyze
def test_verify_says_nothing_at_all(tmp_path: Path) -> None:
    assert analyze("verify", "--man=no", str(runnable_copy(tmp_path))) == (0, "")


@needs_systemd_analyze
@pytest.mark.parametrize(
    ("right", "wrong"),
    [("WatchdogSec=10", "WatchdgSec=10"), ("Type=notify", "Type=notfy"), ("ProtectHome=yes", "ProtectHome=ye")],
)
def test_verify_as_we_call_it_finds_what_it_should(tmp_path: Path, right: str, wrong: str) -> None:
    """systemd 252 ends with status 0 on an unknown key, so the test above asks for silence; this holds it to that."""
    text = UNIT.read_text(encoding="utf-8")
    assert text.count(right) == 1
    _, printed = analyze("verify", "--man=no", str(runnable_copy(tmp_path, text.replace(right, wrong))))
    assert printed != ""


@needs_systemd_analyze
def test_exposure_is_at_most_two_and_a_half(tmp_path: Path) -> None:
    status, printed = analyze(
        "security", "--no-pager", "--offline=true", "--threshold=25", str(runnable_copy(tmp_path))
    )
    assert status == 0, printed


@needs_systemd_analyze
def test_the_threshold_would_notice_a_weaker_unit(tmp_path: Path) -> None:
    text = UNIT.read_text(encoding="utf-8").replace("CapabilityBoundingSet=\n", "").replace("NoNewPrivileges=yes", "")
    copy = runnable_copy(tmp_path, text)
    status, _ = analyze("security", "--no-pager", "--offline=true", "--threshold=25", str(copy))
    assert status != 0


def test_the_unit_states_what_the_daemon_relies_on() -> None:
    unit = directives()
    assert unit["Type"] == ["notify"]
    assert unit["NotifyAccess"] == ["main"]
    assert unit["Restart"] == ["always"]
    assert unit["RestartPreventExitStatus"] == ["2"]
    assert float(unit["WatchdogSec"][0]) >= 5
    assert unit["ExecStart"] == [f"{PROGRAM} run --config /etc/voice-appliance/appliance.toml"]
    assert unit["WorkingDirectory"] == ["%t/voice-appliance"]  # lgpio makes its pipes there
    assert unit["RuntimeDirectory"] == unit["StateDirectory"] == ["voice-appliance"]
    assert "LG_WD=%t/voice-appliance" in unit["Environment"][0].split()


def test_the_daemon_gets_one_heap_and_no_pool_of_threads_from_the_unit_and_from_the_script() -> None:
    given = " ".join(directives()["Environment"]).split()
    script = (ROOT / "scripts" / "run").read_text(encoding="utf-8")
    for name in ("MALLOC_ARENA_MAX", "OPENBLAS_NUM_THREADS"):
        assert [one for one in given if one.startswith(name)] == [f"{name}=1"]
        assert f"{name}=${{{name}:-1}}" in script


def test_a_missing_key_does_not_keep_the_unit_from_starting() -> None:
    unit = directives()
    [name] = [value.partition(":")[0] for value in unit["LoadCredential"]]
    assert [value.partition(":")[0] for value in unit["SetCredential"]] == [name]


@pytest.mark.parametrize("hidden", ["PrivateDevices", "ProcSubset", "DynamicUser"])
def test_what_would_hide_the_pins_is_not_in_the_unit(hidden: str) -> None:
    assert hidden not in directives()


def test_no_network_target_is_waited_for() -> None:
    text = " ".join(value for name in ("After", "Wants", "Requires") for value in directives().get(name, []))
    assert "network" not in text


def test_the_user_and_every_group_of_the_unit_are_made_by_sysusers() -> None:
    lines = (ROOT / "systemd" / "voice-appliance.sysusers").read_text(encoding="utf-8").splitlines()
    made = {(line.split()[0], line.split()[1]) for line in lines if line and not line.startswith("#")}
    unit = directives()
    assert ("u", unit["User"][0]) in made
    assert {("g", group) for group in unit["SupplementaryGroups"][0].split()} <= made


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not installed")
def test_sysusers_accepts_the_file() -> None:
    done = subprocess.run(
        ["systemd-sysusers", "--dry-run", str(ROOT / "systemd" / "voice-appliance.sysusers")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "ignoring" not in done.stderr


def install(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "scripts" / "install-service"), "--root", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=folder,
    )


def test_the_installer_puts_everything_in_place_and_keeps_what_the_user_wrote(tmp_path: Path) -> None:
    assert install(tmp_path).returncode == 0
    unit = tmp_path / "etc/systemd/system/voice-appliance.service"
    assert unit.read_bytes() == UNIT.read_bytes()
    assert (tmp_path / "usr/lib/sysusers.d/voice-appliance.conf").is_file()
    assert (tmp_path / "opt/voice-appliance/appliance/settings.py").is_file()
    assert (tmp_path / "opt/voice-appliance/scripts/setup").stat().st_mode & stat.S_IXOTH
    chosen = tmp_path / "etc/voice-appliance/appliance.toml"
    chosen.write_text("[audio]\nvolume = 5\n", encoding="utf-8")
    key = tmp_path / "etc/voice-appliance/openai_api_key"
    key.write_text("x", encoding="utf-8")
    key.chmod(0o644)
    leftover = tmp_path / "opt/voice-appliance/appliance/gone.py"
    leftover.write_text("", encoding="utf-8")
    again = install(tmp_path)
    assert again.returncode == 0, again.stderr
    assert chosen.read_text(encoding="utf-8") == "[audio]\nvolume = 5\n"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert not leftover.exists()


def test_the_installer_refuses_what_it_does_not_know() -> None:
    done = subprocess.run(
        [str(ROOT / "scripts" / "install-service"), "--rooot"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "unknown option '--rooot'" in done.stderr


@needs_systemd_analyze
def test_the_exposure_report_is_readable_by_machines(tmp_path: Path) -> None:
    status, printed = analyze("security", "--no-pager", "--offline=true", "--json=short", str(runnable_copy(tmp_path)))
    assert status == 0
    bad = {
        row["json_field"]
        for row in json.loads(printed)
        if row["set"] is False and row["json_field"].startswith("Protect")
    }
    assert bad == set()
