"""The phrase book: sentence templates, each with a tool call or an answer.

A book is one YAML file per language under ``config/phrases/``; the comment at the top of ``en.yaml`` explains the
syntax. The templates match sentences (`LivePhrases.match`, with hassil) and define the recogniser's grammar
(`LivePhrases.grammar`). The book also has example sentences (`PhraseBook.examples`) and the sentences for a tool's
output (`PhraseBook.reply`).

The tools that a session offers determine which phrases are *live*. A phrase whose tool is not offered, or lacks an
argument that the phrase passes, is neither in the grammar nor matched. Answers are always live. A tool may bring
phrases of its own (`agents.phrases`), and a handoff is called by the sentences under ``handoff`` with the agent's name.
Any other tool that no phrase calls cannot be reached through the phrase book.

Pure, except for `PhraseBook.load`, which reads the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from hassil.expression import Expression, ListReference, RuleReference
from hassil.expression import Group as ExpressionGroup
from hassil.intents import Intents
from hassil.recognize import recognize_all

from appliance.errors import LanguageError, SettingsError, one_line, shown
from appliance.speech.stt.grammar import Automaton, compile_grammar, parse_template, words
from appliance.speech.tool_phrases import OwnPhrases, Values, normalize, own_phrases
from appliance.wording import Wording

__all__ = ["IntentCall", "LivePhrases", "Match", "Phrase", "PhraseBook", "Reply", "Sum", "normalize"]

JsonObject: TypeAlias = dict[str, Any]
Offered: TypeAlias = Mapping[str, frozenset[str] | None]
"""The arguments that each offered tool takes; None if its schema does not list them."""

_FIELD = re.compile(r"\{(\w+)(?:\|(\w+))?\}")
_LANGUAGE = re.compile(r"[a-z]{2,3}([-_][A-Za-z0-9]{1,8})*")
_MAX_TEXT_CHARS = 300  # far above the longest sentence of a book; longer text is not a command
_MAX_SPOKEN_CHARS = 600  # forty seconds of speech
_LIVE_SETS = 16  # an appliance offers only a few different sets of tools
_LARGEST = 10**9  # far above any number that is spoken
_MOST_NUMBERS = 1000  # of one list; a book's recogniser has a path for each
_CONSTRUCTOR_ERRORS = (AttributeError, KeyError, TypeError, ValueError, RecursionError)
"""What PyYAML raises beside its own errors: for ``2026-99-99``, ``!!int x``, a mapping as a key, deep nesting."""
_CLAUSES = ("tool", "answer", "help", "repeat")


# ---------------------------------------------------------------------------------------------------------------
# What a phrase means


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """An integer computed from slots: the weighted sum plus a constant, clamped between two limits."""

    weights: Mapping[str, int]
    plus: int = 0
    least: int | None = None
    most: int | None = None

    def of(self, slots: Mapping[str, Any]) -> int:
        """Return the value.

        Raises:
            KeyError: A slot is missing.
            ValueError: A slot is not a number.
        """
        total = self.plus + sum(int(slots[slot]) * weight for slot, weight in self.weights.items())
        total = total if self.least is None else max(self.least, total)
        return total if self.most is None else min(self.most, total)


@dataclass(frozen=True, slots=True, kw_only=True)
class IntentCall:
    """A tool, and how to compute its arguments from slots."""

    tool: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    sums: Mapping[str, Sum] = field(default_factory=dict)

    def arguments(self, slots: Mapping[str, Any]) -> JsonObject:
        """Return the fixed values, the sums, and the slots that no sum uses."""
        passed = {name: value for name, value in slots.items() if name not in self._used}
        return {**self.fixed, **{name: one.of(slots) for name, one in self.sums.items()}, **passed}

    def takes(self, slots: frozenset[str]) -> frozenset[str]:
        """Return the names of all arguments that the call passes with these slots."""
        return frozenset(self.fixed) | frozenset(self.sums) | (slots - self._used)

    @property
    def _used(self) -> frozenset[str]:
        return frozenset(slot for one in self.sums.values() for slot in one.weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrase:
    """Templates with one meaning: exactly one of `call`, `answer` and `special`."""

    say: tuple[str, ...]
    call: IntentCall | None = None
    then: IntentCall | None = None
    """A second call; its sums use the first call's output ("louder" needs the current volume)."""
    answer: str = ""
    special: str = ""
    """``help`` or ``repeat``: the workflow computes the answer."""
    slots: frozenset[str] = frozenset()
    """All slots that its templates fill."""
    is_wrapped: bool = False
    """True if the rules ``before`` and ``after`` apply to its templates."""

    def is_live(self, offered: Offered) -> bool:
        """Return whether the offered tools take all arguments of this phrase's calls."""
        first = self.call is None or _is_offered(offered, self.call, self.slots)
        return first and (self.then is None or _is_offered(offered, self.then, frozenset()))


