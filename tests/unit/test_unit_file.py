"""The systemd unit, checked by systemd's tools, and its installer."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.service.watchdog import LOOK_S

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "systemd" / "voice-appliance.service"
PROGRAM = "/opt/voice-appliance/.venv/bin/appliance"

needs_systemd_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (Debian package: systemd)"
)


def directives() -> dict[str, list[str]]:
    """Return the values of each directive of the unit, in order, by name."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text(encoding="utf-8").splitlines():
        name, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def runnable_copy(folder: Path, text: str | None = None) -> Path:
    """Write a copy of the unit whose program exists here, because `verify` looks for it; return its path."""
    copy = folder / UNIT.name
    copy.write_text((text or UNIT.read_text(encoding="utf-8")).replace(PROGRAM, sys.executable), encoding="utf-8")
    return copy


def analyze(*arguments: str) -> tuple[int, str]:
    """Run systemd-analyze; return its exit status and output."""
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
def test_verify_prints_nothing(tmp_path: Path) -> None:
    assert analyze("verify", "--man=no", str(runnable_copy(tmp_path))) == (0, "")


@needs_systemd_analyze
@pytest.mark.parametrize(
    ("right", "wrong"),
    [("WatchdogSec=5", "WatchdgSec=5"), ("Type=notify", "Type=notfy"), ("ProtectHome=yes", "ProtectHome=ye")],
)
def test_verify_reports_mistakes(tmp_path: Path, right: str, wrong: str) -> None:
    """systemd 252 exits with status 0 on an unknown key, so the test above compares the output; this proves that."""
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
def test_threshold_detects_a_weaker_unit(tmp_path: Path) -> None:
    text = UNIT.read_text(encoding="utf-8").replace("CapabilityBoundingSet=\n", "").replace("NoNewPrivileges=yes", "")
    copy = runnable_copy(tmp_path, text)
    status, _ = analyze("security", "--no-pager", "--offline=true", "--threshold=25", str(copy))
    assert status != 0


def test_unit_sets_what_the_daemon_relies_on() -> None:
    unit = directives()
    assert unit["Type"] == ["notify"]
    assert unit["NotifyAccess"] == ["main"]
    assert unit["Restart"] == ["always"]
    assert unit["RestartPreventExitStatus"] == ["2"]
    assert unit["ExecStart"] == [f"{PROGRAM} run --config /etc/voice-appliance/appliance.toml"]
    assert unit["WorkingDirectory"] == ["%t/voice-appliance"]  # lgpio creates its pipes there
    assert unit["RuntimeDirectory"] == unit["StateDirectory"] == ["voice-appliance"]
    assert "LG_WD=%t/voice-appliance" in unit["Environment"][0].split()
    assert unit["OOMPolicy"] == ["continue"]  # the kernel may kill the recogniser, which the daemon starts again
    assert int(unit["OOMScoreAdjust"][0]) < 0


def test_process_that_hangs_is_ready_again_within_ten_seconds() -> None:
    """The page that adds it up says the same."""
    unit = directives()
    page = (ROOT / "docs" / "watchdogs.md").read_text(encoding="utf-8")
    spans = [unit[key][0] for key in ("WatchdogSec", "TimeoutAbortSec", "RestartSec")]
    seconds = [float(one.removesuffix("ms")) / 1000 if one.endswith("ms") else float(one) for one in spans]
    [start_s] = [float(one) for one in re.findall(r"up to ([\d.]+) s of start", page.replace("\n", " "))]
    assert sum(seconds) + start_s <= 10.0
    assert start_s >= 3.0, "the goal for a warm start on the slowest board"
    for second, words in zip(seconds, ("until systemd acts", "for the stacks", "of pause"), strict=True):
        assert f"{second:g} s {words}" in page
    assert seconds[0] >= 5 * LOOK_S, "a loop that stands still for four looks is not ended"


def test_unit_and_run_script_set_one_heap_and_no_thread_pool() -> None:
    given = " ".join(directives()["Environment"]).split()
    script = (ROOT / "scripts" / "run").read_text(encoding="utf-8")
    for name in ("MALLOC_ARENA_MAX", "OPENBLAS_NUM_THREADS"):
        assert [one for one in given if one.startswith(name)] == [f"{name}=1"]
        assert f"{name}=${{{name}:-1}}" in script


