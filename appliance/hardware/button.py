"""A push button and a mute switch: levels in, `ButtonEdge` and `MuteSwitched` events out.

It does not debounce, because gpiozero's debounce drops edges; `conversation.support.gestures` does. Edges arrive on
the thread of the pin's library, or on the loop with the time of the kernel (`hardware.gpiod_pins`). While the button is
held, its level is read again every quarter of a second, which makes up for a lost edge.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

from appliance.conversation.events import ButtonEdge, Event, MuteSwitched
from appliance.hardware.pins import claimed, given_back

__all__ = ["Button", "MuteSwitch", "open_buttons"]

_SETTLE_S = 0.05  # longer than the contacts of a slide switch bounce
_PULL: dict[str, bool | None] = {"up": True, "down": False, "none": None}


class Button:
    """One button on one pin.

    Args:
        pin: BCM number.
        factory: A gpiozero pin factory.
        pull: The resistor inside the chip.
        active_low: Pressing the button connects the pin to ground.
        post: Takes events; called on the loop's thread.
        loop: The loop that `post` runs on.
        reread_s: Seconds between two reads of the level while the button is held.
        is_second: It is the second button.
        purpose: What the pin is for, in error messages.

    Raises:
        BadPin: The pin does not exist, is in use, or is unsuitable.
    """

    def __init__(
        self,
        pin: int,
        *,
        factory: Any,
        pull: Literal["up", "down", "none"] = "up",
        active_low: bool = True,
        post: Callable[[Event], None],
        loop: asyncio.AbstractEventLoop,
        reread_s: float = 0.25,
        is_second: bool = False,
        purpose: str = "button",
    ) -> None:
        from gpiozero import DigitalInputDevice

        self._post = post
        self._loop = loop
        self._reread_s = reread_s
        self._is_second = is_second
        self._edge = asyncio.Event()
        self._is_closed = False
        pull_up = _PULL[pull]
        # gpiozero infers the active level from the pull resistor, and accepts active_state only without one.
        self._is_inverted = pull_up is not None and pull_up != active_low
        with claimed(pin, purpose, factory):
            self._device = DigitalInputDevice(
                pin, pull_up=pull_up, active_state=None if pull_up is not None else not active_low, pin_factory=factory
            )
        self._device.when_activated = partial(self._on_edge, not self._is_inverted)
        self._device.when_deactivated = partial(self._on_edge, self._is_inverted)
        self._read_edges: Callable[[], None] | None = getattr(self._device.pin, "read_edges", None)

    @property
    def is_pressed(self) -> bool:
        """True while the button is pressed; False once closed."""
        return not self._is_closed and bool(self._device.is_active) != self._is_inverted

    async def run(self) -> None:
        """Post the level at the start, and repeatedly while the button is held, until cancelled."""
        if self._read_edges is not None:
            self._read_edges()  # what the kernel has queued so far comes before the level that it led to
        self._report(self.is_pressed)
        while True:
            self._edge.clear()
            if not self.is_pressed:
                await self._edge.wait()
                continue
            self._report(True)
            await asyncio.sleep(self._reread_s)
            self._report(self.is_pressed)

    def close(self) -> None:
        """Release the pin; idempotent."""
        if not self._is_closed:
            self._is_closed = True
            given_back(self._device)

    def _on_edge(self, pressed: bool) -> None:
        """Runs on the pin's thread, or on the loop's: then at once, before a deadline that has passed since."""
        if self._is_closed:
            return
        edge = ButtonEdge(pressed, self._is_second, getattr(self._device.pin, "changed_at", None))
        if self._read_edges is not None:
            self._take(edge)
            return
        with contextlib.suppress(RuntimeError):  # the loop has closed: the process is ending
            self._loop.call_soon_threadsafe(self._take, edge)

    def _take(self, edge: ButtonEdge) -> None:
        self._post(edge)
        self._edge.set()

    def _report(self, pressed: bool) -> None:
        self._post(ButtonEdge(pressed, self._is_second))


class MuteSwitch:
    """A switch on one pin that mutes the microphone while it is closed; the arguments are those of `Button`.

    At the start only a closed switch posts its position: an open one does not undo a mute from before the restart.

    Raises:
        BadPin: The pin does not exist, is in use, or is unsuitable.
    """

    def __init__(self, pin: int, *, post: Callable[[Event], None], **wiring: Any) -> None:
        self._moved = asyncio.Event()
        self._post = post
        self._contact = Button(pin, post=lambda edge: self._moved.set(), purpose="mute switch", **wiring)

    async def run(self) -> None:
        """Post each position of the switch once its contacts are at rest, until cancelled."""
        is_closed = False
        while True:
            self._moved.clear()
            if self._contact.is_pressed != is_closed:
                is_closed = not is_closed
                self._post(MuteSwitched(is_closed, is_by_switch=True))
            await self._moved.wait()
            await asyncio.sleep(_SETTLE_S)

    def close(self) -> None:
        """Release the pin; idempotent."""
        self._contact.close()


@contextlib.contextmanager
def open_buttons(
    pin: int, *, second_pin: int | None, mute_pin: int | None, **wiring: Any
) -> Iterator[list[Button | MuteSwitch]]:
    """Open the button, and the second one and the mute switch if they have a pin; the other arguments are `Button`'s.

    Raises:
        BadPin: A pin does not exist, is in use, or is unsuitable.
    """
    with contextlib.ExitStack() as stack:
        opened: list[Button | MuteSwitch] = [stack.enter_context(contextlib.closing(Button(pin, **wiring)))]
        if second_pin is not None:
            second = Button(second_pin, is_second=True, purpose="second button", **wiring)
            opened.append(stack.enter_context(contextlib.closing(second)))
        if mute_pin is not None:
            opened.append(stack.enter_context(contextlib.closing(MuteSwitch(mute_pin, **wiring))))
        yield opened
