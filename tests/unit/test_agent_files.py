"""Agents described in TOML: the shipped agents, the file format, instructions and the prompt."""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from gpiozero.pins.mock import MockFactory, MockPWMPin

from appliance.agents.agent import RealtimeAgent, agents_of
from appliance.agents.agent_files import MOST_BYTES, prompt_markdown
from appliance.agents.agent_format import McpTable, Prompt
from appliance.agents.context import RunContext
from appliance.agents.guardrails import GuardrailFunctionOutput
from appliance.agents.tools import Tool
from appliance.errors import SettingsError
from appliance.hardware.outputs import open_outputs
from appliance.runtime.agent_loader import load_agents
from appliance.toolbox import DeviceParts, device_tools
from appliance.toolbox.status import StatusReader
from appliance.toolbox.timers import Timers
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
    run_output,
    set_lamp,
    write,
)

SHIPPED = Path(__file__).parents[2] / "config" / "agents"

DOCUMENTATION = (Path(__file__).parents[2] / "docs" / "agents-in-toml.md").read_text("utf-8")

SECTIONS = [
    "Identity",
    "Task",
    "Demeanour",
    "Tone",
    "Enthusiasm",
    "Formality",
    "Emotion",
    "Filler words",
    "Pacing",
    "Other",
    "Conversation states",
]


def tool_names(agent: RealtimeAgent) -> list[str]:
    return [one.name for one in agent.tools]


def instructions(agent: RealtimeAgent) -> str:
    assert isinstance(agent.instructions, str)
    return agent.instructions


# --- the shipped agents -----------------------------------------------------------------------------------------------


@dataclass
class Speaker:
    volume: int = 40


@dataclass
class ShippedAgents:
    """The shipped agents on a device with all parts."""

    tools: dict[str, Tool] = field(default_factory=dict)
    agents: dict[str, RealtimeAgent] = field(default_factory=dict)


def timers() -> Timers:
    return Timers(post=lambda event: None, path=None, clock=lambda: 100.0, wall=lambda: 1_800_000_000.0)


@pytest.fixture(scope="module")
def shipped() -> ShippedAgents:
    factory = MockFactory(pin_class=MockPWMPin)
    try:
        with open_outputs(lamp_pin=5, dimmer_pin=6, active_high=True, factory=factory) as outputs:
            parts = DeviceParts(
                lamp=outputs.lamp,
                light=outputs.dimmer,
                volume=Speaker(),
                timers=timers(),
                status=StatusReader(),
            )
            tools = {one.name: one for one in device_tools(parts)}
    finally:
        factory.close()
    return ShippedAgents(tools, agents_of(load_agents(SHIPPED / "house.toml", tools=tools)))


def test_the_shipped_house_hands_over_to_kitchen_and_bedtime_and_both_hand_back(shipped: ShippedAgents) -> None:
    assert list(shipped.agents) == ["House", "Kitchen", "Bedtime"]
    ways = {name: [one.agent.name for one in agent.transfers()] for name, agent in shipped.agents.items()}
    assert ways == {"House": ["Kitchen", "Bedtime"], "Kitchen": ["House"], "Bedtime": ["House"]}


def test_every_shipped_file_belongs_to_an_agent(shipped: ShippedAgents) -> None:
    described = {one.stem for one in SHIPPED.glob("*.toml")}
    assert described == {name.lower() for name in shipped.agents}
    named = {tomllib.loads(one.read_text("utf-8")).get("instructions_file") for one in SHIPPED.glob("*.toml")}
    assert {one.name for one in SHIPPED.iterdir()} == {f"{one}.toml" for one in described} | (named - {None})


def test_the_shipped_house_has_all_tools_of_the_device_and_the_kitchen_its_timers(shipped: ShippedAgents) -> None:
    assert tool_names(shipped.agents["House"]) == list(shipped.tools)
    assert tool_names(shipped.agents["Kitchen"]) == ["get_time", "start_timer", "list_timers", "cancel_timer"]


def test_the_shipped_agents_load_on_a_device_without_lamp_light_or_status() -> None:
    tools = {one.name: one for one in device_tools(DeviceParts(volume=Speaker(), timers=timers()))}
    house = load_agents(SHIPPED / "house.toml", tools=tools)
    assert tool_names(house) == ["set_volume", "get_volume", "get_time", "start_timer", "list_timers", "cancel_timer"]


@pytest.mark.parametrize("name", ["Kitchen", "Bedtime"])
def test_a_shipped_prompt_has_all_sections_in_order(shipped: ShippedAgents, name: str) -> None:
    assert re.findall(r"^# (.+)$", instructions(shipped.agents[name]), re.MULTILINE) == SECTIONS


