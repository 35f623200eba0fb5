"""Tests of the conversation core: turns that the server detects."""

from __future__ import annotations

from appliance.conversation.notices import AudioInterrupted, TurnStart
from tests.support.stage import period
from tests.support.stages.program import TRUNCATION, ProgramStage, listening_server


def test_with_server_vad_all_audio_is_sent_without_a_turn() -> None:
    scene = ProgramStage(specs=[listening_server()]).ready()
    commands = scene.hear(200, sample=1234)
    assert scene.sent_audio(commands) == period(1234, frames=24 * 200)
    assert scene.state == "ready"


def test_with_server_vad_speech_starts_a_turn_that_the_commit_ends() -> None:
    scene = ProgramStage(specs=[listening_server()]).ready()
    scene.hear(100)
    scene.speech_started()
    assert scene.state == "listening"
    scene.hear(400)
    scene.speech_stopped()
    assert scene.state == "listening"
    scene.committed()
    assert scene.state == "thinking"
    assert [one.turn for one in scene.notices(TurnStart)] == ["turn_1"]


def test_with_server_vad_audio_is_sent_once_and_never_cleared_or_committed_by_the_client() -> None:
    scene = ProgramStage(specs=[listening_server()]).ready()
    for sample, speak in ((1, lambda: None), (2, scene.speech_started), (3, scene.speech_stopped)):
        scene.hear(100, sample=sample)
        speak()
    scene.committed()
    assert scene.sent_audio() == b"".join(period(sample, frames=2400) for sample in (1, 2, 3))
    assert scene.sent_types() == ["input_audio_buffer.append"]


def test_with_server_vad_the_servers_own_response_is_played() -> None:
    scene = ProgramStage(specs=[listening_server()]).ready()
    scene.spoke_to_server()
    scene.answered(turn=None)
    assert [one.item_id for one in scene.plays()] == ["item_a"]
    assert scene.requests() == []
    assert scene.outcomes() == ["answered"]


def test_without_create_response_one_response_is_requested() -> None:
    scene = ProgramStage(specs=[listening_server(create_response=False)]).ready()
    scene.spoke_to_server()
    assert [one["response"] for one in scene.requests()] == [{"metadata": {"turn": "turn_1"}}]
    scene.answered()
    assert scene.outcomes() == ["answered"]


def test_speech_during_an_answer_stops_it_without_a_cancel_if_the_server_interrupts() -> None:
    scene = ProgramStage(specs=[listening_server(interrupt_response=True)]).ready()
    scene.spoke_to_server()
    scene.created(turn=None)
    scene.audio(ms=2000)
    scene.play(2400)
    commands = scene.speech_started("item_2")
    assert [one for one in scene.sent(commands) if one["type"] != "input_audio_buffer.append"] == [TRUNCATION]
    assert len(scene.flushes()) >= 1
    assert scene.notices(AudioInterrupted) == [AudioInterrupted("item_a", 100)]
    assert scene.state == "listening"


def test_without_interrupt_response_speech_during_an_answer_sends_a_cancel() -> None:
    scene = ProgramStage(specs=[listening_server(interrupt_response=False)]).ready()
    scene.spoke_to_server()
    scene.created(turn=None)
    scene.audio(ms=2000)
    scene.play(2400)
    commands = scene.speech_started("item_2")
    assert scene.sent_types(commands) == ["conversation.item.truncate", "response.cancel"]


def test_with_server_vad_the_answer_after_an_interrupted_one_is_played() -> None:
    scene = ProgramStage(specs=[listening_server()]).ready()
    scene.spoke_to_server()
    scene.created(turn=None)
    scene.audio(ms=2000)
    scene.play(2400)
    scene.spoke_to_server("item_2")
    scene.audio("resp_1", "item_a", ms=200)
    scene.done("resp_1", turn=None, status="cancelled", status_details={"type": "cancelled", "reason": "turn_detected"})
    scene.played_frames = 0
    scene.created("resp_2", turn=None)
    scene.audio("resp_2", "item_b", ms=100)
    assert [one.item_id for one in scene.plays()] == ["item_a", "item_b"], "no late audio of the first"
    scene.done("resp_2", turn=None)
    scene.play(2400, drained=True)
    assert scene.outcomes() == ["interrupted", "answered"]


