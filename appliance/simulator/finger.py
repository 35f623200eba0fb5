"""A finger for a mock pin: presses and releases on its own thread, as the kernel's edges arrive."""

from __future__ import annotations

import queue
import threading
import time
from typing import Any

__all__ = ["Finger"]

_SHORTEST_PRESS_S = 0.05  # no finger is faster; the device ignores a pulse of less than 15 ms


class Finger:
    """Drives one mock pin from the thread "finger", never from the caller's thread."""

    def __init__(self, factory: Any, pin: int, *, active_low: bool = True) -> None:
        self._pin = factory.pin(pin)
        self._active_low = active_low
        self._orders: queue.SimpleQueue[tuple[bool, float] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="finger", daemon=True)
        self._thread.start()

    def press(self) -> None:
        """Press the button and keep it pressed, for 50 ms at least."""
        self._orders.put((True, _SHORTEST_PRESS_S))

    def release(self) -> None:
        """Release the button."""
        self._orders.put((False, 0.0))

    def hold(self, seconds: float) -> None:
        """Press, wait, release."""
        self._orders.put((True, seconds))
        self.release()

    def close(self) -> None:
        """End the thread after all queued presses and releases."""
        self._orders.put(None)
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        while (order := self._orders.get()) is not None:
            pressed, wait_s = order
            if pressed == self._active_low:
                self._pin.drive_low()
            else:
                self._pin.drive_high()
            time.sleep(wait_s)
