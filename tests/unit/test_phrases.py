"""The phrase book: templates become calls, answers and a grammar; tool outputs become sentences."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.errors import LanguageError, SettingsError
from appliance.speech.phrases import PhraseBook, normalize
from tests.support.sentences import IN_BOOK, OUT_OF_BOOK

FOLDER = Path(__file__).parents[2] / "config" / "phrases"
BOOK = PhraseBook.load(FOLDER, "en")
ARGUMENTS = {
    "set_lamp": ["on"],
    "set_light": ["on", "brightness", "color"],
    "set_volume": ["percent"],
    "get_volume": [],
    "mute_microphone": [],
    "get_time": [],
    "start_timer": ["seconds", "label"],
    "list_timers": [],
    "cancel_timer": ["label"],
    "device_status": [],
}


def tool(name: str, *arguments: str) -> dict[str, Any]:
    properties = {argument: {} for argument in arguments}
    return {"type": "function", "name": name, "parameters": {"type": "object", "properties": properties}}


TOOLS = [tool(name, *arguments) for name, arguments in ARGUMENTS.items()]
LIVE = BOOK.live(TOOLS)


def small(**more: Any) -> PhraseBook:
    source = {
        "numbers": {0: "zero", 1: "one", 2: "two", 20: "twenty", 30: "thirty"},
        "lists": {"n": {"from": 20, "to": 22}},
        "rules": {"turn": "(turn|switch)"},
        "phrases": [{"tool": "lamp", "arguments": {"on": True}, "say": ["<turn> [the] lamp on"]}],
    }
    return PhraseBook({**source, **more}, name="small.yaml")


def meaning(
    text: str, book: PhraseBook = BOOK, tools: list[dict[str, Any]] = TOOLS
) -> tuple[str, dict[str, Any]] | None:
    match = book.live(tools).match(text)
    return (match.phrase.call.tool, match.arguments) if match and match.phrase.call else None


@pytest.mark.parametrize(("sentence", "name", "arguments"), IN_BOOK, ids=[one[0] for one in IN_BOOK])
def test_sentence_in_the_book_gives_its_call(sentence: str, name: str, arguments: dict[str, Any]) -> None:
    assert meaning(sentence) == (name, arguments)


@pytest.mark.parametrize("sentence", OUT_OF_BOOK)
def test_sentence_outside_the_book_is_not_matched(sentence: str) -> None:
    assert LIVE.match(sentence) is None


def test_book_has_at_least_forty_templates_and_reaches_every_tool() -> None:
    assert sum(len(phrase.say) for phrase in BOOK.phrases) >= 40
    assert {phrase.call.tool for phrase in BOOK.phrases if phrase.call} == set(ARGUMENTS)


@pytest.mark.parametrize(
    ("typed", "arguments"),
    [
        ("Set the volume to 25%!", {"percent": 25}),
        ("  set  the volume, please", None),
        ("set the volume to twenty-five percent", {"percent": 25}),
        ("SET THE VOLUME TO A HUNDRED PERCENT", {"percent": 100}),
        ("set the volume to 101 percent", None),
    ],
)
def test_typed_numbers_and_punctuation_are_understood(typed: str, arguments: dict[str, Any] | None) -> None:
    found = meaning(typed)
    assert (found[1] if found else None) == arguments


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("set a timer for two and a half minutes", 150),
        ("set a timer for an hour and a half", 5400),
        ("set a timer for half a minute", 30),
        ("set a timer for a quarter of an hour", 900),
        ("start a one hour timer", 3600),
        ("set a timer for one hour and twenty five minutes", 5100),
        ("timer for one hundred and twenty seconds", 120),
        ("set a timer for a minute and a half", 90),
    ],
)
def test_parts_of_a_duration_are_summed(said: str, seconds: int) -> None:
    assert meaning(said) == ("start_timer", {"seconds": seconds})


def test_phrase_is_not_live_without_its_tool() -> None:
    assert meaning("turn on the lamp", tools=[tool("set_light", "on")]) is None


def test_phrase_is_not_live_if_the_tool_lacks_its_argument() -> None:
    assert meaning("dim the light to ten percent", tools=[tool("set_light", "on")]) is None
    assert meaning("turn on the light", tools=[tool("set_light", "on")]) == ("set_light", {"on": True})


def test_phrase_with_two_calls_is_live_only_with_both_tools() -> None:
    assert meaning("louder", tools=[tool("get_volume")]) is None
    assert meaning("louder", tools=[tool("get_volume"), tool("set_volume", "percent")]) == ("get_volume", {})


def test_tool_without_a_schema_takes_any_argument() -> None:
    assert meaning("turn on the lamp", tools=[{"name": "set_lamp"}]) == ("set_lamp", {"on": True})


def test_tools_of_other_types_are_ignored() -> None:
    assert meaning("turn on the lamp", tools=[{"type": "mcp", "name": "set_lamp"}]) is None


def test_answers_are_always_live() -> None:
    match = BOOK.live([]).match("hello there")
    assert match is not None and match.phrase.answer.startswith("Hello")


def test_same_tools_give_the_same_live_phrases_object() -> None:
    assert BOOK.live(TOOLS) is BOOK.live(list(reversed(TOOLS)))


def test_book_can_be_pickled() -> None:
    copy = pickle.loads(pickle.dumps(BOOK))
    assert meaning("turn on the lamp", book=copy) == ("set_lamp", {"on": True})
    assert copy.name == BOOK.name


# --- The grammar ---------------------------------------------------------------------------------------------------


def sentences(book: PhraseBook, tools: list[dict[str, Any]], most: int) -> Iterator[str]:
    """Yield sentences of the grammar, shortest first."""
    grammar = book.live(tools).grammar
    ways: list[tuple[int, tuple[str, ...]]] = [(0, ())]
    count = 0
    for state, words in ways:
        for start, to, word in grammar.arcs:
            if start == state:
                ways.append((to, (*words, word)))
                if to == grammar.final:
                    yield " ".join((*words, word))
                    count += 1
                    if count == most:
                        return


def test_grammar_has_exactly_the_sentences_of_the_templates() -> None:
    book = small(
        phrases=[
            {"tool": "lamp", "say": ["<turn> [the] lamp (on|off) [now]"]},
            {"tool": "level", "say": ["level {n}"]},
            {"answer": "Hello.", "say": ["(good;day)"]},
        ]
    )
    expected = {
        " ".join(word for word in words if word)
        for words in itertools.product(("turn", "switch"), ("the", ""), ("lamp",), ("on", "off"), ("now", ""))
    }
    expected |= {"level twenty", "level twenty one", "level twenty two", "good day", "day good"}
    assert set(sentences(book, [tool("lamp"), tool("level", "n")], 1000)) == expected


def test_every_sentence_of_the_grammar_is_matched() -> None:
    for sentence in sentences(BOOK, TOOLS, 3000):
        assert LIVE.match(sentence) is not None, sentence


def test_only_live_phrases_are_in_the_grammar() -> None:
    grammar = BOOK.live([tool("get_time")]).grammar
    assert grammar.accepts(["what", "time", "is", "it"])
    assert grammar.accepts(["hello"])
    assert not grammar.accepts(["turn", "on", "the", "lamp"])


def test_partial_sentence_is_not_accepted() -> None:
    assert not LIVE.grammar.accepts(["turn", "on", "the"])
    assert not LIVE.grammar.accepts([])


def test_grammar_stays_small() -> None:
    assert LIVE.grammar.states < 1000  # decoding time grows with it: JSGF took 5 s for 1 s of speech


def test_words_of_the_grammar_are_in_the_books_word_list() -> None:
    assert {word for _, _, word in LIVE.grammar.arcs} <= BOOK.words


# --- Replies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "output", "spoken"),
    [
        ("set_lamp", {"on": True}, '{"on": true}', "The lamp is on."),
        ("set_lamp", {"on": False}, '{"ok": true}', "The lamp is off."),
        ("set_lamp", {"on": True}, "", "The lamp is on."),
        ("set_volume", {"percent": 25}, '{"percent": 25}', "The volume is 25 percent."),
        ("set_volume", {"percent": 0}, '{"percent": 0}', "The sound is off."),
        ("set_light", {"on": True, "color": "red"}, "{}", "The light is red."),
        ("set_light", {"on": True}, '{"on": true, "brightness": 70}', "The light is on, at 70 percent."),
        (
            "set_light",
            {"on": True, "color": "red"},
            '{"on": true, "brightness": 70, "note": "this light has one colour only"}',
            "The light is on, at 70 percent, but this light has one colour only.",
        ),
        ("set_light", {"on": True, "brightness": 0}, '{"on": false}', "The light is off."),
        ("set_lamp", {"on": True}, "the lamp is already on", "The lamp is already on."),
        ("set_lamp", {"on": True}, '"lamp is broken"', "Lamp is broken."),
        ("set_lamp", {"on": True}, '{"error": "the pin is taken"}', "That did not work: The pin is taken."),
        ("set_lamp", {"on": True}, '{"error": {"message": "no"}}', "That did not work: No."),
        ("set_lamp", {"on": True}, "Error: no such pin", "That did not work: No such pin."),
        ("brew", {}, '{"cups": 3, "is_hot": true, "pot": {}}', "Cups 3, is hot yes."),
        ("brew", {}, "", "Done."),
        ("brew", {}, "[1, 2]", "1, 2."),
        ("brew", {}, "42", "42."),
    ],
)
def test_output_becomes_a_sentence(name: str, arguments: dict[str, Any], output: str, spoken: str) -> None:
    assert BOOK.reply(name, arguments, output) == spoken


@given(st.sampled_from([*ARGUMENTS, "other"]), st.text(max_size=800) | st.from_regex(r'\{"[a-z]+": [^}]*\}'))
@settings(max_examples=150, deadline=None)
def test_any_output_becomes_one_line_of_bounded_length(name: str, output: str) -> None:
    spoken = BOOK.reply(name, {}, output)
    assert 0 < len(spoken) < 700 and "\n" not in spoken


# --- Errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"phrases": []}, "there are no phrases"),
        ({"phrases": [{"tool": "x", "answer": "y", "say": ["z"]}]}, r"phrases\[0\].*exactly one of"),
        ({"phrases": [{"answer": "y", "say": []}]}, r"phrases\[0\].*'say' is empty"),
        ({"phrases": [{"answer": "y", "say": ["light[s]"]}]}, r"phrases\[0\]\.say\[0\].*inside a word at 'light'"),
        ({"phrases": [{"answer": "y", "say": ["(a|b"]}]}, r"phrases\[0\]\.say\[0\].*is not a valid template"),
        ({"phrases": [{"answer": "y", "say": ["<trun> on"]}]}, "no rule 'trun'; the rules are turn"),
        ({"phrases": [{"answer": "y", "say": ["to {m}"]}]}, "no list 'm'; the lists are n"),
        ({"rules": {"a": "x <b>", "b": "<a>"}}, r"rules\.a: it contains itself"),
        ({"lists": {"n": {"from": 40, "to": 41}}}, r"lists\.n: no words for 40"),
        ({"lists": {"n": {"to": 41}}}, r"lists\.n: give either"),
        ({"lists": ["n"]}, "lists is a list, expected a mapping"),
        ({"pronunciations": {"x": 3}}, r"pronunciations\.x"),
        ({"replies": {"lamp": "on"}}, r"replies\.lamp"),
        ({"phrases": [{"tool": "x", "arguments": {"a": {}}, "say": ["z"]}]}, r"arguments\.a.*'sum'"),
    ],
)
def test_invalid_book_is_refused_with_the_place_of_the_error(more: dict[str, Any], expected: str) -> None:
    with pytest.raises(SettingsError, match=expected) as caught:
        small(**more)
    assert "small.yaml" in str(caught.value)


def test_missing_book_error_names_the_available_ones(tmp_path: Path) -> None:
    (tmp_path / "de.yaml").write_text("phrases: []")
    with pytest.raises(LanguageError, match=r"'fr'.*available: de"):
        PhraseBook.load(tmp_path, "fr")


@pytest.mark.parametrize("language", ["../en", "", "en/../../x", "english please"])
def test_path_as_language_is_refused(language: str) -> None:
    with pytest.raises(SettingsError, match="is not a language code"):
        PhraseBook.load(FOLDER, language)


def test_region_falls_back_to_its_language() -> None:
    assert PhraseBook.load(FOLDER, "en-GB").language == "en"


@pytest.mark.parametrize("text", ["- a\n- b", "a: [", "\x00", "a: !!python/object:os.system {}"])
def test_file_that_is_not_a_book_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "en.yaml").write_text(text)
    with pytest.raises(SettingsError, match=r"en\.yaml"):
        PhraseBook.load(tmp_path, "en")


def test_on_is_a_string_and_true_is_a_boolean(tmp_path: Path) -> None:
    source = {"phrases": [{"tool": "t", "arguments": {"ON": True}, "say": ["go"]}]}
    (tmp_path / "en.yaml").write_text(yaml.safe_dump(source).replace("ON", "on"))
    match = PhraseBook.load(tmp_path, "en").live([{"name": "t"}]).match("go")
    assert match is not None and match.arguments == {"on": True}


# --- Text ----------------------------------------------------------------------------------------------------------


def test_normalized_text_has_words_only() -> None:
    assert normalize("  What’s the TIME,\n please?! ") == "what's the time please"
    assert normalize("25%") == "25 percent"


@given(st.text(max_size=400))
@settings(max_examples=150, deadline=None)
def test_matching_any_text_never_raises(text: str) -> None:
    LIVE.match(text)


def test_text_over_the_length_limit_is_not_matched() -> None:
    assert LIVE.match("turn on the lamp " * 1000) is None
