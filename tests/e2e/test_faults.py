"""The whole appliance against every fault: a named trouble, a light that shows it, a way back, nothing spoken lost.

Sound and pins are simulated, the server is scripted, all between is real. Each test ends with a turn that is
answered, on the same running appliance: the way back.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from tests.support.rig import (
    ANSWERED_TURN,
    COMMITTED,
    GOOD,
    Rig,
    audio_delta,
    created,
    done,
    running,
)
from tests.support.scripted_server import (
    SESSION_CREATED,
    ScriptedServer,
    Step,
    abort,
    close,
    expect,
    hold,
    refuse,
    reply,
    send,
    send_raw,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

OPENED: list[Step] = [send(SESSION_CREATED), expect("session.update")]
ERROR_KEY = {
    "type": "error",
    "event_id": "e_error",
    "error": {
        "type": "invalid_request_error",
        "code": "invalid_api_key",
        "message": "Incorrect API key provided: sk-test-0123456789. You can find your key elsewhere.",
        "param": None,
        "event_id": None,
    },
}
KEY = "sk-test-abcdefghijklmnop"


def _pcm_seconds(server: ScriptedServer, number: int) -> float:
    """Seconds of audio that a connection was sent."""
    frames = server.connections[number].of_type("input_audio_buffer.append")
    return sum(len(frame["audio"]) * 3 / 4 for frame in frames) / 48_000


# --- frames that cannot be read -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    ['{"type": "response.created", "resp', b"\x00\x01\x02", "[1, 2]", '{"no": "type"}'],
    ids=["malformed JSON", "binary", "no object", "no type"],
)
async def test_a_frame_that_cannot_be_read_is_told_and_the_session_goes_on(frame: str | bytes) -> None:
    async with ScriptedServer([*OPENED, send_raw(frame), *ANSWERED_TURN]) as server:
        async with running(Rig(server.base_url)) as rig:
            await rig.until(lambda: "bad_frame" in rig.troubles)
            assert rig.light == "error"
            await rig.at_rest()
            assert await rig.turn() == "answered"
            assert rig.sounded > 0
        assert len(server.connections) == 1


async def test_an_unknown_event_is_ignored() -> None:
    async with ScriptedServer([*OPENED, send({"type": "session.weather", "event_id": "e"}), *ANSWERED_TURN]) as server:
        async with running(Rig(server.base_url)) as rig:
            await rig.at_rest()
            assert await rig.turn() == "answered"
            assert rig.troubles == []


async def test_wrong_base64_in_an_answer_is_told_and_the_rest_of_it_played() -> None:
    broken = [
        expect("input_audio_buffer.commit"),
        send(COMMITTED),
        expect("response.create"),
        reply(lambda one: [created(one), audio_delta(one) | {"delta": "!!!"}, audio_delta(one), done(one)]),
    ]
    async with ScriptedServer([*OPENED, *broken]) as server, running(Rig(server.base_url)) as rig:
        await rig.at_rest()
        assert await rig.turn() == "answered"
        assert rig.troubles == ["bad_frame"]
        assert "error" not in rig.lights[: rig.lights.index("speaking")], "speaking comes before error"
        assert rig.sounded > 0


# --- servers that do not serve ------------------------------------------------------------------------------------


async def test_a_server_that_accepts_and_says_nothing() -> None:
    async with ScriptedServer([hold()], every_other=GOOD) as server, running(Rig(server.base_url)) as rig:
        await rig.until(lambda: "timeout" in rig.troubles)
        assert "no_link" in rig.lights
        await rig.at_rest()
        assert await rig.turn() == "answered"


async def test_a_server_that_says_nothing_after_the_audio_was_sent() -> None:
    async with ScriptedServer([*OPENED, hold()], every_other=GOOD) as server, running(Rig(server.base_url)) as rig:
        await rig.at_rest()
        assert await rig.turn() == "answered", "the same words go to the next connection"
        assert "timeout" in rig.troubles
        assert "no_link" in rig.lights
        assert _pcm_seconds(server, 1) == pytest.approx(_pcm_seconds(server, 0), abs=0.001)


async def test_a_server_that_never_answers_is_told_aloud() -> None:
    silent = [expect("input_audio_buffer.commit"), send(COMMITTED), expect("response.create"), reply(created)]
    async with ScriptedServer([*OPENED, *silent, expect("response.cancel"), *ANSWERED_TURN]) as server:
        async with running(Rig(server.base_url)) as rig:
            await rig.at_rest()
            assert await rig.turn() == "failed"
            assert rig.troubles == ["no_answer"]
            assert rig.announced == ["I got no answer. Please try again."]
            assert rig.light == "error"


AT: dict[str, list[Step]] = {
    "before session.created": [],
    "while listening": [*OPENED, expect("input_audio_buffer.append")],
    "after commit": [*OPENED, expect("input_audio_buffer.commit")],
    "after committed": [*OPENED, expect("input_audio_buffer.commit"), send(COMMITTED), expect("response.create")],
    "after response.created": [
        *OPENED,
        expect("input_audio_buffer.commit"),
        send(COMMITTED),
        expect("response.create"),
        reply(created),
    ],
}


@pytest.mark.parametrize("end", [abort(), close(1011, "server_error")], ids=["reset", "1011"])
@pytest.mark.parametrize("moment", AT)
async def test_a_connection_that_ends_before_the_answer_loses_nothing(moment: str, end: Step) -> None:
    async with ScriptedServer([*AT[moment], end], every_other=GOOD) as server, running(Rig(server.base_url)) as rig:
        await rig.until(lambda: rig.has_captured)
        if moment != "before session.created":
            await rig.at_rest()
        assert await rig.turn() == "answered"
        assert "no_link" in rig.lights
        assert set(rig.troubles) & {"lost", "server_error", "closed"}
        assert _pcm_seconds(server, len(server.connections) - 1) >= 0.9, "all of it was said again"
        await rig.at_rest()
        assert await rig.turn() == "answered"


@pytest.mark.parametrize("is_whole", [False, True], ids=["in the middle", "after response.done"])
async def test_a_connection_that_ends_while_the_answer_plays(is_whole: bool) -> None:
    speaking = [
        expect("input_audio_buffer.commit"),
        send(COMMITTED),
        expect("response.create"),
        reply(lambda one: [created(one), audio_delta(one, 600), *([done(one)] if is_whole else [])]),
        abort(),
    ]
    async with ScriptedServer([*OPENED, *speaking], every_other=GOOD) as server:
        async with running(Rig(server.base_url)) as rig:
            await rig.at_rest()
            assert await rig.turn() == ("answered" if is_whole else "failed")
            assert ("answer_cut" in rig.troubles) is not is_whole
            assert rig.sounded >= 25, "what came of it was played"
            await rig.until(lambda: rig.light == "ready")
            assert await rig.turn() == "answered"


async def test_an_expired_session_begins_anew_without_a_word() -> None:
    expired = close(1001, "Your session hit the maximum duration of 60 minutes.")
    async with ScriptedServer([*OPENED, expired], every_other=GOOD) as server, running(Rig(server.base_url)) as rig:
        await rig.until(lambda: len(server.connections) == 2)
        await rig.at_rest()
        assert await rig.turn() == "answered"
        assert rig.troubles == []


# --- being refused ------------------------------------------------------------------------------------------------


async def test_a_bad_key_is_named_shown_and_tried_again_at_a_press(caplog: pytest.LogCaptureFixture) -> None:
    bad = [send(SESSION_CREATED), send(ERROR_KEY), close(3000, "invalid_request_error.invalid_api_key")]
    caplog.set_level(logging.DEBUG)
    async with ScriptedServer(bad, every_other=GOOD) as server:
        rig = Rig(server.base_url, environ={"OPENAI_API_KEY": KEY})
        async with running(rig):
            await rig.until(lambda: rig.light == "failed")
            assert "bad_key" in rig.troubles
            assert await rig.turn() == "answered", "the key was mended, and a press finds out"
            assert "failed" not in rig.lights[rig.lights.index("listening") :]
    ours = [one.getMessage() for one in caplog.records if one.name != "websockets.server"]  # that is the test's server
    told = "\n".join([*rig.messages, *rig.announced, *ours])
    assert KEY not in told
    assert "0123456789" not in told


@pytest.mark.parametrize(
    ("status", "kind", "light"), [(401, "unauthorized", "failed"), (404, "not_an_endpoint", "failed")]
)
async def test_an_http_refusal_is_a_failure_until_a_press(status: int, kind: str, light: str) -> None:
    async with ScriptedServer([refuse(status)], every_other=GOOD) as server, running(Rig(server.base_url)) as rig:
        await rig.until(lambda: rig.light == light)
        assert kind in rig.troubles or "bad_key" in rig.troubles
        await rig.until(lambda: rig.has_captured)
        assert await rig.turn() == "answered"


async def test_a_server_that_is_busy_is_tried_again() -> None:
    async with ScriptedServer([refuse(503)], [refuse(503)], every_other=GOOD) as server:
        async with running(Rig(server.base_url)) as rig:
            await rig.at_rest()
            assert "no_link" in rig.lights
            assert await rig.turn() == "answered"


async def test_what_is_said_before_the_server_is_there_arrives_in_full() -> None:
    async with ScriptedServer() as elsewhere:
        port_that_was_free = elsewhere.port
    rig = Rig(f"http://127.0.0.1:{port_that_was_free}/v1")
    async with running(rig):
        await rig.until(lambda: rig.has_captured and "refused" in rig.troubles)
        await rig.talk(600)
        assert rig.light == "no_link"
        async with ScriptedServer(every_other=GOOD, port=port_that_was_free) as server:
            await rig.until(lambda: bool(rig.outcomes))
            assert rig.outcomes == ["answered"]
            assert _pcm_seconds(server, len(server.connections) - 1) >= 1.0


async def test_a_server_that_never_comes_is_told_aloud() -> None:
    async with ScriptedServer() as elsewhere:
        base_url = elsewhere.base_url
    rig = Rig(base_url, deadlines__link_wait_s=1.0)
    async with running(rig):
        await rig.until(lambda: rig.has_captured)
        assert await rig.turn() == "failed"
        assert "no_link" in rig.troubles
        assert "could not send" in rig.announced[0]


# --- cards --------------------------------------------------------------------------------------------------------


async def test_a_microphone_that_is_missing_at_the_start_and_comes() -> None:
    async with ScriptedServer(every_other=GOOD) as server:
        rig = Rig(server.base_url)
        assert rig.stand.backend is not None
        rig.stand.backend.microphone.is_plugged = False
        async with running(rig):
            await rig.until(lambda: rig.light == "no_card")
            assert "no_microphone" in rig.troubles
            rig.stand.finger.hold(0.2)
            await rig.until(lambda: bool(rig.announced))
            assert "microphone" in rig.announced[0]
            rig.stand.backend.microphone.is_plugged = True
            await rig.at_rest()
            assert await rig.turn() == "answered"


async def test_a_microphone_unplugged_in_mid_sentence_sends_what_was_said() -> None:
    async with ScriptedServer(every_other=GOOD) as server:
        rig = Rig(server.base_url)
        assert rig.stand.backend is not None
        async with running(rig):
            await rig.at_rest()
            rig.stand.finger.press()
            rig.stand.backend.microphone.say(b"\x10\x27" * 24_000)
            await rig.until(lambda: rig.light == "listening")
            await asyncio.sleep(0.6)
            rig.stand.backend.microphone.is_plugged = False
            await rig.until(lambda: bool(rig.outcomes))
            rig.stand.finger.release()
            assert rig.outcomes == ["answered"]
            assert rig.troubles == ["no_microphone"]
            assert "no_card" in rig.lights
            rig.stand.backend.microphone.is_plugged = True
            await rig.at_rest()
            assert await rig.turn() == "answered"


async def test_a_loudspeaker_unplugged_while_speaking() -> None:
    long_answer = [
        expect("input_audio_buffer.commit"),
        send(COMMITTED),
        expect("response.create"),
        reply(lambda one: [created(one), audio_delta(one, 5000), done(one)]),
    ]
    async with ScriptedServer([*OPENED, *long_answer, *ANSWERED_TURN]) as server:
        rig = Rig(server.base_url)
        assert rig.stand.backend is not None
        async with running(rig):
            await rig.at_rest()
            await rig.talk()
            await rig.until(lambda: rig.light == "speaking")
            rig.stand.backend.loudspeaker.is_plugged = False
            await rig.until(lambda: bool(rig.outcomes))
            assert rig.outcomes == ["failed"]
            assert "no_speaker" in rig.troubles
            assert "no_card" in rig.lights
            rig.stand.backend.loudspeaker.is_plugged = True
            await rig.at_rest()
            assert await rig.turn() == "answered"
        assert "conversation.item.truncate" in server.connections[0].types


async def test_a_dead_microphone_is_told_and_nothing_is_committed() -> None:
    async with ScriptedServer(every_other=GOOD) as server:
        rig = Rig(server.base_url)
        assert rig.stand.backend is not None
        async with running(rig):
            await rig.at_rest()
            rig.stand.backend.microphone.is_dead = True
            await asyncio.sleep(0.5)
            rig.stand.finger.hold(0.6)
            await rig.until(lambda: bool(rig.outcomes))
            assert rig.outcomes == ["silence"]
            assert rig.troubles == ["silent_microphone"]
            assert rig.light == "error"
            assert "input_audio_buffer.commit" not in server.connections[0].types
            rig.stand.backend.microphone.is_dead = False
            await rig.at_rest()
            assert await rig.turn() == "answered"


# --- the rest -----------------------------------------------------------------------------------------------------


async def test_a_full_disk_ends_the_trace_and_not_the_conversation() -> None:
    async with ScriptedServer(every_other=GOOD) as server:
        async with running(Rig(server.base_url, trace=Path("/dev/full"), button__mode="hold")) as rig:
            await rig.until(lambda: "trace_failed" in rig.troubles)
            assert "error" in rig.lights
            await rig.at_rest()
            assert await rig.turn() == "answered"
            assert rig.troubles.count("trace_failed") == 1


async def test_the_key_is_in_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    async with ScriptedServer([send(SESSION_CREATED), send(ERROR_KEY), *GOOD[1:]]) as server:
        async with running(Rig(server.base_url, trace=path, environ={"OPENAI_API_KEY": KEY})) as rig:
            await rig.at_rest()
            assert await rig.turn() == "answered"
    text = path.read_text(encoding="utf-8")
    assert KEY not in text
    assert "0123456789" not in text
    assert "ResponseDone" in text


async def test_a_stop_in_the_middle_of_an_answer_says_what_was_heard() -> None:
    speaking = [
        expect("input_audio_buffer.commit"),
        send(COMMITTED),
        expect("response.create"),
        reply(lambda one: [created(one), audio_delta(one, 5000)]),
        expect("conversation.item.truncate"),
        expect("response.cancel"),
    ]
    async with ScriptedServer([*OPENED, *speaking]) as server:
        async with running(Rig(server.base_url)) as rig:
            await rig.at_rest()
            await rig.talk()
            await rig.until(lambda: rig.light == "speaking")
            await asyncio.sleep(0.3)
        assert rig.outcomes == ["cancelled"]
        server.assert_complete()
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
