"""Tests of the conversation core: connecting, turns of the button, tap to talk, and states."""

from __future__ import annotations

import pytest

from appliance.conversation.commands import FinishPlay
from appliance.conversation.events import (
    ButtonEdge,
    CaptureOverrun,
    CardLost,
    Event,
    LinkDown,
    LinkUp,
    ServerEventReceived,
    Started,
)
from appliance.conversation.notices import AnswerText, Error, InputText, TurnEnd
from appliance.conversation.support.feedback import State, light_state
from appliance.realtime import protocol as wire
from tests.support.stage import RESTING, SESSION, Stage, period

# --- connecting -------------------------------------------------------------------------------------------------------


def test_start_connects_and_session_created_makes_it_ready() -> None:
    stage = Stage()
    assert stage.state == "booting"
    stage.start()
    assert stage.state == "connecting"
    stage.do(LinkUp(stage.link))
    assert stage.state == "connecting", "an open socket is not a session"
    stage.server({"type": "session.created", "session": {"type": "realtime"}})
    assert stage.state == "ready"
    assert stage.sent() == [{"type": "session.update", "event_id": "session_1", "session": SESSION}]


def test_a_silent_server_times_out_and_is_retried() -> None:
    stage = Stage().start()
    stage.do(LinkUp(stage.link))
    stage.advance(15.1)
    assert stage.state in ("offline", "connecting")
    assert stage.troubles() == ["timeout"]
    assert light_state(stage.conversation.view) == "no_link"
    stage.advance(60)
    assert len(stage.connects()) >= 3


def test_a_bad_key_fails_without_rapid_retries() -> None:
    stage = Stage().start()
    stage.do(LinkUp(stage.link))
    stage.error("invalid_api_key", message="Incorrect API key provided")
    stage.lose("bad_key", 3000)
    assert stage.state == "failed"
    assert light_state(stage.conversation.view) == "failed"
    assert stage.troubles() == ["bad_key"]
    stage.advance(200)
    assert len(stage.connects()) == 1


def test_a_press_in_the_failed_state_retries_and_announces_the_reason() -> None:
    stage = Stage().start()
    stage.advance(2)
    stage.lose("bad_key", 3000)
    stage.press()
    assert len(stage.connects()) == 2
    stage.lose("bad_key", 3000)
    assert stage.state == "failed"
    assert "key" in stage.announced()[0]
    assert stage.outcomes() == ["failed"]


def test_repeated_link_losses_back_off_up_to_the_limit() -> None:
    stage = Stage(backoff_initial_s=1.0, backoff_max_s=8.0).start()
    waits = []
    for _ in range(8):
        before = stage.now
        count = len(stage.connects())
        stage.lose()
        assert stage.state == "offline"
        while len(stage.connects()) == count:
            stage.advance(0.05)
        waits.append(stage.now - before)
    assert all(wait <= 8.1 for wait in waits)
    assert max(waits[4:]) > waits[0]


def test_events_of_an_old_link_are_ignored() -> None:
    stage = Stage().ready()
    old = stage.link
    stage.lose()
    stage.advance(5)
    stage.do(LinkUp(old))
    stage.do(ServerEventReceived(old, wire.SessionCreated(session={})))
    stage.do(LinkDown(old, "closed", 1000, ""))
    assert stage.state == "connecting"


def test_an_expired_session_reconnects_at_once_without_an_error() -> None:
    stage = Stage().ready()
    stage.error("session_expired", message="Your session hit the maximum duration of 60 minutes.")
    stage.lose("session_expired", 1001)
    stage.advance(0.01)
    assert len(stage.connects()) == 1
    assert stage.troubles() == []


def test_refused_settings_fail_the_link_instead_of_using_wrong_settings() -> None:
    stage = Stage().start()
    stage.link_ready()
    stage.error("unknown_parameter", event_id="session_1", message="Unknown parameter: 'session.foo'.")
    assert stage.state == "failed"
    assert stage.troubles() == ["server_error", "settings_refused"]


