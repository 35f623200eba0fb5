"""The layers of the package as a table: which modules may import which, and what is loaded when."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "appliance"

SOUND = ("audio.pcm", "audio.ring", "audio.g711", "audio.resample")
WIRE = ("realtime.protocol", "realtime.items")
MESSAGES = ("conversation.events", "conversation.commands", "conversation.notices", "conversation.earcons")
BELOW_ALL = ("errors", "hours", "records", "safe_text", "sdk_names")
IMPURE = ("asyncio", "time", "logging", "threading", "socket", "subprocess")


@dataclass(frozen=True)
class Row:
    """Modules that start with `who` may import, of ours, each other, `BELOW_ALL` and those that start with `may`."""

    who: tuple[str, ...]
    may: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    """External modules that are forbidden."""
    only: tuple[str, ...] | None = None
    """Third-party packages that are allowed; None for any."""


# The first matching row applies to a module.
TABLE = (
    Row(("safe_text",), never=tuple(one for one in IMPURE if one != "threading"), only=("msgspec",)),
    Row(BELOW_ALL, never=IMPURE, only=("msgspec",)),
    Row(SOUND, never=IMPURE, only=("numpy", "soxr")),
    Row(("plugins",), never=IMPURE, only=()),
    Row(("places",), never=IMPURE, only=()),
    Row(("wording",), never=tuple(one for one in IMPURE if one != "logging"), only=()),
    Row(WIRE, never=IMPURE, only=("msgspec",)),
    Row(("realtime.payload",), WIRE, never=IMPURE, only=("pydantic",)),
    Row(("realtime.transports",), ("realtime", *MESSAGES, "plugins")),
    Row(("realtime",)),
    Row(("agents",), ("realtime.items",), never=IMPURE, only=("pydantic",)),
    Row(
        (*MESSAGES, "conversation.policy", "conversation.support", "conversation.regions"),
        (*WIRE, "agents.spec"),
        never=IMPURE,
        only=("msgspec",),
    ),
    Row(("conversation",), (*WIRE, "agents.spec"), never=IMPURE, only=("msgspec",)),
    Row(("brain.model", "brain.client_schema", "brain.vad"), ("realtime.protocol", *SOUND), never=IMPURE),
    Row(("brain",), ("speech", *WIRE, *SOUND, "plugins", "wording")),
    Row(("speech",), (*SOUND, *MESSAGES, "plugins", "wording")),
    Row(("audio",), (*MESSAGES, "plugins")),
    Row(("hardware.wiring",), never=IMPURE, only=()),
    Row(
        ("service.first_light",),
        ("hardware.pins", "hardware.patterns", "hardware.pwm", "hardware.wiring"),
        only=("gpiod",),
    ),
    Row(("hardware",), (*MESSAGES, "plugins")),
    Row(("panel",), (*SOUND, *MESSAGES, "plugins")),
    Row(("toolbox",), ("agents", "conversation.events", "plugins", "wording")),
    Row(("runtime",), ("conversation", "agents", "realtime", *SOUND, "plugins", "wording", "brain.offline")),
    Row(
        ("settings",),
        ("conversation.policy", "hardware.wiring", "places"),
        never=("asyncio", "threading", "socket", "subprocess"),
        only=("pydantic",),
    ),
    Row(("service.systemd",)),
    Row(("service.logging_setup",)),
)
SEES_SETTINGS = ("settings", "service.app", "service.reload", "cli", "simulator")
NEVER_AT_RUN_TIME = ("openai", "agents", "scipy", "torch", "sounddevice", "requests")
HEAVY = (*NEVER_AT_RUN_TIME, "mcp", "aiortc", "aiomqtt", "httpx", "hassil", "yaml", "pocketsphinx")


def begins_with(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


@cache
def modules() -> dict[str, Path]:
    """Return the file of each module, by its name below ``appliance``."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(name: str, text: str, *, is_package: bool) -> set[str]:
    """Return every module imported anywhere in `text`; ours as ``appliance.x``."""
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
    """Return the module that ``from base import name`` imports: base.name if it is a module, else base."""
    full = f"{base}.{name}"
    return full if full.removeprefix("appliance.") in modules() and base.startswith("appliance") else base


def imports_of(name: str) -> set[str]:
    path = modules()[name]
    return imported(name, path.read_text(encoding="utf-8"), is_package=path.name == "__init__.py")


def ours(imports: set[str]) -> set[str]:
    return {item.removeprefix("appliance").removeprefix(".") for item in imports if begins_with(item, ("appliance",))}


def offences(name: str, imports: set[str]) -> list[str]:
    """Return the `imports` that the table forbids for the module `name`."""
    inside = ours(imports)
    others = {item for item in imports if not begins_with(item, ("appliance",))}
    bad = {item for item in others if begins_with(item, NEVER_AT_RUN_TIME)}
    row = next((row for row in TABLE if begins_with(name, row.who)), None)
    if row is not None:
        bad |= {item for item in inside if not begins_with(item, (*row.who, *row.may, *BELOW_ALL))}
        bad |= {item for item in others if begins_with(item, row.never)}
        if row.only is not None:
            foreign = {item for item in others if item.split(".")[0] not in sys.stdlib_module_names}
            bad |= {item for item in foreign if not begins_with(item, row.only)}
    if not begins_with(name, SEES_SETTINGS):
        bad |= {item for item in inside if begins_with(item, ("settings",))}
    region = name.startswith("conversation.regions.")
    bad |= {item for item in inside if region and item.startswith("conversation.regions.")}
    return sorted(bad)


@pytest.mark.parametrize("name", sorted(modules()))
def test_module_imports_only_what_the_table_allows(name: str) -> None:
    assert offences(name, imports_of(name)) == []


