"""The property tests of the conversation can fail: each test breaks one rule and expects an invariant to notice.

The number of examples is that of `test_environment`. Some mutants meet one dialect of the server and some
rules only, because only there their rule matters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest

from appliance.conversation import agent_events, lost_links, server_events, user_events
from appliance.conversation.commands import Sentence, Stop
from appliance.conversation.events import AudioCaptured
from appliance.conversation.machine import Conversation
from appliance.conversation.notices import TurnEnd
from appliance.conversation.procedures import Procedures, RunningTurn
from appliance.conversation.regions.answer import Answer
from appliance.conversation.regions.calls import Calls
from appliance.conversation.regions.history import History
from appliance.conversation.support.call import Call, Closed
from appliance.conversation.support.outbox import Outbox
from appliance.conversation.support.playback import Heard
from appliance.conversation.support.response_slot import Arrival, Request, ResponseSlot
from appliance.conversation.support.text_gate import Check
from appliance.realtime import protocol as wire
from tests.support.dialect import Dialect
from tests.support.environment import Environment, run

TALK = ("converse", "talk", "hear", "wait", "exchange")
LATE = ("barge_in_before_created", "answer", "exchange", "wait")


def run_with(*rules: str, dialect: Dialect) -> None:
    """Run the environment with some of its rules and one dialect of the server.

    A mutant is then caught early whatever Hypothesis draws, which depends on the modules that are loaded.
    """
    hidden = {
        name: _plain(member)
        for name, member in vars(Environment).items()
        if callable(member) and name not in (*rules, "begin", "teardown") and not name.startswith("_")
    }
    run(type("Narrow", (Environment,), {"only": dialect, **hidden}))


def _plain(member: Callable[..., None]) -> Callable[..., None]:
    """Return a method that is no rule, so that only other rules call it."""
    return lambda self, *args, **kwargs: member(self, *args, **kwargs)


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
        pytest.raises(AssertionError, match=r"is played|is run|is cancelled|broke the protocol|for want|never became"),
    ):
        run()


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
        run()


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
        run()


def test_the_environment_catches_a_truncation_beyond_the_received_audio() -> None:
    def exaggerate(self: Heard) -> int:
        return (self.received_frames + 24_000) * 1000 // wire.SAMPLE_RATE

    with (
        patch.object(Heard, "heard_ms", property(exaggerate)),
        pytest.raises(AssertionError, match="broke the protocol"),
    ):
        run()


def test_the_environment_catches_a_client_that_runs_a_tool_without_approval() -> None:
    def run_at_once(self: Calls, call: Call, now: float) -> Closed | None:
        return self._run(call, now)

    with (
        patch.object(Calls, "_request_approval", run_at_once),
        pytest.raises(AssertionError, match="run without approval"),
    ):
        run()


def test_the_environment_catches_a_client_that_answers_a_call_twice() -> None:
    real = Procedures.reply

    def answer_twice(self: Procedures, closed: Closed | None) -> None:
        real(self, closed)
        real(self, closed)

    with (
        patch.object(Procedures, "reply", answer_twice),
        pytest.raises(AssertionError, match="has two outputs"),
    ):
        run()


def test_the_environment_catches_a_client_that_keeps_playing_after_a_trip() -> None:
    def play_on(do: Procedures, turn: RunningTurn, check: Check, name: str, reason: str, now: float) -> None:
        do.answer.playback.gate.passed(check.number)
        do.answer.release(do.link.main_id or 0, now)

    with (
        patch.object(agent_events, "trip", play_on),
        pytest.raises(AssertionError, match=r"still played after a guardrail|before the guardrail passed"),
    ):
        run_with(*TALK, "answer_all_checks", dialect=Dialect())


def test_the_environment_catches_a_client_that_does_not_replay_the_history() -> None:
    def tell_nothing(self: History) -> None:
        pass

    with (
        patch.object(History, "replay", tell_nothing),
        pytest.raises(AssertionError, match=r"the history is|broke the protocol"),
    ):
        run()


# --- late responses -----------------------------------------------------------------------------------------------


_advance = ResponseSlot.advance


def _forget_the_given_up(self: ResponseSlot, now: float) -> None:
    before = self.request
    _advance(self, now)
    if before is not None and self.request is None:
        self.failed(before.event_id)


def test_the_environment_catches_a_client_that_takes_a_late_response_for_the_new_answer() -> None:
    """Without metadata, the client must remember that a request it has given up is still owed a response."""
    with (
        patch.object(ResponseSlot, "advance", _forget_the_given_up),
        pytest.raises(AssertionError, match="is played in"),
    ):
        run_with(*LATE, dialect=Dialect(echoes_metadata=False))


def test_the_environment_catches_a_client_that_takes_an_unannounced_late_response_for_the_new_answer() -> None:
    with (
        patch.object(ResponseSlot, "advance", _forget_the_given_up),
        pytest.raises(AssertionError, match=r"is played in|has two outputs|to its end|no response said"),
    ):
        run_with(*LATE, dialect=Dialect(echoes_metadata=False, announces=False))


def test_the_environment_catches_a_client_that_waits_for_the_response_of_a_refused_request() -> None:
    def keep_waiting(self: ResponseSlot, event_id: str | None) -> None:
        pass

    with (
        patch.object(ResponseSlot, "failed", keep_waiting),
        pytest.raises(AssertionError, match=r"although it answers|never became ready|too many"),
    ):
        run_with(*LATE, dialect=Dialect(echoes_metadata=False))


# --- foreign and stray responses ----------------------------------------------------------------------------------


def test_the_environment_catches_a_client_that_adopts_the_response_of_somebody_else() -> None:
    def trust(self: ResponseSlot, response: wire.Response) -> bool:
        return False

    with (
        patch.object(ResponseSlot, "_is_of_another", trust),
        pytest.raises(AssertionError, match=r"somebody else|never became ready"),
    ):
        run_with(*TALK, "ask_as_another", dialect=Dialect())


def test_the_environment_catches_a_client_that_answers_the_calls_of_somebody_else() -> None:
    def trust(self: ResponseSlot, response_id: str) -> bool:
        return False

    with (
        patch.object(ResponseSlot, "is_foreign", trust),
        pytest.raises(AssertionError, match=r"broke the protocol|the history is"),
    ):
        run_with(*TALK, "ask_as_another", dialect=Dialect())


def test_the_environment_catches_a_client_that_plays_a_response_that_does_not_exist() -> None:
    def adopt(self: ResponseSlot, response_id: str) -> None:
        if self.request is not None and self.request.response_id is None:
            self.request.response_id = response_id

    with (
        patch.object(ResponseSlot, "_match", adopt),
        pytest.raises(AssertionError, match=r"is played|although it answers|for want|never became"),
    ):
        run_with(*TALK, "go_astray", dialect=Dialect())


def test_the_environment_catches_a_client_that_ends_its_answer_with_any_response() -> None:
    def free(self: ResponseSlot, response: wire.Response) -> Request | None:
        request, self.request = self.request, None
        return request

    with (
        patch.object(ResponseSlot, "done", free),
        pytest.raises(AssertionError, match=r"although it answers|to its end|for want|too many|never became"),
    ):
        run_with(*TALK, "go_astray", dialect=Dialect())


def test_the_environment_catches_a_client_that_drops_audio_after_the_end_of_its_response() -> None:
    def finish(self: Answer, response: wire.Response) -> None:
        self.finish()

    with patch.object(Answer, "await_audio", finish), pytest.raises(AssertionError, match=r"for want|to its end"):
        run_with(*TALK, "finish_generation", dialect=Dialect(audio_is_late=True))


# --- errors -------------------------------------------------------------------------------------------------------


def test_the_environment_catches_a_client_that_stops_an_answer_because_of_an_error() -> None:
    """The error names the request of a response that has begun."""

    def free(self: ResponseSlot) -> Request | None:
        request, self.request = self.request, None
        return request

    with (
        patch.object(ResponseSlot, "abandon", free),
        pytest.raises(AssertionError, match=r"stops an answer|no server sent"),
    ):
        run_with(*TALK, "object_to_response", dialect=Dialect())


def test_the_environment_catches_a_client_that_waits_for_an_answer_that_was_refused() -> None:
    def overlook(self: ResponseSlot, event_id: str | None) -> bool:
        return False

    with (
        patch.object(ResponseSlot, "names_request", overlook),
        pytest.raises(AssertionError, match=r"goes on"),
    ):
        run_with(*TALK, "refuse_response", dialect=Dialect())


def test_the_environment_catches_a_client_that_says_nothing_about_a_turn_that_failed() -> None:
    def be_silent(self: Outbox, sentence: Sentence | str, fallback: str = "error") -> None:
        pass

    with patch.object(Outbox, "announce", be_silent), pytest.raises(AssertionError, match="are announced"):
        run_with(*TALK, "refuse_response", dialect=Dialect())


def test_the_environment_catches_a_client_that_gives_a_wrong_reason() -> None:
    real = Procedures.fail_turn

    def mislead(self: Procedures, kind: Any, now: float, **more: Any) -> None:
        real(self, "empty_answer" if kind == "answer_failed" else kind, now, **more)

    with patch.object(Procedures, "fail_turn", mislead), pytest.raises(AssertionError, match="for want of audio"):
        run_with(*TALK, "refuse_response", dialect=Dialect())


# --- audio --------------------------------------------------------------------------------------------------------


def test_the_environment_catches_a_client_that_drops_half_a_sample() -> None:
    def drop(self: Answer, event: wire.OutputAudioDelta) -> bytes:
        return event.delta[: len(event.delta) // 2 * 2]

    with (
        patch.object(Answer, "_whole_samples", drop),
        pytest.raises(AssertionError, match="are not the next"),
    ):
        run_with(*TALK, dialect=Dialect(cuts_samples=True))


def test_the_environment_catches_a_client_that_drops_the_last_audio_of_an_answer() -> None:
    real = Answer.hear

    def drop(self: Answer, event: wire.OutputAudioDelta, link: int, now: float) -> None:
        if len(event.delta) > 2 * 960 * 4:
            real(self, event, link, now)

    with patch.object(Answer, "hear", drop), pytest.raises(AssertionError, match=r"to its end|for want|not the next"):
        run_with(*TALK, "finish_generation", dialect=Dialect())


# --- links and the end --------------------------------------------------------------------------------------------


def test_the_environment_catches_a_client_that_cancels_a_tool_with_its_connection() -> None:
    def drop_all(do: Procedures) -> None:
        do.calls.drop(do.policy.output("disconnected"))

    with (
        patch.object(lost_links, "_drop_calls", drop_all),
        pytest.raises(AssertionError, match="is cancelled with its connection"),
    ):
        run_with(*TALK, "lose_while_a_tool_runs", "connect_whole", dialect=Dialect())


def test_the_environment_catches_a_client_that_leaves_a_connection_open() -> None:
    def stop(self: Conversation, reason: str, now: float) -> None:
        self._do.out.do(Stop(reason))

    with (
        patch.object(Conversation, "_shut_down", stop),
        pytest.raises(AssertionError, match=r"are closed|after the end"),
    ):
        run()


def test_the_environment_catches_a_client_that_acts_after_the_end() -> None:
    real = Conversation._shut_down

    def go_on(self: Conversation, reason: str, now: float) -> None:
        real(self, reason, now)
        self._is_stopped = False

    with (
        patch.object(Conversation, "_shut_down", go_on),
        pytest.raises(AssertionError, match=r"after the end|does not stop"),
    ):
        run()


def test_the_environment_catches_a_client_that_ends_a_turn_twice() -> None:
    real = Procedures.end_turn

    def end_twice(self: Procedures, outcome: Any, now: float) -> None:
        turn = self.turn
        real(self, outcome, now)
        if turn is not None:
            self.out.emit(TurnEnd(turn.id, outcome))

    with (
        patch.object(Procedures, "end_turn", end_twice),
        pytest.raises(AssertionError, match=r"no turn runs|are announced"),
    ):
        run()
