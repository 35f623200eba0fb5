"""Tests of the settings: precedence, error messages, and that the API key is never shown."""

from __future__ import annotations

import json
import logging
import runpy
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.conversation.policy import Policy
from appliance.errors import SettingsError, ToolError
from appliance.places import find_settings_file
from appliance.safe_text import redact
from appliance.service.app import open_wording, policy_from
from appliance.settings import (
    OPENAI_URL,
    EndpointSettings,
    Settings,
    load_settings,
    read_api_key,
    read_instructions,
    state_directory,
)

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-proj-" + "a1B2c3D4" * 4


def write(folder: Path, text: str) -> Path:
    path = folder / "appliance.toml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(path: Path | None = None, **environ: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_settings(path, environ)
    return str(caught.value).splitlines()


# Precedence


def test_defaults_are_valid_and_use_the_offline_brain() -> None:
    settings = load_settings(None, {})
    assert settings.model_dump() == Settings().model_dump()
    assert settings.endpoint() == EndpointSettings("offline", "", needs_key=False)


def test_environment_overrides_file_and_overrides_win(tmp_path: Path) -> None:
    path = write(tmp_path, "[audio]\nvolume = 10\nrate = 16000\nperiod_ms = 40\n")
    environ = {"APPLIANCE_AUDIO__VOLUME": "20", "APPLIANCE_AUDIO__RATE": "24000"}
    settings = load_settings(path, environ, overrides={"audio.volume": 30})
    assert (settings.audio.period_ms, settings.audio.rate, settings.audio.volume) == (40, 24000, 30)
    assert settings.origin("audio.period_ms") == f"{path}:4"
    assert settings.origin("audio.rate") == "APPLIANCE_AUDIO__RATE"
    assert settings.origin("audio.volume") == "override"
    assert settings.origin("audio.backend") == "default"


def test_overrides_may_be_nested_or_dotted_and_strings_are_converted() -> None:
    settings = load_settings(None, {}, overrides={"audio": {"volume": "5"}, "light.i2s": "off"})
    assert settings.audio.volume == 5
    assert settings.light.i2s is False


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("AUDIO__ANNOUNCEMENTS", "no", False),
        ("AUDIO__ANNOUNCEMENTS", "TRUE", True),
        ("ASSISTANT__SPEED", "1.25", 1.25),
        ("ASSISTANT__SPEED", "1", 1.0),
        ("ASSISTANT__MAX_OUTPUT_TOKENS", "200", 200),
        ("ASSISTANT__MAX_OUTPUT_TOKENS", "inf", "inf"),
        ("OUTPUTS__LAMP_PIN", "24", 24),
        ("OUTPUTS__LAMP_PIN", "", None),
        ("LINK__MODEL", "true", "true"),
        ("LINK__MODEL", "4", "4"),
        ("LIGHT__KIND", "rgb", "rgb"),
    ],
)
def test_environment_strings_are_converted_to_the_type_of_their_key(name: str, text: str, expected: object) -> None:
    section, key = name.lower().split("__")
    value = getattr(getattr(load_settings(None, {f"APPLIANCE_{name}": text}), section), key)
    assert value == expected
    assert isinstance(value, type(expected))


@pytest.mark.parametrize(
    ("text", "fallbacks"),
    [
        ("", "offline"),
        ("fallbacks = []", ""),
        ('fallbacks = ""', ""),
        ('fallbacks = ["ws://house.local/v1", "offline"]', "ws://house.local/v1 offline"),
    ],
)
def test_fallbacks_are_offline_by_default_words_or_a_list(tmp_path: Path, text: str, fallbacks: str) -> None:
    path = tmp_path / "appliance.toml"
    path.write_text(f"[link]\n{text}\n", encoding="utf-8")
    assert load_settings(path, {}).link.fallbacks == fallbacks


