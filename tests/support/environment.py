"""Random talk, delays, losses and answers around a `World`, as rules of Hypothesis; `run` checks them.

Each rule is one step of the user, of the network, of the server or of a function of the user. `Environment` has all of
them; a subclass may hide some and fix the server's dialect.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, ClassVar
from unittest.mock import patch

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.support.dialect import STRAYS, Dialect
from tests.support.world import World

__all__ = ["ALL", "Environment", "run"]

SOME = st.integers(1, 6)
ORDERS = st.sampled_from(["both", "both", "text", "audio"])
WISHES = st.sampled_from(["note", "unlock", "pay", "search", "handoff"])
ALL = 10_000
SPOKEN = st.builds(Dialect, cuts_samples=st.booleans(), audio_is_late=st.sampled_from([False, False, True]))
DIALECTS = st.one_of(
    SPOKEN,
    SPOKEN,
    st.just(Dialect(echoes_metadata=False)),
    st.just(Dialect(echoes_metadata=False, announces=False, cuts_samples=True)),
)


def when(holds: Callable[[World], object]) -> Callable[[Any], Any]:
    """Enable a rule only in worlds where it has an effect; a step without effect finds nothing."""
    return precondition(lambda self: bool(holds(self.world)))


class Environment(RuleBasedStateMachine):
    """Random talk, release, barge-in, calls, approvals, handoffs, guardrails, delays and losses."""

    only: ClassVar[Dialect | None] = None
    """The dialect of every run; None for any."""

    world: World
    is_closed: bool
    """The session is closed at the end, in the middle of everything."""

    @initialize(
        is_connected=st.sampled_from([True, True, True, False]),
        hold_audio=st.booleans(),
        debounce=st.sampled_from([-1, 5, 20]),
        rotate_after_s=st.sampled_from([3300.0, 3.0]),
        dialect=DIALECTS,
        is_closed=st.sampled_from([False, False, False, True]),
    )
    def begin(
        self,
        is_connected: bool,
        hold_audio: bool,
        debounce: int,
        rotate_after_s: float,
        dialect: Dialect,
        is_closed: bool,
    ) -> None:
        dialect = self.only or dialect
        self.world = World(dialect, hold_audio=hold_audio, guardrail_debounce=debounce, rotate_after_s=rotate_after_s)
        self.is_closed = is_closed
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

    @rule(
        periods=st.integers(6, 20), characters=st.sampled_from([5, 25]), is_bad=st.booleans(), is_checked=st.booleans()
    )
    def converse(self, periods: int, characters: int, is_bad: bool, is_checked: bool) -> None:
        """Speak a turn and deliver the start of its answer; the guardrail may check it at once."""
        self.talk(periods)
        self.answer(2, False)
        self.answer(characters, is_bad)
        if is_checked:
            self.world.answer_all_checks()

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

    @rule(is_done=st.booleans(), is_held=st.booleans())
    def be_handed_over_unchecked(self, is_done: bool, is_held: bool) -> None:
        """Speak a turn answered by a sentence and a handoff, while the guardrail still checks the sentence."""
        self.talk(8)
        self.answer(25, False)
        self.answer_with_calls(["handoff"], is_done)
        self.world.prepare()
        if not is_held:
            self.exchange()

    @when(lambda world: world.servers)
    @rule(
        seconds=st.sampled_from([0.1, 4.0, 21.0]),
        is_said=st.booleans(),
        then=st.sampled_from(["", "create", "create", "refuse"]),
    )
    def barge_in_before_created(self, seconds: float, is_said: bool, then: str) -> None:
        """Speak a turn and another before the first response is created, or stop the first; time passes between."""
        self.world.slow_down()
        self.talk(8)
        self.world.deliver_up(ALL)
        self.world.interrupt()
        self.world.wait(seconds)
        if is_said:
            self.talk(8)
            self.world.deliver_up(ALL)
        if then == "refuse":
            self.world.refuse_response()
        if then:
            self.world.create()
            self.answer(5, False)

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

    @when(lambda world: world.servers)
    @rule(wish=st.sampled_from(["note", "search"]), is_done=st.booleans())
    def lose_while_a_tool_runs(self, wish: str, is_done: bool) -> None:
        """Speak a turn answered by speech and a call; the connection is lost before the tool ends."""
        self.talk(8)
        self.answer(5, False)
        self.answer_with_calls([wish], is_done)
        self.world.lose()

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

    @when(lambda world: any(one.is_slow for one in world.servers.values()))
    @rule()
    def create(self) -> None:
        self.world.create()

    @when(lambda world: world.dialect.tells_owner and world.main is not None)
    @rule(
        in_band=st.booleans(),
        metadata=st.sampled_from([None, {"topic": "x"}]),
        is_asked=st.booleans(),
        is_answered=st.booleans(),
    )
    def ask_as_another(self, in_band: bool, metadata: dict[str, str] | None, is_asked: bool, is_answered: bool) -> None:
        """Let somebody else request a response, possibly while our own request is on its way."""
        if is_asked:
            self.talk(8)
        self.world.ask_as_another(in_band=in_band, metadata=metadata)
        if is_answered:
            self.world.speak(5)
            self.world.call("note")
            self.world.deliver_down(ALL)

    @when(lambda world: world.may_go_astray)
    @rule(kind=st.sampled_from(STRAYS), is_asked=st.booleans())
    def go_astray(self, kind: str, is_asked: bool) -> None:
        """Receive frames of a response that does not exist, possibly while an answer is awaited."""
        if is_asked:
            self.talk(8)
        self.world.go_astray(kind)
        if is_asked:
            self.world.deliver_down(ALL)

    @when(lambda world: world.servers)
    @rule()
    def refuse_response(self) -> None:
        """Refuse a request for a response, with an error that names it."""
        if not self.world.is_asked:
            self.talk(8)
        self.world.refuse_response()

    @when(lambda world: world.dialect.announces and world.is_generating)
    @rule()
    def object_to_response(self) -> None:
        self.world.object_to_response()

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
        self.world.answer_all_checks()

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
            if self.is_closed:
                self.world.shut_down()
            else:
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


def run(environment: type[Environment] = Environment, *, examples: int = THOROUGH.max_examples) -> None:
    # Hypothesis also draws constants of the modules that happen to be loaded: without them, every process runs the
    # same examples.
    with patch.object(providers, "_get_local_constants", Constants):
        run_state_machine_as_test(environment, settings=settings(THOROUGH, max_examples=examples))