@pytest.mark.parametrize(
    ("name", "text", "caught"),
    [
        ("conversation.machine", "import asyncio", ["asyncio"]),
        ("conversation.machine", "from time import monotonic", ["time"]),
        ("conversation.machine", "def f():\n    from appliance.settings import Settings", ["settings"]),
        ("conversation.machine", "from appliance.audio import ring", ["audio.ring"]),
        ("conversation.machine", "from . import events\nfrom ..realtime import protocol", []),
        ("conversation.regions.answer", "from appliance.conversation.regions.x import X", ["conversation.regions.x"]),
        ("agents.agent", "from appliance.runtime.agent_tool import ask_agent", ["runtime.agent_tool"]),
        ("brain.model", "from appliance.conversation.machine import Conversation", ["conversation.machine"]),
        ("audio.streams", "from appliance import hardware", ["hardware"]),
        ("audio.streams", "from ..hardware import Nothing", ["hardware"]),
        ("hardware.button", "from appliance.conversation.machine import Conversation", ["conversation.machine"]),
        ("realtime.protocol", "import numpy", ["numpy"]),
        ("runtime.session", "from appliance.service.app import Appliance", ["service.app"]),
        ("runtime.session", "from appliance.audio.streams import AudioStreams", ["audio.streams"]),
        ("toolbox.device", "from appliance.settings import Settings", ["settings"]),
        ("service.app", "import openai", ["openai"]),
        ("service.app", "from appliance.settings import Settings", []),
    ],
)
def test_table_catches_forbidden_imports(name: str, text: str, caught: list[str]) -> None:
    assert offences(name, imported(name, text, is_package=False)) == caught


def package_of(name: str) -> str:
    """Return the package of a module. The transports are separate: the conversation is between the wire and them."""
    return "realtime.transports" if begins_with(name, ("realtime.transports",)) else name.split(".")[0]


def test_packages_have_no_import_cycle() -> None:
    graph: dict[str, set[str]] = {}
    for name in filter(None, modules()):
        graph.setdefault(package_of(name), set()).update(
            package_of(item) for item in ours(imports_of(name)) if package_of(item) not in ("", package_of(name))
        )
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" ← ".join(error.args[1]))


def loaded_by(module: str) -> set[str]:
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("module", ["appliance", "appliance.settings", "appliance.cli", "appliance.service.app"])
def test_base_process_loads_no_heavy_packages(module: str) -> None:
    assert sorted({item.split(".")[0] for item in loaded_by(module)} & set(HEAVY)) == []


def test_session_loads_neither_the_daemon_nor_a_brain() -> None:
    bodies = tuple(f"appliance.{one}" for one in ("brain", "hardware", "service", "settings", "speech", "toolbox"))
    assert [item for item in sorted(loaded_by("appliance.runtime.session")) if begins_with(item, bodies)] == []


@pytest.mark.parametrize("package", ["numpy", "soxr", "pydantic", "mcp"])
def test_session_without_tools_loads_no_optional_packages(package: str) -> None:
    assert package not in loaded_by("appliance.agents.agent, appliance.runtime.session")


# --- names and sizes ----------------------------------------------------------------------------------------------


def classes() -> list[tuple[str, ast.ClassDef]]:
    """Return (module, class) for every class in the package."""
    trees = ((name, ast.parse(path.read_text(encoding="utf-8"))) for name, path in modules().items())
    return [(name, node) for name, tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def test_class_names_are_unique() -> None:
    names = Counter(node.name for _, node in classes())
    assert [name for name, count in names.items() if count > 1] == []


def test_classes_have_at_most_300_lines() -> None:
    limited = ("conversation", "runtime", "realtime", "service")
    lengths = {
        f"{name}.{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for name, node in classes()
        if begins_with(name, limited)
    }
    assert {name: lines for name, lines in lengths.items() if lines > 300} == {}


def test_conversation_files_have_at_most_400_lines() -> None:
    limited = [name for name in modules() if begins_with(name, ("conversation.regions",))]
    limited += ["conversation.machine", "conversation.procedures"]
    lengths = {name: len(modules()[name].read_text(encoding="utf-8").splitlines()) for name in limited}
    assert {name: lines for name, lines in lengths.items() if lines > 400} == {}


def mutable_fields(node: ast.ClassDef) -> int:
    """Count the attributes set on ``self``, and the fields in the body unless the class is frozen."""
    targets = (
        target
        for sub in ast.walk(node)
        if isinstance(sub, (ast.Assign, ast.AnnAssign, ast.AugAssign))
        for target in (sub.targets if isinstance(sub, ast.Assign) else [sub.target])
    )
    given = {
        one.attr
        for one in targets
        if isinstance(one, ast.Attribute) and isinstance(one.value, ast.Name) and one.value.id == "self"
    }
    is_frozen = any("frozen=True" in ast.unparse(one) for one in node.decorator_list)
    is_frozen = is_frozen or any(one.arg == "frozen" for one in node.keywords)
    fields = [] if is_frozen else [sub for sub in node.body if isinstance(sub, ast.AnnAssign)]
    return len(given) + len(fields)


def test_conversation_classes_have_at_most_15_mutable_fields() -> None:
    states = {
        f"{name}.{node.name}": mutable_fields(node) for name, node in classes() if name.startswith("conversation")
    }
    assert {name: fields for name, fields in states.items() if fields > 15} == {}


def test_conversation_classes_inherit_no_behaviour() -> None:
    """Only records, enums and protocols have a base class."""
    bases = {"Record", "Enum", "StrEnum", "Protocol"}
    inside = [(name, node) for name, node in classes() if name.startswith("conversation")]
    assert [f"{name}.{node.name}" for name, node in inside if {ast.unparse(one) for one in node.bases} - bases] == []