@dataclass(frozen=True, slots=True)
class Match:
    """The phrase that a sentence matches, with its slots."""

    phrase: Phrase
    slots: Mapping[str, Any]

    @property
    def arguments(self) -> JsonObject:
        """The arguments of the phrase's call; empty for an answer."""
        return self.phrase.call.arguments(self.slots) if self.phrase.call else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A sentence with fields, for tool outputs that have these fields."""

    say: str
    when: Mapping[str, Any] = field(default_factory=dict)

    def render(self, fields: Mapping[str, Any], wording: Wording) -> str | None:
        """Return the sentence, or None if a field is missing or `when` does not match."""
        if any(_scalar(fields.get(key)) != _scalar(value) for key, value in self.when.items()):
            return None
        if any(fields.get(name) in (None, "") for name, _ in _FIELD.findall(self.say)):
            return None
        try:
            return _FIELD.sub(lambda found: _spoken(fields[found[1]], wording, found[2]), self.say)
        except (TypeError, ValueError):  # the format does not accept the field's value: try another reply
            return None


# ---------------------------------------------------------------------------------------------------------------
# The book


class PhraseBook:
    """All phrases of one language, independent of the offered tools.

    Args:
        source: The parsed YAML.
        name: Name of the book in error messages: the path of the file. "" allows a book without phrases.
        wording: Answers that the book does not have under ``texts``; None reads the installed wording of its language.

    Raises:
        SettingsError: The book is invalid; the message names the place and the remedy.
    """

    def __init__(self, source: Mapping[str, Any], *, name: str = "phrase book", wording: Wording | None = None) -> None:
        self.name = name
        self._source = source
        self.language = str(source.get("language", "en"))
        self.pronunciations = _pronunciations(_table(source, "pronunciations", name), name)
        self._wording = wording or Wording(self.language)
        self.texts = {
            **self._wording.table("brain"),
            **{key: str(one) for key, one in _table(source, "texts", name).items()},
        }
        self._numbers = {
            _whole(key, f"{name}: numbers"): str(one) for key, one in _table(source, "numbers", name).items()
        }
        self.lists = {key: self._list(key, one) for key, one in _table(source, "lists", name).items()}
        self.rules = _rules(source, name)
        self._parsed_rules = {key: parse_template(one, f"{name}: rules.{key}") for key, one in self.rules.items()}
        self._check_names()
        self._handoff = _table(source, "handoff", name)
        self.phrases = tuple(self._phrase(one, f"{name}: phrases[{i}]") for i, one in enumerate(_items(source, name)))
        self._replies = {
            tool: _replies(ones, f"{name}: replies.{tool}") for tool, ones in _table(source, "replies", name).items()
        }
        self._examples = {tool: str(one) for tool, one in _table(source, "examples", name).items()}
        self._live = lru_cache(maxsize=_LIVE_SETS)(self._make_live)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the parsed YAML; the other process builds the book from it."""
        return partial(PhraseBook, name=self.name, wording=self._wording), (self._source,)

    @classmethod
    def load(cls, folder: Path, language: str, wording: Wording | None = None) -> PhraseBook:
        """Read ``<language>.yaml`` from a folder; ``en-GB`` falls back to ``en``.

        Raises:
            LanguageError: There is no such book.
            SettingsError: It is not YAML, or it is invalid.
        """
        path = _path_of(folder, language)
        try:
            source = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # a SafeLoader
        except (OSError, UnicodeDecodeError) as exc:
            raise SettingsError(f"{path}: the phrase book cannot be read: {exc}") from None
        except (yaml.YAMLError, *_CONSTRUCTOR_ERRORS) as exc:
            raise SettingsError(f"{path}: the phrase book is not YAML: {one_line(str(exc))}") from None
        if not isinstance(source, dict):
            raise SettingsError(f"{path}: the phrase book is a {type(source).__name__}, expected a mapping")
        return cls(source, name=str(path), wording=wording)

    def live(self, tools: Iterable[Mapping[str, Any]]) -> LivePhrases:
        """Return the phrases that these tools make live; the same phrases give the same object (cached).

        Args:
            tools: Function tools in the flat wire shape (``name``, ``parameters``, perhaps ``phrases``); other types
                are ignored.

        Raises:
            SpeechError: A tool's own phrase is not a template.
        """
        tools = list(tools)
        offered = dict(_offered(tools))
        own = tuple(one for tool in tools if tool.get("name") in offered for one in self._own(tool))
        return self._live(frozenset(i for i, phrase in enumerate(self.phrases) if phrase.is_live(offered)), own)

    @cached_property
    def words(self) -> frozenset[str]:
        """Every word that a grammar of this book may contain."""
        everything = [
            *self._parsed_rules.values(),
            *(one for values in self.list_expressions.values() for one in values),
            *(parse_template(one, self.name) for phrase in self.phrases for one in phrase.say),
        ]
        return frozenset(word for one in everything for word in words(one))

    @cached_property
    def list_expressions(self) -> Mapping[str, Sequence[Expression]]:
        """The spoken values of each list."""
        return {key: self._parsed_values(key, pairs) for key, pairs in self.lists.items()}

    def _parsed_values(self, key: str, pairs: Values) -> list[Expression]:
        """Parse the values of a list, without numbers in digits, which are typed and never spoken."""
        return [parse_template(one, f"{self.name}: lists.{key}") for one, _ in pairs if not one.isdigit()]

    def reply(self, tool: str, arguments: Mapping[str, Any], output: str) -> str:
        """Return what to say about a tool's output: the book's sentence if one fits.

        Args:
            arguments: Arguments of the call; they fill fields that the output lacks.
            output: The client's text: a JSON object, or plain text.
        """
        found = _json(output)
        if isinstance(found, dict) and set(found) == {"assistant"}:  # a handoff, here and in the Agents SDKs
            return self.text("handed_over", agent=str(found["assistant"]))
        if (reason := _error_in(found)) is not None:
            return self.text("failed", reason=_sentence(reason))
        if isinstance(found, str) and found.strip():
            return _sentence(found)
        fields = {**arguments, **found} if isinstance(found, dict) else dict(arguments)
        rendered = (one.render(fields, self._wording) for one in self._replies.get(tool, ()))
        return next((one for one in rendered if one is not None), None) or self._listed(found)

    def _listed(self, found: Any) -> str:
        """Return a sentence that lists the fields of an output, for outputs that fit no reply of the book."""
        if not isinstance(found, dict):
            return self.text("done") if found in (None, "") else _sentence(_spoken(found, self._wording))
        pairs = [
            f"{key.replace('_', ' ')} {_spoken(one, self._wording)}" for key, one in found.items() if _is_plain(one)
        ]
        return _sentence(", ".join(pairs)) if pairs else self.text("done")

    def text(self, key: str, **fields: str) -> str:
        """Return one of the book's own sentences (``texts``) with its fields filled in."""
        return _FIELD.sub(lambda found: fields.get(found[1], ""), self.texts[key]).strip()

    def examples(self, tools: Iterable[Mapping[str, Any]]) -> list[str]:
        """Return an example for each offered tool that a live phrase calls: first those with phrases of their own."""
        live = self.live(tools)
        reached = {phrase.call.tool for phrase in live.phrases if phrase.call}
        of_book = [example for tool, example in self._examples.items() if tool in reached]
        return list(dict.fromkeys([*(one.example for one in live.own), *of_book]))

    def templates(self, phrase: Phrase) -> tuple[str, ...]:
        """Return a phrase's templates, with the optional ``before`` and ``after`` if it is wrapped."""
        if not phrase.is_wrapped:
            return phrase.say
        before = "[<before>] " if "before" in self.rules else ""
        after = " [<after>]" if "after" in self.rules else ""
        return tuple(f"{before}({one}){after}" for one in phrase.say)

    def grammar(self, phrases: Iterable[Phrase], own_lists: Mapping[str, Values]) -> Automaton:
        """Return the grammar of these phrases; `own_lists` are those that the book does not have."""
        templates = [parse_template(one, self.name) for phrase in phrases for one in self.templates(phrase)]
        lists = {**self.list_expressions, **{key: self._parsed_values(key, one) for key, one in own_lists.items()}}
        return compile_grammar(templates, rules=self._parsed_rules, lists=lists)

    def _make_live(self, indices: frozenset[int], own: tuple[OwnPhrases, ...]) -> LivePhrases:
        return LivePhrases(self, tuple(self.phrases[i] for i in sorted(indices)), own)

    def _own(self, tool: Mapping[str, Any]) -> Iterator[OwnPhrases]:
        on_off = self.lists.get("on_off", ())
        return own_phrases(tool, number=self._words_of_number, on_off=on_off, handoff=self._handoff)

    def _list(self, key: str, one: Mapping[str, Any]) -> Values:
        """Return the (template, value) pairs of a list."""
        where = f"{self.name}: lists.{key}"
        if not isinstance(one, Mapping) or not ("values" in one or {"from", "to"} <= set(one)):
            raise SettingsError(f"{where}: give either 'values', or 'from' and 'to'")
        if "values" in one:
            values = _mapping(one["values"], f"{where}.values").items()
            return tuple((str(template), _plain(value, f"{where}.values")) for value, template in values)
        first, last = _whole(one["from"], f"{where}.from"), _whole(one["to"], f"{where}.to")
        if last - first >= _MOST_NUMBERS:
            raise SettingsError(f"{where}: found {last - first + 1} numbers; allowed: at most {_MOST_NUMBERS}")
        others = _sequence(one.get("also") or [], f"{where}.also")
        numbers = [*range(first, last + 1), *(_whole(extra, f"{where}.also") for extra in others)]
        return tuple((self._number(n, where), n) for n in numbers)

    def _words_of_number(self, n: int) -> str:
        """Return the words of a number; "" if the book has none."""
        if n in self._numbers:
            return self._numbers[n]
        tens, ones = n - n % 10, n % 10
        if n < 100 and tens in self._numbers and ones in self._numbers:
            return f"{self._numbers[tens]} {self._numbers[ones]}"
        return ""

    def _number(self, n: int, where: str) -> str:
        if found := self._words_of_number(n):
            return found
        raise SettingsError(f"{where}: no words for {n}; add them to 'numbers'")

    def _phrase(self, one: Any, where: str) -> Phrase:
        clauses = [clause for clause in _CLAUSES if isinstance(one, Mapping) and clause in one]
        if len(clauses) != 1:
            raise SettingsError(f"{where}: give exactly one of {', '.join(_CLAUSES)}; found {len(clauses)}")
        say = tuple(str(template) for template in _sequence(one.get("say") or [], f"{where}.say"))
        if not say:
            raise SettingsError(f"{where}: 'say' is empty; write at least one template")
        slots = frozenset(slot for i, template in enumerate(say) for slot in self._slots(template, f"{where}.say[{i}]"))
        is_call = clauses[0] == "tool"
        return Phrase(
            say=say,
            call=_call(one, where) if is_call else None,
            then=_call(one["then"], f"{where}.then") if is_call and "then" in one else None,
            answer=str(one["answer"]) if clauses[0] == "answer" else "",
            special=clauses[0] if clauses[0] in ("help", "repeat") else "",
            slots=slots,
            is_wrapped=bool(one.get("polite", is_call)),
        )

    def _slots(self, template: str, where: str) -> Iterator[str]:
        """Yield the slots of a template; refuse unknown lists and rules."""
        pending: list[Expression] = [parse_template(template, where)]
        while pending:
            match pending.pop():
                case ListReference() as one:
                    if one.list_name not in self.lists:
                        raise SettingsError(
                            f"{where}: no list {one.list_name!r}; the lists are {', '.join(self.lists)}"
                        )
                    yield one.slot_name
                case RuleReference() as one:
                    if one.rule_name not in self.rules:
                        raise SettingsError(
                            f"{where}: no rule {one.rule_name!r}; the rules are {', '.join(self.rules)}"
                        )
                    pending.append(self._parsed_rules[one.rule_name])
                case ExpressionGroup() as one:
                    pending.extend(one.items)

    def _check_names(self) -> None:
        """Refuse rules that contain themselves or use an unknown rule or list."""
        uses = {key: re.findall(r"<(\w+)>", one) for key, one in self.rules.items()}
        try:
            TopologicalSorter(uses).prepare()
        except CycleError as exc:
            raise SettingsError(f"{self.name}: rules.{min(exc.args[1])}: it contains itself; write it out") from None
        for key, one in self.rules.items():
            list(self._slots(one, f"{self.name}: rules.{key}"))


