"""The restart for a changed key waits until the device is at rest."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.conversation.events import DeadlinePassed, Event, ShutdownRequested
from appliance.conversation.support.feedback import State, View
from appliance.service.restart import RestartAtRest

BUSY = (State.BOOTING, State.LISTENING, State.COMMITTING, State.THINKING, State.SPEAKING, State.AWAITING_APPROVAL)


class Device:
    def __init__(self) -> None:
        self.posted: list[Event] = []
        self.restart = RestartAtRest(self.posted.append)

    def see(self, **view: Any) -> None:
        self.restart(0.0, DeadlinePassed(), (), View(**view))


@pytest.mark.parametrize("busy", [*({"state": one} for one in BUSY), {"state": State.READY, "is_ringing": True}])
def test_restart_waits_for_the_end_of_the_turn(busy: dict[str, Any]) -> None:
    device = Device()
    device.see(**busy)
    device.restart.ask("SIGHUP")
    device.see(**busy)
    assert device.posted == []
    for _ in range(2):
        device.see(state=State.READY)
    assert device.posted == [ShutdownRequested("SIGHUP")]


@pytest.mark.parametrize("state", [one for one in State if one not in BUSY])
def test_restart_at_rest_is_at_once_and_nothing_happens_unasked(state: State) -> None:
    device = Device()
    device.see(state=state)
    assert device.posted == []
    device.restart.ask("SIGHUP")
    assert device.posted == [ShutdownRequested("SIGHUP")]
