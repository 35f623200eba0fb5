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
import json
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args, get_origin, overload

from pydantic import BaseModel, ConfigDict, Field, PydanticUserError, ValidationError, create_model

from appliance.agents.context import MaybeAwaitable, RunContext, ToolContext
from appliance.errors import ToolError

if TYPE_CHECKING:
    from appliance.agents.agent import RealtimeAgent

__all__ = ["TOOL_NAME", "Background", "Tool", "background", "explained", "plain_schema", "tool"]

TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_SECTION = re.compile(r"\n(?:Args|Returns|Raises|Yields|Examples?|Notes?):[ ]*(?:\n|$)")
_DEFAULT_TIMEOUT_S = 15.0
_NAMES = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})  # of schemas
_VALUES = frozenset({"default", "const", "enum", "examples"})  # what they hold is no schema


NeedsApproval = bool | Callable[[RunContext[Any], dict[str, Any], str], MaybeAwaitable[bool]]
Enabled = bool | Callable[[RunContext[Any], "RealtimeAgent"], MaybeAwaitable[bool]]
ErrorFunction = Callable[[ToolContext[Any], Exception], MaybeAwaitable[str]]


@dataclass(frozen=True, slots=True)
class Background:
    """A result that the model is given, but not asked to speak about; made by `background`."""

    result: Any


def background(result: Any) -> Background:
    """Give a result to the model without a new response, for what needs no word: the user sees it happen."""
    return Background(result)


@dataclass(frozen=True, slots=True)
class Tool:
    """One function that the model may call.

    Raises:
        ToolError: The name, `timeout_s` or `working_after_ms` is impossible, or a `filler` has no time to be said at.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    """JSON schema of the arguments."""
    function: Callable[..., Any]
    arguments: type[BaseModel] | None = None
    """Validates the arguments; one field for each parameter. None: any JSON object will do, another side validates."""
    needs_approval: NeedsApproval = False
    """True, or a predicate of (context, arguments, call id): the user must approve the call."""
    timeout_s: float = _DEFAULT_TIMEOUT_S
    enabled: Enabled = True
    """Whether it is offered; a predicate of (context, agent) is asked at each connect, handoff and call."""
    error_function: ErrorFunction | None = None
    """Tells the model what went wrong, given (context, error)."""
    cancellable: bool = False
    """A barge-in cancels the call; else it runs to its end, and its output is still sent."""
    working_after_ms: int | None = None
    """A call that takes longer is heard: an earcon, and `filler`."""
    filler: str = ""
    context_parameter: str = ""
    """Name of the parameter that is given the `ToolContext`; "" for none."""

    def __post_init__(self) -> None:
        if not TOOL_NAME.fullmatch(self.name):
            raise ToolError(f"tool {self.name!r}: a name has 1 to 64 letters, digits, '_' or '-'")
        if not self.timeout_s > 0:
            raise ToolError(f"tool {self.name!r}: timeout_s is {self.timeout_s}; it must be more than 0 seconds")
        if self.working_after_ms is not None and not self.working_after_ms > 0:
            raise ToolError(f"tool {self.name!r}: working_after_ms is {self.working_after_ms}; it must be more than 0")
        if self.filler and self.working_after_ms is None:
            raise ToolError(f"tool {self.name!r}: a filler is said after working_after_ms; give it too")

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
        if self.arguments is None:
            return _object(self.name, arguments)
        try:
            checked = self.arguments.model_validate_json(arguments.strip() or "{}")
        except ValidationError as exc:
            raise ToolError(f"{self.name}: {explained(exc)}") from None
        except Exception as exc:  # a validator of the maker's that raises what pydantic does not expect
            raise ToolError(f"{self.name}: the arguments cannot be checked: {type(exc).__name__}: {exc}") from exc
        return {field.alias or name: getattr(checked, name) for name, field in type(checked).model_fields.items()}


def _object(name: str, arguments: str) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number to JSON")

    try:
        value = json.loads(arguments.strip() or "{}", parse_constant=refuse)
    except (ValueError, RecursionError) as exc:
        raise ToolError(f"{name}: the arguments are not JSON: {exc}") from None
    if not isinstance(value, dict):
        raise ToolError(f"{name}: the arguments should be a JSON object, not {json.dumps(value)[:40]}")
    return value


def explained(error: ValidationError) -> str:
    """Say in one line what does not fit, for a model to mend."""
    lines = []
    for one in error.errors(include_url=False, include_context=False)[:5]:
        where = ".".join(str(part) for part in one["loc"])
        lines.append(f"{where}: {one['msg']}" if where else one["msg"])
    return "; ".join(lines)


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...
@overload
def tool(
    *,
    name: str = "",
    description: str = "",
    needs_approval: NeedsApproval = False,
    timeout_s: float = _DEFAULT_TIMEOUT_S,
    enabled: Enabled = True,
    error_function: ErrorFunction | None = None,
    cancellable: bool = False,
    working_after_ms: int | None = None,
    filler: str = "",
) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str = "",
    description: str = "",
    needs_approval: NeedsApproval = False,
    timeout_s: float = _DEFAULT_TIMEOUT_S,
    enabled: Enabled = True,
    error_function: ErrorFunction | None = None,
    cancellable: bool = False,
    working_after_ms: int | None = None,
    filler: str = "",
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a `Tool` of a function; bare, or with options.

    Args:
        function: Sync (it will run in a thread) or async; bound methods work. A parameter annotated `ToolContext` is
            given the context, and is not shown to the model.
        name: Instead of the function's.
        description: Instead of the first paragraph of its docstring.
        needs_approval: The user must approve each call, or those for which ``(context, arguments, call_id)`` says so.
        timeout_s: Longest run before it is given up and the model told.
        enabled: Whether the model is offered it; or a predicate ``(context, agent)``.
        error_function: ``(context, error)`` → what the model is told when it fails or takes too long.
        cancellable: Cancel it when the user barges in. A sync function cannot be stopped, only ignored.
        working_after_ms: Let the user hear that it takes longer.
        filler: What to say then; "" sounds an earcon only.

    Raises:
        ToolError: The name or the limit is impossible, or a parameter has no annotation, cannot be passed by its
            name, or has a type that JSON cannot express.
    """

    def make(function: Callable[..., Any]) -> Tool:
        summary, notes = _docstring(function)
        own_name = name or getattr(function, "__name__", "")
        arguments, context_parameter = _arguments(own_name, function, notes)
        return Tool(
            name=own_name,
            description=description or summary,
            parameters=_schema(own_name, arguments),
            function=function,
            arguments=arguments,
            needs_approval=needs_approval,
            timeout_s=timeout_s,
            enabled=enabled,
            error_function=error_function,
            cancellable=cancellable,
            working_after_ms=working_after_ms,
            filler=filler,
            context_parameter=context_parameter,
        )

    return make if function is None else make(function)


