"""Agents described without code: one TOML file for each, with its prompt in it or in a Markdown file beside it.

::

    name = "Kitchen"
    tools = ["start_timer", "list_timers"]

    [prompt]
    identity = "You are a calm cook who has both hands free."
    task = "Help to cook, one step at a time."

    [[handoffs]]
    agent = "house"                 # house.toml, in the same directory

`load_agents` reads a file and all that it hands over to, in circles too. The format is in ``docs/agents-in-toml.md``.
Everything is read and checked at once: what is wrong is one line, before anybody has pressed a button.

Nothing outside the directory of the first file is read. A description may come from somebody else, and what it names
goes to the model: ``instructions_file = "../../secret"`` must not work, neither as a path nor through a link.
"""

from __future__ import annotations

import re
import stat
import tomllib
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Protocol, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from appliance.agents.agent import RealtimeAgent
from appliance.agents.context import RunContext
from appliance.agents.guardrails import GuardrailFunctionOutput, OutputGuardrail
from appliance.agents.handoffs import Handoff, handoff
from appliance.agents.tools import Tool
from appliance.errors import KEY_SHAPE, SettingsError, ToolError, did_you_mean

__all__ = ["Prompt", "PromptState", "PromptTransition", "Resolve", "load_agents", "prompt_markdown"]

T = TypeVar("T")

MOST_BYTES: Final = 64 * 1024  # instructions go to the model with each session: more than this is a wrong file
_ALL: Final = "*"
_MOST_NAMED: Final = 16  # names that a message lists before it says "and more"
_NEVER_A_SESSION_SETTING: Final = (
    "name",
    "handoff_description",
    "instructions_file",
    "needs_approval",
    "first_sentence",
    "blocked_words",
)

Lines = str | list[str]
"""One text, or a list of texts that is shown to the model as a list."""


# --- the format -------------------------------------------------------------------------------------------------


def _allows(text: str) -> dict[str, Any]:
    """Say in words what a field accepts; used in messages."""
    return {"allowed": text}


_Text = Annotated[str, Field(json_schema_extra=_allows("a text"))]
_FullText = Annotated[str, Field(pattern=r"\S", json_schema_extra=_allows("a text that is not empty"))]
_Lines = Annotated[Lines, Field(json_schema_extra=_allows("a text or a list of texts"))]
_Names = Annotated[list[str], Field(json_schema_extra=_allows("a list of names, each in quotes"))]
_Words = Annotated[
    list[Annotated[str, Field(pattern=r"\w")]],
    Field(json_schema_extra=_allows("a list of words, each in quotes and with a letter or digit in it")),
]


