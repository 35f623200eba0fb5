"""The tables of an agent's file (see `agents.agent_files`), and the messages about mistakes in them. Pure.

A message is one line: the file, the key, what was found, what is allowed and, where there is one, the nearest name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from appliance.errors import SettingsError, did_you_mean, one_line, shown

__all__ = [
    "MCP_KEYS",
    "AgentTable",
    "HandoffTable",
    "Lines",
    "McpTable",
    "Prompt",
    "PromptState",
    "PromptTransition",
    "explained",
    "listed",
    "wrong",
]

_MOST_NAMED: Final = 16  # names that a message lists before it says "and more"
_SECRET: Final = {"args", "authorization", "env", "headers", "url"}  # keys of [[mcp]] whose value no message shows

Lines = str | list[str]
"""A string, or a list of strings that the model sees as a list."""


# --- the format -------------------------------------------------------------------------------------------------


def _allows(text: str, **limits: Any) -> Any:
    """Return a field with these limits; `text` describes them in messages."""
    return Field(json_schema_extra={"allowed": text}, **limits)


_Text = Annotated[str, _allows("a string")]
_FullText = Annotated[str, _allows("a non-empty string", pattern=r"\S")]
_Lines = Annotated[Lines, _allows("a string or a list of strings")]
_Names = Annotated[list[str], _allows("a list of quoted names")]
_Texts = Annotated[list[str], _allows("a list of strings")]
_Values = Annotated[dict[str, str], _allows("a table of strings")]
_References = Annotated[list[str], _allows('a list of "module:attribute", such as ["my_checks:no_prices"]')]
_Words = Annotated[
    list[Annotated[str, Field(pattern=r"\w")]],
    _allows("a list of quoted words, each with a letter or digit"),
]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PromptTransition(_Table):
    """A transition from one state of the conversation to another."""

    next: _FullText
    """`id` of the next state."""
    when: _FullText
    """The condition, in words for the model."""


class PromptState(_Table):
    """One state of the conversation."""

    id: _FullText
    description: _FullText
    instructions: _Lines = ""
    examples: _Lines = ""
    """Sentences that the agent might say."""
    transitions: Annotated[list[PromptTransition], _allows("tables under [[prompt.states.transitions]]")] = []


class Prompt(_Table):
    """The sections of a voice prompt, in the order in which the model sees them; "" omits one."""

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
    states: Annotated[list[PromptState], _allows("tables under [[prompt.states]]")] = []


class HandoffTable(_Table):
    agent: _FullText
    description: _Text = ""
    tool_name: Annotated[
        str,
        _allows("up to 64 letters, digits, '_' or '-'; empty uses the agent's name", pattern=r"^[a-zA-Z0-9_-]{0,64}$"),
    ] = ""
    first_sentence: _Text = ""


class McpTable(_Table):
    """An MCP server; `command`, `label` or, without these, `url` decides its kind."""

    name: _Text = ""
    command: _Text = ""
    args: _Texts = []
    env: _Values = {}
    cwd: _Text = ""
    label: _Text = ""
    url: _Text = ""
    headers: _Values = {}
    connector: _Text = ""
    authorization: _Text = ""
    description: _Text = ""
    allowed_tools: _Names = []
    needs_approval: Annotated[bool | list[str], _allows("true, false or a list of names")] = False
    require_approval: Annotated[
        Literal["always", "never"] | dict[str, Any],
        _allows('"always", "never", or a table of filters under these two keys'),
    ] = "always"
    timeout_s: Annotated[float, _allows("a number of seconds above 0", gt=0)] = 15.0

    @property
    def kind(self) -> str:
        """The key that decides the kind of the server; "" if there is none."""
        return next((key for key in ("command", "label", "url") if getattr(self, key)), "")


MCP_KEYS: Final = {
    "command": {"name", "command", "args", "env", "cwd", "allowed_tools", "needs_approval", "timeout_s"},
    "label": {
        *("label", "url", "connector", "authorization", "headers", "description"),
        *("allowed_tools", "require_approval"),
    },
    "url": {"name", "url", "headers", "allowed_tools", "needs_approval", "timeout_s"},
}
"""The keys of each kind of MCP server."""


class AgentTable(_Table):
    name: Annotated[
        str,
        # transfer_to_<name> is a tool's name, which may have 64
        _allows("a string of 1 to 52 characters", pattern=r"\S", max_length=52),
    ]
    handoff_description: _Text = ""
    voice: _Text = ""
    instructions: _FullText | None = None
    instructions_file: _FullText | None = None
    tools: _Names = []
    needs_approval: _Names = []
    first_sentence: _Text = ""
    blocked_words: _Words = []
    output_guardrails: _References = []
    input_guardrails: _References = []
    hooks: Annotated[str, _allows('"module:attribute", such as "my_hooks:hooks"')] = ""
    phrases: Annotated[dict[str, list[str]], _allows("a table of lists of sentences under [phrases]")] = {}
    settings: Annotated[dict[str, Any], _allows("a table under [settings]")] = {}
    prompt: Annotated[Prompt | None, _allows("a table under [prompt]")] = None
    handoffs: Annotated[list[HandoffTable], _allows("tables under [[handoffs]]")] = []
    mcp: Annotated[list[McpTable], _allows("tables under [[mcp]]")] = []


# --- error messages ---------------------------------------------------------------------------------------------


def wrong(path: Path, key: str, text: str) -> SettingsError:
    return SettingsError(f"{path}: {key}: {text}")


def explained(error: ValidationError) -> tuple[str, str]:
    """Return the key and the message of the first error; an unknown key goes first, as it is often a misspelt one."""
    details = error.errors(include_url=False, include_context=False)
    detail = min(details, key=lambda one: one["type"] != "extra_forbidden")
    key, field, siblings = _place(detail["loc"])
    if detail["type"] == "extra_forbidden":  # do not show the value: it may be a misplaced secret
        return key, f"unknown key{_hint(str(detail['loc'][-1]), siblings)}"
    allowed = _allowed(field)
    if detail["type"] == "missing":
        return key, f"is missing; allowed: {allowed}"
    found = "another value" if _SECRET & set(detail["loc"]) else shown(detail["input"])
    return key, f"found {found}; allowed: {allowed}"


def _place(loc: Sequence[int | str]) -> tuple[str, FieldInfo | None, Mapping[str, FieldInfo]]:
    """Return the dotted key of a pydantic location (lists count from 1), its field, and all fields of its table."""
    model: type[BaseModel] | None = AgentTable
    key, field, siblings = "", None, dict[str, FieldInfo]()
    for part in loc:
        if isinstance(part, int):
            key += f"[{part + 1}]"
        elif model is None:  # a branch of a union, not a key
            break
        else:
            key += f".{one_line(part, 40)}" if key else one_line(part, 40)
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
    return str(extra["allowed"]) if isinstance(extra, dict) else "a non-empty string"


def _hint(word: str, siblings: Mapping[str, FieldInfo]) -> str:
    """Return a hint for an unknown key: the table where it belongs, the nearest key, or all keys."""
    if word in AgentTable.model_fields:
        return f"; move {word!r} above the first table of the file"
    if word in Prompt.model_fields:
        return f"; {word!r} belongs under [prompt]"
    return did_you_mean(word, siblings) or f"; allowed: {listed(siblings)}"


def listed(names: Iterable[str]) -> str:
    known = list(names)
    return (", ".join(known[:_MOST_NAMED]) or "none") + (" and more" if len(known) > _MOST_NAMED else "")
