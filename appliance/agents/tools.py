"""Tools: functions that the model may call, described by a typed signature and a docstring. Pure.

::

    @tool
    async def set_lamp(on: bool) -> str:
        '''Switch the lamp on the shelf.

        Args:
            on: True to light it.
        '''

The parameters' JSON schema is strict: additional arguments are refused. pydantic (in `agents.schemas`) validates the
model's arguments against the annotations (``Annotated`` limits, ``Literal`` choices, defaults) before the function is
called.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from appliance.agents.context import MaybeAwaitable, RunContext, ToolContext
from appliance.agents.guardrails import ToolInputGuardrail, ToolOutputGuardrail
from appliance.agents.phrases import spoken
from appliance.errors import ToolError
from appliance.sdk_names import explained

if TYPE_CHECKING:
    from appliance.agents.agent import RealtimeAgent

__all__ = ["GUARDRAIL_TIMEOUT_S", "TOOL_NAME", "Background", "Tool", "background", "tool", "tools_of"]

TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_SECTION = re.compile(r"\n(?:Args|Returns|Raises|Yields|Examples?|Notes?):[ ]*(?:\n|$)")
_DEFAULT_TIMEOUT_S = 15.0
GUARDRAIL_TIMEOUT_S = 5.0
"""Longest run of one guardrail of a tool."""

NeedsApproval = bool | Callable[[RunContext[Any], dict[str, Any], str], MaybeAwaitable[bool]]
Enabled = bool | Callable[[RunContext[Any], "RealtimeAgent"], MaybeAwaitable[bool]]
ErrorFunction = Callable[[ToolContext[Any], Exception], MaybeAwaitable[str]]


@dataclass(frozen=True, slots=True)
class Background:
    """A result that is sent to the model without asking for a response; made by `background`."""

    result: Any


def tools_of(value: object) -> list[Tool] | None:
    """Return the tools of a user's object, a Tool or a list of Tools; None if it is neither."""
    found = list(value) if isinstance(value, Iterable) else [value]
    tools = [one for one in found if isinstance(one, Tool)]
    return tools if len(tools) == len(found) else None


def background(result: Any) -> Background:
    """Send a result to the model without asking for a response, for effects that the user sees anyway."""
    return Background(result)


@dataclass(frozen=True, slots=True)
class Tool:
    """One function that the model may call; a program calls it like the function.

    Raises:
        ToolError: The name, `timeout_s`, `working_after_ms` or a phrase is invalid, or `filler` comes without
            `working_after_ms`.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    """JSON schema of the arguments."""
    function: Callable[..., Any]
    parse: Callable[[str], dict[str, Any]] | None = None
    """Parses JSON into keyword arguments. None accepts any JSON object; the tool's server validates it."""
    needs_approval: NeedsApproval = False
    """Whether the user must approve the call; or a predicate of (context, arguments, call id)."""
    timeout_s: float = _DEFAULT_TIMEOUT_S
    enabled: Enabled = True
    """Whether it is offered; a predicate of (context, agent) is called at each connection, handoff and call."""
    error_function: ErrorFunction | None = None
    """Formats the error for the model, from (context, error)."""
    cancellable: bool = False
    """A barge-in cancels the call; otherwise it runs to its end and its output is still sent."""
    working_after_ms: int | None = None
    """A call that takes longer plays an earcon and `filler`."""
    filler: str = ""
    context_parameter: str = ""
    """Name of the parameter that gets the `ToolContext`; "" for none."""
    input_guardrails: Sequence[ToolInputGuardrail] = ()
    """Run in order after the approval, before the tool; the first that rejects ends the call."""
    output_guardrails: Sequence[ToolOutputGuardrail] = ()
    """Run in order on the tool's output; the first that rejects replaces it."""
    phrases: Sequence[str] = ()
    """Sentences by which the offline brain calls it; see `agents.phrases`. No other server gets them."""

    def __post_init__(self) -> None:
        if not TOOL_NAME.fullmatch(self.name):
            raise ToolError(f"tool {self.name!r}: a name has 1 to 64 letters, digits, '_' or '-'")
        if not self.timeout_s > 0:
            raise ToolError(f"tool {self.name!r}: timeout_s is {self.timeout_s}; it must be more than 0 seconds")
        if self.working_after_ms is not None and not self.working_after_ms > 0:
            raise ToolError(f"tool {self.name!r}: working_after_ms is {self.working_after_ms}; it must be more than 0")
        if self.filler and self.working_after_ms is None:
            raise ToolError(f"tool {self.name!r}: filler is spoken after working_after_ms; set both")
        for name, kind in (("input_guardrails", ToolInputGuardrail), ("output_guardrails", ToolOutputGuardrail)):
            if wrong := [one for one in getattr(self, name) if not isinstance(one, kind)]:
                mark = f"@tool_{name.removesuffix('s')}"
                raise ToolError(f"tool {self.name!r}: {name} has {wrong[0]!r}; mark each function with {mark}")
        _ = self.spoken  # raises for an invalid phrase

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the function itself: no check of the arguments, no guardrail, approval or time limit."""
        return self.function(*arguments, **named)

    @property
    def longest_s(self) -> float:
        """Longest time of a call, with its guardrails."""
        return self.timeout_s + GUARDRAIL_TIMEOUT_S * (len(self.input_guardrails) + len(self.output_guardrails))

    @property
    def spoken(self) -> dict[str, Any]:
        """Its phrases as the offline brain reads them; empty without any."""
        return spoken(self.name, self.phrases, self.parameters) if self.phrases else {}

    @property
    def is_async(self) -> bool:
        call = getattr(self.function, "__call__", None)  # noqa: B004 - an object may be async in its `__call__`
        return inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(call)

    def definition(self) -> dict[str, Any]:
        """Return the tool's entry in ``session.tools`` (Realtime API: flat, not nested under "function")."""
        return {
            "type": "function",
            "name": self.name,
            "description": self.description,
            "parameters": dict(self.parameters),
        }

    def validate(self, arguments: str) -> dict[str, Any]:
        """Parse the model's arguments into keyword arguments.

        Args:
            arguments: A JSON object as text; "" is an empty object.

        Raises:
            ToolError: The arguments are invalid; the message tells the model why.
        """
        return _object(self.name, arguments) if self.parse is None else self.parse(arguments)


