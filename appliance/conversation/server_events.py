"""Rules for server events, one each. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from appliance.conversation import agent_events
from appliance.conversation import events as ev
from appliance.conversation.commands import Disconnect, Sentence
from appliance.conversation.lost_links import drop_link, lose_link
from appliance.conversation.notices import InputText
from appliance.conversation.procedures import Procedures, RunningTurn
from appliance.conversation.regions.answer import OutputText
from appliance.conversation.regions.link import Link
from appliance.conversation.support.outbox import CommitOf, ItemOf, OutOfBandOf, TruncationOf
from appliance.conversation.support.retry import Verdict, classify
from appliance.conversation.support.values import mapping
from appliance.realtime import protocol as wire

_BENIGN = frozenset({"response_cancel_not_active", "conversation_already_has_active_response", "session_expired"})
"""Errors of races in the protocol (e.g. a cancel after ``response.done``), and one that the close frame repeats."""
_TRUNCATED_TOO_LATE = re.compile(r"Audio content of \d+ ?ms is already shorter than \d+ ?ms\.?")


# --- connections ------------------------------------------------------------------------------------------------------


def received(do: Procedures, event: ev.ServerEventReceived, now: float) -> None:
    main, spare = do.link.main, do.link.spare
    if main is not None and event.link == main.id:
        _handle(do, main, event.event, now)
    elif spare is not None and event.link == spare.id:
        if isinstance(event.event, wire.SessionCreated) and not spare.is_ready:
            do.link.created(spare, now, model=str(event.event.session.get("model") or ""))
        elif isinstance(event.event, wire.ErrorEvent):
            spare.last_error = event.event.error.code or event.event.error.type


def link_down(do: Procedures, event: ev.LinkDown, now: float) -> None:
    main, spare = do.link.main, do.link.spare
    if main is not None and event.link == main.id:
        verdict = classify(event.kind, event.code, last_error=main.last_error, retry_after_s=event.retry_after_s)
        lose_link(do, verdict, now)
        if verdict.retry_after_s and do.turn is not None and do.link.main is None:
            do.out.announce(Sentence("link.retry_after", {"seconds": round(verdict.retry_after_s)}), "offline")
    elif spare is not None and event.link == spare.id:
        do.link.lose_spare(now, classify(event.kind, event.code, last_error=spare.last_error))


def frame_refused(do: Procedures, event: ev.FrameRefused, now: float) -> None:
    link = do.link.main
    if link is None or event.link != link.id:
        return
    link.bad_frames += 1
    do.device.report("bad_frame", now, detail=event.problem)
    if link.bad_frames > do.policy.max_bad_frames:
        drop_link(do, classify("bad_frames", None), now)


def _handle(do: Procedures, link: Link, event: wire.ServerEvent, now: float) -> None:
    if isinstance(event, wire.OutputAudioDelta):
        link.has_spoken = True  # from now on, the server refuses a change of voice
    if do.out_of_band.owns(event) or do.answer.slot.is_foreign(_response_id(event)):
        if isinstance(event, wire.ResponseDone):
            do.count_response(event.response.usage, now)
        return
    do.history.apply(event)
    match event:
        case wire.OutputAudioDelta():
            _audio(do, event, now)
        case wire.OutputAudioTranscriptDelta() | wire.OutputTextDelta():
            _text(do, event, event.delta, now, is_final=False)
        case wire.OutputAudioTranscriptDone():
            _text(do, event, event.transcript, now, is_final=True)
        case wire.OutputTextDone():
            _text(do, event, event.text, now, is_final=True)
        case wire.SessionCreated():
            _session_created(do, link, event, now)
        case wire.SessionUpdated():
            _session_updated(do, event, now)
        case wire.ErrorEvent():
            _error(do, link, event.error, now)
        case wire.SpeechStarted():
            _speech_started(do, event, now)
        case wire.InputAudioBufferCommitted():
            _committed(do, event.item_id, now)
        case wire.InputTranscriptionDelta():
            do.out.emit(InputText(event.delta, is_final=False, item_id=event.item_id))
        case wire.InputTranscriptionCompleted():
            _transcribed(do, event, now)
        case wire.InputTranscriptionFailed():
            if do.turn is not None and do.speech.item_id == event.item_id and not do.gate.is_checked:
                do.refuse_input("transcript", "what you said could not be written down", now)
        case wire.ResponseCreated():
            _response_created(do, event.response, now)
        case wire.UnknownEvent(name="response.output_audio.done"):
            if _answers(do, str(event.raw.get("response_id", ""))):
                do.answer.end_audio(do.link.main_id or 0, now)
        case wire.OutputItemAdded():
            if event.item.type == "mcp_call" and _answers(do, event.response_id):
                agent_events.mcp_call(do, event.item, now)
        case wire.OutputItemDone():
            _item_done(do, event, now)
        case wire.McpCallArgumentsDone():
            do.calls.mcp_arguments(event)
        case wire.McpCallCompleted() | wire.McpCallFailed():
            do.calls.mcp_over(event.item_id, now, is_error=isinstance(event, wire.McpCallFailed))
        case wire.McpListToolsFailed():
            do.device.report("server_error", now, detail="the list of an MCP server's tools could not be read")
        case wire.ResponseDone():
            _response_done(do, event.response, now)


def _response_id(event: wire.ServerEvent) -> str:
    """Return the id of the response that an event is about; "" for none."""
    response = getattr(event, "response", None)
    return response.id if response is not None else getattr(event, "response_id", "")


# --- the session ------------------------------------------------------------------------------------------------------


def _session_created(do: Procedures, link: Link, event: wire.SessionCreated, now: float) -> None:
    if link.is_ready:
        return
    do.link.created(link, now, model=str(event.session.get("model") or ""))
    do.link_ready(link, now)
    if do.speech.is_committing:
        do.speech.wait_until(now + do.policy.commit_s + do.policy.prepare_s * do.session.spec.is_asked_at_connect)


def _session_updated(do: Procedures, event: wire.SessionUpdated, now: float) -> None:
    output = mapping(mapping(event.session.get("audio")).get("output"))
    rate = mapping(output.get("format")).get("rate")
    if rate not in (None, wire.SAMPLE_RATE):
        detail = f"the server sends audio at {rate} Hz, and only {wire.SAMPLE_RATE} Hz can be played"
        do.device.report("server_error", now, detail=detail)
        drop_link(do, Verdict("fatal", "bad_shape"), now)
    elif (update := do.session.updated(event)) is None:
        return
    elif update.kind == "handoff":
        agent_events.hand_over(do, update, now)
    elif update.kind == "agent" and update.spec is not None:
        do.replace_agent(update.key, update.spec)


# --- errors -----------------------------------------------------------------------------------------------------------


def _error(do: Procedures, link: Link, error: wire.ErrorDetail, now: float) -> None:
    """Pass an error to the first rule in `LADDER` that owns it; report it if none does."""
    link.last_error = error.code or error.type
    do.answer.slot.failed(error.event_id)
    if any(owns(do, link, error, now) for owns in LADDER):
        return
    if link.is_ready and error.code not in _BENIGN and not _is_truncate_race(error):
        do.device.report("server_error", now, detail=error.message)


def _error_of_update(do: Procedures, link: Link, error: wire.ErrorDetail, now: float) -> bool:
    update = do.session.refused(error.event_id)
    if update is None:
        return False
    if update.kind == "connect":
        do.out.do(Disconnect(link.id))
        do.device.report("server_error", now, detail=error.message)
        lose_link(do, Verdict("fatal", "settings_refused"), now)
    elif update.kind == "handoff":
        agent_events.fail_handoff(do, update.call_id, error.message, now)
    elif update.kind == "agent":
        agent_events.refuse_agent(do, update, error.message, now)
    else:
        if update.kind == "turn" and update.spec is not None:
            do.session.put_in_force(update.spec)
        do.device.report("server_error", now, detail=error.message)
    return True


def _error_of_question(do: Procedures, link: Link, error: wire.ErrorDetail, now: float) -> bool:
    cause = do.out.cause(error.event_id)
    return isinstance(cause, OutOfBandOf) and do.out_of_band.refuse(cause.key, error.message)


def _error_of_busy_server(do: Procedures, link: Link, error: wire.ErrorDetail, now: float) -> bool:
    if error.code != "conversation_already_has_active_response":
        return False
    if do.answer.slot.refused(error.event_id, now + do.policy.refused_retry_s) and do.turn is not None:
        do.answer.retry()
    return True


def _error_of_response(do: Procedures, link: Link, error: wire.ErrorDetail, now: float) -> bool:
    if not do.answer.slot.names_request(error.event_id):
        return False
    request = do.answer.slot.abandon()
    if request is None:  # its response has started, and plays on
        do.device.report("server_error", now, detail=error.message)
    elif request.turn == do.turn_id and not request.is_cancelled:
        do.fail_turn("answer_failed", now, detail=error.message)
    return True


def _error_of_commit(do: Procedures, link: Link, error: wire.ErrorDetail, now: float) -> bool:
    if do.turn is None or do.out.cause(error.event_id) != CommitOf(do.turn.id, do.speech.replays):
        return False
    do.speech.refuse_commit()
    do.fail_turn("server_error", now, detail=error.message)
    return True


def _error_of_truncation(do: Procedures, link: Link, error: wire.ErrorDetail, now: float) -> bool:
    """Ignore the refusal of a truncation: it is not about the turn that runs by now."""
    return isinstance(do.out.cause(error.event_id), TruncationOf)


def _error_of_item(do: Procedures, link: Link, error: wire.ErrorDetail, now: float) -> bool:
    """Remove an item here whose creation or deletion the server refused."""
    cause = do.out.cause(error.event_id)
    if not isinstance(cause, ItemOf):
        return False
    do.history.remove(cause.item_id)
    do.device.report("item_refused", now, detail=error.message)
    if do.turn is not None and do.turn.kind == "message" and do.speech.item_id == cause.item_id:
        do.fail_turn("server_error", now, detail=error.message)
    return True


# --- what the user said -----------------------------------------------------------------------------------------------


def _speech_started(do: Procedures, event: wire.SpeechStarted, now: float) -> None:
    """The server's turn detection hears the user: barge in, with a turn that the server ends."""
    detection = do.session.spec.turn_detection
    if detection is None or do.device.is_muted:  # muted: it heard what was said before
        return
    if not do.speech.is_open:
        if detection.get("interrupt_response", True):
            do.answer.slot.cancelled_by_server(now + do.policy.cancel_s)
        do.begin_turn("vad", now)
        do.speech.begin_at_server()
    do.speech.becomes(event.item_id)


