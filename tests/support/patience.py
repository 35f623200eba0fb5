"""How long a test waits before it gives up: a loaded or slow machine makes the suite slow, not red.

The factor is what one short loop shows at the start of the session, times ``APPLIANCE_TEST_SLOW`` (1 if it is not set).
It lengthens the time after which a test that hangs is ended, and the deadlines of the simulated appliance.
"""

from __future__ import annotations

import os
import time

__all__ = ["patient"]

_LOOPS = 2_000_000  # longer than a time slice of the scheduler: a machine that is shared counts as slow
_QUIET_S = 0.12  # of the loop on a quiet machine
_MOST = 10.0


def _measured() -> float:
    """Return how many times slower than a quiet machine this one is now."""
    began = time.perf_counter()
    total = 0
    for number in range(_LOOPS):
        total += number * number
    return (time.perf_counter() - began) / _QUIET_S


FACTOR = min(max(1.0, _measured()), _MOST) * max(1.0, float(os.environ.get("APPLIANCE_TEST_SLOW") or 1))


def patient(seconds: float) -> float:
    """Return a time limit for this machine; `seconds` is ample on a quiet one."""
    return seconds * FACTOR
