"""Tests of the buttons on the whole conversation: short pulses, double taps, mute and power-off, in virtual time."""

from __future__ import annotations

import pytest

from appliance.agents.spec import AgentSpec
from appliance.conversation.commands import CloseCapture, Command, FlushPlayback, OpenCapture, PowerOff, PrepareAgent
from appliance.conversation.events import AgentPrepared, AlarmRang, AudioCaptured, ButtonEdge, MuteSwitched, NextKey
from appliance.conversation.notices import AgentUpdateEnded, HistoryChanged, TurnStart
from appliance.conversation.support.feedback import State
from tests.support.stage import PERIOD_MS, SESSION, Stage, period

SECOND = "second"
RELEASED_MS = 20  # the debounce of a release


def ready(mode: str = "auto", **more: object) -> Stage:
    """Return a stage with the shortest press of a real device."""
    return Stage(button_mode=mode, min_press_ms=15, **more).ready()


def asking(*calls: str, **more: object) -> Stage:
    """Return a stage whose calls of a tool wait for approval."""
    stage = ready(approvals=("unlock",), **more)
    stage.say()
    stage.committed()
    stage.created()
    for call_id in calls:
        stage.called("unlock", call_id)
    stage.done()
    return stage


def pulse(stage: Stage, ms: float, button: str = "") -> list[Command]:
    """Close the contact for `ms`, then wait for the debounce."""
    commands = stage.do(ButtonEdge(True, button == SECOND))
    commands += stage.advance(ms / 1000)
    commands += stage.do(ButtonEdge(False, button == SECOND))
    return commands + stage.advance(RELEASED_MS / 1000 + 0.001)


def tap(stage: Stage, ms: float = 100) -> list[Command]:
    return pulse(stage, ms)


def double_tap(stage: Stage, gap_ms: float = 150) -> list[Command]:
    """Tap twice; `gap_ms` from the first release to the second press."""
    commands = tap(stage) + stage.advance((gap_ms - RELEASED_MS - 1) / 1000)
    return commands + tap(stage)


# --- pulses that are too short ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["hold", "auto", "tap"])
@pytest.mark.parametrize("ms", [2, 8])
def test_spike_leaves_no_trace(mode: str, ms: int) -> None:
    stage = ready(mode)
    stage.hear(400)
    assert pulse(stage, ms) + stage.advance(10.0) == []
    assert stage.state == "ready"
    assert stage.conversation.turn_id is None
    stage.say()
    assert stage.conversation.turn_id == "turn_1"  # the spike had no number either


def test_light_shows_a_press_at_its_edge_and_takes_a_spike_back() -> None:
    stage = ready()
    stage.do(ButtonEdge(True))
    assert stage.state == State.LISTENING
    stage.advance(0.008)
    stage.do(ButtonEdge(False))
    stage.advance(0.021)
    assert stage.state == State.READY


def test_press_of_20_ms_is_too_short_in_hold() -> None:
    stage = ready("hold")
    pulse(stage, 20)
    assert (stage.outcomes(), stage.sent_types()) == (["too_short"], ["input_audio_buffer.clear"])


def test_press_of_20_ms_is_a_latched_turn_in_auto() -> None:
    stage = ready("auto")
    pulse(stage, 20)
    assert (stage.state, stage.outcomes()) == ("listening", [])
    stage.hear(400, 30, -60.0)
    stage.hear(600)
    stage.hear(1300, 30, -60.0)
    assert "input_audio_buffer.commit" in stage.sent_types()


def test_first_append_follows_the_edge_by_15_ms_and_nothing_is_sent_before() -> None:
    stage = ready()
    stage.hear(400, sample=7)
    assert stage.do(ButtonEdge(True)) == []
    assert stage.advance(0.0149) == []
    assert stage.sent_types(stage.advance(0.0002)) == ["input_audio_buffer.clear", "input_audio_buffer.append"]


def test_no_sound_is_lost_while_a_press_is_pending() -> None:
    """The pre-roll starts before the edge, as if the press had counted at once; also without a pre-roll."""
    stage = ready(pre_roll_ms=0)
    stage.hear(400, sample=7)
    stage.do(ButtonEdge(True))
    stage.advance(0.010)
    stage.do(AudioCaptured(period(8), 8, -60.0))
    stage.advance(0.006)
    assert stage.sent_audio() == period(8)