def test_a_key_quoted_by_the_server_is_masked() -> None:
    stage = Stage().ready()
    stage.error("invalid_api_key", message="Incorrect API key provided: sk-proj-abcdef123456. Find yours elsewhere.")
    (trouble,) = stage.notices(Error)
    assert "abcdef" not in trouble.detail


# --- a turn -----------------------------------------------------------------------------------------------------------


def test_a_held_button_is_one_turn_from_press_to_answer() -> None:
    stage = Stage().ready()
    stage.press()
    assert stage.state == "listening"
    stage.hear(400)
    stage.release()
    assert stage.state == "listening", "the post-roll still runs"
    stage.hear(260)
    assert stage.state == "committing"
    assert stage.sent_types() == [
        "input_audio_buffer.clear",
        "input_audio_buffer.append",
        "input_audio_buffer.commit",
        "response.create",
    ]
    assert stage.sent()[-1]["response"] == {"metadata": {"turn": "turn_1"}}
    stage.committed()
    assert stage.state == "thinking"
    stage.created()
    stage.audio(ms=200)
    assert stage.state == "speaking"
    stage.done()
    assert stage.state == "speaking", "generated is not heard"
    stage.play(4800, drained=True)
    assert stage.state == "ready"
    assert stage.outcomes() == ["answered"]


def test_a_press_sends_the_pre_roll_at_once() -> None:
    stage = Stage(pre_roll_ms=300).ready()
    for sample in range(1, 31):
        stage.hear(20, sample * 100)
    audio = stage.sent_audio(stage.press())
    assert audio == b"".join(period(sample * 100) for sample in range(16, 31))


def test_after_the_release_only_the_post_roll_is_sent() -> None:
    stage = Stage(post_roll_ms=100, pre_roll_ms=0).ready()
    stage.press()
    stage.hear(200, 1000)
    stage.release()
    stage.hear(300, 2000)
    assert stage.sent_audio() == period(1000) * 10 + period(2000) * 5


def test_nothing_is_sent_while_the_button_is_up() -> None:
    stage = Stage().ready()
    stage.hear(2000)
    assert stage.sent() == []


def test_pressing_again_in_the_post_roll_continues_the_turn() -> None:
    stage = Stage().ready()
    stage.press()
    stage.hear(300)
    stage.release()
    stage.hear(100)
    stage.press()
    stage.hear(300)
    stage.release()
    stage.hear(300)
    assert stage.sent_types().count("input_audio_buffer.commit") == 1


def test_a_press_shorter_than_the_minimum_is_cleared_not_committed() -> None:
    stage = Stage().ready()
    stage.hear(400)
    stage.press()
    stage.hear(60)
    stage.release()
    assert stage.state == "ready"
    assert stage.sent_types() == [
        "input_audio_buffer.clear",
        "input_audio_buffer.append",
        "input_audio_buffer.clear",
    ]
    assert stage.outcomes() == ["too_short"]
    assert stage.earcons()[-1] == "cancel"


def test_digital_silence_is_reported_instead_of_committed() -> None:
    stage = Stage().ready()
    stage.press()
    stage.hear(1000, 0, -96.0)
    stage.release()
    stage.hear(300, 0, -96.0)
    assert "input_audio_buffer.commit" not in stage.sent_types()
    assert stage.sent_types()[-1] == "input_audio_buffer.clear"
    assert stage.outcomes() == ["silence"]
    assert stage.troubles() == ["silent_microphone"]
    assert "microphone" in stage.announced()[0]
    assert light_state(stage.conversation.view) == "error"
    stage.advance(5)
    assert light_state(stage.conversation.view) == "ready"


