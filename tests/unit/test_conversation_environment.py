"""Property tests of the conversation against a model of the server, with random delays and losses.

Purely random events do not find the races that matter, because the server events then never fit the conversation.
Here the environment is `brain.model`, an independent state machine that shares no code with the client. The invariants
are in `tests/support/world.py`:

* a response is started once for each turn on a link, and again only after calls or a trip in the previous one;
* no audio of another turn is played;
* only periods captured while listening (or in the pre-roll of a press) are sent;
* every state except resting ones has a deadline;
* the light matches the state;
* the client provokes no server errors except benign ones;
* no call is run or answered twice, nor for an agent other than its caller;
* no tool that needs approval is run before that call is approved;
* no audio of a response is played after a guardrail trips, and with held audio none from the tripping word on;
* the agent of the conversation is the one the server accepted last;
* once everything is delivered and time has passed, the state is ready, each call of a completed response has its
  output, and the history equals the server's, in its order.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from appliance.conversation import agent_events, server_events, user_events
from appliance.conversation.events import AudioCaptured
from appliance.conversation.procedures import Procedures, RunningTurn
from appliance.conversation.regions.calls import Calls
from appliance.conversation.regions.history import History
from appliance.conversation.support.call import Call, Closed
from appliance.conversation.support.playback import Heard
from appliance.conversation.support.response_slot import Arrival, ResponseSlot
from appliance.conversation.support.text_gate import Check
from appliance.realtime import protocol as wire
from tests.support.world import World

SOME = st.integers(1, 6)
ORDERS = st.sampled_from(["both", "both", "text", "audio"])
WISHES = st.sampled_from(["note", "unlock", "pay", "search", "handoff"])
ALL = 10_000


def when(holds: Callable[[World], object]) -> Callable[[Any], Any]:
    """Enable a rule only in worlds where it has an effect; a step without effect finds nothing."""
    return precondition(lambda self: bool(holds(self.world)))


class Environment(RuleBasedStateMachine):
    """Random talk, release, barge-in, calls, approvals, handoffs, guardrails, delays and losses."""

    world: World

    @initialize(
        is_connected=st.sampled_from([True, True, True, False]),
        hold_audio=st.booleans(),
        debounce=st.sampled_from([-1, 5, 20]),
        rotate_after_s=st.sampled_from([3300.0, 3.0]),
    )
    def begin(self, is_connected: bool, hold_audio: bool, debounce: int, rotate_after_s: float) -> None:
        self.world = World(hold_audio=hold_audio, guardrail_debounce=debounce, rotate_after_s=rotate_after_s)
        if is_connected:
            self.connect_whole()

    # --- the user ------------------------------------------------------------------------------------------------

    @when(lambda world: not world.is_pressed)
    @rule()
    def press(self) -> None:
        self.world.press()

    @when(lambda world: world.is_pressed)
    @rule()
    def release(self) -> None:
        self.world.release()

    @rule(seconds=st.sampled_from([0.1, 0.2, 1.1]))
    def tap_or_hold(self, seconds: float) -> None:
        self.world.press_for(seconds)

    @rule(periods=st.integers(6, 20))
    def talk(self, periods: int) -> None:
        """Speak one whole turn; the environment may do anything before its answer."""
        if not self.world.is_pressed:
            self.world.press()
        self.world.hear(periods)
        self.world.release()
        self.world.hear(15)

    @rule(periods=st.integers(6, 20), generated=SOME)
    def talk_and_be_answered(self, periods: int, generated: int) -> None:
        """Speak a turn and let the server start to answer, without delivering the answer to the client."""
        self.talk(periods)
        self.world.deliver_up(ALL)
        self.world.speak(generated)

    @rule(periods=st.integers(6, 20), characters=st.sampled_from([5, 25]), is_bad=st.booleans())
    def converse(self, periods: int, characters: int, is_bad: bool) -> None:
        """Speak a turn and deliver the start of its answer."""
        self.talk(periods)
        self.answer(2, False)
        self.answer(characters, is_bad)

    @rule(wishes=st.lists(WISHES, min_size=1, max_size=3), is_done=st.booleans())
    def ask_for_something(self, wishes: list[str], is_done: bool) -> None:
        """Speak a turn that is answered by calls."""
        self.talk(8)
        self.exchange()
        self.answer_with_calls(wishes, is_done)

    @rule(is_done=st.booleans())
    def be_handed_over(self, is_done: bool) -> None:
        """Speak a turn answered by a handoff; the server accepts it, possibly while still speaking."""
        self.ask_for_something(["handoff"], is_done)
        self.world.prepare()
        self.exchange()

    @when(lambda world: world.conversation.state == "awaiting_approval")
    @rule(seconds=st.sampled_from([0.1, 0.2, 1.1]))
    def decide_by_the_button(self, seconds: float) -> None:
        self.world.press_for(seconds)

    @rule(periods=SOME)
    def hear(self, periods: int) -> None:
        self.world.hear(periods)

    @rule(seconds=st.sampled_from([0.02, 0.5, 4.0, 21.0]))
    def wait(self, seconds: float) -> None:
        self.world.wait(seconds)

    # --- the wire ------------------------------------------------------------------------------------------------

    @when(lambda world: world.asked_links)
    @rule()
    def accept(self) -> None:
        self.world.accept()

    @when(lambda world: world.asked_links)
    @rule()
    def connect_whole(self) -> None:
        self.world.accept()
        self.world.deliver_down(5)

    @when(lambda world: world.asked_links)
    @rule()
    def refuse(self) -> None:
        self.world.refuse()

    @when(lambda world: world.servers)
    @rule(newest=st.booleans())
    def lose(self, newest: bool) -> None:
        self.world.lose(newest)

    @when(lambda world: world.leaving)
    @rule()
    def leave(self) -> None:
        self.world.leave()

    @when(lambda world: any(one.up for one in world.servers.values()))
    @rule(count=st.sampled_from([1, 3, 50, 1000]))
    def deliver_up(self, count: int) -> None:
        self.world.deliver_up(count)

    @when(lambda world: any(one.down for one in world.servers.values()))
    @rule(count=st.sampled_from([1, 3, 50]))
    def deliver_down(self, count: int) -> None:
        self.world.deliver_down(count)

    @rule()
    def exchange(self) -> None:
        self.world.deliver_up(ALL)
        self.world.deliver_down(ALL)

    # --- the model -----------------------------------------------------------------------------------------------

    @rule(characters=st.sampled_from([5, 25]), is_bad=st.sampled_from([False, False, True]))
    def answer(self, characters: int, is_bad: bool) -> None:
        """Let the server say more and deliver all of it; time decides how much is heard."""
        self.world.deliver_up(ALL)
        self.world.speak(characters, is_bad=is_bad)
        self.world.deliver_down(ALL)

    @when(lambda world: world.is_generating)
    @rule(characters=SOME, order=ORDERS, is_bad=st.sampled_from([False, False, True]))
    def speak(self, characters: int, order: str, is_bad: bool) -> None:
        self.world.speak(characters, order=order, is_bad=is_bad)

    @when(lambda world: world.is_generating)
    @rule(wish=WISHES)
    def call(self, wish: str) -> None:
        self.world.call(wish)

    @rule(wishes=st.lists(WISHES, min_size=1, max_size=3), is_done=st.booleans())
    def answer_with_calls(self, wishes: list[str], is_done: bool) -> None:
        self.world.deliver_up(ALL)
        for wish in wishes:
            self.world.call(wish)
        if is_done:
            self.world.finish_generation()
        self.world.deliver_down(ALL)

    @when(lambda world: world.is_generating)
    @rule()
    def finish_generation(self) -> None:
        self.world.finish_generation()

    @when(lambda world: any(one.unheard for one in world.servers.values()))
    @rule()
    def transcribe(self) -> None:
        self.world.transcribe()

    # --- the program ---------------------------------------------------------------------------------------------

    @when(lambda world: world.running_tools)
    @rule(which=SOME)
    def finish_tool(self, which: int) -> None:
        self.world.finish_tool(which)

    @when(lambda world: world.approval_checks)
    @rule(verdict=st.sampled_from(["needed", "free", "problem"]), which=SOME)
    def answer_predicate(self, verdict: str, which: int) -> None:
        self.world.answer_predicate(verdict, which)

    @when(lambda world: world.requested)
    @rule(approved=st.booleans(), always=st.sampled_from([False, False, True]), which=st.integers(0, 2))
    def answer_approval(self, approved: bool, always: bool, which: int) -> None:
        self.world.answer_approval(approved=approved, always=always, which=which)

    @when(lambda world: world.text_checks)
    @rule()
    def answer_all_checks(self) -> None:
        while self.world.text_checks:
            self.world.answer_check()

    @when(lambda world: world.text_checks)
    @rule(which=SOME)
    def answer_check(self, which: int) -> None:
        self.world.answer_check(which)

    @when(lambda world: world.preparations)
    @rule(fails=st.sampled_from([False, False, False, True]))
    def prepare(self, fails: bool) -> None:
        self.world.prepare(fails=fails)

    @rule()
    def interrupt(self) -> None:
        self.world.interrupt()

    @rule(wants_answer=st.booleans())
    def give_message(self, wants_answer: bool) -> None:
        self.world.give_message(wants_answer=wants_answer)

    def teardown(self) -> None:
        if hasattr(self, "world") and sys.exc_info()[0] is None:  # otherwise a failure is already being reported
            self.world.quiesce()


THOROUGH = settings(
    max_examples=600,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    report_multiple_bugs=False,
    database=None,
    phases=[Phase.generate],  # no shrinking: it takes five minutes, a replay is instant
)
HUNT = THOROUGH


def test_the_conversation_keeps_its_invariants_in_any_environment() -> None:
    run_state_machine_as_test(Environment, settings=THOROUGH)


def _accept_any_response(self: ResponseSlot, response_id: str) -> bool:
    return self.request is not None


def _accept_any_created(self: ResponseSlot, response: wire.Response) -> Arrival:
    if self.request is not None:
        self.request.response_id = response.id
    return Arrival.ACCEPT


def test_the_environment_catches_a_client_that_accepts_any_response() -> None:
    """A naive client plays any audio it receives, so turn 1's answer plays in turn 2."""
    with (
        patch.object(ResponseSlot, "is_current", _accept_any_response),
        patch.object(ResponseSlot, "created", _accept_any_created),
        pytest.raises(AssertionError, match=r"is played in|one response too many"),
    ):
        run_state_machine_as_test(Environment, settings=HUNT)