@pytest.mark.parametrize("name", ["House", "Kitchen", "Bedtime"])
def test_every_name_in_backticks_in_a_shipped_prompt_exists(shipped: ShippedAgents, name: str) -> None:
    agent = shipped.agents[name]
    text = instructions(agent)
    states = re.findall(r"^## (.+)$", text, re.MULTILINE)
    known = {*tool_names(agent), *(one.tool_name for one in agent.transfers()), *states}
    named = set(re.findall(r"`([^`]+)`", text))
    assert named
    assert named <= known


@pytest.mark.parametrize("name", ["House", "Kitchen", "Bedtime"])
def test_a_shipped_prompt_has_short_sentences(shipped: ShippedAgents, name: str) -> None:
    text = re.sub(r"(?m)^#.*$|^- ", "\n\n", instructions(shipped.agents[name]))
    sentences = re.split(r"[.!?:;]\s|\n\s*\n", text)
    longest = max((one.split() for one in sentences), key=len)
    assert len(longest) <= 26, " ".join(longest)


def test_every_shipped_handoff_has_a_first_sentence_and_descriptions(shipped: ShippedAgents) -> None:
    for agent in shipped.agents.values():
        for transfer in agent.transfers():
            assert transfer.first_sentence
            assert transfer.description
            assert transfer.agent.handoff_description


# --- the format -------------------------------------------------------------------------------------------------------


def test_the_smallest_valid_file_has_a_name_and_instructions(tmp_path: Path) -> None:
    agent = load(tmp_path, ann=ANN)
    assert (agent.name, agent.instructions, agent.voice) == ("Ann", "You are Ann.", "")
    assert (list(agent.tools), list(agent.handoffs), dict(agent.settings)) == ([], [], {})
    assert list(agent.output_guardrails) == []


def test_all_values_of_a_file_reach_the_agent(tmp_path: Path) -> None:
    text = ANN + 'handoff_description = "For doors."\nvoice = "cedar"\n[settings]\nspeed = 1.1\nnested = { a = [1] }\n'
    agent = load(tmp_path, ann=text)
    assert (agent.voice, agent.handoff_description) == ("cedar", "For doors.")
    assert agent.settings == {"speed": 1.1, "nested": {"a": [1]}}


def test_tools_keep_the_order_of_the_file(tmp_path: Path) -> None:
    agent = load(tmp_path, ann=ANN + 'tools = ["run_output", "set_lamp"]\n')
    assert list(agent.tools) == [run_output, set_lamp]


def test_a_star_means_all_tools(tmp_path: Path) -> None:
    assert list(load(tmp_path, ann=ANN + 'tools = ["*"]\n').tools) == [set_lamp, run_output]


def test_a_tool_that_needs_approval_is_a_copy_and_the_original_is_unchanged(tmp_path: Path) -> None:
    agent = load(tmp_path, ann=ANN + 'tools = ["*"]\nneeds_approval = ["run_output"]\n')
    assert {one.name: one.needs_approval for one in agent.tools} == {"set_lamp": False, "run_output": True}
    assert run_output.needs_approval is False


def test_phrases_of_a_tool_are_added_in_a_copy(tmp_path: Path) -> None:
    agent = load(tmp_path, ann=ANN + 'tools = ["*"]\n[phrases]\nset_lamp = ["lamp {on}", "switch the lamp {on}"]\n')
    assert [list(one.phrases) for one in agent.tools] == [["lamp {on}", "switch the lamp {on}"], []]
    assert list(set_lamp.phrases) == []


def test_two_agents_may_hand_over_to_each_other(tmp_path: Path) -> None:
    ann = load(tmp_path, ann=ANN + TO_BOB, bob=BOB + TO_ANN)
    (to_bob,) = ann.transfers()
    (to_ann,) = to_bob.agent.transfers()
    assert to_bob.agent.name == "Bob"
    assert to_ann.agent is ann


def test_in_a_circle_of_three_handoffs_each_file_becomes_one_agent(tmp_path: Path) -> None:
    cid = 'name = "Cid"\ninstructions = "You are Cid."\n'
    to_cid = '[[handoffs]]\nagent = "cid"\n'
    ann = load(tmp_path, ann=ANN + TO_BOB + to_cid, bob=BOB + to_cid, cid=cid + TO_ANN)
    assert list(agents_of(ann)) == ["Ann", "Bob", "Cid"]


def test_a_file_without_a_handoff_to_it_is_not_read(tmp_path: Path) -> None:
    assert load(tmp_path, ann=ANN, other="this is [ no TOML").name == "Ann"


