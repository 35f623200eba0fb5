"""The pages: each block works when pasted alone, each link names a file, each page is reachable from the README.

A Python block runs as a program, in a directory that has only `config`, without a key. A line ``print(…)  # text`` must
print that text, and a block that shows a session must run a turn with it. A TOML block is read by the loader of the
settings, of the agents or of the wording. A shell block is parsed by the real command line.
"""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import sys
import tomllib
from pathlib import Path

import pytest

from appliance import RealtimeSession, load_agents, tool
from appliance.cli import command_parser
from appliance.conversation.notices import Guardrail
from appliance.runtime.session_body import SessionEvents
from appliance.settings import Settings, load_settings
from appliance.wording import Wording

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "examples" / "README.md"]
FILES_OF_A_DEVICE = ROOT / "docs" / "extending.md"
"""Its blocks are files of one folder; tests/e2e/test_extending_page.py runs them on a device. Here each is imported."""
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
TOOLS = ("set_lamp", "set_light", "get_time", "start_timer", "list_timers", "cancel_timer", "set_volume", "get_volume")


def blocks(*languages: str) -> list[object]:
    """Return every block of these languages, as (page, text), with an id such as ``docs/agents.md-2``."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        matches = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        of_page = [block for language, block in matches if language in languages]
        name = page.relative_to(ROOT).as_posix()
        found += [pytest.param(page, block, id=f"{name}-{at}") for at, block in enumerate(of_page, start=1)]
    return found


# --- Python -------------------------------------------------------------------------------------------------------


class Turns:
    """Counts answers of the model, including interrupted ones and those that a guardrail stopped."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answered = 0
        original = SessionEvents.observe

        def observe(events: SessionEvents, *arguments: object) -> None:
            commands = arguments[2]
            assert isinstance(commands, (list, tuple))
            notices = [getattr(command, "notice", None) for command in commands]
            ended = ("answered", "interrupted")
            self.answered += sum(getattr(one, "outcome", "") in ended or isinstance(one, Guardrail) for one in notices)
            original(events, *arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(SessionEvents, "observe", observe)


@pytest.mark.parametrize(("page", "block"), blocks("python"))
def test_python_block_runs_as_a_program(
    page: Path, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in re.findall(r"environ\W+(\w+)", block):
        monkeypatch.setenv(name, "of-the-test")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["block.py"])
    shutil.copytree(ROOT / "config", tmp_path / "config")
    program = tmp_path / "block.py"
    program.write_text(block, encoding="utf-8")
    turns = Turns(monkeypatch)
    runpy.run_path(str(program), run_name="block" if page == FILES_OF_A_DEVICE else "__main__")
    printed = capsys.readouterr().out
    assert "error" not in printed.lower()
    for expected in re.findall(r"^\s*print\(.*\)  # (.+)$", block, re.MULTILINE):
        assert expected in printed
    if RealtimeSession.__name__ + "(" in block:
        assert turns.answered, "the block shows a session and runs no turn"


def test_blocks_are_found() -> None:
    assert len(blocks("python")) >= 18
    assert len(blocks("toml")) >= 4
    assert len(blocks("sh")) >= 4


def test_code_blocks_have_a_language() -> None:
    unlabelled = [param for param in blocks("") if re.search(r"^(import|from|def|async|\[|\./)", param.values[1], re.M)]  # type: ignore[attr-defined]
    assert unlabelled == []


# --- TOML ---------------------------------------------------------------------------------------------------------


def stand_in(name: str) -> object:
    async def function() -> str:
        """Stand in for a tool of the device."""
        return ""

    return tool(function, name=name)  # type: ignore[call-overload]


@pytest.mark.parametrize(("page", "block"), blocks("toml"))
def test_toml_block_is_accepted_by_its_loader(
    page: Path, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if page == FILES_OF_A_DEVICE:
        tomllib.loads(block)
        return
    for name in re.findall(r"\$\{(\w+)\}", block):
        monkeypatch.setenv(name, "of-the-test")
    path = tmp_path / "agents" / "block.toml"
    shutil.copytree(ROOT / "config" / "agents", path.parent)
    path.write_text(block, encoding="utf-8")
    if set(tomllib.loads(block)) <= {"alarm", "tool"}:
        (tmp_path / "en.toml").write_text(block, encoding="utf-8")
        assert Wording("en", tmp_path).unknown() == []
    elif set(tomllib.loads(block)) <= set(Settings.model_fields):
        load_settings(path, {})
    else:
        tools = {name: stand_in(name) for name in TOOLS}
        assert load_agents(path, tools=tools).name  # type: ignore[arg-type]


# --- the shell ----------------------------------------------------------------------------------------------------


def commands_of(block: str) -> list[list[str]]:
    return [shlex.split(line, comments=True) for line in block.splitlines() if shlex.split(line, comments=True)]


def check(words: list[str]) -> None:
    """Raise SystemExit or AssertionError for a command that cannot work as typed."""
    program, *arguments = words[1:] if words[0] == "sudo" else words
    match program:
        case "./scripts/run" | ".venv/bin/appliance" | "appliance":
            if arguments:
                command_parser().parse_args(arguments)
        case "./scripts/test-system" if arguments:
            assert arguments[0] in ("--budget", "-k")
        case (
            "./scripts/test"
            | "./scripts/test-accuracy"
            | "./scripts/test-soak"
            | "./scripts/test-system"
            | "./scripts/install-service"
        ):
            assert (ROOT / program).is_file()
            assert arguments == []
        case "./scripts/test-bare":
            assert (ROOT / program).is_file()
            assert arguments in (["12"], ["13"])
        case "./scripts/setup":
            assert f"  {arguments[0]}) " in (ROOT / program).read_text(encoding="utf-8")
        case ".venv/bin/python":
            file = f"{arguments[1].replace('.', '/')}.py" if arguments[0] == "-m" else arguments[0]
            assert (ROOT / file).is_file()
        case "install":
            assert (ROOT / arguments[-2]).is_file()
        case "systemctl" | "journalctl":
            assert "voice-appliance" in arguments
        case "source":
            assert arguments == [".venv/bin/activate"]
        case "pip" | "apt":
            assert arguments[0] == "install"
        case _:
            pytest.fail(f"unknown program {program}")


@pytest.mark.parametrize(("page", "block"), blocks("sh"))
def test_shell_block_is_accepted_by_the_command_line(page: Path, block: str) -> None:
    for words in commands_of(block):
        check(words)


SPAN = re.compile(r"`((?:\./scripts/|\.venv/bin/|sudo |appliance (?=[a-z])|journalctl )[^`]*)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_command_in_a_sentence_is_accepted_by_the_command_line(page: Path) -> None:
    for command in SPAN.findall(page.read_text(encoding="utf-8")):
        if "…" in command:
            continue
        if re.fullmatch(r"appliance \w+", command):  # the name of a command, without its arguments
            with pytest.raises(SystemExit) as caught:
                command_parser().parse_args([*shlex.split(command)[1:], "--help"])
            assert caught.value.code == 0
        else:
            check(shlex.split(command))


def test_broken_command_is_found() -> None:
    for command in ("appliance doctor", './scripts/run ask "hello" --jsn', "./scripts/tset", "appliance config"):
        with pytest.raises((SystemExit, pytest.fail.Exception)):
            check(shlex.split(command))


# --- links --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_of_a_page_name_files(page: Path) -> None:
    links = [one for one in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in one]
    assert [one for one in links if not (page.parent / one).exists()] == []


def test_every_page_is_reachable_from_the_readme() -> None:
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        waiting += [(page.parent / one).resolve() for one in LINK.findall(page.read_text(encoding="utf-8"))]
    assert [one.name for one in PAGES if one not in seen and one.parent.name != "decisions"] == []