def _phrase_of(own: OwnPhrases, place: int) -> Phrase:
    slots = frozenset(slot for slot, _ in own.slots)
    return Phrase(say=own.templates(place), call=IntentCall(tool=own.tool), slots=slots, is_wrapped=True)


class LivePhrases:
    """The live phrases of a book for a set of tools. One object per set of phrases, hashed by identity."""

    def __init__(self, book: PhraseBook, of_book: tuple[Phrase, ...], own: tuple[OwnPhrases, ...] = ()) -> None:
        self._book = book
        self._of_book = of_book
        self.own = own
        self.phrases = (*(_phrase_of(one, i) for i, one in enumerate(own)), *of_book)
        """Those that tools bring come first: they win over a sentence of the book."""
        self._own_lists = {key: values for i, one in enumerate(own) for key, values in one.lists(i).items()}

    def match(self, text: str) -> Match | None:
        """Return the phrase that matches a whole sentence, or None."""
        words = normalize(text)
        if not words or len(words) > _MAX_TEXT_CHARS:
            return None
        found = next(iter(recognize_all(words, self._intents, default_response=None)), None)
        if found is None:
            return None
        slots = {name: entity.value for name, entity in found.entities.items()}
        return Match(self.phrases[int(found.intent.name)], slots)

    @cached_property
    def grammar(self) -> Automaton:
        """The grammar of these phrases."""
        return self._book.grammar(self.phrases, self._own_lists)

    def heard_by(self, knows: Callable[[str], bool]) -> tuple[LivePhrases, dict[str, list[str]]]:
        """Return the phrases whose words a recogniser knows; the unknown words of the others, by tool.

        Only the phrases that tools bring can have unknown words: the book's were checked at the start.
        """
        unknown: dict[str, list[str]] = {}
        kept = []
        for one in self.own:
            arcs = LivePhrases(self._book, (), (one,)).grammar.arcs
            if missing := sorted({word for _, _, word in arcs if not knows(word)}):
                unknown[one.tool] = missing
            else:
                kept.append(one)
        return (LivePhrases(self._book, self._of_book, tuple(kept)) if unknown else self), unknown

    @cached_property
    def _intents(self) -> Intents:
        sentences = {
            str(i): {"data": [{"sentences": list(self._book.templates(phrase))}]}
            for i, phrase in enumerate(self.phrases)
        }
        lists = {
            key: {"values": [{"in": _typed(template, value), "out": value} for template, value in pairs]}
            for key, pairs in {**self._book.lists, **self._own_lists}.items()
        }
        return Intents.from_dict(
            {
                "language": self._book.language,
                "intents": sentences,
                "lists": lists,
                "expansion_rules": dict(self._book.rules),
            }
        )


