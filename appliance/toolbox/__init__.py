"""Tools for device control, built from the parts that the device has; a missing part has no tools.

A tool that switches something returns a small JSON object. A tool that answers a question returns a sentence, which a
model may reword and the offline brain speaks verbatim.
"""

from __future__ import annotations

from appliance.toolbox.device import DeviceParts, device_tools

__all__ = ["DeviceParts", "device_tools"]
