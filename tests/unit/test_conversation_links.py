"""Sessions that outlive the connection, and the day's budget: the core over several endpoints, one behaviour a test."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.agents.spec import AgentSpec
from appliance.conversation.commands import Command, Connect, Disconnect, Emit, PrepareAgent, Send
from appliance.conversation.events import (
    AgentPrepared,
    ConnectKey,
    DayBegan,
    Event,
    FrameGiven,
    LinkDown,
    LinkFailure,
    LinkUp,
    MessageGiven,
    ToolFinished,
)
from appliance.conversation.notices import BudgetWarning, Connected, InputText, Usage
from appliance.realtime import protocol as wire
from tests.support.stage import SESSION, Stage, period

CLOUD, HOUSE, OFFLINE = 0, 1, 2
BAD_KEY: tuple[LinkFailure, int] = ("bad_key", 3000)
EXPIRED: tuple[LinkFailure, int] = ("session_expired", 1001)
MODEL = "gpt-realtime-2.1"
TURN_SENT = ["input_audio_buffer.clear", "input_audio_buffer.append", "input_audio_buffer.commit", "response.create"]


class Scene(Stage):
    """A stage whose server speaks on the link that is named: with a spare, the newest is not the one in use."""

    speaks_on = 0

    def __init__(self, **policy: Any) -> None:
        super().__init__(**policy)
        self.endpoint_of: dict[int, int] = {}
        """Every connection that was asked for and is not down."""
        self.main = 0
        """The one in use, as the observers are told; 0 for none."""

    def do(self, event: Event) -> list[Command]:
        if isinstance(event, LinkDown):
            self._gone(event.link)
        commands = super().do(event)
        for command in commands:
            match command:
                case Connect(link=link, endpoint=endpoint):
                    self.endpoint_of[link] = endpoint
                case Disconnect(link=link):
                    self._gone(link)
                case Emit(notice=Connected(link=link, endpoint=endpoint)):
                    assert endpoint == self.endpoint_of[link]
                    self.main = link
                case Send(link=link):
                    assert link == self.main, f"sent on {link}, and {self.main} is the one in use"
        return commands

    def _gone(self, link: int) -> None:
        self.endpoint_of.pop(link, None)
        self.main = 0 if link == self.main else self.main

    @property
    def link(self) -> int:
        return self.speaks_on or super().link

    def open(self, link: int = 0, *, model: str = MODEL) -> None:
        """A connection comes up: the newest, or the one named."""
        self.speaks_on = link
        self.do(LinkUp(self.link))
        self.server({"type": "session.created", "session": {"type": "realtime", "model": model}})
        self.confirm()

    def confirm(self, transcriber: str = "gpt-transcribe") -> None:
        """The server has taken the settings; a spare has none to take."""
        session = {"type": "realtime", "audio": {"input": {"transcription": {"model": transcriber}}}}
        self.server({"type": "session.updated", "session": session})

    def down(self, link: int, kind: LinkFailure = "refused", code: int | None = None) -> None:
        self.do(LinkDown(link, kind, code, "nobody there"))

    def on(self, endpoint: int) -> Scene:
        """Fail over until the conversation is on this endpoint; then forget how it came there."""
        self.start()
        for _ in range(endpoint):
            self.down(self.link)
            self.advance(0.0)
        self.open()
        self.advance(2.0)
        assert self.using() == endpoint
        self.commands.clear()
        return self

    def until_connecting(self) -> float:
        """Let time pass until a connection is asked for; returns the seconds."""
        began, made = self.now, len(self.connects())
        while len(self.connects()) == made:
            assert self.now < began + 600.0, "nothing is tried any more"
            self.advance(0.05)
        return self.now - began

    def using(self) -> int:
        """The endpoint of the connection in use."""
        return self.endpoint_of[self.main]

    def tried(self) -> list[int]:
        """The endpoints that were asked for."""
        return [one.endpoint for one in self.connects()]

    def closed(self) -> list[int]:
        return [one.link for one in self._of(Disconnect)]

    def sent_on(self, link: int) -> list[dict[str, Any]]:
        return [one.event.to_wire() for one in self._of(Send) if one.link == link]

    def types_on(self, link: int) -> list[str]:
        """The types of the frames sent on one connection, runs of appends as one."""
        return self.sent_types([one for one in self._of(Send) if one.link == link])

    def ask(self, item_id: str = "item_u", response_id: str = "resp_1") -> None:
        """Speak, and let the answer begin to be asked for."""
        self.say()
        self.committed(item_id)
        self.created(response_id, self.conversation.turn_id)

    def finish(self, response_id: str = "resp_1", **more: Any) -> None:
        """The whole answer, heard to its end."""
        self.audio(response_id, f"item_{response_id}", 200)
        self.done(response_id, self.conversation.turn_id, **more)
        self.played_frames = 4800
        self.play(0, drained=True)

    def whole_turn(self, response_id: str = "resp_1", **more: Any) -> None:
        self.ask(f"item_of_{response_id}", response_id)
        self.finish(response_id, **more)
        assert self.conversation.turn_id is None


def heard(item_id: str, transcript: str, usage: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "type": "conversation.item.input_audio_transcription.completed",
        "item_id": item_id,
        "content_index": 0,
        "transcript": transcript,
    } | ({"usage": usage} if usage else {})


# --- failover ----------------------------------------------------------------------------------------------------


def test_the_best_endpoint_is_tried_first() -> None:
    scene = Scene(endpoints=3)
    scene.start()
    assert scene.connects() == [Connect(1, CLOUD)]


def test_a_refused_endpoint_is_followed_by_the_next_at_once() -> None:
    scene = Scene(endpoints=3)
    scene.start()
    scene.down(1)
    scene.advance(0.0)
    scene.down(2)
    scene.advance(0.0)
    assert scene.connects() == [Connect(1, CLOUD), Connect(2, HOUSE), Connect(3, OFFLINE)]


def test_when_all_refuse_the_round_begins_anew_after_a_wait() -> None:
    scene = Scene(endpoints=3, backoff_initial_s=1.0)
    scene.start()
    for link in (1, 2, 3):
        scene.down(link)
        scene.advance(0.0)
    assert scene.tried() == [CLOUD, HOUSE, OFFLINE]
    assert scene.state == "offline"
    scene.advance(0.49)
    assert len(scene.tried()) == 3, "half of the shortest wait at least"
    scene.advance(0.6)
    assert scene.tried() == [CLOUD, HOUSE, OFFLINE, CLOUD]


def test_rounds_that_fail_are_further_and_further_apart() -> None:
    scene = Scene(endpoints=2, backoff_initial_s=1.0, backoff_max_s=16.0)
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


def test_a_server_that_accepts_and_says_nothing_is_followed_by_the_next_endpoint() -> None:
    scene = Scene(endpoints=2, connect_s=15.0)
    scene.start()
    scene.do(LinkUp(1))
    scene.advance(15.1)
    assert scene.closed() == [1]
    assert scene.tried() == [CLOUD, HOUSE]


def test_the_conversation_goes_on_over_the_next_endpoint() -> None:
    scene = Scene(endpoints=3)
    scene.start()
    scene.down(1)
    scene.advance(0.0)
    scene.open()
    assert scene.state == "ready"
    assert scene.notices(Connected) == [Connected(2, HOUSE)]


def test_a_link_that_did_not_hold_is_followed_by_the_next_endpoint() -> None:
    scene = Scene(endpoints=2, stable_s=10.0)
    scene.start()
    scene.open()
    scene.advance(9.0)
    scene.down(1, "lost", 1006)
    scene.advance(0.0)
    assert scene.tried() == [CLOUD, HOUSE]


def test_a_link_that_held_and_is_lost_tries_the_best_first() -> None:
    scene = Scene(endpoints=3, stable_s=10.0).on(HOUSE)
    scene.advance(11.0)
    scene.down(2, "lost", 1006)
    scene.advance(1.0)
    assert scene.tried() == [CLOUD]


def test_the_best_endpoint_that_held_and_is_lost_is_tried_first_itself() -> None:
    scene = Scene(endpoints=3, stable_s=10.0).on(CLOUD)
    scene.advance(11.0)
    scene.down(1, "lost", 1006)
    scene.advance(1.0)
    assert scene.tried() == [CLOUD], "the house server would keep the user until the next try to get back"


def test_a_round_after_a_link_that_held_waits_as_short_as_the_first() -> None:
    scene = Scene(endpoints=1, stable_s=10.0, backoff_initial_s=1.0, backoff_max_s=60.0)
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
    scene = Scene(endpoints=2, backoff_initial_s=1.0)
    scene.start()
    scene.down(1, *BAD_KEY)
    scene.advance(0.0)
    assert scene.tried() == [CLOUD, HOUSE]
    assert scene.state != "failed"
    scene.down(2)
    scene.advance(1.1)
    assert scene.tried() == [CLOUD, HOUSE, HOUSE], "the round leaves out the endpoint that refuses the key"


def test_it_has_failed_only_when_every_endpoint_is_blocked() -> None:
    scene = Scene(endpoints=2)
    scene.start()
    scene.down(1, *BAD_KEY)
    scene.advance(0.0)
    assert scene.state == "connecting"
    scene.down(2, *BAD_KEY)
    assert scene.state == "failed"


def test_a_blocked_endpoint_is_tried_again_after_its_time() -> None:
    scene = Scene(endpoints=2, fatal_retry_s=300.0)
    scene.start()
    scene.down(1, *BAD_KEY)
    scene.advance(10.0)
    scene.down(2, *BAD_KEY)
    scene.advance(289.0)
    assert scene.tried() == [CLOUD, HOUSE]
    scene.advance(1.5)
    assert scene.tried() == [CLOUD, HOUSE, CLOUD], "the first to be free again"


def test_a_press_with_every_endpoint_blocked_tries_the_best_at_once() -> None:
    scene = Scene(endpoints=2)
    scene.start()
    scene.advance(2.0)
    scene.down(1, *BAD_KEY)
    scene.advance(0.0)
    scene.down(2, *BAD_KEY)
    scene.press()
    assert scene.tried() == [CLOUD, HOUSE, CLOUD]


def test_a_turn_outlives_a_fatal_reason_while_another_endpoint_is_left() -> None:
    scene = Scene(endpoints=2)
    scene.start()
    scene.advance(2.0)
    scene.say()
    scene.down(1, *BAD_KEY)
    scene.advance(0.0)
    scene.open()
    assert scene.types_on(2) == ["session.update", *TURN_SENT]
    assert scene.outcomes() == []


def test_an_endpoint_that_refuses_the_settings_is_followed_by_the_next() -> None:
    scene = Scene(endpoints=2)
    scene.start()
    scene.do(LinkUp(1))
    scene.server({"type": "session.created", "session": {"type": "realtime"}})
    scene.error("unknown_parameter", event_id="session_1", message="Unknown parameter: 'session.reasoning'.")
    scene.advance(0.0)
    assert scene.closed() == [1]
    assert scene.tried() == [CLOUD, HOUSE]
    scene.open()
    assert scene.state == "ready"


# --- back to the best --------------------------------------------------------------------------------------------


def test_a_better_endpoint_is_tried_beside_after_a_while() -> None:
    scene = Scene(endpoints=3, failback_s=60.0).on(HOUSE)
    scene.advance(57.9)
    assert scene.connects() == []
    scene.advance(0.2)
    assert scene.connects() == [Connect(3, CLOUD)]
    assert scene.closed() == [], "the conversation stays where it is until the other is there"
    assert scene.state == "ready"


def test_on_the_best_endpoint_nothing_better_is_looked_for() -> None:
    scene = Scene(endpoints=3, failback_s=60.0).on(CLOUD)
    scene.advance(600.0)
    assert scene.connects() == []


def test_the_better_endpoint_takes_over_when_its_session_is_created() -> None:
    scene = Scene(endpoints=3, failback_s=60.0).on(HOUSE)
    scene.advance(60.0)
    scene.do(LinkUp(3))
    assert scene.closed() == [], "an open socket is not a session"
    scene.open(3)
    assert scene.closed() == [2]
    assert scene.using() == CLOUD
    assert scene.notices(Connected) == [Connected(3, CLOUD)]
    assert scene.types_on(3) == ["session.update"]
    assert scene.troubles() == []


def test_the_old_connection_that_ends_then_is_no_loss() -> None:
    scene = Scene(endpoints=3, failback_s=60.0).on(HOUSE)
    scene.advance(60.0)
    scene.open(3)
    scene.down(2, "closed", 1000)
    assert (scene.state, scene.troubles(), scene.using()) == ("ready", [], CLOUD)


def test_no_turn_is_disturbed_by_the_way_back() -> None:
    scene = Scene(endpoints=3, failback_s=60.0).on(HOUSE)
    scene.advance(50.0)
    scene.ask()
    scene.audio(ms=200)
    scene.advance(4.0)
    scene.done()
    scene.advance(0.5)
    scene.play(1)
    scene.advance(4.9)
    assert scene.conversation.turn_id is not None
    assert scene.connects() == [], "the time has come, the gap has not"
    scene.play(4799, drained=True)
    assert scene.connects() == [Connect(3, CLOUD)]


def test_while_a_tool_still_runs_the_connection_that_wants_its_output_is_kept() -> None:
    scene = Scene(endpoints=3, failback_s=60.0, tool_s=120.0).on(HOUSE)
    scene.advance(50.0)
    scene.ask()
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


def test_settings_that_are_not_confirmed_keep_a_connection_for_no_longer_than_a_confirmation_may_take() -> None:
    scene = Scene(endpoints=3, failback_s=2.0, commit_s=5.0)
    scene.start()
    scene.down(1)
    scene.advance(0.0)
    scene.do(LinkUp(2))
    scene.server({"type": "session.created", "session": {"type": "realtime"}})
    scene.advance(4.9)
    assert len(scene.connects()) == 2
    scene.advance(0.2)
    assert scene.connects()[2:] == [Connect(3, CLOUD)], "some servers never confirm"


def test_confirmed_settings_free_the_gap() -> None:
    scene = Scene(endpoints=3, failback_s=2.0, commit_s=5.0)
    scene.start()
    scene.down(1)
    scene.advance(0.0)
    scene.do(LinkUp(2))
    scene.server({"type": "session.created", "session": {"type": "realtime"}})
    scene.advance(3.0)
    scene.confirm()
    assert scene.connects()[2:] == [Connect(3, CLOUD)]


def test_a_spare_that_fails_costs_nothing_and_is_tried_again_later() -> None:
    scene = Scene(endpoints=3, failback_s=60.0).on(HOUSE)
    scene.advance(60.0)
    scene.down(3)
    assert (scene.state, scene.troubles(), scene.closed(), scene.using()) == ("ready", [], [], HOUSE)
    scene.advance(59.0)
    assert len(scene.connects()) == 1
    scene.advance(1.5)
    assert scene.connects() == [Connect(3, CLOUD), Connect(4, CLOUD)]


def test_a_spare_that_says_nothing_is_given_up() -> None:
    scene = Scene(endpoints=3, failback_s=60.0, connect_s=15.0).on(HOUSE)
    scene.advance(60.0)
    scene.do(LinkUp(3))
    scene.advance(15.0)
    assert scene.closed() == [3]
    assert (scene.state, scene.troubles(), scene.using()) == ("ready", [], HOUSE)


def test_a_spare_is_no_connection_to_speak_on() -> None:
    scene = Scene(endpoints=3, failback_s=60.0).on(HOUSE)
    scene.advance(60.0)
    scene.speaks_on = 2
    scene.whole_turn()
    assert scene.types_on(3) == []
    assert scene.types_on(2)[-1] == "response.create"


def test_a_failing_spare_does_not_disturb_the_turn_that_began_meanwhile() -> None:
    scene = Scene(endpoints=3, failback_s=60.0).on(HOUSE)
    scene.advance(60.0)
    scene.speaks_on = 2
    scene.ask()
    scene.down(3)
    scene.finish()
    assert scene.outcomes() == ["answered"]


def test_an_endpoint_that_refuses_the_key_is_not_tried_before_its_time_nor_another_in_its_place() -> None:
    scene = Scene(endpoints=2, failback_s=60.0, fatal_retry_s=300.0)
    scene.start()
    scene.down(1, *BAD_KEY)
    scene.advance(0.0)
    scene.open()
    scene.advance(299.0)
    assert scene.tried() == [CLOUD, HOUSE], "to replace a connection by one to the same endpoint is for nothing"
    scene.advance(61.0)
    assert scene.tried() == [CLOUD, HOUSE, CLOUD]


def test_a_spare_that_refuses_the_key_is_blocked_too() -> None:
    scene = Scene(endpoints=2, failback_s=60.0, fatal_retry_s=300.0).on(HOUSE)
    scene.advance(60.0)
    scene.down(3, *BAD_KEY)
    scene.advance(290.0)
    assert scene.tried() == [CLOUD]
    assert scene.troubles() == []


def test_the_second_best_is_better_than_the_worst() -> None:
    scene = Scene(endpoints=3, failback_s=60.0, fatal_retry_s=1000.0)
    scene.start()
    scene.down(1, *BAD_KEY)
    scene.advance(0.0)
    scene.down(2)
    scene.advance(0.0)
    scene.open()
    scene.advance(60.0)
    assert scene.tried() == [CLOUD, HOUSE, OFFLINE, HOUSE]


def test_a_better_endpoint_that_is_away_does_not_hide_the_second_best() -> None:
    """The cloud does not answer for hours; the house server is back after a minute."""
    scene = Scene(endpoints=3, failback_s=60.0).on(OFFLINE)
    scene.advance(60.0)
    scene.down(4)
    scene.advance(60.0)
    scene.down(5)
    scene.advance(60.0)
    assert HOUSE in scene.tried()


# --- the main connection is lost while there is a spare -----------------------------------------------------------


def test_a_spare_that_stands_ready_takes_over_in_the_middle_of_a_turn() -> None:
    scene = Scene(endpoints=3, failback_s=60.0, pre_roll_ms=0).on(HOUSE)
    scene.advance(60.0)
    scene.speaks_on = 2
    scene.press()
    scene.hear(400, 777)
    scene.open(3)
    assert scene.closed() == [], "not in a turn"
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


def test_a_spare_that_is_being_made_becomes_the_one_that_is_waited_for() -> None:
    scene = Scene(endpoints=3, failback_s=60.0).on(HOUSE)
    scene.advance(60.0)
    scene.down(2, "lost", 1006)
    assert scene.state == "connecting"
    scene.advance(1.0)
    assert scene.connects() == [Connect(3, CLOUD)]
    scene.open(3)
    assert scene.state == "ready"
    assert scene.types_on(3) == ["session.update"]


def test_a_spare_that_fails_after_the_main_one_is_followed_by_the_next_endpoint() -> None:
    scene = Scene(endpoints=3, failback_s=60.0).on(HOUSE)
    scene.advance(60.0)
    scene.down(2, "lost", 1006)
    scene.down(3)
    scene.advance(0.0)
    assert scene.tried() == [CLOUD, HOUSE]


# --- rotation ----------------------------------------------------------------------------------------------------


def rotating(**policy: Any) -> Scene:
    """A conversation whose session is old; the spare is asked for, and nothing else has happened."""
    scene = Scene(rotate_after_s=3300.0, **policy)
    scene.on(CLOUD)
    scene.whole_turn()
    scene.server(heard("item_of_resp_1", "What time is it?"))
    said: dict[str, Any] = {"id": "item_resp_1", "type": "message", "status": "completed", "role": "assistant"}
    said["content"] = [{"type": "output_audio", "transcript": "It is noon."}]
    scene.server({"type": "conversation.item.done", "previous_item_id": "item_of_resp_1", "item": said})
    scene.commands.clear()
    scene.advance(3300.0)
    assert scene.connects() == [Connect(2, CLOUD)]
    return scene


def test_a_session_is_replaced_before_its_hour() -> None:
    scene = Scene(rotate_after_s=3300.0).on(CLOUD)
    scene.advance(3297.0)
    assert scene.connects() == []
    scene.advance(2.0)
    assert scene.connects() == [Connect(2, CLOUD)]
    assert scene.closed() == []


def test_the_new_session_is_told_the_history() -> None:
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


def test_the_new_session_is_replaced_in_its_turn() -> None:
    scene = rotating()
    scene.open(2)
    scene.commands.clear()
    scene.advance(3299.0)
    assert scene.connects() == []
    scene.advance(2.0)
    assert scene.connects() == [Connect(3, CLOUD)]


def test_a_turn_at_the_time_of_rotation_is_over_before() -> None:
    scene = Scene(rotate_after_s=3300.0).on(CLOUD)
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


def test_a_turn_begun_while_the_spare_connects_is_answered_on_the_old_connection() -> None:
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


def test_nothing_of_the_old_connection_is_sent_on_the_new() -> None:
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


def test_what_the_old_connection_still_says_after_the_change_means_nothing() -> None:
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


def test_what_a_spare_says_is_not_the_conversation() -> None:
    scene = rotating()
    before = scene.conversation.history
    scene.speaks_on = 2
    item: dict[str, Any] = {"id": "item_x", "type": "message", "status": "completed", "role": "user"}
    item["content"] = [{"type": "input_text", "text": "not ours"}]
    scene.server({"type": "conversation.item.added", "previous_item_id": None, "item": item})
    assert scene.conversation.history == before


def test_a_press_right_after_the_change_is_answered_on_the_new_connection() -> None:
    scene = rotating()
    scene.open(2)
    scene.commands.clear()
    scene.whole_turn("resp_2")
    assert scene.types_on(2) == TURN_SENT
    assert scene.types_on(1) == []
    assert scene.outcomes() == ["answered"]


def test_a_rotation_that_fails_is_tried_again_before_the_hour() -> None:
    scene = rotating(failback_s=60.0)
    scene.down(2)
    assert (scene.state, scene.troubles(), scene.using()) == ("ready", [], CLOUD)
    scene.advance(61.0)
    assert scene.connects() == [Connect(2, CLOUD), Connect(3, CLOUD)]


def test_a_spare_that_waited_through_a_long_turn_is_given_the_time_to_be_prepared() -> None:
    spec = AgentSpec(agent="assistant", session=SESSION, is_asked_at_connect=True)
    scene = Scene(specs=[spec], rotate_after_s=3300.0, prepare_s=5.0)
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
    assert scene._of(PrepareAgent)[-1] == PrepareAgent(ConnectKey(2), "assistant", "connect")
    scene.advance(1.0)
    assert scene.sent_on(2) == []
    assert scene.troubles() == []
    scene.do(AgentPrepared(ConnectKey(2), spec))
    assert scene.types_on(2) == ["session.update", "conversation.item.create"]


# --- the hour ----------------------------------------------------------------------------------------------------


def expire(scene: Scene) -> None:
    scene.error("session_expired", message=EXPIRED[1])
    scene.down(scene.link, *EXPIRED)


def test_a_session_at_its_hour_is_replaced_at_once_and_is_no_trouble() -> None:
    scene = Scene(endpoints=3, rotate_after_s=9999.0).on(CLOUD)
    scene.advance(3600.0)
    expire(scene)
    scene.advance(0.0)
    assert scene.connects() == [Connect(2, CLOUD)]
    assert scene.troubles() == []
    scene.open()
    assert scene.state == "ready"


@pytest.mark.parametrize("moment", ["listening", "committing", "thinking", "created"])
def test_the_turn_at_the_hour_is_said_again(moment: str) -> None:
    scene = Scene(rotate_after_s=9999.0, pre_roll_ms=0).on(CLOUD)
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


def test_once_the_answer_has_begun_the_question_is_not_said_again() -> None:
    scene = Scene(rotate_after_s=9999.0).on(CLOUD)
    scene.ask()
    scene.audio(ms=200)
    scene.commands.clear()
    expire(scene)
    scene.advance(0.0)
    scene.open()
    assert "input_audio_buffer.append" not in scene.types_on(2)
    assert "response.create" not in scene.types_on(2)


def test_a_message_at_the_hour_is_said_again() -> None:
    scene = Scene(rotate_after_s=9999.0).on(CLOUD)
    item = {"id": "note_1", "type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello."}]}
    scene.do(MessageGiven(item, "Hello."))
    expire(scene)
    scene.advance(0.0)
    scene.open()
    assert scene.types_on(2) == ["session.update", "conversation.item.create", "response.create"]


def test_a_response_asked_for_by_a_frame_is_asked_for_again() -> None:
    scene = Scene(rotate_after_s=9999.0).on(CLOUD)
    scene.do(FrameGiven({"type": "response.create", "response": {"instructions": "Say hello."}}))
    expire(scene)
    scene.advance(0.0)
    scene.open()
    assert scene.types_on(2) == ["session.update", "response.create"], "there is no audio to commit"
    assert scene.sent_on(2)[-1]["response"]["instructions"] == "Say hello."


def test_a_turn_that_no_endpoint_takes_is_given_up_and_told() -> None:
    scene = Scene(endpoints=2, link_wait_s=30.0, backoff_initial_s=1.0, backoff_max_s=2.0)
    scene.start()
    scene.advance(2.0)
    scene.say()
    for _ in range(40):
        if scene.link in scene.endpoint_of:
            scene.down(scene.link)
        scene.advance(1.0)
    assert scene.outcomes() == ["failed"]
    assert "could not send" in scene.announced()[0]


def test_words_of_a_turn_that_was_said_again_belong_to_it() -> None:
    scene = Scene().on(CLOUD)
    scene.say()
    scene.committed("item_u")
    scene.down(1, "lost", 1006)
    scene.advance(1.0)
    scene.open()
    scene.committed("item_again")
    scene.server(heard("item_again", "What time is it?"))
    assert scene.notices(InputText) == [InputText("What time is it?", is_final=True, turn="turn_1")]


# --- the day's budget --------------------------------------------------------------------------------------------

USAGE = {
    "total_tokens": 2500,
    "input_tokens": 1500,
    "output_tokens": 1000,
    "input_token_details": {"text_tokens": 500, "audio_tokens": 1000, "image_tokens": 0, "cached_tokens": 0},
    "output_token_details": {"text_tokens": 0, "audio_tokens": 1000},
}
USD = (500 * 4.00 + 1000 * 32.00 + 1000 * 64.00) / 1_000_000  # of USAGE by the price list of gpt-realtime-2.1
WITH_OFFLINE: dict[str, Any] = {"endpoints": 2, "offline_endpoint": 1}


def counted(scene: Scene) -> list[Usage]:
    """What was counted of the model's work; the end of a turn counts its seconds."""
    return [one for one in scene.notices(Usage) if one.audio_s == 0.0]


