"""Guardrails: application functions that check what the user said and what the model answers. Pure.

::

    @output_guardrail
    def no_prices(context, agent, text: str) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(output_info="a price", tripwire_triggered="$" in text)

A function may be sync or async, and may return a plain bool: True trips the guardrail. A guardrail that raises or
exceeds the session's time limit counts as tripped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, overload

from appliance.agents.context import MaybeAwaitable, RunContext

if TYPE_CHECKING:
    from appliance.agents.agent import RealtimeAgent

__all__ = [
    "GuardrailFunction",
    "GuardrailFunctionOutput",
    "InputGuardrail",
    "OutputGuardrail",
    "input_guardrail",
    "output_guardrail",
]

G = TypeVar("G")


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


def _make(
    kind: Callable[[GuardrailFunction, str], G], function: GuardrailFunction | None, name: str
) -> G | Callable[[GuardrailFunction], G]:
    def make(function: GuardrailFunction) -> G:
        return kind(function, name or getattr(function, "__name__", type(function).__name__))

    return make if function is None else make(function)
