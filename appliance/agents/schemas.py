"""JSON schemas and validation of a tool's parameters and a handoff's input, by pydantic. Pure.

`tool` and `handoff` import this module on first use: a program without schemas never loads pydantic.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, PydanticUserError, TypeAdapter, ValidationError, create_model

from appliance.agents.context import RunContext, ToolContext
from appliance.errors import ToolError, one_line

__all__ = ["describe_input", "describe_parameters", "explained", "plain_schema"]

_NAMES = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})  # name -> schema
_VALUES = frozenset({"default", "const", "enum", "examples"})  # keys of plain values, not of schemas


def describe_parameters(
    name: str, function: Callable[..., Any], notes: Mapping[str, str]
) -> tuple[dict[str, Any], Callable[[str], dict[str, Any]], str]:
    """Describe the parameters of a tool's function to a model.

    Args:
        name: The tool's name, for errors.
        function: An annotated function.
        notes: The description of each parameter, from the docstring.

    Returns:
        The JSON schema, a function from JSON to keyword arguments, and the name of the parameter for the context.

    Raises:
        ToolError: A parameter has no annotation, or one that JSON cannot express.
    """
    model, context_parameter = _model(name, function, notes)
    try:
        schema = model.model_json_schema()
    except (PydanticUserError, ValueError) as exc:  # ValueError: a Literal value that JSON cannot express
        raise ToolError(f"tool {name!r}: a parameter cannot be described as JSON: {exc}") from None
    parameters = {"type": "object", "properties": {}, **plain_schema(schema)}
    return parameters, functools.partial(_parse, name, model), context_parameter


def _parse(name: str, model: type[BaseModel], arguments: str) -> dict[str, Any]:
    try:
        checked = model.model_validate_json(arguments.strip() or "{}")
    except ValidationError as exc:
        raise ToolError(f"{name}: {explained(exc)}") from None
    except Exception as exc:  # an application's validator raised something that pydantic does not expect
        raise ToolError(f"{name}: the arguments cannot be checked: {type(exc).__name__}: {exc}") from exc
    return {field.alias or name: getattr(checked, name) for name, field in model.model_fields.items()}


def describe_input(name: str, input_type: Any) -> tuple[dict[str, Any], Callable[[str], Any]]:
    """Return the JSON schema of a handoff's input, and a function that parses it from JSON.

    Raises:
        ToolError: The type is not a JSON object.
    """
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(input_type)
        schema = plain_schema(adapter.json_schema())
    except PydanticUserError as exc:
        raise ToolError(f"handoff {name!r}: {exc.message}") from None
    if schema.get("type") != "object":
        raise ToolError(f"handoff {name!r}: input_type must be a JSON object: use a pydantic model or a dataclass")

    def parse(arguments: str) -> Any:
        try:
            return adapter.validate_json(arguments.strip() or "{}")
        except ValidationError as exc:
            raise ToolError(f"{name}: {explained(exc)}") from None

    return schema, parse


def explained(error: ValidationError) -> str:
    """Return one line that tells the model how to correct its arguments."""
    lines = []
    for one in error.errors(include_url=False, include_context=False)[:5]:
        where = ".".join(str(part) for part in one["loc"])
        lines.append(f"{where}: {one['msg']}" if where else one["msg"])
    return "; ".join(lines)


def _model(name: str, function: Callable[..., Any], notes: Mapping[str, str]) -> tuple[type[BaseModel], str]:
    """Return a model with one field per parameter, and the name of the parameter that gets the context.

    Fields are numbered, with the parameter names as aliases: pydantic reserves some names ("copy", "_x", "model_…").
    """
    try:
        hints = typing.get_type_hints(_annotated(function), include_extras=True)
        parameters = inspect.signature(function).parameters.values()
    except Exception as exc:  # noqa: BLE001 - evaluating a string annotation runs arbitrary code
        raise ToolError(f"tool {name!r}: an annotation cannot be read: {exc}") from None
    fields: dict[str, Any] = {}
    context_parameter = ""
    for index, parameter in enumerate(parameters):
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ToolError(f"tool {name!r}: *{parameter.name} cannot be described to a model; name each parameter")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise ToolError(f"tool {name!r}: {parameter.name!r} is positional-only; arguments are passed by name")
        if parameter.name not in hints:
            raise ToolError(f"tool {name!r}: parameter {parameter.name!r} has no annotation")
        hint = hints[parameter.name]
        if (get_origin(hint) or hint) in (ToolContext, RunContext):
            if context_parameter:
                raise ToolError(f"tool {name!r}: two parameters get the context, {context_parameter!r} too; one may")
            context_parameter = parameter.name
            continue
        if _mentions_context(hint):
            raise ToolError(f"tool {name!r}: annotate {parameter.name!r} as plain ToolContext or RunContext")
        field: dict[str, Any] = {"alias": parameter.name}
        if parameter.default is not parameter.empty:
            field["default"] = parameter.default
        if parameter.name in notes:
            field["description"] = notes[parameter.name]
        fields[f"argument_{index}"] = (hint, Field(**field))
    try:
        model: type[BaseModel] = create_model(f"{name}_arguments", __config__=ConfigDict(extra="forbid"), **fields)
    except PydanticUserError as exc:
        raise ToolError(f"tool {name!r}: {exc.message}") from None
    except Exception as exc:  # noqa: BLE001 - a limit that does not fit the type is a TypeError, a RuntimeError, …
        raise ToolError(f"tool {name!r}: a parameter cannot be described: {one_line(str(exc))}") from None
    return model, context_parameter


def _mentions_context(hint: Any) -> bool:
    origin = get_origin(hint) or hint
    if isinstance(origin, type) and issubclass(origin, RunContext):
        return True
    return any(_mentions_context(one) for one in get_args(hint))


def _annotated(function: Callable[..., Any]) -> Any:
    """Return the callable with the annotations: the function, a partial's function, or an object's ``__call__``."""
    while isinstance(function, functools.partial):
        function = function.func
    return function if inspect.isroutine(function) else type(function).__call__


def plain_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a JSON schema without pydantic's generated titles, which are noise to a model.

    Properties named "title" stay, and so do the values of defaults and enums.
    """
    return {key: _plain(key, value) for key, value in schema.items() if key != "title"}


def _plain(key: str, value: Any) -> Any:
    if key in _VALUES:
        return value
    if isinstance(value, Mapping):
        return {name: _plain("", one) for name, one in value.items()} if key in _NAMES else plain_schema(value)
    return [_plain("", one) for one in value] if isinstance(value, list) else value
