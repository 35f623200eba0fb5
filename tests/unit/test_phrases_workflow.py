"""The phrases workflow of the voice pipeline: from words to calls, from outputs to sentences."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from appliance.errors import SpeechError
from appliance.speech.stages import CallPart, ResponseRequest, TextPart
from appliance.speech.workflows.phrases import PhrasesWorkflow
from tests.support.spoken_requests import BOOK, TOOLS, call, output, said, user


async def answer(*items: Mapping[str, Any], **more: Any) -> Any:
    """Return the only call as (name, arguments), or the text."""
    request = ResponseRequest(items=items, **{"tools": TOOLS, **more})
    parts = [part async for part in PhrasesWorkflow(BOOK).respond(request)]
    if len(parts) == 1 and isinstance(parts[0], CallPart):
        return parts[0].name, json.loads(parts[0].arguments)
    return "".join(part.text for part in parts if isinstance(part, TextPart))


@pytest.mark.parametrize("kind", ["input_text", "input_audio"])
async def test_typed_or_spoken_command_becomes_a_call(kind: str) -> None:
    assert await answer(user("turn on the lamp", kind)) == ("set_lamp", {"on": True})


async def test_output_becomes_a_sentence() -> None:
    items = (user("turn on the lamp"), call("set_lamp", on=True), output({"on": True}))
    assert await answer(*items) == "The lamp is on."


async def test_several_outputs_become_one_sentence_each_in_order() -> None:
    items = (
        user("turn on the lamp"),
        call("set_lamp", "a", on=True),
        call("set_volume", "b", percent=25),
        output({"percent": 25}, "b"),
        output({"on": True}, "a"),
    )
    assert await answer(*items) == "The volume is 25 percent. The lamp is on."


async def test_output_that_was_spoken_is_not_spoken_again() -> None:
    items = (
        user("turn on the lamp"),
        call("set_lamp", "a", on=True),
        output({"on": True}, "a"),
        said("The lamp is on."),
        call("set_volume", "b", percent=25),
        output({"percent": 25}, "b"),
    )
    assert await answer(*items) == "The volume is 25 percent."


async def test_error_output_is_spoken_as_a_failure() -> None:
    items = (user("turn on the lamp"), call("set_lamp", on=True), output({"error": "the pin is taken"}))
    assert await answer(*items) == "That did not work: The pin is taken."


async def test_output_without_its_call_is_spoken_verbatim() -> None:
    assert await answer(user("turn on the lamp"), output("All is well", "gone")) == "All is well."


async def test_call_without_an_output_is_not_repeated() -> None:
    assert await answer(user("turn on the lamp"), call("set_lamp", on=True)) == "I am still working on that."


async def test_answered_words_do_not_repeat_the_call() -> None:
    items = (user("turn on the lamp"), call("set_lamp", on=True), output({"on": True}), said("The lamp is on."))
    assert await answer(*items) == "The lamp is on."


async def test_louder_reads_the_volume_and_then_sets_it() -> None:
    asked = (user("louder"), call("get_volume"))
    assert await answer(user("louder")) == ("get_volume", {})
    assert await answer(*asked, output({"percent": 40})) == ("set_volume", {"percent": 55})
    assert await answer(*asked, output({"percent": 95})) == ("set_volume", {"percent": 100})
    both = (*asked, output({"percent": 40}), call("set_volume", "c2", percent=55), output({"percent": 55}, "c2"))
    assert await answer(*both) == "The volume is 55 percent."


async def test_louder_stops_if_the_volume_is_unknown() -> None:
    items = (user("louder"), call("get_volume"), output({"error": "no card"}))
    assert await answer(*items) == "That did not work: No card."


async def test_unmatched_sentence_is_answered_with_examples() -> None:
    heard = await answer(user("tell me a joke about the lamp"))
    assert heard.startswith("I did not catch that. You can say: turn on the lamp, what time is it, or set the volume")


async def test_unmatched_sentence_without_tools_gets_no_examples() -> None:
    assert await answer(user("turn on the lamp"), tools=[]) == "I did not catch that, and I have no tools here."


async def test_silence_is_reported() -> None:
    assert await answer(user("", "input_audio")) == "I did not hear anything."


async def test_answer_needs_no_tool() -> None:
    assert await answer(user("Thank you!"), tools=[]) == "You are welcome."


async def test_help_lists_examples() -> None:
    assert "turn on the lamp" in await answer(user("help"))


async def test_last_answer_is_repeated() -> None:
    assert await answer(user("hello"), said("Hello."), user("say that again")) == "Hello."
    assert await answer(user("say that again")) == "I have not said anything yet."


async def test_tool_choice_none_calls_nothing_and_says_so() -> None:
    assert await answer(user("turn on the lamp"), tool_choice="none") == "I can't do that now."
    assert await answer(user("thanks"), tool_choice="none") == "You are welcome."


def function(name: str, *required: str, **kinds: Any) -> dict[str, Any]:
    properties = {key: {"type": kind} if isinstance(kind, str) else kind for key, kind in kinds.items()}
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "name": name, "parameters": parameters}


NAMED = {"type": "function", "name": "set_lamp"}

NOTE = function("add_note", "text", text="string", colour="string")


async def test_tool_choice_required_calls_the_tool_whose_phrase_was_said_and_speaks_its_output() -> None:
    assert await answer(user("turn on the lamp"), tool_choice="required") == ("set_lamp", {"on": True})
    items = (user("turn on the lamp"), call("set_lamp", on=True), output({"on": True}))
    assert await answer(*items, tool_choice="required") == "The lamp is on."


async def test_named_tool_choice_calls_that_tool_and_no_other() -> None:
    assert await answer(user("turn on the lamp"), tool_choice=NAMED) == ("set_lamp", {"on": True})
    tools = [*TOOLS, function("open_door", gently="boolean")]
    choice = {"type": "function", "name": "open_door"}
    for words in ("what time is it", "hello", "let me in"):
        assert await answer(user(words), tools=tools, tool_choice=choice) == ("open_door", {})


async def test_demanded_tool_with_one_text_gets_the_words_of_the_user() -> None:
    expected = ("add_note", {"text": "buy milk"})
    assert await answer(user("buy milk"), tools=[NOTE], tool_choice="required") == expected
    choice = {"type": "function", "name": "add_note"}
    assert await answer(user("buy milk"), tools=[*TOOLS, NOTE], tool_choice=choice) == expected


@pytest.mark.parametrize(
    ("tools", "choice"),
    [
        (TOOLS, "required"),
        ([function("dim", "level", level="integer")], "required"),
        ([function("move", "room", room={"type": "string", "enum": ["hall", "attic"]})], "required"),
        ([function("send", "to", "text", to="string", text="string")], {"type": "function", "name": "send"}),
        ([], "required"),
    ],
)
async def test_demanded_call_without_known_arguments_fails_instead_of_being_guessed(tools: Any, choice: Any) -> None:
    for words in ("tell me a joke", "hello"):
        with pytest.raises(SpeechError, match="tool_choice demands a call"):
            await answer(user(words), tools=tools, tool_choice=choice)


async def test_call_is_demanded_without_any_words() -> None:
    choice = {"type": "function", "name": "open_door"}
    assert await answer(tools=[function("open_door")], tool_choice=choice) == ("open_door", {})
    with pytest.raises(SpeechError):
        await answer(tools=[NOTE], tool_choice="required")


async def test_silence_is_reported_whatever_the_tool_choice() -> None:
    assert await answer(user("", "input_audio"), tool_choice=NAMED) == "I did not hear anything."


async def test_tools_without_a_sentence_are_not_denied() -> None:
    assert await answer(user("tell me a joke"), tools=[NOTE]) == "I did not catch that."
    assert await answer(user("help"), tools=[NOTE]) == "I have tools here, but I know no sentence for them."
    assert await answer(user("tell me a joke"), tool_choice="none") == "I did not catch that."
    assert await answer(user("help"), tools=[]) == "I have no tools here."


def picture(text: str = "") -> dict[str, Any]:
    image = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="}
    words = [{"type": "input_text", "text": text}] if text else []
    return {"type": "message", "role": "user", "content": [*words, image]}


UNSEEN = "I can't see pictures while I am offline."


async def test_image_is_acknowledged_as_not_seen() -> None:
    assert await answer(picture()) == UNSEEN
    assert await answer(picture("what is this")) == UNSEEN
    assert await answer(picture(), user("what is this")) == UNSEEN
    assert await answer(picture("hello")) == f"{UNSEEN} Hello. Hold the button and tell me what to do."


async def test_image_does_not_stop_a_command() -> None:
    request = ResponseRequest(items=[picture("turn on the lamp")], tools=TOOLS)
    text, called = [part async for part in PhrasesWorkflow(BOOK).respond(request)]
    assert text == TextPart(f"{UNSEEN} ")
    assert isinstance(called, CallPart) and called.name == "set_lamp"
    items = (picture("turn on the lamp"), said(UNSEEN), call("set_lamp", on=True), output({"on": True}))
    assert await answer(*items) == "The lamp is on."


async def test_image_of_an_earlier_turn_is_not_mentioned_again() -> None:
    assert await answer(picture(), said(UNSEEN), user("tell me a joke"), tools=[NOTE]) == "I did not catch that."


async def test_empty_conversation_gets_the_help() -> None:
    assert (await answer()).startswith("You can say:")
