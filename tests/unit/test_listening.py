"""When the conversation listens, and what it does with the sound that a microphone posts at the press."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest

from appliance.agents.spec import AgentSpec
from appliance.conversation.commands import Send
from appliance.conversation.events import AudioCaptured, BeginAsked, ButtonEdge, CardLost, MuteSwitched
from appliance.realtime import protocol as wire
from tests.support.hand_card import PERIOD, Hand
from tests.support.stage import Stage, period

EAR = {"type": "realtime", "audio": {"input": {"turn_detection": {"type": "server_vad"}}}}


def posted_at_the_press(stage: Stage, *, before_ms: int = 300, after_ms: int = 0, sample: int = 700) -> None:
    """Post what a microphone heard before and since the press."""
    pcm = period(sample, 24 * (before_ms + after_ms))
    stage.do(AudioCaptured(pcm, sample, -33.0, 24 * before_ms))


def test_it_listens_from_the_edge_of_a_press_to_the_end_of_its_post_roll_and_not_at_rest() -> None:
    """Catches sound that is posted at rest, during the answer, or no longer during the post-roll."""
    stage = Stage(min_press_ms=15, post_roll_ms=100).ready()
    assert stage.conversation.listens_since is None
    edge = stage.now
    stage.press()
    assert stage.conversation.listens_since is None, "a pulse that may be withdrawn"
    stage.advance(0.015)
    assert stage.conversation.listens_since == edge
    stage.hear(400)
    stage.release()
    assert stage.conversation.listens_since is not None, "the post-roll"
    stage.hear(100)
    assert stage.conversation.listens_since is None
    stage.committed()
    stage.created()
    stage.audio()
    assert stage.conversation.listens_since is None


def test_pulse_that_is_no_press_takes_no_sound() -> None:
    """Catches a pre-roll that is read for a spike on the line."""
    stage = Stage(min_press_ms=15).ready()
    for _ in range(20):
        stage.press()
        stage.advance(0.005)
        assert stage.conversation.listens_since is None
        stage.release()
        assert stage.conversation.listens_since is None


@pytest.mark.parametrize("event", [MuteSwitched(True), CardLost("capture", "gone")])
def test_it_listens_no_longer_when_the_microphone_is_gone(event: MuteSwitched | CardLost) -> None:
    """Catches a listener that is left when the speech ends by itself."""
    stage = Stage().ready()
    stage.press()
    stage.hear(400)
    stage.do(event)
    assert stage.conversation.listens_since is None


def test_full_turn_takes_no_more_sound_although_the_button_is_held() -> None:
    """Catches a minute of silence that is resampled for nothing."""
    stage = Stage(max_turn_s=1.0).ready()
    stage.press()
    stage.hear(1100)
    assert stage.conversation.listens_since is None


def test_press_that_resumes_speech_listens_from_that_press() -> None:
    """Catches a pre-roll that goes back to the first press."""
    stage = Stage(min_press_ms=0).start()
    stage.say()
    assert stage.conversation.listens_since is None
    stage.advance(1.0)
    stage.press()
    assert stage.conversation.listens_since == stage.now


def test_it_always_listens_while_the_server_detects_the_turns() -> None:
    """Catches a server that detects turns and hears nothing."""
    assert Stage(specs=[AgentSpec(agent="assistant", session=EAR)]).ready().conversation.listens_since == inf


def test_turn_of_a_program_listens_too() -> None:
    """Catches a listener that only the button starts."""
    stage = Stage().ready()
    stage.do(BeginAsked())
    assert stage.conversation.listens_since == inf


def test_sound_of_the_press_is_sent_at_once_and_does_not_count_as_the_speech_s_own() -> None:
    """Catches a pre-roll that waits, that counts for the longest turn, or that ends a latched turn by its silence."""
    stage = Stage(button_mode="tap", max_turn_s=1.0, silence_ms=200, no_speech_s=0.3, min_press_ms=0).ready()
    stage.press()
    posted_at_the_press(stage, before_ms=600, sample=20)
    assert len(stage.sent_audio()) == 2 * 24 * 600
    stage.release()
    stage.hear(200, 20, -70.0)
    assert stage.conversation.listens_since is not None
    stage.hear(960 - 200)
    assert stage.conversation.listens_since is not None, "half a second of the pre-roll does not count"
    stage.hear(40)
    assert stage.conversation.listens_since is None


def test_release_that_is_handled_before_the_sound_of_its_press_still_gets_its_whole_post_roll_and_no_more() -> None:
    """Catches a post-roll that the pre-roll uses up, and one that starts after the sound that came late."""
    stage = Stage(min_press_ms=0, post_roll_ms=100, release_debounce_ms=0).ready()
    edge = stage.now
    stage.now += 0.4  # the loop stood still
    stage.do(ButtonEdge(True, at=edge))
    stage.do(ButtonEdge(False, at=edge + 0.3))
    stage.advance(0.0)
    posted_at_the_press(stage, before_ms=300, after_ms=380)
    assert stage.state == "listening", "20 ms of the post-roll are missing"
    stage.hear(20)
    assert stage.state == "committing"
    assert len(stage.sent_audio()) == 2 * 24 * (300 + 400)


def test_sound_left_of_an_earlier_turn_is_not_sent_with_the_next() -> None:
    """Catches periods that were posted as the turn ended, and were kept as the pre-roll of a press much later."""
    stage = Stage(min_press_ms=0).ready()
    stage.say()
    stage.do(AudioCaptured(period(555), 555, -30.0))
    stage.advance(5.0)
    stage.commands.clear()
    stage.press()
    posted_at_the_press(stage)
    assert period(555)[:2] not in stage.sent_audio()
    assert len(stage.sent_audio()) == 2 * 24 * 300


def test_press_sends_its_pre_roll_without_waiting_for_a_period_of_the_card() -> None:
    """Catches a press whose first append comes later than one period, over the real pump."""
    hand = Hand()
    hand.audio.listen(None)
    pump = hand.audio._capture
    pump.open(hand.card)
    assert hand.card.capture is not None
    stage = Stage(min_press_ms=15).ready()
    for _ in range(50):
        hand.card.now += 0.02
        hand.card.capture.turn(np.full(PERIOD, 9, np.int16))
        pump.pump()
    stage.now = hand.card.now
    stage.press()
    commands = stage.advance(0.015)
    assert not stage.sent_audio(commands)
    hand.audio.listen(stage.conversation.listens_since)
    (event,) = hand.posted(AudioCaptured)
    appends = [one.event for one in stage.do(event) if isinstance(one, Send)]
    assert {type(one) for one in appends} == {wire.InputAudioBufferAppend}
    assert stage.sent_audio() == np.full(15 * PERIOD, 9, "<i2").tobytes()
