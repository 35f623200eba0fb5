"""The record is the bug report: what is written down runs again, bit for bit."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from appliance.conversation.events import Event, TracingFailed
from appliance.conversation.turn import Policy
from appliance.errors import SettingsError, StorageError
from appliance.service.trace import TraceRecorder, decode, encode, replay
from tests.support.stage import SESSION, Stage


class Recorded(Stage):
    """A stage whose every step is traced."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.posted: list[Event] = []
        self.recorder = TraceRecorder(path, post=self.posted.append)
        self.recorder.open(policy=Policy(button_mode="hold"), session=SESSION, approvals=(), seed=0)

    def do(self, event: Event) -> Any:
        commands = super().do(event)
        self.recorder(self.now, event, commands, self.conversation.view)
        return commands


def _conversation(path: Path) -> Recorded:
    stage = Recorded(path)
    stage.start()
    stage.lose("refused: nobody there", None)
    stage.advance(5)
    stage.link_ready()
    stage.hear(300)
    stage.say()
    stage.committed()
    stage.created()
    stage.called("set_lamp", "call_1", '{"on":true}')
    stage.done(usage={"total_tokens": 3})
    stage.tool_finished("call_1", "{}")
    stage.created("resp_2")
    stage.audio("resp_2")
    stage.press()
    stage.error(None, message="Incorrect API key provided: sk-proj-0123456789abcdef")
    return stage


def test_a_recorded_conversation_replays_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    stage = _conversation(path)
    stage.recorder.close()
    count, divergences = replay(path)
    assert count > 40
    assert divergences == []


def test_a_changed_line_is_found(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    _conversation(path).recorder.close()
    lines = path.read_text(encoding="utf-8").splitlines()
    at = next(i for i, line in enumerate(lines) if '"InputAudioBufferCommit"' in line)
    row = json.loads(lines[at])
    row["commands"] = []
    lines[at] = json.dumps(row)
    path.write_text("\n".join(lines), encoding="utf-8")
    _, divergences = replay(path)
    assert [one.line for one in divergences] == [at + 1]


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    _conversation(path).recorder.close()
    text = path.read_text(encoding="utf-8")
    whole, _ = replay(path)
    path.write_text(text[: len(text) - 20], encoding="utf-8")
    assert replay(path) == (whole - 1, [])


@pytest.mark.parametrize("text", ["", "hello\n", '{"trace": 99}\n', "[]\n"])
def test_a_file_that_is_no_trace_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match="other"):
        replay(path)


def test_a_trace_that_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="missing"):
        replay(tmp_path / "missing")
    recorder = TraceRecorder(tmp_path / "no" / "such" / "folder", post=lambda event: None)
    with pytest.raises(StorageError, match="folder"):
        recorder.open(policy=Policy(), session={}, approvals=(), seed=0)


def test_a_disk_that_fills_up_ends_the_trace_once_and_not_the_conversation(tmp_path: Path) -> None:
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


def test_no_key_is_written_down(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    _conversation(path).recorder.close()
    assert "0123456789abcdef" not in path.read_text(encoding="utf-8")


def test_every_event_and_command_survives_the_journey(tmp_path: Path) -> None:
    stage = _conversation(tmp_path / "trace.jsonl")
    stage.recorder.close()
    for command in stage.commands:
        again = decode(json.loads(json.dumps(encode(command))))
        assert type(again) is type(command)
        assert encode(again) == encode(command)
    assert asdict(Policy(**asdict(Policy()))) == asdict(Policy())
