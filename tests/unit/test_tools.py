"""`tool`: strict schemas from signatures and docstrings, and validation of arguments."""

from __future__ import annotations

import enum
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.realtime import RealtimeFunctionTool
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from appliance.agents.schemas import explained, plain_schema
from appliance.agents.tools import Tool, tool
from appliance.errors import ToolError
from tests.support.oracle import check_client_frame
from tests.support.paint import paint


def test_definition_is_flat_and_strict() -> None:
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


def test_definition_matches_the_sdk_types() -> None:
    known = TypeAdapter(RealtimeFunctionTool).validate_python(paint.definition(), strict=True)
    assert known.model_dump(exclude_unset=True) == paint.definition()
    check_client_frame({"type": "session.update", "session": {"type": "realtime", "tools": [paint.definition()]}})


def test_schema_has_only_the_expected_keys() -> None:
    schema = paint.definition()["parameters"]
    assert set(schema) <= {"type", "properties", "required", "additionalProperties", "$defs"}
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) <= set(schema["properties"])


def test_tool_without_parameters_has_an_empty_object_schema() -> None:
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


def test_options_override_name_and_docstring() -> None:
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
    ("arguments", "expected"),
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
def test_invalid_arguments_are_explained_in_one_short_line(arguments: str, expected: str) -> None:
    with pytest.raises(ToolError) as caught:
        paint.validate(arguments)
    text = str(caught.value)
    assert text.startswith("paint: ")
    assert expected in text
    assert "\n" not in text
    assert len(text) < 200
    assert "argument_" not in text


@given(st.text())
def test_any_text_as_arguments_raises_only_tool_error(text: str) -> None:
    try:
        fits = paint.validate(text)
    except ToolError:
        return
    assert set(fits) == {"percent", "color", "note"}


@pytest.mark.parametrize("text", ["\ud800", '{"percent": 1, "note": "\ud800"}', '{"percent": 1, "note": "\\ud800"}'])
def test_lone_surrogate_raises_only_tool_error(text: str) -> None:
    with pytest.raises(ToolError, match="paint: "):
        paint.validate(text)


@pytest.mark.parametrize("text", ['{"percent": ' + "9" * 5000 + "}", "[" * 100_000, '{"percent": 1e999}'])
def test_huge_numbers_and_depths_are_explained_in_a_short_line(text: str) -> None:
    with pytest.raises(ToolError) as caught:
        paint.validate(text)
    assert len(str(caught.value)) < 300


def test_only_the_first_five_of_many_mistakes_are_explained() -> None:
    with pytest.raises(ToolError) as caught:
        paint.validate(json.dumps({f"key_{number}": 1 for number in range(50)}))
    assert str(caught.value).count("; ") == 4


def test_schema_of_nested_types_has_limits_defaults_and_choices() -> None:
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


def test_one_line_docstring_is_the_description() -> None:
    @tool
    def ping(times: int = 1) -> None:
        """Knock."""

    assert ping.description == "Knock."
    assert ping.parameters["properties"]["times"] == {"default": 1, "type": "integer"}


def test_bound_method_can_be_a_tool() -> None:
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


def test_parameter_named_title_stays_and_generated_titles_are_removed() -> None:
    @tool
    def lend(title: str, book: Book) -> None: ...

    fits = lend.validate('{"title": "a", "book": {"title": "b"}}')
    assert fits == {"title": "a", "book": Book(title="b")}
    assert lend.parameters["properties"]["title"] == {"type": "string"}
    assert lend.parameters["$defs"]["Book"]["properties"] == {"title": {"type": "string"}}


