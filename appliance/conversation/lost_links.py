"""Rules for lost connections: what the running turn and its calls lose, and what goes on. Pure."""

from __future__ import annotations

from appliance.conversation.commands import Disconnect
from appliance.conversation.procedures import Procedures
from appliance.conversation.support.retry import Verdict

__all__ = ["drop_link", "lose_link"]


def drop_link(do: Procedures, verdict: Verdict, now: float) -> None:
    """Close the main link because it is unusable."""
    assert do.link.main is not None
    do.out.do(Disconnect(do.link.main.id))
    lose_link(do, verdict, now)


def lose_link(do: Procedures, verdict: Verdict, now: float) -> None:
    is_trouble = do.link.lose(verdict, now)
    is_reported_by_turn = do.link.fatal is not None and do.turn is not None and not do.answer.asked.is_done
    if is_trouble and not is_reported_by_turn:
        do.device.report(verdict.kind, now, flash=False)
    do.calls.drop_others(do.turn_id, do.policy.output("disconnected"))
    do.link_left()
    if do.turn is not None:
        _unlink_turn(do, now)
    if do.link.main is not None and do.link.main.is_ready:  # a ready spare took over
        do.link_ready(do.link.main, now)


def _unlink_turn(do: Procedures, now: float) -> None:
    """Replay a turn after a lost link, unless its answer has started."""
    fatal = do.link.fatal
    was_sent = do.speech.is_sent
    do.speech.forget_link()
    do.answer.unlink()
    if do.answer.asked.is_done:
        _drop_calls(do)  # the answer is complete, and plays to its end
    elif fatal is not None:
        _drop_calls(do)
        do.fail_turn(fatal.kind, now)
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
    elif not do.speech.is_open or (do.turn is not None and do.turn.kind == "vad"):
        do.history.remove(do.speech.item_id)  # the audio is sent again and gets a new item id
        if not do.speech.replay(was_sent=was_sent, now=now):
            do.fail_turn("no_answer", now)


def _drop_calls(do: Procedures) -> None:
    """Drop the calls of the running turn with its connection; tools that run go on."""
    do.calls.open.detach()
    do.calls.drop(do.policy.output("disconnected"))