def test_relative_paths_in_the_file_are_relative_to_its_folder(tmp_path: Path) -> None:
    (tmp_path / "part.txt").write_text("Speak like a pirate.\n", encoding="utf-8")
    (tmp_path / "words").mkdir()
    text = '[assistant]\ninstructions_file = "part.txt"\nwording_dir = "words"\n[service]\ntrace = "t.jsonl"\n'
    settings = load_settings(write(tmp_path, text), {})
    assert settings.assistant.wording_dir == str(tmp_path / "words")
    assert read_instructions(settings) == "Speak like a pirate."
    assert settings.service.trace == str(tmp_path / "t.jsonl")


def test_a_byte_order_mark_and_windows_line_endings_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "appliance.toml"
    path.write_bytes(b"\xef\xbb\xbf[audio]\r\nvolume = 12\r\n")
    assert load_settings(path, {}).audio.volume == 12


def test_other_variables_with_the_prefix_are_ignored() -> None:
    load_settings(None, {"APPLIANCE_CONFIG": "x", "APPLIANCES": "y", "APPLIANCE_HOME": "z"})


def test_settings_are_immutable() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings(None, {}).audio.volume = 3


# Error messages: file and line, key, found, allowed, nearest


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


# Endpoint


@pytest.mark.parametrize(
    ("link", "key", "expected"),
    [
        ({}, "", EndpointSettings("offline", "", needs_key=False)),
        ({}, KEY, EndpointSettings("openai", OPENAI_URL, needs_key=True)),
        ({"provider": "offline"}, KEY, EndpointSettings("offline", "", needs_key=False)),
        ({"provider": "openai"}, "", EndpointSettings("openai", OPENAI_URL, needs_key=True)),
        (
            {"base_url": "http://127.0.0.1:8/v1/"},
            KEY,
            EndpointSettings("compatible", "ws://127.0.0.1:8/v1", needs_key=False),
        ),
        (
            {"base_url": "https://h/v1", "provider": "openai"},
            "",
            EndpointSettings("openai", "wss://h/v1", needs_key=True),
        ),
        ({"base_url": "ws://h/v1", "provider": "offline"}, "", EndpointSettings("offline", "", needs_key=False)),
    ],
)
def test_endpoint_depends_on_provider_address_and_key(
    link: dict[str, str], key: str, expected: EndpointSettings
) -> None:
    assert load_settings(None, {"OPENAI_API_KEY": key}, overrides={"link": link}).endpoint() == expected


def test_remarks_warn_of_a_missing_key_an_unencrypted_link_and_a_trace() -> None:
    missing = load_settings(None, {}, overrides={"link.provider": "openai"})
    assert "no key was found" in missing.remarks()[0]
    open_wire = {"link.base_url": "ws://example.org/v1", "service.trace": "t"}
    lines = load_settings(None, {"OPENAI_API_KEY": KEY}, overrides=open_wire).remarks()
    assert "not encrypted" in lines[0]
    assert "records all speech" in lines[1]
    assert (
        load_settings(None, {"OPENAI_API_KEY": KEY}, overrides={"link.base_url": "ws://127.0.0.1/v1"}).remarks() == []
    )


# The key


def test_key_comes_from_credential_then_file_then_environment(tmp_path: Path) -> None:
    (tmp_path / "openai_api_key").write_text("from-credential\n", encoding="utf-8")
    (tmp_path / "key").write_text(" from-file \n", encoding="utf-8")
    (tmp_path / "key").chmod(0o600)
    environ = {"OPENAI_API_KEY": "from-environment"}
    plain = load_settings(None, environ)
    named = load_settings(None, environ, overrides={"link.key_file": str(tmp_path / "key")})
    assert read_api_key(named, environ, tmp_path) == "from-credential"
    assert read_api_key(named, environ) == "from-file"
    assert read_api_key(plain, environ) == "from-environment"
    assert read_api_key(plain, {}) is None


def test_an_empty_credential_is_not_a_key(tmp_path: Path) -> None:
    (tmp_path / "openai_api_key").write_text("\n", encoding="utf-8")
    settings = load_settings(None, {}, tmp_path)
    assert read_api_key(settings, {}, tmp_path) is None
    assert settings.key_origin == ""


