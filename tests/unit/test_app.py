"""What the composition root makes of the settings, without a device."""

from __future__ import annotations

import sys

import pytest

from appliance.service.app import language_remarks, pin_remarks, session_settings
from appliance.settings import load_settings
from appliance.speech.tts import programs


def test_the_region_of_the_language_is_not_sent_to_the_transcription() -> None:
    sent = session_settings(load_settings(None, {}, overrides={"assistant.language": "de-AT"}))
    assert sent.transcription is not None
    assert sent.transcription.language == "de"


async def test_announcements_have_the_voice_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    voices: list[str] = []

    def speak(program: programs.SpeechProgram, text: str, voice: str, speed: float) -> bytes:
        voices.append(voice)
        return b"\1\0"

    monkeypatch.setattr(programs, "_speak", speak)
    await language_remarks(load_settings(None, {}, overrides={"brain.voice": "awb"}), {})
    assert voices == ["awb"]


def test_config_check_names_a_missing_pin_library_and_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lgpio", None)
    assert pin_remarks(load_settings(None, {}, overrides={"pins.factory": "mock"})) == []
    (remark,) = pin_remarks(load_settings(None, {}))
    assert remark.endswith("pins.factory: lgpio is not installed: apt-get install python3-lgpio")