# ---------------------------------------------------------------------------------------------------------------
# Reading the YAML


class _Loader(yaml.SafeLoader):
    """YAML loader where only ``true`` and ``false`` are booleans, because ``on`` is the name of an argument."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("(?:true|false)$"), list("tf"))


def _path_of(folder: Path, language: str) -> Path:
    if not _LANGUAGE.fullmatch(language):
        raise SettingsError(f"{language!r} is not a language code; use one such as 'en' or 'en-GB'")
    for name in (language, re.split("[-_]", language)[0]):
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    there = ", ".join(path.stem for path in sorted(folder.glob("*.yaml"))) or "none"
    raise LanguageError(f"no phrase book for language {language!r} in {folder}; available: {there}")


def _table(source: Mapping[str, Any], key: str, name: str) -> Mapping[Any, Any]:
    found = source.get(key) or {}
    if not isinstance(found, Mapping):
        raise SettingsError(f"{name}: {key} is a {type(found).__name__}, expected a mapping")
    return found


def _items(source: Mapping[str, Any], name: str) -> Sequence[Any]:
    found = source.get("phrases")
    if not isinstance(found, list) or (name and not found):
        raise SettingsError(f"{name}: there are no phrases; write at least one under 'phrases'")
    return found


def _rules(source: Mapping[str, Any], name: str) -> dict[str, str]:
    rules = {str(key): str(one) for key, one in _table(source, "rules", name).items()}
    return rules | {key: str(source[key]) for key in ("before", "after") if source.get(key)}


def _replies(ones: Any, where: str) -> tuple[Reply, ...]:
    if not isinstance(ones, list) or not all(isinstance(one, Mapping) and "say" in one for one in ones):
        raise SettingsError(f"{where}: expected a list of mappings with 'say'")
    whens = [_mapping(one.get("when") or {}, f"{where}.when") for one in ones]
    for when in whens:
        for value in when.values():
            _plain(value, f"{where}.when")
    return tuple(Reply(say=str(one["say"]), when=when) for one, when in zip(ones, whens, strict=True))


def _call(one: Any, where: str) -> IntentCall:
    tool = _mapping(one, where).get("tool")
    if not isinstance(tool, str) or not tool:
        raise SettingsError(f"{where}.tool: found {shown(tool)}; allowed: the name of a tool")
    fixed: JsonObject = {}
    sums: dict[str, Sum] = {}
    for name, value in _mapping(one.get("arguments") or {}, f"{where}: arguments").items():
        place = f"{where}: arguments.{name}"
        if not isinstance(value, Mapping):
            fixed[str(name)] = _plain(value, place)
        elif "sum" in value:
            weights = _mapping(value["sum"], f"{place}.sum").items()
            limits = {key: _whole(value[key], f"{place}.{key}") for key in ("plus", "from", "to") if key in value}
            sums[str(name)] = Sum(
                weights={str(slot): _whole(weight, f"{place}.sum.{slot}") for slot, weight in weights},
                plus=limits.get("plus", 0),
                least=limits.get("from"),
                most=limits.get("to"),
            )
        else:
            raise SettingsError(f"{place}: a mapping must have 'sum'")
    return IntentCall(tool=tool, fixed=fixed, sums=sums)


def _mapping(value: Any, where: str) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise SettingsError(f"{where}: found {shown(value)}; allowed: a mapping, as name: value")
    return value


def _sequence(value: Any, where: str) -> Sequence[Any]:
    if not isinstance(value, list):
        raise SettingsError(f"{where}: found {shown(value)}; allowed: a list, with '- ' before each entry")
    return value


def _whole(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > _LARGEST:
        raise SettingsError(f"{where}: found {shown(value)}; allowed: a whole number from -{_LARGEST} to {_LARGEST}")
    return value


def _plain(value: Any, where: str) -> Any:
    """Return a value that a tool's arguments may have."""
    is_number = isinstance(value, (int, float)) and abs(value) <= _LARGEST  # false for NaN
    if not (is_number or isinstance(value, str)):
        raise SettingsError(f"{where}: found {shown(value)}; allowed: a string, a number, true or false")
    return value


