"""Turn, history and agent survive the loss of a connection, of a server and of the process. In real time."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from appliance.settings import LinkSettings
from appliance.speech.stt import worker
from tests.support.patience import patient
from tests.support.rig import COMMITTED, SPOKEN_MS, Rig, answer, created, running, spoken_ms
from tests.support.scripted_server import (
    SESSION_CREATED,
    Connection,
    Frame,
    ScriptedServer,
    Step,
    abort,
    expect,
    reply,
    send,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

KEY = {"OPENAI_API_KEY": "sk-test-abcdefghijklmnop"}
OPENED: list[Step] = [send(SESSION_CREATED), expect("session.update")]
HEARD: Frame = {
    "type": "conversation.item.input_audio_transcription.completed",
    "event_id": "e_heard",
    "item_id": "item_user",
    "content_index": 0,
    "transcript": "my name is Ada",
    "usage": {"type": "duration", "seconds": 1.0},
}
TOLD_TURN: list[Step] = [
    expect("input_audio_buffer.commit"),
    send(COMMITTED, HEARD),
    expect("response.create"),
    reply(answer),
]


def items(connection: Connection) -> list[dict[str, Any]]:
    """Return the items created on a connection, without their ids."""
    return [
        {key: value for key, value in frame["item"].items() if key != "id"}
        for frame in connection.of_type("conversation.item.create")
    ]


async def test_fallback_server_takes_over_in_mid_turn_without_repeated_speech() -> None:
    dying = [*OPENED, expect("input_audio_buffer.commit"), send(COMMITTED), expect("response.create"), abort()]
    async with ScriptedServer(dying) as cloud, ScriptedServer([*OPENED, *TOLD_TURN]) as house:
        rig = Rig(cloud.base_url, link__fallbacks=house.base_url)
        async with running(rig):
            await rig.at_rest()
            assert await rig.turn() == "answered"
        assert spoken_ms(house.connections[0]) >= SPOKEN_MS - 20, "all captured speech goes to the next server"
        assert "authorization" not in {name.lower() for name in house.connections[0].headers}


async def test_offline_brain_answers_without_a_network_and_the_server_once_it_is_back() -> None:
    by_default = {"link__fallbacks": LinkSettings().fallbacks, "link__failback_s": 1.0}
    async with ScriptedServer() as elsewhere:
        port = elsewhere.port
    rig = Rig(f"http://127.0.0.1:{port}/v1", environ=KEY, deadlines__answer_s=20.0, **by_default)
    async with running(rig):
        await rig.at_rest()
        await rig.talk()
        await rig.until(lambda: bool(rig.outcomes))
        assert rig.outcomes == ["answered"]
        assert rig.troubles == ["refused"]
        assert rig.announced == [rig.device.wording.say("link.offline")]
        assert "no_link" not in rig.lights, "the next endpoint was tried at once"
        async with ScriptedServer(every_other=[*OPENED, *TOLD_TURN], port=port) as server:
            await rig.until(lambda: bool(server.connections) and server.connections[-1].types[:1] == ["session.update"])
            assert await rig.turn() == "answered"
            assert server.connections[-1].headers["Authorization"] == "Bearer sk-test-abcdefghijklmnop"
            assert len(rig.announced) == 1


async def test_sentence_after_the_recogniser_was_killed_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    children: list[subprocess.Popen[bytes]] = []

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        children.append(subprocess.Popen(*arguments, **options))
        return children[-1]

    monkeypatch.setattr(worker, "Popen", start)
    rig = Rig("", deadlines__answer_s=30.0)
    async with running(rig):
        await rig.at_rest()
        await rig.device.talk("turn on the lamp")
        await rig.until(lambda: len(rig.outcomes) == 1)
        assert "lamp on" in rig.device.lamp_line()
        children[0].kill()
        await rig.device.talk("turn off the lamp")
        await rig.until(lambda: len(rig.outcomes) == 2)
        assert rig.outcomes == ["answered", "answered"]
        assert "lamp off" in rig.device.lamp_line()
    assert len(children) == 2


async def test_reload_with_a_changed_key_lets_the_turn_end_and_then_stops(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("first")
    key.chmod(0o600)
    async with (
        ScriptedServer([*OPENED, *TOLD_TURN]) as server,
        asyncio.timeout(patient(60)),
        asyncio.TaskGroup() as group,
    ):
        rig = Rig(server.base_url, link__key_file=str(key))
        run = group.create_task(rig.device.run())
        await rig.at_rest()
        talk = group.create_task(rig.talk())
        await rig.until(lambda: rig.light == "listening")
        key.write_text("second")
        signal.raise_signal(signal.SIGHUP)
        await talk
        assert await run == "reload"
        assert rig.outcomes == ["answered"]
        assert rig.answer_ms >= 200


async def test_next_connection_gets_the_history() -> None:
    first = [*OPENED, *TOLD_TURN, expect("input_audio_buffer.commit"), abort()]
    async with ScriptedServer(first, [*OPENED, *TOLD_TURN]) as server:
        rig = Rig(server.base_url)
        async with running(rig):
            await rig.at_rest()
            assert await rig.turn() == "answered"
            assert await rig.turn() == "answered"
        said = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "my name is Ada"}]}
        assert items(server.connections[1])[0] == said


async def test_conversation_survives_a_restart_if_persist_is_set(tmp_path: Path) -> None:
    for persist, expected in ((True, ["my name is Ada"]), (False, [])):
        folder = tmp_path / str(persist)
        folder.mkdir()
        async with ScriptedServer([*OPENED, *TOLD_TURN], [*OPENED, *TOLD_TURN]) as server:
            for _ in range(2):
                rig = Rig(server.base_url, history__persist=persist, service__state_dir=str(folder))
                async with running(rig):
                    await rig.at_rest()
                    assert await rig.turn() == "answered"
            texts = [item["content"][0]["text"] for item in items(server.connections[1])]
            assert texts == expected
            assert (folder / "conversation.db").exists() is persist


async def test_agent_from_a_file_hands_off_on_a_whole_appliance(tmp_path: Path) -> None:
    (tmp_path / "house.toml").write_text(
        'name = "House"\ninstructions = "You are the house."\n[[handoffs]]\nagent = "kitchen"\n', encoding="utf-8"
    )
    (tmp_path / "kitchen.toml").write_text(
        'name = "Kitchen"\ninstructions = "You are the kitchen."\ntools = ["start_timer"]\n', encoding="utf-8"
    )

    def handed(connection: Connection) -> list[Frame]:
        call = {
            "id": "item_call",
            "type": "function_call",
            "status": "completed",
            "name": "transfer_to_kitchen",
            "call_id": "call_1",
            "arguments": "{}",
        }
        response = created(connection)["response"] | {"id": "resp_handoff"}
        ended = response | {"status": "completed", "output": [call]}
        return [
            {"type": "response.created", "event_id": "e_1", "response": response},
            {"type": "response.done", "event_id": "e_2", "response": ended},
        ]

    def accepted(connection: Connection) -> Frame:
        session = connection.last("session.update")["session"]
        return {"type": "session.updated", "event_id": "e_updated", "session": session}

    script = [
        send(SESSION_CREATED),
        expect("session.update"),
        reply(accepted),
        expect("input_audio_buffer.commit"),
        send(COMMITTED),
        expect("response.create"),
        reply(handed),
        expect("session.update"),
        reply(accepted),
        expect("response.create"),
        reply(answer),
    ]
    async with ScriptedServer(script) as server:
        rig = Rig(server.base_url, assistant__agents_file=str(tmp_path / "house.toml"))
        async with running(rig):
            await rig.at_rest()
            assert await rig.turn() == "answered"
        first, second = (frame["session"] for frame in server.connections[0].of_type("session.update"))
        assert [first["instructions"], second["instructions"]] == ["You are the house.", "You are the kitchen."]
        assert [tool["name"] for tool in second["tools"]] == ["start_timer"]
        (output,) = [item for item in items(server.connections[0]) if item["type"] == "function_call_output"]
        assert output["output"] == '{"assistant": "Kitchen"}'


@pytest.mark.parametrize(
    ("mistake", "line"),
    [
        ("[settings]\nsped = 1.0", "an agent's settings: there is no 'sped'; did you mean 'speed'?"),
        ("tool = []", "tool: unknown key; did you mean 'tools'?"),
    ],
)
def test_mistake_in_an_agent_file_prints_one_line_and_exits_with_status_2(
    mistake: str, line: str, tmp_path: Path
) -> None:
    house = tmp_path / "house.toml"
    house.write_text(f'name = "House"\ninstructions = "You are the house."\n{mistake}\n', encoding="utf-8")
    command = [sys.executable, "-m", "appliance.cli", "ask", "--set", f"assistant.agents_file={house}", "hello"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=patient(60), check=False)
    assert ended.returncode == 2
    assert ended.stderr.strip().endswith(line)
    assert len(ended.stderr.strip().splitlines()) == 1
