"""Tests of the conversation core: sessions that are rotated or expire, and what is said of the offline brain."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.agents.spec import AgentSpec
from appliance.conversation.commands import Connect, PrepareAgent
from appliance.conversation.events import (
    AgentPrepared,
    ConnectKey,
    FrameGiven,
    LinkFailure,
    LinkUp,
    MessageGiven,
)
from appliance.conversation.notices import InputText
from tests.support.stage import SESSION, WORDING, period
from tests.support.stages.links import CLOUD, TURN_SENT, LinkStage

EXPIRED: tuple[LinkFailure, int] = ("session_expired", 1001)

# --- rotation ---------------------------------------------------------------------------------------------------------


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


# --- session expiry ---------------------------------------------------------------------------------------------------


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


# --- what the device says about the offline brain ---------------------------------------------------------------------


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
