"""Tests of the lookup of plug-ins by name, the version, and small functions shared by several modules."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import pytest

from appliance.audio.pcm import WIRE_RATE
from appliance.errors import SettingsError, did_you_mean, is_loopback
from appliance.plugins import duplicates, installed, named, resolve, version
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


def test_two_packages_with_one_name_are_reported_and_the_first_on_the_path_is_used(
    package: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path_factory.mktemp("other") / "macaw-2.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: macaw\nVersion: 2.0\n", encoding="utf-8")
    (folder / "entry_points.txt").write_text(f"[{GROUP}]\nparrot = math:ceil\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder.parent))
    assert find("parrot") is math.ceil
    assert duplicates() == [
        f"two packages add 'parrot' to {GROUP}: math:ceil of macaw 2.0 is used, math:floor of parrot 1.0 is not; "
        "uninstall one of them"
    ]


def test_an_unknown_name_is_refused_with_the_known_names(package: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        find("Parot")
    assert str(caught.value) == (
        "no engine is called 'Parot'; available: broken, here, parrot, there; did you mean 'parrot'?"
    )


def test_a_package_that_cannot_be_loaded_raises_an_error_with_its_name(package: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"engine 'broken': parrot\.gone:make of parrot 1\.0 cannot be loaded \(ModuleNotFound"
    ):
        find("broken")


def test_installed_lists_all_packages_and_a_broken_one_raises_on_load(package: Path) -> None:
    (package / "entry_points.txt").write_text(f"[{GROUP}]\nparrot = math:floor\nbroken = parrot.gone:make\n", "utf-8")
    found = installed(kind="engine", group=GROUP)
    assert list(found) == ["broken", "parrot"]
    place, load = found["parrot"]
    assert (place, load()) == ("engine 'parrot': math:floor of parrot 1.0", math.floor)
    with pytest.raises(SettingsError, match=r"^engine 'broken': parrot\.gone:make of parrot 1\.0 cannot be loaded"):
        found["broken"][1]()
    assert installed(kind="engine", group="voice_appliance.nothing") == {}


# Python by reference


def a_text(reference: str, folder: Path | None) -> str:
    return resolve(reference, lambda one: one if isinstance(one, str) else None, "a text", folder=folder)


def test_a_file_in_the_folder_is_found_first_and_imports_its_siblings(folder: Path) -> None:
    (folder / "seam_words.py").write_text("from seam_sibling import WORD\n\n\nclass Deep:\n    word = WORD\n", "utf-8")
    (folder / "seam_sibling.py").write_text("WORD = 'here'\n", "utf-8")
    assert a_text("seam_words:WORD", folder) == "here"
    assert a_text("seam_words:Deep.word", folder) == "here"
    module = sys.modules["seam_words"]
    assert a_text("seam_words:WORD", folder) == "here"
    assert sys.modules["seam_words"] is module, "it was run twice"


def test_packages_in_the_folder_and_installed_modules_are_found(folder: Path) -> None:
    (folder / "seam_package").mkdir()
    (folder / "seam_package" / "__init__.py").write_text("", "utf-8")
    (folder / "seam_package" / "words.py").write_text("WORD = 'inside'\n", "utf-8")
    assert a_text("seam_package.words:WORD", folder) == "inside"
    assert a_text("os.path:sep", folder) == os.sep
    assert a_text("os.path:sep", None) == os.sep


def test_a_file_in_the_folder_does_not_hide_a_standard_module(folder: Path) -> None:
    (folder / "seam_words.py").write_text("import wave\nWORD = wave.__file__\n", "utf-8")
    (folder / "wave.py").write_text("raise AssertionError('imported')\n", "utf-8")
    assert not a_text("seam_words:WORD", folder).startswith(str(folder))


@pytest.mark.parametrize(
    ("reference", "text", "expected"),
    [
        ("seam_words", "", 'allowed: "module:attribute", such as "my_module:agent"'),
        ("../seam_words:WORD", "", 'allowed: "module:attribute", such as "my_module:agent"'),
        (
            "seam_wrods:WORD",
            "",
            "and there is no seam_wrods.py in FOLDER and no installed module seam_wrods; "
            "write the file or install the package; did you mean 'seam_words'?",
        ),
        (
            "seam_words:WROD",
            "WORD = ''",
            "and the module has no 'WROD'; give the name of an object in it; did you mean 'WORD'?",
        ),
        ("seam_words:WORD", "WORD = 3", "which is of type int; allowed: a text"),
        ("seam_words:WORD", "class WORD: pass", "which is the class WORD; allowed: a text"),
        (
            "seam_words:WORD",
            "\nWORD = 1 / 0",
            "and FOLDER/seam_words.py, line 2 raises ZeroDivisionError: division by zero; correct it",
        ),
        (
            "seam_words:WORD",
            "import seam_nothing",
            "and FOLDER/seam_words.py, line 1 raises ModuleNotFoundError: No module named 'seam_nothing'; correct it",
        ),
        ("seam_words:WORD", "raise SystemExit('no')", "and FOLDER/seam_words.py, line 1 raises SystemExit: no"),
        ("seam_words:WORD", "raise OSError('sk-abcdefgh1234\\nof it')", "raises OSError: sk-*** of it; correct it"),
        (
            "seam_words:WORD",
            "WORD = ",
            "the module seam_words raises SyntaxError: invalid syntax (seam_words.py, line 1)",
        ),
    ],
)
def test_an_unresolvable_reference_raises_a_one_line_error_with_the_remedy(
    folder: Path, reference: str, text: str, expected: str
) -> None:
    (folder / "seam_words.py").write_text(text + "\n", "utf-8")
    with pytest.raises(SettingsError) as caught:
        a_text(reference, folder)
    said = str(caught.value)
    assert said.startswith(f'found "{reference}"')
    assert "\n" not in said
    assert expected in said.replace(str(folder), "FOLDER")


@pytest.mark.parametrize("name", ["json", "pytest", "sched", "gpiozerocli"])
def test_a_file_with_the_name_of_another_module_is_refused(folder: Path, name: str) -> None:
    (folder / f"{name}.py").write_text("WORD = 'here'\n", "utf-8")
    with pytest.raises(SettingsError, match=r"has the name of another module; rename the file"):
        a_text(f"{name}:WORD", folder)


def test_without_a_folder_the_error_mentions_installed_modules_only() -> None:
    with pytest.raises(SettingsError, match="and there is no installed module seam_words; write the file or install"):
        a_text("seam_words:WORD", None)


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