def _object(name: str, arguments: str) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a JSON number")

    try:
        value = json.loads(arguments.strip() or "{}", parse_constant=refuse)
    except (ValueError, RecursionError) as exc:
        raise ToolError(f"{name}: the arguments are not JSON: {exc}") from None
    if not isinstance(value, dict):
        raise ToolError(f"{name}: the arguments should be a JSON object, not {json.dumps(value)[:40]}")
    return value


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
    input_guardrails: Sequence[ToolInputGuardrail] = (),
    output_guardrails: Sequence[ToolOutputGuardrail] = (),
    phrases: Sequence[str] = (),
) -> Callable[[Callable[..., Any]], Tool]: ...
@explained
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
    input_guardrails: Sequence[ToolInputGuardrail] = (),
    output_guardrails: Sequence[ToolOutputGuardrail] = (),
    phrases: Sequence[str] = (),
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a `Tool` from a function; use with or without arguments.

    Args:
        function: Sync (runs in a thread) or async; bound methods work. A parameter annotated `ToolContext` or
            `RunContext` gets the `ToolContext` of the call, and is not shown to the model.
        name: Default: the function's name.
        description: Default: the docstring up to its first section.
        needs_approval: Whether the user must approve each call; or a predicate ``(context, arguments, call_id)``.
        timeout_s: Longest run; then the call is abandoned and the model gets an error.
        enabled: Whether the tool is offered to the model; or a predicate ``(context, agent)``.
        error_function: ``(context, error)`` → the output for the model when the tool fails or times out.
        cancellable: Cancel it when the user barges in. A sync function keeps running; only its result is dropped.
        working_after_ms: Play an earcon if the call takes longer.
        filler: What to say after the earcon; "" for nothing.
        input_guardrails: Check each call before the tool runs; see `tool_input_guardrail`.
        output_guardrails: Check each output before the model gets it; see `tool_output_guardrail`.
        phrases: Sentences by which the offline brain calls it: "dim the lamp to {level} percent"; see `agents.phrases`.

    Raises:
        ToolError: The name, a limit or a phrase is invalid, or a parameter has no annotation, cannot be passed by name,
            or has a type that JSON cannot express.
    """

    def make(function: Callable[..., Any]) -> Tool:
        from appliance.agents.schemas import describe_parameters

        summary, notes = _docstring(function)
        own_name = name or getattr(function, "__name__", "")
        parameters, parse, context_parameter = describe_parameters(own_name, function, notes)
        return Tool(
            name=own_name,
            description=description or summary,
            parameters=parameters,
            function=function,
            parse=parse,
            needs_approval=needs_approval,
            timeout_s=timeout_s,
            enabled=enabled,
            error_function=error_function,
            cancellable=cancellable,
            working_after_ms=working_after_ms,
            filler=filler,
            context_parameter=context_parameter,
            input_guardrails=tuple(input_guardrails),
            output_guardrails=tuple(output_guardrails),
            phrases=phrases,
        )

    return make if function is None else make(function)


def _docstring(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """Split a Google-style docstring into the text before its first section and the note on each parameter."""
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
