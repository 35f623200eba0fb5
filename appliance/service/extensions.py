"""What the maker adds to the device in Python, named by the settings: an agent and hooks.

Settings name an object as ``"my_module:agent"``; `plugins.resolve` finds it. What is wrong is one sentence that begins
with what was found; the caller puts the place and the key before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from appliance.agents.agent import RealtimeAgent, agents_of
from appliance.agents.hooks import RealtimeRunHooks
from appliance.agents.tools import Tool
from appliance.errors import SettingsError, ToolError, did_you_mean

if TYPE_CHECKING:
    from appliance.agents.agent_files import Resolve

__all__ = ["DeviceTools", "agent_named", "hooks_named"]

_AGENT = "a RealtimeAgent, or a function that takes the device's tools by name and returns one"


class DeviceTools(dict[str, Tool]):
    """The device's tools by name; one that is not there is an error that says which are."""

    def __missing__(self, name: str) -> NoReturn:
        raise SettingsError(f"the device has no tool {name!r}: there are {', '.join(self)}{did_you_mean(name, self)}")


def agent_named(reference: str, tools: Mapping[str, Tool], resolve: Resolve) -> RealtimeAgent:
    """Return the agent that begins.

    Args:
        reference: Of a `RealtimeAgent`, or of a function that takes `tools` and returns one.
        tools: The device's tools by name.
        resolve: See `plugins.resolve`.

    Raises:
        SettingsError: There is no such object, it fails, or its agents do not go together.
    """
    agent = resolve(reference, _agent_or_maker, _AGENT)
    if not isinstance(agent, RealtimeAgent):
        agent = _made(reference, agent, tools)
    try:
        agents_of(agent)
    except ToolError as exc:
        raise SettingsError(f'found "{reference}", where {exc}') from exc
    return agent


def hooks_named(reference: str, resolve: Resolve) -> RealtimeRunHooks:
    """Return the hooks of the whole session.

    Raises:
        SettingsError: There is no such object.
    """
    return resolve(reference, lambda one: one if isinstance(one, RealtimeRunHooks) else None, "a RealtimeRunHooks")


def _agent_or_maker(value: Any) -> Any:
    is_function = callable(value) and not isinstance(value, type)
    return value if isinstance(value, RealtimeAgent) or is_function else None


def _made(reference: str, make: Callable[[Mapping[str, Tool]], object], tools: Mapping[str, Tool]) -> RealtimeAgent:
    try:
        agent = make(tools)
    except SettingsError as exc:
        raise SettingsError(f'found "{reference}", and {exc}') from exc
    except Exception as exc:
        raise SettingsError(
            f'found "{reference}", which raises {type(exc).__name__}: {" ".join(str(exc).split())}; correct it'
        ) from exc
    if not isinstance(agent, RealtimeAgent):
        raise SettingsError(f'found "{reference}", which returns {type(agent).__name__}; allowed: {_AGENT}')
    return agent
