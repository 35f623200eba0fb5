"""Agents described in TOML: one file per agent, with the prompt in it or in a Markdown file.

::

    name = "Kitchen"
    tools = ["start_timer", "list_timers"]

    [prompt]
    identity = "You are a calm cook who has both hands free."
    task = "Help to cook, one step at a time."

    [[handoffs]]
    agent = "house"                 # house.toml, in the same directory

`read_agents` reads a file and all files that its handoffs reach, including cycles. ``docs/agents-in-toml.md`` describes
the format. Everything is read and checked at the start; an error is one line.

Instructions and agents outside the directory of the first file are never read: a file from another author could send
any file to the model (``instructions_file = "../../secret"``), by path or through a link. Modules and programs that a
file names (``module:attribute``, ``[[mcp]]``) are run, like those of the settings.
"""

from __future__ import annotations

import re
import stat
import tomllib
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from pydantic import ValidationError

from appliance.agents.agent import RealtimeAgent
from appliance.agents.agent_format import (
    MCP_KEYS,
    AgentTable,
    Lines,
    McpTable,
    Prompt,
    PromptState,
    explained,
    listed,
    wrong,
)
from appliance.agents.context import RunContext
from appliance.agents.guardrails import GuardrailFunctionOutput, InputGuardrail, OutputGuardrail
from appliance.agents.handoffs import Handoff, handoff
from appliance.agents.hooks import RealtimeAgentHooks
from appliance.agents.mcp_servers import HostedMcp, McpServer
from appliance.agents.tools import Tool, tools_of
from appliance.errors import SettingsError, ToolError, did_you_mean, one_line, reason_of, shown

__all__ = ["AgentParts", "Resolve", "prompt_markdown", "read_agents"]

T = TypeVar("T")

MOST_BYTES: Final = 64 * 1024  # instructions are sent with each session; a larger file is a mistake
_ALL: Final = "*"
_VARIABLE: Final = re.compile(r"\$\{(\w+)\}")
_NEVER_A_SESSION_SETTING: Final = (
    "name",
    "handoff_description",
    "instructions_file",
    "needs_approval",
    "first_sentence",
    "blocked_words",
    "output_guardrails",
    "input_guardrails",
    "hooks",
    "phrases",
)


@dataclass(frozen=True, slots=True)
class _Source:
    path: Path
    file: AgentTable
    instructions: str


