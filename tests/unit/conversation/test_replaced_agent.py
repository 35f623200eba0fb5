"""The program replaces the active agent: at rest, in a turn, next to a handoff, without a connection, refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from appliance.agents.spec import AgentSpec, HandoffCard, ToolCard
from appliance.conversation.commands import PrepareAgent
from appliance.conversation.events import (
    AgentPrepared,
    AgentReplaced,
    ApprovalAnswered,
    ConnectKey,
    FrameGiven,
    HandoffKey,
    TurnKey,
)
from appliance.conversation.notices import AgentEnd, AgentStart, AgentUpdateEnded, HandoffDone, Notice
from tests.support.stages.agents import BILLING, GREETER, AgentStage

TUTOR = AgentSpec(
    agent="tutor",
    session={
        "type": "realtime",
        "instructions": "Teach.",
        "audio": {"input": {"turn_detection": None}, "output": {"voice": "ash"}},
    },
    tools=(ToolCard(name="grade"),),
)
GUARDED = AgentSpec(
    agent="greeter",
    session=GREETER.session,
    tools=(ToolCard(name="pay", approval="always"),),
    handoffs=(HandoffCard(name="transfer_to_billing", agent="billing"),),
)


def on(spec: AgentSpec = GREETER, **policy: Any) -> AgentStage:
    scene = AgentStage(specs=[spec], **policy)
    scene.ready()
    return scene


def update(scene: AgentStage, spec: AgentSpec = TUTOR, key: str = "1") -> None:
    scene.do(AgentReplaced(key, spec))


def accept(scene: AgentStage, spec: AgentSpec = TUTOR) -> None:
    scene.server({"type": "session.updated", "session": dict(spec.session)})


def ended(scene: AgentStage) -> list[tuple[str, str]]:
    return [(one.key, one.problem) for one in scene.notices(AgentUpdateEnded)]


def agent_notices(scene: AgentStage) -> list[Notice]:
    kinds = (AgentStart, AgentEnd, HandoffDone, AgentUpdateEnded)
    return [one.notice for one in scene.commands if isinstance(getattr(one, "notice", None), kinds)]  # type: ignore[attr-defined]


def test_agent_at_rest_is_replaced_when_the_server_accepts_it() -> None:
    scene = on()
    update(scene)
    assert [frame["session"]["instructions"] for frame in scene.updates()] == ["Teach."]
    assert (scene.conversation.agent, ended(scene)) == ("greeter", [])
    accept(scene)
    assert scene.conversation.agent == "tutor"
    assert agent_notices(scene) == [HandoffDone("greeter", "tutor"), AgentUpdateEnded("1")]
    scene.advance(60.0)
    assert len(scene.updates()) == 1


def test_next_connection_starts_with_the_new_agent_and_the_history_is_kept() -> None:
    scene = on()
    update(scene)
    accept(scene)
    scene.asked()
    scene.done()
    history = scene.conversation.history
    scene.commands.clear()
    scene.lose()
    scene.advance(1.0)
    scene.link_ready()
    assert [frame["session"]["instructions"] for frame in scene.updates()] == ["Teach."]
    assert [one.id for one in scene.conversation.history] == [one.id for one in history]


def test_open_response_stays_that_of_the_previous_agent_and_the_next_is_that_of_the_new_one() -> None:
    scene = on(GUARDED)
    scene.asked()
    update(scene)
    accept(scene)
    scene.called("pay", "call_1")
    scene.do(ApprovalAnswered("call_1", True))
    assert [(run.name, run.agent) for run in scene.tool_runs()] == [("pay", "greeter")]
    scene.done()
    scene.tool_finished("call_1", "paid")
    assert scene.outputs() == {"call_1": ["paid"]}
    scene.created("resp_2")
    scene.called("grade", "call_2", response_id="resp_2")
    assert [(run.name, run.agent) for run in scene.tool_runs()][1:] == [("grade", "tutor")]
    assert agent_notices(scene) == [
        AgentStart("greeter"),
        HandoffDone("greeter", "tutor"),
        AgentUpdateEnded("1"),
        AgentEnd("greeter", ""),
        AgentStart("tutor"),
    ]


def test_call_that_waits_for_approval_outlives_the_replacement() -> None:
    scene = on(GUARDED)
    scene.asked()
    scene.called("pay", "call_1")
    scene.done()
    update(scene)
    accept(scene)
    scene.do(ApprovalAnswered("call_1", True))
    assert [(run.name, run.agent) for run in scene.tool_runs()] == [("pay", "greeter")]


def test_response_that_was_requested_before_and_created_after_is_that_of_the_new_agent() -> None:
    """Events are in order: the server created it with the new session."""
    scene = on()
    scene.say()
    scene.committed()
    update(scene)
    accept(scene)
    scene.created()
    scene.called("grade", "call_1")
    assert [run.agent for run in scene.tool_runs()] == ["tutor"]
    assert agent_notices(scene)[-2:] == [AgentEnd("greeter", ""), AgentStart("tutor")]


def test_without_a_connection_the_agent_is_replaced_at_once_and_the_next_connection_gets_it() -> None:
    scene = AgentStage(specs=[GREETER])
    scene.start()
    update(scene)
    assert scene.updates() == []
    assert (scene.conversation.agent, ended(scene)) == ("tutor", [("1", "")])
    scene.link_ready()
    assert [frame["session"]["instructions"] for frame in scene.updates()] == ["Teach."]


def test_connection_lost_before_the_answer_leaves_the_new_agent_for_the_next_one() -> None:
    scene = on()
    update(scene)
    scene.lose()
    assert (scene.conversation.agent, ended(scene)) == ("tutor", [("1", "")])


def test_connection_that_waits_for_the_previous_agents_instructions_gets_the_new_agent() -> None:
    scene = AgentStage(specs=[replace(GREETER, is_asked_at_connect=True)])
    scene.start()
    scene.link_ready()
    assert len(scene.of(PrepareAgent)) == 1
    update(scene)
    assert [frame["session"]["instructions"] for frame in scene.updates()] == ["Teach."]
    scene.do(AgentPrepared(ConnectKey(scene.link), GREETER))
    assert scene.conversation.agent == "tutor"
    assert len(scene.updates()) == 1


def test_late_instructions_of_the_previous_agent_for_this_turn_are_ignored() -> None:
    scene = on(replace(GREETER, is_asked_at_turn=True))
    scene.say()
    scene.committed()
    assert scene.asks() == []
    again = replace(GREETER, session={**GREETER.session, "instructions": "Greet again."})
    update(scene, again)
    accept(scene, again)
    assert len(scene.asks()) == 1
    scene.do(AgentPrepared(TurnKey("turn_1", 0), replace(GREETER, is_asked_at_turn=True)))
    assert [frame["session"]["instructions"] for frame in scene.updates()] == ["Greet again."]


def test_refused_agent_leaves_the_previous_one_active_and_the_program_gets_the_reason() -> None:
    scene = on()
    update(scene)
    scene.error("invalid_value", event_id=scene.updates()[0]["event_id"], message="No such voice.")
    assert (scene.conversation.agent, ended(scene)) == ("greeter", [("1", "No such voice.")])
    assert scene.notices(HandoffDone) == []


def test_agent_that_the_server_never_confirms_is_taken_back() -> None:
    scene = on()
    update(scene)
    scene.advance(30.0)
    assert [frame["session"]["instructions"] for frame in scene.updates()] == ["Teach.", "Greet."]
    assert scene.conversation.agent == "greeter"
    assert ended(scene) == [("1", "the server did not confirm it in time")]


def test_handoff_that_is_being_prepared_does_not_undo_the_programs_choice() -> None:
    scene = on()
    scene.asked()
    scene.called("transfer_to_billing", "call_1")
    scene.done()
    update(scene)
    assert scene.ended() == [("call_1", True)]
    scene.do(AgentPrepared(HandoffKey("call_1"), BILLING))
    accept(scene)
    assert [frame["session"]["instructions"] for frame in scene.updates()] == ["Teach."]
    assert scene.conversation.agent == "tutor"


def test_handoff_that_the_server_is_about_to_accept_comes_first() -> None:
    scene = on()
    scene.asked()
    scene.called("transfer_to_billing", "call_1")
    scene.done()
    scene.do(AgentPrepared(HandoffKey("call_1"), BILLING))
    update(scene)
    accept(scene, BILLING)
    accept(scene)
    assert [(one.from_agent, one.to_agent) for one in scene.notices(HandoffDone)] == [
        ("greeter", "billing"),
        ("billing", "tutor"),
    ]
    assert scene.conversation.agent == "tutor"


def test_handoff_that_times_out_behind_a_replacement_reverts_to_the_new_agent() -> None:
    scene = on(tool_s=1.0)
    scene.asked()
    scene.called("transfer_to_billing", "call_1")
    scene.done()
    scene.do(AgentPrepared(HandoffKey("call_1"), BILLING))
    update(scene)
    scene.advance(1.1)
    assert [frame["session"]["instructions"] for frame in scene.updates()] == ["Bill.", "Teach.", "Teach."]


def test_of_two_replacements_each_is_answered_and_the_last_one_holds() -> None:
    scene = on()
    update(scene)
    update(scene, BILLING, "2")
    accept(scene)
    accept(scene, BILLING)
    assert ended(scene) == [("1", ""), ("2", "")]
    assert scene.conversation.agent == "billing"


def test_replacement_is_not_lost_if_the_server_confirms_a_later_frame_of_the_program_first() -> None:
    scene = on()
    update(scene)
    scene.do(FrameGiven({"type": "session.update", "session": {"type": "realtime", "tracing": "auto"}}))
    scene.server({"type": "session.updated", "session": {"type": "realtime", "tracing": "auto"}})
    assert ended(scene) == []
    accept(scene)
    assert ended(scene) == [("1", "")]


def test_new_agents_input_guardrails_hold_for_the_next_turn() -> None:
    scene = on()
    update(scene, replace(TUTOR, has_input_guardrails=True))
    accept(scene)
    scene.say()
    scene.committed()
    assert scene.asks() == []
    scene.server(
        {
            "type": "conversation.item.input_audio_transcription.completed",
            "item_id": "item_user",
            "content_index": 0,
            "transcript": "Hi.",
        }
    )
    assert [one.agent for one in scene.commands if type(one).__name__ == "CheckText"] == ["tutor"]


def without_created(scene: AgentStage, text: str) -> list[str]:
    """Ask, and get an answer from a server that never sends ``response.created``; return whose guardrails check it."""
    scene.say()
    scene.committed()
    scene.wrote(text, is_final=True, response_id="resp_9")
    return [one.agent for one in scene.checks()]


STRICT = replace(TUTOR, has_output_guardrails=True)


@pytest.mark.parametrize(("first", "second", "checked_by"), [(GREETER, STRICT, ["tutor"]), (STRICT, BILLING, [])])
def test_answer_asked_for_behind_a_replacement_is_checked_by_the_new_agent(
    first: AgentSpec, second: AgentSpec, checked_by: list[str]
) -> None:
    scene = on(first)
    update(scene, second)
    assert without_created(scene, "Two and two is four.") == checked_by


def test_answer_behind_a_refused_replacement_is_checked_by_the_agent_that_stays() -> None:
    scene = on(STRICT)
    update(scene, BILLING)
    scene.say()
    scene.committed()
    scene.error("invalid_value", event_id="agent_1", message="no")
    assert ended(scene) == [("1", "no")]
    scene.wrote("Two and two is four.", is_final=True, response_id="resp_9")
    assert [one.agent for one in scene.checks()] == ["tutor"]


def test_answer_behind_a_replacement_that_is_never_confirmed_is_checked_by_the_agent_that_stays() -> None:
    scene = on(STRICT, commit_s=1.0)
    update(scene, BILLING)
    scene.say()
    scene.committed()
    scene.advance(1.1)
    assert [problem for _, problem in ended(scene)] == ["the server did not confirm it in time"]
    scene.wrote("Two and two is four.", is_final=True, response_id="resp_9")
    assert [one.agent for one in scene.checks()] == ["tutor"]
