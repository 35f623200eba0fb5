"""The phrases of a tool: sentences by which the offline brain calls it. Pure.

A phrase is a template of words: ``[a]`` is optional, ``(a|b)`` is one of them, and ``{level}`` is the value of the
parameter ``level``, outside of brackets. A parameter with a placeholder is a number, a choice, or a boolean. All
mistakes are found when the tool is made, because the offline brain meets a phrase only when the network is gone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from appliance.errors import ToolError, did_you_mean

__all__ = ["spoken"]

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_WORDS = re.compile(r"[\w'{}()\[\]| ]*")
_JOIN = re.compile(r"[\w'}\])][\[({]|[}\])][\w'{]")
_OPTIONAL = re.compile(r"\[[^][(){}]*\]")
_CHOICE = re.compile(r"\([^][(){}]*\)")
_MAX_CHARS = 200
_NUMBERS = (0, 100)
"""The range of a number without limits."""


def spoken(tool: str, phrases: Sequence[str], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return phrases as the offline brain reads them: ``say``, and in ``slots`` what each placeholder accepts.

    Args:
        tool: The tool's name, for errors.
        phrases: Templates.
        parameters: JSON schema of the tool's arguments.

    Raises:
        ToolError: A phrase is invalid, has an unknown placeholder, or lacks a required parameter.
    """
    if isinstance(phrases, str) or not all(isinstance(one, str) for one in phrases):
        raise ToolError(f"tool {tool!r}: phrases is a list of sentences, not {phrases!r}")
    for phrase in phrases:
        if problem := _problem(phrase, parameters):
            raise ToolError(f"tool {tool!r}: the phrase {phrase!r} {problem}")
    slots = {}
    for name in dict.fromkeys(found for phrase in phrases for found in _PLACEHOLDER.findall(phrase)):
        slot = _slot(parameters["properties"][name], parameters.get("$defs", {}))
        if slot is None:
            raise ToolError(
                f"tool {tool!r}: a phrase has {{{name}}}, and the parameter {name!r} is neither a number nor a choice "
                "nor a boolean: leave its phrases out"
            )
        slots[name] = slot
    return {"say": list(phrases), "slots": slots}


def _problem(phrase: str, parameters: Mapping[str, Any]) -> str:
    """Return what is wrong with a phrase; "" if nothing is."""
    known = list(parameters.get("properties", {}))
    found = _PLACEHOLDER.findall(phrase)
    missing = [name for name in parameters.get("required", ()) if name not in found]
    for name in found:
        if name not in known:
            there = ", ".join(known) or "none"
            return f"has the unknown placeholder {{{name}}}; parameters: {there}{did_you_mean(name, known)}"
        if found.count(name) > 1:
            return f"has {{{name}}} twice"
    if missing:
        return f"lacks the required parameter {missing[0]!r}: write {{{missing[0]}}} where its value is said"
    return _syntax_problem(phrase)


def _syntax_problem(phrase: str) -> str:
    if len(phrase) > _MAX_CHARS:
        return f"is longer than {_MAX_CHARS} characters"
    if (end := _WORDS.match(phrase)) is not None and end.end() < len(phrase):
        return f"has {phrase[end.end()]!r}: write words, and numbers as words"
    if _JOIN.search(phrase):
        return "joins pieces inside a word: write (light|lights) and not light[s]"
    rest, before = phrase, ""
    while rest != before:  # innermost groups first
        before = rest
        rest = _CHOICE.sub("a", _OPTIONAL.sub("", rest))
    rest = _PLACEHOLDER.sub("a", rest)
    if re.search(r"[][(){}]", rest):
        return "has a placeholder inside of brackets, or brackets without a partner"
    if "|" in rest:
        return "has '|' outside of (…)"
    return "" if rest.strip() else "has no word that must be said"


def _slot(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a placeholder accepts, as a plain schema; None for a parameter that no placeholder can hold."""
    if "$ref" in schema:
        return _slot(definitions.get(str(schema["$ref"]).rpartition("/")[2], {}), definitions)
    if "anyOf" in schema:  # an optional parameter: null is not said
        return next((slot for one in schema["anyOf"] if (slot := _slot(one, definitions)) is not None), None)
    choices = [schema["const"]] if "const" in schema else schema.get("enum", [])
    if choices:
        return {"enum": list(choices)} if _can_be_said(choices) else None
    if schema.get("type") == "boolean":
        return {"type": "boolean"}
    if schema.get("type") in ("integer", "number"):
        least, most = _range(schema)
        return {"type": "integer", "minimum": least, "maximum": most} if least <= most else None
    return None


def _can_be_said(choices: Iterable[Any]) -> bool:
    return all(isinstance(one, int | str) and str(one).strip() for one in choices)


def _range(schema: Mapping[str, Any]) -> tuple[int, int]:
    """Return the least and the most whole number that a parameter accepts, from `_NUMBERS` without a limit.

    Negative numbers have no words in a phrase book.
    """
    lowest = [math.ceil(schema["minimum"])] if "minimum" in schema else []
    lowest += [math.floor(schema["exclusiveMinimum"]) + 1] if "exclusiveMinimum" in schema else []
    highest = [math.floor(schema["maximum"])] if "maximum" in schema else []
    highest += [math.ceil(schema["exclusiveMaximum"]) - 1] if "exclusiveMaximum" in schema else []
    least, most = _NUMBERS
    return max([least, *lowest]), min(highest, default=most)
