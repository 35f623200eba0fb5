"""What the composition root makes of the settings, without a device."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from appliance.cli import main
from appliance.errors import ApplianceError, SpeechError
from appliance.service.app import Appliance, language_remarks, open_endpoints, pin_remarks, session_settings
from appliance.settings import load_settings
from appliance.speech.pipeline import build_pipeline
from appliance.speech.stt import sphinx
from appliance.speech.tts import programs


def test_the_region_of_the_language_is_not_sent_to_the_transcription() -> None:
    sent = session_settings(load_settings(None, {}, overrides={"assistant.language": "de-AT"}))
    assert sent.transcription is not None
    assert sent.transcription.language == "de"


async def test_device_with_a_server_and_no_recogniser_starts_and_the_check_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sphinx, "find_spec", lambda name: None)
    settings = load_settings(None, {}, overrides={"link.base_url": "ws://house.local/v1"})
    (remark,) = await language_remarks(settings, {})
    assert remark.startswith("no offline fallback: ")
    assert "pip install 'voice-appliance[offline]'" in remark
    with pytest.raises(SpeechError, match="pocketsphinx"):
        await language_remarks(load_settings(None, {}), {})  # the offline brain is all it has


async def test_announcements_have_the_voice_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    voices: list[str] = []

    def speak(program: programs.SpeechProgram, text: str, voice: str, speed: float) -> bytes:
        voices.append(voice)
        return b"\1\0"

    monkeypatch.setattr(programs, "_speak", speak)
    await language_remarks(load_settings(None, {}, overrides={"brain.voice": "awb"}), {})
    assert voices == ["awb"]


def test_config_check_names_a_missing_pin_library_and_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gpiod", None)
    assert pin_remarks(load_settings(None, {}, overrides={"pins.factory": "mock"})) == []
    (remark,) = pin_remarks(load_settings(None, {}))
    assert remark.endswith('pins.factory: gpiod is not installed: pip install "voice-appliance[gpio]"')


def test_config_check_refuses_a_pin_library_that_misses_presses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package, library = ModuleType("RPi"), ModuleType("RPi.GPIO")
    package.GPIO = library  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "RPi", package)
    monkeypatch.setitem(sys.modules, "RPi.GPIO", library)
    monkeypatch.setattr("os.uname", lambda: SimpleNamespace(release="6.12.1"))
    assert main(["config", "check", "--set", "pins.factory=rpigpio", "--set", "audio.announcements=false"]) == 2
    assert "misses button presses on kernel 6.12.1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "environ", "place"),
    [
        ({}, {"CREDENTIALS_DIRECTORY": "/run/x"}, "the file /etc/voice-appliance/openai_api_key"),
        ({"link.key_file": "{folder}/key"}, {}, "the file {folder}/key"),
        ({"link.key_env": "MY_KEY"}, {}, "the environment variable MY_KEY"),
    ],
)
def test_remedy_for_a_wrong_key_names_the_place_where_the_device_looks_first(
    more: dict[str, str], environ: dict[str, str], place: str, tmp_path: Path
) -> None:
    (tmp_path / "key").touch(mode=0o600)
    overrides = {key: value.format(folder=tmp_path) for key, value in more.items()}
    place = place.format(folder=tmp_path)
    wording = Appliance(load_settings(None, {}, overrides=overrides), environ=environ).wording
    assert wording.trouble("bad_key").endswith(f"Please put a valid one into {place}.")
    assert wording.trouble("no_key").endswith(f"Please put one into {place}.")


@pytest.mark.parametrize(("hours", "volume"), [("", 70), ("always", 40)])
def test_night_hours_of_the_settings_cap_the_volume(hours: str, volume: int) -> None:
    settings = load_settings(None, {}, overrides={"audio.backend": "simulated", "audio.night_hours": hours})
    transport: Any = SimpleNamespace(has_room=True)
    assert Appliance(settings, environ={})._open_audio(transport).volume == volume


async def test_fallback_that_has_no_place_for_its_socket_does_not_end_the_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    environ = {"RUNTIME_DIRECTORY": "/proc/missing"}  # short: the folder of a long path is replaced
    async with AsyncExitStack() as stack:
        settings = load_settings(None, {}, overrides={"link.base_url": "ws://house.local/v1"})
        headers = partial(dict, authorization="now")
        made, brain = open_endpoints(stack, settings, environ, headers, build_pipeline)
        assert ([one.name for one in made], brain) == (["compatible"], None)
        assert made[0].headers is headers
        assert "no offline fallback: the offline brain cannot make a folder" in caplog.text
        with pytest.raises(ApplianceError, match="cannot make a folder"):  # it is all that the device has
            open_endpoints(stack, load_settings(None, {}), environ, dict, build_pipeline)
