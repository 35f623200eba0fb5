"""Cards and cables that are pulled and come back, in every state of a turn."""

from __future__ import annotations

import subprocess
import time

from tests.system.bench import Bench, cases, connected

_STATES = {"rest": "waiting for a press", "listening": "listening", "thinking": "thinking", "speaking": "speaking"}


def _reach(bench: Bench, state: str) -> None:
    """Begin a turn and wait until it is in a state."""
    if state == "listening":
        bench.press()
    elif state != "rest":
        bench.ask("lamp on")
    bench.until_status(_STATES[state])
    time.sleep(0.5)


def _answers_again(bench: Bench) -> None:
    """The next turn is heard by the far side, and its answer sounds."""
    time.sleep(1)  # until the journal has the end of the turn before
    before = bench.far_log.count("answered")
    bench.answers()
    with bench.recording() as loudspeaker:
        line = bench.turn("lamp on")
    assert " answered: " in line
    assert bench.far_log.count("answered") == before + 1
    assert loudspeaker.speech(), "the answer sounds"


@connected
@cases(*(f"{card} {state}" for card in ("microphone", "loudspeaker") for state in _STATES))
def test_card(bench: Bench, case: str) -> None:
    card, state = case.split()
    driver, device = "/sys/bus/platform/drivers/snd_aloop", f"snd_aloop.{int(card == 'loudspeaker')}"
    bench.answers(repeats=4, thinking_s=2.0)
    _reach(bench, state)
    pid = bench.pid
    began = time.monotonic()
    with subprocess.Popen(["/bin/sh", "-c", f"echo {device} >{driver}/unbind"]):
        bench.until_status(f"no {card}", within_s=5)
        bench.measured(
            f"{case}: loss of the card to its report",
            1000 * (time.monotonic() - began),
            goal=500,
            unit="ms",
            limit=700,
        )
    time.sleep(2)
    bench.sh(f"echo {device} >{driver}/bind")
    bench.until_status("sound card ready", within_s=20)
    bench.release()
    bench.at_rest()
    _answers_again(bench)
    assert bench.pid == pid, "the service was not restarted"


@connected
@cases(*_STATES)
def test_network(bench: Bench, case: str) -> None:
    bench.answers(repeats=4, thinking_s=2.0)
    bench.restart(
        APPLIANCE_LINK__PING_INTERVAL_S="5",
        APPLIANCE_LINK__PING_TIMEOUT_S="5",
        APPLIANCE_LINK__FAILBACK_S="5",
        APPLIANCE_LINK__CONNECT_TIMEOUT_S="5",
    )
    bench.until_status("connected to")
    _reach(bench, case)
    pid = bench.pid
    bench.cable("down")
    time.sleep(2)
    bench.release()
    bench.wait(lambda: "connected to" not in bench.status, "the loss is noticed", within_s=60, step_s=0.5)
    bench.at_rest(within_s=90)
    bench.cable("up")
    bench.until_status("waiting for a press; connected to", within_s=90)
    time.sleep(1)
    _answers_again(bench)
    assert bench.pid == pid, "the service was not restarted"
