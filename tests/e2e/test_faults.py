"""The whole appliance against every fault: it reports the fault by name, shows it, recovers and loses no speech.

Sound and pins are simulated, the server is scripted, everything between is real. Recovery is shown by a last turn on
the same running appliance that is answered and heard. Cases that differ only in when they happen run in parallel.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.rig import (
    ANSWERED_TURN,
    COMMITTED,
    GOOD,
    SPOKEN_MS,
    Rig,
    audio_delta,
    created,
    done,
    running,
    spoken_ms,
    together,
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
    stall_handshake,
    stop_reading,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

OPENED: list[Step] = [send(SESSION_CREATED), expect("session.update")]
ASKED: list[Step] = [expect("input_audio_buffer.commit"), send(COMMITTED), expect("response.create")]
ALL_SPOKEN_MS = SPOKEN_MS - 20  # the first and the last period may be half full
KEY = "sk-test-abcdefghijklmnop"
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
BAD_KEY: list[Step] = [
    send(SESSION_CREATED),
    send(ERROR_KEY),
    close(3000, "invalid_request_error.invalid_api_key"),
]


# --- frames that cannot be read -----------------------------------------------------------------------------------


async def test_unreadable_frame_is_reported_and_the_session_continues() -> None:
    async def case(frame: str | bytes) -> None:
        async with ScriptedServer([*OPENED, send_raw(frame), *ANSWERED_TURN]) as server:
            async with running(Rig(server.base_url)) as rig:
                await rig.until(lambda: "bad_frame" in rig.troubles)
                assert rig.light == "error"
                await rig.at_rest()
                assert await rig.turn() == "answered"
            assert len(server.connections) == 1

    await together(
        malformed=case('{"type": "response.created", "resp'),
        binary=case(b"\x00\x01\x02"),
        no_object=case("[1, 2]"),
        no_type=case('{"no": "type"}'),
    )


async def test_server_that_sends_only_unreadable_frames_is_left_and_the_speech_is_sent_to_the_next() -> None:
    rubbish = [*OPENED, expect("input_audio_buffer.commit"), send_raw(*["{"] * 20), hold()]
    async with ScriptedServer(rubbish, every_other=GOOD) as server, running(Rig(server.base_url)) as rig:
        await rig.at_rest()
        assert await rig.turn() == "answered"
        assert rig.troubles == ["bad_frame"] * 11 + ["bad_frames"]
        assert "no_link" in rig.lights
        assert spoken_ms(server.connections[1]) >= ALL_SPOKEN_MS


async def test_unknown_event_is_ignored() -> None:
    async with ScriptedServer([*OPENED, send({"type": "session.weather", "event_id": "e"}), *ANSWERED_TURN]) as server:
        async with running(Rig(server.base_url)) as rig:
            await rig.at_rest()
            assert await rig.turn() == "answered"
            assert rig.troubles == []
            assert "error" not in rig.lights


async def test_wrong_base64_in_an_answer_is_reported_and_the_rest_is_played() -> None:
    broken = reply(lambda one: [created(one), audio_delta(one) | {"delta": "!!!"}, audio_delta(one), done(one)])
    async with ScriptedServer([*OPENED, *ASKED, broken, *ANSWERED_TURN]) as server:
        async with running(Rig(server.base_url)) as rig:
            await rig.at_rest()
            assert await rig.turn() == "answered"
            assert rig.troubles == ["bad_frame"]
            assert "error" not in rig.lights[: rig.lights.index("speaking")], "speaking comes before error"
            await rig.until(lambda: rig.light == "error")
            assert await rig.turn() == "answered"


# --- servers that do not serve ------------------------------------------------------------------------------------


async def test_server_that_accepts_but_sends_nothing_times_out() -> None:
    async with ScriptedServer([hold()], every_other=GOOD) as server, running(Rig(server.base_url)) as rig:
        await rig.until(lambda: rig.has_captured)
        assert await rig.turn() == "answered", "speech captured before the connection is kept"
        assert rig.troubles == ["timeout"]
        assert "no_link" in rig.lights
        assert spoken_ms(server.connections[1]) >= ALL_SPOKEN_MS


async def test_server_that_never_answers_the_upgrade_times_out() -> None:
    async with ScriptedServer([stall_handshake()], every_other=GOOD) as server, running(Rig(server.base_url)) as rig:
        await rig.until(lambda: rig.has_captured)
        assert await rig.turn() == "answered"
        assert rig.troubles == ["timeout"]
        assert "no_link" in rig.lights
        assert spoken_ms(server.connections[1]) >= ALL_SPOKEN_MS


async def test_server_that_sends_nothing_after_the_audio_times_out() -> None:
    async with ScriptedServer([*OPENED, hold()], every_other=GOOD) as server, running(Rig(server.base_url)) as rig:
        await rig.at_rest()
        assert await rig.turn() == "answered", "the same speech goes to the next connection"
        assert rig.troubles == ["timeout"]
        assert "no_link" in rig.lights
        assert spoken_ms(server.connections[1]) >= ALL_SPOKEN_MS


async def test_missing_answer_is_announced() -> None:
    silent = [*ASKED, reply(created), expect("response.cancel"), reply(lambda one: done(one, "cancelled"))]
    async with ScriptedServer([*OPENED, *silent, *ANSWERED_TURN]) as server:
        async with running(Rig(server.base_url)) as rig:
            await rig.at_rest()
            assert await rig.turn() == "failed"
            assert rig.troubles == ["no_answer"]
            assert rig.announced == ["I got no answer. Please try again."]
            assert rig.light == "error"
            assert await rig.turn() == "answered"


# --- a close at every point of a turn -----------------------------------------------------------------------------

ENDS = {"reset": abort(), "1011": close(1011, "server_error"), "1000": close(1000)}
BEFORE_THE_ANSWER: dict[str, list[Step]] = {
    "before session.created": [],
    "before session.update": [send(SESSION_CREATED)],
    "while listening": [*OPENED, expect("input_audio_buffer.append")],
    "after commit": [*OPENED, expect("input_audio_buffer.commit")],
    "after committed": [*OPENED, *ASKED],
    "after response.created": [*OPENED, *ASKED, reply(created)],
}


@pytest.mark.parametrize("end", ENDS)
async def test_connection_that_ends_before_the_answer_loses_no_speech(end: str) -> None:
    async def case(moment: str, steps: Sequence[Step]) -> None:
        async with ScriptedServer([*steps, ENDS[end]], every_other=GOOD) as server:
            async with running(Rig(server.base_url)) as rig:
                await rig.until(lambda: rig.has_captured)
                if not moment.startswith("before"):
                    await rig.at_rest()
                assert await rig.turn() == "answered"
                assert "no_link" in rig.lights
                assert rig.troubles == [{"reset": "lost", "1011": "server_error", "1000": "closed"}[end]]
                assert spoken_ms(server.connections[1]) >= ALL_SPOKEN_MS, "all of it was sent again"
                assert await rig.turn() == "answered"

    await together(**{moment: case(moment, steps) for moment, steps in BEFORE_THE_ANSWER.items()})


async def test_connection_that_ends_during_the_answer_still_plays_the_received_part() -> None:
    async def case(end: str, ms: int, *, is_whole: bool) -> None:
        answer = reply(lambda one: [created(one), audio_delta(one, ms), *([done(one)] if is_whole else [])])
        async with ScriptedServer([*OPENED, *ASKED, answer, ENDS[end]], every_other=GOOD) as server:
            async with running(Rig(server.base_url)) as rig:
                await rig.at_rest()
                assert await rig.turn() == ("answered" if is_whole else "failed")
                assert ("answer_cut" in rig.troubles) is not is_whole
                assert "playout_stalled" not in rig.troubles
                assert rig.announced == (
                    [] if is_whole else ["I lost the connection in the middle of my answer. Please ask again."]
                )
                assert rig.answer_ms >= ms - 40, "the received part was played"
                await rig.until(lambda: rig.has_captured and rig.light in ("ready", "error"))
                assert await rig.turn() == "answered"

    await together(
        **{
            f"{end} {ms} {is_whole}": case(end, ms, is_whole=is_whole)
            for end in ("reset", "1011")
            for ms, is_whole in ((600, False), (600, True), (40, False))  # 40 ms: less than the prebuffer
        }
    )


async def test_expired_session_is_replaced_silently() -> None:
    expired = close(1001, "Your session hit the maximum duration of 60 minutes.")

    async def case(steps: Sequence[Step]) -> None:
        async with ScriptedServer([*OPENED, *steps, expired], every_other=GOOD) as server:
            async with running(Rig(server.base_url)) as rig:
                await rig.at_rest()
                assert await rig.turn() == "answered"
                assert rig.troubles == []
                assert "no_link" not in rig.lights
                assert spoken_ms(server.connections[-1]) >= ALL_SPOKEN_MS
            assert len(server.connections) == 2

    await together(at_rest=case([]), listening=case([expect("input_audio_buffer.append")]), asked=case(ASKED))


async def test_server_that_expires_every_session_is_retried_with_backoff() -> None:
    expired = [*OPENED, close(1001, "Your session hit the maximum duration of 60 minutes.")]
    async with ScriptedServer(*[expired] * 3, every_other=GOOD) as server, running(Rig(server.base_url)) as rig:
        await rig.until(lambda: rig.troubles.count("session_expired") == 2)
        assert "no_link" in rig.lights
        await rig.until(lambda: len(server.connections) == 4 and rig.light == "ready")
        assert await rig.turn() == "answered"


# --- refusals -----------------------------------------------------------------------------------------------------


async def test_bad_key_is_reported_shown_and_retried_at_a_press(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    trace = tmp_path / "trace.jsonl"
    async with ScriptedServer(BAD_KEY, BAD_KEY, every_other=GOOD) as server:
        async with running(Rig(server.base_url, environ={"OPENAI_API_KEY": KEY}, trace=trace)) as rig:
            await rig.until(lambda: rig.light == "failed")
            assert "bad_key" in rig.troubles
            await rig.until(lambda: rig.has_captured)
            assert await rig.turn() == "failed", "the key is still wrong"
            assert "key" in rig.announced[-1], "the loss of the speech is announced"
            assert rig.light == "failed"
            await asyncio.sleep(0.1)  # longer than the debounce, else the next press does not count
            assert await rig.turn() == "answered", "a press retries, and the key is right now"
            assert "failed" not in rig.lights[-3:]
        sent = [connection.headers.get("Authorization") for connection in server.connections]
    assert sent == [f"Bearer {KEY}"] * 3
    ours = [one.getMessage() for one in caplog.records if one.name != "websockets.server"]  # without the test's server
    assert any("link 1" in line for line in ours), "the log has lines to search"
    output = "\n".join([*rig.messages, *rig.announced, *ours, trace.read_text(encoding="utf-8")])
    assert KEY not in output
    assert KEY[3:] not in output
    assert "0123456789" not in output, "nor the part that the server quotes"
    assert "SessionCreated" in output


async def test_http_refusal_is_a_failure_until_a_press() -> None:
    async def case(status: int, kind: str) -> None:
        async with ScriptedServer([refuse(status)], every_other=GOOD) as server, running(Rig(server.base_url)) as rig:
            await rig.until(lambda: rig.has_captured and rig.light == "failed")
            assert rig.troubles == [kind]
            assert await rig.turn() == "answered"

    await together(
        bad_key=case(401, "bad_key"), forbidden=case(403, "unauthorized"), elsewhere=case(404, "not_an_endpoint")
    )


async def test_busy_server_is_retried() -> None:
    async with ScriptedServer([refuse(503)], [refuse(503)], every_other=GOOD) as server:
        async with running(Rig(server.base_url)) as rig:
            await rig.until(lambda: rig.has_captured)
            assert await rig.turn() == "answered"
            assert rig.troubles == ["server_error"] * 2
            assert "no_link" in rig.lights


async def test_speech_from_before_the_connection_arrives_in_full() -> None:
    async with ScriptedServer() as elsewhere:
        port_that_was_free = elsewhere.port
    async with running(Rig(f"http://127.0.0.1:{port_that_was_free}/v1")) as rig:
        await rig.until(lambda: rig.has_captured and "refused" in rig.troubles)
        await rig.talk()
        assert rig.light == "no_link"
        async with ScriptedServer(every_other=GOOD, port=port_that_was_free) as server:
            await rig.until(lambda: bool(rig.outcomes))
            assert rig.outcomes == ["answered"]
            assert spoken_ms(server.connections[-1]) >= ALL_SPOKEN_MS
            assert await rig.turn() == "answered"


async def test_unreachable_server_is_announced() -> None:
    async with ScriptedServer() as elsewhere:
        port_that_was_free = elsewhere.port
    async with running(Rig(f"http://127.0.0.1:{port_that_was_free}/v1", deadlines__link_wait_s=1.0)) as rig:
        await rig.until(lambda: rig.has_captured)
        assert await rig.turn() == "failed"
        assert "no_link" in rig.troubles
        assert "could not send" in rig.announced[0]
        assert rig.light == "no_link"
        async with ScriptedServer(every_other=GOOD, port=port_that_was_free):
            await rig.until(lambda: rig.light in ("ready", "error"))
            assert await rig.turn() == "answered"


# --- cards --------------------------------------------------------------------------------------------------------


async def test_microphone_missing_at_the_start_works_once_plugged_in() -> None:
    async with ScriptedServer(every_other=GOOD) as server:
        rig = Rig(server.base_url)
        assert rig.device.backend is not None
        rig.device.backend.microphone.is_plugged = False
        async with running(rig):
            await rig.until(lambda: rig.light == "no_card")
            assert "no_microphone" in rig.troubles
            rig.device.finger.hold(0.2)
            await rig.until(lambda: bool(rig.announced))
            assert "microphone" in rig.announced[0]
            await rig.until_true(lambda: rig.has_sounded)
            rig.device.backend.microphone.is_plugged = True
            await rig.at_rest("ready", "error")
            assert await rig.turn() == "answered"


async def test_microphone_unplugged_in_mid_sentence_sends_the_captured_part() -> None:
    async with ScriptedServer(every_other=GOOD) as server:
        rig = Rig(server.base_url)
        assert rig.device.backend is not None
        async with running(rig):
            await rig.at_rest()
            rig.device.finger.press()
            rig.device.backend.microphone.say(b"\x10\x27" * 24_000)
            await rig.until(lambda: rig.light == "listening")
            await asyncio.sleep(0.6)
            rig.device.backend.microphone.is_plugged = False
            await rig.until(lambda: bool(rig.outcomes))
            rig.device.finger.release()
            assert rig.outcomes == ["answered"]
            assert rig.troubles == ["no_microphone"]
            assert "no_card" in rig.lights
            assert 400 <= spoken_ms(server.connections[0]) < 1000
            rig.device.backend.microphone.is_plugged = True
            await rig.at_rest("ready", "error")
            assert await rig.turn() == "answered"


async def test_loudspeaker_unplugged_while_speaking_fails_the_turn_and_recovers() -> None:
    long_answer = reply(lambda one: [created(one), audio_delta(one, 5000), done(one)])
    async with ScriptedServer([*OPENED, *ASKED, long_answer, *ANSWERED_TURN]) as server:
        rig = Rig(server.base_url)
        assert rig.device.backend is not None
        async with running(rig):
            await rig.at_rest()
            await rig.talk()
            await rig.until(lambda: rig.light == "speaking")
            rig.device.backend.loudspeaker.is_plugged = False
            await rig.until(lambda: bool(rig.outcomes))
            assert rig.outcomes == ["failed"]
            assert "no_speaker" in rig.troubles
            assert "no_card" in rig.lights
            rig.device.backend.loudspeaker.is_plugged = True
            await rig.at_rest("ready", "error")
            assert await rig.turn() == "answered"
        assert "conversation.item.truncate" in server.connections[0].types


async def test_loudspeaker_missing_at_the_start_works_once_plugged_in() -> None:
    async with ScriptedServer([*OPENED, *ANSWERED_TURN, *ANSWERED_TURN]) as server:
        rig = Rig(server.base_url)
        assert rig.device.backend is not None
        rig.device.backend.loudspeaker.is_plugged = False
        async with running(rig):
            await rig.until(lambda: rig.has_captured and rig.light == "no_card")
            assert rig.troubles == ["no_speaker"]
            await rig.talk()
            await rig.until(lambda: bool(rig.outcomes))
            assert rig.outcomes == ["failed"], "the answer was not played"
            assert rig.troubles[-1] in ("no_speaker", "playout_stalled")
            rig.device.backend.loudspeaker.is_plugged = True
            await rig.at_rest("ready", "error")
            assert await rig.turn() == "answered"


async def test_dead_microphone_is_reported_and_no_audio_is_committed() -> None:
    async with ScriptedServer(every_other=GOOD) as server:
        rig = Rig(server.base_url)
        assert rig.device.backend is not None
        async with running(rig):
            await rig.at_rest()
            rig.device.backend.microphone.is_dead = True
            await asyncio.sleep(0.5)
            rig.device.finger.hold(0.6)
            await rig.until(lambda: bool(rig.outcomes))
            assert rig.outcomes == ["silence"]
            assert rig.troubles == ["silent_microphone"]
            assert rig.announced
            assert rig.light == "error"
            assert "input_audio_buffer.commit" not in server.connections[0].types
            rig.device.backend.microphone.is_dead = False
            await rig.at_rest("ready", "error")
            assert await rig.turn() == "answered"


# --- the trace ----------------------------------------------------------------------------------------------------


async def test_disk_full_from_the_start_ends_the_trace_but_not_the_conversation() -> None:
    async with ScriptedServer(every_other=GOOD) as server:
        async with running(Rig(server.base_url, trace=Path("/dev/full"))) as rig:
            await rig.until(lambda: "trace_failed" in rig.troubles)
            assert "error" in rig.lights
            await rig.at_rest("ready", "error")
            assert await rig.turn() == "answered"
            assert rig.troubles == ["trace_failed"]


async def test_disk_that_fills_up_ends_the_trace_but_not_the_conversation(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with ScriptedServer(every_other=GOOD) as server:
        async with running(Rig(server.base_url, trace=path)) as rig:
            await rig.at_rest()
            resource.setrlimit(resource.RLIMIT_FSIZE, (96 * 1024, hard))
            try:
                await rig.talk(3000)
                await rig.until(lambda: rig.outcomes == ["answered"])
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert rig.troubles == ["trace_failed"]
    assert path.stat().st_size <= 96 * 1024


# --- stopping -----------------------------------------------------------------------------------------------------


async def test_stop_during_an_answer_truncates_it_to_the_heard_part() -> None:
    speaking = [
        reply(lambda one: [created(one), audio_delta(one, 5000)]),
        expect("conversation.item.truncate"),
        expect("response.cancel"),
    ]
    async with ScriptedServer([*OPENED, *ASKED, *speaking]) as server:
        async with running(Rig(server.base_url)) as rig:
            await rig.at_rest()
            await rig.talk()
            await rig.until(lambda: rig.light == "speaking")
            await asyncio.sleep(0.3)
        assert rig.outcomes == ["cancelled"]
        server.assert_complete()
        truncate = server.connections[0].last("conversation.item.truncate")
        assert 0 < truncate["audio_end_ms"] <= rig.answer_ms + 20
        assert server.connections[0].close_code == 1000
    assert _tasks_left() == []


async def test_stop_is_quick_in_every_state() -> None:
    async def case(steps: Sequence[Step], light: str, *, talks: bool = True) -> None:
        async with ScriptedServer(steps) as server:
            rig = Rig(server.base_url, deadlines__connect_s=30, deadlines__commit_s=30)
            async with running(rig):
                await rig.until(lambda: rig.has_captured and bool(server.connections))
                if talks:
                    rig.device.finger.press()
                    await rig.until(lambda: rig.light == "listening")
                    await asyncio.sleep(0.4)
                if light != "listening":
                    rig.device.finger.release()
                await rig.until(lambda: rig.light == light)
                began = asyncio.get_running_loop().time()
            assert asyncio.get_running_loop().time() - began < 10, "stopping waited for a deadline of the conversation"
            assert rig.outcomes == (["cancelled"] if talks else [])

    await together(
        upgrading=case([stall_handshake()], "connecting", talks=False),
        connecting=case([hold()], "connecting", talks=False),
        listening=case([*OPENED, hold()], "listening"),
        committing=case([*OPENED, hold()], "thinking"),
        dead=case([*OPENED, stop_reading(), hold()], "thinking"),
        thinking=case([*OPENED, *ASKED, hold()], "thinking"),
    )
    assert _tasks_left() == []


def _tasks_left() -> list[asyncio.Task[object]]:
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
