"""Guardrails: checks of what the model says and of what the user said, by functions of the maker. Pure.

::

    @output_guardrail
    def no_prices(context, agent, text: str) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(output_info="a price", tripwire_triggered="$" in text)

A function may be sync or async, and may return a plain bool: True trips the wire. One that raises, or takes longer
than the session allows, counts as tripped.
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
    """Why; told to the model and to whoever watches the session."""
    tripwire_triggered: bool = False


GuardrailFunction = Callable[[RunContext[Any], "RealtimeAgent", str], MaybeAwaitable[GuardrailFunctionOutput | bool]]


@dataclass(frozen=True, slots=True)
class OutputGuardrail:
    """Checks the transcript of an answer while it grows, and once more when it is whole."""

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
    """Make an `OutputGuardrail` of ``function(context, agent, text)``; bare, or with a name."""
    return _make(OutputGuardrail, function, name)


@overload
def input_guardrail(function: GuardrailFunction, /) -> InputGuardrail: ...
@overload
def input_guardrail(*, name: str = "") -> Callable[[GuardrailFunction], InputGuardrail]: ...
def input_guardrail(
    function: GuardrailFunction | None = None, /, *, name: str = ""
) -> InputGuardrail | Callable[[GuardrailFunction], InputGuardrail]:
    """Make an `InputGuardrail` of ``function(context, agent, text)``; bare, or with a name."""
    return _make(InputGuardrail, function, name)


def _make(
    kind: Callable[[GuardrailFunction, str], G], function: GuardrailFunction | None, name: str
) -> G | Callable[[GuardrailFunction], G]:
    def make(function: GuardrailFunction) -> G:
        return kind(function, name or getattr(function, "__name__", type(function).__name__))

    return make if function is None else make(function)
