"""Tests of the conversation core: interruptions, of every kind."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from appliance.agents.spec import AgentSpec
from appliance.conversation.commands import CheckText, Command
from appliance.conversation.events import (
    BeginAsked,
    FrameGiven,
    GuardrailsChecked,
    InterruptAsked,
    OutputCheck,
    PlayoutProgress,
)
from appliance.conversation.notices import AnswerText, AudioInterrupted
from tests.support.stage import SESSION, period
from tests.support.stages.program import TRUNCATION, ProgramStage, listening_server, message


def of_part(part: int, *, ms: int) -> dict[str, Any]:
    """Return an audio delta of one content part of an item."""
    return {
        "type": "response.output_audio.delta",
        "response_id": "resp_1",
        "item_id": "item_a",
        "output_index": 0,
        "content_index": part,
        "delta": base64.b64encode(period(frames=24 * ms)).decode(),
    }


# --- interruption: one path -------------------------------------------------------------------------------------------


CUT = [
    TRUNCATION,
    {"type": "response.cancel", "response_id": "resp_1"},
]

GUARDED = AgentSpec(agent="ada", session=SESSION, has_output_guardrails=True)

WAYS = ["button", "program", "interrupt", "message", "frame", "ear", "tripwire"]


def interrupted(way: str, *, is_done: bool = False) -> tuple[ProgramStage, list[Command]]:
    """Interrupt an answer of 2 s after 100 ms were heard; return the scene and the resulting commands."""
    spec = listening_server(interrupt_response=False) if way == "ear" else GUARDED
    scene = ProgramStage(specs=[spec], pre_roll_ms=0).ready()
    if way == "ear":
        scene.spoke_to_server()
    else:
        scene.say()
        scene.committed()
    scene.created(turn=None)
    scene.audio(ms=2000)
    scene.play(2400)
    scene.wrote("My password is swordfish.", is_final=True)
    if is_done:
        scene.done(turn=None)
    scene.commands.clear()
    return scene, _interrupt(scene, way)


def _interrupt(scene: ProgramStage, way: str) -> list[Command]:
    match way:
        case "button":
            return scene.press()
        case "program":
            return scene.do(BeginAsked())
        case "interrupt":
            return scene.do(InterruptAsked())
        case "message":
            return scene.do(message("Stop!"))
        case "frame":
            return scene.do(FrameGiven({"type": "response.create"}))
        case "ear":
            return scene.speech_started("item_2")
        case _:
            return scene.do(GuardrailsChecked(OutputCheck(1), "no_secrets", "a password"))


@pytest.mark.parametrize("way", WAYS)
def test_every_kind_of_interruption_flushes_first_and_sends_the_same_frames(way: str) -> None:
    scene, commands = interrupted(way)
    assert scene.sent(commands)[:2] == CUT
    kinds = [type(one).__name__ for one in commands]
    assert kinds.index("FlushPlayback") < kinds.index("Send")
    assert scene.notices(AudioInterrupted) == [AudioInterrupted("item_a", 100)]
    assert len(scene.flushes()) == 1


@pytest.mark.parametrize("way", WAYS)
def test_after_any_interruption_late_parts_of_the_answer_are_not_played_emitted_or_run(way: str) -> None:
    scene, _ = interrupted(way)
    scene.audio(ms=200)
    scene.wrote(" And there is more.")
    scene.wrote("All of it.", is_final=True)
    scene.called("open_door", "call_1")
    assert scene.plays() == []
    assert scene.notices(AnswerText) == []
    assert scene.tool_runs() == []
    assert [one for one in scene.commands if isinstance(one, CheckText)] == []


@pytest.mark.parametrize("way", WAYS)
def test_a_complete_answer_that_still_plays_is_cut_without_a_cancel(way: str) -> None:
    scene, commands = interrupted(way, is_done=True)
    assert scene.sent(commands)[0] == CUT[0]
    assert "response.cancel" not in scene.sent_types(commands)
    assert scene.notices(AudioInterrupted) == [AudioInterrupted("item_a", 100)]


@pytest.mark.parametrize("way", ["button", "program", "interrupt", "message", "frame"])
def test_an_interruption_before_the_response_is_created_cancels_it_on_arrival(way: str) -> None:
    scene = ProgramStage(pre_roll_ms=0).ready()
    scene.say()
    scene.committed()
    assert "response.cancel" not in scene.sent_types(_interrupt(scene, way)), "there is no response to cancel yet"
    assert scene.sent(scene.created()) == [{"type": "response.cancel", "response_id": "resp_1"}]
    scene.audio()
    assert scene.plays() == []


def test_with_server_vad_speech_before_response_created_cancels_that_response() -> None:
    scene = ProgramStage(specs=[listening_server(interrupt_response=False)]).ready()
    scene.spoke_to_server()
    scene.speech_started("item_2")
    assert scene.sent(scene.created(turn=None)) == [{"type": "response.cancel", "response_id": "resp_1"}]
    scene.audio()
    assert scene.plays() == []


def test_an_interruption_while_the_user_speaks_leaves_the_turn_alone() -> None:
    scene = ProgramStage().ready()
    scene.press()
    scene.hear(300)
    assert scene.do(InterruptAsked()) == []
    assert scene.state == "listening"


def test_a_repeated_interruption_is_reported_once() -> None:
    scene = ProgramStage().ready()
    scene.answering()
    scene.do(InterruptAsked())
    commands = scene.do(InterruptAsked())
    assert scene.sent(commands) == []
    assert len(scene.notices(AudioInterrupted)) == 1
    assert scene.outcomes() == ["interrupted"]


def test_after_an_interruption_the_next_turn_is_answered() -> None:
    scene = ProgramStage().ready()
    scene.answering()
    scene.do(InterruptAsked())
    scene.done("resp_1", status="cancelled")
    scene.played_frames = 0
    scene.say()
    scene.committed("item_2")
    scene.answered("resp_2", "turn_2", "item_b")
    assert scene.outcomes() == ["interrupted", "answered"]


# --- interruption: what is truncated ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("frames", "heard_ms"), [(0, 0), (23, 0), (24, 1), (2423, 100), (4799, 199)])
def test_a_truncation_is_in_whole_heard_milliseconds(frames: int, heard_ms: int) -> None:
    scene = ProgramStage().ready()
    scene.say()
    scene.committed()
    scene.created()
    scene.audio(ms=200)
    scene.play(frames)
    (truncate, _) = scene.sent(scene.do(InterruptAsked()))
    assert (truncate["audio_end_ms"], type(truncate["audio_end_ms"])) == (heard_ms, int)


def test_a_playback_report_beyond_the_queued_audio_is_clamped() -> None:
    scene = ProgramStage().ready()
    scene.say()
    scene.committed()
    scene.created()
    scene.audio(ms=200)
    scene.play(24 * 5000)
    scene.audio(ms=300)
    (truncate, _) = scene.sent(scene.do(InterruptAsked()))
    assert truncate["audio_end_ms"] == 200


def test_each_queued_item_is_truncated_once_and_no_other() -> None:
    scene = ProgramStage().ready()
    scene.say()
    scene.committed()
    scene.created()
    for item_id in ("item_a", "item_a", "item_b", "item_b", "item_c"):
        scene.audio(item_id=item_id, ms=100)
    scene.play(24 * 250)
    cuts = [one for one in scene.sent(scene.do(InterruptAsked())) if one["type"] == "conversation.item.truncate"]
    assert [(one["item_id"], one["audio_end_ms"]) for one in cuts] == [("item_b", 50), ("item_c", 0)]


def test_each_content_part_of_an_item_is_truncated_at_what_was_heard() -> None:
    scene = ProgramStage().ready()
    scene.say()
    scene.committed()
    scene.created()
    scene.audio(ms=100)
    scene.server(of_part(1, ms=100))
    scene.play(24 * 130)
    cuts = [one for one in scene.sent(scene.do(InterruptAsked())) if one["type"] == "conversation.item.truncate"]
    assert [(one["content_index"], one["audio_end_ms"]) for one in cuts] == [(1, 30)]


def test_a_fully_heard_answer_is_not_truncated_or_reported_as_interrupted() -> None:
    scene = ProgramStage().ready()
    scene.say()
    scene.committed()
    scene.created()
    scene.audio(ms=200)
    scene.play(4800, drained=True)
    commands = scene.do(InterruptAsked())
    assert scene.sent(commands) == [{"type": "response.cancel", "response_id": "resp_1"}]
    assert scene.notices(AudioInterrupted) == []


def test_an_interruption_while_thinking_emits_no_audio_interrupted() -> None:
    scene = ProgramStage().ready()
    scene.say()
    scene.committed()
    scene.created()
    commands = scene.do(InterruptAsked())
    assert scene.sent(commands) == [{"type": "response.cancel", "response_id": "resp_1"}]
    assert scene.notices(AudioInterrupted) == []
    assert scene.outcomes() == ["interrupted"]


def test_a_playback_report_of_the_old_answer_does_not_count_for_the_new_one() -> None:
    scene = ProgramStage().ready()
    scene.answering()
    old = scene.conversation.epoch
    scene.do(message())
    scene.done("resp_1", status="cancelled")
    scene.created("resp_2", "turn_2")
    scene.audio("resp_2", "item_b", ms=500)
    scene.do(PlayoutProgress(old, 24 * 400, False))
    (truncate, _) = scene.sent(scene.do(InterruptAsked()))
    assert (truncate["item_id"], truncate["audio_end_ms"]) == ("item_b", 0)


# --- interruption: unheard answers ------------------------------------------------------------------------------------


def test_an_answer_arriving_after_the_interruption_is_deleted() -> None:
    scene = ProgramStage().ready()
    scene.say()
    scene.committed()
    scene.do(InterruptAsked())
    scene.created()
    scene.item_added()
    scene.audio(ms=200)
    commands = scene.item_done("It is noon.")
    assert scene.sent(commands) == [
        {"type": "conversation.item.delete", "event_id": "item_item_a", "item_id": "item_a"}
    ]
    assert scene.known() == ["item_user"]


def test_a_partly_heard_answer_is_kept_with_the_heard_part() -> None:
    scene = ProgramStage().ready()
    scene.say()
    scene.committed()
    scene.created()
    scene.item_added()
    scene.audio(ms=2000)
    scene.play(24 * 1000)
    scene.wrote("It is noon, and the sun is shining.", is_final=True)
    scene.do(InterruptAsked())
    commands = scene.item_done("It is noon, and the sun is shining.")
    assert "conversation.item.delete" not in scene.sent_types(commands)
    item = scene.conversation.history[-1]
    assert (item.id, item.heard_ms, item.status) == ("item_a", 1000, "incomplete")
    assert item.text == "It is noon, and"


def test_an_item_added_after_the_interruption_is_deleted_too() -> None:
    """The first message is partly heard; the server adds the second before the cancel arrives."""
    scene = ProgramStage().ready()
    scene.say()
    scene.committed()
    scene.created()
    scene.item_added("item_a")
    scene.audio(ms=2000)
    scene.play(2400)
    scene.do(InterruptAsked())
    scene.item_done("One.", "item_a")
    scene.item_added("item_b")
    scene.audio(item_id="item_b", ms=100)
    commands = scene.item_done("Two.", "item_b")
    assert [one["item_id"] for one in scene.sent(commands)] == ["item_b"]
    assert scene.known() == ["item_user", "item_a"]


def test_an_unheard_answer_that_appears_only_in_response_done_is_deleted() -> None:
    scene = ProgramStage().ready()
    scene.say()
    scene.committed()
    scene.do(InterruptAsked())
    scene.created()
    content = [{"type": "output_audio", "transcript": "It is noon."}]
    item = {"id": "item_a", "type": "message", "role": "assistant", "status": "incomplete", "content": content}
    commands = scene.done(status="cancelled", output=[item])
    assert scene.sent_types(commands) == ["conversation.item.delete"]
    assert scene.known() == ["item_user"]