def seconds(scene: Scene) -> list[float]:
    return [one.audio_s for one in scene.notices(Usage) if one.audio_s > 0.0]


def reached(scene: Scene) -> list[int]:
    return [one.percent for one in scene.notices(BudgetWarning)]


def spent(**policy: Any) -> Scene:
    """A scene whose first turn has spent the whole budget."""
    scene = Scene(budget_usd=USD, **policy).on(CLOUD)
    scene.whole_turn(usage=USAGE)
    assert reached(scene) == [100]
    return scene


def test_each_response_is_counted_by_kind_and_in_money() -> None:
    scene = Scene().on(CLOUD)
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


def test_what_is_spent_adds_up_over_the_day() -> None:
    scene = Scene().on(CLOUD)
    scene.whole_turn("resp_1", usage=USAGE)
    scene.whole_turn("resp_2", usage=USAGE)
    assert [one.spent_usd for one in counted(scene)] == [pytest.approx(USD), pytest.approx(2 * USD)]


def test_a_model_without_a_price_is_counted_without_a_figure() -> None:
    scene = Scene()
    scene.start()
    scene.open(model="my-own-model")
    scene.advance(2.0)
    scene.whole_turn(usage=USAGE)
    [one] = counted(scene)
    assert one.usd is None
    assert one.spent_usd == 0.0
    assert dict(one.tokens)["output_audio_tokens"] == 1000


