"""The tools themselves. All are async and quick: they run on the loop, so no part needs a lock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field

from appliance.agents.tools import Tool, tool
from appliance.toolbox.status import DeviceStatus, StatusReader
from appliance.toolbox.timers import Timer, Timers
from appliance.wording import duration

__all__ = ["DeviceParts", "device_tools"]

Color = Literal["red", "green", "blue", "white", "yellow", "purple", "orange"]
Percent = Annotated[int, Field(ge=0, le=100)]


class Output(Protocol):
    """A pin that is driven, as gpiozero's output devices are."""

    value: float
    """0 to 1."""


class Volume(Protocol):
    """The loudspeaker."""

    volume: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceParts:
    """What the device has; None where it has none."""

    lamp: Output | None = None
    light: Output | None = None
    """It is dimmed."""
    volume: Volume | None = None
    timers: Timers | None = None
    status: StatusReader | None = None
    now: Callable[[], datetime] = lambda: datetime.now().astimezone()


def device_tools(parts: DeviceParts) -> list[Tool]:
    """Make the tools of a device, in a fixed order."""
    return [
        *(_lamp_tools(parts.lamp) if parts.lamp is not None else ()),
        *(_light_tools(parts.light) if parts.light is not None else ()),
        *(_volume_tools(parts.volume) if parts.volume is not None else ()),
        *_clock_tools(parts.now),
        *(_timer_tools(parts.timers) if parts.timers is not None else ()),
        *(_status_tools(parts.status) if parts.status is not None else ()),
    ]


def _lamp_tools(lamp: Output) -> Iterator[Tool]:
    @tool
    async def set_lamp(on: bool) -> dict[str, bool]:
        """Switch the lamp on or off.

        Args:
            on: True to light it.
        """
        lamp.value = on
        return {"on": on}

    yield set_lamp


def _light_tools(light: Output) -> Iterator[Tool]:
    percent = 100  # as bright as it was, or is

    @tool
    async def set_light(on: bool, brightness: Percent | None = None, color: Color | None = None) -> dict[str, Any]:
        """Switch the light on or off, or dim it.

        Args:
            on: True to light it.
            brightness: In percent; left out, it is as bright as it was.
            color: The colour, where the light has colours.
        """
        nonlocal percent
        if not on or brightness == 0:
            light.value = 0
            return {"on": False}
        percent = brightness or percent
        light.value = percent / 100
        result: dict[str, Any] = {"on": True, "brightness": percent}
        return result if color is None else result | {"note": "this light has one colour only"}

    yield set_light


def _volume_tools(speaker: Volume) -> Iterator[Tool]:
    @tool
    async def set_volume(percent: Percent) -> dict[str, int]:
        """Set how loud the device speaks.

        Args:
            percent: 0 is silent, 100 the loudest.
        """
        speaker.volume = percent
        return {"percent": speaker.volume}

    @tool
    async def get_volume() -> dict[str, int]:
        """Say how loud the device speaks, in percent."""
        return {"percent": speaker.volume}

    yield set_volume
    yield get_volume


def _clock_tools(now: Callable[[], datetime]) -> Iterator[Tool]:
    @tool
    async def get_time() -> str:
        """Say the local time and date."""
        at = now()
        return f"It is {at:%H}:{at:%M} on {at:%A}, {at:%B} {at.day}, {at.year}."

    yield get_time


def _timer_tools(timers: Timers) -> Iterator[Tool]:
    @tool
    async def start_timer(
        seconds: Annotated[int, Field(ge=1, le=86_400)], label: Annotated[str, Field(max_length=40)] | None = None
    ) -> str:
        """Start a timer that rings when its time is up.

        Args:
            seconds: How long, at most a day.
            label: What it is for, such as "pasta".
        """
        timer = timers.start(seconds, label or "")
        problem = " It would not survive a power cut, for it could not be saved." if timers.save_problem else ""
        return f"{_named(timer)} is set for {duration(timer.seconds)}.{problem}"

    @tool
    async def list_timers() -> str:
        """Say which timers are running, and how long each has left."""
        running = timers.running()
        if not running:
            return "No timer is running."
        return " ".join(f"{_named(timer)} has {duration(left)} left." for timer, left in running)

    @tool
    async def cancel_timer(label: Annotated[str, Field(max_length=40)] | None = None) -> str:
        """Cancel timers.

        Args:
            label: Which; left out, all of them.
        """
        gone = timers.cancel(label)
        if not gone:
            return f"There is no {label} timer." if label else "No timer is running."
        problem = (
            " After a power cut that would be forgotten, for it could not be saved." if timers.save_problem else ""
        )
        told = f"{_named(gone[0])} is cancelled." if len(gone) == 1 else f"{len(gone)} timers are cancelled."
        return told + problem

    yield start_timer
    yield list_timers
    yield cancel_timer


def _status_tools(status: StatusReader) -> Iterator[Tool]:
    @tool
    async def device_status() -> str:
        """Say how the device is doing: temperature, running time, disk, memory and load."""
        return _described(status.read())

    yield device_status


def _named(timer: Timer) -> str:
    return f"The {timer.label} timer" if timer.label else "The timer"


def _described(status: DeviceStatus) -> str:
    known = {
        "temperature": None if status.temperature_c is None else f"it is {status.temperature_c:g} degrees warm",
        "running time": None if status.uptime_s is None else f"it has run for {duration(status.uptime_s // 60 * 60)}",
        "disk": None if status.disk_free_percent is None else f"{status.disk_free_percent} percent of the disk is free",
        "memory": None
        if status.memory_available_mb is None
        else f"{status.memory_available_mb} megabytes of memory are free",
        "load": None if status.load_1m is None else f"the load is {status.load_1m:g}",
    }
    told = [text for text in known.values() if text is not None]
    unknown = [name for name, text in known.items() if text is None]
    sentence = ("The device works: " + ", ".join(told) + ".") if told else "The device works."
    if status.is_undervolted:
        sentence += " Its power supply is too weak."
    return sentence + (f" Unknown here: {', '.join(unknown)}." if unknown else "")