def _arguments(name: str, function: Callable[..., Any], notes: Mapping[str, str]) -> tuple[type[BaseModel], str]:
    """Make a model with one field for each parameter, and find the one that wants the context.

    The fields have names of their own and the parameters' as aliases: pydantic reserves some ("copy", "_x", "model_…").
    """
    try:
        hints = typing.get_type_hints(_annotated(function), include_extras=True)
        parameters = inspect.signature(function).parameters.values()
    except Exception as exc:  # noqa: BLE001 - to read an annotation that is a text is to run it
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
        if hint is ToolContext or get_origin(hint) is ToolContext:
            if context_parameter:
                raise ToolError(f"tool {name!r}: two parameters want the context; one is enough")
            context_parameter = parameter.name
            continue
        if _mentions_context(hint):
            raise ToolError(f"tool {name!r}: annotate {parameter.name!r} as plain ToolContext to be given the context")
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
    except Exception as exc:  # noqa: BLE001 - a limit that its type cannot have is a TypeError, a RuntimeError, …
        raise ToolError(f"tool {name!r}: a parameter cannot be described: {' '.join(str(exc).split())}") from None
    return model, context_parameter


def _mentions_context(hint: Any) -> bool:
    origin = get_origin(hint) or hint
    if isinstance(origin, type) and issubclass(origin, RunContext):
        return True
    return any(_mentions_context(one) for one in get_args(hint))


def _annotated(function: Callable[..., Any]) -> Any:
    """Find what carries the annotations: the function, a partial's function, or an object's ``__call__``."""
    while isinstance(function, functools.partial):
        function = function.func
    return function if inspect.isroutine(function) else type(function).__call__


def _schema(name: str, arguments: type[BaseModel]) -> dict[str, Any]:
    try:
        schema = arguments.model_json_schema()
    except (PydanticUserError, ValueError) as exc:  # ValueError: a value of a choice that JSON cannot hold
        raise ToolError(f"tool {name!r}: a parameter cannot be described as JSON: {exc}") from None
    return {"type": "object", "properties": {}, **plain_schema(schema)}


def plain_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a JSON schema without the titles that pydantic gives everything: to a model they are noise.

    A property that is named "title" stays, and so does what a default or a choice holds.
    """
    return {key: _plain(key, value) for key, value in schema.items() if key != "title"}


def _plain(key: str, value: Any) -> Any:
    if key in _VALUES:
        return value
    if isinstance(value, Mapping):
        return {name: _plain("", one) for name, one in value.items()} if key in _NAMES else plain_schema(value)
    return [_plain("", one) for one in value] if isinstance(value, list) else value


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
