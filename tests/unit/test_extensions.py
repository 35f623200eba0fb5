"""Agents, tools and hooks in Python that the settings name: loaded at the start, or one line of error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.agents.agent import RealtimeAgent
from appliance.agents.hooks import RealtimeRunHooks
from appliance.agents.tools import tool
from appliance.cli import main
from appliance.errors import SettingsError
from appliance.service.app import check_assistant, open_assistant
from appliance.settings import load_settings

AGENT = """
from appliance import RealtimeAgent

agent = RealtimeAgent(name="Ada", instructions="Be brief.")
"""
HOOKS = """
from appliance import RealtimeRunHooks

hooks = RealtimeRunHooks()
"""


@tool
async def set_lamp(on: bool) -> bool:
    """Switch the lamp."""
    return on


def write(folder: Path, settings: str, **modules: str) -> Path:
    """Write a settings file and Python modules next to it; return the path of the settings file."""
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    path = folder / "appliance.toml"
    path.write_text(settings, encoding="utf-8")
    return path


def opened(path: Path) -> tuple[RealtimeAgent, RealtimeRunHooks | None]:
    return open_assistant(load_settings(path, {}), [set_lamp], {})


def mistake(path: Path) -> str:
    """Return the error of the start, without the file and the folder; `config check` reports the same."""
    with pytest.raises(SettingsError) as caught:
        opened(path)
    said = str(caught.value)
    assert "\n" not in said
    with pytest.raises(SettingsError) as checked:
        check_assistant(load_settings(path, {}), {})
    assert str(checked.value).replace("set_volume", "set_lamp").startswith(said[:60])
    return said.replace(f"{path}:", "").replace(str(path.parent), "FOLDER")


# --- an agent in Python -------------------------------------------------------------------------------------------


def test_agent_is_loaded_from_a_module_next_to_the_settings(folder: Path) -> None:
    agent, hooks = opened(write(folder, '[assistant]\nagent = "ext_house:agent"\n', ext_house=AGENT))
    assert (agent.name, list(agent.tools), hooks) == ("Ada", [], None)


def test_agent_function_gets_the_devices_tools_by_name(folder: Path) -> None:
    text = """
from appliance import RealtimeAgent


def agent(tools):
    return RealtimeAgent(name="Ada", tools=[tools["set_lamp"]])
"""
    agent, _ = opened(write(folder, '[assistant]\nagent = "ext_house:agent"\n', ext_house=text))
    assert list(agent.tools) == [set_lamp]


def test_hooks_work_with_every_way_to_describe_an_agent(folder: Path) -> None:
    (folder / "ann.toml").write_text('name = "Ann"\ninstructions = "Be Ann."\n', encoding="utf-8")
    for way in ("", 'agents_file = "ann.toml"\n', 'agent = "ext_house:agent"\n'):
        path = write(folder, f'[assistant]\n{way}hooks = "ext_hooks:hooks"\n', ext_house=AGENT, ext_hooks=HOOKS)
        assert type(opened(path)[1]) is RealtimeRunHooks


def test_agent_is_loaded_from_an_installed_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "site").mkdir()
    (folder / "site" / "ext_installed.py").write_text(AGENT, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder / "site"))
    assert opened(write(folder, '[assistant]\nagent = "ext_installed:agent"\n'))[0].name == "Ada"


# --- tools by name ------------------------------------------------------------------------------------------------

TOOLS = """
from appliance import tool


@tool
async def set_fan(on: bool) -> bool:
    "Switch the fan."
    return on


@tool
async def open_door() -> str:
    "Open the door."
    return "open"


both = [set_fan, open_door]
number = 3
"""


@pytest.fixture
def package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that installs a package with these entry points and `TOOLS` as its module ``ext_fan``."""

    def install(entry_points: str) -> None:
        place = folder / "site" / "fan_tools-2.0.dist-info"
        place.mkdir(parents=True)
        (place / "METADATA").write_text("Metadata-Version: 2.1\nName: fan-tools\nVersion: 2.0\n", encoding="utf-8")
        (place / "entry_points.txt").write_text(f"[voice_appliance.tools]\n{entry_points}\n", encoding="utf-8")
        (folder / "site" / "ext_fan.py").write_text(TOOLS, encoding="utf-8")
        monkeypatch.syspath_prepend(str(folder / "site"))

    return install


