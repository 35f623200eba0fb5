"""What the maker adds to the device in Python, as the settings name it: found before the start, or one line why not."""

from __future__ import annotations

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
    """Write a settings file and Python beside it; returns the settings file."""
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    path = folder / "appliance.toml"
    path.write_text(settings, encoding="utf-8")
    return path


def opened(path: Path) -> tuple[RealtimeAgent, RealtimeRunHooks | None]:
    return open_assistant(load_settings(path, {}), [set_lamp])


def mistake(path: Path) -> str:
    """Return what is said of a mistake, by `config check` and by the start alike, without the file and the folder."""
    with pytest.raises(SettingsError) as caught:
        opened(path)
    said = str(caught.value)
    assert "\n" not in said
    with pytest.raises(SettingsError) as checked:
        check_assistant(load_settings(path, {}))
    assert str(checked.value).replace("set_volume", "set_lamp").startswith(said[:60])
    return said.replace(f"{path}:", "").replace(str(path.parent), "FOLDER")


# --- an agent in Python -------------------------------------------------------------------------------------------


def test_an_agent_is_an_object_of_a_module_beside_the_settings(folder: Path) -> None:
    agent, hooks = opened(write(folder, '[assistant]\nagent = "ext_house:agent"\n', ext_house=AGENT))
    assert (agent.name, list(agent.tools), hooks) == ("Ada", [], None)


def test_a_function_is_given_the_tools_of_the_device_by_name(folder: Path) -> None:
    text = """
from appliance import RealtimeAgent


def agent(tools):
    return RealtimeAgent(name="Ada", tools=[tools["set_lamp"]])
"""
    agent, _ = opened(write(folder, '[assistant]\nagent = "ext_house:agent"\n', ext_house=text))
    assert list(agent.tools) == [set_lamp]


def test_hooks_go_with_every_way_to_describe_an_agent(folder: Path) -> None:
    (folder / "ann.toml").write_text('name = "Ann"\ninstructions = "Be Ann."\n', encoding="utf-8")
    for way in ("", 'agents_file = "ann.toml"\n', 'agent = "ext_house:agent"\n'):
        path = write(folder, f'[assistant]\n{way}hooks = "ext_hooks:hooks"\n', ext_house=AGENT, ext_hooks=HOOKS)
        assert type(opened(path)[1]) is RealtimeRunHooks


def test_an_agent_may_come_from_an_installed_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "site").mkdir()
    (folder / "site" / "ext_installed.py").write_text(AGENT, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder / "site"))
    assert opened(write(folder, '[assistant]\nagent = "ext_installed:agent"\n'))[0].name == "Ada"


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
            "and the device has no tool 'set_lmap': there are set_lamp; did you mean 'set_lamp'?",
        ),
        (AGENT.replace("Be brief.", "") + "agent = 1 / 0", "line 5 raises ZeroDivisionError: division by zero"),
        (
            AGENT + "agent = RealtimeAgent(name='Bob', handoffs=[agent, RealtimeAgent(name='Ada')])",
            "agent 'Bob': two tools are named transfer_to_ada; give each its own name",
        ),
        (AGENT.replace("agent =", "house ="), "and the module has no 'agent'"),
    ],
)
def test_a_mistake_in_the_agent_is_one_line_with_place_key_value_and_remedy(
    folder: Path, text: str, expected: str
) -> None:
    said = mistake(write(folder, '[assistant]\nagent = "ext_house:agent"\n', ext_house=text))
    assert said.startswith('2: assistant.agent: found "ext_house:agent", ')
    assert expected in said


def test_hooks_that_are_none_are_refused(folder: Path) -> None:
    said = mistake(write(folder, '[assistant]\nhooks = "ext_house:agent"\n', ext_house=AGENT))
    expected = "which is of type RealtimeAgent; allowed: a RealtimeRunHooks"
    assert said == f'2: assistant.hooks: found "ext_house:agent", {expected}'


def test_input_guardrails_without_a_transcript_are_refused_at_the_start(folder: Path) -> None:
    text = """
from appliance import RealtimeAgent, input_guardrail


@input_guardrail
def polite(context, agent, text):
    return False


agent = RealtimeAgent(name="Ada", input_guardrails=[polite])
"""
    path = write(folder, '[assistant]\ntranscription_model = ""\nagent = "ext_house:agent"\n', ext_house=text)
    assert "on the device: assistant.transcription_model" in mistake(path)


def test_the_check_of_the_settings_finds_the_mistake_before_the_start(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(folder, '[assistant]\nagent = "ext_huose:agent"\n', ext_house=AGENT)
    assert main(["config", "check", "--config", str(path)]) == 2
    assert capsys.readouterr().err == (
        f'{path}:2: assistant.agent: found "ext_huose:agent", and there is no ext_huose.py in {folder} '
        "and no installed module ext_huose; write the file or install the package; did you mean 'ext_house'?\n"
    )
    path = write(folder, '[assistant]\nagent = "ext_house:agent"\n', ext_house=AGENT)
    assert main(["config", "check", "--config", str(path)]) == 0