class _Table(BaseModel):
    """A table of the file: strict types, no unknown keys, frozen."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PromptTransition(_Table):
    """The way from one state of the conversation to another."""

    next: _FullText
    """`id` of a state."""
    when: _FullText
    """The condition, in words for the model."""


class PromptState(_Table):
    """One state of the conversation."""

    id: _FullText
    description: _FullText
    instructions: _Lines = ""
    examples: _Lines = ""
    """Sentences that the agent might say."""
    transitions: Annotated[
        list[PromptTransition], Field(json_schema_extra=_allows("tables under [[prompt.states.transitions]]"))
    ] = []


class Prompt(_Table):
    """The sections of a voice prompt, in the order in which they are shown to the model; "" leaves one out."""

    identity: _Lines = ""
    task: _Lines = ""
    demeanour: _Lines = ""
    tone: _Lines = ""
    enthusiasm: _Lines = ""
    formality: _Lines = ""
    emotion: _Lines = ""
    filler_words: _Lines = ""
    pacing: _Lines = ""
    other: _Lines = ""
    states: Annotated[list[PromptState], Field(json_schema_extra=_allows("tables under [[prompt.states]]"))] = []


class _Handoff(_Table):
    agent: _FullText
    description: _Text = ""
    tool_name: Annotated[
        str,
        Field(
            pattern=r"^[a-zA-Z0-9_-]{0,64}$",
            json_schema_extra=_allows("up to 64 letters, digits, '_' or '-'; empty makes one of the agent's name"),
        ),
    ] = ""
    first_sentence: _Text = ""


class _AgentFile(_Table):
    name: Annotated[
        str,
        Field(
            pattern=r"\S",
            max_length=52,  # transfer_to_<name> is a tool's name, which may have 64
            json_schema_extra=_allows("a text of 1 to 52 characters"),
        ),
    ]
    handoff_description: _Text = ""
    voice: _Text = ""
    instructions: _FullText | None = None
    instructions_file: _FullText | None = None
    tools: _Names = []
    needs_approval: _Names = []
    first_sentence: _Text = ""
    blocked_words: _Words = []
    settings: Annotated[dict[str, Any], Field(json_schema_extra=_allows("a table under [settings]"))] = {}
    prompt: Annotated[Prompt | None, Field(json_schema_extra=_allows("a table under [prompt]"))] = None
    handoffs: Annotated[list[_Handoff], Field(json_schema_extra=_allows("tables under [[handoffs]]"))] = []


@dataclass(frozen=True, slots=True)
class _Source:
    """A file that has been read."""

    path: Path
    file: _AgentFile
    instructions: str


class Resolve(Protocol):
    """Finds the object of a ``module:attribute``; `plugins.resolve` with a folder is one."""

    def __call__(self, reference: str, take: Callable[[Any], T | None], allowed: str) -> T:
        """Return what `take` makes of the object; it returns None for what does not fit.

        Raises:
            SettingsError: ``found "…", …``: there is no such object, or another than `allowed`.
        """
        ...


# --- reading ----------------------------------------------------------------------------------------------------


def load_agents(path: Path, *, tools: Mapping[str, Tool]) -> RealtimeAgent:
    """Read the agent that a TOML file describes, and every agent that can be reached from it by handoffs.

    Reads files, and blocks while it does; call it before the session starts, on any thread.

    Args:
        path: The file of the agent that starts; ends in ``.toml``. If it is a link, the agent's directory is where the
            link leads.
        tools: The tools that a file may name. They are not changed: one that needs approval only here is a copy.

    Returns:
        The agent that starts. Agents that hand over to each other hold each other.

    Raises:
        SettingsError: One line that names the file, the key, the value, what is allowed and, where there is one, the
            nearest known name.
    """
    sources = _read_all(path)
    links: dict[str, list[RealtimeAgent | Handoff]] = {stem: [] for stem in sources}
    agents = {stem: _agent(source, tools, links[stem]) for stem, source in sources.items()}
    for stem, source in sources.items():
        links[stem] += _handoffs(source, agents, sources)
    return next(iter(agents.values()))


def _read_all(path: Path) -> dict[str, _Source]:
    """Read a file and all that it leads to, by stem, the first first."""
    if path.suffix != ".toml":
        raise SettingsError(f"{path}: an agent is described in a file that ends in .toml; rename it")
    try:
        start = path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise SettingsError(f"{path}: cannot be read: {_why(error)}; name the TOML file of an agent") from error
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
            allowed = f"which {owner.name} has already; allowed: a name of its own, capitals aside"
            raise _wrong(source.path, "name", f"found {_shown(source.file.name)}, {allowed}")
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
        raise SettingsError(f"{path}: is not TOML: {' '.join(str(error).split())}") from error
    try:
        file = _AgentFile.model_validate(table)
    except ValidationError as error:
        raise _wrong(path, *_explained(error)) from None
    _check(path, file)
    return _Source(path, file, _instructions(path, file))


class _Unreadable(Exception):
    """A file cannot be used; says why, and what to do."""


def _text(path: Path, directory: Path) -> str:
    """Read a text file that lies in `directory`."""
    try:
        real = path.resolve(strict=True)
        if not real.is_relative_to(directory):
            raise _Unreadable(f"leads out of {directory}; put the file there, not a link")
        if not stat.S_ISREG(real.stat().st_mode):  # a pipe would block, a device would not end
            raise _Unreadable("is no file of text; allowed: a text file")
        with real.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
    except (OSError, RuntimeError, ValueError) as error:
        raise _Unreadable(f"cannot be read: {_why(error)}; allowed: a text file") from error
    if len(content) > MOST_BYTES:
        raise _Unreadable(f"is larger than {MOST_BYTES // 1024} KiB; shorten it, all of it goes to the model")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise _Unreadable(f"is not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def _instructions(path: Path, file: _AgentFile) -> str:
    """Return the text that goes to the model; `file` has passed `_check`."""
    if file.prompt is not None:
        text = prompt_markdown(file.prompt)
        if not text:
            raise _wrong(path, "prompt", "found no section with text; allowed: at least one, such as identity")
        return text
    if file.instructions_file is None:
        return (file.instructions or "").strip()
    named = file.instructions_file
    directory = path.parent
    if Path(named).is_absolute() or ".." in Path(named).parts:
        raise _wrong(path, "instructions_file", f"found {_shown(named)}; allowed: a file in {directory}")
    try:
        text = _text(directory / named, directory).strip()
    except _Unreadable as error:
        raise _wrong(path, "instructions_file", f"found {_shown(named)}, which {error}") from error
    if not text:
        raise _wrong(path, "instructions_file", f"found {_shown(named)}, which is empty; write the instructions in it")
    return text


def _stems(source: _Source) -> list[str]:
    """Return to whom a file hands over."""
    directory = source.path.parent
    known = sorted(one.stem for one in directory.glob("*.toml"))
    stems = [one.agent for one in source.file.handoffs]
    for place, stem in enumerate(stems, start=1):
        key = f"handoffs[{place}].agent"
        if "/" in stem or "\\" in stem or stem in (".", ".."):
            raise _wrong(
                source.path, key, f"found {_shown(stem)}; allowed: the name of a file in {directory}, without .toml"
            )
        if stem not in known:
            others = [one for one in known if one != source.path.stem]
            text = f"found {_shown(stem)}, no TOML file in {directory}; allowed: {_listed(others)}"
            raise _wrong(source.path, key, text + did_you_mean(stem.removesuffix(".toml"), others))
        if stem == source.path.stem:
            raise _wrong(source.path, key, f"found {_shown(stem)}, the agent itself; allowed: another one")
    return stems


# --- checks across keys -----------------------------------------------------------------------------------------


def _check(path: Path, file: _AgentFile) -> None:
    """Check what one file says of itself.

    Raises:
        SettingsError: Two of its keys do not go together.
    """
    ways = {"instructions": file.instructions, "instructions_file": file.instructions_file, "[prompt]": file.prompt}
    given = [key for key, value in ways.items() if value is not None]
    if len(given) != 1:
        found = " and ".join(given) or "no instructions"
        raise _wrong(path, given[-1] if given else "instructions", f"found {found}; allowed: one of {', '.join(ways)}")
    for key in _NEVER_A_SESSION_SETTING:
        if key in file.settings:
            raise _wrong(path, f"settings.{key}", "stands under [settings]; move it above the first table of the file")
    if file.prompt is not None:
        _check_states(path, file.prompt.states)


def _check_states(path: Path, states: Sequence[PromptState]) -> None:
    known: list[str] = []
    for place, state in enumerate(states, start=1):
        if state.id in known:
            text = f"found {_shown(state.id)}, which another state has already; allowed: an id of its own"
            raise _wrong(path, f"prompt.states[{place}].id", text)
        known.append(state.id)
    for place, state in enumerate(states, start=1):
        for way, transition in enumerate(state.transitions, start=1):
            if transition.next not in known:
                text = f"found {_shown(transition.next)}, no state; allowed: {_listed(known)}"
                key = f"prompt.states[{place}].transitions[{way}].next"
                raise _wrong(path, key, text + did_you_mean(transition.next, known))


# --- making agents ----------------------------------------------------------------------------------------------


def _agent(source: _Source, tools: Mapping[str, Tool], links: list[RealtimeAgent | Handoff]) -> RealtimeAgent:
    """Make the agent of a file; its handoffs are still to be put into `links`."""
    file = source.file
    try:
        return RealtimeAgent(
            name=file.name.strip(),
            instructions=source.instructions,
            tools=_tools(source, tools),
            handoffs=links,
            handoff_description=file.handoff_description,
            voice=file.voice,
            settings=file.settings,
            output_guardrails=[_blocks(file.blocked_words)] if file.blocked_words else [],
        )
    except ToolError as error:
        raise _wrong(source.path, "tools", str(error)) from error


def _tools(source: _Source, tools: Mapping[str, Tool]) -> list[Tool]:
    file = source.file
    if _ALL in file.tools and len(file.tools) > 1:
        raise _wrong(source.path, "tools", 'found "*" and other names; allowed: "*" alone, or names')
    names = list(tools) if file.tools == [_ALL] else file.tools
    for place, name in enumerate(names, start=1):
        if name not in tools:
            allowed = f'found {_shown(name)}, no tool here; allowed: {_listed(tools)}, or "*" alone'
            raise _wrong(source.path, f"tools[{place}]", allowed + did_you_mean(name, tools))
        if name in names[: place - 1]:
            raise _wrong(source.path, f"tools[{place}]", f"found {_shown(name)} twice; allowed: once")
    for place, name in enumerate(file.needs_approval, start=1):
        if name not in names:
            text = f"found {_shown(name)}, none of the agent's tools; allowed: {_listed(names)}"
            raise _wrong(source.path, f"needs_approval[{place}]", text + did_you_mean(name, names))
    return [replace(tools[one], needs_approval=True) if one in file.needs_approval else tools[one] for one in names]


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
            text = f"found {_shown(transfer.tool_name)}, as {taken[transfer.tool_name]} is named; allowed: its own name"
            raise _wrong(source.path, f"{key}.tool_name", text)
        taken[transfer.tool_name] = key
        made.append(transfer)
    return made


def _blocks(words: Sequence[str]) -> OutputGuardrail:
    """Make a guardrail that trips on whole words.

    A transcript is checked while it grows, and a word at its end counts: that it is cut there cannot be seen, and to
    wait for the next letter would let a last word pass.
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
    """Match a word, or several in a row, where no letter or digit goes on at either end."""
    spaced = r"\s+".join(re.escape(one) for one in _folded(word).split())
    return re.compile(rf"(?<!\w){spaced}(?!\w)")


