"""What the repository promises about itself: who imports whom, what the wheel is, what no file may say."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "appliance"

PURE_AGENTS = (
    "agents.agent",
    "agents.context",
    "agents.agent_files",
    "agents.guardrails",
    "agents.handoffs",
    "agents.hooks",
    "agents.tools",
)
SHARED_CONVERSATION = ("conversation.events", "conversation.commands", "agents.spec")


@dataclass(frozen=True)
class Row:
    """One row of the table of imports: modules that begin with `who` import, of ours, only what begins with `may`."""

    who: tuple[str, ...]
    may: tuple[str, ...]
    never: tuple[str, ...] = field(default=())
    """Modules of others that are out of bounds."""
    only: tuple[str, ...] | None = None
    """Third-party packages that are allowed; None for any."""


IMPURE = ("asyncio", "time", "logging", "threading", "socket", "subprocess")

# First match wins. Where a row says "its own", the prefix is in both columns.
TABLE = (
    Row(("errors", "audio.ring"), (), only=("numpy",)),
    Row(("plugins", "wording"), ("errors",), never=IMPURE, only=()),
    Row(("audio.pcm",), ("audio.ring",), only=("numpy",)),
    Row(("audio.g711",), ("audio.ring", "audio.pcm"), never=IMPURE, only=("numpy",)),
    Row(("records",), (), never=IMPURE, only=("msgspec",)),
    Row(("realtime.protocol", "realtime.items"), ("records", "errors"), never=IMPURE, only=("msgspec",)),
    # What is asked for lazily: `as_tool`, and the types of MCP servers.
    Row(
        ("agents.agent",),
        (*PURE_AGENTS, "runtime.agent_tool", "runtime.mcp", "errors"),
        never=IMPURE,
        only=("pydantic",),
    ),
    Row(
        PURE_AGENTS,
        (*PURE_AGENTS, "realtime.items", "errors"),
        never=("logging", "threading", "socket", "subprocess"),
        only=("pydantic",),
    ),
    Row(
        ("conversation",),
        ("conversation", "realtime.protocol", "realtime.items", *PURE_AGENTS, "errors"),
        never=IMPURE,
        only=("pydantic", "msgspec"),
    ),
    Row(
        ("brain.model", "brain.client_schema", "brain.vad"),
        ("brain.model", "brain.client_schema", "brain.vad", "audio.g711", "audio.pcm", "realtime.protocol", "errors"),
        never=("asyncio", "time", "logging", "threading", "socket", "subprocess"),
    ),
    Row(
        ("brain",),
        ("brain", "realtime.protocol", "errors", "audio.pcm", "audio.resample", "plugins", "wording"),
    ),
    Row(("realtime.payload",), ("realtime", *PURE_AGENTS, "errors"), never=IMPURE),
    Row(("realtime",), ("realtime", *SHARED_CONVERSATION, "errors")),
    Row(("audio",), ("audio", *SHARED_CONVERSATION, "errors")),
    Row(("hardware",), ("hardware", *SHARED_CONVERSATION, "conversation.feedback", "conversation.gestures", "errors")),
    Row(("runtime.mcp",), ("agents", "plugins", "errors")),
    Row(("agents",), ("agents", "realtime.items", *SHARED_CONVERSATION, "errors")),
    Row(("panel",), ("panel", *SHARED_CONVERSATION, "errors")),
    Row(("toolbox",), ("toolbox", "agents", *SHARED_CONVERSATION, "wording", "errors")),
    Row(("runtime.driver",), ("conversation", "realtime.protocol", "service.trace", "service.store", "errors")),
    Row(("settings",), ("errors",), never=("asyncio", "threading", "socket", "subprocess"), only=("pydantic",)),
    Row(("service.systemd", "service.logging_setup"), ("errors",)),
)

SEES_SETTINGS = ("settings", "service.app", "session", "cli", "simulator")
HEAVY = ("openai", "agents", "mcp", "aiortc", "aiomqtt", "scipy", "torch", "hassil", "yaml", "pocketsphinx")
NEVER_AT_RUN_TIME = ("openai", "agents", "scipy", "torch", "sounddevice", "requests", "httpx")


def begins_with(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


@cache
def modules() -> dict[str, Path]:
    """Name below ``appliance`` → file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(name: str, text: str, *, is_package: bool) -> set[str]:
    """Every module that the text names in an import, wherever in the file; ours as ``appliance.x``."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = ["appliance", *filter(None, name.split("."))]
                keep = len(parts) - node.level + (1 if is_package else 0)
                base = ".".join(filter(None, [*parts[:keep], base]))
            found |= {_target(base, alias.name) for alias in node.names}
    return found


def _target(base: str, name: str) -> str:
    """``from a import b`` names the module a.b if there is one, else a."""
    full = f"{base}.{name}"
    return full if full.removeprefix("appliance.") in modules() and base.startswith("appliance") else base


def imports_of(name: str) -> set[str]:
    path = modules()[name]
    return imported(name, path.read_text(encoding="utf-8"), is_package=path.name == "__init__.py")


def offences(name: str, imports: set[str]) -> list[str]:
    """What of `imports` the table forbids to the module `name`."""
    ours = {item.removeprefix("appliance").removeprefix(".") for item in imports if begins_with(item, ("appliance",))}
    others = {item for item in imports if not begins_with(item, ("appliance",))}
    bad = []
    row = next((row for row in TABLE if begins_with(name, row.who)), None)
    if row is not None:
        bad += [item for item in ours if not begins_with(item, row.may)]
        bad += [item for item in others if begins_with(item, row.never)]
        if row.only is not None:
            foreign = {item for item in others if item.split(".")[0] not in sys.stdlib_module_names}
            bad += [item for item in foreign if not begins_with(item, row.only)]
    if not begins_with(name, SEES_SETTINGS):
        bad += [item for item in ours if begins_with(item, ("settings",))]
    return sorted({*bad, *(item for item in others if begins_with(item, NEVER_AT_RUN_TIME))})


@pytest.mark.parametrize("name", sorted(modules()))
def test_a_module_imports_only_what_the_table_allows(name: str) -> None:
    assert offences(name, imports_of(name)) == []


@pytest.mark.parametrize(
    ("name", "text", "caught"),
    [
        ("conversation.machine", "import asyncio", ["asyncio"]),
        ("conversation.machine", "from time import monotonic", ["time"]),
        ("conversation.machine", "def f():\n    from appliance.settings import Settings", ["settings"]),
        ("conversation.machine", "from appliance.audio import ring", ["audio.ring"]),
        ("brain.model", "from appliance.conversation.machine import Conversation", ["conversation.machine"]),
        ("audio.streams", "from appliance import hardware", ["hardware"]),
        ("audio.streams", "from ..hardware import Nothing", ["hardware"]),
        ("hardware.button", "from appliance.conversation.machine import Conversation", ["conversation.machine"]),
        ("runtime.driver", "from appliance.realtime.transports.websocket import X", ["realtime.transports.websocket"]),
        ("toolbox.volume", "from appliance.settings import Settings", ["settings"]),
        ("service.app", "import openai", ["openai"]),
        ("realtime.protocol", "import numpy", ["numpy"]),
        ("service.app", "from appliance.settings import Settings", []),
        ("conversation.machine", "from . import events\nfrom ..realtime import protocol", []),
    ],
)
def test_the_table_catches_what_it_is_for(name: str, text: str, caught: list[str]) -> None:
    assert offences(name, imported(name, text, is_package=False)) == caught


@pytest.mark.parametrize("module", ["appliance", "appliance.settings", "appliance.cli", "appliance.service.app"])
def test_the_base_process_loads_nothing_heavy(module: str) -> None:
    name = module.removeprefix("appliance").removeprefix(".")
    if name not in modules() and name:
        pytest.skip(f"{module} is not written yet")
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    loaded = {item.split(".")[0] for item in json.loads(done.stdout)}
    assert sorted(loaded & set(HEAVY)) == []


# The package


def project() -> dict[str, object]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return dict(tomllib.load(file)["project"])


def test_the_project_is_what_it_says() -> None:
    facts = project()
    assert facts["requires-python"] == ">=3.11"
    assert facts["scripts"] == {"appliance": "appliance.cli:main"}
    assert facts["license"] == "Apache-2.0"
    assert re.fullmatch(r"\d+\.\d+\.\d+", str(facts["version"]))
    assert (PACKAGE / "py.typed").is_file()
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")


def canonical(requirement: str) -> str:
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def constraints() -> dict[str, str]:
    """Canonical name → the whole line."""
    lines = (ROOT / "scripts" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {canonical(line): line for line in lines if line and not line.startswith("#")}


def test_every_dependency_is_pinned_to_one_version() -> None:
    pinned = constraints()
    facts = project()
    extras = facts["optional-dependencies"]
    assert isinstance(extras, dict)
    wanted = [*facts["dependencies"], *(item for name in ("offline", "gpio", "test") for item in extras[name])]  # type: ignore[misc]
    names = {canonical(item) for item in wanted} - {"voice-appliance"}
    assert names <= set(pinned)
    for line in pinned.values():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+(; python_version < \"3\.13\")?", line), line


def test_what_is_installed_here_is_what_is_pinned() -> None:
    from importlib.metadata import distributions

    pinned = constraints()
    here = {canonical(item.metadata["Name"]): item.version for item in distributions() if item.metadata["Name"]}
    wrong = {name: version for name, version in here.items() if name in pinned and f"=={version}" not in pinned[name]}
    build_tools = {"setuptools", "wheel", "hatchling", "editables", "tomlkit", "trove-classifiers"}
    assert {name: version for name, version in wrong.items() if name not in build_tools} == {}


# What no file may say


@cache
def texts() -> dict[str, str]:
    """Path → text of every text file under version control."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False, timeout=60
    )
    if listed.returncode:
        pytest.skip("this is no git checkout")
    found = {}
    for name in listed.stdout.decode().split("\0"):
        path = ROOT / name
        if name and path.is_file():
            try:
                found[name] = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
    return found


