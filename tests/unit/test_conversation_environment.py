"""The conversation against a real model of the server, with everything late: what must hold whatever happens.

Free random events do not find the races that matter, for the server then never says anything that fits. Here the
environment is `brain.model`, an independent state machine that shares no code with the client. The invariants are
in `tests/support/world.py`:

* a response is begun at most once for each turn on a connection;
* no audio of another turn is played;
* no period of the microphone is sent that was not heard while listening (or in the pre-roll of a press);
* every state that is not a resting state has a deadline;
* the light is right for the state;
* the client never provokes an error of the server but the two benign ones;
* deliver everything and let time pass → ready.
"""

from __future__ import annotations

from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from appliance.conversation.events import AudioCaptured
from appliance.conversation.machine import Conversation
from appliance.conversation.playout import Playout
from appliance.conversation.responses import Arrival, Sequencer
from appliance.realtime import protocol as wire
from tests.support.world import World

SOME = st.integers(1, 6)


class Environment(RuleBasedStateMachine):
    """Random talk, release, barge-in, delays and losses."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @initialize(connected=st.sampled_from([True, True, True, False]))
    def begin(self, connected: bool) -> None:
        if connected:
            self.connect_whole()

    @rule()
    def press(self) -> None:
        if not self.world.is_pressed:
            self.world.press()

    @rule()
    def release(self) -> None:
        if self.world.is_pressed:
            self.world.release()

    @rule(periods=st.integers(6, 20))
    def talk(self, periods: int) -> None:
        """One whole turn is spoken; the environment may do what it likes before its answer."""
        if not self.world.is_pressed:
            self.world.press()
        self.world.hear(periods)
        self.world.release()
        self.world.hear(15)

    @rule(periods=st.integers(6, 20), generated=SOME)
    def talk_and_be_answered(self, periods: int, generated: int) -> None:
        """A turn reaches the server, which begins to speak; the client knows nothing of it yet."""
        self.talk(periods)
        self.world.deliver_up(10_000)
        self.world.generate(generated)

    @rule(periods=st.sampled_from([10, 50]))
    def answer(self, periods: int) -> None:
        """The server says more, and all of it arrives; how much was heard is up to time."""
        self.world.deliver_up(10_000)
        self.world.generate(periods)
        self.world.deliver_down(10_000)

    @rule(periods=SOME)
    def hear(self, periods: int) -> None:
        self.world.hear(periods)

    @rule(seconds=st.sampled_from([0.02, 0.5, 4.0]))
    def wait(self, seconds: float) -> None:
        self.world.advance(seconds)

    @rule()
    def accept(self) -> None:
        self.world.accept()

    @rule()
    def connect_whole(self) -> None:
        self.world.accept()
        self.world.deliver_down(5)

    @rule()
    def refuse(self) -> None:
        self.world.refuse()

    @rule()
    def lose(self) -> None:
        self.world.lose()

    @rule(count=st.sampled_from([1, 3, 50, 1000]))
    def deliver_up(self, count: int) -> None:
        self.world.deliver_up(count)

    @rule(count=st.sampled_from([1, 3, 50]))
    def deliver_down(self, count: int) -> None:
        self.world.deliver_down(count)

    @rule(periods=SOME)
    def generate(self, periods: int) -> None:
        self.world.generate(periods)

    @rule()
    def finish_generation(self) -> None:
        self.world.finish_generation()

    @rule()
    def transcribe(self) -> None:
        self.world.transcribe()

    def teardown(self) -> None:
        self.world.quiesce()


THOROUGH = settings(
    max_examples=300, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
HUNT = settings(THOROUGH, max_examples=300, report_multiple_bugs=False, database=None, phases=[Phase.generate])


def test_whatever_happens_the_conversation_keeps_its_promises() -> None:
    run_state_machine_as_test(Environment, settings=THOROUGH)


def _accept_any_response(self: Sequencer, response_id: str) -> bool:
    return self.request is not None


def _accept_any_created(self: Sequencer, response: wire.Response) -> Arrival:
    if self.request is not None:
        self.request.response_id = response.id
    return Arrival.ACCEPT


def test_the_environment_catches_a_client_that_accepts_any_response() -> None:
    """The naive client: whatever audio comes is played. Turn 1's answer then sounds in turn 2."""
    with (
        patch.object(Sequencer, "is_current", _accept_any_response),
        patch.object(Sequencer, "created", _accept_any_created),
        pytest.raises(AssertionError, match="is played in"),
    ):
        run_state_machine_as_test(Environment, settings=HUNT)


def test_the_environment_catches_a_client_that_asks_twice() -> None:
    """A client that wishes again at every ``committed`` gets two answers to one turn."""
    real = Conversation._on_committed

    def wish_again(self: Conversation, event: wire.InputAudioBufferCommitted, now: float) -> None:
        real(self, event, now)
        if self._turn is not None:
            self._sequencer.want(self._turn.id)

    with patch.object(Conversation, "_on_committed", wish_again), pytest.raises(AssertionError):
        run_state_machine_as_test(Environment, settings=HUNT)


def test_the_environment_catches_a_client_that_sends_while_nobody_talks() -> None:
    real = Conversation._on_audio

    def keep_nothing_back(self: Conversation, event: AudioCaptured, now: float) -> None:
        real(self, event, now)
        if self._turn is None:
            self._outbox.send(wire.InputAudioBufferAppend(audio=event.pcm))

    with (
        patch.object(Conversation, "_on_audio", keep_nothing_back),
        pytest.raises(AssertionError, match="nobody was talking"),
    ):
        run_state_machine_as_test(Environment, settings=HUNT)


def test_the_environment_catches_a_truncation_beyond_what_was_received() -> None:
    real = Playout.flush

    def exaggerate(self: Playout) -> list[object]:
        from dataclasses import replace

        return [replace(one, heard_frames=one.received_frames + 24_000) for one in real(self)]

    with patch.object(Playout, "flush", exaggerate), pytest.raises(AssertionError, match="broke the protocol"):
        run_state_machine_as_test(Environment, settings=HUNT)