def _pronunciations(source: Mapping[Any, Any], name: str) -> dict[str, str]:
    for word, phones in source.items():
        if not isinstance(phones, str) or not re.fullmatch(r"[A-Z]{1,2}( [A-Z]{1,2})*", phones):
            raise SettingsError(f"{name}: pronunciations.{word}: expected phones such as 'M Y UW T', found {phones!r}")
    return {str(word): phones for word, phones in source.items()}


def _typed(template: str, value: Any) -> str:
    """Accept typed digits for a number in a list; the grammar omits them, because digits are never spoken."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return f"({template}|{value})" if is_number else template


# ---------------------------------------------------------------------------------------------------------------
# Tools and their outputs


def _offered(tools: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, frozenset[str] | None]]:
    for tool in tools:
        name, parameters = tool.get("name"), tool.get("parameters")
        if tool.get("type", "function") != "function" or not isinstance(name, str):
            continue
        known = parameters.get("properties") if isinstance(parameters, Mapping) else None
        yield name, frozenset(known) if isinstance(known, Mapping) else None


def _is_offered(offered: Offered, call: IntentCall, slots: frozenset[str]) -> bool:
    if call.tool not in offered:
        return False
    taken = offered[call.tool]
    return taken is None or call.takes(slots) <= taken


def _json(output: str) -> Any:
    try:
        return json.loads(output)
    except (ValueError, RecursionError):
        return output


def _error_in(found: Any) -> str | None:
    """Return the reason for a tool's failure, or None if its output reports none."""
    if isinstance(found, dict):
        error = found.get("error")
        if isinstance(error, dict):
            error = error.get("message") or error.get("code")
        return str(error) if error else None
    if isinstance(found, str) and found.lower().startswith(("error:", "error ")):
        return found[6:].strip(" :") or "error"
    return None