def test_a_server_that_names_no_model_gives_no_figure() -> None:
    scene = Scene()
    scene.start()
    scene.link_ready()
    scene.advance(2.0)
    scene.whole_turn(usage=USAGE)
    assert [one.usd for one in counted(scene)] == [None]


def test_a_response_without_usage_is_not_counted() -> None:
    scene = Scene().on(CLOUD)
    scene.whole_turn()
    assert counted(scene) == []


def test_an_answer_that_was_interrupted_is_counted_all_the_same() -> None:
    scene = Scene().on(CLOUD)
    scene.ask()
    scene.audio(ms=2000)
    scene.press()
    scene.done(status="cancelled", usage=USAGE)
    assert [one.usd for one in counted(scene)] == [pytest.approx(USD)]


def test_an_answer_beside_the_conversation_is_counted() -> None:
    scene = Scene().on(CLOUD)
    response = {"id": "resp_x", "status": "completed", "output": [], "metadata": {"aside": "key_1"}, "usage": USAGE}
    scene.server({"type": "response.done", "response": response})
    assert [one.usd for one in counted(scene)] == [pytest.approx(USD)]


def test_a_transcription_is_counted_by_its_minutes() -> None:
    scene = Scene().on(CLOUD)
    scene.ask()
    scene.server(heard("item_u", "What time is it?", {"type": "duration", "seconds": 30}))
    assert [one.usd for one in counted(scene)] == [pytest.approx(0.0045 / 2)]


