"""Python references and MCP servers in an agent's TOML file, and their secrets; each mistake is one line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from appliance.agents.agent import RealtimeAgent
from appliance.agents.guardrails import InputGuardrail, OutputGuardrail
from appliance.agents.hooks import RealtimeAgentHooks
from appliance.agents.mcp_servers import HostedMcp
from appliance.agents.tools import tool
from appliance.errors import SettingsError
from appliance.runtime.agent_loader import load_agents
from appliance.runtime.mcp import McpServerHttp, McpServerStdio

ANN = 'name = "Ann"\ninstructions = "You are Ann."\n'
SECRET = "hush-hush-42"
ENVIRON = {"HOUSE_TOKEN": SECRET, "EMPTY": ""}
PYTHON = """
from appliance import RealtimeAgentHooks, input_guardrail, output_guardrail, tool


@output_guardrail
def no_prices(context, agent, text):
    return "dollars" in text


@input_guardrail
def polite(context, agent, text):
    return False


@tool
def open_door() -> str:
    "Open the door."
    return "open"


hooks = RealtimeAgentHooks()
doors = [open_door]
"""


@tool
async def set_lamp(on: bool) -> bool:
    """Switch the lamp."""
    return on


def load(folder: Path, text: str) -> RealtimeAgent:
    (folder / "ann.toml").write_text(ANN + text, encoding="utf-8")
    (folder / "parts_ann.py").write_text(PYTHON, encoding="utf-8")
    return load_agents(folder / "ann.toml", tools={"set_lamp": set_lamp}, environ=ENVIRON)


def mistake(folder: Path, text: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(folder, text)
    said = str(caught.value)
    assert "\n" not in said
    assert SECRET not in said
    return said.replace(f"{folder}{os.sep}", "")


# --- Python by reference ------------------------------------------------------------------------------------------


def test_tools_guardrails_and_hooks_are_loaded_from_a_module(folder: Path) -> None:
    agent = load(
        folder,
        'tools = ["set_lamp", "parts_ann:doors"]\nneeds_approval = ["open_door"]\nblocked_words = ["price"]\n'
        'output_guardrails = ["parts_ann:no_prices"]\ninput_guardrails = ["parts_ann:polite"]\n'
        'hooks = "parts_ann:hooks"\n',
    )
    assert {one.name: one.needs_approval for one in agent.tools} == {"set_lamp": False, "open_door": True}
    assert [one.name for one in agent.output_guardrails] == ["blocked_words", "no_prices"]
    assert all(isinstance(one, OutputGuardrail) for one in agent.output_guardrails)
    assert [type(one) for one in agent.input_guardrails] == [InputGuardrail]
    assert type(agent.hooks) is RealtimeAgentHooks


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            'output_guardrails = ["parts_ann:polite"]\n',
            'output_guardrails: found "parts_ann:polite", which is of type InputGuardrail; '
            "allowed: an object of OutputGuardrail",
        ),
        (
            'tools = ["set_lamp", "parts_ann:hooks"]\n',
            'tools[2]: found "parts_ann:hooks", which is of type RealtimeAgentHooks; '
            "allowed: a Tool, or a list of Tools",
        ),
        (
            'hooks = "parts_ann:hoks"\n',
            "hooks: found \"parts_ann:hoks\", and the module has no 'hoks'; give the name of an object in it; "
            "did you mean 'hooks'?",
        ),
        ('hooks = "hooks"\n', 'hooks: found "hooks"; allowed: "module:attribute", such as "my_module:agent"'),
        ('hooks = ["parts_ann:hooks"]\n', 'hooks: found a list; allowed: "module:attribute", such as "my_hooks:hooks"'),
        (
            '[settings]\nhooks = "a:b"\n',
            "settings.hooks: is under [settings]; move it above the first table of the file",
        ),
        (
            'tools = ["parts_ann:open_door", "parts_ann:doors"]\n',
            "tools: agent 'Ann': two tools are named open_door; give each its own name",
        ),
    ],
)
def test_wrong_reference_is_one_line_with_file_and_key(folder: Path, text: str, said: str) -> None:
    assert mistake(folder, text) == f"ann.toml: {said}"


# --- MCP servers --------------------------------------------------------------------------------------------------


def server(folder: Path, text: str) -> Any:
    (one,) = load(folder, f"[[mcp]]\n{text}").mcp_servers
    return one


def test_program_starts_in_the_directory_of_the_file(folder: Path) -> None:
    one = server(
        folder,
        'name = "notes"\ncommand = "python3"\nargs = ["notes.py"]\nenv = { TOKEN = "${HOUSE_TOKEN}", PLAIN = "x" }\n'
        'allowed_tools = ["add"]\nneeds_approval = true\ntimeout_s = 20\n',
    )
    assert isinstance(one, McpServerStdio)
    assert (one.name, one.timeout_s, one._cwd, one._args) == ("notes", 20.0, folder, ["notes.py"])
    assert one._env == {"TOKEN": SECRET, "PLAIN": "x"}
    assert (one._allowed, one._all_need_approval) == (("add",), True)
    assert server(folder, 'name = "notes"\ncommand = "python3"\ncwd = "below"\n')._cwd == folder / "below"


def test_http_server_reads_its_token_from_the_environment(folder: Path) -> None:
    one = server(
        folder,
        'name = "house"\nurl = "http://house.local:8123/mcp"\nneeds_approval = ["unlock"]\n'
        'headers = { Authorization = "Bearer ${HOUSE_TOKEN}" }\n',
    )
    assert isinstance(one, McpServerHttp)
    assert one._headers == {"Authorization": f"Bearer {SECRET}"}
    assert one._needing_approval == ("unlock",)
    assert SECRET not in repr(one)


def test_label_makes_a_server_that_the_models_side_calls(folder: Path) -> None:
    text = 'label = "recipes"\nurl = "https://recipes.example.com/mcp"\nallowed_tools = ["search"]\n'
    more = 'description = "Food."\nheaders = { Key = "${HOUSE_TOKEN}" }\nrequire_approval = "never"\n'
    assert server(folder, text + more) == HostedMcp(
        server_label="recipes",
        server_url="https://recipes.example.com/mcp",
        server_description="Food.",
        headers={"Key": SECRET},
        allowed_tools=["search"],
        require_approval="never",
    )
    text = 'label = "mail"\nconnector = "connector_gmail"\nauthorization = "${HOUSE_TOKEN}"\n'
    one = server(folder, text + "[mcp.require_approval.never]\ntool_names = ['search']\n")
    assert (one.connector_id, one.authorization) == ("connector_gmail", SECRET)
    assert one.require_approval == {"never": {"tool_names": ["search"]}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            'name = "x"\n',
            "mcp[1]: found no server; allowed: command (a program), url (over HTTP), or label with url or connector "
            "(called by the model's side)",
        ),
        (
            'name = "x"\ncommand = "y"\nheaders = { A = "b" }\n',
            "mcp[1].headers: found together with command; allowed there: allowed_tools, args, command, cwd, env, name, "
            "needs_approval, timeout_s",
        ),
        (
            'name = "x"\nurl = "http://x"\nrequire_approval = "never"\n',
            "mcp[1].require_approval: found together with url; allowed there: allowed_tools, headers, name, "
            "needs_approval, timeout_s, url",
        ),
        ('command = "y"\n', "mcp[1]: an MCP server has no name: give it one, its errors mention it"),
        (
            'name = "x"\nurl = "ftp://x"\n',
            "mcp[1]: MCP server 'x': url is 'ftp://x'; it must start with http:// or https://",
        ),
        (
            'label = "x"\n',
            "mcp[1]: hosted MCP server 'x': no address given; "
            "it needs exactly one of server_url, connector_id and tunnel_id",
        ),
        (
            'name = "x"\nurl = "http://x"\nheaders = { A = "Bearer ${HOUSE_TOKN}" }\n',
            "mcp[1].headers.A: found ${HOUSE_TOKN}, and this variable is not set; set it in the environment",
        ),
        (
            'label = "x"\nconnector = "y"\nauthorization = "${EMPTY}"\n',
            "mcp[1].authorization: found ${EMPTY}, and this variable is not set; set it in the environment",
        ),
        (
            f'name = "x"\nurl = "http://x"\nheaders = "{SECRET}"\n',
            "mcp[1].headers: found another value; allowed: a table of strings",
        ),
        (
            f'name = "x"\nurl = "http://x"\nheaders = {{ A = ["{SECRET}"] }}\n',
            "mcp[1].headers: found another value; allowed: a table of strings",
        ),
        (
            'name = "x"\ncommand = "y"\ntimeout_s = 0\n',
            "mcp[1].timeout_s: found 0; allowed: a number of seconds above 0",
        ),
        (
            'name = "x"\ncommand = "y"\nneeds_approval = "z"\n',
            'mcp[1].needs_approval: found "z"; allowed: true, false or a list of names',
        ),
        ('name = "x"\ncomand = "y"\n', "mcp[1].comand: unknown key; did you mean 'command'?"),
    ],
)
def test_wrong_server_is_one_line_with_file_and_key(folder: Path, text: str, said: str) -> None:
    assert mistake(folder, f"[[mcp]]\n{text}") == f"ann.toml: {said}"