def test_a_handoff_has_the_tool_name_description_and_first_sentence_of_its_table(tmp_path: Path) -> None:
    more = 'description = "For Bob\'s things."\ntool_name = "call_bob"\nfirst_sentence = "Bob here."\n'
    (transfer,) = load(tmp_path, ann=ANN + TO_BOB + more, bob=BOB).transfers()
    assert transfer.tool_name == "call_bob"
    assert transfer.description == "For Bob's things."
    assert transfer.first_sentence == "Bob here."


def test_a_bare_handoff_uses_the_description_and_first_sentence_of_its_agent(tmp_path: Path) -> None:
    bob = BOB + 'handoff_description = "Knows doors."\nfirst_sentence = "Hello."\n'
    (transfer,) = load(tmp_path, ann=ANN + TO_BOB, bob=bob).transfers()
    assert transfer.tool_name == "transfer_to_bob"
    assert "Knows doors." in transfer.description
    assert transfer.first_sentence == "Hello."


def test_the_first_sentence_of_a_handoff_overrides_that_of_the_agent(tmp_path: Path) -> None:
    bob = BOB + 'first_sentence = "Hello."\n'
    (transfer,) = load(tmp_path, ann=ANN + TO_BOB + 'first_sentence = "Bob here."\n', bob=bob).transfers()
    assert transfer.first_sentence == "Bob here."


def test_a_symlink_to_the_first_file_is_resolved(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    write(real, ann=ANN + TO_BOB, bob=BOB + TO_ANN)
    link = tmp_path / "current.toml"
    link.symlink_to(real / "ann.toml")
    assert list(agents_of(load_agents(link, tools=TOOLS))) == ["Ann", "Bob"]


def test_a_relative_path_to_the_first_file_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, ann=ANN + TO_BOB, bob=BOB + TO_ANN)
    monkeypatch.chdir(tmp_path)
    assert load_agents(Path("ann.toml"), tools=TOOLS).name == "Ann"


def test_a_file_may_have_a_byte_order_mark_and_windows_line_endings(tmp_path: Path) -> None:
    (tmp_path / "ann.toml").write_bytes(b"\xef\xbb\xbf" + ANN.replace("\n", "\r\n").encode())
    assert load_agents(tmp_path / "ann.toml", tools=TOOLS).name == "Ann"


# --- instructions -----------------------------------------------------------------------------------------------------


def with_file(folder: Path, content: bytes | None, named: str = "ann.md") -> dict[str, str]:
    if content is not None:
        (folder / named).write_bytes(content)
    return {"ann": f'name = "Ann"\ninstructions_file = "{named}"\n'}


def test_a_markdown_file_is_used_verbatim_with_any_section_names(tmp_path: Path) -> None:
    text = "# Identity\n\nYou are Ann.\n\n# A section of my own\n\n- Grüße\n"
    assert load(tmp_path, **with_file(tmp_path, text.encode())).instructions == text.strip()


def test_a_markdown_file_may_be_in_a_subfolder(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    assert load(tmp_path, **with_file(tmp_path, b"You are Ann.", "texts/ann.md")).instructions == "You are Ann."


def test_a_markdown_file_of_64_kib_is_accepted(tmp_path: Path) -> None:
    assert len(instructions(load(tmp_path, **with_file(tmp_path, b"x" * MOST_BYTES)))) == 65536


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", 'ann.toml: instructions_file: found "ann.md", which is empty; write the instructions in it'),
        (b" \n\n", 'ann.toml: instructions_file: found "ann.md", which is empty; write the instructions in it'),
        (
            b"x" * (MOST_BYTES + 1),
            'ann.toml: instructions_file: found "ann.md", which is larger than 64 KiB; shorten it, '
            "all of it goes to the model",
        ),
        (
            b"Gr\xfc\xdfe",
            'ann.toml: instructions_file: found "ann.md", which is not UTF-8 text (byte 2); save it as UTF-8',
        ),
        (
            None,
            'ann.toml: instructions_file: found "ann.md", which cannot be read: No such file or directory; '
            "allowed: a text file",
        ),
    ],
    ids=["empty", "blank", "too large", "not UTF-8", "missing"],
)
def test_an_unusable_markdown_file_raises_a_one_line_error(tmp_path: Path, content: bytes | None, said: str) -> None:
    assert mistake(tmp_path, **with_file(tmp_path, content)) == said


def test_a_pipe_is_refused_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ann.md")
    assert "is not a regular file" in mistake(tmp_path, **with_file(tmp_path, None))


