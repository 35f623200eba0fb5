"""The device's tools. All are async and quick, and run on the event loop, so no part needs a lock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field

from appliance.agents.tools import Tool, tool
from appliance.errors import ToolError
from appliance.toolbox.status import DeviceStatus, StatusReader
from appliance.toolbox.timers import MOST_TIMERS, Timer, Timers
from appliance.wording import Wording, english

__all__ = ["DeviceParts", "device_tools"]

Color = Literal["red", "green", "blue", "white", "yellow", "purple", "orange"]
Percent = Annotated[int, Field(ge=0, le=100)]


class Output(Protocol):
    """An output pin, such as an output device of gpiozero."""

    value: float
    """0 to 1."""


class Volume(Protocol):
    """The loudspeaker's volume, 0 to 100."""

    volume: int


class MicrophoneSwitch(Protocol):
    """The microphone of the device."""

    unmute_hold_s: float
    """How long to hold the button to switch it on again."""

    def mute(self) -> None:
        """Switch it off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceParts:
    """The parts of the device; None for a missing part."""

    lamp: Output | None = None
    light: Output | None = None
    """A dimmable light."""
    volume: Volume | None = None
    microphone: MicrophoneSwitch | None = None
    timers: Timers | None = None
    status: StatusReader | None = None
    now: Callable[[], datetime] = lambda: datetime.now().astimezone()
    wording: Wording = field(default_factory=english)
    """Source of the sentences that tools return."""


def device_tools(parts: DeviceParts) -> list[Tool]:
    """Return the tools of a device, in a fixed order."""
    return [
        *(_lamp_tools(parts.lamp) if parts.lamp is not None else ()),
        *(_light_tools(parts.light, parts.wording) if parts.light is not None else ()),
        *(_volume_tools(parts.volume) if parts.volume is not None else ()),
        *(_microphone_tools(parts.microphone, parts.wording) if parts.microphone is not None else ()),
        *_clock_tools(parts.now, parts.wording),
        *(_timer_tools(parts.timers, parts.wording) if parts.timers is not None else ()),
        *(_status_tools(parts.status, parts.wording) if parts.status is not None else ()),
    ]


def _lamp_tools(lamp: Output) -> Iterator[Tool]:
    @tool
    async def set_lamp(on: bool) -> dict[str, bool]:
        """Switch the lamp on or off.

        Args:
            on: True to switch it on.
        """
        lamp.value = on
        return {"on": on}

    yield set_lamp


def _light_tools(light: Output, wording: Wording) -> Iterator[Tool]:
    percent = 100  # the last brightness

    @tool
    async def set_light(on: bool, brightness: Percent | None = None, color: Color | None = None) -> dict[str, Any]:
        """Switch the light on or off, or dim it.

        Args:
            on: True to switch it on.
            brightness: Brightness in percent; if omitted, as bright as before.
            color: The colour, if the light has colours.
        """
        nonlocal percent
        if not on or brightness == 0:
            light.value = 0
            return {"on": False}
        percent = brightness or percent
        light.value = percent / 100
        result: dict[str, Any] = {"on": True, "brightness": percent}
        return result if color is None else result | {"note": wording.say("tool.one_color")}

    yield set_light


def _volume_tools(speaker: Volume) -> Iterator[Tool]:
    @tool
    async def set_volume(percent: Percent) -> dict[str, int]:
        """Set how loud the device speaks.

        Args:
            percent: 0 is silent, 100 is loudest.
        """
        speaker.volume = percent
        return {"percent": speaker.volume}

    @tool
    async def get_volume() -> dict[str, int]:
        """Say how loud the device speaks, in percent."""
        return {"percent": speaker.volume}

    yield set_volume
    yield get_volume


def _microphone_tools(microphone: MicrophoneSwitch, wording: Wording) -> Iterator[Tool]:
    @tool
    async def mute_microphone() -> str:
        """Switch the microphone off, when the user says "stop listening" or "mute the microphone".

        This is not the volume: the device still speaks, and no longer hears. Only a person at the device can switch the
        microphone on again.
        """
        microphone.mute()
        return wording.say("tool.muted", seconds=microphone.unmute_hold_s)

    yield mute_microphone


def _clock_tools(now: Callable[[], datetime], wording: Wording) -> Iterator[Tool]:
    @tool
    async def get_time() -> str:
        """Say the local time and date."""
        at = now()
        return wording.say(
            "tool.time",
            hour=at.hour,
            minute=at.minute,
            weekday=wording.names("format.weekdays")[at.weekday()],
            day=at.day,
            month=wording.names("format.months")[at.month - 1],
            year=at.year,
        )

    yield get_time


def _timer_tools(timers: Timers, wording: Wording) -> Iterator[Tool]:
    @tool
    async def start_timer(
        seconds: Annotated[int, Field(ge=1, le=86_400)], label: Annotated[str, Field(max_length=40)] | None = None
    ) -> str:
        """Start a timer that rings when its time is up.

        Args:
            seconds: Duration, at most one day.
            label: What the timer is for, such as "pasta".
        """
        if timers.is_full:
            raise ToolError(wording.say("tool.too_many_timers", count=MOST_TIMERS))
        timer = timers.start(seconds, label or "")
        return unsaved("timer_set", "timer_not_saved", timer=_named(timer, wording), seconds=timer.seconds)

    @tool
    async def list_timers() -> str:
        """Say which timers are running and how much time each has left."""
        running = timers.running()
        if not running:
            return wording.say("tool.no_timer")
        left = [wording.say("tool.timer_left", timer=_named(one, wording), seconds=left) for one, left in running]
        return " ".join(left)

    @tool
    async def cancel_timer(label: Annotated[str, Field(max_length=40)] | None = None) -> str:
        """Cancel timers.

        Args:
            label: Label of the timer to cancel; if omitted, all timers are cancelled.
        """
        gone = timers.cancel(label)
        if not gone:
            return wording.say("tool.no_timer_for", label=label) if label else wording.say("tool.no_timer")
        if len(gone) > 1:
            return unsaved("timers_cancelled", "cancel_not_saved", count=len(gone))
        return unsaved("timer_cancelled", "cancel_not_saved", timer=_named(gone[0], wording))

    def unsaved(key: str, warning: str, **values: Any) -> str:
        """Return an answer, with a warning if the timers cannot be saved."""
        said = wording.say(f"tool.{key}", **values)
        return f"{said} {wording.say(f'tool.{warning}')}" if timers.save_problem else said

    yield start_timer
    yield list_timers
    yield cancel_timer


def _status_tools(status: StatusReader, wording: Wording) -> Iterator[Tool]:
    @tool
    async def device_status() -> str:
        """Say how the device is doing: temperature, running time, disk, memory and load."""
        return _described(status.read(), wording)

    yield device_status


def _named(timer: Timer, wording: Wording) -> str:
    return wording.say("tool.timer_for", label=timer.label) if timer.label else wording.say("tool.timer")


def _described(status: DeviceStatus, wording: Wording) -> str:
    facts: dict[str, dict[str, float | None]] = {
        "temperature": {"celsius": status.temperature_c},
        "uptime": {"seconds": None if status.uptime_s is None else status.uptime_s // 60 * 60},
        "disk": {"percent": status.disk_free_percent},
        "memory": {"megabytes": status.memory_available_mb},
        "load": {"load": status.load_1m},
    }
    known = [wording.say(f"tool.{key}", **values) for key, values in facts.items() if None not in values.values()]
    unknown = [wording.say(f"tool.name_{key}") for key, values in facts.items() if None in values.values()]
    parts = [wording.say("tool.status", parts=", ".join(known)) if known else wording.say("tool.status_only")]
    if status.is_undervolted:
        parts.append(wording.say("tool.undervolted"))
    if unknown:
        parts.append(wording.say("tool.unknown", names=", ".join(unknown)))
    return " ".join(parts)