def test_a_response_the_server_cancels_before_any_audio_counts_as_interrupted() -> None:
    scene = ProgramStage(specs=[listening_server()]).ready()
    scene.spoke_to_server()
    scene.created(turn=None)
    scene.done(turn=None, status="cancelled", status_details={"type": "cancelled", "reason": "turn_detected"})
    assert scene.outcomes() == ["interrupted"]
    assert scene.troubles() == []


def test_with_server_vad_a_press_stops_the_answer_and_starts_no_turn() -> None:
    scene = ProgramStage(specs=[listening_server()]).ready()
    scene.spoke_to_server()
    scene.created(turn=None)
    scene.audio(ms=2000)
    scene.play(2400)
    commands = scene.press()
    assert scene.sent_types(commands) == ["conversation.item.truncate", "response.cancel"]
    assert scene.state == "ready"


def test_with_server_vad_an_idle_timeout_prompt_is_played() -> None:
    scene = ProgramStage(specs=[listening_server(idle_timeout_ms=6000)]).ready()
    scene.hear(100)
    scene.server(
        {
            "type": "input_audio_buffer.timeout_triggered",
            "item_id": "item_idle",
            "audio_start_ms": 0,
            "audio_end_ms": 6000,
        }
    )
    scene.committed("item_idle")
    scene.answered(turn=None)
    assert [one.item_id for one in scene.plays()] == ["item_a"]
    assert scene.outcomes() == ["answered"]


def test_without_server_vad_speech_started_is_ignored() -> None:
    scene = ProgramStage().ready()
    scene.answering()
    assert scene.speech_started() == []
    assert scene.state == "speaking"


def test_with_server_vad_a_link_lost_in_mid_sentence_gets_the_sentence_again() -> None:
    scene = ProgramStage(specs=[listening_server()], pre_roll_ms=100).ready()
    scene.hear(100, sample=1)
    scene.speech_started()
    scene.hear(100, sample=2)
    scene.lose()
    scene.hear(100, sample=3)
    scene.advance(5)
    before = len(scene.commands)
    scene.link_ready()
    again = scene.commands[before:]
    assert scene.sent_types(again) == ["session.update", "input_audio_buffer.clear", "input_audio_buffer.append"]
    assert scene.sent_audio(again) == b"".join(period(sample, frames=2400) for sample in (1, 2, 3))
    scene.speech_started("item_again")
    scene.committed("item_again")
    scene.answered(turn=None)
    assert scene.outcomes() == ["answered"]
    assert [one.turn for one in scene.notices(TurnStart)] == ["turn_1"]


def test_with_server_vad_a_link_lost_before_the_answer_gets_the_turn_again() -> None:
    scene = ProgramStage(specs=[listening_server()], pre_roll_ms=0).ready()
    scene.speech_started()
    scene.hear(200, sample=5)
    scene.committed()
    scene.created(turn=None)
    again = scene.relink()
    assert scene.sent_audio(again) == period(5, frames=4800)
    assert scene.known() == [], "the replayed turn gets a new item"


def test_with_server_vad_a_turn_the_server_never_ends_fails_and_is_reported() -> None:
    scene = ProgramStage(specs=[listening_server()], max_turn_s=10.0).ready()
    scene.speech_started()
    scene.hear(200)
    scene.advance(10.0)
    assert (scene.outcomes(), scene.troubles(), len(scene.announced())) == (["failed"], ["no_answer"], 1)


def test_with_server_vad_a_response_that_is_created_before_the_commit_is_played() -> None:
    scene = ProgramStage(specs=[listening_server()]).ready()
    scene.speech_started()
    scene.hear(400)
    scene.speech_stopped()
    scene.created(turn=None)
    scene.committed()
    scene.audio(ms=100)
    scene.done(turn=None)
    scene.play(2400, drained=True)
    assert (len(scene.plays()), scene.requests(), scene.outcomes()) == (1, [], ["answered"])


def test_with_server_vad_a_late_response_of_the_turn_before_is_not_taken_for_the_answer() -> None:
    scene = ProgramStage(specs=[listening_server(interrupt_response=False)], cancel_s=3.0).ready()
    scene.spoke_to_server()
    scene.speech_started("item_2")
    scene.advance(3.1)
    assert scene.sent(scene.created(turn=None)) == [{"type": "response.cancel", "response_id": "resp_1"}]
    assert scene.state == "listening"
