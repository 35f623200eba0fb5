"""The voice appliance: the box on the shelf that you press and talk to.

The names that a maker imports are here, each loaded when it is first asked for (PEP 562), so that importing the
package costs nothing::

    from appliance import RealtimeAgent, tool
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from appliance.agents.agent import RealtimeAgent
    from appliance.agents.tools import Tool, tool
    from appliance.errors import ApplianceError

__all__ = ["ApplianceError", "RealtimeAgent", "Tool", "tool"]

_HOMES = {
    "ApplianceError": "appliance.errors",
    "RealtimeAgent": "appliance.agents.agent",
    "Tool": "appliance.agents.tools",
    "tool": "appliance.agents.tools",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'appliance' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