def test_callable_object_and_partial_can_be_tools() -> None:
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


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Exact(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: int


@dataclass
class Place:
    shelf: int
    row: str = "top"


def looked_up(text: str) -> str:
    return {"known": "here"}[text]


def unannotated(a) -> None: ...  # type: ignore[no-untyped-def]


def star(*a: int) -> None: ...


def positional(a: int, /) -> None: ...


def uncheckable(a: Door) -> None: ...


def wordless(a: Callable[[], int]) -> None: ...


def unknown(a: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821


def unlimited(a: Annotated[str, Field(pattern="(")]) -> None: ...


def unchosen(a: Literal[1:2]) -> None: ...  # type: ignore[valid-type]


class Door:
    """A type that pydantic does not support."""


@pytest.mark.parametrize(
    "function", [unannotated, star, positional, uncheckable, wordless, unknown, unlimited, unchosen]
)
def test_function_that_cannot_be_described_is_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(ToolError, match=rf"tool '{function.__name__}': "):
        tool(function)


@pytest.mark.parametrize("name", ["with space", "ä", "x" * 65])
def test_invalid_tool_name_is_refused(name: str) -> None:
    with pytest.raises(ToolError, match="1 to 64"):
        tool(name=name)(paint.function)


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan")])
def test_timeout_that_is_not_positive_is_refused(timeout_s: float) -> None:
    with pytest.raises(ToolError, match="more than 0"):
        tool(timeout_s=timeout_s)(paint.function)


def test_tool_is_frozen() -> None:
    assert isinstance(paint, Tool)
    with pytest.raises(AttributeError):
        paint.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("hint", "schema", "arguments", "value"),
    [
        (Color, {"enum": ["red", "blue"], "type": "string"}, '"blue"', Color.BLUE),
        (Literal[1, "two"], {"enum": [1, "two"]}, '"two"', "two"),
        (Annotated[float, Field(gt=0, le=1)], {"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "0.5", 0.5),
        (Annotated[str, Field(min_length=1)], {"type": "string", "minLength": 1}, '"a"', "a"),
        (Annotated[str, Field(description="Why.")], {"type": "string", "description": "Why."}, '"a"', "a"),
        (int | None, {"anyOf": [{"type": "integer"}, {"type": "null"}]}, "null", None),
        (list[int], {"type": "array", "items": {"type": "integer"}}, "[1, 2]", [1, 2]),
        (dict[str, bool], {"type": "object", "additionalProperties": {"type": "boolean"}}, '{"a": true}', {"a": True}),
        (
            Exact,
            {
                "type": "object",
                "properties": {"size": {"type": "integer"}},
                "required": ["size"],
                "additionalProperties": False,
            },
            '{"size": 2}',
            Exact(size=2),
        ),
        (
            Book,
            {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]},
            '{"title": "a", "left over": 1}',
            Book(title="a"),
        ),
        (
            Place,
            {
                "type": "object",
                "properties": {"shelf": {"type": "integer"}, "row": {"type": "string", "default": "top"}},
                "required": ["shelf"],
                "additionalProperties": False,
            },
            '{"shelf": 3}',
            Place(shelf=3),
        ),
    ],
)
def test_type_maps_to_its_schema_and_value(hint: Any, schema: dict[str, Any], arguments: str, value: Any) -> None:
    def give(thing: Any) -> None: ...

    give.__annotations__["thing"] = hint
    made = tool(give)
    found = dict(made.parameters["properties"]["thing"])
    if "$ref" in found:
        found = made.parameters["$defs"][found["$ref"].removeprefix("#/$defs/")]
    assert found == schema
    assert (made.parameters["required"], made.parameters["additionalProperties"]) == (["thing"], False)
    assert made.validate(f'{{"thing": {arguments}}}') == {"thing": value}
    assert type(made.validate(f'{{"thing": {arguments}}}')["thing"]) is type(value)


@pytest.mark.parametrize(
    ("hint", "arguments"),
    [
        (Color, '"green"'),
        (Literal[1, "two"], "2"),
        (Annotated[float, Field(gt=0, lt=1)], "1"),
        (int | None, '"many"'),
        (list[int], '[1, "x"]'),
        (Exact, '{"size": 2, "more": 1}'),
        (Place, '{"row": "top"}'),
    ],
)
def test_invalid_value_is_refused_and_the_error_names_the_parameter(hint: Any, arguments: str) -> None:
    def give(thing: Any) -> None: ...

    give.__annotations__["thing"] = hint
    with pytest.raises(ToolError, match=r"^give: thing"):
        tool(give).validate(f'{{"thing": {arguments}}}')


def test_default_of_a_nested_type_is_in_the_schema() -> None:
    @tool
    def lend(book: Book = Book(title="a")) -> None: ...  # noqa: B008

    assert lend.parameters["properties"]["book"]["default"] == {"title": "a"}
    assert lend.validate("{}") == {"book": Book(title="a")}


def test_plain_schema_removes_only_generated_titles() -> None:
    schema = {
        "title": "Loan",
        "type": "object",
        "properties": {
            "title": {"title": "Title", "type": "string", "enum": ["title"]},
            "properties": {"title": "P", "properties": {"title": {"title": "T"}}},
            "book": {"anyOf": [{"title": "B", "const": {"title": "b"}}, {"title": "N", "type": "null"}]},
        },
        "$defs": {"title": {"title": "D", "examples": [{"title": "e"}]}},
    }
    before = json.dumps(schema)
    assert plain_schema(schema) == {
        "type": "object",
        "properties": {
            "title": {"type": "string", "enum": ["title"]},
            "properties": {"properties": {"title": {}}},
            "book": {"anyOf": [{"const": {"title": "b"}}, {"type": "null"}]},
        },
        "$defs": {"title": {"examples": [{"title": "e"}]}},
    }
    assert json.dumps(schema) == before


def test_validation_error_is_explained_with_locations() -> None:
    with pytest.raises(ValidationError) as caught:
        Step.model_validate({"seconds": 0, "tone": "loud"})
    assert explained(caught.value) == ("seconds: Input should be greater than 0; tone: Input should be 'high' or 'low'")


def test_validator_that_raises_is_reported_to_the_model() -> None:
    @tool
    def find(key: Annotated[str, AfterValidator(looked_up)]) -> None: ...

    assert find.validate('{"key": "known"}') == {"key": "here"}
    with pytest.raises(ToolError, match="find: the arguments cannot be checked: KeyError"):
        find.validate('{"key": "lost"}')