def _committed(do: Procedures, item_id: str, now: float) -> None:
    detection = do.session.spec.turn_detection
    turn = do.turn
    if detection is not None and (turn is None or turn.kind == "vad"):
        turn = turn or do.begin_turn("vad", now)  # the server prompts an idle user without speech
        if do.speech.is_open or do.speech.item_id != item_id:  # else response.created came first
            _commit_at_server(do, turn, detection, now)
    else:
        of_turn = do.speech.next_commit() or do.turn_id or ""
        do.speech.note_item(item_id, of_turn)
        if do.gate.refuses(of_turn):
            do.history.delete(item_id)
        if turn is None or turn.id != of_turn or not do.speech.is_committing or not do.speech.is_sent:
            return
    do.speech.becomes(item_id)
    do.speech.note_item(item_id, turn.id)
    do.speech_taken(now)


def _commit_at_server(do: Procedures, turn: RunningTurn, detection: Mapping[str, Any], now: float) -> None:
    """End the speech that the server's turn detection committed."""
    do.speech.commit_at_server()
    if detection.get("create_response", True):
        do.answer.slot.asked(turn.id, "")
        do.answer.open(do.session.spec, is_taken=do.speech.is_taken, is_free=do.is_free, now=now)
        do.prepare_for_turn(now)  # too late for this response, which the server starts by itself
    else:
        do.begin_checks(now)
        do.answer.slot.want(turn.id)


