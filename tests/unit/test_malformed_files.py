"""Malformed files: each loader succeeds, or raises an `ApplianceError` of one line; never a traceback."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.errors import ApplianceError, SettingsError
from appliance.runtime.agent_loader import load_agents
from appliance.service.app import check_assistant, language_remarks
from appliance.service.trace import replay
from appliance.settings import load_settings
from appliance.simulator.simulated_device import SIMULATED, SimulatedDevice, read_wav
from appliance.speech.phrases import PhraseBook
from tests.support.recorded import recorded_conversation

CONFIG = Path(__file__).parents[2] / "config"
BOOK = (CONFIG / "phrases" / "en.yaml").read_text(encoding="utf-8")
AGENTS = sorted((CONFIG / "agents").glob("*.toml"))
SETTINGS = """[link]
fallbacks = "offline"
[assistant]
name = "Ada"
instructions = "Be brief."
tools = ""
max_output_tokens = 500
[audio]
volume = 50
[button]
pin = 17
pull = "up"
[light]
kind = "rgb"
[outputs]
lamp_pin = "none"
[gpio]
outputs = [{ name = "gate", pin = 5, description = "Opens.", pulse_s = 1.0, hours = "06:00-22:00", phrases = ["open"] }]
inputs = [{ name = "bell", pin = 6, description = "Rings.", pull = "up", tells = "press", asks = true }]
[brain]
workflow = "phrases"
[budget]
daily_usd = 1.5
prices = [{ model = "mine", text = { input = 4.0, cached = 0.4, output = 16.0 } }, { model = "x", per_minute = 0.1 }]
[history]
max_age_days = 30.0
[service]
state_dir = "state"
"""
PIECES = [
    *("true", "false", "null", "~", "- ", "[]", "{}", "''", '"', ":", "=", "\n", "  ", "a: b", "a = 1", "[a]", "[[a]]"),
    *(
        "1",
        "-1",
        "1e999",
        "nan",
        ".nan",
        "9" * 5000,
        "2026-99-99",
        "1979-05-27",
        "!!int x",
        "!!binary x",
        "? ",
        "&x",
        "*x",
    ),
    *("<x>", "{x}", "(", ")", "|", "<<: ", "[" * 3000, "\\u0000", "\0", "\ud7ff", "x" * 5000, "~nobody/x", "${HOME}"),
]
Edit = tuple[int, float, str, int]
EDITS = st.lists(
    st.tuples(st.integers(0, 4), st.floats(0, 1, exclude_max=True), st.sampled_from(PIECES), st.integers(1, 40)),
    min_size=1,
    max_size=3,
)
BRIEFLY = settings(max_examples=60, deadline=None)


def mutated(text: str, edits: list[Edit]) -> str:
    """Insert, cut, replace a value, drop a line, or change the indentation of one, at a share of the text."""
    for kind, share, piece, length in edits:
        at = int(share * len(text))
        lines = text.split("\n")
        row = int(share * len(lines))
        match kind:
            case 0:
                text = text[:at] + piece + text[at:]
                continue
            case 1:
                text = text[:at] + text[at + length :]
                continue
            case 2:
                mark = next((mark for mark in (":", "=") if mark in lines[row]), "")
                lines[row] = f"{lines[row].partition(mark)[0]}{mark} {piece}" if mark else piece
            case 3:
                del lines[row : row + length // 8 + 1]
            case 4:
                lines[row] = " " * (length % 8) + lines[row].strip()
        text = "\n".join(lines)
    return text


def survives(load: Callable[[], object]) -> None:
    """Load; an error must be an `ApplianceError` of one printable line (settings: of one line for each problem)."""
    try:
        load()
    except ApplianceError as error:
        assert str(error).isprintable() or (isinstance(error, SettingsError) and ": " in str(error).splitlines()[-1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("malformed")


@pytest.fixture(scope="module")
def recorded(folder: Path) -> list[str]:
    stage = recorded_conversation(folder / "whole.jsonl")
    stage.recorder.close()
    return (folder / "whole.jsonl").read_text(encoding="utf-8").splitlines()


@settings(BRIEFLY, max_examples=25)  # a book takes a tenth of a second to load
@given(EDITS)
def test_a_mutated_phrase_book(folder: Path, edits: list[Edit]) -> None:
    (folder / "en.yaml").write_text(mutated(BOOK, edits), encoding="utf-8")
    survives(lambda: PhraseBook.load(folder, "en").live([]).match("what time is it"))


@BRIEFLY
@given(EDITS)
def test_mutated_settings(folder: Path, edits: list[Edit]) -> None:
    path = folder / "appliance.toml"
    path.write_text(mutated(SETTINGS, edits), encoding="utf-8")
    survives(lambda: load_settings(path, {}))


@BRIEFLY
@given(st.sampled_from(AGENTS), EDITS)
def test_a_mutated_agents_file(folder: Path, source: Path, edits: list[Edit]) -> None:
    for one in (CONFIG / "agents").iterdir():
        (folder / one.name).write_bytes(one.read_bytes())
    path = folder / source.name
    path.write_text(mutated(source.read_text(encoding="utf-8"), edits), encoding="utf-8")
    survives(lambda: load_agents(path, tools={}))


ODD = st.one_of(
    st.sampled_from([None, True, -1, 10**400, 1e308, "x", "\ud800", [], {}, {"@": "Usage"}, {"@": []}, {"#": "!"}]),
    st.floats(),
)


@BRIEFLY
@given(st.data(), st.integers(0, 60), ODD)
def test_a_mutated_trace(folder: Path, recorded: list[str], data: st.DataObject, row: int, odd: Any) -> None:
    line = place = json.loads(recorded[row])
    while isinstance(place, (dict, list)) and place:  # down to some depth
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], (dict, list)) or not place[key] or data.draw(st.integers(0, 3)) == 0:
            place[key] = odd
            break
        place = place[key]
    path = folder / "changed.jsonl"
    path.write_text("\n".join([*recorded[:row], json.dumps(line), *recorded[row + 1 :]]), encoding="utf-8")
    survives(lambda: replay(path))


def wav(*, rate: int = 24_000, channels: int = 1, bits: int = 16, says: int | None = None, data: bytes) -> bytes:
    align = channels * bits // 8
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * align & 0xFFFF_FFFF, align & 0xFFFF, bits)
    length = struct.pack("<I", len(data) if says is None else says)
    return b"RIFF\xff\xff\xff\x7fWAVEfmt \x10\0\0\0" + form + b"data" + length + data


@BRIEFLY
@given(
    st.sampled_from([0, 1, 8000, 24_000, 48_000, 2**32 - 1]),
    st.sampled_from([0, 1, 2, 3, 65_535]),
    st.sampled_from([0, 1, 8, 16, 24, 65_535]),
    st.sampled_from([None, 0, 1, 2**31 - 1, 2**32 - 1]),
    st.binary(max_size=500),
    st.integers(0, 600),
)
def test_a_wav_with_a_header_that_lies(
    folder: Path, rate: int, channels: int, bits: int, says: int | None, data: bytes, cut: int
) -> None:
    path = folder / "said.wav"
    path.write_bytes(wav(rate=rate, channels=channels, bits=bits, says=says, data=data)[: 600 - cut])
    survives(lambda: read_wav(path))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rate": 0}, "0 Hz; allowed: 4000 to 384000 Hz (sox IN.wav -r 24000 OUT.wav)"),
        ({"rate": 1}, "1 Hz; allowed: 4000 to 384000 Hz (sox IN.wav -r 24000 OUT.wav)"),
        ({"data": b""}, "no sound; allowed: a recording of up to 600 s"),
        ({"rate": 4000, "data": b"\0" * (2 * 4000 * 600 + 2)}, "more than 600 s; allowed: a recording of up to 600 s"),
        ({"bits": 8}, "8-bit samples, expected 16-bit PCM (sox IN.wav -b 16 OUT.wav)"),
    ],
)
def test_a_wav_that_cannot_be_used_names_the_value_the_limit_and_the_remedy(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    path = tmp_path / "said.wav"
    path.write_bytes(wav(**({"data": b"\1\0" * 480} | changes)))
    with pytest.raises(SettingsError) as caught:
        read_wav(path)
    assert str(caught.value) == f"{path}: {said}"


def test_a_wav_that_is_shorter_than_its_header_says_is_read_up_to_its_last_whole_frame(tmp_path: Path) -> None:
    path = tmp_path / "said.wav"
    path.write_bytes(wav(says=2**32 - 1, data=b"\1\0" * 480 + b"\1"))
    assert len(read_wav(path)) == 960


@pytest.mark.parametrize("word", ["true", "false"])
def test_a_phrase_that_begins_with_true_or_false_is_a_sentence(tmp_path: Path, word: str) -> None:
    (tmp_path / "en.yaml").write_text(
        f"language: en\nphrases:\n- answer: yes\n  say:\n  - {word} story\n", encoding="utf-8"
    )
    found = PhraseBook.load(tmp_path, "en").live([]).match(f"{word} story")
    assert found is not None
    assert found.phrase.answer == "yes"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "- tool: t\n  say: [x]\n  arguments: true",
            "phrases[0]: arguments: found true; allowed: a mapping, as name: value",
        ),
        ("- tool: t\n  say: [x]\n  arguments: [1]", "phrases[0]: arguments: found a list; allowed: a mapping"),
        (
            "- tool: t\n  say: [x]\n  arguments: {a: 2026-01-01}",
            "arguments.a: found 2026-01-01; allowed: a string, a number",
        ),
        (
            "- tool: t\n  say: [x]\n  arguments: {a: {sum: {b: c}}}",
            'arguments.a.sum.b: found "c"; allowed: a whole number',
        ),
        ("- tool: t\n  say: [x]\n  then: 5", "phrases[0].then: found 5; allowed: a mapping"),
        ("- tool: [t]\n  say: [x]", "phrases[0].tool: found a list; allowed: the name of a tool"),
        ("- answer: a\n  say: hello", 'phrases[0].say: found "hello"; allowed: a list'),
        (
            "- answer: a\n  say: [x]\nlists: {n: {from: 1, to: 1000000000}}",
            "found 1000000000 numbers; allowed: at most 1000",
        ),
        ("- answer: a\n  say: [x]\nnumbers: {a: b}", 'numbers: found "a"; allowed: a whole number'),
        ("- answer: a\n  say: [2026-99-99]", "the phrase book is not YAML: month must be in 1..12"),
    ],
)
def test_a_wrong_value_in_a_phrase_book_is_named_with_what_is_allowed(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "en.yaml").write_text(f"language: en\nphrases:\n{text}\n", encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        PhraseBook.load(tmp_path, "en")
    assert said in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "en.yaml"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"x = {'[' * 100_000}", "is not TOML: nested too deeply"),
        (f"[audio]\nvolume = {'9' * 5000}", "is not TOML: Exceeds the limit"),
        (f"[assistant]\ninstructions_file = '{'x' * 5000}'", "which is not a file; allowed: a text file, or empty"),
        (f"[brain]\nphrases_dir = '{'x' * 5000}'", "not a folder; allowed: a folder, or empty"),
        ("[assistant]\ninstructions_file = '~nobody-here/x'", "which is not a file; allowed: a text file, or empty"),
        (
            '[service]\ntrace = "a\\u0000b"',
            "service.trace: found a path with a NUL character; allowed: a path without it",
        ),
    ],
)
def test_settings_that_no_system_call_accepts_are_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "appliance.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load_settings(path, {})
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_deeply_nested_line_of_a_trace_is_named(folder: Path, recorded: list[str]) -> None:
    path = folder / "deep.jsonl"
    path.write_text("\n".join([recorded[0], "[" * 100_000, recorded[1]]), encoding="utf-8")
    with pytest.raises(SettingsError, match="line 2: not JSON: this is not a trace of the appliance"):
        replay(path)


# config check and the start


CHOICES: dict[str, list[Any]] = {
    "assistant.agents_file": ["house.toml", "bedtime.toml", "mutated.toml"],
    "assistant.language": ["en", "de", "pt-BR", "xx"],
    "assistant.wording_dir": ["words", "empty"],
    "assistant.transcription_model": ["", "é\n"],
    "assistant.tools": ["set_lamp", "nobody", "nobody:has_it"],
    "brain.phrases_dir": ["empty", "phrases"],
    "brain.stt": ["pocketsphinx", "nobody"],
    "brain.tts": ["flite", "espeak-ng", "nobody"],
    "brain.voice": ["nobody", "\n"],
    "link.provider": ["auto", "offline", "compatible", "openai"],
    "link.base_url": ["ws://127.0.0.1:9/v1", "http://[::1]:9/v1", "wss://a b", "ws://é", "ws://a:99999"],
    "link.fallbacks": ["offline", "ws://127.0.0.1:9/v1 offline"],
    "link.transport": ["nobody"],
    "link.model": ["a b&c", "é"],
    "link.safety_identifier": ["\r\nX: y", "é"],
    "link.key_file": ["nowhere", "empty"],
    "audio.rate": [8000, 11025, 44100, 192_000],
    "audio.period_ms": [5, 100],
    "audio.playback_ring_ms": [40, 2000],
    "audio.prebuffer_ms": [0, 1000],
    "audio.max_prebuffer_ms": [0, 2000],
    "audio.night_hours": ["", "22:00-07:00", "always"],
    "audio.night_volume": [0, 100],
    "audio.night_alarms": [True, False],
    "audio.idle_after_s": [0.0, 3600.0],
    "audio.pre_roll_ms": [0, 2000],
    "audio.max_turn_s": [1.0, 600.0],
    "button.pull": ["up", "down", "none"],
    "button.active_low": [True, False],
    "button.pin": [2, 27],
    "light.kind": ["led", "rgb", "none"],
    "outputs.lamp_pin": ["none", 4],
    "outputs.dimmer_pin": [12, 17],
    "outputs.active_high": [False],
    "gpio.outputs": [[{"name": "gate", "pin": 5, "description": "Opens.", "phrases": ["open", "set {on}"]}]],
    "gpio.inputs": [[{"name": "bell", "pin": 13, "description": "Rings.", "phrases": ["(a|b)", "|"]}]],
    "history.persist": [True],
    "history.max_age_days": [0.01, 3650.0],
    "budget.daily_usd": [1e-9, 100_000.0],
    "service.state_dir": ["state", "appliance.toml", "empty"],
    "service.trace": ["trace.jsonl", "nowhere/trace.jsonl", "empty"],
}


async def started(path: Path, overrides: dict[str, Any] | None = None) -> None:
    """Compose and start the device with simulated hardware, as far as its first event, and stop it."""
    device = SimulatedDevice(load_settings(path, {}, overrides={**(overrides or {}), **SIMULATED}), environ={})
    device.observe(lambda *step: device.stop("started"))
    await asyncio.wait_for(device.run(), 30)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.sampled_from(sorted(CHOICES)), max_size=5, unique=True).flatmap(
        lambda keys: st.fixed_dictionaries({key: st.sampled_from(CHOICES[key]) for key in keys})
    ),
    EDITS,
)
def test_what_config_check_calls_valid_starts(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any], edits: list[Edit]
) -> None:
    folder = tmp_path_factory.mktemp("start")
    for name in ("empty", "words", "phrases"):
        (folder / name).mkdir()
    for one in (CONFIG / "agents").iterdir():
        (folder / one.name).write_bytes(one.read_bytes())
    (folder / "mutated.toml").write_text(mutated(AGENTS[1].read_text(encoding="utf-8"), edits), encoding="utf-8")
    (folder / "phrases" / "en.yaml").write_text(mutated(BOOK, edits), encoding="utf-8")
    (folder / "words" / "en.toml").write_text(mutated('[brain]\nsilence = "Pardon?"\n', edits), encoding="utf-8")
    path = folder / "appliance.toml"
    text = ""
    elsewhere = {"link.provider": "compatible", "link.base_url": "ws://127.0.0.1:9/v1"}  # a recogniser starts slowly
    for key, value in (elsewhere | values).items():
        section, _, name = key.partition(".")
        text += f"{section}.{name} = {json.dumps(value)}\n"
    path.write_text(text, encoding="utf-8")
    try:
        read = load_settings(path, {})
        asyncio.run(check_assistant(read, {}))
        asyncio.run(language_remarks(read, {}))
    except ApplianceError:
        return
    asyncio.run(started(path))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("def instructions(context, agent):\n    return 1 / 0", "raises ZeroDivisionError: division by zero"),
        ("async def instructions(context, agent):\n    raise SystemError('out')", "raises SystemError: out"),
        ("def instructions(context, agent):\n    return 5", "its instructions are int, expected a string"),
    ],
)
def test_instructions_that_raise_at_the_start_are_one_line_of_config_check_and_of_the_start(
    tmp_path: Path, function: str, said: str
) -> None:
    name = f"malformed_{abs(hash(function))}"
    agent = "agent = RealtimeAgent(name='A', instructions=instructions)"
    module = f"from appliance import RealtimeAgent\n\n{function}\n\n{agent}\n"
    (tmp_path / f"{name}.py").write_text(module, encoding="utf-8")
    path = tmp_path / "appliance.toml"
    path.write_text(f'[assistant]\nagent = "{name}:agent"\n', encoding="utf-8")
    errors = []
    for attempt in (check_assistant(load_settings(path, {}), {}), started(path)):
        with pytest.raises(SettingsError) as caught:
            asyncio.run(attempt)
        errors.append(str(caught.value))
    assert errors[0] == errors[1]
    assert errors[0].startswith(f"{path}:2: assistant.agent: ")
    assert said in errors[0]
    assert errors[0].isprintable()
