"""Tests of the conversation core: the daily budget."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from appliance.conversation.commands import Connect
from appliance.conversation.events import (
    DayBegan,
    LinkDown,
    MessageGiven,
)
from appliance.conversation.notices import BudgetWarning, Usage
from appliance.realtime import protocol as wire
from tests.support.stage import period
from tests.support.stages.links import CLOUD, MODEL, TURN_SENT, LinkStage

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
