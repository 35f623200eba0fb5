"""Tests of the conversation core over several endpoints: failover, rotation, expiry and the daily budget."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from appliance.agents.spec import AgentSpec
from appliance.conversation.commands import Connect, PrepareAgent
from appliance.conversation.events import (
    AgentPrepared,
    ConnectKey,
    DayBegan,
    FrameGiven,
    LinkDown,
    LinkFailure,
    LinkUp,
    MessageGiven,
    ToolFinished,
)
from appliance.conversation.notices import BudgetWarning, Connected, InputText, Usage
from appliance.realtime import protocol as wire
from tests.support.stage import SESSION, WORDING, period
from tests.support.stages.links import CLOUD, HOUSE, MODEL, OFFLINE, LinkStage

BAD_KEY: tuple[LinkFailure, int] = ("bad_key", 3000)
EXPIRED: tuple[LinkFailure, int] = ("session_expired", 1001)
TURN_SENT = ["input_audio_buffer.clear", "input_audio_buffer.append", "input_audio_buffer.commit", "response.create"]


# --- failover ----------------------------------------------------------------------------------------------------


def test_the_best_endpoint_is_tried_first() -> None:
    scene = LinkStage(endpoints=3)
    scene.start()
    assert scene.connects() == [Connect(1, CLOUD)]


def test_after_a_refused_connect_the_next_endpoint_is_tried_at_once() -> None:
    scene = LinkStage(endpoints=3)
    scene.start()
    scene.down(1)
    scene.advance(0.0)
    scene.down(2)
    scene.advance(0.0)
    assert scene.connects() == [Connect(1, CLOUD), Connect(2, HOUSE), Connect(3, OFFLINE)]


def test_when_all_endpoints_refuse_a_new_round_starts_after_a_wait() -> None:
    scene = LinkStage(endpoints=3, backoff_initial_s=1.0)
    scene.start()
    for link in (1, 2, 3):
        scene.down(link)
        scene.advance(0.0)
    assert scene.tried() == [CLOUD, HOUSE, OFFLINE]
    assert scene.state == "offline"
    scene.advance(0.49)
    assert len(scene.tried()) == 3, "the wait is at least half of the first"
    scene.advance(0.6)
    assert scene.tried() == [CLOUD, HOUSE, OFFLINE, CLOUD]


def test_failed_rounds_back_off() -> None:
    scene = LinkStage(endpoints=2, backoff_initial_s=1.0, backoff_max_s=16.0)
    scene.start()
    waits = []
    for _ in range(7):
        scene.down(scene.link)
        scene.advance(0.0)
        scene.down(scene.link)
        waits.append(scene.until_connecting())
    assert waits[0] <= 1.1
    assert max(waits[4:]) > 2.0
    assert max(waits) <= 16.1


def test_a_silent_server_is_followed_by_the_next_endpoint() -> None:
    scene = LinkStage(endpoints=2, connect_s=15.0)
    scene.start()
    scene.do(LinkUp(1))
    scene.advance(15.1)
    assert scene.closed() == [1]
    assert scene.tried() == [CLOUD, HOUSE]


def test_the_conversation_continues_on_the_next_endpoint() -> None:
    scene = LinkStage(endpoints=3)
    scene.start()
    scene.down(1)
    scene.advance(0.0)
    scene.open()
    assert scene.state == "ready"
    assert scene.notices(Connected) == [Connected(2, HOUSE)]


def test_an_unstable_link_is_followed_by_the_next_endpoint() -> None:
    scene = LinkStage(endpoints=2, stable_s=10.0)
    scene.start()
    scene.open()
    scene.advance(9.0)
    scene.down(1, "lost", 1006)
    scene.advance(0.0)
    assert scene.tried() == [CLOUD, HOUSE]


def test_after_losing_a_stable_link_the_best_endpoint_is_tried_first() -> None:
    scene = LinkStage(endpoints=3, stable_s=10.0).on(HOUSE)
    scene.advance(11.0)
    scene.down(2, "lost", 1006)
    scene.advance(1.0)
    assert scene.tried() == [CLOUD]


def test_after_losing_a_stable_link_to_the_best_endpoint_the_same_endpoint_is_tried_first() -> None:
    scene = LinkStage(endpoints=3, stable_s=10.0).on(CLOUD)
    scene.advance(11.0)
    scene.down(1, "lost", 1006)
    scene.advance(1.0)
    assert scene.tried() == [CLOUD], "on the house server the user would wait for the next failback"


def test_a_stable_link_resets_the_backoff() -> None:
    scene = LinkStage(endpoints=1, stable_s=10.0, backoff_initial_s=1.0, backoff_max_s=60.0)
    scene.start()
    for _ in range(8):
        scene.down(scene.link)
        scene.until_connecting()
    scene.open()
    scene.advance(11.0)
    scene.down(scene.link, "lost", 1006)
    assert scene.until_connecting() <= 1.05


# --- fatal reasons -----------------------------------------------------------------------------------------------


def test_a_bad_key_blocks_its_own_endpoint_only() -> None:
    scene = LinkStage(endpoints=2, backoff_initial_s=1.0)
    scene.start()
    scene.down(1, *BAD_KEY)
    scene.advance(0.0)
    assert scene.tried() == [CLOUD, HOUSE]
    assert scene.state != "failed"
    scene.down(2)
    scene.advance(1.1)
    assert scene.tried() == [CLOUD, HOUSE, HOUSE], "the round skips the endpoint that refuses the key"


def test_the_state_is_failed_only_when_every_endpoint_is_blocked() -> None:
    scene = LinkStage(endpoints=2)
    scene.start()
    scene.down(1, *BAD_KEY)
    scene.advance(0.0)
    assert scene.state == "connecting"
    scene.down(2, *BAD_KEY)
    assert scene.state == "failed"


def test_a_blocked_endpoint_is_retried_after_fatal_retry_s() -> None:
    scene = LinkStage(endpoints=2, fatal_retry_s=300.0)
    scene.start()
    scene.down(1, *BAD_KEY)
    scene.advance(10.0)
    scene.down(2, *BAD_KEY)
    scene.advance(289.0)
    assert scene.tried() == [CLOUD, HOUSE]
    scene.advance(1.5)
    assert scene.tried() == [CLOUD, HOUSE, CLOUD], "the endpoint whose block ends first"


def test_a_press_with_every_endpoint_blocked_tries_the_best_at_once() -> None:
    scene = LinkStage(endpoints=2)
    scene.start()
    scene.advance(2.0)
    scene.down(1, *BAD_KEY)
    scene.advance(0.0)
    scene.down(2, *BAD_KEY)
    scene.press()
    assert scene.tried() == [CLOUD, HOUSE, CLOUD]


def test_a_turn_survives_a_fatal_link_end_while_another_endpoint_is_left() -> None:
    scene = LinkStage(endpoints=2)
    scene.start()
    scene.advance(2.0)
    scene.say()
    scene.down(1, *BAD_KEY)
    scene.advance(0.0)
    scene.open()
    assert scene.types_on(2) == ["session.update", *TURN_SENT]
    assert scene.outcomes() == []


def test_an_endpoint_that_refuses_the_settings_is_followed_by_the_next() -> None:
    scene = LinkStage(endpoints=2)
    scene.start()
    scene.do(LinkUp(1))
    scene.server({"type": "session.created", "session": {"type": "realtime"}})
    scene.error("unknown_parameter", event_id="session_1", message="Unknown parameter: 'session.reasoning'.")
    scene.advance(0.0)
    assert scene.closed() == [1]
    assert scene.tried() == [CLOUD, HOUSE]
    scene.open()
    assert scene.state == "ready"


# --- failback ----------------------------------------------------------------------------------------------------


def test_a_spare_to_a_better_endpoint_is_opened_after_failback_s() -> None:
    scene = LinkStage(endpoints=3, failback_s=60.0).on(HOUSE)
    scene.advance(57.9)
    assert scene.connects() == []
    scene.advance(0.2)
    assert scene.connects() == [Connect(3, CLOUD)]
    assert scene.closed() == [], "the old link stays until the spare is ready"
    assert scene.state == "ready"


def test_on_the_best_endpoint_there_is_no_failback() -> None:
    scene = LinkStage(endpoints=3, failback_s=60.0).on(CLOUD)
    scene.advance(600.0)
    assert scene.connects() == []


def test_the_better_endpoint_takes_over_when_its_session_is_created() -> None:
    scene = LinkStage(endpoints=3, failback_s=60.0).on(HOUSE)
    scene.advance(60.0)
    scene.do(LinkUp(3))
    assert scene.closed() == [], "an open socket is not a session"
    scene.open(3)
    assert scene.closed() == [2]
    assert scene.using() == CLOUD
    assert scene.notices(Connected) == [Connected(3, CLOUD)]
    assert scene.types_on(3) == ["session.update"]
    assert scene.troubles() == []


def test_the_end_of_the_replaced_link_is_ignored() -> None:
    scene = LinkStage(endpoints=3, failback_s=60.0).on(HOUSE)
    scene.advance(60.0)
    scene.open(3)
    scene.down(2, "closed", 1000)
    assert (scene.state, scene.troubles(), scene.using()) == ("ready", [], CLOUD)


def test_a_failback_waits_for_the_end_of_the_turn() -> None:
    scene = LinkStage(endpoints=3, failback_s=60.0).on(HOUSE)
    scene.advance(50.0)
    scene.asked()
    scene.audio(ms=200)
    scene.advance(4.0)
    scene.done()
    scene.advance(0.5)
    scene.play(1)
    scene.advance(4.9)
    assert scene.conversation.turn_id is not None
    assert scene.connects() == [], "failback is due but the turn still runs"
    scene.play(4799, drained=True)
    assert scene.connects() == [Connect(3, CLOUD)]


def test_the_link_that_needs_a_tools_output_is_kept_until_the_tool_ends() -> None:
    scene = LinkStage(endpoints=3, failback_s=60.0, tool_s=120.0).on(HOUSE)
    scene.advance(50.0)
    scene.asked()
    scene.called("look_up", "call_1")
    scene.done()
    scene.press()
    scene.release()
    scene.advance(30.0)
    assert scene.conversation.turn_id is None
    assert scene.connects() == []
    scene.do(ToolFinished("call_1", "found"))
    assert scene.sent_on(2)[-1]["item"]["output"] == "found"
    assert scene.connects() == [Connect(3, CLOUD)]


def test_unconfirmed_settings_delay_a_failback_by_at_most_commit_s() -> None:
    scene = LinkStage(endpoints=3, failback_s=2.0, commit_s=5.0)
    scene.start()
    scene.down(1)
    scene.advance(0.0)
    scene.do(LinkUp(2))
    scene.server({"type": "session.created", "session": {"type": "realtime"}})
    scene.advance(4.9)
    assert len(scene.connects()) == 2
    scene.advance(0.2)
    assert scene.connects()[2:] == [Connect(3, CLOUD)], "some servers never confirm"


def test_confirmed_settings_allow_the_failback() -> None:
    scene = LinkStage(endpoints=3, failback_s=2.0, commit_s=5.0)
    scene.start()
    scene.down(1)
    scene.advance(0.0)
    scene.do(LinkUp(2))
    scene.server({"type": "session.created", "session": {"type": "realtime"}})
    scene.advance(3.0)
    scene.confirm()
    assert scene.connects()[2:] == [Connect(3, CLOUD)]


def test_a_spare_that_fails_is_ignored_and_retried_later() -> None:
    scene = LinkStage(endpoints=3, failback_s=60.0).on(HOUSE)
    scene.advance(60.0)
    scene.down(3)
    assert (scene.state, scene.troubles(), scene.closed(), scene.using()) == ("ready", [], [], HOUSE)
    scene.advance(59.0)
    assert len(scene.connects()) == 1
    scene.advance(1.5)
    assert scene.connects() == [Connect(3, CLOUD), Connect(4, CLOUD)]


def test_a_silent_spare_times_out() -> None:
    scene = LinkStage(endpoints=3, failback_s=60.0, connect_s=15.0).on(HOUSE)
    scene.advance(60.0)
    scene.do(LinkUp(3))
    scene.advance(15.0)
    assert scene.closed() == [3]
    assert (scene.state, scene.troubles(), scene.using()) == ("ready", [], HOUSE)


def test_turns_are_not_sent_on_a_spare() -> None:
    scene = LinkStage(endpoints=3, failback_s=60.0).on(HOUSE)
    scene.advance(60.0)
    scene.speaks_on = 2
    scene.whole_turn()
    assert scene.types_on(3) == []
    assert scene.types_on(2)[-1] == "response.create"


def test_a_failing_spare_does_not_disturb_the_running_turn() -> None:
    scene = LinkStage(endpoints=3, failback_s=60.0).on(HOUSE)
    scene.advance(60.0)
    scene.speaks_on = 2
    scene.asked()
    scene.down(3)
    scene.finish()
    assert scene.outcomes() == ["answered"]


def test_a_blocked_better_endpoint_is_not_tried_before_its_time_nor_replaced_by_the_current_one() -> None:
    scene = LinkStage(endpoints=2, failback_s=60.0, fatal_retry_s=300.0)
    scene.start()
    scene.down(1, *BAD_KEY)
    scene.advance(0.0)
    scene.open()
    scene.advance(299.0)
    assert scene.tried() == [CLOUD, HOUSE], "a new link to the same endpoint would gain nothing"
    scene.advance(61.0)
    assert scene.tried() == [CLOUD, HOUSE, CLOUD]


def test_a_spare_that_refuses_the_key_blocks_its_endpoint() -> None:
    scene = LinkStage(endpoints=2, failback_s=60.0, fatal_retry_s=300.0).on(HOUSE)
    scene.advance(60.0)
    scene.down(3, *BAD_KEY)
    scene.advance(290.0)
    assert scene.tried() == [CLOUD]
    assert scene.troubles() == []


def test_failback_tries_the_second_best_endpoint_if_the_best_is_blocked() -> None:
    scene = LinkStage(endpoints=3, failback_s=60.0, fatal_retry_s=1000.0)
    scene.start()
    scene.down(1, *BAD_KEY)
    scene.advance(0.0)
    scene.down(2)
    scene.advance(0.0)
    scene.open()
    scene.advance(60.0)
    assert scene.tried() == [CLOUD, HOUSE, OFFLINE, HOUSE]


def test_failback_tries_the_second_best_endpoint_if_the_best_is_down() -> None:
    """The cloud is down for hours; the house server is back after a minute."""
    scene = LinkStage(endpoints=3, failback_s=60.0).on(OFFLINE)
    scene.advance(60.0)
    scene.down(4)
    scene.advance(60.0)
    scene.down(5)
    scene.advance(60.0)
    assert HOUSE in scene.tried()


# --- the main link is lost while there is a spare -----------------------------------------------------------------


def test_a_ready_spare_takes_over_in_the_middle_of_a_turn() -> None:
    scene = LinkStage(endpoints=3, failback_s=60.0, pre_roll_ms=0).on(HOUSE)
    scene.advance(60.0)
    scene.speaks_on = 2
    scene.press()
    scene.hear(400, 777)
    scene.open(3)
    assert scene.closed() == [], "no switch during a turn"
    scene.commands.clear()
    scene.down(2, "lost", 1006)
    assert scene.types_on(3) == ["session.update", "input_audio_buffer.clear", "input_audio_buffer.append"]
    assert scene.sent_audio() == period(777) * 20
    assert scene.connects() == []
    scene.release()
    scene.hear(260, 30)
    scene.committed("item_again")
    scene.created("resp_1", scene.conversation.turn_id)
    scene.finish()
    assert scene.outcomes() == ["answered"]


def test_a_connecting_spare_becomes_the_main_link() -> None:
    scene = LinkStage(endpoints=3, failback_s=60.0).on(HOUSE)
    scene.advance(60.0)
    scene.down(2, "lost", 1006)
    assert scene.state == "connecting"
    scene.advance(1.0)
    assert scene.connects() == [Connect(3, CLOUD)]
    scene.open(3)
    assert scene.state == "ready"
    assert scene.types_on(3) == ["session.update"]


def test_a_spare_that_fails_after_the_main_link_is_followed_by_the_next_endpoint() -> None:
    scene = LinkStage(endpoints=3, failback_s=60.0).on(HOUSE)
    scene.advance(60.0)
    scene.down(2, "lost", 1006)
    scene.down(3)
    scene.advance(0.0)
    assert scene.tried() == [CLOUD, HOUSE]


# --- rotation ----------------------------------------------------------------------------------------------------


def rotating(**policy: Any) -> LinkStage:
    """Age the session of a conversation until its rotation has requested a spare."""
    scene = LinkStage(rotate_after_s=3300.0, **policy)
    scene.on(CLOUD)
    scene.whole_turn()
    scene.heard("What time is it?", "item_of_resp_1")
    said: dict[str, Any] = {"id": "item_resp_1", "type": "message", "status": "completed", "role": "assistant"}
    said["content"] = [{"type": "output_audio", "transcript": "It is noon."}]
    scene.server({"type": "conversation.item.done", "previous_item_id": "item_of_resp_1", "item": said})
    scene.commands.clear()
    scene.advance(3300.0)
    assert scene.connects() == [Connect(2, CLOUD)]
    return scene


def test_a_session_is_rotated_before_it_expires() -> None:
    scene = LinkStage(rotate_after_s=3300.0).on(CLOUD)
    scene.advance(3297.0)
    assert scene.connects() == []
    scene.advance(2.0)
    assert scene.connects() == [Connect(2, CLOUD)]
    assert scene.closed() == []


def test_the_new_session_gets_the_history() -> None:
    scene = rotating()
    scene.open(2)
    assert scene.closed() == [1]
    told = [one["item"] for one in scene.sent_on(2) if one["type"] == "conversation.item.create"]
    assert told == [
        {
            "id": "item_of_resp_1",
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "What time is it?"}],
        },
        {
            "id": "item_resp_1",
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "It is noon."}],
        },
    ]
    assert scene.types_on(2)[0] == "session.update"
    assert scene.troubles() == []


def test_the_new_session_is_rotated_too() -> None:
    scene = rotating()
    scene.open(2)
    scene.commands.clear()
    scene.advance(3299.0)
    assert scene.connects() == []
    scene.advance(2.0)
    assert scene.connects() == [Connect(3, CLOUD)]


def test_a_rotation_waits_for_the_end_of_the_turn() -> None:
    scene = LinkStage(rotate_after_s=3300.0).on(CLOUD)
    scene.advance(3295.0)
    scene.press()
    scene.hear(5000)
    assert scene.connects() == []
    scene.release()
    scene.hear(260, 30)
    scene.committed()
    scene.created()
    scene.finish()
    assert scene.outcomes() == ["answered"]
    assert scene.connects() == [Connect(2, CLOUD)]


def test_a_turn_started_while_the_spare_connects_is_answered_on_the_old_link() -> None:
    scene = rotating()
    scene.speaks_on = 1
    scene.say()
    scene.open(2)
    scene.speaks_on = 1
    scene.committed("item_2")
    scene.created("resp_2", "turn_2")
    scene.commands.clear()
    scene.finish("resp_2")
    assert scene.outcomes() == ["answered"]
    assert b"".join(one.pcm for one in scene.plays()) == period(frames=24 * 200)
    assert scene.closed() == [1]
    assert scene.using() == CLOUD


def test_turns_of_the_old_link_are_not_sent_on_the_new() -> None:
    scene = rotating()
    scene.speaks_on = 1
    scene.say(sample=777)
    scene.open(2)
    scene.speaks_on = 1
    scene.committed("item_2")
    scene.created("resp_2", "turn_2")
    assert scene.sent_on(2) == []
    scene.finish("resp_2")
    assert set(scene.types_on(2)) == {"session.update", "conversation.item.create"}


def test_events_of_the_old_link_are_ignored_after_the_switch() -> None:
    scene = rotating()
    scene.open(2)
    before = scene.conversation.history
    scene.commands.clear()
    late: dict[str, Any] = {"id": "item_late", "type": "message", "status": "completed", "role": "user"}
    late["content"] = [{"type": "input_text", "text": "late"}]
    scene.speaks_on = 1
    scene.server({"type": "conversation.item.added", "previous_item_id": None, "item": late})
    scene.error("server_error", message="bye")
    assert scene.commands == []
    assert scene.conversation.history == before


def test_events_of_a_spare_do_not_enter_the_history() -> None:
    scene = rotating()
    before = scene.conversation.history
    scene.speaks_on = 2
    item: dict[str, Any] = {"id": "item_x", "type": "message", "status": "completed", "role": "user"}
    item["content"] = [{"type": "input_text", "text": "not ours"}]
    scene.server({"type": "conversation.item.added", "previous_item_id": None, "item": item})
    assert scene.conversation.history == before


def test_a_press_right_after_the_switch_is_answered_on_the_new_link() -> None:
    scene = rotating()
    scene.open(2)
    scene.commands.clear()
    scene.whole_turn("resp_2")
    assert scene.types_on(2) == TURN_SENT
    assert scene.types_on(1) == []
    assert scene.outcomes() == ["answered"]


def test_a_failed_rotation_is_retried_before_the_session_expires() -> None:
    scene = rotating(failback_s=60.0)
    scene.down(2)
    assert (scene.state, scene.troubles(), scene.using()) == ("ready", [], CLOUD)
    scene.advance(61.0)
    assert scene.connects() == [Connect(2, CLOUD), Connect(3, CLOUD)]


def test_a_spare_that_waited_through_a_long_turn_still_gets_its_time_to_prepare() -> None:
    spec = AgentSpec(agent="assistant", session=SESSION, is_asked_at_connect=True)
    scene = LinkStage(specs=[spec], rotate_after_s=3300.0, prepare_s=5.0)
    scene.start()
    scene.do(LinkUp(1))
    scene.server({"type": "session.created", "session": {"type": "realtime"}})
    scene.do(AgentPrepared(ConnectKey(1), spec))
    scene.confirm()
    scene.advance(3300.0)
    scene.press()
    scene.open(2)
    scene.speaks_on = 1
    scene.hear(8000)
    scene.release()
    scene.hear(260, 30)
    scene.committed()
    scene.created()
    scene.finish()
    assert scene.of(PrepareAgent)[-1] == PrepareAgent(ConnectKey(2), "assistant", "connect")
    scene.advance(1.0)
    assert scene.sent_on(2) == []
    assert scene.troubles() == []
    scene.do(AgentPrepared(ConnectKey(2), spec))
    assert scene.types_on(2) == ["session.update", "conversation.item.create"]


# --- session expiry ----------------------------------------------------------------------------------------------


def expire(scene: LinkStage) -> None:
    scene.error("session_expired", message=EXPIRED[1])
    scene.down(scene.link, *EXPIRED)


def test_an_expired_session_is_replaced_at_once_without_an_error() -> None:
    scene = LinkStage(endpoints=3, rotate_after_s=9999.0).on(CLOUD)
    scene.advance(3600.0)
    expire(scene)
    scene.advance(0.0)
    assert scene.connects() == [Connect(2, CLOUD)]
    assert scene.troubles() == []
    scene.open()
    assert scene.state == "ready"


@pytest.mark.parametrize("moment", ["listening", "committing", "thinking", "created"])
def test_a_turn_during_session_expiry_is_replayed(moment: str) -> None:
    scene = LinkStage(rotate_after_s=9999.0, pre_roll_ms=0).on(CLOUD)
    scene.advance(3590.0)
    scene.press()
    scene.hear(400, 777)
    if moment != "listening":
        scene.release()
        scene.hear(260, 55)
    if moment in ("thinking", "created"):
        scene.committed("item_u")
    if moment == "created":
        scene.created()
    scene.commands.clear()
    expire(scene)
    scene.advance(0.0)
    scene.open()
    if moment == "listening":
        scene.release()
        scene.hear(260, 55)
    assert scene.types_on(2) == ["session.update", *TURN_SENT]
    assert scene.sent_audio().startswith(period(777) * 20)
    scene.committed("item_again")
    scene.created("resp_again")
    scene.finish("resp_again")
    assert scene.outcomes() == ["answered"]
    assert scene.troubles() == []


def test_a_turn_whose_answer_has_started_is_not_replayed() -> None:
    scene = LinkStage(rotate_after_s=9999.0).on(CLOUD)
    scene.asked()
    scene.audio(ms=200)
    scene.commands.clear()
    expire(scene)
    scene.advance(0.0)
    scene.open()
    assert "input_audio_buffer.append" not in scene.types_on(2)
    assert "response.create" not in scene.types_on(2)


def test_a_message_during_session_expiry_is_replayed() -> None:
    scene = LinkStage(rotate_after_s=9999.0).on(CLOUD)
    item = {"id": "note_1", "type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello."}]}
    scene.do(MessageGiven(item, "Hello."))
    expire(scene)
    scene.advance(0.0)
    scene.open()
    assert scene.types_on(2) == ["session.update", "conversation.item.create", "response.create"]


def test_a_response_requested_by_a_raw_frame_is_requested_again() -> None:
    scene = LinkStage(rotate_after_s=9999.0).on(CLOUD)
    scene.do(FrameGiven({"type": "response.create", "response": {"instructions": "Say hello."}}))
    expire(scene)
    scene.advance(0.0)
    scene.open()
    assert scene.types_on(2) == ["session.update", "response.create"], "there is no audio to commit"
    assert scene.sent_on(2)[-1]["response"]["instructions"] == "Say hello."


def test_a_turn_that_no_endpoint_accepts_fails_with_an_announcement() -> None:
    scene = LinkStage(endpoints=2, link_wait_s=30.0, backoff_initial_s=1.0, backoff_max_s=2.0)
    scene.start()
    scene.advance(2.0)
    scene.say()
    for _ in range(40):
        if scene.link in scene.endpoint_of:
            scene.down(scene.link)
        scene.advance(1.0)
    assert scene.outcomes() == ["failed"]
    assert "could not send" in scene.announced()[0]


def test_the_transcript_of_a_replayed_turn_belongs_to_it() -> None:
    scene = LinkStage().on(CLOUD)
    scene.say()
    scene.committed("item_u")
    scene.down(1, "lost", 1006)
    scene.advance(1.0)
    scene.open()
    scene.committed("item_again")
    scene.heard("What time is it?", "item_again")
    assert scene.notices(InputText) == [InputText("What time is it?", is_final=True, turn="turn_1")]


# --- what the device says about the offline brain -----------------------------------------------------------------

SAYS_OFFLINE = WORDING.say("link.offline")


def return_to_cloud(scene: LinkStage) -> None:
    """Let the spare to the first endpoint take over."""
    scene.until_connecting()
    scene.open(scene.conversation.link_id)
    scene.advance(1.0)
    scene.speaks_on = 0
    assert scene.using() == CLOUD


def test_the_first_turn_on_the_offline_brain_says_so_and_no_other() -> None:
    scene = LinkStage(endpoints=2, offline_endpoint=1).on(1)
    scene.advance(30.0)
    assert scene.announced() == [], "a device that lost its network at night is silent"
    scene.whole_turn("resp_1")
    scene.whole_turn("resp_2")
    assert scene.announced() == [SAYS_OFFLINE]


def test_a_wrong_key_is_announced_with_its_remedy_although_the_offline_brain_answers() -> None:
    scene = LinkStage(endpoints=2, offline_endpoint=1).start_with("bad_key")
    scene.whole_turn("resp_1")
    scene.whole_turn("resp_2")
    remedy, then = scene.announced()
    assert "key" in remedy
    assert then == SAYS_OFFLINE


def test_a_wrong_key_found_when_the_network_is_back_is_announced_once() -> None:
    scene = LinkStage(endpoints=2, offline_endpoint=1, failback_s=60.0, fatal_retry_s=60.0).on(1)
    scene.whole_turn("resp_1")
    for number in (2, 3):
        scene.until_connecting()
        scene.down(scene.conversation.link_id, "bad_key")
        scene.speaks_on = scene.main
        scene.whole_turn(f"resp_{number}")
    assert [one for one in scene.announced() if one != SAYS_OFFLINE] == [WORDING.say("trouble.bad_key")]


def test_the_next_outage_is_announced_again() -> None:
    scene = LinkStage(endpoints=2, offline_endpoint=1, failback_s=60.0).on(1)
    scene.whole_turn("resp_1")
    return_to_cloud(scene)
    scene.down(scene.main, "lost")
    scene.until_connecting()
    scene.down(scene.conversation.link_id, "unreachable")
    scene.open()
    scene.whole_turn("resp_2")
    assert scene.announced() == [SAYS_OFFLINE, SAYS_OFFLINE]


def test_another_server_is_no_detour() -> None:
    scene = LinkStage(endpoints=3, offline_endpoint=2).on(1)
    scene.whole_turn()
    assert scene.announced() == []


def test_a_device_without_a_server_does_not_speak_of_it() -> None:
    scene = LinkStage(offline_endpoint=0).on(CLOUD)
    scene.down(1, "lost")
    scene.until_connecting()
    scene.open()
    scene.whole_turn()
    assert scene.announced() == []


# --- the daily budget --------------------------------------------------------------------------------------------

USAGE = {
    "total_tokens": 2500,
    "input_tokens": 1500,
    "output_tokens": 1000,
    "input_token_details": {"text_tokens": 500, "audio_tokens": 1000, "image_tokens": 0, "cached_tokens": 0},
    "output_token_details": {"text_tokens": 0, "audio_tokens": 1000},
}
USD = (500 * 4.00 + 1000 * 32.00 + 1000 * 64.00) / 1_000_000  # the price of USAGE with gpt-realtime-2.1
WITH_OFFLINE: dict[str, Any] = {"endpoints": 2, "offline_endpoint": 1}


def counted(scene: LinkStage) -> list[Usage]:
    """Return the usage notices of responses and transcriptions; those of turn ends count seconds."""
    return [one for one in scene.notices(Usage) if one.audio_s == 0.0]


def seconds(scene: LinkStage) -> list[float]:
    return [one.audio_s for one in scene.notices(Usage) if one.audio_s > 0.0]


def reached(scene: LinkStage) -> list[int]:
    return [one.percent for one in scene.notices(BudgetWarning)]


def spent(**policy: Any) -> LinkStage:
    """Return a scene whose first turn has spent the whole budget."""
    scene = LinkStage(budget_usd=USD, **policy).on(CLOUD)
    scene.whole_turn(usage=USAGE)
    assert reached(scene) == [100]
    return scene


def test_each_response_is_counted_in_tokens_by_kind_and_in_money() -> None:
    scene = LinkStage().on(CLOUD)
    scene.whole_turn(usage=USAGE)
    [one] = counted(scene)
    assert one.usd == pytest.approx(USD)
    assert one.spent_usd == pytest.approx(USD)
    assert dict(one.tokens) == {
        "total_tokens": 2500,
        "input_tokens": 1500,
        "output_tokens": 1000,
        "input_text_tokens": 500,
        "input_audio_tokens": 1000,
        "input_image_tokens": 0,
        "input_cached_tokens": 0,
        "output_text_tokens": 0,
        "output_audio_tokens": 1000,
    }


def test_spending_adds_up_over_the_day() -> None:
    scene = LinkStage().on(CLOUD)
    scene.whole_turn("resp_1", usage=USAGE)
    scene.whole_turn("resp_2", usage=USAGE)
    assert [one.spent_usd for one in counted(scene)] == [pytest.approx(USD), pytest.approx(2 * USD)]


def test_a_model_without_a_price_is_counted_without_an_amount() -> None:
    scene = LinkStage()
    scene.start()
    scene.open(model="my-own-model")
    scene.advance(2.0)
    scene.whole_turn(usage=USAGE)
    [one] = counted(scene)
    assert one.usd is None
    assert one.spent_usd == 0.0
    assert dict(one.tokens)["output_audio_tokens"] == 1000


def test_a_session_without_a_model_name_is_counted_without_an_amount() -> None:
    scene = LinkStage()
    scene.start()
    scene.link_ready()
    scene.advance(2.0)
    scene.whole_turn(usage=USAGE)
    assert [one.usd for one in counted(scene)] == [None]


def test_a_response_without_usage_is_not_counted() -> None:
    scene = LinkStage().on(CLOUD)
    scene.whole_turn()
    assert counted(scene) == []


def test_an_interrupted_answer_is_still_counted() -> None:
    scene = LinkStage().on(CLOUD)
    scene.asked()
    scene.audio(ms=2000)
    scene.press()
    scene.done(status="cancelled", usage=USAGE)
    assert [one.usd for one in counted(scene)] == [pytest.approx(USD)]


def test_an_out_of_band_answer_is_counted() -> None:
    scene = LinkStage().on(CLOUD)
    response = {"id": "resp_x", "status": "completed", "output": [], "metadata": {"aside": "key_1"}, "usage": USAGE}
    scene.server({"type": "response.done", "response": response})
    assert [one.usd for one in counted(scene)] == [pytest.approx(USD)]


def test_a_transcription_is_counted_by_its_minutes() -> None:
    scene = LinkStage().on(CLOUD)
    scene.asked()
    scene.heard("What time is it?", usage={"type": "duration", "seconds": 30})
    assert [one.usd for one in counted(scene)] == [pytest.approx(0.0045 / 2)]


def test_a_transcription_is_counted_by_its_tokens() -> None:
    scene = LinkStage().on(CLOUD)
    scene.confirm("gpt-4o-transcribe")
    scene.asked()
    usage = {
        "type": "tokens",
        "total_tokens": 1200,
        "input_tokens": 1000,
        "output_tokens": 200,
        "input_token_details": {"text_tokens": 0, "audio_tokens": 1000},
    }
    scene.heard("What time is it?", usage=usage)
    [one] = counted(scene)
    assert one.usd == pytest.approx((1000 * 2.50 + 200 * 10.00) / 1_000_000)
    assert dict(one.tokens)["input_audio_tokens"] == 1000
    assert dict(one.tokens)["output_tokens"] == 200


def test_a_transcription_by_an_unknown_model_has_no_amount() -> None:
    scene = LinkStage().on(CLOUD)
    scene.confirm("my-own-ear")
    scene.asked()
    scene.heard("What time is it?", usage={"type": "duration", "seconds": 30})
    assert [one.usd for one in counted(scene)] == [None]


def test_the_price_is_that_of_the_model_on_the_link_that_took_over() -> None:
    scene = LinkStage(endpoints=2, failback_s=60.0)
    scene.start()
    scene.down(1)
    scene.advance(0.0)
    scene.open(model="my-own-model")
    scene.advance(60.0)
    scene.open(3, model=MODEL)
    scene.whole_turn(usage=USAGE)
    assert scene.using() == CLOUD
    assert [one.usd for one in counted(scene)] == [pytest.approx(USD)]


def test_a_turn_counts_its_sent_and_received_seconds_at_its_end() -> None:
    scene = LinkStage(pre_roll_ms=0).on(CLOUD)
    scene.press()
    scene.hear(1000)
    scene.release()
    scene.hear(260, 30)
    sent_s = len(scene.sent_audio()) / 2 / wire.SAMPLE_RATE
    scene.committed()
    scene.created()
    scene.finish()
    assert seconds(scene) == [pytest.approx(sent_s + 0.2)]


def attempts(scene: LinkStage, seconds: float, *, retry_after_s: float | None = None) -> list[float]:
    """Refuse every connection for so long; return when each was opened."""
    times: list[float] = []
    end = scene.now + seconds
    while scene.now < end:
        scene.do(LinkDown(scene.link, "server_error", 503, "busy", retry_after_s))
        before = len(scene.connects())
        while len(scene.connects()) == before and scene.now < end:
            scene.advance(0.1)
        if len(scene.connects()) > before:
            times.append(scene.now)
    return times


def test_while_a_turn_waits_the_first_retry_is_within_a_second_and_the_others_at_most_three_apart() -> None:
    scene = LinkStage(backoff_max_s=30.0).ready()
    scene.advance(60)
    scene.say()
    start = scene.now
    times = attempts(scene, 60)
    assert times[0] - start <= 1.2
    assert max(b - a for a, b in pairwise(times)) <= 3.2
    assert len(times) >= 18
    assert scene.outcomes() == []


def test_speech_is_kept_for_fifteen_minutes_and_sent_once_a_connection_is_back() -> None:
    scene = LinkStage().ready()
    scene.say()
    attempts(scene, 14 * 60)
    assert scene.outcomes() == []
    count = len(scene.sent())
    scene.advance(3.1)
    scene.link_ready()
    types = [frame["type"] for frame in scene.sent()[count:]]
    assert types.count("input_audio_buffer.commit") == 1


def test_after_fifteen_minutes_without_a_connection_the_device_says_that_it_could_not_send() -> None:
    scene = LinkStage().ready()
    scene.say()
    attempts(scene, 16 * 60)
    assert scene.outcomes() == ["failed"]
    assert scene.announced() == [
        "I could not send what you said, because there is no connection. Please try again in a moment."
    ]


def test_a_press_during_the_wait_sends_both_sentences() -> None:
    scene = LinkStage(pre_roll_ms=0).ready()
    scene.lose()
    scene.say(500, sample=1111)
    attempts(scene, 20)
    scene.say(500, sample=2222)
    scene.link_ready()
    audio = scene.sent_audio()
    assert (audio.count(period(1111)), audio.count(period(2222))) == (25, 25)
    assert scene.sent_types().count("input_audio_buffer.commit") == 1


def test_retry_after_wins_over_the_backoff_and_a_press_and_is_announced() -> None:
    scene = LinkStage(pre_roll_ms=0).ready()
    scene.say()
    scene.do(LinkDown(scene.link, "rate_limited", 429, "slow down", 20.0))
    assert scene.announced() == ["The server asks me to wait 20 seconds. I will send what you said then."]
    count = len(scene.connects())
    scene.advance(19.9)
    scene.press()
    scene.release()
    assert len(scene.connects()) == count
    scene.advance(0.2)
    assert len(scene.connects()) == count + 1


def test_eighty_percent_is_reported_once_and_changes_nothing() -> None:
    scene = LinkStage(budget_usd=USD / 0.9, **WITH_OFFLINE).on(CLOUD)
    scene.whole_turn(usage=USAGE)
    assert reached(scene) == [80]
    assert (scene.notices(BudgetWarning)[0].percent, scene.notices(BudgetWarning)[0].unit) == (80, "usd")
    assert scene.announced() == []
    assert scene.connects() == []
    small = {"input_tokens": 0, "output_tokens": 1, "output_token_details": {"text_tokens": 1}}
    scene.whole_turn("resp_2", usage=small)
    assert reached(scene) == [80]


def test_a_hundred_percent_is_announced_once() -> None:
    scene = LinkStage(budget_usd=USD, **WITH_OFFLINE).on(CLOUD)
    scene.asked()  # the link stays until the turn is over
    for key in ("key_1", "key_2"):
        response = {"id": f"resp_{key}", "status": "completed", "output": [], "metadata": {"aside": key}}
        scene.server({"type": "response.done", "response": response | {"usage": USAGE}})
    assert len(counted(scene)) == 2
    assert reached(scene) == [100]
    [said] = scene.announced()
    assert "100 percent of today's budget is spent" in said
    assert "offline" in said


def test_the_offline_brain_takes_over_when_the_turn_is_over() -> None:
    scene = LinkStage(budget_usd=USD, **WITH_OFFLINE).on(CLOUD)
    scene.asked()
    scene.audio(ms=200)
    scene.done(usage=USAGE)
    assert reached(scene) == [100]
    assert scene.connects() == [], "the paid answer plays to its end first"
    scene.play(4800, drained=True)
    assert scene.outcomes() == ["answered"]
    assert scene.connects() == [Connect(2, 1)]
    scene.open(2, model="offline")
    assert scene.closed() == [1]
    assert scene.using() == 1


def test_turns_after_that_are_answered_by_the_offline_brain() -> None:
    scene = spent(**WITH_OFFLINE)
    scene.open(2, model="offline")
    scene.commands.clear()
    scene.whole_turn("resp_2")
    assert scene.types_on(2) == TURN_SENT
    assert scene.types_on(1) == []
    assert scene.outcomes() == ["answered"]


def test_the_offline_brain_costs_nothing() -> None:
    scene = LinkStage(budget_usd=1.0, **WITH_OFFLINE)
    scene.start()
    scene.down(1)
    scene.advance(0.0)
    scene.open(model=MODEL)
    scene.advance(2.0)
    scene.whole_turn(usage=USAGE)
    assert scene.notices(Usage) == []


def test_the_offline_brain_costs_nothing_even_if_its_link_is_lost_before_the_end() -> None:
    scene = LinkStage(budget_s=600.0, **WITH_OFFLINE)
    scene.start()
    scene.down(1)
    scene.advance(0.0)
    scene.open()
    scene.advance(2.0)
    scene.asked()
    scene.audio(ms=200)
    scene.done()
    scene.down(2, "lost", 1006)
    scene.play(4800, drained=True)
    assert scene.outcomes() == ["answered"]
    assert scene.notices(Usage) == []


def test_with_a_spent_budget_there_is_no_failback() -> None:
    scene = spent(**WITH_OFFLINE, failback_s=60.0)
    scene.open(2, model="offline")
    scene.commands.clear()
    scene.advance(3000.0)
    assert scene.connects() == []


def test_with_a_spent_budget_a_lost_offline_brain_is_not_replaced_by_a_paid_endpoint() -> None:
    scene = spent(**WITH_OFFLINE)
    scene.open(2, model="offline")
    scene.commands.clear()
    scene.down(2, "lost", 1006)
    for _ in range(5):
        scene.advance(2.0)
        scene.down(scene.link)
    scene.advance(30.0)
    assert set(scene.tried()) == {1}


def test_with_a_spent_budget_and_no_reachable_offline_brain_nothing_more_is_requested() -> None:
    scene = spent(**WITH_OFFLINE)
    scene.down(2)
    scene.commands.clear()
    scene.speaks_on = 1
    scene.say()
    assert "response.create" not in scene.types_on(1)


def test_a_new_day_allows_the_paid_endpoints_again() -> None:
    scene = spent(**WITH_OFFLINE, failback_s=60.0)
    scene.open(2, model="offline")
    scene.commands.clear()
    scene.do(DayBegan("2026-11-24"))
    scene.advance(61.0)
    assert scene.tried() == [CLOUD]
    scene.open(3)
    assert scene.using() == CLOUD
    scene.whole_turn("resp_2", usage=USAGE)
    assert reached(scene) == [100], "the new day has its own budget and reports it again"


def test_a_day_that_starts_with_a_spent_budget_starts_offline() -> None:
    scene = LinkStage(budget_usd=1.0, **WITH_OFFLINE)
    scene.do(DayBegan("2026-11-23", spent_usd=1.5))
    scene.start()
    assert scene.connects() == [Connect(1, 1)]


def test_without_an_offline_brain_a_press_is_refused_with_an_announcement() -> None:
    scene = spent()
    scene.advance(1.0)
    scene.commands.clear()
    scene.press()
    assert scene.troubles() == ["budget_spent"]
    assert len(scene.announced()) == 1
    assert "budget" in scene.announced()[0]
    scene.hear(500)
    scene.release()
    assert scene.sent() == []
    assert scene.conversation.turn_id is None
    assert scene.connects() == []


def test_without_an_offline_brain_a_message_of_the_program_is_refused_too() -> None:
    scene = spent()
    scene.commands.clear()
    item = {"id": "note_1", "type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello."}]}
    scene.do(MessageGiven(item, "Hello."))
    assert "response.create" not in scene.sent_types()
    assert scene.troubles() == ["budget_spent"]


def test_without_an_offline_brain_the_announcement_does_not_mention_one() -> None:
    assert "offline" not in spent().announced()[0]


def test_a_new_day_allows_presses_again() -> None:
    scene = spent()
    scene.do(DayBegan("2026-11-24"))
    scene.commands.clear()
    scene.whole_turn("resp_2")
    assert scene.outcomes() == ["answered"]
    assert scene.troubles() == []


def test_repeating_the_same_day_does_not_reset_the_budget() -> None:
    scene = LinkStage(budget_usd=USD).on(CLOUD)
    scene.do(DayBegan("2026-11-23"))
    scene.whole_turn(usage=USAGE)
    scene.do(DayBegan("2026-11-23"))
    scene.press()
    assert scene.troubles() == ["budget_spent"]


def test_a_budget_of_seconds_is_enforced_too() -> None:
    scene = LinkStage(budget_s=1.5).on(CLOUD)
    scene.whole_turn("resp_1")
    [first] = seconds(scene)
    assert reached(scene) == []
    scene.whole_turn("resp_2")
    assert reached(scene) == [100]
    assert scene.notices(Usage)[-1].spent_s > 1.5 > first
    assert "minutes" in scene.announced()[0]
    scene.commands.clear()
    scene.press()
    assert scene.troubles() == ["budget_spent"]


def test_a_spent_budget_of_seconds_switches_to_the_offline_brain_after_the_turn() -> None:
    scene = LinkStage(budget_s=0.5, **WITH_OFFLINE).on(CLOUD)
    scene.whole_turn()
    assert reached(scene) == [100]
    assert scene.connects() == [Connect(2, 1)]


def test_a_turn_that_is_too_short_costs_no_seconds() -> None:
    scene = LinkStage(budget_s=60.0).on(CLOUD)
    scene.press()
    scene.hear(40)
    scene.release()
    assert scene.outcomes() == ["too_short"]
    assert scene.notices(Usage) == []