@pytest.mark.parametrize("mode", ["hold", "auto", "tap"])
@pytest.mark.parametrize("limit_s", [60, 20])
def test_a_press_over_the_limit_is_committed_up_to_the_limit_at_the_release(mode: str, limit_s: int) -> None:
    stage = Stage(button_mode=mode, max_turn_s=float(limit_s)).ready()
    stage.press()
    stage.hear(1000 * limit_s, 4000)
    stage.hear(10_000, 5000)
    assert stage.sent_types() == ["input_audio_buffer.clear", "input_audio_buffer.append"]
    assert (stage.earcons(), stage.troubles(), stage.state) == (["start", "end"], ["too_long"], "committing")
    assert light_state(stage.conversation.view) == "thinking"
    stage.release()
    assert stage.sent_types()[2:] == ["input_audio_buffer.commit", "response.create"]
    assert abs(len(stage.sent_audio()) - 48_000 * limit_s) <= 960
    assert period(5000)[:2] not in stage.sent_audio()
    assert (stage.earcons(), stage.troubles()) == (["start", "end"], ["too_long"])
    stage.committed()
    stage.created()
    stage.audio(ms=20)
    stage.done()
    stage.play(480, drained=True)
    assert (stage.outcomes(), stage.sent_types().count("response.create")) == (["answered"], 1)


def test_a_press_as_long_as_the_limit_is_one_sentence_whatever_its_pre_roll() -> None:
    stage = Stage(max_turn_s=2.0).ready()
    stage.hear(1000, 30)
    stage.press()
    stage.hear(1980)
    stage.release()
    stage.hear(260, 30, -60.0)
    assert stage.troubles() == []
    assert len(stage.sent_audio()) >= 48 * (300 + 1980 + 250)


@pytest.mark.parametrize("limit_s", [60, 20])
def test_a_held_talk_button_is_stuck_30_s_after_the_limit_and_not_before(limit_s: int) -> None:
    stage = Stage(max_turn_s=float(limit_s)).ready()
    stage.press()
    stage.hear(1000 * (limit_s + 29))
    assert (stage.troubles(), stage.outcomes()) == (["too_long"], [])
    stage.hear(2000)
    assert stage.troubles() == ["too_long", "button_stuck"]
    assert (stage.outcomes(), stage.earcons()) == (["cancelled"], ["start", "end", "cancel"])
    stage.release()
    assert "input_audio_buffer.commit" not in stage.sent_types()


@pytest.mark.parametrize("event", [CaptureOverrun(480), CardLost("capture", "gone")])
def test_nothing_that_happens_after_the_limit_asks_before_the_release(event: Event) -> None:
    stage = Stage(max_turn_s=2.0).ready()
    stage.press()
    stage.hear(2100)
    stage.do(event)
    assert stage.sent_types() == ["input_audio_buffer.clear", "input_audio_buffer.append"]
    stage.release()
    assert stage.sent_types()[2:] == ["input_audio_buffer.commit", "response.create"]


def test_a_press_over_the_limit_without_a_connection_waits_for_it_from_the_release() -> None:
    stage = Stage(max_turn_s=2.0, stuck_s=60.0, link_wait_s=10.0).start()
    stage.advance(2.0)
    stage.press()
    stage.hear(20_000)
    stage.release()
    stage.advance(9.9)
    assert stage.outcomes() == []
    stage.advance(0.2)
    assert stage.outcomes() == ["failed"]


def test_a_dead_microphone_is_reported_at_the_release_of_a_press_over_the_limit() -> None:
    stage = Stage(max_turn_s=2.0).ready()
    stage.press()
    stage.hear(3000, 0, -96.0)
    assert stage.outcomes() == []
    stage.release()
    assert (stage.outcomes(), stage.troubles()) == (["silence"], ["too_long", "silent_microphone"])


def test_a_latched_turn_over_the_limit_is_committed_at_the_limit() -> None:
    stage = Stage(button_mode="auto", max_turn_s=2.0).ready()
    stage.press()
    stage.release()
    stage.hear(2100)
    assert stage.sent_types()[-2:] == ["input_audio_buffer.commit", "response.create"]
    assert (stage.troubles(), stage.earcons()) == (["too_long"], ["start", "end"])


