"""Tools: functions that the model may call, made from a typed signature and a docstring. Pure.

::

    @tool
    async def set_lamp(on: bool) -> str:
        '''Switch the lamp on the shelf.

        Args:
            on: True to light it.
        '''

The parameters' JSON schema is strict: nothing beyond it is accepted. pydantic validates the model's arguments
against the annotations (``Annotated`` limits, ``Literal`` choices, defaults) before the function is called.
"""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, overload

from pydantic import BaseModel, ConfigDict, Field, PydanticUserError, ValidationError, create_model

from appliance.errors import ToolError

__all__ = ["Tool", "tool"]

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_SECTION = re.compile(r"\n(?:Args|Returns|Raises|Yields|Examples?|Notes?):[ ]*(?:\n|$)")
_DEFAULT_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class Tool:
    """One function that the model may call."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    """JSON schema of the arguments."""
    function: Callable[..., Any]
    arguments: type[BaseModel]
    """Validates the arguments; one field for each parameter."""
    needs_approval: bool = False
    timeout_s: float = _DEFAULT_TIMEOUT_S

    @property
    def is_async(self) -> bool:
        call = getattr(self.function, "__call__", None)  # noqa: B004 - an object may be async in its `__call__`
        return inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(call)

    def definition(self) -> dict[str, Any]:
        """The tool as ``session.tools`` lists it (Realtime API: flat, not nested under "function")."""
        return {
            "type": "function",
            "name": self.name,
            "description": self.description,
            "parameters": dict(self.parameters),
        }

    def validate(self, arguments: str) -> dict[str, Any]:
        """Turn the model's arguments into keyword arguments.

        Args:
            arguments: A JSON object as text; "" counts as none.

        Raises:
            ToolError: They do not fit; the text tells the model what was wrong.
        """
        try:
            checked = self.arguments.model_validate_json(arguments.strip() or "{}")
        except ValidationError as exc:
            raise ToolError(f"{self.name}: {_explained(exc)}") from None
        return {field.alias or name: getattr(checked, name) for name, field in type(checked).model_fields.items()}


def _explained(error: ValidationError) -> str:
    lines = []
    for one in error.errors(include_url=False, include_context=False)[:5]:
        where = ".".join(str(part) for part in one["loc"])
        lines.append(f"{where}: {one['msg']}" if where else one["msg"])
    return "; ".join(lines)


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...
@overload
def tool(
    *, name: str = "", description: str = "", needs_approval: bool = False, timeout_s: float = _DEFAULT_TIMEOUT_S
) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str = "",
    description: str = "",
    needs_approval: bool = False,
    timeout_s: float = _DEFAULT_TIMEOUT_S,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a `Tool` of a function; bare, or with options.

    Args:
        function: Sync (it will run in a thread) or async; bound methods work.
        name: Instead of the function's.
        description: Instead of the first paragraph of its docstring.
        needs_approval: The user must approve each call.
        timeout_s: Longest run before it is given up and the model told.

    Raises:
        ToolError: The name or the limit is impossible, or a parameter has no annotation, cannot be passed by its
            name, or has a type that JSON cannot express.
    """

    def make(function: Callable[..., Any]) -> Tool:
        summary, notes = _docstring(function)
        own_name = name or getattr(function, "__name__", "")
        if not _NAME.fullmatch(own_name):
            raise ToolError(f"tool {own_name!r}: a name has 1 to 64 letters, digits, '_' or '-'")
        if not timeout_s > 0:
            raise ToolError(f"tool {own_name!r}: timeout_s is {timeout_s}; it must be more than 0 seconds")
        arguments = _arguments(own_name, function, notes)
        return Tool(
            name=own_name,
            description=description or summary,
            parameters=_schema(own_name, arguments),
            function=function,
            arguments=arguments,
            needs_approval=needs_approval,
            timeout_s=timeout_s,
        )

    return make if function is None else make(function)


def _arguments(name: str, function: Callable[..., Any], notes: Mapping[str, str]) -> type[BaseModel]:
    """Make a model with one field for each parameter.

    The fields have names of their own and the parameters' as aliases: pydantic reserves some ("copy", "_x", "model_…").
    """
    try:
        hints = typing.get_type_hints(_annotated(function), include_extras=True)
    except NameError as exc:
        raise ToolError(f"tool {name!r}: an annotation cannot be read: {exc}") from None
    fields: dict[str, Any] = {}
    for index, parameter in enumerate(inspect.signature(function).parameters.values()):
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ToolError(f"tool {name!r}: *{parameter.name} cannot be described to a model; name each parameter")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise ToolError(f"tool {name!r}: {parameter.name!r} is positional-only; arguments are passed by name")
        if parameter.name not in hints:
            raise ToolError(f"tool {name!r}: parameter {parameter.name!r} has no annotation")
        field: dict[str, Any] = {"alias": parameter.name}
        if parameter.default is not parameter.empty:
            field["default"] = parameter.default
        if parameter.name in notes:
            field["description"] = notes[parameter.name]
        fields[f"argument_{index}"] = (hints[parameter.name], Field(**field))
    try:
        model: type[BaseModel] = create_model(f"{name}_arguments", __config__=ConfigDict(extra="forbid"), **fields)
    except PydanticUserError as exc:
        raise ToolError(f"tool {name!r}: {exc.message}") from None
    return model


def _annotated(function: Callable[..., Any]) -> Any:
    """Find what carries the annotations: the function, a partial's function, or an object's ``__call__``."""
    while isinstance(function, functools.partial):
        function = function.func
    return function if inspect.isroutine(function) else type(function).__call__


def _schema(name: str, arguments: type[BaseModel]) -> dict[str, Any]:
    try:
        schema = arguments.model_json_schema()
    except PydanticUserError as exc:
        raise ToolError(f"tool {name!r}: {exc.message}") from None
    _drop_titles(schema)
    return {"type": "object", "properties": {}, **schema}


def _drop_titles(node: Any, *, are_names: bool = False) -> None:
    """pydantic titles everything; to a model that is noise. Keys of ``properties`` are names, not keywords."""
    if isinstance(node, dict):
        if not are_names:
            node.pop("title", None)
        for key, value in node.items():
            _drop_titles(value, are_names=key in ("properties", "$defs") and not are_names)
    elif isinstance(node, list):
        for value in node:
            _drop_titles(value)


def _docstring(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """Split a Google-style docstring into its text before ``Args:`` and the note on each parameter."""
    text = "\n" + (inspect.getdoc(function) or "")
    summary = _SECTION.split(text, maxsplit=1)[0]
    _, _, rest = text.partition("\nArgs:\n")
    notes: dict[str, str] = {}
    current = ""
    for line in rest.splitlines():
        if line and not line[0].isspace():
            break
        found = re.match(r"\s{1,8}(\w+)(?: \([^)]*\))?:\s*(.*)", line)
        if found is not None and len(line) - len(line.lstrip()) <= 4:
            current = found[1]
            notes[current] = found[2]
        elif current and line.strip():
            notes[current] += " " + line.strip()
    return re.sub(r"\s*\n\s*", " ", summary.strip()), notes
