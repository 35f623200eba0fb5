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
from appliance.sdk_names import explained

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
    """Parses the model's JSON into the input of `on_handoff`; None if it takes no input."""
    enabled: Enabled = True
    first_sentence: str = ""
    """What the new agent says first; "" leaves it to the model."""
    parameters: Mapping[str, Any] = field(default_factory=lambda: _NO_INPUT)

    @property
    def spoken(self) -> dict[str, Any]:
        """What the offline brain reads of it: the name of the agent, for "transfer me to …"."""
        return {"agent": self.agent.name}

    def definition(self) -> dict[str, Any]:
        """Return the handoff's entry in ``session.tools``."""
        return {
            "type": "function",
            "name": self.tool_name,
            "description": self.description,
            "parameters": dict(self.parameters),
        }

    def validate(self, arguments: str) -> Any:
        """Return the input of `on_handoff`, parsed from the model's arguments; None if it takes no input.

        Raises:
            ToolError: The arguments are invalid; the message tells the model why.
        """
        return None if self.parse is None else self.parse(arguments)


def transfer_name(agent_name: str) -> str:
    """Return the name of the tool that hands over to an agent: ``transfer_to_<name>``."""
    return "transfer_to_" + re.sub(r"[^a-zA-Z0-9_-]+", "_", agent_name.strip()).lower()


@explained
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
    """Make a handoff with other than the default options.

    Args:
        agent: The agent that takes over.
        tool_name: Default: ``transfer_to_<name>``.
        description: Default: built from the agent's ``handoff_description``.
        on_handoff: Sync or async; called as ``on_handoff(context)``, or as ``on_handoff(context, input)`` with an
            `input_type`, before the agent changes. If it raises, the handoff does not happen.
        input_type: The input that the model must give: a pydantic model, a dataclass or a ``TypedDict``.
        enabled: Whether it is offered; a predicate is called at each connection, handoff and call.
        first_sentence: What the new agent says first.

    Raises:
        ToolError: The name is invalid, `input_type` is not a JSON object, or `input_type` is given without an
            `on_handoff`.
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
