"""Tools, agents and hooks that the user adds in Python.

Settings name an object as ``"my_module:agent"``; `plugins.resolve` finds it. An error is one sentence that starts with
the value that was found; the caller prefixes the place and the key.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

from appliance.agents.agent import RealtimeAgent, agents_of
from appliance.agents.hooks import RealtimeRunHooks
from appliance.agents.tools import Tool, tools_of
from appliance.errors import SettingsError, ToolError, did_you_mean, one_line
from appliance.plugins import installed

if TYPE_CHECKING:
    from appliance.agents.agent_files import Resolve

__all__ = ["GROUP", "DeviceTools", "agent_named", "all_tools", "hooks_named"]

log = logging.getLogger(__name__)

GROUP: Final = "voice_appliance.tools"
"""Entry points whose value is a Tool or a list of Tools."""

_AGENT = "a RealtimeAgent, or a function that takes the device's tools by name and returns one"


class DeviceTools(dict[str, Tool]):
    """The device's tools by name; a missing name raises an error that lists them."""

    def __missing__(self, name: str) -> NoReturn:
        raise SettingsError(f"the device has no tool {name!r}; available: {', '.join(self)}{did_you_mean(name, self)}")

    def add(self, place: str, found: Sequence[Tool] | None) -> None:
        """Add tools after the others.

        Raises:
            SettingsError: `found` is None, or a name is taken; starts with `place`.
        """
        if found is None:
            raise SettingsError(f"{place} is neither a Tool nor a list of Tools; use @tool")
        for one in found:
            if one.name in self:
                raise SettingsError(f"{place} has a tool {one.name!r}, a name that the device already has; rename it")
        self.update((one.name, one) for one in found)


def all_tools(built_in: Sequence[Tool], names: Sequence[str], resolve: Resolve) -> DeviceTools:
    """Return the built-in tools, those of installed packages, and those that the settings name, in this order.

    A package whose tools cannot be loaded is a warning, or an error if `names` has it.

    Args:
        built_in: Made of the device's parts.
        names: Each the name of a tool, of an entry point, or a ``module:attribute``.
        resolve: See `plugins.resolve`.

    Raises:
        SettingsError: A name has no tool, or an object that is none.
    """
    tools = DeviceTools((one.name, one) for one in built_in)
    packages = installed(kind="tool", group=GROUP)
    for name, (place, load) in packages.items():
        try:
            tools.add(place, tools_of(load()))
        except SettingsError as exc:
            if name in names:
                raise
            log.warning("%s; the device starts without it", exc)
    for name in names:
        if ":" in name:
            tools.add(f'found "{name}", which', resolve(name, tools_of, "a Tool, or a list of Tools"))
        elif name not in packages:
            tools[name]  # raises if it is not there
    return tools


def agent_named(reference: str, tools: Mapping[str, Tool], resolve: Resolve) -> RealtimeAgent:
    """Return the first agent.

    Args:
        reference: Of a `RealtimeAgent`, or of a function that takes `tools` and returns one.
        tools: The device's tools by name.
        resolve: See `plugins.resolve`.

    Raises:
        SettingsError: There is no such object, it raises, or its agents do not fit together.
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
    is_function = callable(value) and not isinstance(value, (type, Tool))
    return value if isinstance(value, RealtimeAgent) or is_function else None


def _made(reference: str, make: Callable[[Mapping[str, Tool]], object], tools: Mapping[str, Tool]) -> RealtimeAgent:
    try:
        agent = make(tools)
    except SettingsError as exc:
        raise SettingsError(f'found "{reference}", and {exc}') from exc
    except (Exception, SystemExit) as exc:
        said = one_line(f"{type(exc).__name__}: {exc}")
        raise SettingsError(f'found "{reference}", which raises {said}; correct it') from exc
    if not isinstance(agent, RealtimeAgent):
        raise SettingsError(f'found "{reference}", which returns {type(agent).__name__}; allowed: {_AGENT}')
    return agent
