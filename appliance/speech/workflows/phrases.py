"""The phrase book workflow: matches sentences exactly, without a model and without guessing.

It keeps no state: the answer is a function of the conversation, which contains all words, calls and outputs. A sentence
that matches no live phrase is answered with examples of what can be said. Images are not seen, and the answer says so.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from appliance.errors import SpeechError
from appliance.speech.phrases import Match, PhraseBook
from appliance.speech.stages import CallPart, ResponseRequest, TextPart

__all__ = ["PhrasesWorkflow"]

Item: TypeAlias = Mapping[str, Any]

_HINTS = 3  # as many as a listener remembers


class PhrasesWorkflow:
    """A `stages.Workflow` over a `PhraseBook`."""

    def __init__(self, book: PhraseBook) -> None:
        self._book = book

    async def respond(self, request: ResponseRequest) -> AsyncIterator[TextPart | CallPart]:
        """Yield one call, one text, or one sentence per new tool output.

        ``tool_choice`` "none" answers a command with a refusal. "required" and a named function demand a call of a tool
        that is allowed: the one whose phrase was said; else the only one, if it takes no argument or one text, which
        gets the user's words. Its output is spoken.

        Raises:
            SpeechError: A call is demanded, and the arguments of none are known. The workflow never guesses one.
        """
        turn = _Turn.of(request.items)
        for part in self._answer(turn, _Choice.of(request)):
            yield part

    def _answer(self, turn: _Turn, choice: _Choice) -> Iterator[TextPart | CallPart]:
        if not (self._book.phrases or self._book.live(choice.tools).own):
            yield TextPart(self._book.text("no_commands"))
        elif turn.outputs:
            yield from self._tell(turn, choice)
        elif turn.calls:
            yield TextPart(self._book.text("pending"))
        elif turn.is_answered:
            yield TextPart(turn.last_said)
        elif turn.said is None:
            yield _demanded("", choice.tools) if choice.is_forced else TextPart(self._hint(choice, "help"))
        elif turn.has_image and not (choice.is_forced or self._book.live(choice.tools).match(turn.said)):
            yield TextPart(self._book.text("unseen"))
        else:
            if turn.has_image:
                yield TextPart(f"{self._book.text('unseen')} ")
            yield self._first(turn.said, turn, choice)

    def _first(self, said: str, turn: _Turn, choice: _Choice) -> TextPart | CallPart:
        if not said.strip():
            return TextPart(self._book.text("silence"))
        match = self._book.live(choice.tools).match(said)
        if choice.is_forced and (match is None or match.phrase.call is None):
            return _demanded(said, choice.tools)
        if match is None:
            return TextPart(self._hint(choice, "unmatched", _HINTS))
        phrase = match.phrase
        if phrase.call is not None:
            if choice.is_none:
                return TextPart(self._book.text("unavailable"))
            return CallPart(phrase.call.tool, json.dumps(match.arguments))
        match phrase.special:
            case "help":
                return TextPart(self._hint(choice, "help"))
            case "repeat":
                return TextPart(turn.last_said or self._book.text("nothing_to_repeat"))
            case _:
                return TextPart(phrase.answer)

    def _tell(self, turn: _Turn, choice: _Choice) -> Iterator[TextPart | CallPart]:
        """Speak the outputs, or make the second call of a phrase that has one."""
        match = self._book.live(choice.tools).match(turn.said or "")
        then = match.phrase.then if match is not None else None
        second = self._second(turn, match) if match is not None and not choice.is_none else None
        if second is not None:
            yield second
            return
        # With two calls, speak only the second's output: the first only provided its argument.
        outputs = [one for one in turn.outputs if then is not None and one[0].get("name") == then.tool] or turn.outputs
        for i, (call, output) in enumerate(outputs):
            arguments = _object(str(call.get("arguments", "")))
            sentence = self._book.reply(str(call.get("name", "")), arguments, output)
            yield TextPart(f" {sentence}" if i else sentence)

    def _second(self, turn: _Turn, match: Match) -> CallPart | None:
        if match.phrase.then is None or len(turn.calls) != 1:
            return None
        call, output = turn.outputs[0]
        found = _object(output)
        if match.phrase.call is None or call.get("name") != match.phrase.call.tool:
            return None
        try:
            arguments = match.phrase.then.arguments(found)
        except (KeyError, TypeError, ValueError):
            return None  # unknown shape or error: speak it verbatim
        return CallPart(match.phrase.then.tool, json.dumps(arguments))

    def _hint(self, choice: _Choice, key: str, most: int | None = None) -> str:
        examples = [] if choice.is_none else self._book.examples(choice.tools)[:most]
        if not examples:
            return self._book.text(f"{key}_bare" if choice.tools else f"{key}_alone")
        joined = ", ".join(examples[:-1])
        last = f"{joined}, {self._book.text('or')} {examples[-1]}" if joined else examples[-1]
        return self._book.text(key, examples=last)


@dataclass(frozen=True, slots=True)
class _Choice:
    """Which tools may be called."""

    tools: Sequence[Mapping[str, Any]]
    is_none: bool = False
    is_forced: bool = False
    """One of them must be called."""

    @classmethod
    def of(cls, request: ResponseRequest) -> _Choice:
        choice = request.tool_choice
        if isinstance(choice, Mapping):
            name = choice.get("name")
            return cls([tool for tool in request.tools if tool.get("name") == name], is_forced=True)
        return cls(request.tools, is_none=choice == "none", is_forced=choice == "required")


def _demanded(said: str, tools: Sequence[Mapping[str, Any]]) -> CallPart:
    """Return the only call that can be made without a phrase.

    Raises:
        SpeechError: There is none.
    """
    if len(tools) == 1:
        parameters = tools[0].get("parameters") or {}
        needed = [str(one) for one in parameters.get("required") or ()]
        kinds = [parameters.get("properties", {}).get(one, {}) for one in needed]
        is_text = len(kinds) == 1 and kinds[0].get("type") == "string" and "enum" not in kinds[0]
        if not kinds or (is_text and said):
            return CallPart(str(tools[0].get("name", "")), json.dumps(dict.fromkeys(needed, said)))
    names = ", ".join(str(tool.get("name", "")) for tool in tools) or "none"
    raise SpeechError(f"tool_choice demands a call of a tool (allowed: {names}), and no phrase of one was said")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    """The conversation since the user's last message."""

    said: str | None = None
    """The user's last words; None without a user message, "" for silence."""
    calls: Sequence[Item] = ()
    outputs: Sequence[tuple[Item, str]] = ()
    """The outputs that no answer has spoken yet, each with its call."""
    has_image: bool = False
    """True if an image came after the last answer."""
    is_answered: bool = False
    """True if an answer followed the user's last words."""
    last_said: str = field(default="", repr=False)
    """The last answer in the conversation."""

    @classmethod
    def of(cls, items: Sequence[Item]) -> _Turn:
        start = max((i for i, item in enumerate(items) if _is_message(item, "user")), default=None)
        tail = items[start + 1 :] if start is not None else items
        calls = [item for item in tail if item.get("type") == "function_call"]
        last_call = max((i for i, item in enumerate(tail) if item.get("type") == "function_call"), default=-1)
        answered = max((i for i, item in enumerate(tail) if _is_message(item, "assistant")), default=-1)
        by_id = {item.get("call_id"): item for item in items if item.get("type") == "function_call"}
        fresh = [item for item in tail[answered + 1 :] if item.get("type") == "function_call_output"]
        answers = (_text(item) for item in reversed(items) if _is_message(item, "assistant"))
        return cls(
            said=_text(items[start]) if start is not None else None,
            calls=[] if answered > last_call else calls,
            outputs=[(by_id.get(item.get("call_id"), {}), str(item.get("output", ""))) for item in fresh],
            has_image=_has_new_image(items),
            is_answered=answered >= 0,
            last_said=next(filter(None, answers), ""),
        )


def _is_message(item: Item, role: str) -> bool:
    return item.get("type") == "message" and item.get("role") == role


def _has_new_image(items: Sequence[Item]) -> bool:
    answered = max((i for i, item in enumerate(items) if _is_message(item, "assistant")), default=-1)
    contents = (item.get("content") or () for item in items[answered + 1 :] if _is_message(item, "user"))
    return any(part.get("type") == "input_image" for parts in contents for part in parts)


def _text(item: Item) -> str:
    """Return the words of a message: typed, or transcribed from its audio."""
    parts = (part.get("text") or part.get("transcript") or "" for part in item.get("content") or ())
    return " ".join(part for part in parts if part)


def _object(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