def test_spike_forgets_what_it_kept_for_a_press() -> None:
    stage = ready(pre_roll_ms=40)
    for _ in range(50):
        stage.hear(20, sample=7)
        stage.do(ButtonEdge(True))
        stage.do(AudioCaptured(period(7), 7, -60.0))
        stage.do(ButtonEdge(False))
        stage.advance(0.021)
    stage.do(ButtonEdge(True))
    stage.advance(0.016)
    assert len(stage.sent_audio()) <= len(period()) * 3  # 40 ms and at most a period more


@pytest.mark.parametrize("ms", [2, 8])
def test_spike_does_not_touch_a_running_answer(ms: int) -> None:
    stage = ready("hold").answering()
    assert not [one for one in pulse(stage, ms) if isinstance(one, FlushPlayback)]
    assert (stage.state, stage.sent_types()) == ("speaking", [])


def test_press_stops_the_answer_once_it_is_confirmed() -> None:
    stage = ready("hold").answering()
    stage.do(ButtonEdge(True))
    assert stage.flushes() == []
    stage.advance(0.015)
    assert len(stage.flushes()) == 1
    assert stage.state == "listening"


def test_spike_does_not_silence_an_alarm() -> None:
    stage = ready()
    stage.do(AlarmRang("timer_1", "tea"))
    pulse(stage, 8)
    assert stage.conversation.view.is_ringing
    pulse(stage, 20)
    assert not stage.conversation.view.is_ringing


def test_spike_does_not_approve_a_call() -> None:
    stage = asking("call_1")
    assert stage.state == "awaiting_approval"
    pulse(stage, 8)
    assert (stage.tool_runs(), stage.state) == ([], "awaiting_approval")
    pulse(stage, 40)
    assert [one.call_id for one in stage.tool_runs()] == ["call_1"]


def test_light_does_not_promise_to_listen_while_a_call_awaits_approval() -> None:
    stage = asking("call_1")
    stage.do(ButtonEdge(True))
    assert stage.state == "awaiting_approval"


def test_spike_does_not_end_a_tapped_turn() -> None:
    stage = ready("auto")
    tap(stage)
    stage.hear(200)
    pulse(stage, 8)
    stage.hear(500)
    assert (stage.state, stage.outcomes()) == ("listening", [])


def test_length_of_a_turn_is_measured_from_edge_to_edge() -> None:
    """A hold of 105 ms is long enough, although it was confirmed 15 ms after its edge."""
    stage = ready("hold", min_turn_ms=100)
    stage.hear(400)
    pulse(stage, 105)
    stage.hear(400)
    assert "input_audio_buffer.commit" in stage.sent_types()


def test_sentence_is_not_committed_while_a_press_that_may_continue_it_is_pending() -> None:
    stage = ready("hold")
    stage.press()
    stage.hear(500)
    stage.release()
    stage.hear(220, 30, -60.0)
    stage.do(ButtonEdge(True))
    stage.do(AudioCaptured(period(30), 30, -60.0))  # the last period of the post-roll
    assert "input_audio_buffer.commit" not in stage.sent_types()
    stage.advance(0.016)
    stage.hear(300)
    stage.release()
    stage.hear(260, 30, -60.0)
    assert stage.sent_types().count("input_audio_buffer.commit") == 1
    assert stage.conversation.turn_id == "turn_1"


# --- mute -------------------------------------------------------------------------------------------------------------


def test_mute_and_unmute_sound_different() -> None:
    stage = ready()
    stage.do(MuteSwitched(True))
    stage.do(MuteSwitched(False))
    assert stage.earcons() == ["muted", "unmuted"]


def test_second_button_mutes_at_its_release_and_unmutes() -> None:
    stage = ready()
    commands = pulse(stage, 200, SECOND)
    assert CloseCapture() in commands
    assert (stage.state, stage.conversation.view.is_mute_kept) == ("muted", True)
    assert OpenCapture() in pulse(stage, 200, SECOND)
    assert stage.state == "ready"


