"""The settings: error messages with file and line, key, found, allowed, nearest."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import SettingsError, ToolError
from appliance.settings import (
    load_settings,
)
from tests.support.settings_files import ROOT, problems, write


def test_an_unknown_key_error_suggests_the_nearest_key(tmp_path: Path) -> None:
    path = write(tmp_path, "\n[audio]\nvolum = 80\n")
    [line] = problems(path)
    assert line.startswith(f"{path}:3: audio.volum: unknown key; allowed: backend, ")
    assert line.endswith("did you mean 'volume'?")


def test_a_key_in_the_wrong_section_error_suggests_the_right_section(tmp_path: Path) -> None:
    [line] = problems(write(tmp_path, "[audio]\nmodel = 'x'\n"))
    assert line.endswith("did you mean 'link.model'?")


def test_a_key_above_all_sections_error_suggests_its_section(tmp_path: Path) -> None:
    [line] = problems(write(tmp_path, "volume = 80\n"))
    assert line.endswith("did you mean 'audio.volume'?")


def test_an_unknown_section_error_suggests_the_nearest_section(tmp_path: Path) -> None:
    path = write(tmp_path, "[lights]\npin = 5\n")
    [line] = problems(path)
    assert line.startswith(f"{path}:1: lights: unknown section; allowed: link, assistant, ")
    assert line.endswith("did you mean 'light'?")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[audio]\nvolume = "loud"', 'audio.volume: found "loud"; allowed: a whole number from 0 to 100'),
        ('[audio]\nvolume = "50"', 'audio.volume: found "50"; allowed: a whole number from 0 to 100'),
        ("[audio]\nvolume = 101", "audio.volume: found 101; allowed: a whole number from 0 to 100"),
        ("[audio]\nvolume = 50.5", "audio.volume: found 50.5; allowed: a whole number from 0 to 100"),
        ("[audio]\nvolume = true", "audio.volume: found true; allowed: a whole number from 0 to 100"),
        ("[audio]\nannouncements = 1", "audio.announcements: found 1; allowed: true or false"),
        ("[assistant]\nspeed = 9", "assistant.speed: found 9; allowed: a number from 0.25 to 1.5"),
        ("[assistant]\nspeed = nan", "assistant.speed: found nan; allowed: a number from 0.25 to 1.5"),
        ("[link]\nmodel = ''", 'link.model: found ""; allowed: a non-empty string'),
        ("[link]\nmodel = ['x']", "link.model: found a list; allowed: a non-empty string"),
        (
            "[pins]\nfactory = 'gpoid'",
            'pins.factory: found "gpoid"; allowed: "gpiod", "lgpio", "rpigpio" or "mock"; did you mean \'gpiod\'?',
        ),
        (
            "[assistant]\nmax_output_tokens = 5000",
            'assistant.max_output_tokens: found 5000; allowed: "inf" or a whole number from 1 to 4096',
        ),
        (
            "[assistant]\nmax_output_tokens = true",
            'assistant.max_output_tokens: found true; allowed: "inf" or a whole number from 1 to 4096',
        ),
        ("[outputs]\nlamp_pin = 99", 'outputs.lamp_pin: found 99; allowed: a whole number from 0 to 27, or "none"'),
        ("[button]\nmin_turn_ms = 99", "button.min_turn_ms: found 99; allowed: a whole number from 100 to 5000"),
    ],
)
def test_a_wrong_value_error_has_the_value_and_what_is_allowed(tmp_path: Path, text: str, expected: str) -> None:
    path = write(tmp_path, text)
    assert problems(path) == [f"{path}:2: {expected}"]


def test_all_errors_are_reported_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "[audio]\nvolum = 1\nrate = 1\n[nothing]\n")
    lines = problems(path, APPLIANCE_BUTTON__PIN="x", APPLIANCE_LINK_MODEL="y")
    assert len(lines) == 5
    assert any(line.startswith('APPLIANCE_BUTTON__PIN: button.pin: found "x"') for line in lines)
    assert any(line.endswith("did you mean 'APPLIANCE_LINK__MODEL'?") for line in lines)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("audio = 3", "audio: found 3; allowed: a table [audio]"),
        ("[[audio]]\nvolume = 3", "audio: found a list; allowed: a table [audio]"),
    ],
)
def test_a_section_that_is_not_a_table_raises_a_one_line_error(tmp_path: Path, text: str, expected: str) -> None:
    [line] = problems(write(tmp_path, text))
    assert expected in line


def test_a_file_that_is_not_toml_raises_a_one_line_error_with_the_place(tmp_path: Path) -> None:
    [line] = problems(write(tmp_path, "[audio]\nvolume = \n"))
    assert "is not TOML" in line
    assert "line 2" in line


def test_a_missing_file_a_binary_file_and_a_folder_raise_one_line_errors(tmp_path: Path) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read: No such file" in problems(tmp_path / "none.toml")[0]
    assert "cannot be read: Is a directory" in problems(tmp_path)[0]
    assert "is not UTF-8" in problems(binary)[0]


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        ("[light]\npin = 17", "light.pin", "button.pin already uses"),
        ("[pins]\nreserved = [2, 25]", "light.pin", "which the HAT uses itself (pins.reserved)"),
        ("[pins]\nreserved = '2 28'", "pins.reserved", "allowed: whole numbers from 0 to 27"),
        ("[light]\nkind = 'rgb'\n[outputs]\nlamp_pin = 24", "outputs.lamp_pin", "light.green_pin already uses"),
        ("[button]\nmute_pin = 25", "light.pin", "button.mute_pin already uses"),
        ("[button]\nsecond_pin = 17", "button.second_pin", 'button.pin already uses; allowed: an unused pin or "none"'),
        ("[button]\nmute_hold_s = 10", "button.power_off_hold_s", "more than button.mute_hold_s (10)"),
        ('[button]\npower_off_command = "say \'so"', "button.power_off_command", "allowed: a command line"),
        ("[button]\npin = 26", "outputs.lamp_pin", 'button.pin already uses; allowed: an unused pin or "none"'),
        ("[light]\npin = 18", "light.pin", "carries the sound of a HAT"),
        ("[button]\npin = 21", "button.pin", "carries the sound of a HAT"),
        ("[button]\npin = 1", "button.pin", "EEPROM"),
        ("[button]\nactive_low = false", "button.pull", "because button.active_low = false"),
        ("[button]\npull = 'down'", "button.pull", "because button.active_low = true"),
        ("[brain]\nworkflow = 'chat'", "brain.chat_url", 'because brain.workflow = "chat"'),
        ("[brain]\nchat_url = 'ws://x'", "brain.chat_url", "allowed: http://, https:// and a host"),
        ("[brain]\nphrases_dir = 'nowhere'", "brain.phrases_dir", "not a folder"),
        ("[assistant]\nwording_dir = 'nowhere'", "assistant.wording_dir", "not a folder"),
        ("[assistant]\ninstructions_file = 'nothing.txt'", "assistant.instructions_file", "not a file"),
        ("[link]\nprovider = 'compatible'", "link.base_url", 'because link.provider = "compatible"'),
        ("[link]\nbase_url = 'localhost:80'", "link.base_url", "allowed: ws://, wss://, http://, https:// and a host"),
        ("[link]\nbase_url = 'ws://h:port'", "link.base_url", "found an invalid address"),
        ("[link]\nbase_url = 'ws://u:p@h/v1'", "link.base_url", "a password or a key in the address"),
        ("[link]\nbase_url = 'ws://h/v1?api_key=x'", "link.base_url", "a password or a key in the address"),
        ("[link]\nbackoff_initial_s = 50", "link.backoff_initial_s", "at most link.backoff_max_s (30)"),
        ("[link]\nkey_env = 'MY KEY'", "link.key_env", "the name of an environment variable"),
        ("[link]\ncredential = '../key'", "link.credential", "letters, digits"),
        ("[audio]\nrate = 11025\nperiod_ms = 10", "audio.period_ms", "110.25 frames"),
        ("[audio]\nplayback_ring_ms = 50\nperiod_ms = 40", "audio.playback_ring_ms", "at least two periods (80)"),
        ("[audio]\nprebuffer_ms = 400", "audio.prebuffer_ms", "at most audio.playback_ring_ms (300)"),
        ("[audio]\ncapture_card = '1'", "audio.capture_card", "an index"),
    ],
)
def test_conflicting_values_are_refused_with_the_reason(tmp_path: Path, text: str, key: str, said: str) -> None:
    path = write(tmp_path, text)
    lines = [line for line in problems(path) if f" {key}: " in line]
    assert len(lines) == 1
    assert said in lines[0]
    assert lines[0].startswith(str(path))


@pytest.mark.parametrize(
    ("text", "key", "other"),
    [
        ("instructions = 'Be brief.'\nagent = 'm:a'\n", "agent", "assistant.instructions"),
        ("instructions_file = 'it.txt'\nagents_file = 'it.txt'\n", "agents_file", "assistant.instructions_file"),
        ("agents_file = 'it.txt'\nagent = 'm:a'\n", "agent", "assistant.agents_file"),
    ],
)
def test_two_descriptions_of_the_assistant_are_refused(tmp_path: Path, text: str, key: str, other: str) -> None:
    (tmp_path / "it.txt").write_text("Be kind.", encoding="utf-8")
    path = write(tmp_path, "[assistant]\n" + text)
    allowed = "one of assistant.instructions (or instructions_file), assistant.agents_file and assistant.agent"
    assert problems(path) == [f"{path}:3: assistant.{key}: found together with {other}; allowed: {allowed}"]


def test_the_shipped_file_with_an_agent_has_one_description(tmp_path: Path) -> None:
    """The file contains every key with its default, including the instructions."""
    text = (ROOT / "config" / "appliance.toml").read_text(encoding="utf-8")
    path = write(tmp_path, text.replace('\nagent = ""', '\nagent = "my_house:agent"'))
    assert load_settings(path, {}).assistant.agent == "my_house:agent"


def test_the_settings_folder_is_the_folder_of_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "")
    monkeypatch.chdir(tmp_path)
    assert load_settings(Path("appliance.toml"), {}).folder == tmp_path
    assert load_settings(None, {}).folder is None


def test_about_adds_place_and_key_to_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, "[assistant]\nagent = 'm:a'\n")
    settings = load_settings(path, {"APPLIANCE_ASSISTANT__HOOKS": "m:h"})
    for key, place in (("agent", f"{path}:2"), ("hooks", "APPLIANCE_ASSISTANT__HOOKS")):
        with pytest.raises(SettingsError) as caught, settings.about(f"assistant.{key}"):
            raise ToolError("found it wrong")
        assert str(caught.value) == f"{place}: assistant.{key}: found it wrong"


def test_pins_of_an_unused_light_cannot_conflict(tmp_path: Path) -> None:
    load_settings(write(tmp_path, "[light]\nkind = 'none'\npin = 17\nred_pin = 17\n"), {})
    load_settings(write(tmp_path, "[light]\ni2s = false\npin = 18\n"), {})


@given(st.dictionaries(st.sampled_from(["audio", "link", "light", "x"]), st.dictionaries(st.text(), st.text())))
def test_any_overrides_give_settings_or_a_settings_error(tables: dict[str, dict[str, str]]) -> None:
    try:
        load_settings(None, {}, overrides=tables)
    except SettingsError as error:
        assert str(error)


@given(st.text(alphabet=st.characters(blacklist_categories=["Cs"], blacklist_characters="\0")))
def test_any_environment_value_gives_settings_or_a_settings_error(text: str) -> None:
    for name in ("AUDIO__VOLUME", "LINK__BASE_URL", "ASSISTANT__SPEED", "OUTPUTS__LAMP_PIN", "LIGHT__I2S"):
        try:
            load_settings(None, {f"APPLIANCE_{name}": text})
        except SettingsError as error:
            assert name.lower().replace("__", ".") in str(error)