def test_changed_key_reloads_the_service_which_restarts_with_it() -> None:
    watched = (UNIT.parent / "voice-appliance-key.path").read_text(encoding="utf-8")
    started = (UNIT.parent / "voice-appliance-key.service").read_text(encoding="utf-8")
    [credential] = directives()["LoadCredential"]
    assert f"PathChanged={credential.partition(':')[2]}\n" in watched
    assert f"ExecStart=systemctl try-reload-or-restart {UNIT.name}\n" in started
    assert directives()["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert directives()["Restart"] == ["always"], "the end after a reload is followed by a start"


@needs_systemd_analyze
def test_verify_accepts_the_watch_of_the_key(tmp_path: Path) -> None:
    runnable_copy(tmp_path)
    copies = [shutil.copy(UNIT.parent / f"voice-appliance-key.{kind}", tmp_path) for kind in ("path", "service")]
    assert analyze("verify", "--man=no", *map(str, copies)) == (0, "")
    watch = Path(copies[0])
    watch.write_text(watch.read_text(encoding="utf-8").replace("PathChanged", "PathChangd"), encoding="utf-8")
    assert analyze("verify", "--man=no", *map(str, copies))[1] != ""


def test_unit_starts_without_a_key() -> None:
    unit = directives()
    [name] = [value.partition(":")[0] for value in unit["LoadCredential"]]
    assert [value.partition(":")[0] for value in unit["SetCredential"]] == [name]


@pytest.mark.parametrize("hidden", ["PrivateDevices", "ProcSubset", "DynamicUser"])
def test_unit_does_not_hide_the_pins(hidden: str) -> None:
    assert hidden not in directives()


def test_unit_does_not_wait_for_the_network() -> None:
    text = " ".join(value for name in ("After", "Wants", "Requires") for value in directives().get(name, []))
    assert "network" not in text


def test_sysusers_creates_the_user_and_every_group_of_the_unit() -> None:
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


def test_installer_copies_all_files_and_keeps_the_user_s_settings(tmp_path: Path) -> None:
    assert install(tmp_path).returncode == 0
    unit = tmp_path / "etc/systemd/system/voice-appliance.service"
    assert unit.read_bytes() == UNIT.read_bytes()
    for name in ("voice-appliance-key.path", "voice-appliance-key.service"):
        assert (unit.parent / name).read_bytes() == (UNIT.parent / name).read_bytes()
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


def test_installer_refuses_unknown_options() -> None:
    done = subprocess.run(
        [str(ROOT / "scripts" / "install-service"), "--rooot"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "unknown option '--rooot'" in done.stderr


def test_installer_prints_why_the_service_did_not_start() -> None:
    """Runs the function of the installer, over commands that act like those of a machine where the start fails."""
    fakes = """
      systemctl() { [[ $1 != restart ]]; }
      journalctl() { [[ "$*" == *"--priority err"* ]] && echo "lgpio is not installed: apt-get install python3-lgpio"; }
      say() { echo "said: $*" >&2; }
      die() { echo "error: $*" >&2; exit 1; }
    """
    script = (ROOT / "scripts" / "install-service").read_text(encoding="utf-8")
    start = script[script.index("start_service() {") : script.index("\n}\n", script.index("start_service() {")) + 3]
    done = subprocess.run(
        ["bash", "-euc", f"{fakes}\n{start}\nstart_service"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "lgpio is not installed: apt-get install python3-lgpio",
        "error: the service did not start, for the reason above",
    ]


@needs_systemd_analyze
def test_every_protect_directive_is_set(tmp_path: Path) -> None:
    status, printed = analyze("security", "--no-pager", "--offline=true", "--json=short", str(runnable_copy(tmp_path)))
    assert status == 0
    bad = {
        row["json_field"]
        for row in json.loads(printed)
        if row["set"] is False and row["json_field"].startswith("Protect")
    }
    assert bad == set()
