"""Tests of the `session` region: the agent the server has, and the updates it has not answered."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.conversation.policy import Policy
from appliance.conversation.regions.session import Session, SessionUpdateSent, session_for
from appliance.conversation.support.outbox import Outbox
from appliance.realtime import protocol as wire
from tests.unit.conversation.regions.outcome import frames, linked, spec

ANN, BOB = spec("ann"), spec("bob")


def session(out: Outbox | None = None, **policy: Any) -> Session:
    return Session(Policy(**policy), out or linked(), ANN)


def accepted(instructions: str | None = None, **more: Any) -> wire.SessionUpdated:
    return wire.SessionUpdated(session=({} if instructions is None else {"instructions": instructions}) | more)


def send_raw_update(region: Session, event_id: str, instructions: str | None, now: float = 0.0) -> None:
    """Let the program send a raw session.update."""
    region.note_raw(event_id, {} if instructions is None else {"instructions": instructions}, now)


def id_of(update: SessionUpdateSent | None) -> str | None:
    return update.event_id if update is not None else None


def test_session_updated_accepts_the_update_with_its_instructions_and_all_earlier_ones() -> None:
    region = session()
    send_raw_update(region, "a", "first")
    send_raw_update(region, "b", "second")
    send_raw_update(region, "c", "third")
    assert id_of(region.updated(accepted("second"))) == "b"
    assert region.refused("a") is None
    assert id_of(region.updated(accepted("third"))) == "c"
    assert not region.is_waiting


def test_session_updated_without_instructions_accepts_the_oldest_update() -> None:
    region = session()
    send_raw_update(region, "a", "first")
    send_raw_update(region, "b", "second")
    assert [id_of(region.updated(accepted())) for _ in range(3)] == ["a", "b", None]


def test_session_updated_with_altered_instructions_accepts_the_oldest_update() -> None:
    region = session()
    send_raw_update(region, "a", "first")
    send_raw_update(region, "b", "second")
    assert id_of(region.updated(accepted("first, and be kind"))) == "a"


def test_session_updated_with_the_instructions_in_force_does_not_accept_a_handoff() -> None:
    region = session()
    region.request_handoff("call_1", BOB, BOB.session, 0.0)
    assert region.updated(accepted(str(ANN.session["instructions"]))) is None
    assert region.has_handoff


def test_every_session_updated_sets_the_transcriber_even_without_a_pending_update() -> None:
    region = session()
    audio = {"input": {"transcription": {"model": "scribe-1"}}}
    assert region.updated(accepted(audio=audio)) is None
    assert region.transcriber == "scribe-1"
    region.updated(accepted(audio=None))
    assert region.transcriber == ""


def test_an_error_refuses_only_the_update_it_names() -> None:
    region = session()
    send_raw_update(region, "a", "first")
    send_raw_update(region, "b", "second")
    assert [id_of(region.refused(one)) for one in (None, "c", "b", "b")] == [None, None, "b", None]
    assert id_of(region.updated(accepted("first"))) == "a"


def test_instructions_for_a_turn_apply_at_once_and_a_refusal_names_the_previous_ones() -> None:
    out = linked()
    region = session(out)
    region.change_for_turn("turn_1", BOB, BOB.session, 0.0)
    assert frames(out.take()) == [{"type": "session.update", "event_id": "turn_turn_1", "session": BOB.session}]
    assert region.spec is BOB
    refused = region.refused("turn_turn_1")
    assert refused is not None
    assert (refused.kind, refused.spec) == ("turn", ANN)


def test_a_handoff_changes_the_agent_only_after_the_server_accepts_it() -> None:
    out = linked()
    region = session(out)
    region.request_handoff("call_1", BOB, BOB.session, 0.0)
    assert frames(out.take()) == [{"type": "session.update", "event_id": "handoff_call_1", "session": BOB.session}]
    assert (region.spec, region.has_handoff) == (ANN, True)
    update = region.updated(accepted(str(BOB.session["instructions"])))
    assert update is not None
    assert (update.kind, update.spec, update.call_id, region.has_handoff) == ("handoff", BOB, "call_1", False)


def test_a_handoff_update_outlives_the_deadline_of_its_call() -> None:
    region = session(commit_s=5.0, tool_s=20.0)
    region.request_handoff("call_1", BOB, BOB.session, 100.0)
    region.change_for_turn("turn_1", ANN, ANN.session, 100.0)
    send_raw_update(region, "raw", None, 100.0)
    assert list(region.deadlines()) == [125.0, 105.0, 105.0]


def test_a_failed_handoff_is_rolled_back_to_the_agent_in_force_and_can_no_longer_be_accepted() -> None:
    out = linked()
    region = session(out)
    region.request_handoff("call_1", BOB, BOB.session, 0.0)
    out.take()
    region.roll_back("call_1", ANN.session, 1.0)
    assert frames(out.take()) == [{"type": "session.update", "event_id": "rollback_call_1", "session": ANN.session}]
    update = region.updated(accepted(str(BOB.session["instructions"])))
    assert update is not None
    assert (update.kind, region.has_handoff, region.is_waiting) == ("rollback", False, True)


def test_a_handoff_that_was_never_sent_needs_no_rollback() -> None:
    out = linked()
    region = session(out)
    region.request_handoff("call_1", BOB, BOB.session, 0.0)
    out.take()
    region.roll_back("call_2", ANN.session, 1.0)
    assert (out.take(), region.has_handoff) == ([], True)


def test_an_update_expires_at_its_deadline_and_all_are_forgotten_with_the_link() -> None:
    region = session(commit_s=5.0)
    send_raw_update(region, "a", "first", 100.0)
    send_raw_update(region, "b", "second", 101.0)
    region.expire(104.9)
    assert len(list(region.deadlines())) == 2
    region.expire(105.0)
    assert list(region.deadlines()) == [106.0]
    region.forget()
    assert not region.is_waiting


@pytest.mark.parametrize(
    ("is_trusted", "has_spoken", "tools", "output"),
    [
        (True, False, ["own", "secret"], {"voice": "ash", "speed": 1.0}),
        (False, False, ["own"], {"voice": "ash", "speed": 1.0}),
        (True, True, ["own", "secret"], {"speed": 1.0}),
        (False, True, ["own"], {"speed": 1.0}),
    ],
)
def test_untrusted_servers_get_no_secrets_and_sessions_that_have_spoken_get_no_voice(
    is_trusted: bool, has_spoken: bool, tools: list[str], output: dict[str, Any]
) -> None:
    whole = {
        "type": "realtime",
        "audio": {"output": {"voice": "ash", "speed": 1.0}},
        "tools": [{"type": "function", "name": "own"}, {"type": "mcp", "name": "secret", "authorization": "token"}],
    }
    sent = session_for(spec(session=whole), is_offline=False, is_trusted=is_trusted, has_spoken=has_spoken)
    assert [one["name"] for one in sent["tools"]] == tools
    assert sent["audio"]["output"] == output