def tool_names(path: Path) -> list[str]:
    return [one.name for one in opened(path)[0].tools]


def test_named_tools_follow_the_devices_tools_in_the_order_of_the_setting(folder: Path) -> None:
    path = write(
        folder, '[assistant]\ntools = "ext_tools:open_door ext_tools:fan"\n', ext_tools=TOOLS + "fan = [set_fan]"
    )
    assert tool_names(path) == ["set_lamp", "open_door", "set_fan"]


def test_tools_of_an_installed_package_need_no_setting(folder: Path, package: Callable[[str], None]) -> None:
    package("fan = ext_fan:both")
    assert tool_names(write(folder, "")) == ["set_lamp", "set_fan", "open_door"]
    for name in ("fan", "set_fan", "set_lamp"):
        assert len(tool_names(write(folder, f'[assistant]\ntools = "{name}"\n'))) == 3


def test_agents_in_toml_and_in_python_use_added_tools_by_name(folder: Path, package: Callable[[str], None]) -> None:
    package("fan = ext_fan:set_fan")
    (folder / "ann.toml").write_text(
        'name = "Ann"\ninstructions = "Be Ann."\ntools = ["*"]\nneeds_approval = ["set_fan"]\n', encoding="utf-8"
    )
    agent, _ = opened(write(folder, '[assistant]\nagents_file = "ann.toml"\n'))
    assert {one.name: one.needs_approval for one in agent.tools} == {"set_lamp": False, "set_fan": True}
    text = AGENT + "make = lambda tools: agent.clone(tools=[tools['set_fan']])\n"
    assert tool_names(write(folder, '[assistant]\nagent = "ext_house:make"\n', ext_house=text)) == ["set_fan"]


@pytest.mark.parametrize(
    ("entry_point", "expected"),
    [
        ("fan = ext_fan:nothing", "cannot be loaded (AttributeError: "),
        ("fan = ext_gone:both", "cannot be loaded (ModuleNotFoundError: No module named 'ext_gone')"),
        ("fan = ext_fan:number", "is neither a Tool nor a list of Tools; use @tool"),
        ("fan = ext_fan:set_lamp", "has a tool 'set_lamp', a name that the device already has; rename it"),
    ],
)
def test_bad_package_is_one_warning_or_an_error_if_the_settings_name_it(
    folder: Path,
    package: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
    entry_point: str,
    expected: str,
) -> None:
    package(entry_point)
    (folder / "site" / "ext_fan.py").write_text(TOOLS + "set_lamp = tool(name='set_lamp')(set_fan.function)\n", "utf-8")
    assert tool_names(write(folder, "")) == ["set_lamp"]
    [line] = [one.getMessage() for one in caplog.records]
    assert line.startswith(f"tool 'fan': {entry_point.removeprefix('fan = ')} of fan-tools 2.0 ")
    assert expected in line
    assert line.endswith("; the device starts without it")
    with pytest.raises(SettingsError) as caught:
        opened(write(folder, '[assistant]\ntools = "fan"\n'))
    assert str(caught.value).endswith(f"2: assistant.tools: {line.removesuffix('; the device starts without it')}")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("set_fam", "the device has no tool 'set_fam'; available: set_lamp, set_fan; did you mean 'set_fan'?"),
        ("ext_tools:number", 'found "ext_tools:number", which is of type int; allowed: a Tool, or a list of Tools'),
        ("ext_tools:set_lamp", "which has a tool 'set_lamp', a name that the device already has; rename it"),
        ("ext_tools:both ext_tools:open_door", "which has a tool 'open_door', a name that the device already has"),
        ("ext_tools:close_door", "and the module has no 'close_door'; give the name of an object in it"),
    ],
)
def test_wrong_tool_name_is_one_line_of_error(
    folder: Path, package: Callable[[str], None], names: str, expected: str
) -> None:
    package("fan = ext_fan:set_fan")
    text = TOOLS.replace(
        "both = [set_fan, open_door]", "both = [open_door]\nset_lamp = tool(name='set_lamp')(lambda: 1)"
    )
    path = write(folder, f'[assistant]\ntools = "{names}"\n', ext_tools=text)
    with pytest.raises(SettingsError) as caught:
        opened(path)
    assert str(caught.value).startswith(f"{path}:2: assistant.tools: ")
    assert expected in str(caught.value)


