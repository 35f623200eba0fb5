"""Rules for lost connections: what the running turn and its calls lose, and what goes on. Pure."""

from __future__ import annotations

from appliance.conversation.commands import Disconnect
from appliance.conversation.procedures import Procedures, RunningTurn
from appliance.conversation.support.retry import Verdict, classify

__all__ = ["awaited_until", "drop_link", "give_up", "late_main", "lose_link", "plays_on"]


def drop_link(do: Procedures, verdict: Verdict, now: float) -> None:
    """Close the main link because it is unusable."""
    assert do.link.main is not None
    do.out.do(Disconnect(do.link.main.id))
    lose_link(do, verdict, now)


def late_main(do: Procedures, now: float) -> None:
    """Configure a link whose agent is late with its instructions, or close one that does not become ready."""
    link = do.link.main
    if link is None or link.is_configured or now < link.deadline:
        return
    if link.is_ready:  # only the instructions of the agent are late
        do.device.report("instructions_late", now)
        do.configure(link, now)
    else:
        drop_link(do, classify("timeout", None, last_error=link.last_error), now)


def lose_link(do: Procedures, verdict: Verdict, now: float) -> None:
    was_usable = do.link.is_usable
    is_awaited = do.turn is not None and not do.answer.asked.is_done
    is_trouble = do.link.lose(verdict, now, is_awaited=is_awaited)
    is_reported_by_turn = is_awaited and do.link.fatal is not None
    if is_trouble and not is_reported_by_turn:
        do.device.report(verdict.kind, now, flash=False)
    do.calls.drop_others(do.turn_id, do.policy.output("disconnected"))
    do.link_left()
    if do.turn is not None:
        _unlink_turn(do, do.turn, now, was_usable=was_usable)
    if do.link.main is not None and do.link.main.is_ready:  # a ready spare took over
        do.link_ready(do.link.main, now)


def _unlink_turn(do: Procedures, turn: RunningTurn, now: float, *, was_usable: bool) -> None:
    """Replay a turn after a lost link, go on with its answer if only calls were made, else cut the answer off."""
    fatal = do.link.fatal
    was_sent = do.speech.is_sent
    do.speech.forget_link()
    do.answer.unlink()
    if do.answer.asked.is_done:
        _drop_calls(do)  # the answer is complete, and plays to its end
    elif fatal is not None:
        _drop_calls(do)
        do.fail_turn(fatal.kind, now)
    elif do.calls.open.can_be_retold and (not was_usable or _can_ask_again(do)):
        if was_usable:
            do.answer.asked.await_link(now + do.policy.link_wait_s)
        _go_on(do, turn)
    elif do.answer.received.has_output:
        if not do.speech.is_taken:
            do.answer.wait_until(do.speech.deadline)
        do.speech.abandon()
        if do.calls.open.awaiting_approval is not None:
            do.answer.fail("approval_void")
        _drop_calls(do)
        if not do.answer.is_written:
            do.history.remove_unplayed(do.answer.playback.played_items)
        do.answer.cut_off()
    elif not do.speech.is_open or turn.kind == "vad":
        do.history.remove(do.speech.item_id)  # the audio is sent again and gets a new item id
        if not do.speech.replay(was_sent=was_sent, now=now):
            do.fail_turn("no_answer", now)


def _go_on(do: Procedures, turn: RunningTurn) -> None:
    """Continue the answer on the next connection, which gets the calls and their outputs."""
    do.speech.abandon()
    if not do.answer.is_written:
        do.history.remove_unplayed(do.answer.playback.played_items)
    do.answer.end_wait()
    if do.calls.open.round.seen:
        do.ask_again(turn)  # once the calls are closed
    else:
        do.answer.slot.want(turn.id)


def _can_ask_again(do: Procedures) -> bool:
    """Return whether nothing of the open response was received, and no audio of an earlier one is missing or held."""
    received = do.answer.received
    is_late = received.is_begun or received.late_response or do.answer.playback.gate.is_holding
    return not is_late and do.answer.asked.losses < do.policy.max_replays


def awaited_until(do: Procedures) -> float | None:
    """Return when to give up an answer that waits for another connection; None if it waits for none."""
    asked = do.answer.asked
    return None if asked.is_done or do.out.link is not None else asked.link_deadline


def plays_on(do: Procedures) -> bool:
    """Return whether audio of a lost connection is still playing."""
    return do.answer.is_playing and do.answer.playback.link != do.out.link


def give_up(do: Procedures, now: float) -> None:
    """Fail a turn for which no connection was found; its tools run on."""
    do.calls.open.detach()
    do.fail_turn("no_link", now)


def _drop_calls(do: Procedures) -> None:
    """Drop the calls of the running turn with its connection; tools that run go on."""
    do.calls.open.detach()
    do.calls.drop(do.policy.output("disconnected"))
