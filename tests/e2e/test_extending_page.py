"""docs/extending.md: each example, copied from the page, on a whole simulated appliance."""

from __future__ import annotations

import logging
import os
import re
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

from appliance.settings import load_settings
from appliance.simulator.ask import partner
from appliance.simulator.simulated_device import SIMULATED, speak
from tests.support.rig import ASKED, OPENED, Rig, answer, called, calling, offered, outputs, running, saying, updated
from tests.support.scripted_server import ScriptedServer, Step, expect, reply

pytestmark = pytest.mark.timeout(120)  # not timing-sensitive: runs beside the unit tests

PAGE = Path(__file__).resolve().parents[2] / "docs" / "extending.md"
FILE = re.compile(r"`([\w.]+)`[^\n`]*:\n\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)


@cache
def sections() -> dict[str, dict[str, str]]:
    """Return heading → file name → text."""
    _, *parts = re.split(r"(?m)^## ", PAGE.read_text(encoding="utf-8"))
    return {part.partition("\n")[0]: dict(FILE.findall(part)) for part in parts}


def paste(folder: Path, heading: str) -> Path:
    """Write the files of a section; returns the settings file."""
    for name, text in sections()[heading].items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder / "appliance.toml"


def install(folder: Path, site: Path) -> None:
    """Install a pasted project without pip: its modules, metadata and entry points."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    metadata = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir(parents=True)
    lines = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (metadata / "METADATA").write_text(lines, encoding="utf-8")
    groups = [
        "\n".join([f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())])
        for group, entries in project["entry-points"].items()
    ]
    (metadata / "entry_points.txt").write_text("\n".join(groups) + "\n", encoding="utf-8")
    for module in folder.glob("*.py"):
        module.rename(site / module.name)


def test_every_file_on_the_page_belongs_to_an_example_of_these_tests() -> None:
    assert {heading: list(files) for heading, files in sections().items()} == {
        "Try an example": [],
        "A tool in a file": ["my_fan.py", "appliance.toml"],
        "A tool with sentences of its own": ["my_blinds.py", "appliance.toml"],
        "A sentence for the offline brain": ["en.yaml", "appliance.toml"],
        "A tool in a package": ["pyproject.toml", "moon_tools.py"],
        "A light in a package": [],
        "An MCP server": ["notes_server.py", "house.toml", "appliance.toml"],
        "A guardrail": ["my_checks.py", "house.toml", "appliance.toml"],
        "A hook": ["my_hooks.py", "appliance.toml"],
        "An agent in Python": ["my_house.py", "appliance.toml"],
    }
    fences = re.findall(r"^```(\w+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) - fences.count("sh") == sum(len(files) for files in sections().values())


async def test_a_tool_in_a_file(folder: Path) -> None:
    path = paste(folder, "A tool in a file")
    async with ScriptedServer([*OPENED, *called("set_fan", on=True)]) as server:
        async with running(Rig(server.base_url, config=path)) as rig:
            await rig.at_rest()
            assert await rig.turn() == "answered"
            assert sys.modules["my_fan"].fan == {"is_on": True}
            assert outputs(server.connections[0]) == ["The fan is on."]
            assert offered(server.connections[0])[-1] == "set_fan"


@pytest.mark.e2e  # real speech: needs the machine for itself
async def test_a_tool_with_sentences_of_its_own(folder: Path) -> None:
    path = paste(folder, "A tool with sentences of its own")
    settings = load_settings(path, {}, overrides=SIMULATED)
    async with partner(settings=settings, environ={}) as talk:
        said = await talk(await speak("move the blinds in the kitchen to fifty percent", voice="rms"))
        assert said.report.reply == "The blinds in the kitchen are at 50 percent."
        assert sys.modules["my_blinds"].blinds == {"kitchen": 50, "bedroom": 0}


@pytest.mark.e2e  # real speech: needs the machine for itself
async def test_a_sentence_for_the_offline_brain(folder: Path) -> None:
    paste(folder, "A tool in a file")
    path = paste(folder, "A sentence for the offline brain")
    settings = load_settings(path, {}, overrides=SIMULATED)
    async with partner(settings=settings, environ={}) as talk:
        for verb, is_on in (("on", True), ("off", False)):
            said = await talk(await speak(f"turn {verb} the fan", voice="rms"))
            assert said.report.reply == f"The fan is {verb}."
            assert sys.modules["my_fan"].fan == {"is_on": is_on}


async def test_a_tool_in_a_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paste(folder, "A tool in a package")
    install(folder, folder / "site")
    monkeypatch.syspath_prepend(str(folder / "site"))
    async with ScriptedServer([*OPENED, *called("get_moon", year=2026, month=1, day=28)]) as server:
        async with running(Rig(server.base_url)) as rig:
            await rig.at_rest()
            assert await rig.turn() == "answered"
            assert outputs(server.connections[0]) == ["The moon is 10 days old."]


async def test_an_mcp_server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = paste(folder, "An MCP server")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    async with ScriptedServer([*OPENED, *called("add_note", text="Buy milk.")]) as server:
        async with running(Rig(server.base_url, config=path, environ={"STATE_DIRECTORY": str(folder)})) as rig:
            await rig.at_rest()
            assert offered(server.connections[0])[-1] == "add_note"
            await rig.talk()
            await rig.until(lambda: rig.light == "approval")
            assert not (folder / "notes.txt").exists(), "the tool ran before approval"
            rig.device.finger.press()
            rig.device.finger.release()
            await rig.until(lambda: rig.outcomes == ["answered"])
            assert (folder / "notes.txt").read_text(encoding="utf-8") == "Buy milk.\n"
            assert outputs(server.connections[0]) == ["Noted."]


async def test_a_guardrail(folder: Path) -> None:
    path = paste(folder, "A guardrail")
    script: list[Step] = [*ASKED, reply(saying("That is nine dollars and ")), expect("response.create"), reply(answer)]
    async with ScriptedServer([*OPENED, *script]) as server:
        async with running(Rig(server.base_url, config=path)) as rig:
            await rig.at_rest()
            assert await rig.turn() == "answered"
            [told] = [one["item"] for one in server.connections[0].of_type("conversation.item.create")]
            assert "stopped by the guardrail 'no_prices' (a price was named)" in told["content"][0]["text"]


async def test_a_hook(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = paste(folder, "A hook")
    caplog.set_level(logging.INFO, "my_hooks")
    async with ScriptedServer([*OPENED, *called("set_volume", percent=30)]) as server:
        async with running(Rig(server.base_url, config=path)) as rig:
            await rig.at_rest()
            assert await rig.turn() == "answered"
            assert rig.device.appliance.audio is not None
            assert rig.device.appliance.audio.volume == 30
    [line] = [one.getMessage() for one in caplog.records if one.name == "my_hooks"]
    assert line.startswith("Assistant called set_volume: ")


async def test_an_agent_in_python(folder: Path) -> None:
    path = paste(folder, "An agent in Python")
    handing: list[Step] = [*ASKED, reply(calling("transfer_to_cook")), expect("session.update")]
    script = [*OPENED, *handing, reply(updated), expect("response.create"), reply(calling("list_recipes"))]
    async with ScriptedServer([*script, expect("response.create"), reply(answer)]) as server:
        async with running(Rig(server.base_url, config=path)) as rig:
            await rig.at_rest()
            assert offered(server.connections[0]) == ["set_volume", "get_time", "transfer_to_cook"]
            assert await rig.turn() == "answered"
            assert outputs(server.connections[0])[-1] == '["soup","bread"]'


@pytest.mark.e2e  # real speech: needs the machine for itself
async def test_a_handoff_by_a_sentence(folder: Path) -> None:
    path = paste(folder, "An agent in Python")
    settings = load_settings(path, {}, overrides=SIMULATED)
    async with partner(settings=settings, environ={}) as talk:
        said = await talk(await speak("transfer me to the cook agent", voice="rms"))
        assert said.report.reply == "You are talking to Cook now."
        said = await talk(await speak("set the volume to fifty percent", voice="rms"))
        assert said.report.reply.startswith("I did not catch that"), "the cook has no volume"
