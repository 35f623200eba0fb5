"""Responses that the running turn did not request, and servers that announce or echo less than the reference says.

Most of these were found by `test_environment`, as its smallest reproductions.
"""

from __future__ import annotations

from typing import Any

import pytest

from appliance.agents.spec import AgentSpec, HandoffCard, ToolCard
from appliance.conversation.commands import Command
from appliance.conversation.events import AgentPrepared, HandoffKey, InterruptAsked
from tests.support.stage import SESSION, Stage

OTHERS = [None, {"topic": "x"}]
"""Metadata of a response that somebody else requests on the same session."""


def created(stage: Stage, response_id: str, metadata: Any, *, in_band: bool) -> list[Command]:
    response = {"id": response_id, "status": "in_progress", "output": [], "metadata": metadata}
    return stage.server(
        {"type": "response.created", "response": response | {"conversation_id": "conv_1" if in_band else None}}
    )


def answered(stage: Stage, number: int) -> None:
    """Run a whole turn; from here on, the server is known to send ``response.created`` with the metadata."""
    ask(stage, number)
    stage.created(f"resp_{number}", f"turn_{number}")
    stage.audio(f"resp_{number}", f"item_{number}")
    stage.done(f"resp_{number}", f"turn_{number}")
    stage.play(4800, drained=True)


def ask(stage: Stage, number: int) -> None:
    stage.say()
    stage.committed(f"item_user_{number}")


def played(stage: Stage) -> list[str]:
    return [one.item_id for one in stage.plays()]


# --- of somebody else ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metadata", OTHERS)
@pytest.mark.parametrize("is_asking", [False, True])
def test_an_out_of_band_response_of_somebody_else_is_neither_cancelled_nor_played(
    metadata: Any, is_asking: bool
) -> None:
    stage = Stage().ready()
    answered(stage, 1)
    if is_asking:
        ask(stage, 2)
    assert stage.sent_types(created(stage, "resp_x", metadata, in_band=False)) == []
    stage.audio("resp_x", "item_x")
    assert played(stage) == ["item_1"]


@pytest.mark.parametrize("metadata", OTHERS)
def test_a_response_of_somebody_else_in_the_conversation_is_not_taken_for_the_answer(metadata: Any) -> None:
    stage = Stage().ready()
    answered(stage, 1)
    ask(stage, 2)
    event_id = stage.sent()[-1]["event_id"]
    assert stage.sent_types(created(stage, "resp_x", metadata, in_band=True)) == ["response.cancel"]
    stage.error("conversation_already_has_active_response", event_id=event_id)
    stage.audio("resp_x", "item_x")
    stage.done("resp_x", None, status="cancelled")
    assert stage.sent_types()[-1] == "response.create", "the question is asked again"
    stage.created("resp_2", "turn_2")
    stage.audio("resp_2", "item_2")
    assert played(stage) == ["item_1", "item_2"]


def test_a_call_of_an_out_of_band_response_of_somebody_else_is_left_to_them() -> None:
    stage = Stage().ready()
    answered(stage, 1)
    before = stage.conversation.history
    created(stage, "resp_x", {"topic": "x"}, in_band=False)
    assert stage.sent_types(stage.called("note", "call_x", response_id="resp_x")) == []
    item = {"id": "item_x", "type": "message", "role": "assistant", "status": "completed", "content": []}
    assert stage.sent_types(stage.done("resp_x", None, metadata={"topic": "x"}, output=[item])) == []
    assert stage.conversation.history == before


# --- that do not exist --------------------------------------------------------------------------------------------


def test_audio_of_a_response_that_was_not_announced_is_not_the_answer_of_a_server_that_announces() -> None:
    stage = Stage().ready()
    answered(stage, 1)
    ask(stage, 2)
    stage.audio("resp_x", "item_x")
    stage.created("resp_2", "turn_2")
    stage.audio("resp_2", "item_2")
    assert played(stage) == ["item_1", "item_2"]


def test_the_end_of_an_unknown_response_does_not_end_the_wait_for_the_answer() -> None:
    stage = Stage().ready()
    answered(stage, 1)
    ask(stage, 2)
    stage.done("resp_x", None)
    assert stage.outcomes() == ["answered"]
    stage.created("resp_2", "turn_2")
    stage.audio("resp_2", "item_2")
    assert played(stage) == ["item_1", "item_2"]


# --- late, of servers that say less -------------------------------------------------------------------------------


def given_up(stage: Stage) -> list[str]:
    """Ask two questions; the request for the first answer is given up. Returns the ids of the requests."""
    ask(stage, 1)
    stage.do(InterruptAsked())
    stage.advance(3.1)
    ask(stage, 2)
    return [frame["event_id"] for frame in stage.sent() if frame["type"] == "response.create"]