def _folded(text: str) -> str:
    """Make capitals, the ways to write an accent and the two apostrophes alike."""
    return unicodedata.normalize("NFKC", text).casefold().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")


# --- the prompt -------------------------------------------------------------------------------------------------


def prompt_markdown(prompt: Prompt) -> str:
    """Write the sections of a prompt as Markdown: ``# Identity``, ``# Task``, …, ``# Conversation states``.

    Sections without text are left out. A list becomes a Markdown list.

    Returns:
        The text, without a line end at its end; "" where no section has text.
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
    """A condition as the middle of a sentence: "When the timer rings." is "the timer rings"."""
    return re.sub(r"(?i)^when\s+", "", condition.strip().rstrip("."))


# --- what is said of mistakes -----------------------------------------------------------------------------------


def _wrong(path: Path, key: str, text: str) -> SettingsError:
    return SettingsError(f"{path}: {key}: {text}")


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else "") or str(error)


def _explained(error: ValidationError) -> tuple[str, str]:
    """Return the key and the sentence of the first mistake; an unknown key goes first, it often is the missing one."""
    details = error.errors(include_url=False, include_context=False)
    detail = min(details, key=lambda one: one["type"] != "extra_forbidden")
    key, field, siblings = _place(detail["loc"])
    if detail["type"] == "extra_forbidden":  # the value is not shown, it may be a misplaced secret
        return key, f"unknown key{_hint(str(detail['loc'][-1]), siblings)}"
    allowed = _allowed(field)
    if detail["type"] == "missing":
        return key, f"is missing; allowed: {allowed}"
    return key, f"found {_shown(detail['input'])}; allowed: {allowed}"


def _place(loc: Sequence[int | str]) -> tuple[str, FieldInfo | None, Mapping[str, FieldInfo]]:
    """Follow a place of pydantic's: the dotted key (lists count from 1), its field, and the fields beside it."""
    model: type[BaseModel] | None = _AgentFile
    key, field, siblings = "", None, dict[str, FieldInfo]()
    for part in loc:
        if isinstance(part, int):
            key += f"[{part + 1}]"
        elif model is None:  # the branch of a union, no key
            break
        else:
            key += f".{_tidy(part)}" if key else _tidy(part)
            siblings = dict(model.model_fields)
            field = siblings.get(part)
            model = _table_of(field.annotation) if field is not None else None
    return key, field, siblings