def test_a_transcription_is_counted_by_its_tokens() -> None:
    scene = Scene().on(CLOUD)
    scene.confirm("gpt-4o-transcribe")
    scene.ask()
    usage = {
        "type": "tokens",
        "total_tokens": 1200,
        "input_tokens": 1000,
        "output_tokens": 200,
        "input_token_details": {"text_tokens": 0, "audio_tokens": 1000},
    }
    scene.server(heard("item_u", "What time is it?", usage))
    [one] = counted(scene)
    assert one.usd == pytest.approx((1000 * 2.50 + 200 * 10.00) / 1_000_000)
    assert dict(one.tokens)["input_audio_tokens"] == 1000
    assert dict(one.tokens)["output_tokens"] == 200


def test_a_transcription_by_an_unknown_model_has_no_figure() -> None:
    scene = Scene().on(CLOUD)
    scene.confirm("my-own-ear")
    scene.ask()
    scene.server(heard("item_u", "What time is it?", {"type": "duration", "seconds": 30}))
    assert [one.usd for one in counted(scene)] == [None]


def test_the_model_of_the_connection_that_took_over_has_the_price() -> None:
    scene = Scene(endpoints=2, failback_s=60.0)
    scene.start()
    scene.down(1)
    scene.advance(0.0)
    scene.open(model="my-own-model")
    scene.advance(60.0)
    scene.open(3, model=MODEL)
    scene.whole_turn(usage=USAGE)
    assert scene.using() == CLOUD
    assert [one.usd for one in counted(scene)] == [pytest.approx(USD)]


