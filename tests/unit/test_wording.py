"""The wording files have the same keys and placeholders, and cover every kind and key that the code emits."""

from __future__ import annotations

import logging
import re
import string
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest

from appliance.cli import main
from appliance.conversation.notices import TroubleKind
from appliance.errors import SettingsError
from appliance.wording import Wording, config_folder

PACKAGE = Path(__file__).parent.parent.parent / "appliance"
FOLDER = config_folder("wording")
LANGUAGES = sorted(path.stem for path in FOLDER.glob("*.toml"))
KEYED = re.compile(r'(?:Sentence|\.say|\.names)\(\s*"([a-z]+\.[a-z_]+)"')
OUTPUT = re.compile(r'\.output\("([a-z_]+)"')


def flat(language: str) -> dict[str, Any]:
    tables = tomllib.loads((FOLDER / f"{language}.toml").read_text(encoding="utf-8"))
    return {f"{table}.{name}": text for table, entries in tables.items() for name, text in entries.items()}


def placeholders(text: object) -> set[tuple[str, str | None]]:
    if isinstance(text, list):
        return {("length", str(len(text)))}
    return {(name, spec) for _, name, spec, _ in string.Formatter().parse(str(text)) if name is not None}


def kinds(alias: Any) -> set[str]:
    return {one for arg in get_args(alias) for one in (kinds(arg) if get_args(arg) else {arg})}


def test_english_german_spanish_and_french_are_installed():
    assert {"en", "de", "es", "fr"} <= set(LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_the_same_keys_and_placeholders_as_english(language: str):
    english, own = flat("en"), flat(language)

    assert sorted(own) == sorted(english)
    assert {key: placeholders(own[key]) for key in own} == {key: placeholders(english[key]) for key in english}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_trouble_has_a_sentence(language: str):
    own = flat(language)

    assert [kind for kind in kinds(TroubleKind) if not own.get(f"trouble.{kind}", "").endswith((".", "?", "!"))] == []


def test_every_key_in_the_code_has_a_sentence_and_no_output_or_trouble_is_unused():
    sources = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    english = flat("en")
    used = set(KEYED.findall(sources)) | {f"output.{key}" for key in OUTPUT.findall(sources)}

    assert used - set(english) == set()
    assert {key for key in english if key.startswith("output.")} == {key for key in used if key.startswith("output.")}
    assert {f"trouble.{kind}" for kind in kinds(TroubleKind)} == {key for key in english if key.startswith("trouble.")}


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("en", "80 percent of today's budget is spent: 0.81 of 1.00 US dollars."),
        ("de", "80 Prozent des Budgets für heute sind verbraucht: 0,81 von 1,00 US-Dollar."),
        ("fr", "80 pour cent du budget d'aujourd'hui sont dépensés : 0,81 sur 1,00 dollars."),
    ],
)
def test_money_uses_the_decimal_separator_of_the_language(language: str, said: str):
    assert Wording(language).budget("usd", 80, 0.81, 1.0) == said


@pytest.mark.parametrize(
    ("spent", "said"), [(0.0421, "0.0421 of 0.0500"), (12.0, "12.00 of 0.0500"), (0.0, "0.00 of 0.0500")]
)
def test_small_amounts_have_four_decimals(spent: float, said: str):
    assert said in Wording().budget("usd", 80, spent, 0.05)


@pytest.mark.parametrize(
    ("seconds", "most", "english", "german"),
    [
        (0, 3, "0 seconds", "0 Sekunden"),
        (1, 3, "1 second", "1 Sekunde"),
        (5400, 3, "1 hour and 30 minutes", "1 Stunde und 30 Minuten"),
        (90_061, 2, "1 day and 1 hour", "1 Tag und 1 Stunde"),
        (-5, 3, "0 seconds", "0 Sekunden"),
    ],
)
def test_a_duration_is_rounded_down_to_its_largest_units(seconds: int, most: int, english: str, german: str):
    assert Wording("en").duration(seconds, most=most) == english
    assert Wording("de").duration(seconds, most=most) == german


def test_a_regional_code_falls_back_to_the_file_of_its_language():
    assert Wording("de-AT").say("alarm.time_up") == "Die Zeit ist um."


