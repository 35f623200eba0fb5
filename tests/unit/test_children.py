"""Child processes get a minimal environment: no key, and nothing of systemd."""

from __future__ import annotations

import stat
from contextlib import closing
from pathlib import Path

import pytest

from appliance.errors import SpeechError
from appliance.speech.children import child_environment
from appliance.speech.phrases import PhraseBook
from appliance.speech.stt.worker import WorkerSpeechToText
from appliance.speech.tts.programs import ProgramSpeech, SpeechProgram
from tests.support.processes import children

BOOK = PhraseBook.load(Path(__file__).parents[2] / "config" / "phrases", "en")
PLANTED = ("OPENAI_API_KEY", "HOUSE_TOKEN", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "SSH_AUTH_SOCK")


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PLANTED:
        monkeypatch.setenv(name, "Zq8vN4xW7kR2tY")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")


def test_child_gets_what_a_program_needs() -> None:
    assert {"PATH", "LC_ALL"} <= set(child_environment())
    assert set(PLANTED) & set(child_environment()) == set()


async def test_recogniser_gets_no_key() -> None:
    with closing(WorkerSpeechToText(BOOK)) as recogniser:
        await recogniser.warm_up()
        [environ] = [environ for command, environ in children().items() if "speech.stt.worker" in command]
    assert "PATH=" in environ
    assert "Zq8vN4xW7kR2tY" not in environ


async def test_speech_program_gets_no_key(tmp_path: Path) -> None:
    path, seen = tmp_path / "speak", tmp_path / "environ"
    path.write_text(f"#!/bin/sh\nenv > {seen}; cat > /dev/null; exit 3\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    program = SpeechProgram(
        name=str(path), package="", arguments=lambda voice, speed, wav: (), default_voice="x", has_voice=lambda _: True
    )
    with pytest.raises(SpeechError, match="exited with status 3"):
        await ProgramSpeech(program).synthesize("Hello.")
    assert "PATH=" in seen.read_text()
    assert "Zq8vN4xW7kR2tY" not in seen.read_text()