def test_the_seconds_of_a_turn_are_counted_both_ways_at_its_end() -> None:
    scene = Scene(pre_roll_ms=0).on(CLOUD)
    scene.press()
    scene.hear(1000)
    scene.release()
    scene.hear(260, 30)
    sent_s = len(scene.sent_audio()) / 2 / wire.SAMPLE_RATE
    scene.committed()
    scene.created()
    scene.finish()
    assert seconds(scene) == [pytest.approx(sent_s + 0.2)]


def test_eighty_percent_is_told_once_and_nothing_changes() -> None:
    scene = Scene(budget_usd=USD / 0.9, **WITH_OFFLINE).on(CLOUD)
    scene.whole_turn(usage=USAGE)
    assert reached(scene) == [80]
    assert (scene.notices(BudgetWarning)[0].percent, scene.notices(BudgetWarning)[0].unit) == (80, "usd")
    assert scene.announced() == []
    assert scene.connects() == []
    small = {"input_tokens": 0, "output_tokens": 1, "output_token_details": {"text_tokens": 1}}
    scene.whole_turn("resp_2", usage=small)
    assert reached(scene) == [80]


def test_a_hundred_percent_is_told_once_and_aloud() -> None:
    scene = Scene(budget_usd=USD, **WITH_OFFLINE).on(CLOUD)
    scene.ask()  # until the turn is over the connection stays
    for key in ("key_1", "key_2"):
        response = {"id": f"resp_{key}", "status": "completed", "output": [], "metadata": {"aside": key}}
        scene.server({"type": "response.done", "response": response | {"usage": USAGE}})
    assert len(counted(scene)) == 2
    assert reached(scene) == [100]
    [said] = scene.announced()
    assert "100 percent of today's budget is spent" in said
    assert "offline" in said