def _table_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for one in get_args(annotation) if (found := _table_of(one)) is not None), None)


def _allowed(field: FieldInfo | None) -> str:
    extra = field.json_schema_extra if field is not None else None
    return str(extra["allowed"]) if isinstance(extra, dict) else "a text that is not empty"


def _hint(word: str, siblings: Mapping[str, FieldInfo]) -> str:
    """Say where an unknown key belongs: in another table, or as the nearest one of its own."""
    if word in _AgentFile.model_fields:
        return f"; move {word!r} above the first table of the file"
    if word in Prompt.model_fields:
        return f"; {word!r} belongs under [prompt]"
    return did_you_mean(word, siblings) or f"; allowed: {_listed(siblings)}"


def _listed(names: Iterable[str]) -> str:
    known = list(names)
    return (", ".join(known[:_MOST_NAMED]) or "none") + (" and more" if len(known) > _MOST_NAMED else "")


def _shown(value: object) -> str:
    """A value as a user would write it in TOML, short, on one line, and with nothing that looks like a key."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list):
        return "a list"
    return f'"{_tidy(value)}"' if isinstance(value, str) else _tidy(str(value))


def _tidy(text: str) -> str:
    """Make a text of the file fit for a message."""
    plain = "".join(one if one.isprintable() else " " for one in KEY_SHAPE.sub("***", text))
    short = " ".join(plain.split())
    return short if len(short) <= 40 else short[:39] + "…"