def test_transcripts_of_input_and_answer_name_their_turn() -> None:
    stage = Stage().ready()
    stage.say()
    stage.committed("item_u")
    stage.created()
    stage.server({"type": "response.output_audio_transcript.delta", "response_id": "resp_1", "delta": "Lamp "})
    stage.server({"type": "response.output_audio_transcript.done", "response_id": "resp_1", "transcript": "Lamp on."})
    stage.server(
        {
            "type": "conversation.item.input_audio_transcription.completed",
            "item_id": "item_u",
            "transcript": " turn on the lamp\n",
            "usage": {"type": "duration", "seconds": 1},
        }
    )
    assert stage.notices(InputText) == [InputText("turn on the lamp", is_final=True, turn="turn_1")]
    assert stage.notices(AnswerText) == [
        AnswerText("turn_1", "Lamp ", False),
        AnswerText("turn_1", "Lamp on.", True),
    ]


def test_usage_of_all_responses_is_added_up() -> None:
    stage = Stage().ready()
    stage.say()
    stage.committed()
    stage.created()
    stage.called("get_time", "call_1")
    stage.done(usage={"total_tokens": 10, "input_token_details": {"audio_tokens": 7}})
    stage.tool_finished("call_1", "{}")
    stage.created("resp_2")
    stage.audio("resp_2")
    stage.done("resp_2", usage={"total_tokens": 5, "input_token_details": {"audio_tokens": 1}})
    stage.play(4800, drained=True)
    (ended,) = stage.notices(TurnEnd)
    assert dict(ended.usage) == {"total_tokens": 15, "input_audio_tokens": 8}


def test_an_answer_without_audio_is_reported() -> None:
    stage = Stage().ready()
    stage.say()
    stage.committed()
    stage.created()
    stage.done()
    assert stage.outcomes() == ["failed"]
    assert stage.troubles() == ["empty_answer"]
    assert len(stage.announced()) == 1


def test_a_failed_response_is_reported() -> None:
    stage = Stage().ready()
    stage.say()
    stage.committed()
    stage.created()
    details = {"type": "failed", "error": {"type": "server_error", "code": "rate_limit_exceeded", "message": "slow"}}
    stage.done(status="failed", status_details=details)
    assert stage.outcomes() == ["failed"]
    assert stage.troubles() == ["answer_failed"]
    assert stage.state == "ready"


def test_a_missing_answer_is_reported_and_its_late_audio_is_dropped() -> None:
    stage = Stage(answer_s=20.0).ready()
    stage.say()
    stage.committed()
    stage.created()
    stage.advance(20.1)
    assert stage.outcomes() == ["failed"]
    assert stage.troubles() == ["no_answer"]
    assert stage.sent_types()[-1] == "response.cancel"
    stage.audio()
    assert stage.plays() == []


# --- tap to talk ------------------------------------------------------------------------------------------------------


def test_a_tap_starts_a_turn_that_silence_ends() -> None:
    stage = Stage(button_mode="auto", silence_ms=800).ready()
    stage.hear(400, 20, -60.0)
    stage.press()
    stage.hear(100, 20, -60.0)
    stage.release()
    assert stage.state == "listening"
    stage.hear(1000, 4000, -18.0)
    stage.hear(600, 20, -60.0)
    assert stage.state == "listening"
    stage.hear(300, 20, -60.0)
    assert stage.state == "committing"


def test_a_second_tap_ends_the_turn() -> None:
    stage = Stage(button_mode="auto").ready()
    stage.press()
    stage.hear(100)
    stage.release()
    stage.hear(1000)
    stage.press()
    stage.hear(300)
    assert stage.state == "committing"
    stage.release()
    assert stage.sent_types().count("input_audio_buffer.commit") == 1


def test_a_tap_without_speech_clears_the_buffer() -> None:
    stage = Stage(button_mode="auto", no_speech_s=3.0).ready()
    stage.press()
    stage.hear(100, 20, -60.0)
    stage.release()
    stage.hear(3100, 20, -60.0)
    assert stage.outcomes() == ["silence"]
    assert "input_audio_buffer.commit" not in stage.sent_types()


def test_a_long_press_in_auto_mode_is_hold_to_talk() -> None:
    stage = Stage(button_mode="auto").ready()
    stage.say(600)
    assert stage.state == "committing"