def test_the_environment_catches_a_client_that_requests_two_responses() -> None:
    """A client that requests a response at every ``committed`` gets two answers to one turn."""
    real = server_events._committed

    def wish_again(do: Procedures, item_id: str, now: float) -> None:
        real(do, item_id, now)
        if do.turn is not None:
            do.answer.slot.want(do.turn.id)

    with (
        patch.object(server_events, "_committed", wish_again),
        pytest.raises(AssertionError, match="too many responses are created"),
    ):
        run_state_machine_as_test(Environment, settings=HUNT)


def test_the_environment_catches_a_client_that_sends_audio_outside_turns() -> None:
    real = user_events.audio

    def keep_nothing_back(do: Procedures, event: AudioCaptured, now: float) -> None:
        real(do, event, now)
        if do.turn is None:
            do.out.send(wire.InputAudioBufferAppend(audio=event.pcm))

    with (
        patch.object(user_events, "audio", keep_nothing_back),
        pytest.raises(AssertionError, match="not captured in a turn"),
    ):
        run_state_machine_as_test(Environment, settings=HUNT)


def test_the_environment_catches_a_truncation_beyond_the_received_audio() -> None:
    def exaggerate(self: Heard) -> int:
        return (self.received_frames + 24_000) * 1000 // wire.SAMPLE_RATE

    with (
        patch.object(Heard, "heard_ms", property(exaggerate)),
        pytest.raises(AssertionError, match="broke the protocol"),
    ):
        run_state_machine_as_test(Environment, settings=HUNT)


