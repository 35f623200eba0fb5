"""The lines of the simulator and of ``appliance ask``: text from outside cannot control the terminal."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from appliance import cli
from appliance.errors import SettingsError
from appliance.safe_text import Secrets, escape
from appliance.simulator.ask import AskResult, describe
from appliance.simulator.report import TurnReport
from appliance.simulator.terminal import Screen
from appliance.wording import english

KEY = "Zq8vN4xW7kR2tY"
HOSTILE = f"{KEY} \x1b]0;owned\x07\x9b2J\r\n\x00\u202egnp.exe\u2066"
SHOWN = r"*** \u001b]0;owned\u0007\u009b2J\u000d\u000a\u0000\u202egnp.exe\u2066"
LEGAL = "مرحبا שלום 👩‍👩‍👧 ❤️ Grüße; the token: banana1"


@pytest.fixture(autouse=True)
def owner() -> Secrets:
    return Secrets(KEY)


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def result(text: str) -> AskResult:
    report = TurnReport(english(), turn="turn_1", heard=text, answers=[text], outcome="answered")
    report.tools = [{"name": "say", "arguments": json.dumps({text: text}), "output": text}]
    report.troubles = [("server_error", text)]
    return AskResult(report, xruns=0, has_sounded=True)


@pytest.mark.parametrize("kind", [io.StringIO, Tty])
def test_line_of_the_simulator_is_one_line_without_control_characters(kind: type[io.StringIO]) -> None:
    out = kind()
    Screen(out).say(f"  it answers {HOSTILE}")
    assert out.getvalue().removeprefix("\r\x1b[2K") == f"  it answers {SHOWN}\n"


def test_legal_text_is_shown_as_it_was_said() -> None:
    out = io.StringIO()
    Screen(out).say(LEGAL)
    assert out.getvalue() == LEGAL + "\n"
    assert f"heard     {LEGAL}" in describe(result(LEGAL))
    assert result(LEGAL).as_json()["reply"] == LEGAL


def test_description_of_a_turn_has_only_its_own_lines() -> None:
    lines = describe(result(HOSTILE)).split("\n")
    assert lines[:2] == [f"heard     {SHOWN}", lines[1]]
    assert len(lines) == len(describe(result("hello")).split("\n"))
    assert all(line.isprintable() for line in lines)


def test_json_of_a_turn_is_valid_printable_and_without_the_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def asked(*_: Any, **__: Any) -> AskResult:
        return result(HOSTILE)

    monkeypatch.setattr("appliance.simulator.ask.ask", asked)
    assert cli.main(["ask", "hello", "--json"]) == 0
    printed = capsys.readouterr().out.removesuffix("\n")
    assert printed == escape(printed)
    assert KEY not in printed
    clean = HOSTILE.replace(KEY, "***")
    answer = json.loads(printed)
    assert answer["reply"] == clean
    assert answer["tools"][0]["arguments"] == {clean: clean}


def test_error_is_printed_without_control_characters_or_the_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def asked(*_: Any, **__: Any) -> AskResult:
        raise SettingsError(f"first\n{HOSTILE}")

    monkeypatch.setattr("appliance.simulator.ask.ask", asked)
    assert cli.main(["ask", "hello"]) == 2
    assert capsys.readouterr().err == "first\n" + SHOWN.replace(r"\u000a", "\n") + "\n"


def test_settings_are_shown_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "show", "--set", f"assistant.name=a\x9b\u202e{KEY}"]) == 0
    printed = capsys.readouterr().out
    assert printed == escape(printed, keeps_lines=True)
    assert json.loads(printed)["assistant"]["name"]["value"] == "a\x9b\u202e***"