def _sentence(text: str) -> str:
    """Return the text as one line to speak, with a capital letter, a full stop and a bounded length."""
    line = " ".join(text.split())
    if len(line) > _MAX_SPOKEN_CHARS:
        line = line[:_MAX_SPOKEN_CHARS].rsplit(" ", 1)[0]
    line = line[:1].upper() + line[1:]
    return line if line.endswith((".", "!", "?")) else f"{line}."


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool)) and value != ""


def _scalar(value: Any) -> str:
    """Return a key to compare JSON and YAML values: true equals True and 0 equals 0.0, but 1 does not equal true."""
    return json.dumps(float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value)


def _spoken(value: Any, wording: Wording, format_name: str = "") -> str:
    """Return a value as spoken text: 3.0 becomes "3", true becomes "yes"."""
    if format_name == "duration":
        return wording.duration(round(float(value)), most=2)
    match value:
        case bool():
            return wording.say("format.yes" if value else "format.no")
        case float():
            return wording.say("format.number", value=value)
        case list():
            return ", ".join(_spoken(one, wording) for one in value) or wording.say("format.nothing")
        case dict():
            return ", ".join(_spoken(one, wording) for one in value.values() if _is_plain(one))
        case None:
            return wording.say("format.nothing")
        case _:
            return str(value)
