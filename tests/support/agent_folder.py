"""Folders of agent files, as a test writes and loads them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from appliance.agents.agent import RealtimeAgent
from appliance.agents.tools import Tool, tool
from appliance.errors import SettingsError
from appliance.runtime.agent_loader import load_agents

__all__ = [
    "ALL_KEYS",
    "ANN",
    "BOB",
    "STATES",
    "TOOLS",
    "TO_ANN",
    "TO_BOB",
    "load",
    "mistake",
    "run_output",
    "set_lamp",
    "write",
]


@tool
async def set_lamp(on: bool) -> bool:
    """Switch the lamp."""
    return on


@tool
async def run_output() -> str:
    """Pulse the door opener."""
    return "open"


TOOLS: Mapping[str, Tool] = {"set_lamp": set_lamp, "run_output": run_output}

ANN = 'name = "Ann"\ninstructions = "You are Ann."\n'

BOB = 'name = "Bob"\ninstructions = "You are Bob."\n'

TO_BOB = '[[handoffs]]\nagent = "bob"\n'

ALL_KEYS = (
    "name, handoff_description, voice, instructions, instructions_file, tools, needs_approval, first_sentence, "
    "blocked_words, output_guardrails, input_guardrails, hooks, phrases, settings, prompt, handoffs, mcp"
)

TO_ANN = '[[handoffs]]\nagent = "ann"\n'


def write(folder: Path, **files: str) -> Path:
    """Write ``<stem>.toml`` files and return the path of the first."""
    for stem, text in files.items():
        (folder / f"{stem}.toml").write_text(text, encoding="utf-8")
    return folder / f"{next(iter(files))}.toml"


def load(folder: Path, **files: str) -> RealtimeAgent:
    return load_agents(write(folder, **files), tools=TOOLS)


def mistake(folder: Path, **files: str) -> str:
    """Return the error message without the folder; check that it is one line and starts with the file."""
    with pytest.raises(SettingsError) as caught:
        load(folder, **files)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{folder}{os.sep}")
    return text.replace(f"{folder}{os.sep}", "").replace(str(folder), "<folder>")


STATES = """
name = "Ann"
[prompt]
identity = "You are Ann."
[[prompt.states]]
id = "1_greeting"
description = "Say hello."
[[prompt.states.transitions]]
next = "2_ask"
when = "the user has answered"
[[prompt.states]]
id = "2_ask"
description = "Ask."
"""
