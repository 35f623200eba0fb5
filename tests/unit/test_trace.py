"""Tests of the trace: a recorded conversation replays bit for bit."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from appliance.agents.spec import AgentSpec
from appliance.conversation.commands import Command, Emit, PrepareAgent, Send
from appliance.conversation.events import (
    AgentKey,
    CheckKey,
    Event,
    FrameGiven,
    HistoryReplaced,
    MuteSwitched,
    ServerEventReceived,
    ToolFinished,
    TracingFailed,
    TurnKey,
)
from appliance.conversation.notices import HistoryChanged, HistoryGrew, Notice, TurnEnd
from appliance.conversation.policy import Policy
from appliance.conversation.support.prices import PRICES
from appliance.errors import SettingsError, StorageError
from appliance.realtime import protocol as wire
from appliance.realtime.items import HistoryItem
from appliance.realtime.protocol import UnknownEvent
from appliance.service import trace
from appliance.service.trace import FORMAT, TraceRecorder, decode, encode, replay
from tests.support.recorded import Recorded, recorded_conversation
from tests.support.stage import SESSION


def test_a_recorded_conversation_replays_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    stage = recorded_conversation(path)
    stage.recorder.close()
    count, divergences = replay(path)
    assert count > 40
    assert divergences == []


def test_a_changed_line_is_found(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    recorded_conversation(path).recorder.close()
    lines = path.read_text(encoding="utf-8").splitlines()
    at = next(i for i, line in enumerate(lines) if '"InputAudioBufferCommit"' in line)
    row = json.loads(lines[at])
    row["commands"] = []
    lines[at] = json.dumps(row)
    path.write_text("\n".join(lines), encoding="utf-8")
    _, divergences = replay(path)
    assert [one.line for one in divergences] == [at + 1]


def test_an_incomplete_last_line_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    recorded_conversation(path).recorder.close()
    text = path.read_text(encoding="utf-8")
    whole, _ = replay(path)
    path.write_text(text[: len(text) - 20], encoding="utf-8")
    assert replay(path) == (whole - 1, [])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "hello\n",
        '{"trace": 99}\n',
        "[]\n",
        '{"trace": "4"}\n',
        '{"trace": 4}\n',
        '{"trace": 4, "policy": {"of_the_future": 1}, "specs": [], "history": [], "seed": 0, "is_muted": false}\n',
    ],
)
def test_a_file_that_is_not_a_trace_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match="other"):
        replay(path)


@pytest.mark.parametrize("text", ["[]\n", "{}\n", '{"trace": "4"}\n', '{"trace": true}\n'])
def test_json_without_a_format_is_not_a_trace(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=r"other\.json: not a trace of the appliance: its first line has no format"):
        replay(path)


@pytest.mark.parametrize("other", [3, 5])
def test_a_trace_of_another_format_is_refused_with_the_remedy(tmp_path: Path, other: int) -> None:
    path = tmp_path / "trace.jsonl"
    recorded_conversation(path).recorder.close()
    head, rest = path.read_text(encoding="utf-8").split("\n", 1)
    row = json.loads(head)
    assert row["trace"] == FORMAT == 4
    path.write_text(json.dumps(row | {"trace": other}) + "\n" + rest, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        replay(path)
    assert str(caught.value) == (
        f"{path}: the trace has format {other}, and this version reads format 4 only; "
        "replay it with the version of the appliance that recorded it"
    )


def test_a_trace_that_cannot_be_read_or_written_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="missing"):
        replay(tmp_path / "missing")
    recorder = TraceRecorder(tmp_path / "no" / "such" / "folder", post=lambda event: None)
    with pytest.raises(StorageError, match="folder"):
        recorder.open(policy=Policy(), specs=[], seed=0)


def test_a_full_disk_ends_the_trace_but_not_the_conversation(tmp_path: Path) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    stage = Recorded(tmp_path / "trace.jsonl")
    assert stage.recorder._file is not None
    stage.recorder._file.close()
    stage.recorder._file = Full()
    stage.start()
    stage.link_ready()
    (failure,) = stage.posted
    assert isinstance(failure, TracingFailed)
    assert "No space left on device" in failure.problem
    assert stage.state == "ready"


def test_no_key_is_written_to_the_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    recorded_conversation(path).recorder.close()
    assert "0123456789abcdef" not in path.read_text(encoding="utf-8")


SAYS = 'It is password=hunter22 or {"token":"abc"} or sk-proj-0123456789abcdef: ' + "one by one, " * 9


@pytest.mark.parametrize("length", [7, 33, 200])
def test_conversation_with_secrets_is_redacted_and_replays_bit_for_bit(tmp_path: Path, length: int) -> None:
    """A barge-in cuts the text by its length, and the guardrails count its characters."""
    path = tmp_path / "trace.jsonl"
    stage = Recorded(path, AgentSpec(agent="assistant", session=SESSION, has_output_guardrails=True))
    stage.ready()
    stage.hear(300)
    stage.say()
    stage.committed()
    stage.created()
    arguments = json.dumps({"token": "hunter22", "inner": json.dumps({"password": "hunter22"}), "none": None})
    stage.called("set_lamp", "call_1", arguments)
    stage.done()
    stage.tool_finished("call_1", '{"token":null,"password":"hunter22","tail":[{}]}')
    stage.created("resp_2")
    item = {"id": "item_a", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    stage.server({"type": "conversation.item.added", "item": item})
    for at in range(0, len(SAYS), length):
        stage.audio("resp_2", ms=60 * length)
        delta = {"response_id": "resp_2", "item_id": "item_a", "delta": SAYS[at : at + length]}
        stage.server({"type": "response.output_audio_transcript.delta", **delta})
    stage.play(24 * 4000)
    stage.press()
    stage.recorder.close()
    text = path.read_text(encoding="ascii")
    assert all(isinstance(json.loads(line), dict) for line in text.splitlines())
    assert r"\"token\":null" in text
    assert "hunter22" not in text
    assert {"CheckText", "RunTool", "ConversationItemTruncate"} <= set(re.findall(r'"@":"(\w+)"', text))
    assert replay(path)[1] == []


@pytest.mark.parametrize(
    "frame",
    [
        {
            "type": "session.update",
            "session": {"type": "realtime", "tools": [{"type": "mcp", "headers": {"X": "hush"}}]},
        },
        {"type": "session.update", "session": {"type": "realtime", "tools": [{"server_url": "https://x/?k=hush"}]}},
        {"type": "odd", "json": json.dumps({"authorization": "hush"})},
        {"type": "odd", "Authorization": "hush", "nested": [{"api_key": ["hush"]}]},
    ],
)
def test_headers_and_credentials_of_a_raw_frame_are_not_in_the_trace(tmp_path: Path, frame: dict[str, Any]) -> None:
    path = tmp_path / "trace.jsonl"
    stage = Recorded(path)
    stage.start()
    stage.link_ready()
    stage.recorder(stage.now, FrameGiven(frame), (Send(1, wire.RawClientEvent(frame=frame)),), stage.conversation.view)
    stage.server({"type": "session.updated", "session": frame.get("session", frame)})
    stage.recorder.close()
    assert "hush" not in path.read_text(encoding="ascii")
    assert replay(path)[0] == 5


def test_every_command_round_trips(tmp_path: Path) -> None:
    stage = recorded_conversation(tmp_path / "trace.jsonl")
    stage.recorder.close()
    for command in stage.commands:
        again = decode(json.loads(json.dumps(encode(command))))
        assert type(again) is type(command)
        assert encode(again) == encode(command)


def test_a_trace_holds_the_prices_that_were_in_force(tmp_path: Path) -> None:
    """Else a newer table of prices would decide otherwise when the budget is spent."""
    path = tmp_path / "trace.jsonl"
    own = Policy(prices=PRICES.with_prices({"ours": {"text": {"input": 1, "output": 2}}, "mine": {"per_minute": 3}}))
    recorder = TraceRecorder(path, post=lambda event: None)
    recorder.open(policy=own, specs=[AgentSpec(agent="assistant", session=SESSION)])
    recorder.close()
    head = json.loads(path.read_text(encoding="utf-8"))
    assert Policy(**decode(head["policy"])) == own
    assert len(json.dumps(head["policy"])) < 8000
    assert replay(path) == (0, [])


def test_every_event_command_and_notice_has_a_unique_name() -> None:
    named = [*get_args(Event), *get_args(Command), *get_args(Notice), *get_args(AgentKey), *get_args(CheckKey)]
    assert {one.__name__: one for one in named} == {one.__name__: trace._TYPES.get(one.__name__) for one in named}
    modules = (trace.wire, trace.spec, trace.event_types, trace.command_types, trace.notice_types)
    every = {one for module in modules for one in trace._classes(module).values()}
    assert len({one.__name__ for one in every}) == len(every), "two classes with the same name cannot both be read back"


def test_history_notices_round_trip() -> None:
    item = HistoryItem(id="item_1", role="user", text="hello")
    for notice in (
        HistoryGrew(item, ""),
        HistoryChanged("item_1", item),
        HistoryChanged("item_1"),
        TurnEnd("turn_1", "too_short", {"total_tokens": 3}),
    ):
        assert decode(json.loads(json.dumps(encode(Emit(notice))))) == Emit(notice)
    asked = PrepareAgent(TurnKey("turn_1", 0), "House", "turn")
    assert decode(json.loads(json.dumps(encode(asked)))) == asked


def test_dataclasses_and_structs_are_encoded_alike_and_round_trip() -> None:
    item = HistoryItem(id="item_1", images=("data:image/png;base64,AAAA",))
    added = ServerEventReceived(1, wire.ConversationItemAdded(item=wire.Item(type="message", id="item_1")))
    audio = ServerEventReceived(1, wire.OutputAudioDelta(delta=b"\x01\x02", item_id="item_1"))
    for value in (HistoryReplaced((item,)), added, audio, UnknownEvent(name="ping", raw={"at": [1, None]})):
        assert decode(json.loads(json.dumps(encode(value)))) == value
    assert encode(audio) == {
        "@": "ServerEventReceived",
        "link": 1,
        "event": {
            "@": "OutputAudioDelta",
            "event_id": "",
            "response_id": "",
            "item_id": "item_1",
            "output_index": 0,
            "content_index": 0,
            "delta": {"#": "AQI="},
        },
    }


@pytest.mark.parametrize(
    "said", ["one\u2028two", "next\x85line", "half a surrogate \ud800", "snow ☃ 😀", "\x1c\x0b\x0c"]
)
def test_any_text_is_recorded_and_replays(tmp_path: Path, said: str) -> None:
    path = tmp_path / "trace.jsonl"
    stage = Recorded(path)
    stage.start()
    stage.link_ready()
    stage.hear(300)
    stage.say()
    stage.committed()
    stage.created()
    stage.called("set_lamp", "call_1", json.dumps({"note": said}))
    stage.recorder(stage.now, ToolFinished("call_1", said), (), stage.conversation.view)
    stage.recorder.close()
    assert stage.posted == []
    row = json.loads(path.read_text(encoding="ascii").splitlines()[-1])
    assert decode(row["event"]) == ToolFinished("call_1", said)
    assert replay(path)[0] > 10


@pytest.mark.parametrize(
    "line",
    ["[]", "{}", '{"t": 1, "commands": [], "event": {"@": "NoSuchEvent"}}', '{"t": 1, "commands": [], "event": 7}'],
)
def test_a_line_of_another_version_is_refused_by_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "trace.jsonl"
    recorded_conversation(path).recorder.close()
    rows = path.read_text(encoding="utf-8").splitlines()
    rows[4] = line
    path.write_text("\n".join(rows), encoding="utf-8")
    with pytest.raises(SettingsError, match="line 5"):
        replay(path)


def test_a_binary_file_is_not_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    path.write_bytes(b"RIFF\xff\xfe\x00\x80")
    with pytest.raises(SettingsError, match="not a trace"):
        replay(path)


def test_a_trace_without_events_replays_none(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    Recorded(path).recorder.close()
    assert replay(path) == (0, [])


def test_a_trace_with_another_session_diverges(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    recorded_conversation(path).recorder.close()
    head, rest = path.read_text(encoding="utf-8").split("\n", 1)
    row = json.loads(head)
    row["specs"][0]["session"]["voice"] = "another"
    path.write_text(json.dumps(row) + "\n" + rest, encoding="utf-8")
    assert [one.event["@"] for one in replay(path)[1]] == ["ServerEventReceived"]


def test_a_closed_recorder_records_nothing_and_close_is_idempotent(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    stage = Recorded(path)
    stage.start()
    stage.recorder.close()
    size = path.stat().st_size
    stage.recorder.close()
    stage.link_ready()
    assert path.stat().st_size == size
    assert stage.posted == []


def test_recorded_audio_is_flushed_to_disk_before_close(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    stage = Recorded(path)
    stage.start()
    stage.link_ready()
    on_the_disk = []
    for _ in range(1000):
        stage.do(MuteSwitched(True))  # a short line: many of them fit into the buffer of a file
        on_the_disk.append(path.read_text(encoding="utf-8").count("\n"))
    stage.recorder.close()
    whole = path.read_text(encoding="utf-8").count("\n")
    written = range(whole - 999, whole + 1)
    lost = [wrote - kept for wrote, kept in zip(written, on_the_disk, strict=True)]
    assert max(lost) < 50, "a crash would lose more than a second of microphone audio"


def test_a_full_disk_at_close_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class FullAtTheEnd(io.StringIO):
        def close(self) -> None:
            super().close()
            raise OSError(28, "No space left on device")

    stage = Recorded(tmp_path / "trace.jsonl")
    assert stage.recorder._file is not None
    stage.recorder._file.close()
    stage.recorder._file = FullAtTheEnd()
    stage.recorder.close()
    assert "No space left on device" in caplog.text
