"""Agents described in TOML: the error messages."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance.agents.agent_files import MOST_BYTES
from appliance.errors import SettingsError
from appliance.runtime.agent_loader import load_agents
from tests.support.agent_folder import (
    ALL_KEYS,
    ANN,
    BOB,
    STATES,
    TO_ANN,
    TO_BOB,
    TOOLS,
    load,
    mistake,
    set_lamp,
    write,
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('nam = "Ann"\ninstructions = "x"\n', "ann.toml: nam: unknown key; did you mean 'name'?"),
        (ANN + 'Tools = ["set_lamp"]\n', "ann.toml: Tools: unknown key; did you mean 'tools'?"),
        (
            'name = "Ann"\n[prompt]\ndemeanor = "calm"\n',
            "ann.toml: prompt.demeanor: unknown key; did you mean 'demeanour'?",
        ),
        (
            'name = "Ann"\n[prompt]\ntask = "x"\nblocked_words = ["y"]\n',
            "ann.toml: prompt.blocked_words: unknown key; move 'blocked_words' above the first table of the file",
        ),
        (ANN + 'pacing = "slow"\n', "ann.toml: pacing: unknown key; 'pacing' belongs under [prompt]"),
        (
            ANN + TO_BOB + 'xyzzy = "sk-abcdefghijkl"\n',
            "ann.toml: handoffs[1].xyzzy: unknown key; allowed: agent, description, tool_name, first_sentence",
        ),
        (
            ANN + '"a\\nb\\u001b" = 1\n',
            "ann.toml: a b\\u001b: unknown key; allowed: " + ALL_KEYS.replace(", mcp", " and more"),
        ),
        (
            STATES + "[[prompt.states.transitions]]\nnext = '2_ask'\nif = 'x'\n",
            "ann.toml: prompt.states[2].transitions[1].if: unknown key; allowed: next, when",
        ),
        (
            ANN + '[settings]\nneeds_approval = ["set_lamp"]\n',
            "ann.toml: settings.needs_approval: is under [settings]; move it above the first table of the file",
        ),
    ],
)
def test_an_unknown_key_error_suggests_a_key_or_a_place(tmp_path: Path, text: str, said: str) -> None:
    assert mistake(tmp_path, ann=text) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('instructions = "x"\n', "ann.toml: name: is missing; allowed: a string of 1 to 52 characters"),
        ('name = " "\ninstructions = "x"\n', 'ann.toml: name: found ""; allowed: a string of 1 to 52 characters'),
        (
            f'name = "{"a" * 90}"\ninstructions = "x"\n',
            f'ann.toml: name: found "{"a" * 59}…"; allowed: a string of 1 to 52 characters',
        ),
        ('name = 7\ninstructions = "x"\n', "ann.toml: name: found 7; allowed: a string of 1 to 52 characters"),
        (ANN + "voice = true\n", "ann.toml: voice: found true; allowed: a string"),
        (ANN + 'tools = "set_lamp"\n', 'ann.toml: tools: found "set_lamp"; allowed: a list of quoted names'),
        (ANN + "tools = [1]\n", "ann.toml: tools[1]: found 1; allowed: a list of quoted names"),
        (ANN + "settings = 1.5\n", "ann.toml: settings: found 1.5; allowed: a table under [settings]"),
        (ANN + '[handoffs]\nagent = "bob"\n', "ann.toml: handoffs: found a table; allowed: tables under [[handoffs]]"),
        (
            'name = "Ann"\n[prompt]\ntask = ["x", 2]\n',
            "ann.toml: prompt.task: found a list; allowed: a string or a list of strings",
        ),
        (
            ANN + TO_BOB + 'tool_name = "call bob"\n',
            'ann.toml: handoffs[1].tool_name: found "call bob"; '
            "allowed: up to 64 letters, digits, '_' or '-'; empty uses the agent's name",
        ),
        (
            STATES + "[[prompt.states]]\nid = '3'\n",
            "ann.toml: prompt.states[3].description: is missing; allowed: a non-empty string",
        ),
        (
            ANN + 'voice = ["sk-abcdefghijkl"]\n',
            "ann.toml: voice: found a list; allowed: a string",
        ),
        (
            f'name = "sk-abcdefghijkl{"m" * 60}"\ninstructions = "x"\n',
            'ann.toml: name: found "sk-***"; allowed: a string of 1 to 52 characters',
        ),
    ],
)
def test_a_wrong_value_error_says_what_is_allowed(tmp_path: Path, text: str, said: str) -> None:
    assert mistake(tmp_path, ann=text) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            'tools = ["set_lmap"]\n',
            'tools[1]: found "set_lmap", which is not a tool here; allowed: set_lamp, run_output, or "*" alone; '
            "did you mean 'set_lamp'?",
        ),
        (
            'tools = ["xyzzy"]\n',
            'tools[1]: found "xyzzy", which is not a tool here; allowed: set_lamp, run_output, or "*" alone',
        ),
        ('tools = ["*", "set_lamp"]\n', 'tools: found "*" and other names; allowed: "*" alone, or names'),
        ('tools = ["set_lamp", "set_lamp"]\n', 'tools[2]: found "set_lamp" twice; allowed: once'),
        (
            'tools = ["set_lamp"]\nneeds_approval = ["run_output"]\n',
            'needs_approval[1]: found "run_output", which is not a tool of this agent; allowed: set_lamp',
        ),
        (
            'tools = ["*"]\nneeds_approval = ["run_outputs"]\n',
            'needs_approval[1]: found "run_outputs", which is not a tool of this agent; allowed: set_lamp, run_output; '
            "did you mean 'run_output'?",
        ),
        (
            'tools = ["set_lamp"]\n[phrases]\nset_lmap = ["lamp {on}"]\n',
            "phrases.set_lmap: \"set_lmap\" is not a tool of this agent; allowed: set_lamp; did you mean 'set_lamp'?",
        ),
        (
            'tools = ["set_lamp"]\n[phrases]\nset_lamp = ["light the lamp"]\n',
            "phrases.set_lamp: tool 'set_lamp': the phrase 'light the lamp' lacks the required parameter 'on': "
            "write {on} where its value is said",
        ),
        (
            '[phrases]\nset_lamp = "lamp {on}"\n',
            'phrases: found "lamp {on}"; allowed: a table of lists of sentences under [phrases]',
        ),
        (
            'needs_approval = ["set_lamp"]\n',
            'needs_approval[1]: found "set_lamp", which is not a tool of this agent; allowed: none',
        ),
    ],
)
def test_invalid_tool_names_are_refused(tmp_path: Path, text: str, said: str) -> None:
    assert mistake(tmp_path, ann=ANN + text) == f"ann.toml: {said}"


def test_a_long_list_of_names_is_truncated_in_a_message(tmp_path: Path) -> None:
    many = {f"tool_{n}": set_lamp for n in range(20)}
    with pytest.raises(SettingsError, match=r"tool_15 and more, or"):
        load_agents(write(tmp_path, ann=ANN + 'tools = ["xyzzy"]\n'), tools=many)


@pytest.mark.parametrize(
    ("stem", "said"),
    [
        ("bop", "found \"bop\", which has no TOML file in <folder>; allowed: bob; did you mean 'bob'?"),
        ("bob.toml", "found \"bob.toml\", which has no TOML file in <folder>; allowed: bob; did you mean 'bob'?"),
        ("Bob", "found \"Bob\", which has no TOML file in <folder>; allowed: bob; did you mean 'bob'?"),
        ("xyzzy", 'found "xyzzy", which has no TOML file in <folder>; allowed: bob'),
        ("ann", 'found "ann", which is the agent itself; allowed: another agent'),
        ("../bob", 'found "../bob"; allowed: the name of a file in <folder>, without .toml'),
        ("sub/bob", 'found "sub/bob"; allowed: the name of a file in <folder>, without .toml'),
        ("..", 'found ".."; allowed: the name of a file in <folder>, without .toml'),
        (
            "b\\u0000\\nob",
            "found \"b\\u0000 ob\", which has no TOML file in <folder>; allowed: bob; did you mean 'bob'?",
        ),
    ],
)
def test_a_handoff_to_a_missing_or_outside_file_is_refused(tmp_path: Path, stem: str, said: str) -> None:
    assert mistake(tmp_path, ann=f'{ANN}[[handoffs]]\nagent = "{stem}"\n', bob=BOB) == (
        f"ann.toml: handoffs[1].agent: {said}"
    )


def test_an_existing_file_outside_the_directory_is_refused(tmp_path: Path) -> None:
    write(tmp_path, bob=BOB)
    folder = tmp_path / "agents"
    folder.mkdir()
    assert mistake(folder, ann=ANN + '[[handoffs]]\nagent = "../bob"\n').startswith("ann.toml: handoffs[1].agent: ")


def test_an_error_in_a_handoff_target_names_its_file(tmp_path: Path) -> None:
    bad = BOB + 'voise = "cedar"\n'
    assert mistake(tmp_path, ann=ANN + TO_BOB, bob=bad) == "bob.toml: voise: unknown key; did you mean 'voice'?"


def test_two_agents_with_the_same_name_are_refused(tmp_path: Path) -> None:
    said = mistake(tmp_path, ann=ANN + TO_BOB, bob=BOB.replace('"Bob"', '" ANN"'))
    assert said == 'bob.toml: name: found "ANN", which ann.toml already uses; allowed: a unique name (case is ignored)'


def test_two_handoffs_to_one_agent_need_different_tool_names(tmp_path: Path) -> None:
    said = mistake(tmp_path, ann=ANN + TO_BOB + TO_BOB, bob=BOB)
    assert said == (
        'ann.toml: handoffs[2].tool_name: found "transfer_to_bob", the name of handoffs[1]; allowed: a unique name'
    )
    fixed = load(tmp_path, ann=ANN + TO_BOB + TO_BOB + 'tool_name = "bob_at_once"\n', bob=BOB)
    assert [one.tool_name for one in fixed.transfers()] == ["transfer_to_bob", "bob_at_once"]


def test_a_handoff_with_the_name_of_a_tool_is_refused(tmp_path: Path) -> None:
    said = mistake(tmp_path, ann=ANN + 'tools = ["set_lamp"]\n' + TO_BOB + 'tool_name = "set_lamp"\n', bob=BOB)
    assert said == (
        'ann.toml: handoffs[1].tool_name: found "set_lamp", the name of the tool set_lamp; allowed: a unique name'
    )


def test_two_tools_with_the_same_name_are_refused_in_one_line(tmp_path: Path) -> None:
    path = write(tmp_path, ann=ANN + 'tools = ["*"]\n')
    with pytest.raises(SettingsError, match=r"ann\.toml: tools: .*two tools are named set_lamp"):
        load_agents(path, tools={"lamp": set_lamp, "light": set_lamp})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'name = "Ann\n', "ann.toml: is not TOML: "),
        (b"x = " + b"[" * 5000, "ann.toml: is not TOML: "),
        (b"x = " + b"1" * 5000, "ann.toml: is not TOML: "),
        (b'name = "\xff"', "ann.toml: is not UTF-8 text (byte 8); save it as UTF-8"),
        (b"#" * (MOST_BYTES + 1), "ann.toml: is larger than 64 KiB; shorten it, all of it goes to the model"),
        (b"", "ann.toml: name: is missing; allowed: a string of 1 to 52 characters"),
    ],
    ids=["unterminated string", "too deep", "number too long", "not UTF-8", "too large", "empty"],
)
def test_an_unreadable_file_raises_a_one_line_error(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "bob.toml").write_text(BOB + TO_ANN)
    (tmp_path / "ann.toml").write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        load_agents(tmp_path / "bob.toml", tools=TOOLS)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{tmp_path}{os.sep}{said}")


def test_a_missing_first_file_error_has_its_path(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"ann\.toml: cannot be read: No such file or directory; give the path"):
        load_agents(tmp_path / "ann.toml", tools=TOOLS)


def test_a_folder_as_first_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ann.toml").mkdir()
    with pytest.raises(SettingsError, match=r"ann\.toml: is not a regular file"):
        load_agents(tmp_path / "ann.toml", tools=TOOLS)


def test_a_symlink_to_itself_raises_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "ann.toml").symlink_to(tmp_path / "ann.toml")
    with pytest.raises(SettingsError, match=r"ann\.toml: cannot be read: "):
        load_agents(tmp_path / "ann.toml", tools=TOOLS)


def test_a_first_file_with_another_suffix_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ann.txt").write_text(ANN)
    with pytest.raises(SettingsError, match=r"ann\.txt: the file of an agent must end in \.toml"):
        load_agents(tmp_path / "ann.txt", tools=TOOLS)


def test_every_field_has_its_own_allowed_text(tmp_path: Path) -> None:
    """Put a list where a string belongs, in each place in turn: the message must not use a fallback text."""
    places = {
        "name": "name = [1]\ninstructions = 'x'\n",
        "handoff_description": ANN + "handoff_description = [1]\n",
        "first_sentence": ANN + "first_sentence = [1]\n",
        "instructions_file": 'name = "Ann"\ninstructions_file = [1]\n',
        "prompt": 'name = "Ann"\nprompt = [1]\n',
        "prompt.states": 'name = "Ann"\n[prompt]\nstates = "x"\n',
        "prompt.states[1].id": 'name = "Ann"\n[[prompt.states]]\nid = [1]\ndescription = "x"\n',
        "handoffs[1].description": ANN + TO_BOB + "description = [1]\n",
    }
    allowed = {
        "name": "a string of 1 to 52 characters",
        "instructions_file": "a non-empty string",
        "prompt": "a table under [prompt]",
        "prompt.states": "tables under [[prompt.states]]",
        "prompt.states[1].id": "a non-empty string",
    }
    for key, text in places.items():
        found = '"x"' if key == "prompt.states" else "a list"
        expected = f"ann.toml: {key}: found {found}; allowed: {allowed.get(key, 'a string')}"
        assert mistake(tmp_path, ann=text) == expected
