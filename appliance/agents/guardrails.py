"""Guardrails: application functions that check what the user says, what the model answers, and tool calls. Pure.

::

    @output_guardrail
    def no_prices(context, agent, text: str) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(output_info="a price", tripwire_triggered="$" in text)

A function may be sync or async, and may return a plain bool: True trips the guardrail. A guardrail that raises or
exceeds the session's time limit counts as tripped.

The guardrails of a tool are functions of one argument; see `ToolInputGuardrail` and `ToolOutputGuardrail`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, overload

from appliance.agents.context import MaybeAwaitable, RunContext, ToolContext

if TYPE_CHECKING:
    from appliance.agents.agent import RealtimeAgent

__all__ = [
    "GuardrailFunction",
    "GuardrailFunctionOutput",
    "InputGuardrail",
    "OutputGuardrail",
    "ToolGuardrailFunctionOutput",
    "ToolInputGuardrail",
    "ToolInputGuardrailData",
    "ToolOutputGuardrail",
    "ToolOutputGuardrailData",
    "input_guardrail",
    "output_guardrail",
    "tool_input_guardrail",
    "tool_output_guardrail",
]

G = TypeVar("G")
F = TypeVar("F")


@dataclass(frozen=True, slots=True)
class GuardrailFunctionOutput:
    """The verdict of a guardrail."""

    output_info: Any = None
    """The reason; reported to the model and in the session's events."""
    tripwire_triggered: bool = False


GuardrailFunction = Callable[[RunContext[Any], "RealtimeAgent", str], MaybeAwaitable[GuardrailFunctionOutput | bool]]


@dataclass(frozen=True, slots=True)
class OutputGuardrail:
    """Checks the transcript of an answer while it streams, and again when it is complete."""

    guardrail_function: GuardrailFunction
    name: str


@dataclass(frozen=True, slots=True)
class InputGuardrail:
    """Checks what the user said before the model is asked to answer it."""

    guardrail_function: GuardrailFunction
    name: str


@overload
def output_guardrail(function: GuardrailFunction, /) -> OutputGuardrail: ...
@overload
def output_guardrail(*, name: str = "") -> Callable[[GuardrailFunction], OutputGuardrail]: ...
def output_guardrail(
    function: GuardrailFunction | None = None, /, *, name: str = ""
) -> OutputGuardrail | Callable[[GuardrailFunction], OutputGuardrail]:
    """Make an `OutputGuardrail` from ``function(context, agent, text)``; use with or without arguments."""
    return _make(OutputGuardrail, function, name)


@overload
def input_guardrail(function: GuardrailFunction, /) -> InputGuardrail: ...
@overload
def input_guardrail(*, name: str = "") -> Callable[[GuardrailFunction], InputGuardrail]: ...
def input_guardrail(
    function: GuardrailFunction | None = None, /, *, name: str = ""
) -> InputGuardrail | Callable[[GuardrailFunction], InputGuardrail]:
    """Make an `InputGuardrail` from ``function(context, agent, text)``; use with or without arguments."""
    return _make(InputGuardrail, function, name)


# --- the guardrails of a tool -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToolGuardrailFunctionOutput:
    """The verdict of a tool's guardrail; made by `allow`, `reject_content` or `raise_exception`."""

    output_info: Any = None
    """What was found; `raise_exception` reports it in the session's events. Not shown to the model."""
    behavior: Mapping[str, str] = field(default_factory=lambda: {"type": "allow"})
    """The key ``type`` is the name of one of the methods; ``reject_content`` also has a ``message``."""

    @classmethod
    def allow(cls, output_info: Any = None) -> ToolGuardrailFunctionOutput:
        """Run the tool, or send its output."""
        return cls(output_info, {"type": "allow"})

    @classmethod
    def reject_content(cls, message: str, output_info: Any = None) -> ToolGuardrailFunctionOutput:
        """Give `message` to the model: instead of running the tool, or instead of the tool's output."""
        return cls(output_info, {"type": "reject_content", "message": message})

    @classmethod
    def raise_exception(cls, output_info: Any = None) -> ToolGuardrailFunctionOutput:
        """End the turn: an `Error` of the kind ``tool_stopped`` is emitted, and announced."""
        return cls(output_info, {"type": "raise_exception"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolInputGuardrailData:
    """The argument of a guardrail that runs before a tool."""

    context: ToolContext[Any]
    """`ToolContext.arguments` has the arguments as JSON; they are valid for the tool."""
    agent: RealtimeAgent


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOutputGuardrailData(ToolInputGuardrailData):
    """The argument of a guardrail that runs after a tool."""

    output: Any
    """What the tool returned; if it failed, the text for the model."""


ToolInputGuardrailFunction = Callable[[ToolInputGuardrailData], MaybeAwaitable[ToolGuardrailFunctionOutput]]
ToolOutputGuardrailFunction = Callable[[ToolOutputGuardrailData], MaybeAwaitable[ToolGuardrailFunctionOutput]]


@dataclass(frozen=True, slots=True)
class ToolInputGuardrail:
    """Checks a call after its approval, before the tool runs."""

    guardrail_function: ToolInputGuardrailFunction
    name: str


@dataclass(frozen=True, slots=True)
class ToolOutputGuardrail:
    """Checks the output of a tool before the model gets it."""

    guardrail_function: ToolOutputGuardrailFunction
    name: str


@overload
def tool_input_guardrail(function: ToolInputGuardrailFunction, /) -> ToolInputGuardrail: ...
@overload
def tool_input_guardrail(*, name: str = "") -> Callable[[ToolInputGuardrailFunction], ToolInputGuardrail]: ...
def tool_input_guardrail(
    function: ToolInputGuardrailFunction | None = None, /, *, name: str = ""
) -> ToolInputGuardrail | Callable[[ToolInputGuardrailFunction], ToolInputGuardrail]:
    """Make a `ToolInputGuardrail` from a function of `ToolInputGuardrailData`; use with or without arguments."""
    return _make(ToolInputGuardrail, function, name)


@overload
def tool_output_guardrail(function: ToolOutputGuardrailFunction, /) -> ToolOutputGuardrail: ...
@overload
def tool_output_guardrail(*, name: str = "") -> Callable[[ToolOutputGuardrailFunction], ToolOutputGuardrail]: ...
def tool_output_guardrail(
    function: ToolOutputGuardrailFunction | None = None, /, *, name: str = ""
) -> ToolOutputGuardrail | Callable[[ToolOutputGuardrailFunction], ToolOutputGuardrail]:
    """Make a `ToolOutputGuardrail` from a function of `ToolOutputGuardrailData`; use with or without arguments."""
    return _make(ToolOutputGuardrail, function, name)


def _make(kind: Callable[[F, str], G], function: F | None, name: str) -> G | Callable[[F], G]:
    def make(function: F) -> G:
        return kind(function, name or getattr(function, "__name__", type(function).__name__))

    return make if function is None else make(function)
