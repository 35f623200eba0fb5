"""Tools for outputs and inputs that the settings name, and messages to the model about events of inputs.

The limits of an output are enforced here and by its switch, whatever the model says. All run on the event loop.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from appliance.agents.tools import Tool, tool
from appliance.conversation.events import Event, MessageGiven
from appliance.errors import ToolError
from appliance.hours import covers
from appliance.wording import Wording

__all__ = ["InputReports", "NamedInput", "NamedOutput", "input_tool", "output_tool"]

_LEAST_S = 1.0  # between two reports of one input: a loose wire must not fill the conversation
_ASKS_AGAIN_S = 10.0  # between two that ask for an answer: each answer costs money and interrupts nobody


class SwitchesPin(Protocol):
    """An output pin."""

    def set(self, on: bool) -> None:
        """Switch on or off."""

    def pulse(self, seconds: float) -> float:
        """Switch on for a time, and return the seconds until it is off again; MUST end without another call."""


class ReadsPin(Protocol):
    """An input pin."""

    @property
    def is_active(self) -> bool:
        """The level now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedOutput:
    """One output, as the settings describe it."""

    name: str
    description: str
    switch: SwitchesPin
    pulse_s: float = 0.0
    """0.0: it is switched on and off."""
    hours: str = ""
    """In which it can be switched on, such as "06:00-22:00", local time; "" for always."""
    needs_approval: bool = False
    phrases: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedInput:
    """One input, as the settings describe it."""

    name: str
    description: str
    contact: ReadsPin
    phrases: Sequence[str] = ()


def output_tool(
    output: NamedOutput, wording: Wording, *, now: Callable[[], datetime] = lambda: datetime.now().astimezone()
) -> Tool:
    """Return ``pulse_NAME()`` of an output with a pulse, or ``set_NAME(on)``.

    Raises:
        ToolError: A phrase is invalid.
    """

    def check_hours() -> None:
        at = now()
        if output.hours and not covers(output.hours, at.time()):
            begin, _, end = output.hours.partition("-")
            told = wording.say("tool.outside_hours", name=output.name, begin=begin, end=end, time=f"{at:%H:%M}")
            raise ToolError(told)

    async def pulse() -> dict[str, float]:
        check_hours()
        return {"on_s": round(output.switch.pulse(output.pulse_s), 1)}

    async def switch(on: bool) -> dict[str, bool]:
        """Switch the output.

        Args:
            on: True to switch it on.
        """
        if on:
            check_hours()
        output.switch.set(on)
        return {"on": on}

    limits = [f"Switches off by itself after {output.pulse_s:g} s."] if output.pulse_s else []
    limits += [f"Can be switched on only in the hours {output.hours}, local time."] if output.hours else []
    return tool(
        name=f"{'pulse' if output.pulse_s else 'set'}_{output.name}",
        description=" ".join([output.description, *limits]),
        needs_approval=output.needs_approval,
        phrases=output.phrases,
    )(pulse if output.pulse_s else switch)


def input_tool(one: NamedInput, wording: Wording) -> Tool:
    """Return ``read_NAME()``, which says whether an input is on.

    Raises:
        ToolError: A phrase is invalid.
    """

    async def read() -> str:
        key = "tool.input_on" if one.contact.is_active else "tool.input_off"
        return wording.say(key, name=one.name)

    description = f"Say whether this input is on. {one.description}"
    return tool(name=f"read_{one.name}", description=description, phrases=one.phrases)(read)


class InputReports:
    """Tells the model of the events of one input, as system messages: at most one per second, with a count.

    Args:
        name: Of the input.
        description: Of the input; part of each message.
        tells: Events to report: "press" when it becomes active, "release" when it no longer is.
        asks: Each message also asks for an answer, after the running turn; not more often than every 10 s.
        post: Takes ``MessageGiven``; called on the event loop's thread.
        wording: Has the sentences.
        loop: Has the clock.
    """

    def __init__(
        self,
        name: str,
        description: str,
        *,
        tells: Literal["", "press", "release", "both"],
        asks: bool,
        post: Callable[[Event], None],
        wording: Wording,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._name = name
        self._description = description
        self._told = {"": (), "press": (True,), "release": (False,), "both": (True, False)}[tells]
        self._asks = asks
        self._post = post
        self._wording = wording
        self._loop = loop
        self._count = 0
        self._is_active = False
        self._resting: asyncio.TimerHandle | None = None
        self._asks_again_at = 0.0

    def on_change(self, is_active: bool) -> None:
        """Take an event; told now, or with those that follow within the second."""
        if is_active in self._told:
            self._count += 1
            self._is_active = is_active
            if self._resting is None:
                self._tell()

    def _rest(self) -> None:
        self._resting = None
        if self._count:
            self._tell()

    def _tell(self) -> None:
        key = "event.input_on" if self._is_active else "event.input_off"
        said = [self._wording.say(key, name=self._name), self._description]
        said += [self._wording.say("event.count", count=self._count)] if self._count > 1 else []
        self._count = 0
        self._resting = self._loop.call_later(_LEAST_S, self._rest)
        text = " ".join(said)
        content = [{"type": "input_text", "text": text}]
        item = {"id": f"input_{secrets.token_hex(8)}", "type": "message", "role": "system", "content": content}
        self._post(MessageGiven(item, text, wants_answer=self._may_ask(), must_wait=True, is_event=True))

    def _may_ask(self) -> bool:
        now = self._loop.time()
        if not self._asks or now < self._asks_again_at:
            return False
        self._asks_again_at = now + _ASKS_AGAIN_S
        return True
