"""The sound of the answers in epochs: what a flush cuts off, and that what is late of an older epoch means nothing."""

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
    """A playback and its outbox; the link is there."""

    def __init__(self, **policy: Any) -> None:
        self.out = Outbox()
        self.out.link = LINK
        self.playback = Playback(Policy(**({"playout_stall_s": STALL_S} | policy)), self.out)

    def audio(self, item_id: str, frames: int, now: float = 0.0, link: int = LINK) -> list[Command]:
        """The server sends audio of an item."""
        event = wire.OutputAudioDelta(
            event_id="e", response_id="r", item_id=item_id, output_index=0, content_index=0, delta=bytes(2 * frames)
        )
        self.playback.feed(event, link, now)
        return self.out.take()

    def report(self, epoch: int, frames: int, *, drained: bool = False, now: float = 0.0) -> None:
        self.playback.progress(PlayoutProgress(epoch, frames, drained), now)

    def flush(self) -> tuple[Cut, list[Command]]:
        cut = self.playback.flush()
        return cut, self.out.take()

    def heard_ms(self) -> list[tuple[str, int]]:
        return [(one.item_id, one.heard_ms) for one in self.playback.heard()]


def test_a_flush_names_only_what_was_not_heard_whole_and_begins_an_epoch() -> None:
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


def test_a_report_of_an_older_epoch_means_nothing() -> None:
    player = Player()
    player.audio("a", 2400)
    player.flush()
    player.audio("b", 2400)
    player.report(0, 9999, drained=True)
    assert player.heard_ms() == [("b", 0)]
    assert player.playback.is_playing
    player.report(1, 1200)
    assert player.heard_ms() == [("b", 50)]


def test_a_report_of_an_epoch_that_has_not_begun_means_nothing() -> None:
    player = Player()
    player.audio("a", 2400)
    player.report(1, 2400, drained=True)
    assert player.heard_ms() == [("a", 0)]


def test_a_report_of_an_older_epoch_is_no_sign_that_the_playback_goes_on() -> None:
    player = Player()
    player.audio("a", 2400)
    player.flush()
    player.audio("b", 2400, now=10.0)
    player.report(0, 2400, now=14.0)
    assert player.playback.stalled_at(0.0) == 10.0 + STALL_S
    player.report(1, 480, now=14.0)
    assert player.playback.stalled_at(0.0) == 14.0 + STALL_S


def test_a_report_that_nothing_more_was_heard_is_no_sign_either() -> None:
    player = Player()
    player.audio("a", 2400)
    player.report(0, 480, now=2.0)
    player.report(0, 480, now=4.0)
    assert player.playback.stalled_at(0.0) == 2.0 + STALL_S


def test_each_flush_begins_another_epoch_also_where_nothing_plays() -> None:
    player = Player()
    assert player.flush() == (Cut((), ()), [FlushPlayback(1)])
    assert player.flush() == (Cut((), ()), [FlushPlayback(2)])
    assert player.out.epoch == 2


def test_silence_begins_an_epoch_and_tells_of_no_interruption() -> None:
    player = Player()
    player.audio("a", 2400)
    player.playback.silence()
    assert player.out.take() == [FlushPlayback(1)]
    assert (player.out.epoch, player.playback.is_playing) == (1, False)


def test_audio_is_played_and_ended_in_the_epoch_in_which_it_came() -> None:
    player = Player()
    assert player.audio("a", 480) == [Play(0, "a", bytes(960))]
    player.flush()
    assert player.audio("b", 480) == [Play(1, "b", bytes(960))]
    player.playback.finish()
    assert player.out.take() == [FinishPlay(1), Emit(AudioEnd("b"))]


def test_an_answer_that_was_heard_whole_is_not_cut() -> None:
    player = Player()
    player.audio("a", 2400)
    player.report(0, 2395, drained=True)
    cut, commands = player.flush()
    assert (cut, commands) == (Cut((), ()), [FlushPlayback(1)])


def test_each_item_that_was_cut_is_truncated_to_what_was_heard_of_it() -> None:
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
def test_the_audio_is_of_the_connection_that_it_came_from(link: int) -> None:
    player = Player()
    player.audio("a", 2400, link=link)
    assert player.playback.link == link


def test_audio_that_is_held_back_counts_as_received_and_not_as_heard() -> None:
    """15 characters have passed, which is 14400 frames for sure; the rest of "a" and all of "b" is held."""
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
    assert commands == [FlushPlayback(1)], "all that was released was heard: nothing was interrupted"
