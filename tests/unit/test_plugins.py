"""Tests of the lookup of plug-ins by name, the version, and small functions shared by several modules."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from appliance.audio.pcm import WIRE_RATE
from appliance.errors import SettingsError, did_you_mean, is_loopback
from appliance.plugins import named, version
from appliance.realtime.protocol import SAMPLE_RATE

GROUP = "voice_appliance.test"
TABLE = {"here": len, "there": "math:sqrt"}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a package that adds "parrot" and "broken", and tries to replace "here"."""
    folder = tmp_path / "parrot-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: parrot\nVersion: 1.0\n", encoding="utf-8")
    (folder / "entry_points.txt").write_text(
        f"[{GROUP}]\nparrot = math:floor\nbroken = parrot.gone:make\nhere = math:ceil\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def find(name: str) -> object:
    return named(TABLE, name, kind="engine", group=GROUP)


def test_a_built_in_entry_is_returned_or_imported() -> None:
    assert find("here") is len
    assert find("there") is math.sqrt


def test_a_package_adds_an_entry_but_cannot_replace_a_built_in_one(package: Path) -> None:
    assert find("parrot") is math.floor
    assert find("here") is len


def test_an_unknown_name_is_refused_with_the_known_names(package: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        find("Parot")
    assert str(caught.value) == (
        "no engine is called 'Parot'; available: broken, here, parrot, there; did you mean 'parrot'?"
    )


def test_a_package_that_cannot_be_loaded_raises_an_error_with_its_name(package: Path) -> None:
    with pytest.raises(SettingsError, match=r"engine 'broken': parrot\.gone:make cannot be loaded \(ModuleNotFound"):
        find("broken")


def test_version_is_the_installed_version_or_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert version()[0].isdigit()
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert version() == "unknown"


@pytest.mark.parametrize(
    ("word", "hint"),
    [("volum", "; did you mean 'Volume'?"), ("VOLUME", "; did you mean 'Volume'?"), ("xyz", ""), ("", "")],
)
def test_the_nearest_word_is_suggested_regardless_of_case(word: str, hint: str) -> None:
    assert did_you_mean(word, ("light", "Volume")) == hint
    assert did_you_mean(word + " " * 100_000, ()) == ""


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("127.example.org", False),
        ("10.0.0.1", False),
        ("", False),
    ],
)
def test_only_local_hosts_are_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_internal_rate_equals_wire_rate() -> None:
    """There are two constants: the protocol must not import numpy, and the audio code must not import the protocol."""
    assert WIRE_RATE == SAMPLE_RATE
