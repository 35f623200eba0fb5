"""Property tests of the conversation against a model of the server, with random delays, losses and dialects.

Purely random events do not find the races that matter, because the server events then never fit the conversation.
Here the environment is `brain.model`, an independent state machine that shares no code with the client. The random
steps are in `tests/support/environment.py`, the invariants in `tests/support/world.py`;
`test_environment_mutants` shows that each can fail:

* a response is started once for each turn on a link, and again only after calls or a trip in the previous one;
* no audio is played of another turn, of somebody else's response, of one that was cancelled, or of none at all;
* the samples that are played are the next of their answer, and an answered turn has played all that it received;
* each turn ends once; one that fails is announced once, with a reason that is true;
* an error about a response that has begun changes nothing, and one about a response that has not ends its turn;
* the answer to the running turn is cancelled only after a guardrail has tripped;
* a running tool is not cancelled with its connection;
* after the end, every connection is closed, and no event has an effect;
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

from typing import Any

from tests.support.environment import ALL, run
from tests.support.world import World


def test_the_conversation_keeps_its_invariants_in_any_environment() -> None:
    run(examples=300)


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