def _transcribed(do: Procedures, event: wire.InputTranscriptionCompleted, now: float) -> None:
    text = event.transcript.strip()
    turn_id = do.speech.turn_of(event.item_id)
    if turn_id is not None:
        do.out.emit(InputText(text, is_final=True, turn=turn_id))
    if event.usage is not None:
        usd = do.policy.prices.transcription_usd(do.session.transcriber, event.usage)
        do.account.add_to_session(event.usage, 0.0 if do.is_free else usd, requests=0)
        do.count(usd, event.usage, 0.0, now)
    if do.turn is not None and do.speech.item_id == event.item_id:
        do.speech.hear(text)
        if not do.gate.is_checked:
            do.check_input(text, now)


# --- the answer -------------------------------------------------------------------------------------------------------


def _answers(do: Procedures, response_id: str) -> bool:
    is_awaited = do.turn is not None and not do.speech.is_open
    return is_awaited and do.answer.answers(response_id, do.turn_id)


def _response_created(do: Procedures, response: wire.Response, now: float) -> None:
    turn, detection = do.turn, do.session.spec.turn_detection
    is_speaking = turn is not None and turn.kind == "vad" and do.speech.is_open
    if turn is not None and is_speaking and detection is not None and do.answer.slot.is_of_server(response):
        _commit_at_server(do, turn, detection, now)  # its commit follows
    if do.answer.created(response) and do.turn is not None and not do.speech.is_open:
        do.answer.accept(do.session.spec)
        do.speech_taken(now)


