"""Tests of the conversation core over several endpoints: failover, failback, and a spare that takes over."""

from __future__ import annotations

from appliance.conversation.commands import Connect
from appliance.conversation.events import (
    LinkFailure,
    LinkUp,
    ToolFinished,
)
from appliance.conversation.notices import Connected
from tests.support.stage import period
from tests.support.stages.links import CLOUD, HOUSE, OFFLINE, TURN_SENT, LinkStage

BAD_KEY: tuple[LinkFailure, int] = ("bad_key", 3000)

# --- failover ---------------------------------------------------------------------------------------------------------


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


# --- fatal reasons ----------------------------------------------------------------------------------------------------


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


# --- failback ---------------------------------------------------------------------------------------------------------


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


# --- the main link is lost while there is a spare ---------------------------------------------------------------------


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