def test_spike_on_the_second_button_does_not_mute() -> None:
    stage = ready()
    assert pulse(stage, 8, SECOND) == []


def test_second_button_discards_what_is_said() -> None:
    stage = ready("auto")
    tap(stage)
    stage.hear(400)
    pulse(stage, 100, SECOND)
    assert (stage.outcomes(), stage.state) == (["cancelled"], "muted")


def test_closed_switch_mutes_and_nothing_else_unmutes() -> None:
    stage = ready()
    stage.do(MuteSwitched(True, is_by_switch=True))
    assert (stage.state, stage.conversation.view.is_mute_kept) == ("muted", False)
    commands = stage.do(MuteSwitched(False))
    assert OpenCapture() not in commands
    assert stage.announced() == ["The switch on the device keeps the microphone off."]
    assert OpenCapture() in stage.do(MuteSwitched(False, is_by_switch=True))


def test_switch_that_is_opened_undoes_every_mute() -> None:
    stage = ready()
    stage.do(MuteSwitched(True))
    stage.do(MuteSwitched(True, is_by_switch=True))
    stage.do(MuteSwitched(False, is_by_switch=True))
    assert (stage.state, stage.conversation.view.is_mute_kept) == ("ready", False)


def test_device_that_starts_muted_closes_the_microphone_and_shows_it() -> None:
    stage = Stage(is_muted=True)
    assert CloseCapture() in stage.start().commands
    assert stage.conversation.view.is_mute_kept


@pytest.mark.parametrize("mode", ["hold", "auto", "tap"])
def test_hold_of_4_s_unmutes_in_every_mode(mode: str) -> None:
    stage = ready(mode, mute_hold_s=4.0)
    stage.do(MuteSwitched(True))
    stage.do(ButtonEdge(True))
    stage.advance(3.99)
    assert stage.state == "muted"
    stage.advance(0.02)
    assert stage.state == "ready"
    stage.do(ButtonEdge(False))
    stage.advance(1.0)
    assert (stage.state, stage.outcomes()) == ("ready", [])


def test_hold_of_4_s_mutes_only_in_toggle_mode() -> None:
    for mode, state in (("tap", "muted"), ("hold", "listening"), ("auto", "listening")):
        stage = ready(mode, mute_hold_s=4.0)
        stage.do(ButtonEdge(True))
        stage.hear(4100)
        assert stage.state == state


def test_hold_of_4_s_in_toggle_mode_discards_the_turn_that_its_press_started() -> None:
    stage = ready("tap", mute_hold_s=4.0)
    stage.do(ButtonEdge(True))
    stage.hear(4100)
    stage.do(ButtonEdge(False))
    stage.advance(10.0)
    assert (stage.outcomes(), "input_audio_buffer.commit" in stage.sent_types()) == (["cancelled"], False)


# --- a double tap -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["hold", "auto", "tap"])
def test_double_tap_mutes_and_a_second_one_unmutes(mode: str) -> None:
    stage = ready(mode, double_tap="mute")
    double_tap(stage)
    assert (stage.state, stage.conversation.turn_id) == ("muted", None)
    assert "input_audio_buffer.commit" not in stage.sent_types()
    stage.advance(2.0)
    double_tap(stage)
    assert stage.state == "ready"


def test_double_tap_discards_the_turn_of_the_first_tap() -> None:
    stage = ready("auto", double_tap="mute")
    stage.hear(400)
    double_tap(stage)
    stage.advance(10.0)
    assert (stage.outcomes(), stage.sent_types()[-1]) == (["cancelled"], "input_audio_buffer.clear")


@pytest.mark.parametrize(("gap_ms", "state"), [(399, "muted"), (401, "listening")])
def test_second_press_counts_for_400_ms_after_the_release(gap_ms: int, state: str) -> None:
    stage = ready("hold", double_tap="mute")
    stage.press()
    stage.advance(0.05)
    stage.do(ButtonEdge(False))
    stage.advance(gap_ms / 1000)
    stage.do(ButtonEdge(True))
    stage.advance(0.016)
    assert stage.state == state