def _audio(do: Procedures, event: wire.OutputAudioDelta, now: float) -> None:
    if event.delta and _answers(do, event.response_id):
        do.speech_taken(now)
        do.speech.forget_audio()
        do.answer.hear(event, do.link.main_id or 0, now)


def _text(do: Procedures, event: OutputText, text: str, now: float, *, is_final: bool) -> None:
    if (text or is_final) and _answers(do, event.response_id):
        do.speech_taken(now)
        do.answer.read(event, text, do.turn_id or "", now, is_final=is_final)


def _item_done(do: Procedures, event: wire.OutputItemDone, now: float) -> None:
    if _answers(do, event.response_id) or event.item.type == "mcp_call":  # may end after its response
        agent_events.take_item(do, event.item, now)
    else:
        _dismiss(do, event.item)


def _dismiss(do: Procedures, item: wire.Item) -> None:
    """Handle an item of an interrupted response: refuse a call, delete an unheard answer."""
    if do.calls.dismiss(item):
        do.history.add_output(item.call_id, do.policy.output("not_made"))
    known = do.history.get(item.id)
    is_unheard = known is not None and known.heard_ms is None
    if do.answer.is_unplayed(item, is_unheard=is_unheard):
        do.forget_unplayed(item.id)


def _response_done(do: Procedures, response: wire.Response, now: float) -> None:
    answers = _answers(do, response.id)  # read before the slot is freed
    request = do.answer.slot.done(response)
    do.count_response(response.usage, now)
    turn = do.turn
    if turn is None or not answers or request is None or request.is_cancelled:
        for item in response.output:
            _dismiss(do, item)
        return
    do.answer.close()
    do.speech_taken(now)
    do.account.add_to_turn(response.usage)
    for item in response.output:
        agent_events.take_item(do, item, now)
    do.answer.playback.check_rest(response, now)
    do.answer.release(do.link.main_id or 0, now)
    if response.status == "failed":
        do.answer.fail("answer_failed", response.error.message if response.error else "")
    elif response.status == "incomplete":
        do.device.report("answer_incomplete", now, detail=f"the answer was cut short: {response.reason or 'no reason'}")
    elif response.status == "cancelled" and do.session.spec.turn_detection and not do.answer.received.has_output:
        do.end_turn("interrupted", now)  # the server's turn detection heard the user again
        return
    if _speaks_of_mcp(response):
        do.calls.speak_of_mcp()
    if do.calls.open.round.seen and not do.answer.received.failure:
        do.ask_again(turn)
    elif do.answer.lacks_audio(response):
        do.answer.await_audio(response)
    else:
        do.answer.finish()


Owner: TypeAlias = Callable[[Procedures, Link, wire.ErrorDetail, float], bool]

LADDER: tuple[Owner, ...] = (
    _error_of_update,
    _error_of_question,
    _error_of_busy_server,
    _error_of_response,
    _error_of_commit,
    _error_of_truncation,
    _error_of_item,
)
"""The rules that can own an error, in order; the first that returns True ends the search."""


def _speaks_of_mcp(response: wire.Response) -> bool:
    """Return whether the response has a message after its last MCP call."""
    kinds = [item.type for item in response.output]
    last = max((at for at, kind in enumerate(kinds) if kind == "mcp_call"), default=-1)
    return "message" in kinds[last + 1 :]


def _is_truncate_race(error: wire.ErrorDetail) -> bool:
    """Return whether a truncation was too late, which is harmless; the live service also sends one without a code."""
    return (error.code or "").startswith("item_truncate") or _TRUNCATED_TOO_LATE.fullmatch(error.message) is not None
