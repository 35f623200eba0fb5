"""The settings: precedence, endpoint, paths, policy, generated files and prices; the API key is never shown."""

from __future__ import annotations

import json
import logging
import runpy
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from appliance.conversation.policy import Policy
from appliance.errors import SettingsError
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
from tests.support.settings_files import ROOT, problems, write

KEY = "sk-proj-" + "a1B2c3D4" * 4

# --- Precedence -------------------------------------------------------------------------------------------------------


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
    environ = {"APPLIANCE_CONFIG": "x", "APPLIANCES": "y", "APPLIANCE_HOME": "z"}
    assert load_settings(None, environ) == load_settings(None, {})


def test_settings_are_immutable() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings(None, {}).audio.volume = 3


# --- Endpoint ---------------------------------------------------------------------------------------------------------


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


# --- The key ----------------------------------------------------------------------------------------------------------


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


# --- Paths ------------------------------------------------------------------------------------------------------------


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


# --- The policy -------------------------------------------------------------------------------------------------------


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


# --- The files generated from the models ------------------------------------------------------------------------------


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


# --- Prices -----------------------------------------------------------------------------------------------------------


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