def test_the_environment_catches_a_client_that_runs_a_tool_without_approval() -> None:
    def run_at_once(self: Calls, call: Call, now: float) -> Closed | None:
        return self._run(call, now)

    with (
        patch.object(Calls, "_request_approval", run_at_once),
        pytest.raises(AssertionError, match="run without approval"),
    ):
        run_state_machine_as_test(Environment, settings=HUNT)


def test_the_environment_catches_a_client_that_answers_a_call_twice() -> None:
    real = Procedures.reply

    def answer_twice(self: Procedures, closed: Closed | None) -> None:
        real(self, closed)
        real(self, closed)

    with (
        patch.object(Procedures, "reply", answer_twice),
        pytest.raises(AssertionError, match="has two outputs"),
    ):
        run_state_machine_as_test(Environment, settings=HUNT)


def test_the_environment_catches_a_client_that_keeps_playing_after_a_trip() -> None:
    def play_on(do: Procedures, turn: RunningTurn, check: Check, name: str, reason: str, now: float) -> None:
        do.answer.playback.gate.passed(check.number)
        do.answer.release(do.link.main_id or 0, now)

    with (
        patch.object(agent_events, "trip", play_on),
        pytest.raises(AssertionError, match=r"still played after a guardrail|must be held back"),
    ):
        run_state_machine_as_test(Environment, settings=HUNT)