def test_the_key_is_read_again_on_each_call(tmp_path: Path) -> None:
    settings = load_settings(None, {}, tmp_path)
    assert read_api_key(settings, {}, tmp_path) is None
    (tmp_path / "openai_api_key").write_text(KEY, encoding="utf-8")
    assert read_api_key(settings, {}, tmp_path) == KEY


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o604])
def test_a_key_file_readable_by_others_causes_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    path = tmp_path / "key"
    path.write_text(KEY, encoding="utf-8")
    path.chmod(mode)
    with caplog.at_level(logging.WARNING):
        load_settings(None, {}, overrides={"link.key_file": str(path)})
    assert f"{path} contains a key that others can read (mode {mode:o})" in caplog.text
    assert KEY not in caplog.text
    caplog.clear()
    path.chmod(0o600)
    load_settings(None, {}, overrides={"link.key_file": str(path)})
    assert caplog.text == ""


def test_a_missing_key_file_error_names_the_setting(tmp_path: Path) -> None:
    [line] = problems(None, APPLIANCE_LINK__KEY_FILE=str(tmp_path / "none"))
    assert "link.key_file: cannot read" in line


@pytest.mark.parametrize("text", [f"KEY={KEY} x", f"{KEY}\n{KEY}", "ключ", "a\x07b"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_api_key(load_settings(None, {}), {"OPENAI_API_KEY": text})
    assert text not in str(caught.value)
    assert str(caught.value).startswith("environment OPENAI_API_KEY: ")


@pytest.mark.parametrize(
    "line", [f"OPENAI_API_KEY={KEY}", f"export KEY = '{KEY}'", "KEY=Zq8vN4xW7kR2tY", f"KEY={KEY}\nOTHER=1"]
)
def test_a_key_written_as_an_assignment_is_refused_with_the_remedy(tmp_path: Path, line: str) -> None:
    path = tmp_path / "key"
    path.write_text(line + "\n", encoding="utf-8")
    path.chmod(0o600)
    settings = load_settings(None, {}, overrides={"link.key_file": str(path)})
    with pytest.raises(SettingsError) as caught:
        read_api_key(settings, {})
    assert str(caught.value) == f"file {path}: found a name and an equals sign before the key; allowed: only the key"
    assert "Zq8vN4xW7kR2tY" not in redact(line), "redacted from here on, although it was refused"


@pytest.mark.parametrize("key", ["Zm9vYmFyYmF6cXV4==", "eyJhbGciOi.eyJzdWIiOi.c2lnbmF0dXJl", "a-key_1"])
def test_a_key_that_only_resembles_an_assignment_is_accepted(key: str) -> None:
    assert read_api_key(load_settings(None, {}), {"OPENAI_API_KEY": key}) == key


@pytest.mark.parametrize(
    "text",
    [
        f'[link]\napi_key = "{KEY}"',
        f'[link]\nkey_env = "{KEY}"',
        f'[link]\nkey_file = "{KEY}"',
        f'[link]\nmodel = "{KEY}"',
        f'[link]\nopenai_key = "{KEY}"',
        f'[link]\nping_interval_s = "{KEY}"',
        f'[light]\nkind = "{KEY}"',
        f'[brain]\nchat_key_env = "{KEY}"',
        f'api_key = "{KEY}"',
    ],
)
def test_a_key_in_the_settings_file_is_refused_and_not_shown(tmp_path: Path, text: str) -> None:
    lines = problems(write(tmp_path, text))
    assert KEY not in "\n".join(lines)
    if "api_key =" in text and "[link]" in text:
        assert "put it in the systemd credential" in lines[0]


def test_dumps_and_reprs_do_not_contain_the_key(tmp_path: Path) -> None:
    (tmp_path / "openai_api_key").write_text(KEY, encoding="utf-8")
    environ = {"OPENAI_API_KEY": KEY, "APPLIANCE_AUDIO__VOLUME": "3"}
    settings = load_settings(None, environ, tmp_path)
    for text in (repr(settings), str(settings), json.dumps(settings.masked()), settings.model_dump_json()):
        assert KEY not in text
    masked = settings.masked()
    assert masked["link"]["api_key"]["value"] == "set (credential openai_api_key)"
    assert masked["audio"]["volume"] == {"value": 3, "origin": "APPLIANCE_AUDIO__VOLUME"}


# Paths


def test_settings_file_is_the_named_one_or_the_installed_one_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "installed.toml"
    monkeypatch.setattr("appliance.places.SYSTEM_FILE", installed)
    assert find_settings_file({}) is None
    installed.write_text("", encoding="utf-8")
    assert find_settings_file({}) == installed
    assert find_settings_file({"APPLIANCE_CONFIG": "mine.toml"}) == Path("mine.toml")


def test_state_directory_comes_from_the_setting_then_systemd_then_xdg(tmp_path: Path) -> None:
    settings = load_settings(None, {})
    chosen = load_settings(None, {}, overrides={"service.state_dir": str(tmp_path)})
    assert state_directory(chosen, {"STATE_DIRECTORY": "/var/lib/x"}) == tmp_path
    assert state_directory(settings, {"STATE_DIRECTORY": "/var/lib/x:/var/lib/y"}) == Path("/var/lib/x")
    assert state_directory(settings, {"XDG_STATE_HOME": "/xdg"}) == Path("/xdg/voice-appliance")
    assert state_directory(settings, {}).parts[-3:] == (".local", "state", "voice-appliance")


# The policy


def test_the_default_settings_give_the_default_policy() -> None:
    wording = open_wording(Settings())
    of_a_button = {"min_press_ms": 15, "mute_hold_s": 4.0}  # a program has none
    assert policy_from(Settings(), [], wording=wording) == Policy(outputs=wording.table("output"), **of_a_button)


def test_a_setting_sets_the_policy_field_of_the_same_name() -> None:
    settings = load_settings(None, {}, overrides={"audio.pre_roll_ms": 120, "link.failback_s": 7})
    policy = policy_from(settings, [], wording=open_wording(settings))
    assert (policy.pre_roll_ms, policy.failback_s) == (120, 7.0)


def test_no_two_sections_set_the_same_policy_field() -> None:
    figures = {figure.name for figure in fields(Policy)}
    keys = [key for _, section in Settings() for key, _ in section if key in figures]
    assert sorted(keys) == sorted(set(keys))


# The files generated from the models


def test_the_generated_file_and_page_are_current() -> None:
    rendered = runpy.run_path(str(ROOT / "scripts" / "settings_reference.py"))["render"]()
    for path, text in rendered.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run scripts/settings_reference.py"


def test_the_generated_file_has_every_default_and_a_comment_for_every_key() -> None:
    path = ROOT / "config" / "appliance.toml"
    assert load_settings(path, {}).model_dump() == Settings().model_dump()
    lines = path.read_text(encoding="utf-8").splitlines()
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    for section, values in Settings().model_dump().items():
        start = lines.index(f"[{section}]")
        for key, value in values.items():
            is_there = value is not None and value != []
            prefix = f"# [[{section}.{key}]]" if value == [] else f"{key} = " if is_there else f"# {key} = "
            at = next(number for number in range(start, len(lines)) if lines[number].startswith(prefix))
            assert lines[at - 1].startswith("# "), f"{section}.{key} has no comment"
            assert (key in tables[section]) == is_there


def test_the_commented_out_examples_are_valid(tmp_path: Path) -> None:
    text = (ROOT / "config" / "appliance.toml").read_text(encoding="utf-8")
    assert "\n# dimmer_pin = " in text
    text = text.replace("\n# dimmer_pin = ", "\ndimmer_pin = ")
    for table in ("budget.prices", "gpio.outputs", "gpio.inputs"):
        head = f"\n# [[{table}]]"
        assert f"{head}\n# " in text
        for line in text.partition(head)[2].partition("\n\n")[0].splitlines():
            text = text.replace(f"\n{line}\n", f"\n{line.removeprefix('# ')}\n")
        text = text.replace(head, head.replace("# ", ""))
    settings = load_settings(write(tmp_path, text), {})
    assert settings.outputs.dimmer_pin is not None
    assert list(settings.price_rows()) == ["my-realtime", "my-transcriber"]
    assert [one.name for one in settings.gpio.outputs] == ["gate"]
    assert [one.name for one in settings.gpio.inputs] == ["doorbell"]


# Prices

OWN = '[{"model": "ours", "text": {"input": 1, "output": 2}}]'


def test_prices_are_tables_of_the_file_or_json_in_the_environment(tmp_path: Path) -> None:
    path = write(tmp_path, '[[budget.prices]]\nmodel = "ours"\ntext = { input = 1, output = 2 }\n')
    from_file, from_environment = load_settings(path, {}), load_settings(None, {"APPLIANCE_BUDGET__PRICES": OWN})
    assert from_file.price_rows() == from_environment.price_rows() == {"ours": {"text": {"input": 1, "output": 2}}}
    assert from_file.origin("budget.prices") == f"{path}:1"
    assert from_file.masked()["budget"]["prices"]["value"] == from_file.budget.prices


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("per_minute = 1", "found None as a model; allowed: a unique model name in each table"),
        (
            'model = "a"\nper_minute = 1\n[[budget.prices]]\nmodel = "a"',
            'found "a" as a model; allowed: a unique',
        ),
        (
            'model = "a"\nper_minute = "1"',
            "price of 'a', per_minute: '1' is not a price; give US dollars as a number of at least 0",
        ),
        ('model = "a"\naudoi = { input = 1 }', "price of 'a': {'audoi': {'input': 1}} has no input price; give input"),
    ],
)
def test_a_price_that_is_none_is_one_line_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, f"[[budget.prices]]\n{text}\n")
    [line] = problems(path)
    assert line.startswith(f"{path}:1: budget.prices: {said}")