def test_the_offline_brain_takes_over_when_the_turn_is_over() -> None:
    scene = Scene(budget_usd=USD, **WITH_OFFLINE).on(CLOUD)
    scene.ask()
    scene.audio(ms=200)
    scene.done(usage=USAGE)
    assert reached(scene) == [100]
    assert scene.connects() == [], "the answer that was paid for is heard first"
    scene.play(4800, drained=True)
    assert scene.outcomes() == ["answered"]
    assert scene.connects() == [Connect(2, 1)]
    scene.open(2, model="offline")
    assert scene.closed() == [1]
    assert scene.using() == 1


def test_what_is_asked_after_that_is_answered_by_the_offline_brain() -> None:
    scene = spent(**WITH_OFFLINE)
    scene.open(2, model="offline")
    scene.commands.clear()
    scene.whole_turn("resp_2")
    assert scene.types_on(2) == TURN_SENT
    assert scene.types_on(1) == []
    assert scene.outcomes() == ["answered"]


def test_the_offline_brain_costs_nothing() -> None:
    scene = Scene(budget_usd=1.0, **WITH_OFFLINE)
    scene.start()
    scene.down(1)
    scene.advance(0.0)
    scene.open(model=MODEL)
    scene.advance(2.0)
    scene.whole_turn(usage=USAGE)
    assert scene.notices(Usage) == []


