"""docs/where.md: every place on the page exists, and each table is the only place to change."""

from __future__ import annotations

import ast
import re
from contextlib import nullcontext as does_not_raise
from pathlib import Path
from typing import Any, get_args

import pytest

from appliance.conversation.earcons import NOTES, Earcon
from appliance.errors import SettingsError
from appliance.hardware.lights import KINDS, openers
from appliance.service.app import open_pipeline, open_wording
from appliance.settings import LightSettings, allowed_text, load_settings

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "where.md"
QUESTIONS = (
    "a LED pattern",
    "a kind of light",
    "a HAT",
    "a tool of the device",
    "a transport",
    "a speech engine",
    "a setting",
    "a language",
    "a CLI command",
    "an earcon",
    "what a barge-in does",
    "when it reconnects",
    "how the key is found",
    "what a reload takes over",
    "a price",
    "the debounce",
    "G.711",
    "the main loop",
    "agents in TOML",
    "what is sent in session.update",
    "the system prompt",
)


def rows() -> dict[str, tuple[str, str]]:
    """Return question → (place, how)."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {cell[0]: (cell[1], cell[2]) for cell in cells[1:]}


def names_in(path: Path) -> set[str]:
    """Return every function, class and variable of a module, and the members of its classes as ``Class.member``."""
    found: set[str] = set()

    def gather(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                found.add(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                gather(node.body, f"{prefix}{node.name}.")
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            found.update(prefix + target.id for target in targets if isinstance(target, ast.Name))

    gather(ast.parse(path.read_text(encoding="utf-8")).body, "")
    return found


def spans(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def is_path(span: str) -> bool:
    return "/" in span and "<" not in span


EXPLAINED_ELSEWHERE = {
    name
    for path in (
        "appliance/conversation/support/outbox.py",
        "appliance/conversation/machine.py",
        "appliance/speech/stages.py",
    )
    for name in names_in(ROOT / path)
} | {"Field"}


def test_each_question_has_one_row() -> None:
    assert tuple(rows()) == QUESTIONS


@pytest.mark.parametrize("question", QUESTIONS)
def test_place_of_an_answer_exists(question: str) -> None:
    place, _ = rows()[question]
    path, *symbols = spans(place)
    assert (ROOT / path).is_file()
    assert len(symbols) == (1 if path.endswith(".py") else 0), "one place: a file, and in a module one name"
    assert set(symbols) <= names_in(ROOT / path) if symbols else True


@pytest.mark.parametrize("question", QUESTIONS)
def test_names_in_the_explanation_exist(question: str) -> None:
    place, how = rows()[question]
    files = [span for span in spans(place + how) if is_path(span)]
    assert [file for file in files if not (ROOT / file).exists()] == []
    modules = [ROOT / file for file in files if file.endswith(".py")]
    known = {name for module in modules for name in names_in(module)}
    known |= {name.rsplit(".", 1)[-1] for name in known} | EXPLAINED_ELSEWHERE
    words = [span for span in spans(how) if re.fullmatch(r"_?[A-Z]\w*(\.\w+)?", span)]
    assert [word for word in words if word not in known] == []


@pytest.mark.parametrize("question", QUESTIONS[:10])
def test_addition_needs_at_most_two_files(question: str) -> None:
    """Alternatives follow a semicolon or a full stop; each is counted together with the place."""
    place, how = rows()[question]
    counted = [{spans(place)[0], *filter(is_path, spans(part))} for part in re.split(r"; |\. ", how)]
    assert [files for files in counted if len(files - {"scripts/settings_reference.py"}) > 2] == []


# --- the tables are the only places -------------------------------------------------------------------------------


def test_settings_accept_and_name_every_kind_of_light() -> None:
    for kind in (*KINDS, "none", "+".join(KINDS)):
        settings = load_settings(None, {}, overrides={"light.kind": kind, "light.pin": 5})
        assert settings.light.wiring["kind"] == kind
        assert set(openers(kind)) == set(settings.light.kinds) - {"none"}
    allowed = allowed_text(LightSettings.model_fields["kind"])
    assert [kind for kind in KINDS if f'"{kind}"' not in allowed] == []


def test_every_earcon_has_notes() -> None:
    assert set(get_args(Earcon)) == set(NOTES)


def test_daemon_names_no_kind_of_light() -> None:
    text = (ROOT / "appliance" / "service" / "app.py").read_text(encoding="utf-8")
    assert [kind for kind in KINDS if f'"{kind}"' in text] == []


@pytest.mark.parametrize(("key", "group"), [("stt", "stt"), ("tts", "tts"), ("workflow", "workflows")])
def test_settings_accept_an_engine_of_a_package(
    key: str, group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "parrot-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: parrot\nVersion: 1.0\n", encoding="utf-8")
    entry = f"[voice_appliance.{group}]\nparrot = {__name__}:parrot\n"
    (folder / "entry_points.txt").write_text(entry, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(f"{__name__}.parrot", opened := Opened())
    for name, expected in (("parrot", does_not_raise()), ("parot", pytest.raises(SettingsError, match="did you mean"))):
        settings = load_settings(None, {}, overrides={f"brain.{key}": name})
        with expected:
            open_pipeline(settings, {}, open_wording(settings))
    assert opened.count == 1


class Opened:
    """Counts its calls."""

    count = 0

    def __call__(self, *arguments: Any, **options: Any) -> object:
        self.count += 1
        return object()


parrot = Opened()


# --- HATs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "card", "button", "light"),
    [
        ("respeaker-2mic", "seeed2micvoicec", (17, True), ("apa102", {})),
        ("aiy-voice-hat", "sndrpigooglevoi", (23, True), ("led", {"led": [25]})),
        ("whisplay", "wm8960soundcard", (17, False), ("rgb", {"rgb": [25, 24, 23]})),
    ],
)
def test_settings_of_a_hat_are_valid(
    name: str, card: str, button: tuple[int, bool], light: tuple[str, dict[str, list[int]]]
) -> None:
    settings = load_settings(ROOT / "config" / "hats" / f"{name}.toml", {})
    assert settings.audio.capture_card == settings.audio.playback_card == card
    assert (settings.button.pin, settings.button.active_low) == button
    assert (settings.light.kind, settings.light.wiring["pins"]) == light


def test_every_hat_is_on_the_page() -> None:
    page = (ROOT / "docs" / "hats.md").read_text(encoding="utf-8")
    files = sorted((ROOT / "config" / "hats").glob("*.toml"))
    assert files
    assert [one.name for one in files if f"(../config/hats/{one.name})" not in page] == []
