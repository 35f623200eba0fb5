"""Sentence templates compiled to a finite-state grammar over words, which constrains the recogniser.

Pure. The templates become one deterministic, minimal automaton: sentences share their prefixes and suffixes, and no arc
is empty. Minimisation makes the recogniser fast: the same templates as a JSGF grammar, which duplicates each use of a
number list, took two hundred times as long to decode (5 s of CPU for 1 s of speech against 25 ms, pocketsphinx 5.1.1).

A grammar consists of whole words, so a template whose pieces join inside a word (``light[s]``) is refused here.

Source: hassil's template syntax; subset construction from the theory of automata.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations

from hassil.expression import (
    Alternative,
    Expression,
    Group,
    ListReference,
    Permutation,
    RuleReference,
    TextChunk,
)
from hassil.parse_expression import parse_sentence
from hassil.parser import ParseError

from appliance.errors import SettingsError

__all__ = ["Automaton", "compile_grammar", "parse_template", "words"]


@dataclass(frozen=True, slots=True)
class Automaton:
    """A grammar: the words along any path from state 0 to `final` are a sentence."""

    states: int
    final: int
    arcs: tuple[tuple[int, int, str], ...]
    """(from, to, word)"""

    def accepts(self, sentence: Sequence[str]) -> bool:
        """Return whether the grammar accepts this sentence."""
        here = {0}
        for word in sentence:
            here = {to for start, to, one in self.arcs if one == word and start in here}
        return self.final in here


def compile_grammar(
    templates: Iterable[Expression], *, rules: Mapping[str, Expression], lists: Mapping[str, Sequence[Expression]]
) -> Automaton:
    """Return the grammar of all sentences that the templates generate.

    Args:
        rules: The template of each ``<name>``; a rule must not contain itself.
        lists: The values of each ``{name}``.
    """
    nfa = _Nfa(rules, lists)
    for template in templates:
        nfa.link(nfa.add(template, nfa.start), nfa.end)
    return _minimal(nfa)


def words(expression: Expression) -> set[str]:
    """Return the words of a template, without the words of its rules and lists."""
    match expression:
        case TextChunk():
            return set(expression.text.split())
        case Group():
            return {word for one in expression.items for word in words(one)}
        case _:
            return set()


def parse_template(template: str, where: str) -> Expression:
    """Parse a template.

    Args:
        where: Its place, for errors.

    Raises:
        SettingsError: It is not a template of whole words.
    """
    try:
        expression = parse_sentence(template).expression
        _refuse_joins(expression)
    except (ParseError, AssertionError, RecursionError) as exc:
        raise SettingsError(f"{where}: {template!r} is not a valid template: {exc}") from None
    except SettingsError as exc:
        raise SettingsError(f"{where}: {template!r}: {exc}") from None
    return expression


def _refuse_joins(expression: Expression) -> None:
    """Check that the pieces of a template join at word boundaries.

    Raises:
        SettingsError: Two pieces join inside a word.
    """
    if not isinstance(expression, Group):
        return
    for one in expression.items:
        _refuse_joins(one)
    if isinstance(expression, (Alternative, Permutation)):
        return
    for left, right in pairwise(one for one in expression.items if not _is_empty(one)):
        if not (_text(left)[-1:].isspace() or _text(right)[:1].isspace()):
            place = (_text(left).split() or [""])[-1] or (_text(right).split() or [""])[0]
            raise SettingsError(f"pieces join inside a word at {place!r}: write (light|lights) and not light[s]")


def _text(item: Expression) -> str:
    return item.text if isinstance(item, TextChunk) else ""


def _is_empty(item: Expression) -> bool:
    return isinstance(item, TextChunk) and not item.text


class _Nfa:
    """A nondeterministic automaton under construction; an arc with word "" consumes no input."""

    def __init__(self, rules: Mapping[str, Expression], lists: Mapping[str, Sequence[Expression]]) -> None:
        self._rules = rules
        self._lists = lists
        self.arcs: list[list[tuple[str, int]]] = []
        self.start = self._state()
        self.end = self._state()

    def _state(self) -> int:
        self.arcs.append([])
        return len(self.arcs) - 1

    def link(self, start: int, end: int, word: str = "") -> None:
        self.arcs[start].append((word, end))

    def add(self, expression: Expression, start: int) -> int:
        """Add the paths of a template from `start`; return their end state."""
        match expression:
            case TextChunk():
                return self._row(expression.text.split(), start)
            case ListReference():
                return self._either([[one] for one in self._lists[expression.list_name]], start)
            case RuleReference():
                return self.add(self._rules[expression.rule_name], start)
            case Permutation():
                return self._either([list(order) for order in permutations(expression.items)], start)
            case Alternative():
                return self._either([[one] for one in expression.items], start)
            case Group():
                return self._chain(expression.items, start)
            case _:
                raise SettingsError(f"a template contains {type(expression).__name__}, which a grammar cannot express")

    def _row(self, words: Iterable[str], start: int) -> int:
        for word in words:
            end = self._state()
            self.link(start, end, word)
            start = end
        return start

    def _chain(self, items: Iterable[Expression], start: int) -> int:
        for one in items:
            start = self.add(one, start)
        return start

    def _either(self, choices: Iterable[Sequence[Expression]], start: int) -> int:
        end = self._state()
        for items in choices:
            self.link(self._chain(items, start), end)
        return end

    def reach(self, states: Iterable[int]) -> frozenset[int]:
        """Return the states reachable from these without consuming a word."""
        found, pending = set(states), list(states)
        while pending:
            for word, to in self.arcs[pending.pop()]:
                if not word and to not in found:
                    found.add(to)
                    pending.append(to)
        return frozenset(found)


def _minimal(nfa: _Nfa) -> Automaton:
    """Return the minimal automaton: subset construction that numbers states from the sentence ends backwards.

    States with equal suffixes get the same number. Every sentence is finite, so the automaton has no cycles, and every
    path ends at the one state without arcs.
    """
    numbers: dict[tuple[bool, frozenset[tuple[str, int]]], int] = {(True, frozenset()): 0}
    done: dict[frozenset[int], int] = {}

    def number(here: frozenset[int]) -> int:
        if here not in done:
            heads: dict[str, set[int]] = defaultdict(set)
            for state in here:
                for word, to in nfa.arcs[state]:
                    if word:
                        heads[word].add(to)
            row = frozenset((word, number(nfa.reach(targets))) for word, targets in heads.items())
            done[here] = numbers.setdefault((nfa.end in here, row), len(numbers))
        return done[here]

    start = number(nfa.reach([nfa.start]))  # the highest number: all other states are numbered first
    accepting = {state for (is_end, _), state in numbers.items() if is_end}
    arcs = {
        (start - state, start - end, word)
        for (_, row), state in numbers.items()
        for word, to in row
        for end in ({to, 0} if to in accepting else {to})
    }
    return Automaton(start + 1, start, tuple(sorted(arcs)))
