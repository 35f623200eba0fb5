"""The button, the light and what the gestures do, on lines of the kernel."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from tests.system.bench import ANSWER, BUTTON, QUESTION, Bench, cases, connected

GATE = 5
SECOND = 27
SWITCH = 22


@connected
def test_spoken_turn_is_understood_on_both_sides(bench: Bench) -> None:
    bench.at_rest()
    assert 0 < sum(bench.levels(6.0)) < 40, "at rest the light flashes for 40 ms every 2 s"
    with bench.recording() as loudspeaker:
        assert not bench.level() or bench.wait(lambda: not bench.level(), "the flash ended")
        bench.press()
        bench.measured(
            "press to light",
            1000 * bench.wait(bench.level, "the light is on", step_s=0.001),
            goal=20,
            unit="ms",
            limit=20,
        )
        time.sleep(0.2)
        assert all(bench.levels(0.5)), "it is steady while the appliance listens"
        bench.say(QUESTION)
        time.sleep(0.1)
        bench.release()
        bench.wait(lambda: bench.turns(), "the turn ended", step_s=0.1)
        time.sleep(0.5)
        begin, end = loudspeaker.speech()[-1]
    assert "turn_1 answered" in bench.turns()[0]
    bench.expect_speech(QUESTION, Path("/run/bench/heard.raw").read_bytes(), 24_000)
    bench.expect_speech(ANSWER, loudspeaker.pcm(begin, end))


@connected
def test_tap_listens_until_the_next_tap(bench: Bench) -> None:
    bench.press()
    time.sleep(0.1)
    bench.release()
    bench.say("lamp on")
    assert bench.level(), "it still listens"
    bench.press()
    time.sleep(0.1)
    bench.release()
    bench.wait(lambda: bench.turns(), "the turn ended", step_s=0.1)
    assert "answered" in bench.turns()[0]


@connected
def test_spikes_are_no_press(bench: Bench) -> None:
    for length_s in (0.002, 0.008) * 10:
        bench.press()
        time.sleep(length_s)
        bench.release()
        time.sleep(0.1)
    bench.at_rest()
    time.sleep(1)
    assert not bench.turns()
    assert "heard" not in bench.far_log


@connected
def test_bounces_are_one_turn(bench: Bench) -> None:
    for last in ("pull-down", "pull-up"):
        for bounce in range(20):
            bench.pull(BUTTON, ("pull-down", "pull-up")[bounce % 2])
            time.sleep(0.0005)
        bench.pull(BUTTON, last)
        time.sleep(0.1)
        if last == "pull-down":
            bench.say("lamp on")
    bench.wait(lambda: bench.turns(), "the turn ended", step_s=0.1)
    bench.at_rest()
    assert len(bench.turns()) == 1
    assert bench.far_log.count("input_audio_buffer.commit") == 1


@cases("signal", "second button", "switch")
def test_mute_closes_the_microphone(bench: Bench, case: str) -> None:
    def switch() -> None:
        match case:
            case "signal":
                os.kill(bench.pid, signal.SIGUSR1)
            case "second button":
                bench.press(SECOND)
                time.sleep(0.2)
                bench.release(SECOND)
            case "switch":
                bench.pull(SWITCH, "pull-up" if "muted" in bench.status else "pull-down")

    if case != "signal":
        bench.restart(APPLIANCE_BUTTON__SECOND_PIN=str(SECOND), APPLIANCE_BUTTON__MUTE_PIN=str(SWITCH))
    assert bench.is_capturing
    switch()
    bench.until_status("muted")
    bench.wait(lambda: not bench.is_capturing, "the microphone is closed")
    time.sleep(2)
    levels = bench.levels(4.0)
    assert sum(levels) > 0.9 * len(levels), "the light is on, with short gaps"
    if case != "switch":  # a new request of its line resets the simulated one
        bench.restart()
        assert "muted" in bench.status
        assert not bench.is_capturing
    switch()
    bench.until_status("microphone on")
    bench.wait(lambda: bench.is_capturing, "the microphone is open")


@connected
@cases("tap", "hold")
def test_approval(bench: Bench, case: str) -> None:
    gate = {"name": "gate", "pin": GATE, "description": "Opens the gate.", "pulse_s": 1.0, "needs_approval": True}
    bench.answers(tool="pulse_gate")
    bench.restart(APPLIANCE_GPIO__OUTPUTS=f"'{json.dumps([gate])}'")
    bench.until_status("connected to")
    bench.ask("lamp on")
    bench.until_status("approval")
    time.sleep(0.5)
    levels = bench.levels(4.0)
    assert 0.3 < sum(levels) / len(levels) < 0.7, "the light blinks evenly"
    assert not bench.level(GATE)
    bench.press()
    time.sleep(0.1 if case == "tap" else 1.3)
    bench.release()
    levels = bench.levels(2.0, pin=GATE)
    assert any(levels) == (case == "tap")
    bench.wait(lambda: bench.turns(), "the turn ended", step_s=0.1)
    assert "answered" in bench.turns()[0]
    assert not bench.level(GATE)