def test_contact_bounce_neither_splits_nor_ends_a_turn() -> None:
    stage = Stage().ready()
    for level in (True, False, True, False, True):
        stage.do(ButtonEdge(level))
        stage.advance(0.004)
    stage.hear(300)
    stage.do(ButtonEdge(False))
    stage.advance(0.01)
    stage.do(ButtonEdge(True))
    stage.hear(300)
    assert stage.state == "listening"
    stage.release()
    stage.hear(260)
    assert stage.sent_types().count("input_audio_buffer.commit") == 1


def test_a_button_held_from_the_start_is_stuck_and_starts_no_turn() -> None:
    stage = Stage().start()
    stage.link_ready()
    stage.press()
    assert stage.state == "ready"
    stage.advance(31)
    assert stage.troubles() == ["button_stuck"]
    assert light_state(stage.conversation.view) == "button_stuck"
    stage.release()
    assert not stage.conversation.view.is_button_stuck
    stage.press()
    assert stage.state == "listening"


# --- states -----------------------------------------------------------------------------------------------------------


def test_every_state_except_resting_ones_has_a_deadline() -> None:
    stage = Stage().start()
    seen = set()

    def check() -> None:
        state = stage.conversation.state
        seen.add(state)
        if state not in RESTING:
            assert stage.conversation.deadline is not None, state

    check()
    stage.link_ready()
    stage.advance(2)
    for step in (stage.say, stage.committed, stage.created, stage.audio, stage.done):
        step()
        check()
    stage.press()
    check()
    assert {State.CONNECTING, State.COMMITTING, State.THINKING, State.SPEAKING, State.LISTENING} <= seen


def test_the_same_events_at_the_same_times_give_the_same_commands() -> None:
    def run() -> list[object]:
        stage = Stage().start()
        stage.lose()
        stage.advance(20)
        stage.link_ready()
        stage.say()
        stage.committed()
        stage.created()
        stage.audio()
        return list(stage.commands)

    assert run() == run()


def test_events_before_started_are_ignored() -> None:
    stage = Stage()
    stage.do(ButtonEdge(True))
    assert stage.state == "booting"
    stage.do(Started())
    assert stage.state == "connecting"


def test_the_received_part_of_a_cut_answer_is_drained_even_if_short() -> None:
    stage = Stage().ready()
    stage.say()
    stage.committed()
    stage.created()
    stage.audio(ms=40)  # less than the prebuffer of the playback
    stage.lose()
    assert FinishPlay(stage.conversation.epoch) in stage.commands
    stage.play(960, drained=True)
    assert stage.troubles()[-1] == "answer_cut"
    assert stage.outcomes() == ["failed"]


def test_a_fatal_link_end_after_the_whole_answer_is_reported_and_the_answer_drains() -> None:
    stage = Stage().ready()
    stage.answering(ms=1000)
    stage.done()
    stage.lose("no_credit", 1013)
    assert stage.troubles() == ["no_credit"]
    assert stage.outcomes() == []
    stage.play(24_000 - 2400, drained=True)
    assert stage.outcomes() == ["answered"]
    assert stage.state == "failed"


def test_a_server_that_expires_every_session_is_retried_with_backoff() -> None:
    stage = Stage(backoff_initial_s=1.0, backoff_max_s=8.0).ready()
    waits = []
    for _ in range(6):
        before, count = stage.now, len(stage.connects())
        stage.lose("session_expired", 1001)
        while len(stage.connects()) == count:
            stage.advance(0.05)
        waits.append(stage.now - before)
        stage.link_ready()
    assert waits[0] <= 0.05, "an expiry is normal"
    assert all(wait >= 0.5 for wait in waits[1:]), "repeated expiries are not"
    assert stage.troubles() == ["session_expired"] * 5
    stage.advance(20.0)  # this session was stable
    stage.commands.clear()
    stage.lose("session_expired", 1001)
    stage.advance(0.01)
    assert len(stage.connects()) == 1
    assert stage.troubles() == []


def test_an_error_before_session_created_becomes_the_reason_of_the_timeout() -> None:
    stage = Stage().start()
    stage.do(LinkUp(stage.link))
    stage.error("invalid_api_key", message="Incorrect API key provided")
    stage.advance(15.1)  # the server does not close
    assert stage.troubles() == ["bad_key"]
    assert stage.state == "failed"
