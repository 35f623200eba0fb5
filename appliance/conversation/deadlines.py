"""What happens when a deadline passes: the checks of every region, in order, and those of the running turn. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from appliance.conversation import agent_events, gesture_events, lost_links, user_events
from appliance.conversation.procedures import Procedures
from appliance.conversation.support.retry import classify

__all__ = ["DEADLINES", "Step", "turn_deadline"]

Step: TypeAlias = Callable[[Procedures, float], None]


def turn_deadline(do: Procedures) -> float | None:
    """Return when the running turn is late; None while its answer waits for open calls, which have deadlines."""
    if do.turn is not None and (awaited := lost_links.awaited_until(do)) is not None:
        return awaited
    if do.turn is None or (do.speech.is_taken and do.calls.open.round.open):
        return None
    if not do.speech.is_taken:
        return do.speech.deadline
    at = do.answer.due()
    return min(at, do.gate.deadline(at))


def _late_gestures(do: Procedures, now: float) -> None:
    gesture_events.gestured(do, do.device.late_gestures(now), now)
    gesture_events.second_gestured(do, do.device.late_second_gestures(now), now)
    do.device.end_power_off(now)


def _late_alarms(do: Procedures, now: float) -> None:
    if do.device.is_alarm_due(now):
        user_events.ring(do, now)


def _late_turn(do: Procedures, now: float) -> None:
    deadline = turn_deadline(do)
    if deadline is None:
        return
    if do.speech.is_taken and now >= do.gate.deadline(now + 1.0):
        if do.gate.are_instructions_late(now):
            do.device.report("instructions_late", now)
            do.gate.prepared()
        if do.gate.is_check_late(now):
            do.refuse_input("guardrail", "what you said could not be checked in time", now)
    elif now < deadline:
        return
    elif do.speech.is_open:
        do.end_capture("captured" if do.speech.is_in_post_roll else "too_long", now)
    elif not do.speech.is_taken:
        if do.speech.is_sent and do.link.main is not None:
            lost_links.drop_link(do, classify("timeout", None), now)  # the server has the audio and does not confirm it
        else:
            do.fail_turn("no_link", now)
    elif lost_links.awaited_until(do) is not None:
        lost_links.give_up(do, now)
    elif do.answer.is_playing:
        do.fail_turn("playout_stalled" if do.device.has_speaker else "no_speaker", now)
    elif do.answer.is_heard_whole:
        do.stop_answer(now)  # the server never sent response.done
        do.end_turn("answered", now)
    else:
        do.fail_turn(do.answer.received.failure or "no_answer", now)


DEADLINES: tuple[Step, ...] = (
    _late_gestures,
    lambda do, now: do.answer.slot.advance(now),
    agent_events.late_updates,
    lambda do, now: do.out_of_band.advance(now),
    lambda do, now: do.device.end_error_light(now),
    _late_alarms,
    lost_links.late_main,
    lambda do, now: do.link.advance(now),
    agent_events.late_calls,
    agent_events.late_check,
    _late_turn,
)
"""The checks of every deadline, in order: each sees the effects of those before."""
