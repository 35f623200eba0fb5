"""A tool with one parameter of each kind."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from appliance.agents.tools import tool

__all__ = ["paint"]


@tool
async def paint(
    percent: Annotated[int, Field(ge=0, le=100)],
    color: Literal["red", "blue"] = "red",
    note: str | None = None,
) -> str:
    """Paint the wall.

    It dries
    by itself.

    Args:
        percent: How much
            of it: the share.
        color (str): Which.

    Returns:
        Nothing to speak of.

    Raises:
        OSError: No paint.
    """
    return f"{percent} {color} {note}"