def test_commit_of_a_tap_waits_for_the_second_one_only_if_double_taps_are_set() -> None:
    waited = {}
    for action in ("", "mute"):
        stage = ready("hold", double_tap=action, post_roll_ms=40)
        stage.hear(400)
        stage.do(ButtonEdge(True))
        stage.hear(200)
        stage.do(ButtonEdge(False))
        start = stage.now
        while "input_audio_buffer.commit" not in stage.sent_types():
            stage.hear(PERIOD_MS)
        waited[action] = round(stage.now - start, 3)
    assert waited == {"": 0.04, "mute": pytest.approx(0.41, abs=0.011)}  # to the period


def test_commit_of_a_long_press_does_not_wait() -> None:
    stage = ready("hold", double_tap="mute", post_roll_ms=40)
    stage.hear(400)
    stage.do(ButtonEdge(True))
    stage.hear(600)
    stage.do(ButtonEdge(False))
    stage.hear(60)
    assert "input_audio_buffer.commit" in stage.sent_types()


def test_double_tap_that_ends_a_tapped_turn_discards_it() -> None:
    stage = ready("auto", double_tap="new_conversation")
    tap(stage)
    stage.hear(1000)
    stage.advance(0.5)
    double_tap(stage)
    stage.hear(1000, 30, -60.0)
    assert (stage.outcomes(), stage.state) == (["cancelled"], "ready")
    assert "input_audio_buffer.commit" not in stage.sent_types()


def test_spike_after_a_tap_is_no_second_tap() -> None:
    stage = ready("auto", double_tap="mute")
    tap(stage)
    stage.advance(0.1)
    pulse(stage, 8)
    assert stage.state == "listening"


def test_two_taps_are_one_while_approval_is_asked() -> None:
    stage = asking("call_1", "call_2", double_tap="mute")
    double_tap(stage)
    stage.advance(1.0)
    assert [one.call_id for one in stage.tool_runs()] == ["call_1"]
    assert (stage.state, stage.conversation.view.is_muted) == ("awaiting_approval", False)


def test_hold_rejects() -> None:
    stage = asking("call_1", hold_ms=700)
    stage.do(ButtonEdge(True))
    stage.advance(0.69)
    assert stage.state == "awaiting_approval"
    stage.advance(0.02)
    assert (stage.state, stage.tool_runs()) == ("thinking", [])


def test_two_taps_on_an_alarm_only_silence_it() -> None:
    stage = ready("auto", double_tap="mute")
    stage.do(AlarmRang("timer_1", "tea"))
    double_tap(stage)
    assert (stage.conversation.view.is_ringing, stage.state) == (False, "ready")


def test_double_tap_begins_a_new_conversation() -> None:
    stage = ready("auto", double_tap="new_conversation")
    stage.server(
        {
            "type": "conversation.item.added",
            "item": {"id": "item_1", "type": "message", "role": "user", "status": "completed", "content": []},
        }
    )
    assert [one.id for one in stage.conversation.history] == ["item_1"]
    stage.commands.clear()
    double_tap(stage)
    assert stage.conversation.history == ()
    assert [one["item_id"] for one in stage.sent() if one["type"] == "conversation.item.delete"] == ["item_1"]
    assert HistoryChanged("item_1") in stage.notices(HistoryChanged)  # the store follows this
    assert stage.announced() == ["I have forgotten our conversation. Let's start again."]


def test_double_tap_during_an_answer_stops_it() -> None:
    stage = ready("auto", double_tap="new_conversation").answering()
    double_tap(stage)
    assert (stage.outcomes(), stage.state) == (["interrupted", "cancelled"], "ready")
    assert "response.cancel" in stage.sent_types()


def spec(name: str) -> AgentSpec:
    return AgentSpec(agent=name, session=SESSION | {"instructions": name})


def next_agent(**agents: str) -> Stage:
    return Stage(
        specs=[spec("house")], button_mode="auto", min_press_ms=15, double_tap="next_agent", next_agents=agents
    ).ready()


def prepared(stage: Stage) -> PrepareAgent:
    (command,) = [one for one in stage.commands if isinstance(one, PrepareAgent)]
    stage.commands.clear()
    return command