# Put together here, so that this file does not say them either.
INDEX_HOSTS = tuple(
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("pypi", "python", "org"),
        ("piwheels", "org"),
        ("npmjs", "org"),
    )
)


def test_no_file_names_a_package_index() -> None:
    named = {name for name, text in texts().items() for host in INDEX_HOSTS if host in text.lower()}
    options = re.compile(r"--(?:extra-)?index-" + r"url|--find-" + r"links")
    named |= {name for name, text in texts().items() if options.search(text)}
    assert named == set()


def test_no_file_holds_a_path_of_the_machine_it_was_written_on() -> None:
    foreign = re.compile(r"(?<![\w.])/(?:" + "work|root|mnt" + r")/\w|/home/(?!pi\b)\w")
    installed = Path("/opt/voice-appliance")  # where the unit expects the program: a path that may be named
    places = [str(ROOT)] if len(ROOT.parts) > 2 and installed != ROOT else []
    holders = {name for name, text in texts().items() if foreign.search(text) or any(place in text for place in places)}
    assert holders == set()


def test_no_file_holds_a_key() -> None:
    shape = re.compile(r"\bsk-(?:proj-)?[A-Za-z0-9]{40,}")
    assert {name for name, text in texts().items() if shape.search(text)} == set()


@pytest.mark.parametrize("name", ["run", "test", "setup", "install-service"])
def test_scripts_are_strict_executable_and_valid(name: str) -> None:
    path = ROOT / "scripts" / name
    assert path.stat().st_mode & 0o111
    assert "\nset -euo pipefail\n" in path.read_text(encoding="utf-8")
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_continuous_integration_runs_what_everybody_runs() -> None:
    path = ROOT / ".ci" / "run"
    assert path.stat().st_mode & 0o111
    commands = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert commands == ["set -euo pipefail", 'exec "$(dirname -- "${BASH_SOURCE[0]}")/../scripts/test"']


def test_the_installed_package_is_this_one() -> None:
    """An installation that holds the settings but not the modules goes unseen where the tests start in the checkout."""
    command = [sys.executable, "-c", "import appliance.cli; print(appliance.cli.__file__)"]
    ended = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=60, check=False)
    assert ended.stdout.strip() == str(PACKAGE / "cli.py"), ended.stderr
