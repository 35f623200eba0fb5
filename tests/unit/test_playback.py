"""Tests of answer playback in epochs: what a flush cuts, and that late reports of older epochs are ignored."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.conversation.commands import CheckText, Command, Emit, FinishPlay, FlushPlayback, Play, Send
from appliance.conversation.events import OutputCheck, PlayoutProgress
from appliance.conversation.notices import AudioEnd, AudioInterrupted
from appliance.conversation.policy import Policy
from appliance.conversation.support.outbox import Outbox
from appliance.conversation.support.playback import Cut, Heard, Playback
from appliance.realtime import protocol as wire

LINK = 7
STALL_S = 5.0


class Player:
    """A playback and its outbox, with a link."""

    def __init__(self, **policy: Any) -> None:
        self.out = Outbox()
        self.out.link = LINK
        self.playback = Playback(Policy(**({"playout_stall_s": STALL_S} | policy)), self.out)

    def audio(self, item_id: str, frames: int, now: float = 0.0, link: int = LINK) -> list[Command]:
        """Receive audio of an item and return the commands."""
        event = wire.OutputAudioDelta(
            event_id="e", response_id="r", item_id=item_id, output_index=0, content_index=0, delta=bytes(2 * frames)
        )
        self.playback.feed(event.item_id, event.content_index, event.delta, link, now)
        return self.out.take()

    def report(self, epoch: int, frames: int, *, drained: bool = False, now: float = 0.0) -> None:
        self.playback.progress(PlayoutProgress(epoch, frames, drained), now)

    def flush(self) -> tuple[Cut, list[Command]]:
        cut = self.playback.flush()
        return cut, self.out.take()

    def heard_ms(self) -> list[tuple[str, int]]:
        return [(one.item_id, one.heard_ms) for one in self.playback.heard()]


def test_a_flush_names_only_partly_heard_items_and_starts_an_epoch() -> None:
    player = Player()
    player.audio("a", 2400)
    player.audio("b", 2400)
    player.report(0, 3600)
    cut, commands = player.flush()
    assert cut == Cut(((Heard("b", 0, 2400, 50, False), 100),), ())
    assert player.out.epoch == 1
    assert commands == [FlushPlayback(1), Emit(AudioInterrupted("b", 50))]
    assert not player.playback.is_playing
    assert player.playback.heard() == []


def test_a_report_of_an_older_epoch_is_ignored() -> None:
    player = Player()
    player.audio("a", 2400)
    player.flush()
    player.audio("b", 2400)
    player.report(0, 9999, drained=True)
    assert player.heard_ms() == [("b", 0)]
    assert player.playback.is_playing
    player.report(1, 1200)
    assert player.heard_ms() == [("b", 50)]


def test_a_report_of_a_future_epoch_is_ignored() -> None:
    player = Player()
    player.audio("a", 2400)
    player.report(1, 2400, drained=True)
    assert player.heard_ms() == [("a", 0)]


def test_a_report_of_an_older_epoch_does_not_reset_the_stall_deadline() -> None:
    player = Player()
    player.audio("a", 2400)
    player.flush()
    player.audio("b", 2400, now=10.0)
    player.report(0, 2400, now=14.0)
    assert player.playback.stalled_at(0.0) == 10.0 + STALL_S
    player.report(1, 480, now=14.0)
    assert player.playback.stalled_at(0.0) == 14.0 + STALL_S


def test_a_report_without_progress_does_not_reset_the_stall_deadline() -> None:
    player = Player()
    player.audio("a", 2400)
    player.report(0, 480, now=2.0)
    player.report(0, 480, now=4.0)
    assert player.playback.stalled_at(0.0) == 2.0 + STALL_S


def test_each_flush_starts_another_epoch_even_if_nothing_plays() -> None:
    player = Player()
    assert player.flush() == (Cut((), ()), [FlushPlayback(1)])
    assert player.flush() == (Cut((), ()), [FlushPlayback(2)])
    assert player.out.epoch == 2


def test_silence_starts_an_epoch_and_reports_no_interruption() -> None:
    player = Player()
    player.audio("a", 2400)
    player.playback.silence()
    assert player.out.take() == [FlushPlayback(1)]
    assert (player.out.epoch, player.playback.is_playing) == (1, False)


def test_audio_is_played_and_ended_in_its_own_epoch() -> None:
    player = Player()
    assert player.audio("a", 480) == [Play(0, "a", bytes(960))]
    player.flush()
    assert player.audio("b", 480) == [Play(1, "b", bytes(960))]
    player.playback.finish()
    assert player.out.take() == [FinishPlay(1), Emit(AudioEnd("b"))]


def test_a_fully_heard_answer_is_not_cut() -> None:
    player = Player()
    player.audio("a", 2400)
    player.report(0, 2395, drained=True)
    cut, commands = player.flush()
    assert (cut, commands) == (Cut((), ()), [FlushPlayback(1)])


def test_each_cut_item_is_truncated_at_what_was_heard() -> None:
    player = Player()
    for item_id in "abc":
        player.audio(item_id, 2400)
    player.report(0, 3600)
    cut, _ = player.flush()
    player.playback.truncate(cut)
    sent = [one.event.to_wire() for one in player.out.take() if isinstance(one, Send)]
    assert [(one["item_id"], one["content_index"], one["audio_end_ms"]) for one in sent] == [("b", 0, 50), ("c", 0, 0)]
    assert {one["type"] for one in sent} == {"conversation.item.truncate"}


@pytest.mark.parametrize("link", [LINK, LINK + 1])
def test_the_playback_remembers_the_link_of_its_audio(link: int) -> None:
    player = Player()
    player.audio("a", 2400, link=link)
    assert player.playback.link == link


def test_held_audio_counts_as_received_but_not_as_heard() -> None:
    """15 characters have passed, which releases 14400 frames; the rest of "a" and all of "b" are held."""
    player = Player(hold_audio=True, guardrail_debounce=15)
    player.playback.guards = "ada"
    player.audio("a", 24_000)
    player.audio("b", 2400)
    assert not player.playback.is_playing
    player.playback.read("a", 0, "fifteen letters", 0.0, is_final=False)
    assert player.out.take() == [CheckText(OutputCheck(1), "ada", "output", "fifteen letters")]
    player.playback.gate.passed(1)
    player.playback.release(LINK, 0.0, is_over=False)
    assert player.out.take() == [Play(0, "a", bytes(2 * 14_400))]
    player.report(0, 14_400)
    cut, commands = player.flush()
    assert cut == Cut(((Heard("a", 0, 14_400, 600, True), 1000),), ("b",))
    assert commands == [FlushPlayback(1)], "all released audio was heard, so nothing was interrupted"