def test_double_tap_hands_over_to_the_next_agent_of_the_list() -> None:
    stage = next_agent(house="kitchen", kitchen="house")
    double_tap(stage)
    asked = prepared(stage)
    assert (asked.agent, asked.reason) == ("kitchen", "connect")
    stage.do(AgentPrepared(asked.key, spec("kitchen")))
    assert stage.announced() == ["You are now talking to kitchen."]
    assert stage.conversation.agent == "house"
    stage.server({"type": "session.updated", "session": SESSION | {"instructions": "kitchen"}})
    assert stage.conversation.agent == "kitchen"
    double_tap(stage)
    assert prepared(stage).agent == "house"  # the list begins again


def test_second_double_tap_replaces_the_wish_for_the_next_agent() -> None:
    stage = next_agent(house="kitchen", kitchen="house")
    double_tap(stage)
    first = prepared(stage)
    stage.advance(1.0)
    double_tap(stage)
    assert prepared(stage).key == NextKey(2)
    assert stage.do(AgentPrepared(first.key, spec("kitchen"))) == []


def test_next_agent_that_cannot_be_prepared_or_is_refused_is_announced() -> None:
    for is_refused in (False, True):
        stage = next_agent(house="kitchen", kitchen="house")
        double_tap(stage)
        key = prepared(stage).key
        if is_refused:
            stage.do(AgentPrepared(key, spec("kitchen")))
            stage.error("invalid_value", event_id="agent_next")
            assert [one.problem for one in stage.notices(AgentUpdateEnded)] == [""]
        else:
            stage.do(AgentPrepared(key, None, "it has no instructions"))
        assert stage.troubles() == ["handoff_failed"]
        assert stage.announced()[-1] == "I could not pass you on to another assistant."
        assert stage.conversation.agent == "house"


def test_double_tap_with_one_agent_says_its_name() -> None:
    stage = next_agent(house="house")
    double_tap(stage)
    assert stage.announced() == ["You are now talking to house."]


# --- power-off --------------------------------------------------------------------------------------------------------


def power_offs(commands: list[Command]) -> int:
    return sum(isinstance(one, PowerOff) for one in commands)


def test_second_button_announces_the_power_off_and_the_release_does_it() -> None:
    stage = ready(power_off_hold_s=10.0)
    stage.do(ButtonEdge(True, is_second=True))
    assert power_offs(stage.advance(11.0)) == 0
    assert stage.announced() == ["Let go within 5 seconds, and I will switch off."]
    stage.do(ButtonEdge(False, is_second=True))
    assert power_offs(stage.advance(0.1)) == 1
    assert stage.state == "ready"  # no mute: the device starts as it was


def test_button_that_is_held_on_after_the_announcement_keeps_the_device_on() -> None:
    stage = ready(power_off_hold_s=10.0)
    stage.do(ButtonEdge(True, is_second=True))
    stage.advance(16.0)
    stage.do(ButtonEdge(False, is_second=True))
    assert power_offs(stage.advance(1.0)) == 0
    assert stage.announced()[-1] == "I'll stay on."
    assert stage.state == "ready"


def test_main_button_powers_off_only_in_toggle_mode() -> None:
    for mode, count in (("tap", 1), ("hold", 0), ("auto", 0)):
        stage = ready(mode, power_off_hold_s=10.0, mute_hold_s=4.0)
        stage.do(ButtonEdge(True))
        stage.hear(11_000)
        assert not stage.conversation.view.is_muted
        stage.do(ButtonEdge(False))
        assert power_offs(stage.advance(0.1)) == count


def test_without_a_command_no_hold_powers_off() -> None:
    stage = ready()
    stage.do(ButtonEdge(True, is_second=True))
    stage.advance(20.0)
    stage.do(ButtonEdge(False, is_second=True))
    assert power_offs(stage.advance(0.1)) == 0
    assert stage.announced() == []


def test_no_turn_is_announced_for_a_spike() -> None:
    stage = ready()
    pulse(stage, 8)
    assert stage.notices(TurnStart) == []
