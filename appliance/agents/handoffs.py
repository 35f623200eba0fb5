"""Handoffs: one agent passes the conversation to another. To the model a handoff is a tool. Pure."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from appliance.agents.context import MaybeAwaitable
from appliance.agents.tools import TOOL_NAME, Enabled
from appliance.errors import ToolError

if TYPE_CHECKING:
    from appliance.agents.agent import RealtimeAgent

__all__ = ["Handoff", "handoff", "transfer_name"]

_NO_INPUT: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True, eq=False)
class Handoff:
    """How a conversation is passed to `agent`; made by `handoff`."""

    agent: RealtimeAgent
    tool_name: str
    description: str
    on_handoff: Callable[..., MaybeAwaitable[None]] | None = None
    parse: Callable[[str], Any] | None = None
    """Turns JSON into the input of `on_handoff`; None where it takes none."""
    enabled: Enabled = True
    first_sentence: str = ""
    """What the new agent says first; "" leaves it to the model."""
    parameters: Mapping[str, Any] = field(default_factory=lambda: _NO_INPUT)

    def definition(self) -> dict[str, Any]:
        """The handoff as ``session.tools`` lists it."""
        return {
            "type": "function",
            "name": self.tool_name,
            "description": self.description,
            "parameters": dict(self.parameters),
        }

    def validate(self, arguments: str) -> Any:
        """Turn the model's arguments into what `on_handoff` is given; None where nothing is asked for.

        Raises:
            ToolError: They do not fit; the text tells the model what was wrong.
        """
        return None if self.parse is None else self.parse(arguments)


def transfer_name(agent_name: str) -> str:
    """Return the name of the tool that hands over to an agent: ``transfer_to_<name>``."""
    return "transfer_to_" + re.sub(r"[^a-zA-Z0-9_-]+", "_", agent_name.strip()).lower()


def handoff(
    agent: RealtimeAgent,
    *,
    tool_name: str = "",
    description: str = "",
    on_handoff: Callable[..., MaybeAwaitable[None]] | None = None,
    input_type: Any = None,
    enabled: Enabled = True,
    first_sentence: str = "",
) -> Handoff:
    """Describe a handoff beyond the usual.

    Args:
        agent: Who takes over.
        tool_name: Instead of ``transfer_to_<name>``.
        description: Instead of one made of the agent's ``handoff_description``.
        on_handoff: Called (sync or async) as ``on_handoff(context)``, or ``on_handoff(context, input)`` with an
            `input_type`, before the agent is changed; if it raises, the handoff does not happen.
        input_type: What the model must tell with the handoff: a pydantic model, a dataclass or a ``TypedDict``.
        enabled: Whether it is offered; a predicate is asked at each connect, handoff and call.
        first_sentence: What the new agent says first.

    Raises:
        ToolError: The name is impossible, `input_type` is not an object to JSON, or takes an `on_handoff` that is
            missing.
    """
    own_name = tool_name or transfer_name(agent.name)
    if not TOOL_NAME.fullmatch(own_name):
        raise ToolError(f"handoff {own_name!r}: a name has 1 to 64 letters, digits, '_' or '-'")
    parameters, parse = _NO_INPUT, None
    if input_type is not None:
        from appliance.agents.schemas import describe_input

        if on_handoff is None:
            raise ToolError(f"handoff {own_name!r}: an input_type needs an on_handoff that takes it")
        parameters, parse = describe_input(own_name, input_type)
    if on_handoff is not None:
        wanted = 1 if input_type is None else 2
        try:
            inspect.signature(on_handoff).bind(*range(wanted))
        except (TypeError, ValueError):
            raise ToolError(f"handoff {own_name!r}: on_handoff must take {wanted} argument(s)") from None
    return Handoff(
        agent=agent,
        tool_name=own_name,
        description=description
        or " ".join(f"Handoff to the {agent.name} agent to handle the request. {agent.handoff_description}".split()),
        on_handoff=on_handoff,
        parse=parse,
        enabled=enabled,
        first_sentence=first_sentence,
        parameters=parameters,
    )
