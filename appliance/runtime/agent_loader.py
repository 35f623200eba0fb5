"""Agents described in TOML, with all that their files may name: tools, Python, programs and addresses."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from appliance.agents.agent import RealtimeAgent
from appliance.agents.agent_files import AgentParts, read_agents
from appliance.agents.tools import Tool
from appliance.plugins import resolve
from appliance.runtime.mcp import mcp_server

__all__ = ["load_agents"]


def load_agents(
    path: Path,
    *,
    tools: Mapping[str, Tool],
    folder: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> RealtimeAgent:
    """Read the agent that a TOML file describes, and every agent that can be reached from it by handoffs.

    Args:
        path: See `agents.agent_files.read_agents`.
        tools: The tools that a file may name.
        folder: Where modules that a file names are looked for before the installed ones; None is that of the file.
        environ: Where ``${NAME}`` is looked up; None is the process's.

    Raises:
        SettingsError: See `agents.agent_files.read_agents`.
    """
    return read_agents(
        path,
        AgentParts(
            tools=tools,
            resolve=partial(resolve, folder=folder or path.absolute().parent),
            mcp_server=mcp_server,
            environ=os.environ if environ is None else environ,
        ),
    )
