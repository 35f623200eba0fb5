"""`tool`: from a signature and a docstring to a strict schema, and back to checked keyword arguments."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.realtime import RealtimeFunctionTool
from pydantic import BaseModel, Field, TypeAdapter

from appliance.agents.tools import Tool, tool
from appliance.errors import ToolError
from tests.support.oracle import check_client_frame


@tool
async def paint(
    percent: Annotated[int, Field(ge=0, le=100)],
    color: Literal["red", "blue"] = "red",
    note: str | None = None,
) -> str:
    """Paint the wall.

    It dries
    by itself.

    Args:
        percent: How much
            of it: the share.
        color (str): Which.

    Returns:
        Nothing to speak of.

    Raises:
        OSError: No paint.
    """
    return f"{percent} {color} {note}"


def test_the_definition_is_flat_and_strict() -> None:
    assert paint.definition() == {
        "type": "function",
        "name": "paint",
        "description": "Paint the wall. It dries by itself.",
        "parameters": {
            "type": "object",
            "additionalProperties": False,
            "required": ["percent"],
            "properties": {
                "percent": {
                    "type": "integer",
                    "minimum": 0,
                    "maximum": 100,
                    "description": "How much of it: the share.",
                },
                "color": {"type": "string", "enum": ["red", "blue"], "default": "red", "description": "Which."},
                "note": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
            },
        },
    }
    json.dumps(paint.definition())


def test_the_definition_is_what_the_service_takes() -> None:
    known = TypeAdapter(RealtimeFunctionTool).validate_python(paint.definition(), strict=True)
    assert known.model_dump(exclude_unset=True) == paint.definition()
    check_client_frame({"type": "session.update", "session": {"type": "realtime", "tools": [paint.definition()]}})


def test_the_schema_is_a_valid_one_of_its_kind() -> None:
    schema = paint.definition()["parameters"]
    assert set(schema) <= {"type", "properties", "required", "additionalProperties", "$defs"}
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) <= set(schema["properties"])


def test_a_tool_without_parameters_still_says_so() -> None:
    @tool
    def ping() -> str:
        return "pong"

    assert ping.definition() == {
        "type": "function",
        "name": "ping",
        "description": "",
        "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
    }
    assert ping.validate("") == ping.validate(" {} ") == {}


def test_options_stand_instead_of_what_is_read_from_the_function() -> None:
    @tool(name="open_door", description="Open it.", needs_approval=True, timeout_s=3.0)
    def function() -> None:
        """Not this."""

    assert (function.name, function.description, function.needs_approval, function.timeout_s) == (
        "open_door",
        "Open it.",
        True,
        3.0,
    )
    assert not function.is_async
    assert paint.is_async


def test_arguments_become_keyword_arguments_with_defaults() -> None:
    assert paint.validate('{"percent": 5}') == {"percent": 5, "color": "red", "note": None}
    assert paint.validate('{"percent": 0, "color": "blue", "note": "ä"}') == {
        "percent": 0,
        "color": "blue",
        "note": "ä",
    }


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("{}", "percent: Field required"),
        ('{"percent": 101}', "percent: Input should be less than or equal to 100"),
        ('{"percent": -1}', "percent: Input should be greater than or equal to 0"),
        ('{"percent": "many"}', "percent: Input should be a valid integer"),
        ('{"percent": 1.5}', "percent: Input should be a valid integer"),
        ('{"percent": null}', "percent: Input should be a valid integer"),
        ('{"percent": 1, "color": "green"}', "color: Input should be 'red' or 'blue'"),
        ('{"percent": 1, "colour": "red"}', "colour: Extra inputs are not permitted"),
        ('{"percent": 1', "Invalid JSON"),
        ("[1]", "should be an object"),
        ("null", "should be an object"),
        ("percent=1", "Invalid JSON"),
    ],
)
def test_what_does_not_fit_is_told_in_one_short_line(arguments: str, told: str) -> None:
    with pytest.raises(ToolError) as caught:
        paint.validate(arguments)
    text = str(caught.value)
    assert text.startswith("paint: ")
    assert told in text
    assert "\n" not in text
    assert len(text) < 200
    assert "argument_" not in text


@given(st.text())
def test_no_text_of_a_model_raises_anything_but_tool_error(text: str) -> None:
    try:
        fits = paint.validate(text)
    except ToolError:
        return
    assert set(fits) == {"percent", "color", "note"}


@pytest.mark.parametrize("text", ["\ud800", '{"percent": 1, "note": "\ud800"}', '{"percent": 1, "note": "\\ud800"}'])
def test_half_a_surrogate_is_no_reason_to_raise_anything_else(text: str) -> None:
    with pytest.raises(ToolError, match="paint: "):
        paint.validate(text)


@pytest.mark.parametrize("text", ['{"percent": ' + "9" * 5000 + "}", "[" * 100_000, '{"percent": 1e999}'])
def test_numbers_and_depths_beyond_all_measure_are_told_in_a_short_line(text: str) -> None:
    with pytest.raises(ToolError) as caught:
        paint.validate(text)
    assert len(str(caught.value)) < 300


def test_many_mistakes_are_told_in_one_line_with_the_first_five() -> None:
    with pytest.raises(ToolError) as caught:
        paint.validate(json.dumps({f"key_{number}": 1 for number in range(50)}))
    assert str(caught.value).count("; ") == 4


def test_limits_defaults_and_choices_are_in_the_schema_of_nested_types() -> None:
    @tool
    def beep(steps: Annotated[list[Step], Field(min_length=1, max_length=3)]) -> None:
        """Beep.

        Args:
            steps: One after the other.
        """

    schema = beep.parameters["properties"]["steps"]
    assert (schema["minItems"], schema["maxItems"], schema["description"]) == (1, 3, "One after the other.")
    step = beep.parameters["$defs"]["Step"]["properties"]
    assert step["seconds"] == {"type": "integer", "exclusiveMinimum": 0, "maximum": 60}
    assert step["tone"]["enum"] == ["high", "low"]
    assert beep.validate('{"steps": [{"seconds": 2}]}') == {"steps": [Step(seconds=2)]}
    with pytest.raises(ToolError, match=r"steps\.0\.seconds"):
        beep.validate('{"steps": [{"seconds": 0}]}')


def test_a_docstring_of_one_line_is_the_description() -> None:
    @tool
    def ping(times: int = 1) -> None:
        """Knock."""

    assert ping.description == "Knock."
    assert ping.parameters["properties"]["times"] == {"default": 1, "type": "integer"}


def test_a_bound_method_is_a_tool_without_self() -> None:
    class Door:
        def __init__(self) -> None:
            self.is_open = False

        def set_door(self, is_open: bool) -> str:
            """Open or shut the door."""
            self.is_open = is_open
            return "done"

    door = Door()
    made = tool(door.set_door)
    assert list(made.parameters["properties"]) == ["is_open"]
    assert made.function(**made.validate('{"is_open": true}')) == "done"
    assert door.is_open


def test_names_that_pydantic_reserves_can_be_parameters() -> None:
    @tool
    def odd(copy: int, model_config: str, _hidden: bool, json: str = "x") -> None: ...

    given_arguments = {"copy": 1, "model_config": "a", "_hidden": True, "json": "b"}
    assert odd.validate(json.dumps(given_arguments)) == given_arguments
    assert list(odd.parameters["properties"]) == list(given_arguments)


def test_a_parameter_named_title_keeps_its_name_and_its_schema_has_no_titles() -> None:
    @tool
    def lend(title: str, book: Book) -> None: ...

    fits = lend.validate('{"title": "a", "book": {"title": "b"}}')
    assert fits == {"title": "a", "book": Book(title="b")}
    assert lend.parameters["properties"]["title"] == {"type": "string"}
    assert lend.parameters["$defs"]["Book"]["properties"] == {"title": {"type": "string"}}


def test_an_object_and_a_partial_can_be_tools() -> None:
    class Counter:
        async def __call__(self, step: int) -> int:
            return step

    def add(a: int, b: int) -> int:
        return a + b

    counter = tool(name="count")(Counter())
    assert counter.is_async
    assert counter.validate('{"step": 2}') == {"step": 2}
    plus_one = tool(name="plus_one")(functools.partial(add, 1))
    assert not plus_one.is_async
    assert plus_one.function(**plus_one.validate('{"b": 2}')) == 3


class Step(BaseModel):
    seconds: Annotated[int, Field(gt=0, le=60)]
    tone: Literal["high", "low"] = "low"


class Book(BaseModel):
    title: str


def unannotated(a) -> None: ...  # type: ignore[no-untyped-def]
def star(*a: int) -> None: ...
def positional(a: int, /) -> None: ...
def uncheckable(a: Door) -> None: ...
def wordless(a: Callable[[], int]) -> None: ...
def unknown(a: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821


class Door:
    """Something that pydantic knows nothing of."""


@pytest.mark.parametrize("function", [unannotated, star, positional, uncheckable, wordless, unknown])
def test_what_cannot_be_described_is_refused_by_name(function: Callable[..., Any]) -> None:
    with pytest.raises(ToolError, match=rf"tool '{function.__name__}': "):
        tool(function)


@pytest.mark.parametrize("name", ["with space", "ä", "x" * 65])
def test_a_name_that_the_protocol_refuses_is_refused_here(name: str) -> None:
    with pytest.raises(ToolError, match="1 to 64"):
        tool(name=name)(star)


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan")])
def test_a_limit_of_no_time_is_refused(timeout_s: float) -> None:
    with pytest.raises(ToolError, match="more than 0"):
        tool(timeout_s=timeout_s)(positional)


def test_a_tool_is_a_value() -> None:
    assert isinstance(paint, Tool)
    with pytest.raises(AttributeError):
        paint.name = "other"  # type: ignore[misc]
