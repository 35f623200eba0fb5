"""`tool`: as a function, with a context, with options, and without a signature."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.agents.context import RunContext, ToolContext
from appliance.agents.tools import Background, Tool, background, tool
from appliance.errors import ToolError
from tests.support.paint import paint

# --- as a function ----------------------------------------------------------------------------------------------------


async def test_tool_is_callable_as_the_function_that_it_was_made_of() -> None:
    @tool
    def add(a: int, b: int = 1) -> int:
        return a + b

    @tool(name="switch")
    async def set_lamp(on: bool) -> str:
        return f"on: {on}"

    assert (add(2), add(a=2, b=3)) == (3, 5)
    assert await set_lamp(on=True) == "on: True"


# --- the context ------------------------------------------------------------------------------------------------------


def test_context_parameter_is_not_shown_to_the_model() -> None:
    @tool
    def plain(where: ToolContext[Any], shelf: int) -> None:
        """Look.

        Args:
            where: Not for the model.
            shelf: Which.
        """

    @tool
    def with_type(shelf: int, *, where: ToolContext[dict[str, int]]) -> None: ...

    @tool
    def run_context(where: RunContext[dict[str, int]], shelf: int) -> None: ...

    for made in (plain, with_type, run_context):
        assert made.context_parameter == "where"
        assert list(made.parameters["properties"]) == made.parameters["required"] == ["shelf"]
        assert made.validate('{"shelf": 1}') == {"shelf": 1}
        with pytest.raises(ToolError, match="where: Extra inputs are not permitted"):
            made.validate('{"shelf": 1, "where": {}}')
    assert paint.context_parameter == ""


def test_context_annotation_may_be_unparameterized() -> None:
    def look(where: Any) -> None: ...

    look.__annotations__["where"] = "ToolContext"
    made = tool(look)
    assert made.context_parameter == "where"
    assert made.definition()["parameters"] == {"type": "object", "properties": {}, "additionalProperties": False}


def test_two_context_parameters_are_refused() -> None:
    def look(here: ToolContext[Any], there: RunContext[Any]) -> None: ...

    with pytest.raises(ToolError, match="two parameters get the context, 'here' too; one may"):
        tool(look)


@pytest.mark.parametrize(
    "hint", [ToolContext | None, Annotated[ToolContext[Any], "x"], list[ToolContext[Any]], RunContext | None]
)
def test_wrong_context_annotation_is_refused_with_the_remedy(hint: Any) -> None:
    def look(where: Any) -> None: ...

    look.__annotations__["where"] = hint
    with pytest.raises(ToolError, match="annotate 'where' as plain ToolContext"):
        tool(look)


def test_annotation_with_a_syntax_error_is_refused() -> None:
    def look(where: Any) -> None: ...

    look.__annotations__["where"] = "int |"
    with pytest.raises(ToolError, match="tool 'look': an annotation cannot be read"):
        tool(look)


# --- options ----------------------------------------------------------------------------------------------------------


def test_options_are_stored_unchanged() -> None:
    def needs(context: RunContext[Any], arguments: dict[str, Any], call_id: str) -> bool:
        return True

    def is_open(context: RunContext[Any], agent: Any) -> bool:
        return True

    def excuse(context: ToolContext[Any], error: Exception) -> str:
        return "sorry"

    made = tool(
        needs_approval=needs,
        enabled=is_open,
        error_function=excuse,
        cancellable=True,
        working_after_ms=800,
        filler="One moment.",
    )(paint.function)
    assert (made.needs_approval, made.enabled, made.error_function) == (needs, is_open, excuse)
    assert (made.cancellable, made.working_after_ms, made.filler) == (True, 800, "One moment.")
    assert made.definition() == paint.definition()


def test_default_tool_is_enabled_has_no_filler_and_is_not_cancellable() -> None:
    assert (paint.needs_approval, paint.enabled, paint.error_function) == (False, True, None)
    assert (paint.cancellable, paint.working_after_ms, paint.filler) == (False, None, "")


def test_filler_without_working_after_ms_is_refused() -> None:
    with pytest.raises(ToolError, match="tool 'paint': filler is spoken after working_after_ms"):
        tool(filler="One moment.")(paint.function)
    with pytest.raises(ToolError, match="filler is spoken after working_after_ms"):
        replace(paint, filler="One moment.")


@pytest.mark.parametrize("working_after_ms", [0, -1])
def test_working_after_ms_that_is_not_positive_is_refused(working_after_ms: int) -> None:
    with pytest.raises(ToolError, match=f"working_after_ms is {working_after_ms}; it must be more than 0"):
        tool(working_after_ms=working_after_ms)(paint.function)


def test_background_wraps_the_result() -> None:
    assert background({"on": True}) == Background({"on": True})


# --- without a signature ----------------------------------------------------------------------------------------------


LISTED = {"type": "object", "properties": {"path": {"type": "string", "title": "Path"}}}

listed = Tool(name="read", description="Read a file.", parameters=LISTED, function=print)


def test_tool_without_parse_shows_its_schema_unchanged() -> None:
    assert listed.definition() == {
        "type": "function",
        "name": "read",
        "description": "Read a file.",
        "parameters": LISTED,
    }


@given(st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers())))
def test_tool_without_parse_accepts_any_object(value: dict[str, Any]) -> None:
    assert listed.validate(json.dumps(value)) == value


def test_empty_text_is_an_empty_object() -> None:
    assert listed.validate("") == listed.validate("  ") == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[1]", "should be a JSON object, not [1]"),
        ("null", "should be a JSON object, not null"),
        ('"' + "x" * 1000 + '"', "should be a JSON object"),
        ("{", "not JSON"),
        ("path=1", "not JSON"),
        ('{"path": NaN}', "NaN is not a JSON number"),
        ('{"path": -Infinity}', "-Infinity is not a JSON number"),
        ("[" * 100_000, "not JSON"),
        ('{"path": ' + "9" * 5000 + "}", "not JSON"),
    ],
)
def test_tool_without_parse_refuses_non_objects(text: str, expected: str) -> None:
    with pytest.raises(ToolError) as caught:
        listed.validate(text)
    assert str(caught.value).startswith("read: the arguments ")
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 250


@given(st.text())
def test_any_text_raises_only_tool_error_without_parse(text: str) -> None:
    try:
        assert isinstance(listed.validate(text), dict)
    except ToolError as exc:
        assert str(exc).startswith("read: ")