ONE_OF = "a RealtimeAgent, or a function that takes the device's tools by name and returns one"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("agent = 'Ada'", f"which is of type str; allowed: {ONE_OF}"),
        ("from appliance import RealtimeAgent as agent", f"which is the class RealtimeAgent; allowed: {ONE_OF}"),
        ("def agent(tools): return 'Ada'", f"which returns str; allowed: {ONE_OF}"),
        (
            "def agent(): ...",
            "which raises TypeError: agent() takes 0 positional arguments but 1 was given; correct it",
        ),
        (
            "def agent(tools): return tools['set_lmap']",
            "and the device has no tool 'set_lmap'; available: set_lamp; did you mean 'set_lamp'?",
        ),
        (AGENT.replace("Be brief.", "") + "agent = 1 / 0", "line 5 raises ZeroDivisionError: division by zero"),
        (
            AGENT + "agent = RealtimeAgent(name='Bob', handoffs=[agent, RealtimeAgent(name='Ada')])",
            "agent 'Bob': two tools are named transfer_to_ada; give each its own name",
        ),
        (AGENT.replace("agent =", "house ="), "and the module has no 'agent'"),
        ("def agent(tools): raise ValueError('bad sk-abcdef123456')", "which raises ValueError: bad sk-***; correct it"),
        ("def agent(tools): raise SystemExit(0)", "which raises SystemExit: 0; correct it"),
    ],
)
def test_wrong_agent_is_one_line_with_place_key_value_and_remedy(folder: Path, text: str, expected: str) -> None:
    said = mistake(write(folder, '[assistant]\nagent = "ext_house:agent"\n', ext_house=text))
    assert said.startswith('2: assistant.agent: found "ext_house:agent", ')
    assert expected in said


def test_hooks_of_another_type_are_refused(folder: Path) -> None:
    said = mistake(write(folder, '[assistant]\nhooks = "ext_house:agent"\n', ext_house=AGENT))
    expected = "which is of type RealtimeAgent; allowed: a RealtimeRunHooks"
    assert said == f'2: assistant.hooks: found "ext_house:agent", {expected}'


def test_input_guardrails_without_transcription_are_refused_at_the_start(folder: Path) -> None:
    text = """
from appliance import RealtimeAgent, input_guardrail


@input_guardrail
def polite(context, agent, text):
    return False


agent = RealtimeAgent(name="Ada", input_guardrails=[polite])
"""
    path = write(folder, '[assistant]\ntranscription_model = ""\nagent = "ext_house:agent"\n', ext_house=text)
    assert "on the device: assistant.transcription_model" in mistake(path)


def test_config_check_finds_a_missing_module(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(folder, '[assistant]\nagent = "ext_huose:agent"\n', ext_house=AGENT)
    assert main(["config", "check", "--config", str(path)]) == 2
    assert capsys.readouterr().err == (
        f'{path}:2: assistant.agent: found "ext_huose:agent", and there is no ext_huose.py in {folder} '
        "and no installed module ext_huose; write the file or install the package; did you mean 'ext_house'?\n"
    )
    path = write(folder, '[assistant]\nagent = "ext_house:agent"\n', ext_house=AGENT)
    assert main(["config", "check", "--config", str(path)]) == 0
    assert main(["config", "check", "--config", str(path), "--set", "link.transport=telegraph"]) == 2
    assert capsys.readouterr().err == "no transport is called 'telegraph'; available: websocket\n"
