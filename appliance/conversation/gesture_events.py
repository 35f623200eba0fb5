"""Rules for the gestures of the buttons. Pure.

A press acts once it is known to be one (`Policy.min_press_ms`). Until then only the light shows it, and the pre-roll
keeps all that the microphone hears. So a shorter pulse is withdrawn without a trace: nothing was sent, no turn was
announced, the answer goes on, the alarm rings, nothing was approved.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, assert_never

from appliance.conversation import user_events
from appliance.conversation.commands import PrepareAgent, Sentence
from appliance.conversation.events import NextKey
from appliance.conversation.notices import TroubleKind
from appliance.conversation.procedures import Procedures
from appliance.conversation.support.call import Call
from appliance.conversation.support.gestures import Gesture

__all__ = ["gestured", "second_gestured", "will_listen"]

_Meaning: TypeAlias = Literal["alarm", "approval", "continue", "end", "interrupt", "resume", "begin"] | TroubleKind


def gestured(do: Procedures, gestures: list[Gesture], now: float) -> None:
    """Handle the gestures of the main button."""
    for gesture in gestures:
        match gesture.kind:
            case "press":
                _press(do, gesture.at, now)
            case "release":
                do.device.release_power_off(gesture.held_s)
                _release(do, gesture, now)
            case "tap" | "hold":
                if (call := do.calls.pressed_for(gesture.at - gesture.held_s)) is not None:
                    do.device.use_up_press()
                    _decide(do, call, now, approves=gesture.kind == "tap")
            case "double_tap":
                _double_tap(do, now)
            case "mute_hold":
                if do.policy.button_mode == "tap" or do.device.is_muted:
                    _toggle_mute(do, now)
            case "power_off_hold":
                if do.policy.mute_hold_s:
                    _toggle_mute(do, now)  # undoes that of the shorter hold
                do.device.announce_power_off(now)
            case "stuck":
                do.device.report("button_stuck", now)
                if do.speech.is_open:
                    do.discard("cancelled", now)
            case "freed":
                pass
            case _:
                assert_never(gesture.kind)


def second_gestured(do: Procedures, gestures: list[Gesture], now: float) -> None:
    """Handle the gestures of the second button: a press mutes or unmutes at its release, a long one switches off."""
    for gesture in gestures:
        match gesture.kind:
            case "release":
                if not do.device.release_power_off(gesture.held_s):
                    _toggle_mute(do, now)
            case "power_off_hold":
                do.device.announce_power_off(now)
            case "stuck":
                do.device.report("button_stuck", now)


# --- a press ----------------------------------------------------------------------------------------------------------


def _meaning(do: Procedures) -> _Meaning:
    """Return what a press does now; the first that applies."""
    speech = do.speech
    if do.device.alarms.ringing:
        return "alarm"
    if do.calls.open.awaiting_approval is not None:
        return "approval"
    if speech.is_in_post_roll:
        return "continue"
    if speech.is_open:
        return "end"
    if (refusal := do.device.refusal) is not None:
        return refusal
    if user_events.is_out_of_budget(do):
        return "budget_spent"
    if do.session.spec.turn_detection is not None:
        return "interrupt"
    return "resume" if speech.waits else "begin"


def will_listen(do: Procedures) -> bool:
    """Return whether the button went down a moment ago, for a press that starts or continues speech."""
    return do.device.is_press_pending and _meaning(do) in ("continue", "resume", "begin")


def _press(do: Procedures, at: float, now: float) -> None:
    """Handle a press whose edge was `at`."""
    match _meaning(do):
        case "alarm":
            do.device.use_up_press()
            user_events.silence_alarms(do)
        case "approval":
            pass  # a tap approves, a hold rejects: both gestures follow later
        case "continue":
            do.speech.go_on(now)
        case "end":
            _end_speech(do, at, now)
        case "interrupt":
            user_events.interrupt(do, now)  # the server listens by itself
        case "resume":
            user_events.resume(do, now)
        case "begin":
            do.begin_turn("button", now, at=at)
        case "muted":
            user_events.refuse(do, "muted", now, "muted")
        case refusal:
            user_events.refuse(do, refusal, now, "error")


def _release(do: Procedures, gesture: Gesture, now: float) -> None:
    match do.speech.release(gesture):
        case "too_short":
            do.discard("too_short", now)
        case "ended":
            _end_speech(do, gesture.at, now)


def _end_speech(do: Procedures, at: float, now: float) -> None:
    """Start the post-roll of speech that ended `at`, a debounce before `now`."""
    ended = do.speech.keep_post_roll(at, do.device.captured_at, now)
    if ended is not None:
        do.end_capture(ended, now)


def _decide(do: Procedures, call: Call, now: float, *, approves: bool) -> None:
    """Approve or reject a call, and stop the spoken question; the next call that waits is asked about again."""
    is_question_stopped = not do.answer.is_playing
    if is_question_stopped:
        do.answer.playback.silence()
    reply = do.calls.approve(call, now) if approves else do.calls.reject(call, do.policy.output("rejected"))
    do.close_call(reply, now)
    if is_question_stopped and (waiting := do.calls.open.awaiting_approval) is not None:
        do.calls.ask(waiting)


# --- mute, double taps and power-off ----------------------------------------------------------------------------------


def _toggle_mute(do: Procedures, now: float) -> None:
    user_events.mute(do, not do.device.is_muted, now)


def _double_tap(do: Procedures, now: float) -> None:
    """Discard the turn of the first tap, and do what the double tap is for; no more than a tap during a question."""
    if do.calls.open.awaiting_approval is not None:
        return
    if do.speech.is_open or do.speech.waits:
        do.discard("cancelled", now)
    else:
        user_events.interrupt(do, now)
    if not do.answer.is_playing:
        do.answer.playback.silence()  # what the first tap announced
    match do.policy.double_tap:
        case "mute":
            _toggle_mute(do, now)
        case "new_conversation":
            do.history.replace(())
            do.out.announce(Sentence("device.new_conversation"), "start")
        case "next_agent":
            _prepare_next(do)


def _prepare_next(do: Procedures) -> None:
    """Prepare the next agent of the list; with one agent, say its name."""
    agent = do.session.wanted.agent
    following = do.policy.next_agents.get(agent, agent)
    if following == agent:
        do.out.announce(Sentence("device.agent", {"agent": agent}), "start")
    else:
        do.out.do(PrepareAgent(NextKey(do.session.ask_next()), following, "connect"))