def test_the_environment_catches_a_client_that_does_not_replay_the_history() -> None:
    def tell_nothing(self: History) -> None:
        pass

    with (
        patch.object(History, "replay", tell_nothing),
        pytest.raises(AssertionError, match="the history is"),
    ):
        run_state_machine_as_test(Environment, settings=HUNT)


# --- failures it has found, as hand-written tests ------------------------------------------------------------------


def _connected(**policy: Any) -> World:
    world = World(**policy)
    world.accept()
    world.deliver_down(ALL)
    _exchange(world)
    return world


def _exchange(world: World) -> None:
    world.deliver_up(ALL)
    world.deliver_down(ALL)


def _ask(world: World) -> None:
    """Speak one turn and let the server start to generate."""
    world.press()
    world.hear(10)
    world.release()
    world.hear(15)
    _exchange(world)


def _hand_over(world: World) -> None:
    world.call("handoff")
    world.deliver_down(ALL)
    world.prepare()
    _exchange(world)


def test_a_call_after_a_handoff_in_the_same_response_runs_for_the_agent_that_made_it() -> None:
    world = _connected()
    _ask(world)
    _hand_over(world)
    assert world.conversation.agent == "bob"

    world.call("search")
    world.deliver_down(ALL)

    assert len(world.running_tools) == 1


def test_a_trip_after_a_lost_link_stops_the_playback() -> None:
    world = _connected(guardrail_debounce=5)
    _ask(world)
    world.speak(25, is_bad=True)
    world.deliver_down(ALL)
    world.lose()

    world.answer_check()

    assert not world.queue


def test_a_message_whose_answer_was_cut_by_a_lost_link_is_replayed_once() -> None:
    world = _connected()
    world.give_message(wants_answer=True)
    _exchange(world)
    world.speak(25)
    world.deliver_down(ALL)
    world.lose()

    world.give_message(wants_answer=True)

    world.quiesce()


def test_a_due_rotation_waits_for_the_instructions_of_the_link_without_spinning() -> None:
    world = _connected(rotate_after_s=3.0)
    _ask(world)
    _hand_over(world)
    world.quiesce()
    world.lose()
    world.wait(1.0)
    world.accept()
    world.deliver_down(ALL)

    world.advance(4.0)

    assert world.preparations


def test_an_item_the_server_placed_first_is_first_in_the_history() -> None:
    world = _connected()
    world.press()
    world.hear(10)
    world.release()
    world.hear(15)

    world.give_message(wants_answer=False)

    world.quiesce()


def test_an_item_after_one_being_deleted_is_placed_as_on_the_server() -> None:
    world = _connected()
    world.press()
    world.hear(10)
    world.release()
    world.hear(15)
    world.deliver_up(ALL)
    world.speak(5)
    world.finish_generation()
    world.interrupt()

    world.give_message(wants_answer=False)
    world.deliver_down(ALL)  # the answer arrives too late to be heard, so it is deleted

    world.quiesce()