def test_prices_that_are_no_tables_are_one_line(tmp_path: Path) -> None:
    path = write(tmp_path, "[budget]\nprices = 3\n")
    assert problems(path) == [f"{path}:2: budget.prices: found 3; allowed: tables under [[budget.prices]]"]
    [line] = problems(APPLIANCE_BUDGET__PRICES="a=1")
    assert line == 'APPLIANCE_BUDGET__PRICES: budget.prices: found "a=1"; allowed: tables under [[budget.prices]]'


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"link.model": "ours"}, "ours, which counts as nothing; give it under [[budget.prices]], or set"),
        ({"link.model": "ours", "assistant.transcription_model": "mine"}, "for ours and mine, which counts as nothing"),
        (
            {"link.model": "ours", "budget.daily_minutes": 5},
            "for ours, which counts as nothing; give it under [[budget",
        ),
        ({"link.model": "ours", "budget.prices": OWN}, ""),
        ({"link.model": "ours", "budget.daily_usd": 0}, ""),
        ({"link.model": "ours", "link.provider": "offline"}, ""),
        ({"assistant.transcription_model": ""}, ""),
    ],
)
def test_a_budget_in_dollars_remarks_on_models_without_a_price(changes: dict[str, object], said: str) -> None:
    settings = load_settings(None, {}, overrides={"link.base_url": "wss://h/v1", "budget.daily_usd": 1} | changes)
    assert said in settings.price_remark()
    assert bool(said) == bool(settings.price_remark())
    assert [settings.price_remark()] * bool(said) == settings.remarks()


def test_an_output_without_a_pin_is_none_in_the_file_and_in_the_environment(tmp_path: Path) -> None:
    path = write(tmp_path, '[outputs]\nlamp_pin = "none"\n')
    assert load_settings(path, {}).outputs.lamp_pin is None
    assert load_settings(None, {"APPLIANCE_OUTPUTS__LAMP_PIN": "none"}).outputs.lamp_pin is None
