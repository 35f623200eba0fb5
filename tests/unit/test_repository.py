"""Promises of the repository: its dependencies, its package metadata, texts that no file may contain, and its tests."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "appliance"


# The package


def project() -> dict[str, object]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return dict(tomllib.load(file)["project"])


def test_package_metadata_is_complete() -> None:
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
    """Return each line of the constraints by its canonical name."""
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


def test_installed_versions_are_the_pinned_ones() -> None:
    from importlib.metadata import distributions

    pinned = constraints()
    here = {canonical(item.metadata["Name"]): item.version for item in distributions() if item.metadata["Name"]}
    wrong = {name: version for name, version in here.items() if name in pinned and f"=={version}" not in pinned[name]}
    build_tools = {"setuptools", "wheel", "hatchling", "editables", "tomlkit", "trove-classifiers"}
    assert {name: version for name, version in wrong.items() if name not in build_tools} == {}


# Texts that no file may contain


def paths() -> list[str]:
    """Return the path of each file under version control; without git, of each file that a tarball may hold."""
    if shutil.which("git"):
        command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, timeout=60)
        if not listed.returncode:
            return [name for name in listed.stdout.decode().split("\0") if name]
    made_here = re.compile(r"(?:^|/)(?:\.(?!ci/)[^/]*|__pycache__|node_modules)/")
    return [name for path in ROOT.rglob("*") if not made_here.search(name := path.relative_to(ROOT).as_posix())]


@cache
def texts() -> dict[str, str]:
    """Return the text of every text file under version control, by path."""
    found = {}
    for name in paths():
        if (path := ROOT / name).is_file():
            try:
                found[name] = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
    return found


def test_without_git_the_same_files_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with_git = {name for name in paths() if (ROOT / name).is_file()}
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert with_git <= set(paths())


# Joined at run time, so that this file does not contain them either.
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


def test_no_file_contains_a_path_of_a_developer_s_machine() -> None:
    foreign = re.compile(r"(?<![\w.])/(?:" + "work|root|mnt" + r")/\w|/home/(?!pi\b)\w")
    installed = Path("/opt/voice-appliance")  # the unit's program path, which files may name
    places = [str(ROOT)] if len(ROOT.parts) > 2 and installed != ROOT else []
    holders = {name for name, text in texts().items() if foreign.search(text) or any(place in text for place in places)}
    assert holders == set()


def test_no_file_contains_a_key() -> None:
    shape = re.compile(r"\bsk-(?:proj-)?[A-Za-z0-9]{40,}")
    assert {name for name, text in texts().items() if shape.search(text)} == set()


@pytest.mark.parametrize(
    "name",
    ["run", "test", "test-accuracy", "test-bare", "test-soak", "test-system", "mutants", "setup", "install-service"],
)
def test_scripts_are_strict_executable_and_valid(name: str) -> None:
    path = ROOT / "scripts" / name
    assert path.stat().st_mode & 0o111
    assert "\nset -euo pipefail\n" in path.read_text(encoding="utf-8")
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_continuous_integration_runs_the_same_test_scripts() -> None:
    path = ROOT / ".ci" / "run"
    assert path.stat().st_mode & 0o111
    commands = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert commands == [
        "set -euo pipefail",
        'scripts=$(dirname -- "${BASH_SOURCE[0]}")/../scripts',
        '"$scripts/test"',
        '"$scripts/test-accuracy"',
        '"$scripts/test-soak"',
        '"$scripts/test-system"',
    ]


def test_installed_package_is_this_checkout() -> None:
    """Started outside the checkout: inside it, an installation without modules would go unnoticed."""
    command = [sys.executable, "-c", "import appliance.cli; print(appliance.cli.__file__)"]
    ended = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=60, check=False)
    assert ended.stdout.strip() == str(PACKAGE / "cli.py"), ended.stderr


# The tests

TESTS = ROOT / "tests"
MOST_LINES = 600


@cache
def parsed() -> dict[str, ast.Module]:
    """Return every module below ``tests``, by its path in the repository."""
    paths = sorted(TESTS.rglob("*.py"))
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def test_every_test_file_has_fewer_than_600_lines() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in TESTS.rglob("test_*.py")}
    assert len(lengths) > 100
    assert {str(path): length for path, length in lengths.items() if length >= MOST_LINES} == {}


def test_no_test_module_imports_from_another_one() -> None:
    imported = {
        (name, f"{node.module}.{one.name}")
        for name, module in parsed().items()
        for node in ast.walk(module)
        if isinstance(node, ast.ImportFrom) and re.match(r"tests\.", node.module or "")
        for one in node.names
        if re.search(r"\.test_\w+(\.|$)", f"{node.module}.{one.name}")
    }
    assert imported == set()


Function = ast.FunctionDef | ast.AsyncFunctionDef


def called_in(function: Function) -> set[str]:
    calls = (node.func for node in ast.walk(function) if isinstance(node, ast.Call))
    return {call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "") for call in calls}


def claims(function: Function) -> bool:
    """Return whether a function can fail by itself: it asserts, raises, expects an exception or limits a wait."""
    says = any(isinstance(node, ast.Assert | ast.Raise) for node in ast.walk(function))
    return says or not {"raises", "timeout", "wait_for", "fail"}.isdisjoint(called_in(function))


def test_every_test_claims_something() -> None:
    """By itself or by a function of the tests that it calls, known by its name."""
    functions = [node for module in parsed().values() for node in ast.walk(module) if isinstance(node, Function)]
    helpers = [one for one in functions if not one.name.startswith("test_")]
    claiming = {one.name for one in helpers if claims(one)}
    while more := {one.name for one in helpers if called_in(one) & claiming} - claiming:
        claiming |= more
    tests = [one for one in functions if one.name.startswith("test_")]
    assert len(tests) > 2000
    assert [one.name for one in tests if not claims(one) and not called_in(one) & claiming] == []