@pytest.mark.parametrize("named", ["../secret.md", "texts/../../secret.md"])
def test_instructions_outside_the_directory_are_refused(tmp_path: Path, named: str) -> None:
    (tmp_path / "secret.md").write_text("secret")
    folder = tmp_path / "agents"
    (folder / "texts").mkdir(parents=True)
    said = mistake(folder, ann=f'name = "Ann"\ninstructions_file = "{named}"\n')
    assert said == f'ann.toml: instructions_file: found "{named}"; allowed: a file in <folder>'


def test_instructions_by_an_absolute_path_are_refused(tmp_path: Path) -> None:
    (tmp_path / "ann.md").write_text("You are Ann.")
    said = mistake(tmp_path, ann=f'name = "Ann"\ninstructions_file = "{tmp_path / "ann.md"}"\n')
    assert said.endswith("allowed: a file in <folder>")


def test_a_symlink_to_instructions_outside_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.md").write_text("secret")
    folder = tmp_path / "agents"
    folder.mkdir()
    (folder / "ann.md").symlink_to(tmp_path / "secret.md")
    said = mistake(folder, **with_file(folder, None))
    assert said.endswith('found "ann.md", which is outside <folder>; put the file there instead of a link')


def test_a_symlink_to_an_agent_outside_the_directory_is_refused(tmp_path: Path) -> None:
    write(tmp_path, bob=BOB)
    folder = tmp_path / "agents"
    folder.mkdir()
    (folder / "bob.toml").symlink_to(tmp_path / "bob.toml")
    assert mistake(folder, ann=ANN + TO_BOB) == "bob.toml: is outside <folder>; put the file there instead of a link"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            'name = "Ann"\n',
            "ann.toml: instructions: found no instructions; allowed: one of instructions, instructions_file, [prompt]",
        ),
        (
            ANN + 'instructions_file = "ann.md"\n',
            "ann.toml: instructions_file: found instructions and instructions_file; "
            "allowed: one of instructions, instructions_file, [prompt]",
        ),
        (
            ANN + '[prompt]\ntask = "x"\n',
            "ann.toml: [prompt]: found instructions and [prompt]; "
            "allowed: one of instructions, instructions_file, [prompt]",
        ),
        (
            'name = "Ann"\ninstructions = " "\n',
            'ann.toml: instructions: found ""; allowed: a non-empty string',
        ),
        (
            'name = "Ann"\n[prompt]\ntask = ""\n',
            "ann.toml: prompt: found no section with text; allowed: at least one, such as identity",
        ),
    ],
    ids=["none", "two", "text and prompt", "blank", "prompt without text"],
)
def test_instructions_must_come_from_exactly_one_source(tmp_path: Path, text: str, said: str) -> None:
    assert mistake(tmp_path, ann=text) == said


# --- the prompt -------------------------------------------------------------------------------------------------------


def test_sections_have_a_fixed_order_regardless_of_the_file() -> None:
    keys = [one.lower().replace(" ", "_") for one in SECTIONS[:-1]]
    prompt = Prompt.model_validate({key: f"About {key}." for key in reversed(keys)})
    expected = "\n\n".join(f"# {title}\n\nAbout {key}." for title, key in zip(SECTIONS, keys, strict=False))
    assert prompt_markdown(prompt) == expected


def test_a_list_becomes_a_markdown_list_and_empty_sections_are_omitted() -> None:
    prompt = Prompt(identity="", task=["Open doors.", " ", "Close\n  them."], tone=[])
    assert prompt_markdown(prompt) == "# Task\n\n- Open doors.\n- Close them."


def test_states_are_rendered_with_instructions_examples_and_transitions() -> None:
    prompt = Prompt.model_validate(
        {
            "identity": "You are Ann.\n",
            "states": [
                {
                    "id": "1_greeting",
                    "description": "Say hello.",
                    "instructions": ["Be short.", "Ask for the name."],
                    "examples": "Hello, who is it?",
                    "transitions": [{"next": "2_ask", "when": "When the name is known."}],
                },
                {"id": "2_ask", "description": "Ask."},
            ],
        }
    )
    assert prompt_markdown(prompt) == (
        "# Identity\n\nYou are Ann.\n\n"
        "# Conversation states\n\n"
        "Start in `1_greeting`. Be in one state at a time; go on when a condition holds.\n\n"
        "## 1_greeting\n\nSay hello.\n\n"
        "Instructions:\n- Be short.\n- Ask for the name.\n\n"
        "Examples:\n- Hello, who is it?\n\n"
        "Next:\n- When the name is known: go to `2_ask`.\n\n"
        "## 2_ask\n\nAsk."
    )


