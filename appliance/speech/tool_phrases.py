"""Phrases that the tools of a session bring: their own, and those of a handoff. Pure.

Our client gives the offline brain a tool with the key ``phrases`` (see `agents.phrases`): ``say`` and ``slots``, or the
``agent`` of a handoff. A handoff of any other client is known by its name ``transfer_to_…`` and by the default
description of the Agents SDKs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from appliance.errors import SettingsError, SpeechError
from appliance.speech.stt.grammar import parse_template

__all__ = ["OwnPhrases", "Values", "normalize", "own_phrases"]

_NOT_IN_WORDS = re.compile(r"[^\w'% ]+")
_SLOT = re.compile(r"\{(\w+)\}")
_HANDOFF = re.compile(r"Handoff to the (.+?) agent\b")
_MAX_NUMBERS = 1001

Values: TypeAlias = tuple[tuple[str, Any], ...]
"""The (template, value) pairs of a list."""


def normalize(text: str) -> str:
    """Return lower-case words with single spaces: no punctuation, "%" as a word."""
    plain = text.lower().replace("’", "'").replace("_", " ")
    return " ".join(_NOT_IN_WORDS.sub(" ", plain).replace("%", " percent ").split())


@dataclass(frozen=True, slots=True)
class OwnPhrases:
    """The phrases of one tool that the book does not have."""

    tool: str
    say: tuple[str, ...]
    slots: tuple[tuple[str, Values], ...]
    """The values of each placeholder."""
    example: str

    def templates(self, place: int) -> tuple[str, ...]:
        """Return the templates with the names of `lists` at the same place."""
        return tuple(_SLOT.sub(lambda found: f"{{own{place}_{found[1]}:{found[1]}}}", one) for one in self.say)

    def lists(self, place: int) -> dict[str, Values]:
        """Return the lists by name; `place` tells the tools apart."""
        return {f"own{place}_{slot}": values for slot, values in self.slots}


def own_phrases(
    tool: Mapping[str, Any], *, number: Callable[[int], str], on_off: Values, handoff: Mapping[str, Any]
) -> Iterator[OwnPhrases]:
    """Yield the phrases that a tool brings; none for most tools.

    Args:
        tool: In the flat wire shape.
        number: Returns the words of a number; "" if there are none: it can then only be typed.
        on_off: The words for true and false; without any, phrases with a boolean are left out.
        handoff: ``say`` and ``example``, with ``{agent}``.

    Raises:
        SpeechError: A phrase is not a template.
    """
    given = tool.get("phrases") or {}
    if given.get("say"):
        slots = tuple((slot, _values(one, number, on_off)) for slot, one in given.get("slots", {}).items())
        say = tuple(_lower(one) for one in given["say"])
        for one in say:
            _check(tool["name"], one, {slot for slot, _ in slots})
        if all(values for _, values in slots):
            yield OwnPhrases(tool["name"], say, slots, _example(say[0], dict(slots)))
    names = _agent_names(tool)
    if names and handoff:
        say = tuple(str(one).replace("{agent}", f"({'|'.join(names)})") for one in handoff.get("say", ()))
        yield OwnPhrases(tool["name"], say, (), str(handoff.get("example", "")).replace("{agent}", names[0]))


def _values(slot: Mapping[str, Any], number: Callable[[int], str], on_off: Values) -> Values:
    if "enum" in slot:
        return tuple((words, one) for one in slot["enum"] if (words := _choice(one, number)))
    if slot.get("type") == "boolean":
        return on_off
    least = int(slot.get("minimum", 0))
    most = min(int(slot.get("maximum", 100)), least + _MAX_NUMBERS - 1)
    return tuple((number(n) or str(n), n) for n in range(least, most + 1))


def _choice(one: Any, number: Callable[[int], str]) -> str:
    return (number(one) or str(one)) if isinstance(one, int) else normalize(str(one))


def _lower(template: str) -> str:
    """Return a template in lower case, except for its placeholders."""
    return "".join(one if one.startswith("{") else one.lower() for one in re.split(r"(\{\w+\})", template))


def _check(tool: str, template: str, slots: set[str]) -> None:
    """Refuse what `agents.phrases` would have refused: another program may have written it."""
    is_known = set(_SLOT.findall(template)) <= slots and not re.search(r"[<>;:]", template)
    try:
        parse_template(template, tool)
    except SettingsError as exc:
        raise SpeechError(str(exc)) from None
    if not is_known:
        raise SpeechError(f"{tool}: {template!r} is not a phrase: it has a rule, or a placeholder without a slot")


def _example(template: str, slots: Mapping[str, Values]) -> str:
    """Return one sentence of a template: without options, the first of each choice, a value from the middle."""

    def value(found: re.Match[str]) -> str:
        spoken = [one for one, _ in slots[found[1]] if not one.isdigit()] or [one for one, _ in slots[found[1]]]
        return spoken[len(spoken) // 2]

    text, before = _SLOT.sub(value, template), ""
    while text != before:
        before = text
        text = re.sub(r"\(([^][()|]*)[^][()]*\)", r"\1", re.sub(r"\[[^][()]*\]", "", text))
    return " ".join(text.split())


def _agent_names(tool: Mapping[str, Any]) -> list[str]:
    """Return what the agent of a handoff may be called; nothing for other tools, and if the handoff needs input."""
    name = str(tool.get("name", ""))
    given = (tool.get("phrases") or {}).get("agent", "")
    if not (given or name.startswith("transfer_to_")) or (tool.get("parameters") or {}).get("required"):
        return []
    described = _HANDOFF.match(str(tool.get("description") or ""))
    found = (given, described[1] if described else "", "" if given else name.removeprefix("transfer_to_"))
    return list(dict.fromkeys(filter(None, map(normalize, found))))