def test_an_error_about_a_request_that_was_given_up_leaves_the_next_answer_alone() -> None:
    """Without metadata, answers match requests in order, and the first request has no answer."""
    stage = Stage(cancel_s=3.0).ready()
    first, _ = given_up(stage)
    stage.error("server_error", event_id=first, message="overloaded")
    assert stage.sent_types(stage.created("resp_2", None)) == []
    stage.audio("resp_2", "item_2")
    assert played(stage) == ["item_2"]


@pytest.mark.parametrize("is_done_first", [False, True])
def test_without_announcements_the_late_answer_to_a_request_that_was_given_up_is_not_played(
    is_done_first: bool,
) -> None:
    stage = Stage(cancel_s=3.0).ready()
    given_up(stage)
    if not is_done_first:
        stage.audio("resp_1", "item_1")
    stage.done("resp_1", None)
    stage.audio("resp_2", "item_2")
    assert played(stage) == ["item_2"]
    stage.done("resp_2", None)
    stage.play(4800, drained=True)
    assert stage.outcomes() == ["interrupted", "answered"]


def handing_over() -> tuple[Stage, AgentSpec]:
    """Let Ann call the handoff to Bob; returns Bob, who is not prepared yet."""
    note = ToolCard(name="note")
    handoff = HandoffCard(name="transfer_to_bob", agent="bob")
    ann = AgentSpec(agent="ann", session=SESSION, handoffs=(handoff,), tools=(note,))
    bob = AgentSpec(agent="bob", session=SESSION | {"instructions": "You are Bob."}, tools=(note,))
    stage = Stage(specs=[ann, bob]).ready()
    ask(stage, 1)
    stage.called("transfer_to_bob", "call_1")
    stage.done("resp_1", None)
    return stage, bob


@pytest.mark.parametrize("is_accepted", [True, False])
def test_without_announcements_an_agent_that_takes_over_meanwhile_gives_the_answer(is_accepted: bool) -> None:
    """The request is sent between the new agent's ``session.update`` and the answer to that."""
    stage, bob = handing_over()
    stage.do(AgentPrepared(HandoffKey("call_1"), bob))
    ask(stage, 2)
    if is_accepted:
        stage.server({"type": "session.updated", "session": bob.session})
    else:
        stage.error("cannot_update_voice", event_id="handoff_call_1", message="The voice is fixed.")
    stage.called("note", "call_2", response_id="resp_2")
    assert [one.agent for one in stage.tool_runs()] == ["bob" if is_accepted else "ann"]


def test_without_announcements_an_agent_that_takes_over_later_does_not_give_the_answer() -> None:
    """The request is sent before the new agent's ``session.update``."""
    stage, bob = handing_over()
    ask(stage, 2)
    stage.do(AgentPrepared(HandoffKey("call_1"), bob))
    stage.server({"type": "session.updated", "session": bob.session})
    stage.called("note", "call_2", response_id="resp_2")
    assert [one.agent for one in stage.tool_runs()] == ["ann"]


# --- audio --------------------------------------------------------------------------------------------------------


def test_audio_that_follows_the_end_of_the_second_response_is_played() -> None:
    """The first response speaks and calls a tool; the audio of the second arrives after its ``response.done``."""
    stage = Stage().ready()
    ask(stage, 1)
    stage.created("resp_1")
    stage.audio("resp_1", "item_1")
    stage.called("note", "call_1")
    stage.done("resp_1")
    stage.tool_finished("call_1", "{}")
    stage.play(4800, drained=True)
    stage.created("resp_2")
    content = [{"type": "output_audio", "transcript": "Done."}]
    item = {"id": "item_2", "type": "message", "role": "assistant", "status": "completed", "content": content}
    stage.done("resp_2", output=[item])
    stage.audio("resp_2", "item_2")
    assert played(stage) == ["item_1", "item_2"]
    stage.server({"type": "response.output_audio.done", "response_id": "resp_2", "item_id": "item_2"})
    stage.play(4800, drained=True)
    assert (stage.outcomes(), stage.troubles()) == (["answered"], [])


def test_an_answer_that_ends_in_silence_is_not_counted_as_heard_because_it_spoke_before_a_call() -> None:
    stage = Stage(answer_s=20.0).ready()
    ask(stage, 1)
    stage.created("resp_1")
    stage.audio("resp_1", "item_1")
    stage.server({"type": "response.output_audio.done", "response_id": "resp_1", "item_id": "item_1"})
    stage.called("note", "call_1")
    stage.done("resp_1")
    stage.tool_finished("call_1", "{}")
    stage.play(4800, drained=True)
    stage.advance(20.1)
    assert (stage.outcomes(), stage.troubles()) == (["failed"], ["no_answer"])