def test_the_prompt_of_a_file_becomes_the_instructions(tmp_path: Path) -> None:
    agent = load(tmp_path, ann=STATES)
    prompt = Prompt.model_validate(tomllib.loads(STATES)["prompt"])
    assert agent.instructions == prompt_markdown(prompt)
    assert "go to `2_ask`" in instructions(agent)


def test_a_transition_to_an_unknown_state_is_refused(tmp_path: Path) -> None:
    assert mistake(tmp_path, ann=STATES.replace('next = "2_ask"', 'next = "2_aks"')) == (
        'ann.toml: prompt.states[1].transitions[1].next: found "2_aks", which is not a state; '
        "allowed: 1_greeting, 2_ask; did you mean '2_ask'?"
    )


def test_two_states_with_the_same_id_are_refused(tmp_path: Path) -> None:
    assert mistake(tmp_path, ann=STATES.replace('id = "2_ask"', 'id = "1_greeting"')) == (
        'ann.toml: prompt.states[2].id: found "1_greeting", which another state already has; allowed: a unique id'
    )


# --- blocked words ----------------------------------------------------------------------------------------------------


async def verdict(agent: RealtimeAgent, text: str) -> GuardrailFunctionOutput:
    (guardrail,) = agent.output_guardrails
    assert guardrail.name == "blocked_words"
    found: Any = guardrail.guardrail_function(RunContext(context=None, agent=agent), agent, text)
    assert isinstance(found, GuardrailFunctionOutput)
    return found


@pytest.mark.parametrize(
    ("said", "trips"),
    [
        ("The PRICE, please.", True),
        ("price", True),
        ("It is priceless.", False),
        ("A reprice.", False),
        ("price2", False),
        ("Das ist eine STRASSE.", True),
        ("Two  for\none, today!", True),
        ("two for ones", False),
        ("That won\N{RIGHT SINGLE QUOTATION MARK}t do.", True),
        ("In C++ it is short.", True),
        ("A CAFE\N{COMBINING ACUTE ACCENT}.", True),
        ("", False),
    ],
)
async def test_blocked_words_trip_as_whole_words_regardless_of_case(tmp_path: Path, said: str, trips: bool) -> None:
    words = '["Price", "Straße", "two for one", "won\'t", "C++", "caf\N{LATIN SMALL LETTER E WITH ACUTE}"]'
    agent = load(tmp_path, ann=ANN + f"blocked_words = {words}\n")
    assert (await verdict(agent, said)).tripwire_triggered is trips


async def test_a_verdict_contains_the_blocked_word_but_not_the_answer(tmp_path: Path) -> None:
    agent = load(tmp_path, ann=ANN + 'blocked_words = ["price"]\n')
    assert (await verdict(agent, "My name is Eve, the PRICE is 3.")).output_info == "the word 'price' must not be said"


def test_a_blocked_word_needs_a_letter_or_digit_or_digit(tmp_path: Path) -> None:
    assert mistake(tmp_path, ann=ANN + 'blocked_words = ["price", "?"]\n') == (
        'ann.toml: blocked_words[2]: found "?"; allowed: a list of quoted words, each with a letter or digit'
    )


# --- the documentation ------------------------------------------------------------------------------------------------


def test_the_documentation_lists_exactly_the_known_keys() -> None:
    keys = [*ALL_KEYS.split(", "), *Prompt.model_fields, "agent", "description", "tool_name", "first_sentence"]
    keys += McpTable.model_fields
    rows = re.findall(r"(?m)^\| `\[{0,2}(\w+)\]{0,2}` \|", DOCUMENTATION)
    assert sorted(rows) == sorted(keys)


def test_the_examples_in_the_documentation_load(tmp_path: Path) -> None:
    small, prompt, handoff, _ = re.findall(r"```toml\n(.+?)```", DOCUMENTATION, re.DOTALL)
    tools = {"set_lamp": set_lamp, "get_time": run_output}
    assert len(load_agents(write(tmp_path, small=small), tools=tools).tools) == 2
    (transfer,) = load_agents(write(tmp_path, butler=handoff, kitchen=prompt), tools=tools).transfers()
    assert "go to `2_way`" in instructions(transfer.agent)


def test_the_error_message_in_the_documentation_is_current(tmp_path: Path) -> None:
    (shown,) = re.findall(r"```\nconfig/agents/(house\.toml: .+)\n```", DOCUMENTATION)
    path = write(tmp_path, house=ANN + 'tools = ["set_lmap"]\n')
    with pytest.raises(SettingsError) as caught:
        load_agents(path, tools={"set_lamp": set_lamp, "get_time": run_output})
    assert str(caught.value) == f"{tmp_path}{os.sep}{shown}"
