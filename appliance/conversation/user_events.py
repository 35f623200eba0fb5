"""Rules for what the user does with the device, and what a program does instead. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from appliance.conversation.commands import Earcon, Sentence
from appliance.conversation.events import AudioCaptured, CardLost, FrameGiven, MessageGiven, OutOfBandAsked
from appliance.conversation.notices import TroubleKind
from appliance.conversation.procedures import Procedures
from appliance.conversation.support.troubles import sentence
from appliance.conversation.support.values import mapping
from appliance.realtime import protocol as wire


def is_out_of_budget(do: Procedures) -> bool:
    """Return whether the budget is spent and no offline brain can take over."""
    return do.account.budget.is_spent and do.policy.offline_endpoint is None


# --- refusals ---------------------------------------------------------------------------------------------------------


def resume(do: Procedures, now: float) -> None:
    """Continue the speech that waits for a connection."""
    do.speech.resume(do.device.take_pre_roll(now), now)
    if do.link.main is None:
        do.link.hurry(now)
    if do.turn is not None and do.turn.kind == "button":
        do.out.earcon("start")


def refuse(do: Procedures, kind: TroubleKind, now: float, fallback: Earcon) -> None:
    """Stop the answer, start no turn, and report and announce why."""
    do.stop_answer(now)
    do.end_turn("interrupted", now)
    do.device.report(kind, now)
    do.out.announce(sentence(kind), fallback)


def interrupt(do: Procedures, now: float) -> None:
    """Stop the answer without starting a turn; a no-op while the user speaks."""
    if not do.speech.is_open:
        do.stop_answer(now)
        do.end_turn("interrupted", now)


# --- microphone, cards and mute ---------------------------------------------------------------------------------------


def audio(do: Procedures, event: AudioCaptured, now: float) -> None:
    do.device.captured_at = now
    if do.speech.is_open:
        if (ended := do.speech.add(event)) is not None:
            do.end_capture(ended, now)
        return
    do.device.keep(event)
    if do.session.spec.turn_detection is not None and not is_out_of_budget(do):
        do.out.send(wire.InputAudioBufferAppend(audio=event.pcm))


def overrun(do: Procedures, now: float) -> None:
    if do.speech.is_capturing:
        do.device.report("overrun", now)
        do.end_capture("captured", now)


def lose_card(do: Procedures, event: CardLost, now: float) -> None:
    do.device.lose_card(event.direction, event.reason, now)
    if event.direction == "capture":
        if do.speech.is_capturing:
            do.end_capture("captured", now)  # keep the speech so far
    elif do.speech.is_taken and do.answer.is_playing:
        do.fail_turn("no_speaker", now, detail=event.reason)


def mute(do: Procedures, is_muted: bool, now: float, *, is_by_switch: bool = False) -> None:
    """Close or open the microphone; while the switch on the device mutes, say so instead of opening it."""
    if not is_muted and do.device.mute.is_switched and not is_by_switch:
        do.out.announce(Sentence("device.mute_switch"), "muted")
    if do.device.switch_mute(is_muted, is_by_switch=is_by_switch):
        if do.device.is_muted and do.speech.is_open:
            do.discard("cancelled", now)
        elif do.device.is_muted and do.session.spec.turn_detection is not None:
            do.out.send(wire.InputAudioBufferClear())  # it may hold the start of a sentence
        do.device.follow_mute()


# --- alarms -----------------------------------------------------------------------------------------------------------


def ring(do: Procedures, now: float) -> None:
    """Sound the alarm; during a turn, only the light shows it."""
    if not do.device.plan_ring(now):
        silence_alarms(do)
    elif do.turn is None:
        do.device.ring()


def silence_alarms(do: Procedures) -> None:
    if do.device.silence_alarms() and do.turn is None:
        do.answer.playback.silence()


# --- the program ------------------------------------------------------------------------------------------------------


def begin(do: Procedures, now: float) -> None:
    if do.session.spec.turn_detection is not None:
        return  # the server detects the turns
    if is_out_of_budget(do):
        refuse(do, "budget_spent", now, "error")
    elif do.speech.waits:
        resume(do, now)
    elif not do.speech.is_open:
        do.begin_turn("program", now)


def commit(do: Procedures, now: float) -> None:
    if _is_speaking(do):
        do.end_capture("captured", now)


def abort(do: Procedures, now: float) -> None:
    if _is_speaking(do):
        do.discard("cancelled", now)


def _is_speaking(do: Procedures) -> bool:
    """Return whether the user speaks in a turn that the program started."""
    return do.speech.is_open and do.turn is not None and do.turn.kind == "program"


def message(do: Procedures, event: MessageGiven, now: float) -> None:
    is_spoken = do.speech.is_open or do.speech.waits
    wants_answer = event.wants_answer and not (event.is_event and do.is_free)
    if not wants_answer or is_spoken:
        do.history.add_message(event.item, event.text)
        if is_spoken:  # the turn answers the message too, and its check covers it
            do.speech.add_message(str(event.item["id"]), event.text)
    elif event.must_wait and do.turn is not None:
        do.history.waiting.append(event)
    elif is_out_of_budget(do):
        do.history.add_message(event.item, event.text)
        refuse(do, "budget_spent", now, "error")
    else:
        do.begin_turn("message", now)
        do.speech.write(event.item, event.text, now)


def next_message(do: Procedures, now: float) -> None:
    """Handle the messages that waited for the end of the turn; the first that begins one lets the others wait."""
    while do.turn is None and do.history.waiting:
        message(do, do.history.waiting.popleft(), now)


def ask(do: Procedures, event: OutOfBandAsked, now: float) -> None:
    if do.may_ask:
        do.out_of_band.ask(event, now)
    else:
        do.out_of_band.reject(event.key, "the budget of today is spent")


def send_frame(do: Procedures, event: FrameGiven, now: float) -> None:
    frame = dict(event.frame)
    if frame.get("type") == "input_audio_buffer.commit" and _is_speaking(do):
        do.end_capture("captured", now)
        return
    if frame.get("type") == "input_audio_buffer.clear" and _is_speaking(do):
        do.speech.start_over(now)
        if do.out.link is None:
            return  # nothing was sent yet
    if do.out.link is None:
        do.device.report("not_connected", now, detail=f"{frame.get('type')}: there is no connection to send it on")
        return
    if frame.get("type") == "response.create":
        if not do.may_ask:
            do.device.report("budget_spent", now)
            return
        response = mapping(frame.get("response"))
        if response.get("conversation") != "none":
            _request_response(do, response, now)
            return
        do.out_of_band.given(response)
    elif frame.get("type") == "session.update":
        event_id = str(frame.setdefault("event_id", do.out.next_event_id()))
        do.session.note_raw(event_id, mapping(frame.get("session")), now)
    do.out.send(wire.RawClientEvent(frame=frame))


def _request_response(do: Procedures, response: Mapping[str, Any], now: float) -> None:
    """Start a turn for a response that the program requests with a raw frame; once it is committed, speech has one."""
    if do.turn is not None and _awaits_answer(do):
        if response:  # nothing of the answer has arrived: request it again, with these options
            do.answer.use(response)
            do.answer.cancel(now)
            do.answer.slot.want(do.turn.id)
        return
    if do.speech.is_open or do.speech.waits:
        do.answer.use(response)  # the answer to the open turn uses these options
        return
    turn = do.begin_turn("message", now)
    do.speech.skip()
    do.answer.use(response)
    do.answer.prolong(now)
    do.answer.slot.want(turn.id)


def _awaits_answer(do: Procedures) -> bool:
    """Return whether the answer to speech of the program is requested or will be, and nothing of it has arrived."""
    is_committed = do.turn is not None and do.turn.kind == "program" and not do.speech.is_open
    return is_committed and not do.speech.waits and do.answer.is_under_way and not do.answer.received.has_output
