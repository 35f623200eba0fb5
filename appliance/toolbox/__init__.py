"""Tools for device control, made of plain parts; a part that is missing takes its tools with it.

What a person asked to be done is answered by a small JSON object; what a person asked to be told is answered by a
sentence, which a model may reword and the offline brain speaks as it is.
"""

from __future__ import annotations

from appliance.toolbox.device import DeviceParts, device_tools

__all__ = ["DeviceParts", "device_tools"]
