"""Tests of the conversation's ordered tables: error owners, deadlines, and the steps after every event.

Each order is tested twice: as the literal list, and by scenes whose result depends on it. Some neighbours never run for
the same event (finish waits while a response is wanted; our event ids are distinct), so only the list tests those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from appliance.agents.spec import AgentSpec, ToolCard
from appliance.conversation.commands import Command, Connect, Disconnect, Emit, PlayEarcon, Send
from appliance.conversation.deadlines import DEADLINES
from appliance.conversation.events import AlarmRang, AudioCaptured, DeadlinePassed, FrameGiven, OutOfBandAsked
from appliance.conversation.machine import SETTLE
from appliance.conversation.notices import Error, Guardrail, HistoryGrew, OutOfBandEnded, ToolEnd, TurnEnd
from appliance.conversation.server_events import LADDER
from tests.support.stage import SESSION, Stage, period

BUSY = "conversation_already_has_active_response"


def name(step: Callable[..., Any]) -> str:
    """Return the name of a step, or for a lambda the method of a region that it calls."""
    return step.__name__ if step.__name__ != "<lambda>" else ".".join(step.__code__.co_names)


def type_names(commands: Sequence[Command], *kinds: type) -> list[str]:
    """Return the class names of the notices and frames of these kinds, in order."""
    sent = [one.notice if isinstance(one, Emit) else one.event for one in commands if isinstance(one, Emit | Send)]
    return [type(one).__name__ for one in sent if not kinds or isinstance(one, kinds)]


def stage(*tools: ToolCard, **more: Any) -> Stage:
    about = {key: more.pop(key) for key in ("has_output_guardrails",) if key in more}
    return Stage(specs=[AgentSpec(agent="ann", session=SESSION, tools=tools, **about)], **more).ready()


def speak_turn(scene: Stage) -> str:
    """Speak a turn, let its response be requested, and return the id of the request."""
    commands = scene.say() + scene.committed()
    return str(next(one["event_id"] for one in scene.sent(commands) if one["type"] == "response.create"))


def answer_text(scene: Stage, delta: str) -> None:
    where = {"response_id": "resp_1", "item_id": "item_a", "output_index": 0, "content_index": 0}
    scene.server({"type": "response.output_audio_transcript.delta", "delta": delta} | where)


def all_late(scene: Stage, at: float) -> list[Command]:
    """Let every deadline up to `at` pass in one event."""
    scene.now = at
    return scene.do(DeadlinePassed())


# --- owners of an error ---------------------------------------------------------------------------------------------


def test_the_owners_of_an_error_are_tried_in_this_order() -> None:
    assert [name(one) for one in LADDER] == [
        "_error_of_update",
        "_error_of_question",
        "_error_of_busy_server",
        "_error_of_response",
        "_error_of_commit",
        "_error_of_truncation",
        "_error_of_item",
    ]


def test_an_update_with_the_event_id_of_a_commit_owns_its_error_first() -> None:
    scene = stage()
    scene.say()
    scene.do(FrameGiven({"type": "session.update", "event_id": "commit_turn_1_0", "session": {"type": "realtime"}}))
    scene.error("invalid_value", event_id="commit_turn_1_0", message="first")
    assert (scene.troubles(), scene.outcomes()) == (["server_error"], [])
    scene.error("invalid_value", event_id="commit_turn_1_0", message="second")  # the commit owns this one
    assert scene.outcomes() == ["failed"]


def test_an_update_with_the_event_id_of_a_question_owns_its_error_and_the_question_stays_open() -> None:
    scene = stage()
    scene.do(OutOfBandAsked("k", {"input": []}))
    scene.do(FrameGiven({"type": "session.update", "event_id": "aside_k", "session": {"type": "realtime"}}))
    scene.error("invalid_value", event_id="aside_k", message="no")
    assert (scene.troubles(), scene.notices(OutOfBandEnded)) == (["server_error"], [])


def test_a_question_refused_by_a_busy_server_ends_without_touching_the_turns_response() -> None:
    scene = stage()
    speak_turn(scene)
    scene.do(OutOfBandAsked("k", {"input": []}))
    scene.error(BUSY, event_id="aside_k", message="busy")
    assert [(one.key, one.problem) for one in scene.notices(OutOfBandEnded)] == [("k", "busy")]
    assert (scene.outcomes(), scene.troubles()) == ([], [])


def test_a_request_refused_by_a_busy_server_is_retried_and_the_turn_does_not_fail() -> None:
    scene = stage(refused_retry_s=1.0)
    event_id = speak_turn(scene)
    scene.error(BUSY, event_id=event_id)
    assert (scene.outcomes(), scene.troubles()) == ([], [])
    assert scene.sent_types(scene.advance(1.0)) == ["response.create"]


def test_an_error_with_an_owner_is_not_also_reported_as_a_server_error() -> None:
    scene = stage()
    event_id = speak_turn(scene)
    scene.error("invalid_value", event_id=event_id, message="no")
    assert (scene.troubles(), scene.outcomes()) == (["answer_failed"], ["failed"])
    scene.error("invalid_value", event_id=event_id, message="no")
    assert scene.troubles() == ["answer_failed", "server_error"]


# --- deadlines ------------------------------------------------------------------------------------------------------


def test_deadlines_are_checked_in_this_order() -> None:
    assert [name(one) for one in DEADLINES] == [
        "_late_gestures",
        "answer.slot.advance",
        "late_updates",
        "out_of_band.advance",
        "device.end_error_light",
        "_late_alarms",
        "late_main",
        "link.advance",
        "late_calls",
        "late_check",
        "_late_turn",
    ]


def test_a_hold_rejects_a_call_before_its_deadline_does() -> None:
    scene = stage(ToolCard(name="door", approval="always"), approval_s=5.0)
    speak_turn(scene)
    scene.created()
    scene.called("door", "c")
    scene.now += 4.5
    scene.press()
    all_late(scene, scene.now + 2.0)
    (output,) = [one.item.output for one in scene.notices(HistoryGrew) if one.item.type == "function_call_output"]
    assert "rejected" in output


def test_a_question_times_out_before_the_turn() -> None:
    scene = stage(answer_s=20.0)
    speak_turn(scene)
    scene.do(OutOfBandAsked("k", {"input": []}, timeout_s=10.0))
    commands = all_late(scene, scene.now + 30.0)
    assert type_names(commands, OutOfBandEnded, Error, TurnEnd) == ["OutOfBandEnded", "Error", "TurnEnd"]


def test_a_question_times_out_before_an_alarm_rings() -> None:
    scene = stage(alarm_s=60.0, alarm_every_s=3.0)
    scene.do(OutOfBandAsked("k", {"input": []}, timeout_s=10.0))
    scene.do(AlarmRang("tea", "tea"))
    commands = all_late(scene, scene.now + 30.0)
    kept = [type(one) for one in commands if isinstance(one, PlayEarcon) or type_names([one], OutOfBandEnded)]
    assert kept == [Emit, PlayEarcon]


def test_an_alarm_rings_before_a_connecting_link_times_out() -> None:
    scene = stage(connect_s=15.0, alarm_s=60.0, endpoints=2)
    scene.lose()
    scene.advance(5.0)
    scene.do(AlarmRang("tea", "tea"))
    commands = all_late(scene, scene.now + 30.0)
    kept = [type(one) for one in commands if isinstance(one, PlayEarcon | Disconnect)]
    assert kept == [PlayEarcon, Disconnect]


def test_a_due_alarm_stays_silent_for_a_turn_that_times_out_at_the_same_time() -> None:
    scene = stage(answer_s=20.0, alarm_s=60.0)
    speak_turn(scene)
    scene.do(AlarmRang("tea", "tea"))
    commands = all_late(scene, scene.now + 30.0)
    assert scene.outcomes() == ["failed"]
    assert PlayEarcon(scene.conversation.epoch, "alarm") not in commands


def test_a_link_is_retried_before_the_turn_that_waits_for_it_times_out() -> None:
    scene = stage(link_wait_s=1.0, backoff_initial_s=0.5, backoff_max_s=0.5)
    scene.lose()
    scene.say()
    scene.lose("refused", None)
    commands = all_late(scene, scene.now + 10.0)
    kept = [one for one in commands if isinstance(one, Connect) or type_names([one], TurnEnd)]
    assert (type(kept[0]), len(kept), scene.outcomes()) == (Connect, 2, ["failed"])


def test_a_call_of_an_ended_turn_times_out_before_the_running_turn() -> None:
    scene = stage(ToolCard(name="light", timeout_s=15.0), answer_s=10.0)
    speak_turn(scene)
    scene.created()
    scene.called("light", "c")
    scene.say()  # barge-in; the tool keeps running
    scene.done(status="cancelled")
    scene.committed("item_2")
    commands = all_late(scene, scene.now + 60.0)
    assert type_names(commands, ToolEnd, TurnEnd) == ["ToolEnd", "TurnEnd"]


def test_a_call_times_out_before_the_check_that_would_cancel_it() -> None:
    tool = ToolCard(name="light", timeout_s=1.0, is_cancellable=True)
    scene = stage(tool, has_output_guardrails=True, guardrail_s=5.0, guardrail_debounce=1)
    speak_turn(scene)
    scene.created()
    answer_text(scene, "Hello")
    scene.called("light", "c")
    all_late(scene, scene.now + 10.0)
    (end,) = scene.notices(ToolEnd)
    assert ("too long" in end.output, len(scene.notices(Guardrail))) == (True, 1)


def test_a_late_check_trips_and_retries_before_the_turn_times_out() -> None:
    scene = stage(has_output_guardrails=True, guardrail_s=5.0, guardrail_debounce=1, answer_s=20.0)
    speak_turn(scene)
    scene.created()
    answer_text(scene, "Hello")
    commands = all_late(scene, scene.now + 30.0)
    assert type_names(commands, Guardrail, TurnEnd) == ["Guardrail"]
    assert scene.outcomes() == []


# --- the steps after every event ------------------------------------------------------------------------------------


def test_the_steps_after_every_event_run_in_this_order() -> None:
    assert [name(one) for one in SETTLE] == ["_send", "_ask", "_finish", "next_message", "_send", "_ask", "_rest"]


def test_speech_is_sent_before_its_response_is_requested_in_one_event() -> None:
    scene = stage(post_roll_ms=20)
    scene.press()
    scene.hear(500)
    scene.release()
    commands = scene.do(AudioCaptured(period(), 4000, -18.0))
    assert scene.sent_types(commands) == ["input_audio_buffer.append", "input_audio_buffer.commit", "response.create"]


def test_the_turn_ends_before_the_idle_gap_is_used_in_one_event() -> None:
    scene = stage(rotate_after_s=10.0)
    scene.answering(ms=200)
    scene.done()
    scene.advance(4.0)
    scene.now += 10.0
    commands = scene.play(2400, drained=True)
    kept = [one for one in commands if isinstance(one, Connect) or type_names([one], TurnEnd)]
    assert [type(one) for one in kept] == [Emit, Connect]
