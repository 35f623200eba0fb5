"""Phrases of a tool's own, and sentences of a handoff: from `@tool` to the offline brain, and to no other server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from appliance.agents.agent import RealtimeAgent
from appliance.agents.handoffs import handoff
from appliance.agents.spec import AgentSpec
from appliance.agents.tools import Tool, tool
from appliance.conversation.regions.session import session_for
from appliance.errors import SpeechError, ToolError
from appliance.runtime.agent_preparer import AgentPreparer
from appliance.speech.phrases import PhraseBook
from appliance.speech.stages import ResponseRequest, TextPart
from appliance.speech.stt.sphinx import SphinxSpeechToText
from appliance.speech.tts import open_tts
from appliance.speech.workflows.phrases import PhrasesWorkflow
from tests.support.oracle import WrongFrame, check_client_frame
from tests.support.served import Served, names

BOOK = PhraseBook.load(Path(__file__).parents[2] / "config" / "phrases", "en")


class Room(Enum):
    HALL = "hall"
    LIVING_ROOM = "living_room"


@tool(phrases=["dim [the] lamp to {level} [percent]"])
async def dim(level: Annotated[int, Field(ge=0, le=100)]) -> str:
    """Dim the lamp."""
    return f"{level}"


@tool(phrases=["(open|raise) the blinds in the {room}", "blinds {room} {speed}"])
async def open_blinds(room: Room, speed: Literal["slow", "fast"] = "slow") -> str:
    """Open the blinds."""
    return f"{room} {speed}"


@tool(phrases=["switch {on} the fan", "switch the fan {on}"])
async def set_fan(on: bool) -> str:
    """Switch the fan."""
    return f"{on}"


KITCHEN = RealtimeAgent(name="Kitchen", handoff_description="Cooking and timers.")
HOUSE = RealtimeAgent(name="House", tools=[dim, open_blinds, set_fan], handoffs=[KITCHEN])


async def spec_of(agent: RealtimeAgent) -> AgentSpec:
    def compose(agent: RealtimeAgent, instructions: str, tools: Sequence[Any]) -> dict[str, Any]:
        return {"type": "realtime", "instructions": instructions, "tools": [dict(one) for one in tools]}

    return await AgentPreparer({agent.name: agent}, compose=compose, post=lambda event: None).spec(agent)


async def offline_tools(agent: RealtimeAgent = HOUSE) -> list[dict[str, Any]]:
    session = (await spec_of(agent)).for_offline_brain()
    return list(session["tools"])


def meaning(said: str, tools: Sequence[dict[str, Any]], book: PhraseBook = BOOK) -> tuple[str, dict[str, Any]] | None:
    match = book.live(tools).match(said)
    return (match.phrase.call.tool, match.arguments) if match and match.phrase.call else None


# --- from the tool to the brain ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("dim the lamp to fifty percent", ("dim", {"level": 50})),
        ("Dim lamp to 7!", ("dim", {"level": 7})),
        ("please dim the lamp to one hundred", ("dim", {"level": 100})),
        ("dim the lamp to 101 percent", None),
        ("raise the blinds in the living room", ("open_blinds", {"room": "living_room"})),
        ("blinds hall fast", ("open_blinds", {"room": "hall", "speed": "fast"})),
        ("switch off the fan", ("set_fan", {"on": False})),
        ("switch the fan on", ("set_fan", {"on": True})),
        ("switch the fan", None),
    ],
)
async def test_phrase_of_a_tool_becomes_a_call_that_the_tool_accepts(said: str, expected: Any) -> None:
    found = meaning(said, await offline_tools())
    assert found == expected
    if found is not None:
        own = {one.name: one for one in HOUSE.tools}[found[0]]
        assert set(own.validate(json.dumps(found[1]))) >= set(found[1])


async def test_phrase_is_in_the_grammar_of_the_recogniser() -> None:
    grammar = BOOK.live(await offline_tools()).grammar
    assert grammar.accepts(["dim", "the", "lamp", "to", "twenty", "five", "percent"])
    assert grammar.accepts(["could", "you", "please", "switch", "off", "the", "fan"])
    assert not grammar.accepts(["dim", "the", "lamp", "to", "25", "percent"])
    assert not BOOK.live([dim.definition()]).grammar.accepts(["dim", "the", "lamp", "to", "fifty"])


async def test_spoken_phrase_is_understood(caplog: pytest.LogCaptureFixture) -> None:
    engine = SphinxSpeechToText(BOOK)
    strange = tool(name="brew", phrases=["start the xylobrewer"])(lambda: None)
    agent = RealtimeAgent(name="House", tools=[dim, strange], handoffs=[KITCHEN])
    tools = await offline_tools(agent)
    for said in ("dim the lamp to thirty percent", "transfer me to the kitchen agent"):
        heard = engine.understand(await open_tts("flite", voice="slt").synthesize(said), tools)
        assert (heard.text, heard.is_command) == (said, True)
    [warning] = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert warning.startswith("the phrases of the tool 'brew' cannot be heard: unknown to the recogniser: 'xylobrewer'")
    assert meaning("start the xylobrewer", tools) == ("brew", {}), "it can be typed"


async def test_phrase_of_a_tool_wins_over_a_sentence_of_the_book() -> None:
    @tool(phrases=["turn on the lamp"])
    async def open_door() -> str:
        """Open the door."""
        return ""

    lamp = {"type": "function", "name": "set_lamp"}
    tools = await offline_tools(RealtimeAgent(name="House", tools=[open_door]))
    assert meaning("turn on the lamp", [lamp, *tools]) == ("open_door", {})


async def answer(said: str, tools: Sequence[dict[str, Any]], *more: dict[str, Any], book: PhraseBook = BOOK) -> str:
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": said}]}
    request = ResponseRequest(items=[item, *more], tools=tools)
    parts = [one async for one in PhrasesWorkflow(book).respond(request)]
    return "".join(one.text if isinstance(one, TextPart) else f"<{one.name}>" for one in parts)


async def test_examples_begin_with_the_phrases_of_tools() -> None:
    tools = await offline_tools()
    assert await answer("tell me a joke", tools) == (
        "I did not catch that. You can say: dim lamp to fifty, open the blinds in the living room, "
        "or switch off the fan."
    )
    assert (await answer("help", tools)).endswith(", or transfer me to kitchen.")


async def test_phrase_that_a_client_wrote_wrong_fails_the_answer() -> None:
    for say in ("go (there", "go <turn>", "go {where}", "light[s]"):
        wrong = {"type": "function", "name": "go", "phrases": {"say": [say]}}
        with pytest.raises(SpeechError, match="go: "):
            BOOK.live([wrong])


async def test_language_without_a_phrase_book_has_the_phrases_of_tools() -> None:
    empty = PhraseBook({"language": "xx", "phrases": []}, name="")
    assert meaning("dim lamp to 40", await offline_tools(), book=empty) == ("dim", {"level": 40})
    assert await answer("dim lamp to 40", await offline_tools(), book=empty) == "<dim>"
    assert (await answer("dim lamp to 40", [], book=empty)).startswith("I am offline, and I don't know any commands")


# --- handoffs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        "transfer me to the kitchen agent",
        "Transfer me to Kitchen.",
        "can you put me through to the kitchen please",
        "i want to talk to the kitchen assistant",
    ],
)
async def test_sentence_hands_over(said: str) -> None:
    assert meaning(said, await offline_tools()) == ("transfer_to_kitchen", {})
    assert meaning(said, [KITCHEN_OF_THE_SDK]) == ("transfer_to_kitchen", {}), "without a key of our own"


KITCHEN_OF_THE_SDK = {
    "type": "function",
    "name": "transfer_to_kitchen",
    "description": "Handoff to the Kitchen agent to handle the request. Cooking.",
}


async def test_handoff_with_a_name_of_its_own_is_known_by_its_agent() -> None:
    cook = handoff(RealtimeAgent(name="Master Cook"), tool_name="get_help", description="The user wants to cook.")
    tools = await offline_tools(RealtimeAgent(name="House", handoffs=[cook]))
    assert meaning("transfer me to master cook", tools) == ("get_help", {})


async def test_handoff_that_needs_input_is_not_called() -> None:
    needy = {**KITCHEN_OF_THE_SDK, "parameters": {"type": "object", "required": ["reason"]}}
    assert meaning("transfer me to the kitchen agent", [needy]) is None


async def test_handoff_is_spoken_about() -> None:
    called = {"type": "function_call", "call_id": "c1", "name": "transfer_to_kitchen", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c1", "output": '{"assistant": "Kitchen"}'}
    said = await answer("transfer me to the kitchen agent", [], called, output)
    assert said == "You are talking to Kitchen now."


# --- no other server gets them ----------------------------------------------------------------------------------------


async def test_only_the_offline_brain_gets_phrases_and_it_gets_no_mcp_server() -> None:
    spec = await spec_of(HOUSE)
    mcp = {"type": "mcp", "server_label": "notes", "server_url": "https://notes.example/mcp"}
    spec = replace(spec, session={**spec.session, "tools": [*spec.session["tools"], mcp]})
    for is_trusted in (True, False):
        sent = session_for(spec, is_offline=False, is_trusted=is_trusted, has_spoken=False)
        check_client_frame({"type": "session.update", "session": dict(sent)})
        assert mcp in sent["tools"]
    sent = session_for(spec, is_offline=True, is_trusted=True, has_spoken=False)
    assert [bool(one.get("phrases")) for one in sent["tools"]] == [True, True, True, True]
    with pytest.raises(WrongFrame):
        check_client_frame({"type": "session.update", "session": dict(sent)})


async def test_disabled_tool_is_offered_to_nobody() -> None:
    agent = RealtimeAgent(name="House", tools=[replace(dim, enabled=False)])
    assert await offline_tools(agent) == []


async def test_brain_takes_the_phrases_and_does_not_show_them() -> None:
    served = Served()
    tools = await offline_tools()
    frames = served.update(tools=tools)  # `Served` checks the frame
    assert names(frames) == ["session.updated"]
    assert frames[0]["session"]["tools"] == (await spec_of(HOUSE)).session["tools"]
    served.say("dim the lamp to fifty")
    assert list(served.generating[served.ask()].request.tools) == tools


# --- mistakes are found when the tool is made -------------------------------------------------------------------------


def made(*phrases: Any, parameters: str = "level: int, room: str = ''") -> Tool:
    space: dict[str, Any] = {}
    exec(f"async def dim({parameters}) -> None: ...", space)
    return tool(phrases=phrases)(space["dim"])


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("dim to {lvel}", "has the unknown placeholder {lvel}; parameters: level, room; did you mean 'level'?"),
        ("dim the lamp", "lacks the required parameter 'level': write {level} where its value is said"),
        ("dim to {level} {level}", "has {level} twice"),
        ("dim [to {level}]", "has a placeholder inside of brackets, or brackets without a partner"),
        ("dim (it to {level}", "has a placeholder inside of brackets, or brackets without a partner"),
        ("dim to {level} | set {level}", "has {level} twice"),
        ("dim it | to {level}", "has '|' outside of (…)"),
        ("dim light[s] to {level}", "joins pieces inside a word: write (light|lights) and not light[s]"),
        ("dim to {level}%", "has '%': write words, and numbers as words"),
        ("<turn> it to {level}", "has '<': write words, and numbers as words"),
        ("dim " * 60 + "{level}", "is longer than 200 characters"),
    ],
)
def test_mistake_in_a_phrase_names_the_tool_and_the_phrase(phrase: str, expected: str) -> None:
    with pytest.raises(ToolError) as caught:
        made(phrase)
    assert str(caught.value) == f"tool 'dim': the phrase {phrase!r} {expected}"


def test_phrase_of_optional_words_only_is_refused() -> None:
    with pytest.raises(ToolError, match="has no word that must be said"):
        made("[please] [now]", parameters="")


def test_free_text_is_no_placeholder() -> None:
    with pytest.raises(ToolError, match=r"a phrase has \{room\}, and the parameter 'room' is neither a number nor"):
        made("dim to {level} in {room}")


def test_single_string_is_not_a_list_of_phrases() -> None:
    with pytest.raises(ToolError, match="phrases is a list of sentences, not"):
        tool(phrases="dim to {level}")(dim.function)


@pytest.mark.parametrize(
    ("kind", "slot"),
    [
        (int, {"type": "integer", "minimum": 0, "maximum": 100}),
        (float | None, {"type": "integer", "minimum": 0, "maximum": 100}),
        (Annotated[int, Field(ge=-5, lt=10)], {"type": "integer", "minimum": 0, "maximum": 9}),
        (Annotated[float, Field(gt=1.5, le=20.5)], {"type": "integer", "minimum": 2, "maximum": 20}),
        (Literal["warm"], {"enum": ["warm"]}),
        (Literal[1, 2], {"enum": [1, 2]}),
        (Room, {"enum": ["hall", "living_room"]}),
        (bool, {"type": "boolean"}),
    ],
)
def test_placeholder_is_typed_by_the_schema(kind: Any, slot: dict[str, Any]) -> None:
    async def put(value: Any = None) -> None: ...

    put.__annotations__["value"] = kind
    assert tool(phrases=["put {value}"])(put).spoken == {"say": ["put {value}"], "slots": {"value": slot}}