def test_a_regional_file_takes_precedence(tmp_path: Path):
    (tmp_path / "de.toml").write_text('[alarm]\ntime_up = "Die Zeit ist um."\n')
    (tmp_path / "de-AT.toml").write_text('[alarm]\ntime_up = "Aus is."\n')

    assert Wording("de-AT", tmp_path).say("alarm.time_up") == "Aus is."


def test_a_missing_key_falls_back_to_english_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "it.toml").write_text('[alarm]\ntime_up = "Tempo scaduto."\n')
    wording = Wording("it", tmp_path)
    caplog.set_level(logging.WARNING)

    assert [wording.say("alarm.time_up_for", labels="tea") for _ in range(2)] == ["Time is up: tea."] * 2
    assert [one.message for one in caplog.records] == ["the wording for 'it' has no alarm.time_up_for; using English"]
    assert (wording.has("alarm.time_up"), wording.has("alarm.time_up_for")) == (True, False)


def test_a_language_without_a_file_falls_back_to_english_with_one_warning(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING)
    wording = Wording("xx")

    assert (wording.is_available, wording.has("alarm.time_up")) == (False, False)
    assert wording.say("alarm.time_up") == "Time is up."
    assert [one.message for one in caplog.records] == ["no wording for language 'xx'; using English"]


@pytest.mark.parametrize("text", ["time_up = ", 'time_up = "no table"'])
def test_an_invalid_file_raises_an_error_with_its_name(text: str, tmp_path: Path):
    (tmp_path / "it.toml").write_text(text)

    with pytest.raises(SettingsError, match=r"it\.toml: "):
        Wording("it", tmp_path)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('[trouble]\nmuted = "Muto {volume}."', "trouble.muted"),
        ('[alarm]\ntime_up_for = "Scaduto: {labels:duration}."', "alarm.time_up_for"),
        ('[alarm]\ntime_up_for = "Scaduto: {labels."', "alarm.time_up_for"),
        ('[alarm]\ntime_up_for = "Scaduto: {labels!x}."', "alarm.time_up_for"),
        ("[trouble]\nmuted = 5", "trouble.muted"),
        ('[format]\nday = "giorno"', "format.day"),
        ('[format]\nweekdays = ["lunedì"]', "format.weekdays"),
    ],
)
def test_an_entry_that_could_not_be_said_is_refused_when_the_file_is_read(text: str, place: str, tmp_path: Path):
    (tmp_path / "it.toml").write_text(text, encoding="utf-8")

    with pytest.raises(SettingsError, match=rf"it\.toml: {place}: found .*; allowed: "):
        Wording("it", tmp_path)


def test_a_translation_may_leave_out_a_placeholder_or_its_format(tmp_path: Path):
    (tmp_path / "it.toml").write_text('[budget]\nusd = "{percent} per cento di {limit}."')

    assert Wording("it", tmp_path).budget("usd", 80, 0.8, 1.0) == "80 per cento di 1.0."


def test_a_brace_in_a_value_is_no_placeholder():
    assert Wording().say("alarm.time_up_for", labels="{tea} {") == "Time is up: {tea} {."


def test_a_folder_replaces_single_sentences_of_the_installed_language(tmp_path: Path):
    for language, sentence in (("en", "Pasta!"), ("de", "Nudeln!")):
        (tmp_path / f"{language}.toml").write_text(f'[alarm]\ntime_up = "{sentence}"\n')
        wording = Wording(language, tmp_path)

        assert wording.say("alarm.time_up") == sentence
        assert wording.say("alarm.time_up_for", labels="x") == Wording(language).say("alarm.time_up_for", labels="x")
        assert wording.has("alarm.time_up_for")
        assert wording.table("output") == Wording(language).table("output")


def test_a_folder_without_a_file_for_the_language_leaves_the_installed_sentences(tmp_path: Path):
    assert Wording("de", tmp_path).say("alarm.time_up") == "Die Zeit ist um."


def test_an_unknown_sentence_is_a_note_of_the_check_and_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "en.toml").write_text('[alarm]\ntime_upp = "Pasta!"')

    assert main(["config", "check", "--set", f"assistant.wording_dir={tmp_path}"]) == 0
    expected = "note: the device has no sentence alarm.time_upp; did you mean 'alarm.time_up'?"
    assert expected in capsys.readouterr().out.splitlines()


def test_a_trouble_shows_its_detail_in_parentheses():
    assert Wording().trouble("server_error", "quota") == "The server reported an error. (quota)"
    assert Wording().trouble("server_error") == "The server reported an error."