def test_the_offline_brain_costs_nothing_though_its_connection_is_lost_before_the_end() -> None:
    scene = Scene(budget_s=600.0, **WITH_OFFLINE)
    scene.start()
    scene.down(1)
    scene.advance(0.0)
    scene.open()
    scene.advance(2.0)
    scene.ask()
    scene.audio(ms=200)
    scene.done()
    scene.down(2, "lost", 1006)
    scene.play(4800, drained=True)
    assert scene.outcomes() == ["answered"]
    assert scene.notices(Usage) == []


def test_with_the_budget_spent_no_better_endpoint_is_looked_for() -> None:
    scene = spent(**WITH_OFFLINE, failback_s=60.0)
    scene.open(2, model="offline")
    scene.commands.clear()
    scene.advance(3000.0)
    assert scene.connects() == []


def test_with_the_budget_spent_a_lost_offline_brain_is_not_replaced_by_one_that_costs() -> None:
    scene = spent(**WITH_OFFLINE)
    scene.open(2, model="offline")
    scene.commands.clear()
    scene.down(2, "lost", 1006)
    for _ in range(5):
        scene.advance(2.0)
        scene.down(scene.link)
    scene.advance(30.0)
    assert set(scene.tried()) == {1}


def test_with_the_budget_spent_and_the_offline_brain_away_nothing_more_is_spent() -> None:
    scene = spent(**WITH_OFFLINE)
    scene.down(2)
    scene.commands.clear()
    scene.speaks_on = 1
    scene.say()
    assert "response.create" not in scene.types_on(1)