class Resolve(Protocol):
    """Resolves a ``module:attribute`` reference, such as `plugins.resolve` with a folder."""

    def __call__(self, reference: str, take: Callable[[Any], T | None], allowed: str) -> T:
        """Return ``take(object)``; `take` returns None if the object does not fit.

        Raises:
            SettingsError: ``found "…", …``: there is no such object, or it does not fit `allowed`.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentParts:
    """The objects that a file may name."""

    tools: Mapping[str, Tool]
    """Never changed: an agent that sets ``needs_approval`` or ``phrases`` gets a copy."""
    resolve: Resolve
    mcp_server: Callable[..., McpServer]
    """Creates a server from ``name``, ``command`` or ``url``, and the options of its class; see `runtime.mcp`."""
    environ: Mapping[str, str] = field(repr=False)
    """Variables for ``${NAME}``."""


# --- reading ----------------------------------------------------------------------------------------------------


def read_agents(path: Path, parts: AgentParts) -> RealtimeAgent:
    """Read an agent from a TOML file, and all agents that its handoffs reach.

    Blocks while it reads files and imports the modules that they name; call it before the session starts.

    Args:
        path: The ``.toml`` file of the first agent. A link is resolved; the agents' directory is that of its target.
        parts: The objects that a file may name.

    Returns:
        The first agent; its handoffs refer to the others.

    Raises:
        SettingsError: One line with the file, the key, the value, what is allowed and, if there is one, the nearest
            known name.
    """
    sources = _read_all(path)
    links: dict[str, list[RealtimeAgent | Handoff]] = {stem: [] for stem in sources}
    agents = {stem: _agent(source, parts, links[stem]) for stem, source in sources.items()}
    for stem, source in sources.items():
        links[stem] += _handoffs(source, agents, sources)
    return next(iter(agents.values()))


def _read_all(path: Path) -> dict[str, _Source]:
    """Read a file and all files that its handoffs reach, by stem; the first file is first."""
    if path.suffix != ".toml":
        raise SettingsError(f"{path}: the file of an agent must end in .toml; rename it")
    try:
        start = path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise SettingsError(
            f"{path}: cannot be read: {reason_of(error)}; give the path of an agent's TOML file"
        ) from error
    sources: dict[str, _Source] = {}
    owners: dict[str, Path] = {}
    waiting = [start.stem]
    while waiting:
        stem = waiting.pop(0)
        if stem in sources:
            continue
        source = sources[stem] = _read(start.parent / f"{stem}.toml")
        owner = owners.setdefault(source.file.name.strip().casefold(), source.path)
        if owner != source.path:
            raise wrong(
                source.path,
                "name",
                f"found {shown(source.file.name)}, which {owner.name} already uses; "
                "allowed: a unique name (case is ignored)",
            )
        waiting += _stems(source)
    return sources


def _read(path: Path) -> _Source:
    try:
        text = _text(path, path.parent)
    except _Unreadable as error:
        raise SettingsError(f"{path}: {error}") from error
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits is a plain ValueError
        raise SettingsError(f"{path}: is not TOML: {one_line(str(error))}") from error
    try:
        file = AgentTable.model_validate(table)
    except ValidationError as error:
        raise wrong(path, *explained(error)) from None
    _check(path, file)
    return _Source(path, file, _instructions(path, file))


class _Unreadable(Exception):
    """A file cannot be used; the text has the reason and the remedy."""


def _text(path: Path, directory: Path) -> str:
    try:
        real = path.resolve(strict=True)
        if not real.is_relative_to(directory):
            raise _Unreadable(f"is outside {directory}; put the file there instead of a link")
        if not stat.S_ISREG(real.stat().st_mode):  # a pipe would block, a device may be endless
            raise _Unreadable("is not a regular file; allowed: a text file")
        with real.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
    except (OSError, RuntimeError, ValueError) as error:
        raise _Unreadable(f"cannot be read: {reason_of(error)}; allowed: a text file") from error
    if len(content) > MOST_BYTES:
        raise _Unreadable(f"is larger than {MOST_BYTES // 1024} KiB; shorten it, all of it goes to the model")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise _Unreadable(f"is not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def _instructions(path: Path, file: AgentTable) -> str:
    """Return the instructions for the model; `file` has passed `_check`."""
    if file.prompt is not None:
        text = prompt_markdown(file.prompt)
        if not text:
            raise wrong(path, "prompt", "found no section with text; allowed: at least one, such as identity")
        return text
    if file.instructions_file is None:
        return (file.instructions or "").strip()
    named = file.instructions_file
    directory = path.parent
    if Path(named).is_absolute() or ".." in Path(named).parts:
        raise wrong(path, "instructions_file", f"found {shown(named)}; allowed: a file in {directory}")
    try:
        text = _text(directory / named, directory).strip()
    except _Unreadable as error:
        raise wrong(path, "instructions_file", f"found {shown(named)}, which {error}") from error
    if not text:
        raise wrong(path, "instructions_file", f"found {shown(named)}, which is empty; write the instructions in it")
    return text


def _stems(source: _Source) -> list[str]:
    directory = source.path.parent
    known = sorted(one.stem for one in directory.glob("*.toml"))
    stems = [one.agent for one in source.file.handoffs]
    for place, stem in enumerate(stems, start=1):
        key = f"handoffs[{place}].agent"
        if "/" in stem or "\\" in stem or stem in (".", ".."):
            raise wrong(
                source.path, key, f"found {shown(stem)}; allowed: the name of a file in {directory}, without .toml"
            )
        if stem not in known:
            others = [one for one in known if one != source.path.stem]
            raise wrong(
                source.path,
                key,
                f"found {shown(stem)}, which has no TOML file in {directory}; allowed: {listed(others)}"
                f"{did_you_mean(stem.removesuffix('.toml'), others)}",
            )
        if stem == source.path.stem:
            raise wrong(source.path, key, f"found {shown(stem)}, which is the agent itself; allowed: another agent")
    return stems


# --- checks across keys -----------------------------------------------------------------------------------------


def _check(path: Path, file: AgentTable) -> None:
    """Check keys of one file against each other.

    Raises:
        SettingsError: Two keys conflict.
    """
    ways = {"instructions": file.instructions, "instructions_file": file.instructions_file, "[prompt]": file.prompt}
    given = [key for key, value in ways.items() if value is not None]
    if len(given) != 1:
        found = " and ".join(given) or "no instructions"
        raise wrong(path, given[-1] if given else "instructions", f"found {found}; allowed: one of {', '.join(ways)}")
    for key in _NEVER_A_SESSION_SETTING:
        if key in file.settings:
            raise wrong(path, f"settings.{key}", "is under [settings]; move it above the first table of the file")
    if file.prompt is not None:
        _check_states(path, file.prompt.states)


def _check_states(path: Path, states: Sequence[PromptState]) -> None:
    known: list[str] = []
    for place, state in enumerate(states, start=1):
        if state.id in known:
            raise wrong(
                path,
                f"prompt.states[{place}].id",
                f"found {shown(state.id)}, which another state already has; allowed: a unique id",
            )
        known.append(state.id)
    for place, state in enumerate(states, start=1):
        for way, transition in enumerate(state.transitions, start=1):
            if transition.next not in known:
                raise wrong(
                    path,
                    f"prompt.states[{place}].transitions[{way}].next",
                    f"found {shown(transition.next)}, which is not a state; allowed: {listed(known)}"
                    f"{did_you_mean(transition.next, known)}",
                )


# --- agents -----------------------------------------------------------------------------------------------------


def _agent(source: _Source, parts: AgentParts, links: list[RealtimeAgent | Handoff]) -> RealtimeAgent:
    """Create the agent of a file; the caller adds its handoffs to `links` later."""
    file = source.file
    blocked = [_blocks(file.blocked_words)] if file.blocked_words else []
    hooks = [file.hooks] if file.hooks else []
    try:
        return RealtimeAgent(
            name=file.name.strip(),
            instructions=source.instructions,
            tools=_tools(source, parts),
            handoffs=links,
            handoff_description=file.handoff_description,
            voice=file.voice,
            settings=file.settings,
            output_guardrails=[
                *blocked,
                *_objects(source, "output_guardrails", file.output_guardrails, OutputGuardrail, parts),
            ],
            input_guardrails=_objects(source, "input_guardrails", file.input_guardrails, InputGuardrail, parts),
            mcp_servers=[_server(source, place, one, parts) for place, one in enumerate(file.mcp, start=1)],
            hooks=next(iter(_objects(source, "hooks", hooks, RealtimeAgentHooks, parts)), None),
        )
    except ToolError as error:
        raise wrong(source.path, "tools", str(error)) from error


def _objects(source: _Source, key: str, references: Sequence[str], kind: type[T], parts: AgentParts) -> list[T]:
    """Return the objects that a key names, all of one class."""

    def take(value: Any) -> T | None:
        return value if isinstance(value, kind) else None

    return [_resolved(source, key, one, take, f"an object of {kind.__name__}", parts) for one in references]


def _resolved(
    source: _Source, key: str, reference: str, take: Callable[[Any], T | None], allowed: str, parts: AgentParts
) -> T:
    try:
        return parts.resolve(reference, take, allowed)
    except SettingsError as error:
        raise wrong(source.path, key, str(error)) from error


def _tools(source: _Source, parts: AgentParts) -> list[Tool]:
    file, tools = source.file, parts.tools
    if _ALL in file.tools and len(file.tools) > 1:
        raise wrong(source.path, "tools", 'found "*" and other names; allowed: "*" alone, or names')
    found: list[Tool] = []
    names = list(tools) if file.tools == [_ALL] else file.tools
    for place, name in enumerate(names, start=1):
        key = f"tools[{place}]"
        if name in names[: place - 1]:
            raise wrong(source.path, key, f"found {shown(name)} twice; allowed: once")
        if ":" in name:
            found += _resolved(source, key, name, tools_of, "a Tool, or a list of Tools", parts)
        elif name in tools:
            found.append(tools[name])
        else:
            raise wrong(
                source.path,
                key,
                f'found {shown(name)}, which is not a tool here; allowed: {listed(tools)}, or "*" alone'
                f"{did_you_mean(name, tools)}",
            )
    known = [one.name for one in found]
    for place, name in enumerate(file.needs_approval, start=1):
        if name not in known:
            raise wrong(
                source.path,
                f"needs_approval[{place}]",
                f"found {shown(name)}, which is not a tool of this agent; allowed: {listed(known)}"
                f"{did_you_mean(name, known)}",
            )
    for name in file.phrases:
        if name not in known:
            raise wrong(
                source.path,
                f"phrases.{name}",
                f"{shown(name)} is not a tool of this agent; allowed: {listed(known)}{did_you_mean(name, known)}",
            )
    found = [_with_phrases(source, one) if one.name in file.phrases else one for one in found]
    return [replace(one, needs_approval=True) if one.name in file.needs_approval else one for one in found]


def _with_phrases(source: _Source, one: Tool) -> Tool:
    try:
        return replace(one, phrases=(*one.phrases, *source.file.phrases[one.name]))
    except ToolError as exc:
        raise wrong(source.path, f"phrases.{one.name}", str(exc)) from None


def _server(source: _Source, place: int, table: McpTable, parts: AgentParts) -> McpServer | HostedMcp:
    """Create an MCP server; connects nothing and starts no program."""
    key = f"mcp[{place}]"
    if not table.kind:
        raise wrong(
            source.path,
            key,
            "found no server; allowed: command (a program), url (over HTTP), or label with url or connector "
            "(called by the model's side)",
        )
    for one in sorted(table.model_fields_set - MCP_KEYS[table.kind]):
        allowed = ", ".join(sorted(MCP_KEYS[table.kind]))
        raise wrong(source.path, f"{key}.{one}", f"found together with {table.kind}; allowed there: {allowed}")

    def filled(group: str) -> dict[str, str]:
        values = getattr(table, group).items()
        return {name: _filled(source, f"{key}.{group}.{name}", text, parts) for name, text in values}

    common = table.model_dump(include={"name", "allowed_tools", "needs_approval", "timeout_s"})
    try:
        if table.kind == "label":
            return HostedMcp(
                server_label=table.label,
                server_url=table.url,
                connector_id=table.connector,
                server_description=table.description,
                authorization=_filled(source, f"{key}.authorization", table.authorization, parts),
                headers=filled("headers"),
                allowed_tools=table.allowed_tools,
                require_approval=table.require_approval,
            )
        if table.kind == "url":
            return parts.mcp_server(url=table.url, headers=filled("headers"), **common)
        return parts.mcp_server(
            command=table.command,
            args=table.args,
            env=filled("env"),
            cwd=source.path.parent / table.cwd,
            **common,
        )
    except ToolError as error:
        raise wrong(source.path, key, str(error)) from error


def _filled(source: _Source, key: str, text: str, parts: AgentParts) -> str:
    """Replace ``${NAME}`` with environment variables; no message shows their values."""

    def value(found: re.Match[str]) -> str:
        if not parts.environ.get(found[1]):
            raise wrong(
                source.path, key, f"found ${{{found[1]}}}, and this variable is not set; set it in the environment"
            )
        return parts.environ[found[1]]

    return _VARIABLE.sub(value, text)


def _handoffs(
    source: _Source, agents: Mapping[str, RealtimeAgent], sources: Mapping[str, _Source]
) -> list[RealtimeAgent | Handoff]:
    owner = agents[source.path.stem]
    taken = {one.name: f"the tool {one.name}" for one in owner.tools}
    made: list[RealtimeAgent | Handoff] = []
    for place, one in enumerate(source.file.handoffs, start=1):
        transfer = handoff(
            agents[one.agent],
            tool_name=one.tool_name,
            description=one.description,
            first_sentence=one.first_sentence or sources[one.agent].file.first_sentence,
        )
        key = f"handoffs[{place}]"
        if transfer.tool_name in taken:
            raise wrong(
                source.path,
                f"{key}.tool_name",
                f"found {shown(transfer.tool_name)}, the name of {taken[transfer.tool_name]}; allowed: a unique name",
            )
        taken[transfer.tool_name] = key
        made.append(transfer)
    return made


def _blocks(words: Sequence[str]) -> OutputGuardrail:
    """Return a guardrail that trips on whole words.

    A transcript is checked while it grows. A word at its end counts, although more letters may follow: waiting for
    them would miss the last word.
    """
    patterns = [_pattern(one) for one in words]

    def blocked_words(context: RunContext[Any], agent: RealtimeAgent, text: str) -> GuardrailFunctionOutput:
        said = _folded(text)
        for word, pattern in zip(words, patterns, strict=True):
            if pattern.search(said):
                return GuardrailFunctionOutput(f"the word {word!r} must not be said", tripwire_triggered=True)
        return GuardrailFunctionOutput()

    return OutputGuardrail(blocked_words, "blocked_words")


def _pattern(word: str) -> re.Pattern[str]:
    """Return a pattern for a word or phrase without a letter or digit directly before or after it."""
    spaced = r"\s+".join(re.escape(one) for one in _folded(word).split())
    return re.compile(rf"(?<!\w){spaced}(?!\w)")


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")


# --- the prompt -------------------------------------------------------------------------------------------------


def prompt_markdown(prompt: Prompt) -> str:
    """Return the sections of a prompt as Markdown: ``# Identity``, ``# Task``, …, ``# Conversation states``.

    Sections without text are omitted. A list becomes a Markdown list.

    Returns:
        The text, without a newline at its end; "" if no section has text.
    """
    keys = [key for key in type(prompt).model_fields if key != "states"]
    bodies = {key.replace("_", " ").capitalize(): _body(getattr(prompt, key)) for key in keys}
    parts = [f"# {title}\n\n{body}" for title, body in bodies.items() if body]
    if prompt.states:
        opening = f"Start in `{prompt.states[0].id}`. Be in one state at a time; go on when a condition holds."
        parts.append("\n\n".join(["# Conversation states", opening, *map(_state, prompt.states)]))
    return "\n\n".join(parts)


def _body(lines: Lines) -> str:
    return lines.strip() if isinstance(lines, str) else "\n".join(_bullets(lines))


def _bullets(lines: Lines) -> list[str]:
    texts = [lines] if isinstance(lines, str) else lines
    return [f"- {' '.join(one.split())}" for one in texts if one.strip()]


def _state(state: PromptState) -> str:
    ways = [f"When {_bare(one.when)}: go to `{one.next}`." for one in state.transitions]
    lists = {"Instructions:": state.instructions, "Examples:": state.examples, "Next:": ways}
    shown = ["\n".join([title, *bullets]) for title, lines in lists.items() if (bullets := _bullets(lines))]
    return "\n\n".join([f"## {state.id}", state.description.strip(), *shown])


def _bare(condition: str) -> str:
    """Return a condition without "when" and full stop: "When the timer rings." becomes "the timer rings"."""
    return re.sub(r"(?i)^when\s+", "", condition.strip().rstrip("."))
