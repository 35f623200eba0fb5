"""The contacts of `[[gpio.inputs]]`: debounced levels of named pins."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from typing import Any

from appliance.conversation.events import Event
from appliance.errors import BadPin
from appliance.hardware.button import Button

__all__ = ["Contact", "open_contacts"]

log = logging.getLogger(__name__)

_SETTLE_S = 0.05  # longer than the contacts of a switch bounce; a shorter pulse is no event


class Contact:
    """One input. It reads the level once after the first edge, when the contacts are at rest.

    Args:
        pin: BCM number.
        on_change: Takes each new level, True for active; called on the loop's thread. The level at the start is none.
        loop: The loop that `on_change` runs on.
        wiring: ``pull``, ``active_low``, ``factory`` and ``purpose`` of `Button`.

    Raises:
        BadPin: The pin does not exist, is in use, or is unsuitable.
    """

    def __init__(
        self, pin: int, *, on_change: Callable[[bool], None], loop: asyncio.AbstractEventLoop, **wiring: Any
    ) -> None:
        self._on_change = on_change
        self._loop = loop
        self._settling: asyncio.TimerHandle | None = None
        self._was_active = False  # edges that the kernel has queued are reported before the first read
        self._button = Button(pin, post=self._on_edge, loop=loop, **wiring)
        self._was_active = self._button.is_pressed

    @property
    def is_active(self) -> bool:
        """The level now; False once closed."""
        return self._button.is_pressed

    def close(self) -> None:
        """Release the pin; idempotent."""
        if self._settling is not None:
            self._settling.cancel()
        self._button.close()

    def _on_edge(self, edge: Event) -> None:
        if self._settling is None:
            self._settling = self._loop.call_later(_SETTLE_S, self._settle)

    def _settle(self) -> None:
        self._settling = None
        if self.is_active != self._was_active:
            self._was_active = not self._was_active
            self._on_change(self._was_active)


@contextmanager
def open_contacts(
    wiring: Mapping[str, Mapping[str, Any]],
    *,
    on_change: Mapping[str, Callable[[bool], None]],
    factory: Any,
    loop: asyncio.AbstractEventLoop,
) -> Iterator[dict[str, Contact]]:
    """Open contacts by name until the context is left; one that cannot be used is logged and left out.

    Args:
        wiring: Name → ``pin``, ``pull`` and ``active_low`` of `Button`.
        on_change: Name → what takes its changes; see `Contact`.
    """
    with ExitStack() as stack:
        contacts = {}
        for name, own in wiring.items():
            try:
                contact = Contact(**own, purpose=f"input {name}", on_change=on_change[name], factory=factory, loop=loop)
            except BadPin as exc:
                log.warning("%s; going on without this input", exc)
                continue
            contacts[name] = stack.enter_context(closing(contact))
        yield contacts