def test_a_new_day_frees_the_better_endpoints() -> None:
    scene = spent(**WITH_OFFLINE, failback_s=60.0)
    scene.open(2, model="offline")
    scene.commands.clear()
    scene.do(DayBegan("2026-11-24"))
    scene.advance(61.0)
    assert scene.tried() == [CLOUD]
    scene.open(3)
    assert scene.using() == CLOUD
    scene.whole_turn("resp_2", usage=USAGE)
    assert reached(scene) == [100], "a day of its own, and told again"


def test_a_day_that_begins_spent_begins_offline() -> None:
    scene = Scene(budget_usd=1.0, **WITH_OFFLINE)
    scene.do(DayBegan("2026-11-23", spent_usd=1.5))
    scene.start()
    assert scene.connects() == [Connect(1, 1)]


def test_without_an_offline_brain_a_press_is_refused_aloud() -> None:
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


def test_without_an_offline_brain_the_announcement_does_not_promise_one() -> None:
    assert "offline" not in spent().announced()[0]


def test_a_new_day_frees_the_button() -> None:
    scene = spent()
    scene.do(DayBegan("2026-11-24"))
    scene.commands.clear()
    scene.whole_turn("resp_2")
    assert scene.outcomes() == ["answered"]
    assert scene.troubles() == []


def test_the_same_day_told_again_frees_nothing() -> None:
    scene = Scene(budget_usd=USD).on(CLOUD)
    scene.do(DayBegan("2026-11-23"))
    scene.whole_turn(usage=USAGE)
    scene.do(DayBegan("2026-11-23"))
    scene.press()
    assert scene.troubles() == ["budget_spent"]


def test_minutes_are_a_budget_too() -> None:
    scene = Scene(budget_s=1.5).on(CLOUD)
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


def test_minutes_that_are_spent_bring_the_offline_brain_after_the_turn() -> None:
    scene = Scene(budget_s=0.5, **WITH_OFFLINE).on(CLOUD)
    scene.whole_turn()
    assert reached(scene) == [100]
    assert scene.connects() == [Connect(2, 1)]


def test_a_slip_costs_no_seconds() -> None:
    scene = Scene(budget_s=60.0).on(CLOUD)
    scene.press()
    scene.hear(40)
    scene.release()
    assert scene.outcomes() == ["too_short"]
    assert scene.notices(Usage) == []
